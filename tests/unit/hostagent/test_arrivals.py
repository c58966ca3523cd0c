"""What is sent ahead of the loop for a VIF that comes, or a port that got a place: all that it needs, no more."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest

from hostagent.early_ofports import EarlyOfports
from hostagent.fastpath import arrival_flows
from hostagent.flow import Match, Output, mac_to_int
from hostagent.model import Bridge, ChangeFlows, Desired, Interface, Observed, OvsPort
from hostagent.names import network_key, switch_bridge
from hostagent.pipeline.tables import Table, hold_flow
from hostagent.plan import plan
from netmgr.contract.types import LogicalPort
from tests.support.hostagent_worlds import bare, desired, location, named, network, obey, plug, port, settled, switch

OSW = switch_bridge(named("s1"))
OF_ALL = {Table.FLOOD, Table.LEASES}
MINE, PEER = port("mine", 1, ips=("10.1.0.1",)), port("peer", 2, ips=("10.1.0.2",))


def world(*ports: tuple[LogicalPort, str | None]) -> Desired:
    return desired(
        switches=[switch()],
        networks=[network()],
        ports=[one for one, _ in ports],
        locations=[location(one, holder) for one, holder in ports],
    )


GRANTED = world((MINE, "h1"), (PEER, "h2"))


def announced(wanted: Desired = GRANTED) -> Observed:
    return settled(wanted, bare())


def arrived(wanted: Desired, observed: Observed, *ports: LogicalPort, trunks=()) -> tuple[ChangeFlows, ...]:
    return arrival_flows([one.uuid for one in ports], trunks=trunks, desired=wanted, observed=observed)


def test_what_the_loop_finds_after_a_tap_has_come_is_what_concerns_all_ports():
    here = plug(announced(), OSW, "tap0", MINE.vif_uuid, 7)
    (change,) = arrived(GRANTED, here, MINE)
    assert not change.delete
    assert any(flow.table == Table.CLASSIFY and Match("in_port", 7) in flow.match for flow in change.add)
    left = [step for step in plan(desired=GRANTED, observed=obey(here, [change])) if isinstance(step, ChangeFlows)]
    assert left, "the network's flood flow has the tap"
    assert [flow for step in left for flow in step.delete if flow.table == Table.CLASSIFY] == [
        hold_flow(mac_to_int(MINE.mac))
    ], "nothing is held any more"
    others = {flow.table for step in left for flow in step.delete} - {Table.CLASSIFY}
    assert {flow.table for step in left for flow in step.add} | others <= OF_ALL


def test_a_port_that_got_a_place_elsewhere_is_reached_there():
    before = announced(world((MINE, None), (PEER, None)))
    after = world((MINE, None), (PEER, "h2"))
    (change,) = arrived(after, before, PEER)
    left = [step for step in plan(desired=after, observed=obey(before, [change])) if isinstance(step, ChangeFlows)]
    assert {flow.table for step in left for flow in (*step.add, *step.delete)} <= OF_ALL


def test_nothing_is_lacking_twice():
    here = plug(announced(), OSW, "tap0", MINE.vif_uuid, 7)
    assert arrived(GRANTED, obey(here, arrived(GRANTED, here, MINE)), MINE, PEER) == ()


@pytest.mark.parametrize(
    "port_of",
    [
        pytest.param(lambda: (MINE, None), id="held by nobody"),
        pytest.param(lambda: (MINE, "h2"), id="held elsewhere"),
        pytest.param(lambda: (replace(MINE, admin_up=False), "h1"), id="set down"),
        pytest.param(lambda: (replace(MINE, security_groups=(uuid4(),)), "h1"), id="with groups"),
        pytest.param(lambda: (replace(MINE, shadow_of=PEER.uuid), "h1"), id="a shadow"),
    ],
)
def test_a_port_that_may_not_speak_here_is_not_let_in(port_of):
    one, holder = port_of()
    wanted = world((one, holder), (PEER, "h2"))
    here = plug(announced(wanted), OSW, "tap0", one.vif_uuid, 7)
    assert not any(Match("in_port", 7) in flow.match for change in arrived(wanted, here, one) for flow in change.add)


def test_a_port_that_is_parked_or_coming_is_the_loops():
    for where in (location(MINE, "h1", parked=True), location(MINE, "h2", incoming="h1")):
        wanted = replace(GRANTED, locations={**GRANTED.locations, MINE.uuid: where})
        here = plug(announced(wanted), OSW, "tap0", MINE.vif_uuid, 7)
        found = arrived(wanted, here, MINE)
        assert not any(Match("in_port", 7) in flow.match for change in found for flow in change.add)


def test_of_two_taps_with_one_vif_none_is_let_in_ahead():
    here = plug(plug(announced(), OSW, "tap0", MINE.vif_uuid, 7), OSW, "tap1", MINE.vif_uuid, 8)
    assert arrived(GRANTED, here, MINE) == ()


def test_a_vif_whose_port_is_made_anew_on_another_network_leaves_the_old_one_in_the_bundle_that_lights_it():
    """What its tap might hear and say there must not stand beside what it may here, not for a moment."""
    both = replace(GRANTED, networks={one.uuid: one for one in (network(), network("n2", segment=5002))})
    here = settled(both, plug(announced(both), OSW, "tap0", MINE.vif_uuid, 7))
    anew = replace(port("anew", 1, on="n2"), vif_uuid=MINE.vif_uuid)
    neighbour = port("neighbour", 3, on="n2")  # the network has its ways in already
    ports = {one.uuid: one for one in (anew, neighbour, PEER)}
    places = {one.uuid: location(one, where) for one, where in ((anew, None), (neighbour, "h2"), (PEER, "h2"))}
    waiting = replace(both, ports={**ports, MINE.uuid: MINE}, locations={**GRANTED.locations, **places})
    here = settled(waiting, here)
    wanted = replace(both, ports=ports, locations={**places, anew.uuid: location(anew, "h1")})
    assert arrived(wanted, here, anew) == ()
    changes = [step for step in plan(desired=wanted, observed=here) if isinstance(step, ChangeFlows)]
    lighting = [one for one in changes if any(Match("in_port", 7) in flow.match for flow in one.add)]
    old = network_key(MINE.network_uuid)
    left = {flow for flow in obey(here, lighting).flows[OSW] if flow.cookie == old}
    assert not [flow for flow in left if Match("in_port", 7) in flow.match or Output(7) in flow.actions]
    assert arrived(wanted, settled(replace(wanted, ports=ports, locations=places), here), anew) != ()


def test_a_parent_of_subports_and_a_network_that_is_not_realized_are_the_loops():
    here = plug(announced(), OSW, "tap0", MINE.vif_uuid, 7)
    assert arrived(GRANTED, here, MINE, trunks=[MINE.uuid]) == ()
    bare_bridge = plug(
        settled(replace(GRANTED, networks={}, ports={}, locations={}), bare()), OSW, "t", MINE.vif_uuid, 7
    )
    assert arrived(GRANTED, bare_bridge, MINE) == ()


def test_what_a_port_without_defined_addresses_used_before_is_left_to_the_loop():
    """It may be another port's by now: only a look at all of them tells."""
    free = replace(MINE, ips=())
    wanted = world((free, "h1"), (PEER, "h2"))
    here = plug(announced(wanted), OSW, "tap0", free.vif_uuid, 7)
    (change,) = arrived(wanted, here, free)
    assert Table.BINDING not in {flow.table for flow in change.add}


