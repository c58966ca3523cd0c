"""Security groups: what a port with groups may say, and what may be said to it.

Theory of operation. There are three kinds of flows, and none of them is a product of the others.

*Of a port*: two detours. What its guest says is judged in EGRESS, before anybody is asked or told anything; what would
go to its tap goes to INGRESS instead, each copy of a flood by itself, and to the tap from DELIVER. If its groups are
stateful, the connection tracker sees the frame first, in a zone that is the port's own. Then the port's groups are
asked, one after the other, and the verdict is carried out.

*Of a group*: GROUP knows what its rules speak of: anybody or a CIDR (then RULE is asked at once), or the members of a
group (then RULE is asked only if MEMBER knows the other end's address among them). RULE has a flow for each rule, or
a few where ports need masks. All groups are asked in the same way by all ports, whatever their network.

*Of members*: MEMBER has a flow for each address of a group that rules speak of. It serves every rule of every group
that names it, of both directions. So a group of ten thousand, named by ten groups of a hundred ports, costs ten
thousand flows, and one more member costs one.

Stateful. Every frame of a connection is judged by the rules as they are now, so who removes a rule ends what it
allowed, both ways and at once: a frame of the side that opened it by the rules of its direction, a reply by those that
let its opener speak, read the other way round. GROUP and RULE have them in both readings. When a frame is refused, the
connection is marked BLOCKED until a rule allows it again, and ends what has no reading: ICMP errors about it. Of a
connection that was moved here with its guest the tracker may see a reply first, and takes it for the beginning. Its
ticket lets it in (`ticket_flows`), marked REVERSED: it is read the other way round. To the tracker it goes on to be a
beginning until the opener speaks (in the kernel all of them, in user space those that are not of TCP); the mark shows
that it is known.

Fragments. The first one of a datagram has its ports, and is held to them. Later ones have none: they pass where a rule
allows their protocol (of IPv6, any protocol) to that end, and are nothing to their receiver without the first. So all
fragments of a datagram that passes take the same way. The userspace datapath depends on it: its tracker puts them
together each time that they meet it.

Always pass: ARP and RARP, neighbour and multicast listener discovery (the guard has judged them), and what a DHCP
client and a server say to each other: only a port that is allowed it can speak as a server, and a guest without its
lease is of no use. Frames that are neither these nor IP end here: no rule can speak of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from ipaddress import ip_interface, ip_network
from typing import Final, NamedTuple
from uuid import UUID

from hostagent.flow import Action, Ct, Flow, Goto, Match, Move, Output, Resubmit, SetField, address_of, canonical, match
from hostagent.pipeline.icmpv6 import Icmpv6, icmpv6
from hostagent.pipeline.tables import (
    ADDRESS4,
    ADDRESS6,
    ALLOWED,
    ANSWERS_TO_EGRESS,
    ANSWERS_TO_INGRESS,
    DIRECTION,
    EGRESS_RULES,
    GROUP_KEY,
    INGRESS_RULES,
    ONWARD,
    REASON,
    REMOTE_KEY,
    STATEFUL,
    SWITCH_COOKIE,
    TAP,
    Denied,
    Table,
)
from netmgr.contract.types import Direction, Ethertype, SecurityGroup, SecurityRule, Ticket

__all__ = [
    "BLOCKED",
    "OUTBOUND",
    "REVERSED",
    "Policy",
    "deliver",
    "group_flows",
    "group_key",
    "member_flows",
    "policy_flows",
    "port_policy_flows",
    "range_masks",
    "ticket_flows",
]

BLOCKED: Final = 1
"""Bit of a connection's mark: no rule allows it any more; errors about it end too."""

REVERSED: Final = 2
"""Bit of a connection's mark: what the tracker takes for a reply is of the side that opened it."""

_TYPES: Final = {Ethertype.IPV4: 0x0800, Ethertype.IPV6: 0x86DD}
_NUMBERS: Final = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58}
_TRK, _NEW, _EST, _REL, _RPL, _INV = 0x20, 0x01, 0x02, 0x04, 0x08, 0x10

