"""Waiting for what comes about in other processes: a claim is asked again until it holds, or its time is over.

Whoever asks by a command takes processor time from those that are to answer, on a machine with few cores: so at most
half of the time is spent asking.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


@contextmanager
def first_served() -> Iterator[None]:
    """The test has a processor as soon as it wants one, whoever else works: for what has to be met within milliseconds.
    It must sleep meanwhile."""
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
