"""Addresses that guests show to have: what is read from a frame, and what is kept of it for how long. Pure.

Theory of operation. A port without defined addresses may use any that is nobody's. What it uses it says in ARP and ND:
`read_claim` takes the address from such a frame, which the pipeline copied to the agent after it had passed GUARD
(`pipeline/learn` says which frames come). `Learning` holds, by port of this host, which addresses its guest claims and
when each was last seen. It does not decide whose an address is: the network manager does, and pushes `Learned`.

Three bounds keep a loud guest from anything but its own copies. A port has at most `ADDRESSES_MAX` addresses; more are
not learned, and work as ever, by flooding. Copies spend tokens; a port without any is *hushed* for a while: the switch
makes no more copies of its frames, so the agent does not even see them. And only a change is told upward, never a
refresh. What was not seen for `AGE_S` is forgotten; the next frame that claims it brings it back.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final
from uuid import UUID

from netmgr.contract.types import LearnedSource

__all__ = ["ADDRESSES_MAX", "AGE_S", "HUSH_S", "Claimed", "Learning", "read_claim"]

ADDRESSES_MAX: Final = 16
AGE_S: Final = 1800.0
HUSH_S: Final = 30.0
_TOKENS_MAX: Final = 30.0
_TOKENS_A_SECOND: Final = 1.0


@dataclass(frozen=True, slots=True)
class Claimed:
    """An address and what showed that a guest has it."""

    address: str
    source: LearnedSource


def read_claim(frame: bytes) -> Claimed | None:
    """The address that the sender of *frame* claims in ARP (RFC 826) or ND (RFC 4861); None where it claims none.

    Probes, and duplicate address detection from `::`, claim nothing yet. Whatever is cut off, or is not an address
    that a host can have, claims nothing. *frame* is a guest's, so nothing of it is believed to be there.
    """
    try:
        (kind,) = struct.unpack_from("!H", frame, 12)
        if kind == 0x0806:
            return _read_arp(frame)
        if kind == 0x86DD:
            return _read_nd(frame)
    except (struct.error, ValueError):
        pass
    return None


def _read_arp(frame: bytes) -> Claimed | None:
    hardware, protocol, lengths, _, sender = struct.unpack_from("!HHHH6x4s", frame, 14)
    if (hardware, protocol, lengths) != (1, 0x0800, 0x0604):
        return None
    address = IPv4Address(sender)
    fit = not (address.is_unspecified or address.is_multicast or address.is_loopback or address.is_reserved)
    return Claimed(str(address), LearnedSource.ARP) if fit else None


def _read_nd(frame: bytes) -> Claimed | None:
    """From what claims in the pipeline: the source of a solicitation, the target of an advertisement."""
    next_header, source = struct.unpack_from("!6xBx16s", frame, 14)
    at = 54
    for _ in range(4):  # hop-by-hop and destination options; more of them is no neighbour discovery worth reading
        if next_header not in (0, 60):
            break
        next_header, length = struct.unpack_from("!BB", frame, at)
        at += 8 * (length + 1)
    if next_header != 58:
        return None
    kind, code, target = struct.unpack_from("!BB6x16s", frame, at)
    if code or kind not in (135, 136):
        return None
    address = IPv6Address(source if kind == 135 else target)
    fit = not (address.is_unspecified or address.is_multicast or address.is_loopback)
    return Claimed(str(address), LearnedSource.ND) if fit else None


@dataclass(slots=True)
class _Port:
    seen: dict[str, float] = field(default_factory=dict)  # address -> when last
    sources: dict[str, LearnedSource] = field(default_factory=dict)
    tokens: float = _TOKENS_MAX
    counted_at: float = 0.0
    hushed_until: float = 0.0


class Learning:
    """What the guests of this host claim. `now` is monotonic, in seconds."""

    def __init__(self) -> None:
        self._ports: dict[UUID, _Port] = {}

    def hear(self, port: UUID, claimed: Claimed, *, now: float) -> bool:
        """The guest of *port* claims an address; True when what is to be told of the port has changed."""
        known = self._ports.setdefault(port, _Port(counted_at=now))
        known.tokens = min(_TOKENS_MAX, known.tokens + (now - known.counted_at) * _TOKENS_A_SECOND) - 1
        known.counted_at = now
        if known.tokens < 0:
            known.hushed_until = now + HUSH_S
        if claimed.address in known.seen:
            known.seen[claimed.address] = now
            return False
        if len(known.seen) >= ADDRESSES_MAX:
            known.hushed_until = now + HUSH_S
            return False
        known.seen[claimed.address] = now
        known.sources[claimed.address] = claimed.source
        return True

    def revive(self, port: UUID, claims: Iterable[Claimed], *, now: float) -> None:
        """Take over what was learned of *port* elsewhere, or in an earlier life of the agent, as seen now."""
        known = self._ports.setdefault(port, _Port(counted_at=now))
        for claimed in claims:
            if claimed.address not in known.seen and len(known.seen) < ADDRESSES_MAX:
                known.seen[claimed.address] = now
                known.sources[claimed.address] = claimed.source

    def refresh(self, port: UUID, address: str, *, now: float) -> None:
        """The switch has counted frames with which the guest still uses *address*."""
        known = self._ports.get(port)
        if known is not None and address in known.seen:
            known.seen[address] = now

    def age(self, *, now: float) -> frozenset[UUID]:
        """Forget what was not seen for too long; the ports of which something was forgotten."""
        changed = set()
        for port, known in self._ports.items():
            old = [address for address, at in known.seen.items() if now - at >= AGE_S]
            for address in old:
                del known.seen[address], known.sources[address]
            if old:
                changed.add(port)
        return frozenset(changed)

    def keep_only(self, ports: Collection[UUID]) -> None:
        """Forget the ports that this host does not speak for any more: whoever holds them now does."""
        for port in [port for port in self._ports if port not in ports]:
            del self._ports[port]

    def knows(self, port: UUID) -> bool:
        """True for a port of which anything was heard or revived."""
        return port in self._ports

    def claims(self, port: UUID) -> tuple[Claimed, ...]:
        """What the guest of *port* claims, in the order of first sight."""
        known = self._ports.get(port)
        return tuple(Claimed(address, known.sources[address]) for address in known.seen) if known is not None else ()

    def hushed(self, *, now: float) -> frozenset[UUID]:
        """Ports whose frames are not to be copied to the agent now."""
        return frozenset(port for port, known in self._ports.items() if now < known.hushed_until)
