"""Who must know what: the span of each object, as pure functions of `World`.

A host carries its own configuration with a few neighbours on its switches, the zones it is in, the switches and
networks of those zones, what is withdrawn from it of those networks, and of the ports and their locations only what it
needs: those of the networks it subscribes to (it has a VIF there, so it forwards to all of them), and those it holds or
is about to. A host that only holds a port of a network it has left keeps that port, so that it can be told who has it
next, but nothing else of the network. Of security groups it carries those of the ports that it holds or is about to,
and those that rules of these refer to, whose members it must know; a group is pushed with the addresses of its
members, also of ports on networks that the host has nothing to do with.

One rule, read in three directions. `objects_for` is the whole of one host, `object_for` is one object of it, and
`hosts_for` are the hosts one object goes to. After a commit, `touched` names the objects whose span or value a change
may have altered; what a host must be sent then follows from these few keys, and the rest of the world is not looked at.
A test holds the three directions to each other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from netmgr.contract.types import (
    Constructs,
    HostConfig,
    Kind,
    Learned,
    Location,
    LogicalPort,
    Object,
    OpaqueNetwork,
    OpaqueSwitch,
    SecurityGroup,
    TransportZone,
    TunnelPeer,
    Withdrawal,
)
from netmgr.model import Change, GroupRecord, HostRecord, World
from netmgr.rules.groups import members_of

__all__ = [
    "Holdings",
    "Key",
    "Touched",
    "host_config",
    "hosts_for",
    "object_for",
    "objects_for",
    "security_group",
    "touched",
]

Key = tuple[Kind, UUID]

_PUSHED = frozenset(Kind)
_OF_PORTS = (Kind.PORT, Kind.LOCATION, Kind.LEARNED)  # filed under a port's UUID, and where the port goes they go
_Spanned = TransportZone | OpaqueSwitch | OpaqueNetwork | Withdrawal | LogicalPort | Location | Learned


@dataclass(slots=True)
class Holdings:
    """Which ports each host holds or is incoming for: the one index of locations that the span needs."""

    ports_of: dict[UUID, set[UUID]] = field(default_factory=dict)

    @classmethod
    def of(cls, world: World) -> Holdings:
        """The index of all locations of *world*."""
        holdings = cls()
        for location in world.locations.values():
            holdings.move(before=None, after=location)
        return holdings

    def move(self, *, before: Location | None, after: Location | None) -> None:
        """Take one change of one port's location."""
        for host in _parties(before):
            self.ports_of[host].discard(before.port_uuid)  # type: ignore[union-attr]
            if not self.ports_of[host]:
                del self.ports_of[host]
        for host in _parties(after):
            self.ports_of.setdefault(host, set()).add(after.port_uuid)  # type: ignore[union-attr]

    def of_host(self, host_uuid: UUID) -> Collection[UUID]:
        """Ports that *host_uuid* holds or is incoming for."""
        return self.ports_of.get(host_uuid, frozenset())


@dataclass(slots=True)
class Touched:
    """What a set of changes may have altered: single objects, single objects of one host, and hosts whose whole span
    must be looked at again."""

    keys: set[Key] = field(default_factory=set)
    of_host: dict[UUID, set[Key]] = field(default_factory=dict)
    hosts: set[UUID] = field(default_factory=set)


def objects_for(
    world: World, host_uuid: UUID, subscribed: Collection[UUID], held: Collection[UUID] | None = None
) -> dict[Key, Object]:
    """Everything *host_uuid* must hold, by kind and UUID; empty for a host that is not enrolled.

    *subscribed* are the networks whose ports it wants. *held* are the ports it holds or is incoming for; without it,
    all locations are searched.
    """
    host = world.hosts.get(host_uuid)
    if host is None:
        return {}
    if held is None:
        held = Holdings.of(world).of_host(host_uuid)
    keys = _keys_of_host(world, host_uuid, held)
    found = ((key, object_for(world, host_uuid, subscribed, key, held)) for key in keys)
    return {key: item for key, item in found if item is not None} | _of_networks(world, host, subscribed)


