"""How a live migration looks from the network: ours, OVN, MAC learning and the floor, in one run.

All subjects' labs are up at once, idle but for the one whose guest moves, and take turns move by move: what disturbs
the machine disturbs all alike. Every wait is bounded. A move that fails is written down and the subject goes on; a
subject that cannot go on is left out from there, with the reason. Whatever ends the run, its labs end with it, and what
was measured so far is written.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.benchkit.environment import environment, positive
from scripts.benchkit.figures import SUBJECTS, Move, document, table
from scripts.benchkit.ours import Ours
from scripts.benchkit.ovn import Ovn
from scripts.benchkit.plain import Floor, MacLearning
from scripts.benchkit.rig import INTERVAL_MS, Rig
from scripts.benchkit.subject import Subject
from scripts.labkit import LabError, guest
from scripts.labkit.node import REPOSITORY

__all__ = ["main"]

_KINDS: dict[str, type[Subject]] = {kind.name: kind for kind in (Ours, Ovn, MacLearning, Floor)}
_OUTPUT = REPOSITORY / "build/bench/migration.json"


def main() -> int:
    """Run the benchmark; 0 when every wanted move was measured."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the labs are taken down then too
    run = _Run(options.subject or list(SUBJECTS), output=options.output)
    try:
        run.measure(options.moves, keep_logs=options.keep_logs)
    except LabError as error:
        _say(f"FAILED: {error}")
        return 1
    except KeyboardInterrupt:
        _say("interrupted; the labs are gone")
        return 130
    finally:
        run.write()
    return 0 if run.whole(options.moves) else 1


class _Run:
    """One run: labs, rounds of moves, the file and the table."""

    def __init__(self, subjects: Sequence[str], *, output: Path) -> None:
        self._subjects = subjects
        self._output = output
        self._moves: dict[str, list[Move]] = {name: [] for name in subjects}
        self._failures: dict[str, list[str]] = {name: [] for name in subjects}
        self._environment = {**environment(), "interval_ms": INTERVAL_MS, "guest": "128 MiB, TCG"}

    def measure(self, moves: int, *, keep_logs: Path | None) -> None:
        image = guest.build(progress=_say)
        with contextlib.ExitStack() as labs:
            rigs = [self._rig(labs, name, image) for name in self._subjects]
            if keep_logs is not None:
                labs.callback(_copy_logs, rigs, keep_logs)
            for number in range(1, moves + 1):
                for rig in list(rigs):
                    if not self._move(rig, number, moves):
                        rigs.remove(rig)
            self._environment["load_1min_at_end"] = os.getloadavg()[0]
            _say("cleaning up")

    def whole(self, moves: int) -> bool:
        return all(len(done) == moves for done in self._moves.values())

    def write(self) -> None:
        """What was measured so far, if anything, as a file and as a table."""
        if not any(self._moves.values()):
            return
        doc = document(self._moves, failures=self._failures, environment=self._environment)
        self._output.parent.mkdir(parents=True, exist_ok=True)
        self._output.write_text(json.dumps(doc, indent=1) + "\n")
        _say(f"\n{table(doc)}\n\nWritten to {self._output}")

    def _rig(self, labs: contextlib.ExitStack, name: str, image: guest.GuestImage) -> Rig:
        began = time.monotonic()
        kind = _KINDS[name]
        lab = labs.enter_context(kind.make_lab(lambda sentence: None))
        rig = Rig(kind(lab))
        rig.place(image)
        _say(f"{name}: three hosts, network and guest are up after {time.monotonic() - began:.0f} s (lab {lab.name})")
        return rig

    def _move(self, rig: Rig, number: int, of: int) -> bool:
        """One move, told and remembered; False when the subject cannot go on."""
        name = rig.subject.name
        try:
            move = rig.move()
        except LabError as error:
            self._failures[name].append(f"move {number}: {error}")
            _say(f"{number:3}/{of} {name:12} FAILED: {error}")
            return rig.usable()
        self._moves[name].append(move)
        seen = "   ".join(
            f"{place} {s.gap_ms:4.0f} ms {s.lost} lost {s.duplicates} twice" for place, s in move.seen.items()
        )
        _say(f"{number:3}/{of} {name:12} {move.source}→{move.destination} pause {move.pause_ms:4.0f} ms   gap: {seen}")
        return True


def _copy_logs(rigs: Sequence[Rig], directory: Path) -> None:
    """Daemons' logs of every lab, for whoever wants to know where the time went."""
    for rig in rigs:
        for host in rig.lab.hosts:
            place = directory / rig.subject.name / host
            place.mkdir(parents=True, exist_ok=True)
            for log in rig.lab.path(host, "/var/log").rglob("*.log"):
                (place / log.name).write_bytes(log.read_bytes())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench-migration",
        description="Moves a guest to and fro between two lab hosts while peers on the source's host, on the "
        "destination's and on a third ping it every 5 ms; each subject in turn. docs/bench.md explains the figures.",
    )
    parser.add_argument("--moves", type=positive, default=20, help="moves of each subject (default: %(default)s)")
    parser.add_argument(
        "--subject", action="append", choices=SUBJECTS, help="only this one; may be repeated (default: all)"
    )
    parser.add_argument("--output", type=Path, default=_OUTPUT, help="the JSON file (default: build/bench/…)")
    parser.add_argument("--keep-logs", type=Path, metavar="DIR", help="copy the daemons' logs there at the end")
    return parser.parse_args()


def _say(sentence: str) -> None:
    print(sentence, flush=True)


if __name__ == "__main__":
    sys.exit(main())
