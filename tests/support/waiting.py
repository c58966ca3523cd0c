"""Waiting for what comes about in other processes: a claim is asked again until it holds, or its time is over."""

from __future__ import annotations

import time
from collections.abc import Callable

from scripts.labkit.patience import patient

PAUSE_S = 0.05


def within(seconds: float, claim: Callable[[], object]) -> bool:
    """True as soon as *claim* holds; False when it does not within that time, longer on a slow machine."""
    deadline = time.monotonic() + patient(seconds)
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE_S)
    return True
