"""Neighbours of the underlay, made known before the first frame needs them.

A tunnel that does not know its peer's MAC drops the frame and asks. So each new peer is sent one empty datagram from
our VTEP address: the kernel asks for its MAC, and Open vSwitch's userspace tunnels learn from the answer that passes
by.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import suppress

__all__ = ["prime_neighbours"]

_DISCARD_PORT = 9


def prime_neighbours(pairs: Iterable[tuple[str, str]]) -> None:
    """Send one empty datagram for each (own address, peer's address). Never fails and never waits: it is a courtesy."""
    for own, peer in pairs:
        family = socket.AF_INET6 if ":" in peer else socket.AF_INET
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as probe:
            probe.bind((own, 0))
            probe.sendto(b"", (peer, _DISCARD_PORT))
