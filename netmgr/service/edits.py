"""Edits of one transaction: a spec becomes a row, numbers are chosen, the rules look at it, it is put.

What follows from an edit is put with it: hosts' VTEPs when zones or switches change, locations' addresses when VTEPs
change, a port's location with the port, the members of its groups, the quarantine of a removed network's segment id. So
every committed revision is whole. The verbs in `netmgr.service` wrap one edit in one transaction; `apply` wraps many.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from typing import Any
from uuid import UUID, uuid4

from netmgr import allocate, rules
from netmgr.contract.types import (
    Allowance,
    AttachMode,
    Kind,
    Learned,
    Location,
    LogicalPort,
    NestedMac,
    NetworkType,
    OpaqueNetwork,
    OpaqueSwitch,
    Teaming,
    TrafficClasses,
    TransportZone,
    ZoneKind,
)
from netmgr.model import FREED_SEGMENT, FreedSegment, HostRecord, NetmgrError, location_mac
from netmgr.rules.encapsulation import network_mtu_max
from netmgr.service.groups import delete_port, put_port
from netmgr.service.lookup import find_groups, find_network, find_port, find_zone, find_zones
from netmgr.service.specs import (
    HostPatch,
    NetworkPatch,
    NetworkSpec,
    PortPatch,
    PortSpec,
    SwitchPatch,
    SwitchSpec,
    ZonePatch,
    ZoneSpec,
)
from netmgr.store import Transaction

__all__ = [
    "add_network",
    "add_port",
    "add_switch",
    "add_zone",
    "detach_port",
    "drop_host",
    "drop_network",
    "drop_port",
    "drop_switch",
    "drop_zone",
    "put_learned",
    "put_location",
    "retire_port",
    "set_host",
    "set_network",
    "set_port",
    "set_switch",
    "set_zone",
    "settle_learned",
    "settle_vteps",
    "tell_mac",
]


def add_zone(tx: Transaction, spec: ZoneSpec) -> TransportZone:
    zone = TransportZone(uuid=uuid4(), name=spec.name, kind=ZoneKind(spec.kind))
    rules.check_zone(tx.world, zone)
    tx.put(zone)
    return zone


def set_zone(tx: Transaction, zone: TransportZone, patch: ZonePatch) -> TransportZone:
    changed = replace(zone, **_given(patch, kind=ZoneKind))
    rules.check_zone(tx.world, changed)
    tx.put(changed)
    return changed


def drop_zone(tx: Transaction, zone: TransportZone) -> None:
    rules.check_zone_removal(tx.world, zone)
    tx.delete(Kind.ZONE, zone.uuid)


def add_switch(tx: Transaction, spec: SwitchSpec) -> OpaqueSwitch:
    switch = OpaqueSwitch(
        uuid=uuid4(),
        name=spec.name,
        zone_uuids=find_zones(tx.world, spec.zones),
        pnic_globs=tuple(spec.pnic_globs),
        mtu=spec.mtu,
        vtep_pool=spec.vtep_pool,
        teaming=Teaming(spec.teaming),
        traffic_classes=_traffic_classes(spec.traffic_classes.model_dump()),
    )
    return _put_switch(tx, switch)


def set_switch(tx: Transaction, switch: OpaqueSwitch, patch: SwitchPatch) -> OpaqueSwitch:
    values = _given(patch, pnic_globs=tuple, teaming=Teaming, traffic_classes=_traffic_classes)
    if "zones" in values:
        values["zone_uuids"] = find_zones(tx.world, values.pop("zones"))
    return _put_switch(tx, replace(switch, **values))


def _traffic_classes(values: Mapping[str, int]) -> TrafficClasses:
    return TrafficClasses(**values)


def drop_switch(tx: Transaction, switch: OpaqueSwitch) -> None:
    rules.check_switch_removal(tx.world, switch)
    tx.delete(Kind.SWITCH, switch.uuid)
    settle_vteps(tx)


def add_network(tx: Transaction, spec: NetworkSpec, *, acked: Mapping[UUID, int]) -> OpaqueNetwork:
    """*acked* are the revisions that hosts have acknowledged: they end quarantines of segment ids."""
    for freed in rules.freed_segments_to_release(tx.world, acked=acked):
        tx.delete(FREED_SEGMENT, freed.uuid)
    zone = find_zone(tx.world, spec.zone)
    switch = tx.world.switch_of_zone(zone.uuid)
    if switch is None:
        raise NetmgrError(
            f"network {spec.name}: zone {zone.name} is carried by no switch; create one first: "
            f"netmgr switch create NAME --zone {zone.name} --vtep-pool CIDR",
            status=409,
        )
    default = NetworkType.VLAN if zone.kind is ZoneKind.VLAN else NetworkType.VXLAN
    network_type = NetworkType(spec.type) if spec.type is not None else default
    network = OpaqueNetwork(
        uuid=uuid4(),
        name=spec.name,
        type=network_type,
        zone_uuid=zone.uuid,
        switch_uuid=switch.uuid,
        segment_id=allocate.segment_id(tx.world, switch, network_type) if spec.segment_id is None else spec.segment_id,
        attach_mode=AttachMode(spec.attach_mode),
        mtu=network_mtu_max(network_type, switch) if spec.mtu is None else spec.mtu,
        subnets=tuple(spec.subnets),
    )
    rules.check_network(tx.world, network)
    tx.put(network)
    return network


def set_network(tx: Transaction, network: OpaqueNetwork, patch: NetworkPatch) -> OpaqueNetwork:
    values = _given(patch, type=NetworkType, attach_mode=AttachMode, subnets=tuple)
    if "zone" in values:
        values["zone_uuid"] = find_zone(tx.world, values.pop("zone")).uuid
    changed = replace(network, **values)
    rules.check_network(tx.world, changed)
    tx.put(changed)
    return changed


def drop_network(tx: Transaction, network: OpaqueNetwork) -> None:
    """Its segment id goes into quarantine, its unattached ports with it."""
    rules.check_network_removal(tx.world, network)
    for withdrawal in tx.world.withdrawals_of(network.uuid):
        tx.delete(Kind.WITHDRAWAL, withdrawal.uuid)
    for port_uuid in tuple(tx.world.ports_by_network.get(network.uuid, ())):
        delete_port(tx, port_uuid)
    tx.delete(Kind.NETWORK, network.uuid)
    carriers = (host.uuid for host in tx.world.hosts.values() if network.zone_uuid in host.zone_uuids)
    tx.put(
        FreedSegment(
            uuid=network.uuid,
            network_name=network.name,
            switch_uuid=network.switch_uuid,
            segment_id=network.segment_id,
            host_uuids=tuple(sorted(carriers)),
        )
    )


def set_host(tx: Transaction, host: HostRecord, patch: HostPatch) -> HostRecord:
    values = _given(patch)
    if "zones" in values:
        values["zone_uuids"] = find_zones(tx.world, values.pop("zones"))
    changed = replace(host, **values)
    rules.check_host(tx.world, changed)
    tx.put(changed)
    settle_vteps(tx)
    return tx.world.hosts[host.uuid]


def drop_host(tx: Transaction, host: HostRecord) -> None:
    rules.check_host_removal(tx.world, host)
    for location in tuple(tx.world.locations.values()):
        if location.holder_host == host.uuid:
            _unbind(tx, location)
    for withdrawal in tuple(tx.world.withdrawals.values()):
        if withdrawal.host_uuid == host.uuid:
            tx.delete(Kind.WITHDRAWAL, withdrawal.uuid)
    tx.delete(Kind.HOST, host.uuid)


def add_port(tx: Transaction, spec: PortSpec) -> LogicalPort:
    network = find_network(tx.world, spec.network)
    uuid = uuid4()
    parent = None if spec.parent is None else find_port(tx.world, spec.parent)
    vif = None if parent is None else uuid
    port = LogicalPort(
        uuid=uuid,
        name=spec.name,
        network_uuid=network.uuid,
        vif_uuid=vif if spec.vif_uuid is None else UUID(spec.vif_uuid),
        parent_port=None if parent is None else parent.uuid,
        tag=spec.tag,
        **(_of_itself(tx, network, uuid, spec) if spec.shadow_of is None else _mirrored(tx, network, spec)),
    )
    rules.check_port(tx.world, port)
    rules.check_port_groups(tx.world, port)
    rules.check_shadow(tx.world, port)
    rules.check_subport(tx.world, port)
    put_port(tx, port)
    settle_learned(tx, port)
    version = allocate.next_version(0, now_ms=_now_ms())
    tx.put(Location(port_uuid=port.uuid, network_uuid=network.uuid, mac=location_mac(port), version=version))
    if parent is not None and parent.uuid in tx.world.locations:
        settle_subports(tx, tx.world.locations[parent.uuid])
    return port


def put_location(tx: Transaction, location: Location) -> None:
    """Put *location*; sub-ports go with their parent."""
    tx.put(location)
    settle_subports(tx, location)


def settle_subports(tx: Transaction, location: Location) -> None:
    """Bring the sub-ports of *location*'s port where that is."""
    for one in tuple(rules.following(tx.world, location, now_ms=_now_ms())):
        tx.put(one)


