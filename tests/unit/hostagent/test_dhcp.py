"""Addresses from DHCP: what clients ask for, servers grant and clients give up, read from good frames, odd ones and
garbage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import (
    DHCP6_Decline,
    DHCP6_Rebind,
    DHCP6_Release,
    DHCP6_Renew,
    DHCP6_Reply,
    DHCP6_Request,
    DHCP6_Solicit,
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

from hostagent.dhcp import read_asked, read_given_up, read_leases

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
    for option in (DHCP6OptClientId(duid=b"\0\3\0\1me"), DHCP6OptServerId(), *options):
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


def request(*options, src: str = CLIENT, dst: str = ALL, kind: str = "request", **fields) -> bytes:
    """What a client says to a server; *options* and *fields* are of its message."""
    said = v4(kind, *options, ports=(68, 67), dst=dst, **{"op": 1, "yiaddr": "0.0.0.0", **fields})
    return said[:6] + bytes.fromhex(src.replace(":", "")) + said[12:]


def request6(message, *options, src: str = CLIENT, client: bytes = b"\0\3\0\1me") -> bytes:
    payload = IPv6(src="fe80::1", dst="ff02::1:2") / UDP(sport=546, dport=547) / message
    for option in (DHCP6OptClientId(duid=client), *options):
        payload /= option
    return bytes(Ether(src=src, dst="33:33:00:01:00:02") / payload)


def reply6(*options, trid: int, client: bytes = b"\0\3\0\1me") -> bytes:
    payload = IPv6(src="fe80::2", dst="fe80::1") / UDP(sport=547, dport=546) / DHCP6_Reply(trid=trid)
    for option in (DHCP6OptClientId(duid=client), DHCP6OptServerId(), *options):
        payload /= option
    return bytes(Ether(src=SERVER, dst=CLIENT) / payload)


def granted(frame: bytes) -> list[tuple[str, str, int | None]]:
    return [(one.mac, one.address, one.seconds) for one in read_leases(frame)]


def answers(reply: bytes, asked: bytes) -> bool:
    """Whether all that *reply* grants was asked for in *asked*."""
    found = read_leases(reply)
    return bool(found) and {one.question for one in found} <= set(read_asked(asked))


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
    assert granted(frame) == [(CLIENT, "10.0.0.5", seconds)]


def test_a_reply_grants_its_addresses_to_the_mac_it_is_sent_to() -> None:
    assert granted(REPLY) == [(CLIENT, "fd00::5", 3600)]
    ta = DHCP6OptIA_TA(iaid=1, iataopts=[DHCP6OptIAAddress(addr="fd00::7", validlft=60)])
    found = granted(v6(DHCP6_Reply(), ia(("fd00::5", 60), ("fd00::6", 0xFFFFFFFF)), ta))
    assert found == [(CLIENT, "fd00::5", 60), (CLIENT, "fd00::6", None), (CLIENT, "fd00::7", 60)]


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


def test_an_ack_answers_who_asked_for_that_address_in_that_transaction_from_its_own_mac() -> None:
    ack = v4("ack", xid=7, dst=ALL)
    for asked in (
        request(("requested_addr", "10.0.0.5"), xid=7),
        request(xid=7, ciaddr="10.0.0.5"),  # renewed
        request(xid=7, ciaddr="10.0.0.5", dst=SERVER),
    ):
        assert answers(ack, asked)
    for other in (
        request(("requested_addr", "10.0.0.5"), xid=8),
        request(("requested_addr", "10.0.0.6"), xid=7),
        request(xid=7),
        request(("requested_addr", "10.0.0.5"), xid=7, src="02:00:00:00:00:09"),
        request(("requested_addr", "10.0.0.5"), xid=7, chaddr=bytes.fromhex("020000000009"), src="02:00:00:00:00:09"),
        request(("requested_addr", "10.0.0.5"), xid=7, kind="discover"),
        request(("requested_addr", "10.0.0.5"), xid=7, op=2),
        v4("ack", xid=7),
        b"",
    ):
        assert not answers(ack, other)


@pytest.mark.parametrize("kind", [DHCP6_Solicit, DHCP6_Request, DHCP6_Renew, DHCP6_Rebind])
def test_a_reply_answers_the_association_of_the_client_that_asked(kind: type) -> None:
    reply, mine = reply6(ia(("fd00::5", 60)), trid=7), DHCP6OptIA_NA(iaid=1)
    assert answers(reply, request6(kind(trid=7), mine))
    assert not answers(reply, request6(kind(trid=8), mine))
    assert not answers(reply, request6(kind(trid=7), mine, src="02:00:00:00:00:09"))
    assert not answers(reply, request6(kind(trid=7), mine, client=b"\0\3\0\1it"))
    assert not answers(reply, request6(kind(trid=7), DHCP6OptIA_NA(iaid=2)))
    assert not answers(reply, request6(kind(trid=7), DHCP6OptIA_TA(iaid=1)))


def test_who_names_itself_at_too_great_length_asks_nothing_and_is_granted_nothing() -> None:
    for client in (b"", b"x" * 131):
        assert read_asked(request6(DHCP6_Request(), DHCP6OptIA_NA(iaid=1), client=client)) == ()
        assert read_leases(reply6(ia(("fd00::5", 60)), trid=0, client=client)) == ()
    many = [DHCP6OptIA_NA(iaid=number) for number in range(30)]
    assert len(read_asked(request6(DHCP6_Request(), *many))) == 16


def test_what_asks_for_nothing_is_no_question() -> None:
    for frame in (ACK, REPLY, RELEASE, RELEASE6, request6(DHCP6_Release(), ia(("fd00::5", 60)))):
        assert read_asked(frame) == ()


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


ASKED = request(("requested_addr", "10.0.0.5"), xid=7)
ASKED6 = request6(DHCP6_Request(), DHCP6OptIA_NA(iaid=1))


@pytest.mark.parametrize("whole", [ACK, REPLY, RELEASE, RELEASE6, ASKED, ASKED6])
def test_a_message_that_is_cut_off_never_says_another_thing_than_the_whole(whole: bytes) -> None:
    for length in range(len(whole)):
        cut = whole[:length]
        assert {(lease.mac, lease.address) for lease in read_leases(cut)} <= {
            (lease.mac, lease.address) for lease in read_leases(whole)
        }
        assert set(read_given_up(cut)) <= set(read_given_up(whole))
        assert set(read_asked(cut)) <= set(read_asked(whole))


def read_in(frame: bytes) -> int:
    """How much is found in *frame*, whatever it is read for."""
    return len(read_leases(frame)) + len(read_given_up(frame)) + len(read_asked(frame))


@given(st.binary(max_size=700), st.sampled_from([b"\x08\x00E\x00", b"\x86\xdd\x60\x00"]))
def test_no_frame_harms_the_reader(tail: bytes, kind: bytes) -> None:
    assert read_in(bytes(12) + kind + tail) <= 16


@given(
    st.sampled_from([ACK, REPLY, RELEASE, RELEASE6, ASKED, ASKED6]),
    st.integers(12, 340),
    st.binary(min_size=1, max_size=6),
)
def test_no_damage_to_a_good_frame_harms_the_reader(good: bytes, at: int, damage: bytes) -> None:
    broken = good[:at] + damage + good[at + len(damage) :]
    assert read_in(broken) <= 16


@given(st.binary(max_size=60_000))
def test_a_message_as_long_as_they_come_is_read_to_its_end_and_no_further(options: bytes) -> None:
    message = bytes(BOOTP(op=2, yiaddr="10.0.0.5", chaddr=RAW, options=b"c\x82Sc")) + b"\x35\x01\x05" + options
    datagram = bytes(UDP(sport=67, dport=68)) + message
    frame = bytes(Ether(dst=CLIENT, src=SERVER, type=0x800) / IP(proto=17)) + datagram
    assert len(read_leases(frame)) <= 1
