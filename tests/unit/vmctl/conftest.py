"""A certificate authority and real OpaqueView servers, for tests of what vmctl reads over the wire."""

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from netmgr.contract.codec import encode
from netmgr.contract.proto import opaque_view_pb2 as pb
from netmgr.contract.proto import opaque_view_pb2_grpc as rpc
from netmgr.contract.types import TransportZone


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database; each test that uses it runs on both kinds."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state/vmctl.db"
    make_database: Callable[[], str] = request.getfixturevalue("postgresql")
    return make_database()


class Authority:
    """A CA that issues identity directories as the network manager's does."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        self._certificate = self._sign(self._name, self._key, "", authority=True)

    def issue(self, name: str, role: str) -> Path:
        """A new identity directory for *name*."""
        directory = self.directory / f"{role}-{name}"
        directory.mkdir(exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, name),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            ]
        )
        pem = serialization.Encoding.PEM
        (directory / "ca.pem").write_bytes(self._certificate.public_bytes(pem))
        (directory / "cert.pem").write_bytes(self._sign(subject, key, name).public_bytes(pem))
        (directory / "key.pem").write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return directory

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, dns: str, *, authority: bool = False
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if dns:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(dns)]), critical=False)
        return builder.sign(self._key, hashes.SHA256())


class Server(rpc.OpaqueViewServicer):
    """OpaqueView over mutual TLS; tells `hosts`, and watchers whenever `tell` is called."""

    def __init__(self, identity: Path, *, source: str = "host") -> None:
        self.source = source
        self.hosts: list[pb.HostView] = []
        self.asked = 0
        self._changed = threading.Condition()
        self._turn = 0
        self._identity = identity
        self._server: grpc.Server | None = None
        self.port = 0
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        read = {name: (self._identity / f"{name}.pem").read_bytes() for name in ("ca", "cert", "key")}
        credentials = grpc.ssl_server_credentials([(read["key"], read["cert"])], read["ca"], require_client_auth=True)
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        rpc.add_OpaqueViewServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            with self._changed:
                self._turn = -1
                self._changed.notify_all()
            self._server.stop(0).wait()
            self._server = None
            self._turn = 0

    def tell(self, *hosts: pb.HostView) -> None:
        with self._changed:
            self.hosts = list(hosts)
            self._turn += 1
            self._changed.notify_all()

    def List(self, request: pb.ViewRequest, context: Any) -> pb.View:
        self.asked += 1
        hosts = [h for h in self.hosts if not request.host_uuids or h.host_uuid in request.host_uuids]
        return pb.View(source=self.source, hosts=hosts)

    def Watch(self, request: pb.ViewRequest, context: Any) -> Iterator[pb.View]:
        seen = None
        while context.is_active():
            with self._changed:
                self._changed.wait_for(lambda seen=seen: self._turn != seen, timeout=0.2)
                if self._turn == -1:
                    return
                if self._turn == seen:
                    continue
                seen = self._turn
            yield self.List(request, context)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def view_server(authority: Authority) -> Iterator[Callable[..., Server]]:
    """Makes a server for a host's UUID, or for the manager (role "manager")."""
    made: list[Server] = []

    def make(name: str | UUID, role: str = "host") -> Server:
        made.append(Server(authority.issue(str(name), role), source="manager" if role == "manager" else "host"))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def host_message() -> Callable[..., pb.HostView]:
    """Makes the word of a host that carries network *network* of zone *zone* on a userspace switch."""
    zones = {name: TransportZone(uuid=UUID(int=0xA0 + i), name=name) for i, name in enumerate("ab")}

    def make(uuid: UUID | None = None, name: str = "h1", *, zone: str = "a", network: str = "blue") -> pb.HostView:
        switch = str(UUID(int=0x5))
        view = pb.HostView(
            host_uuid=str(uuid or uuid4()),
            host_name=name,
            in_sync=True,
            manager_connected=True,
            zones=[encode(zones[zone])],
            switches=[pb.OpaqueSwitchInfo(key=switch, name="sw", status="up", health=100, opaque=True)],
        )
        view.switches[0].extra_config["datapath"] = "netdev"
        if network:
            view.networks.add(
                opaque_network_id=str(UUID(int=0xB1)),
                opaque_network_name=network,
                opaque_network_type="geneve",
                pnic_zone=[str(zones[zone].uuid)],
                status="up",
                health=100,
                switch_key=switch,
                opaque=True,
            )
        return view

    return make
