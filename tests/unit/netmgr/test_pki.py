"""The CA decides what a certificate says, survives crashes, and is never replaced by accident."""

import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from netmgr.api.ports import Role
from netmgr.identity import certificate_sha256, make_request, make_token_text, parse_token_text, peer_of
from netmgr.model import NetmgrError
from netmgr.pki import CertificateAuthority
from tests.support.netmgr_rig import NOW

HOST = str(UUID(int=0xABC))


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.open(tmp_path, now=NOW)


def load(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def request_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, **asked: x509.ExtensionType) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "x")])
    )
    for extension in asked.values():
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def test_ca_is_the_same_after_a_restart_and_its_key_is_private(authority: CertificateAuthority, tmp_path: Path) -> None:
    assert CertificateAuthority.open(tmp_path, now=NOW).ca_pem() == authority.ca_pem()
    assert (tmp_path / "pki" / "ca.key.pem").stat().st_mode & 0o777 == 0o600
    assert authority.ca_sha256() == certificate_sha256(authority.ca_pem())


def test_crash_between_key_and_certificate_is_mended(authority: CertificateAuthority, tmp_path: Path) -> None:
    authority.ca_file.unlink()
    mended = CertificateAuthority.open(tmp_path, now=NOW)
    assert load(mended.ca_pem()).public_key() == load(authority.ca_pem()).public_key()


