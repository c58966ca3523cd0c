"""Who uses what, and so what may be removed and what may be used again: pure functions of `World`.

`check_*_removal` is silent, or raises `NetmgrError` (409) that names the users. A removed network's segment id is in
quarantine until no host can still carry it. A VLAN stays there when its switch goes: others may share the wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from uuid import UUID

from netmgr.allocate import VLAN_MAX
from netmgr.contract.types import LogicalPort, OpaqueNetwork, OpaqueSwitch, TransportZone
from netmgr.model import FreedSegment, HostRecord, NetmgrError, World

__all__ = [
    "NAMES_SHOWN_MAX",
    "check_host_removal",
    "check_network_removal",
    "check_port_release",
    "check_port_removal",
    "check_port_retirement",
    "check_switch_removal",
    "check_zone_removal",
    "freed_segments_to_release",
    "named",
    "ports_held",
]

NAMES_SHOWN_MAX = 5


def check_zone_removal(world: World, zone: TransportZone) -> None:
    """Nothing uses the zone."""
    users = [
        *(f"switch {s.name}" for s in world.switches.values() if zone.uuid in s.zone_uuids),
        *(f"network {n.name}" for n in world.networks.values() if n.zone_uuid == zone.uuid),
        *(f"host {h.name}" for h in world.hosts.values() if zone.uuid in h.zone_uuids),
    ]
    _check_unused(f"zone {zone.name}", users)


def check_switch_removal(world: World, switch: OpaqueSwitch) -> None:
    """No network is on the switch."""
    users = [f"network {world.networks[uuid].name}" for uuid in world.networks_by_switch.get(switch.uuid, ())]
    _check_unused(f"switch {switch.name}", users)


def check_network_removal(world: World, network: OpaqueNetwork) -> None:
    """No VIF is attached to the network; ports that nothing is attached to go with it."""
    ports = [world.ports[uuid] for uuid in world.ports_by_network.get(network.uuid, ())]
    users = [f"port {port.name} (VIF {port.vif_uuid})" for port in ports if port.vif_uuid not in (None, port.uuid)]
    users += [
        f"port {port.name} (tag {port.tag} of {world.ports[port.parent_port].name})"
        for port in ports
        if port.parent_port
    ]
    users += [_sub_port_words(world, uuid) for port in ports for uuid in world.subports_of.get(port.uuid, ())]
    _check_unused(f"network {network.name}", users)


def check_host_removal(world: World, host: HostRecord) -> None:
    """No guest's port is held by the host or on its way to it; ports parked there become unbound."""
    ports = ports_held(world, host.uuid)
    users = [f"port {port.name} of network {world.networks[port.network_uuid].name}" for port in ports]
    _check_unused(f"host {host.name}", users, by="which it holds")


def check_port_removal(world: World, port: LogicalPort) -> None:
    """The port has no shadows and no sub-ports."""
    users = [f"port {world.ports[uuid].name}" for uuid in world.shadows_of.get(port.uuid, ())]
    what = f"port {port.name} of network {world.networks[port.network_uuid].name}"
    _check_unused(what, users, by="its shadow" if len(users) == 1 else "its shadows")
    users = [_sub_port_words(world, uuid) for uuid in world.subports_of.get(port.uuid, ())]
    _check_unused(what, users, by="its sub-port" if len(users) == 1 else "its sub-ports")


def check_port_release(world: World, port: LogicalPort, *, verb: str) -> None:
    """No host holds the port for a running guest, nor is about to; *verb* is what was asked for."""
    location = world.locations.get(port.uuid)
    if location is None:
        return
    holder = location.incoming_host or (None if location.parked else location.holder_host)
    if holder is not None:
        raise NetmgrError(
            f"port {port.name} of network {world.networks[port.network_uuid].name}: can't {verb} it, host "
            f"{world.hosts[holder].name} holds it for a running VM; stop that VM first, or repeat with force",
            status=409,
        )


def check_port_retirement(world: World, port: LogicalPort, *, host: UUID, version: int) -> None:
    """*host*, which acted on *version* of the location, may have the port deleted: it holds it, and a claim made it.

    What an operator or a CMS made is theirs to delete, however long nothing is attached to it.
    """
    what = f"port {port.name} of network {world.networks[port.network_uuid].name}"
    asker = world.hosts[host].name if host in world.hosts else str(host)
    history, location = world.port_histories.get(port.uuid), world.locations.get(port.uuid)
    if history is None or history.made_by is None:
        raise NetmgrError(f"{what} was made by an operator or a CMS, and host {asker} can't retire it", status=403)
    if location is None or location.holder_host != host:
        raise NetmgrError(f"{what} is not held by host {asker}, which can't retire it", status=403)
    if location.incoming_host is not None:
        raise NetmgrError(f"{what} is on its way to another host; host {asker} can't retire it", status=409)
    if not location.parked and version < location.version:
        raise NetmgrError(f"{what} has been claimed again since host {asker} retired it", status=409)
    check_port_removal(world, port)


def freed_segments_to_release(world: World, *, acked: Mapping[UUID, int]) -> list[FreedSegment]:
    """The quarantined segments that no host can still carry. *acked* is the revision each host has acknowledged.

    A host that was in the network's zone must have acknowledged the removal. Any other may have left the zone just
    before, so it must have acknowledged its own last change. A host that is no longer enrolled does not count.
    What can't be a VLAN ends with its switch.
    """
    return [freed for freed in world.freed_segments.values() if _is_clear(world, freed, acked)]


def ports_held(world: World, host_uuid: UUID) -> list[LogicalPort]:
    """Ports that the host holds for a running guest, or that a migration is bringing to it."""
    return [
        world.ports[location.port_uuid]
        for location in world.locations.values()
        if location.incoming_host == host_uuid or (location.holder_host == host_uuid and not location.parked)
    ]


def named(names: Iterable[str]) -> str:
    """Names for a sentence; of many, the first few and how many more."""
    listed = sorted(names)
    more = len(listed) - NAMES_SHOWN_MAX
    return ", ".join(listed[:NAMES_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")


def _sub_port_words(world: World, uuid: UUID) -> str:
    port = world.ports[uuid]
    return f"port {port.name} of network {world.networks[port.network_uuid].name}"


def _is_clear(world: World, freed: FreedSegment, acked: Mapping[UUID, int]) -> bool:
    if freed.switch_uuid not in world.switches and freed.segment_id > VLAN_MAX:
        return True
    removed_at = world.versions["freed_segment", freed.uuid]
    for host_uuid in world.hosts:
        needed = removed_at if host_uuid in freed.host_uuids else world.versions["host", host_uuid]
        if acked.get(host_uuid, 0) < needed:
            return False
    return True


def _check_unused(what: str, users: list[str], *, by: str = "") -> None:
    if users:
        raise NetmgrError(
            f"{what} is in use by {named(users)}{', ' + by if by else ''}; remove those first", status=409
        )
