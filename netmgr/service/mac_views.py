"""The manager's MAC and address tables, as the API shows them: each MAC with its addresses, and where it is. Pure.

A MAC is a port's own, or *behind* its VIF: defined by the operator, or learned. An address is *defined* by the operator
or *learned* from the guest (`netmgr.rules.learned`). What a guest claims and does not get is shown on its port and on
the port that has it; the sentence says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from netmgr import rules
from netmgr.contract.types import Location, LogicalPort
from netmgr.model import World

__all__ = ["address_views", "learned_mac_views", "mac_views", "rival_sentences"]

View = dict[str, Any]


def mac_views(world: World, *, network: UUID | None = None, host: UUID | None = None) -> list[View]:
    """One for each MAC of *network*, or of all, that *host*, or any or none, holds; by network and MAC.

    A shadow has its primary's MAC, and is left out.
    """
    uuids = world.ports if network is None else world.ports_by_network.get(network, set())
    views: list[View] = []
    for port in (world.ports[uuid] for uuid in uuids):
        location = world.locations.get(port.uuid)
        holder = location.holder_host if location is not None else None
        if port.shadow_of is None and host in (None, holder):
            views += _views(world, port, location)
    return sorted(views, key=lambda view: (view["network"], view["mac"]))


def address_views(world: World, port: LogicalPort) -> list[View]:
    """What is learned of *port*, also what it was refused."""
    learned = world.learned.get(port.uuid)
    return [
        {
            "address": one.address,
            "source": one.source.value,
            "since": one.since,
            "refused": one.refused,
            "mac": one.mac or port.mac,
            "probed": one.probed,
        }
        for one in (learned.addresses if learned is not None else ())
    ]


def learned_mac_views(world: World, port: LogicalPort) -> list[View]:
    """The MACs that were seen behind *port*, also what it was refused."""
    learned = world.learned.get(port.uuid)
    found = learned.macs if learned is not None else ()
    return [{"mac": one.mac, "since": one.since, "refused": one.refused} for one in found]


def rival_sentences(world: World, port: LogicalPort) -> list[str]:
    """Collisions of MACs and addresses that *port* is one side of, either side."""
    refused = [
        f"{view['address']}: {view['refused']}{'; its guest has probed for it' if view['probed'] else ''}"
        for view in address_views(world, port)
        if view["refused"]
    ]
    refused += [f"{view['mac']}: {view['refused']}" for view in learned_mac_views(world, port) if view["refused"]]
    rivals = rules.rivals_of(world, port)
    said = (
        f"{text}: the guest of port {other.name} {'has probed for it' if probed else 'uses it too'}"
        for other, text, probed in rivals
    )
    return sorted([*refused, *said])


def _views(world: World, port: LogicalPort, location: Location | None) -> Iterator[View]:
    """Of the port's own MAC, and of those behind it."""
    yield _view(world, port, location, port.mac, port.ips, "")
    for one in port.nested:
        yield _view(world, port, location, one.mac, one.ips, "defined")
    for view in learned_mac_views(world, port):
        if not view["refused"]:
            yield _view(world, port, location, view["mac"], (), "learned")


def _view(
    world: World, port: LogicalPort, location: Location | None, mac: str, ips: tuple[str, ...], behind: str
) -> View:
    learned = [one for one in address_views(world, port) if one["mac"] == mac]
    holder = world.hosts.get(location.holder_host) if location is not None and location.holder_host else None
    held = "parked" if location is not None and location.parked else "live"
    return {
        "mac": mac,
        "behind": behind,
        "network": world.networks[port.network_uuid].name,
        "port": port.name,
        "port_uuid": str(port.uuid),
        "vif_uuid": str(port.vif_uuid) if port.vif_uuid else None,
        "defined": list(ips),
        "learned": [one["address"] for one in learned if not one["refused"]],
        "learned_from": sorted({one["source"] for one in learned if not one["refused"]}),
        "learned_since": max((one["since"] for one in learned if not one["refused"]), default=""),
        "host": holder.name if holder else None,
        "vtep": location.holder_vtep if location is not None else "",
        "state": held if holder else "unbound",
        "conflicts": rival_sentences(world, port) if not behind else [],
        "addresses": learned,
    }
