"""Ports that a host has no part in: of a large network most are, and each costs two flows.

LOCATE says at which VTEP its MAC is (on a VLAN, where that is not known, RIVAL that it is somebody's), BINDING
which MAC has its address; one that may be a router has two more, in REPLY, for it answers solicitations itself. All
depend on nothing but the port, its location, the addresses learned of it and how the network leaves the bridge, so they
are made once and kept as long as these stay: that one more port comes costs its flows, and nothing of the others is
looked at (`Remotes`).

What follows from a MAC or an address that two ports have concerns both: then all ports of the network are looked at
together (`Remotes.distinct`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeVar
from uuid import UUID

from hostagent.flow import Flow, mac_to_int
from hostagent.pipeline.answer import Address, binding, left_to_owner, single_addresses
from hostagent.pipeline.learn import another_flow
from hostagent.pipeline.locate import locate
from netmgr.contract.link_local import is_link_local
from netmgr.contract.types import Allowance, Learned, Location, LogicalPort

__all__ = [
    "NOWHERE",
    "Elsewhere",
    "Place",
    "Remote",
    "Remotes",
    "addresses_of",
    "is_remote",
    "remote_port",
    "takes_part",
]


K = TypeVar("K")


class Place(NamedTuple):
    """Where a remote port is: VTEPs that speak for it, and whether it takes part in what is sent to all."""

    holder_vtep: str
    incoming_vtep: str
    live: bool


class Remote(NamedTuple):
    """One such port, with its flows. Ten thousand are kept."""

    port: LogicalPort | None
    location: Location
    learned: Learned | None
    mac: int
    addresses: tuple[Address, ...]  # that are answered for
    place: Place
    flows: tuple[Flow, ...]


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What the other flows of a network depend on, of all its remote ports."""

    places: frozenset[Place] = frozenset()
    answered: bool = False  # there are addresses that are answered for
    parked: bool = False  # there is one that is parked


NOWHERE = Elsewhere()


class Remotes:
    """The remote ports of one network, by number of their UUID; what is said of all is kept up as they come and go."""

    def __init__(self) -> None:
        self._ports: dict[int, Remote] = {}
        self._owners: Counter[int | Address] = Counter()  # how many have each MAC and address
        self._clashes = 0  # MACs and addresses that several have
        self._places: Counter[Place] = Counter()
        self._answered = self._parked = 0
        self._elsewhere: Elsewhere | None = None

    def __len__(self) -> int:
        return len(self._ports)

    def __contains__(self, number: int) -> bool:
        return number in self._ports

    def get(self, number: int) -> Remote | None:
        return self._ports.get(number)

    def numbers(self) -> Collection[int]:
        return self._ports.keys()

    def flows(self) -> Iterator[Flow]:
        for one in self._ports.values():
            yield from one.flows

    def take(self, ports: Mapping[int, Remote]) -> None:
        """Take *ports* in, each in the place of what was known by its number."""
        if not self._ports:  # at a start: ten thousand at once
            self._ports.update(ports)
            self._owners.update([one.mac for one in ports.values()])
            self._owners.update([address for one in ports.values() for address in one.addresses])
            self._clashes = sum(count > 1 for count in self._owners.values())
            self._places.update([one.place for one in ports.values()])
            self._answered = sum(bool(one.addresses) for one in ports.values())
            self._parked = sum(one.location.parked for one in ports.values())
            self._elsewhere = None
            return
        for number, one in ports.items():
            self.drop(number)
            self._ports[number] = one
            self._sum(one, 1)

    def drop(self, number: int) -> None:
        """Forget a port; nothing if it is not known."""
        one = self._ports.pop(number, None)
        if one is not None:
            self._sum(one, -1)

    def summary(self) -> Elsewhere:
        """What others depend on."""
        if self._elsewhere is None:
            self._elsewhere = Elsewhere(frozenset(self._places), self._answered > 0, self._parked > 0)
        return self._elsewhere

    def distinct(self, others: Iterable[int | Address]) -> bool:
        """Whether no MAC and no address of these ports is another's of them, or among *others*."""
        return not self._clashes and not any(key in self._owners for key in others)

    def _sum(self, one: Remote, step: int) -> None:
        keys: tuple[int | Address, ...] = (one.mac, *one.addresses)
        for key in keys:
            count = self._owners[key] + step
            self._clashes += step * (count == (2 if step > 0 else 1))
            _set(self._owners, key, count)
        places = len(self._places)
        _set(self._places, one.place, self._places[one.place] + step)
        before = (places, self._answered > 0, self._parked > 0)
        self._answered += step * bool(one.addresses)
        self._parked += step * one.location.parked
        if before != (len(self._places), self._answered > 0, self._parked > 0):
            self._elsewhere = None


