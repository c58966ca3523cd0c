"""News of the host, counted, so that whoever waits for a network can tell whether what he waits for was looked at.

Theory of operation. Whatever happens is one more piece of news and wakes the loop. At the end of a turn the loop says
which news it had taken in when the host was as wanted, or known not to be. A hook whose claim was granted waits until
its own news is among these and its network's bridge is as wanted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from uuid import UUID

from hostagent.names import switch_bridge
from netmgr.contract.types import OpaqueNetwork

__all__ = ["News"]

_REALIZED_S = 5.0  # how long a hook waits for its network


class News:
    """*networks* are those that this host carries; *failures* says what failed and is being retried."""

    def __init__(
        self, *, networks: Callable[[], Mapping[UUID, OpaqueNetwork]], failures: Callable[[], tuple[str, ...]]
    ) -> None:
        self._networks = networks
        self._failures = failures
        self.wake = asyncio.Event()
        self.count = 0
        self._settled = -1  # value of `count` up to which the host is as wanted, or known not to be
        self._lit_bridges: frozenset[str] = frozenset()
        self._turned = asyncio.Event()

    def add(self) -> None:
        """Something happened: wake the loop."""
        self.count += 1
        self.wake.set()

    def turned(self, *, lit_bridges: Collection[str], settled: int | None) -> None:
        """A turn of the loop has ended; *lit_bridges* are as wanted, and all is *settled* up to that count, if any."""
        self._lit_bridges = frozenset(lit_bridges)
        if settled is not None:
            self._settled = max(self._settled, settled)
        self._turned.set()
        self._turned = asyncio.Event()

    async def realized(self, network_uuid: UUID) -> str:
        """Wait until the host is as wanted for this network; a sentence when it is not in time."""
        target, deadline = self.count, time.monotonic() + _REALIZED_S
        self.wake.set()
        while time.monotonic() < deadline:
            network = self._networks().get(network_uuid)
            if network is None:
                return "it was removed from this host meanwhile"
            if self._settled >= target and switch_bridge(network.switch_uuid) in self._lit_bridges:
                return ""
            with suppress(TimeoutError):
                await asyncio.wait_for(self._turned.wait(), deadline - time.monotonic())
        reasons = "; ".join(self._failures()[:3])
        return reasons or f"its bridge is not as wanted after {_REALIZED_S:g} s; see `hostagent show`"
