"""Looks into the switch for a person: flows of one network with their counters; what becomes of a frame (`tracing`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import structlog

from hostagent.flow_words import Names, flow_views
from hostagent.host import Host
from hostagent.model import Bridge, Desired, PathKey, Unread
from hostagent.names import exit_port, network_key, patch_port, switch_bridge, tunnel_port
from hostagent.pipeline.policy import group_key
from hostagent.pipeline.tables import Table
from hostagent.realize.errors import RealizeError
from hostagent.resolve import tunnel_key
from hostagent.tracing.question import Entry, Ports, TraceError, describe, flow_of
from hostagent.tracing.text import parse
from hostagent.underlay.liveness import Measure
from hostagent.vifs import taps_of, vif_of
from netmgr.contract.types import LogicalPort, NetworkType, OpaqueNetwork, TraceAnswer, TraceQuestion

__all__ = ["answer_trace", "network_flows"]

log = structlog.get_logger(__name__)


async def network_flows(host: Host, desired: Desired, *, which: str, table: str) -> list[dict[str, Any]]:
    """The flows of the network named by name or UUID, as `flow_words.flow_views` has them; *table* picks one.

    Raises:
        RealizeError: no such network here, no such table, or the switch does not answer.
    """
    network = next((n for n in desired.networks.values() if which in (n.name, str(n.uuid))), None)
    if network is None:
        known = ", ".join(sorted(n.name for n in desired.networks.values())) or "none"
        raise RealizeError(f"network {which!r} is not carried by this host; those that are: {known}")
    if table and table.upper() not in {*Table.__members__, *(str(number.value) for number in Table)}:
        raise RealizeError(f"table {table!r} is none of the pipeline's: {', '.join(Table.__members__)}")
    counted = await host.switches.count(switch_bridge(network.switch_uuid))
    names = _names_on(_bridge_of(host, network), desired, network)
    return flow_views(counted, names, key=network_key(network.uuid), table=table)


async def answer_trace(
    host: Host,
    desired: Desired,
    question: TraceQuestion,
    tell: Callable[[TraceAnswer], None],
    *,
    measures: Mapping[PathKey, Measure],
) -> None:
    """*tell* the switch's answer to *question*, and how old is what *measures* know of the paths that it takes; a
    refusal where the switch can't be asked."""
    try:
        answer = await _trace(host, desired, question, measures)
    except TraceError as error:
        answer = TraceAnswer(request_id=question.request_id, refusal=str(error))
    except RealizeError as error:
        answer = TraceAnswer(request_id=question.request_id, refusal=error.sentence)
    except Exception as error:  # the manager waits for a word, and it should not be silence
        log.exception("trace: failed in an unforeseen way")
        answer = TraceAnswer(request_id=question.request_id, refusal=f"the agent failed on the question: {error!r}")
    tell(answer)


async def _trace(
    host: Host, desired: Desired, question: TraceQuestion, measures: Mapping[PathKey, Measure]
) -> TraceAnswer:
    network = desired.networks.get(question.network_uuid)
    if network is None:
        raise TraceError(f"network {question.network_uuid} is not carried by this host")
    bridge = _bridge_of(host, network)
    ports = replace(_ports_on(bridge, network), answered_s=_answered_s(network, measures))
    entry = _entry(question, network, bridge, ports, desired)
    said = await host.trace(bridge.name, flow_of(question.frame, entry))
    try:
        parsed = parse(said, bridge=bridge.name)
    except ValueError as error:
        raise TraceError(str(error)) from None
    steps, ends = describe(parsed, entry, ports)
    return TraceAnswer(request_id=question.request_id, steps=steps, ends=ends)


def _entry(question: TraceQuestion, network: OpaqueNetwork, bridge: Bridge, ports: Ports, desired: Desired) -> Entry:
    if question.vif_uuid is not None:
        tap = taps_of(bridge).by_vif.get(question.vif_uuid)
        if tap is None or tap.ofport is None or tap.ofport <= 0:
            raise TraceError(
                f"VIF {question.vif_uuid} is not plugged into bridge {bridge.name} of network {network.name}"
            )
        return Entry(ofport=tap.ofport)
    name = exit_port(network.type, network.switch_uuid)
    ofport = next((number for number, port in ports.names.items() if port == name), 0)
    if not network.type.tunneled and ofport:
        return Entry(ofport=ofport, vlan=network.segment_id)
    vteps = desired.host.vteps if desired.host is not None else ()
    own = next((vtep.address.partition("/")[0] for vtep in vteps if vtep.switch_uuid == network.switch_uuid), "")
    if not ofport or not own or not question.from_vtep:
        raise TraceError(f"network {network.name}: port {name} of bridge {bridge.name} is not there, or no VTEP")
    return Entry(ofport=ofport, tun_src=question.from_vtep, tun_dst=own, tun_id=tunnel_key(network))


