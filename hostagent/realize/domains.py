"""What happens to guests: pause, resume, stop, as fast as libvirt and QEMU tell it.

Theory of operation. The earliest sign of a guest's pause is QEMU's own QMP event STOP, which libvirt passes on to
read-write connections; libvirt's Suspended follows some milliseconds later, and both are delivered, in order of
arrival, as `DomainEvent`s on the event loop. Nothing is asked of libvirt when an event comes: which VIFs a domain has
is in OVSDB already (`external_ids:vm-id`), so the way from pause to flows holds no call. Events are lost while the
connection is, so whoever listens reads all domains (`read`) after each `changed`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

import libvirt
import libvirt_qemu
import structlog

from hostagent.model import Unread
from hostagent.realize.errors import RealizeError
from hostagent.realize.libvirt_link import LibvirtLink

__all__ = ["DomainEvent", "DomainEventKind", "DomainState", "Domains"]

log = structlog.get_logger(__name__)


class DomainEventKind(StrEnum):
    STARTED = "started"
    PAUSED = "paused"
    RESUMED = "resumed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainEvent:
    """One event. `at` is `time.monotonic()` of its arrival; `source` is "qmp" or "libvirt"; `migrated` is True where
    libvirt gives a migration as the cause."""

    domain: UUID
    name: str
    kind: DomainEventKind
    source: str
    migrated: bool
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainState:
    """An active domain. `migrating` is True for one paused by, or for, a migration."""

    domain: UUID
    name: str
    running: bool
    migrating: bool


_LIFECYCLE = {
    libvirt.VIR_DOMAIN_EVENT_STARTED: (DomainEventKind.STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_MIGRATED),
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: (DomainEventKind.PAUSED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED),
    libvirt.VIR_DOMAIN_EVENT_RESUMED: (DomainEventKind.RESUMED, libvirt.VIR_DOMAIN_EVENT_RESUMED_MIGRATED),
    libvirt.VIR_DOMAIN_EVENT_STOPPED: (DomainEventKind.STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED),
}
_QMP = {"STOP": DomainEventKind.PAUSED, "RESUME": DomainEventKind.RESUMED}


class Domains:
    """Events and states of all domains on this host, over a `LibvirtLink`."""

    def __init__(
        self, link: LibvirtLink, *, on_event: Callable[[DomainEvent], None], on_reconnect: Callable[[], None]
    ) -> None:
        self._link = link
        self._on_event = on_event
        link.subscribe(connected=self._register, changed=on_reconnect)

    async def read(self) -> tuple[DomainState, ...] | Unread:
        """All active domains; `Unread` without libvirtd."""
        try:
            return await self._link.call(_read)
        except RealizeError as error:
            return Unread(error.sentence)

    def _register(self, conn: Any) -> None:
        conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None)
        try:
            for name in _QMP:
                libvirt_qemu.qemuMonitorEventRegister(conn, None, name, self._qmp, None)
        except libvirt.libvirtError as error:  # not QEMU's driver: Suspended has to do
            log.warning("domains: no QMP events, pauses are seen a little later", reason=str(error))

    def _lifecycle(self, _conn: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        at = time.monotonic()
        if event not in _LIFECYCLE:
            return
        kind, migrated = _LIFECYCLE[event]
        self._tell(domain, kind, source="libvirt", migrated=detail == migrated, at=at)

    def _qmp(self, _conn: Any, domain: Any, event: str, _s: int, _us: int, _details: str, _opaque: Any) -> None:
        at = time.monotonic()
        if event in _QMP:
            self._tell(domain, _QMP[event], source="qmp", migrated=False, at=at)

    def _tell(self, domain: Any, kind: DomainEventKind, *, source: str, migrated: bool, at: float) -> None:
        event = DomainEvent(
            domain=UUID(domain.UUIDString()), name=domain.name(), kind=kind, source=source, migrated=migrated, at=at
        )
        self._link.dispatch(self._on_event, event)


def _read(conn: Any) -> tuple[DomainState, ...]:
    states = []
    for domain in conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
        try:
            state, reason = domain.state()
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                continue  # ended since it was listed
            raise
        states.append(
            DomainState(
                domain=UUID(domain.UUIDString()),
                name=domain.name(),
                running=state == libvirt.VIR_DOMAIN_RUNNING,
                migrating=state == libvirt.VIR_DOMAIN_PAUSED
                and reason in (libvirt.VIR_DOMAIN_PAUSED_MIGRATION, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP),
            )
        )
    return tuple(states)
