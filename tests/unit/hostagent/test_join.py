"""Joining: what is checked before a token is used, and that an identity is written whole."""

from __future__ import annotations

import hashlib
import http.server
import json
import ssl
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hostagent.cli import cli
from hostagent.cli.output import Failure
from hostagent.identity import Identity, IdentityError, load_identity, save_identity
from hostagent.join import JoinError, JoinRequest, choose_datapath, join, parse_address, parse_token

HOST = UUID(int=1)


class Authority:
    """A CA that speaks the manager's two unauthenticated calls over real TLS."""

    def __init__(self, root: Path) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        self.certificate = self._sign(self.name, self.key.public_key(), ca=True)
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM)
        self.fingerprint = hashlib.sha256(self.certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
        self.answer: tuple[int, Any] = (200, {})
        self.bodies: list[dict[str, Any]] = []
        server_key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "netmgr")])
        server = self._sign(subject, server_key.public_key(), names=["netmgr"])
        (root / "server.pem").write_bytes(
            server_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + server.public_bytes(serialization.Encoding.PEM)
        )
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(root / "server.pem")

    def sign_host(self, csr_pem: str) -> str:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        assert csr.is_signature_valid
        certificate = self._sign(csr.subject, csr.public_key(), names=[str(HOST)])  # type: ignore[arg-type]
        return certificate.public_bytes(serialization.Encoding.PEM).decode()

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, ca: bool = False, names: list[str] | None = None
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), False)
        return builder.sign(self.key, hashes.SHA256())


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[tuple[Authority, str]]:
    authority = Authority(tmp_path)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/api/v1/ca"
            self._say(200, authority.pem)

        def do_POST(self) -> None:
            assert self.path == "/api/v1/join"
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            authority.bodies.append(body)
            status, answer = authority.answer
            if status == 200:
                answer = {"cert_pem": authority.sign_host(body["csr_pem"]), "ca_pem": authority.pem.decode(), **answer}
            self._say(status, json.dumps(answer).encode())

        def _say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = authority.context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield authority, f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def _request(manager: str, fingerprint: str) -> JoinRequest:
    return JoinRequest(
        managers=(manager, "[2001:db8::1]"),
        token=f"{uuid4()}.secret.{fingerprint}",
        pnics=("eth1",),
        host_uuid=HOST,
        name="h1",
        datapath="netdev",
        view_address="192.0.2.1:7445",
    )


def test_joining_writes_an_identity_that_only_root_reads(tmp_path: Path, authority: tuple[Authority, str]) -> None:
    ca, address = authority
    ca.answer = (200, {"host_uuid": str(HOST), "host_name": "h1", "sync_port": 7444, "manager_name": "netmgr"})
    identity = join(tmp_path / "state", _request(address, ca.fingerprint))
    assert load_identity(tmp_path / "state") == identity
    assert identity.managers == ("127.0.0.1:7444", "[2001:db8::1]:7444")
    key = serialization.load_pem_private_key(identity.key_pem, None)
    certificate = x509.load_pem_x509_certificate(identity.cert_pem)
    assert certificate.public_key() == key.public_key()
    for path in (tmp_path / "state" / "identity").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    sent = ca.bodies[0]
    assert (sent["host_uuid"], sent["pnics"], sent["view_address"]) == (str(HOST), ["eth1"], "192.0.2.1:7445")
    assert "PRIVATE" not in json.dumps(sent)


def test_a_manager_with_another_ca_is_sent_nothing(tmp_path: Path, authority: tuple[Authority, str]) -> None:
    ca, address = authority
    with pytest.raises(JoinError, match="is not the one this token was made by"):
        join(tmp_path / "state", _request(address, "0" * 64))
    assert ca.bodies == []
    assert not (tmp_path / "state").exists()


