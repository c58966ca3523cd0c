"""A frame to follow through the hosts: what is asked of whom, and what the answers mean. Pure.

`plan` makes the frame from what is known of two ports: MACs, and the first addresses of one family, defined or learned.
The host that holds the source is asked first; a copy that leaves by the tunnel goes to the host whose VTEP it is sent
to, one that leaves on a VLAN to the host that holds the destination.
`trace_view` reads the tree of answers: *delivered* when the destination's VIF gets a copy (ARP: also when the question
is answered for it), *dropped* when all was followed to its end and it does not, *unknown* when a host could not be
asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from typing import Any
from uuid import UUID

from netmgr.contract.types import (
    LogicalPort,
    OpaqueNetwork,
    TraceAnswer,
    TraceEnd,
    TraceEndKind,
    TraceFrame,
    TraceProtocol,
    TraceQuestion,
)
from netmgr.model import NetmgrError, World
from netmgr.rules.desired import MAC
from netmgr.service.lookup import find_port
from netmgr.service.port_views import Places, port_view
from netmgr.service.specs import TraceSpec

__all__ = ["Hop", "Plan", "own_vtep", "plan", "trace_view"]

_BROADCAST = "ff:ff:ff:ff:ff:ff"

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to ask first, and of whom."""

    source: LogicalPort
    destination: LogicalPort
    network: OpaqueNetwork
    host: UUID
    question: TraceQuestion
    hosts_by_vtep: dict[str, UUID]  # of the network's switch
    behind_vlan: UUID | None = None  # of a network on a VLAN: the host that holds the destination


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One host's answer; `onward` has, by number of the end, where that copy was followed to."""

    host: UUID
    via: str  # how the frame came there
    answer: TraceAnswer
    onward: dict[int, Hop]
    cut: str = ""  # why it was not asked


def plan(world: World, spec: TraceSpec, places: Places) -> Plan:
    """The first question of the trace that *spec* wants.

    Raises:
        NetmgrError: no such port or address, no address to use, or no host has the source's VIF plugged.
    """
    source = _port(world, spec.source)
    network = world.networks[source.network_uuid]
    target = _as_address(spec.destination)
    if target is not None:
        destination, eth_dst = _owner(world, network, target)
    else:
        destination = _port(world, spec.destination)
        eth_dst = destination.mac
    if source.uuid == destination.uuid:
        raise NetmgrError(f"port {source.name}: a frame to itself never leaves it; name another port as destination")
    protocol = TraceProtocol(spec.protocol)
    if protocol in (TraceProtocol.TCP, TraceProtocol.UDP) and spec.destination_port is None:
        raise NetmgrError(f"destination_port: {protocol.value} needs one (--dport 80)")
    ip_src, ip_dst = _addresses(world, source, destination, spec, target)
    if protocol is TraceProtocol.ARP and ip_dst.version == 6:
        raise NetmgrError(f"ARP asks for IPv4 addresses, and {ip_dst} is none; trace icmp instead")
    ported = protocol in (TraceProtocol.TCP, TraceProtocol.UDP)
    frame = TraceFrame(
        eth_src=_mac(spec.source_mac) if spec.source_mac is not None else source.mac,
        eth_dst=_BROADCAST if protocol is TraceProtocol.ARP else eth_dst,
        protocol=protocol,
        ip_src=str(ip_src),
        ip_dst=str(ip_dst),
        source_port=spec.source_port if ported else 0,
        destination_port=spec.destination_port or 0 if ported else 0,
    )
    return Plan(
        source=source,
        destination=destination,
        network=network,
        host=_host_of(world, source, places),
        question=TraceQuestion(network_uuid=network.uuid, vif_uuid=source.vif_uuid, frame=frame),
        hosts_by_vtep={
            vtep.address.partition("/")[0]: host.uuid
            for host in world.hosts.values()
            for vtep in host.vteps
            if vtep.switch_uuid == network.switch_uuid
        },
        behind_vlan=_holder(world, destination) if destination.network_uuid == network.uuid else None,
    )


def _holder(world: World, port: LogicalPort) -> UUID | None:
    location = world.locations.get(port.uuid)
    return location.holder_host if location is not None else None


def own_vtep(plan: Plan, host: UUID) -> str:
    """The VTEP of *host* on the network's switch; empty without one."""
    return next((vtep for vtep, owner in plan.hosts_by_vtep.items() if owner == host), "")


def trace_view(world: World, plan: Plan, first: Hop, places: Places) -> dict[str, Any]:
    """The whole trace as plain values: `result`, `sentence`, `frame`, and the tree of hosts under `path`."""
    result, sentence = _verdict(world, plan, first, places)
    frame = plan.question.frame
    return {
        "result": result,
        "sentence": sentence,
        "source": f"{plan.network.name}/{plan.source.name}",
        "destination": f"{world.networks[plan.destination.network_uuid].name}/{plan.destination.name}",
        "frame": {
            "eth_src": frame.eth_src,
            "eth_dst": frame.eth_dst,
            "protocol": frame.protocol.value,
            "ip_src": frame.ip_src,
            "ip_dst": frame.ip_dst,
            "source_port": frame.source_port or None,
            "destination_port": frame.destination_port or None,
        },
        "path": _hop_view(world, first),
    }