OUTBOUND: Final = 4
"""Bit of a connection's mark: the guest opened it. Only tickets want to know."""


class Policy(NamedTuple):
    """What judges a port on this host."""

    groups: tuple[int, ...]  # keys, sorted
    zone: int  # of the connection tracker; 0: the groups are stateless


class _Way(NamedTuple):
    """One of the two directions in which a port is judged."""

    rules: int
    answers: int  # the direction of the rules that allow what is answered this way
    entry: Table
    tracked: Table
    verdict: Table
    onward: Table
    refused: Denied
    invalid: Denied
    mark: int  # of connections that are opened this way


_EGRESS: Final = _Way(
    rules=EGRESS_RULES,
    answers=ANSWERS_TO_INGRESS,
    entry=Table.EGRESS,
    tracked=Table.EGRESS_TRACKED,
    verdict=Table.EGRESS_VERDICT,
    onward=ONWARD[Table.ANSWER],
    refused=Denied.EGRESS,
    invalid=Denied.EGRESS_INVALID,
    mark=OUTBOUND,
)
_INGRESS: Final = _Way(
    rules=INGRESS_RULES,
    answers=ANSWERS_TO_EGRESS,
    entry=Table.INGRESS,
    tracked=Table.INGRESS_TRACKED,
    verdict=Table.INGRESS_VERDICT,
    onward=Table.DELIVER,
    refused=Denied.INGRESS,
    invalid=Denied.INGRESS_INVALID,
    mark=0,
)
_WAYS: Final = (_EGRESS, _INGRESS)


def group_key(uuid: UUID) -> int:
    """How the pipeline calls a group: the first 64 bits of its UUID."""
    return uuid.int >> 64


def deliver(ofport: int) -> tuple[Action, ...]:
    """What a flow does instead of an output to the tap of a port with groups; it ends the frame's way."""
    return (SetField(TAP, ofport), Goto(Table.INGRESS))


# --- of a port ----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def port_policy_flows(*, ofport: int, policy: Policy, network: int) -> frozenset[Flow]:
    """The detours of the port at *ofport*, whose network has the key *network*."""
    tap = Match(TAP, ofport)
    flows = [
        _row(Table.INGRESS, 120, (Match("in_port", ofport), tap), (), network),  # a flood's copy for its sender
        _row(Table.DELIVER, 100, (Match("metadata", network), tap), (Output(ofport),), network),
    ]
    for way in _WAYS:
        who = tap if way is _INGRESS else Match("in_port", ofport)
        for why in (way.refused, way.invalid):
            flows.append(_row(Table.DROPPED, 100, (who, Match(REASON, why)), (), network))
        judge = _judge(way, way.rules, policy.groups, tracked=bool(policy.zone))
        first = (Ct(policy.zone, table=way.tracked),) if policy.zone else judge
        for eth_type in _TYPES.values():
            flows.append(_row(way.entry, 100, (who, Match("eth_type", eth_type)), first, network))
        flows.append(_row(way.entry, 90, (who,), _refuse(way.refused), network))
        if policy.zone:
            flows.append(_row(way.tracked, 50, (who,), judge, network))
            answers = _judge(way, way.answers, policy.groups, tracked=True)
            flows += (_row(way.tracked, 60, (who, *conditions), answers, network) for conditions in _ANSWERS)
    return frozenset(flows)


def _judge(way: _Way, rules: int, groups: tuple[int, ...], *, tracked: bool) -> tuple[Action, ...]:
    asked = (step for key in groups for step in (SetField(GROUP_KEY, key), Resubmit(Table.GROUP)))
    return (
        SetField(STATEFUL, int(tracked)),
        SetField(DIRECTION, rules),
        SetField(ALLOWED, 0),
        *asked,
        Goto(way.verdict),
    )


# --- of a guest that came with open connections -------------------------------------------------------------------


