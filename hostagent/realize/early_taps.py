"""Taps that libvirt is about to plug, made ready the moment they exist.

Theory of operation. Each link that changes makes vswitchd read the kernel's routes anew, and while it does it knows no
route: what another of its threads translates just then for the userspace datapath goes wrong. Tunnels out are dropped,
tunnels in end at the kernel, where nobody listens, until all is translated once more. And it translates everything when
a port is plugged. The plug itself changes the link: Open vSwitch makes it promiscuous; then libvirt sets it up. So each
guest that comes may cost the host's tunnels some milliseconds. Seen on two busy cores, for 90 taps each, in turns, with
a ping every 2 ms through a tunnel: plugged, then set up, 42 lost, in pieces of up to 20 ms; set up, then plugged, 25;
set up and made promiscuous, then plugged, none.

So both is done as soon as the kernel tells of the tap, but for a few milliseconds: libvirt has changed it twice by then
(made, given its MAC), and what that sets off should be over. From there to the plug libvirt takes ten milliseconds or
more, and what comes then changes nothing. What making the tap itself costs stays: of 9 moves of a guest, two lost a
request or two at that moment. A tap is known by its MAC, which libvirt makes of the guest's.

Those milliseconds begin with a pause: the kernel tells of the plug, too, and then a guest waits for this very process.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from contextlib import suppress

import structlog

from hostagent.realize.rtnetlink import flags_request, links_told

__all__ = ["EarlyTaps"]

log = structlog.get_logger(__name__)

_RTMGRP_LINK = 0x1
_IFF_UP, _IFF_PROMISC = 0x1, 0x100
_MOST = 1 << 16
_PAUSE_S, _AFTER_S = 0.002, 0.003  # from the kernel's word to hearing it, and from there to what is done


class EarlyTaps:
    """Makes ready the links that *wanted* recognizes by their MAC. Nothing is done before `watch`."""

    def __init__(self, wanted: Callable[[str], bool]) -> None:
        self._wanted = wanted
        self._kernel: socket.socket | None = None
        self._due: set[int] = set()  # links that were seen and are not ready yet

    def watch(self) -> None:
        """Begin, or go on. Without the kernel's ear nothing is lost but those milliseconds."""
        if self._kernel is not None:
            return
        try:
            kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
            kernel.bind((0, _RTMGRP_LINK))
        except OSError as error:
            log.warning("taps: not seen before they are plugged", reason=str(error))
            return
        self._kernel = kernel
        asyncio.get_running_loop().add_reader(kernel.fileno(), self._pause, kernel)

    def close(self) -> None:
        if self._kernel is not None:
            asyncio.get_running_loop().remove_reader(self._kernel.fileno())
            self._kernel.close()
            self._kernel = None

    def _pause(self, kernel: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(kernel.fileno())
        loop.call_later(_PAUSE_S, self._hear, kernel)

    def _hear(self, kernel: socket.socket) -> None:
        if self._kernel is not kernel:
            return
        asyncio.get_running_loop().add_reader(kernel.fileno(), self._pause, kernel)
        while True:
            try:
                data = kernel.recv(_MOST)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # some were lost: libvirt sets them up
                    raise
                continue
            for link in links_told(data):
                if link.index not in self._due and not link.flags & _IFF_UP and self._wanted(link.mac):
                    self._due.add(link.index)
                    asyncio.get_running_loop().call_later(_AFTER_S, self._make_ready, link.index, link.name)

    def _make_ready(self, index: int, name: str) -> None:
        self._due.discard(index)
        if self._kernel is None:
            return
        with suppress(OSError):  # gone already
            self._kernel.send(flags_request(index, _IFF_UP | _IFF_PROMISC))
        log.info("tap: ready before it is plugged", name=name)
