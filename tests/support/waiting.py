"""Waiting for what comes about in other processes: a claim is asked again until it holds, or its time is over.

Whoever asks by a command takes processor time from those that are to answer, on a machine with few cores: so at most
half of the time is spent asking.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from scripts.labkit.patience import patient

PAUSE_S = 0.05
_PAUSE_S_MAX = 0.5


def within(seconds: float, claim: Callable[[], object]) -> bool:
    """True as soon as *claim* holds; False when it does not within that time, longer on a slow machine."""
    deadline = time.monotonic() + patient(seconds)
    while True:
        began = time.monotonic()
        if claim():
            return True
        now = time.monotonic()
        if now > deadline:
            return False
        time.sleep(min(max(PAUSE_S, now - began), _PAUSE_S_MAX))
