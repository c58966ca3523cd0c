"""Rows as the API shows them, with what their hosts say of them rolled up. Pure over a World and the live hosts.

Desired comes from rows, realized from `HostLive`; no key of an answer mixes both. Roll-up: a construct is up when it is
up on every host that must carry it, down when on none, warning between; its health is the mean; each reason begins
with its host's name. A host that is away is counted with health 0: what it last said is no longer known to hold. A
network that is withdrawn from a host is in maintenance there at best. Ports have a module of their own, `port_views`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any
from uuid import UUID

from netmgr.contract.types import (
    HostReport,
    Kind,
    OpaqueNetwork,
    OpaqueSwitch,
    Status,
    TransportZone,
    why_withdrawn,
)
from netmgr.model import HostLive, HostRecord, World
from netmgr.service.realization import HostState, state_on

__all__ = ["RollUp", "host_view", "network_view", "roll_up", "span_views", "switch_view", "zone_view"]

View = dict[str, Any]
Lives = Mapping[UUID, HostLive]


@dataclass(frozen=True, slots=True, kw_only=True)
class RollUp:
    """One status for many hosts."""

    status: Status
    health: int
    reasons: tuple[str, ...] = ()


def zone_view(world: World, zone: TransportZone) -> View:
    switch = world.switch_of_zone(zone.uuid)
    return {
        "uuid": str(zone.uuid),
        "name": zone.name,
        "kind": zone.kind.value,
        "switch": switch.name if switch else None,
        "hosts": sorted(h.name for h in world.hosts.values() if zone.uuid in h.zone_uuids),
    }


def switch_view(world: World, switch: OpaqueSwitch, lives: Lives) -> View:
    hosts = _hosts_in(world, switch.zone_uuids)
    zones = sorted(world.zones[uuid].name for uuid in switch.zone_uuids)
    return {
        "opaque": True,
        "uuid": str(switch.uuid),
        "name": switch.name,
        "zone": ", ".join(zones),
        "zones": zones,
        "pnic_globs": list(switch.pnic_globs),
        "mtu": switch.mtu,
        "vtep_pool": switch.vtep_pool,
        "teaming": switch.teaming.value,
        "traffic_classes": asdict(switch.traffic_classes) if switch.traffic_classes.wanted else None,
        "vteps": {h.name: v.address for h in hosts for v in h.vteps if v.switch_uuid == switch.uuid},
        "pnics": {host.name: _pnics_on(host, switch, lives.get(host.uuid)) for host in hosts},
        **_status(roll_up(zone_names=zones, entries=[(h, _of_switch(world, h, switch, lives)) for h in hosts])),
    }


def network_view(world: World, network: OpaqueNetwork, lives: Lives) -> View:
    hosts = _hosts_in(world, (network.zone_uuid,))
    switch = world.switches[network.switch_uuid]
    zone = world.zones[network.zone_uuid].name
    entries = [(host, _of_network(world, host, network, lives)) for host in hosts]
    return {
        "opaque": True,
        "uuid": str(network.uuid),
        "name": network.name,
        "type": network.type.value,
        "zone": zone,
        "switch": switch.name,
        "segment_id": network.segment_id,
        "attach_mode": network.attach_mode.value,
        "mtu": network.mtu,
        "subnets": list(network.subnets),
        "ports": len(world.ports_by_network.get(network.uuid, ())),
        "state": _state(world, network, hosts),
        "withdrawals": [
            {
                "host": world.hosts[one.host_uuid].name if one.host_uuid else None,
                "reason": one.reason,
                "by": one.by,
                "since": one.since,
            }
            for one in world.withdrawals_of(network.uuid)
        ],
        "hosts": [host.name for host in hosts],
        "pnics": {host.name: _pnics_on(host, switch, lives.get(host.uuid)) for host in hosts},
        **_status(roll_up(zone_names=[zone], entries=entries)),
    }


def span_views(world: World, network: OpaqueNetwork, lives: Lives) -> list[View]:
    """The hosts that must carry a network, by name: realized or not, ports that live there, how it fares, withdrawn."""
    span = []
    live = _live_ports(world, network)
    for host in _hosts_in(world, (network.zone_uuid,)):
        state, _reason = state_on(world, host, (Kind.NETWORK, network.uuid), lives.get(host.uuid))
        span.append(
            {
                "host": host.name,
                "state": state.value,
                "live_ports": live[host.uuid],
                "withdrawn": world.withdrawal_from(network.uuid, host.uuid) is not None,
                **_status(_of_network(world, host, network, lives)),
            }
        )
    return span


def _live_ports(world: World, network: OpaqueNetwork) -> Counter[UUID | None]:
    """By host: ports of *network* that it holds, not parked. Only these hosts are told of the network's ports."""
    places = (world.locations.get(uuid) for uuid in world.ports_by_network.get(network.uuid, ()))
    return Counter(place.holder_host for place in places if place is not None and not place.parked)


def host_view(world: World, host: HostRecord, lives: Lives) -> View:
    live = lives.get(host.uuid)
    switches = [s for s in world.switches.values() if set(s.zone_uuids) & set(host.zone_uuids)]
    entries = [(host, _of_switch(world, host, switch, lives)) for switch in switches]
    report = live.report if live is not None else None
    return {
        "uuid": str(host.uuid),
        "name": host.name,
        "zones": sorted(world.zones[uuid].name for uuid in host.zone_uuids),
        "vteps": {world.switches[v.switch_uuid].name: v.address for v in host.vteps},
        "offered_pnics": list(host.pnics),
        "pnics": [
            {"name": p.name, "mac": p.mac, "speed_mbps": p.speed_mbps, "link_up": p.link_up, "mtu": p.mtu}
            for p in (report.pnics if report else ())
        ],
        "view_address": host.view_address,
        "agent_version": live.agent_version if live else "",
        "joined_at": host.joined_at,
        "connected": bool(live and live.connected),
        "since": live.since if live else None,
        "in_sync": bool(live and live.connected and live.acked_revision >= live.wanted_revision),
        "acked_revision": live.acked_revision if live else 0,
        "vifs": len(report.vifs) if report else 0,
        "peers": _peers(world, report) if report else [],
        "repairs_total": report.repairs_total if report else 0,
        "repairs": [{"at": _utc(one.at_unix), "what": one.what} for one in (report.repairs if report else ())],
        **_status(roll_up(zone_names=(), entries=entries) if entries else _alone(live)),
    }


