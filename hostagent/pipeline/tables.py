"""The tables of the pipeline, the registers that carry facts between them, and the flows that every bridge has.

Theory of operation. A frame enters at CLASSIFY, which knows it by the port it came from: a VIF's tap, the tunnel port
with a segment id, or the patch to the uplink bridge with a VLAN. From there on its network is `metadata`, the first 64
bits of the network's UUID, and no flow that outputs matches without it: a frame never crosses networks. Each table ends
in a drop of priority 0, so what nobody wanted is dropped and counted where it failed.

    VIF     CLASSIFY → GUARD → CLAIMS, SOURCES → SIGNAL → EGRESS → ANSWER ─┐
                          ╲         ╲                        ╲        ╲    │
                           DROPPED   DROPPED                  DROPPED  REPLY → ADVERTISE → back to the asker
                                                                         └→ SOLICITED → the agent, or FORWARD
    tunnel  CLASSIFY → TUNNEL ─────────────────────────────────────────────┼→ LEASES → FORWARD → tap
               │          └→ tap (sent on to us)                           │                   ├→ REMOTE → SEND → out
               └→ PROBE → back, or the agent                               │                   └→ FLOOD → taps, out
    uplink  CLASSIFY → UPLINK ─────────────────────────────────────────────┘

A port with security groups has two detours on the way: what it says is judged in EGRESS, and what would go to its tap
goes to INGRESS instead (`policy`).

LOCATE and BINDING are subroutines. LOCATE: MAC in, VTEPs out; it is asked for the source of what a tunnel brings and
for the destination of what a VIF sends, so one flow a remote port serves both. BINDING: address in, MAC out; it is
asked for what a VIF wants to know (then the answer is made here) and for what a VIF claims to have, so one flow an
address serves both. REPLICATE is one too: the VTEPs of a network that do not fit into one flow.

What a VIF must not say goes to DROPPED with the reason in a register, and is counted there by port and reason. On the
way, in RIVAL, it is looked up whether another port's MAC or address is used; then the agent gets a copy, so that both
ports can be told. Of a probe for another port's address, which is no lie and is answered, CONTEST has the copy made.

Cookies name the owner of a flow: the network's `metadata`, or `SWITCH_COOKIE` for what serves all networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum
from functools import cache
from typing import Final

from hostagent.flow import (
    Action,
    Controller,
    Drop,
    Flow,
    Goto,
    Match,
    Move,
    Resubmit,
    SetField,
    canonical,
    mac_to_int,
    match,
)
from hostagent.pipeline.icmpv6 import Icmpv6, icmpv6, neighbour_discovery
from netmgr.contract.link_local import MADE, MADE_MASK
from netmgr.contract.types import Allowance

__all__ = [
    "ADDRESS4",
    "ADDRESS6",
    "ALLOWED",
    "ANSWERS_TO_EGRESS",
    "ANSWERS_TO_INGRESS",
    "ATTENDED",
    "CANARY",
    "DIRECTION",
    "EGRESS_RULES",
    "FROM_TUNNEL",
    "FROM_UPLINK",
    "FROM_VIF",
    "GROUP_KEY",
    "HELD_MAX",
    "INGRESS_RULES",
    "MAC_REGISTER",
    "MULTICAST",
    "OF_GROUPS",
    "ONWARD",
    "OWNER_MAC",
    "REASON",
    "REMOTE_KEY",
    "RESERVED",
    "RIVAL_BYTES",
    "SOMEBODY",
    "SOURCE_MOVES",
    "STATEFUL",
    "SWITCH_COOKIE",
    "TAG_IN_TAG",
    "TAG_IN_TUNNEL",
    "TAP",
    "UNTAGGED",
    "Denied",
    "Family",
    "Origin",
    "Table",
    "family_of",
    "hold_flow",
    "switch_flows",
]


class Table(IntEnum):
    """Tables by number. There is room between them: a packet only ever goes to a higher one."""

    CLASSIFY = 0  # port → network, kind of origin
    PROBE = 5  # tunnel, segment id 0: questions of peers are turned around, answers go to the agent
    GUARD = 10  # VIFs: own MAC, untagged, honest ARP, RARP and ND, no server's or router's messages
    TUNNEL = 20  # tunnel: untagged, the source MAC must live at the outer source; frames sent on to an incoming port
    UPLINK = 25  # frames of VLAN networks from the physical network: whose they can't be
    SOURCES = 30  # VIFs with defined addresses: own IP sources only
    CLAIMS = 35  # VIFs without: addresses they claim in ARP and ND must not be bound to another port
    RIVAL = 38  # VIFs: what is denied is copied to the agent where it names another port, so that both are told
    SIGNAL = 40  # incoming port: a copy of the guest's frames to the agent, until it is lit
    EGRESS = 41  # ports with security groups: what the guest says is judged
    ANSWER = 42  # who has …? of a VIF: the owner is looked up
    EGRESS_TRACKED = 43  # the connection tracker has seen it: replies pass, the rest meets the rules
    REPLY = 44  # a known owner's answer, sent back to the asker; or the question, to an owner who answers itself
    EGRESS_VERDICT = 45  # what the rules said is done
    ADVERTISE = 46  # of an ND answer: the last touch
    SOLICITED = 47  # what the kernel can't answer: by the agent while it attends, else by the owner
    LEASES = 48  # what DHCP servers say to clients: a copy to the agent of a host with learning ports
    FORWARD = 50  # MACs of this host, and detours of migrations
    REMOTE = 60  # MACs of other hosts
    FLOOD = 70  # broadcast, multicast and unknown
    REPLICATE = 72  # subroutine of FLOOD: more VTEPs than one flow can hold
    SEND = 80  # segment id and out: to the tunnel, or back into it; what is for a peer that is gone ends here
    INGRESS = 90  # ports with security groups: what would go to the tap is judged
    INGRESS_TRACKED = 92
    INGRESS_VERDICT = 94
    DELIVER = 96  # to the tap, at last
    LOCATE = 200  # subroutine: MAC → VTEP of its holder and of its incoming host
    BINDING = 201  # subroutine: address → MAC of the port that it is bound to
    GROUP = 202  # subroutine: a group's rules, by whom they speak of
    MEMBER = 203  # subroutine: is the other end's address a member of a group that rules speak of?
    RULE = 204  # subroutine: what a rule allows
    MADE = 205  # subroutine: a link-local address that nobody was seen to use is its MAC's if it is made of one
    CONTEST = 206  # subroutine: a VIF probes for another port's address: a copy to the agent, so that both are told
    DROPPED = 240  # what a VIF must not say or hear, counted by port and reason
    CANARY = 250  # holds one flow that no packet meets


class Denied(IntEnum):
    """Why a frame of a VIF, or for one, ended in DROPPED: values of REASON."""

    MAC = 1  # its source is not the port's MAC
    TAGGED = 2
    CONTROL = 3  # for the bridge itself: 01:80:c2:00:00:0x (IEEE 802.1D)
    ARP = 4  # ARP or RARP that names another's MAC or address
    ND = 5  # the same in neighbour discovery
    SERVER = 6  # what only a DHCP server says
    ROUTER = 7  # router advertisements and redirects
    HIDDEN = 8  # IP that hides what it is in fragments or broken headers (RFC 7112, RFC 6980)
    SOURCE = 9  # an IP source that is not the port's
    EGRESS = 32  # no rule of the port's security groups allows it
    EGRESS_INVALID = 33  # the connection tracker makes nothing of it
    INGRESS = 34  # the same of a frame for the VIF
    INGRESS_INVALID = 35


OF_GROUPS: Final = frozenset({Denied.EGRESS, Denied.EGRESS_INVALID, Denied.INGRESS, Denied.INGRESS_INVALID})
"""Reasons that only ports with security groups know; of the last two the port is in TAP."""

SWITCH_COOKIE: Final = 0x6F70_6171_7565_0001
"""Cookie of the flows that serve all networks of a switch ("opaque", 1)."""

UNTAGGED: Final = Match("vlan_tci", 0)
"""No VLAN tag. Without it matches on `ip` and `arp` accept tagged frames too."""

TAG_IN_TAG: Final = 120
"""Priority in UPLINK of the flows that drop frames with a second tag."""

TAG_IN_TUNNEL: Final = 130
"""Priority in TUNNEL of the flows that drop frames with a tag (RFC 7348, 6.1)."""

MULTICAST: Final = Match("eth_dst", 1 << 40, 1 << 40)
"""Broadcast and multicast destinations."""


class Origin(IntEnum):
    """Bits of reg0: where the frame came from."""

    VIF = 1
    TUNNEL = 2  # checked: its source MAC lives at the VTEP it came from
    MOVING = 4  # of a tunnel: its source is migrating, so that it may come from two VTEPs
    UPLINK = 8  # of the physical network, by VLAN: whoever is there may have sent it


FROM_VIF: Final = Match("reg0", Origin.VIF, Origin.VIF)
FROM_TUNNEL: Final = Match("reg0", Origin.TUNNEL, Origin.TUNNEL)
FROM_UPLINK: Final = Match("reg0", Origin.UPLINK, Origin.UPLINK)
SOURCE_MOVES: Final = Match("reg0", Origin.TUNNEL | Origin.MOVING, Origin.TUNNEL | Origin.MOVING)

MAC_REGISTER: Final = "xreg6"
"""Question of LOCATE: the MAC."""

ADDRESS4: Final = "reg3"
"""Question of BINDING: an IPv4 address; 0 while it is asked for an IPv6 one. Other tables count in it too."""

ADDRESS6: Final = "xxreg2"
"""Question of BINDING: an IPv6 address. Nothing of the same frame needs it before FORWARD, which sets it anew."""

OWNER_MAC: Final = "xreg7"
"""Answer of BINDING: the MAC; 0 for none."""

SOMEBODY: Final = 0xFFFF_FFFF_FFFF
"""Answer of MADE: the address is not the port's, whosever it is."""

