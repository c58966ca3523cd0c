"""Neighbours of the underlay, made known before the first frame needs them.

A tunnel that does not know its peer's MAC drops the frame and asks. So each new peer is sent one empty datagram from
our VTEP address: the kernel asks for its MAC, and Open vSwitch's userspace tunnels learn from the answer that passes
by.

Linux answers ARP for any address of its own on any interface, with that interface's MAC (arp_ignore, ip-sysctl). A
PNIC in a userspace bridge is such an interface still, and so is another uplink's LOCAL on the same segment: a peer
would send tunnels to a MAC where no tunnel ends. So our uplinks and their PNICs answer for what they carry themselves.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ["answer_only_for_own", "prime_neighbours"]

_DISCARD_PORT = 9


_SETTINGS = Path("/proc/sys/net/ipv4/conf")


def answer_only_for_own(links: Iterable[str]) -> None:
    """Have *links* answer ARP for their own addresses only; a stricter setting stays. What can't be set stays too: then
    a second interface on the same segment may answer for a VTEP, and probes say that its tunnels don't work."""
    for link in links:
        setting = _SETTINGS / link / "arp_ignore"
        with suppress(OSError):
            if setting.read_text().strip() == "0":
                setting.write_text("1")


def prime_neighbours(pairs: Iterable[tuple[str, str]]) -> None:
    """Send one empty datagram for each (own address, peer's address). Never fails and never waits: it is a courtesy."""
    for own, peer in pairs:
        family = socket.AF_INET6 if ":" in peer else socket.AF_INET
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as probe:
            probe.bind((own, 0))
            probe.sendto(b"", (peer, _DISCARD_PORT))
