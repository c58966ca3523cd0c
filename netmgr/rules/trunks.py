"""What a sub-port is: a port whose frames come tagged, with a VLAN id of their own, through the VIF of another one.

Its *parent* is an ordinary port; the *tag* says which of the frames of the parent's VIF are the sub-port's. Everything
else a sub-port has as any port has it, on a network of its own: MACs, addresses, groups, allowances, admin state. But
it has no VIF to attach, so its UUID stands for one, and it goes nowhere by itself: it is where its parent is. Whatever
decides the parent's location decides the sub-ports' in the same transaction (`following`), and a host where one of
their networks is not can't have the parent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from netmgr.allocate import next_version, vtep_of
from netmgr.contract.types import Location, LogicalPort
from netmgr.model import NetmgrError, World, location_mac
from netmgr.rules.usage import named

__all__ = ["SUBPORTS_MAX", "TAG_MAX", "check_subport", "following", "subports_of"]

TAG_MAX = 4094  # 0 and 4095 are no VLANs (IEEE 802.1Q)
SUBPORTS_MAX = 64


def check_subport(world: World, port: LogicalPort) -> None:
    """A sub-port has an ordinary parent, a tag that is no sibling's, and no VIF; who has sub-ports has no shadows."""
    network = world.networks[port.network_uuid]
    what = f"port {port.name} of network {network.name}"
    before = world.ports.get(port.uuid)
    if before is not None and before.parent_port != port.parent_port:
        raise NetmgrError(f"{what}: its parent can't be changed; delete the port and create another", status=409)
    primary = world.ports.get(port.shadow_of) if port.shadow_of is not None else None
    if primary is not None and (port.parent_port or primary.parent_port or world.subports_of.get(primary.uuid)):
        raise NetmgrError(
            f"{what}: can't be a shadow of port {primary.name}, which has sub-ports or is one: they would not "
            "follow at a failover; give the standby VM ports of its own",
            status=409,
        )
    if port.parent_port is None:
        if port.tag:
            raise NetmgrError(f"{what}: tag {port.tag} needs a parent: the port whose VIF sends frames with it")
        return
    parent = world.ports[port.parent_port]
    if not 1 <= port.tag <= TAG_MAX:
        raise NetmgrError(f"{what}: tag must be a VLAN id, 1 to {TAG_MAX}, got {port.tag}")
    if port.vif_uuid != port.uuid:
        raise NetmgrError(
            f"{what}: is a sub-port of port {parent.name}, whose VIF carries its frames; none can be attached to it",
            status=409,
        )
    if parent.parent_port is not None:
        raise NetmgrError(
            f"{what}: port {parent.name} is a sub-port itself, of port {world.ports[parent.parent_port].name}; make it "
            "one of that port, for a frame has one tag",
            status=409,
        )
    if parent.shadow_of is not None or world.shadows_of.get(parent.uuid) or world.shadows_of.get(port.uuid):
        raise NetmgrError(
            f"{what}: port {parent.name} and its sub-ports can have no shadows, and be none; delete those first",
            status=409,
        )
    if port.ingress_kbps:
        raise NetmgrError(
            f"{what}: ingress_kbps is not there for a sub-port, whose frames are queued with its parent's; set it on "
            f"port {parent.name}"
        )
    siblings = subports_of(world, parent)
    other = next((one for one in siblings if one.tag == port.tag and one.uuid != port.uuid), None)
    if other is not None:
        raise NetmgrError(
            f"{what}: tag {port.tag} of port {parent.name} is that of port {other.name} of network "
            f"{world.networks[other.network_uuid].name}; choose another",
            status=409,
        )
    if before is None and len(siblings) >= SUBPORTS_MAX:
        raise NetmgrError(f"{what}: port {parent.name} has {SUBPORTS_MAX} sub-ports, and can't have more", status=409)
    _check_reach(world, port, parent, what)


def subports_of(world: World, parent: LogicalPort) -> list[LogicalPort]:
    """The sub-ports of *parent*, by tag."""
    return sorted((world.ports[uuid] for uuid in world.subports_of.get(parent.uuid, ())), key=lambda port: port.tag)


def following(world: World, location: Location, *, now_ms: int) -> Iterator[Location]:
    """The locations of the sub-ports of *location*'s port as they are to be, where they are not so."""
    parent = world.ports.get(location.port_uuid)
    for port in subports_of(world, parent) if parent is not None else ():
        switch = world.networks[port.network_uuid].switch_uuid
        found = world.locations.get(port.uuid)
        wanted = Location(
            port_uuid=port.uuid,
            network_uuid=port.network_uuid,
            mac=location_mac(port),
            holder_host=location.holder_host,
            holder_vtep=vtep_of(world, host_uuid=location.holder_host, switch_uuid=switch),
            incoming_host=location.incoming_host,
            incoming_vtep=vtep_of(world, host_uuid=location.incoming_host, switch_uuid=switch),
            parked=location.parked,
            version=found.version if found is not None else 0,
        )
        if wanted != found:
            yield replace(wanted, version=next_version(wanted.version, now_ms=now_ms))


def _check_reach(world: World, port: LogicalPort, parent: LogicalPort, what: str) -> None:
    """The hosts that have the parent carry the sub-port's network."""
    zone, location = world.networks[port.network_uuid].zone_uuid, world.locations.get(parent.uuid)
    hosts = (location.holder_host, location.incoming_host) if location is not None else ()
    outside = [host.name for uuid in hosts if (host := world.hosts.get(uuid or zone)) and zone not in host.zone_uuids]
    if outside:
        raise NetmgrError(
            f"{what}: port {parent.name} is on host {named(outside)}, which is not in transport zone "
            f"{world.zones[zone].name} of that network; add the host to it first",
            status=409,
        )
