"""Does a network's MTU fit the paths that were measured? And what follows for the network on this host."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hostagent.health import host_report, measuring, rejections
from hostagent.model import DefineNetwork, PathKey, PathStatus
from hostagent.names import switch_bridge
from hostagent.plan import plan
from hostagent.underlay.path_fit import Fit, by_tunnel, fit, overhead
from netmgr.contract.types import Kind, NetworkType, PeerState, Ref, Status
from tests.support.hostagent_worlds import bare, desired, named, network, settled, switch

NAMES = {"10.0.0.2": "h2", "10.0.0.3": "h3"}
SWITCH = switch(mtu=1600)
BLUE = network("blue", mtu=1550)
WORLD = desired(switches=[SWITCH], networks=[BLUE])


def path(
    number: int, passed: int = 0, *, state: PeerState = PeerState.UP, kind: NetworkType = NetworkType.VXLAN
) -> PathStatus:
    key = PathKey(named("s1"), kind, f"10.0.0.{number}")
    return PathStatus(key=key, state=state, mtu_passed=passed, mtu_refused=passed + 1 if 0 < passed < SWITCH.mtu else 0)


@pytest.mark.parametrize(
    ("paths", "problem", "warning", "waits"),
    [
        ([], False, False, False),
        ([path(2, 1600)], False, False, False),
        ([path(2, 1599)], True, False, False),
        ([path(2, 1500)], True, False, False),
        ([path(2, 1500), path(3, 1600)], False, True, False),
        ([path(2, 1500), path(3, 1600), path(4, 1400)], True, False, False),
        ([path(2, 1500), path(3)], False, False, True),
        ([path(2), path(3, state=PeerState.NEW)], False, False, True),
        ([path(2, 1600), path(3)], False, False, False),
        ([path(2, state=PeerState.UNHEARD)], False, False, False),
        ([path(2, 1500, state=PeerState.DOWN)], False, False, False),
        ([path(2, 1500, kind=NetworkType.GENEVE)], False, False, False),
    ],
)
def test_verdict(paths: list[PathStatus], problem: bool, warning: bool, waits: bool) -> None:
    group = by_tunnel(paths).get((named("s1"), NetworkType.VXLAN))
    found = fit(BLUE, group, NAMES) if group is not None else Fit()
    assert (bool(found.problem), bool(found.warning), found.measuring) == (problem, warning, waits)


@pytest.mark.parametrize(
    ("paths", "problem"),
    [
        ([path(2, 1500)], ""),
        (
            [path(2, 1499), path(3, 1499)],
            "network lan: its MTU of 1500 needs packets of 1500 bytes to pass the underlay",
        ),
        ([path(2, 1499, kind=NetworkType.NVGRE)], "at most 1499 to 10.0.0.2 do"),
        ([path(2, state=PeerState.UNHEARD)], ""),
        ([], ""),
    ],
)
@pytest.mark.parametrize(("of", "pnics"), [("s1", ("eth1",)), ("street", ("eth1",)), ("apart", ("eth2",))])
def test_a_vlan_is_judged_by_what_tunnels_on_the_same_pnics_have_found(
    paths: list[PathStatus], problem: str, of: str, pnics: tuple[str, ...]
) -> None:
    lan = network("lan", on=of, segment=100, kind=NetworkType.VLAN, mtu=1500)
    other = network("other", segment=5009, mtu=1400)
    switches = {"s1": SWITCH, of: switch(of, mtu=1600, pnics=pnics)}
    world = desired(switches=list(switches.values()), networks=[other, lan], pnics=("eth1", "eth2"))
    problem = problem if of != "apart" else ""
    seen = replace(settled(world, bare("eth1", "eth2")), paths=tuple(paths))
    found = [sentence for ref, sentence in rejections(desired=world, observed=seen) if ref.uuid == lan.uuid]
    assert [problem in sentence for sentence in found] == ([True] if problem else [])


def test_the_sentence_names_peer_wanted_found_and_what_to_do() -> None:
    group = by_tunnel([path(2, 1500), path(9, 1400)])[named("s1"), NetworkType.VXLAN]
    assert fit(BLUE, group, NAMES).problem == (
        "network blue: its MTU of 1550 needs packets of 1600 bytes to pass the underlay, but at most 1500 to "
        "h2 (10.0.0.2), 1400 to 10.0.0.9 do; no peer is reached with them; raise the MTU of the underlay between them "
        "and of its PNICs to 1600, or lower the network's to 1350"
    )


@pytest.mark.parametrize(
    ("kind", "vtep", "extra"),
    [
        (NetworkType.VXLAN, "10.0.0.2", 50),
        (NetworkType.GENEVE, "fd00::2", 70),
        (NetworkType.NVGRE, "10.0.0.2", 42),
        (NetworkType.NVGRE, "fd00::2", 62),
    ],
)
def test_overhead_is_that_of_type_and_family(kind: NetworkType, vtep: str, extra: int) -> None:
    assert overhead(kind, vtep) == extra


def test_a_network_that_does_not_fit_is_rejected_and_libvirt_is_not_given_it() -> None:
    there = settled(desired(switches=[SWITCH], networks=[network("other", segment=5009, mtu=1400)]), bare())
    seen = replace(there, paths=(path(2, 1500),))
    world = desired(switches=[SWITCH], networks=[network("other", segment=5009, mtu=1400), BLUE])
    ((ref, sentence),) = rejections(desired=world, observed=seen)
    assert (ref, "1500 to" in sentence) == (Ref(kind=Kind.NETWORK, uuid=BLUE.uuid), True)
    steps = plan(desired=world, observed=seen)
    assert BLUE.uuid not in [step.uuid for step in steps if isinstance(step, DefineNetwork)]
    assert not measuring(desired=world, observed=seen)


def test_a_network_waits_until_its_paths_are_measured_and_no_longer() -> None:
    there = settled(desired(switches=[SWITCH], networks=[network("other", segment=5009)]), bare())
    for known, waits in ((path(2, state=PeerState.NEW), True), (path(2), True), (path(2, 1600), False)):
        seen = replace(there, paths=(known,))
        world = desired(switches=[SWITCH], networks=[network("other", segment=5009), BLUE])
        assert measuring(desired=world, observed=seen) is waits
        defined = [step.uuid for step in plan(desired=world, observed=seen) if isinstance(step, DefineNetwork)]
        assert defined == ([] if waits else [BLUE.uuid])


def test_a_network_that_is_in_use_is_not_taken_away_when_its_path_shrinks() -> None:
    seen = replace(settled(WORLD, bare()), paths=(path(2, 1500),))
    assert plan(desired=WORLD, observed=seen) == ()
    report = host_report(desired=WORLD, observed=seen, openflow_alive={switch_bridge(named("s1")): True})
    assert [(one.status, "at most 1500" in one.reasons[0]) for one in report.networks] == [(Status.UNAVAILABLE, True)]


def test_a_path_that_is_too_small_to_few_is_a_warning() -> None:
    seen = replace(settled(WORLD, bare()), paths=(path(2, 1500), path(3, 1600)))
    report = host_report(desired=WORLD, observed=seen, openflow_alive={switch_bridge(named("s1")): True})
    assert [(one.status, one.health) for one in report.networks] == [(Status.WARNING, 60)]
    assert rejections(desired=WORLD, observed=seen) == ()
