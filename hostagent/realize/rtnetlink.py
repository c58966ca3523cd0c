"""Dumps of links and addresses by rtnetlink(7), decoded here: what the agent reads after every change of any link.
And, when a person asks, of what HTB has dropped.

Only what is asked for is decoded, because the whole of a link has a hundred attributes and this runs beside every guest
that comes or goes. A dump that the kernel marks as interrupted is asked for again. One setting is made here too.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address

__all__ = [
    "RawLink",
    "dump_addresses",
    "dump_htb_drops",
    "dump_links",
    "flags_request",
    "htb_drops",
    "links_told",
    "set_arp_ignore",
]

_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_LINK, _ADDRESS, _DISCIPLINE = struct.Struct("=BxHiII"), struct.Struct("=BBBBI"), struct.Struct("=BxHiIII")
_NEWLINK, _GETLINK, _SETLINK, _NEWADDR, _GETADDR, _NEWQDISC, _GETQDISC = 16, 18, 19, 20, 22, 36, 38
_REQUEST = 0x1
_ERROR, _DONE = 2, 3
_REQUEST_DUMP, _REQUEST_ACKNOWLEDGED, _INTERRUPTED = 0x1 | 0x300, 0x1 | 0x4, 0x10
_LINK_ADDRESS, _LINK_NAME, _LINK_MTU, _LINK_QDISC, _LINK_MASTER, _LINK_CARRIER = 1, 3, 4, 6, 10, 33
_LINK_FAMILIES, _INET, _INET_CONF, _ARP_IGNORE = 26, 2, 1, 19  # IFLA_AF_SPEC holds AF_INET's, that its IFLA_INET_CONF
_ADDRESS_PEER, _ADDRESS_LOCAL = 1, 2
_DISCIPLINE_KIND, _DISCIPLINE_COUNTERS, _OF_QUEUE, _DROPS_AT = 1, 7, 3, 8  # TCA_STATS2 holds TCA_STATS_QUEUE
_NESTED, _NESTED_MASK = 0x8000, 0x3FFF
_TRIES = 5
_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RawLink:
    """A link as the kernel tells it; *master* is an index, 0 for none; *arp_ignore* is None without IPv4."""

    index: int
    name: str
    flags: int
    mac: str
    mtu: int
    qdisc: str
    master: int
    carrier: bool
    arp_ignore: int | None


def dump_links() -> list[RawLink]:
    """Every link of this network namespace.

    Raises:
        OSError: the kernel refused, or did not answer.
    """
    return [_link(body) for body in _dump(_GETLINK, _NEWLINK, _LINK.pack(0, 0, 0, 0, 0))]


def links_told(data: bytes) -> Iterator[RawLink]:
    """The links in what one `recv` of a socket in the group of links has brought: new ones, and ones that changed."""
    for kind, _, _, body in _messages(data):
        if kind == _NEWLINK and len(body) >= _LINK.size:
            yield _link(body)


def flags_request(index: int, flags: int) -> bytes:
    """The message that sets *flags* of a link and leaves the others; the kernel answers only if it refuses."""
    body = _LINK.pack(0, 0, index, flags, flags)
    return _HEADER.pack(_HEADER.size + len(body), _SETLINK, _REQUEST, 0, 0) + body


def dump_addresses() -> dict[int, list[str]]:
    """By index of the link: its addresses, each with its prefix length.

    Raises:
        OSError: the kernel refused, or did not answer.
    """
    addresses: dict[int, list[str]] = {}
    for body in _dump(_GETADDR, _NEWADDR, _ADDRESS.pack(0, 0, 0, 0, 0)):
        _, length, _, _, index = _ADDRESS.unpack_from(body)
        found = _attributes(body, _ADDRESS.size)
        address = found.get(_ADDRESS_LOCAL) or found.get(_ADDRESS_PEER)
        if address and len(address) in (4, 16):
            addresses.setdefault(index, []).append(f"{ip_address(address)}/{length}")
    return addresses


def dump_htb_drops() -> dict[int, int]:
    """By index of each link that HTB shapes: frames that its queues had no room for, since it was made.

    Raises:
        OSError: the kernel refused, or did not answer.
    """
    return htb_drops(_dump(_GETQDISC, _NEWQDISC, _DISCIPLINE.pack(0, 0, 0, 0, 0, 0)))


def htb_drops(disciplines: Iterable[bytes]) -> dict[int, int]:
    """The same from what the kernel tells of each queueing discipline; HTB counts what its own queues drop, too."""
    drops = {}
    for body in disciplines:
        found = _attributes(body, _DISCIPLINE.size)
        if _text(found.get(_DISCIPLINE_KIND, b"")) == "htb":
            _, _, index, *_ = _DISCIPLINE.unpack_from(body)
            queue = _attributes(found.get(_DISCIPLINE_COUNTERS, b""), 0).get(_OF_QUEUE, b"")
            drops[index] = _number(queue[_DROPS_AT : _DROPS_AT + 4])
    return drops


def set_arp_ignore(index: int, value: int) -> None:
    """For which addresses the link answers ARP (ip-sysctl).

    Raises:
        OSError: the kernel refused, or did not answer.
    """
    conf = _nested(_INET_CONF, _attribute(_ARP_IGNORE, struct.pack("=I", value)))
    body = _LINK.pack(0, 0, index, 0, 0) + _nested(_LINK_FAMILIES, _nested(_INET, conf))
    with _connected() as kernel:
        kernel.send(_HEADER.pack(_HEADER.size + len(body), _SETLINK, _REQUEST_ACKNOWLEDGED, 1, 0) + body)
        for _ in _answers(kernel, 1):
            pass


def _dump(request: int, wanted: int, body: bytes) -> list[bytes]:
    with _connected() as kernel:
        for number in range(1, _TRIES + 1):
            kernel.send(_HEADER.pack(_HEADER.size + len(body), request, _REQUEST_DUMP, number, 0) + body)
            found, whole = [], True
            for kind, flags, message in _answers(kernel, number):
                whole = whole and not flags & _INTERRUPTED
                if kind == wanted:
                    found.append(message)
            if whole:
                return found
    raise OSError("the kernel's list changed each time while it was read")


@contextmanager
def _connected() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_TIMEOUT_S)
        kernel.bind((0, 0))
        yield kernel


def _answers(kernel: socket.socket, number: int) -> Iterator[tuple[int, int, bytes]]:
    """Kind, flags and body of each message that answers request *number*, up to its end."""
    while True:
        for kind, flags, sequence, message in _messages(kernel.recv(1 << 18)):
            if sequence != number:
                continue
            if kind == _ERROR:
                code = -struct.unpack_from("=i", message)[0]
                if code == 0:  # an acknowledgement
                    return
                raise OSError(code, os.strerror(code))
            yield kind, flags, message
            if kind == _DONE:
                return


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Kind, flags, sequence number and body of each message in *data*."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        yield kind, flags, sequence, data[at + _HEADER.size : at + length]
        at += max((length + 3) & ~3, _HEADER.size)


def _link(body: bytes) -> RawLink:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    found = _attributes(body, _LINK.size)
    return RawLink(
        index=index,
        name=_text(found.get(_LINK_NAME, b"")),
        flags=flags,
        mac=found[_LINK_ADDRESS].hex(":") if _LINK_ADDRESS in found else "",
        mtu=_number(found.get(_LINK_MTU, b"")),
        qdisc=_text(found.get(_LINK_QDISC, b"")),
        master=_number(found.get(_LINK_MASTER, b"")),
        carrier=bool(_number(found.get(_LINK_CARRIER, b""))),
        arp_ignore=_arp_ignore(found.get(_LINK_FAMILIES, b"")),
    )


def _attributes(body: bytes, at: int) -> dict[int, bytes]:
    found = {}
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _NESTED_MASK] = body[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found


def _attribute(kind: int, value: bytes) -> bytes:
    assert len(value) % 4 == 0, "longer ones would need padding"
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value


def _nested(kind: int, value: bytes) -> bytes:
    return _attribute(kind | _NESTED, value)


def _arp_ignore(families: bytes) -> int | None:
    inet = _attributes(families, 0).get(_INET, b"")
    values, at = _attributes(inet, 0).get(_INET_CONF, b""), 4 * (_ARP_IGNORE - 1)
    return int(struct.unpack_from("=I", values, at)[0]) if len(values) >= at + 4 else None


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _number(value: bytes) -> int:
    return int.from_bytes(value, "little" if struct.pack("=H", 1)[0] else "big")
