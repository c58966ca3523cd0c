"""Figures of the network benchmark: medians, ratios, spreads; what must be reached; the table. Pure.

A measure has samples of ours and of theirs, and perhaps of a third, all in one unit. The ratio is that of the medians,
ours to theirs: below 1 is better where less is better, above 1 where more is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from scripts.benchkit.figures import p95

__all__ = ["BARE", "MEASURES", "OURS", "THEIRS", "Measure", "Reach", "document", "table"]

OURS, THEIRS, BARE = "ours", "theirs", "bare_bridge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What the median of ours is to reach: at most (or, with *at_least*, at least) *limit*, as a multiple of the median
    of *to*, or in the measure's unit where *to* is empty."""

    limit: float
    to: str = THEIRS
    at_least: bool = False

    def met(self, medians: Mapping[str, float]) -> bool | None:
        """Whether it is reached; None while either side was not measured."""
        base = medians.get(self.to) if self.to else 1.0
        if OURS not in medians or not base:
            return None
        found = medians[OURS] / base
        return found >= self.limit if self.at_least else found <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}{f' of {self.to}' if self.to else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What is measured, in words, and what it is to reach."""

    unit: str
    what: str
    reach: Reach | None = None


MEASURES = {
    "network_create": Measure(unit="ms", what="network created → confirmed by all hosts", reach=Reach(limit=0.5)),
    "network_create_libvirt": Measure(
        unit="ms", what="network created → confirmed by all hosts, ours with libvirt, and there as a libvirt network"
    ),
    "vif_first_frame": Measure(
        unit="ms",
        what="VIF that was announced to its host plugged → its first frame is delivered on another host",
        reach=Reach(limit=0.5),
    ),
    "vif_first_frame_unannounced": Measure(
        unit="ms",
        what="VIF of which nobody has heard plugged → its first frame is delivered on another host",
    ),
    "vif_first_frame_libvirt": Measure(
        unit="ms",
        what="VIF that was announced to its host, ours with libvirt, plugged → its first frame on another host",
    ),
    "network_create_50": Measure(
        unit="ms",
        what="network created → confirmed by 50 hosts that carry 1,000 ports",
        reach=Reach(limit=0.5),
    ),
    "vif_first_frame_50": Measure(
        unit="ms",
        what="VIF plugged → its first frame on another host, of 50 that carry 1,000 ports",
        reach=Reach(limit=0.5),
    ),
    "cold_start_50": Measure(unit="ms", what="start of a killed agent → in sync, among 50 hosts with 1,000 ports"),
    "restart_10000": Measure(
        unit="ms",
        what="start of a killed agent → in sync, with 10,000 remote ports",
        reach=Reach(limit=1000, to=""),
    ),
    "agent_memory_10000": Measure(unit="KiB", what="resident memory of an agent with 10,000 remote ports"),
    "vif_first_frame_10000": Measure(
        unit="ms",
        what="VIF plugged → its first frame on another host, of a network with 10,000 other ports",
        reach=Reach(limit=0.5),
    ),
    "attach_500": Measure(unit="ms", what="500 VIFs plugged on one host → frames of all delivered on another"),
    "cold_start_500": Measure(unit="ms", what="start of a killed agent → in sync, with 500 VIFs on its host"),
    "throughput": Measure(
        unit="Mbit/s",
        what="TCP between VIFs on two hosts",
        reach=Reach(limit=0.98, to=BARE, at_least=True),
    ),
    "packets_per_s": Measure(
        unit="packets/s",
        what="64-byte UDP delivered between VIFs on two hosts",
        reach=Reach(limit=0.98, to=BARE, at_least=True),
    ),
    "throughput_groups": Measure(
        unit="Mbit/s",
        what="TCP between VIFs with stateful security groups on two hosts",
        reach=Reach(limit=1, at_least=True),
    ),
    "packets_per_s_groups": Measure(
        unit="packets/s",
        what="64-byte UDP delivered between VIFs with stateful security groups on two hosts",
        reach=Reach(limit=1, at_least=True),
    ),
    "agent_memory": Measure(unit="KiB", what="resident memory of an agent"),
    "manager_memory": Measure(unit="KiB", what="resident memory of the manager, all its processes"),
}


def document(
    samples: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    failures: Mapping[str, Sequence[str]],
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """What goes into network.json: an object a measure, then what failed and where it was measured."""
    measured = {name: _figures(MEASURES[name], of) for name, of in samples.items() if any(of.values())}
    kept = {name: list(sentences) for name, sentences in failures.items() if sentences}
    return {**measured, "failures": kept, "environment": dict(environment)}


def _figures(measure: Measure, samples: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    medians = {who: round(median(of), 3) for who, of in samples.items() if of}
    ours, theirs = medians.get(OURS), medians.get(THEIRS)
    result: dict[str, Any] = {
        "what": measure.what,
        "unit": measure.unit,
        "ours": ours,
        "theirs": theirs,
        "ratio": round(ours / theirs, 3) if ours is not None and theirs else None,
    }
    if BARE in medians:
        result[BARE] = medians[BARE]
        result["ratio_to_bare_bridge"] = round(ours / medians[BARE], 3) if ours is not None and medians[BARE] else None
    result["spread"] = {who: {"min": min(of), "p95": p95(of), "max": max(of)} for who, of in samples.items() if of}
    result["samples"] = {who: len(of) for who, of in samples.items()}
    if measure.reach is not None:
        result["reach"] = {"wanted": str(measure.reach), "met": measure.reach.met(medians)}
    result["values"] = {who: list(of) for who, of in samples.items()}
    return result


def table(doc: Mapping[str, Any]) -> str:
    """The figures for people; below them what failed."""
    rows: list[tuple[str, ...]] = [
        ("measure", "ours", "theirs", "bare bridge", "unit", "ours/theirs", "samples", "to reach")
    ]
    for name in MEASURES:
        if name in doc:
            rows.append(_row(name, doc[name]))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines += [f"{name}: {sentence}" for name, sentences in doc["failures"].items() for sentence in sentences]
    return "\n".join(lines)


def _row(name: str, of: Mapping[str, Any]) -> tuple[str, ...]:
    cells = (_number(of.get(who)) for who in (OURS, THEIRS, BARE))
    ratio = "-" if of["ratio"] is None else f"{of['ratio']:.2f}"
    reach = of.get("reach")
    verdict = {True: "met", False: "MISSED", None: "not judged"}[reach["met"]] if reach else ""
    counts = "/".join(str(count) for count in of["samples"].values())
    return (name, *cells, of["unit"], ratio, counts, f"{reach['wanted']}: {verdict}" if reach else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"
