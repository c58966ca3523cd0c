"""The answer to a neighbour solicitation where the switch can't make it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from hostagent.advertisement import advertisement

ASKER, OWNER = "02:00:00:00:00:01", "02:00:00:00:00:02"
MINE, WANTED = "fd00::1", "fd00::2"


def question(*before: Packet, src: str = MINE, hops: int = 255, code: int = 0, option: bool = True) -> Packet:
    packet = IPv6(src=src, dst="ff02::1:ff00:2", hlim=hops)
    for header in before:
        packet /= header
    packet /= ICMPv6ND_NS(tgt=WANTED, code=code)
    if option:
        packet /= ICMPv6NDOptSrcLLAddr(lladdr=ASKER)
    return Ether(src=ASKER, dst=OWNER) / packet


def in_full(frame: bytes) -> Packet:
    """*frame* as scapy reads it, once its lengths and checksum are those that scapy would have put there."""
    read = Ether(frame)
    again = Ether(frame)
    del again[IPv6].plen, again[ICMPv6ND_NA].cksum
    assert bytes(again) == frame
    return read


@pytest.mark.parametrize("option", [True, False])
def test_who_asks_is_told_the_owners_mac(option: bool) -> None:
    answer = advertisement(bytes(question(option=option)))
    assert answer is not None
    read = in_full(answer)
    assert (read.src, read.dst) == (OWNER, ASKER)
    assert (read[IPv6].src, read[IPv6].dst, read[IPv6].hlim) == (WANTED, MINE, 255)
    told = read[ICMPv6ND_NA]
    assert (told.tgt, told.R, told.S, told.O) == (WANTED, 0, 1, 1)
    assert told[ICMPv6NDOptDstLLAddr].lladdr == OWNER


def test_duplicate_address_detection_is_answered_to_all_nodes() -> None:
    """RFC 4861, 7.2.4."""
    answer = advertisement(bytes(question(src="::", option=False)))
    assert answer is not None
    read = in_full(answer)
    assert (read.src, read.dst, read[IPv6].dst) == (OWNER, "33:33:00:00:00:01", "ff02::1")
    assert (read[ICMPv6ND_NA].R, read[ICMPv6ND_NA].S, read[ICMPv6ND_NA].O) == (0, 0, 1)


def test_headers_before_it_and_bytes_behind_it_do_not_matter() -> None:
    plain = advertisement(bytes(question()))
    padding = [PadN(optdata=b"\0" * 12)]
    for before in ([IPv6ExtHdrDestOpt(options=padding)], [IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt()]):
        assert advertisement(bytes(question(*before))) == plain
    assert advertisement(bytes(question()) + b"trailer") == plain


def test_what_is_no_valid_solicitation_has_no_answer() -> None:
    """RFC 4861, 7.1.1."""
    wrong = bytearray(bytes(question()))
    wrong[-1] ^= 1
    ping = Ether(src=ASKER, dst=OWNER) / IPv6(src=MINE, dst=WANTED, hlim=255) / ICMPv6EchoRequest()
    frames = {
        "its checksum is wrong": bytes(wrong),
        "it was routed": bytes(question(hops=254)),
        "its code is unknown": bytes(question(code=1)),
        "it is something else": bytes(ping),
        "it is in fragments": bytes(question(IPv6ExtHdrFragment(m=1))),
        "it is hidden behind many headers": bytes(question(*[IPv6ExtHdrDestOpt() for _ in range(9)])),
    }
    assert {why for why, frame in frames.items() if advertisement(frame) is not None} == set()


@given(st.integers(min_value=0, max_value=86), st.booleans())
def test_of_what_is_cut_off_there_is_no_answer(length: int, headers: bool) -> None:
    whole = bytes(question(*([IPv6ExtHdrDestOpt()] if headers else [])))
    assert advertisement(whole[: min(length, len(whole) - 1)]) is None


@given(st.binary(max_size=120), st.integers(min_value=0, max_value=119))
def test_whatever_a_guest_says_nothing_breaks(noise: bytes, at: int) -> None:
    whole = bytes(question())
    advertisement(noise)
    advertisement(whole[:at] + noise + whole[at + len(noise) :])
