"""What DHCP messages say of addresses: granted by a server, given up by a client. Pure.

Theory of operation. Two questions are put to a frame. `read_leases`: did a server grant addresses, to whom, for how
long? An ACK (RFC 2131) names the client's MAC; a Reply of DHCPv6 (RFC 8415) knows its client by an identifier of the
client's making, so there it is the MAC that the frame is addressed to. `read_given_up`: does a client release or
decline addresses? Offers, requests and solicitations settle nothing and are not read.

*frame* is somebody else's: no length in it is believed, no fragment is read, every loop moves forward and is bounded,
and what is cut off, tagged or malformed says nothing. Whose word a frame is, is not decided here: the pipeline lets
servers' messages pass only from ports that are allowed to send them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

__all__ = ["Lease", "read_given_up", "read_leases"]

_BROADCAST: Final = b"\xff" * 6
_COOKIE: Final = b"\x63\x82\x53\x63"
_TO_SERVER4, _TO_CLIENT4, _TO_SERVER6, _TO_CLIENT6 = 67, 68, 547, 546
_BOOTREQUEST, _BOOTREPLY = 1, 2
_REQUESTED, _LEASE, _OVERLOAD, _TYPE, _END = 50, 51, 52, 53, 255
_DECLINE, _ACK, _RELEASE = 4, 5, 7
_REPLY6, _RELEASE6, _DECLINE6 = 7, 8, 9
_IA_HEAD: Final = {3: 12, 4: 4}  # IA_NA, IA_TA: bytes before their options
_IA_ADDRESS: Final = 5
_FOREVER: Final = 0xFFFF_FFFF
_ADDRESSES_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class Lease:
    """A server has granted *address* to the client with *mac*, for *seconds*; None: without an end."""

    mac: str
    address: str
    seconds: int | None


def read_leases(frame: bytes) -> tuple[Lease, ...]:
    """What the server that sent *frame* grants in it; nothing where it grants nothing."""
    try:
        kind, destination, payload = _datagram(frame)
        if (kind, destination) == (4, _TO_CLIENT4):
            return tuple(_granted4(frame[:6], payload))
        if (kind, destination) == (6, _TO_CLIENT6) and not frame[0] & 1 and payload[0] == _REPLY6:
            found = tuple(_addresses6(payload))
            mac = frame[:6].hex(":")
            return tuple(Lease(mac, text, _ending(seconds)) for text, seconds in found if seconds)
    except (struct.error, ValueError, IndexError):
        pass
    return ()


def read_given_up(frame: bytes) -> tuple[str, ...]:
    """Addresses that the client that sent *frame* has no more: released, or declined because another has them."""
    try:
        kind, destination, payload = _datagram(frame)
        if (kind, destination) == (4, _TO_SERVER4):
            return tuple(_given_up4(payload))
        if (kind, destination) == (6, _TO_SERVER6) and payload[0] in (_RELEASE6, _DECLINE6):
            return tuple(text for text, _ in _addresses6(payload))
    except (struct.error, ValueError, IndexError):
        pass
    return ()


def _datagram(frame: bytes) -> tuple[int, int, bytes]:
    """IP version, UDP destination port and payload of an untagged, unfragmented frame.

    Raises:
        ValueError, struct.error, IndexError: it is none.
    """
    (kind,) = struct.unpack_from("!H", frame, 12)
    if kind == 0x0800:
        first, length, fragment, protocol = struct.unpack_from("!BxH2xHxB", frame, 14)
        header = 4 * (first & 15)
        if first >> 4 != 4 or header < 20 or fragment & 0x3FFF or protocol != 17:
            raise ValueError("no whole UDP datagram")
        at, end, version = 14 + header, 14 + length, 4
    elif kind == 0x86DD:
        first, length, protocol = struct.unpack_from("!B3xHB", frame, 14)
        if first >> 4 != 6 or protocol != 17:  # behind extension headers nobody sends DHCPv6
            raise ValueError("no UDP datagram")
        at, end, version = 54, 54 + length, 6
    else:
        raise ValueError("no IP packet")
    destination, size = struct.unpack_from("!2xHH", frame, at)
    end = min(end, at + size, len(frame))
    return version, destination, frame[at + 8 : end]


# --- DHCP, RFC 2131 -----------------------------------------------------------------------------------------------


def _granted4(to: bytes, message: bytes) -> Iterator[Lease]:
    options = _options4(message)
    operation, hardware, length = struct.unpack_from("!BBB", message, 0)
    address, mac = IPv4Address(message[16:20]), message[28:34]
    if operation != _BOOTREPLY or (hardware, length) != (1, 6) or options.get(_TYPE) != bytes([_ACK]):
        return
    if to in (mac, _BROADCAST) and not mac[0] & 1 and _fit4(address):
        seconds = options.get(_LEASE, b"")
        yield Lease(mac.hex(":"), str(address), _ending(int.from_bytes(seconds)) if len(seconds) == 4 else None)


def _given_up4(message: bytes) -> Iterator[str]:
    options = _options4(message)
    if message[0] != _BOOTREQUEST:
        return
    kind = options.get(_TYPE)
    if kind == bytes([_RELEASE]):
        yield str(IPv4Address(message[12:16]))
    elif kind == bytes([_DECLINE]):
        yield str(IPv4Address(options.get(_REQUESTED, b"")))


def _options4(message: bytes) -> dict[int, bytes]:
    """The first of each option, also of those that lie in the fields `file` and `sname` (option 52)."""
    if message[236:240] != _COOKIE:
        raise ValueError("no DHCP")
    found: dict[int, bytes] = {}
    _read_options4(message[240:], found)
    (overload,) = found.get(_OVERLOAD, b"\0")
    if overload & 1:
        _read_options4(message[108:236], found)
    if overload & 2:
        _read_options4(message[44:108], found)
    return found


def _read_options4(field: bytes, into: dict[int, bytes]) -> None:
    at = 0
    while at < len(field) and field[at] != _END:
        if field[at] == 0:  # padding
            at += 1
            continue
        length = field[at + 1]
        value = field[at + 2 : at + 2 + length]
        if len(value) != length:
            raise ValueError("an option is cut off")
        into.setdefault(field[at], value)
        at += 2 + length


def _fit4(address: IPv4Address) -> bool:
    return not (address.is_unspecified or address.is_multicast or address.is_loopback or address.is_reserved)


# --- DHCPv6, RFC 8415 ---------------------------------------------------------------------------------------------


def _addresses6(message: bytes) -> Iterator[tuple[str, int]]:
    """Addresses in the identity associations of *message*, with their valid lifetimes in seconds."""
    count = 0
    for kind, association in _options6(message[4:]):
        head = _IA_HEAD.get(kind)
        if head is None:
            continue
        for inner, value in _options6(association[head:]):
            if inner != _IA_ADDRESS or count == _ADDRESSES_MAX:
                continue
            count += 1
            raw, seconds = struct.unpack_from("!16s4xI", value)
            address = IPv6Address(raw)
            if not (address.is_unspecified or address.is_multicast or address.is_loopback):
                yield str(address), seconds


def _options6(field: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(field):
        kind, length = struct.unpack_from("!HH", field, at)
        value = field[at + 4 : at + 4 + length]
        if len(value) != length:
            raise ValueError("an option is cut off")
        yield kind, value
        at += 4 + length


def _ending(seconds: int) -> int | None:
    return None if seconds == _FOREVER else seconds
