"""How each VIF of this host fares: lit, dark or incoming, and why.

A VIF is reported lit only when the switch has its flows, not when it should have them.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from uuid import UUID

from hostagent.flow import Flow
from hostagent.model import Bridge, Desired, Interface, Observed, Phase, Unread
from hostagent.names import is_ours, is_switch_bridge
from hostagent.resolve import Resolved
from hostagent.unheard import unheard_sentence
from hostagent.vifs import lit_ofports, obstacle_to, ports_of, standing, taps_of, uuid_of, vif_of
from netmgr.contract.types import LogicalPort, VifState, VifStatus

__all__ = ["full_sentence", "vif_statuses"]


def vif_statuses(*, desired: Desired, observed: Observed, resolved: Resolved) -> tuple[VifStatus, ...]:
    """One for each VIF plugged into a bridge of ours, sorted; two for one that is plugged twice."""
    if isinstance(observed.bridges, Unread) or desired.host is None:
        return ()
    home = {network.uuid: i.bridge for i in resolved.switches.values() for network in i.networks}
    found: list[VifStatus] = []
    for bridge in observed.bridges:
        if is_switch_bridge(bridge.external_ids):
            found.extend(_of_bridge(bridge, desired, desired.host.uuid, observed, home))
    return tuple(sorted(found, key=lambda one: (one.vif_uuid, one.ovs_port)))


def _of_bridge(
    bridge: Bridge,
    desired: Desired,
    host: UUID,
    observed: Observed,
    home: dict[UUID, str],
) -> Iterator[VifStatus]:
    flows = observed.flows.get(bridge.name)
    realized: Set[Flow] = flows if isinstance(flows, Set) else frozenset()
    taps = taps_of(bridge, realized)
    by_vif = ports_of(taps.by_vif, desired)
    for vif, tap in taps.by_vif.items():
        port = by_vif.get(vif)
        state, reason = _state(vif, tap, port, bridge, desired, host, realized, home)
        yield _status(vif, tap, port, state, reason)
    for tap in taps.doubles:
        double = vif_of(tap)
        assert double is not None
        first = taps.by_vif[double].name
        reason = f"VIF {double} is plugged twice: {first} has it, {tap.name} stays dark; give it a UUID of its own"
        yield _status(double, tap, by_vif.get(double), VifState.DARK, reason)


def _state(
    vif: UUID,
    tap: Interface,
    port: LogicalPort | None,
    bridge: Bridge,
    desired: Desired,
    host: UUID,
    realized: Set[Flow],
    home: dict[UUID, str],
) -> tuple[VifState, str]:
    if port is None:
        return VifState.DARK, f"VIF {vif}: no logical port is known for it on this host; create and attach one"
    if home.get(port.network_uuid) != bridge.name:
        wanted = home.get(port.network_uuid, "none of this host's bridges")
        return (
            VifState.DARK,
            f"VIF {vif} is plugged into {bridge.name}, but the network of its port {port.name} is on {wanted}",
        )
    if port.parent_port is not None and not is_ours(tap.external_ids):
        reason = (
            f"VIF {vif} is that of port {port.name}, a sub-port, which has no tap of its own; give {tap.name} another"
        )
        return VifState.DARK, reason
    location = desired.locations.get(port.uuid)
    phase = desired.phases.get(port.uuid, Phase.STEADY)
    primary = desired.ports.get(port.shadow_of) if port.shadow_of is not None else None
    obstacle = obstacle_to(port, desired)
    state, reason = standing(port=port, location=location, phase=phase, host=host, obstacle=obstacle, primary=primary)
    if state is VifState.DARK:
        return state, reason
    if tap.ofport is None or tap.ofport < 0:
        return VifState.DARK, f"VIF {vif}: Open vSwitch has no port for {tap.name}: {tap.error or 'not yet'}"
    if state is VifState.LIT and tap.ofport not in lit_ofports(realized):
        return VifState.DARK, f"VIF {vif}: its flows are not in {bridge.name} yet"
    if state is VifState.LIT and port.uuid in desired.ct_full:
        reason = full_sentence(port, desired.ct_full[port.uuid])
    elif state is VifState.LIT and port.network_uuid in desired.unheard:
        reason = unheard_sentence(desired.networks[port.network_uuid], desired.unheard[port.network_uuid])
    return state, reason


def full_sentence(port: LogicalPort, limit: int) -> str:
    """What it means that *port* has as many connections as it may."""
    return (
        f"port {port.name} has {limit:,} connections, as many as the host's tracker keeps of one port; new ones get no "
        "answers until others have ended"
    )


def _status(vif: UUID, tap: Interface, port: LogicalPort | None, state: VifState, reason: str) -> VifStatus:
    return VifStatus(
        vif_uuid=vif,
        port_uuid=port.uuid if port is not None else None,
        network_uuid=port.network_uuid if port is not None else None,
        state=state,
        reason=reason,
        ovs_port=tap.name,
        vm_uuid=_vm_of(tap),
        mac=tap.external_ids.get("attached-mac", "").lower(),
    )


def _vm_of(tap: Interface) -> UUID | None:
    return uuid_of(tap.external_ids.get("vm-id", ""))