def _of_itself(tx: Transaction, network: OpaqueNetwork, uuid: UUID, spec: PortSpec) -> dict[str, Any]:
    mac = _default_mac(tx, network, uuid, spec) if spec.mac is None else spec.mac.lower()
    return {
        "mac": mac,
        "ips": _addresses(spec.ips),
        "admin_up": spec.admin_up,
        "security_groups": find_groups(tx.world, spec.security_groups),
        "allow": _allowances(spec.allow),
        "nested": _nested([one.model_dump() for one in spec.nested]),
        "egress_kbps": spec.egress_kbps,
        "ingress_kbps": spec.ingress_kbps,
    }


def _default_mac(tx: Transaction, network: OpaqueNetwork, uuid: UUID, spec: PortSpec) -> str:
    """Of a sub-port its parent's, which a guest's VLAN interface has by itself, if it is free on the network."""
    parent = None if spec.parent is None else find_port(tx.world, spec.parent)
    if parent is not None and ("mac", network.uuid, parent.mac) not in tx.world.unique:
        return parent.mac
    return allocate.mac_of(tx.world, network_uuid=network.uuid, port_uuid=uuid)


def _mirrored(tx: Transaction, network: OpaqueNetwork, spec: PortSpec) -> dict[str, Any]:
    """What a shadow has of its primary, but for what the user insists on: that is for the rules to refuse."""
    assert spec.shadow_of is not None
    primary = _find_primary(tx, network, spec.shadow_of)
    groups = partial(find_groups, tx.world)
    convert = {"security_groups": groups, "allow": _allowances, "nested": _nested}
    given = _given(spec, mac=str.lower, ips=_addresses, **convert)
    same = rules.mirrored(primary)
    return {**same, **{name: value for name, value in given.items() if name in same}, "shadow_of": primary.uuid}