TAP: Final = "reg7"
"""From INGRESS on: number of the tap that the frame is for."""

DIRECTION: Final = "reg6"
"""Of rules: EGRESS_RULES or INGRESS_RULES, or what answers to what these allow."""

EGRESS_RULES, INGRESS_RULES, ANSWERS_TO_EGRESS, ANSWERS_TO_INGRESS = 1, 2, 3, 4

ALLOWED: Final = "reg4"
"""1 once a rule has allowed the frame."""

STATEFUL: Final = "reg5"
"""1 when the frame was tracked for the port that is judged: to a stateless one it may come tracked for its sender."""

GROUP_KEY: Final = "xreg6"
"""Question of GROUP and RULE: a security group."""

REMOTE_KEY: Final = "xreg7"
"""Question of MEMBER and RULE: the group that the other end is looked up in; 0 for rules that name none."""

RIVAL_BYTES: Final = 128
"""What the agent needs of a frame that names another port."""

_WHOLE_FRAME: Final = 0xFFFF

HELD_MAX: Final = 256
"""MACs on a bridge whose first words are held; with more of them none are."""

REASON: Final = "reg3"
"""A `Denied`, on the way to DROPPED."""


# Clients look at the destination port and hardly at the source's, so both are reserved.
RESERVED: Final[Mapping[Allowance, tuple[tuple[Match, ...], ...]]] = {
    Allowance.DHCP_SERVER: (
        match(eth_type=0x0800, nw_proto=17, udp_src=67),
        match(eth_type=0x0800, nw_proto=17, udp_dst=68),
        match(eth_type=0x86DD, nw_proto=17, udp_src=547),
        match(eth_type=0x86DD, nw_proto=17, udp_dst=546),
    ),
    Allowance.ROUTER: (
        icmpv6(Icmpv6.ROUTER_ADVERTISEMENT),
        icmpv6(Icmpv6.REDIRECT),
        match(eth_type=0x0800, nw_proto=1, icmp_type=5),
        match(eth_type=0x0800, nw_proto=1, icmp_type=9),
    ),
}
"""Messages that only a port that is allowed them may send."""


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
    return _IPV6 if ":" in vtep else _IPV4


