"""A switch of a few lines: what flows do with a frame, for tests of what flows mean.

A frame is a mapping of field names to numbers; a field that it lacks can't be matched. The tracker's verdict is given
with it: `ct_state` and `ct_mark` appear when the frame has met a `Ct` with a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hostagent.flow import (
    FIELDS,
    Controller,
    Ct,
    Flow,
    Goto,
    Match,
    Move,
    Output,
    PopMpls,
    PopVlan,
    PushMpls,
    PushVlan,
    Resubmit,
    SetField,
)

__all__ = ["Outcome", "run"]


@dataclass
class Outcome:
    """Ports that the frame left by, and for which VTEP; what was committed; the flows that gave the agent a copy; the
    last flow met that did nothing."""

    outputs: list[int] = field(default_factory=list)
    sent: list[tuple[int, int]] = field(default_factory=list)  # port, the tunnel's destination or 0
    commits: list[Ct] = field(default_factory=list)
    copied: list[Flow] = field(default_factory=list)
    ended: Flow | None = None


def run(
    flows: Iterable[Flow], frame: Mapping[str, int], *, table: int, tracked: Mapping[str, int] | None = None
) -> Outcome:
    """Let *frame* enter at *table*; *tracked* is what the tracker will say of it."""
    machine = _Machine(flows, dict(tracked or {}))
    machine.enter(table, dict(frame), depth=0)
    return machine.outcome


class _Machine:
    def __init__(self, flows: Iterable[Flow], tracked: dict[str, int]) -> None:
        self.tables: dict[int, list[Flow]] = {}
        for flow in flows:
            self.tables.setdefault(flow.table, []).append(flow)
        for rows in self.tables.values():
            rows.sort(key=lambda flow: -flow.priority)
        self.tracked = tracked
        self.outcome = Outcome()

    def enter(self, table: int, frame: dict[str, int], *, depth: int) -> None:
        assert depth < 10, "the pipeline goes in circles"
        flow = next((one for one in self.tables.get(table, ()) if _meets(one, frame)), None)
        if flow is None:
            return
        if not flow.actions:
            self.outcome.ended = flow
        for action in flow.actions:
            match action:
                case SetField(name, value, None):
                    _put(frame, name, value)
                case Move(src, dst, bits):
                    part = (1 << bits) - 1
                    _put(frame, dst, _get(frame, dst) & ~part | _get(frame, src) & part)
                case Resubmit(to):
                    self.enter(to, frame, depth=depth + 1)
                case Goto(to):
                    self.enter(to, frame, depth=depth)
                case Output(port) if port == frame.get("in_port"):
                    pass  # nothing goes back by the way it came, unless the action says so
                case Output(port):
                    self.outcome.outputs.append(port)
                    self.outcome.sent.append((port, frame.get("tun_dst", 0) or frame.get("tun_ipv6_dst", 0)))
                case Ct() if action.table != 255:
                    self.enter(action.table, {**frame, **self.tracked}, depth=depth)
                case Ct():
                    self.outcome.commits.append(action)
                case Controller():
                    self.outcome.copied.append(flow)
                case PushVlan():
                    frame["vlan_tci"] = 0x1000
                case PopVlan():
                    frame["vlan_tci"] = 0
                case PushMpls() | PopMpls():
                    pass  # in and out again
                case _:
                    raise AssertionError(f"not known here: {action}")


def _meets(flow: Flow, frame: Mapping[str, int]) -> bool:
    for item in flow.match:
        assert isinstance(item, Match)
        value = frame.get(item.field, 0 if item.field.startswith("reg") else None)
        mask = (1 << FIELDS[item.field].bits) - 1 if item.mask is None else item.mask
        if value is None or value & mask != item.value:
            return False
    return True


def _put(frame: dict[str, int], name: str, value: int) -> None:
    if not name.startswith("x"):
        frame[name] = value
        return
    width = FIELDS[name].bits // 32
    first = int(name.lstrip("xreg")) * width
    for index in range(width):
        frame[f"reg{first + index}"] = value >> 32 * (width - 1 - index) & 0xFFFFFFFF


def _get(frame: Mapping[str, int], name: str) -> int:
    if not name.startswith("x"):
        return frame.get(name, 0)
    width = FIELDS[name].bits // 32
    first = int(name.lstrip("xreg")) * width
    value = 0
    for index in range(width):
        value = value << 32 | frame.get(f"reg{first + index}", 0)
    return value
