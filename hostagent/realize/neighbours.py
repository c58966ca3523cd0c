"""Neighbours of the underlay, made known before the first frame needs them, and again when their tunnel is silent.

A tunnel that does not know its peer's MAC drops the frame and asks. So each new peer is sent one empty datagram from
our VTEP address: the kernel asks for its MAC, and Open vSwitch's userspace tunnels learn from the answer that passes
by.

They have a cache of their own, and it can be wrong where the kernel's is right: Open vSwitch (3.1) takes MACs from the
tunnels' packets too, but only from those that it looks at, the first of a megaflow; so after a peer's MAC has changed
there and back it may keep the one in between, as long as it sends there. Over IPv4 any answer to the kernel sets it
right. Over IPv6 the kernel asks whom it knows by unicast, and Linux answers that without the option that says the MAC,
which Open vSwitch needs (RFC 4861, 7.2.4; `tnl_nd_snoop`). So a peer whose tunnel is silent is solicited by multicast,
as if nobody knew it.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv6Address
from pathlib import Path

__all__ = ["prime_neighbours", "solicit_neighbours"]

_DISCARD_PORT = 9
_SIOCGIFHWADDR = 0x8927
_ADDRESSES = Path("/proc/self/net/if_inet6")
_SOLICITATION, _SOURCE_OPTION, _HOPS = 135, 1, 255  # RFC 4861: 4.3, 4.6.1; with fewer hops it came from elsewhere
_SOLICITED_NODE = int(IPv6Address("ff02::1:ff00:0"))


def prime_neighbours(pairs: Iterable[tuple[str, str]]) -> None:
    """Send one empty datagram for each (own address, peer's address). Never fails and never waits: it is a courtesy."""
    for own, peer in pairs:
        family = socket.AF_INET6 if ":" in peer else socket.AF_INET
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as probe:
            probe.bind((own, 0))
            probe.sendto(b"", (peer, _DISCARD_PORT))


def solicit_neighbours(pairs: Iterable[tuple[str, str]]) -> None:
    """Ask by multicast for the MAC of each peer's IPv6 address, from our own. Never fails and never waits either."""
    for own, peer in pairs:
        if ":" not in peer:
            continue
        with (
            suppress(OSError),
            socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6) as asking,
        ):
            link = _link_of(IPv6Address(own))
            mac = fcntl.ioctl(asking.fileno(), _SIOCGIFHWADDR, struct.pack("16s24x", link.encode()))[18:24]
            target = IPv6Address(peer)
            option = struct.pack("BB", _SOURCE_OPTION, 1) + mac
            message = struct.pack("!BBHI", _SOLICITATION, 0, 0, 0) + target.packed + option  # the kernel sums it up
            everybody = IPv6Address(_SOLICITED_NODE | int(target) & 0xFFFFFF)
            asking.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOPS)
            asking.bind((own, 0))
            asking.sendto(message, (str(everybody), 0, 0, socket.if_nametoindex(link)))


def _link_of(address: IPv6Address) -> str:
    """The interface that has *address*.

    Raises:
        OSError: none has.
    """
    wanted = address.packed.hex()
    for line in _ADDRESSES.read_text().splitlines():
        if line.startswith(wanted):
            return line.split()[-1]
    raise OSError(f"no interface has {address}")
