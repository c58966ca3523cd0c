"""How fast: limits of single ports, and shares of the PNICs.

Theory of operation. What a VIF sends is held to its limit by a meter of its bridge, numbered as its tap, through which
CLASSIFY sends its frames: in both datapaths a meter sees a frame before anything else costs time for it. What is
delivered to a VIF is shaped by HTB on its tap, so that a burst is queued before it is dropped, broadcast included. Its
queue holds a tenth of a second of the rate: the kernel's own holds 1,000 frames, which are seconds of a low one.

On a PNIC, HTB has a queue for each class of traffic: sure of its share, and given what the others leave in the order
tenant, control, management. Queues are OVSDB's, so vswitchd makes them again after a restart; which frame goes into
which is for a classifier of the kernel, because Open vSwitch's userspace datapath has no say in it: tunnels and tagged
frames are tenant's, what manager, agents, ARP, neighbour discovery and LACP say is control, the rest management.
Manager and agents are known by their TCP ports: a host knows those of its managers' stream and of its own view; of the
API, and of other hosts' views, it takes the defaults.

A meter must be there before a flow may use it, and a flow that uses one goes with it. So meters are put before flows;
`compile_flows` uses those that were read back; and one is removed when no flow that was read uses it.

QoS rows of somebody else (libvirt makes one for `<bandwidth>`) are left alone, and the limit is reported as not in
force.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from functools import lru_cache
from typing import Final
from uuid import UUID

from hostagent.flow import Flow, Meter
from hostagent.indexed import select
from hostagent.model import (
    CONTROL_PORTS,
    Bridge,
    ChangeMeters,
    Classifier,
    Desired,
    Filter,
    Link,
    MeterLimit,
    Observed,
    OvsPort,
    PutQos,
    Qos,
    Queue,
    RemoveQos,
    SetClassifier,
    Step,
)
from hostagent.names import bond_port
from hostagent.resolve import Resolved, SwitchIntent
from hostagent.vifs import vif_of
from netmgr.contract.types import LogicalPort, OpaqueSwitch

__all__ = [
    "control_ports",
    "filters_of",
    "meter_of",
    "put_meters",
    "qos_problems",
    "remove_meters",
    "shaping_steps",
]

_MANAGEMENT, _CONTROL, _TENANT = 0, 1, 2
_TUNNELS: Final = (4789, 6081)  # UDP: VXLAN, GENEVE
_IPV4, _ARP, _VLAN, _IPV6, _SLOW = 0x0800, 0x0806, 0x8100, 0x86DD, 0x8809
_TCP, _UDP, _GRE, _ICMPV6 = 6, 17, 47, 58
_QUEUE_BYTES: Final = 20_000
"""Of each queue in the userspace datapath, which sends all through one socket: were one queue to hold as much as its
buffer takes (200 KiB, 2 KiB a frame), frames for the others, and for other taps, would be refused."""
_TAP_QUEUE_BYTES_MIN: Final = 150_000  # two segments of 64 KiB, which the kernel's datapath hands over whole
_BURST_KBIT_MIN: Final = 600  # more than one segment of 64 KiB, which a guest may hand over whole


def meter_of(port: LogicalPort, ofport: int) -> MeterLimit | None:
    """The meter for what *port* sends through its tap *ofport*; None without a limit. It forgives 0.1 s of the rate."""
    if not port.egress_kbps:
        return None
    burst = max(port.egress_kbps // 10, _BURST_KBIT_MIN)
    return MeterLimit(number=ofport, rate_kbps=port.egress_kbps, burst_kbit=burst)


def put_meters(
    desired: Desired, intents: Iterable[SwitchIntent], own: Mapping[str, Bridge], observed: Observed
) -> Iterator[Step]:
    """Meters that are missing or have another rate."""
    for name, wanted, found in _meters(desired, intents, own, observed):
        if missing := wanted - found:
            yield ChangeMeters(bridge=name, put=tuple(sorted(missing, key=lambda one: one.number)))


def remove_meters(
    desired: Desired, intents: Iterable[SwitchIntent], own: Mapping[str, Bridge], observed: Observed
) -> Iterator[Step]:
    """Meters that nobody wants and no flow uses."""
    for name, wanted, found in _meters(desired, intents, own, observed):
        stale = {one.number for one in found} - {one.number for one in wanted}
        flows = observed.flows.get(name)
        if stale and isinstance(flows, Set) and (free := stale - _used(flows)):
            yield ChangeMeters(bridge=name, remove=tuple(sorted(free)))


def shaping_steps(
    desired: Desired, resolved: Resolved, own: Mapping[str, Bridge], observed: Observed
) -> Iterator[Step]:
    """QoS of taps and PNICs that is missing, other than wanted, or no longer wanted; and the PNICs' classifiers."""
    limited = _limited(desired)
    links = {link.name: link for link in observed.links} if isinstance(observed.links, tuple) else {}
    for intent in resolved.switches.values():
        bridge = own.get(intent.bridge)
        for ovs_port, port in _taps(bridge, limited) if bridge is not None and not intent.foreign else ():
            yield from _put(intent.bridge, ovs_port, _tap_qos(port))
            if port is not None and port.ingress_kbps and ovs_port.qos is not None and ovs_port.qos.ours:
                yield from _shorten(links.get(ovs_port.interfaces[0].name), _tap_queue_bytes(port, desired.datapath))
    for uplink, users in _by_uplink(resolved).items():
        bridge = own.get(uplink)
        pnics = users[0].pnics
        name = bond_port(pnics) if len(pnics) > 1 else pnics[0]
        found = next((one for one in bridge.ports if one.name == name), None) if bridge is not None else None
        if found is None or not all(pnic in links for pnic in pnics):
            continue
        wanted = _pnic_qos(_shaper(users), [links[pnic] for pnic in pnics])
        yield from _put(uplink, found, wanted)
        if wanted is None and found.qos is not None and found.qos.ours:
            continue  # the filters go with their HTB
        ours = wanted is not None and (found.qos is None or found.qos.ours)
        filters = filters_of(desired.control_ports) if ours else ()
        wanted_there = Classifier(
            filters=tuple(sorted(filters)),
            queue_bytes=_QUEUE_BYTES if filters and desired.datapath == "netdev" else 0,
        )
        for pnic in pnics:
            there = links[pnic].classifier
            if there is not None and _differs(there, wanted_there):
                yield SetClassifier(link=pnic, filters=filters, queue_bytes=wanted_there.queue_bytes)
    yield from (RemoveQos(uuid=uuid) for uuid in observed.loose_qos)


