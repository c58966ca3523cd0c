"""What may be created and set: the rules of the desired state, as pure functions of `World`.

Theory of operation. `check_*` takes a row as it would be and the World it would enter. If the World has a row of the
same identity, the row is a change of that one, else new. The answer is silence or `NetmgrError` with the sentence for
the user: the object, what was wanted, what was found, what to do. Status 400: wrong in itself. 409: in conflict with
what is there. What may be removed is the matter of `usage` beside it.

Nothing here changes a row: numbers are chosen by `allocate` before the check, so a chosen number obeys the same rules.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from fnmatch import fnmatchcase
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from netmgr.allocate import SEGMENT_ID_MAX, VLAN_MAX, freed_neighbours, pool_room, vlan_neighbours
from netmgr.contract.types import LogicalPort, NetworkType, OpaqueNetwork, OpaqueSwitch, TransportZone, ZoneKind
from netmgr.model import FreedSegment, GroupRecord, HostRecord, NetmgrError, World, all_ips, kind_of_row
from netmgr.rules.encapsulation import network_mtu_max
from netmgr.rules.usage import NAMES_SHOWN_MAX, named, ports_held

__all__ = [
    "check_host",
    "check_name",
    "check_network",
    "check_port",
    "check_switch",
    "check_zone",
    "is_unicast_mac",
]

SWITCH_MTU_MIN, SWITCH_MTU_MAX = 1280, 9216
NETWORK_MTU_MIN = 576  # RFC 791: what every IPv4 node must take
NETWORK_MTU_MIN_IPV6 = 1280  # RFC 8200
NESTED_MAX = 64
LIMIT_KBPS_MIN, LIMIT_KBPS_MAX = 64, 400_000_000
LINK_MBPS_MAX = 800_000
NAME = re.compile(r"[A-Za-z0-9._-]{1,63}")
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def check_zone(world: World, zone: TransportZone) -> None:
    """A zone has a name of its own; its kind stays."""
    check_name(world, zone, what=f"zone {zone.name}")
    before = world.zones.get(zone.uuid)
    if before is not None and before.kind is not zone.kind:
        raise NetmgrError(
            f"zone {before.name}: its kind can't be changed from {before.kind} to {zone.kind}; make a new zone",
            status=409,
        )


def check_switch(world: World, switch: OpaqueSwitch) -> None:
    """A switch carries zones that no other carries, over PNICs that its hosts have, with VTEPs of a pool of its own."""
    what = f"switch {switch.name}"
    check_name(world, switch, what=what)
    if not SWITCH_MTU_MIN <= switch.mtu <= SWITCH_MTU_MAX:
        raise NetmgrError(f"{what}: mtu must be {SWITCH_MTU_MIN} to {SWITCH_MTU_MAX}, got {switch.mtu}")
    if not switch.zone_uuids:
        raise NetmgrError(f"{what}: needs at least one transport zone")
    if len(set(switch.zone_uuids)) != len(switch.zone_uuids):
        raise NetmgrError(f"{what}: names a zone twice")
    for zone_uuid in switch.zone_uuids:
        zone = world.zones[zone_uuid]
        other = next((s for s in world.switches.values() if zone_uuid in s.zone_uuids and s.uuid != switch.uuid), None)
        if other is not None:
            raise NetmgrError(
                f"{what}: zone {zone.name} is carried by switch {other.name}, and a zone is on at most one; "
                f"take it out of {other.name} first",
                status=409,
            )
    _check_pool(world, switch, what)
    _check_globs(world, switch, what)
    _check_traffic_classes(switch, what)
    _check_networks_of(world, switch, what)


def check_network(world: World, network: OpaqueNetwork) -> None:
    """A network spans a zone that a switch carries, with a segment id of its own there and an MTU that fits."""
    what = f"network {network.name}"
    check_name(world, network, what=what)
    before = world.networks.get(network.uuid)
    if before is not None:
        _check_network_constants(world, before, network)
    switch = world.switches[network.switch_uuid]
    _check_type(world, network, what)
    highest = SEGMENT_ID_MAX if network.type.tunneled else VLAN_MAX
    if not 1 <= network.segment_id <= highest:
        kind = "" if network.type.tunneled else ", a VLAN,"
        raise NetmgrError(f"{what}: segment_id{kind} must be 1 to {highest}, got {network.segment_id}")
    _check_segment(world, network, switch, what)
    largest = network_mtu_max(network.type, switch)
    smallest = NETWORK_MTU_MIN_IPV6 if any(":" in subnet for subnet in network.subnets) else NETWORK_MTU_MIN
    if not smallest <= network.mtu <= largest:
        raise NetmgrError(
            f"{what}: mtu must be {smallest} to {largest}, got {network.mtu}: switch {switch.name} has mtu "
            f"{switch.mtu} and {network.type} adds {switch.mtu - largest or 'no'} bytes to each packet"
        )
    subnets = [_network_of(what, "subnet", text) for text in network.subnets]
    for index, subnet in enumerate(subnets):
        for other in subnets[:index]:
            if subnet.version == other.version and subnet.overlaps(other):
                raise NetmgrError(f"{what}: subnets {other} and {subnet} overlap")
    for port_uuid in world.ports_by_network.get(network.uuid, ()):
        port = world.ports[port_uuid]
        for ip in all_ips(port):
            if subnets and not any(ip_address(ip) in subnet for subnet in subnets):
                raise NetmgrError(
                    f"{what}: port {port.name} has address {ip}, which the new subnets do not hold; "
                    "change the port first or keep the subnet",
                    status=409,
                )


def check_host(world: World, host: HostRecord) -> None:
    """A host has a name of its own, offers a PNIC to the switch of each zone, leaves no zone whose ports it holds."""
    what = f"host {host.name}"
    check_name(world, host, what=what)
    if len(set(host.zone_uuids)) != len(host.zone_uuids):
        raise NetmgrError(f"{what}: names a zone twice")
    before = world.hosts.get(host.uuid)
    entered = set(host.zone_uuids) - set(before.zone_uuids if before else ())
    for zone_uuid in host.zone_uuids:
        switch = world.switch_of_zone(zone_uuid) if zone_uuid in entered else None
        if switch is not None and not _offers(host, switch):
            raise NetmgrError(
                f"{what}: can't enter zone {world.zones[zone_uuid].name}: switch {switch.name} there wants PNICs "
                f"{_listed(switch.pnic_globs)}, the host offers {_listed(host.pnics)}; offer another PNIC at join, "
                "or widen the switch's pnic_globs",
                status=409,
            )
    left = set(before.zone_uuids if before else ()) - set(host.zone_uuids)
    for port in ports_held(world, host.uuid) if left else ():
        network = world.networks[port.network_uuid]
        if network.zone_uuid in left:
            raise NetmgrError(
                f"{what}: can't leave zone {world.zones[network.zone_uuid].name}: it holds port {port.name} of network "
                f"{network.name}; stop or migrate its VM first",
                status=409,
            )


def check_port(world: World, port: LogicalPort) -> None:
    """A port's MACs, addresses and VIF are its own, and its addresses lie in the network's subnets."""
    network = world.networks[port.network_uuid]
    what = f"port {port.name} of network {network.name}"
    check_name(world, port, what=what, key=("name", kind_of_row(port), port.network_uuid, port.name))
    before = world.ports.get(port.uuid)
    if before is not None and before.network_uuid != port.network_uuid:
        raise NetmgrError(f"{what}: a port can't change its network; make a new one there", status=409)
    if not is_unicast_mac(port.mac):
        raise NetmgrError(f"{what}: mac must be a unicast address like 02:00:00:00:00:01, got {port.mac!r}")
    _check_nested(port, what)
    for mac in (port.mac, *(one.mac for one in port.nested)) if port.shadow_of is None else ():
        _check_free(world, port, ("mac", port.network_uuid, mac), f"{what}: MAC {mac}")
    ips = all_ips(port)
    if len(set(ips)) != len(ips):
        raise NetmgrError(f"{what}: names an address twice")
    for ip in ips:
        _check_ip(network, ip, what)
        if port.shadow_of is None:
            _check_free(world, port, ("ip", port.network_uuid, ip), f"{what}: address {ip}")
    if len(set(port.allow)) != len(port.allow):
        raise NetmgrError(f"{what}: allow names the same thing twice")
    for name in ("egress_kbps", "ingress_kbps"):
        limit = getattr(port, name)
        if limit != 0 and not LIMIT_KBPS_MIN <= limit <= LIMIT_KBPS_MAX:
            raise NetmgrError(
                f"{what}: {name} must be {LIMIT_KBPS_MIN} to {LIMIT_KBPS_MAX} kbit/s, or 0 for no limit, got {limit}"
            )
    if port.vif_uuid is not None and world.port_by_vif.get(port.vif_uuid, port.uuid) != port.uuid:
        other = world.ports[world.port_by_vif[port.vif_uuid]]
        raise NetmgrError(
            f"{what}: VIF {port.vif_uuid} is attached to port {other.name} of network "
            f"{world.networks[other.network_uuid].name}; detach it there first",
            status=409,
        )


def is_unicast_mac(text: str) -> bool:
    """Whether *text* is a MAC that a guest can have, as the contract writes it."""
    return bool(MAC.fullmatch(text)) and not int(text[:2], 16) & 1 and text != "00:00:00:00:00:00"


def _check_nested(port: LogicalPort, what: str) -> None:
    if len(port.nested) > NESTED_MAX:
        raise NetmgrError(f"{what}: has {len(port.nested)} nested MACs, at most {NESTED_MAX} are taken; use more ports")
    for one in port.nested:
        if not is_unicast_mac(one.mac):
            raise NetmgrError(f"{what}: a nested MAC must be a unicast address like 02:00:00:00:00:01, got {one.mac!r}")
        if one.mac == port.mac:
            raise NetmgrError(f"{what}: {one.mac} is its own MAC, which needs no allowance; leave it out of nested")
    if len({one.mac for one in port.nested}) != len(port.nested):
        raise NetmgrError(f"{what}: names a nested MAC twice")


def check_name(
    world: World,
    row: TransportZone | OpaqueSwitch | OpaqueNetwork | HostRecord | LogicalPort | GroupRecord,
    *,
    what: str,
    key: Hashable | None = None,
) -> None:
    """A name is well formed, and nobody else's."""
    if not NAME.fullmatch(row.name):
        kind = kind_of_row(row)
        raise NetmgrError(f"{kind} {row.name!r}: a name is 1 to 63 of the characters A-Z a-z 0-9 . _ -")
    holder = world.unique.get(key or ("name", kind_of_row(row), row.name), row.uuid)
    if holder != row.uuid:
        raise NetmgrError(f"{what}: exists already ({holder}); choose another name", status=409)


