"""Whose is a MAC or an address that a guest was seen to use? The rule for what hosts have learned, pure.

Only the holder of a port speaks for it. Its word is the whole of what is claimed behind the port's VIF now: MACs, where
the port is allowed "nested", and addresses of those of its MACs that have none defined, of the others link-local ones,
which guests make by themselves. A MAC or address is the port's unless it is defined for another port of the network,
was learned for another one that runs, or is one too many; an address, also if it lies outside of the network's subnets,
or is made of a MAC that is not the port's. What is not the port's is kept beside it with the sentence that says why: so
the operator sees it on the port, and on the port that has it. The first one keeps it. When it gives it up, the one that
waited longest in the store's order gets it, in the same revision. An address may change from one MAC to another behind
the same VIF: that is the guest's own business.

A guest that uses what is another port's is shown so also where its port learns nothing, because its addresses are
defined or it is not allowed "nested". So is one that has only probed for it: it was told that the address is taken, so
it does not wait for it, and what is said of it ends when the address is nobody else's any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Final
from uuid import UUID

from netmgr.contract.link_local import is_link_local, mac_of, made_of
from netmgr.contract.nested import learning_macs
from netmgr.contract.types import Allowance, Learned, LearnedAddress, LearnedMac, LogicalPort
from netmgr.model import NetmgrError, World, all_ips
from netmgr.rules.desired import is_unicast_mac

__all__ = [
    "ADDRESSES_A_MAC_MAX",
    "ADDRESSES_A_NETWORK_MAX",
    "MACS_A_NETWORK_MAX",
    "MACS_A_PORT_MAX",
    "evicted_rows",
    "kept_row",
    "learned_rows",
    "rivals_of",
]

ADDRESSES_A_MAC_MAX: Final = 16
RIVALS_A_PORT_MAX: Final = 16
ADDRESSES_A_NETWORK_MAX: Final = 16_384
MACS_A_PORT_MAX: Final = 64
MACS_A_NETWORK_MAX: Final = 16_384


def learned_rows(world: World, *, host: UUID, word: Learned, since: str) -> list[Learned]:
    """The rows that *host*'s *word* changes, as they are to be; one that is empty is to be removed.

    Raises:
        NetmgrError: 403, *host* may not speak for the port; 400, what it says is no address or MAC.
    """
    port = world.ports.get(word.port_uuid)
    if port is None:
        return []  # gone since; the removal is on its way to the host
    _check_right(world, port, host)
    before = world.learned.get(port.uuid, _nothing(port))
    wanted = Learned(
        port_uuid=port.uuid,
        network_uuid=port.network_uuid,
        macs=_ordered_macs(before, word),
        addresses=_ordered_addresses(before, word),
    )
    after = _decide(world, port, wanted, freed=frozenset(), since=since)
    freed = frozenset(_had(before) - _named(word))
    rows = [after] if after != before else []
    rows[:0] = _losers(world, port, after)  # first: what they give up is free then
    for other in _waiting(world, port, freed):
        rows.append(_decide(world, world.ports[other.port_uuid], other, freed=freed, since=since))
    return rows


def kept_row(world: World, port: LogicalPort) -> Learned | None:
    """What of the learned of *port* holds now that its definition has changed; None if there is nothing to change."""
    before = world.learned.get(port.uuid)
    if before is None:
        return None
    after = _decide(world, port, before, freed=frozenset(), since="")
    return after if after != before else None


def evicted_rows(world: World, port: LogicalPort) -> list[Learned]:
    """Learned rows of other ports as they are to be since *port* is defined as it is: what is defined goes first."""
    if port.shadow_of is not None:
        return []
    network = port.network_uuid
    keys = [("learned-mac", network, mac) for mac in (port.mac, *(one.mac for one in port.nested))]
    keys += [("learned", network, ip) for ip in all_ips(port)]
    holders = {world.unique[key] for key in keys if key in world.unique} - {port.uuid}
    rows = (kept_row(world, world.ports[uuid]) for uuid in sorted(holders))
    return [row for row in rows if row is not None]


def rivals_of(world: World, port: LogicalPort) -> Iterator[tuple[LogicalPort, str, bool]]:
    """Other ports of the network behind which a MAC or address is used that is *port*'s, which, and whether it was
    only probed for."""
    learned = world.learned.get(port.uuid)
    macs = {port.mac, *(one.mac for one in port.nested)}
    mine = {*macs, *map(_made_of, macs), *all_ips(port), *(_had(learned) if learned else ())}
    for uuid in world.ports_by_network.get(port.network_uuid, ()):
        found = world.learned.get(uuid) if uuid != port.uuid else None
        for text in _refused(found) if found is not None else ():
            if text in mine:
                yield world.ports[uuid], text, found is not None and text in _probed(found)


def _made_of(mac: str) -> str:
    return str(made_of(int(mac.replace(":", ""), 16)))


def _check_right(world: World, port: LogicalPort, host: UUID) -> None:
    location = world.locations.get(port.uuid)
    if location is None or location.holder_host != host:
        raise NetmgrError(
            f"port {port.name}: host {host} says what its guest uses, but does not hold it; nothing is taken",
            status=403,
        )


# --- what a row says ----------------------------------------------------------------------------------------------
# MACs and addresses are told apart by their text, so one set holds both.


def _nothing(port: LogicalPort) -> Learned:
    return Learned(port_uuid=port.uuid, network_uuid=port.network_uuid)


def _had(row: Learned) -> set[str]:
    return {one.address for one in row.addresses if not one.refused} | {one.mac for one in row.macs if not one.refused}


def _refused(row: Learned) -> set[str]:
    return {one.address for one in row.addresses if one.refused} | {one.mac for one in row.macs if one.refused}


def _probed(row: Learned) -> set[str]:
    return {one.address for one in row.addresses if one.probed}


def _named(row: Learned) -> set[str]:
    return {one.address for one in row.addresses} | {one.mac for one in row.macs}


def _ordered_macs(before: Learned, word: Learned) -> tuple[LearnedMac, ...]:
    """What *word* names, first what is known, in its order and with what is known of it."""
    named = {one.mac: LearnedMac(mac=one.mac) for one in word.macs}
    known = {one.mac: one for one in before.macs if one.mac in named}
    return (*known.values(), *(one for mac, one in named.items() if mac not in known))


def _ordered_addresses(before: Learned, word: Learned) -> tuple[LearnedAddress, ...]:
    """The same of addresses; the MAC is the word's. One that was probed for and is used now, or the other way round, is
    another."""
    named = {one.address: replace(one, since="", refused="") for one in word.addresses}
    known = {
        one.address: replace(one, mac=named[one.address].mac)
        for one in before.addresses
        if one.address in named and one.probed == named[one.address].probed
    }
    return (*known.values(), *(one for address, one in named.items() if address not in known))


# --- decisions ----------------------------------------------------------------------------------------------------


def _decide(world: World, port: LogicalPort, wanted: Learned, *, freed: frozenset[str], since: str) -> Learned:
    """*wanted*, as far as *port* may learn it, each with whether it is the port's."""
    macs = tuple(_decide_macs(world, port, wanted.macs, freed, since))
    learning = learning_macs(port, macs)
    addresses = tuple(_decide_addresses(world, port, wanted.addresses, learning, freed, since))
    return Learned(port_uuid=port.uuid, network_uuid=port.network_uuid, addresses=addresses, macs=macs)


