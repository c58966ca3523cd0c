"""`?wait=realized`: hold the answer until hosts have confirmed, and say of each where it stands."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from netmgr.api.ports import FleetReader
from netmgr.service.realization import HostState, Realization, Target, realization_of
from netmgr.store import Store

__all__ = ["TIMEOUT_S_MAX", "realization_view", "wait_realized"]

TIMEOUT_S_MAX = 300.0
_LOOK_AGAIN_S = 0.5  # what the store says of hosts may change too


async def wait_realized(
    store: Store, fleet: FleetReader, targets: Mapping[UUID, Target], *, timeout_s: float
) -> list[Realization]:
    """Where each host of *targets* stands, once none that can be reached is still at it, or after *timeout_s*."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + min(timeout_s, TIMEOUT_S_MAX)
    while True:
        words = _words(fleet, targets)
        found = await asyncio.to_thread(_look, store, fleet, targets)
        left_s = deadline - loop.time()
        if left_s <= 0 or all(item.state is not HostState.WAITING for item in found):
            return found
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


def _look(store: Store, fleet: FleetReader, targets: Mapping[UUID, Target]) -> list[Realization]:
    with store.read() as world:
        return realization_of(world, targets, fleet.lives())
