"""Looks into the switch for a person: flows of one network with their counters, who is behind ports and addresses."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from hostagent.agent import Agent
from hostagent.flow_words import Names, flow_views
from hostagent.model import Bridge, Desired, Unread
from hostagent.names import network_key, switch_bridge
from hostagent.pipeline.tables import Table
from hostagent.realize.errors import RealizeError
from hostagent.vifs import vif_of
from netmgr.contract.types import OpaqueNetwork

__all__ = ["bridge_of", "names_on", "network_flows"]


async def network_flows(agent: Agent, *, which: str, table: str) -> list[dict[str, Any]]:
    """The flows of the network named by name or UUID, as `flow_words.flow_views` has them; *table* picks one.

    Raises:
        RealizeError: no such network here, no such table, or the switch does not answer.
    """
    desired = agent.desired()
    network = next((n for n in desired.networks.values() if which in (n.name, str(n.uuid))), None)
    if network is None:
        known = ", ".join(sorted(n.name for n in desired.networks.values())) or "none"
        raise RealizeError(f"network {which!r} is not carried by this host; those that are: {known}")
    if table and table.upper() not in {*Table.__members__, *(str(number.value) for number in Table)}:
        raise RealizeError(f"table {table!r} is none of the pipeline's: {', '.join(Table.__members__)}")
    counted = await agent.host.count(switch_bridge(network.switch_uuid))
    names = names_on(bridge_of(agent, network), desired, network)
    return flow_views(counted, names, key=network_key(network.uuid), table=table)


def bridge_of(agent: Agent, network: OpaqueNetwork) -> Bridge:
    """The bridge of *network*'s switch as last read.

    Raises:
        RealizeError: it could not be read, or is not there.
    """
    name = switch_bridge(network.switch_uuid)
    bridges = agent.host.cached().bridges
    if isinstance(bridges, Unread):
        raise RealizeError(f"network {network.name}: bridge {name} could not be read: {bridges.reason}")
    found = next((bridge for bridge in bridges if bridge.name == name), None)
    if found is None:
        raise RealizeError(
            f"network {network.name}: its bridge {name} is not there; `hostagent plan` says what is missing"
        )
    return found


def names_on(bridge: Bridge, desired: Desired, network: OpaqueNetwork) -> Names:
    """Who is behind the numbers on *bridge*, and the MACs and VTEPs of *network*.

    A host knows no other by its name, only by its UUID.
    """
    by_vif = {port.vif_uuid: port.name for port in desired.ports.values() if port.vif_uuid is not None}
    ofports = {
        interface.ofport: _tap(interface.name, by_vif.get(vif) if (vif := vif_of(interface)) else None)
        for port in bridge.ports
        for interface in port.interfaces
        if interface.ofport is not None and interface.ofport > 0
    }
    ports = [port for port in desired.ports.values() if port.network_uuid == network.uuid and port.shadow_of is None]
    own = desired.host
    vteps: dict[str, str] = {}
    for location in desired.locations.values():
        for host, vtep in (
            (location.holder_host, location.holder_vtep),
            (location.incoming_host, location.incoming_vtep),
        ):
            if host is not None and vtep:
                vteps[vtep] = own.name if own is not None and own.uuid == host else f"host {_short(host)}"
    return Names(
        networks={network_key(one.uuid): one.name for one in desired.networks.values()},
        ofports=ofports,
        macs={port.mac: port.name for port in ports},
        addresses=vteps | {ip.partition("/")[0]: port.name for port in ports for ip in port.ips},
    )


def _tap(name: str, port: str | None) -> str:
    return f"{name}({port})" if port else name


def _short(host: UUID) -> str:
    return str(host)[:8]