def test_lost_key_mismatch_and_damage_are_refused_and_nothing_is_replaced(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    key = tmp_path / "pki" / "ca.key.pem"
    kept = key.read_bytes()
    other = CertificateAuthority.open(tmp_path / "other", now=NOW)
    for content, words in (
        (None, "is gone; restore"),
        (b"", "not readable"),
        ((other.ca_file.parent / "ca.key.pem").read_bytes(), "do not belong together"),
    ):
        if content is None:
            key.unlink()
        else:
            key.write_bytes(content)
        with pytest.raises(NetmgrError, match=words):
            CertificateAuthority.open(tmp_path, now=NOW)
        assert authority.ca_file.read_text() == authority.ca_pem()
    key.write_bytes(kept)
    assert CertificateAuthority.open(tmp_path, now=NOW).ca_pem() == authority.ca_pem()


def test_expired_ca_is_refused(authority: CertificateAuthority, tmp_path: Path) -> None:
    with pytest.raises(NetmgrError, match="expired"):
        CertificateAuthority.open(tmp_path, now=NOW + timedelta(days=4000))


def test_certificate_says_what_the_ca_decides_and_nothing_that_was_asked(authority: CertificateAuthority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    asked = request_of(
        key,
        ca=x509.BasicConstraints(ca=True, path_length=None),
        san=x509.SubjectAlternativeName([x509.DNSName("netmgr")]),
    )
    certificate = load(authority.sign(csr_pem=asked, role="host", name=HOST))
    assert certificate.public_key() == key.public_key()
    assert certificate.subject.rfc4514_string() == f"CN={HOST},OU=host"
    get = certificate.extensions.get_extension_for_class
    assert not get(x509.BasicConstraints).value.ca
    assert list(get(x509.SubjectAlternativeName).value) == [x509.DNSName(HOST)]
    certificate.verify_directly_issued_by(load(authority.ca_pem()))
    assert certificate.not_valid_before_utc < datetime.now(UTC)
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert timedelta(days=729) < lifetime < timedelta(days=731)


@pytest.mark.parametrize("role", [Role.HOST, Role.OPERATOR, Role.VIEWER])
def test_peer_is_who_the_certificate_was_made_for(authority: CertificateAuthority, role: Role) -> None:
    request, _key = make_request("whatever")
    pem = authority.sign(csr_pem=request, role=role, name=HOST)
    peer = peer_of(pem)
    assert (peer.name, peer.role, peer.certificate_sha256) == (HOST, role, certificate_sha256(pem))


def test_request_that_does_not_prove_its_key_is_refused(authority: CertificateAuthority) -> None:
    der = bytearray(x509.load_pem_x509_csr(make_request("a")[0].encode()).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    broken = ssl.DER_cert_to_PEM_cert(bytes(der)).replace("CERTIFICATE", "CERTIFICATE REQUEST")
    with pytest.raises(NetmgrError, match="signing request"):
        authority.sign(csr_pem=broken, role="host", name=HOST)


@pytest.mark.parametrize(
    ("request_pem", "role", "name", "words"),
    [
        ("", "host", HOST, "not readable"),
        ("x" * 20_000, "host", HOST, "more than"),
        (None, "host", "h1", "UUID"),
        (None, "host", HOST.upper(), "UUID"),
        (None, "operator", "", "characters"),
        (None, "operator", "netmgr", "netmgr"),
        (None, "viewer", "a\nb", "printable"),
        (None, "king", "a", "unknown role"),
        (None, "manager", "netmgr", "own server"),
    ],
)
def test_bad_request_name_or_role_is_refused_with_a_sentence(
    authority: CertificateAuthority, request_pem: str | None, role: str, name: str, words: str
) -> None:
    pem = make_request("a")[0] if request_pem is None else request_pem
    with pytest.raises(NetmgrError, match=words):
        authority.sign(csr_pem=pem, role=role, name=name)


def test_weak_key_is_refused(authority: CertificateAuthority) -> None:
    weak = request_of(rsa.generate_private_key(65537, 1024))
    with pytest.raises(NetmgrError, match="at least 2048"):
        authority.sign(csr_pem=weak, role="viewer", name="a")


def test_server_certificate_is_kept_until_addresses_change_or_it_gets_old(authority: CertificateAuthority) -> None:
    first = authority.server_identity(["127.0.0.1", "2001:db8::1"], now=NOW)
    sans = load(first.cert_pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert sans.get_values_for_type(x509.DNSName) == ["netmgr"]
    assert {str(a) for a in sans.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "2001:db8::1"}
    assert authority.server_identity(["2001:db8::1", "127.0.0.1"], now=NOW) == first
    assert authority.server_identity(["127.0.0.1"], now=NOW) != first
    later = authority.server_identity(["127.0.0.1"], now=NOW + timedelta(days=700))
    assert load(later.cert_pem).not_valid_after_utc > NOW + timedelta(days=1400)
    assert later.cert_pem == authority.server_cert_file.read_text()
    assert authority.server_key_file.stat().st_mode & 0o777 == 0o600


def test_identity_is_kept_while_it_is_good_and_made_again_when_it_is_not(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    directory = tmp_path / "operator"

    def ensure(name: str = "operator") -> str:
        return authority.ensure_identity(directory, name=name, role=Role.OPERATOR, now=NOW).cert_pem

    first = ensure()
    assert ensure() == first
    assert {p.name: p.stat().st_mode & 0o777 for p in directory.iterdir()} == {
        "ca.pem": 0o644,
        "cert.pem": 0o644,
        "key.pem": 0o600,
    }
    (directory / "key.pem").write_text("broken")
    second = ensure()
    assert second != first
    assert ensure(name="other") != second
    context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")  # OpenSSL agrees that they fit


def test_token_survives_being_written_and_read() -> None:
    token = parse_token_text(" " + make_token_text(uuid=uuid4(), secret="s3cret", ca_sha256="a" * 64) + "\n")
    assert parse_token_text(make_token_text(uuid=token.uuid, secret=token.secret, ca_sha256=token.ca_sha256)) == token
    assert replace(token, secret="x") != token


@pytest.mark.parametrize("text", ["", "a.b.c", f"{HOST}..{'a' * 64}", f"{HOST}.s.{'g' * 64}", f"x.s.{'a' * 64}"])
def test_malformed_token_is_refused(text: str) -> None:
    with pytest.raises(NetmgrError, match="join token"):
        parse_token_text(text)
