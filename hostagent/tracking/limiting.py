"""The limits of zones (`limits`), kept true: vswitchd forgets them in user space when it ends.

They are set when a port gets a zone, when vswitchd is another than before, and looked at every 15 s all the same; then
it is also seen which ports have reached theirs. A port needs none to be lit: a datapath without limits (a kernel that
lacks them) is told of in the host's report, and asked again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final
from uuid import UUID

import structlog

from hostagent.host import Host
from hostagent.realize.errors import RealizeError
from hostagent.tracking.limits import Held, changes, limits_in

__all__ = ["Limiting"]

log = structlog.get_logger(__name__)

_AGAIN_S: Final = 15.0
_SET_MAX: Final = 256  # zones in one command


class Limiting:
    """Of one host, whose ports have *zones*; each may hold *limit* connections, 0 for any number."""

    def __init__(self, *, host: Host, zones: Mapping[UUID, int], limit: int) -> None:
        self._host = host
        self._zones = zones
        self._limit = limit
        self._found: Mapping[int, Held] = {}
        self._full: frozenset[UUID] = frozenset()
        self._basis: object = None
        self._next = 0.0
        self._why = ""

    @property
    def full(self) -> Mapping[UUID, int]:
        """Ports that had as many connections as they may when that was last looked at, and how many these are."""
        return dict.fromkeys(self._full, self._limit)

    @property
    def unlimited(self) -> str:
        """Why there are no limits where some are wanted; empty where there are."""
        return self._why if self._limit and self._zones else ""

    def shown(self) -> dict[UUID, Held]:
        """By port: its limit and its connections, as last read."""
        return {port: self._found[zone] for port, zone in self._zones.items() if zone in self._found}

    async def look(self) -> None:
        """Bring the limits in line with the zones, if there may be anything to do."""
        basis = (frozenset(self._zones.values()), self._host.switch_process())
        if basis == self._basis and time.monotonic() < self._next:
            return
        self._basis, self._next = basis, time.monotonic() + _AGAIN_S
        why = ""
        try:
            self._found = limits_in(await self._host.ask_switch("dpctl/ct-get-limits"))
            give, take = changes(self._zones.values(), limit=self._limit, found=self._found)
            for at in range(0, len(give), _SET_MAX):
                words = (f"zone={zone},limit={self._limit}" for zone in give[at : at + _SET_MAX])
                await self._host.ask_switch("dpctl/ct-set-limits", *words)
            for at in range(0, len(take), _SET_MAX):
                zones = ",".join(map(str, take[at : at + _SET_MAX]))
                await self._host.ask_switch("dpctl/ct-del-limits", f"zone={zones}")
        except RealizeError as error:
            self._found, why = {}, error.sentence
            if why != self._why:
                log.warning("tracking: connections of ports are not limited", reason=why)
        self._why = why
        self._note_full()

    def _note_full(self) -> None:
        full = frozenset(port for port, held in self.shown().items() if held.connections >= held.limit > 0)
        for port in full - self._full:
            log.warning("tracking: a port has as many connections as it may", port=str(port), limit=self._limit)
        self._full = full
