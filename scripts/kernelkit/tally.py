"""What came of a run on several machines, from the events that they tell: progress, summary, exit status. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FAILED", "INCOMPLETE", "Ended", "Tally", "clock"]

FAILED = 1
INCOMPLETE = 3
"""Exit status of a run that does not say of every test what came of it."""
_NOTHING_TO_RUN = 5  # pytest's
_SLOWEST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A test that has ended, after *took_s* of our time, set-up of what it shares included."""

    test: str
    outcome: str
    took_s: float
    text: str


@dataclass(slots=True)
class Tally:
    """Filled by `take`; one for all machines."""

    wanted: set[str] = field(default_factory=set)
    ended: list[Ended] = field(default_factory=list)
    left_out: int = 0
    """Tests that were chosen, and that an earlier run of the same code has seen pass."""
    _running: dict[int, tuple[str, float]] = field(default_factory=dict)

    def take(self, machine: int, event: Mapping[str, Any], *, now_s: float) -> str:
        """Take in what *machine* tells at *now_s* of the run; a line of progress, empty where there is none to show."""
        if event["event"] == "collected":
            self.wanted |= set(event["tests"])
            self.left_out = event["left_out"]
        elif event["event"] == "begins":
            self._running[machine] = (event["test"], now_s)
        else:
            _, since_s = self._running.pop(machine)
            one = Ended(test=event["test"], outcome=event["outcome"], took_s=now_s - since_s, text=event["text"])
            self.ended.append(one)
            return f"{self._place(now_s)}  {one.outcome:<7} {one.test} ({one.took_s:.0f} s)"
        return ""

    def _place(self, now_s: float) -> str:
        return f"[{len(self.ended):>{len(str(len(self.wanted)))}}/{len(self.wanted)}  {clock(now_s)}]"

    def running(self) -> list[str]:
        """Tests that have begun and not ended."""
        return sorted(test for test, _ in self._running.values())

    @property
    def missing(self) -> list[str]:
        """Tests of which nothing is known."""
        return sorted(self.wanted - {one.test for one in self.ended})

    def status(self, statuses: Mapping[int, int | None]) -> int:
        """Of the whole run, from those of pytest on each machine (None: it gave none).

        0 only where each test is known to have passed or to have been skipped with a reason.
        """
        if self.left_out and not self.wanted and set(statuses.values()) <= {0, _NOTHING_TO_RUN}:
            return 0
        told = [status for status in statuses.values() if status]
        if any(one.outcome == "failed" for one in self.ended):
            return FAILED
        if None in statuses.values() or (self.missing and not told):
            return INCOMPLETE
        return max(told, default=0)

    def summary(self, *, took_s: float) -> Iterator[str]:
        """Failures in full, then what was skipped and why, what is slow, what came of each file, and counts, last."""
        for one in self.ended:
            if one.outcome == "failed":
                yield f"\n{'_' * 8} {one.test} {'_' * 8}\n{one.text.rstrip()}\n"
        for one in self.ended:
            if one.outcome == "skipped":
                yield f"skipped: {one.test}: {one.text}"
        for one in sorted(self.ended, key=lambda one: -one.took_s)[:_SLOWEST]:
            yield f"slow: {one.took_s:.0f} s {one.test}"
        yield from self._files()
        yield from (f"did not end: {test}" for test in self.running())
        yield from (f"failed: {one.test}" for one in self.ended if one.outcome == "failed")
        words = [*_outcomes(self.ended)]
        if self.missing:
            words.append(f"{len(self.missing)} not run to their end")
        before = f"; {self.left_out} more passed in earlier runs" if self.left_out else ""
        yield f"{', '.join(words) or 'no test ran'}, of {len(self.wanted)}, in {clock(took_s)}{before}"

    def _files(self) -> Iterator[str]:
        """What came of the tests of each file, and how long they took, in the order of their files' first end."""
        files: dict[str, list[Ended]] = {}
        for one in self.ended:
            files.setdefault(_file(one.test), []).append(one)
        missing = Counter(_file(test) for test in self.missing)
        for file, ended in files.items():
            left = [f"{missing[file]} not run to their end"] if missing[file] else []
            yield f"{clock(sum(one.took_s for one in ended)):>6} {file}: {', '.join([*_outcomes(ended), *left])}"


def _outcomes(ended: Iterable[Ended]) -> Iterator[str]:
    counts = Counter(one.outcome for one in ended)
    yield from (f"{counts[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped") if counts[outcome])


def _file(test: str) -> str:
    return test.partition("::")[0]


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
