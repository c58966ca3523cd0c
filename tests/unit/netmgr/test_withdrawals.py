"""A withdrawn network: what runs goes on, nothing new comes, and everybody is told by whom and why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netmgr import service
from netmgr.arbiter import Grant, Refusal, decide_activation, decide_claim, decide_release
from netmgr.contract.types import (
    Claim,
    ClaimIntent,
    HostReport,
    Kind,
    Location,
    NetworkStatus,
    ReleaseReason,
    Status,
    SwitchStatus,
    Withdrawal,
)
from netmgr.model import HostLive, HostRecord, NetmgrError, World
from netmgr.service.specs import NetworkSpec, SwitchSpec, WithdrawalSpec, ZoneSpec
from netmgr.service.views import network_view, span_views
from netmgr.span import objects_for
from netmgr.store import Store
from tests.support.netmgr_worlds import (
    H1,
    H2,
    H3,
    H4,
    NET_A,
    NET_B,
    PORT,
    SWITCH_A,
    VIF,
    drop,
    held,
    put,
    uid,
    world_of,
)

START, MIGRATE = ClaimIntent.START, ClaimIntent.MIGRATE_IN
SINCE = "2026-01-02T03:04:05Z"
FROM_H1 = Withdrawal(
    uuid=uid("w1"), network_uuid=NET_A.uuid, host_uuid=H1.uuid, reason="uplink flaps", by="anna", since=SINCE
)
FROM_ALL = replace(FROM_H1, uuid=uid("w*"), host_uuid=None, reason="loop", by="bert")


def claim(world: World, host: HostRecord, intent: ClaimIntent, **more: object) -> Grant | Refusal:
    asked = Claim(vif_uuid=VIF, network_uuid=NET_A.uuid, mac=PORT.mac, vm_name="vm1", intent=intent)
    return decide_claim(world, host=host.uuid, claim=replace(asked, **more), new_port_uuid=uid("new"))  # type: ignore[arg-type]


# --- the arbiter -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "intent"),
    [
        (None, START),
        (held(), START),
        (held(H2, parked=True), START),
        (held(H1, parked=True), START),
        (held(H1, parked=True), MIGRATE),
        (held(H2), MIGRATE),
        (held(H1, incoming=H2), MIGRATE),
    ],
    ids=["never-placed", "unbound", "parked-there", "parked-here", "parked-here-comes", "comes", "straight-back"],
)
def test_nothing_new_is_granted_on_a_host_that_the_network_is_withdrawn_from(
    found: Location | None, intent: ClaimIntent
) -> None:
    world = world_of(PORT, *([found] if found else []))
    assert isinstance(claim(world, H1, intent), Grant)
    put(world, FROM_H1)
    decided = claim(world, H1, intent)
    assert isinstance(decided, Refusal)
    for word in ("net-a", "host h1", "by anna", SINCE, "uplink flaps", "restore net-a --host h1", "another host"):
        assert word in decided.sentence


@pytest.mark.parametrize(
    ("found", "intent"),
    [
        (held(H1), START),
        (held(H1), MIGRATE),
        (held(H1, incoming=H2), START),
        (held(H2, incoming=H1), MIGRATE),
        (held(H2, incoming=H1), START),
        (held(H2, incoming=H1, parked=True), START),
    ],
)
def test_what_is_held_or_coming_already_is_granted_again(found: Location, intent: ClaimIntent) -> None:
    world = world_of(PORT, found)
    before = claim(world, H1, intent)
    assert isinstance(before, Grant)
    put(world, FROM_H1)
    assert claim(world, H1, intent) == before


def test_a_move_under_way_ends_as_it_would_have() -> None:
    world = world_of(PORT, held(H2, incoming=H1), FROM_H1, FROM_ALL)
    moved = decide_activation(world, host=H1.uuid, port_uuid=PORT.uuid, version=7)
    assert isinstance(moved, Location)
    assert moved.holder_host == H1.uuid
    stopped = decide_release(world, host=H1.uuid, port_uuid=PORT.uuid, version=7, why=ReleaseReason.ABORTED)
    assert isinstance(stopped, Location)
    assert stopped.incoming_host is None


def test_other_hosts_take_what_one_host_may_not() -> None:
    world = world_of(PORT, held(H1, parked=True), FROM_H1)
    assert isinstance(claim(world, H2, START), Grant)


def test_withdrawn_from_all_is_refused_on_each_and_names_no_other_host() -> None:
    world = world_of(PORT, held(), FROM_ALL)
    for host in (H1, H2, H4):
        decided = claim(world, host, START)
        assert isinstance(decided, Refusal)
        assert "from all hosts by bert" in decided.sentence
        assert "another host" not in decided.sentence


def test_no_port_is_made_for_an_unknown_vif_on_a_withdrawn_network() -> None:
    world = world_of(FROM_ALL)
    assert isinstance(claim(world, H1, START, vif_uuid=uid("new vif")), Refusal)
    drop(world, FROM_ALL)
    assert isinstance(claim(world, H1, START, vif_uuid=uid("new vif")), Grant)


# --- who is told -----------------------------------------------------------------------------------------------------


def hidden_from(world: World, host: HostRecord) -> set[object]:
    return {uuid for kind, uuid in objects_for(world, host.uuid, frozenset()) if kind is Kind.WITHDRAWAL}


def test_withdrawals_go_to_the_hosts_concerned_and_no_others() -> None:
    of_b = replace(FROM_ALL, uuid=uid("wb"), network_uuid=NET_B.uuid)
    world = world_of(FROM_H1, FROM_ALL, of_b)
    assert hidden_from(world, H1) == {FROM_H1.uuid, FROM_ALL.uuid}
    assert hidden_from(world, H2) == {FROM_ALL.uuid}
    assert hidden_from(world, H3) == {of_b.uuid}
    assert hidden_from(world, H4) == {FROM_ALL.uuid, of_b.uuid}
    drop(world, FROM_H1)
    assert hidden_from(world, H1) == {FROM_ALL.uuid}


# --- verbs -----------------------------------------------------------------------------------------------------------


def scene(store: Store) -> None:
    service.create_zone(store, ZoneSpec(name="a"))
    service.create_zone(store, ZoneSpec(name="b"))
    service.create_switch(store, SwitchSpec(name="s", zones=["a"], vtep_pool="10.200.0.0/24", mtu=1650))
    with store.transaction() as tx:
        zones = {zone.name: zone.uuid for zone in tx.world.zones.values()}
        for name, zone in (("h1", "a"), ("h2", "a"), ("h3", "b")):
            tx.put(HostRecord(uuid=uid(name), name=name, zone_uuids=(zones[zone],), pnics=("eth0",)))
    service.create_network(store, NetworkSpec(name="blue", zone="a"))


def withdraw(store: Store, host: str | None = None, reason: str = "why", by: str = "anna") -> Withdrawal:
    return service.withdraw_network(store, "blue", WithdrawalSpec(host=host, reason=reason), by=by)


def hidden(store: Store) -> dict[str | None, str]:
    """Host, or None for all → reason."""
    with store.read() as world:
        return {world.hosts[w.host_uuid].name if w.host_uuid else None: w.reason for w in world.withdrawals.values()}


def test_withdrawn_again_keeps_its_beginning_and_gets_the_newer_reason(store: Store) -> None:
    scene(store)
    first, second = withdraw(store), withdraw(store, reason="worse", by="bert")
    assert (second.uuid, second.since) == (first.uuid, first.since)
    assert (second.reason, second.by) == ("worse", "bert")
    assert hidden(store) == {None: "worse"}


def test_restored_on_one_host_stays_hidden_from_the_others(store: Store) -> None:
    scene(store)
    withdraw(store, "h1", "one")
    withdraw(store, "h2", "two")
    service.restore_network(store, "blue", host="h1")
    assert hidden(store) == {"h2": "two"}
    withdraw(store, None, "all")
    service.restore_network(store, "blue")
    assert hidden(store) == {}


@pytest.mark.parametrize(
    ("host", "reason", "words"),
    [
        ("h3", "why", "host h3 is not in its zone a"),
        ("nobody", "why", "there is no host 'nobody'"),
        (None, "  ", "needs a reason"),
        (None, "two\nlines", "one line"),
        (None, "x" * 501, "at most 500 characters"),
    ],
)
def test_withdrawal_that_can_not_be_is_refused_and_changes_nothing(
    store: Store, host: str | None, reason: str, words: str
) -> None:
    scene(store)
    with pytest.raises(NetmgrError, match=words):
        withdraw(store, host, reason)
    assert hidden(store) == {}


def test_restoration_of_what_is_not_hidden_is_refused_with_what_is(store: Store) -> None:
    scene(store)
    with pytest.raises(NetmgrError, match="not withdrawn from any host"):
        service.restore_network(store, "blue")
    withdraw(store)
    with pytest.raises(NetmgrError, match="withdrawn from all hosts by anna"):
        service.restore_network(store, "blue", host="h1")
    service.restore_network(store, "blue")
    withdraw(store, "h2")
    with pytest.raises(NetmgrError, match="not withdrawn from host h1"):
        service.restore_network(store, "blue", host="h1")


def test_withdrawals_go_with_their_network_and_their_host(store: Store) -> None:
    scene(store)
    withdraw(store, "h1", "one")
    withdraw(store, None, "all")
    service.delete_host(store, "h1")
    assert hidden(store) == {None: "all"}
    service.delete_network(store, "blue")
    assert hidden(store) == {}


# --- how it is shown -------------------------------------------------------------------------------------------------


def lives(world: World, **reports: HostReport) -> dict[object, HostLive]:
    good = HostReport(switches=(SwitchStatus(switch_uuid=SWITCH_A.uuid, status=Status.UP, health=100),))
    return {
        host.uuid: HostLive(
            host_uuid=host.uuid,
            connected=True,
            acked_revision=world.revision,
            wanted_revision=world.revision,
            report=reports.get(host.name, good),
        )
        for host in world.hosts.values()
    }


def test_state_and_withdrawals_are_shown_on_the_network_and_on_each_host() -> None:
    world = world_of()
    assert network_view(world, NET_A, lives(world))["state"] == "active"  # type: ignore[arg-type]
    put(world, FROM_H1)
    view = network_view(world, NET_A, lives(world))  # type: ignore[arg-type]
    assert view["state"] == "partly withdrawn"
    assert view["withdrawals"] == [{"host": "h1", "reason": "uplink flaps", "by": "anna", "since": SINCE}]
    assert view["status"] == "warning"
    assert any(reason.startswith("h1: network net-a is withdrawn from host h1 by anna") for reason in view["reasons"])
    span = {one["host"]: (one["status"], one["withdrawn"]) for one in span_views(world, NET_A, lives(world))}  # type: ignore[arg-type]
    assert span == {"h1": ("maintenance", True), "h2": ("up", False), "h4": ("up", False)}
    put(world, FROM_ALL)
    view = network_view(world, NET_A, lives(world))  # type: ignore[arg-type]
    assert (view["state"], view["status"], view["health"]) == ("withdrawn", "maintenance", 100)


def test_each_host_withdrawn_for_itself_is_withdrawn_altogether() -> None:
    each = [replace(FROM_H1, uuid=uid(f"w{h.name}"), host_uuid=h.uuid) for h in (H1, H2, H4)]
    world = world_of(*each)
    assert network_view(world, NET_A, lives(world))["state"] == "withdrawn"  # type: ignore[arg-type]


def test_what_a_host_says_of_a_withdrawn_network_is_not_said_twice_nor_hidden_when_worse() -> None:
    world = world_of(FROM_ALL)
    why = f"network net-a is withdrawn from all hosts by bert since {SINCE}: loop"

    def reports(status: Status, *reasons: str) -> dict[object, HostLive]:
        said = NetworkStatus(network_uuid=NET_A.uuid, status=status, health=0, reasons=reasons)
        return lives(world, h1=HostReport(networks=(said,)))

    (h1, *_) = span_views(world, NET_A, reports(Status.MAINTENANCE, why))  # type: ignore[arg-type]
    assert h1["reasons"] == [why]
    (h1, *_) = span_views(world, NET_A, reports(Status.DOWN, "no flows"))  # type: ignore[arg-type]
    assert (h1["status"], h1["reasons"]) == ("down", [why, "no flows"])
