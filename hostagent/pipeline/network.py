"""The flows of one network on one bridge.

Each function promises one concern; `network_flows` is their sum. All of them carry the network's key as cookie, and
match on it as metadata wherever they output. A function sees this network only, so a change costs work for one.

Migrations. A detour sends what arrives for a port's MAC to another VTEP:

    phase here    frames for the MAC from a VIF      original frames from the tunnel   frames sent on to us
    STEADY        tap                                tap                               dropped
    REDIRECTING   tunnel, to the incoming VTEP       back out, to the incoming VTEP    dropped
    RELAYING      tunnel, to the new holder          back out, to the new holder       dropped
    INCOMING      tunnel, to the holder              back out, to the holder           tap, from the holder's VTEP only
    ACTIVATED     tap                                tap                               tap, from the old holder's VTEP

*Original* is what passes TUNNEL: its source MAC lives at the VTEP that it came from. A frame that was sent on comes
from another VTEP than its source's, so it is never original and never sent on again. A source that is itself migrating
may come from two VTEPs; its frames are not sent back to where they came from. Thus no frame circles, and a peer on the
destination's own host, whose frames must go there and back, is served.

What networks on a VLAN do otherwise is in `vlan`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from hostagent.flow import (
    IN_PORT,
    Action,
    Controller,
    Drop,
    Flow,
    Goto,
    Match,
    Meter,
    Move,
    Output,
    PopMpls,
    PushMpls,
    Resubmit,
    SetField,
    canonical,
)
from hostagent.flow import address_of as to_int
from hostagent.model import Phase
from hostagent.pipeline.answer import answer_flows, single_addresses
from hostagent.pipeline.guard import guard_flows
from hostagent.pipeline.learn import (
    another_flow,
    claim_flows,
    lease_flows,
    link_local_flows,
    rival_flows,
    unknown_flows,
)
from hostagent.pipeline.locate import locate
from hostagent.pipeline.policy import Policy, deliver, port_policy_flows, ticket_flows
from hostagent.pipeline.remote import NOWHERE, Elsewhere, Place
from hostagent.pipeline.tables import (
    FROM_TUNNEL,
    FROM_UPLINK,
    FROM_VIF,
    MAC_REGISTER,
    SOURCE_MOVES,
    SWITCH_COOKIE,
    TAP,
    Family,
    Origin,
    Table,
    family_of,
)
from hostagent.pipeline.vlan import Trunk, detour_flow, frames_of_others, subport_flows, tagged, trunk_flows
from netmgr.contract.types import Allowance, Ticket, VifState

__all__ = ["NetworkPorts", "PortView", "Trunk", "Wire", "network_flows", "vtep_flows"]

_SIGNAL_BYTES = 64
"""What the agent needs of a guest's first frame; Open vSwitch 3.1 sends the whole frame all the same. It queues at
most 100 for a connection that does not read, so a loud guest cannot flood the agent."""

_VTEPS_A_FLOW: Final = {32: 720, 128: 580}
"""Copies that one flow makes, by the bits of a VTEP's address. Open vSwitch stops translating, in silence to all but
its log, when the actions of its datapath exceed 64 KiB: in user space a copy takes 84 bytes there (IPv6: 104), and what
is for taps of this host comes before the first."""

_ANEW: Final = (PushMpls(), PopMpls(), Resubmit(Table.REPLICATE))
"""A label in front and off again leaves nothing to be done to the frame, of whatever type it is; but what a label was
taken off is recirculated before the next table. So the switch goes on with another flow of its datapath, which has
64 KiB of its own. User space does that six times with a frame at most."""

_PART_REGISTER = "reg3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """How a network leaves the bridge by tunnel."""

    vtep: str  # of this host on the switch
    tunnel: int  # ofport of the tunnel port of the network's type
    tun_id: int  # the network's segment as the tunnel's key
    tun_mask: int | None = None  # bits of the key that name the segment, None for all
    cut: frozenset[str] = frozenset()  # VTEPs that nothing is sent to


class PortView(NamedTuple):
    """What the pipeline must know of one MAC of the network, on this host: a port's own, or one behind its VIF. Ten
    thousand are made in one go."""

    mac: int
    mac_text: str
    ips: tuple[str, ...] = ()
    allow: tuple[Allowance, ...] = ()
    learned: tuple[tuple[int, int], ...] = ()  # addresses it has that are not defined: IP version, number
    hushed: bool = False  # what it claims is not copied to the agent
    several: bool = False  # there are other MACs behind its VIF
    open: bool = False  # others may appear there, and are learned
    subports: tuple[tuple[int, int], ...] = ()  # tags of frames of its VIF that other ports' are, and where these go
    here: bool = False  # this host holds it
    state: VifState = VifState.DARK
    phase: Phase = Phase.STEADY
    ofport: int = 0  # of its tap; 0 while there is none
    policy: Policy | None = None  # what judges it; None: it has no security groups
    tickets: tuple[Ticket, ...] = ()  # connections that its guest had where it came from
    metered: bool = False  # the bridge has a meter for what it sends, by the number of its tap
    holder_vtep: str = ""  # of another host that holds it
    incoming_vtep: str = ""  # of another host that it is going to
    relay_vtep: str = ""
    live: bool = False  # held elsewhere, neither parked nor set down
    bound: bool = False  # its guest answers for its addresses, here or elsewhere

    @property
    def awaited(self) -> bool:
        """Its guest may speak as soon as its tap is there."""
        return self.here and self.state is VifState.LIT and not self.ofport


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPorts:
    """One network: its key, its way out (None while its port has no ofport) and its ports, no MAC twice. There are
    remote ports beside these (see `remote`), no MAC and no address of which is another's."""

    key: int
    wire: Wire | Trunk | None
    ports: tuple[PortView, ...]
    elsewhere: Elsewhere = NOWHERE
    alone: bool = False  # what is parked elsewhere may live again, unheard of
    hushed: bool = False  # what its DHCP servers say is not copied to the agent
    writes_nd: bool = True  # the datapath can turn a neighbour solicitation into an advertisement

    def places(self) -> frozenset[Place]:
        """Where ports are that are not here."""
        return self.elsewhere.places | {
            Place(port.holder_vtep, vtep, port.live)
            for port in self.ports
            for vtep in (port.incoming_vtep, port.relay_vtep)
        }


