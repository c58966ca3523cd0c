"""Who answers a neighbour solicitation: the asker's switch, or the one who is asked."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from hostagent.flow import IN_PORT, Flow, mac_to_int
from hostagent.flows import compile_flows
from hostagent.model import Desired, Observed
from hostagent.names import network_key, switch_bridge
from hostagent.pipeline.tables import Origin, Table
from hostagent.resolve import resolve
from netmgr.contract.learned import Learned, LearnedAddress, LearnedSource
from netmgr.contract.types import Allowance, LogicalPort, NestedMac
from tests.support.flow_machine import Outcome, run
from tests.support.hostagent_worlds import bare, desired, location, named, network, plug, port, settled, switch, vtep

OSW = switch_bridge(named("s1"))
ASKER, NEIGHBOUR, TAP = 9, 10, 11
V6, LINK_LOCAL = "fd00::fe", "fe80::fe"


def world(asked: LogicalPort, where: str, *more: LogicalPort) -> Desired:
    """The asker on h1, *asked* on *where*, *more* on h2."""
    asker = port("asker", 1, ips=("fd00::1",))
    return desired(
        switches=[switch()],
        networks=[network()],
        ports=[asker, asked, *more],
        locations=[location(asker, "h1"), location(asked, where), *(location(one, "h2") for one in more)],
    )


def plugged(wanted: Desired) -> Observed:
    """h1 with the taps of its ports; the neighbour is somebody who would hear what is flooded."""
    there = settled(replace(wanted, ports={}, locations={}), bare())
    for name, ofport in (("asker", ASKER), ("asked", TAP), ("neighbour", NEIGHBOUR)):
        there = plug(there, OSW, f"tap-{name}", named(f"vif {name}"), ofport)
    return there


def flows_of(wanted: Desired) -> frozenset[Flow]:
    there = plugged(wanted)
    assert isinstance(there.bridges, tuple)
    intent = resolve(wanted, there).switches[named("s1")]
    bridge = next(one for one in there.bridges if one.name == OSW)
    return frozenset(compile_flows(desired=wanted, intent=intent, bridge=bridge))


def solicited(wanted: Desired, target: str, *, src: str = "fd00::1") -> Outcome:
    frame = {
        "in_port": ASKER,
        "metadata": network_key(network().uuid),
        "reg0": Origin.VIF,
        "eth_src": mac_to_int("02:00:00:00:00:01"),
        "eth_dst": 0x3333FF0000FE,
        "eth_type": 0x86DD,
        "ipv6_src": int(ip_address(src)),
        "nw_proto": 58,
        "icmpv6_type": 135,
        "icmpv6_code": 0,
        "nd_target": int(ip_address(target)),
        "nd_sll": 0 if src == "::" else mac_to_int("02:00:00:00:00:01"),
    }
    return run(flows_of(wanted), frame, table=Table.ANSWER)


def answered(outcome: Outcome) -> bool:
    return outcome.outputs == [IN_PORT]


def asked_itself(outcome: Outcome, where: str) -> bool:
    """The frame went one way only: to the tap on h1, or to the VTEP of *where*."""
    if where == "h1":
        return outcome.outputs == [TAP]
    return [to for _, to in outcome.sent] == [int(ip_address(vtep(where)))]


@pytest.mark.parametrize("src", ["fd00::1", "::"], ids=["solicitation", "duplicate address detection"])
@pytest.mark.parametrize("datapath", ["netdev", "system"])
@pytest.mark.parametrize("where", ["h1", "h2"], ids=["on the same host", "on another host"])
@pytest.mark.parametrize("defined", [True, False], ids=["defined", "learned"])
def test_who_may_be_a_router_is_asked_itself_for_it_may_be_one_or_none(where, defined, datapath, src):
    """RFC 4861, 7.2.5: neighbours that are told it is no router forget it as their default router."""
    asked = replace(port("asked", 2, ips=(V6, LINK_LOCAL) if defined else ()), allow=(Allowance.ROUTER,))
    wanted = replace(world(asked, where, port("else", 3, ips=("fd00::3",))), datapath=datapath)
    if not defined:
        found = tuple(LearnedAddress(address=one, source=LearnedSource.ND) for one in (V6, LINK_LOCAL))
        row = Learned(port_uuid=asked.uuid, network_uuid=asked.network_uuid, addresses=found)
        wanted = replace(wanted, learned={asked.uuid: row})
    for target in (V6, LINK_LOCAL):
        assert asked_itself(solicited(wanted, target, src=src), where)


@pytest.mark.parametrize("where", ["h1", "h2"], ids=["on the same host", "on another host"])
@pytest.mark.parametrize("allow", [(), (Allowance.DHCP_SERVER,)], ids=["nothing", "another thing"])
def test_who_may_not_be_a_router_is_answered_for(where, allow):
    asked = replace(port("asked", 2, ips=(V6,)), allow=allow)
    router = replace(port("router", 3, ips=("fd00::3",)), allow=(Allowance.ROUTER,))
    assert answered(solicited(world(asked, where, router), V6))


@pytest.mark.parametrize("where", ["h1", "h2"], ids=["on the same host", "on another host"])
def test_a_mac_behind_a_router_is_asked_itself_too(where):
    nested = NestedMac(mac="02:00:00:00:00:22", ips=(V6,))
    asked = replace(port("asked", 2), nested=(nested,), allow=(Allowance.ROUTER,))
    assert asked_itself(solicited(world(asked, where), V6), where)


def test_it_costs_two_flows_a_router_with_addresses_that_are_solicited():
    def costs(*ips: str) -> int:
        far = port("asked", 2, ips=ips)
        few, more = (flows_of(world(one, "h2")) for one in (far, replace(far, allow=(Allowance.ROUTER,))))
        return len(more) - len(few)

    assert costs(V6, LINK_LOCAL) == 2
    assert costs("10.1.0.7") == costs("fd00::/64") == 0
