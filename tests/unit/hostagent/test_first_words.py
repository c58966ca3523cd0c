"""A guest is let in for ARP and IPv4 first: to them it is as if all flows were in, to all others as if none were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.first_words import FIRST, in_two, type_of
from hostagent.flow import IN_PORT, Controller, Flow, mac_to_int
from hostagent.flow_set import flow_set
from hostagent.model import ChangeFlows, Observed
from hostagent.pipeline.tables import Origin, Table
from hostagent.vifs import entered_by
from netmgr.contract.types import Allowance
from tests.support.flow_machine import Outcome, run
from tests.support.hostagent_worlds import obey, plug
from tests.unit.hostagent.test_arrivals import MINE, OSW, PEER, announced, arrived, world

OFPORT = 7
GUESTS = {
    "IPv4": MINE,
    "both": replace(MINE, ips=("10.1.0.1", "fd00::1")),
    "any address": replace(MINE, ips=()),
    "a router": replace(MINE, allow=tuple(Allowance)),
    "a router of both": replace(MINE, ips=("10.1.0.1", "fd00::1"), allow=(Allowance.ROUTER,)),
}


@cache
def let_in(guest: str) -> tuple[Observed, ChangeFlows, ChangeFlows, ChangeFlows]:
    """The host before the flows of *guest*, all of them, and the two parts."""
    port = GUESTS[guest]
    wanted = world((port, "h1"), (PEER, "h2"))
    assert port.vif_uuid is not None
    here = plug(announced(wanted), OSW, "tap0", port.vif_uuid, OFPORT)
    (change,) = arrived(wanted, here, port)
    parts = in_two(change, port.ips)
    assert parts is not None
    return (here, change, *parts)


@cache
def flows_after(guest: str, *, whole: bool) -> frozenset[Flow]:
    here, change, first, _ = let_in(guest)
    return frozenset(obey(here, [change if whole else first]).flows[OSW])  # type: ignore[arg-type]


def said(guest: str, frame: Mapping[str, int], *, whole: bool) -> Outcome:
    return run(flows_after(guest, whole=whole), frame, table=Table.CLASSIFY)


macs = st.sampled_from([mac_to_int(MINE.mac), mac_to_int(PEER.mac), 0xFFFFFFFFFFFF, 0x52540000FFFF, 0])
_ADDRESSES = ("10.1.0.1", "10.1.0.2", "10.1.0.9", "0.0.0.0", "255.255.255.255")
addresses = st.sampled_from([int(ip_address(one)) for one in _ADDRESSES])
ports = st.sampled_from([67, 68, 53, 4000])
common = {
    "in_port": st.just(OFPORT),
    "eth_src": st.sampled_from([mac_to_int(MINE.mac)] * 3 + [mac_to_int(PEER.mac), 0x52540000FFFF]),
    "eth_dst": macs,
    "vlan_tci": st.sampled_from([0, 0, 0, 0x1005]),
}
arp = {
    "eth_type": st.just(0x0806),
    "arp_op": st.integers(1, 4),
    "arp_spa": addresses,
    "arp_tpa": addresses,
    "arp_sha": macs,
    "arp_tha": macs,
}
ipv4 = {
    "eth_type": st.just(0x0800),
    "nw_src": addresses,
    "nw_dst": addresses,
    "nw_proto": st.sampled_from([1, 6, 17, 41, 47, 132]),
    "ip_frag": st.sampled_from([0, 0, 1, 3]),
    **dict.fromkeys(("udp_src", "udp_dst", "tcp_src", "tcp_dst"), ports),
}
others = {"eth_type": st.sampled_from([0x86DD, 0x8035, 0x88CC, 0x8100, 0x05FF, 0x8847])}
ipv6 = {
    "ipv6_src": st.sampled_from([0, int(ip_address("fd00::1")), int(ip_address("fe80::1"))]),
    "nw_proto": st.just(58),
    "icmpv6_type": st.sampled_from([128, 133, 134, 135, 136, 143]),
    "icmpv6_code": st.just(0),
}


def met(outcome: Outcome) -> tuple[Any, ...]:
    """All that is to be seen of a frame: a drop that is counted is one that isn't."""
    ended = outcome.ended if outcome.ended is None or outcome.ended.table != Table.DROPPED else None
    return outcome.sent, outcome.copied, ended


@pytest.mark.parametrize("guest", GUESTS)
@settings(max_examples=150, deadline=None)
@given(frame=st.one_of(st.fixed_dictionaries({**common, **arp}), st.fixed_dictionaries({**common, **ipv4})))
def test_to_arp_and_ipv4_it_is_as_if_all_flows_were_in(guest: str, frame: dict[str, int]) -> None:
    assert met(said(guest, frame, whole=False)) == met(said(guest, frame, whole=True))


