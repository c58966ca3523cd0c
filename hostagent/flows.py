"""From what is wanted to the flows of one bridge.

`compile_flows` gathers, for each network of the switch, what the pipeline must know of its ports on this host
(`PortView`), and adds what `pipeline` makes of it. The promise of the whole: no two flows share table, priority and
match, so that what a bridge has can be compared with what it should have, flow by flow.

One change costs work for one network: what a network's flows depend on is gathered, compared with last time's, and
compiled only where it differs. That memory changes no answer; it holds the last compilation of each switch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

from hostagent.flow import Flow, mac_to_int
from hostagent.group_memory import enforced_flows
from hostagent.model import Bridge, Desired, MeterLimit, Phase
from hostagent.names import exit_port, network_key
from hostagent.pipeline.answer import single_addresses
from hostagent.pipeline.network import NetworkPorts, PortView, Trunk, Wire, network_flows, vtep_flows
from hostagent.pipeline.policy import Policy, group_key, policy_flows
from hostagent.pipeline.probe import entry_flow, probe_flows
from hostagent.pipeline.remote import Remote, distinct, is_remote, remote_port
from hostagent.pipeline.tables import family_of, switch_flows
from hostagent.qos import meter_of
from hostagent.resolve import SwitchIntent, tunnel_key
from hostagent.subports import tagged_ends
from hostagent.vifs import Taps, is_stateful, obstacle_to, standing, tap_of, taps_of
from netmgr.contract.types import (
    Allowance,
    Learned,
    Location,
    LogicalPort,
    NetworkType,
    OpaqueNetwork,
    Ticket,
    VifState,
)

__all__ = ["compile_flows", "ports_by_network"]


def compile_flows(
    *,
    desired: Desired,
    intent: SwitchIntent,
    bridge: Bridge,
    realized: frozenset[Flow] = frozenset(),
    meters: Collection[MeterLimit] = (),
    index: Mapping[UUID, tuple[UUID, ...]] | None = None,
    remember: bool = True,
) -> frozenset[Flow]:
    """All flows that the *bridge* of *intent* should have.

    What has no ofport yet is left out and comes with a later reading. *realized* are the flows it has: they decide
    which of two taps with one VIF UUID stays lit. *meters* are those it has: a limit that is not among them yet comes
    with a later reading too, because the switch refuses flows with meters that it does not know. *index* is
    `ports_by_network(desired)`, if the caller has it; who passes only a part of the ports sets *remember* to False, so
    that the whole is not forgotten for it, and gets no flows of security groups, which are many and no port's own.
    """
    by_network = ports_by_network(desired) if index is None else index
    taps, trunks = taps_of(bridge, realized), tagged_ends(bridge, desired)
    own_vtep = intent.vtep_address
    before = _recall(desired, intent) if remember else {}
    now: dict[UUID, _Compiled] = {}
    for network in intent.networks:
        wire = _wire(network, intent, bridge)
        inputs = _inputs(desired, network, by_network.get(network.uuid, ()), taps, wire, meters, trunks)
        known = before.get(network.uuid)
        if known is not None and _yields(known, inputs):
            now[network.uuid] = known
        else:
            now[network.uuid] = _compile(inputs, known, realized)
    flows: set[Flow] = set(switch_flows(family_of(own_vtep)))
    flows.update(*(one.flows for one in now.values()))
    enforced = {uuid for one in now.values() for uuid in one.groups}
    if enforced and remember:
        flows.update(policy_flows(), enforced_flows(desired.groups, enforced))
    if own_vtep:
        flows.update(probe_flows(family_of(own_vtep)))
        tunnels = (_exit_ofport(kind, intent, bridge) for kind in intent.types if kind.tunneled)
        flows.update(entry_flow(tunnel) for tunnel in tunnels if tunnel)
        vteps: set[str] = set().union(*(one.vteps for one in now.values()))
        flows.update(vtep_flows(sorted(vteps - {"", own_vtep}), family_of(own_vtep)))
    if remember:
        _remember(desired, intent, now)
    return frozenset(flows)


def ports_by_network(desired: Desired) -> dict[UUID, tuple[UUID, ...]]:
    """UUIDs of the ports of each network, sorted: those known, and those of which only the location is."""
    found: dict[int, list[UUID]] = {}
    for uuid, port in desired.ports.items():
        found.setdefault(port.network_uuid.int, []).append(uuid)
    for uuid in set(desired.locations).difference(desired.ports):
        found.setdefault(desired.locations[uuid].network_uuid.int, []).append(uuid)
    return {UUID(int=network): tuple(sorted(uuids, key=_NUMBER)) for network, uuids in found.items()}


_VSID_MASK = 0xFFFF_FFFF_FFFF_FF00
"""A peer may send flow ids, which spread the frames of one network over links (RFC 7637, 3.2)."""

_NUMBER = attrgetter("int")  # orders UUIDs as they order themselves, ten times as fast


# --- one network at a time ----------------------------------------------------------------------------------------


class _Inputs(NamedTuple):
    """All that the flows of one network depend on. Equal inputs, equal flows.

    Values are frozen, and what did not change is the same object as before: to compare is to compare addresses.
    """

    host: UUID | None
    datapath: str
    network: OpaqueNetwork
    wire: Wire | Trunk | None
    uuids: tuple[UUID, ...]  # of the ports
    ports: tuple[LogicalPort | None, ...]
    locations: tuple[Location | None, ...]
    alone: bool  # and it matters: one of the ports is parked
    learned: tuple[tuple[UUID, Learned], ...]  # by port
    hushed: tuple[UUID, ...]  # ports, or the network itself
    ofports: tuple[tuple[UUID, int], ...]  # by VIF, of this network's taps
    metered: frozenset[UUID]  # VIFs of these whose meter is there
    phases: tuple[tuple[UUID, Phase], ...]  # by port
    relay_vteps: tuple[tuple[UUID, str], ...]  # by port
    policies: tuple[tuple[UUID, tuple[UUID, ...], int], ...]  # port, groups, zone; of taps whose groups are enforced
    tickets: tuple[tuple[UUID, tuple[Ticket, ...]], ...]  # by port
    barred: tuple[UUID, ...]  # ports whose groups can't be enforced yet; sub-ports whose parent is dark
    trunks: tuple[tuple[UUID, tuple[tuple[int, int], ...]], ...]  # by port: tags of its sub-ports, where they go


class _Compiled(NamedTuple):
    inputs: _Inputs
    flows: frozenset[Flow]
    vteps: frozenset[str]  # that frames of the network may come from
    groups: frozenset[UUID]  # that judge a port of the network here
    remotes: Mapping[int, Remote]  # by number of the port's UUID: kept as long as the port stays as it is


_memory: OrderedDict[tuple[UUID, UUID], dict[UUID, _Compiled]] = OrderedDict()
_SWITCHES_MAX = 64


def _recall(desired: Desired, intent: SwitchIntent) -> Mapping[UUID, _Compiled]:
    return _memory.get((desired.host.uuid, intent.switch.uuid), {}) if desired.host is not None else {}


def _remember(desired: Desired, intent: SwitchIntent, compiled: dict[UUID, _Compiled]) -> None:
    """Only what is carried now: what a removed network had is not kept."""
    if desired.host is not None:
        key = (desired.host.uuid, intent.switch.uuid)
        _memory[key] = compiled
        _memory.move_to_end(key)
        while len(_memory) > _SWITCHES_MAX:
            _memory.popitem(last=False)


def _inputs(
    desired: Desired,
    network: OpaqueNetwork,
    uuids: tuple[UUID, ...],
    taps: Taps,
    wire: Wire | Trunk | None,
    meters: Collection[MeterLimit],
    trunks: Mapping[UUID, tuple[tuple[int, int], ...]],
) -> _Inputs:
    ports = tuple(map(desired.ports.get, uuids))
    ofports: list[tuple[UUID, int]] = []
    metered: set[UUID] = set()
    policies: list[tuple[UUID, tuple[UUID, ...], int]] = []
    barred: list[UUID] = []
    if taps.by_vif:
        for port in ports:
            tap = tap_of(taps, port) if port is not None else None
            if tap is not None and tap.ofport is not None and tap.ofport > 0:
                assert port is not None
                assert port.vif_uuid is not None
                ofports.append((port.vif_uuid, tap.ofport))
                if meter_of(port, tap.ofport) in meters:
                    metered.add(port.vif_uuid)
                if port.security_groups or port.parent_port is not None:
                    if obstacle_to(port, desired):
                        barred.append(port.uuid)
                    elif port.security_groups:
                        zone = desired.ct_zones[port.uuid] if is_stateful(port, desired.groups) else 0
                        policies.append((port.uuid, tuple(sorted(port.security_groups)), zone))
    phases, relays, learned = desired.phases, desired.relay_vteps, desired.learned
    locations = tuple(map(desired.locations.get, uuids))
    return _Inputs(
        host=desired.host.uuid if desired.host is not None else None,
        datapath=desired.datapath,
        network=network,
        wire=wire,
        uuids=uuids,
        ports=ports,
        locations=locations,
        alone=desired.alone and any(location is not None and location.parked for location in locations),
        learned=tuple((uuid, learned[uuid]) for uuid in uuids if uuid in learned) if learned else (),
        hushed=tuple(uuid for uuid in (network.uuid, *uuids) if uuid in desired.hushed) if desired.hushed else (),
        ofports=tuple(ofports),
        metered=frozenset(metered),
        phases=tuple((uuid, phases[uuid]) for uuid in uuids if uuid in phases) if phases else (),
        relay_vteps=tuple((uuid, relays[uuid]) for uuid in uuids if uuid in relays) if relays else (),
        policies=tuple(policies),
        tickets=tuple((port, desired.tickets[port]) for port, _, _ in policies if port in desired.tickets),
        barred=tuple(barred),
        trunks=tuple((uuid, trunks[uuid]) for uuid in uuids if uuid in trunks) if trunks else (),
    )


def _yields(known: _Compiled, inputs: _Inputs) -> bool:
    """Whether *inputs* would give what is known: equal, or different in peers only that the network has no part in."""
    if known.inputs == inputs:
        return True
    before, after = known.inputs.wire, inputs.wire
    if not isinstance(before, Wire) or not isinstance(after, Wire):
        return False
    changed = before.cut ^ after.cut
    if not known.vteps.isdisjoint(changed) or any(vtep in changed for _, vtep in inputs.relay_vteps):
        return False
    return known.inputs._replace(wire=replace(before, cut=after.cut)) == inputs


def _compile(inputs: _Inputs, known: _Compiled | None, realized: frozenset[Flow]) -> _Compiled:
    remotes, rest = _remotes(inputs, known, realized)
    views = tuple(_views(rest))
    addresses = [address for view in views for address in (*single_addresses(view.ips), *view.learned)]
    if not distinct(remotes.values(), [view.mac for view in views], addresses):
        remotes, views = {}, tuple(_views(inputs))
    ports = NetworkPorts(
        key=network_key(inputs.network.uuid),
        wire=inputs.wire,
        ports=views,
        remotes=remotes.values(),
        alone=inputs.alone,
        hushed=inputs.network.uuid in inputs.hushed,
        writes_nd=inputs.datapath != "system",
    )
    return _Compiled(
        inputs=inputs,
        flows=frozenset(network_flows(ports)),
        vteps=frozenset(vtep for place in ports.places() for vtep in (place.holder_vtep, place.incoming_vtep)),
        groups=frozenset(group for _, groups, _ in inputs.policies for group in groups),
        remotes=remotes,
    )


def _remotes(inputs: _Inputs, known: _Compiled | None, realized: frozenset[Flow]) -> tuple[dict[int, Remote], _Inputs]:
    """The ports that the host has no part in, as last time those that are as last time; and *inputs* with the rest."""
    host, key = inputs.host, network_key(inputs.network.uuid)
    if host is None:
        return {}, inputs
    own_vtep = _own_vtep(inputs)
    kept: Mapping[int, Remote] = {}
    if known is not None and known.inputs.host == host and _own_vtep(known.inputs) == own_vtep:
        kept = known.remotes
    # At the start the switch has most of them: of two equal flows one is enough.
    same = {} if kept else {flow: flow for flow in realized}
    several = {uuid.int for uuid, _ in (*inputs.learned, *inputs.phases, *inputs.relay_vteps)}
    remotes: dict[int, Remote] = {}
    rest: list[tuple[UUID, LogicalPort | None, Location | None]] = []
    for item in zip(inputs.uuids, inputs.ports, inputs.locations, strict=True):
        uuid, port, location = item
        number = uuid.int  # is hashed ten times as fast
        one = kept.get(number)
        if one is not None and one.port is port and one.location is location and number not in several:
            remotes[number] = one
        elif location is not None and is_remote(host, port, location) and number not in several:
            known_flows = same if one is None else {flow: flow for flow in one.flows}
            remotes[number] = remote_port(key, own_vtep, port, location, known_flows)
        else:
            rest.append(item)
    uuids, ports, locations = zip(*rest, strict=True) if rest else ((), (), ())
    return remotes, inputs._replace(uuids=uuids, ports=ports, locations=locations)


def _own_vtep(inputs: _Inputs) -> str | None:
    return inputs.wire.vtep if isinstance(inputs.wire, Wire) else None


def _views(inputs: _Inputs) -> Iterator[PortView]:
    """Of each MAC once. The ports' own go first, then what is defined behind them, then what is learned there."""
    if inputs.host is None:
        return
    found = dict(_own_views(inputs))
    yield from found.values()
    with_others = [
        port for port in inputs.ports if port is not None and (port.nested or Allowance.NESTED in port.allow)
    ]
    if not with_others:
        return
    seen = {view.mac for view in found.values()}
    learned = dict(inputs.learned)
    for nested in [*map(_defined_behind, with_others), *(_learned_behind(port, learned) for port in with_others)]:
        for port, text, ips in nested:
            own, mac = found.get(port.uuid), mac_to_int(text)
            if own is not None and mac not in seen:
                seen.add(mac)
                known = () if ips else addresses_of(learned.get(port.uuid), text)
                yield own._replace(mac=mac, mac_text=text, ips=ips, learned=known, open=False)


