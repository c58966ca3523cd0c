"""What a guest says before it is lit: kept in order, given back once, bounded, and never another's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hostagent.fastpath import arrival_basis
from hostagent.flow import Controller, Match, mac_to_int
from hostagent.flows import compile_flows
from hostagent.held import Held
from hostagent.learning import HUSH_S
from hostagent.model import Desired, Observed
from hostagent.pipeline.tables import HELD_MAX, Table
from hostagent.resolve import resolve
from tests.support.hostagent_worlds import named, plug, port, settled
from tests.unit.hostagent.test_arrivals import GRANTED, MINE, OSW, PEER, announced, arrived, world

BRIDGE, OTHER = "osw-1", "osw-2"


def held_macs(wanted: Desired, observed: Observed) -> set[int]:
    (intent,) = resolve(wanted, observed).switches.values()
    (bridge,) = (one for one in observed.bridges if one.name == OSW)
    flows = compile_flows(desired=wanted, intent=intent, bridge=bridge, remember=False)
    first = [flow for flow in flows if flow.table == Table.CLASSIFY and len(flow.actions) == 1]
    return {
        item.value
        for flow in first
        if isinstance(flow.actions[0], Controller)
        for item in flow.match
        if isinstance(item, Match)
    }


def test_frames_are_held_for_a_port_of_this_host_until_its_tap_is_there():
    assert held_macs(GRANTED, announced()) == {mac_to_int(MINE.mac)}
    assert held_macs(GRANTED, plug(announced(), OSW, "tap0", MINE.vif_uuid, 7)) == set()


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(world((MINE, None), (PEER, "h2")), id="held by nobody"),
        pytest.param(world((MINE, "h2"), (PEER, "h2")), id="held elsewhere"),
        pytest.param(world((replace(MINE, admin_up=False), "h1"), (PEER, "h2")), id="set down"),
        pytest.param(replace(GRANTED, hushed=frozenset({named("s1")})), id="hushed"),
    ],
)
def test_nothing_is_held_for_a_port_that_would_stay_dark(wanted: Desired):
    assert held_macs(wanted, announced(wanted)) == set()


def test_nothing_is_held_where_too_many_are_awaited():
    many = [(port(f"vm{number}", number + 10), "h1") for number in range(HELD_MAX + 1)]
    wanted = world(*many)
    assert held_macs(wanted, settled(wanted, announced())) == set()
    assert len(held_macs(world(*many[:-1]), announced())) == HELD_MAX


def test_what_was_said_first_is_given_back_first_and_once():
    held = Held()
    assert not any(held.frame(BRIDGE, 7, bytes([number]), now=number / 1000) for number in range(50))
    assert held.take(BRIDGE, 7, now=0.3) == tuple(bytes([number]) for number in range(32))
    assert held.take(BRIDGE, 7, now=0.3) == ()
    assert held.lit(BRIDGE, 7, now=0.4) == ()


def test_what_came_back_too_early_is_given_again_when_the_flows_are_in():
    held = Held()
    held.frame(BRIDGE, 7, b"a", now=0)
    assert held.take(BRIDGE, 7, now=0.1) == (b"a",)
    assert not held.frame(BRIDGE, 7, b"a", now=0.1)
    assert held.lit(BRIDGE, 7, now=0.2) == (b"a",)


def test_of_a_lit_port_frames_go_back_at_once_but_not_without_end():
    held = Held()
    held.lit(BRIDGE, 7, now=0)
    assert sum(held.frame(BRIDGE, 7, b"a", now=0.01) for _ in range(500)) == 64
    held.lit(BRIDGE, 8, now=0)
    assert not held.frame(BRIDGE, 8, b"a", now=0.06)


@pytest.mark.parametrize("end", ["late", "number given anew", "switch lost"])
def test_nothing_is_given_to_a_port_that_another_may_have_said(end: str):
    held = Held()
    held.frame(BRIDGE, 7, b"a", now=0)
    held.frame(OTHER, 7, b"b", now=0.9)
    if end == "number given anew":
        held.forget(BRIDGE, 7)
    elif end == "switch lost":
        held.forget(BRIDGE)
    assert held.lit(BRIDGE, 7, now=1.1 if end == "late" else 0.9) == ()
    assert held.lit(OTHER, 7, now=1.1) == (b"b",)


def test_of_a_port_that_is_lit_for_some_types_the_others_are_kept_until_it_is_lit_for_all():
    held = Held()
    four, six, more = (bytes(12) + kind + bytes(46) for kind in (b"\x08\x00", b"\x86\xdd", b"\x88\xcc"))
    for frame in (six, four, more):
        held.frame(BRIDGE, 7, frame, now=0)
    assert held.lit(BRIDGE, 7, now=0.1, types=frozenset({0x0800})) == (four,)
    assert held.frame(BRIDGE, 7, four, now=0.1), "at once"
    assert not held.frame(BRIDGE, 7, six + b"2", now=0.1)
    assert held.lit(BRIDGE, 7, now=0.11, types=frozenset({0x0800})) == (), "confirmed"
    assert held.lit(BRIDGE, 7, now=0.12) == (six, more, six + b"2")
    assert held.frame(BRIDGE, 7, six, now=0.12), "at once"


def test_of_many_ports_the_newest_are_held():
    held = Held()
    for number in range(100):
        held.frame(BRIDGE, number, b"a", now=0)
    for number in range(100, 163):
        held.lit(BRIDGE, number, now=0)
    assert held.take(BRIDGE, 98, now=0) == ()
    assert held.take(BRIDGE, 99, now=0) == (b"a",)


def test_a_number_given_anew_leaves_the_others():
    held = Held()
    held.frame(BRIDGE, 7, b"a", now=0)
    held.forget(BRIDGE, 8)
    assert held.lit(BRIDGE, 7, now=0) == (b"a",)


def test_a_guest_that_stays_dark_and_says_too_much_is_not_listened_to_for_a_while():
    held = Held()
    for number in range(1001):
        held.frame(BRIDGE, number % 100, b"a", now=number / 10_000)
    assert held.hushed(now=1) == {BRIDGE}
    assert held.hushed(now=HUSH_S + 1) == frozenset()


def test_a_guest_that_says_a_little_is_listened_to_for_ever():
    held = Held()
    for number in range(5000):
        held.frame(BRIDGE, 7, b"a", now=number / 100)
    assert held.hushed(now=50) == frozenset()


# --- compiled beforehand ---------------------------------------------------------------------------------------------


def test_what_was_compiled_for_a_guess_is_what_is_needed_when_it_comes_true():
    thought = plug(announced(), OSW, "?", MINE.vif_uuid, 7)
    came = plug(announced(), OSW, "tap0", MINE.vif_uuid, 7)
    thought, came = (replace(one, flows=announced().flows) for one in (thought, came))
    assert arrival_basis(MINE.uuid, desired=GRANTED, observed=thought) == arrival_basis(
        MINE.uuid, desired=GRANTED, observed=came
    )
    assert {change.add for change in arrived(GRANTED, thought, MINE)} == {
        change.add for change in arrived(GRANTED, came, MINE)
    }


def test_a_version_of_the_location_does_not_make_another_port_of_it():
    later = replace(GRANTED.locations[MINE.uuid], version=99)
    granted = replace(GRANTED, locations={**GRANTED.locations, MINE.uuid: later})
    here = plug(announced(), OSW, "tap0", MINE.vif_uuid, 7)
    assert arrival_basis(MINE.uuid, desired=granted, observed=here) == arrival_basis(
        MINE.uuid, desired=GRANTED, observed=here
    )


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: (GRANTED, plug(announced(), OSW, "tap0", MINE.vif_uuid, 8)), id="another number"),
        pytest.param(
            lambda: (
                GRANTED,
                plug(plug(announced(), OSW, "tap0", MINE.vif_uuid, 7), OSW, "tap1", MINE.vif_uuid, 8),
            ),
            id="plugged twice",
        ),
        pytest.param(
            lambda: (
                world((replace(MINE, ips=("10.1.0.9",)), "h1"), (PEER, "h2")),
                plug(announced(), OSW, "tap0", MINE.vif_uuid, 7),
            ),
            id="another address",
        ),
        pytest.param(
            lambda: (world((MINE, None), (PEER, "h2")), plug(announced(), OSW, "tap0", MINE.vif_uuid, 7)),
            id="not granted",
        ),
        pytest.param(
            lambda: (replace(GRANTED, alone=True), plug(announced(), OSW, "tap0", MINE.vif_uuid, 7)), id="alone"
        ),
    ],
)
def test_anything_else_than_was_thought_is_compiled_anew(other):
    thought = arrival_basis(MINE.uuid, desired=GRANTED, observed=plug(announced(), OSW, "?", MINE.vif_uuid, 7))
    wanted, observed = other()
    assert arrival_basis(MINE.uuid, desired=wanted, observed=observed) != thought
