"""While a guest is awaited, the agent interrupts nobody.

Theory of operation. Whoever is woken may interrupt who woke it, and the kernel likes to run both on one processor, be
another idle. A guest that is about to come waits for what ovsdb-server tells vswitchd, and for a round of vswitchd's
loop, and both wake the agent on the way: interrupted, they go on when it sleeps again. So for that time the event
loop's thread waits until they do, or another processor is free: SCHED_BATCH (sched(7)). Not at other times: on a host
whose processors are all busy it would wait for each, also with what must be quick, as a migration's pause. What an
operator has chosen for the service stays.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

__all__ = ["GivingWay"]


class GivingWay:
    """Of the thread that calls; it must run an event loop."""

    def __init__(self) -> None:
        self._end: asyncio.TimerHandle | None = None

    def begin(self, seconds: float) -> None:
        """From now on, for *seconds* at most."""
        if self._end is not None:
            self._end.cancel()
        elif os.sched_getscheduler(0) != os.SCHED_OTHER or not _set(os.SCHED_BATCH):
            return
        self._end = asyncio.get_running_loop().call_later(seconds, self.end)

    def end(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None
            _set(os.SCHED_OTHER)


def _set(policy: int) -> bool:
    """Whether it could be set: a sandbox may forbid it."""
    with suppress(OSError):
        os.sched_setscheduler(0, policy, os.sched_param(0))
        return True
    return False
