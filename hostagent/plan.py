"""From what is wanted and what was read to the steps between, in a safe order.

Theory of operation. The agent observes, plans, applies, and observes again. A plan holds what can be done with what was
read; numbers that the switch gives (ofports) come with the next reading, so a new switch takes two or three rounds.
Once everything is applied, planning again yields no steps.

Order, and why:

1. Flows of networks that are gone: before anything they need is taken away, no frame of theirs passes.
2. libvirt networks, ports, addresses, bridges that are ours and no longer wanted: what comes next may need their names,
   and a PNIC can be in one bridge only.
3. Bridges, ports, links, addresses.
4. Meters, flows (one bundle a bridge), meters that no flow uses any more; then shaping.
5. libvirt networks last: whoever can choose a network finds it working. That libvirt keeps one is a step of its own,
   once it is there: guests do not wait for it.

What does not carry our mark is never touched. A part that could not be read (`Unread`) is not absent: no step that
depends on it is made. A host that has never heard its manager (`Desired.host` is None) does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set

from hostagent.flow import Flow, Match
from hostagent.flow_set import flow_set
from hostagent.flows import compile_flows
from hostagent.model import (
    Bridge,
    ChangeFlows,
    DefineNetwork,
    Desired,
    Interface,
    KeepNetwork,
    LibvirtNetwork,
    Observed,
    OvsPort,
    PutPort,
    RemoveBridge,
    RemoveNetwork,
    RemovePort,
    Step,
    Unread,
)
from hostagent.names import (
    OWNER,
    SWITCH_KEY,
    is_ours,
    is_switch_bridge,
    network_key,
    ovs_type,
    patch_port,
    trunk_port,
    tunnel_port,
)
from hostagent.pipeline.tables import SWITCH_COOKIE
from hostagent.qos import put_meters, remove_meters, shaping_steps
from hostagent.resolve import Resolved, SwitchIntent, resolve
from hostagent.subports import subport_patches
from hostagent.uplinks import bridge_step, patch_to, remove_trunks, remove_uplinks, uplink_steps
from hostagent.vifs import vif_of

__all__ = ["expected_flows", "kept_bridges", "plan"]


def plan(*, desired: Desired, observed: Observed) -> tuple[Step, ...]:
    """Steps that turn *observed* into *desired*, in a safe order.

    Removals come first. What is not ours is never touched; what was not read is never removed. Applied and read
    again, the plan shrinks until it is empty.
    """
    if desired.host is None or isinstance(observed.bridges, Unread):
        return ()
    resolved = resolve(desired, observed)
    bridges = {bridge.name: bridge for bridge in observed.bridges}
    own = {name: bridge for name, bridge in bridges.items() if is_ours(bridge.external_ids)}
    intents = [intent for intent in resolved.switches.values() if not intent.foreign]
    subports = subport_patches(desired, intents, own)
    return (
        *_purge_flows(intents, own, observed),
        *_remove_networks(desired, observed),
        *_remove_ports(intents, own, subports, desired.datapath),
        *remove_trunks(resolved, own),
        *_remove_bridges(intents, own),
        *remove_uplinks(resolved, own, observed),
        *uplink_steps(resolved, own, observed, desired.datapath),
        *_put_bridges(intents, own, desired, observed, subports),
        *put_meters(desired, intents, own, observed),
        *_change_flows(desired, intents, own, observed),
        *remove_meters(desired, intents, own, observed),
        *shaping_steps(desired, resolved, own, observed),
        *_define_networks(resolved, own, observed),
    )


def kept_bridges(*, desired: Desired, observed: Observed) -> dict[str, str]:
    """Bridges of ours that nobody wants and that stay, by name, with the sentence why."""
    if desired.host is None or isinstance(observed.bridges, Unread):
        return {}
    wanted = {intent.bridge for intent in resolve(desired, observed).switches.values()}
    kept = {}
    for bridge in observed.bridges:
        if is_switch_bridge(bridge.external_ids) and bridge.name not in wanted:
            plugged = [port.name for port in _strangers(bridge)]
            if plugged:
                kept[bridge.name] = (
                    f"bridge {bridge.name}: its switch is gone, but {', '.join(plugged)} is still plugged into it; "
                    "it is removed once that is gone"
                )
    return kept


def expected_flows(*, desired: Desired, observed: Observed, bridge: str) -> Set[Flow]:
    """What *bridge* should have, as far as that can be said before its flows and meters are read."""
    if desired.host is None or isinstance(observed.bridges, Unread):
        return frozenset()
    found = next((one for one in observed.bridges if one.name == bridge and is_ours(one.external_ids)), None)
    intents = resolve(desired, observed).switches.values()
    intent = next((one for one in intents if one.bridge == bridge and not one.foreign), None)
    if found is None or intent is None:
        return frozenset()
    return compile_flows(desired=desired, intent=intent, bridge=found)


# --- removals -----------------------------------------------------------------------------------------------------


def _purge_flows(intents: list[SwitchIntent], own: Mapping[str, Bridge], observed: Observed) -> Iterator[Step]:
    """By cookie: flows of networks no longer carried; all flows of a bridge that nobody wants and that stays."""
    wanted = {intent.bridge: intent for intent in intents}
    for name, bridge in sorted(own.items()):
        flows = observed.flows.get(name)
        if not isinstance(flows, Set) or not is_switch_bridge(bridge.external_ids):
            continue
        if name in wanted:
            keys = {network_key(network.uuid) for network in wanted[name].networks} | {SWITCH_COOKIE}
            strange = flow_set(flows).cookies.keys() - keys
            gone = [flow for flow in flows if flow.cookie in strange] if strange else []
        elif _strangers(bridge):
            gone = [*flows]
        else:
            continue  # the whole bridge goes
        if gone:
            yield ChangeFlows(bridge=name, delete=_ordered(gone), add=())


def _remove_networks(desired: Desired, observed: Observed) -> Iterator[Step]:
    if isinstance(observed.libvirt_networks, Unread):
        return
    names = {network.name: network.uuid for network in desired.networks.values()}
    for network in sorted(observed.libvirt_networks, key=lambda one: one.uuid.int):
        unwanted = network.uuid not in desired.networks
        in_the_way = names.get(network.name, network.uuid) != network.uuid  # two networks swap names
        if network.ours and (unwanted or in_the_way):
            yield RemoveNetwork(uuid=network.uuid)


def _remove_ports(
    intents: list[SwitchIntent], own: Mapping[str, Bridge], subports: Mapping[str, list[PutPort]], datapath: str
) -> Iterator[Step]:
    """Tunnel and patch ports of types that no network has any more, of sub-ports whose VIF is gone."""
    for intent in intents:
        bridge = own.get(intent.bridge)
        if bridge is None or intent.blocked:
            continue
        wanted = {port.name for port in (*_exits(intent, datapath), *subports.get(bridge.name, ()))}
        for port in bridge.ports:
            if is_ours(port.external_ids) and port.name != bridge.name and port.name not in wanted:
                yield RemovePort(bridge=bridge.name, name=port.name)


def _remove_bridges(intents: list[SwitchIntent], own: Mapping[str, Bridge]) -> Iterator[Step]:
    wanted = {intent.bridge for intent in intents}
    for name, bridge in sorted(own.items()):
        if is_switch_bridge(bridge.external_ids) and name not in wanted and not _strangers(bridge):
            yield RemoveBridge(name=name)


# --- additions ----------------------------------------------------------------------------------------------------


def _put_bridges(
    intents: list[SwitchIntent],
    own: Mapping[str, Bridge],
    desired: Desired,
    observed: Observed,
    subports: Mapping[str, list[PutPort]],
) -> Iterator[Step]:
    links = frozenset() if isinstance(observed.links, Unread) else frozenset(link.name for link in observed.links)
    for intent in intents:
        bridge = own.get(intent.bridge)
        if not intent.blocked:
            marks = {**OWNER, SWITCH_KEY: str(intent.switch.uuid)}
            yield from bridge_step(intent.bridge, bridge, desired.datapath, "secure", marks)
            ports = {port.name: port for port in bridge.ports} if bridge is not None else {}
            for port in (*_exits(intent, desired.datapath), *subports.get(intent.bridge, ())):
                if not _fits(port, ports.get(port.name)):
                    yield port
        if bridge is not None:
            yield from _replug(bridge, desired, links)


def _exits(intent: SwitchIntent, datapath: str) -> list[PutPort]:
    """The ports by which its networks leave it: a tunnel port for each type, a patch to the uplink for VLANs."""
    patch = [
        patch_to(trunk_port(intent.switch.uuid), bridge=intent.bridge, name=patch_port(intent.switch.uuid))
        for _ in intent.vlans[:1]
    ]
    if not intent.vtep:
        return patch
    return patch + [
        PutPort(
            bridge=intent.bridge,
            name=name,
            interfaces=(
                Interface(
                    name=name,
                    type=ovs_type(kind, vtep=intent.vtep_address, datapath=datapath),
                    options={"remote_ip": "flow", "key": "flow", "local_ip": intent.vtep_address},
                    external_ids=OWNER,
                ),
            ),
            external_ids=OWNER,
        )
        for kind in intent.types
        for name in [tunnel_port(kind, intent.switch.uuid)]
    ]


def _fits(wanted: PutPort, found: OvsPort | None) -> bool:
    if found is None or len(found.interfaces) != 1 or not is_ours(found.external_ids):
        return False
    one, other = wanted.interfaces[0], found.interfaces[0]
    marked = all(other.external_ids.get(key) == value for key, value in one.external_ids.items())
    return one.type == other.type and dict(one.options) == dict(other.options) and marked


def _replug(bridge: Bridge, desired: Desired, links: frozenset[str]) -> Iterator[Step]:
    """Taps that somebody took out of the bridge while their guest runs: a tap's link ends with its guest."""
    plugged = {vif for port in bridge.ports for one in port.interfaces if (vif := vif_of(one)) is not None}
    present = {port.name for port in bridge.ports}
    for vif, plug in sorted(desired.plugs.items()):
        if plug.bridge == bridge.name and plug.port in links and vif not in plugged and plug.port not in present:
            tap = Interface(name=plug.port, external_ids=plug.external_ids)
            yield PutPort(bridge=bridge.name, name=plug.port, interfaces=(tap,), external_ids={})