def _check_free(world: World, port: LogicalPort, key: Hashable, what: str) -> None:
    holder = world.unique.get(key, port.uuid)
    if holder != port.uuid:
        raise NetmgrError(f"{what} is that of port {world.ports[holder].name} ({holder}); use another", status=409)


def _check_pool(world: World, switch: OpaqueSwitch, what: str) -> None:
    overlay = next((zone for uuid in switch.zone_uuids if (zone := world.zones[uuid]).kind is ZoneKind.OVERLAY), None)
    if not switch.vtep_pool:
        if overlay is not None:
            raise NetmgrError(
                f"{what}: zone {overlay.name} is of kind overlay, whose networks travel between VTEPs; give a vtep_pool"
            )
        return
    pool = _network_of(what, "vtep_pool", switch.vtep_pool)
    if pool.is_multicast or pool.is_loopback or pool.is_unspecified:
        raise NetmgrError(f"{what}: vtep_pool {pool} is no range of host addresses")
    for other in world.switches.values():
        if other.uuid == switch.uuid or not other.vtep_pool:
            continue
        other_pool = ip_network(other.vtep_pool)
        if other_pool.version == pool.version and other_pool.overlaps(pool):
            raise NetmgrError(
                f"{what}: vtep_pool {pool} overlaps {other_pool} of switch {other.name}; VTEP addresses are unique, "
                "give each switch a range of its own",
                status=409,
            )
    members = _hosts_of(world, switch)
    if pool_room(switch.vtep_pool) < max(1, len(members)):
        raise NetmgrError(
            f"{what}: vtep_pool {pool} has addresses for {pool_room(switch.vtep_pool)} hosts, and {len(members)} are "
            f"in its zones ({named(host.name for host in members)}); give a larger range",
            status=409,
        )


