"""Addresses from DHCP: what servers grant and clients give up, read from good frames, odd ones and garbage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import (
    DHCP6_Decline,
    DHCP6_Release,
    DHCP6_Reply,
    DHCP6_Request,
    DHCP6OptClientId,
    DHCP6OptIA_NA,
    DHCP6OptIA_TA,
    DHCP6OptIAAddress,
    DHCP6OptServerId,
    DHCP6OptStatusCode,
)
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Dot1Q, Ether

from hostagent.dhcp import Lease, read_given_up, read_leases

CLIENT, SERVER, ALL = "02:00:00:00:00:01", "02:00:00:00:00:02", "ff:ff:ff:ff:ff:ff"
RAW = bytes.fromhex("020000000001")


def v4(kind: str, *options, dst: str = CLIENT, op: int = 2, ports: tuple[int, int] = (67, 68), **fields) -> bytes:
    message = BOOTP(**{"op": op, "yiaddr": "10.0.0.5", "chaddr": RAW, **fields})
    packet = IP(src="10.0.0.1", dst="10.0.0.5") / UDP(sport=ports[0], dport=ports[1])
    return bytes(
        Ether(src=SERVER, dst=dst) / packet / message / DHCP(options=[("message-type", kind), *options, "end"])
    )


def v6(message, *options, dst: str = CLIENT, ports: tuple[int, int] = (547, 546)) -> bytes:
    payload = IPv6(src="fe80::2", dst="fe80::1") / UDP(sport=ports[0], dport=ports[1]) / message
    for option in (DHCP6OptClientId(), DHCP6OptServerId(), *options):
        payload /= option
    return bytes(Ether(src=SERVER, dst=dst) / payload)


def ia(*addresses: tuple[str, int]):
    return DHCP6OptIA_NA(iaid=1, ianaopts=[DHCP6OptIAAddress(addr=one, validlft=life) for one, life in addresses])


ACK = v4("ack", ("lease_time", 3600))
REPLY = v6(DHCP6_Reply(), ia(("fd00::5", 3600)))
RELEASE = v4("release", op=1, ports=(68, 67), yiaddr="0.0.0.0", ciaddr="10.0.0.5")
RELEASE6 = v6(DHCP6_Release(), ia(("fd00::5", 0)), dst="33:33:00:01:00:02", ports=(546, 547))


def overloaded(flag: int, *, file: bytes = b"", sname: bytes = b"") -> bytes:
    """An ACK whose message type and lease lie in other fields."""
    packet = IP(src="10.0.0.1", dst="10.0.0.5") / UDP(sport=67, dport=68)
    message = BOOTP(op=2, yiaddr="10.0.0.5", chaddr=RAW, file=file, sname=sname)
    return bytes(
        Ether(src=SERVER, dst=CLIENT) / packet / message / DHCP(options=[("dhcp-option-overload", flag), "end"])
    )


TYPE_AND_LEASE = b"\x35\x01\x05\x33\x04\x00\x00\x0e\x10\xff"


@pytest.mark.parametrize(
    ("frame", "seconds"),
    [
        (ACK, 3600),
        (v4("ack", ("lease_time", 3600), dst=ALL), 3600),
        (v4("ack", ("lease_time", 0xFFFFFFFF)), None),
        (v4("ack"), None),
        (v4("ack", ("lease_time", 60), ("vendor_specific", b"x" * 200), ("vendor_specific", b"y" * 200)), 60),
        (overloaded(1, file=TYPE_AND_LEASE), 3600),
        (overloaded(2, sname=TYPE_AND_LEASE), 3600),
        (overloaded(3, file=TYPE_AND_LEASE[:3] + b"\xff", sname=TYPE_AND_LEASE[3:]), 3600),
    ],
    ids=["unicast", "broadcast", "for ever", "without an end", "much else", "in file", "in sname", "in both"],
)
def test_an_ack_grants_its_address_to_the_mac_it_names(frame: bytes, seconds: int | None) -> None:
    assert read_leases(frame) == (Lease(CLIENT, "10.0.0.5", seconds),)


def test_a_reply_grants_its_addresses_to_the_mac_it_is_sent_to() -> None:
    assert read_leases(REPLY) == (Lease(CLIENT, "fd00::5", 3600),)
    ta = DHCP6OptIA_TA(iaid=1, iataopts=[DHCP6OptIAAddress(addr="fd00::7", validlft=60)])
    found = read_leases(v6(DHCP6_Reply(), ia(("fd00::5", 60), ("fd00::6", 0xFFFFFFFF)), ta))
    assert found == (Lease(CLIENT, "fd00::5", 60), Lease(CLIENT, "fd00::6", None), Lease(CLIENT, "fd00::7", 60))


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        v4("offer", ("lease_time", 60)),
        v4("nak"),
        v4("request", op=1, ports=(68, 67)),
        v4("ack", yiaddr="0.0.0.0"),
        v4("ack", yiaddr="224.0.0.5"),
        v4("ack", yiaddr="127.0.0.1"),
        v4("ack", op=1),
        v4("ack", htype=6),
        v4("ack", hlen=16),
        v4("ack", dst="02:00:00:00:00:09"),
        v4("ack", chaddr=b"\xff" * 6, dst=ALL),
        v4("ack", ports=(67, 67)),
        v6(DHCP6_Reply()),
        v6(DHCP6_Reply(), ia(("fd00::5", 0))),
        v6(DHCP6_Reply(), ia(("ff02::5", 60))),
        v6(DHCP6_Reply(), DHCP6OptIA_NA(iaid=1, ianaopts=[DHCP6OptStatusCode(statuscode=2)])),
        v6(DHCP6_Reply(), ia(("fd00::5", 60)), dst="33:33:00:00:00:01"),
        v6(DHCP6_Request(), ia(("fd00::5", 60))),
        bytes(Ether(dst=CLIENT) / Dot1Q(vlan=5) / Ether(ACK).payload),
        bytes(Ether(dst=CLIENT) / IP(flags="MF", proto=17) / ACK[34:]),
        bytes(Ether(dst=CLIENT) / IP(frag=1, proto=17) / ACK[34:]),
        bytes(Ether(dst=CLIENT) / IPv6(nh=60) / IPv6ExtHdrDestOpt() / REPLY[54:]),
        overloaded(3, file=b"\x35\x05\x05" + b"\xff" * 125),
    ],
)
def test_what_grants_nothing_is_nothing(frame: bytes) -> None:
    assert read_leases(frame) == ()


def test_a_release_and_a_decline_give_an_address_up() -> None:
    assert read_given_up(RELEASE) == ("10.0.0.5",)
    declined = v4("decline", ("requested_addr", "10.0.0.6"), op=1, ports=(68, 67), yiaddr="0.0.0.0", dst=ALL)
    assert read_given_up(declined) == ("10.0.0.6",)
    assert read_given_up(RELEASE6) == ("fd00::5",)
    assert read_given_up(v6(DHCP6_Decline(), ia(("fd00::6", 9)), ports=(546, 547))) == ("fd00::6",)


def test_other_words_of_a_client_give_nothing_up() -> None:
    for frame in (ACK, REPLY, v4("request", op=1, ports=(68, 67)), v4("decline", op=1, ports=(68, 67))):
        assert read_given_up(frame) == ()
    assert read_given_up(v6(DHCP6_Request(), ia(("fd00::6", 9)), ports=(546, 547))) == ()


@pytest.mark.parametrize("whole", [ACK, REPLY, RELEASE, RELEASE6], ids=["ack", "reply", "release", "release6"])
def test_a_message_that_is_cut_off_never_says_another_thing_than_the_whole(whole: bytes) -> None:
    for length in range(len(whole)):
        cut = whole[:length]
        assert {(lease.mac, lease.address) for lease in read_leases(cut)} <= {
            (lease.mac, lease.address) for lease in read_leases(whole)
        }
        assert set(read_given_up(cut)) <= set(read_given_up(whole))


@given(st.binary(max_size=700), st.sampled_from([b"\x08\x00E\x00", b"\x86\xdd\x60\x00"]))
def test_no_frame_harms_the_reader(tail: bytes, kind: bytes) -> None:
    assert len(read_leases(bytes(12) + kind + tail)) + len(read_given_up(bytes(12) + kind + tail)) <= 16


@given(st.sampled_from([ACK, REPLY, RELEASE, RELEASE6]), st.integers(12, 340), st.binary(min_size=1, max_size=6))
def test_no_damage_to_a_good_frame_harms_the_reader(good: bytes, at: int, damage: bytes) -> None:
    broken = good[:at] + damage + good[at + len(damage) :]
    assert len(read_leases(broken)) + len(read_given_up(broken)) <= 16


@given(st.binary(max_size=60_000))
def test_a_message_as_long_as_they_come_is_read_to_its_end_and_no_further(options: bytes) -> None:
    message = bytes(BOOTP(op=2, yiaddr="10.0.0.5", chaddr=RAW, options=b"c\x82Sc")) + b"\x35\x01\x05" + options
    datagram = bytes(UDP(sport=67, dport=68)) + message
    frame = bytes(Ether(dst=CLIENT, src=SERVER, type=0x800) / IP(proto=17)) + datagram
    assert len(read_leases(frame)) <= 1
