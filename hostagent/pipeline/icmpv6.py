"""ICMPv6 and neighbour discovery (RFC 4861): conditions on them, their numbers, and where a frame has its message.

The kernel's datapath caches fields of neighbour discovery only beside type *and* code: without the code a megaflow
leaves them out, and one true message would let all lies pass. So what matches on such a field is made by
`neighbour_discovery`, which names both, and `hostagent.flow.match` takes no such field without them.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

from hostagent.flow import Match, match

__all__ = [
    "ALL_NODES",
    "ALL_NODES_MAC",
    "OVERRIDE",
    "SOLICITED",
    "TARGET_OPTION",
    "Icmpv6",
    "icmpv6",
    "message_at",
    "neighbour_discovery",
]

ALL_NODES: Final = "ff02::1"
ALL_NODES_MAC: Final = 0x3333_0000_0001
SOLICITED, OVERRIDE = 0x4000_0000, 0x2000_0000
"""Flags of an advertisement."""
TARGET_OPTION: Final = 2
"""Type of the option with the target's MAC."""

_HEADERS: Final = 54  # bytes of Ethernet and IPv6
_ICMPV6: Final = 58
_OPTIONS: Final = (0, 60)  # hop-by-hop and destination
_OPTIONS_MAX: Final = 4  # headers of them; behind more there is no neighbour discovery worth reading


class Icmpv6(IntEnum):
    """Types of messages."""

    ECHO_REPLY = 129
    LISTENER_QUERY = 130
    LISTENER_REPORT = 131
    LISTENER_DONE = 132
    ROUTER_SOLICITATION = 133
    ROUTER_ADVERTISEMENT = 134
    SOLICITATION = 135  # of a neighbour, like the next
    ADVERTISEMENT = 136
    REDIRECT = 137
    LISTENER_REPORT_V2 = 143


def icmpv6(kind: int, **more: int | str | tuple[int, int]) -> tuple[Match, ...]:
    """Messages of one type, whatever their code, on which the conditions *more* hold (see `match`)."""
    return match(eth_type=0x86DD, nw_proto=58, icmpv6_type=kind, **more)


def neighbour_discovery(kind: Icmpv6, **fields: int | str | tuple[int, int]) -> tuple[Match, ...]:
    """Messages of one type of neighbour discovery whose *fields* (nd_target, nd_sll, nd_tll) are matched, or read by
    the actions of the flow."""
    return icmpv6(kind, icmpv6_code=0, **fields)


def message_at(frame: bytes) -> int | None:
    """Where the ICMPv6 message begins in *frame*, of Ethernet and IPv6; None where none does, behind options or not.

    Raises:
        struct.error: it is cut off.
    """
    (following,), at = struct.unpack_from("!B", frame, 20), _HEADERS
    for _ in range(_OPTIONS_MAX):
        if following not in _OPTIONS:
            break
        following, units = struct.unpack_from("!BB", frame, at)
        at += 8 * (units + 1)
    return at if following == _ICMPV6 else None