def qos_problems(desired: Desired, resolved: Resolved, observed: Observed) -> dict[UUID, tuple[str, ...]]:
    """By switch: what of its limits and shares is not in force here, one sentence each."""
    if not isinstance(observed.bridges, tuple) or not isinstance(observed.links, tuple):
        return {}
    bridges = {bridge.name: bridge for bridge in observed.bridges}
    links = {link.name: link for link in observed.links}
    limited = _limited(desired)
    found: dict[UUID, list[str]] = {}
    for uuid, intent in resolved.switches.items():
        bridge = bridges.get(intent.bridge)
        for ovs_port, port in _taps(bridge, limited) if bridge is not None else ():
            if port is not None and port.ingress_kbps and ovs_port.qos is not None and not ovs_port.qos.ours:
                found.setdefault(uuid, []).append(
                    f"port {port.name}: its ingress limit of {port.ingress_kbps} kbit/s is not in force, because "
                    f"{ovs_port.name} has a QoS that is not ours; take <bandwidth> out of the domain's interface"
                )
    for users in _by_uplink(resolved).values():
        shaper = _shaper(users)
        for intent in users:
            switch, pnics = intent.switch, ", ".join(intent.pnics)
            if not switch.traffic_classes.wanted:
                continue
            if shaper is not None and switch.traffic_classes != shaper.traffic_classes:
                found.setdefault(switch.uuid, []).append(
                    f"switch {switch.name}: its traffic classes differ from those of switch {shaper.name}, which are "
                    f"in force on {pnics}; give both the same"
                )
            elif _link_bps(switch, [links[pnic] for pnic in intent.pnics if pnic in links]) == 0:
                found.setdefault(switch.uuid, []).append(
                    f"switch {switch.name}: its traffic classes are not in force, because the driver of {pnics} does "
                    f"not tell its speed; set it: netmgr switch set {switch.name} --traffic-classes T/C/M@MBPS"
                )
            else:
                found.setdefault(switch.uuid, []).extend(_unshaped(intent, bridges.get(intent.uplink), links))
    return {uuid: tuple(sentences) for uuid, sentences in found.items() if sentences}