def object_for(
    world: World, host_uuid: UUID, subscribed: Collection[UUID], key: Key, held: Collection[UUID] | None = None
) -> Object | None:
    """The object *key* as *host_uuid* must hold it, or None if it must not. Costs the same in a world of any size, if
    *held* is given (see `objects_for`)."""
    host = world.hosts.get(host_uuid)
    if host is None:
        return None
    kind, uuid = key
    body: Constructs | None
    if kind is Kind.HOST:
        body = host_config(world, host) if uuid == host_uuid else None
    elif kind is Kind.SECURITY_GROUP:
        held = Holdings.of(world).of_host(host_uuid) if held is None else held
        group = world.groups.get(uuid)
        needed = group is not None and any(uuid in _groups_of_port(world, port) for port in held)
        body = security_group(world, group) if group is not None and needed else None
    else:
        row = world.rows(kind).get(uuid)
        assert row is None or isinstance(row, _Spanned)
        body = row if row is not None and _spans(world, host, subscribed, row) else None
    if isinstance(body, HostConfig):
        newest = max(world.versions[key], world.neighbours_at.get(host_uuid, 0))
        return Object(version=newest, body=body)
    return None if body is None else Object(version=world.versions[key], body=body)


def hosts_for(world: World, key: Key, subscribers: Mapping[UUID, Collection[UUID]]) -> Iterator[UUID]:
    """Candidates for holding *key*: every host that must hold it is among them, a few others may be.

    *subscribers* are the hosts by network they subscribe to. A port's candidates are found without a look at any host
    that has nothing to do with its network.
    """
    kind, uuid = key
    if kind is Kind.HOST:
        yield uuid
    elif kind in _OF_PORTS:
        port, location = world.ports.get(uuid), world.locations.get(uuid)
        if port is not None:
            yield from subscribers.get(port.network_uuid, ())
        yield from _parties(location)
    elif kind is Kind.SECURITY_GROUP:
        for group in (uuid, *world.groups_referring.get(uuid, ())):
            for member in world.ports_by_group.get(group, ()):
                yield from _parties(world.locations.get(member))
    else:
        zones = _zones_of(world, key)
        if not zones:  # nobody's: an object that is not there, or no longer
            return
        yield from (h.uuid for h in world.hosts.values() if not zones.isdisjoint(h.zone_uuids))


def touched(world: World, changes: Iterable[Change]) -> Touched:
    """What *changes* may have altered, judged in *world* after them. The value of an object includes who spans it."""
    result = Touched()
    for change in changes:
        if change.kind not in _PUSHED:
            continue  # of no concern to hosts: tokens, quarantined segments
        kind = Kind(change.kind)
        if kind is Kind.HOST:
            result.hosts.add(change.uuid)
            for switch in world.hosts_by_switch:
                for neighbour in world.neighbours(switch, change.uuid):
                    result.of_host.setdefault(neighbour, set()).add((kind, neighbour))
        elif kind in _OF_PORTS:
            result.keys |= {(one, change.uuid) for one in _OF_PORTS}
            groups = {(Kind.SECURITY_GROUP, group) for group in _groups_of_port(world, change.uuid)}
            for host in _parties(world.locations.get(change.uuid)) if groups else ():
                result.of_host.setdefault(host, set()).update(groups)
        else:
            result.keys.add((kind, change.uuid))
        if kind is Kind.SECURITY_GROUP and change.uuid in world.groups:  # hosts of it may need others for it now
            result.keys |= {(kind, group) for group in world.groups[change.uuid].refers_to()}
        if kind is Kind.NETWORK:  # it may have appeared, gone or changed zone: what is of it follows it
            result.keys |= {(Kind.WITHDRAWAL, withdrawal.uuid) for withdrawal in world.withdrawals_of(change.uuid)}
            for port in world.ports_by_network.get(change.uuid, ()):
                result.keys |= {(one, port) for one in _OF_PORTS}
    return result


