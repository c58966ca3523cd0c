"""From what is wanted to the flows of one bridge.

`compile_flows` gathers, for each network of the switch, what the pipeline must know of its ports on this host
(`port_views`), and adds what `pipeline` makes of it. The promise of the whole: no two flows share table, priority and
match, so that what a bridge has can be compared with what it should have, flow by flow.

One change costs work for one network, and for one port of it where the host has no part in the port: the last
compilation of each switch is remembered, and so is which rows of the tables it had seen (`indexed`). What was changed
since is looked at; of each network what its flows depend on is gathered, without its remote ports, and compared with
last time's. Where the tables can't tell what was changed, each row is compared. That memory changes no answer.
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import chain
from operator import attrgetter
from typing import Any
from uuid import UUID

from hostagent.exits import exit_ofport, wire_of
from hostagent.flow import Flow
from hostagent.flow_set import FlowSet
from hostagent.group_memory import enforced_flows
from hostagent.indexed import Indexed, Overlaid, rows_of
from hostagent.model import Bridge, Desired, MeterLimit
from hostagent.names import network_key
from hostagent.pipeline.network import NetworkPorts, Trunk, Wire, network_flows, vtep_flows
from hostagent.pipeline.policy import policy_flows
from hostagent.pipeline.probe import entry_flow, probe_flows
from hostagent.pipeline.remote import NOWHERE, Elsewhere, Remote, Remotes, is_remote, remote_port
from hostagent.pipeline.tables import HELD_MAX, family_of, hold_flow, switch_flows
from hostagent.port_views import Inputs, keys_of, port_views
from hostagent.qos import meter_of
from hostagent.resolve import SwitchIntent
from hostagent.subports import tagged_ends
from hostagent.vifs import Taps, is_stateful, obstacle_to, tap_of, taps_of
from netmgr.contract.types import OpaqueNetwork, SecurityGroup

__all__ = ["compile_flows", "flows_of_ports"]

_Ports = Mapping[UUID, tuple[UUID, ...]]  # by network


def compile_flows(
    *,
    desired: Desired,
    intent: SwitchIntent,
    bridge: Bridge,
    realized: Set[Flow] = frozenset(),
    meters: Collection[MeterLimit] = (),
    remember: bool = True,
) -> FlowSet:
    """All flows that the *bridge* of *intent* should have.

    What has no ofport yet is left out and comes with a later reading. *realized* are the flows it has: they decide
    which of two taps with one VIF UUID stays lit. *meters* are those it has: a limit that is not among them yet comes
    with a later reading too, because the switch refuses flows with meters that it does not know. What is remembered
    saves time; without *remember* there are no flows of security groups.
    """
    memory = _recall(desired, intent) if remember else _Memory()
    gone, new = _follow(desired, intent, bridge, realized, meters, None, memory, groups=remember)
    if gone or new:
        memory.flows = memory.flows.changed(delete=gone, add=new)
    if remember:
        _remember(desired, intent, memory)
    return memory.flows


def flows_of_ports(
    *, desired: Desired, intent: SwitchIntent, bridge: Bridge, meters: Collection[MeterLimit], ports: _Ports
) -> frozenset[Flow]:
    """What `compile_flows` gives for *ports*, by network, a few: without flows of security groups, not remembered."""
    _, new = _follow(desired, intent, bridge, frozenset(), meters, ports, _Memory(), groups=False)
    return frozenset(new)


def _follow(
    desired: Desired,
    intent: SwitchIntent,
    bridge: Bridge,
    realized: Set[Flow],
    meters: Collection[MeterLimit],
    index: _Ports | None,
    memory: _Memory,
    *,
    groups: bool,
) -> tuple[list[Flow], list[Flow]]:
    """Bring *memory* up to date but for its flows, of which are to be deleted and added what is returned."""
    changes = _Changes(desired, memory, index)
    taps, trunks = taps_of(bridge, realized), tagged_ends(bridge, desired)
    had = cache(lambda: {flow: flow for flow in realized})
    delete: list[Iterable[Flow]] = []
    add: list[Iterable[Flow]] = []
    networks: dict[UUID, _Network] = {}
    exits = {kind: exit_ofport(kind, intent, bridge) for kind in intent.exits}
    for network in intent.networks:
        vtep = _vtep_of(network, intent, exits[network.type])
        one = memory.networks.pop(network.uuid, None)
        if one is None or one.vtep != vtep:
            if one is not None:
                delete.append(one.all_flows())
            one = _Network(key=network_key(network.uuid), vtep=vtep)
            touched: Iterable[UUID] = changes.all_of(network.uuid)
            known = had() if touched else {}
        else:
            touched, known = changes.of(network.uuid, one), {}
            if one.empty and not touched:  # most networks, on most hosts: it has no flows, whatever else there is
                networks[network.uuid] = one
                continue
        networks[network.uuid] = one
        wire = wire_of(network, intent, exits[network.type])
        gather = partial(_inputs, desired, network, taps, wire, meters, trunks)
        one.follow(desired, network, touched, gather, known, delete, add)
    delete += [gone.all_flows() for gone in memory.networks.values()]
    known_groups = desired.groups if groups else {}
    hold = intent.switch.uuid not in desired.hushed
    common = _Common.of(intent, bridge, networks.values(), known_groups, hold=hold)
    if common != memory.common:
        flows = frozenset(_common_flows(common, known_groups))
        delete.append(memory.common_flows - flows)
        add.append(flows - memory.common_flows)
        memory.common, memory.common_flows = common, flows
    memory.networks, memory.seen = networks, changes.seen
    return [*chain(*delete)], [*chain(*add)]


def _vtep_of(network: OpaqueNetwork, intent: SwitchIntent, exit_port: int) -> str | None:
    """As `_Network.vtep`; *exit_port* is the number of the port by which the network's type leaves, 0 for none."""
    if not network.type.tunneled:
        return ""
    return intent.vtep_address if exit_port and intent.vtep else None