def _defined_behind(port: LogicalPort) -> list[tuple[LogicalPort, str, tuple[str, ...]]]:
    return [(port, one.mac, one.ips) for one in port.nested]


def _learned_behind(
    port: LogicalPort, learned: Mapping[UUID, Learned]
) -> list[tuple[LogicalPort, str, tuple[str, ...]]]:
    row = learned.get(port.uuid) if Allowance.NESTED in port.allow else None
    return [(port, one.mac, ()) for one in (row.macs if row is not None else ()) if not one.refused]


def _own_views(inputs: _Inputs) -> Iterator[tuple[UUID, PortView]]:
    """By port: its view as one with a single MAC."""
    assert inputs.host is not None
    ofports, phases, relays = dict(inputs.ofports), dict(inputs.phases), dict(inputs.relay_vteps)
    learned = {uuid: addresses_of(item) for uuid, item in inputs.learned}
    tickets, trunks = dict(inputs.tickets), dict(inputs.trunks)
    policies = {port: Policy(tuple(map(group_key, groups)), zone) for port, groups, zone in inputs.policies}
    seen: set[int] = set()
    for uuid, port, location in zip(inputs.uuids, inputs.ports, inputs.locations, strict=True):
        if port is not None and port.shadow_of is not None:
            continue  # the MAC is its primary's, here and everywhere
        text = port.mac if port is not None else location.mac if location is not None else ""
        if not text:
            continue
        mac = mac_to_int(text)
        if mac in seen:  # of two ports with one MAC the first has it
            continue
        seen.add(mac)
        if location is None:
            yield uuid, PortView(mac=mac, mac_text=text)
            continue
        known = learned.get(uuid, ()) if port is None or not port.ips else ()
        if location.holder_host != inputs.host != location.incoming_host and uuid not in phases:
            yield uuid, _remote(port, location, mac, text)._replace(learned=known)
        else:
            phase, relay = phases.get(uuid, Phase.STEADY), relays.get(uuid, "")
            ofport = ofports.get(port.vif_uuid, 0) if port is not None and port.vif_uuid is not None else 0
            metered = port is not None and port.vif_uuid in inputs.metered
            view = _view(inputs.host, port, location, mac, text, ofport, metered, phase, relay, uuid in inputs.barred)
            others = port is not None and Allowance.NESTED in port.allow
            view = view._replace(
                learned=known,
                hushed=uuid in inputs.hushed,
                policy=policies.get(uuid),
                tickets=tickets.get(uuid, ()),
                subports=trunks.get(uuid, ()),
                several=others or (port is not None and bool(port.nested)),
                open=others,
            )
            yield uuid, view


