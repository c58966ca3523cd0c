"""A port that moves from h1 to h2 with peers on all three hosts: nothing lost, nothing twice, nothing in circles."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from hostagent.model import Phase
from hostagent.names import network_key
from tests.lab.pipeline.conftest import mac, named

pytestmark = pytest.mark.lab

ALL = "ff:ff:ff:ff:ff:ff"
VM, ONE, TWO, THREE = 10, 1, 2, 3  # MACs of the guest that moves and of its peers on h1, h2, h3


def frame(src: int, dst: int | None = None) -> bytes:
    to = ALL if dst is None else mac(dst)
    packet = Ether(src=mac(src), dst=to) / IP(src="10.1.0.1", dst="10.1.0.2") / UDP(sport=1, dport=2)
    return bytes(packet / Raw(b"x" * 40))


@pytest.fixture
def moving(fabric):
    """`vm` is granted from h1 to h2, its tap is plugged on both; a peer on each host."""
    fabric.network("n", 5001)
    fabric.port("vm", VM, "n", "h1")
    for name, number, host in (("one", ONE, "h1"), ("two", TWO, "h2"), ("three", THREE, "h3")):
        fabric.port(name, number, "n", host)
    fabric.plug("vm", "h2")
    fabric.relocate("vm", incoming="h2")
    return fabric


def tell_all(fabric, *, dst: int | None = VM) -> None:
    for name, number, host in (("one", ONE, "h1"), ("two", TWO, "h2"), ("three", THREE, "h3")):
        fabric.say(name, host, frame(number, dst))


def everyones(dst: int | None = VM) -> list[bytes]:
    return sorted(frame(number, dst) for number in (ONE, TWO, THREE))


def test_before_the_pause_the_source_hears_everything_and_the_destination_nothing(moving):
    moving.settle()
    tell_all(moving)
    tell_all(moving, dst=None)
    assert sorted(moving.hear("vm", "h1")) == sorted(everyones() + everyones(None))
    assert moving.hear("vm", "h2") == []


def test_after_the_pause_each_frame_reaches_the_destination_once_from_every_host(moving):
    moving.phase("h1", "vm", Phase.REDIRECTING)
    moving.settle()
    tell_all(moving)
    assert moving.hear("vm", "h1") == []
    assert sorted(moving.hear("vm", "h2")) == everyones()


def test_an_unlit_destination_hears_no_broadcast(moving):
    moving.phase("h1", "vm", Phase.REDIRECTING)
    moving.settle()
    tell_all(moving, dst=None)
    assert moving.hear("vm", "h2") == []


def test_a_destination_takes_forwarded_frames_from_the_source_only(moving):
    moving.settle("h1", "h2", "h3")
    # h3 lies: it holds a port that it redirects to h2, for which h2 expects frames from h1 alone
    moving.relocate("vm", holder="h3")
    moving.phase("h3", "vm", Phase.REDIRECTING)
    moving.settle("h3")
    moving.say("one", "h1", frame(ONE, THREE))
    moving.say("three", "h3", frame(THREE, VM))
    assert moving.hear("vm", "h2") == []


def test_the_first_frames_of_the_guest_are_delivered_and_signal_the_agent(moving):
    moving.phase("h1", "vm", Phase.REDIRECTING)
    moving.settle("h1", "h3")
    moving.watch("h2", [("vm", "h2", frame(VM, THREE)), ("vm", "h2", frame(VM))])
    assert sorted(moving.hear("three", "h3")) == sorted([frame(VM, THREE), frame(VM)])
    assert moving.hear("one", "h1") == [frame(VM)]
    signals = moving.hosts["h2"].signals
    assert [cookie for cookie, *_ in signals] == [network_key(named("n"))] * 2
    assert [data[:12] for *_, data in signals] == [frame(VM, THREE)[:12], frame(VM)[:12]], len(signals[0][3])


def test_a_spoofed_frame_out_of_an_incoming_port_is_no_signal(moving):
    moving.phase("h1", "vm", Phase.REDIRECTING)
    moving.settle("h1", "h3")
    moving.watch("h2", [("vm", "h2", frame(99, THREE))])
    assert moving.hosts["h2"].signals == []
    assert moving.hear("three", "h3") == []


def test_once_activated_the_guest_signals_no_more_and_hears_its_own_host_directly(moving):
    moving.phase("h1", "vm", Phase.REDIRECTING)
    moving.phase("h2", "vm", Phase.ACTIVATED, relay="h1")
    moving.settle("h1", "h3")
    moving.watch("h2", [("vm", "h2", frame(VM, TWO)), ("two", "h2", frame(TWO, VM)), ("three", "h3", frame(THREE, VM))])
    assert moving.hosts["h2"].signals == []
    assert moving.hear("two", "h2") == [frame(VM, TWO)]
    assert sorted(moving.hear("vm", "h2")) == sorted([frame(TWO, VM), frame(THREE, VM)])
    assert moving.crossed("h2") == 0


def test_after_the_move_a_stale_peer_is_served_through_the_old_holder(moving):
    moving.settle("h3")  # knows the old location only
    moving.relocate("vm", holder="h2", incoming=None)
    moving.phase("h1", "vm", Phase.RELAYING, relay="h2")
    moving.phase("h2", "vm", Phase.ACTIVATED, relay="h1")
    moving.settle("h1", "h2")
    tell_all(moving)
    assert moving.hear("vm", "h1") == []
    assert sorted(moving.hear("vm", "h2")) == everyones()


def test_after_the_relay_time_the_old_holder_forwards_nothing(moving):
    moving.settle("h3")
    moving.relocate("vm", holder="h2", incoming=None)
    moving.settle("h1", "h2")
    tell_all(moving)
    assert sorted(moving.hear("vm", "h2")) == sorted([frame(ONE, VM), frame(TWO, VM)])


def test_a_failed_migration_leaves_the_source_as_if_nothing_had_been(moving):
    moving.phase("h1", "vm", Phase.REDIRECTING)
    moving.settle()
    moving.relocate("vm", incoming=None)
    moving.hosts["h1"].phases.clear()
    moving.settle()
    tell_all(moving)
    assert sorted(moving.hear("vm", "h1")) == everyones()
    moving.say("vm", "h2", frame(VM, THREE))
    assert moving.hear("three", "h3") == []


def test_a_guest_that_comes_straight_back_is_served_though_peers_are_two_moves_behind(moving):
    moving.settle("h3")  # holder h1, incoming h2
    moving.relocate("vm", holder="h2", incoming=None)
    moving.relocate("vm", incoming="h1")
    moving.phase("h2", "vm", Phase.ACTIVATED, relay="h1")
    moving.phase("h1", "vm", Phase.INCOMING)
    moving.settle("h1", "h2")
    tell_all(moving)
    assert sorted(moving.hear("vm", "h2")) == everyones()
    assert moving.hear("vm", "h1") == []
    moving.phase("h2", "vm", Phase.REDIRECTING)
    moving.settle("h2", "h3")
    tell_all(moving)
    assert sorted(moving.hear("vm", "h1")) == everyones()
    assert moving.hear("vm", "h2") == []


@pytest.mark.parametrize("peer_moves", [False, True], ids=["peers stay", "a peer moves too"])
def test_two_hosts_that_redirect_one_mac_to_each_other_do_not_loop(moving, peer_moves):
    if peer_moves:
        moving.plug("one", "h2")
        moving.relocate("one", incoming="h2")
        moving.phase("h1", "one", Phase.REDIRECTING)
        moving.phase("h2", "one", Phase.ACTIVATED, relay="h1")
    moving.phase("h1", "vm", Phase.REDIRECTING)
    moving.settle("h1", "h3")
    moving.relocate("vm", holder="h2", incoming="h1")
    moving.phase("h2", "vm", Phase.REDIRECTING)
    moving.settle("h2")
    tell_all(moving)
    if peer_moves:
        moving.say("one", "h2", frame(ONE, VM))
    crossed = sum(moving.crossed(host) for host in moving.hosts)
    assert crossed <= 8, "each frame crosses the underlay twice at most"


def test_relaying_and_incoming_hosts_do_not_loop_whoever_believes_what(moving):
    """Every pair of phases on h1 and h2, each believing that the other is the next."""
    pairs = [(one, two) for one in Phase for two in Phase]
    for one, two in pairs:
        moving.relocate("vm", holder="h1", incoming="h2")
        if one in (Phase.RELAYING, Phase.INCOMING, Phase.ACTIVATED):
            moving.relocate("vm", holder="h2", incoming=None if one is Phase.RELAYING else "h1")
        moving.phase("h1", "vm", one, relay="h2")
        moving.settle("h1", "h3")
        moving.relocate("vm", holder="h2", incoming="h1")
        if two in (Phase.RELAYING, Phase.INCOMING, Phase.ACTIVATED):
            moving.relocate("vm", holder="h1", incoming=None if two is Phase.RELAYING else "h2")
        moving.phase("h2", "vm", two, relay="h1")
        moving.settle("h2")
        for host in moving.hosts:
            moving.crossed(host)
        tell_all(moving)
        assert sum(moving.crossed(host) for host in moving.hosts) <= 6, (one, two)