def _peers(world: World, report: HostReport) -> list[View]:
    """What a host's probes tell of the tunnels to others."""
    hosts = world.hosts
    found = []
    for status in report.switches:
        switch = world.switches.get(status.switch_uuid)
        for peer in status.peers:
            other = hosts.get(peer.host_uuid) if peer.host_uuid is not None else None
            found.append(
                {
                    "host": other.name if other is not None else "",
                    "vtep": peer.vtep,
                    "switch": switch.name if switch is not None else "",
                    "type": peer.type.value,
                    "state": peer.state.value,
                    "mtu": peer.mtu,
                    "shared": peer.shared,
                    "cut": peer.cut,
                }
            )
    return found


def _utc(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def roll_up(*, zone_names: Iterable[str], entries: list[tuple[HostRecord, RollUp]]) -> RollUp:
    """One status of what several hosts carry."""
    if not entries:
        reason = f"no host is in zone {', '.join(zone_names)}"
        return RollUp(status=Status.UNAVAILABLE, health=0, reasons=(reason,))
    found = {entry.status for _host, entry in entries}
    status = found.pop() if len(found) == 1 else Status.WARNING
    reasons = tuple(f"{host.name}: {reason}" for host, entry in entries for reason in entry.reasons)
    return RollUp(status=status, health=sum(entry.health for _, entry in entries) // len(entries), reasons=reasons)


def _of_switch(world: World, host: HostRecord, switch: OpaqueSwitch, lives: Lives) -> RollUp:
    def said(live: HostLive) -> RollUp | None:
        found = next((s for s in live.report.switches if s.switch_uuid == switch.uuid), None)
        return RollUp(status=found.status, health=found.health, reasons=found.reasons) if found else None

    return _on_host(world, host, (Kind.SWITCH, switch.uuid), lives, said) or _silent("the host has not reported on it")


def _of_network(world: World, host: HostRecord, network: OpaqueNetwork, lives: Lives) -> RollUp:
    def said(live: HostLive) -> RollUp | None:
        found = next((n for n in live.report.networks if n.network_uuid == network.uuid), None)
        return RollUp(status=found.status, health=found.health, reasons=found.reasons) if found else None

    switch = _of_switch(world, host, world.switches[network.switch_uuid], lives)
    # Hosts speak of networks that are not plainly up only; of the others, the switch below says it all.
    found = _on_host(world, host, (Kind.NETWORK, network.uuid), lives, said) or switch
    withdrawal = world.withdrawal_from(network.uuid, host.uuid)
    if withdrawal is None:
        return found
    why = why_withdrawn(withdrawal, network=network.name, host=host.name)
    status = found.status if found.status in (Status.DOWN, Status.UNAVAILABLE) else Status.MAINTENANCE
    return replace(found, status=status, reasons=(why, *(one for one in found.reasons if one != why)))


def _state(world: World, network: OpaqueNetwork, hosts: list[HostRecord]) -> str:
    found = world.withdrawals_of(network.uuid)
    if not found:
        return "active"
    everywhere = all(world.withdrawal_from(network.uuid, host.uuid) is not None for host in hosts)
    return "withdrawn" if everywhere and (hosts or found[0].host_uuid is None) else "partly withdrawn"


def _on_host(
    world: World,
    host: HostRecord,
    key: tuple[Kind, UUID],
    lives: Lives,
    said: Callable[[HostLive], RollUp | None],
) -> RollUp | None:
    live = lives.get(host.uuid)
    state, reason = state_on(world, host, key, live)
    if state is HostState.DISCONNECTED or live is None:
        return _silent(reason)
    if state is HostState.REJECTED:
        return RollUp(status=Status.DOWN, health=0, reasons=(reason,))
    if state is HostState.WAITING:
        return RollUp(status=Status.WARNING, health=50, reasons=(reason,))
    return said(live)


def _silent(reason: str) -> RollUp:
    return RollUp(status=Status.UNAVAILABLE, health=0, reasons=(reason,))


def _alone(live: HostLive | None) -> RollUp:
    if live is not None and live.connected:
        return RollUp(status=Status.UP, health=100, reasons=())
    return _silent("the host is not connected")


def _status(rolled: RollUp) -> View:
    return {"status": rolled.status.value, "health": rolled.health, "reasons": list(rolled.reasons)}


def _pnics_on(host: HostRecord, switch: OpaqueSwitch, live: HostLive | None) -> list[str]:
    """The PNICs that carry the switch, as the host says; before it has said so, those it offers that match."""
    report = live.report.switches if live else ()
    found = next((s for s in report if s.switch_uuid == switch.uuid), None)
    if found is not None:
        return list(found.pnics)
    return [pnic for pnic in host.pnics if any(fnmatchcase(pnic, glob) for glob in switch.pnic_globs)]


def _hosts_in(world: World, zone_uuids: Iterable[UUID]) -> list[HostRecord]:
    zones = set(zone_uuids)
    return sorted((h for h in world.hosts.values() if zones & set(h.zone_uuids)), key=lambda h: h.name)
