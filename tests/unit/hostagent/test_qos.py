"""Limits of ports and shares of PNICs: made in a safe order, mended, removed, and reported where they can't be."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest

from hostagent.flow import Flow, Goto, Match, Meter
from hostagent.flows import compile_flows
from hostagent.health import host_report
from hostagent.model import (
    CONTROL_PORTS,
    ChangeFlows,
    ChangeMeters,
    Classifier,
    Desired,
    Link,
    MeterLimit,
    Observed,
    PutQos,
    Qos,
    RemoveQos,
    SetClassifier,
)
from hostagent.names import bond_port, switch_bridge, uplink_bridge
from hostagent.pipeline.tables import Table
from hostagent.plan import plan
from hostagent.qos import control_ports, filters_of
from hostagent.resolve import resolve
from netmgr.contract.types import Status, Teaming, TrafficClasses
from tests.support.hostagent_worlds import bare, desired, location, named, network, obey, plug, port, settled, switch

OSW, UPL = switch_bridge(named("s1")), uplink_bridge(("eth1",))
SHARES = TrafficClasses(tenant_percent=60, control_percent=30, management_percent=10)
P = port("p", 1)


def wanted(
    *,
    egress: int = 0,
    ingress: int = 0,
    shares: TrafficClasses = TrafficClasses(),
    teaming: Teaming = Teaming.SINGLE,
) -> Desired:
    pnics = ("eth1",) if teaming is Teaming.SINGLE else ("eth1", "eth2")
    return desired(
        switches=[replace(switch(pnics=pnics, teaming=teaming), traffic_classes=shares)],
        networks=[network()],
        ports=[replace(P, egress_kbps=egress, ingress_kbps=ingress)],
        locations=[location(P, "h1")],
        pnics=pnics,
    )


def plugged(*, mbps: int = 1000) -> Observed:
    there = bare()
    there = replace(there, links=tuple(replace(link, speed_mbps=mbps) for link in there.links))
    return plug(settled(wanted(), there), OSW, "tap0", P.vif_uuid, 7)


def qos_of(observed: Observed, name: str) -> Qos | None:
    return next(one.qos for bridge in observed.bridges for one in bridge.ports if one.name == name)


def with_classifier(there: Observed, classifier: Classifier | None, name: str = "eth1") -> Observed:
    links = (replace(link, classifier=classifier) if link.name == name else link for link in there.links)
    return replace(there, links=tuple(links))


def entrance(observed: Observed) -> Flow:
    return next(
        flow for flow in observed.flows[OSW] if flow.table == Table.CLASSIFY and Match("in_port", 7) in flow.match
    )


def test_a_meter_is_there_before_a_flow_asks_for_it_and_goes_after():
    limited = wanted(egress=5000)
    steps = plan(desired=limited, observed=plugged())
    meters = [step for step in steps if isinstance(step, ChangeMeters)]
    assert meters == [ChangeMeters(bridge=OSW, put=(MeterLimit(number=7, rate_kbps=5000, burst_kbit=600),))]
    assert steps.index(meters[0]) < next(i for i, step in enumerate(steps) if isinstance(step, ChangeFlows))
    there = settled(limited, plugged())
    assert entrance(there).actions[0] == Meter(7)
    assert isinstance(entrance(there).actions[-1], Goto)
    free = settled(wanted(), there)  # obeying fails if a meter goes while flows use it
    assert free.meters[OSW] == frozenset()
    assert entrance(free).actions[0] != Meter(7)


def test_another_rate_changes_the_meter_and_no_flow():
    there = settled(wanted(egress=5000), plugged())
    assert [type(step) for step in plan(desired=wanted(egress=80_000), observed=there)] == [ChangeMeters, ChangeFlows]
    after = settled(wanted(egress=80_000), there)
    assert after.meters[OSW] == {MeterLimit(number=7, rate_kbps=80_000, burst_kbit=8000)}
    assert after.flows == there.flows


def test_meters_of_a_restarted_switch_are_put_and_used_again():
    limited = wanted(egress=5000)
    there = settled(limited, plugged())
    restarted = replace(there, flows={OSW: frozenset()}, meters={OSW: frozenset()})
    assert settled(limited, restarted) == there


def test_meters_that_were_not_read_are_neither_used_nor_removed():
    there = replace(plugged(), meters={})
    steps = plan(desired=wanted(egress=5000), observed=there)
    assert not [step for step in steps if isinstance(step, ChangeMeters)]
    intent = resolve(wanted(egress=5000), there).switches[named("s1")]
    bridge = next(one for one in there.bridges if one.name == OSW)
    flows = compile_flows(desired=wanted(egress=5000), intent=intent, bridge=bridge)
    assert not any(Meter(7) in flow.actions for flow in flows)


def test_what_is_delivered_is_shaped_on_the_tap_and_no_more_when_the_limit_goes():
    there = settled(wanted(ingress=2000), plugged())
    assert qos_of(there, "tap0") == Qos(max_bps=2_000_000)
    assert qos_of(settled(wanted(), there), "tap0") is None


@pytest.mark.parametrize(
    ("datapath", "kbps", "queue_bytes"),
    [("system", 2000, 150_000), ("system", 1_000_000, 12_500_000), ("netdev", 1_000_000, 20_000)],
)
def test_what_is_queued_for_a_tap_is_no_more_than_a_burst(datapath, kbps, queue_bytes):
    limited = replace(wanted(ingress=kbps), datapath=datapath)
    there = plugged()
    there = settled(limited, replace(there, links=(*there.links, Link(name="tap0", carrier=True, admin_up=True))))
    tap = next(link for link in there.links if link.name == "tap0")
    assert tap.classifier == Classifier(queue_bytes=queue_bytes)
    # vswitchd has made its HTB anew
    again = with_classifier(there, Classifier(), "tap0")
    assert plan(desired=limited, observed=again) == (SetClassifier(link="tap0", filters=(), queue_bytes=queue_bytes),)
    # what has no limit of ours, or is not shaped yet, is left alone
    assert plan(desired=limited, observed=with_classifier(there, None, "tap0")) == ()
    free = settled(replace(wanted(), datapath=datapath), there)
    assert next(link for link in free.links if link.name == "tap0").classifier is None


def test_a_tap_that_somebody_else_shapes_is_left_alone_and_reported():
    there = plugged()
    theirs = Qos(max_bps=1, ours=False)
    bridges = tuple(
        replace(bridge, ports=tuple(replace(one, qos=theirs) if one.name == "tap0" else one for one in bridge.ports))
        for bridge in there.bridges
    )
    there = replace(there, bridges=bridges)
    limited = wanted(ingress=2000)
    assert not [step for step in plan(desired=limited, observed=there) if isinstance(step, PutQos)]
    report = host_report(desired=limited, observed=there, openflow_alive={OSW: True})
    assert report.switches[0].status is Status.WARNING
    assert "port p: its ingress limit of 2000 kbit/s is not in force, because tap0" in report.switches[0].reasons[0]


def test_a_pnic_is_shared_as_wanted_and_its_frames_are_sorted():
    there = settled(wanted(shares=SHARES), plugged())
    qos = qos_of(there, "eth1")
    assert qos is not None
    assert qos.max_bps == 1_000_000_000
    assert [(queue.min_bps // 10**6, queue.priority) for queue in qos.queues] == [(100, 2), (300, 1), (600, 0)]
    eth1 = next(link for link in there.links if link.name == "eth1")
    assert eth1.classifier.filters == tuple(sorted(filters_of(CONTROL_PORTS)))
    # somebody takes the filters away, as a new HTB of vswitchd's does
    shared = wanted(shares=SHARES)
    broken = with_classifier(there, Classifier())
    assert [type(step) for step in plan(desired=shared, observed=broken)] == [SetClassifier]
    # somebody takes the whole HTB away, of which vswitchd knows nothing
    broken = with_classifier(there, None)
    assert plan(desired=shared, observed=broken) == ()
    report = host_report(desired=shared, observed=broken, openflow_alive={OSW: True})
    assert any("ovs-vsctl clear port eth1 qos" in reason for reason in report.switches[0].reasons)
    free = settled(wanted(), there)
    assert qos_of(free, "eth1") is None
    assert all(link.classifier is None for link in free.links)


def test_control_ports_are_what_the_host_knows_and_else_the_defaults():
    assert control_ports(["192.0.2.1:7444"], 7445) == CONTROL_PORTS
    assert control_ports(["192.0.2.1:9444", "[2001:db8::1]:9445"], 9446) == (7443, 7445, 9444, 9445, 9446)
    assert control_ports([], 0) == CONTROL_PORTS


def test_frames_of_other_control_ports_are_sorted_anew_and_those_of_the_old_no_more():
    shared = wanted(shares=SHARES)
    there = settled(shared, plugged())
    moved = replace(shared, control_ports=(7443, 7445, 9444))
    (step,) = plan(desired=moved, observed=there)
    assert isinstance(step, SetClassifier)
    assert (step.link, step.filters) == ("eth1", filters_of((7443, 7445, 9444)))
    after = next(link.classifier for link in settled(moved, there).links if link.name == "eth1")
    ports = {value for one in after.filters for value, mask, _ in one.keys if mask == 0xFFFF}
    assert ports == {4789, 6081, 7443, 7445, 9444}


def test_a_bond_is_shared_by_the_speed_of_its_slowest_member():
    there = bare("eth1", "eth2")
    links = tuple(replace(link, speed_mbps=mbps) for link, mbps in zip(there.links, (10_000, 1000), strict=True))
    after = settled(wanted(shares=SHARES, teaming=Teaming.ACTIVE_BACKUP), replace(there, links=links))
    qos = qos_of(after, bond_port(("eth1", "eth2")))
    assert qos is not None
    assert qos.max_bps == 1_000_000_000
    sorted_ones = [link.name for link in after.links if link.classifier is not None and link.classifier.filters]
    assert sorted_ones == ["eth1", "eth2"]


@pytest.mark.parametrize("said", [0, 40])
def test_a_pnic_whose_driver_tells_no_speed_needs_the_operators_word(said):
    shares = replace(SHARES, link_mbps=said)
    there = settled(wanted(shares=shares), plugged(mbps=0))
    report = host_report(desired=wanted(shares=shares), observed=there, openflow_alive={OSW: True})
    qos = qos_of(there, "eth1")
    if said:
        assert qos is not None
        assert qos.max_bps == 40_000_000
    else:
        assert qos is None
        assert any("does not tell its speed" in reason for reason in report.switches[0].reasons)


def test_two_switches_on_one_pnic_must_agree():
    first, second = sorted((switch("s1"), switch("s2")), key=lambda one: one.uuid)
    other = replace(SHARES, tenant_percent=50)
    both = desired(
        switches=[replace(first, traffic_classes=SHARES), replace(second, traffic_classes=other)],
        vteps={"s1": "10.0.0.1/24", "s2": "10.0.1.1/24"},
    )
    there = settled(both, plugged())
    report = host_report(
        desired=both, observed=there, openflow_alive=dict.fromkeys(map(switch_bridge, both.switches), True)
    )
    reasons = {status.switch_uuid: " ".join(status.reasons) for status in report.switches}
    assert f"differ from those of switch {first.name}" in reasons[second.uuid]
    assert "traffic classes" not in reasons[first.uuid]


def test_rows_that_no_port_uses_any_more_are_removed():
    left = uuid4()
    steps = plan(desired=wanted(), observed=replace(plugged(), loose_qos=(left,)))
    assert RemoveQos(uuid=left) in steps
    assert obey(replace(plugged(), loose_qos=(left,)), [RemoveQos(uuid=left)]).loose_qos == ()
