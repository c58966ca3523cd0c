"""Sets of flows that are made from others: they hold what a set would, and share what is equal."""

from __future__ import annotations

import gc
import random
from weakref import ref

import pytest

from hostagent import flow_set as module
from hostagent.flow import Drop, Flow, Goto, match
from hostagent.flow_set import FlowSet, flow_set, of_a_set


def flow(number: int, *, table: int = 50, cookie: int = 7, goto: int = 60) -> Flow:
    actions = (Goto(goto),) if goto else Drop
    return Flow(table=table, priority=100, cookie=cookie, match=match(metadata=cookie, reg5=number), actions=actions)


def test_it_holds_what_a_set_would() -> None:
    flows = {flow(number, table=50 + number % 3, cookie=number % 2) for number in range(500)}
    found = FlowSet(flows)
    assert found == flows
    assert flows == set(found)
    assert len(found) == 500
    assert flow(3, table=50, cookie=1) in found
    assert flow(3, table=51, cookie=1) not in found
    assert "a flow" not in found
    assert found.cookies == {0: 250, 1: 250}
    assert {*found.of_table(51)} == {one for one in flows if one.table == 51}
    assert not [*found.of_table(99)]
    assert flow_set(found) is found


@pytest.mark.parametrize("seed", range(20))
def test_changes_are_those_of_a_set_in_which_a_place_has_one_flow(seed: int) -> None:
    chance = random.Random(seed)
    found, plain = FlowSet(), dict[object, Flow]()
    for _ in range(60):
        some = [
            flow(chance.randrange(400), table=chance.choice([50, 55]), goto=chance.choice([0, 60, 61]))
            for _ in range(chance.randrange(40))
        ]
        add = [*{one.key(): one for one in some}.values()]
        delete = chance.sample(sorted(plain.values(), key=str), min(len(plain), chance.randrange(30)))
        delete += [flow(chance.randrange(400), goto=62)]  # one that is not there, in a place that may be another's
        before, earlier = found, set(plain.values())
        found = found.changed(delete=delete, add=add)
        plain = {key: one for key, one in plain.items() if one not in delete} | {one.key(): one for one in add}
        assert found == set(plain.values())
        assert before == earlier, "the old one stays as it was"
        assert sum(found.cookies.values()) == len(found) == len([*found])
        assert {*found.minus(before)} == set(plain.values()) - earlier
        assert {*before.minus(found)} == earlier - set(plain.values())


def test_what_is_equal_is_one_object_however_it_came_about() -> None:
    found = FlowSet(flow(number) for number in range(300))
    other = FlowSet().changed(delete=(), add=[flow(number) for number in range(299)])
    other = other.changed(delete=[flow(5)], add=[flow(299)]).changed(delete=(), add=[flow(5)])
    assert found == other
    kept = {id(one) for one in found}
    assert all(id(one) in kept for one in other if one != flow(5))


def test_a_part_that_nobody_has_any_more_is_forgotten() -> None:
    gc.collect()
    known = len(module._known)
    found = FlowSet(flow(number, cookie=99) for number in range(300))
    assert len(module._known) > known
    del found
    gc.collect()
    assert len(module._known) == known


def test_what_is_remembered_of_a_set_goes_with_it() -> None:
    asked: list[int] = []
    count = of_a_set(lambda flows: asked.append(id(flows)) or len(flows))
    flows = frozenset(flow(number) for number in range(5))
    twin = frozenset(set(flows))
    assert [count(flows), count(flows), count(twin)] == [5, 5, 5]
    assert len(asked) == 2, "an equal set is another"
    watched = ref(flows)
    del flows
    gc.collect()
    assert watched() is None, "it is not kept for being asked about"
    assert count(twin) == 5
    assert len(asked) == 2
