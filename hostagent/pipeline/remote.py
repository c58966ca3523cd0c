"""Ports that a host has no part in: of a large network most are, and each costs two flows.

LOCATE says at which VTEP its MAC is, BINDING which MAC has its address. Both depend on nothing but the port, its
location and how the network leaves the bridge, so they are made once and kept as long as these stay: that one more port
comes costs its two flows and a look at each of the others, not ten thousand compilations.

What follows from a MAC or an address that two ports have concerns both: then all ports of the network are looked at
together (`distinct`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from hostagent.flow import Flow, mac_to_int
from hostagent.pipeline.answer import Address, binding, single_addresses
from hostagent.pipeline.locate import locate
from netmgr.contract.types import Allowance, Location, LogicalPort

__all__ = ["Place", "Remote", "distinct", "is_remote", "remote_port"]


class Place(NamedTuple):
    """Where a remote port is: VTEPs that speak for it, and whether it takes part in what is sent to all."""

    holder_vtep: str
    incoming_vtep: str
    live: bool


class Remote(NamedTuple):
    """One such port, with its flows. Ten thousand are kept."""

    port: LogicalPort | None
    location: Location
    mac: int
    addresses: tuple[Address, ...]  # that are answered for
    place: Place
    flows: tuple[Flow, ...]


def is_remote(host: UUID, port: LogicalPort | None, location: Location | None) -> bool:
    """Whether *host* has no part in the port, and all that the pipeline needs of it is in these two."""
    if location is None or host in (location.holder_host, location.incoming_host):
        return False
    if port is None:
        return bool(location.mac)
    return bool(port.mac) and port.shadow_of is None and not port.nested and Allowance.NESTED not in port.allow


def remote_port(
    key: int, own_vtep: str | None, port: LogicalPort | None, location: Location, known: Mapping[Flow, Flow]
) -> Remote:
    """The port of network *key*, for which `is_remote`. *own_vtep* is None where the network leaves by no tunnel.

    *known* are flows to take, by themselves, instead of new ones that equal them.
    """
    held = location.holder_host is not None
    live = held and not location.parked
    mac = mac_to_int(port.mac if port is not None else location.mac)
    place = _place(
        location.holder_vtep if held else "",
        location.incoming_vtep if location.incoming_host is not None else "",
        live,
    )
    addresses = single_addresses(port.ips) if port is not None and port.admin_up and live else ()
    located = locate(key, mac, place.holder_vtep, place.incoming_vtep, own_vtep) if own_vtep is not None else ()
    flows = (*located, *(binding(key, version, number, mac) for version, number in addresses))
    return Remote(port, location, mac, addresses, place, tuple(known.get(flow, flow) for flow in flows))


def distinct(remotes: Collection[Remote], macs: Collection[int], addresses: Collection[Address]) -> bool:
    """Whether no MAC and no address of these ports is another's of them, or among *macs* and *addresses*."""
    own_macs = {one.mac for one in remotes}
    if len(own_macs) < len(remotes) or not own_macs.isdisjoint(macs):
        return False
    of_all = [one.addresses for one in remotes]
    own: set[Address] = set().union(*of_all)
    return len(own) == sum(map(len, of_all)) and own.isdisjoint(addresses)


@lru_cache(maxsize=1 << 12)
def _place(holder_vtep: str, incoming_vtep: str, live: bool) -> Place:
    return Place(holder_vtep, incoming_vtep, live)
