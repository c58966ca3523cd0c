"""Addresses from frames, and what is kept of them: the parser on good and bad frames, limits, age, hush."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RS, IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Ether

from hostagent.learning import (
    ADDRESSES_MAX,
    AGE_S,
    HUSH_S,
    MACS_MAX,
    QUESTION_S,
    QUESTIONS_MAX,
    Claimed,
    Learning,
    read_claim,
    read_probe,
)
from netmgr.contract.types import LearnedSource

PORT, OTHER = UUID(int=1), UUID(int=2)
SRC = "02:00:00:00:00:01"


def frame(payload) -> bytes:
    return bytes(Ether(src=SRC, dst="ff:ff:ff:ff:ff:ff") / payload)


def claimed(number: int) -> Claimed:
    return Claimed(f"10.0.{number // 250}.{number % 250 + 1}", LearnedSource.ARP)


ARP_FRAME = frame(ARP(hwsrc=SRC, psrc="10.0.0.5", pdst="10.0.0.9"))
NS_FRAME = frame(IPv6(src="fd00::5", dst="ff02::1:ff00:9") / ICMPv6ND_NS(tgt="fd00::9"))
NA_FRAME = frame(IPv6(src="fe80::1", dst="ff02::1") / ICMPv6ND_NA(tgt="fd00::5"))


@pytest.mark.parametrize(
    ("seen", "address", "source"),
    [
        (ARP_FRAME, "10.0.0.5", LearnedSource.ARP),
        (frame(ARP(op=2, hwsrc=SRC, psrc="169.254.1.1", pdst="169.254.1.1")), "169.254.1.1", LearnedSource.ARP),
        (NS_FRAME, "fd00::5", LearnedSource.ND),
        (NA_FRAME, "fd00::5", LearnedSource.ND),
        (frame(IPv6(src="fe80::1", dst="ff02::1") / IPv6ExtHdrHopByHop() / ICMPv6ND_NA(tgt="fd00::5")), "fd00::5",
         LearnedSource.ND),
    ],
    ids=["arp", "announcement", "solicitation", "advertisement", "behind an extension header"],
)  # fmt: skip
def test_what_a_guest_says_it_has_is_read(seen: bytes, address: str, source: LearnedSource) -> None:
    assert read_claim(seen) == Claimed(address, source)


@pytest.mark.parametrize(
    "seen",
    [
        b"",
        frame(ARP(hwsrc=SRC, psrc="0.0.0.0", pdst="10.0.0.9")),
        frame(IPv6(src="::", dst="ff02::1:ff00:9") / ICMPv6ND_NS(tgt="fd00::9")),
        frame(ARP(hwsrc=SRC, psrc="224.0.0.1")),
        frame(ARP(hwsrc=SRC, psrc="255.255.255.255")),
        frame(ARP(hwsrc=SRC, psrc="127.0.0.1")),
        frame(IPv6(src="fe80::1", dst="ff02::1") / ICMPv6ND_NA(tgt="ff02::1")),
        frame(IPv6(src="fe80::1", dst="ff02::2") / ICMPv6ND_RS()),
        frame(ARP(hwtype=6, hwsrc=SRC, psrc="10.0.0.5")),
        frame(ARP(hwlen=8, hwsrc=SRC, psrc="10.0.0.5")),
        frame(IP(src="10.0.0.5", dst="10.0.0.9") / UDP()),
        frame(IPv6(src="fe80::1", dst="ff02::1", nh=0) / bytes([0, 255] * 40)),
    ],
)
def test_what_names_no_address_of_a_guest_is_nothing(seen: bytes) -> None:
    assert read_claim(seen) is None


ARP_PROBE = frame(ARP(hwsrc=SRC, psrc="0.0.0.0", pdst="10.0.0.9"))
ND_PROBE = frame(IPv6(src="::", dst="ff02::1:ff00:9") / ICMPv6ND_NS(tgt="fd00::9"))


def test_what_a_guest_probes_for_is_read() -> None:
    assert read_probe(ARP_PROBE) == Claimed("10.0.0.9", LearnedSource.ARP, probed=True)
    assert read_probe(ND_PROBE) == Claimed("fd00::9", LearnedSource.ND, probed=True)
    for whole, end in ((ARP_PROBE, 42), (ND_PROBE, 78)):
        assert all(read_probe(whole[:length]) is None for length in range(end))
        assert read_probe(whole[:end]) is not None


@pytest.mark.parametrize(
    "seen",
    [
        b"",
        ARP_FRAME,
        NS_FRAME,
        NA_FRAME,
        frame(ARP(op=2, hwsrc=SRC, psrc="0.0.0.0", pdst="10.0.0.9")),
        frame(ARP(hwsrc=SRC, psrc="0.0.0.0", pdst="0.0.0.0")),
        frame(ARP(hwsrc=SRC, psrc="0.0.0.0", pdst="224.0.0.1")),
        frame(IPv6(src="::", dst="ff02::1") / ICMPv6ND_NS(tgt="ff02::1")),
        frame(IPv6(src="::", dst="ff02::1") / ICMPv6ND_NA(tgt="fd00::5")),
        frame(IPv6(src="::", dst="ff02::2") / ICMPv6ND_RS()),
    ],
)
def test_what_probes_for_no_address_of_a_guest_is_no_probe(seen: bytes) -> None:
    assert read_probe(seen) is None


@pytest.mark.parametrize("whole", [ARP_FRAME, NS_FRAME, NA_FRAME], ids=["arp", "ns", "na"])
def test_a_frame_that_is_cut_off_before_its_address_ends_claims_nothing(whole: bytes) -> None:
    ends = {0: 32, 1: 78, 2: 78}[[ARP_FRAME, NS_FRAME, NA_FRAME].index(whole)]
    assert all(read_claim(whole[:length]) is None for length in range(ends))
    assert read_claim(whole[:ends]) is not None


@given(st.binary(max_size=200), st.sampled_from([b"\x08\x06", b"\x86\xdd", b"\x08\x00"]))
def test_no_frame_harms_the_reader(tail: bytes, kind: bytes) -> None:
    for found in (read_claim(bytes(12) + kind + tail), read_probe(bytes(12) + kind + tail)):
        assert found is None or found.address


@given(st.sampled_from([ARP_FRAME, NS_FRAME, NA_FRAME]), st.integers(12, 77), st.binary(min_size=1, max_size=4))
def test_no_damage_to_a_good_frame_harms_the_reader(good: bytes, at: int, damage: bytes) -> None:
    found = read_claim(good[:at] + damage + good[at + len(damage) :])
    assert found is None or found.address


def test_only_what_is_new_is_told() -> None:
    learning = Learning()
    assert learning.hear(PORT, claimed(1), now=0)
    assert not learning.hear(PORT, claimed(1), now=1)
    assert learning.hear(PORT, claimed(2), now=2)
    assert learning.claims(PORT) == (claimed(1), claimed(2))
    assert learning.claims(OTHER) == ()


def test_an_address_too_many_is_not_learned_and_hushes_the_port_for_a_while() -> None:
    learning = Learning()
    for number in range(ADDRESSES_MAX):
        assert learning.hear(PORT, claimed(number), now=0)
    assert not learning.hushed(now=0)
    assert not learning.hear(PORT, claimed(99), now=0)
    assert len(learning.claims(PORT)) == ADDRESSES_MAX
    assert learning.hushed(now=HUSH_S - 1) == {PORT}
    assert not learning.hushed(now=HUSH_S)


def test_a_loud_guest_is_hushed_and_a_quiet_one_beside_it_is_not() -> None:
    learning = Learning()
    for _ in range(60):
        learning.spend(PORT, now=0)
        learning.hear(OTHER, claimed(2), now=0) if not learning.claims(OTHER) else None
    assert learning.hushed(now=0) == {PORT}
    for second in range(100):
        learning.spend(OTHER, now=float(second))
    assert OTHER not in learning.hushed(now=100)


def test_loud_servers_are_hushed_for_their_network_alone() -> None:
    learning = Learning()
    for _ in range(101):
        learning.spend_of_network(OTHER, now=0)
    assert learning.hushed(now=0) == {OTHER}
    assert not learning.hushed(now=HUSH_S)


def test_a_lease_holds_unused_until_its_end_and_no_longer() -> None:
    learning = Learning()
    assert learning.lease(PORT, "10.0.0.9", seconds=int(AGE_S * 3), now=0)
    assert not learning.lease(PORT, "10.0.0.9", seconds=int(AGE_S * 3), now=AGE_S), "renewed: no news"
    assert learning.claims(PORT) == (Claimed("10.0.0.9", LearnedSource.DHCP),)
    learning.refresh(PORT, "10.0.0.9", now=AGE_S * 4 - 1)
    assert learning.age(now=AGE_S * 4 - 1) == frozenset()
    assert learning.age(now=AGE_S * 4) == {PORT}
    assert learning.claims(PORT) == ()


def test_what_was_claimed_before_it_was_leased_has_the_leases_end_too() -> None:
    learning = Learning()
    learning.hear(PORT, claimed(1), now=0)
    assert not learning.lease(PORT, claimed(1).address, seconds=60, now=1)
    assert learning.age(now=61) == {PORT}


def test_a_lease_without_end_stays_and_what_is_given_up_goes() -> None:
    learning = Learning()
    learning.lease(PORT, "10.0.0.9", seconds=None, now=0)
    assert learning.age(now=1e9) == frozenset()
    assert not learning.give_up(PORT, "10.0.0.10")
    assert not learning.give_up(OTHER, "10.0.0.9")
    assert learning.give_up(PORT, "10.0.0.9")
    assert learning.claims(PORT) == ()
    learning.hear(PORT, Claimed("10.0.0.9", LearnedSource.ARP), now=1e9)
    assert learning.age(now=1e9 + AGE_S) == {PORT}, "the old lease is not remembered"


def test_a_question_counts_for_a_while_and_only_the_last_ones_do() -> None:
    learning = Learning()
    assert not learning.has_asked(PORT, b"0", now=0)
    for number in range(QUESTIONS_MAX):
        learning.ask(PORT, b"%d" % number, now=number / QUESTIONS_MAX)
    learning.ask(PORT, b"0", now=1)
    learning.ask(PORT, b"more", now=1)
    assert not learning.has_asked(PORT, b"1", now=1), "the oldest has made room"
    assert learning.has_asked(PORT, b"0", now=1), "asked again"
    assert not learning.has_asked(OTHER, b"0", now=1)
    assert learning.has_asked(PORT, b"0", now=QUESTION_S)
    assert not learning.has_asked(PORT, b"0", now=QUESTION_S + 1)


def test_leases_are_as_many_as_other_addresses_and_no_more() -> None:
    learning = Learning()
    for number in range(ADDRESSES_MAX + 5):
        learning.lease(PORT, f"10.0.0.{number + 1}", seconds=60, now=0)
    assert len(learning.claims(PORT)) == ADDRESSES_MAX
    assert learning.hushed(now=0) == {PORT}


def test_what_is_not_used_for_long_is_forgotten_and_what_is_used_stays() -> None:
    learning = Learning()
    learning.hear(PORT, claimed(1), now=0)
    learning.hear(PORT, claimed(2), now=0)
    learning.refresh(PORT, claimed(2).address, now=AGE_S / 2)
    assert learning.age(now=AGE_S - 1) == frozenset()
    assert learning.age(now=AGE_S) == {PORT}
    assert learning.claims(PORT) == (claimed(2),)
    assert learning.hear(PORT, claimed(1), now=AGE_S), "it is news again"


def test_what_came_with_a_guest_is_its_own_and_what_left_is_forgotten() -> None:
    learning = Learning()
    learning.revive(PORT, [claimed(1)], now=5)
    assert not learning.hear(PORT, claimed(1), now=6)
    learning.keep_only({OTHER})
    assert not learning.knows(PORT)


# --- MACs behind a port ---------------------------------------------------------------------------------------------

M1, M2 = "02:00:00:00:01:01", "02:00:00:00:01:02"


def test_macs_are_learned_up_to_a_limit_and_forgotten_unused() -> None:
    learning = Learning()
    assert learning.hear_mac(PORT, M1, now=0)
    assert not learning.hear_mac(PORT, M1, now=1)
    for number in range(MACS_MAX - 1):
        assert learning.hear_mac(PORT, f"02:00:00:00:02:{number:02x}", now=1)
    assert not learning.hushed(now=1)
    assert not learning.hear_mac(PORT, M2, now=1)
    assert learning.hushed(now=1) == {PORT}
    assert len(learning.macs(PORT)) == MACS_MAX
    learning.refresh_mac(PORT, M1, now=AGE_S)
    assert learning.age(now=AGE_S + 1) == {PORT}
    assert learning.macs(PORT) == (M1,)


def test_each_mac_has_its_own_limit_of_addresses() -> None:
    learning = Learning()
    for number in range(ADDRESSES_MAX):
        learning.hear(PORT, claimed(number), now=0)
    assert learning.hear(PORT, replace(claimed(100), mac=M1), now=0)
    assert not learning.hear(PORT, claimed(101), now=0)


def test_an_address_goes_over_to_the_mac_that_claims_it_last() -> None:
    learning = Learning()
    assert learning.hear(PORT, replace(claimed(1), mac=M1), now=0)
    assert learning.hear(PORT, replace(claimed(1), mac=M2), now=1)
    assert learning.claims(PORT) == (replace(claimed(1), mac=M2),)
    assert learning.lease(PORT, claimed(1).address, mac=M1, seconds=9, now=2)
    assert learning.claims(PORT)[0].mac == M1


def test_macs_that_came_with_a_guest_are_its_own() -> None:
    learning = Learning()
    learning.revive(PORT, [replace(claimed(1), mac=M1)], [M1], now=0)
    assert not learning.hear_mac(PORT, M1, now=1)
    assert learning.claims(PORT) == (replace(claimed(1), mac=M1),)


def test_others_macs_and_addresses_are_kept_apart_within_a_bound_and_aged():
    learning, port = Learning(), UUID(int=1)
    stolen = Claimed("10.0.0.5", LearnedSource.ARP)
    assert learning.hear_rival(port, stolen, now=0)
    assert not learning.hear_rival(port, stolen, now=10)
    assert learning.hear_rival(port, "02:00:00:00:00:05", now=10)
    assert learning.rivals(port) == ((stolen,), ("02:00:00:00:00:05",))
    assert learning.claims(port) == learning.macs(port) == ()
    assert [learning.hear_rival(port, f"02:00:00:00:01:{n:02x}", now=20) for n in range(15)] == [True] * 14 + [False]
    assert learning.hushed(now=20) == {port}
    assert learning.age(now=AGE_S + 10) == {port}
    assert learning.rivals(port)[0] == ()