def _change_flows(
    desired: Desired, intents: list[SwitchIntent], own: Mapping[str, Bridge], observed: Observed
) -> Iterator[Step]:
    for intent in intents:
        bridge, read = own.get(intent.bridge), observed.flows.get(intent.bridge)
        if bridge is None or not isinstance(read, Set):
            continue
        meters, flows = observed.meters.get(intent.bridge, frozenset()), flow_set(read)
        wanted = compile_flows(desired=desired, intent=intent, bridge=bridge, realized=flows, meters=meters)
        add, surplus = wanted.minus(flows), flows.minus(wanted)
        if not add and not surplus:
            continue
        keys = {network_key(network.uuid) for network in intent.networks} | {SWITCH_COOKIE}
        replaced = {flow.key() for flow in add}
        delete = [flow for flow in surplus if flow.cookie in keys and flow.key() not in replaced]
        if add or delete:
            yield ChangeFlows(bridge=intent.bridge, delete=_ordered(delete), add=_ordered(add))


def _define_networks(resolved: Resolved, own: Mapping[str, Bridge], observed: Observed) -> Iterator[Step]:
    """Once the bridge and the tunnel exist, and the flows are in or were put in by the step before."""
    if isinstance(observed.libvirt_networks, Unread):
        return
    found = {network.uuid: network for network in observed.libvirt_networks if network.ours}
    for intent in resolved.switches.values():
        bridge = own.get(intent.bridge)
        if bridge is None or intent.blocked or not isinstance(observed.flows.get(intent.bridge), Set):
            continue
        working = {
            port.name
            for port in bridge.ports
            if any((one.ofport or -1) > 0 and not one.error for one in port.interfaces)
        }
        served = {kind for kind, name in intent.exits.items() if name in working}
        for network in intent.networks:
            one, fits = found.get(network.uuid), resolved.fits.get(network.uuid)
            measured = one is not None or fits is None or not fits.measuring
            if not (measured and network.type in served) or network.uuid in resolved.undefined:
                continue
            wanted = DefineNetwork(uuid=network.uuid, name=network.name, bridge=intent.bridge, mtu=network.mtu)
            if one is None or not _is_defined(wanted, one):
                yield wanted
            elif not (one.persistent and one.autostart):
                yield KeepNetwork(uuid=network.uuid, name=network.name, bridge=intent.bridge, mtu=network.mtu)


def _is_defined(wanted: DefineNetwork, found: LibvirtNetwork) -> bool:
    return (
        (found.name, found.bridge, found.mtu) == (wanted.name, wanted.bridge, wanted.mtu)
        and found.active
        and found.as_defined
    )


# --- shared -------------------------------------------------------------------------------------------------------


def _strangers(bridge: Bridge) -> list[OvsPort]:
    """Ports that we did not make: taps, mostly."""
    return [port for port in bridge.ports if port.name != bridge.name and not is_ours(port.external_ids)]


def _ordered(flows: Iterable[Flow]) -> tuple[Flow, ...]:
    """By table and priority; what a packet meets last comes first, so that nothing points ahead of what exists."""
    return tuple(sorted(flows, key=lambda flow: (-flow.table, -flow.priority, flow.cookie, _match_order(flow))))


def _match_order(flow: Flow) -> list[tuple[str, int]]:
    return [(one.field, one.value) if isinstance(one, Match) else (f"{one.header:#x}", 0) for one in flow.match]
