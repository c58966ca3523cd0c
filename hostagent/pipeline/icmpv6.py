"""Conditions on ICMPv6 and neighbour discovery (RFC 4861).

The kernel's datapath caches fields of neighbour discovery only beside type *and* code: without the code a megaflow
leaves them out, and one true message would let all lies pass. So what matches on such a field is made by
`neighbour_discovery`, which names both, and `hostagent.flow.match` takes no such field without them.
"""

from __future__ import annotations

from enum import IntEnum

from hostagent.flow import Match, match

__all__ = ["Icmpv6", "icmpv6", "neighbour_discovery"]


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
