"""The flows of one port, without a turn of the loop: what its phase, its tap or its place changes on the switch. Pure.

A pause must reach the switch in a millisecond or two, and a guest that was let in shall be heard as soon, while
compiling a bridge of ten thousand ports takes many. So only the port itself is compiled. Of a phase, once as it was
applied and once as it is now, and the difference is sent; of a tap that has come, or a port that has got a place, what
the switch lacks. What other ports have a part in (the flood flow of the network, copies of what DHCP servers say, what
is not sent to peers that are gone) is left to the loop, which follows at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from uuid import UUID

from hostagent.exits import exit_ofport
from hostagent.flow import Flow, Match
from hostagent.flows import flows_of_ports
from hostagent.model import Bridge, ChangeFlows, Desired, MeterLimit, Observed, Phase, Unread
from hostagent.names import network_key, switch_bridge
from hostagent.pipeline.tables import SWITCH_COOKIE, Table
from hostagent.resolve import SwitchIntent, resolve
from hostagent.telling_links import telling_links
from hostagent.vifs import lit_ofports, vif_of
from netmgr.contract.types import OpaqueNetwork

__all__ = ["arrival_basis", "arrival_flows", "arrival_inputs", "phase_flows"]

_OF_ALL_PORTS = (Table.LEASES, Table.FLOOD, Table.REPLICATE, Table.SEND)


def phase_flows(
    ports: Iterable[UUID], *, before: Mapping[UUID, tuple[Phase, str]], desired: Desired, observed: Observed
) -> tuple[ChangeFlows, ...]:
    """What to change for the phases that *desired* gives *ports*; *before* has the phases and VTEPs that are applied.

    Empty where the port's network, switch or bridge is not realized: the loop will do it.
    """
    changes: dict[str, tuple[set[Flow], set[Flow]]] = {}
    for place in _places(ports, desired, observed):
        phase, vtep = before.get(place.port, (Phase.STEADY, ""))
        earlier = {place.port: vtep} if vtep else {}
        old = _own(place, replace(place.desired, phases={place.port: phase}, relay_vteps=earlier))
        new = _own(place, place.desired)
        delete, add = changes.setdefault(place.intent.bridge, (set(), set()))
        add |= new - old
        delete |= old - new
    result = []
    for name, (delete, add) in changes.items():
        replaced = {flow.key() for flow in add}
        gone = tuple(flow for flow in delete if flow.key() not in replaced)
        if gone or add:
            result.append(ChangeFlows(bridge=name, delete=gone, add=tuple(add)))
    return tuple(result)


def arrival_flows(
    ports: Iterable[UUID], *, trunks: Collection[UUID], desired: Desired, observed: Observed
) -> tuple[ChangeFlows, ...]:
    """What the switch lacks for *ports* to be reached where they are; those that this host holds also to speak.

    Nothing is deleted. Empty where the network is not realized, where the tap has no number yet, and for a port whose
    flows depend on more than itself: one with security groups, of *trunks* or a sub-port, one that is coming here,
    whose VIF is plugged twice, or whose tap has been let in as another port's. The loop will do it.
    """
    changes: dict[str, set[Flow]] = {}
    here = desired.host.uuid if desired.host is not None else None
    for place in _places(ports, desired, observed):
        port, location = desired.ports.get(place.port), desired.locations[place.port]
        if port is None or port.security_groups or port.parent_port is not None or place.port in trunks:
            continue
        taps = [one.ofport or 0 for row in place.bridge.ports for one in row.interfaces if vif_of(one) == port.vif_uuid]
        if location.incoming_host is not None or len(taps) > 1 or (location.holder_host == here and taps in ([], [0])):
            continue
        flows = _compiled(place, place.desired)
        own = Match("in_port", taps[0] if taps else 0)
        entry = {flow for flow in flows if _enters(flow, place.network) and own not in flow.match}
        mine = {flow for flow in flows if flow.table == Table.CLASSIFY and own in flow.match}
        if not mine <= place.realized and taps[0] in lit_ofports(place.realized):
            continue  # the VIF's port was another's: what that one might say and hear goes in the same bundle
        if entry and all(flow in place.realized for flow in entry):
            # What a port was seen to use may have become another's.
            sure = port.ips and place.port not in desired.learned
            left = _OF_ALL_PORTS if sure else (*_OF_ALL_PORTS, Table.BINDING)
            lacking = {flow for flow in flows if flow.table not in left and flow not in place.realized}
            changes.setdefault(place.intent.bridge, set()).update(lacking)
    return tuple(ChangeFlows(bridge=name, delete=(), add=tuple(add)) for name, add in changes.items() if add)


def arrival_basis(port: UUID, *, desired: Desired, observed: Observed) -> tuple[object, ...] | None:
    """All that `arrival_flows` of *port* alone follow from: where it is equal, so are they. None where there are none.

    Of a location its version is left out: it says how the port came there.
    """
    place = next(_places((port,), desired, observed), None)
    wanted = desired.ports.get(port)
    if place is None or wanted is None:
        return None
    taps = (one.ofport for row in place.bridge.ports for one in row.interfaces if vif_of(one) == wanted.vif_uuid)
    return (
        (wanted, replace(desired.locations[port], version=0), place.network, place.intent),
        (*taps, exit_ofport(place.network.type, place.intent, place.bridge)),
        (place.realized, place.meters),
        (desired.host, desired.datapath, desired.alone, desired.hushed),
        (desired.learned.get(port), desired.phases.get(port), desired.relay_vteps.get(port)),
    )


def arrival_inputs(port: UUID, *, desired: Desired, observed: Observed) -> tuple[object, ...] | None:
    """All that `arrival_basis` is worked out from: where it is equal, so is that. It changes sooner, and most of it is
    compared by a glance at the same objects. None where there is no basis."""
    wanted, location = desired.ports.get(port), desired.locations.get(port)
    network = desired.networks.get(location.network_uuid) if location is not None else None
    switch = desired.switches.get(network.switch_uuid) if network is not None else None
    if wanted is None or location is None or network is None or switch is None:
        return None
    bridge = switch_bridge(switch.uuid)
    return (
        (wanted, location, network, switch, desired.host, desired.offered_pnics),
        (observed.bridges, telling_links(desired, observed), observed.paths, observed.libvirt_networks),
        (observed.flows.get(bridge), observed.meters.get(bridge)),
        (desired.datapath, desired.alone, desired.hushed),
        (desired.learned.get(port), desired.phases.get(port), desired.relay_vteps.get(port)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A port and what its flows are compiled from; `desired` holds its network and nothing else."""

    port: UUID
    network: OpaqueNetwork
    intent: SwitchIntent
    bridge: Bridge
    realized: Set[Flow]
    meters: frozenset[MeterLimit]
    desired: Desired