CANARY: Final = Flow(table=Table.CANARY, priority=1, cookie=SWITCH_COOKIE, match=match(metadata=SWITCH_COOKIE))
"""Always wanted, never met: a bridge that lacks it has lost its flows."""

ATTENDED: Final = Flow(
    table=Table.SOLICITED,
    priority=100,
    cookie=SWITCH_COOKIE,
    match=(),
    actions=(Controller(_WHOLE_FRAME),),
    extra=(("hard_timeout", 20),),
)
"""SOLICITED: the agent answers. It takes that upon itself for 20 s at a time (`solicited`), so this is not one of the
flows that a bridge is to have, and is not missed."""

_NEIGHBOURS: Final = (Icmpv6.SOLICITATION, Icmpv6.ADVERTISEMENT)
_SUBROUTINES: Final = (
    Table.LOCATE,
    Table.BINDING,
    Table.REPLICATE,
    Table.GROUP,
    Table.MEMBER,
    Table.RULE,
    Table.MADE,
    Table.CONTEST,
)
ONWARD: Final = {
    Table.SIGNAL: Table.EGRESS,
    Table.EGRESS: Table.ANSWER,
    Table.ANSWER: Table.LEASES,
    Table.SOLICITED: Table.FORWARD,
    Table.LEASES: Table.FORWARD,
}
"""Tables that pass on what concerns nobody in them."""


