"""Ports as the API shows them: what is wanted of each, where it is, and what hosts say of its VIF. Pure.

The location is netmgr's word, the VIF's state the holder's. A *conflict* is the VIF plugged in a place that is not the
port's: on a host that neither holds the port nor is to get it, or twice on one host. It is dark there; both places are
named, because either may be the mistake. The source of a move shows up so for the second or two its tap outlives it.
A VIF that is plugged with the MAC of another port is an address conflict of both; one that has no port is shown on the
port that has the MAC, and its own reason says why it is dark.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from netmgr import rules
from netmgr.contract.types import Location, LogicalPort, OpaqueNetwork, VifState, VifStatus
from netmgr.model import HostLive, World, port_path
from netmgr.rules.groups import unmatched_sentences
from netmgr.service.mac_views import address_views, learned_mac_views, rival_sentences

__all__ = ["Places", "binding_views", "places_of", "port_view", "vif_views"]

View = dict[str, Any]
Lives = Mapping[UUID, HostLive]
_Plugged = list[tuple[UUID, VifStatus]]


@dataclass(frozen=True, slots=True)
class Places:
    """Every VIF that a connected host has plugged, with the host and what it says; one plugged twice is there twice."""

    by_vif: Mapping[UUID, _Plugged]
    by_mac: Mapping[str, _Plugged]


def places_of(lives: Lives) -> Places:
    """What the connected hosts of *lives* say."""
    by_vif: dict[UUID, _Plugged] = {}
    by_mac: dict[str, _Plugged] = {}
    for host_uuid, live in lives.items():
        if live.connected:
            for vif in live.report.vifs:
                by_vif.setdefault(vif.vif_uuid, []).append((host_uuid, vif))
                if vif.mac:
                    by_mac.setdefault(vif.mac, []).append((host_uuid, vif))
    return Places(by_vif, by_mac)


def port_view(world: World, port: LogicalPort, places: Places) -> View:
    """Everything about one port."""
    location = world.locations.get(port.uuid) or Location(port_uuid=port.uuid, network_uuid=port.network_uuid)
    found = places.by_vif.get(port.vif_uuid, []) if port.vif_uuid is not None else []
    at_holder, at_incoming = _at(location.holder_host, found), _at(location.incoming_host, found)
    if location.holder_host is None and len(found) == 1:
        at_holder = found[0][1]  # plugged somewhere and not granted: that host's word says why
    rightful = [one for one in (at_holder, at_incoming) if one is not None]
    conflicts = [(host, vif) for host, vif in found if not any(vif is one for one in rightful)]
    return {
        "uuid": str(port.uuid),
        "name": port.name,
        "network": world.networks[port.network_uuid].name,
        "network_uuid": str(port.network_uuid),
        "vif_uuid": str(port.vif_uuid) if port.vif_uuid else None,
        "mac": port.mac,
        "ips": list(port.ips),
        "learned": address_views(world, port),
        "address_conflicts": sorted([*rival_sentences(world, port), *_mac_sentences(world, port, places)]),
        "admin_up": port.admin_up,
        "allow": list(port.allow),
        "nested": [{"mac": one.mac, "ips": list(one.ips)} for one in port.nested],
        "learned_macs": learned_mac_views(world, port),
        "egress_kbps": port.egress_kbps,
        "ingress_kbps": port.ingress_kbps,
        "security_groups": sorted(world.groups[uuid].name for uuid in port.security_groups),
        "warnings": unmatched_sentences(world, port),
        "parent": port_path(world, world.ports[port.parent_port]) if port.parent_port else None,
        "tag": port.tag,
        "subports": [{"tag": one.tag, "port": port_path(world, one)} for one in rules.subports_of(world, port)],
        "shadow_of": world.ports[port.shadow_of].name if port.shadow_of else None,
        "shadows": sorted(world.ports[uuid].name for uuid in world.shadows_of.get(port.uuid, ())),
        "location": _word(location),
        "host": _name(world, location.holder_host),
        "vtep": location.holder_vtep,
        "incoming_host": _name(world, location.incoming_host),
        "incoming_vtep": location.incoming_vtep,
        "parked": location.parked,
        "made_by": _maker(world, port),
        "location_version": location.version,
        "vif_state": at_holder.state.value if at_holder else None,
        "vif_reason": at_holder.reason if at_holder else "",
        "incoming_state": at_incoming.state.value if at_incoming else None,
        "incoming_reason": at_incoming.reason if at_incoming else "",
        "ovs_port": at_holder.ovs_port if at_holder else "",
        "vm_uuid": str(at_holder.vm_uuid) if at_holder and at_holder.vm_uuid else None,
        "plugged_on": sorted({_name(world, host) or str(host) for host, _vif in found}),
        "conflicts": [
            {
                "host": _name(world, host) or str(host),
                "state": vif.state.value,
                "reason": vif.reason,
                "ovs_port": vif.ovs_port,
            }
            for host, vif in conflicts
        ],
    }


def binding_views(world: World, network: OpaqueNetwork, places: Places) -> list[View]:
    """The ports of a network that have a VIF: which, where, and how it fares; by name."""
    ports = (world.ports[uuid] for uuid in world.ports_by_network.get(network.uuid, ()))
    where = ("location", "host", "incoming_host", "vif_state", "shadow_of")
    wanted = ("name", "vif_uuid", "mac", "ips", "learned", *where)
    attached = sorted((port for port in ports if port.vif_uuid is not None), key=lambda port: port.name)
    views = [port_view(world, port, places) for port in attached]
    return [{"port" if key == "name" else key: view[key] for key in wanted} for view in views]


def vif_views(world: World, lives: Lives) -> list[View]:
    """Every VIF that is plugged on a connected host, as that host reports it, with or without a port; by host."""
    views = []
    for vif_uuid, places in places_of(lives).by_vif.items():
        port = world.ports.get(world.port_by_vif.get(vif_uuid, vif_uuid))
        for host, vif in places:
            network = world.networks.get(port.network_uuid if port else vif.network_uuid or vif_uuid)
            views.append(
                {
                    "vif_uuid": str(vif_uuid),
                    "host": _name(world, host) or str(host),
                    "state": vif.state.value,
                    "port": port.name if port else None,
                    "network": network.name if network else None,
                    "ovs_port": vif.ovs_port,
                    "vm_uuid": str(vif.vm_uuid) if vif.vm_uuid else None,
                    "reason": vif.reason,
                }
            )
    return sorted(views, key=lambda view: (view["host"], view["ovs_port"], view["vif_uuid"]))


def _mac_sentences(world: World, port: LogicalPort, places: Places) -> Iterator[str]:
    """VIFs that are plugged with a MAC of *port*'s without being its, and its own plugged with another port's."""
    if port.shadow_of is not None:
        return
    for mac in (port.mac, *(one.mac for one in port.nested)):
        for host, vif in places.by_mac.get(mac, ()):
            where = f"plugged as {vif.ovs_port} on host {_name(world, host) or host}"
            other = world.ports.get(world.port_by_vif.get(vif.vif_uuid, vif.vif_uuid))
            if other is None:
                yield f"{mac}: VIF {vif.vif_uuid}, which has no port, is {where} with it, {vif.state}"
            elif other.network_uuid == port.network_uuid and port.uuid not in (other.uuid, other.shadow_of):
                yield f"{mac}: the VIF of port {other.name} is {where} with it, {vif.state}"
    for host, vif in places.by_vif.get(port.vif_uuid, ()) if port.vif_uuid is not None else ():
        owner = world.ports.get(world.unique.get(("mac", port.network_uuid, vif.mac), port.uuid))
        if owner is not None and owner.uuid not in (port.uuid, port.shadow_of):
            where = f"as {vif.ovs_port} on host {_name(world, host) or host}"
            yield f"{vif.mac}: it is defined for port {owner.name}, and this port's VIF is plugged with it {where}"


def _maker(world: World, port: LogicalPort) -> str | None:
    """Name of the host whose claim made the port; None where an operator or a CMS did."""
    history = world.port_histories.get(port.uuid)
    made_by = history.made_by if history is not None else None
    return (_name(world, made_by) or str(made_by)) if made_by is not None else None


def _at(host: UUID | None, found: list[tuple[UUID, VifStatus]]) -> VifStatus | None:
    """What *host* says of the VIF; of two plugs there, of the one that is not dark."""
    here = [vif for where, vif in found if where == host]
    return min(here, key=lambda vif: vif.state is VifState.DARK, default=None)


def _word(location: Location) -> str:
    if location.incoming_host is not None:
        return "moving"
    if location.holder_host is None:
        return "unbound"
    return "parked" if location.parked else "held"


def _name(world: World, host: UUID | None) -> str | None:
    found = world.hosts.get(host) if host is not None else None
    return found.name if found else None