def _find_primary(tx: Transaction, network: OpaqueNetwork, text: str) -> LogicalPort:
    """The port that *text* means on *network*: by UUID, by name there, or as NETWORK/NAME."""
    told = any(mark in text for mark in "/:")
    return find_port(tx.world, text, network=None if told else str(network.uuid))


def set_port(tx: Transaction, port: LogicalPort, patch: PortPatch) -> LogicalPort:
    groups = partial(find_groups, tx.world)
    convert = {"security_groups": groups, "allow": _allowances, "nested": _nested}
    values = _given(patch, vif_uuid=UUID, mac=str.lower, ips=_addresses, **convert)
    if "network" in values:
        values["network_uuid"] = find_network(tx.world, values.pop("network")).uuid
    if "parent" in values:
        values["parent_port"] = find_port(tx.world, values.pop("parent")).uuid
    _refuse_vif_of_subport(tx, port, values)
    wanted_vif = values.get("vif_uuid", port.vif_uuid)
    if port.vif_uuid is not None and wanted_vif != port.vif_uuid:
        raise NetmgrError(
            f"port {port.name}: VIF {port.vif_uuid} is attached to it; detach that before attaching {wanted_vif}",
            status=409,
        )
    if "shadow_of" in values:
        _check_same_pair(tx, port, values.pop("shadow_of"))
    changed = replace(port, **values)
    rules.check_port(tx.world, changed)
    rules.check_port_groups(tx.world, changed)
    rules.check_shadow(tx.world, changed)
    rules.check_subport(tx.world, changed)
    put_port(tx, changed)
    if changed.mac != port.mac:  # another MAC is another guest
        tx.delete(Kind.LEARNED, port.uuid)
    settle_learned(tx, changed)
    for uuid in tuple(tx.world.shadows_of.get(port.uuid, ())):
        shadow = tx.world.ports[uuid]
        put_port(tx, replace(shadow, **rules.mirrored(changed)))
    tell_mac(tx, changed)
    return changed


def settle_learned(tx: Transaction, port: LogicalPort) -> None:
    """After *port* was put: what is learned, of it and of others, yields to what is defined for it."""
    kept = rules.kept_row(tx.world, port)
    for row in (*rules.evicted_rows(tx.world, port), *((kept,) if kept is not None else ())):
        put_learned(tx, row)