def _ports_by_network(desired: Desired) -> dict[UUID, tuple[UUID, ...]]:
    """UUIDs of the ports of each network, sorted: those known, and those of which only the location is."""
    found: dict[int, list[UUID]] = {}
    for uuid, port in desired.ports.items():
        found.setdefault(port.network_uuid.int, []).append(uuid)
    for uuid in set(desired.locations).difference(desired.ports):
        found.setdefault(desired.locations[uuid].network_uuid.int, []).append(uuid)
    return {UUID(int=network): tuple(sorted(uuids, key=_NUMBER)) for network, uuids in found.items()}


_NUMBER = attrgetter("int")  # orders UUIDs as they order themselves, ten times as fast


# --- what was compiled --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Common:
    """What the flows depend on that belong to no network."""

    vtep: str = ""
    tunnels: tuple[int, ...] = ()
    vteps: frozenset[str] = frozenset()  # that frames may come from
    awaited: frozenset[int] = frozenset()  # MACs of ports that are held here and have no tap yet
    enforced: frozenset[UUID] = frozenset()  # groups that judge a port here
    groups: tuple[SecurityGroup, ...] = ()  # all that are known, if any judges

    @classmethod
    def of(
        cls,
        intent: SwitchIntent,
        bridge: Bridge,
        networks: Collection[_Network],
        groups: Mapping[UUID, SecurityGroup],
        *,
        hold: bool,
    ) -> _Common:
        vtep = intent.vtep_address
        enforced = frozenset[UUID]().union(*(one.groups for one in networks))
        awaited = frozenset[int]().union(*(one.awaited for one in networks))
        tunnels = (exit_ofport(kind, intent, bridge) for kind in intent.types if kind.tunneled)
        return cls(
            vtep=vtep,
            tunnels=tuple(number for number in tunnels if number) if vtep else (),
            vteps=frozenset[str]().union(*(one.vteps for one in networks)) - {"", vtep} if vtep else frozenset(),
            awaited=awaited if hold and len(awaited) <= HELD_MAX else frozenset(),
            enforced=enforced,
            groups=tuple(groups.values()) if enforced else (),
        )


def _common_flows(common: _Common, groups: Mapping[UUID, SecurityGroup]) -> Iterator[Flow]:
    family = family_of(common.vtep)
    yield from switch_flows(family)
    yield from map(hold_flow, common.awaited)
    if common.groups:
        yield from policy_flows()
        yield from enforced_flows(groups, common.enforced)
    if common.vtep:
        yield from probe_flows(family)
        yield from map(entry_flow, common.tunnels)
        yield from vtep_flows(sorted(common.vteps), family)


