"""Hosts for the agent's pure tests: what is wanted, what is read, and what steps make of a host.

`obey` is the meaning of the steps, as `hostagent.model` promises it, on values: a plan is right when obeying it and
planning again ends with nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from uuid import UUID, uuid5

from hostagent.flow import Meter
from hostagent.model import (
    AddAddress,
    Bridge,
    ChangeFlows,
    ChangeMeters,
    Classifier,
    DefineNetwork,
    Desired,
    Interface,
    KeepNetwork,
    LibvirtNetwork,
    Link,
    Observed,
    OvsPort,
    PutBridge,
    PutNormal,
    PutPort,
    PutQos,
    RemoveAddress,
    RemoveBridge,
    RemoveNetwork,
    RemovePort,
    RemoveQos,
    SetArpIgnore,
    SetClassifier,
    SetLink,
    Step,
    Unread,
)
from hostagent.names import SWITCH_KEY
from hostagent.plan import plan
from netmgr.contract.types import (
    HostConfig,
    Location,
    LogicalPort,
    NetworkType,
    OpaqueNetwork,
    OpaqueSwitch,
    Teaming,
    VtepAssignment,
)

SPACE = UUID("11111111-2222-3333-4444-555555555555")


def named(name: str) -> UUID:
    """The UUID of whatever the tests call *name*."""
    return uuid5(SPACE, name)


def switch(
    name: str = "s1", *, pnics: tuple[str, ...] = ("eth1",), mtu: int = 1600, teaming: Teaming = Teaming.SINGLE
) -> OpaqueSwitch:
    return OpaqueSwitch(
        uuid=named(name), name=name, zone_uuids=(), pnic_globs=pnics, vtep_pool="10.0.0.0/24", mtu=mtu, teaming=teaming
    )


def network(
    name: str = "n1", *, on: str = "s1", segment: int = 5001, kind: NetworkType = NetworkType.VXLAN, mtu: int = 1500
) -> OpaqueNetwork:
    return OpaqueNetwork(
        uuid=named(name), name=name, zone_uuid=SPACE, switch_uuid=named(on), segment_id=segment, type=kind, mtu=mtu
    )


def port(name: str, number: int, *, on: str = "n1", admin_up: bool = True, ips: tuple[str, ...] = ()) -> LogicalPort:
    return LogicalPort(
        uuid=named(name),
        name=name,
        network_uuid=named(on),
        vif_uuid=named(f"vif {name}"),
        mac=f"02:00:00:00:00:{number:02x}",
        admin_up=admin_up,
        ips=ips,
    )


def location(
    of: LogicalPort, holder: str | None, *, incoming: str | None = None, parked: bool = False, version: int = 1
) -> Location:
    return Location(
        port_uuid=of.uuid,
        network_uuid=of.network_uuid,
        holder_host=named(holder) if holder else None,
        holder_vtep=vtep(holder),
        incoming_host=named(incoming) if incoming else None,
        incoming_vtep=vtep(incoming),
        parked=parked,
        version=version,
        mac=of.mac,
    )


def vtep(host: str | None) -> str:
    """VTEP of hosts h1, h2, …; empty for none."""
    return f"10.0.0.{host[1:]}" if host else ""


def desired(
    *,
    switches: Iterable[OpaqueSwitch] = (),
    networks: Iterable[OpaqueNetwork] = (),
    ports: Iterable[LogicalPort] = (),
    locations: Iterable[Location] = (),
    pnics: tuple[str, ...] = ("eth1",),
    vteps: Mapping[str, str] | None = None,
) -> Desired:
    """What netmgr wants on host h1; *vteps* by the switch's name, 10.0.0.1/24 for each if not given."""
    carried = {one.uuid: one for one in switches}
    addresses = dict.fromkeys((one.name for one in carried.values()), "10.0.0.1/24") if vteps is None else vteps
    return Desired(
        host=HostConfig(
            uuid=named("h1"),
            name="h1",
            vteps=tuple(VtepAssignment(switch_uuid=named(name), address=cidr) for name, cidr in addresses.items()),
        ),
        switches=carried,
        networks={one.uuid: one for one in networks},
        ports={one.uuid: one for one in ports},
        locations={one.port_uuid: one for one in locations},
        offered_pnics=pnics,
        datapath="netdev",
    )


