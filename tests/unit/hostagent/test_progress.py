"""Failures pause longer each time, do not hide changed steps, and name the object they concern."""

from __future__ import annotations

from uuid import uuid4

from hostagent.model import AddAddress, DefineNetwork, Desired, PutBridge
from hostagent.names import switch_bridge
from hostagent.progress import Failures, failed_objects
from netmgr.contract.types import Kind, OpaqueNetwork, OpaqueSwitch, Ref

SWITCH, NETWORK, PORT = uuid4(), uuid4(), uuid4()
DEFINE = DefineNetwork(uuid=NETWORK, name="blue", bridge="osw-1", mtu=1450)
ADDRESS = AddAddress(link="upl-1", address="10.0.0.1/24")


def test_a_failed_step_is_ready_again_only_after_its_pause_and_pauses_grow() -> None:
    failures = Failures()
    now, pauses = 0.0, []
    for _ in range(8):
        assert failures.ready([DEFINE, ADDRESS], now=now) == [DEFINE, ADDRESS]
        failures.note([DEFINE, ADDRESS], [(DEFINE, "no")], now=now)
        assert failures.ready([DEFINE, ADDRESS], now=now) == [ADDRESS]
        pause = failures.next_retry(now=now)
        assert pause is not None
        pauses.append(pause)
        now += pause
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.5, 15.0)


def test_success_and_disappearance_from_the_plan_are_forgotten() -> None:
    failures = Failures()
    failures.note([DEFINE, ADDRESS], [(DEFINE, "no"), (ADDRESS, "neither")], now=0)
    failures.note([ADDRESS], [], now=1)
    assert failures.sentences() == ("no",)
    failures.keep_only([ADDRESS])
    assert failures.sentences() == ()
    assert failures.next_retry(now=1) is None


def test_a_step_that_changed_is_not_held_back() -> None:
    failures = Failures()
    failures.note([DEFINE], [(DEFINE, "no")], now=0)
    changed = DefineNetwork(uuid=NETWORK, name="blue", bridge="osw-1", mtu=9000)
    assert failures.ready([changed], now=0) == [changed]
    assert not failures.failed(changed)


def test_rejections_name_the_network_the_switch_or_all_switches() -> None:
    network = OpaqueNetwork(uuid=NETWORK, name="blue", zone_uuid=uuid4(), switch_uuid=SWITCH, segment_id=1)
    switch = OpaqueSwitch(uuid=SWITCH, name="s", zone_uuids=(), vtep_pool="10.0.0.0/24")
    desired = Desired(networks={NETWORK: network}, switches={SWITCH: switch})
    put = PutBridge(
        name=switch_bridge(SWITCH), datapath_type="netdev", fail_mode="secure", external_ids={}, other_config={}
    )

    def refused(*failures: tuple[object, str]) -> dict[Ref, str]:
        return dict(failed_objects(desired=desired, failures=failures, refused_locations={PORT: "old"}))  # type: ignore[arg-type]

    old = {Ref(kind=Kind.LOCATION, uuid=PORT): "old"}
    assert refused((DEFINE, "taken")) == {**old, Ref(kind=Kind.NETWORK, uuid=NETWORK): "taken"}
    assert refused((put, "no")) == {**old, Ref(kind=Kind.SWITCH, uuid=SWITCH): "no"}
    assert refused((ADDRESS, "used")) == {**old, Ref(kind=Kind.SWITCH, uuid=SWITCH): "used"}
