"""How busy PNICs are, for those who place and move guests.

The kernel counts bytes for each interface; what lies between two readings, divided by the time, is the load. The agent
takes a reading every few seconds. Of the two directions the busier one counts: a link is full when one of them is.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["PnicLoad", "busy_mbps"]

Counters = dict[str, tuple[int, int]]


class PnicLoad:
    """Load of the interfaces of this process's network namespace."""

    def __init__(self, *, counters: Path = Path("/proc/self/net/dev")) -> None:
        self._counters = counters
        self._before: tuple[float, Counters] | None = None
        self.mbps: dict[str, int] = {}  # of each interface between the last two readings; empty before the second

    def sample(self, *, now_s: float) -> None:
        """Takes a reading, at *now_s* of a monotonic clock."""
        counters = _parse(self._counters.read_text())
        if self._before is not None and now_s > self._before[0]:
            seconds = now_s - self._before[0]
            self.mbps = busy_mbps(before=self._before[1], after=counters, seconds=seconds)
        self._before = (now_s, counters)


def busy_mbps(*, before: Counters, after: Counters, seconds: float) -> dict[str, int]:
    """Mbit/s of each interface that both readings have, in its busier direction; 0 when its counters began anew."""
    found = {}
    for name in after.keys() & before.keys():
        moved = max(now - then for now, then in zip(after[name], before[name], strict=True))
        found[name] = round(max(0, moved) * 8e-6 / seconds)
    return found


def _parse(text: str) -> Counters:
    """Received and sent bytes by interface, from the text of /proc/net/dev."""
    found = {}
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        fields = rest.split()
        found[name.strip()] = (int(fields[0]), int(fields[8]))
    return found
