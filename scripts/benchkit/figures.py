"""Figures of measured moves: samples, median and 95th percentile, the reach, the table. Pure.

Every move is seen by three peers at once, one at each *position*: on the source's host, on the destination's, on a
third. A peer pings the guest every few milliseconds; what it saw of one move is a `Seen`. The figures of a subject are
kept by position, and once more for all positions together.

The gap minus QEMU's own pause is what the network and the guest's waking add. Ours is judged by its distance to the
floor; beside it stands the distance to the best of the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

__all__ = ["POSITIONS", "SUBJECTS", "UNITS", "Move", "Seen", "document", "p95", "reach", "table"]

SUBJECTS = ("ours", "ovn", "mac_learning", "floor")
POSITIONS = ("source", "destination", "third")
ALL = "all"
UNITS = {
    "gap_ms": "ms; longest silence between replies that a peer heard during the move",
    "pause_ms": "ms; downtime that QEMU reported for the move",
    "gap_minus_pause_ms": "ms",
    "lost": "requests without a reply",
    "duplicates": "replies to a request beyond the first",
    "before_pause_ms": "ms; from the last reply before the gap to QEMU's STOP",
    "after_resume_ms": "ms; from QEMU's RESUME to the first reply after the gap",
    "copy_s": "s; from the call of virsh to its end",
}
_METRICS = ("gap_ms", "pause_ms", "gap_minus_pause_ms", "lost", "duplicates", "before_pause_ms", "after_resume_ms")
_STRAY_S = 0.01  # a reply that left the guest before its pause may arrive that much after STOP
_REACH_MS, _REACH_LOST_MEDIAN, _REACH_LOST_P95 = 20.0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the peer at one position saw of one move. The gap began at Unix time *gap_at*, and the requests that were
    never answered left at *lost_at*."""

    gap_ms: float
    gap_at: float
    lost: int
    duplicates: int
    sent: int
    lost_at: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One move. *stopped_at* and *resumed_at* are QEMU's own times (Unix) of STOP and RESUME, None if unseen."""

    source: str
    destination: str
    pause_ms: float
    copy_s: float
    seen: Mapping[str, Seen]
    stopped_at: float | None = None
    resumed_at: float | None = None


def p95(samples: Sequence[float]) -> float:
    """The smallest sample that at least 95 % of all do not exceed (nearest rank)."""
    return sorted(samples)[math.ceil(0.95 * len(samples)) - 1]


def document(
    moves: Mapping[str, Sequence[Move]], *, failures: Mapping[str, Sequence[str]], environment: Mapping[str, Any]
) -> dict[str, Any]:
    """What goes into migration.json: an object for each subject (its figures over all positions, and by position in
    `positions`), the reach, the moves one by one."""
    figures = {subject: by_position(of) for subject, of in moves.items() if of}
    return {
        **{
            subject: {**of[ALL], "positions": {place: of[place] for place in POSITIONS}}
            for subject, of in figures.items()
        },
        "units": UNITS,
        "reach": reach(figures),
        "failures": {subject: list(sentences) for subject, sentences in failures.items() if sentences},
        "environment": dict(environment),
        "moves": {subject: [asdict(move) for move in of] for subject, of in moves.items()},
    }


def by_position(moves: Sequence[Move]) -> dict[str, dict[str, dict[str, Any]]]:
    """position → metric → median, p95, samples in the order of the moves."""
    result = {}
    for position in (*POSITIONS, ALL):
        wanted = POSITIONS if position == ALL else (position,)
        rows = [_row(move, move.seen[place]) for move in moves for place in wanted if place in move.seen]
        result[position] = {metric: figure([row[metric] for row in rows if metric in row]) for metric in _METRICS}
    return result


def figure(samples: Sequence[float]) -> dict[str, Any]:
    """Median, 95th percentile (both null without samples) and the samples."""
    if not samples:
        return {"median": None, "p95": None, "samples": []}
    return {"median": round(median(samples), 2), "p95": round(p95(samples), 2), "samples": list(samples)}