def addresses_of(learned: Learned | None, mac: str = "") -> tuple[tuple[int, int], ...]:
    """The learned addresses of one MAC of a port, its own by default: IP version and number."""
    found = learned.addresses if learned is not None else ()
    return single_addresses(tuple(one.address for one in found if not one.refused and one.mac == mac))


def _remote(port: LogicalPort | None, location: Location, mac: int, text: str) -> PortView:
    """A port that this host has no part in: most are."""
    live = location.holder_host is not None and not location.parked
    return PortView(
        mac=mac,
        mac_text=text,
        ips=port.ips if port is not None else (),
        holder_vtep=location.holder_vtep if location.holder_host is not None else "",
        incoming_vtep=location.incoming_vtep if location.incoming_host is not None else "",
        live=live,
        bound=live and port is not None and port.admin_up,
    )


def _view(
    host: UUID,
    port: LogicalPort | None,
    location: Location,
    mac: int,
    text: str,
    ofport: int,
    metered: bool,
    phase: Phase,
    relay: str,
    barred: bool,
) -> PortView:
    here = location.holder_host == host
    state = VifState.DARK
    if port is not None:
        obstacle = "its groups can't be enforced" if barred else ""
        state, _ = standing(port=port, location=location, phase=phase, host=host, obstacle=obstacle)
    if state is VifState.INCOMING:
        phase = Phase.INCOMING  # its machine may not have heard yet
    elsewhere = location.holder_host is not None and not here
    live = elsewhere and not location.parked
    return PortView(
        mac=mac,
        mac_text=text,
        ips=port.ips if port is not None else (),
        allow=port.allow if port is not None else (),
        here=here,
        state=state,
        phase=phase,
        ofport=ofport if port is not None else 0,
        metered=metered,
        holder_vtep=location.holder_vtep if elsewhere else "",
        incoming_vtep=location.incoming_vtep if location.incoming_host not in (None, host) else "",
        relay_vtep=_relay_vtep(location, phase, host, relay),
        live=live,
        bound=(live and port is not None and port.admin_up) or (state is VifState.LIT and ofport > 0),
    )


