"""Where frames ended, and why: from the counters of flows to drops by port and reason.

Each drop of the pipeline is a flow, so the switch counts them itself. What a VIF must not say is counted in DROPPED, a
flow for each port and reason; other tables end in a drop that serves all ports, and name the reason alone. What a limit
drops ends in no flow, but in a meter, whose number is that of its tap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from hostagent.flow import Flow, Match, Meter
from hostagent.pipeline.tables import REASON, SWITCH_COOKIE, TAG_IN_TAG, TAG_IN_TUNNEL, TAP, Denied, Table

__all__ = ["OVER_LIMIT", "Counted", "Drop", "drops_of", "reason_of"]


class Counted(NamedTuple):
    """A flow and what has met it since it was installed or last replaced."""

    flow: Flow
    packets: int
    bytes: int


class Drop(NamedTuple):
    """*packets* frames that ended for *reason*."""

    ofport: int  # of the tap they came out of, or did not get to; 0 where the switch does not tell ports apart
    network: int  # key of the network (`names.network_key`); 0 where it is not told apart
    reason: str
    packets: int


_DENIED: Final[Mapping[Denied, str]] = {
    Denied.MAC: "source MAC is not the port's",
    Denied.TAGGED: "VLAN tag",
    Denied.CONTROL: "frame for the bridge itself (01:80:c2:00:00:0x)",
    Denied.ARP: "ARP or RARP that names another's MAC or address",
    Denied.ND: "neighbour discovery that names another's MAC or address",
    Denied.SERVER: "DHCP server's message",
    Denied.ROUTER: "router advertisement or redirect",
    Denied.HIDDEN: "IP that hides what it is",
    Denied.SOURCE: "IP source is not the port's",
    Denied.EGRESS: "no rule of its security groups allows it to be sent",
    Denied.EGRESS_INVALID: "sent, but the connection tracker knows nothing that it is part of",
    Denied.INGRESS: "no rule of its security groups allows it to be received",
    Denied.INGRESS_INVALID: "for the port, but the connection tracker knows nothing that it is part of",
}

_TABLES: Final[Mapping[int, str]] = {
    Table.CLASSIFY: "port that is dark, or segment that is not carried",
    Table.TUNNEL: "source MAC does not live at the VTEP it came from",
    Table.UPLINK: "source MAC from the uplink is that of a port on this host",
    Table.FORWARD: "destination on this host is dark, or would go in a circle",
    Table.REMOTE: "destination that came by tunnel lives elsewhere",
    Table.FLOOD: "nobody to flood to",
    Table.SEND: "tunnel to the destination's host does not answer",
}

_ASKED: Final = frozenset({Table.MADE, Table.CONTEST})
"""Subroutines with flows that do nothing: the frame goes on where they were asked."""


OVER_LIMIT: Final = "rate limit, out of the guest"


def drops_of(counted: Iterable[Counted], metered: Mapping[int, int] | None = None) -> tuple[Drop, ...]:
    """What of *counted* are drops that happened, and what meters have dropped: by port, the most first; of equal ones
    by reason. *metered* has packets by number of the meter; whose network it is, the flows tell that use it."""
    sums: dict[tuple[int, int, str], int] = {}
    networks: dict[int, int] = {}
    for flow, packets, _ in counted:
        for action in flow.actions:
            if isinstance(action, Meter):
                networks[action.number] = flow.cookie
        reason = reason_of(flow) if packets else ""
        if reason:
            network = 0 if flow.cookie == SWITCH_COOKIE else flow.cookie
            key = (_value(flow, "in_port") or _tap(flow), network, reason)
            sums[key] = sums.get(key, 0) + packets
    for number, packets in (metered or {}).items():
        if packets:
            sums[number, networks.get(number, 0), OVER_LIMIT] = packets
    return tuple(sorted(_drops(sums), key=lambda drop: (drop.ofport, -drop.packets, drop.reason, drop.network)))


def reason_of(flow: Flow) -> str:
    """Why frames end in *flow*; empty for a flow that is no drop of ours."""
    if flow.actions or flow.table in _ASKED:
        return ""
    if flow.table == Table.DROPPED:
        why = _value(flow, REASON)
        return _DENIED[Denied(why)] if why in Denied._value2member_map_ else "denied"
    if flow.table == Table.INGRESS and flow.match:
        return ""  # nobody hears his own broadcast
    if flow.table == Table.SEND and flow.priority == 0:
        return "frame of the uplink for no port of this host"
    if flow.table == Table.UPLINK and flow.priority == TAG_IN_TAG:
        return "VLAN tag within the VLAN tag"
    if flow.table == Table.TUNNEL and flow.priority == TAG_IN_TUNNEL:
        return "VLAN tag within the tunnel"
    return _TABLES.get(flow.table, f"table {_table_name(flow.table)}")


def _drops(sums: Mapping[tuple[int, int, str], int]) -> Iterator[Drop]:
    for (ofport, network, reason), packets in sums.items():
        yield Drop(ofport, network, reason, packets)


def _tap(flow: Flow) -> int:
    return _value(flow, TAP) if flow.table == Table.DROPPED else 0


def _value(flow: Flow, field: str) -> int:
    return next((item.value for item in flow.match if isinstance(item, Match) and item.field == field), 0)


def _table_name(number: int) -> str:
    return Table(number).name if number in Table._value2member_map_ else str(number)
