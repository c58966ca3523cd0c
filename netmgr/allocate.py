"""Numbers that netmgr chooses: segment ids, VTEP addresses, MACs. Pure; the transaction makes the choice exclusive.

A segment id (VNI, VSID or VLAN) is free on a switch when no network there has it and none that had it is in quarantine.
A VLAN is on a wire, so it must be free on every switch that shares PNICs with this one.
A VTEP address is free in a switch's pool when no other host has it. Both take the lowest, so that a rebuilt system gets
the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface, ip_network
from uuid import UUID

from netmgr.contract.types import (
    Kind,
    Location,
    NetworkType,
    OpaqueNetwork,
    OpaqueSwitch,
    Teaming,
    VtepAssignment,
    ZoneKind,
)
from netmgr.free_numbers import FreeNumbers
from netmgr.model import FREED_SEGMENT, FreedSegment, HostRecord, NetmgrError, World

__all__ = [
    "SEGMENT_ID_FIRST",
    "SEGMENT_ID_MAX",
    "VLAN_MAX",
    "freed_neighbours",
    "mac_of",
    "next_version",
    "pool_room",
    "reassigned_hosts",
    "relocated",
    "segment_id",
    "vlan_neighbours",
    "vtep_of",
]

SEGMENT_ID_FIRST = 5000  # below: left to operators who choose by hand
SEGMENT_ID_MAX = 16_777_215
VLAN_FIRST = 2  # 1 is what many physical switches use for what has no tag: only by choice
VLAN_MAX = 4094  # 0 and 4095 are none (IEEE 802.1Q)


def segment_id(world: World, switch: OpaqueSwitch, network_type: NetworkType) -> int:
    """The lowest free segment id on *switch*, from 5000 on; below that only when all others are taken.

    For a network on a VLAN: the lowest VLAN from 2 on that neither this switch nor one with which it shares PNICs uses,
    and that hosts carry for neither any more.

    Raises:
        NetmgrError: 409 when there is none.
    """
    bounds = ((SEGMENT_ID_FIRST, SEGMENT_ID_MAX), (1, SEGMENT_ID_FIRST - 1))
    used: set[int] = set()
    if not network_type.tunneled:
        bounds = ((VLAN_FIRST, VLAN_MAX), (1, VLAN_FIRST - 1))
        used = {network.segment_id for network in vlan_neighbours(world, switch)}
        used |= {freed.segment_id for freed in freed_neighbours(world, switch)}
    free = world.free_segments.get(switch.uuid) or FreeNumbers()
    for first, last in bounds:
        candidate = free.lowest(first=first)
        while candidate in used:
            candidate = free.lowest(first=candidate + 1)
        if candidate <= last:
            return candidate
    what = "segment ids" if network_type.tunneled else "VLANs"
    total = sum(last - first + 1 for first, last in bounds)
    raise NetmgrError(f"switch {switch.name}: all {total} {what} are taken", status=409)


def vlan_neighbours(world: World, switch: OpaqueSwitch) -> list[OpaqueNetwork]:
    """Networks on VLANs of other switches that have a PNIC in common with *switch* on a host, as far as offers tell."""
    mine = {host.uuid: pnics for host in world.hosts.values() if (pnics := _pnics_of(host, switch))}
    others = [
        other
        for other in world.switches.values()
        if other.uuid != switch.uuid
        and any(pnics & _pnics_of(world.hosts[host], other) for host, pnics in mine.items())
    ]
    found = (world.networks[uuid] for one in others for uuid in world.networks_by_switch.get(one.uuid, ()))
    return sorted((one for one in found if not one.type.tunneled), key=lambda one: one.name)


def freed_neighbours(world: World, switch: OpaqueSwitch) -> list[FreedSegment]:
    """VLANs in quarantine that networks of other switches had, which hosts may still carry on PNICs of *switch*.

    A host that has not confirmed the removal carries the VLAN where it was then, so one that has left the zone since
    counts too. Which PNICs a switch had that is deleted, or was changed since, nobody knows: its VLANs count anywhere.
    Nor is it written down what a segment id was: a VNI as low as a VLAN counts, but of a switch that never had VLANs.
    """
    mine = {host.uuid: pnics for host in world.hosts.values() if (pnics := _pnics_of(host, switch))}
    found: list[FreedSegment] = []
    for other_uuid, freed in _freed_by_others(world, switch).items():
        other = world.switches.get(other_uuid)
        if other is None:
            found += freed
            continue
        changed_at = world.versions[Kind.SWITCH, other_uuid]
        shared: set[UUID] = set()
        if any(world.zones[uuid].kind is ZoneKind.VLAN for uuid in other.zone_uuids):
            shared = {uuid for uuid, pnics in mine.items() if pnics & _fitting(world.hosts[uuid], other)}
        now = any(_is_on(world.hosts[uuid], other) for uuid in shared)
        for one in freed:
            removed_at = world.versions[FREED_SEGMENT, one.uuid]
            if now or changed_at >= removed_at or not shared.isdisjoint(one.host_uuids):
                found.append(one)
    return sorted(found, key=lambda one: one.network_name)


def _freed_by_others(world: World, switch: OpaqueSwitch) -> dict[UUID, list[FreedSegment]]:
    """What may be VLANs in quarantine, by switch."""
    freed: dict[UUID, list[FreedSegment]] = {}
    for one in world.freed_segments.values():
        if one.switch_uuid != switch.uuid and one.segment_id <= VLAN_MAX:
            freed.setdefault(one.switch_uuid, []).append(one)
    return freed


def _pnics_of(host: HostRecord, switch: OpaqueSwitch) -> set[str]:
    """The PNICs that carry *switch* on *host*; none outside of its zones. The host itself decides by the same rule."""
    return _fitting(host, switch) if _is_on(host, switch) else set()


def _is_on(host: HostRecord, switch: OpaqueSwitch) -> bool:
    return bool(set(host.zone_uuids) & set(switch.zone_uuids))


def _fitting(host: HostRecord, switch: OpaqueSwitch) -> set[str]:
    """The PNICs that would carry *switch* on *host* in one of its zones."""
    fitting = sorted(name for name in host.pnics if any(fnmatchcase(name, glob) for glob in switch.pnic_globs))
    return set(fitting[:1] if switch.teaming is Teaming.SINGLE else fitting)


def pool_room(pool: str) -> int:
    """How many hosts a VTEP pool has addresses for."""
    network = ip_network(pool)
    if network.num_addresses <= 2:
        return network.num_addresses
    return network.num_addresses - (2 if network.version == 4 else 1)


def reassigned_hosts(world: World) -> list[HostRecord]:
    """The hosts whose VTEPs do not fit their zones and the switches of those, with VTEPs that do.

    A host keeps an address that still lies in the switch's pool with the pool's prefix length.

    Raises:
        NetmgrError: 409 when a pool is exhausted.
    """
    changed: dict[UUID, HostRecord] = {}
    for switch in sorted(world.switches.values(), key=lambda s: s.name):
        for host in _assign(switch, [changed.get(h.uuid, h) for h in world.hosts.values()]):
            changed[host.uuid] = host
    for host in world.hosts.values():
        current = changed.get(host.uuid, host)
        kept = tuple(v for v in current.vteps if v.switch_uuid in world.switches)
        if kept != current.vteps:
            changed[host.uuid] = replace(current, vteps=kept)
    return list(changed.values())


def next_version(before: int, *, now_ms: int) -> int:
    """The version of a location after *before*: it only grows, also across a restored backup (see `arbiter`)."""
    return max(before + 1, now_ms)


def relocated(world: World, *, now_ms: int) -> list[Location]:
    """The locations whose VTEP addresses are no longer those of their hosts, mended and with the next version."""
    mended = []
    for location in world.locations.values():
        switch_uuid = world.networks[location.network_uuid].switch_uuid
        holder = vtep_of(world, host_uuid=location.holder_host, switch_uuid=switch_uuid)
        incoming = vtep_of(world, host_uuid=location.incoming_host, switch_uuid=switch_uuid)
        if (holder, incoming) != (location.holder_vtep, location.incoming_vtep):
            version = next_version(location.version, now_ms=now_ms)
            mended.append(replace(location, holder_vtep=holder, incoming_vtep=incoming, version=version))
    return mended


def vtep_of(world: World, *, host_uuid: UUID | None, switch_uuid: UUID) -> str:
    """The VTEP address of a host on a switch, without prefix length; empty when it has none."""
    host = world.hosts.get(host_uuid) if host_uuid is not None else None
    if host is None:
        return ""
    return next((v.address.partition("/")[0] for v in host.vteps if v.switch_uuid == switch_uuid), "")


def mac_of(world: World, *, network_uuid: UUID, port_uuid: UUID) -> str:
    """A unicast, locally administered MAC made of the port's UUID, free on the network."""
    material = port_uuid.bytes
    for offset in range(len(material)):
        tail = (material + material)[offset : offset + 5]
        mac = ":".join(f"{byte:02x}" for byte in (0x02, *tail))
        if ("mac", network_uuid, mac) not in world.unique:
            return mac
    raise NetmgrError(f"port {port_uuid}: no free MAC can be made of its UUID; give one", status=409)