@pytest.mark.parametrize("guest", GUESTS)
@settings(max_examples=100, deadline=None)
@given(frame=st.fixed_dictionaries({**common, **others, **ipv6}))
def test_any_other_frame_of_the_port_is_held(guest: str, frame: dict[str, int]) -> None:
    seen = said(guest, frame, whole=False)
    assert seen.sent == []
    if frame["eth_src"] == mac_to_int(MINE.mac):
        assert [flow.actions for flow in seen.copied] == [(Controller(0xFFFF),)]
    else:
        assert seen.copied == []


def test_the_frames_of_these_tests_do_pass() -> None:
    """So that they say something."""
    known = {"in_port": OFPORT, "eth_src": mac_to_int(MINE.mac), "eth_dst": mac_to_int(PEER.mac), "vlan_tci": 0}
    four = {
        **known,
        "eth_type": 0x0800,
        "nw_src": int(ip_address("10.1.0.1")),
        "nw_dst": 1,
        "nw_proto": 17,
        "ip_frag": 0,
    }
    assert len(said("IPv4", four, whole=False).sent) == 1
    six = {**known, "eth_type": 0x86DD, "ipv6_src": int(ip_address("fd00::1")), "nw_proto": 17, "ip_frag": 0}
    assert len(said("both", six, whole=True).sent) == 1


def test_a_neighbour_is_not_told_meanwhile_that_a_router_is_none() -> None:
    solicitation = {
        "in_port": OFPORT + 1,
        "metadata": next(flow.cookie for flow in let_in("a router of both")[1].add),
        "reg0": Origin.VIF,
        "eth_dst": 0x3333FF000001,
        "eth_type": 0x86DD,
        "ipv6_src": int(ip_address("fd00::9")),
        "nw_proto": 58,
        "icmpv6_type": 135,
        "icmpv6_code": 0,
        "nd_target": int(ip_address("fd00::1")),
        "nd_sll": mac_to_int(PEER.mac),
    }
    meanwhile, after = (
        run(flows_after("a router of both", whole=whole), solicitation, table=Table.ANSWER) for whole in (False, True)
    )
    assert IN_PORT not in meanwhile.outputs
    assert after.outputs == [OFPORT], "it is asked itself"


@pytest.mark.parametrize("guest", GUESTS)
def test_both_parts_together_are_all_of_it(guest: str) -> None:
    here, change, first, rest = let_in(guest)
    assert obey(obey(here, [first]), [rest]).flows[OSW] == obey(here, [change]).flows[OSW]
    assert len(first.add) < len(change.add) / 2


@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize("eth_type", [0x0800, 0x0806, 0x86DD])
def test_what_others_send_to_it_is_delivered(guest: str, eth_type: int) -> None:
    _, change, *_ = let_in(guest)
    (network,) = {flow.cookie for flow in change.add if flow.table == Table.FORWARD}
    sent = {"metadata": network, "eth_dst": mac_to_int(MINE.mac), "eth_type": eth_type}
    for whole in (False, True):
        assert [where for where, _ in run(flows_after(guest, whole=whole), sent, table=Table.FORWARD).sent] == [OFPORT]


def test_who_speaks_ipv6_only_is_let_in_at_once() -> None:
    _, change, *_ = let_in("both")
    assert in_two(change, ("fd00::1", "fd00::2")) is None


def test_a_change_that_lets_nobody_in_or_does_more_is_made_in_one() -> None:
    _, change, first, rest = let_in("IPv4")
    assert in_two(rest, MINE.ips) is None, "it deletes"
    assert in_two(first, MINE.ips) is None, "it is the first part already"
    assert in_two(replace(change, add=tuple(one for one in change.add if one.table != Table.CLASSIFY)), ()) is None
    entry = next(one for one in change.add if one.table == Table.CLASSIFY)
    assert in_two(replace(change, add=(*change.add, replace(entry, priority=99))), MINE.ips) is None, "two ports"


def test_what_a_port_is_entered_by_is_read_from_its_flows() -> None:
    here, change, first, rest = let_in("IPv4")
    assert entered_by(first.add) == {OFPORT: FIRST}
    assert entered_by(rest.add) == entered_by(change.add) == entered_by((*first.add, *rest.add)) == {OFPORT: None}
    assert entered_by((*rest.add, *first.add)) == {OFPORT: None}
    assert OFPORT not in entered_by(flow_set(here.flows[OSW]))  # type: ignore[arg-type]


def test_the_type_of_a_frame() -> None:
    assert type_of(bytes(12) + b"\x08\x06" + bytes(46)) == 0x0806
    assert type_of(b"short") == 0
