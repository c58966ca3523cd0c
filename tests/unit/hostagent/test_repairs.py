"""Repairs: what others did to the host at rest is told once, what is newly wanted is not, and nothing is guessed."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest

from hostagent.flow import Drop, Flow, Match
from hostagent.model import (
    AddAddress,
    Bridge,
    ChangeFlows,
    ChangeMeters,
    DefineNetwork,
    Interface,
    LibvirtNetwork,
    Link,
    MeterLimit,
    Observed,
    OvsPort,
    PutBridge,
    PutNormal,
    PutPort,
    PutQos,
    Qos,
    RemovePort,
    SetArpIgnore,
    SetLink,
    Step,
)
from hostagent.repairs import Repairs, damage

NETWORK = uuid4()
TUNNEL = Interface(name="vxlan-1", type="vxlan", options={"local_ip": "10.0.0.1"})
BLUE = LibvirtNetwork(uuid=NETWORK, name="blue", bridge="osw-1", mtu=1450, ours=True, active=True, autostart=True)
METER = MeterLimit(number=5, rate_kbps=1000, burst_kbit=100)
SHAPED = Qos(max_bps=1000)


def flow(number: int, priority: int = 10) -> Flow:
    return Flow(table=0, priority=priority, cookie=1, match=(Match("in_port", number),), actions=Drop)


RESTED = Observed(
    bridges=(
        Bridge(
            name="osw-1",
            datapath_type="netdev",
            fail_mode="secure",
            external_ids={"opaque-owner": "hostagent"},
            ports=(OvsPort(name="vxlan-1", interfaces=(TUNNEL,)), OvsPort(name="tap1", qos=SHAPED)),
        ),
    ),
    links=(Link(name="upl-1", admin_up=True, addresses=("10.0.0.1/24",), arp_ignore=1),),
    libvirt_networks=(BLUE,),
    flows={"osw-1": frozenset({flow(1), flow(2)})},
    meters={"osw-1": frozenset({METER})},
)
(BRIDGE,) = RESTED.bridges  # type: ignore[misc]
DEFINE = DefineNetwork(uuid=NETWORK, name="blue", bridge="osw-1", mtu=1450)
PUT_BRIDGE = PutBridge(
    name="osw-1",
    datapath_type="netdev",
    fail_mode="secure",
    external_ids={"opaque-owner": "hostagent"},
    other_config={},
)
PUT_TUNNEL = PutPort(bridge="osw-1", name="vxlan-1", interfaces=(TUNNEL,), external_ids={})
REPLACED = Flow(table=0, priority=10, cookie=9, match=flow(1).match, actions=Drop)


def flows(*now: Flow) -> Observed:
    return replace(RESTED, flows={"osw-1": frozenset(now)})


def networks(*now: LibvirtNetwork) -> Observed:
    return replace(RESTED, libvirt_networks=now)


def ports(*now: OvsPort) -> Observed:
    return replace(RESTED, bridges=(replace(BRIDGE, ports=now),))


@pytest.mark.parametrize(
    ("step", "observed", "told"),
    [
        (DEFINE, networks(), "libvirt network blue was undefined"),
        (DEFINE, networks(replace(BLUE, active=False)), "libvirt network blue was stopped"),
        (DEFINE, networks(replace(BLUE, as_defined=False)), "libvirt network blue was edited"),
        (PUT_BRIDGE, replace(RESTED, bridges=()), "bridge osw-1 was deleted"),
        (PUT_BRIDGE, replace(RESTED, bridges=(replace(BRIDGE, fail_mode=""),)), "bridge osw-1 was changed"),
        (PUT_TUNNEL, ports(), "port vxlan-1 of bridge osw-1 was taken out"),
        (PUT_TUNNEL, ports(OvsPort(name="vxlan-1")), "port vxlan-1 of bridge osw-1 was changed"),
        (SetLink(name="upl-1"), replace(RESTED, links=()), "link upl-1 was set down"),
        (SetArpIgnore(link="upl-1", arp_ignore=1), RESTED, "link upl-1 was made to answer ARP for others"),
        (AddAddress(link="upl-1", address="10.0.0.1/24"), RESTED, "address 10.0.0.1/24 was removed from upl-1"),
        (ChangeFlows(bridge="osw-1", delete=(), add=(flow(1), flow(2))), flows(), "flows of bridge osw-1: 2 deleted"),
        (
            ChangeFlows(bridge="osw-1", delete=(flow(7),), add=(flow(1), flow(2))),
            flows(REPLACED, flow(7)),
            "flows of bridge osw-1: 1 deleted, 1 changed, 1 added",
        ),
        (
            ChangeMeters(bridge="osw-1", put=(METER,), remove=(9,)),
            RESTED,
            "meters of bridge osw-1: 1 deleted or changed, 1 added",
        ),
        (PutQos(bridge="osw-1", name="tap1", qos=SHAPED), RESTED, "shaping of port tap1 was changed"),
        (PutNormal(bridge="osw-1"), RESTED, "flows of bridge osw-1: 1 deleted"),
    ],
)
def test_what_the_host_had_at_rest_and_must_get_again_was_taken_by_somebody(
    step: Step, observed: Observed, told: str
) -> None:
    assert damage(step, rested=RESTED, observed=observed) == told


@pytest.mark.parametrize(
    "step",
    [
        replace(DEFINE, uuid=uuid4()),
        replace(DEFINE, mtu=1400),
        replace(PUT_BRIDGE, name="osw-2"),
        replace(PUT_BRIDGE, datapath_type="system"),
        replace(PUT_TUNNEL, interfaces=(replace(TUNNEL, options={"local_ip": "10.0.0.9"}),)),
        replace(PUT_TUNNEL, name="vxlan-2"),
        SetLink(name="eth7"),
        AddAddress(link="upl-1", address="10.0.0.2/24"),
        AddAddress(link="eth7", address="10.0.0.1/24"),
        PutNormal(bridge="upl-1"),
        ChangeFlows(bridge="osw-1", delete=(), add=(flow(3),)),
        ChangeFlows(bridge="osw-1", delete=(flow(1),), add=()),
        ChangeFlows(bridge="osw-2", delete=(), add=(flow(1),)),
        ChangeMeters(bridge="osw-1", put=(replace(METER, rate_kbps=5),)),
        ChangeMeters(bridge="osw-1", remove=(5,)),
        PutQos(bridge="osw-1", name="tap1", qos=None),
        RemovePort(bridge="osw-1", name="vxlan-1"),
    ],
)
def test_what_is_newly_wanted_is_put_down_to_nobody(step: Step) -> None:
    assert damage(step, rested=RESTED, observed=RESTED) == ""


def test_a_repair_is_told_once_until_the_host_is_at_rest_again() -> None:
    repairs = Repairs()
    repairs.note([DEFINE], networks(), now_unix=1)  # never at rest yet: who knows
    assert repairs.latest() == ()
    repairs.rest(RESTED)
    repairs.note([DEFINE], networks(), now_unix=2.5)
    repairs.note([DEFINE], networks(), now_unix=3.5)  # libvirt takes its time
    assert [(one.what, one.at_unix) for one in repairs.latest()] == [("libvirt network blue was undefined", 2)]
    repairs.rest(RESTED)
    repairs.note([DEFINE], networks(), now_unix=9)
    assert ([one.at_unix for one in repairs.latest()], repairs.total) == ([9, 2], 2)


def test_repairs_are_counted_by_what_was_mended_and_every_kind_is_there_from_the_start() -> None:
    repairs = Repairs()
    assert set(repairs.by_kind) >= {"libvirt network", "bridge", "flows", "meters"}
    assert repairs.by_kind.total() == 0
    for step, observed in ((DEFINE, networks()), (PutNormal(bridge="osw-1"), RESTED), (DEFINE, networks())):
        repairs.rest(RESTED)
        repairs.note([step], observed, now_unix=1)
    assert +repairs.by_kind == {"libvirt network": 2, "flows": 1}
    assert repairs.by_kind.total() == repairs.total


def test_after_a_step_of_our_own_nobody_is_accused_before_the_next_rest() -> None:
    repairs = Repairs()
    repairs.rest(RESTED)
    repairs.note([ChangeFlows(bridge="osw-1", delete=(flow(1),), add=())], RESTED, now_unix=1)
    repairs.note([ChangeFlows(bridge="osw-1", delete=(), add=(flow(1),))], flows(flow(2)), now_unix=2)
    assert repairs.latest() == ()


def test_only_the_latest_are_kept_and_all_are_counted() -> None:
    repairs = Repairs()
    for number in range(30):
        repairs.rest(RESTED)
        repairs.note([DEFINE], networks(), now_unix=number)
    assert (len(repairs.latest()), repairs.latest()[0].at_unix, repairs.total) == (20, 29, 30)
