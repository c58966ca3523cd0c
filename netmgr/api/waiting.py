"""`?wait=realized`: hold the answer until hosts have confirmed, and say of each where it stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from netmgr.api.ports import FleetReader
from netmgr.service.realization import HostState, Realization, Target, realization_of, surely_waiting
from netmgr.store import Store

__all__ = ["TIMEOUT_S_MAX", "realization_view", "wait_realized"]

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
    while True:
        words = _words(fleet, targets)
        late = surely_waiting(targets, fleet.lives())
        if not late or deadline <= loop.time():  # else the store has nothing to say, and hosts need the processor
            found, shown = await asyncio.to_thread(_look, store, fleet, targets, show, last=deadline <= loop.time())
            if shown is not None:
                return found, shown
        look_again = min(deadline, loop.time() + _LOOK_AGAIN_S)
        while _words(fleet, targets) == words and (left_s := look_again - loop.time()) > 0:
            await fleet.changed(left_s)


def realization_view(found: list[Realization]) -> dict[str, Any]:
    """As the API shows it."""
    return {
        "realized": all(item.state is HostState.REALIZED for item in found),
        "hosts": [
            {"host_uuid": str(item.host_uuid), "host": item.host, "state": item.state.value, "reason": item.reason}
            for item in found
        ],
    }


def _words(fleet: FleetReader, targets: Mapping[UUID, Target]) -> list[Any]:
    """What the answer depends on of each host; a host's reports are more frequent and do not count."""
    lives = map(fleet.live, targets)
    return [live and (live.connected, live.acked_revision, live.wanted_revision, live.rejections) for live in lives]


def _look(
    store: Store,
    fleet: FleetReader,
    targets: Mapping[UUID, Target],
    show: Callable[[], dict[str, Any]],
    *,
    last: bool,
) -> tuple[list[Realization], dict[str, Any] | None]:
    """Where each host stands; and what *show* says if that is the answer. In one thread's turn, as both take little."""
    with store.read() as world:
        found = realization_of(world, targets, fleet.lives())
    settled = last or all(item.state is not HostState.WAITING for item in found)
    return found, show() if settled else None
