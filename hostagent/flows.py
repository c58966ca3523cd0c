"""From what is wanted to the flows of one bridge.

`compile_flows` gathers, for each network of the switch, what the pipeline must know of its ports on this host
(`PortView`), and adds what `pipeline` makes of it. The promise of the whole: no two flows share table, priority and
match, so that what a bridge has can be compared with what it should have, flow by flow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from uuid import UUID

from hostagent.flow import Flow, mac_to_int
from hostagent.model import Bridge, Desired, Phase
from hostagent.names import network_key, tunnel_port
from hostagent.pipeline.network import NetworkPorts, PortView, Wire, network_flows, vtep_flows
from hostagent.pipeline.tables import family_of, switch_flows
from hostagent.resolve import SwitchIntent, tunnel_key
from hostagent.vifs import Taps, standing, taps_of
from netmgr.contract.types import Location, LogicalPort, NetworkType, OpaqueNetwork, VifState

__all__ = ["compile_flows", "ports_by_network"]


def compile_flows(
    *,
    desired: Desired,
    intent: SwitchIntent,
    bridge: Bridge,
    realized: Iterable[Flow] = (),
    index: Mapping[UUID, tuple[UUID, ...]] | None = None,
) -> frozenset[Flow]:
    """All flows that the *bridge* of *intent* should have.

    What has no ofport yet is left out and comes with a later reading. *realized* are the flows it has: they decide
    which of two taps with one VIF UUID stays lit. *index* is `ports_by_network(desired)`, if the caller has it.
    """
    by_network = ports_by_network(desired) if index is None else index
    taps = taps_of(bridge, realized)
    own_vtep = intent.vtep_address
    flows: set[Flow] = set(switch_flows(family_of(own_vtep or "0.0.0.0")))
    vteps: set[str] = set()
    for network in intent.networks:
        views = [*_views(desired, network, by_network.get(network.uuid, ()), taps)]
        wire = _wire(network, intent, bridge)
        flows.update(network_flows(NetworkPorts(key=network_key(network.uuid), wire=wire, ports=tuple(views))))
        for view in views:
            vteps.update((view.holder_vtep, view.incoming_vtep))
    if own_vtep:
        flows.update(vtep_flows(sorted(vteps - {"", own_vtep}), family_of(own_vtep)))
    return frozenset(flows)


def ports_by_network(desired: Desired) -> dict[UUID, tuple[UUID, ...]]:
    """UUIDs of the ports of each network, sorted: those known, and those of which only the location is."""
    found: dict[UUID, set[UUID]] = {}
    for port in desired.ports.values():
        found.setdefault(port.network_uuid, set()).add(port.uuid)
    for uuid, location in desired.locations.items():
        if uuid not in desired.ports:
            found.setdefault(location.network_uuid, set()).add(uuid)
    return {network: tuple(sorted(ports)) for network, ports in found.items()}


def _views(desired: Desired, network: OpaqueNetwork, ports: Iterable[UUID], taps: Taps) -> Iterator[PortView]:
    if desired.host is None:
        return
    seen: set[int] = set()
    for uuid in ports:
        port, location = desired.ports.get(uuid), desired.locations.get(uuid)
        text = port.mac if port is not None else location.mac if location is not None else ""
        if not text or mac_to_int(text) in seen:  # of two ports with one MAC the first has it
            continue
        seen.add(mac_to_int(text))
        yield _view(desired, desired.host.uuid, port, location, text, taps)


def _view(
    desired: Desired, host: UUID, port: LogicalPort | None, location: Location | None, mac: str, taps: Taps
) -> PortView:
    number = mac_to_int(mac)
    if location is None:
        return PortView(mac=number, mac_text=mac)
    uuid = location.port_uuid
    here = location.holder_host == host
    state, phase = VifState.DARK, desired.phases.get(uuid, Phase.STEADY)
    ofport = 0
    if port is not None:
        state, _ = standing(port=port, location=location, phase=phase, host=host)
        tap = taps.by_vif.get(port.vif_uuid) if port.vif_uuid is not None else None
        ofport = tap.ofport if tap is not None and tap.ofport is not None and tap.ofport > 0 else 0
    if state is VifState.INCOMING:
        phase = Phase.INCOMING  # its machine may not have heard yet
    elsewhere = location.holder_host is not None and not here
    return PortView(
        mac=number,
        mac_text=mac,
        ips=port.ips if port is not None else (),
        here=here,
        state=state,
        phase=phase,
        ofport=ofport,
        holder_vtep=location.holder_vtep if elsewhere else "",
        incoming_vtep=location.incoming_vtep if location.incoming_host not in (None, host) else "",
        relay_vtep=_relay_vtep(desired, location, phase, host),
        live=elsewhere and not location.parked,
    )


def _relay_vtep(desired: Desired, location: Location, phase: Phase, host: UUID) -> str:
    """The location's word where it has one, else what the port's machine remembers."""
    if phase is Phase.REDIRECTING:
        return location.incoming_vtep
    if location.holder_host != host and phase in (Phase.RELAYING, Phase.INCOMING, Phase.ACTIVATED):
        return location.holder_vtep
    return desired.relay_vteps.get(location.port_uuid, "")


def _wire(network: OpaqueNetwork, intent: SwitchIntent, bridge: Bridge) -> Wire | None:
    ofport = _tunnel_ofport(network.type, intent, bridge)
    if not ofport or not intent.vtep:
        return None
    return Wire(vtep=intent.vtep_address, tunnel=ofport, tun_id=tunnel_key(network))


def _tunnel_ofport(kind: NetworkType, intent: SwitchIntent, bridge: Bridge) -> int:
    name = tunnel_port(kind, intent.switch.uuid)
    for port in bridge.ports:
        if port.name == name:
            return next((one.ofport for one in port.interfaces if one.ofport is not None and one.ofport > 0), 0)
    return 0
