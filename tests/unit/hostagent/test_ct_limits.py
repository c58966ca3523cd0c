"""Limits of zones: what vswitchd says is read, what it is to be told follows."""

from __future__ import annotations

from hostagent.tracking.limits import Held, changes, limits_in

SAID = """default limit=0
zone=1,limit=7,count=7
zone=40960,limit=100,count=12
zone=40961,limit=0,count=0
"""


def test_limits_of_zones_that_are_ours_are_read_and_no_others() -> None:
    assert limits_in(SAID) == {40960: Held(100, 12), 40961: Held(0, 0)}
    assert limits_in("default limit=0\n") == {}


def test_zones_of_ports_get_the_limit_and_those_of_nobody_lose_it() -> None:
    found = limits_in(SAID)
    assert changes([40960, 40962], limit=100, found=found) == ([40962], [40961])
    assert changes([40960, 40961], limit=50, found=found) == ([40960, 40961], [])
    assert changes([40960], limit=0, found=found) == ([], [40960, 40961])
    assert changes([], limit=100, found={}) == ([], [])
