"""Tables that keep what was asked of them: the same answers as a look at all, whatever happened meanwhile."""

from __future__ import annotations

import random
from uuid import UUID

import pytest

from hostagent.indexed import Indexed, Overlaid, held_here, select, tally
from netmgr.contract.types import Location
from tests.support.hostagent_worlds import named


def is_big(number: int) -> bool:
    return number > 50


def last_digit(number: int) -> int:
    return number % 10


@pytest.mark.parametrize("seed", range(20))
def test_answers_are_those_of_a_look_at_all(seed: int) -> None:
    chance = random.Random(seed)
    table, plain = Indexed[int](), dict[UUID, int]()
    mark, since = table.mark, set[UUID]()
    for turn in range(200):
        key = UUID(int=chance.randrange(30))
        if key in plain and chance.random() < 0.3:
            del table[key], plain[key]
        elif turn == 150 and chance.random() < 0.3:
            table.clear()
            plain.clear()
            assert table.changes(mark) is None, "all is another"
            mark, since = table.mark, set()
            continue
        else:
            table[key] = plain[key] = chance.randrange(100)
        since.add(key)
        assert table.changes(mark) == since
        if chance.random() < 0.1:
            mark, since = table.mark, set()
        assert dict(table) == plain
        assert select(table, is_big) == select(plain, is_big)
        assert tally(table, last_digit) == tally(plain, last_digit)
        over = {key: chance.randrange(100) for key in chance.sample(sorted(plain), min(3, len(plain)))}
        laid = Overlaid(table, over)
        assert dict(laid) == {**plain, **over}
        assert select(laid, is_big) == select({**plain, **over}, is_big)
        assert tally(laid, last_digit) == tally({**plain, **over}, last_digit)


def test_a_change_that_was_long_ago_is_not_known_any_more() -> None:
    table = Indexed[int]()
    mark = table.mark
    for number in range(10_000):
        table[UUID(int=number % 5)] = number
    assert table.changes(mark) is None
    assert table.changes(table.mark - 10) == {UUID(int=number) for number in range(5)}
    assert table.changes(table.mark) == set()
    assert table.changes(table.mark + 1) is None, "that was not yet"


def test_no_row_comes_in_by_another_way() -> None:
    table = Indexed[int]()
    for way in (table.update, table.pop, table.setdefault, table.popitem):
        with pytest.raises(TypeError):
            way(UUID(int=1), 1)


def test_ports_of_a_host_are_those_it_holds_and_those_that_come_to_it() -> None:
    network = named("network")
    places = [("h1", None), ("h2", "h1"), ("h2", None), (None, None), ("h1", "h2")]
    table = Indexed[Location]()
    for number, (holder, incoming) in enumerate(places):
        port = UUID(int=number)
        table[port] = Location(
            port_uuid=port,
            network_uuid=network,
            holder_host=named(holder) if holder else None,
            incoming_host=named(incoming) if incoming else None,
        )
    assert [key.int for key in held_here(table, named("h1"))] == [0, 1, 4]
    assert held_here(dict(table), named("h1")) == held_here(table, named("h1"))
