"""Probes of the underlay: frames of our own, through the tunnel and back, which no guest sends and none receives.

A probe travels with segment id 0, which no network can have (1 to 16777215), so CLASSIFY sends what comes in with it to
PROBE and nowhere else. There a *question* is turned around by the switch itself: its destination MAC says that it is an
answer now, and the outer source becomes the destination. An *answer* goes to the agent and ends. Nothing else passes,
nothing leaves PROBE but into the tunnel, and an answer is never answered. So a peer whose agent is dead answers as long
as its switch forwards, and one whose switch does not know of probes drops them as a segment that it does not carry.

The frame: destination MAC by direction, EtherType 0x88B5 (IEEE 802, for local experiments), a mark, and the number by
which the agent knows it; zeros behind, up to the size that is to be measured.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from typing import Final

from hostagent.flow import (
    IN_PORT,
    Action,
    Controller,
    Flow,
    Goto,
    Match,
    Move,
    Output,
    SetField,
    address_of,
    canonical,
    match,
)
from hostagent.pipeline.tables import SWITCH_COOKIE, Family, Table, family_of

__all__ = ["SEGMENT", "entry_flow", "probe_flows", "probe_frame", "probe_number", "way_out"]

SEGMENT: Final = 0
"""The tunnel key of probes."""

_ETHERTYPE: Final = 0x88B5
_QUESTION: Final = 0x0270_726F_6265
_ANSWER: Final = 0x0670_726F_6265
_MARK: Final = b"opqp"
_HEAD: Final = struct.Struct("!6s6sH4sQ")
_FRAME_MIN: Final = 60
_COPY_BYTES: Final = 64


@cache
def entry_flow(tunnel: int) -> Flow:
    """CLASSIFY: what comes in by the tunnel port of that number without a network."""
    conditions = canonical([Match("in_port", tunnel), Match("tun_id", SEGMENT)])
    return _flow(Table.CLASSIFY, 100, conditions, (Goto(Table.PROBE),))


@cache
def probe_flows(family: Family) -> tuple[Flow, ...]:
    """PROBE, on an underlay of that *family*."""
    return tuple(_probe_flows(family))


def _probe_flows(family: Family) -> Iterator[Flow]:
    question = match(eth_type=_ETHERTYPE, eth_dst=_QUESTION)
    back = (Move(family.tun_src, family.tun_dst, family.bits), SetField("eth_dst", _ANSWER), Output(IN_PORT))
    yield _flow(Table.PROBE, 100, question, back)
    yield _flow(Table.PROBE, 100, match(eth_type=_ETHERTYPE, eth_dst=_ANSWER), (Controller(_COPY_BYTES),))


def way_out(vtep: str, tunnel: int) -> tuple[Action, ...]:
    """What the switch does with a probe that the agent hands it: through *tunnel* to the peer at *vtep*."""
    return (SetField("tun_id", SEGMENT), SetField(family_of(vtep).tun_dst, address_of(vtep)), Output(tunnel))


def probe_frame(number: int, *, source: int, inner_bytes: int = 0) -> bytes:
    """The question of that *number*; with *inner_bytes* so long that the IP packet it imitates has that MTU."""
    length = max(_FRAME_MIN, inner_bytes + 14)
    head = _HEAD.pack(_QUESTION.to_bytes(6, "big"), source.to_bytes(6, "big"), _ETHERTYPE, _MARK, number)
    return head.ljust(length, b"\0")


def probe_number(frame: bytes) -> int | None:
    """Which question *frame* answers; None if it answers none of ours."""
    if len(frame) < _HEAD.size:
        return None
    destination, _, kind, mark, number = _HEAD.unpack_from(frame)
    ours = int.from_bytes(destination, "big") == _ANSWER and kind == _ETHERTYPE and mark == _MARK
    return number if ours else None


def _flow(table: Table, priority: int, conditions: tuple[Match, ...], actions: tuple[Action, ...]) -> Flow:
    return Flow(table=table, priority=priority, cookie=SWITCH_COOKIE, match=conditions, actions=actions)
