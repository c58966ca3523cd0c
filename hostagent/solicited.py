"""Neighbour solicitations that the kernel's datapath can't answer: the agent does, on the asker's host.

Theory of operation. There the switch sends a solicitation whose answer is known to SOLICITED. While that table has the
flow ATTENDED, the agent gets it, and hands back the answer; while it has not, the owner is asked. The flow ends by
itself after 20 s and is put in anew every 6 s. So whatever becomes of an agent, owners are asked 20 s later at the
latest; one that stops in order takes the flow away, and one that comes back within a second finds the guest asking
again. It is not done more often because each change of flows makes vswitchd look at all that it has cached, some 7 µs
each.

An answer costs some of the agent's time, so a guest could keep it busy. With too many on a bridge the agent attends no
more for a while: then owners answer, as they would without it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress

import structlog

from hostagent.advertisement import advertisement
from hostagent.flow import Output
from hostagent.learning import HUSH_S, Bucket
from hostagent.realize.errors import RealizeError
from hostagent.switches import Switches

__all__ = ["Solicited"]

log = structlog.get_logger(__name__)

_LOOK_S = 0.5
_AGAIN_S = 6.0  # three times in the life of the flow
_OF_A_BRIDGE = (1000.0, 200.0)  # solicitations at once, and per second


class Solicited:
    """Made on the event loop; `run` until cancelled, then `close`."""

    def __init__(self, switches: Switches) -> None:
        self._switches = switches
        self._attended: dict[str, float] = {}  # bridge -> since when (monotonic), by its present connection
        self._buckets: dict[str, Bucket] = {}

    def on_frame(self, bridge: str, in_port: int, frame: bytes) -> None:
        """A solicitation from *in_port* for an address whose owner's MAC it has as its destination."""
        bucket = self._buckets.setdefault(bridge, Bucket.full(_OF_A_BRIDGE, now=time.monotonic()))
        bucket.spend(now=time.monotonic())
        answer = advertisement(frame) if bucket.tokens >= 0 else None
        if answer is not None:
            self._switches.packets_out(bridge, [((Output(in_port),), answer)])

    def hushed(self, *, now: float) -> frozenset[str]:
        """Bridges with too many solicitations for the agent to answer more of them now."""
        return frozenset(bridge for bridge, bucket in self._buckets.items() if now < bucket.hushed_until)

    def lost(self, bridge: str) -> None:
        """The switch of *bridge* is not heard any more, and whatever flows it had are not known."""
        self._attended.pop(bridge, None)

    async def run(self) -> None:
        """Attend at each of our bridges."""
        while True:
            now = time.monotonic()
            hushed = self.hushed(now=now)
            for bridge in [name for name, alive in self._switches.alive().items() if alive]:
                since = self._attended.get(bridge)
                if bridge in hushed and since is not None:
                    log.warning("solicitations: too many, left to the owners", bridge=bridge, for_s=HUSH_S)
                    await self._leave([bridge])
                elif bridge not in hushed and (since is None or now >= since + _AGAIN_S):
                    await self._attend(bridge, now)
            await asyncio.sleep(_LOOK_S)

    async def close(self) -> None:
        """Leave solicitations to the owners."""
        await self._leave([*self._attended])

    async def _attend(self, bridge: str, now: float) -> None:
        with suppress(RealizeError):  # a switch that does not answer is told of elsewhere, and asked again in a moment
            await self._switches.attend(bridge)
            self._attended[bridge] = now

    async def _leave(self, bridges: Iterable[str]) -> None:
        for bridge in bridges:
            self._attended.pop(bridge, None)
            with suppress(RealizeError):  # then the flow ends by itself
                await self._switches.attend(bridge, no_more=True)
