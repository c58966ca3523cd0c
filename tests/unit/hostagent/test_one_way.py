"""A frame for a known MAC takes one way: to its tap, or to the VTEP of its holder; whoever says it, judged or not."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from hostagent.flow import IN_PORT, Flow, mac_to_int
from hostagent.flows import compile_flows
from hostagent.model import Bridge, Desired, Phase
from hostagent.names import switch_bridge
from hostagent.pipeline.tables import Table
from hostagent.resolve import resolve
from netmgr.contract.types import Direction, Ethertype, Location, LogicalPort, NetworkType, SecurityGroup, SecurityRule
from tests.support.flow_machine import Outcome, run
from tests.support.hostagent_worlds import bare, desired, location, named, network, plug, port, settled, switch

OSW = switch_bridge(named("s1"))
RULES = tuple(SecurityRule(direction=way, ethertype=kind) for way in Direction for kind in Ethertype)
GROUPS = {
    named(name): SecurityGroup(uuid=named(name), name=name, rules=RULES, stateful=name == "stateful")
    for name in ("stateful", "stateless")
}
HERE = {"plain": 11, "learning": 12, "stateful": 13, "stateless": 14}
AWAY = {"far": "h2", "third": "h3"}
TRACKED = {"ct_state": 0x21, "ct_mark": 0}  # a new connection


def addresses(number: int) -> tuple[str, str]:
    return f"10.1.0.{number}", f"fd00::{number}"


def port_called(name: str) -> LogicalPort:
    number = [*HERE, *AWAY].index(name) + 1
    groups = (named(name),) if name in ("stateful", "stateless") else ()
    return replace(port(name, number, ips=() if name == "learning" else addresses(number)), security_groups=groups)


PORTS = {name: port_called(name) for name in (*HERE, *AWAY)}


def wanted_with(where: list[Location], *, vlan: bool = False, pool: str = "", vtep: str = "10.0.0.1/24") -> Desired:
    wanted = desired(
        switches=[replace(switch(), vtep_pool=pool) if pool else switch()],
        networks=[network(kind=NetworkType.VLAN, segment=100) if vlan else network()],
        ports=PORTS.values(),
        locations=where,
        vteps={"s1": vtep},
    )
    return replace(wanted, groups=GROUPS, ct_zones={PORTS["stateful"].uuid: 40960})


def compiled(wanted: Desired) -> tuple[frozenset[Flow], Bridge]:
    """Flows of h1 with all taps plugged, and its bridge."""
    there = settled(replace(wanted, ports={}, locations={}, phases={}), bare())
    for name, ofport in HERE.items():
        there = plug(there, OSW, f"tap{ofport}", PORTS[name].vif_uuid, ofport)
    bridge = next(one for one in there.bridges if one.name == OSW)
    return compile_flows(desired=wanted, intent=resolve(wanted, there).switches[named("s1")], bridge=bridge), bridge


@pytest.fixture(scope="module", params=["IPv4", "IPv6", "VLAN"])
def host(request: pytest.FixtureRequest) -> tuple[frozenset[Flow], int, dict[str, int]]:
    """Flows of h1 over an underlay of either family, its tunnel port, and the VTEPs of the others; on a VLAN its patch
    to the uplink, and 0 in place of VTEPs."""
    six, vlan = request.param == "IPv6", request.param == "VLAN"
    vteps = {host: f"fd00:200::{host[1:]}" if six else f"10.0.0.{host[1:]}" for host in ("h1", "h2", "h3")}
    where = [
        replace(location(one, AWAY.get(name, "h1")), holder_vtep=vteps[AWAY.get(name, "h1")])
        for name, one in PORTS.items()
    ]
    wanted = wanted_with(
        where, vlan=vlan, pool="fd00:200::/64" if six else "", vtep=f"{vteps['h1']}/{64 if six else 24}"
    )
    flows, bridge = compiled(wanted)
    (way,) = [p.interfaces[0].ofport for p in bridge.ports if p.name.startswith("patch" if vlan else "vxlan")]
    return flows, way, {name: 0 if vlan else int(ip_address(vteps[at])) for name, at in AWAY.items()}


def say(flows: frozenset[Flow], source: str, destination: str, *, six: bool, **outer: int) -> Outcome:
    one, other = (list(PORTS).index(name) + 1 for name in (source, destination))
    prefix, at = ("ipv6", 1) if six else ("nw", 0)
    frame = {
        "in_port": HERE.get(source, 0),
        "eth_src": mac_to_int(PORTS[source].mac),
        "eth_dst": mac_to_int(PORTS[destination].mac),
        "eth_type": 0x86DD if six else 0x0800,
        "vlan_tci": 0,
        "ip_frag": 0,
        "nw_proto": 17,
        "udp_src": 40000,
        "udp_dst": 53,
        f"{prefix}_src": int(ip_address(addresses(one)[at])),
        f"{prefix}_dst": int(ip_address(addresses(other)[at])),
        **outer,
    }
    return run(flows, frame, table=Table.CLASSIFY, tracked=TRACKED)


@pytest.mark.parametrize("six", [False, True], ids=["packet of IPv4", "packet of IPv6"])
@pytest.mark.parametrize("source", HERE)
def test_a_frame_for_a_known_mac_takes_one_way(host, source: str, six: bool) -> None:
    flows, tunnel, vteps = host
    for destination in (name for name in PORTS if name != source):
        sent = say(flows, source, destination, six=six).sent
        if destination in HERE:
            assert sent == [(HERE[destination], 0)], (source, destination)
        else:
            assert sent == [(tunnel, vteps[destination])], (source, destination)


@pytest.mark.parametrize("six", [False, True], ids=["packet of IPv4", "packet of IPv6"])
@pytest.mark.parametrize("destination", [*HERE, "third"])
def test_what_comes_from_elsewhere_goes_to_its_tap_alone_and_only_from_the_holders_vtep(host, destination, six) -> None:
    flows, way, vteps = host
    from_v6 = vteps["far"] > 0xFFFFFFFF
    for vtep in vteps.values():
        tunnel = {"tun_id": 5001, "tun_ipv6_src" if from_v6 else "tun_src": vtep}
        outer = {"in_port": way, **(tunnel if vtep else {"vlan_tci": 0x1000 | 100})}
        sent = say(flows, "far", destination, six=six, **outer).sent
        believed = vtep == vteps["far"] and destination in HERE
        assert sent == ([(HERE[destination], 0)] if believed else [])


@pytest.mark.parametrize("six", [False, True], ids=["packet of IPv4", "packet of IPv6"])
@pytest.mark.parametrize("source", HERE)
def test_a_broadcast_comes_to_everybody_else_once(host, source: str, six: bool) -> None:
    flows, tunnel, vteps = host
    sent = say(flows, source, "far", six=six, eth_dst=mac_to_int("ff:ff:ff:ff:ff:ff")).sent
    taps = [(ofport, 0) for name, ofport in HERE.items() if name != source]
    away = {(tunnel, vtep) for vtep in vteps.values()}  # on a VLAN one copy
    assert sorted((port, 0 if port != tunnel else vtep) for port, vtep in sent) == sorted([*taps, *away])


@pytest.mark.parametrize("guest", ["plain", "stateful", "stateless"])
@pytest.mark.parametrize(
    ("phase", "of_a_vif", "original", "sent_on"),
    [
        (Phase.STEADY, "tap", "tap", ""),
        (Phase.REDIRECTING, "other", "back", ""),
        (Phase.INCOMING, "other", "back", "tap"),
        (Phase.ACTIVATED, "tap", "tap", "tap"),
    ],
)
def test_in_each_phase_of_a_migration_it_takes_the_way_that_the_table_says(
    guest: str, phase: Phase, of_a_vif: str, original: str, sent_on: str
) -> None:
    """docs/pipeline.md, Migrations; the other host is h3, what is said comes from h2 or from a VIF here."""
    holder, incoming = {
        Phase.STEADY: ("h1", None),
        Phase.REDIRECTING: ("h1", "h3"),
        Phase.INCOMING: ("h3", "h1"),
        Phase.ACTIVATED: ("h3", "h1"),
    }[phase]
    where = [location(one, AWAY.get(name, "h1")) for name, one in PORTS.items() if name != guest]
    where.append(location(PORTS[guest], holder, incoming=incoming))
    wanted = replace(wanted_with(where), phases={} if phase is Phase.STEADY else {PORTS[guest].uuid: phase})
    flows, bridge = compiled(wanted)
    (tunnel,) = [p.interfaces[0].ofport for p in bridge.ports if p.name.startswith("vxlan")]
    h2, h3 = (int(ip_address(f"10.0.0.{number}")) for number in (2, 3))
    ways = {"tap": [(HERE[guest], 0)], "other": [(tunnel, h3)], "back": [(IN_PORT, h3)], "": []}
    assert say(flows, "learning", guest, six=False).sent == ways[of_a_vif]
    came = {"in_port": tunnel, "tun_id": 5001}
    assert say(flows, "far", guest, six=False, **came, tun_src=h2).sent == ways[original]
    assert say(flows, "far", guest, six=False, **came, tun_src=h3).sent == ways[sent_on]