def _row(move: Move, seen: Seen) -> dict[str, float]:
    row = {
        "gap_ms": seen.gap_ms,
        "pause_ms": move.pause_ms,
        "gap_minus_pause_ms": round(seen.gap_ms - move.pause_ms, 2),
        "lost": seen.lost,
        "duplicates": seen.duplicates,
    }
    ended_at = seen.gap_at + seen.gap_ms / 1000
    if move.stopped_at is None or move.resumed_at is None:
        return row
    if seen.gap_at <= move.stopped_at + _STRAY_S and ended_at >= move.resumed_at:  # else another gap was the longest
        row["before_pause_ms"] = round((move.stopped_at - seen.gap_at) * 1000, 2)
        row["after_resume_ms"] = round((ended_at - move.resumed_at) * 1000, 2)
    return row


def reach(figures: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """position → how ours stands to what it is to reach. Empty unless ours and floor were both measured."""
    if "ours" not in figures or "floor" not in figures:
        return {}
    result = {}
    for position in (*POSITIONS, ALL):
        ours, floor = figures["ours"][position], figures["floor"][position]
        above = ours["gap_minus_pause_ms"]["median"] - floor["gap_minus_pause_ms"]["median"]
        best = min(of[position]["gap_minus_pause_ms"]["median"] for name, of in figures.items() if name != "ours")
        twice = sum(ours["duplicates"]["samples"])
        result[position] = {
            "above_floor_ms": round(above, 2),
            "above_best_other_ms": round(ours["gap_minus_pause_ms"]["median"] - best, 2),
            "within_20_ms_of_floor": above <= _REACH_MS,
            "lost_median_at_most_1": ours["lost"]["median"] <= _REACH_LOST_MEDIAN,
            "lost_p95_at_most_2": ours["lost"]["p95"] <= _REACH_LOST_P95,
            "no_duplicate": twice == 0,
        }
    return result


def table(doc: Mapping[str, Any]) -> str:
    """The figures for people: median / 95th percentile by subject and position, then the reach."""
    head = ("subject", "peer on", "moves", "gap ms", "pause ms", "gap-pause ms", "lost", "twice", "stop", "resume")
    rows = [head]
    for subject in (name for name in SUBJECTS if name in doc):
        for position, metrics in {**doc[subject]["positions"], ALL: doc[subject]}.items():
            count = len(doc["moves"][subject])
            cells = (_cell(metrics[metric]) for metric in _METRICS)
            rows.append((subject, position, str(count), *cells))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(_aligned(row, widths)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines += [
        "",
        "Each cell: median / 95th percentile. stop: from the last reply to QEMU's STOP; resume: from its RESUME to",
    ]
    lines += ["the first reply. Both in ms."]
    lines += ["", *_verdicts(doc["reach"])]
    lines += [f"{subject}, {sentence}" for subject, sentences in doc["failures"].items() for sentence in sentences]
    return "\n".join(lines)


def _cell(metric: Mapping[str, Any]) -> str:
    return "-" if metric["median"] is None else f"{metric['median']:.0f} / {metric['p95']:.0f}"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> Iterable[str]:
    for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.ljust(width) if i < 2 else cell.rjust(width)


def _verdicts(reached: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not reached:
        return ["Reach: not judged; it takes moves of ours and of floor."]
    lines = []
    for position, judged in reached.items():
        missed, met = (
            ", ".join(name.replace("_", " ") for name, said in judged.items() if said is wanted)
            for wanted in (False, True)
        )
        verdict = "; ".join(words for words in (missed and f"missed: {missed}", met and f"met: {met}") if words)
        floor, best = judged["above_floor_ms"], judged["above_best_other_ms"]
        lines.append(f"Reach, {position}: ours {floor:+.0f} ms to the floor, {best:+.0f} ms to the best; {verdict}")
    return lines
