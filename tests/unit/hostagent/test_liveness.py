"""Tunnel probes as a state machine: hosts of a simulated underlay that loses, delays and cuts, in simulated time."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from hostagent.model import PathKey, PathStatus
from hostagent.underlay.liveness import Liveness, Probe, WantedPath, group_of
from netmgr.contract.types import NetworkType, PeerState

SWITCH, OTHER = UUID(int=1), UUID(int=2)
STEP_S = 0.02


def key(vtep: str, switch: UUID = SWITCH) -> PathKey:
    return PathKey(switch, NetworkType.VXLAN, vtep)


@dataclass
class Underlay:
    """What becomes of a probe: *carries* says whether it comes back, *rtt_s* when."""

    peers: Iterable[str]
    mtu: int = 1600
    mtu_again_s: float = 30.0
    rtt_s: float = 0.001
    now: float = 100.0
    own: str = "10.0.9.9"
    ahead_s: float = 0.0
    deaf_until: float = 0.0  # until when this host's own switch, or the agent, does not run
    carries: Callable[[Probe], bool] = lambda _probe: True
    sent: list[tuple[float, Probe]] = field(default_factory=list)
    history: list[tuple[float, tuple[PathStatus, ...]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.liveness = Liveness(own="h1", mtu_again_s=self.mtu_again_s, ahead_s=self.ahead_s)
        self._back: list[tuple[float, int]] = []
        self.want(self.peers)

    def want(self, peers: Iterable[str]) -> None:
        paths = [WantedPath(key=key(vtep), mtu=self.mtu, shared=True, group=group_of(self.own, vtep)) for vtep in peers]
        self.liveness.want(paths, now=self.now)

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += STEP_S
            if self.now >= self.deaf_until:
                self._turn()

    def _turn(self) -> None:
        for probe in self.liveness.due(now=self.now, able=lambda _path: True):
            self.sent.append((self.now, probe))
            if self.carries(probe):
                heapq.heappush(self._back, (self.now + self.rtt_s, probe.number))
        overdue = self.liveness.unjudged(now=self.now)
        while self._back and self._back[0][0] <= self.now:
            self.liveness.answered(heapq.heappop(self._back)[1], now=self.now)
        for switch in overdue:
            self.liveness.heard(switch, asked_at=self.now)
        if self.liveness.judge(now=self.now):
            self.history.append((self.now, self.liveness.statuses()))

    def path(self, vtep: str) -> PathStatus:
        return next(path for path in self.liveness.statuses() if path.key.vtep == vtep)

    def lose(self, *vteps: str) -> None:
        self.carries = lambda probe: probe.path.vtep not in vteps

    def until_cut(self, vtep: str, patience_s: float = 10.0) -> float:
        began = self.now
        while not self.path(vtep).cut:
            assert self.now - began < patience_s, "never cut"
            self.run(STEP_S)
        return self.now - began


@pytest.mark.parametrize("offset_s", [n / 20 for n in range(24)])
def test_a_peer_that_is_gone_is_cut_within_three_seconds_and_back_within_one(offset_s: float) -> None:
    underlay = Underlay(peers=["10.0.0.2", "10.0.0.3"])
    underlay.run(5 + offset_s)
    assert [path.state for path in underlay.liveness.statuses()] == [PeerState.UP] * 2
    underlay.lose("10.0.0.2")
    assert 1.5 < underlay.until_cut("10.0.0.2") < 3.0
    assert underlay.path("10.0.0.2").state is PeerState.DOWN
    assert underlay.path("10.0.0.3").state is PeerState.UP
    underlay.run(20)
    underlay.carries = lambda _probe: True
    underlay.run(0.7)
    assert underlay.path("10.0.0.2").state is PeerState.UP
    assert not underlay.path("10.0.0.2").cut


def test_a_host_that_is_cut_off_takes_nothing_from_anybody_not_for_a_moment() -> None:
    peers = [f"10.0.0.{n}" for n in range(2, 12)]
    underlay = Underlay(peers=peers)
    underlay.run(5)
    underlay.lose(*peers)
    underlay.run(10)
    assert {path.state for path in underlay.liveness.statuses()} == {PeerState.DOWN}
    underlay.carries = lambda _probe: True
    underlay.run(3)
    assert {path.state for path in underlay.liveness.statuses()} == {PeerState.UP}
    assert not any(path.cut for _, statuses in underlay.history for path in statuses)


def test_of_a_host_that_was_cut_off_only_those_are_cut_that_stay_away() -> None:
    underlay = Underlay(peers=["10.0.0.2", "10.0.0.3", "10.0.0.4"])
    underlay.run(5)
    underlay.lose("10.0.0.2", "10.0.0.3", "10.0.0.4")
    underlay.run(10)
    underlay.lose("10.0.0.4")
    underlay.run(5)
    assert [(path.state, path.cut) for path in underlay.liveness.statuses()] == [
        (PeerState.UP, False),
        (PeerState.UP, False),
        (PeerState.DOWN, True),
    ]


def test_one_peer_alone_has_no_witness_and_is_believed() -> None:
    underlay = Underlay(peers=["10.0.0.2"])
    underlay.run(5)
    underlay.lose("10.0.0.2")
    assert underlay.until_cut("10.0.0.2") < 3.0


def test_who_has_never_answered_is_never_cut_and_no_witness() -> None:
    underlay = Underlay(peers=["10.0.0.2", "10.0.0.3"])
    underlay.lose("10.0.0.3")
    underlay.run(30)
    assert underlay.path("10.0.0.3").state is PeerState.UNHEARD
    underlay.lose("10.0.0.2", "10.0.0.3")
    underlay.run(10)
    assert underlay.path("10.0.0.2").cut
    assert not underlay.path("10.0.0.3").cut


@pytest.mark.parametrize("loss", [0.05, 0.2])
def test_loss_is_not_death(loss: float) -> None:
    chance = random.Random(7)
    peers = [f"10.0.0.{n}" for n in range(2, 6)]
    underlay = Underlay(peers=peers, carries=lambda _probe: chance.random() > loss)
    underlay.run(120)
    downs = [at for at, statuses in underlay.history if any(path.state is PeerState.DOWN for path in statuses)]
    assert len(downs) <= (0 if loss < 0.1 else 3)


def test_a_slow_path_is_not_a_broken_one() -> None:
    underlay = Underlay(peers=["10.0.0.2", "10.0.0.3"], rtt_s=1.7)
    underlay.run(60)
    assert not any(path.state is PeerState.DOWN for _, statuses in underlay.history for path in statuses)


@pytest.mark.parametrize("pause_s", [0.5, 3.0, 30.0])
def test_what_this_host_did_not_hear_because_it_slept_is_no_miss(pause_s: float) -> None:
    underlay = Underlay(peers=["10.0.0.2"])
    underlay.run(5)
    for _ in range(5):
        underlay.deaf_until = underlay.now + pause_s
        underlay.run(pause_s + 0.3)
    assert not any(path.state is PeerState.DOWN for _, statuses in underlay.history for path in statuses)


def test_a_path_that_flaps_must_answer_three_times_in_a_row() -> None:
    underlay = Underlay(peers=["10.0.0.2", "10.0.0.3"])
    underlay.run(5)
    for _ in range(2):
        underlay.lose("10.0.0.2")
        underlay.until_cut("10.0.0.2")
        underlay.carries = lambda _probe: True
        underlay.run(2)
    underlay.lose("10.0.0.2")
    underlay.until_cut("10.0.0.2")
    answers = iter([True, True, False])
    underlay.carries = lambda probe: probe.path.vtep != "10.0.0.2" or next(answers, False)
    underlay.run(3)
    assert underlay.path("10.0.0.2").cut
    underlay.carries = lambda _probe: True
    underlay.run(1)
    assert underlay.path("10.0.0.2").state is PeerState.UP


@pytest.mark.parametrize(("peers", "per_s"), [(50, 60), (1000, 140)])
def test_probes_cost_what_is_promised(peers: int, per_s: float) -> None:
    underlay = Underlay(peers=[f"10.0.{n // 250}.{n % 250 + 1}" for n in range(peers)])
    underlay.run(15)
    underlay.sent.clear()
    underlay.run(30)
    assert len(underlay.sent) / 30 < per_s
    first = [at for at, probe in underlay.sent if not probe.size]
    busiest = max(sum(start <= at < start + 0.1 for at in first) for start in first[:: max(1, len(first) // 50)])
    assert busiest < per_s * 0.6, "a host asks all its peers at once"


def test_probes_of_peers_that_are_well_leave_together() -> None:
    """Twice a second: each departure costs the agent a look at all its paths, and both switches a round."""
    underlay = Underlay(peers=[f"10.0.0.{n}" for n in range(1, 51)])
    underlay.run(15)
    underlay.sent.clear()
    underlay.run(10)
    departures = {at for at, probe in underlay.sent if not probe.size}
    assert 400 < sum(not probe.size for _, probe in underlay.sent) < 600
    assert len(departures) <= 21


def test_two_hosts_ask_each_other_at_the_same_time_whatever_their_own_clocks_count() -> None:
    one = Underlay(peers=["10.0.0.2"], own="10.0.0.1", now=100.0, ahead_s=0.3)
    other = Underlay(peers=["10.0.0.1"], own="10.0.0.2", now=7000.6, ahead_s=0.3 + 100.0 - 7000.6)
    for host in (one, other):
        host.run(15)
        host.sent.clear()
        host.run(5)
    times = [(at + host.ahead_s) % 1 for host in (one, other) for at, _ in host.sent]
    assert len(times) >= 8
    assert max(times) - min(times) <= STEP_S + 0.001


def test_of_two_switches_each_is_judged_by_its_own_peers() -> None:
    liveness = Underlay(peers=[])
    paths = [WantedPath(key=key(f"10.0.0.{n}", on), mtu=1600, shared=True) for on in (SWITCH, OTHER) for n in (2, 3)]
    liveness.liveness.want(paths, now=liveness.now)
    liveness.run(5)
    liveness.carries = lambda probe: probe.path.switch == SWITCH
    liveness.run(5)
    assert {(path.key.switch, path.state, path.cut) for path in liveness.liveness.statuses()} == {
        (SWITCH, PeerState.UP, False),
        (OTHER, PeerState.DOWN, False),
    }


def test_a_peer_that_is_needed_again_is_new_but_its_mtu_is_known() -> None:
    underlay = Underlay(peers=["10.0.0.2", "10.0.0.3"])
    underlay.run(5)
    underlay.want(["10.0.0.3"])
    underlay.run(60)
    assert [path.key.vtep for path in underlay.liveness.statuses()] == ["10.0.0.3"]
    underlay.lose("10.0.0.2")
    underlay.want(["10.0.0.2", "10.0.0.3"])
    underlay.run(STEP_S)
    assert (underlay.path("10.0.0.2").state, underlay.path("10.0.0.2").mtu_passed) == (PeerState.NEW, 1600)
    assert not underlay.path("10.0.0.2").cut


# --- sizes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [200, 1280, 1499, 1500, 1599])
def test_the_size_that_passes_is_found_to_the_byte(limit: int) -> None:
    underlay = Underlay(peers=["10.0.0.2"], carries=lambda probe: probe.size <= limit)
    underlay.run(20)
    path = underlay.path("10.0.0.2")
    assert path.state is PeerState.UP
    assert (path.mtu_passed, path.mtu_refused) == (limit, limit + 1)


def test_a_size_that_passes_costs_a_probe_in_half_a_minute() -> None:
    underlay = Underlay(peers=["10.0.0.2"])
    underlay.run(121)
    assert 4 <= sum(probe.size > 0 for _, probe in underlay.sent) <= 6
    assert underlay.path("10.0.0.2").mtu_passed == 1600


@pytest.mark.parametrize(("again_s", "narrow_s", "wide_s"), [(30, 50, 14), (3, 23, 5)])
def test_a_path_that_shrinks_and_recovers_is_noticed_at_the_next_try(
    again_s: float, narrow_s: float, wide_s: float
) -> None:
    underlay = Underlay(peers=["10.0.0.2"], mtu_again_s=again_s)
    underlay.run(5)
    underlay.carries = lambda probe: probe.size <= 1500
    underlay.run(narrow_s)
    assert underlay.path("10.0.0.2").mtu_passed == 1500
    underlay.carries = lambda _probe: True
    underlay.run(wide_s)
    assert (underlay.path("10.0.0.2").mtu_passed, underlay.path("10.0.0.2").mtu_refused) == (1600, 0)


def test_what_is_lost_together_with_a_small_one_says_nothing_about_size() -> None:
    underlay = Underlay(peers=["10.0.0.2", "10.0.0.3"])
    underlay.run(5)
    underlay.lose("10.0.0.2")
    underlay.run(60)
    assert underlay.path("10.0.0.2").mtu_refused == 0


def test_a_larger_switch_mtu_is_measured_at_once() -> None:
    underlay = Underlay(peers=["10.0.0.2"])
    underlay.run(5)
    underlay.mtu = 9000
    underlay.want(["10.0.0.2"])
    underlay.run(1.5)
    assert underlay.path("10.0.0.2").mtu_passed == 9000