def ticket_flows(*, ofport: int, groups: tuple[int, ...], tickets: Iterable[Ticket], network: int) -> Iterator[Flow]:
    """Replies that the port at *ofport* may say and hear though the tracker has not seen what they reply to: if
    *groups*, its own, let the opener speak.

    What the opener says needs no ticket: the rules judge it, and make the connection known. To the tracker a reply in
    the middle is a beginning; it is committed as REVERSED. An echo reply is nothing to it: it passes uncommitted, and
    the next request makes it known.
    """
    for ticket in tickets:
        way, who = (_INGRESS, Match(TAP, ofport)) if ticket.outbound else (_EGRESS, Match("in_port", ofport))
        six = ":" in ticket.source
        prefix = "ipv6" if six else "nw"
        conditions = [
            who,
            Match("eth_type", 0x86DD if six else 0x0800),
            Match("nw_proto", ticket.protocol),
            Match(f"{prefix}_src", address_of(ticket.destination)),
            Match(f"{prefix}_dst", address_of(ticket.source)),
        ]
        judge = _judge(way, way.answers, groups, tracked=False)  # what is to be committed is, here
        if ticket.protocol in _ECHO_REPLIES:
            name, kind = _ECHO_REPLIES[ticket.protocol]
            echo = (*conditions, Match(name, kind), _state(_TRK | _INV))
            yield _row(way.tracked, 110, echo, judge, network)
            continue
        if ticket.protocol in _PORTED:
            name = _PORTED[ticket.protocol]
            conditions += [Match(f"{name}_src", ticket.destination_port), Match(f"{name}_dst", ticket.source_port)]
        if ticket.protocol == _NUMBERS["tcp"]:
            conditions.append(Match("tcp_flags", 0, _SYN))
        mark = REVERSED | (OUTBOUND if ticket.outbound else 0)
        commit = _commit(mark=(mark, REVERSED | OUTBOUND))
        yield _row(way.tracked, 85, (*conditions, _state(_TRK | _NEW, _INV)), (commit, *judge), network)


_PORTED: Final = {6: "tcp", 17: "udp"}
_ECHO_REPLIES: Final = {1: ("icmp_type", 0), 58: ("icmpv6_type", Icmpv6.ECHO_REPLY)}
_SYN: Final = 0x002
_ACK: Final = 0x010


# --- of every bridge on which a port has groups -------------------------------------------------------------------


_DISCOVERY: Final = (
    Icmpv6.ROUTER_SOLICITATION,
    Icmpv6.ROUTER_ADVERTISEMENT,
    Icmpv6.SOLICITATION,
    Icmpv6.ADVERTISEMENT,
    Icmpv6.REDIRECT,
)
_LISTENERS: Final = (
    Icmpv6.LISTENER_QUERY,
    Icmpv6.LISTENER_REPORT,
    Icmpv6.LISTENER_DONE,
    Icmpv6.LISTENER_REPORT_V2,
)


@cache
def policy_flows() -> frozenset[Flow]:
    """What all ports with groups share: what always passes, what becomes of replies, and of verdicts."""
    return frozenset(flow for way in _WAYS for flow in (*_always(way), *_tracked(way), *_verdict(way)))


def _always(way: _Way) -> Iterator[Flow]:
    onward = (Goto(Table.ANSWER if way is _EGRESS else way.onward),)  # questions are among them
    for eth_type in (0x0806, 0x8035):
        yield _row(way.entry, 110, match(eth_type=eth_type), onward)
    for kind in _DISCOVERY:
        yield _row(way.entry, 110, icmpv6(kind), onward)
    for kind in _LISTENERS:
        yield _row(way.entry, 110, icmpv6(kind, ipv6_dst="ff00::/8"), onward)
    for eth_type, client, server in ((0x0800, 68, 67), (0x86DD, 546, 547)):
        ends = (client, server) if way is _EGRESS else (server, client)
        yield _row(way.entry, 110, match(eth_type=eth_type, nw_proto=17, udp_src=ends[0], udp_dst=ends[1]), onward)