@cache
def switch_flows(family: Family) -> frozenset[Flow]:
    """The flows that every bridge of ours has, whatever its networks."""
    flows = [CANARY]
    for table in Table:
        if table in ONWARD:
            flows.append(_flow(table, 0, actions=(Goto(ONWARD[table]),)))
        elif table not in (*_SUBROUTINES, Table.GUARD, Table.CANARY):
            flows.append(_flow(table, 0))
    flows += _guard(family)
    flows += _rival(family)
    # a tag that should not be there, whole or cut off
    for within in (match(vlan_tci=(0x1000, 0x1000)), match(eth_type=0x8100), match(eth_type=0x88A8)):
        flows.append(_flow(Table.UPLINK, TAG_IN_TAG, within))
        flows.append(_flow(Table.TUNNEL, TAG_IN_TUNNEL, within))
    made = canonical([Match(OWNER_MAC, 0), Match(ADDRESS4, 0), Match(ADDRESS6, MADE, MADE_MASK)])
    flows.append(_flow(Table.MADE, 100, made, (SetField(OWNER_MAC, SOMEBODY),)))  # those of a port know which are its
    flows += [_denied(Table.SOURCES, 90, Denied.SOURCE, match(eth_type=kind)) for kind in (0x0800, 0x86DD)]
    # who solicits from an address claims it; from none, it is the target that is wanted
    detects = neighbour_discovery(Icmpv6.SOLICITATION, ipv6_src="::")
    for priority, message, named in ((95, icmpv6(Icmpv6.SOLICITATION), "ipv6_src"), (96, detects, "nd_target")):
        asks = (SetField(OWNER_MAC, 0), SetField(ADDRESS4, 0), Move(named, ADDRESS6, 128), Resubmit(Table.BINDING))
        solicits = (*asks, SetField(REASON, Denied.SOURCE), Goto(Table.RIVAL))
        flows.append(_flow(Table.SOURCES, priority, canonical(message), solicits))
    flows.append(_flow(Table.CONTEST, 90, (), (Controller(RIVAL_BYTES),)))  # of a hushed port its own stands above
    # probes and duplicate address detection claim nothing yet; a claim to what is bound to nobody is as good as any
    nobodys = match(**{OWNER_MAC: 0})
    for probe in (match(eth_type=0x0806, arp_spa=0), icmpv6(Icmpv6.SOLICITATION, ipv6_src="::")):
        flows.append(_flow(Table.CLAIMS, 110, canonical([*nobodys, *probe]), (Goto(Table.SIGNAL),)))
    flows.append(_flow(Table.CLAIMS, 90, match(**{OWNER_MAC: 0}), (Goto(Table.SIGNAL),)))
    flows.append(_denied(Table.CLAIMS, 80, Denied.ARP, match(eth_type=0x0806)))
    flows += [_denied(Table.CLAIMS, 80, Denied.ND, icmpv6(kind)) for kind in _NEIGHBOURS]
    flows.append(_flow(Table.REPLY, 110, match(**{OWNER_MAC: 0}), (Goto(Table.FORWARD),)))
    locate = (
        SetField(family.holder, 0),
        SetField(family.incoming, 0),
        SetField(MAC_REGISTER, 0),  # it is wider than a MAC, and has held the group that was asked
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


def hold_flow(mac: int) -> Flow:
    """CLASSIFY: what a port that is dark says with *mac* ends here, and the agent has it whole: it is given back should
    the port be lit in a moment."""
    return _flow(Table.CLASSIFY, 1, (Match("eth_src", mac),), (Controller(_WHOLE_FRAME),))


def _guard(family: Family) -> Iterator[Flow]:
    """What a VIF may not say. Some of it a port may be allowed: `guard` then lets it through, above these."""
    guard = Table.GUARD
    control = match(eth_dst=(mac_to_int("01:80:c2:00:00:00"), mac_to_int("ff:ff:ff:ff:ff:f0")))
    yield _denied(guard, 120, Denied.TAGGED, match(vlan_tci=(0x1000, 0x1000)))
    for cut_off in (0x8100, 0x88A8):  # a tag that is not whole is none to the switch
        yield _denied(guard, 118, Denied.TAGGED, match(eth_type=cut_off))
    yield _denied(guard, 115, Denied.CONTROL, control)
    for allowance, messages in RESERVED.items():
        why = Denied.SERVER if allowance is Allowance.DHCP_SERVER else Denied.ROUTER
        for message in messages:
            yield _denied(guard, 110, why, message)
    # The switch sees through extension headers, and the ports and types of first fragments (the connection asks it
    # to), but nothing of later ones. So a first fragment must hold the whole chain of headers (RFC 7112), and ND does
    # not come in fragments at all (RFC 6980). Where it can't follow the headers, it says that the protocol is 0.
    # The kernel's datapath does not mind the lengths that a header tells: it finds protocol and ports in what follows
    # the end of a packet too, where vswitchd says 0 and caches its verdict for what the kernel has found. Were that
    # verdict "pass", one such frame would open the way for all real ones. Of a chain that it can't follow it says 59.
    for kind in (Icmpv6.ROUTER_SOLICITATION, *_NEIGHBOURS):
        yield _denied(guard, 114, Denied.HIDDEN, icmpv6(kind, ip_frag=(1, 1)))
    for version in (0x0800, 0x86DD):
        yield _denied(guard, 114, Denied.HIDDEN, match(eth_type=version, nw_proto=0))
    yield _denied(guard, 114, Denied.HIDDEN, (*match(eth_type=0x86DD, nw_proto=59), Match("ip_frag", 1, 3)))
    yield _denied(guard, 114, Denied.HIDDEN, icmpv6(0))
    not_later = Match("ip_frag", 0, 2)  # later fragments have no ports
    for version in (0x0800, 0x86DD):
        without_ports = match(eth_type=version, nw_proto=17, udp_dst=0)
        yield _denied(guard, 114, Denied.HIDDEN, (*without_ports, not_later))
    # A link-layer option that is there twice makes the switch see none, and no target; receivers take the first.
    for kind in _NEIGHBOURS:
        yield _denied(guard, 112, Denied.ND, neighbour_discovery(kind, nd_target=0))
    # what a VIF says of itself in ARP, RARP and ND is accepted by exact flows, or not at all
    yield _denied(guard, 90, Denied.ARP, match(eth_type=0x8035))
    advertised = neighbour_discovery(Icmpv6.ADVERTISEMENT)
    for why, message, question in (
        (Denied.ARP, match(eth_type=0x0806), (Move("arp_spa", ADDRESS4, 32),)),
        (Denied.ND, icmpv6(Icmpv6.SOLICITATION), (SetField(ADDRESS4, 0), Move("ipv6_src", ADDRESS6, 128))),
        (Denied.ND, advertised, (SetField(ADDRESS4, 0), Move("nd_target", ADDRESS6, 128))),
    ):
        whose = (SetField(OWNER_MAC, 0), *question, Resubmit(Table.BINDING))
        yield _flow(guard, 90, canonical(message), (*whose, SetField(REASON, why), Goto(Table.RIVAL)))
    yield _denied(guard, 89, Denied.ND, icmpv6(Icmpv6.ADVERTISEMENT))  # of no known code, with no target
    where = (
        SetField(family.holder, 0),
        SetField(family.incoming, 0),
        SetField(MAC_REGISTER, 0),
        Move("eth_src", MAC_REGISTER, 48),
        Resubmit(Table.LOCATE),
    )
    yield _flow(guard, 0, actions=(*where, SetField(REASON, Denied.MAC), Goto(Table.RIVAL)))


def _rival(family: Family) -> Iterator[Flow]:
    """What is denied and names nobody is counted; what names another port is copied first. The rest of RIVAL is each
    network's: MACs of this host's own ports, and ports that are hushed."""
    rival, dropped = Table.RIVAL, (Goto(Table.DROPPED),)
    lookups = ((Denied.MAC, family.holder), *((why, OWNER_MAC) for why in (Denied.ARP, Denied.ND, Denied.SOURCE)))
    for why, unknown in lookups:
        yield _flow(rival, 95, match(**{REASON: why, unknown: 0}), dropped)
        yield _flow(rival, 90, match(**{REASON: why}), (Controller(RIVAL_BYTES), *dropped))


def _denied(table: Table, priority: int, why: Denied, conditions: tuple[Match, ...]) -> Flow:
    return _flow(table, priority, canonical(conditions), (SetField(REASON, why), Goto(Table.DROPPED)))


def _flow(table: Table, priority: int, match: tuple[Match, ...] = (), actions: tuple[Action, ...] = Drop) -> Flow:
    return Flow(table=table, priority=priority, cookie=SWITCH_COOKIE, match=match, actions=actions)
