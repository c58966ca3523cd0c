"""How large a packet passes a path: which size to try next, and what is known so far. Pure.

Theory of operation. The size that is wanted is tried first, and again now and then: a path is a good one as long as it
passes. A size that is lost is tried three times, and only beside a small probe that was answered: what is lost together
with a small one says nothing about size. Then sizes between what passes and what does not are halved until the limit
is known to the byte. Outer packets carry the flag that forbids fragments, so what is too large is lost and not cut.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AGAIN_S", "FLOOR", "PathMtu"]

FLOOR = 128
"""Bytes of the outer IP packet that every path passes which passes anything of ours."""

_TRIES = 3
AGAIN_S = 30.0
"""Pause before the wanted size is tried again where it passes; a third of it where it does not."""

_FATE_S = 10.0
"""Until then a probe has come back or is lost."""


@dataclass(slots=True)
class PathMtu:
    """One path, tried again every `again_s`. `passed` is the largest size known to arrive, `refused` the smallest known
    not to, 0 for none."""

    again_s: float = AGAIN_S
    wanted: int = 0
    passed: int = 0
    refused: int = 0
    known_passed: int = 0
    """As it was when the limit was last known: what is being measured anew counts once it is known."""
    known_refused: int = 0
    next_at: float = 0.0
    _tries: int = 0

    @property
    def settled(self) -> bool:
        """True when the wanted size has passed, or the limit is known to the byte."""
        return self.wanted <= self.passed or (bool(self.refused) and self.refused - self.passed <= 1)

    def want(self, size: int, *, now: float) -> None:
        """The size that has to pass is *size* from now on."""
        if size != self.wanted:
            self.wanted = size
            self._tries = 0
            self.next_at = min(self.next_at, now)

    def size(self) -> int:
        """The size to try next."""
        if not self.refused or self.settled or self.refused > self.wanted:
            return self.wanted
        return (max(self.passed, FLOOR) + self.refused) // 2

    def sent(self, *, now: float) -> None:
        """A probe is under way: the next one waits for its fate."""
        self.next_at = now + _FATE_S

    def answered(self, size: int, *, now: float) -> None:
        """A probe of *size* has come back."""
        self._tries = 0
        self.passed = max(self.passed, size)
        if self.refused and size >= self.refused:
            self.refused = 0
        self._conclude()
        self.next_at = now + (0.0 if not self.settled else self.again_s / 3 if self.refused else self.again_s)

    def lost(self, size: int, *, alone: bool, now: float) -> None:
        """A probe of *size* has not come back; *alone*: a small one that left with it has."""
        self.next_at = now
        if not alone:
            return
        self._tries += 1
        if self._tries < _TRIES:
            return
        self._tries = 0
        if self.passed >= size:  # it did once; the path has changed, and what is known of it is old
            self.passed = FLOOR
        self.passed = max(self.passed, FLOOR)
        known = self.refused if self.refused and self.refused <= size else size
        self.refused = known
        self._conclude()
        if self.settled:
            self.next_at = now + self.again_s / 3

    def _conclude(self) -> None:
        if self.settled:
            self.known_passed, self.known_refused = self.passed, self.refused

    def forget(self, *, now: float) -> None:
        """The path was gone: it may come back as another one."""
        self._tries = 0
        self.next_at = now