def _tracked(way: _Way) -> Iterator[Flow]:
    """What needs no rule, and what no rule can help. The rest is judged, by the flows of the port."""
    related = _state(_TRK | _REL, _INV)
    yield _row(way.tracked, 100, (_state(_TRK | _INV),), _refuse(way.invalid))
    yield _row(way.tracked, 95, (related, Match("ct_mark", BLOCKED, BLOCKED)), _refuse(way.refused))
    yield _row(way.tracked, 94, (related,), (Goto(way.onward),))
    for eth_type in _TYPES.values():  # no reply begins a connection
        syn = match(eth_type=eth_type, nw_proto=_NUMBERS["tcp"], tcp_flags=(_SYN, _SYN | _ACK))
        yield _row(way.tracked, 70, (*_REVERSED_ANSWER, *syn), _refuse(way.refused))


def _verdict(way: _Way) -> Iterator[Flow]:
    allowed, onward, refuse = Match(ALLOWED, 1), Goto(way.onward), _refuse(way.refused)
    for number in _TYPES.values():  # without it the switch takes no ct
        tracked = (Match("eth_type", number), Match(STATEFUL, 1))
        opened = (*tracked, allowed, _state(_TRK | _NEW), Match("ct_mark", 0, REVERSED))
        yield _row(way.verdict, 100, opened, (_commit(mark=(way.mark, OUTBOUND)), onward))
        for state, bit in ((_EST, 0), (_NEW, REVERSED)):  # what is known already
            known = (*tracked, _state(_TRK | state))
            blocked = (*known, allowed, Match("ct_mark", bit | BLOCKED, bit | BLOCKED))
            yield _row(way.verdict, 95, blocked, (_commit(mark=(0, BLOCKED)), onward))
            running = (*known, Match("ct_mark", bit, bit | BLOCKED))
            yield _row(way.verdict, 80, running, (_commit(mark=(BLOCKED, BLOCKED)), *refuse))
    yield _row(way.verdict, 90, (allowed,), (onward,))
    yield _row(way.verdict, 70, (), refuse)


def _commit(mark: tuple[int, int]) -> Ct:
    """Remember the connection with this mark, in the zone in which the frame was just looked up."""
    return Ct("ct_zone", commit=True, mark=mark)


def _refuse(why: Denied) -> tuple[Action, ...]:
    return (SetField(REASON, why), Goto(Table.DROPPED))


def _state(with_bits: int, without: int = 0) -> Match:
    return Match("ct_state", with_bits, with_bits | without)


# What is a reply: as the tracker says, or the other way round.
_REVERSED_ANSWER: Final = (_state(_TRK, _RPL | _INV), Match("ct_mark", REVERSED, REVERSED))
_ANSWERS: Final = ((_state(_TRK | _RPL, _INV), Match("ct_mark", 0, REVERSED)), _REVERSED_ANSWER)


# --- of groups and their members ----------------------------------------------------------------------------------


def group_flows(group: SecurityGroup) -> Iterator[Flow]:
    """What the rules of *group* allow, for every port that has it; of stateful ones also the answers to it."""
    key = group_key(group.uuid)
    for way in _WAYS:
        kind = Direction.EGRESS if way is _EGRESS else Direction.INGRESS
        answered = _INGRESS if way is _EGRESS else _EGRESS
        for ethertype, eth_type in _TYPES.items():
            rules = [rule for rule in group.rules if rule.direction is kind and rule.ethertype is ethertype]
            if not rules:
                continue
            remotes = sorted({0 if rule.remote_group is None else group_key(rule.remote_group) for rule in rules})
            for asked, there in ((way.rules, way), (answered.answers, answered))[: 1 + group.stateful]:
                question = (Match(DIRECTION, asked), Match(GROUP_KEY, key), Match("eth_type", eth_type))
                yield _row(Table.GROUP, 100, question, tuple(_by_remote(there, ethertype, remotes)))
                for rule in rules:
                    for conditions in _conditions(rule, answers=there is not way):
                        yield _row(Table.RULE, 100, (*question, *conditions), (SetField(ALLOWED, 1),))


def member_flows(group: SecurityGroup) -> Iterator[Flow]:
    """The members of *group*: each lets the question that looked it up go on to RULE."""
    key = group_key(group.uuid)
    return (_member(key, address) for address in group.members)


