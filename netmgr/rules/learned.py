"""Whose is an address that a guest was seen to use? The rule for what hosts have learned, pure.

Only the holder of a port speaks for it, and only of a port without defined addresses. Its word is the whole of what
the guest claims now. An address is the port's unless it is defined for another port of the network, was learned for
another one that runs, lies outside of the network's subnets, or is one too many. What is not the port's is kept beside
it with the sentence that says why: the operator sees it on the port, and on the port that has the address. The first
one keeps it. When it gives it up, the one that waited longest in the store's order gets it, in the same revision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final
from uuid import UUID

from netmgr.contract.types import Learned, LearnedAddress, LogicalPort
from netmgr.model import NetmgrError, World

__all__ = ["ADDRESSES_A_NETWORK_MAX", "ADDRESSES_A_PORT_MAX", "learned_rows", "rivals_of"]

ADDRESSES_A_PORT_MAX: Final = 16
ADDRESSES_A_NETWORK_MAX: Final = 16_384


def learned_rows(world: World, *, host: UUID, word: Learned, since: str) -> list[Learned]:
    """The rows that *host*'s *word* changes, as they are to be; one without addresses is to be removed.

    Raises:
        NetmgrError: 403, *host* may not speak for the port; 400, what it says is no address.
    """
    port = world.ports.get(word.port_uuid)
    if port is None:
        return []  # gone since; the removal is on its way to the host
    _check_right(world, port, host)
    before = world.learned.get(port.uuid, Learned(port_uuid=port.uuid, network_uuid=port.network_uuid))
    freed = {one.address for one in before.addresses if not one.refused}
    freed -= {one.address for one in word.addresses}
    wanted = () if port.ips or port.shadow_of is not None else _ordered(before, word)
    after = _decide(world, port, wanted, freed=frozenset(), since=since)
    rows = [after] if after != before else []
    rows[:0] = _losers(world, port, after)  # first: what they give up is free then
    for other in _waiting(world, port, freed):
        rows.append(_decide(world, world.ports[other.port_uuid], other.addresses, freed=frozenset(freed), since=since))
    return rows


def rivals_of(world: World, port: LogicalPort) -> Iterator[tuple[LogicalPort, LearnedAddress]]:
    """Other ports of the network whose guests claim an address that is *port*'s, and which."""
    learned = world.learned.get(port.uuid)
    mine = {*port.ips, *(one.address for one in (learned.addresses if learned else ()) if not one.refused)}
    for uuid in world.ports_by_network.get(port.network_uuid, ()) if mine else ():
        found = world.learned.get(uuid)
        for one in found.addresses if found is not None and uuid != port.uuid else ():
            if one.refused and one.address in mine:
                yield world.ports[uuid], one


def _check_right(world: World, port: LogicalPort, host: UUID) -> None:
    location = world.locations.get(port.uuid)
    if location is None or location.holder_host != host:
        raise NetmgrError(
            f"port {port.name}: host {host} says what its guest uses, but does not hold it; nothing is taken",
            status=403,
        )


def _ordered(before: Learned, word: Learned) -> tuple[LearnedAddress, ...]:
    """What *word* names, first what is known, in its order and with what is known of it."""
    named = {one.address: one for one in word.addresses}
    if len(named) > ADDRESSES_A_PORT_MAX:
        named = dict(list(named.items())[:ADDRESSES_A_PORT_MAX])
    known = {one.address: one for one in before.addresses if one.address in named}
    new = (replace(one, since="", refused="") for address, one in named.items() if address not in known)
    return (*known.values(), *new)


def _decide(
    world: World, port: LogicalPort, wanted: tuple[LearnedAddress, ...], *, freed: frozenset[str], since: str
) -> Learned:
    room = ADDRESSES_A_NETWORK_MAX - _count(world, port)
    addresses = []
    for one in wanted:
        refused = _refusal(world, port, one.address, freed)
        if not refused and room <= 0:
            refused = (
                f"network {world.networks[port.network_uuid].name} has {ADDRESSES_A_NETWORK_MAX} learned addresses"
            )
        room -= not refused
        addresses.append(replace(one, since=one.since or since, refused=refused))
    return Learned(port_uuid=port.uuid, network_uuid=port.network_uuid, addresses=tuple(addresses))


def _refusal(world: World, port: LogicalPort, address: str, freed: frozenset[str]) -> str:
    network = world.networks[port.network_uuid]
    try:
        number = ip_address(address)
    except ValueError:
        raise NetmgrError(f"port {port.name}: {address!r} was learned, and is no IP address") from None
    if str(number) != address:
        raise NetmgrError(f"port {port.name}: {address!r} was learned, and is written {number}")
    holder = world.unique.get(("ip", network.uuid, address))
    if holder is not None:
        return f"it is defined for port {world.ports[holder].name}"
    holder = world.unique.get(("learned", network.uuid, address))
    if holder not in (None, port.uuid) and address not in freed and _live(world, holder):
        return f"port {world.ports[holder].name} had it before"
    local = isinstance(number, IPv6Address) and number.is_link_local
    if network.subnets and not local and not any(number in ip_network(subnet) for subnet in network.subnets):
        return f"it is in none of the network's subnets ({', '.join(network.subnets)})"
    return ""


def _live(world: World, port_uuid: UUID) -> bool:
    location = world.locations.get(port_uuid)
    return location is not None and location.holder_host is not None and not location.parked


def _losers(world: World, port: LogicalPort, after: Learned) -> Iterator[Learned]:
    """What ports keep whose guest is stopped, and whose address another guest, *port*'s, uses now."""
    taken = {one.address for one in after.addresses if not one.refused}
    holders = {world.unique.get(("learned", port.network_uuid, address)) for address in taken}
    for uuid in sorted(holder for holder in holders if holder not in (None, port.uuid)):
        row = world.learned[uuid]
        yield replace(row, addresses=tuple(one for one in row.addresses if one.address not in taken))


def _count(world: World, port: LogicalPort) -> int:
    """Learned addresses of the network's other ports."""
    rows = (world.learned.get(uuid) for uuid in world.ports_by_network[port.network_uuid] if uuid != port.uuid)
    return sum(not one.refused for row in rows if row is not None for one in row.addresses)


def _waiting(world: World, port: LogicalPort, freed: set[str]) -> Iterator[Learned]:
    """For each address of *freed*, the first row that was refused it."""
    left = set(freed)
    for uuid in sorted(world.ports_by_network[port.network_uuid]) if left else ():
        row = world.learned.get(uuid) if uuid != port.uuid else None
        hits = {one.address for one in (row.addresses if row else ()) if one.refused} & left
        if row is not None and hits:
            left -= hits
            yield row