def _check_traffic_classes(switch: OpaqueSwitch, what: str) -> None:
    classes = switch.traffic_classes
    if not 0 <= classes.link_mbps <= LINK_MBPS_MAX:
        raise NetmgrError(f"{what}: link_mbps must be 0 to {LINK_MBPS_MAX}, got {classes.link_mbps}")
    shares = (classes.tenant_percent, classes.control_percent, classes.management_percent)
    if classes.wanted and (min(shares) < 1 or sum(shares) > 100):
        raise NetmgrError(
            f"{what}: tenant_percent, control_percent and management_percent must be at least 1 each and 100 together "
            f"at most, or all 0 for no shaping; got {shares[0]}, {shares[1]} and {shares[2]}"
        )


def _check_globs(world: World, switch: OpaqueSwitch, what: str) -> None:
    if not switch.pnic_globs or not all(switch.pnic_globs):
        raise NetmgrError(f"{what}: needs at least one pnic_glob, and none of them empty; '*' takes every PNIC")
    before = world.switches.get(switch.uuid)
    if before is not None and (before.pnic_globs, before.zone_uuids) == (switch.pnic_globs, switch.zone_uuids):
        return  # what hosts offer may have changed since; that is no reason to refuse a change of something else
    hosts = _hosts_of(world, switch)
    if hosts and not any(_offers(host, switch) for host in hosts):
        found = "; ".join(f"{host.name} has {_listed(host.pnics)}" for host in hosts[:NAMES_SHOWN_MAX])
        raise NetmgrError(
            f"{what}: no host of its zones has a PNIC that matches {_listed(switch.pnic_globs)}: {found}; "
            "correct pnic_globs, or let the hosts join with another --pnic",
            status=409,
        )


