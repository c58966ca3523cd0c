"""Kernel interfaces: links and addresses, by rtnetlink.

Theory of operation. Reading is two dumps (`rtnetlink`) in a worker thread, and where Open vSwitch shapes a link a
third, of queueing disciplines. That and changes are pyroute2's (`netlink_changes`), loaded when first needed.
Events are not parsed: a raw netlink socket in the groups of these says *that* something changed, the next dump says
what. Speed comes from the driver by ethtool's ioctl, because sysfs may show another namespace's devices.
"""

from __future__ import annotations

import array
import asyncio
import errno
import fcntl
import socket
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hostagent.model import AddAddress, Link, RemoveAddress, SetArpIgnore, SetClassifier, SetLink, Unread
from hostagent.realize.errors import RealizeError
from hostagent.realize.rtnetlink import dump_addresses, dump_links

if TYPE_CHECKING:
    from hostagent.realize.netlink_changes import Changes

__all__ = ["Netlink", "NetlinkStep"]

NetlinkStep = SetLink | SetArpIgnore | AddAddress | RemoveAddress | SetClassifier

_RTMGRP_LINK, _RTMGRP_TC, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x8, 0x10, 0x100
_SHAPED = "htb"  # the qdisc of links that Open vSwitch shapes
_IFF_UP = 0x1
_SIOCETHTOOL, _ETHTOOL_GSET, _SPEED_UNKNOWN = 0x8946, 0x1, 0xFFFFFFFF
_DEADLINE_S = 10.0


class Netlink:
    """The kernel's interfaces in the network namespace of this process. `start` it, `close` it."""

    def __init__(self, *, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="netlink")
        self._route: Changes | None = None
        self._events: socket.socket | None = None

    def start(self) -> None:
        """Begin to listen: `on_change` is called on the event loop after each change of a link or an address."""
        events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        events.bind((0, _RTMGRP_LINK | _RTMGRP_TC | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
        self._events = events
        asyncio.get_running_loop().add_reader(events.fileno(), self._drain)

    async def close(self) -> None:
        if self._events is not None:
            asyncio.get_running_loop().remove_reader(self._events.fileno())
            self._events.close()
        await asyncio.get_running_loop().run_in_executor(self._worker, self._reset)
        self._worker.shutdown(wait=False)

    async def read_links(self) -> tuple[Link, ...] | Unread:
        """All links with their addresses, sorted by name."""
        try:
            links: tuple[Link, ...] = await self._in_worker(self._read)
            return links
        except (OSError, TimeoutError) as error:
            return Unread(f"netlink: {error or type(error).__name__}")

    async def apply(self, steps: Sequence[NetlinkStep]) -> None:
        """Carry the steps out in order.

        Raises:
            RealizeError: the kernel refused one; the earlier ones are done.
        """
        for step in steps:
            try:
                await self._in_worker(self._apply, step)
            except (OSError, TimeoutError) as error:
                raise RealizeError(_sentence(step, error)) from None

    # --- in the worker thread --------------------------------------------------------------------------------------

    async def _in_worker(self, function: Callable[..., Any], *args: Any) -> Any:
        future = asyncio.get_running_loop().run_in_executor(self._worker, function, *args)
        return await asyncio.wait_for(future, _DEADLINE_S)

    def _changes(self) -> Changes:
        if self._route is None:
            from hostagent.realize.netlink_changes import Changes  # 10 MB that most agents never need

            self._route = Changes()
        return self._route

    def _reset(self) -> None:
        if self._route is not None:
            self._route.close()

    def _read(self) -> tuple[Link, ...]:
        addresses, raw = dump_addresses(), dump_links()
        names = {link.index: link.name for link in raw}
        shaped = self._changes().classifiers() if any(link.qdisc == _SHAPED for link in raw) else {}
        links = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            for link in raw:
                links.append(
                    Link(
                        name=link.name,
                        mac=link.mac,
                        mtu=link.mtu,
                        admin_up=bool(link.flags & _IFF_UP),
                        carrier=link.carrier,
                        speed_mbps=_speed_mbps(probe, link.name),
                        addresses=tuple(sorted(addresses.get(link.index, ()))),
                        master=_master(names, link.master),
                        classifier=shaped.get(link.index),
                        arp_ignore=link.arp_ignore,
                    )
                )
        return tuple(sorted(links, key=lambda link: link.name))

    def _apply(self, step: NetlinkStep) -> None:
        self._changes().apply(step)

    def _drain(self) -> None:
        assert self._events is not None
        with suppress(BlockingIOError):
            while True:
                try:
                    self._events.recv(65536)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:  # events lost: all the more reason to look
                        raise
        self._on_change()


def _master(names: dict[int, str], index: int) -> str:
    name = names.get(index, "")
    return "" if name == "ovs-system" else name  # Open vSwitch's own datapath says nothing about the bridge


def _speed_mbps(probe: socket.socket, name: str) -> int:
    """Speed of a link in Mbit/s; 0 when its driver does not say."""
    command = array.array("B", struct.pack("I40x", _ETHTOOL_GSET))
    request = struct.pack("16sP", name.encode(), command.buffer_info()[0])
    try:
        fcntl.ioctl(probe.fileno(), _SIOCETHTOOL, request)
    except OSError:
        return 0
    low, high = struct.unpack_from("H", command, 12)[0], struct.unpack_from("H", command, 28)[0]
    speed = high << 16 | low
    return 0 if speed in (_SPEED_UNKNOWN, 0xFFFF) else speed


def _sentence(step: NetlinkStep, error: Exception) -> str:
    detail = str(error) or type(error).__name__
    if isinstance(step, SetClassifier):
        return f"interface {step.link}: wanted its frames sorted into queues, the kernel said {detail}; retrying"
    if isinstance(step, SetLink):
        wanted = "up" if step.mtu is None else f"up with MTU {step.mtu}"
        return f"interface {step.name}: wanted {wanted}, the kernel said {detail}; retrying"
    if isinstance(step, SetArpIgnore):
        wanted = f"arp_ignore {step.arp_ignore}, so that it answers for its own addresses only"
        return f"interface {step.link}: wanted {wanted}; the kernel said {detail}; retrying"
    verb = "add" if isinstance(step, AddAddress) else "remove"
    return f"interface {step.link}: could not {verb} address {step.address}, the kernel said {detail}; retrying"
