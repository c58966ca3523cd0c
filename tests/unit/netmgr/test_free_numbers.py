"""Free numbers beside a plain set of those that are taken."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netmgr.free_numbers import FreeNumbers

NUMBERS = st.integers(min_value=0, max_value=30)


@given(st.lists(st.tuples(st.booleans(), NUMBERS)), NUMBERS)
def test_the_lowest_free_number_is_that_of_a_search(steps: list[tuple[bool, int]], first: int) -> None:
    free, taken = FreeNumbers(), set()
    for take, number in steps:
        if take:
            free.take(number)
            taken.add(number)
        else:
            free.give_back(number)
            taken.discard(number)
    assert free.lowest(first=first) == next(n for n in range(first, 100) if n not in taken)
    again = FreeNumbers()
    for number in sorted(taken):
        again.take(number)
    assert free == again  # whatever the way there
    assert free.all_free == (not taken)
