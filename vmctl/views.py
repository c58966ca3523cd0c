"""What hosts say of their networks, read through OpaqueView, a service without a method that writes.

The daemon keeps a Watch open to each host's agent (or one to the network manager, `from_manager`), so a change is
known without asking; `fleet()` is that picture. Before anything moves, `ask()` takes the host's own word, now: from its
agent where we have its address, else from the manager. What cannot be asked is `Unread`, with the reason. While a
manager that is watched does not answer, the hosts' own agents are watched instead.

Servers are verified by name: an agent's certificate must name the host's UUID, the manager's `netmgr`. The identity's
files are read at each connection, so a renewed certificate needs no restart. A broken Watch is opened again, with a
growing, jittered pause.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import grpc
import structlog

from netmgr.contract.codec import ContractError
from netmgr.contract.proto import opaque_view_pb2 as pb
from netmgr.contract.proto import opaque_view_pb2_grpc as rpc
from vmctl.model import Candidate, Host, HostView, Unread, VmctlError
from vmctl.view_codec import decode_host, find_host

__all__ = ["Views"]

ASK_S = 5.0
BACKOFF_S_MAX = 10.0
SILENCE_S = 20.0
MANAGER_NAME = "netmgr"

log = structlog.get_logger("vmctl.views")


class Views:
    """The views of all hosts; made and used in the event loop's thread."""

    def __init__(self, *, identity: Path, manager: str = "", from_manager: bool = False) -> None:
        self._identity = identity
        self._manager = manager
        self._from_manager = from_manager
        self._hosts: dict[str, Host] = {}
        self._latest: dict[str, Candidate] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.on_host: Callable[[str], None] = lambda host: None  # the host's newest word is another
        if from_manager:
            self._tasks[""] = asyncio.create_task(self._keep_manager())

    def add(self, host: Host) -> None:
        """Begins to watch *host*."""
        self._hosts[host.name] = host
        self._latest[host.name] = Unread(host=host.name, reason="it was not asked yet")
        if not self._from_manager:
            self._watch(host)
        elif (task := self._tasks.pop("", None)) is not None:  # the manager's next answer is whole: read it again
            task.cancel()
            self._tasks[""] = asyncio.create_task(self._keep_manager())

    def remove(self, name: str) -> None:
        """Stops watching the host."""
        self._hosts.pop(name, None)
        self._latest.pop(name, None)
        self._stop_watching(name)

    async def close(self) -> None:
        """Ends every watch."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def fleet(self) -> tuple[Candidate, ...]:
        """The newest word of every host, by name."""
        return tuple(self._latest[name] for name in sorted(self._latest))

    @property
    def source(self) -> str:
        """Who is watched: "hosts" or "manager"; "hosts, the manager is away" while they stand in for it."""
        standing_in = self._from_manager and bool(self._tasks.keys() - {""})
        return "hosts, the manager is away" if standing_in else "manager" if self._from_manager else "hosts"

    def latest(self, name: str) -> Candidate:
        """The newest word of one host."""
        return self._latest.get(name, Unread(host=name, reason="vmctl does not know it; see `vmctl host list`"))

    async def ask(self, host: Host, *, deadline_s: float = ASK_S) -> Candidate:
        """The host's own word, now; the manager's, where we have no way to the host itself."""
        if host.agent_address and host.uuid is not None:
            return await self._ask(host, host.agent_address, str(host.uuid), deadline_s)
        if self._manager:
            return await self._ask(host, self._manager, MANAGER_NAME, deadline_s)
        missing = "its agent's address" if not host.agent_address else "its UUID"
        return Unread(host=host.name, reason=f"{missing} is not known; remove the host and add it again with it")

    async def learn_uuid(self, name: str, agent_address: str) -> UUID:
        """UUID of the host, from the manager by *name*, else from the certificate its agent shows.

        Raises:
            VmctlError: neither tells it.
        """
        advice = "give it by --host-uuid (`hostagent show` tells it)"
        if self._manager:
            try:
                async with self._stub(self._manager, MANAGER_NAME) as stub:
                    found = find_host(await stub.List(pb.ViewRequest(), timeout=ASK_S), name=name)
            except (grpc.aio.AioRpcError, OSError) as error:
                raise VmctlError(
                    f"the network manager at {self._manager} did not tell {name}'s UUID: {_reason(error)}; {advice}",
                    status=502,
                ) from None
            if found is None:
                raise VmctlError(
                    f"the network manager knows no host {name}; use its name there, or {advice}", status=404
                )
            return UUID(found.host_uuid)
        if not agent_address:
            raise VmctlError(f"the UUID of {name} is not known; {advice}, or its agent by --agent")
        try:
            return await self._read_certificate(agent_address)
        except (OSError, TimeoutError, ValueError) as error:
            raise VmctlError(
                f"the agent of {name} at {agent_address} did not show a host's certificate: {_reason(error)}; {advice}",
                status=502,
            ) from None

    # --- watching -------------------------------------------------------------------------------------------------

    def _watch(self, host: Host) -> None:
        self._tasks[host.name] = asyncio.create_task(self._keep_host(host))

    def _stop_watching(self, name: str) -> None:
        if (task := self._tasks.pop(name, None)) is not None:
            task.cancel()

    async def _keep_host(self, host: Host) -> None:
        if not host.agent_address or host.uuid is None:
            self._take(host.name, await self.ask(host))
            return

        def take(view: pb.View) -> None:
            self._take(host.name, _decode(view, host))

        def lose(reason: str) -> None:
            self._take(host.name, Unread(host=host.name, reason=reason))

        await self._keep(host.agent_address, str(host.uuid), [str(host.uuid)], take, lose)

    async def _keep_manager(self) -> None:
        def take(view: pb.View) -> None:
            for name, host in self._hosts.items():
                self._stop_watching(name)
                self._take(name, _decode(view, host))

        def lose(reason: str) -> None:
            for name, host in self._hosts.items():
                if name in self._tasks:
                    continue
                self._take(name, Unread(host=name, reason=f"the network manager does not answer: {reason}"))
                if host.agent_address and host.uuid is not None:
                    self._watch(host)

        await self._keep(self._manager, MANAGER_NAME, [], take, lose)

    def _take(self, name: str, word: Candidate) -> None:
        self._latest[name] = word
        self.on_host(name)

    async def _keep(self, address, name, uuids, take, lose) -> None:  # type: ignore[no-untyped-def]
        backoff = 0.3
        while True:
            try:
                async with self._stub(address, name) as stub:
                    request = pb.ViewRequest(host_uuids=uuids)
                    stream = stub.Watch(request)
                    while (view := await self._next(stream, stub, request)) is not None:
                        take(view)
                        backoff = 0.3
                reason = f"{address} ended the stream"
            except (grpc.aio.AioRpcError, OSError) as error:
                reason = f"{address}: {_reason(error)}"
            lose(reason)
            log.info("view lost", address=address, reason=reason)
            await asyncio.sleep(backoff * random.uniform(0.7, 1.3))
            backoff = min(backoff * 2, BACKOFF_S_MAX)

    async def _next(self, stream, stub, request) -> pb.View | None:  # type: ignore[no-untyped-def]
        """The stream's next view, None at its end; when it is silent for long, a List proves that the server lives."""
        waiting = asyncio.ensure_future(stream.read())
        try:
            while True:
                done, _ = await asyncio.wait((waiting,), timeout=SILENCE_S)
                if done:
                    view = waiting.result()
                    return None if view is grpc.aio.EOF else view
                await stub.List(request, timeout=ASK_S)
        finally:
            waiting.cancel()

    # --- one connection -------------------------------------------------------------------------------------------

    async def _ask(self, host: Host, address: str, name: str, deadline_s: float) -> Candidate:
        uuids = [str(host.uuid)] if host.uuid else []
        try:
            async with self._stub(address, name) as stub:
                return _decode(await stub.List(pb.ViewRequest(host_uuids=uuids), timeout=deadline_s), host)
        except (grpc.aio.AioRpcError, OSError) as error:
            return Unread(host=host.name, reason=f"{address}: {_reason(error)}")

    @asynccontextmanager
    async def _stub(self, address: str, name: str) -> AsyncIterator[rpc.OpaqueViewStub]:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=(self._identity / "ca.pem").read_bytes(),
            private_key=(self._identity / "key.pem").read_bytes(),
            certificate_chain=(self._identity / "cert.pem").read_bytes(),
        )
        options = [
            ("grpc.ssl_target_name_override", name),
            ("grpc.use_local_subchannel_pool", 1),  # else a new channel inherits the back-off of the broken one
            ("grpc.max_receive_message_length", 64 * 1024**2),
        ]
        async with grpc.aio.secure_channel(address, credentials, options) as channel:
            yield rpc.OpaqueViewStub(channel)  # type: ignore[no-untyped-call]

    async def _read_certificate(self, address: str) -> UUID:
        context = ssl.create_default_context(cafile=str(self._identity / "ca.pem"))
        context.check_hostname = False  # the name is what we want to learn; that our CA signed it is verified
        context.load_cert_chain(self._identity / "cert.pem", self._identity / "key.pem")
        context.set_alpn_protocols(["h2"])
        host, _, port = address.rpartition(":")
        async with asyncio.timeout(ASK_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
        try:
            shown = writer.get_extra_info("peercert") or {}
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        subject = {key: value for group in shown.get("subject", ()) for key, value in group}
        if subject.get("organizationalUnitName") != "host":
            raise ValueError(f"it is the certificate of a {subject.get('organizationalUnitName', 'nobody')}")
        return UUID(subject.get("commonName", ""))


def _decode(view: pb.View, host: Host) -> Candidate:
    found = find_host(view, uuid=host.uuid, name=host.name)
    if found is None:
        return Unread(host=host.name, reason=f"the {view.source or 'server'} that was asked does not know it")
    try:
        decoded: HostView = decode_host(found, name=host.name)
    except ContractError as error:
        return Unread(host=host.name, reason=f"its answer cannot be read: {error}")
    return decoded


def _reason(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return "no answer in time"
        return error.details() or error.code().name.lower()
    if isinstance(error, FileNotFoundError):
        return f"vmctl's identity lacks {error.filename} (netmgr cert issue --role viewer makes one)"
    return str(error) or type(error).__name__
