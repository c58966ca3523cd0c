"""How much longer than on an ordinary machine things may take on this one.

Whoever knows that a machine is slow says so in OPLAB_PATIENCE, as `scripts/test-kernel` does of those that it emulates:
every deadline of the lab and of its tests is that many times as long. It gives time and takes none: what is there
sooner is taken sooner.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["patient"]


def patient(seconds: float, *, environment: Mapping[str, str] = os.environ) -> float:
    """*seconds* of an ordinary machine, as a deadline on this one."""
    return seconds * max(1.0, float(environment.get("OPLAB_PATIENCE") or 1))