def bare(*pnics: str, mtu: int = 9000) -> Observed:
    """A host with *pnics* (eth1 if none is named) and nothing else."""
    links = tuple(
        Link(name=name, mac="02:ff:00:00:00:01", mtu=mtu, admin_up=True, carrier=True, arp_ignore=0)
        for name in pnics or ("eth1",)
    )
    return Observed(links=links)


def plug(observed: Observed, bridge: str, name: str, vif: UUID, ofport: int | None) -> Observed:
    """*observed* with the tap *name* of *vif* on *bridge*, as libvirt plugs it."""
    assert not isinstance(observed.bridges, Unread)
    tap = Interface(name=name, ofport=ofport, external_ids={"iface-id": str(vif), "vm-id": str(named("vm"))})
    bridges = tuple(
        replace(one, ports=(*one.ports, OvsPort(name=name, interfaces=(tap,)))) if one.name == bridge else one
        for one in observed.bridges
    )
    return replace(observed, bridges=bridges)


def settled(wanted: Desired, observed: Observed, *, rounds: int = 4) -> Observed:
    """The host after observing, planning and obeying until there is nothing to do; fails if that takes long."""
    for _ in range(rounds):
        steps = plan(desired=wanted, observed=observed)
        if not steps:
            return observed
        observed = obey(observed, steps)
    raise AssertionError(f"still planning after {rounds} rounds: {plan(desired=wanted, observed=observed)}")


def obey(observed: Observed, steps: Iterable[Step]) -> Observed:
    """The host after *steps*; each new interface gets an ofport, each new bridge its flows read."""
    for step in steps:
        observed = _obey_one(observed, step)
    return observed


