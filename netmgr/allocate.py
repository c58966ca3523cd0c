"""Numbers that netmgr chooses: segment ids, VTEP addresses, MACs. Pure; the transaction makes the choice exclusive.

A segment id is free on a switch when no network there has it and none that had it is in quarantine. A VTEP address is
free in a switch's pool when no other host has it. Both take the lowest, so that a rebuilt system gets the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface, ip_network
from uuid import UUID

from netmgr.contract.types import Location, OpaqueSwitch, VtepAssignment
from netmgr.model import HostRecord, NetmgrError, World

__all__ = [
    "SEGMENT_ID_FIRST",
    "SEGMENT_ID_MAX",
    "mac_of",
    "next_version",
    "pool_room",
    "reassigned_hosts",
    "relocated",
    "segment_id",
    "vtep_of",
]

SEGMENT_ID_FIRST = 5000  # below: left to operators who choose by hand
SEGMENT_ID_MAX = 16_777_215


def segment_id(world: World, switch: OpaqueSwitch) -> int:
    """The lowest free segment id on *switch*, from 5000 on; below that only when all others are taken.

    Raises:
        NetmgrError: 409 when there is none.
    """
    for candidates in (range(SEGMENT_ID_FIRST, SEGMENT_ID_MAX + 1), range(1, SEGMENT_ID_FIRST)):
        for candidate in candidates:
            if not any((use, switch.uuid, candidate) in world.unique for use in ("segment", "freed")):
                return candidate
    raise NetmgrError(f"switch {switch.name}: all {SEGMENT_ID_MAX} segment ids are taken", status=409)


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
    pool = ip_network(switch.vtep_pool)
    members = [host for host in hosts if set(host.zone_uuids) & set(switch.zone_uuids)]
    outside = [host for host in hosts if not set(host.zone_uuids) & set(switch.zone_uuids)]
    for host in outside:
        if any(v.switch_uuid == switch.uuid for v in host.vteps):
            yield replace(host, vteps=tuple(v for v in host.vteps if v.switch_uuid != switch.uuid))
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
