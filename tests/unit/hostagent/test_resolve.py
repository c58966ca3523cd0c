"""Choices of a host: of two networks that want one segment the one in use stays, whatever their UUIDs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hostagent import resolve as module
from hostagent.flow import Flow
from hostagent.model import Desired, LibvirtNetwork, Observed, Unread
from hostagent.resolve import resolve
from netmgr.contract.types import NetworkType, OpaqueNetwork
from tests.support.hostagent_worlds import bare, desired, location, named, network, port, settled, switch

SWITCHES = [switch("s1"), switch("s2")]  # on one PNIC
NAMES = ("n1", "n2")  # one of them has the lower UUID


def wanted(*networks: OpaqueNetwork) -> Desired:
    return desired(switches=SWITCHES, networks=networks, vteps={"s1": "10.0.0.1/24", "s2": "10.0.1.1/24"})


def vlan(name: str, *, on: str) -> OpaqueNetwork:
    return network(name, on=on, segment=100, kind=NetworkType.VLAN)


def carried(wish: Desired, seen: Observed) -> set[str]:
    """Names of the networks that the host would carry."""
    return {one.name for intent in resolve(wish, seen).switches.values() for one in intent.networks}


def without_libvirt(seen: Observed) -> Observed:
    return replace(seen, libvirt_networks=Unread("libvirt is switched off on this host"))


def without_flows(seen: Observed, flows: frozenset[Flow] | Unread | None) -> Observed:
    return replace(seen, flows={} if flows is None else dict.fromkeys(seen.flows, flows))


@pytest.fixture(params=NAMES, ids=["of lower UUID", "of higher UUID"])
def newcomer(request: pytest.FixtureRequest) -> str:
    low, high = sorted(NAMES, key=named)
    return low if request.param == NAMES[0] else high


@pytest.fixture
def senior(newcomer: str) -> str:
    return next(name for name in NAMES if name != newcomer)


def test_a_newcomer_does_not_take_the_vlan_of_a_network_with_flows(newcomer: str, senior: str) -> None:
    first = vlan(senior, on="s1")
    both = wanted(first, vlan(newcomer, on="s2"))
    there = without_libvirt(settled(wanted(first), bare()))
    assert carried(both, there) == {senior}
    ((ref, sentence),) = resolve(both, there).rejections
    assert ref.uuid == named(newcomer)
    assert f"vlan segment 100 is carried for network {senior}" in sentence
    assert carried(both, without_libvirt(settled(both, there))) == {senior}, "nor later"
    assert carried(wanted(vlan(newcomer, on="s2")), there) == {newcomer}, "once the other is gone it may"


@pytest.mark.parametrize("flows", [frozenset(), Unread("vswitchd is away"), None], ids=["wiped", "unread", "none"])
def test_a_vlan_on_the_trunk_is_in_use_though_its_flows_are_gone(
    newcomer: str, senior: str, flows: frozenset[Flow] | Unread | None
) -> None:
    first = vlan(senior, on="s1")
    there = without_flows(without_libvirt(settled(wanted(first), bare())), flows)
    assert carried(wanted(first, vlan(newcomer, on="s2")), there) == {senior}


def test_a_newcomer_does_not_take_the_segment_of_a_tunnel_with_flows(newcomer: str, senior: str) -> None:
    first, vm = network(senior), port("a", 1, on=senior)
    peopled = replace(wanted(first), ports={vm.uuid: vm}, locations={vm.uuid: location(vm, "h1")})
    there = without_libvirt(settled(peopled, bare()))
    assert carried(wanted(first, network(newcomer)), there) == {senior}


def test_what_libvirt_has_stays_though_the_switch_has_lost_all(newcomer: str, senior: str) -> None:
    first = network(senior)
    there = without_flows(settled(wanted(first), bare()), frozenset())
    assert carried(wanted(first, network(newcomer)), there) == {senior}


def test_of_two_that_are_both_new_the_lower_uuid_is_carried() -> None:
    both = wanted(vlan("n1", on="s1"), vlan("n2", on="s2"))
    assert carried(both, bare()) == {min(NAMES, key=named)}


def test_networks_that_share_nothing_are_all_carried() -> None:
    both = wanted(network("n1", on="s1"), network("n2", on="s2"), vlan("n3", on="s1"))
    assert carried(both, bare()) == {"n1", "n2", "n3"}


# --- what is remembered -------------------------------------------------------------------------------------------


class Watched:
    """Stands for *what*, and tells which of its parts were looked at."""

    def __init__(self, what: object) -> None:
        self._what = what
        self.parts: set[str] = set()

    def __getattr__(self, part: str) -> object:
        self.parts.add(part)
        return getattr(self._what, part)


@pytest.mark.parametrize("contested", [False, True])
def test_all_that_an_answer_depends_on_is_what_it_is_remembered_by(contested: bool) -> None:
    wish = wanted(vlan("n1", on="s1"), vlan("n2", on="s2" if contested else "s1"))
    if not contested:
        wish = wanted(vlan("n1", on="s1"), network("n2", on="s1"))
    seen = settled(wish, bare())
    remembered, looked_at = (Watched(wish), Watched(seen)), (Watched(wish), Watched(seen))
    module._looked_at(*remembered)  # type: ignore[arg-type]
    by_rank, found = module._by_seniority(*looked_at)  # type: ignore[arg-type]
    assert found is contested
    if contested:
        module._in_use(remembered[1])  # type: ignore[arg-type]
    module._resolve(*looked_at, by_rank, module._foreign_networks(seen))  # type: ignore[arg-type]
    for looked, kept in zip(looked_at, remembered, strict=True):
        assert looked.parts <= kept.parts
    assert {"networks", "bridges"} <= looked_at[0].parts | looked_at[1].parts, "the watch works"


def test_an_answer_is_given_again_while_nothing_has_changed() -> None:
    wish = wanted(network("n1", on="s1"))
    seen = settled(wish, bare())
    first = resolve(wish, seen)
    assert resolve(replace(wish), replace(seen, flows=dict(seen.flows))) is first
    assert resolve(wish, replace(seen, flows={})) is first, "flows are asked only where networks want the same"
    assert resolve(wish, replace(seen, libvirt_networks=())) is first, "so are our own networks at libvirt"
    assert resolve(wish, replace(seen, bridges=())) is not first
    assert resolve(replace(wish, networks={}), seen).switches[named("s1")].networks == ()
    strange = LibvirtNetwork(uuid=named("theirs"), name="n1")
    assert named("n1") in resolve(wish, replace(seen, libvirt_networks=(strange,))).undefined
    assert resolve(wish, seen).undefined == frozenset()