def host_config(world: World, host: HostRecord) -> HostConfig:
    """What a host is told of itself, and of its neighbours on its switches."""
    return HostConfig(
        uuid=host.uuid,
        name=host.name,
        zone_uuids=host.zone_uuids,
        vteps=host.vteps,
        peers=tuple(
            TunnelPeer(switch_uuid=switch, host_uuid=other.uuid, host_name=other.name, vtep=vtep)
            for switch in sorted(assignment.switch_uuid for assignment in host.vteps)
            for other in (world.hosts[uuid] for uuid in world.neighbours(switch, host.uuid))
            for vtep in (one.address.partition("/")[0] for one in other.vteps if one.switch_uuid == switch)
        ),
    )


def security_group(world: World, group: GroupRecord) -> SecurityGroup:
    """What a host is told of a group: its rules, and the addresses of its members now."""
    return SecurityGroup(
        uuid=group.uuid,
        name=group.name,
        stateful=group.stateful,
        rules=group.rules,
        members=members_of(world, group.uuid),
    )


def _groups_of_port(world: World, port_uuid: UUID) -> set[UUID]:
    """The groups that must be known where this port is: its own, and those they refer to."""
    port = world.ports.get(port_uuid)
    own = [world.groups[uuid] for uuid in port.security_groups if uuid in world.groups] if port is not None else []
    return {group.uuid for group in own}.union(*(group.refers_to() for group in own))


def _of_networks(world: World, host: HostRecord, subscribed: Collection[UUID]) -> dict[Key, Object]:
    """What belongs to ports of the networks that *host* subscribes to and is in the zone of: `_spans`, of ten thousand
    ports at once."""
    networks = [world.networks[uuid] for uuid in subscribed if uuid in world.networks]
    ports = [
        port
        for network in networks
        if network.zone_uuid in host.zone_uuids
        for port in world.ports_by_network.get(network.uuid, ())
    ]
    found: dict[Key, Object] = {}
    for kind in _OF_PORTS:
        rows = world.rows(kind)
        for port in ports:
            row = rows.get(port)
            if row is not None:
                assert isinstance(row, _Spanned)
                key = (kind, port)
                found[key] = Object(version=world.versions[key], body=row)
    return found


def _keys_of_host(world: World, host_uuid: UUID, held: Collection[UUID]) -> Iterator[Key]:
    yield Kind.HOST, host_uuid
    for kind in (Kind.ZONE, Kind.SWITCH, Kind.NETWORK, Kind.WITHDRAWAL):
        yield from ((kind, uuid) for uuid in world.rows(kind))
    groups = set().union(*(_groups_of_port(world, port) for port in held))
    yield from ((Kind.SECURITY_GROUP, uuid) for uuid in groups)
    for kind in _OF_PORTS:
        yield from ((kind, uuid) for uuid in held)


def _spans(world: World, host: HostRecord, subscribed: Collection[UUID], row: _Spanned) -> bool:
    if isinstance(row, TransportZone):
        return row.uuid in host.zone_uuids
    if isinstance(row, OpaqueSwitch):
        return any(zone in host.zone_uuids for zone in row.zone_uuids)
    if isinstance(row, OpaqueNetwork):
        return row.zone_uuid in host.zone_uuids
    if isinstance(row, Withdrawal):
        hidden = world.networks.get(row.network_uuid)
        return hidden is not None and hidden.zone_uuid in host.zone_uuids and row.host_uuid in (None, host.uuid)
    port_uuid = row.uuid if isinstance(row, LogicalPort) else row.port_uuid
    location = world.locations.get(port_uuid)
    if host.uuid in _parties(location):
        return True
    network = world.networks.get(row.network_uuid)
    return network is not None and network.uuid in subscribed and network.zone_uuid in host.zone_uuids


def _zones_of(world: World, key: Key) -> set[UUID]:
    kind, uuid = key
    if kind is Kind.ZONE:
        return {uuid}
    if kind is Kind.SWITCH:
        switch = world.switches.get(uuid)
        return set(switch.zone_uuids) if switch else set()
    if kind is Kind.WITHDRAWAL:
        withdrawal = world.withdrawals.get(uuid)
        uuid = withdrawal.network_uuid if withdrawal else uuid
    network = world.networks.get(uuid)
    return {network.zone_uuid} if network else set()


def _parties(location: Location | None) -> set[UUID]:
    if location is None:
        return set()
    return {host for host in (location.holder_host, location.incoming_host) if host is not None}