@dataclass(slots=True, kw_only=True)
class _Network:
    """One network, as it was compiled last."""

    key: int
    vtep: str | None  # this host's, by which it leaves; "" on a VLAN, None where it does not leave
    remotes: Remotes = field(default_factory=Remotes)
    rest: dict[int, UUID] = field(default_factory=dict)  # the other ports, by number of their UUID
    together: bool = False  # a MAC or an address is of two ports: none is looked at without the others
    inputs: Inputs | None = None
    flows: frozenset[Flow] = frozenset()  # without those of remote ports, unless these are looked at with the others
    vteps: frozenset[str] = frozenset()  # that frames of the network may come from
    groups: frozenset[UUID] = frozenset()  # that judge a port of the network here
    awaited: frozenset[int] = frozenset()  # MACs of ports that are held here and have no tap yet

    @property
    def empty(self) -> bool:
        """True while no port of it is known: nobody speaks or hears there."""
        return self.inputs is not None and not self.rest and not self.remotes

    def all_flows(self) -> Iterator[Flow]:
        yield from self.flows
        if not self.together:
            yield from self.remotes.flows()

    def follow(
        self,
        desired: Desired,
        network: OpaqueNetwork,
        touched: Iterable[UUID],
        gather: Callable[[Iterable[UUID], Elsewhere], Inputs],
        had: Mapping[Flow, Flow],
        delete: list[Iterable[Flow]],
        add: list[Iterable[Flow]],
    ) -> None:
        """Compile what has changed since the last time; what it has flows for is put into *delete* and *add*.

        The ports *touched* may be others than they were, and no others are. *gather* gives the inputs of some ports,
        *had* are flows to take instead of equal ones.
        """
        gone: list[Flow] = []
        new: list[Flow] = []
        moved = self._sort(desired, network, touched, had, gone, new)
        inputs = self._gather(gather, together=self.together)
        if self.inputs is not None and not moved and _yields(self, inputs):
            return
        apart = self._gather(gather, together=False) if self.together else inputs
        views = tuple(port_views(apart))
        together = not self.remotes.distinct(keys_of(views))
        if together:
            inputs = self._gather(gather, together=True)
            views = tuple(port_views(inputs))
        else:
            inputs = apart
        ports = NetworkPorts(
            key=self.key,
            wire=inputs.wire,
            ports=views,
            elsewhere=inputs.elsewhere,
            alone=inputs.alone,
            hushed=inputs.network.uuid in inputs.hushed,
            writes_nd=inputs.datapath != "system",
        )
        flows = frozenset(network_flows(ports)) if self.rest or self.remotes else frozenset()
        if together != self.together:
            delete += [[*self.flows], gone, [*self.remotes.flows()]]
            add += [flows, () if together else [*self.remotes.flows()]]
        else:
            delete += [self.flows - flows, () if together else gone]
            add += [flows - self.flows, () if together else new]
        self.together, self.inputs, self.flows = together, inputs, flows
        self.vteps = frozenset(vtep for place in ports.places() for vtep in (place.holder_vtep, place.incoming_vtep))
        self.awaited = frozenset(view.mac for view in views if view.awaited)
        self.groups = frozenset(group for _, groups, _ in inputs.policies for group in groups)

    def _sort(
        self,
        desired: Desired,
        network: OpaqueNetwork,
        touched: Iterable[UUID],
        had: Mapping[Flow, Flow],
        gone: list[Flow],
        new: list[Flow],
    ) -> bool:
        """Put each port that was touched where it belongs; whether a remote one is not as it was."""
        moved = False
        coming: dict[int, Remote] = {}
        host = desired.host.uuid if desired.host is not None else None
        ports, locations, learned = desired.ports, desired.locations, desired.learned
        moving = {*desired.phases, *desired.relay_vteps}
        for uuid in touched:  # ten thousand at a start
            number = uuid.int
            port, location = ports.get(uuid), locations.get(uuid)
            belongs = port if port is not None else location
            one = self.remotes.get(number)
            if belongs is None or belongs.network_uuid.int != network.uuid.int:
                self.rest.pop(number, None)
            elif host is None or location is None or (moving and uuid in moving) or not is_remote(host, port, location):
                self.rest[number] = uuid
            else:
                known = learned.get(uuid) if learned else None
                if one is not None and one.port is port and one.location is location and one.learned is known:
                    continue
                self.rest.pop(number, None)
                kept = {flow: flow for flow in one.flows} if one is not None else had
                made = remote_port(self.key, self.vtep, port, location, known, kept)
                gone += one.flows if one is not None else ()
                new += made.flows
                coming[number] = made
                continue
            if one is not None:
                gone += one.flows
                self.remotes.drop(number)
                moved = True
        self.remotes.take(coming)
        return moved or bool(coming)

    def _gather(self, gather: Callable[[Iterable[UUID], Elsewhere], Inputs], *, together: bool) -> Inputs:
        rest = self.rest
        if together:
            rest = {**rest, **{number: UUID(int=number) for number in self.remotes.numbers()}}
        ordered = [rest[number] for number in sorted(rest)]
        return gather(ordered, NOWHERE if together else self.remotes.summary())


def _yields(known: _Network, inputs: Inputs) -> bool:
    """Whether *inputs* would give what is known: equal, or different in peers only that the network has no part in."""
    assert known.inputs is not None
    if known.inputs == inputs:
        return True
    before, after = known.inputs.wire, inputs.wire
    if not isinstance(before, Wire) or not isinstance(after, Wire):
        return False
    changed = before.cut ^ after.cut
    if not known.vteps.isdisjoint(changed) or any(vtep in changed for _, vtep in inputs.relay_vteps):
        return False
    return known.inputs._replace(wire=replace(before, cut=after.cut)) == inputs


