"""The REST API on loopback with a real store, CA and fleet, in a thread of its own, and clients of it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import uvicorn

from netmgr.api.app import create_app
from netmgr.api.ports import Role
from netmgr.api.tls import uvicorn_config
from netmgr.contract.types import TraceAnswer, TraceQuestion
from netmgr.identity import Identity, make_request, write_identity
from netmgr.model import HostRecord
from netmgr.pki import CertificateAuthority
from netmgr.store import Store
from netmgr.sync.fleet import Fleet
from tests.support.netmgr_store import migrated_sqlite

__all__ = ["Api", "ApiServer"]


class Hosts:
    """What hosts answer to questions; who has no answer is not connected."""

    def __init__(self) -> None:
        self.answers: dict[UUID, Callable[[TraceQuestion], TraceAnswer]] = {}

    async def ask(self, host_uuid: UUID, question: TraceQuestion, *, timeout_s: float) -> TraceAnswer:
        assert timeout_s > 0
        if host_uuid not in self.answers:
            return TraceAnswer(refusal=f"host {host_uuid} is not connected to this manager")
        return self.answers[host_uuid](question)


@dataclass
class Api:
    """A served API; `operator` is a client that may do everything."""

    directory: Path
    store: Store
    authority: CertificateAuthority
    fleet: Fleet
    hosts: Hosts
    port: int
    loop: asyncio.AbstractEventLoop
    operator: httpx.Client

    def identity(self, name: str, role: Role, authority: CertificateAuthority | None = None) -> Path:
        """The directory of an identity of our CA, or of another that we claim to be ours."""
        directory = self.directory / f"{role}-{name}-{uuid4().hex[:6]}"
        csr_pem, key_pem = make_request(name)
        cert_pem = (authority or self.authority).sign(csr_pem=csr_pem, role=role, name=name)
        write_identity(directory, Identity(ca_pem=self.authority.ca_pem(), cert_pem=cert_pem, key_pem=key_pem))
        return directory

    def client(self, identity: Path | None) -> httpx.Client:
        context = ssl.create_default_context(cadata=self.authority.ca_pem())
        context.check_hostname = False  # the certificate names `netmgr`, not an address; the CLI's tests verify it
        if identity is not None:
            context.load_cert_chain(identity / "cert.pem", identity / "key.pem")
        return httpx.Client(base_url=f"https://127.0.0.1:{self.port}", verify=context, timeout=20, trust_env=False)

    def enrol(self, name: str, *zones: str, pnics: tuple[str, ...] = ("pnic0",)) -> HostRecord:
        """A host that has joined through the API, as a host does it."""
        token = self.operator.post("/api/v1/tokens", json={"name": name, "zones": list(zones)}).json()["token"]
        host_uuid = uuid4()
        csr_pem, _key = make_request(str(host_uuid))
        body = {"token": token, "csr_pem": csr_pem, "host_uuid": str(host_uuid), "pnics": list(pnics)}
        answer = self.operator.post("/api/v1/join", json=body)
        assert answer.status_code == 200, answer.text
        with self.store.read() as world:
            return world.hosts[host_uuid]

    def in_loop(self, call: Callable[[], Any]) -> None:
        """Run something in the server's loop, as the push stream would, and wait for it."""
        done = threading.Event()

        def run() -> None:
            call()
            done.set()

        self.loop.call_soon_threadsafe(run)
        assert done.wait(5)

    def acknowledge(
        self, host: UUID, *, revision: int | None = None, rejections: dict[tuple[str, UUID], str] | None = None
    ) -> None:
        """The host's word on a stream: realized up to *revision*, by default everything."""
        with self.store.read() as world:
            newest = world.revision

        def say() -> None:
            live = self.fleet.live(host)
            if live is None or not live.connected:
                self.fleet.connect(host, agent_version="test", now_s=0)
            self.fleet.sent(host, revision=newest)
            acked = newest if revision is None else revision
            self.fleet.acknowledge(host, revision=acked, rejections=rejections or {})

        self.in_loop(say)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class ApiServer:
    """One HTTPS server and one CA for many tests; each test has an application, a store and a fleet of its own.

    The server is the costly part; nothing of a test is left in it, because it holds nothing but the application of now.
    """

    def __init__(self, directory: Path) -> None:
        now = datetime.now(UTC)
        self.directory = directory
        self.authority = CertificateAuthority.open(directory, now=now)
        self.authority.server_identity(["127.0.0.1"], now=now)
        self.authority.ensure_identity(directory / "operator", name="operator", role=Role.OPERATOR, now=now)
        self.app: Any = None
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="api")
        self._thread.start()
        assert self._ready.wait(10)

    @contextmanager
    def fresh(self, directory: Path) -> Iterator[Api]:
        """The API over a new store in *directory*; ended on exit."""
        shutil.copytree(self.directory / "operator", directory / "operator")
        store = Store.open(migrated_sqlite(directory))
        fleet, hosts = Fleet(), Hosts()
        self.app = create_app(store=store, fleet=fleet, authority=self.authority, hosts=hosts)
        with contextlib.ExitStack() as stack:
            stack.callback(store.close)
            api = Api(
                directory=directory,
                store=store,
                authority=self.authority,
                fleet=fleet,
                hosts=hosts,
                port=self.port,
                loop=self._loop,
                operator=None,  # type: ignore[arg-type]
            )
            api.operator = stack.enter_context(api.client(directory / "operator"))
            yield api
        self.app = None

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    async def _serve(self) -> None:
        async def current(scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)

        self._loop = asyncio.get_running_loop()
        self._server = _Server(
            uvicorn_config(
                current,
                ca_file=self.authority.ca_file,
                cert_file=self.authority.server_cert_file,
                key_file=self.authority.server_key_file,
                host="127.0.0.1",
                port=0,
            )
        )
        self._ready.set()
        await self._server.serve(sockets=[self._listening])