# --- numbers that the switch has told --------------------------------------------------------------------------------


def tap(ofport: int | None, name: str = "tap0", error: str = "") -> tuple[Bridge, ...]:
    row = Interface(name=name, ofport=ofport, error=error, external_ids={"iface-id": str(named("vif"))})
    return (Bridge(name=OSW, ports=(OvsPort(name=name, interfaces=(row,)),)),)


def number(bridges) -> int | None:
    return bridges[0].ports[0].interfaces[0].ofport


def test_a_number_that_the_switch_told_is_used_until_ovsdb_has_its_own():
    early = EarlyOfports()
    early.told(OSW, "tap0", 7, now=0)
    rows = tap(None)
    filled = early.put_into(rows, now=1)
    assert number(filled) == 7
    assert early.put_into(rows, now=2) is filled
    assert number(early.put_into(tap(8), now=3)) == 8
    assert number(early.put_into(tap(None), now=4)) is None, "plugged again: the number was the earlier plug's"


def test_the_next_number_is_guessed_for_a_vif_that_has_none():
    early, vif = EarlyOfports(), named("vif")
    bare_bridge = (Bridge(name=OSW),)
    assert early.with_guess(bare_bridge, OSW, vif) == bare_bridge, "nothing is known of how the switch counts"
    early.told(OSW, "tap9", 7, now=0)
    assert number(early.with_guess(bare_bridge, OSW, vif)) == 8
    assert number(early.with_guess(tap(None), OSW, vif)) == 8
    assert early.with_guess(tap(3), OSW, vif) == tap(3)
    assert early.with_guess(tap(-1), OSW, vif) == tap(-1)
    assert early.with_guess(bare_bridge, "other", vif) == bare_bridge


@pytest.mark.parametrize("end", ["told gone", "switch lost", "row gone", "error", "late"])
def test_a_number_does_not_outlive_what_it_was_given_to(end):
    early = EarlyOfports()
    early.told(OSW, "tap0", 7, now=0)
    if end == "told gone":
        early.told(OSW, "tap0", 0, now=1)
    elif end == "switch lost":
        early.lost(OSW)
    elif end == "row gone":
        early.put_into(tap(None), now=1)
        early.put_into((Bridge(name=OSW),), now=2)
    elif end == "error":
        assert number(early.put_into(tap(None, error="no such device"), now=1)) is None
    assert number(early.put_into(tap(None), now=9 if end == "late" else 3)) is None
