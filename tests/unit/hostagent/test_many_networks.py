"""A host with hundreds of networks: what a turn of the loop costs grows with their number, not with its square.

Counted are calls of functions and methods, Python's and C's: they are the same on each machine and at each load.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from hostagent.definition import without_libvirt
from hostagent.health import host_report, rejections
from hostagent.model import Desired, Observed
from hostagent.names import switch_bridge
from hostagent.plan import plan
from tests.support.hostagent_worlds import bare, desired, named, network, settled, switch

ALIVE = {switch_bridge(named("s1")): True}


def world(number: int, *, rejected: bool) -> tuple[Desired, Observed]:
    """A host that has *number* networks; *rejected*, and a network of another's for each of them."""
    wanted = desired(switches=[switch()], networks=[network(f"n{one}", segment=5000 + one) for one in range(number)])
    there = settled(desired(switches=[switch()], networks=[network("n0", segment=5000)]), bare())
    assert isinstance(there.libvirt_networks, tuple)
    (pattern,) = there.libvirt_networks
    defined = tuple(
        replace(pattern, uuid=one.uuid, name=one.name, ours=not rejected) for one in wanted.networks.values()
    )
    return wanted, replace(there, libvirt_networks=defined)


def calls(work: Callable[[], object]) -> int:
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def turn(wanted: Desired, seen: Observed) -> None:
    assert plan(desired=wanted, observed=seen) == ()
    told = replace(seen, links=tuple(replace(link) for link in seen.links))  # type: ignore[union-attr]
    rejections(desired=wanted, observed=told)
    host_report(desired=wanted, observed=told, openflow_alive=ALIVE, steps=())
    without_libvirt(wanted, seen)


@pytest.mark.parametrize("rejected", [False, True])
def test_twice_the_networks_cost_a_turn_at_most_twice_the_work(rejected: bool) -> None:
    found = []
    for number in (100, 200):
        wanted, seen = world(number, rejected=rejected)
        turn(wanted, seen)
        changed = replace(wanted, networks={**wanted.networks})  # as after a change: all is looked at
        found.append(calls(lambda changed=changed, seen=seen: turn(changed, seen)))  # type: ignore[misc]
    assert found[1] <= 2.1 * found[0]
    assert found[0] > 100, "the count works"
