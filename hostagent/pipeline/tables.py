"""The tables of the pipeline, the registers that carry facts between them, and the flows that every bridge has.

Theory of operation. A frame enters at CLASSIFY, which knows it by the port it came from: a VIF's tap, or the tunnel
port with a segment id. From there on its network is `metadata`, the first 64 bits of the network's UUID, and no flow
that outputs matches without it: a frame never crosses networks. Each table ends in a drop of priority 0, so what
nobody wanted is dropped and counted where it failed.

    VIF     CLASSIFY → GUARD → SOURCES → SIGNAL ─┐
    tunnel  CLASSIFY → TUNNEL ───────────────────┴→ FORWARD → tap
                          └→ tap (sent on to us)       ├→ REMOTE → SEND → tunnel
                                                       └→ FLOOD → taps, tunnel to each VTEP

LOCATE is a subroutine: MAC in, VTEPs out. It is asked for the source of what a tunnel brings and for the destination
of what a VIF sends, so one flow a remote port serves both.

Cookies name the owner of a flow: the network's `metadata`, or `SWITCH_COOKIE` for what serves all networks.
"""

from __future__ import annotations

from enum import IntEnum
from ipaddress import ip_address
from typing import Final

from hostagent.flow import Drop, Flow, Goto, Match, Move, Resubmit, SetField, match

__all__ = [
    "CANARY",
    "FROM_TUNNEL",
    "FROM_VIF",
    "MAC_REGISTER",
    "MULTICAST",
    "SOURCE_MOVES",
    "SWITCH_COOKIE",
    "UNTAGGED",
    "Family",
    "Origin",
    "Table",
    "family_of",
    "switch_flows",
]


class Table(IntEnum):
    """Tables by number. There is room between them: a packet only ever goes to a higher one."""

    CLASSIFY = 0  # port → network, kind of origin
    GUARD = 10  # VIFs: own MAC, untagged, honest ARP, RARP and ND
    TUNNEL = 20  # tunnel: the source MAC must live at the outer source; frames sent on to an incoming port
    SOURCES = 30  # VIFs with defined addresses: own IP sources only
    SIGNAL = 40  # incoming port: a copy of the guest's frames to the agent, until it is lit
    FORWARD = 50  # MACs of this host, and detours of migrations
    REMOTE = 60  # MACs of other hosts
    FLOOD = 70  # broadcast, multicast and unknown
    SEND = 80  # segment id and out: to the tunnel, or back into it
    LOCATE = 200  # subroutine: MAC → VTEP of its holder and of its incoming host
    CANARY = 250  # holds one flow that no packet meets


SWITCH_COOKIE: Final = 0x6F70_6171_7565_0001
"""Cookie of the flows that serve all networks of a switch ("opaque", 1)."""

UNTAGGED: Final = Match("vlan_tci", 0)
"""No VLAN tag. Without it matches on `ip` and `arp` accept tagged frames too."""

MULTICAST: Final = Match("eth_dst", 1 << 40, 1 << 40)
"""Broadcast and multicast destinations."""


class Origin(IntEnum):
    """Bits of reg0: where the frame came from."""

    VIF = 1
    TUNNEL = 2  # checked: its source MAC lives at the VTEP it came from
    MOVING = 4  # of a tunnel: its source is migrating, so that it may come from two VTEPs


FROM_VIF: Final = Match("reg0", Origin.VIF, Origin.VIF)
FROM_TUNNEL: Final = Match("reg0", Origin.TUNNEL, Origin.TUNNEL)
SOURCE_MOVES: Final = Match("reg0", Origin.TUNNEL | Origin.MOVING, Origin.TUNNEL | Origin.MOVING)

MAC_REGISTER: Final = "xreg6"
"""Question of LOCATE: the MAC."""


class Family:
    """Fields that depend on the address family of the underlay: answer of LOCATE, outer addresses."""

    def __init__(self, *, holder: str, incoming: str, tun_src: str, tun_dst: str, bits: int) -> None:
        self.holder = holder
        self.incoming = incoming
        self.tun_src = tun_src
        self.tun_dst = tun_dst
        self.bits = bits


_IPV4: Final = Family(holder="reg1", incoming="reg2", tun_src="tun_src", tun_dst="tun_dst", bits=32)
_IPV6: Final = Family(holder="xxreg1", incoming="xxreg2", tun_src="tun_ipv6_src", tun_dst="tun_ipv6_dst", bits=128)


def family_of(vtep: str) -> Family:
    """Fields for an underlay on which *vtep* is an address."""
    return _IPV4 if ip_address(vtep).version == 4 else _IPV6


CANARY: Final = Flow(table=Table.CANARY, priority=1, cookie=SWITCH_COOKIE, match=match(metadata=SWITCH_COOKIE))
"""Always wanted, never met: a bridge that lacks it has lost its flows."""


def switch_flows(family: Family) -> frozenset[Flow]:
    """The flows that every bridge of ours has, whatever its networks."""
    flows = [CANARY]
    flows += [_flow(table, 0) for table in Table if table not in (Table.SIGNAL, Table.LOCATE, Table.CANARY)]
    flows.append(_flow(Table.SIGNAL, 0, actions=(Goto(Table.FORWARD),)))
    # what a VIF says of itself in ARP, RARP and ND is accepted in GUARD by exact flows, or not at all
    for claim in (match(eth_type=0x0806), match(eth_type=0x8035), _icmpv6(135), _icmpv6(136)):
        flows.append(_flow(Table.GUARD, 90, claim))
    # routers have no addresses defined; who has, may neither advertise routes nor redirect
    flows += [_flow(Table.SOURCES, 110, _icmpv6(134)), _flow(Table.SOURCES, 110, _icmpv6(137))]
    flows += [_flow(Table.SOURCES, 90, match(eth_type=0x0800)), _flow(Table.SOURCES, 90, match(eth_type=0x86DD))]
    locate = (
        SetField(family.holder, 0),
        SetField(family.incoming, 0),
        Move("eth_dst", MAC_REGISTER, 48),
        Resubmit(Table.LOCATE),
        Goto(Table.REMOTE),
    )
    flows.append(_flow(Table.FORWARD, 50, (MULTICAST,), (Goto(Table.FLOOD),)))
    flows.append(_flow(Table.FORWARD, 10, (), locate))
    flows.append(_flow(Table.REMOTE, 100, match(**{family.holder: 0}), (Goto(Table.FLOOD),)))
    to_holder = (Move(family.holder, family.tun_dst, family.bits), Goto(Table.SEND))
    flows.append(_flow(Table.REMOTE, 90, (FROM_VIF,), to_holder))
    return frozenset(flows)


def _flow(table: Table, priority: int, match: tuple[Match, ...] = (), actions: tuple = Drop) -> Flow:  # type: ignore[type-arg]
    return Flow(table=table, priority=priority, cookie=SWITCH_COOKIE, match=match, actions=actions)


def _icmpv6(kind: int) -> tuple[Match, ...]:
    return match(eth_type=0x86DD, nw_proto=58, icmpv6_type=kind)
