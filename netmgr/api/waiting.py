"""`?wait=realized`: hold the answer until hosts have confirmed, and say of each where it stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from netmgr.api.ports import FleetReader
from netmgr.model import HostLive, World
from netmgr.service.realization import HostState, Realization, Target, realization_of, surely_waiting
from netmgr.store import Store

__all__ = ["TIMEOUT_S_MAX", "looked", "realization_view", "wait_realized"]

T = TypeVar("T")

TIMEOUT_S_MAX = 300.0
_LOOK_AGAIN_S = 0.5  # what the store says of hosts may change too


async def wait_realized(
    store: Store,
    fleet: FleetReader,
    targets: Mapping[UUID, Target],
    *,
    timeout_s: float,
    show: Callable[[], dict[str, Any]] = dict,
) -> tuple[list[Realization], dict[str, Any]]:
    """Where each host of *targets* stands, once none that can be reached is still at it, or after *timeout_s*; and what
    *show* says then."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + min(timeout_s, TIMEOUT_S_MAX)
    laggards = _Laggards(fleet, targets)
    with fleet.listening(laggards.hear):
        while True:
            laggards.news.clear()
            last = deadline <= loop.time()
            if not laggards.late or last:  # else the store has nothing to say, and hosts need the processor
                found, shown = await looked(store, partial(_look, fleet, targets, show, last=last))
                if shown is not None:
                    return found, shown
            look_again = loop.call_at(min(deadline, loop.time() + _LOOK_AGAIN_S), laggards.news.set)
            await laggards.news.wait()
            look_again.cancel()


async def looked(store: Store, look: Callable[[World], T]) -> T:
    """What *look* makes of the World: at once where nobody has to be waited for, else in a thread."""
    with store.glance() as world:
        if world is not None:
            return look(world)

    def wait() -> T:
        with store.read() as world:
            return look(world)

    return await asyncio.to_thread(wait)


class _Laggards:
    """The hosts of which it is sure that they are waited for, kept level with each host's word: of fifty hosts that
    confirm, each costs a look at itself."""

    def __init__(self, fleet: FleetReader, targets: Mapping[UUID, Target]) -> None:
        self._fleet = fleet
        self._targets = targets
        self._words = {host: _word(fleet.live(host)) for host in targets}
        self.late = {host for host, target in targets.items() if surely_waiting(target, fleet.live(host))}
        self.news = asyncio.Event()
        """Set when something is new that the answer depends on, and nobody is late."""

    def hear(self, host_uuid: UUID) -> None:
        """Something is new of this host."""
        target = self._targets.get(host_uuid)
        if target is None:
            return
        live = self._fleet.live(host_uuid)
        before, self._words[host_uuid] = self._words[host_uuid], _word(live)
        if before == self._words[host_uuid]:
            return
        if surely_waiting(target, live):
            self.late.add(host_uuid)
        else:
            self.late.discard(host_uuid)
        if not self.late:
            self.news.set()


def realization_view(found: list[Realization]) -> dict[str, Any]:
    """As the API shows it."""
    return {
        "realized": all(item.state is HostState.REALIZED for item in found),
        "hosts": [
            {"host_uuid": str(item.host_uuid), "host": item.host, "state": item.state.value, "reason": item.reason}
            for item in found
        ],
    }


def _word(live: HostLive | None) -> object:
    """What the answer depends on of a host; its reports are more frequent and do not count."""
    return live and (live.connected, live.acked_revision, live.wanted_revision, live.rejections)


def _look(
    fleet: FleetReader, targets: Mapping[UUID, Target], show: Callable[[], dict[str, Any]], world: World, *, last: bool
) -> tuple[list[Realization], dict[str, Any] | None]:
    """Where each host stands; and what *show* says if that is the answer. In one turn, as both take little."""
    found = realization_of(world, targets, fleet.lives())
    settled = last or all(item.state is not HostState.WAITING for item in found)
    return found, show() if settled else None
