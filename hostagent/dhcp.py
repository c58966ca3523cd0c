"""What DHCP messages say of addresses: asked for by a client, granted by a server, given up by a client. Pure.

Theory of operation. Three questions are put to a frame. `read_leases`: did a server grant addresses, to whom, for how
long? An ACK (RFC 2131) names the client's MAC; a Reply of DHCPv6 (RFC 8415) knows its client by an identifier of the
client's making, so there it is the MAC that the frame is addressed to. `read_asked`: what does a client ask for?
`read_given_up`: does a client release or decline addresses? Offers settle nothing and are not read.

Whom a server's word names is not whom it answers. A MAC in a DHCP message is what the client has written there, which
the switch cannot check, and a server may tell its clients by their identifiers: so anybody can have addresses granted
in another's name. A lease counts only as the answer to what its client was seen to ask, from its own MAC; whether it
is, tells its *question*, which is made of all that the server repeats of a request, so that nobody else's can be
taken for it. Of DHCP that is transaction, MAC and address: a REQUEST names the one that its ACK grants. Of DHCPv6 it is
transaction, MAC, the client's identifier and the identity association: to the server, who repeats these is that client,
and an association has the addresses that it has for it. A lease without a REQUEST (RFC 4039, rapid commit) is not known
from DHCP.

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

__all__ = ["Lease", "read_asked", "read_given_up", "read_leases"]

_BROADCAST: Final = b"\xff" * 6
_COOKIE: Final = b"\x63\x82\x53\x63"
_TO_SERVER4, _TO_CLIENT4, _TO_SERVER6, _TO_CLIENT6 = 67, 68, 547, 546
_BOOTREQUEST, _BOOTREPLY = 1, 2
_REQUESTED, _LEASE, _OVERLOAD, _TYPE, _END = 50, 51, 52, 53, 255
_REQUEST, _DECLINE, _ACK, _RELEASE = 3, 4, 5, 7
_SOLICIT6, _REQUEST6, _RENEW6, _REBIND6, _REPLY6, _RELEASE6, _DECLINE6 = 1, 3, 5, 6, 7, 8, 9
_ASKING6: Final = (_SOLICIT6, _REQUEST6, _RENEW6, _REBIND6)  # a Solicit may be answered by a Reply at once
_CLIENT6: Final = 1
_IA_HEAD: Final = {3: 12, 4: 4}  # IA_NA, IA_TA: bytes before their options
_IA_ADDRESS: Final = 5
_FOREVER: Final = 0xFFFF_FFFF
_ADDRESSES_MAX: Final = 16
_IDENTIFIER_BYTES_MAX: Final = 130


@dataclass(frozen=True, slots=True)
class Lease:
    """A server has granted *address* to the client with *mac*, for *seconds*; None: without an end. *question* is equal
    to what `read_asked` makes of that which it answers."""

    mac: str
    address: str
    seconds: int | None
    question: bytes


def read_leases(frame: bytes) -> tuple[Lease, ...]:
    """What the server that sent *frame* grants in it; nothing where it grants nothing."""
    try:
        kind, destination, payload = _datagram(frame)
        if (kind, destination) == (4, _TO_CLIENT4):
            return tuple(_granted4(frame[:6], payload))
        if (kind, destination) == (6, _TO_CLIENT6) and not frame[0] & 1 and payload[0] == _REPLY6:
            mac, found = frame[:6], tuple(_addresses6(frame[:6], payload))
            return tuple(Lease(mac.hex(":"), text, _ending(life), question) for text, life, question in found if life)
    except (struct.error, ValueError, IndexError):
        pass
    return ()


def read_asked(frame: bytes) -> tuple[bytes, ...]:
    """The questions that the client that sent *frame* puts to servers from its own MAC; see `Lease`."""
    try:
        kind, destination, payload = _datagram(frame)
        if (kind, destination) == (4, _TO_SERVER4):
            return tuple(_asked4(frame[6:12], payload))
        if (kind, destination) == (6, _TO_SERVER6) and payload[0] in _ASKING6:
            found = dict.fromkeys(question for question, _ in _associations6(frame[6:12], payload))
            return tuple(found)[:_ADDRESSES_MAX]
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
            return tuple(text for text, _, _ in _addresses6(frame[6:12], payload))
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
        raw = options.get(_LEASE, b"")
        seconds = _ending(int.from_bytes(raw)) if len(raw) == 4 else None
        yield Lease(mac.hex(":"), str(address), seconds, _question4(message, mac, address))


def _asked4(sender: bytes, message: bytes) -> Iterator[bytes]:
    """A client that has the address already, and renews it, names it as its own and does not ask for it (4.3.2)."""
    options = _options4(message)
    operation, hardware, length = struct.unpack_from("!BBB", message, 0)
    if operation != _BOOTREQUEST or (hardware, length) != (1, 6) or options.get(_TYPE) != bytes([_REQUEST]):
        return
    address = IPv4Address(options.get(_REQUESTED, message[12:16]))
    if message[28:34] == sender and _fit4(address):
        yield _question4(message, sender, address)


def _question4(message: bytes, mac: bytes, address: IPv4Address) -> bytes:
    return message[4:8] + mac + address.packed


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


def _addresses6(mac: bytes, message: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Addresses in the identity associations of *message*, with their valid lifetimes in seconds, and whose they are:
    the question of an association of the client with *mac*."""
    count = 0
    for question, options in _associations6(mac, message):
        for inner, value in _options6(options):
            if inner != _IA_ADDRESS or count == _ADDRESSES_MAX:
                continue
            count += 1
            raw, seconds = struct.unpack_from("!16s4xI", value)
            address = IPv6Address(raw)
            if not (address.is_unspecified or address.is_multicast or address.is_loopback):
                yield str(address), seconds, question


def _associations6(mac: bytes, message: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The identity associations of *message*: the question of each, and its options."""
    found = list(_options6(message[4:]))
    client = next((value for kind, value in found if kind == _CLIENT6), b"")
    if not 0 < len(client) <= _IDENTIFIER_BYTES_MAX:
        raise ValueError("no client")
    for kind, association in found:
        head = _IA_HEAD.get(kind)
        if head is not None:
            yield message[1:4] + mac + bytes([kind]) + association[:4] + client, association[head:]


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
