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
_LOOK_AGAIN_S = 0.5  # news that came between looking and waiting is missed; this bounds the harm


async def wait_realized(
    store: Store, fleet: FleetReader, targets: Mapping[UUID, Target], *, timeout_s: float
) -> list[Realization]:
    """Where each host of *targets* stands, once none that can be reached is still at it, or after *timeout_s*."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + min(timeout_s, TIMEOUT_S_MAX)
    while True:
        news = asyncio.ensure_future(fleet.changed(_LOOK_AGAIN_S))
        await asyncio.sleep(0)  # it listens from now on
        try:
            found = await asyncio.to_thread(_look, store, fleet, targets)
            left_s = deadline - loop.time()
            if left_s <= 0 or all(item.state is not HostState.WAITING for item in found):
                return found
            await asyncio.wait({news}, timeout=left_s)
        finally:
            news.cancel()


def realization_view(found: list[Realization]) -> dict[str, Any]:
    """As the API shows it."""
    return {
        "realized": all(item.state is HostState.REALIZED for item in found),
        "hosts": [
            {"host_uuid": str(item.host_uuid), "host": item.host, "state": item.state.value, "reason": item.reason}
            for item in found
        ],
    }


def _look(store: Store, fleet: FleetReader, targets: Mapping[UUID, Target]) -> list[Realization]:
    with store.read() as world:
        return realization_of(world, targets, fleet.lives())
