"""The agent's state as plain values, for `hostagent show`, `vif`, `flows` and `metrics`; and as OpaqueView has it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hostagent.agent import Agent
from hostagent.identity import Identity
from hostagent.indexed import held_here
from hostagent.model import Unread
from hostagent.names import network_key, switch_bridge
from hostagent.state import State
from hostagent.tap_drops import OVERFLOWED, REFUSED, read_overflowed, read_refused
from hostagent.underlay.path_fit import peer_names
from hostagent.view import host_view
from netmgr.contract.proto import opaque_view_pb2
from netmgr.contract.types import LearnedSource, LogicalPort

__all__ = ["counts_of", "drops_of", "flows_of", "peers_of", "show_of", "unread_of", "view_of", "vifs_of"]


def show_of(agent: Agent, identity: Identity, state: State) -> dict[str, Any]:
    """Host, sync, switches, networks and VIFs."""
    desired, report = agent.desired(), agent.reporting.report
    switch_status = {status.switch_uuid: status for status in report.switches}
    network_status = {status.network_uuid: status for status in report.networks}
    switches = []
    for switch in sorted(desired.switches.values(), key=lambda item: item.name):
        status = switch_status.get(switch.uuid)
        switches.append(
            {
                "uuid": str(switch.uuid),
                "name": switch.name,
                "opaque": True,
                "bridge": switch_bridge(switch.uuid),
                "status": status.status.value if status else "down",
                "health": status.health if status else 0,
                "reasons": list(status.reasons) if status else ["not yet read"],
                "pnics": list(status.pnics) if status else [],
                "vteps": list(status.vteps) if status else [],
                "datapath": status.datapath if status else "",
                "zones": [desired.zones[uuid].name for uuid in switch.zone_uuids if uuid in desired.zones],
            }
        )
    networks = []
    for network in sorted(desired.networks.values(), key=lambda item: item.name):
        sick = network_status.get(network.uuid)
        unread = network.switch_uuid not in switch_status
        on = desired.switches.get(network.switch_uuid)
        zone = desired.zones.get(network.zone_uuid)
        networks.append(
            {
                "uuid": str(network.uuid),
                "name": network.name,
                "opaque": True,
                "type": network.type.value,
                "segment": network.segment_id,
                "switch": on.name if on else "",
                "zone": zone.name if zone else "",
                "mtu": network.mtu,
                "status": sick.status.value if sick else "down" if unread else "up",
                "health": sick.health if sick else 0 if unread else 100,
                "reasons": list(sick.reasons) if sick else ["not yet read"] if unread else [],
            }
        )
    return {
        "host": {
            "uuid": str(identity.host_uuid),
            "name": desired.host.name if desired.host else identity.host_name,
            "pnics": list(identity.pnics),
            "datapath": identity.datapath,
            "view_address": identity.view_address,
            "control_ports": list(desired.control_ports),
        },
        "sync": {
            "connected": agent.sync.connected,
            "age_s": round(agent.sync.away_s, 1),
            "why_away": "" if agent.sync.connected else agent.sync.why_away,
            "in_sync": agent.in_sync,
            "revision": state.revision,
            "managers": list(identity.managers),
        },
        "switches": switches,
        "networks": networks,
        "vifs": vifs_of(agent, state),
        "peers": peers_of(agent),
        "failures": list(agent.failures()),
        "repairs": [{"at_unix": one.at_unix, "what": one.what} for one in report.repairs],
        "repairs_total": report.repairs_total,
        "motion": {
            str(port): {"phase": phase.value, "vtep": desired.relay_vteps.get(port, "")}
            for port, phase in desired.phases.items()
        },
        "alone": desired.alone,
        "hushed": sorted(str(one) for one in desired.hushed),
        "connections": {str(port): held._asdict() for port, held in agent.limiting.shown().items()},
        "tickets": {str(port): [asdict(one) for one in found] for port, found in desired.tickets.items()},
    }


def peers_of(agent: Agent) -> list[dict[str, Any]]:
    """The peers that are asked whether the tunnel to them works, and what they answer. Times in s and ms."""
    desired, measures = agent.desired(), agent.probing.measures()
    names, result = peer_names(desired), []
    for path in agent.host.paths:
        on, measure = desired.switches.get(path.key.switch), measures.get(path.key)
        if measure is None:
            continue
        result.append(
            {
                "host": names.get(path.key.vtep, ""),
                "vtep": path.key.vtep,
                "switch": on.name if on else "",
                "switch_uuid": str(path.key.switch),
                "type": path.key.type.value,
                "state": path.state.value,
                "age_s": round(measure.since_s, 1),
                "rtt_ms": round(measure.rtt_s * 1000, 2) if measure.rtt_s is not None else None,
                "loss_percent": measure.loss_percent,
                "answered_s": round(measure.answered_s, 1) if measure.answered_s is not None else None,
                "shared": path.shared,
                "cut": path.cut,
                "mtu_passed": path.mtu_passed,
                "mtu_refused": path.mtu_refused,
            }
        )
    return result


def view_of(agent: Agent) -> opaque_view_pb2.HostView | None:
    """The host for OpaqueView; None until the manager has said who it is."""
    desired = agent.desired()
    if desired.host is None:
        return None
    return host_view(
        desired=desired,
        report=agent.reporting.report,
        in_sync=agent.in_sync,
        manager_connected=agent.sync.connected,
        sync_age_s=agent.sync.away_s,
        load_mbps=agent.load.mbps,
    )


def vifs_of(agent: Agent, state: State) -> list[dict[str, Any]]:
    """The VIFs plugged here, each with its port, location and phase."""
    desired = agent.desired()
    macs = {vif.vif_uuid: vif.mac for vif in agent.guests.vifs}
    result = []
    for status in agent.reporting.report.vifs:
        port = state.ports.get(status.port_uuid) if status.port_uuid is not None else None
        location = desired.locations.get(status.port_uuid) if status.port_uuid is not None else None
        record = state.vifs.get(status.vif_uuid)
        on = status.network_uuid or (record.network_uuid if record and record.port_uuid is None else None)
        network = state.networks.get(on) if on is not None else None
        phase = desired.phases.get(status.port_uuid) if status.port_uuid is not None else None
        result.append(
            {
                "vif": str(status.vif_uuid),
                "state": status.state.value,
                "reason": status.reason,
                "network": network.name if network else str(on or ""),
                "port": port.name if port else "",
                "port_uuid": str(status.port_uuid or ""),
                "ovs_port": status.ovs_port,
                "mac": port.mac if port else macs.get(status.vif_uuid, ""),
                "ips": list(port.ips) if port else [],
                "parent": _parent_name(port, state),
                "tag": port.tag if port else 0,
                "vm": (record.vm_name if record else "") or str(status.vm_uuid or ""),
                "phase": phase.value if phase else "steady",
                "holder": str(location.holder_host or "") if location else "",
                "incoming": str(location.incoming_host or "") if location else "",
                "location_version": location.version if location else 0,
            }
        )
    return result


def _parent_name(port: LogicalPort | None, state: State) -> str:
    parent = state.ports.get(port.parent_port) if port is not None and port.parent_port is not None else None
    return parent.name if parent is not None else ""


async def drops_of(agent: Agent) -> list[dict[str, Any]]:
    """Frames that ended on this host, by port and reason, counted by the switch since its flow or meter came;
    and what the kernel dropped at VIFs' taps: what it refused before, and what their limits had no room for.

    Raises:
        RealizeError: a switch did not answer, or the kernel.
    """
    networks = {network_key(network.uuid): network.name for network in agent.desired().networks.values()}
    bridges = agent.host.cached().bridges
    interfaces = {
        (bridge.name, interface.ofport): interface.name
        for bridge in (() if isinstance(bridges, Unread) else bridges)
        for port in bridge.ports
        for interface in port.interfaces
    }
    denied = [
        {
            "bridge": bridge,
            "port": interfaces.get((bridge, drop.ofport), ""),
            "network": networks.get(drop.network, ""),
            "packets": drop.packets,
            "reason": drop.reason,
        }
        for bridge, drops in (await agent.host.switches.drops()).items()
        for drop in drops
    ]
    overflowed = await asyncio.to_thread(read_overflowed)  # beside the loop: the kernel may be slow to answer
    return denied + _at_taps(agent, read_refused(), REFUSED) + _at_taps(agent, overflowed, OVERFLOWED)


def _at_taps(agent: Agent, counted: Mapping[str, int], reason: str) -> list[dict[str, Any]]:
    desired = agent.desired()
    of_vif = {port.vif_uuid: desired.networks.get(port.network_uuid) for port in desired.ports.values()}
    return [
        {
            "bridge": vif.bridge,
            "port": vif.ovs_port,
            "network": network.name if (network := of_vif.get(vif.vif_uuid)) is not None else "",
            "packets": counted[vif.ovs_port],
            "reason": reason,
        }
        for vif in agent.guests.vifs
        if counted.get(vif.ovs_port)
    ]


def unread_of(agent: Agent) -> str:
    """Why not all switches can be asked what they have dropped; empty where they can."""
    observed = agent.host.cached()
    parts = (observed.bridges, *observed.flows.values())
    return next((part.reason for part in parts if isinstance(part, Unread)), "")


def counts_of(agent: Agent) -> dict[str, Any]:
    """What metrics have beyond `show_of`: repairs by kind, and what the manager has said of MACs and addresses that
    the guests of ports held here use."""
    desired = agent.desired()
    host = desired.host.uuid if desired.host is not None else None
    here = held_here(desired.locations, host) if host is not None else {}
    held = (uuid for uuid, location in here.items() if location.holder_host == host)
    rows = [row for uuid in held if (row := desired.learned.get(uuid)) is not None]
    addresses = [one for row in rows for one in row.addresses]
    macs = [one for row in rows for one in row.macs]
    conflicts = sum(bool(one.refused) for one in addresses) + sum(bool(one.refused) for one in macs)
    sources = Counter(one.source for one in addresses if not one.refused)
    return {
        "repairs_by_kind": dict(agent.repairs_by_kind),
        "learned_addresses": {source.value: sources[source] for source in LearnedSource},
        "learned_macs": sum(not one.refused for one in macs),
        "address_conflicts": conflicts,
    }


def flows_of(agent: Agent) -> dict[str, list[str]]:
    """By bridge: its flows in ovs-ofctl's syntax, as last read, sorted by table and priority."""
    result = {}
    for bridge, flows in agent.host.cached().flows.items():
        if isinstance(flows, Unread):
            result[bridge] = [f"# unread: {flows.reason}"]
        else:
            ordered = sorted(flows, key=lambda flow: (flow.table, -flow.priority, str(flow)))
            result[bridge] = [str(flow) for flow in ordered]
    return result