def network_flows(network: NetworkPorts) -> Iterator[Flow]:
    """All flows of *network* but those of the remote ports beside it. Without a wire its ports on this host still reach
    each other."""
    yield from _classify(network)
    wire = network.wire
    for port in network.ports:
        if port.state is VifState.DARK and port.phase is Phase.STEADY and not port.here:  # most are
            if isinstance(wire, Wire):
                yield from _locate(network.key, port, wire.vtep)
            elif isinstance(wire, Trunk):
                yield another_flow(mac=port.mac, network=network.key)
            continue
        if port.ofport and port.state is not VifState.DARK:
            yield from rival_flows(ofport=port.ofport, mac=port.mac, hushed=port.hushed, network=network.key)
            yield from _guard(port.ofport, port.mac_text, port.ips, network.key, port.allow)
            yield from _claims(network.key, port)
            if port.open and port.state is VifState.LIT and not port.hushed:
                yield from unknown_flows(ofport=port.ofport, cookie=network.key)
            if port.policy is not None:
                yield from port_policy_flows(ofport=port.ofport, policy=port.policy, network=network.key)
                if port.policy.zone:
                    groups = port.policy.groups
                    yield from ticket_flows(
                        ofport=port.ofport, groups=groups, tickets=port.tickets, network=network.key
                    )
            if port.state is VifState.INCOMING:
                yield _signal(network.key, port.ofport)
        yield from _deliver(network.key, port)
        if isinstance(wire, Wire):
            yield from _migrate(network.key, port, family_of(wire.vtep))
            yield from _locate(network.key, port, wire.vtep)
        elif isinstance(wire, Trunk):
            yield from _migrate_on_vlan(network.key, port)
    live = [port for port in network.ports if port.bound]
    defined = ((port.mac, single_addresses(port.ips)) for port in live if port.ips)
    learned = ((port.mac, port.learned) for port in live if port.learned)
    routers = frozenset(port.mac for port in live if Allowance.ROUTER in port.allow)
    others, writes_nd = network.elsewhere.answered, network.writes_nd
    yield from answer_flows(network.key, defined, learned, writes_nd=writes_nd, routers=routers, others=others)
    if not network.hushed and any(_learns(port) for port in network.ports):
        yield from lease_flows(network.key)
    yield from _flood(network)
    if isinstance(wire, Wire):
        yield from _send(network.key, wire)
        yield from _spare(network, wire)
    elif wire is not None:
        yield from trunk_flows(network.key, wire)


def _learns(port: PortView) -> bool:
    """Whether what DHCP grants the port is news: it is lit here, and has no defined addresses."""
    return port.state is VifState.LIT and port.ofport > 0 and not port.ips and not port.hushed


