"""The answer to a neighbour solicitation, where the switch can't make it (RFC 4861, 4.4; `pipeline/answer`). Pure."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address
from typing import Final

from hostagent.pipeline.icmpv6 import ALL_NODES, ALL_NODES_MAC, OVERRIDE, SOLICITED, TARGET_OPTION, Icmpv6, message_at

__all__ = ["advertisement"]

_IPV6, _ICMPV6 = 0x86DD, 58
_HOPS: Final = 255
_HEADERS: Final = 54  # bytes of Ethernet and IPv6
_OPTION_UNITS: Final = 1  # its length, in units of 8 bytes


def advertisement(solicitation: bytes) -> bytes | None:
    """The frame with which the owner answers *solicitation*, a frame that has the owner's MAC as its destination.

    It goes to whoever asked; to all nodes, and not as a solicited one, where duplicate address detection did, from `::`
    (RFC 4861, 7.2.4). None for what is no valid solicitation (7.1.1): that is a guest's, and nobody owes it an answer.
    """
    try:
        question = _read(solicitation)
    except struct.error:  # cut off
        return None
    if question is None:
        return None
    asker, target = question
    owner, asker_mac = solicitation[:6], solicitation[6:12]
    flags = SOLICITED | OVERRIDE
    if not any(asker):
        asker, asker_mac, flags = IPv6Address(ALL_NODES).packed, ALL_NODES_MAC.to_bytes(6), OVERRIDE
    option = (TARGET_OPTION, _OPTION_UNITS, owner)
    message = struct.pack("!BBHI16sBB6s", Icmpv6.ADVERTISEMENT, 0, 0, flags, target, *option)
    checksum = _checksum(target, asker, message)
    message = message[:2] + struct.pack("!H", checksum) + message[4:]
    header = struct.pack("!IHBB16s16s", 6 << 28, len(message), _ICMPV6, _HOPS, target, asker)
    return asker_mac + owner + struct.pack("!H", _IPV6) + header + message


def _read(frame: bytes) -> tuple[bytes, bytes] | None:
    """Source and target of a valid solicitation."""
    kind, length, hops, source, destination = struct.unpack_from("!H4xHxB16s16s", frame, 12)
    end = _HEADERS + length
    if kind != _IPV6 or hops != _HOPS or end > len(frame):
        return None
    at = message_at(frame)
    if at is None or at > end or _checksum(source, destination, frame[at:end]):
        return None
    message, code, target = struct.unpack_from("!BB6x16s", frame[:end], at)
    return (source, target) if (message, code) == (Icmpv6.SOLICITATION, 0) else None


def _checksum(source: bytes, destination: bytes, message: bytes) -> int:
    """Of ICMPv6 (RFC 4443, 2.3); 0 over a message that has its own in it."""
    data = source + destination + struct.pack("!II", len(message), _ICMPV6) + message + bytes(len(message) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
