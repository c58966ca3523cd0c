"""Networks that come to a host at rest or go: what is said of them at once is what a plan would say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hostagent.health import measuring, rejections
from hostagent.idle_networks import at_rest_with
from hostagent.model import Desired, Observed, PathKey, PathStatus, Unread
from hostagent.names import exit_port, switch_bridge
from hostagent.plan import plan
from netmgr.contract.types import NetworkType, OpaqueNetwork, PeerState
from tests.support.hostagent_worlds import bare, desired, location, named, network, port, settled, switch

NEW = network("new", segment=6000)
OLD = network("old", segment=5001)
BLOCKED = "blocked"  # a switch without a PNIC
TINY = PathStatus(key=PathKey(named("s1"), NetworkType.VXLAN, "10.0.0.2"), state=PeerState.UP, mtu_passed=1500)
REFUSING = replace(TINY, mtu_refused=1501)
WIDE = replace(TINY, mtu_passed=1600)


def world(*more: OpaqueNetwork) -> Desired:
    switches = [switch(), switch("s2"), switch(BLOCKED, pnics=("eth9",))]
    addresses = {"s1": "10.0.0.1/24", "s2": "10.0.1.1/24", BLOCKED: "10.0.2.1/24"}
    return desired(switches=switches, networks=[OLD, *more], vteps=addresses)


def at_rest(wanted: Desired) -> Observed:
    """A host without libvirt, with nothing left to do."""
    there = settled(wanted, bare())
    return replace(there, libvirt_networks=Unread("libvirt is switched off on this host"))


def with_networks(wanted: Desired, *more: OpaqueNetwork) -> Desired:
    return replace(wanted, networks={**wanted.networks, **{one.uuid: one for one in more}})


def without(wanted: Desired, *gone: OpaqueNetwork) -> Desired:
    return replace(wanted, networks={uuid: one for uuid, one in wanted.networks.items() if one not in gone})


def said(rested: Desired, observed: Observed, *coming: OpaqueNetwork, going: tuple[OpaqueNetwork, ...] = ()) -> bool:
    now = without(with_networks(rested, *coming), *going)
    changed = [one.uuid for one in (*coming, *going)]
    return at_rest_with(changed, networks=now.networks, rested=rested, observed=observed)


def planned(rested: Desired, observed: Observed, *coming: OpaqueNetwork, going: tuple[OpaqueNetwork, ...] = ()) -> bool:
    """The same, by what the loop asks."""
    now = without(with_networks(rested, *coming), *going)
    return not (
        plan(desired=now, observed=observed)
        or rejections(desired=now, observed=observed)
        or measuring(desired=now, observed=observed)
    )


def plain() -> Desired:
    """A host that rejects nothing, so without the switch that has no PNIC."""
    wanted = world()
    return replace(wanted, switches={uuid: one for uuid, one in wanted.switches.items() if one.name != BLOCKED})


@pytest.mark.parametrize("paths", [(), (WIDE,)], ids=["no peers", "a peer"])
def test_a_network_like_others_leaves_the_host_at_rest(paths: tuple[PathStatus, ...]) -> None:
    rested = plain()
    seen = replace(at_rest(rested), paths=paths)
    assert said(rested, seen, NEW)
    assert said(rested, seen, NEW, network("another", segment=6001))
    assert planned(rested, seen, NEW)


@pytest.mark.parametrize(
    "coming",
    [
        network("new", segment=OLD.segment_id),
        network("new", segment=6000, mtu=1551),
        network("new", segment=6000, kind=NetworkType.GENEVE),
        network("new", segment=100, kind=NetworkType.VLAN),
        network("new", segment=6000, on="s2"),
        network("new", segment=6000, on="unknown"),
        replace(NEW, uuid=type(OLD.uuid)(int=OLD.uuid.int ^ 1)),
    ],
    ids=["segment taken", "MTU", "first of its type", "VLAN", "first of its switch", "no switch", "key taken"],
)
def test_a_network_of_which_a_plan_would_have_something_to_say_is_left_to_it(coming: OpaqueNetwork) -> None:
    rested = plain()
    seen = at_rest(rested)
    assert not planned(rested, seen, coming), "the case is one"
    assert not said(rested, seen, coming)
    assert not said(rested, seen, NEW, coming)


@pytest.mark.parametrize("path", [TINY, REFUSING], ids=["measured", "too small"])
def test_a_network_whose_packets_may_not_pass_the_underlay_is_left_to_the_plan(path: PathStatus) -> None:
    rested = with_networks(plain())
    rested = replace(rested, networks={OLD.uuid: replace(OLD, mtu=1400)})
    seen = replace(at_rest(rested), paths=(path,))
    assert planned(rested, seen), "the host is at rest"
    assert not planned(rested, seen, NEW), "the case is one"
    assert not said(rested, seen, NEW)


def test_two_that_come_together_and_want_one_segment_are_left_to_the_plan() -> None:
    rested = plain()
    seen = at_rest(rested)
    both = (NEW, network("rival", segment=NEW.segment_id))
    assert not planned(rested, seen, *both)
    assert not said(rested, seen, *both)


def test_what_is_not_new_is_left_to_the_plan() -> None:
    rested = plain()
    seen = at_rest(rested)
    assert not said(rested, seen, replace(OLD, name="renamed"))


def test_a_network_that_goes_while_others_are_like_it_leaves_the_host_at_rest() -> None:
    rested = with_networks(plain(), NEW)
    seen = at_rest(rested)
    assert planned(rested, seen, going=(NEW,))
    assert said(rested, seen, going=(NEW,))
    another = network("another", segment=NEW.segment_id)
    assert said(rested, seen, another, going=(NEW,)), "also where its segment goes to another"
    assert said(rested, seen, another, going=(NEW, OLD)), "and that alone is like them"


def test_a_network_that_came_and_went_since_leaves_the_host_at_rest() -> None:
    rested = plain()
    assert at_rest_with([NEW.uuid], networks={OLD.uuid: OLD}, rested=rested, observed=at_rest(rested))


@pytest.mark.parametrize(
    "last",
    [network("last", segment=6000, kind=NetworkType.GENEVE), network("last", segment=100, kind=NetworkType.VLAN), OLD],
    ids=["Geneve", "VLAN", "all"],
)
def test_the_last_network_of_its_type_is_left_to_the_plan(last: OpaqueNetwork) -> None:
    rested = with_networks(plain(), last)
    seen = at_rest(rested)
    assert not planned(rested, seen, going=(last,)), "the case is one"
    assert not said(rested, seen, going=(last,))
    assert not said(rested, seen, NEW, going=(last,)) or last is OLD


def test_a_vlan_that_goes_is_left_to_the_plan_though_others_are_there() -> None:
    vlans = (network("one", segment=100, kind=NetworkType.VLAN), network("two", segment=101, kind=NetworkType.VLAN))
    rested = with_networks(plain(), *vlans)
    seen = at_rest(rested)
    assert not planned(rested, seen, going=vlans[:1]), "the case is one"
    assert not said(rested, seen, going=vlans[:1])


def test_a_network_with_ports_is_left_to_the_plan() -> None:
    peer = port("peer", 2, on="new")
    for table, row in (("ports", {peer.uuid: peer}), ("locations", {peer.uuid: location(peer, "h2")})):
        rested = replace(plain(), **{table: row})  # type: ignore[arg-type]
        seen = at_rest(rested)
        assert said(rested, seen, network("other", segment=6000))
        assert not said(rested, seen, NEW)
        there = with_networks(rested, NEW)
        assert not said(there, seen, going=(NEW,))


def test_where_libvirt_is_to_be_told_or_something_is_rejected_it_is_left_to_the_plan() -> None:
    rested = plain()
    assert not said(rested, settled(rested, bare()), NEW)
    assert not said(with_networks(rested, NEW), settled(rested, bare()), going=(NEW,))
    rested = world(NEW)
    assert not said(rested, at_rest(rested), going=(NEW,))
    rested = world()
    assert not said(rested, at_rest(rested), NEW)
    assert not said(rested, at_rest(rested), network("new", segment=6000, on=BLOCKED))


def test_a_tunnel_port_that_open_vswitch_refuses_is_a_new_networks_too() -> None:
    rested = plain()
    seen = at_rest(rested)
    assert not isinstance(seen.bridges, Unread)
    tunnel = exit_port(NetworkType.VXLAN, named("s1"))
    bridges = tuple(
        replace(
            bridge,
            ports=tuple(
                replace(one, interfaces=tuple(replace(each, ofport=-1, error="in use") for each in one.interfaces))
                if (bridge.name, one.name) == (switch_bridge(named("s1")), tunnel)
                else one
                for one in bridge.ports
            ),
        )
        for bridge in seen.bridges
    )
    assert not said(rested, replace(seen, bridges=bridges), NEW)