def vtep_flows(vteps: Iterable[str], family: Family) -> Iterator[Flow]:
    """TUNNEL: a frame is original when LOCATE's answer for its source MAC is the VTEP it came from."""
    for vtep in vteps:
        address = to_int(vtep)
        source = Match(family.tun_src, address)
        steady = (SetField("reg0", Origin.TUNNEL), Goto(Table.LEASES))
        moving = (SetField("reg0", Origin.TUNNEL | Origin.MOVING), Goto(Table.LEASES))
        at_holder = (source, Match(family.holder, address))
        yield _row(Table.TUNNEL, 100, SWITCH_COOKIE, (*at_holder, Match(family.incoming, 0)), steady)
        yield _row(Table.TUNNEL, 90, SWITCH_COOKIE, at_holder, moving)
        yield _row(Table.TUNNEL, 90, SWITCH_COOKIE, (source, Match(family.incoming, address)), moving)


# --- one concern each ---------------------------------------------------------------------------------------------


def _classify(network: NetworkPorts) -> Iterator[Flow]:
    enter = SetField("metadata", network.key)
    for port in network.ports:
        if port.ofport and port.state is not VifState.DARK:
            limit = (Meter(port.ofport),) if port.metered else ()
            actions = (*limit, enter, SetField("reg0", Origin.VIF), Goto(Table.GUARD))
            yield _row(Table.CLASSIFY, 100, network.key, (Match("in_port", port.ofport),), actions)
            for tag, end in port.subports:
                yield from subport_flows(port.ofport, tag=tag, end=end, limit=limit, cookie=network.key)
    if isinstance(network.wire, Wire):
        segment = Match("tun_id", network.wire.tun_id, network.wire.tun_mask)
        conditions = (Match("in_port", network.wire.tunnel), segment)
        locate = (Move("eth_src", MAC_REGISTER, 48), Resubmit(Table.LOCATE), Goto(Table.TUNNEL))
        yield _row(Table.CLASSIFY, 100, network.key, conditions, (enter, *locate))


def _claims(key: int, port: PortView) -> Iterator[Flow]:
    hushed = port.hushed or port.state is VifState.INCOMING  # its holder speaks for it
    number, mac, known = port.ofport, port.mac, port.learned
    if port.ips:
        return link_local_flows(ofport=number, mac=mac, learned=known, hushed=hushed, cookie=key)
    return claim_flows(ofport=number, mac=mac, learned=known, hushed=hushed, cookie=key, several=port.several)


@lru_cache(maxsize=4096)
def _guard(ofport: int, mac: str, ips: tuple[str, ...], key: int, allow: tuple[Allowance, ...]) -> tuple[Flow, ...]:
    return tuple(guard_flows(ofport=ofport, mac=mac, ips=ips, cookie=key, allow=allow))


def _signal(key: int, ofport: int) -> Flow:
    return _row(Table.SIGNAL, 100, key, (Match("in_port", ofport),), (Controller(_SIGNAL_BYTES), Goto(Table.EGRESS)))


def _deliver(key: int, port: PortView) -> Iterator[Flow]:
    """FORWARD: to the tap of a lit port; frames for a dark one of this host end here, unflooded."""
    if port.state is VifState.LIT or port.here:
        lit = port.state is VifState.LIT and port.ofport
        actions = _to_tap(port) if lit else Drop
        yield _row(Table.FORWARD, 100, key, (Match("metadata", key), Match("eth_dst", port.mac)), actions)


def _to_tap(port: PortView) -> tuple[Action, ...]:
    return (Output(port.ofport),) if port.policy is None else deliver(port.ofport)


def _migrate(key: int, port: PortView, family: Family) -> Iterator[Flow]:
    destination = (Match("metadata", key), Match("eth_dst", port.mac))
    if port.phase in (Phase.INCOMING, Phase.ACTIVATED) and port.relay_vtep:
        source = Match(family.tun_src, to_int(port.relay_vtep))
        actions = _to_tap(port) if port.ofport else Drop
        yield _row(Table.TUNNEL, 120, key, (*destination, source), actions)
    target = _detour(port)
    if target:
        away = (SetField(family.tun_dst, to_int(target)), Goto(Table.SEND))
        back = Match(family.tun_src, to_int(target))
        yield _row(Table.FORWARD, 115, key, (*destination, SOURCE_MOVES, back), Drop)
        yield _row(Table.FORWARD, 110, key, (*destination, FROM_TUNNEL), away)
        if port.phase is Phase.REDIRECTING:
            yield _row(Table.FORWARD, 110, key, (*destination, FROM_VIF), away)