def _obey_one(observed: Observed, step: Step) -> Observed:
    assert not isinstance(observed.bridges, Unread)
    bridges = {bridge.name: bridge for bridge in observed.bridges}
    flows, meters, loose = dict(observed.flows), dict(observed.meters), observed.loose_qos
    silent = observed.silent_uplinks
    links = {} if isinstance(observed.links, Unread) else {link.name: link for link in observed.links}
    known = () if isinstance(observed.libvirt_networks, Unread) else observed.libvirt_networks
    networks = {one.uuid: one for one in known}
    match step:
        case PutBridge():
            old = bridges.get(step.name) or Bridge(
                name=step.name,
                ports=(OvsPort(name=step.name, interfaces=(Interface(name=step.name, type="internal"),)),),
            )
            bridges[step.name] = replace(
                old,
                datapath_type=step.datapath_type,
                fail_mode=step.fail_mode,
                external_ids={**old.external_ids, **step.external_ids},
            )
            links.setdefault(step.name, Link(name=step.name, mtu=1500, arp_ignore=0))
            if SWITCH_KEY in step.external_ids:
                flows.setdefault(step.name, frozenset())
                meters.setdefault(step.name, frozenset())
        case RemoveBridge():
            del bridges[step.name]
            links.pop(step.name, None)
            flows.pop(step.name, None)
        case PutPort():
            bridge = bridges[step.bridge]
            for one in bridges.values():
                held = {i.name for p in one.ports for i in p.interfaces} & {i.name for i in step.interfaces}
                assert one is bridge or not held, f"{held} of {step} is in {one.name}: one interface, one bridge"
            numbers = [i.ofport or 0 for p in bridge.ports for i in p.interfaces]
            tags = {port.name: port.tag for port in bridge.ports}
            interfaces = tuple(
                replace(one, ofport=max(numbers, default=0) + 1 + index) for index, one in enumerate(step.interfaces)
            )
            new = OvsPort(
                name=step.name,
                interfaces=interfaces,
                external_ids=step.external_ids,
                bond_mode=step.bond_mode,
                lacp=step.lacp,
                other_config=step.other_config,
                vlan_mode="trunk" if step.trunks else "",
                trunks=step.trunks,
                tag=step.tag if step.tag is not None else tags.get(step.name),
            )
            others = tuple(one for one in bridge.ports if one.name != step.name)
            bridges[step.bridge] = replace(bridge, ports=(*others, new))
            for one in step.interfaces:
                if one.mtu_request and one.name in links:
                    links[one.name] = replace(links[one.name], mtu=one.mtu_request)
        case RemovePort():
            bridge = bridges[step.bridge]
            bridges[step.bridge] = replace(bridge, ports=tuple(one for one in bridge.ports if one.name != step.name))
        case SetLink():
            links[step.name] = replace(links[step.name], admin_up=True, mtu=step.mtu or links[step.name].mtu)
        case SetArpIgnore():
            links[step.link] = replace(links[step.link], arp_ignore=step.arp_ignore)
        case AddAddress():
            link = links[step.link]
            links[step.link] = replace(link, addresses=(*link.addresses, step.address))
        case RemoveAddress():
            link = links[step.link]
            links[step.link] = replace(link, addresses=tuple(a for a in link.addresses if a != step.address))
        case DefineNetwork():
            assert not any(one.name == step.name and one.uuid != step.uuid for one in networks.values()), step
            networks[step.uuid] = LibvirtNetwork(
                uuid=step.uuid,
                name=step.name,
                bridge=step.bridge,
                mtu=step.mtu,
                ours=True,
                active=True,
                autostart=step.uuid in networks and networks[step.uuid].autostart,
                persistent=step.uuid in networks,
            )
        case KeepNetwork():
            assert networks[step.uuid].active, step
            networks[step.uuid] = replace(networks[step.uuid], autostart=True, persistent=True)
        case RemoveNetwork():
            assert networks[step.uuid].ours
            del networks[step.uuid]
        case ChangeFlows():
            before = flows[step.bridge]
            assert isinstance(before, frozenset)
            assert {*step.delete} <= before
            gone = {flow.key() for flow in (*step.delete, *step.add)}
            there = {meter.number for meter in meters.get(step.bridge, ())}
            asked = {one.number for flow in step.add for one in flow.actions if isinstance(one, Meter)}
            assert asked <= there, "a switch refuses flows with meters that it does not know"
            flows[step.bridge] = frozenset(flow for flow in before if flow.key() not in gone) | {*step.add}
        case ChangeMeters():
            found = {meter.number: meter for meter in meters[step.bridge]}
            found.update({meter.number: meter for meter in step.put})
            for number in step.remove:
                del found[number]
            meters[step.bridge] = frozenset(found.values())
            before = flows[step.bridge]
            assert isinstance(before, frozenset)
            assert not any(Meter(number) in flow.actions for flow in before for number in step.remove), "flows go too"
        case PutNormal():
            assert step.bridge in bridges
            silent -= {step.bridge}
        case PutQos():
            bridge = bridges[step.bridge]
            assert all(one.qos is None or one.qos.ours for one in bridge.ports if one.name == step.name)
            ports = (replace(one, qos=step.qos) if one.name == step.name else one for one in bridge.ports)
            bridges[step.bridge] = replace(bridge, ports=tuple(ports))
            for name in (i.name for one in bridge.ports if one.name == step.name for i in one.interfaces):
                if name in links:
                    links[name] = replace(links[name], classifier=Classifier() if step.qos else None)
        case RemoveQos():
            loose = tuple(uuid for uuid in loose if uuid != step.uuid)
        case SetClassifier():
            classifier = Classifier(filters=tuple(sorted(step.filters)), queue_bytes=step.queue_bytes)
            links[step.link] = replace(links[step.link], classifier=classifier)
    return replace(
        observed,
        bridges=tuple(bridges.values()),
        links=observed.links if isinstance(observed.links, Unread) else tuple(links.values()),
        libvirt_networks=observed.libvirt_networks
        if isinstance(observed.libvirt_networks, Unread)
        else tuple(networks.values()),
        flows=flows,
        meters=meters,
        loose_qos=loose,
        silent_uplinks=silent,
    )
