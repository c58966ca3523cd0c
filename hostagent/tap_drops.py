"""What the kernel refused at an interface before Open vSwitch could see it: frames longer than its MTU, above all.

A guest may send jumbo frames into a tap or veth whose MTU is its network's. They end there, and only the kernel counts
them, since the interface came; for some other drops of received frames it has no counter of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["REFUSED", "read_refused", "refused"]

REFUSED: Final = "refused by the tap: longer than its MTU, or more than it could take"
_DROPPED = 3  # of received frames: /proc/net/dev has bytes, packets, errs, drop, …


def read_refused(counters: Path = Path("/proc/self/net/dev")) -> Mapping[str, int]:
    """By interface of this process's network namespace: received frames that the kernel dropped."""
    return refused(counters.read_text())


def refused(text: str) -> dict[str, int]:
    """The same from the text of /proc/net/dev."""
    found = {}
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        found[name.strip()] = int(rest.split()[_DROPPED])
    return found