def _differs(found: Classifier, wanted: Classifier) -> bool:
    """Queues go with their HTB, so of a classifier that is no longer wanted only the filters count."""
    return found.filters != wanted.filters or (bool(wanted.queue_bytes) and found.queue_bytes != wanted.queue_bytes)


def _unshaped(intent: SwitchIntent, uplink: Bridge | None, links: Mapping[str, Link]) -> Iterator[str]:
    """PNICs that vswitchd was told to shape and does not: it looks at what it made when it is told anew only."""
    for port in uplink.ports if uplink is not None else ():
        for one in port.interfaces if port.qos is not None and port.qos.ours else ():
            if one.name in intent.pnics and one.name in links and links[one.name].classifier is None:
                yield (
                    f"switch {intent.switch.name}: PNIC {one.name} is not shaped, though vswitchd was told to; have it "
                    f"told anew: ovs-vsctl clear port {port.name} qos"
                )


# --- ports --------------------------------------------------------------------------------------------------------


def _limited(desired: Desired) -> dict[UUID, LogicalPort]:
    """Ports with a limit, by VIF: few, and only they cost anything."""
    limited = select(desired.ports, _is_limited)
    return {port.vif_uuid: port for port in limited.values() if port.vif_uuid is not None}


def _is_limited(port: LogicalPort) -> bool:
    return bool(port.egress_kbps or port.ingress_kbps)


def _taps(bridge: Bridge, limited: Mapping[UUID, LogicalPort]) -> Iterator[tuple[OvsPort, LogicalPort | None]]:
    """Ports of VIFs on *bridge*, each with its logical port if that has a limit."""
    for ovs_port in bridge.ports:
        vif = next((vif for one in ovs_port.interfaces if (vif := vif_of(one)) is not None), None)
        if vif is not None:
            yield ovs_port, limited.get(vif)


def _meters(
    desired: Desired, intents: Iterable[SwitchIntent], own: Mapping[str, Bridge], observed: Observed
) -> Iterator[tuple[str, frozenset[MeterLimit], frozenset[MeterLimit]]]:
    """Bridge, the meters it should have, and those it has; bridges whose meters were not read are left out."""
    limited = _limited(desired)
    for intent in intents:
        bridge, found = own.get(intent.bridge), observed.meters.get(intent.bridge)
        if bridge is None or found is None:
            continue
        wanted = {
            limit
            for ovs_port, port in _taps(bridge, limited)
            for ofport in (ovs_port.interfaces[0].ofport or 0,)
            if port is not None and ofport > 0 and (limit := meter_of(port, ofport)) is not None
        }
        yield intent.bridge, frozenset(wanted), found


def _used(flows: Iterable[Flow]) -> set[int]:
    return {action.number for flow in flows for action in flow.actions if isinstance(action, Meter)}


def _tap_qos(port: LogicalPort | None) -> Qos | None:
    return Qos(max_bps=port.ingress_kbps * 1000) if port is not None and port.ingress_kbps else None