def _relay_vtep(location: Location, phase: Phase, host: UUID, remembered: str) -> str:
    """The location's word where it has one, else what the port's machine remembers."""
    if phase is Phase.REDIRECTING:
        return location.incoming_vtep
    if location.holder_host != host and phase in (Phase.RELAYING, Phase.INCOMING, Phase.ACTIVATED):
        return location.holder_vtep
    return remembered


def _wire(network: OpaqueNetwork, intent: SwitchIntent, bridge: Bridge) -> Wire | Trunk | None:
    ofport = _exit_ofport(network.type, intent, bridge)
    if not network.type.tunneled:
        return Trunk(patch=ofport, vlan=network.segment_id) if ofport else None
    if not ofport or not intent.vtep:
        return None
    cut = intent.cut.get(network.type, frozenset())
    mask = _VSID_MASK if network.type is NetworkType.NVGRE else None
    return Wire(vtep=intent.vtep_address, tunnel=ofport, tun_id=tunnel_key(network), tun_mask=mask, cut=cut)


def _exit_ofport(kind: NetworkType, intent: SwitchIntent, bridge: Bridge) -> int:
    name = exit_port(kind, intent.switch.uuid)
    for port in bridge.ports:
        if port.name == name:
            return next((one.ofport for one in port.interfaces if one.ofport is not None and one.ofport > 0), 0)
    return 0
