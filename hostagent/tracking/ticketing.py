"""Connections of guests that migrate: told by the host that they leave, let in by the one they come to.

Theory of operation. The source reads the port's zone of the connection tracker twice: when the move is granted, so that
the destination has something whatever becomes of the second word, and at the guest's pause, when nothing is added any
more. What it read goes to the manager, who passes it on at once. The destination keeps it for a minute, which is long
enough for an answer to come, and compiles it into the port's flows. Nothing waits for any of it: a move without tickets
is a move whose silent connections end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from uuid import UUID

import structlog

from hostagent.host import Host
from hostagent.realize.errors import RealizeError
from hostagent.tracking.tickets import sound, tickets_in
from netmgr.contract.types import Location, Ticket, Tickets

__all__ = ["Ticketing"]

log = structlog.get_logger(__name__)

TICKET_S = 60.0
_PORTS_MAX = 1000  # that come at once


class Ticketing:
    """Of one host. *zones* has the zone of each port, *tell* sends upward, *changed* is called when what is held is
    other than before."""

    def __init__(
        self,
        *,
        host: Host,
        zones: Mapping[UUID, int],
        tell: Callable[[Tickets], None],
        changed: Callable[[], None],
    ) -> None:
        self._host = host
        self._zones = zones
        self._tell = tell
        self._changed = changed
        self._offered: dict[UUID, int] = {}  # version of the grant that was answered, by port
        self._held: dict[UUID, tuple[Ticket, ...]] = {}
        self._ends: dict[UUID, asyncio.TimerHandle] = {}
        self._readings: set[asyncio.Task[None]] = set()

    @property
    def held(self) -> Mapping[UUID, tuple[Ticket, ...]]:
        """By port: connections of guests that are coming, or have just come."""
        return self._held

    # --- where a guest leaves --------------------------------------------------------------------------------------

    def located(self, port: UUID, location: Location | None, *, here: UUID) -> None:
        """netmgr's word on a port: a guest that is granted to another host will want its connections there."""
        if location is None or location.holder_host != here or location.incoming_host in (None, here):
            self._offered.pop(port, None)
        elif self._offered.get(port) != location.version:
            self._offered[port] = location.version
            self.tell((port,))

    def tell(self, ports: Iterable[UUID]) -> None:
        """Read the connections of *ports* now, and send them upward."""
        for port in ports:
            zone = self._zones.get(port)
            if zone is not None:
                reading = asyncio.create_task(self._read_and_tell(port, zone))
                self._readings.add(reading)
                reading.add_done_callback(self._readings.discard)

    async def _read_and_tell(self, port_uuid: UUID, zone: int) -> None:
        try:
            tickets = tickets_in(await self._host.connections(zone))
        except RealizeError as error:
            log.warning(
                "tickets: the guest's connections could not be read", port=str(port_uuid), reason=error.sentence
            )
            return
        log.info("tickets: sent", port=str(port_uuid), connections=len(tickets))
        self._tell(Tickets(port_uuid=port_uuid, tickets=tickets))

    # --- where it comes --------------------------------------------------------------------------------------------

    def take(self, tickets: Tickets) -> None:
        """The connections of a guest that is coming here."""
        port = tickets.port_uuid
        if port not in self._held and len(self._held) >= _PORTS_MAX:
            log.warning("tickets: left aside, too many guests come at once", port=str(port))
            return
        before, self._held[port] = self._held.get(port), sound(tickets.tickets)
        log.info("tickets: received", port=str(port), connections=len(self._held[port]))
        running = self._ends.pop(port, None)
        if running is not None:
            running.cancel()
        self._ends[port] = asyncio.get_running_loop().call_later(TICKET_S, self._end, port)
        if self._held[port] != before:
            self._changed()

    def _end(self, port: UUID) -> None:
        del self._ends[port]
        if self._held.pop(port):
            self._changed()

    def close(self) -> None:
        for timer in self._ends.values():
            timer.cancel()
        for reading in self._readings:
            reading.cancel()
