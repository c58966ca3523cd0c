"""From counters to drops: every way to end is named, and only ways to end are."""

from __future__ import annotations

import pytest

from hostagent.flow import Flow, Goto, Meter, SetField, match
from hostagent.pipeline.drops import Counted, Drop, drops_of, reason_of
from hostagent.pipeline.guard import guard_flows
from hostagent.pipeline.learn import rival_flows
from hostagent.pipeline.policy import Policy, port_policy_flows
from hostagent.pipeline.tables import REASON, SWITCH_COOKIE, Denied, Table, family_of, switch_flows

PORT = guard_flows(ofport=7, mac="02:00:00:00:00:01", ips=("10.0.0.1",), cookie=5)


def test_each_reason_is_counted_at_each_port_with_its_own_words():
    policy = port_policy_flows(ofport=7, policy=Policy((1,), 40960), network=5)
    words = [reason_of(flow) for flow in (*PORT, *policy) if flow.table == Table.DROPPED]
    assert len(words) == len(set(words)) == len(Denied)
    assert all(words)


@pytest.mark.parametrize("ips", [(), ("10.0.0.1",)])
def test_every_reason_that_a_flow_gives_is_counted_at_the_port(ips):
    given = set()
    for flow in switch_flows(family_of("10.0.0.1")):
        if {Goto(Table.DROPPED), Goto(Table.RIVAL)} & {*flow.actions}:
            fields = [one for one in flow.actions if isinstance(one, SetField) and one.field == REASON]
            given |= {one.value for one in fields[-1:]}  # RIVAL goes on with the reason that it got
    flows = guard_flows(ofport=7, mac="02:00:00:00:00:01", ips=ips, cookie=5)
    counted = {
        item.value for flow in flows if flow.table == Table.DROPPED for item in flow.match if item.field != "in_port"
    }
    assert counted == given


def test_drops_are_summed_by_port_and_reason_and_what_forwards_is_none():
    tagged = next(flow for flow in PORT if reason_of(flow) == "VLAN tag")
    spoofed = next(flow for flow in PORT if reason_of(flow).startswith("source MAC is not"))
    lying_host = Flow(table=Table.TUNNEL, priority=0, cookie=SWITCH_COOKIE)
    forwards = Flow(table=Table.GUARD, priority=1, cookie=5, match=match(in_port=7), actions=(Goto(Table.SIGNAL),))
    counted = [Counted(tagged, 2, 120), Counted(spoofed, 9, 1), Counted(lying_host, 4, 1), Counted(forwards, 99, 1)]
    assert drops_of(counted) == (
        Drop(0, 0, "source MAC does not live at the VTEP it came from", 4),
        Drop(7, 5, "source MAC is not the port's", 9),
        Drop(7, 5, "VLAN tag", 2),
    )


def test_what_a_meter_drops_is_its_ports_and_of_the_network_whose_flow_uses_it():
    enters = [
        Flow(table=Table.CLASSIFY, priority=100, cookie=cookie, match=match(in_port=tap), actions=(Meter(tap),))
        for tap, cookie in ((7, 5), (8, 6))
    ]
    assert drops_of([Counted(flow, 99, 1) for flow in enters], {7: 3, 8: 0, 9: 2}) == (
        Drop(7, 5, "rate limit, out of the guest", 3),
        Drop(9, 0, "rate limit, out of the guest", 2),  # its flow has gone meanwhile
    )


def test_what_a_subroutine_does_nothing_about_is_no_drop():
    hushed = rival_flows(ofport=7, mac=1, hushed=True, network=5)
    asked = [flow for flow in (*PORT, *hushed) if flow.table in (Table.MADE, Table.CONTEST)]
    assert {flow.table for flow in asked} == {Table.MADE, Table.CONTEST}
    assert drops_of(Counted(flow, 9, 9) for flow in asked) == ()


def test_what_has_not_happened_is_not_reported():
    assert drops_of(Counted(flow, 0, 0) for flow in PORT) == ()


def test_a_strangers_drop_has_a_reason_too():
    strange = Flow(table=99, priority=1, cookie=1)
    assert drops_of([Counted(strange, 1, 1)]) == (Drop(0, 1, "table 99", 1),)
