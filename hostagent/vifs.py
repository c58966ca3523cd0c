"""Which tap belongs to which port, and whether the port may speak.

A VIF is any interface on a bridge of ours whose `external_ids:iface-id` is a UUID; the port is found by it. A port is
dark until everything is in order: it is up by the operator's word, its location is known, this host holds it or it is
coming here, and its guest is not stopped (parked). A port whose security groups can't be enforced yet is dark too:
unprotected would be worse. A shadow port is dark wherever it is, until failover makes it an ordinary one.

A sub-port has no tap; a port of ours stands for it, whose mark says which (`subports`). It is lit no sooner than its
parent could be.

A VIF UUID that appears twice on a bridge is an error of whoever plugged it. The one that is lit already stays lit, and
the other one stays dark however loudly it announces itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field
from functools import lru_cache
from uuid import UUID

from hostagent.flow import Flow, Match
from hostagent.flow_set import flow_set, of_a_set
from hostagent.model import Bridge, Desired, Interface, Phase
from hostagent.names import IFACE_ID, SUBPORT_KEY, is_ours
from hostagent.pipeline.tables import Table
from netmgr.contract.types import Location, LogicalPort, SecurityGroup, VifState

__all__ = [
    "Taps",
    "entered_by",
    "is_stateful",
    "lit_ofports",
    "obstacle_to",
    "ports_of",
    "standing",
    "tap_of",
    "taps_of",
    "uuid_of",
    "vif_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taps:
    """The VIF interfaces of one bridge."""

    by_vif: dict[UUID, Interface] = field(default_factory=dict)
    doubles: tuple[Interface, ...] = ()  # a VIF UUID that another interface carries already


def vif_of(interface: Interface) -> UUID | None:
    """The VIF whose tap *interface* is; None when it is none."""
    if is_ours(interface.external_ids):
        return uuid_of(interface.external_ids.get(SUBPORT_KEY, ""))
    return uuid_of(interface.external_ids.get(IFACE_ID, ""))


@lru_cache(maxsize=4096)  # every tap is looked at several times a turn
def uuid_of(text: str) -> UUID | None:
    """The UUID that *text* is; None when it is none."""
    try:
        return UUID(text)
    except ValueError:
        return None


def taps_of(bridge: Bridge, flows: Set[Flow] = frozenset()) -> Taps:
    """The VIFs plugged into *bridge*; *flows* are those it has, and say which of two doubles is lit already."""
    found: dict[UUID, list[Interface]] = {}
    for port in bridge.ports:
        for interface in port.interfaces:
            vif = vif_of(interface)
            if vif is not None:
                found.setdefault(vif, []).append(interface)
    doubled = any(len(interfaces) > 1 for interfaces in found.values())
    lit = lit_ofports(flows) if doubled else frozenset()
    by_vif = {}
    doubles: list[Interface] = []
    for vif, interfaces in found.items():
        first, *others = sorted(interfaces, key=lambda one: _rank(one, lit))
        by_vif[vif] = first
        doubles += others
    return Taps(by_vif=by_vif, doubles=tuple(doubles))


def _rank(one: Interface, lit: frozenset[int | None]) -> tuple[bool, bool, bool, int]:
    """A sub-port's own before what somebody plugs with its UUID; lit before dark, usable before not, then the lower
    number: the earlier plug."""
    return not is_ours(one.external_ids), one.ofport not in lit, one.ofport is None or one.ofport < 0, one.ofport or 0


def tap_of(taps: Taps, port: LogicalPort) -> Interface | None:
    """The tap of *port*: of a sub-port ours only, for nobody else can plug one."""
    tap = taps.by_vif.get(port.vif_uuid) if port.vif_uuid is not None else None
    return tap if tap is not None and is_ours(tap.external_ids) == (port.parent_port is not None) else None


def ports_of(vifs: Collection[UUID], desired: Desired) -> dict[UUID, LogicalPort]:
    """The logical ports of *vifs*, as far as they are known."""
    known = desired.port_by_vif
    if known is None:
        return {port.vif_uuid: port for port in desired.ports.values() if port.vif_uuid in vifs and port.vif_uuid}
    found = ((vif, desired.ports.get(known[vif])) for vif in vifs if vif in known)
    return {vif: port for vif, port in found if port is not None}


def standing(
    *,
    port: LogicalPort,
    location: Location | None,
    phase: Phase,
    host: UUID,
    obstacle: str = "",
    primary: LogicalPort | None = None,
) -> tuple[VifState, str]:
    """Whether *port* may speak on *host*, and if not, why, in a sentence.

    *obstacle* is what keeps its security groups from being enforced, or a sub-port's parent dark (`obstacle_to`);
    *primary* lends a shadow's sentence its name.
    """
    if port.shadow_of is not None:
        name = primary.name if primary is not None else port.shadow_of
        return VifState.DARK, f"port {port.name} is a shadow of port {name}; it stays dark until failover"
    if not port.admin_up:
        return VifState.DARK, f"port {port.name} is set down by its operator"
    if location is None:
        return VifState.DARK, f"port {port.name}: no location is known for it on this host"
    if obstacle and host in (location.holder_host, location.incoming_host) and not location.parked:
        return VifState.DARK, obstacle
    if location.holder_host == host:
        if location.parked:
            return VifState.DARK, f"port {port.name} is parked: its guest is stopped"
        return VifState.LIT, ""
    if location.incoming_host == host:
        if phase is Phase.ACTIVATED:
            return VifState.LIT, ""
        return VifState.INCOMING, f"port {port.name} is migrating in; it is lit at the guest's first frame"
    if location.holder_host is None:
        return VifState.DARK, f"port {port.name} is held by no host; the manager has not granted it to this one"
    return VifState.DARK, f"port {port.name} is held by host {location.holder_host}, not by this one"


def obstacle_to(port: LogicalPort, desired: Desired) -> str:
    """Why the security groups of *port* can't be enforced here now, in a sentence; empty when they can. Of a sub-port
    also why its parent can't be lit."""
    if port.parent_port is not None:
        parent = desired.ports.get(port.parent_port)
        if parent is None:
            return f"port {port.name}: the network manager has not sent its parent {port.parent_port}; it stays dark"
        if not parent.admin_up:
            return f"port {port.name} is a sub-port of port {parent.name}, which is set down by its operator"
        why = obstacle_to(parent, desired)
        if why:
            return f"port {port.name} is a sub-port of a port that is dark: {why}"
    missing = [uuid for uuid in port.security_groups if uuid not in desired.groups]
    if missing:
        return (
            f"port {port.name}: the network manager has not sent security group {missing[0]} yet; it stays dark until "
            "it has"
        )
    if is_stateful(port, desired.groups) and port.uuid not in desired.ct_zones:
        return (
            f"port {port.name}: the connection tracker has no clean zone for its security groups yet; it stays dark "
            "until ovs-vswitchd has emptied one"
        )
    return ""


def is_stateful(port: LogicalPort, groups: Mapping[UUID, SecurityGroup]) -> bool:
    """True when a connection tracker is needed for the groups of *port*. netmgr keeps a port's groups of one kind; one
    that is stateful makes the port so."""
    return any(groups[uuid].stateful for uuid in port.security_groups if uuid in groups)


@of_a_set
def lit_ofports(flows: Set[Flow]) -> frozenset[int | None]:
    """The ports whose frames *flows*, all of a bridge, let in."""
    return frozenset(entered_by(flow_set(flows).of_table(Table.CLASSIFY)))


def entered_by(flows: Iterable[Flow]) -> dict[int, frozenset[int] | None]:
    """By port that any *flows* let in: the types of its frames that they let in, None for all."""
    found: dict[int, frozenset[int] | None] = {}
    for flow in flows:
        if flow.table != Table.CLASSIFY:
            continue
        met = {item.field: item.value for item in flow.match if isinstance(item, Match)}
        if (port := met.get("in_port")) is not None:
            kind, before = met.get("eth_type"), found.get(port, frozenset())
            found[port] = None if kind is None or before is None else before | {kind}
    return found