@dataclass(frozen=True, slots=True)
class _Seen:
    """How far the tables of ports, locations and learned addresses were looked at."""

    tables: tuple[Indexed[Any], ...] = ()
    marks: tuple[int, ...] = ()
    others: frozenset[UUID] = frozenset()  # rows that were laid over these; ports in motion


@dataclass(slots=True)
class _Memory:
    """One switch, as it was compiled last."""

    networks: dict[UUID, _Network] = field(default_factory=dict)
    common: _Common | None = None
    common_flows: frozenset[Flow] = frozenset()
    flows: FlowSet = field(default_factory=FlowSet)
    seen: _Seen = field(default_factory=_Seen)


_memory: OrderedDict[tuple[UUID, UUID], _Memory] = OrderedDict()
_SWITCHES_MAX = 64


def _recall(desired: Desired, intent: SwitchIntent) -> _Memory:
    """What is known, to be changed, and given back by `_remember`: a compilation that fails leaves nothing behind."""
    known = _memory.pop((desired.host.uuid, intent.switch.uuid), None) if desired.host is not None else None
    return known if known is not None else _Memory()


def _remember(desired: Desired, intent: SwitchIntent, memory: _Memory) -> None:
    if desired.host is not None:
        _memory[desired.host.uuid, intent.switch.uuid] = memory
        while len(_memory) > _SWITCHES_MAX:
            _memory.popitem(last=False)


class _Changes:
    """Which ports are to be looked at, since what is in a memory was compiled."""

    def __init__(self, desired: Desired, memory: _Memory, index: Mapping[UUID, tuple[UUID, ...]] | None) -> None:
        tables = [_split(table) for table in (desired.ports, desired.locations, desired.learned)]
        bases = tuple(base for base, _ in tables if isinstance(base, Indexed))
        moving = (desired.phases, desired.relay_vteps)
        others = frozenset(chain(*(over for _, over in tables), *moving))
        self.seen = _Seen()
        self._desired = desired
        self._index = index
        self._indexed = len(bases) == len(tables) and index is None
        self._touched: set[UUID] | None = None
        if self._indexed:
            self.seen = _Seen(bases, tuple(base.mark for base in bases), others)
            before = memory.seen
            if len(before.tables) == len(bases) and all(map(operator.is_, before.tables, bases)):
                found = [base.changes(since) for base, since in zip(bases, before.marks, strict=True)]
                if None not in found:
                    self._touched = set(chain(others, before.others, *(rows for rows in found if rows is not None)))
        self._by_network: dict[int, list[UUID]] = {}
        for uuid in self._touched or ():
            row = desired.ports.get(uuid) or desired.locations.get(uuid)
            self._by_network.setdefault(row.network_uuid.int if row is not None else -1, []).append(uuid)

    def all_of(self, network: UUID) -> Iterable[UUID]:
        """All ports of *network*."""
        ports, locations = self._desired.ports, self._desired.locations
        if self._indexed and not rows_of(ports, network) and not rows_of(locations, network):
            return ()
        if self._index is None:
            self._index = _ports_by_network(self._desired)
        return self._index.get(network, ())

    def of(self, network: UUID, known: _Network) -> Iterable[UUID]:
        """Those of *network*, or *known* to be of it, that may not be as they were."""
        if self._touched is None:
            return {*self.all_of(network), *(UUID(int=number) for number in (*known.rest, *known.remotes.numbers()))}
        if not self._by_network:
            return ()
        here = self._by_network.get(network.int, [])
        left = [
            uuid
            for other, uuids in self._by_network.items()
            if other != network.int
            for uuid in uuids
            if uuid.int in known.rest or uuid.int in known.remotes
        ]
        return [*here, *left]


def _split(table: Mapping[UUID, Any]) -> tuple[Mapping[UUID, Any], Collection[UUID]]:
    return (table.base, table.over.keys()) if isinstance(table, Overlaid) else (table, ())


# --- one network at a time ----------------------------------------------------------------------------------------


def _inputs(
    desired: Desired,
    network: OpaqueNetwork,
    taps: Taps,
    wire: Wire | Trunk | None,
    meters: Collection[MeterLimit],
    trunks: Mapping[UUID, tuple[tuple[int, int], ...]],
    uuids: Iterable[UUID],
    elsewhere: Elsewhere,
) -> Inputs:
    uuids = tuple(uuids)
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
    return Inputs(
        host=desired.host.uuid if desired.host is not None else None,
        datapath=desired.datapath,
        network=network,
        wire=wire,
        elsewhere=elsewhere,
        uuids=uuids,
        ports=ports,
        locations=locations,
        alone=desired.alone
        and (elsewhere.parked or any(location is not None and location.parked for location in locations)),
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