def _places(ports: Iterable[UUID], desired: Desired, observed: Observed) -> Iterator[_Place]:
    """Those of *ports* whose bridge can be changed."""
    bridges = {} if isinstance(observed.bridges, Unread) else {bridge.name: bridge for bridge in observed.bridges}
    for port_uuid in ports:
        location = desired.locations.get(port_uuid)
        network = desired.networks.get(location.network_uuid) if location is not None else None
        switch = desired.switches.get(network.switch_uuid) if network is not None else None
        if network is None or switch is None:
            continue
        one = replace(desired, switches={switch.uuid: switch}, networks={network.uuid: network}, plugs={})
        intent = resolve(one, observed).switches[switch.uuid]
        bridge, flows = bridges.get(intent.bridge), observed.flows.get(intent.bridge)
        if bridge is not None and not intent.foreign and isinstance(flows, Set):
            yield _Place(
                port=port_uuid,
                network=network,
                intent=intent,
                bridge=bridge,
                realized=flows,
                meters=observed.meters.get(intent.bridge, frozenset()),
                desired=one,
            )


def _compiled(place: _Place, desired: Desired) -> frozenset[Flow]:
    ports = {place.network.uuid: (place.port,)}
    return flows_of_ports(desired=desired, intent=place.intent, bridge=place.bridge, meters=place.meters, ports=ports)


def _own(place: _Place, desired: Desired) -> set[Flow]:
    flows = _compiled(place, desired)
    return {flow for flow in flows if flow.table not in _OF_ALL_PORTS and flow.cookie != SWITCH_COOKIE}


def _enters(flow: Flow, network: OpaqueNetwork) -> bool:
    return flow.table == Table.CLASSIFY and flow.cookie == network_key(network.uuid)
