"""One host's libvirt: a connection that mends itself, calls with deadlines, and a bell for changes.

A keeper thread opens the connection, sets keepalive (a dead peer is noticed after some 20 s) and waits until it breaks,
then opens another, later each time. Reads run in one thread of this host alone; each has a deadline, and a hung host
costs nobody else anything. Events of libvirt only ring `on_change`, also after a reconnect, as events are lost while
disconnected: whoever cares reads everything again.

What changes something may take long (a start waits for hooks, a migration for memory) and has a thread and a connection
of its own. Never two calls at once on one connection: libvirt's client before 10.0 loses the wake-up of the second
now and then, which then waits for the next keepalive, 5 s later. Errors become sentences that name the host.

`start_events()` must run once in the process, before the first connection.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from uuid import UUID

import libvirt

from vmctl.domains import Domain, JobStats, LibvirtNetwork, find, job_stats, read_domain_of, read_fate_of
from vmctl.migration import Fate
from vmctl.model import VmctlError
from vmctl.sentences import libvirt_sentence
from vmctl.workers import Workers, run_in_thread

__all__ = ["Hypervisor", "LibvirtProblem", "start_events"]

T = TypeVar("T")

KEEPALIVE_S, KEEPALIVE_COUNT = 5, 3
READ_S = 10.0
CHANGE_S = 60.0
BACKOFF_S_MAX = 15.0


class LibvirtProblem(VmctlError):
    """A call to one host's libvirt failed, or was not answered in time (`unanswered`)."""

    def __init__(self, sentence: str, *, unanswered: bool = False) -> None:
        super().__init__(sentence, status=502)
        self.unanswered = unanswered


