"""Reads what ovs-vswitchd says in answer to `ofproto/trace`. Pure.

The answer is made for people (ovs-vswitchd(8)): for each bridge that the frame passes, the flows it met, each followed
by its actions, each of these by remarks.

    bridge("osw-…")
    ---------------
     0. in_port=3, priority 100, cookie 0x…
        goto_table:10
    …
        resubmit(,200)
        200. reg12=…, priority 100, cookie 0x…
                set_field:0xac80002->reg1
    80. …
        output:1
         -> output to native tunnel

Indentation says what belongs to what: a flow at the margin is the frame's way, one further in was met by a subroutine.
After the connection tracker the frame goes on in another part, which begins with `recirc(…)`; where it goes by then is
remembered, as the switch does. Other bridges (the uplink's) are passed over: they are not the pipeline. A patch in
the middle of a flow has its bridge's part there, one further in; that of a sub-port may lead back to the same bridge.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["IN_PORT", "Exit", "Met", "Parsed", "parse"]

IN_PORT: Final = -1
"""As `Exit.ofport`: back out of the port that the frame came from."""

_BRIDGE = re.compile(r'bridge\("(.+)"\)\Z')
_UNDERLINE = re.compile(r"-+\Z")
_FLOW = re.compile(r"( *)(\d+)\. (.*)\Z")
_RULE = re.compile(r"(?:(.*), )?priority (\d+)(?:, cookie 0x[0-9a-f]+)?\Z")
_OUTPUT = re.compile(r"(?:output:)?(\d+|IN_PORT|LOCAL)\Z")
_DESTINATION = re.compile(r"set_field:(\S+)->tun_(?:ipv6_)?dst\Z")
_MOVED = re.compile(r"-> NXM_NX_TUN_IPV[46]_DST\[\] is now (\S+)\Z")
_LOCAL: Final = 0xFFFFFFFE
_LEVEL: Final = 8  # columns that a subroutine's actions are further in; a flow stands half of that before its actions


@dataclass(frozen=True, slots=True)
class Met:
    """A flow that the frame met; remarks of the switch stand, in brackets, behind the action they speak of."""

    table: int
    priority: int
    match: str
    actions: tuple[str, ...]
    depth: int


@dataclass(frozen=True, slots=True)
class Exit:
    """A copy that leaves by a port; `tun_dst` is where a tunnel takes it, empty where nobody said."""

    ofport: int
    tun_dst: str
    remarks: tuple[str, ...]
    table: int = 0  # of the flow that sent it there


@dataclass(frozen=True, slots=True)
class Parsed:
    """What vswitchd says of one frame: the flows it met and the ports by which it left."""

    met: tuple[Met, ...]
    exits: tuple[Exit, ...]

    @property
    def way(self) -> tuple[Met, ...]:
        """The flows without those that subroutines met: the last is where a frame ended that left by no port."""
        return tuple(one for one in self.met if one.depth == 0)


def parse(text: str, *, bridge: str) -> Parsed:
    """What the frame met on *bridge*, and how it left.

    Raises:
        ValueError: *text* does not speak of the bridge.
    """
    reading, seen, foreign = False, False, 0
    reader = _Reader()
    for line in filter(None, text.splitlines()):
        opened = _BRIDGE.match(line)
        flow = _FLOW.match(line)
        indent = len(line) - len(line.lstrip())
        within = _BRIDGE.match(line.strip()) if indent else None
        if foreign and indent > foreign:
            continue  # met on another bridge, behind a patch in the middle of a flow
        if opened:
            reading, foreign = opened[1] == bridge, 0
            seen = seen or reading
        elif within or (indent and _UNDERLINE.match(line.strip())):
            foreign = indent if within and within[1] != bridge else foreign
        elif flow is None and not line.startswith(" "):
            reading = reading and bool(_UNDERLINE.match(line))  # all else ends the bridge's part
        elif reading and flow is not None:
            reader.take_flow(len(flow[1]), int(flow[2]), flow[3])
        elif reading:
            foreign = 0
            reader.take_word(indent, line.strip())
    if not seen:
        raise ValueError(f"ofproto/trace says nothing of bridge {bridge}: {text[:200].strip() or 'an empty answer'}")
    return reader.parsed()


class _Reader:
    """The lines of the pipeline's bridge, one after the other."""

    def __init__(self) -> None:
        self._flows: list[tuple[int, int, str, list[str], int]] = []
        self._exits: list[tuple[int, str, list[str], int]] = []
        self._actions: list[str] = []  # of the flow that the last action was of
        self._remarks: list[str] = []  # on the last action
        self._tun_dst = ""

    def take_flow(self, indent: int, table: int, words: str) -> None:
        rule = _RULE.match(words)
        match, priority = (rule[1] or "", int(rule[2])) if rule else ("no match", 0)
        self._flows.append((table, priority, match, [], (indent + _LEVEL // 2) // _LEVEL))

    def take_word(self, indent: int, word: str) -> None:
        if word.startswith(("->", ">>")):
            self._take_remark(word)
        elif self._flows and not word.startswith(("thaw", "Resuming from table")):
            depth = (indent - _LEVEL // 2) // _LEVEL  # behind a subroutine its caller goes on
            table, _, _, self._actions, _ = next(one for one in reversed(self._flows) if one[4] <= depth)
            self._actions.append(word)
            self._remarks = []
            destination = _DESTINATION.match(word)
            self._tun_dst = destination[1] if destination else self._tun_dst
            left = _OUTPUT.match(word)
            if left:
                self._exits.append((_number(left[1]), self._tun_dst, self._remarks, table))

    def _take_remark(self, word: str) -> None:
        moved = _MOVED.match(word)
        self._tun_dst = moved[1] if moved else self._tun_dst
        remark = word[2:].strip()
        _forget_sham_drop(self._actions, remark)
        self._remarks.append(remark)
        self._actions.append(f"({remark})")

    def parsed(self) -> Parsed:
        return Parsed(
            met=tuple(
                Met(table, priority, match, tuple(acts), depth) for table, priority, match, acts, depth in self._flows
            ),
            exits=tuple(Exit(port, to, tuple(said), at) for port, to, said, at in self._exits if not _is_skipped(said)),
        )


def _forget_sham_drop(actions: list[str], remark: str) -> None:
    """Behind `ct(table=…)` the switch prints a "drop" that is none: the frame goes on after the tracker."""
    if "forked to recirculate" in remark and actions and actions[-1] == "drop":
        actions.pop()


def _is_skipped(remarks: list[str]) -> bool:
    return any(remark.startswith("skipping output") for remark in remarks)


def _number(text: str) -> int:
    return {"IN_PORT": IN_PORT, "LOCAL": _LOCAL}.get(text) or int(text)