def _check_networks_of(world: World, switch: OpaqueSwitch, what: str) -> None:
    """A changed switch still carries the zones and the MTUs of its networks."""
    for network in (world.networks[uuid] for uuid in sorted(world.networks_by_switch.get(switch.uuid, ()))):
        if network.zone_uuid not in switch.zone_uuids:
            raise NetmgrError(
                f"{what}: can't drop zone {world.zones[network.zone_uuid].name}, network {network.name} spans it; "
                "delete the network first",
                status=409,
            )
        largest = network_mtu_max(network.type, switch)
        if network.mtu > largest:
            raise NetmgrError(
                f"{what}: mtu {switch.mtu} leaves {largest} bytes for a {network.type} network, and network "
                f"{network.name} has mtu {network.mtu}; lower that first",
                status=409,
            )


def _check_network_constants(world: World, before: OpaqueNetwork, network: OpaqueNetwork) -> None:
    zones = world.zones
    for field, was, wanted in (
        ("type", before.type.value, network.type.value),
        ("zone", zones[before.zone_uuid].name, zones[network.zone_uuid].name),
        ("segment_id", before.segment_id, network.segment_id),
    ):
        if was != wanted:
            raise NetmgrError(
                f"network {before.name}: its {field} can't be changed from {was} to {wanted}; delete it and create "
                "another",
                status=409,
            )


def _check_type(world: World, network: OpaqueNetwork, what: str) -> None:
    zone = world.zones[network.zone_uuid]
    if network.type.tunneled is not (zone.kind is ZoneKind.OVERLAY):
        fitting = ", ".join(kind for kind in NetworkType if kind.tunneled is (zone.kind is ZoneKind.OVERLAY))
        raise NetmgrError(
            f"{what}: zone {zone.name} is of kind {zone.kind}, which carries no {network.type} networks; give a type "
            f"that it carries ({fitting}), or another zone"
        )