def _tap_queue_bytes(port: LogicalPort, datapath: str) -> int:
    """Of what is delivered to *port*; 0.1 s of its rate, but at least a frame of the longest there may be."""
    return _QUEUE_BYTES if datapath == "netdev" else max(port.ingress_kbps * 1000 // 8 // 10, _TAP_QUEUE_BYTES_MIN)


def _shorten(tap: Link | None, queue_bytes: int) -> Iterator[Step]:
    """Once vswitchd has made the HTB of *tap*: its queue, if it is of another length."""
    if tap is not None and tap.classifier is not None and tap.classifier.queue_bytes != queue_bytes:
        yield SetClassifier(link=tap.name, filters=(), queue_bytes=queue_bytes)


def _put(bridge: str, ovs_port: OvsPort, wanted: Qos | None) -> Iterator[Step]:
    found = ovs_port.qos
    if found != wanted and (found is None or found.ours):
        yield PutQos(bridge=bridge, name=ovs_port.name, qos=wanted)


# --- PNICs --------------------------------------------------------------------------------------------------------


def _by_uplink(resolved: Resolved) -> dict[str, list[SwitchIntent]]:
    """Switches by uplink bridge, lowest UUID first; blocked ones keep what they have."""
    found: dict[str, list[SwitchIntent]] = {}
    for _, intent in sorted(resolved.switches.items()):
        if intent.uplink and not intent.blocked:
            found.setdefault(intent.uplink, []).append(intent)
    return found


def _shaper(users: Iterable[SwitchIntent]) -> OpaqueSwitch | None:
    """Of the switches on an uplink the one whose classes are in force: the first that wants any."""
    return next((one.switch for one in users if one.switch.traffic_classes.wanted), None)


def _pnic_qos(switch: OpaqueSwitch | None, links: list[Link]) -> Qos | None:
    link_bps = _link_bps(switch, links) if switch is not None else 0
    if switch is None or not link_bps:
        return None
    classes = switch.traffic_classes
    shares = (classes.management_percent, classes.control_percent, classes.tenant_percent)
    order = {_TENANT: 0, _CONTROL: 1, _MANAGEMENT: 2}
    queues = (
        Queue(min_bps=link_bps * share // 100, max_bps=link_bps, priority=order[number])
        for number, share in enumerate(shares)
    )
    return Qos(max_bps=link_bps, queues=tuple(queues))


def _link_bps(switch: OpaqueSwitch, links: list[Link]) -> int:
    """What the definition says, else the speed of the slowest PNIC; 0 where nobody tells."""
    speeds = [switch.traffic_classes.link_mbps or link.speed_mbps for link in links]
    return min(speeds, default=0) * 1_000_000


def control_ports(managers: Iterable[str], view_port: int) -> tuple[int, ...]:
    """The TCP ports by which *managers* (host:port of Sync) and agents talk, as far as a host knows them, sorted.

    *view_port* is that of its own view, 0 for none. Views of other hosts, and the API, are looked for at the defaults;
    so is the stream where no manager is named.
    """
    api, sync, views = CONTROL_PORTS
    told = {int(port) for _, _, port in (one.rpartition(":") for one in managers) if port.isdecimal()}
    return tuple(sorted({api, views, view_port or views} | (told or {sync})))


@lru_cache(maxsize=8)
def filters_of(control_ports: tuple[int, ...]) -> tuple[Filter, ...]:
    """The classifier of every PNIC that is shaped, where managers and agents talk by these TCP ports."""
    return tuple(_filters(control_ports))


def _filters(control_ports: Iterable[int]) -> Iterator[Filter]:
    """IPv4 without options and IPv6 without extension headers: what tunnels and daemons send."""
    for protocol, next_header, ports in ((_IPV4, 9, 20), (_IPV6, 6, 40)):
        for udp_port in _TUNNELS:
            keys = ((_UDP, 0xFF, next_header), (udp_port, 0xFFFF, ports + 2))
            yield Filter(protocol=protocol, queue=_TENANT, keys=keys)
        yield Filter(protocol=protocol, queue=_TENANT, keys=((_GRE, 0xFF, next_header),))
        for tcp_port in control_ports:
            for at in (ports, ports + 2):
                keys = ((_TCP, 0xFF, next_header), (tcp_port, 0xFFFF, at))
                yield Filter(protocol=protocol, queue=_CONTROL, keys=keys)
    for value, mask in ((0x84, 0xFC), (0x88, 0xFC)):  # types 132 to 139: neighbour discovery, and MLD's oldest
        keys = ((_ICMPV6, 0xFF, 6), (value, mask, 40))
        yield Filter(protocol=_IPV6, queue=_CONTROL, keys=keys)
    yield Filter(protocol=_ARP, queue=_CONTROL)
    yield Filter(protocol=_SLOW, queue=_CONTROL)
    yield Filter(protocol=_VLAN, queue=_TENANT)