def _set(counts: Counter[K], key: K, count: int) -> None:
    if count:
        counts[key] = count
    else:
        del counts[key]


def is_remote(host: UUID, port: LogicalPort | None, location: Location | None) -> bool:
    """Whether *host* has no part in the port, and all that the pipeline needs of it is in these two."""
    if location is None:
        return False
    number, holder, incoming = host.int, location.holder_host, location.incoming_host  # told apart ten times as fast
    if (holder is not None and holder.int == number) or (incoming is not None and incoming.int == number):
        return False
    if port is None:
        return bool(location.mac)
    return bool(port.mac) and port.shadow_of is None and not port.nested and Allowance.NESTED not in port.allow


def takes_part(port: LogicalPort | None, location: Location) -> bool:
    """Whether a port that a host holds is to be heard there: it is not parked, nor set down as far as that is known."""
    return not location.parked and (port is None or port.admin_up)


def remote_port(
    key: int,
    own_vtep: str | None,
    port: LogicalPort | None,
    location: Location,
    learned: Learned | None,
    known: Mapping[Flow, Flow],
) -> Remote:
    """The port of network *key*, for which `is_remote`. *own_vtep* is "" on a VLAN, None without a way out.

    *known* are flows to take, by themselves, instead of new ones that equal them.
    """
    held = location.holder_host is not None
    live = held and takes_part(port, location)
    mac = mac_to_int(port.mac if port is not None else location.mac)
    place = _place(
        location.holder_vtep if held else "",
        location.incoming_vtep if location.incoming_host is not None else "",
        live,
    )
    addresses: tuple[Address, ...] = ()
    if port is not None and live:
        addresses = (*single_addresses(port.ips), *addresses_of(learned, ips=port.ips))
        if len(addresses) > 1:
            addresses = tuple(dict.fromkeys(addresses))
    mac_flows: tuple[Flow, ...] = ()
    if own_vtep:
        mac_flows = locate(key, mac, place.holder_vtep, place.incoming_vtep, own_vtep)
    elif own_vtep is not None:
        mac_flows = (another_flow(mac=mac, network=key),)
    flows = (*mac_flows, *[binding(key, version, number, mac) for version, number in addresses])
    if addresses and port is not None and Allowance.ROUTER in port.allow and any(one[0] == 6 for one in addresses):
        flows = (*flows, *left_to_owner(key, mac))
    if known:
        flows = tuple([known.get(flow, flow) for flow in flows])
    return Remote(port, location, learned, mac, addresses, place, flows)


def addresses_of(learned: Learned | None, mac: str = "", *, ips: tuple[str, ...] = ()) -> tuple[Address, ...]:
    """The learned addresses of one MAC of a port, its own by default, that has *ips* defined: IP version and number."""
    found = learned.addresses if learned is not None else ()
    if not found:
        return ()
    own = (one.address for one in found if not one.refused and one.mac == mac)
    return single_addresses(tuple(one for one in own if not ips or is_link_local(one)))


@lru_cache(maxsize=1 << 12)
def _place(holder_vtep: str, incoming_vtep: str, live: bool) -> Place:
    return Place(holder_vtep, incoming_vtep, live)