def _check_segment(world: World, network: OpaqueNetwork, switch: OpaqueSwitch, what: str) -> None:
    holder = world.unique.get(("segment", switch.uuid, network.segment_id), network.uuid)
    if holder != network.uuid:
        raise NetmgrError(
            f"{what}: segment id {network.segment_id} is that of network {world.networks[holder].name} on switch "
            f"{switch.name}; give another, or none and one is chosen",
            status=409,
        )
    if not network.type.tunneled and network.uuid not in world.networks:
        _check_vlan(world, network, switch, what)
    freed_by = world.unique.get(("freed", switch.uuid, network.segment_id))
    if freed_by is not None:
        freed = world.freed_segments[freed_by]
        raise NetmgrError(
            f"{what}: segment id {network.segment_id} was that of network {freed.network_name}, whose removal not "
            f"every host has confirmed yet (it was on {_carriers(world, freed)}); wait for them, or give another",
            status=409,
        )


def _check_vlan(world: World, network: OpaqueNetwork, switch: OpaqueSwitch, what: str) -> None:
    """No network of another switch has, or may still have, the VLAN on the same wire."""
    other = next((n for n in vlan_neighbours(world, switch) if n.segment_id == network.segment_id), None)
    if other is not None:
        raise NetmgrError(
            f"{what}: VLAN {network.segment_id} is that of network {other.name} on switch "
            f"{world.switches[other.switch_uuid].name}, which has PNICs in common with switch {switch.name}; give "
            "another, or none and one is chosen",
            status=409,
        )
    freed = next((f for f in freed_neighbours(world, switch) if f.segment_id == network.segment_id), None)
    if freed is not None:
        had_it = world.switches.get(freed.switch_uuid)
        where = f"switch {had_it.name}" if had_it is not None else "a switch that is deleted"
        raise NetmgrError(
            f"{what}: VLAN {network.segment_id} was that of network {freed.network_name} on {where}, which may have "
            f"had PNICs in common with switch {switch.name}, and not every host has confirmed the removal yet (it was "
            f"on {_carriers(world, freed)}); wait for them, or give another",
            status=409,
        )


def _carriers(world: World, freed: FreedSegment) -> str:
    """The hosts that had the removed network, for a sentence."""
    return named(world.hosts[uuid].name for uuid in freed.host_uuids if uuid in world.hosts) or "none"


def _check_ip(network: OpaqueNetwork, ip: str, what: str) -> None:
    try:
        address = ip_address(ip)
    except ValueError:
        raise NetmgrError(f"{what}: {ip!r} is no IP address (without prefix length)") from None
    if str(address) != ip:
        raise NetmgrError(f"{what}: write address {ip!r} as {address}")
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        raise NetmgrError(f"{what}: address {ip} is not one a guest can have")
    subnets = [ip_network(subnet) for subnet in network.subnets]
    subnet = next((s for s in subnets if address in s), None)
    if subnets and subnet is None:
        raise NetmgrError(f"{what}: address {ip} is in none of the network's subnets ({', '.join(network.subnets)})")
    reserved = (
        () if subnet is None or subnet.version == 6 or subnet.prefixlen >= 31 else (subnet[0], subnet.broadcast_address)
    )
    if address in reserved:
        raise NetmgrError(f"{what}: address {ip} is the network or broadcast address of subnet {subnet}")


def _network_of(what: str, field: str, text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise NetmgrError(f"{what}: {field} {text!r} is no CIDR like 10.0.0.0/24 or 2001:db8::/64") from None
    if str(network) != text:
        raise NetmgrError(f"{what}: {field} {text!r} has host bits or an unusual form; write {network}")
    return network


def _hosts_of(world: World, switch: OpaqueSwitch) -> list[HostRecord]:
    zones = set(switch.zone_uuids)
    return sorted((h for h in world.hosts.values() if zones & set(h.zone_uuids)), key=lambda h: h.name)


def _offers(host: HostRecord, switch: OpaqueSwitch) -> bool:
    return any(fnmatchcase(pnic, glob) for pnic in host.pnics for glob in switch.pnic_globs)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