def _assign(switch: OpaqueSwitch, hosts: list[HostRecord]) -> Iterator[HostRecord]:
    members = [host for host in hosts if switch.vtep_pool and set(host.zone_uuids) & set(switch.zone_uuids)]
    inside = {host.uuid for host in members}
    outside = [host for host in hosts if host.uuid not in inside]
    for host in outside:
        if any(v.switch_uuid == switch.uuid for v in host.vteps):
            yield replace(host, vteps=tuple(v for v in host.vteps if v.switch_uuid != switch.uuid))
    if not switch.vtep_pool:
        return
    pool = ip_network(switch.vtep_pool)
    used: set[str] = set()
    homeless: list[HostRecord] = []
    for host in members:
        address = next((v.address for v in host.vteps if v.switch_uuid == switch.uuid), None)
        if address is not None and _fits(address, pool):
            used.add(address)
        else:
            homeless.append(host)
    free = (text for text in (f"{a}/{pool.prefixlen}" for a in _usable(pool)) if text not in used)
    for host in sorted(homeless, key=lambda h: h.name):
        address = next(free, None)
        if address is None:
            raise NetmgrError(
                f"switch {switch.name}: its VTEP pool {switch.vtep_pool} has room for {pool_room(switch.vtep_pool)} "
                f"hosts and {len(members)} are in its zones, so host {host.name} gets none; set a larger vtep_pool",
                status=409,
            )
        others = tuple(v for v in host.vteps if v.switch_uuid != switch.uuid)
        yield replace(host, vteps=(*others, VtepAssignment(switch_uuid=switch.uuid, address=address)))


def _fits(address: str, pool: IPv4Network | IPv6Network) -> bool:
    interface = ip_interface(address)
    return interface.ip in pool and interface.network.prefixlen == pool.prefixlen


def _usable(pool: IPv4Network | IPv6Network) -> Iterator[IPv4Address | IPv6Address]:
    """Addresses for hosts: no network and no broadcast address (IPv6: no subnet-router anycast, RFC 4291)."""
    return iter(pool.hosts())
