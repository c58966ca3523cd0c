"""Addresses that guests show to have: what is read from a frame, and what is kept of it for how long. Pure.

Theory of operation. A port without defined addresses may use any that is nobody's. What it uses it says in ARP and ND:
`read_claim` takes the address from such a frame, which the pipeline copied to the agent after it had passed GUARD
(`pipeline/learn` says which frames come); DHCP says it too (`dhcp`). `Learning` holds, by port of this host, which
addresses its guest claims and when each was last seen. It does not decide whose an address is: the network manager
does, and pushes `Learned`.

A port that is allowed "nested" may use further MACs, which are learned too: the switch drops what comes from a MAC that
it does not know, and copies it to the agent, until the manager has said that the MAC is the port's.

A guest may also use what is another port's, though nothing of that passes: a *rival*'s word, which the switch copies
where it knows the MAC or address to be another's. It is kept beside what the port learns, and told like it, so that
both ports can show it. So is a *probe* for another port's address (RFC 5227, RFC 4862), which the switch copies where
it answers it: the guest is told of the collision and gives up, so nothing else would show it. It is told as a probe,
for the guest does not wait for the address.

Three bounds keep a loud guest from anything but its own copies. A MAC has at most `ADDRESSES_MAX` addresses; more are
not learned, and work as ever, by flooding. A port has at most `MACS_MAX` further MACs. Copies spend tokens; a port
without any is *hushed* for a while: the switch makes no more copies of its frames, so the agent does not even see them.
What a server says to clients is counted against its network, which is hushed in the same way. And only a change is told
upward, never a refresh.

A server's word counts where it answers a question that the guest itself was seen to ask a moment ago (`dhcp` says why):
so what others have granted in its name takes none of its room.

What was not seen for `AGE_S` is forgotten; the next frame that claims it brings it back. A leased address is kept,
used or not, until its lease ends, and is forgotten then, used or not: the server may give it to another. Who uses it on
claims it in ARP, and is heard as such. The end of a lease is known to the agent that heard it granted; one that took
the address over, after a restart or a migration, lets it age like any other until the lease is renewed.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeVar
from uuid import UUID

from hostagent.pipeline.icmpv6 import Icmpv6, message_at
from netmgr.contract.types import LearnedSource

__all__ = [
    "ADDRESSES_MAX",
    "AGE_S",
    "HUSH_S",
    "MACS_MAX",
    "QUESTIONS_MAX",
    "QUESTION_S",
    "Bucket",
    "Claimed",
    "Learning",
    "read_claim",
    "read_probe",
]

ADDRESSES_MAX: Final = 16
MACS_MAX: Final = 64
RIVALS_MAX: Final = 16
QUESTIONS_MAX: Final = 64
QUESTION_S: Final = 60.0
AGE_S: Final = 1800.0
HUSH_S: Final = 30.0
_OF_A_PORT: Final = (30.0, 1.0)  # copies at once, and per second
_OF_A_NETWORK: Final = (100.0, 10.0)


K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Claimed:
    """An address and what showed that a guest has it; `mac`, behind the VIF, has it; "" is the port's own. `probed`:
    the guest has only asked whether anybody has it."""

    address: str
    source: LearnedSource
    mac: str = ""
    probed: bool = False


def read_claim(frame: bytes) -> Claimed | None:
    """The address that the sender of *frame* claims in ARP (RFC 826) or ND (RFC 4861); None where it claims none.

    Probes, and duplicate address detection from `::`, claim nothing yet. Whatever is cut off, or is not an address
    that a host can have, claims nothing. *frame* is a guest's, so nothing of it is believed to be there.
    """
    said = _read(frame)
    return said if said is not None and not said.probed else None


def read_probe(frame: bytes) -> Claimed | None:
    """The address that *frame* probes for: the target of an ARP request from 0.0.0.0 (RFC 5227) or of a solicitation
    from `::` (RFC 4862); None where it is no probe. As little is believed of it."""
    said = _read(frame)
    return said if said is not None and said.probed else None


def _read(frame: bytes) -> Claimed | None:
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
    hardware, protocol, lengths, kind, sender = struct.unpack_from("!HHHH6x4s", frame, 14)
    if (hardware, protocol, lengths) != (1, 0x0800, 0x0604):
        return None
    address, probed = IPv4Address(sender), False
    if address.is_unspecified and kind == 1:
        address, probed = IPv4Address(struct.unpack_from("!4s", frame, 38)[0]), True
    fit = not (address.is_unspecified or address.is_multicast or address.is_loopback or address.is_reserved)
    return Claimed(str(address), LearnedSource.ARP, probed=probed) if fit else None


def _read_nd(frame: bytes) -> Claimed | None:
    """From what claims in the pipeline: the source of a solicitation, the target of an advertisement; and from
    duplicate address detection."""
    (source,), at = struct.unpack_from("!16s", frame, 22), message_at(frame)
    if at is None:
        return None
    kind, code, target = struct.unpack_from("!BB6x16s", frame, at)
    if code or kind not in (Icmpv6.SOLICITATION, Icmpv6.ADVERTISEMENT):
        return None
    probed = kind == Icmpv6.SOLICITATION and not any(source)
    address = IPv6Address(source if kind == Icmpv6.SOLICITATION and not probed else target)
    fit = not (address.is_unspecified or address.is_multicast or address.is_loopback)
    return Claimed(str(address), LearnedSource.ND, probed=probed) if fit else None


@dataclass(slots=True)
class Bucket:
    """Tokens that copies spend."""

    size: float
    per_second: float
    tokens: float
    counted_at: float
    hushed_until: float = -math.inf

    @classmethod
    def full(cls, limits: tuple[float, float], *, now: float) -> Bucket:
        return cls(*limits, tokens=limits[0], counted_at=now)

    def spend(self, *, now: float) -> None:
        self.tokens = min(self.size, self.tokens + (now - self.counted_at) * self.per_second) - 1
        self.counted_at = now
        if self.tokens < 0:
            self.hushed_until = now + HUSH_S


@dataclass(slots=True)
class _Port:
    """What was learned at one port; times are monotonic."""

    bucket: Bucket
    seen: dict[str, float] = field(default_factory=dict)  # address -> when last
    sources: dict[str, LearnedSource] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)  # address -> MAC
    macs: dict[str, float] = field(default_factory=dict)  # further ones -> when last seen
    leased_until: dict[str, float] = field(default_factory=dict)
    rivals: dict[Claimed | str, float] = field(default_factory=dict)  # others' addresses, MACs -> when last used
    asked: dict[bytes, float] = field(default_factory=dict)  # of DHCP servers -> when last; the oldest first

    def note(self, table: dict[K, float], what: K, *, most: int, now: float) -> bool:
        """*what* is in *table* since now, unless *most* others are: then the port is hushed. True where it is news."""
        news = what not in table
        if news and len(table) >= most:
            self.bucket.hushed_until = now + HUSH_S
            return False
        table[what] = now
        return news

    def forget(self, address: str) -> None:
        del self.seen[address], self.sources[address], self.owners[address]
        self.leased_until.pop(address, None)

    def ended(self, address: str, *, now: float) -> bool:
        until = self.leased_until.get(address)
        return now >= until if until is not None else now - self.seen[address] >= AGE_S


class Learning:
    """What the guests of this host claim. `now` is monotonic, in seconds."""

    def __init__(self) -> None:
        self._ports: dict[UUID, _Port] = {}
        self._servers: dict[UUID, Bucket] = {}  # by network

    def spend(self, port: UUID, *, now: float) -> None:
        """A frame of the guest of *port* was copied to the agent."""
        self._of(port, now).bucket.spend(now=now)

    def spend_of_network(self, network: UUID, *, now: float) -> None:
        """A frame of one of *network*'s servers was copied to the agent."""
        self._servers.setdefault(network, Bucket.full(_OF_A_NETWORK, now=now)).spend(now=now)

    def hear(self, port: UUID, claimed: Claimed, *, now: float) -> bool:
        """The guest of *port* claims an address; True when what is to be told of the port has changed."""
        known = self._of(port, now)
        if known.owners.get(claimed.address) == claimed.mac:
            known.seen[claimed.address] = now
            return False
        if sum(mac == claimed.mac for mac in known.owners.values()) >= ADDRESSES_MAX:
            known.bucket.hushed_until = now + HUSH_S
            return False
        known.seen[claimed.address] = now
        known.sources.setdefault(claimed.address, claimed.source)
        known.owners[claimed.address] = claimed.mac
        return True

    def hear_mac(self, port: UUID, mac: str, *, now: float) -> bool:
        """A frame of *mac*, which the switch does not know yet, came out of *port*; True as of `hear`."""
        known = self._of(port, now)
        return known.note(known.macs, mac, most=MACS_MAX, now=now)

    def hear_rival(self, port: UUID, what: Claimed | str, *, now: float) -> bool:
        """The guest of *port* uses an address or a MAC that is another port's, or probes for it; True as of `hear`."""
        known = self._of(port, now)
        return known.note(known.rivals, what, most=RIVALS_MAX, now=now)

    def ask(self, port: UUID, question: bytes, *, now: float) -> None:
        """The guest of *port* asks DHCP servers for an address: the answer counts for `QUESTION_S`."""
        asked = self._of(port, now).asked
        asked.pop(question, None)
        if len(asked) >= QUESTIONS_MAX:
            del asked[next(iter(asked))]
        asked[question] = now

    def has_asked(self, port: UUID, question: bytes, *, now: float) -> bool:
        """Whether the guest of *port* has asked that lately."""
        known = self._ports.get(port)
        at = known.asked.get(question) if known is not None else None
        return at is not None and now - at < QUESTION_S

    def lease(self, port: UUID, address: str, *, mac: str = "", seconds: int | None, now: float) -> bool:
        """A server has granted *address* to *mac* of *port*, for *seconds* or for ever; True as of `hear`."""
        changed = self.hear(port, Claimed(address, LearnedSource.DHCP, mac), now=now)
        known = self._ports[port]
        if known.owners.get(address) == mac:
            known.leased_until[address] = math.inf if seconds is None else now + seconds
        return changed

    def give_up(self, port: UUID, address: str) -> bool:
        """The guest of *port* has *address* no more, by its own word; True as of `hear`."""
        known = self._ports.get(port)
        if known is None or address not in known.seen:
            return False
        known.forget(address)
        return True

    def revive(
        self,
        port: UUID,
        claims: Iterable[Claimed],
        macs: Iterable[str] = (),
        rivals: Iterable[Claimed | str] = (),
        *,
        now: float,
    ) -> None:
        """Take over what was learned of *port* elsewhere, or in an earlier life of the agent, as seen now."""
        known = self._of(port, now)
        known.macs |= dict.fromkeys(macs, now)
        known.rivals |= dict.fromkeys(rivals, now)
        for claimed in claims:
            if claimed.address not in known.seen:
                known.seen[claimed.address] = now
                known.sources[claimed.address] = claimed.source
                known.owners[claimed.address] = claimed.mac

    def refresh(self, port: UUID, address: str, *, now: float) -> None:
        """The switch has counted frames with which the guest still uses *address*."""
        known = self._ports.get(port)
        if known is not None and address in known.seen:
            known.seen[address] = now

    def refresh_mac(self, port: UUID, mac: str, *, now: float) -> None:
        """The switch has counted frames of *mac*."""
        known = self._ports.get(port)
        if known is not None and mac in known.macs:
            known.macs[mac] = now

    def age(self, *, now: float) -> frozenset[UUID]:
        """Forget what was not seen for too long, and ended leases; the ports of which something was forgotten."""
        changed = set()
        for port, known in self._ports.items():
            old = [address for address in known.seen if known.ended(address, now=now)]
            for address in old:
                known.forget(address)
            silent = [mac for mac, at in known.macs.items() if now - at >= AGE_S]
            for mac in silent:
                del known.macs[mac]
            past = [one for one, at in known.rivals.items() if now - at >= AGE_S]
            for one in past:
                del known.rivals[one]
            if old or silent or past:
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
        if known is None:
            return ()
        return tuple(Claimed(address, known.sources[address], known.owners[address]) for address in known.seen)

    def macs(self, port: UUID) -> tuple[str, ...]:
        """The further MACs that were seen behind *port*, in the order of first sight."""
        known = self._ports.get(port)
        return tuple(known.macs) if known is not None else ()

    def rivals(self, port: UUID) -> tuple[tuple[Claimed, ...], tuple[str, ...]]:
        """Addresses and MACs of others that the guest of *port* uses, in the order of first sight."""
        known = self._ports.get(port)
        found = tuple(known.rivals) if known is not None else ()
        return tuple(one for one in found if isinstance(one, Claimed)), tuple(x for x in found if isinstance(x, str))

    def hushed(self, *, now: float) -> frozenset[UUID]:
        """Ports whose frames are not to be copied to the agent now, and networks whose servers' are not."""
        ports = (port for port, known in self._ports.items() if now < known.bucket.hushed_until)
        return frozenset([*ports, *(one for one, bucket in self._servers.items() if now < bucket.hushed_until)])

    def _of(self, port: UUID, now: float) -> _Port:
        known = self._ports.get(port)
        if known is None:
            known = self._ports[port] = _Port(bucket=Bucket.full(_OF_A_PORT, now=now))
        return known