# --- the question ---------------------------------------------------------------------------------------------------


def _port(world: World, text: str) -> LogicalPort:
    try:
        vif = UUID(text)
    except ValueError:
        return find_port(world, text)
    return world.ports[world.port_by_vif[vif]] if vif in world.port_by_vif else find_port(world, text)


def _as_address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _owner(world: World, network: OpaqueNetwork, address: Address) -> tuple[LogicalPort, str]:
    """The port that has *address*, defined or learned, and which of the MACs behind its VIF."""
    for uuid in sorted(world.ports_by_network.get(network.uuid, ())):
        port = world.ports[uuid]
        if port.shadow_of is not None:
            continue
        for mac, ips in ((port.mac, port.ips), *((one.mac, one.ips) for one in port.nested)):
            if any(ip_interface(ip).ip == address for ip in ips):
                return port, mac
    holder = world.unique.get(("learned", network.uuid, str(address)))
    if holder is not None:
        found = next(one for one in world.learned[holder].addresses if one.address == str(address))
        return world.ports[holder], found.mac or world.ports[holder].mac
    raise NetmgrError(
        f"no port of network {network.name} has the address {address}, so its MAC is not known; name the port instead "
        f"(`netmgr port list --network {network.name}`)",
        status=404,
    )


def _addresses(
    world: World, source: LogicalPort, destination: LogicalPort, spec: TraceSpec, target: Address | None
) -> tuple[Address, Address]:
    """The first pair of one family."""
    given = _as_address(spec.source_ip) if spec.source_ip is not None else None
    if spec.source_ip is not None and given is None:
        raise NetmgrError(f"source_ip: {spec.source_ip[:60]!r} is no address")
    sources = [given] if given is not None else _known(world, source)
    targets = [target] if target is not None else _known(world, destination)
    for port, found in ((source, sources), (destination, targets)):
        if not found:
            hint = "name one with source_ip (--source-ip)" if port is source else "give it one (netmgr port set --ip)"
            sentence = f"port {port.name} has no address, defined or learned, for the frame to carry; {hint}"
            raise NetmgrError(sentence, status=409)
    pair = next(((one, other) for one in sources for other in targets if one.version == other.version), None)
    if pair is None:
        raise NetmgrError(
            f"ports {source.name} and {destination.name} have no addresses of one family: one is IPv4, the other IPv6",
            status=409,
        )
    return pair


def _known(world: World, port: LogicalPort) -> list[Address]:
    """Addresses of the port's own MAC: those defined for it, else those its guest uses."""
    if port.ips:
        return [ip_interface(ip).ip for ip in port.ips]
    word = world.learned.get(port.uuid)
    return [ip_address(one.address) for one in word.addresses if not one.mac and not one.refused] if word else []


def _mac(text: str) -> str:
    if not MAC.fullmatch(text.lower()):
        raise NetmgrError(f"source_mac: {text[:40]!r} is no MAC with colons")
    return text.lower()


def _host_of(world: World, port: LogicalPort, places: Places) -> UUID:
    """The host that holds *port*; else the one where its VIF is plugged, dark."""
    if port.vif_uuid is None:
        raise NetmgrError(f"port {port.name} has no VIF, so nothing comes out of it; attach one", status=409)
    location = world.locations.get(port.uuid)
    if location is not None and location.holder_host is not None:
        return location.holder_host
    plugged = places.by_vif.get(port.vif_uuid, [])
    if not plugged:
        raise NetmgrError(
            f"port {port.name}: no connected host has its VIF {port.vif_uuid} plugged, so nothing comes out of it",
            status=409,
        )
    return plugged[0][0]


# --- the answer -----------------------------------------------------------------------------------------------------


def _all(hop: Hop) -> Iterator[Hop]:
    yield hop
    for onward in hop.onward.values():
        yield from _all(onward)