def _ports_on(bridge: Bridge, network: OpaqueNetwork) -> Ports:
    found = [
        (interface.ofport, interface)
        for port in bridge.ports
        for interface in port.interfaces
        if interface.ofport is not None and interface.ofport > 0
    ]
    tunnels = {tunnel_port(kind, network.switch_uuid) for kind in NetworkType if kind.tunneled}
    patch = patch_port(network.switch_uuid)
    return Ports(
        names={ofport: interface.name for ofport, interface in found},
        vifs={ofport: vif for ofport, interface in found if (vif := vif_of(interface)) is not None},
        tunnels=frozenset(ofport for ofport, interface in found if interface.name in tunnels),
        patch=next((ofport for ofport, interface in found if interface.name == patch), 0),
    )


def _answered_s(network: OpaqueNetwork, measures: Mapping[PathKey, Measure]) -> dict[str, float]:
    """By VTEP, of the paths that the network's frames take: seconds since its last answer."""
    way = (network.switch_uuid, network.type)
    found = {key.vtep: one.answered_s for key, one in measures.items() if (key.switch, key.type) == way}
    return {vtep: seconds for vtep, seconds in found.items() if seconds is not None}


def _bridge_of(host: Host, network: OpaqueNetwork) -> Bridge:
    """The bridge of *network*'s switch as last read.

    Raises:
        RealizeError: it could not be read, or is not there.
    """
    name = switch_bridge(network.switch_uuid)
    bridges = host.cached().bridges
    if isinstance(bridges, Unread):
        raise RealizeError(f"network {network.name}: bridge {name} could not be read: {bridges.reason}")
    found = next((bridge for bridge in bridges if bridge.name == name), None)
    if found is None:
        raise RealizeError(
            f"network {network.name}: its bridge {name} is not there; `hostagent plan` says what is missing"
        )
    return found


def _names_on(bridge: Bridge, desired: Desired, network: OpaqueNetwork) -> Names:
    """Who is behind the numbers on *bridge*, and the MACs and VTEPs of *network*.

    Of other hosts it knows the names of its neighbours, else only UUIDs.
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
    named = {one.host_uuid: one.host_name for one in own.peers} | {own.uuid: own.name} if own is not None else {}
    vteps: dict[str, str] = {}
    for location in desired.locations.values():
        for host, vtep in (
            (location.holder_host, location.holder_vtep),
            (location.incoming_host, location.incoming_vtep),
        ):
            if host is not None and vtep:
                vteps[vtep] = named.get(host, f"host {_short(host)}")
    return Names(
        networks={network_key(one.uuid): one.name for one in desired.networks.values()},
        groups={group_key(one.uuid): one.name for one in desired.groups.values()},
        ofports=ofports,
        macs=_macs(ports, desired),
        addresses=vteps | {ip.partition("/")[0]: port.name for port in ports for ip in _addresses(port, desired)},
    )


def _macs(ports: Iterable[LogicalPort], desired: Desired) -> dict[str, str]:
    """The port of each MAC, also of those behind VIFs."""
    found: dict[str, str] = {}
    for port in ports:
        learned = desired.learned.get(port.uuid)
        found |= {one.mac: port.name for one in (learned.macs if learned is not None else ()) if not one.refused}
        found |= {one.mac: port.name for one in port.nested}
    return found | {port.mac: port.name for port in ports}


def _addresses(port: LogicalPort, desired: Desired) -> tuple[str, ...]:
    learned = desired.learned.get(port.uuid)
    seen = (one.address for one in (learned.addresses if learned is not None else ()) if not one.refused)
    return (*seen, *port.ips, *(ip for one in port.nested for ip in one.ips))


def _tap(name: str, port: str | None) -> str:
    return f"{name}({port})" if port else name


def _short(host: UUID) -> str:
    return str(host)[:8]