def _migrate_on_vlan(key: int, port: PortView) -> Iterator[Flow]:
    """The physical network learns where the guest is from its first frame; until then there is nobody to send on to."""
    if port.phase in (Phase.REDIRECTING, Phase.RELAYING) or port.state is VifState.INCOMING:
        yield detour_flow(key, port.mac)
    elif port.state is VifState.LIT and port.ofport:
        yield frames_of_others(key, port.mac)


def _detour(port: PortView) -> str:
    """VTEP that frames for *port* are sent on to; empty for none."""
    if port.phase in (Phase.REDIRECTING, Phase.RELAYING):
        return port.relay_vtep
    if port.state is VifState.INCOMING:
        return port.holder_vtep
    return ""


def _locate(key: int, port: PortView, own_vtep: str) -> Iterator[Flow]:
    if port.state is VifState.LIT and not port.here:
        return  # alive on this host already: nobody else speaks for it here
    yield from _located(key, port.mac, port.holder_vtep, port.incoming_vtep, own_vtep)


_located = lru_cache(maxsize=1 << 12)(locate)


def _flood(network: NetworkPorts) -> Iterator[Flow]:
    lit = {port.ofport: port.policy for port in network.ports if port.state is VifState.LIT and port.ofport}
    here: tuple[Action, ...] = tuple(map(Output, sorted(tap for tap, policy in lit.items() if policy is None)))
    for tap in sorted(tap for tap, policy in lit.items() if policy is not None):
        here += (SetField(TAP, tap), Resubmit(Table.INGRESS))
    network_match = Match("metadata", network.key)
    away: tuple[Action, ...] = ()
    if isinstance(network.wire, Trunk):
        away = tagged(network.wire)
        yield _row(Table.FLOOD, 100, network.key, (network_match, FROM_UPLINK), here)
    elif network.wire is not None:
        wire, family = network.wire, family_of(network.wire.vtep)
        hearing = {place.holder_vtep for place in network.places() if place.live or network.alone}
        vteps, size = sorted(hearing - {wire.vtep, ""} - wire.cut), _VTEPS_A_FLOW[family.bits]
        copies = [
            tuple(action for vtep in part for action in (SetField(family.tun_dst, to_int(vtep)), Output(wire.tunnel)))
            for part in (vteps[at : at + size] for at in range(0, len(vteps), size))
        ]
        segment = SetField("tun_id", wire.tun_id)
        if len(copies) == 1:
            away = (segment, *copies[0])
        elif copies:
            away = (segment, _part(0), Resubmit(Table.REPLICATE))
            for index, copy in enumerate(copies, 1):
                more = (_part(index), *_ANEW) if index < len(copies) else ()
                conditions = (network_match, Match(_PART_REGISTER, index - 1))
                yield _row(Table.REPLICATE, 100, network.key, conditions, copy + more)
        yield _row(Table.FLOOD, 100, network.key, (network_match, FROM_TUNNEL), here)
    yield _row(Table.FLOOD, 100, network.key, (network_match, FROM_VIF), here + away)


def _part(index: int) -> Action:
    return SetField(_PART_REGISTER, index)


def _send(key: int, wire: Wire) -> Iterator[Flow]:
    segment = SetField("tun_id", wire.tun_id)
    network_match = Match("metadata", key)
    yield _row(Table.SEND, 100, key, (network_match, FROM_VIF), (segment, Output(wire.tunnel)))
    yield _row(Table.SEND, 100, key, (network_match, FROM_TUNNEL), (segment, Output(IN_PORT)))


def _spare(network: NetworkPorts, wire: Wire) -> Iterator[Flow]:
    """SEND: what is for a VTEP that does not answer ends here, and is counted."""
    family = family_of(wire.vtep)
    used = {vtep for place in network.places() for vtep in (place.holder_vtep, place.incoming_vtep)}
    for vtep in sorted(used & wire.cut):
        conditions = (Match("metadata", network.key), Match(family.tun_dst, to_int(vtep)))
        yield _row(Table.SEND, 110, network.key, conditions, Drop)


@lru_cache(maxsize=1 << 14)  # a network is compiled as a whole, and little of it is another than before
def _row(table: Table, priority: int, cookie: int, conditions: tuple[Match, ...], actions: tuple[Action, ...]) -> Flow:
    return Flow(table=table, priority=priority, cookie=cookie, match=canonical(conditions), actions=actions)
