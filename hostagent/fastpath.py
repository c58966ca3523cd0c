"""The flows of a phase, without a turn of the loop: what changes on the switch when a port's phase does. Pure.

A pause must reach the switch in a millisecond or two, while compiling a bridge of ten thousand ports takes many. So
only the port itself is compiled, once as it was applied and once as it is now, and the difference is sent. What other
ports have a part in (the flood flow of the network, copies of what DHCP servers say, what is not sent to peers that are
gone) is left to the loop, which follows at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from uuid import UUID

from hostagent.flow import Flow
from hostagent.flows import compile_flows
from hostagent.model import Bridge, ChangeFlows, Desired, MeterLimit, Observed, Phase, Unread
from hostagent.pipeline.tables import SWITCH_COOKIE, Table
from hostagent.resolve import SwitchIntent, resolve

__all__ = ["phase_flows"]

_OF_ALL_PORTS = (Table.LEASES, Table.FLOOD, Table.SEND)


def phase_flows(
    ports: Iterable[UUID], *, before: Mapping[UUID, tuple[Phase, str]], desired: Desired, observed: Observed
) -> tuple[ChangeFlows, ...]:
    """What to change for the phases that *desired* gives *ports*; *before* has the phases and VTEPs that are applied.

    Empty where the port's network, switch or bridge is not realized: the loop will do it.
    """
    if isinstance(observed.bridges, Unread):
        return ()
    bridges = {bridge.name: bridge for bridge in observed.bridges}
    changes: dict[str, tuple[set[Flow], set[Flow]]] = {}
    for port_uuid in ports:
        location = desired.locations.get(port_uuid)
        network = desired.networks.get(location.network_uuid) if location is not None else None
        switch = desired.switches.get(network.switch_uuid) if network is not None else None
        if network is None or switch is None:
            continue
        one = replace(desired, switches={switch.uuid: switch}, networks={network.uuid: network}, plugs={})
        intent = resolve(one, observed).switches[switch.uuid]
        bridge = bridges.get(intent.bridge)
        if bridge is None or intent.foreign or not isinstance(observed.flows.get(intent.bridge), Set):
            continue
        phase, vtep = before.get(port_uuid, (Phase.STEADY, ""))
        earlier = replace(one, phases={port_uuid: phase}, relay_vteps={port_uuid: vtep} if vtep else {})
        meters = observed.meters.get(intent.bridge, frozenset())
        old, new = (_flows(what, intent, bridge, meters, network.uuid, port_uuid) for what in (earlier, one))
        delete, add = changes.setdefault(intent.bridge, (set(), set()))
        add |= new - old
        delete |= old - new
    result = []
    for name, (delete, add) in changes.items():
        replaced = {flow.key() for flow in add}
        gone = tuple(flow for flow in delete if flow.key() not in replaced)
        if gone or add:
            result.append(ChangeFlows(bridge=name, delete=gone, add=tuple(add)))
    return tuple(result)


def _flows(
    desired: Desired,
    intent: SwitchIntent,
    bridge: Bridge,
    meters: frozenset[MeterLimit],
    network_uuid: UUID,
    port_uuid: UUID,
) -> set[Flow]:
    index = {network_uuid: (port_uuid,)}
    flows = compile_flows(desired=desired, intent=intent, bridge=bridge, meters=meters, index=index, remember=False)
    return {flow for flow in flows if flow.table not in _OF_ALL_PORTS and flow.cookie != SWITCH_COOKIE}