def start_events() -> None:
    """Runs libvirt's event loop in a daemon thread and keeps its errors off standard error."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, name="libvirt-events", daemon=True).start()


class Hypervisor:
    """libvirt of one host; made and used in the event loop's thread."""

    def __init__(
        self, *, name: str, uri: str, on_change: Callable[[], None], on_networks: Callable[[], None] = lambda: None
    ) -> None:
        self.name = name
        self.uri = uri
        self._loop = asyncio.get_running_loop()
        self._on_change = on_change
        self._on_networks = on_networks  # rung for networks that come, go or change, and after a reconnect
        self._workers = Workers(f"libvirt-{name}", threads=1)
        self._wired = True  # False for a driver inside this process: one connection is then all of the host
        self._connection: Any = None
        self._problem = f"{name}: no connection to libvirt at {uri} yet"
        self._ready = asyncio.Event()
        self._lost = threading.Event()
        self._closing = False
        self._paused_at: dict[UUID, float] = {}

    def start(self) -> None:
        """Begins to connect, and stays at it until `close()`."""
        threading.Thread(target=self._keep, name=f"libvirt-{self.name}-keeper", daemon=True).start()

    def close(self) -> None:
        """Gives the connection up; calls under way fail."""
        self._closing = True
        self._lost.set()
        self._workers.close()

    @property
    def problem(self) -> str:
        """Why there is no connection now, empty while there is one."""
        return "" if self._ready.is_set() else self._problem

    # --- verbs ----------------------------------------------------------------------------------------------------

    async def read_domains(self) -> tuple[Domain, ...]:
        """Every domain of the host."""

        def read(connection: Any) -> tuple[Domain, ...]:
            return tuple(d for raw in connection.listAllDomains() if (d := read_domain_of(raw)) is not None)

        return await self._call("list its VMs", read)

    async def read_domain(self, uuid: UUID) -> Domain | None:
        """One domain, None when the host has it not."""

        def read(connection: Any) -> Domain | None:
            raw = find(connection, uuid)
            return read_domain_of(raw) if raw is not None else None

        return await self._call(f"look at VM {uuid}", read)

    async def read_networks(self, known: Mapping[UUID, LibvirtNetwork]) -> tuple[LibvirtNetwork, ...]:
        """Every libvirt network of the host; those in *known* under the same name are not read again."""

        def read(connection: Any) -> tuple[LibvirtNetwork, ...]:
            found = []
            for raw in connection.listAllNetworks():
                uuid, name = UUID(raw.UUIDString()), raw.name()
                old = known.get(uuid)
                if old is not None and old.name == name:
                    found.append(old)
                    continue
                try:
                    found.append(LibvirtNetwork(uuid=uuid, name=name, xml=raw.XMLDesc()))
                except libvirt.libvirtError as error:
                    if error.get_error_code() != libvirt.VIR_ERR_NO_NETWORK:
                        raise
            return tuple(found)

        return await self._call("list its networks", read)

    async def read_capabilities(self) -> str:
        """The host's capabilities, as XML."""
        text: str = await self._call("tell its capabilities", lambda connection: connection.getCapabilities())
        return text

    async def define(self, xml: str, *, name: str) -> None:
        """Defines the domain of *xml*, or redefines that of its UUID."""
        flags = libvirt.VIR_DOMAIN_DEFINE_VALIDATE
        await self._errand(f"define VM {name}", lambda connection: connection.defineXMLFlags(xml, flags))

    async def start_domain(self, uuid: UUID, *, name: str) -> None:
        """Starts the domain; one that runs is no error."""

        def start(connection: Any) -> None:
            domain = connection.lookupByUUIDString(str(uuid))
            if not domain.isActive():
                domain.create()

        await self._errand(f"start VM {name}", start)

    async def stop_domain(self, uuid: UUID, *, name: str, force: bool) -> None:
        """Asks the guest to shut down, or cuts its power with *force*; one that is off is no error."""

        def stop(connection: Any) -> None:
            domain = connection.lookupByUUIDString(str(uuid))
            if domain.isActive():
                (domain.destroy if force else domain.shutdown)()

        await self._errand(f"stop VM {name}", stop)

    async def undefine(self, uuid: UUID, *, name: str) -> None:
        """Forgets the domain; one that is not there is no error."""
        flags = libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE

        def undefine(connection: Any) -> None:
            domain = find(connection, uuid)
            if domain is None:
                return
            try:
                domain.undefineFlags(flags)
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_INVALID_ARG:  # a driver without firmware files
                    raise
                domain.undefine()

        await self._errand(f"undefine VM {name}", undefine)

    async def movable_xml(self, uuid: UUID, *, name: str) -> tuple[str, str]:
        """XML that a destination may be given, of the running domain and of its definition (empty without one)."""
        flags = libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE

        def read(domain: Any) -> tuple[str, str]:
            live = domain.XMLDesc(flags)
            kept = domain.XMLDesc(flags | libvirt.VIR_DOMAIN_XML_INACTIVE) if domain.isPersistent() else ""
            return live, kept

        return await self._on_domain(f"describe VM {name}", uuid, read)

    async def read_job(self, uuid: UUID) -> JobStats:
        """The domain's job as it runs."""
        return job_stats(await self._on_domain("tell progress", uuid, lambda d: d.jobStats()))

    async def read_finished_job(self, uuid: UUID) -> JobStats:
        """The domain's last job, as the destination of a move keeps it."""
        flags = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED
        return job_stats(await self._on_domain("tell how the move went", uuid, lambda d: d.jobStats(flags)))

    async def read_fate(self, uuid: UUID) -> Fate:
        """What this host shows of a domain that is, or was, on the move; never raises."""
        try:
            return await self._call("look at a moving VM", lambda connection: read_fate_of(connection, uuid))
        except VmctlError:
            return Fate.UNREAD

    def paused_at(self, uuid: UUID) -> float | None:
        """When the domain was last paused by a migration, by `time.monotonic()`; None if it was not seen."""
        return self._paused_at.get(uuid)

    async def call(self, what: str, function: Callable[[Any], T]) -> T:
        """What *function* reads from the connection; *what* it could not do is part of the `LibvirtProblem`."""
        return await self._call(what, function)

    async def errand(self, what: str, function: Callable[[Any], T], *, deadline_s: float | None = CHANGE_S) -> T:
        """What *function*, which may take long, returns on a connection of its own.

        Raises:
            LibvirtProblem: it failed; libvirt's reason alone where *what* is empty.
        """
        return await self._errand(what, function, deadline_s=deadline_s)

    # --- the connection -------------------------------------------------------------------------------------------

    async def _on_domain(self, what: str, uuid: UUID, function: Callable[[Any], T]) -> T:
        return await self._call(what, lambda connection: function(connection.lookupByUUIDString(str(uuid))))

    async def _call(self, what: str, function: Callable[[Any], T]) -> T:
        """A read, on the standing connection."""
        connection = await self._connected(what)
        try:
            return await self._workers.run(lambda: function(connection), deadline_s=READ_S)
        except TimeoutError:
            raise self._unanswered(what, READ_S) from None
        except libvirt.libvirtError as error:
            raise self._failed(what, error) from error

    async def _errand(self, what: str, function: Callable[[Any], T], *, deadline_s: float | None = CHANGE_S) -> T:
        """Something that may take long, on a connection of its own."""
        standing = await self._connected(what)

        def run() -> T:
            if not self._wired:
                return function(standing)
            connection = libvirt.open(self.uri)
            try:
                _keep_alive(connection)
                return function(connection)
            finally:
                _close(connection)

        try:
            async with asyncio.timeout(deadline_s):
                return await run_in_thread(f"libvirt-{self.name}-errand", run)
        except TimeoutError:
            raise self._unanswered(what, deadline_s or 0.0) from None
        except libvirt.libvirtError as error:
            raise self._failed(what, error) from error

    async def _connected(self, what: str) -> Any:
        try:
            async with asyncio.timeout(READ_S):
                await self._ready.wait()
        except TimeoutError:
            raise LibvirtProblem(f"{self.name} could not {what}: {self._problem}", unanswered=True) from None
        return self._connection

    def _failed(self, what: str, error: Exception) -> LibvirtProblem:
        said = libvirt_sentence(str(error))
        return LibvirtProblem(f"{self.name} could not {what}: {said}" if what else said)

    def _unanswered(self, what: str, deadline_s: float) -> LibvirtProblem:
        return LibvirtProblem(
            f"{self.name} was asked to {what} and has not answered within {deadline_s:.0f} s; it may still do it",
            unanswered=True,
        )

    def _keep(self) -> None:
        backoff = 0.5
        while not self._closing:
            try:
                connection = libvirt.open(self.uri)
                self._prepare(connection)
            except libvirt.libvirtError as error:
                self._tell(None, f"no connection to libvirt at {self.uri}: {libvirt_sentence(str(error))}")
                self._lost.wait(backoff * random.uniform(0.7, 1.3))
                self._lost.clear()
                backoff = min(backoff * 2, BACKOFF_S_MAX)
                continue
            backoff = 0.5
            self._tell(connection, "")
            while not self._lost.wait(KEEPALIVE_S) and connection.isAlive():
                pass
            if not self._closing:
                self._lost.clear()
            self._tell(None, f"the connection to libvirt at {self.uri} broke; opening another")
            _close(connection)
            time.sleep(0.1)

    def _prepare(self, connection: Any) -> None:
        self._lost.clear()
        if self._closing:
            self._lost.set()
        self._wired = _keep_alive(connection)
        if self._wired:
            connection.registerCloseCallback(lambda *_: self._lost.set(), None)
        connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._hear, None)
        connection.networkEventRegisterAny(
            None, libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE, lambda *_: self._ring(networks=True), None
        )

    def _tell(self, connection: Any, problem: str) -> None:
        def tell() -> None:
            self._connection = connection
            self._problem = problem
            if connection is None:
                self._ready.clear()
            else:
                self._ready.set()
            self._on_change()
            self._on_networks()

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(tell)

    def _hear(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: object) -> None:
        if (event, detail) == (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED):
            self._paused_at[UUID(domain.UUIDString())] = time.monotonic()
        self._ring()

    def _ring(self, *, networks: bool = False) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._on_change)
            if networks:
                self._loop.call_soon_threadsafe(self._on_networks)


def _keep_alive(connection: Any) -> bool:
    """False for drivers without a wire, which have no keepalive."""
    try:
        return int(connection.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)) == 0
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
        return False


def _close(connection: Any) -> None:
    try:
        connection.close()
    except libvirt.libvirtError:
        return  # broken already, which is why it is closed