def _decide_macs(
    world: World, port: LogicalPort, wanted: Iterable[LearnedMac], freed: frozenset[str], since: str
) -> Iterator[LearnedMac]:
    if port.shadow_of is not None:
        return
    allowed = Allowance.NESTED in port.allow
    defined = {port.mac, *(one.mac for one in port.nested)}
    room = MACS_A_NETWORK_MAX - sum(not one.refused for row in _others(world, port) for one in row.macs)
    for one in [one for one in wanted if one.mac not in defined][:MACS_A_PORT_MAX]:
        refused = _mac_refusal(world, port, one.mac, freed)
        if not (refused or allowed):
            continue  # nobody's: the switch has dropped and counted it, and that is all
        if not refused and room <= 0:
            refused = f"network {world.networks[port.network_uuid].name} has {MACS_A_NETWORK_MAX} learned MACs"
        room -= not refused
        yield replace(one, since=one.since or since, refused=refused)


def _decide_addresses(
    world: World,
    port: LogicalPort,
    wanted: Iterable[LearnedAddress],
    learning: tuple[str, ...],
    freed: frozenset[str],
    since: str,
) -> Iterator[LearnedAddress]:
    defined = ("", *(known.mac for known in port.nested)) if port.shadow_of is None else ()
    room = ADDRESSES_A_NETWORK_MAX - sum(not one.refused for row in _others(world, port) for one in row.addresses)
    left = dict.fromkeys((*learning, *defined), ADDRESSES_A_MAC_MAX)
    others = RIVALS_A_PORT_MAX
    for one in wanted:
        if one.probed or (one.mac not in learning and not is_link_local(one.address)):
            known = one.mac in defined or one.mac in learning
            refused = _taken(world, port, one.address, freed) if known and others > 0 else ""
            if refused:
                others -= 1
                yield replace(one, since=one.since or since, refused=refused)
            continue
        if left.get(one.mac, 0) <= 0:
            continue
        left[one.mac] -= 1
        refused = _refusal(world, port, one, freed)
        if not refused and room <= 0:
            name = world.networks[port.network_uuid].name
            refused = f"network {name} has {ADDRESSES_A_NETWORK_MAX} learned addresses"
        room -= not refused
        yield replace(one, since=one.since or since, refused=refused)