def test_a_refused_token_is_said_in_the_managers_words(tmp_path: Path, authority: tuple[Authority, str]) -> None:
    ca, address = authority
    ca.answer = (403, {"error": "the token was used already, by host h9"})
    with pytest.raises(JoinError, match="used already, by host h9"):
        join(tmp_path / "state", _request(address, ca.fingerprint))
    assert not (tmp_path / "state").exists()


def test_a_manager_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(JoinError, match=r"127\.0\.0\.1:1 can't be reached"):
        join(tmp_path / "state", _request("127.0.0.1:1", "0" * 64))


@pytest.mark.parametrize("token", ["", "a.b.c", f"{HOST}.x", f"{HOST}..{'0' * 64}", f"{HOST}.x.{'g' * 64}"])
def test_a_token_that_is_not_whole_is_refused_before_it_is_sent(token: str) -> None:
    with pytest.raises(JoinError, match="the token is not whole"):
        parse_token(token)


def test_addresses_of_managers() -> None:
    assert parse_address("m1") == ("m1", 7443)
    assert parse_address("192.0.2.1:9") == ("192.0.2.1", 9)
    assert parse_address("[2001:db8::1]:9") == ("2001:db8::1", 9)
    assert parse_address("2001:db8::1") == ("2001:db8::1", 7443)
    for bad in ("", ":9", "m1:x", "m1:70000"):
        with pytest.raises(JoinError):
            parse_address(bad)


def test_auto_takes_the_kernels_datapath_only_where_both_have_it(tmp_path: Path) -> None:
    loaded, absent = tmp_path, tmp_path / "absent"
    assert choose_datapath("auto", run=lambda _: "[netdev, system]", module=loaded) == "system"
    assert choose_datapath("auto", run=lambda _: "[netdev]", module=loaded) == "netdev"
    assert choose_datapath("auto", run=lambda _: "[netdev, system]", module=absent) == "netdev"
    assert choose_datapath("system", run=lambda _: "", module=absent) == "system"


def _identity() -> Identity:
    return Identity(
        host_uuid=HOST, host_name="h1", managers=("m:7444",), pnics=("eth1",), ca_pem=b"a", cert_pem=b"b", key_pem=b"c"
    )


def test_an_identity_is_replaced_whole(tmp_path: Path) -> None:
    save_identity(tmp_path, _identity())
    save_identity(tmp_path, replace(_identity(), host_name="h2"))
    assert load_identity(tmp_path).host_name == "h2"
    assert [path.name for path in tmp_path.iterdir()] == ["identity"]


def test_the_view_is_where_others_were_told_to_look_for_it() -> None:
    assert replace(_identity(), view_address="[2001:db8::1]:9446").view_port == 9446
    assert _identity().view_port == 7445


def test_a_missing_and_a_damaged_identity_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="hostagent join --manager"):
        load_identity(tmp_path)
    save_identity(tmp_path, _identity())
    (tmp_path / "identity" / "host.json").write_text("{}")
    with pytest.raises(IdentityError, match="join again with `hostagent join --force`"):
        load_identity(tmp_path)


def _join(state_dir: Path, *options: str) -> Exception | None:
    arguments = ["--state-dir", str(state_dir), "join", "--manager", "127.0.0.1:1"]
    arguments += ["--token", f"{uuid4()}.x.{'0' * 64}", *options]
    result = CliRunner().invoke(cli, arguments)
    return result.exception  # type: ignore[return-value]


def test_a_second_join_is_refused_without_force(tmp_path: Path) -> None:
    save_identity(tmp_path, _identity())
    refused = _join(tmp_path, "--pnic", "lo")
    assert isinstance(refused, Failure)
    assert "has joined already, as h1" in refused.sentence


def test_an_absent_pnic_is_refused_before_the_manager_is_asked(tmp_path: Path) -> None:
    refused = _join(tmp_path, "--pnic", "nosuchnic0")
    assert isinstance(refused, Failure)
    assert refused.sentence.startswith("no interface nosuchnic0 on this host")
