"""What of a guest's claims reaches the agent, and what a learned address is good for: frames meet real switches."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from hostagent.learning import read_claim
from hostagent.pipeline.learn import claimed_address
from hostagent.pipeline.tables import Table
from tests.lab.pipeline.conftest import mac

pytestmark = pytest.mark.lab

ALL = "ff:ff:ff:ff:ff:ff"
V4, V6 = "10.1.0.1", "fd00::1"


def arp(number: int, sender: str, target: str, *, op: int = 1) -> bytes:
    return bytes(Ether(src=mac(number), dst=ALL) / ARP(op=op, hwsrc=mac(number), psrc=sender, pdst=target))


def ns(number: int, sender: str, target: str) -> bytes:
    option = ICMPv6NDOptSrcLLAddr(lladdr=mac(number))
    packet = IPv6(src=sender, dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt=target)
    return bytes(Ether(src=mac(number), dst="33:33:ff:00:00:01") / (packet if sender == "::" else packet / option))


def na(number: int, target: str) -> bytes:
    packet = IPv6(src=target, dst="ff02::1", hlim=255) / ICMPv6ND_NA(tgt=target)
    return bytes(Ether(src=mac(number), dst="33:33:00:00:00:01") / packet / ICMPv6NDOptDstLLAddr(lladdr=mac(number)))


@pytest.fixture
def guests(fabric):
    """Without defined addresses: a and b on h1, c on h2."""
    fabric.network("n", 5001)
    fabric.port("a", 1, "n", "h1")
    fabric.port("b", 2, "n", "h1")
    fabric.port("c", 3, "n", "h2")
    return fabric


def copied(fabric, *said: tuple[str, bytes]) -> list[str]:
    """The addresses in what h1's agent sees of frames that its guests say, sorted."""
    host = fabric.hosts["h1"]
    host.signals.clear()
    fabric.watch("h1", then=[(name, "h1", frame) for name, frame in said])
    assert {signal[1] for signal in host.signals} <= {Table.CLAIMS}
    return sorted(claim.address for signal in host.signals if (claim := read_claim(signal[3])) is not None)


def test_a_claim_to_nobodys_address_is_copied_once_it_is_known_no_more(guests):
    said = [("a", arp(1, V4, "10.1.0.9")), ("a", ns(1, V6, "fd00::9")), ("a", na(1, "fd00::11"))]
    assert copied(guests, *said) == [V4, "fd00::1", "fd00::11"]
    assert guests.hear("b", "h1"), "the copy does not stop the frame"
    guests.learn("a", V4, V6, "fd00::11")
    assert copied(guests, *said) == []


def test_probes_claim_nothing_and_are_not_copied(guests):
    host = guests.hosts["h1"]
    assert copied(guests, ("a", arp(1, "0.0.0.0", V4)), ("a", ns(1, "::", V6))) == []
    assert not host.signals
    assert len(guests.hear("b", "h1")) == 2


def test_a_learned_address_is_answered_on_the_askers_host_and_crosses_nothing(guests):
    guests.learn("a", V4, V6)
    guests.settle()
    guests.crossed("h2")
    guests.say("c", "h2", arp(3, "10.1.0.3", V4), ns(3, "fd00::3", V6))
    answers = [Ether(frame) for frame in guests.hear("c", "h2")]
    assert [(answer.src, answer.dst) for answer in answers] == [(mac(1), mac(3))] * 2
    assert (answers[0][ARP].psrc, answers[1][ICMPv6ND_NA].tgt) == (V4, V6)
    assert guests.crossed("h2") == 0


def test_of_two_guests_with_one_address_the_first_keeps_working_and_the_second_is_seen(guests):
    guests.learn("a", V4, V6)
    guests.settle()
    said = [("b", arp(2, V4, "10.1.0.9")), ("b", ns(2, V6, "fd00::9")), ("b", na(2, V6))]
    assert copied(guests, *said) == [V4, V6, V6]
    assert guests.hear("a", "h1") == []
    assert guests.hear("c", "h2") == []
    guests.say("a", "h1", arp(1, V4, "10.1.0.9"), na(1, V6))
    assert len(guests.hear("b", "h1")) == len(guests.hear("c", "h2")) == 2
    assert guests.drops("h1", "b")["b", "ARP or RARP that names another's MAC or address"] == 1


def test_what_was_refused_is_not_answered_for(guests):
    guests.learn("a", V4)
    guests.learn("b", V4, refused="port a had it before")
    guests.settle()
    guests.say("c", "h2", arp(3, "10.1.0.3", V4))
    (answer,) = (Ether(frame) for frame in guests.hear("c", "h2"))
    assert answer.src == mac(1)


def test_a_defined_address_goes_before_a_learned_one(guests):
    guests.learn("a", V4)
    guests.port("d", 4, "n", "h2", ips=(V4,))
    guests.settle()
    guests.say("b", "h1", arp(2, "10.1.0.2", V4))
    (answer,) = (Ether(frame) for frame in guests.hear("b", "h1"))
    assert answer.src == mac(4)


def test_of_a_hushed_port_nothing_is_copied_and_its_frames_go_on(guests):
    guests.hush("h1", "a")
    assert copied(guests, *[("a", arp(1, f"10.1.0.{n}", "10.1.0.200")) for n in range(20, 60)]) == []
    assert len(guests.hear("b", "h1")) == 40
    assert copied(guests, ("b", arp(2, "10.1.0.2", "10.1.0.200"))) == ["10.1.0.2"]


def test_of_a_port_with_defined_addresses_nothing_is_learned(guests):
    guests.port("d", 4, "n", "h1", ips=(V4,))
    assert copied(guests, ("d", arp(4, V4, "10.1.0.9")), ("d", arp(4, "10.1.0.77", "10.1.0.9"))) == []


def test_a_spoofed_or_malformed_claim_reaches_nobody_not_even_the_agent(guests):
    another = bytes(Ether(src=mac(1), dst=ALL) / ARP(hwsrc=mac(9), psrc=V4))
    cut_off = arp(1, V4, "10.1.0.9")[:30]
    tagged = arp(1, V4, "10.1.0.9").replace(b"\x08\x06", b"\x81\x00\x00\x05\x08\x06", 1)
    host = guests.hosts["h1"]
    assert copied(guests, ("a", another), ("a", cut_off), ("a", tagged)) == []
    assert not host.signals
    assert guests.hear("b", "h1") == []


def test_the_switch_counts_the_use_of_a_learned_address(guests):
    guests.learn("a", V4, V6)
    guests.settle()
    guests.say("a", "h1", arp(1, V4, "10.1.0.9"), arp(1, V4, "10.1.0.9"), na(1, V6))
    used = {}
    for flow, packets in guests.counted("h1"):
        found = claimed_address(flow)
        if found is not None:
            used[found[1][0]] = packets
    assert used == {4: 2, 6: 1}