@lru_cache(maxsize=1 << 16)
def _member(key: int, text: str) -> Flow:
    """Remembered, because there are many and few change."""
    mask = None
    if "/" not in text:
        value = address_of(text)
    else:  # 10.0.0.5/24 is one address, 10.0.0.0/24 all of it
        address = ip_interface(text)
        network = address.network
        single = network.prefixlen == network.max_prefixlen or address.ip != network.network_address
        value, mask = int(address.ip), None if single else int(network.netmask)
    eth_type, register = (0x86DD, ADDRESS6) if ":" in text else (0x0800, ADDRESS4)
    who = (Match("eth_type", eth_type), Match(REMOTE_KEY, key), Match(register, value, mask))
    return _row(Table.MEMBER, 100, who, (Resubmit(Table.RULE),))


def _by_remote(way: _Way, ethertype: Ethertype, remotes: Iterable[int]) -> Iterator[Action]:
    looked_up = False
    for remote in remotes:
        if remote and not looked_up:
            end = "dst" if way is _EGRESS else "src"
            six = ethertype is Ethertype.IPV6
            yield Move(f"ipv6_{end}", ADDRESS6, 128) if six else Move(f"nw_{end}", ADDRESS4, 32)
            looked_up = True
        yield SetField(REMOTE_KEY, remote)
        yield Resubmit(Table.MEMBER if remote else Table.RULE)


def _conditions(rule: SecurityRule, *, answers: bool) -> Iterator[tuple[Match, ...]]:
    """What a frame must be for *rule* to allow it, or to be one of the *answers* to that; several where one flow can't
    say it."""
    fixed = [Match(REMOTE_KEY, 0 if rule.remote_group is None else group_key(rule.remote_group))]
    end = "dst" if (rule.direction is Direction.EGRESS) is not answers else "src"  # the other one
    if rule.remote_cidr:
        six = rule.ethertype is Ethertype.IPV6
        network = ip_network(rule.remote_cidr)
        fixed.append(Match(f"{'ipv6' if six else 'nw'}_{end}", int(network.network_address), int(network.netmask)))
    if rule.protocol == "any":
        yield (*fixed,)
        return
    number = Match("nw_proto", _NUMBERS[rule.protocol] if rule.protocol in _NUMBERS else int(rule.protocol))
    if rule.port_max:
        port = f"{rule.protocol}_{'src' if answers else 'dst'}"
        for value, mask in range_masks(rule.port_min, rule.port_max):
            yield (*fixed, number, Match(port, value, mask))
    elif rule.icmp_type >= 0:
        kind = _REPLY_TYPES[rule.protocol].get(rule.icmp_type) if answers else rule.icmp_type
        if kind is None:
            return  # nothing answers that
        code = (Match(f"{rule.protocol}_code", rule.icmp_code),) if rule.icmp_code >= 0 else ()
        yield (*fixed, number, Match(f"{rule.protocol}_type", kind), *code)
    else:
        yield (*fixed, number)
    if rule.ethertype is Ethertype.IPV6:  # the switch says no more of the protocol of its later fragments
        yield (*fixed, Match("nw_proto", _IPV6_FRAGMENT), _LATER)
    else:
        yield (*fixed, number, _LATER)


_REPLY_TYPES: Final = {"icmp": {8: 0, 13: 14, 15: 16, 17: 18}, "icmpv6": {128: 129, 139: 140}}
"""By the type of a question that the tracker remembers, that of its answer; their codes are equal."""

_LATER: Final = Match("ip_frag", 3)
_IPV6_FRAGMENT: Final = 44


def range_masks(first: int, last: int) -> Iterator[tuple[int, int | None]]:
    """The range *first* to *last* of 16-bit numbers as values and masks, the fewest there are."""
    while first <= last:
        size = first & -first if first else 1 << 16
        while first + size - 1 > last:
            size >>= 1
        yield first, None if size == 1 else 0xFFFF & ~(size - 1)
        first += size


def _row(
    table: Table,
    priority: int,
    conditions: tuple[Match, ...],
    actions: tuple[Action, ...],
    cookie: int = SWITCH_COOKIE,
) -> Flow:
    return Flow(table=table, priority=priority, cookie=cookie, match=canonical(conditions), actions=actions)
