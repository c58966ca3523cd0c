"""Of the host's links those count that say something of what is wanted; guests' taps come and go."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hostagent.fastpath import arrival_inputs
from hostagent.model import Link, Observed, Unread
from hostagent.resolve import resolve
from hostagent.telling_links import telling_links
from tests.support.hostagent_worlds import bare, named, settled
from tests.unit.hostagent.test_arrivals import GRANTED, MINE, announced

TAP = Link(name="tap9", mtu=1500, admin_up=True, carrier=True, addresses=("fe80::dcf9:afff:fe76:cae5/64",))


def with_links(observed: Observed, *links: Link) -> Observed:
    assert not isinstance(observed.links, Unread)
    changed = {link.name: link for link in links}
    return replace(observed, links=tuple({**{link.name: link for link in observed.links}, **changed}.values()))


def pnic(observed: Observed) -> Link:
    assert not isinstance(observed.links, Unread)
    return next(link for link in observed.links if link.name == "eth1")


def vtep() -> str:
    assert GRANTED.host is not None
    return GRANTED.host.vteps[0].address


def test_a_tap_says_nothing_and_what_says_something_is_the_same_object() -> None:
    here = announced()
    before = telling_links(GRANTED, here)
    assert isinstance(before, tuple)
    assert "eth1" in {link.name for link in before}
    assert telling_links(GRANTED, with_links(here, TAP)) is before
    assert telling_links(GRANTED, replace(here, links=(*with_links(here, TAP).links,))) is before  # type: ignore[misc]
    assert resolve(GRANTED, with_links(here, TAP)) is resolve(GRANTED, here), "so nothing is worked out anew"


def test_what_was_compiled_for_a_guest_holds_when_its_tap_is_there() -> None:
    here = announced()
    before = arrival_inputs(MINE.uuid, desired=GRANTED, observed=here)
    assert before is not None
    assert arrival_inputs(MINE.uuid, desired=GRANTED, observed=with_links(here, TAP)) == before


@pytest.mark.parametrize(
    "change", [{"mtu": 1400}, {"master": "bond0"}, {"carrier": False}, {"addresses": ("10.9.9.9/24",)}]
)
def test_a_pnic_that_changes_says_something(change: dict[str, object]) -> None:
    here = bare()
    changed = with_links(here, replace(pnic(here), **change))  # type: ignore[arg-type]
    assert telling_links(GRANTED, changed) != telling_links(GRANTED, here)


def test_a_pnic_that_is_offered_and_one_that_is_gone_say_something() -> None:
    here = with_links(bare(), Link(name="eth7", mtu=9000))
    assert telling_links(GRANTED, here) == (pnic(here),)
    offered = replace(GRANTED, offered_pnics=(*GRANTED.offered_pnics, "eth7"))
    assert {link.name for link in telling_links(offered, here)} == {"eth1", "eth7"}  # type: ignore[union-attr]
    assert telling_links(GRANTED, replace(here, links=(TAP,))) == ()


@pytest.mark.parametrize("address", [vtep(), vtep().partition("/")[0] + "/32"])
def test_a_strange_link_with_the_address_of_a_vtep_is_reported(address: str) -> None:
    here = settled(GRANTED, bare())
    thief = replace(TAP, name="theirs", addresses=("192.0.2.1/24", address))
    assert thief in telling_links(GRANTED, with_links(here, thief))  # type: ignore[operator]
    (sentence,) = resolve(GRANTED, with_links(here, thief)).switches[named("s1")].blocked
    assert "is on theirs already" in sentence
    assert not resolve(GRANTED, with_links(here, replace(thief, addresses=()))).switches[named("s1")].blocked


def test_links_that_were_not_read_are_not() -> None:
    unread = Unread("netlink is away")
    assert telling_links(GRANTED, replace(bare(), links=unread)) is unread