def put_learned(tx: Transaction, row: Learned) -> None:
    """Put *row*, or remove it where it is empty."""
    if row.addresses or row.macs:
        tx.put(row)
    else:
        tx.delete(Kind.LEARNED, row.port_uuid)


def _check_same_pair(tx: Transaction, port: LogicalPort, text: str) -> None:
    """Who is whose shadow is changed by failover only; after one, a document that names the pair still holds."""
    other = _find_primary(tx, tx.world.networks[port.network_uuid], text)
    if port.shadow_of != other.uuid and other.shadow_of != port.uuid:
        raise NetmgrError(
            f"port {port.name}: is no shadow of port {other.name}, and can't become one; delete it and create another",
            status=409,
        )


def tell_mac(tx: Transaction, port: LogicalPort) -> None:
    """Make the location of *port* carry the MAC that peers shall see at it."""
    location = tx.world.locations.get(port.uuid)
    if location is not None and location.mac != location_mac(port):
        version = allocate.next_version(location.version, now_ms=_now_ms())
        tx.put(replace(location, mac=location_mac(port), version=version))


def _refuse_vif_of_subport(tx: Transaction, port: LogicalPort, values: Mapping[str, Any]) -> None:
    if port.parent_port is not None and "vif_uuid" in values:
        parent = tx.world.ports[port.parent_port]
        raise NetmgrError(
            f"port {port.name}: is a sub-port of port {parent.name}, whose VIF carries its frames; no VIF can be "
            "attached to it or detached from it",
            status=409,
        )


def detach_port(tx: Transaction, port: LogicalPort, *, force: bool = False) -> LogicalPort:
    _refuse_vif_of_subport(tx, port, {"vif_uuid": None})
    if not force:
        rules.check_port_release(tx.world, port, verb="detach")
    detached = replace(port, vif_uuid=None)
    tx.put(detached)
    tx.delete(Kind.LEARNED, port.uuid)
    location = tx.world.locations.get(port.uuid)
    if location is not None:
        _unbind(tx, location)
    return detached


def drop_port(tx: Transaction, port: LogicalPort, *, force: bool = False) -> None:
    rules.check_port_removal(tx.world, port)
    if not force:
        rules.check_port_release(tx.world, port, verb="delete")
    delete_port(tx, port.uuid)


def retire_port(tx: Transaction, port: LogicalPort, *, host: UUID, version: int) -> None:
    """Delete a port that a claim made: what was attached to it is gone for good, as its *host* says."""
    rules.check_port_retirement(tx.world, port, host=host, version=version)
    delete_port(tx, port.uuid)


def settle_vteps(tx: Transaction) -> None:
    """Give every host the VTEPs of its zones' switches, and every location the address of its host."""
    hosts = allocate.reassigned_hosts(tx.world)
    for host in hosts:
        tx.put(host)
    for location in allocate.relocated(tx.world, now_ms=_now_ms()) if hosts else ():
        tx.put(location)


def _put_switch(tx: Transaction, switch: OpaqueSwitch) -> OpaqueSwitch:
    rules.check_switch(tx.world, switch)
    tx.put(switch)
    settle_vteps(tx)
    return switch


def _unbind(tx: Transaction, location: Location) -> None:
    unbound = Location(
        port_uuid=location.port_uuid,
        network_uuid=location.network_uuid,
        mac=location.mac,
        version=allocate.next_version(location.version, now_ms=_now_ms()),
    )
    if replace(location, version=unbound.version) != unbound:
        put_location(tx, unbound)


def _given(patch: Any, **convert: Any) -> dict[str, Any]:
    """The fields that the user has set, as a row has them; null means "leave alone"."""
    values = patch.model_dump(exclude_unset=True, exclude_none=True)
    return {name: convert[name](value) if name in convert else value for name, value in values.items()}


def _addresses(texts: list[str]) -> tuple[str, ...]:
    """Addresses in canonical form; what is none stays as it is, for the rules to refuse."""
    return tuple(_canonical(text) for text in texts)


def _allowances(words: Iterable[str]) -> tuple[Allowance, ...]:
    return tuple(sorted(map(Allowance, words)))


def _nested(values: Iterable[Mapping[str, Any]]) -> tuple[NestedMac, ...]:
    made = (NestedMac(mac=one["mac"].lower(), ips=_addresses(one.get("ips") or [])) for one in values)
    return tuple(sorted(made, key=lambda one: one.mac))


def _canonical(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        return text


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