def _verdict(world: World, plan: Plan, first: Hop, places: Places) -> tuple[str, str]:
    hops = list(_all(first))
    ends = [(hop, end) for hop in hops for end in hop.answer.ends]
    name = f"port {plan.destination.name} (VIF {plan.destination.vif_uuid})"
    others = sum(end.kind is TraceEndKind.VIF and end.vif_uuid != plan.destination.vif_uuid for _, end in ends)
    also = f"; {others} other VIF{'s' * (others > 1)} of network {plan.network.name} get{'s' * (others == 1)} a copy"
    for hop, end in ends:
        if end.kind is TraceEndKind.VIF and end.vif_uuid == plan.destination.vif_uuid:
            return "delivered", f"Delivered to {name} on {_host(world, hop.host)}{also if others else ''}."
    for hop, end in ends:
        if end.kind is TraceEndKind.ANSWERED and plan.question.frame.protocol is TraceProtocol.ARP:
            asked = plan.question.frame.ip_dst
            return "delivered", (
                f"Answered on {_host(world, hop.host)}: the switch tells port {plan.source.name} the MAC of {asked}, "
                "and the question goes no further."
            )
    unasked = [hop.cut or hop.answer.refusal for hop in hops if hop.cut or hop.answer.refusal]
    if unasked:
        return "unknown", f"Not followed to its end: {'; '.join(dict.fromkeys(unasked))}."
    why = _why(world, plan, places)
    drops = [(hop, end) for hop, end in ends if end.kind is TraceEndKind.DROPPED]
    if drops:
        hop, end = drops[-1]
        if end.table.startswith(("EGRESS", "INGRESS")):
            return "dropped", f"Dropped on {_host(world, hop.host)} by {_groups_say(world, plan, end)}{why}."
        return "dropped", f"Dropped on {_host(world, hop.host)} in table {end.table}: {end.reason}{why}."
    return "dropped", f"Not delivered: no copy goes to {name}{also if others else ''}{why}."


def _groups_say(world: World, plan: Plan, end: TraceEnd) -> str:
    """Whose security groups dropped it, and what they have no rule for."""
    out = end.table.startswith("EGRESS")
    port, frame = (plan.source if out else plan.destination), plan.question.frame
    groups = [world.groups[uuid].name for uuid in port.security_groups if uuid in world.groups]
    names = f"security group{'s' * (len(groups) > 1)} {', '.join(sorted(groups))}" if groups else "security groups"
    what = f"{frame.protocol.value}/{frame.destination_port}" if frame.destination_port else frame.protocol.value
    way = f"egress {what} to {frame.ip_dst}" if out else f"ingress {what} from {frame.ip_src}"
    verdict = f"no rule allows {way}" if end.table.endswith(("VERDICT", "GRESS")) else end.reason
    return f"{names} of port {port.name}: {verdict} (table {end.table})"


def _why(world: World, plan: Plan, places: Places) -> str:
    """What is known of the two ports that may explain it."""
    facts = []
    if plan.source.network_uuid != plan.destination.network_uuid:
        other = world.networks[plan.destination.network_uuid].name
        facts.append(
            f"port {plan.destination.name} is on network {other}, {plan.source.name} on {plan.network.name}, "
            "and no frame crosses networks"
        )
    for port in (plan.source, plan.destination):
        view = port_view(world, port, places)
        if not port.admin_up:
            facts.append(f"port {port.name} is set down by its operator")
        elif view["vif_state"] != "lit":
            found = view["vif_reason"] or f"its location is {view['location']}"
            facts.append(f"port {port.name} is not lit: {found}")
    return f"; {'; '.join(facts)}" if facts else ""


def _hop_view(world: World, hop: Hop) -> dict[str, Any]:
    return {
        "host": _host(world, hop.host).removeprefix("host "),
        "via": hop.via,
        "problem": hop.cut or hop.answer.refusal,
        "steps": [
            {
                "table": step.table,
                "priority": step.priority,
                "match": step.match,
                "actions": list(step.actions),
                "depth": step.depth,
            }
            for step in hop.answer.steps
        ],
        "ends": [
            {
                "kind": end.kind.value,
                "sentence": _end_sentence(world, end),
                "ovs_port": end.ovs_port,
                "vif_uuid": str(end.vif_uuid) if end.vif_uuid is not None else None,
                "vtep": end.vtep,
                "table": end.table,
                "reason": end.reason,
                "next": _hop_view(world, hop.onward[number]) if number in hop.onward else None,
            }
            for number, end in enumerate(hop.answer.ends)
        ],
    }


def _end_sentence(world: World, end: TraceEnd) -> str:
    uuid = world.port_by_vif.get(end.vif_uuid) if end.vif_uuid is not None else None
    port = f"port {world.ports[uuid].name}" if uuid is not None else f"VIF {end.vif_uuid}"
    match end.kind:
        case TraceEndKind.VIF:
            return f"delivered to {port} by {end.ovs_port}"
        case TraceEndKind.ANSWERED:
            return f"answered here, back to {port} by {end.ovs_port}"
        case TraceEndKind.TUNNEL:
            return f"sent to VTEP {end.vtep} by {end.ovs_port}" + (f" ({end.reason})" if end.reason else "")
        case TraceEndKind.UPLINK:
            return f"to the uplink by {end.ovs_port}, tagged: where physical switches take it is not seen"
        case TraceEndKind.PORT:
            return f"out of {end.ovs_port}"
        case TraceEndKind.DROPPED:
            return f"dropped in table {end.table}: {end.reason}"


def _host(world: World, uuid: UUID) -> str:
    record = world.hosts.get(uuid)
    return f"host {record.name if record is not None else uuid}"