def _mac_refusal(world: World, port: LogicalPort, mac: str, freed: frozenset[str]) -> str:
    if not is_unicast_mac(mac):
        raise NetmgrError(f"port {port.name}: {mac!r} was learned, and is no unicast MAC")
    holder = world.unique.get(("mac", port.network_uuid, mac))
    if holder is not None:
        return f"it is defined for port {world.ports[holder].name}"
    return _had_before(world, port, ("learned-mac", port.network_uuid, mac), freed)


def _refusal(world: World, port: LogicalPort, claimed: LearnedAddress, freed: frozenset[str]) -> str:
    network, address = world.networks[port.network_uuid], claimed.address
    refused = _taken(world, port, address, freed)
    if refused:
        return refused
    made = mac_of(address)
    if made and made not in (claimed.mac, port.mac, *(one.mac for one in port.nested)):
        return f"it is made of {made}, which is not its MAC"
    outside = network.subnets and not is_link_local(address)
    if outside and not any(ip_address(address) in ip_network(subnet) for subnet in network.subnets):
        return f"it is in none of the network's subnets ({', '.join(network.subnets)})"
    return ""


def _taken(world: World, port: LogicalPort, address: str, freed: frozenset[str]) -> str:
    """Whose *address* is, if it is another port's."""
    try:
        number = ip_address(address)
    except ValueError:
        raise NetmgrError(f"port {port.name}: {address!r} was learned, and is no IP address") from None
    if str(number) != address:
        raise NetmgrError(f"port {port.name}: {address!r} was learned, and is written {number}")
    holder = world.unique.get(("ip", port.network_uuid, address))
    if holder is not None:
        return f"it is defined for port {world.ports[holder].name}" if holder != port.uuid else ""
    holder = world.unique.get(("mac", port.network_uuid, mac_of(address)))
    if holder not in (None, port.uuid):
        return f"it is made of the MAC of port {world.ports[holder].name}"
    return _had_before(world, port, ("learned", port.network_uuid, address), freed)


def _had_before(world: World, port: LogicalPort, key: tuple[str, UUID, str], freed: frozenset[str]) -> str:
    holder = world.unique.get(key)
    if holder is None or holder == port.uuid or key[2] in freed or not _live(world, holder):
        return ""
    return f"port {world.ports[holder].name} had it before"


def _live(world: World, port_uuid: UUID) -> bool:
    location = world.locations.get(port_uuid)
    return location is not None and location.holder_host is not None and not location.parked


def _losers(world: World, port: LogicalPort, after: Learned) -> Iterator[Learned]:
    """What ports keep whose guest is stopped, and whose MAC or address another guest, *port*'s, uses now."""
    taken, network = _had(after), port.network_uuid
    holders = {world.unique.get((kind, network, text)) for text in taken for kind in ("learned", "learned-mac")}
    for uuid in sorted(holder for holder in holders if holder not in (None, port.uuid)):
        row = world.learned[uuid]
        yield replace(
            row,
            addresses=tuple(one for one in row.addresses if one.address not in taken and one.mac not in taken),
            macs=tuple(one for one in row.macs if one.mac not in taken),
        )


def _others(world: World, port: LogicalPort) -> Iterator[Learned]:
    """What is learned of the network's other ports."""
    rows = (world.learned.get(uuid) for uuid in world.ports_by_network[port.network_uuid] if uuid != port.uuid)
    return (row for row in rows if row is not None)


def _waiting(world: World, port: LogicalPort, freed: Iterable[str]) -> Iterator[Learned]:
    """For each MAC and address of *freed*, the first row that was refused it, and those before it of guests that have
    only probed for it: they don't wait."""
    left = set(freed)
    for uuid in sorted(world.ports_by_network[port.network_uuid]) if left else ():
        row = world.learned.get(uuid) if uuid != port.uuid else None
        hits = _refused(row) & left if row is not None else set()
        if row is not None and hits:
            left -= hits - _probed(row)
            yield row
