"""Kernel interfaces: links and addresses, by rtnetlink.

Theory of operation. Reading is three dumps (links, addresses, queueing disciplines) on a socket of pyroute2, in a
worker thread, replaced now and then because the library keeps a little memory for each request; single look-ups are not
used at all, they keep more. Events are not parsed: a raw netlink socket in the groups of these says *that* something
changed, the next dump says what. Speed comes from the driver by ethtool's ioctl, because sysfs may show another
namespace's devices.
"""

from __future__ import annotations

import array
import asyncio
import errno
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from hostagent.model import AddAddress, Link, RemoveAddress, SetClassifier, SetLink, Unread
from hostagent.realize.classifier import read_classifiers, write_classifier
from hostagent.realize.errors import RealizeError

__all__ = ["Netlink", "NetlinkStep"]

NetlinkStep = SetLink | AddAddress | RemoveAddress | SetClassifier

_RTMGRP_LINK, _RTMGRP_TC, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x8, 0x10, 0x100
_REQUESTS_PER_SOCKET = 500
_IFF_UP = 0x1
_SIOCETHTOOL, _ETHTOOL_GSET, _SPEED_UNKNOWN = 0x8946, 0x1, 0xFFFFFFFF
_DEADLINE_S = 10.0


class Netlink:
    """The kernel's interfaces in the network namespace of this process. `start` it, `close` it."""

    def __init__(self, *, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="netlink")
        self._route: Any = None
        self._requests = 0
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
        except (OSError, NetlinkError, TimeoutError) as error:
            return Unread(f"netlink: {error or type(error).__name__}")

    async def apply(self, steps: Sequence[NetlinkStep]) -> None:
        """Carry the steps out in order.

        Raises:
            RealizeError: the kernel refused one; the earlier ones are done.
        """
        for step in steps:
            try:
                await self._in_worker(self._apply, step)
            except (OSError, NetlinkError, TimeoutError) as error:
                raise RealizeError(_sentence(step, error)) from None

    # --- in the worker thread --------------------------------------------------------------------------------------

    async def _in_worker(self, function: Callable[..., Any], *args: Any) -> Any:
        future = asyncio.get_running_loop().run_in_executor(self._worker, self._with_route, function, *args)
        return await asyncio.wait_for(future, _DEADLINE_S)

    def _with_route(self, function: Callable[..., Any], *args: Any) -> Any:
        if self._route is None or self._requests >= _REQUESTS_PER_SOCKET:
            self._reset()
            self._route = IPRoute()
            self._requests = 0
        self._requests += 1
        try:
            return function(self._route, *args)
        except OSError:
            self._reset()
            raise

    def _reset(self) -> None:
        if self._route is not None:
            self._route.close()
            self._route = None

    def _read(self, route: Any) -> tuple[Link, ...]:
        addresses: dict[int, list[str]] = {}
        for message in route.addr("dump"):
            attrs = dict(message["attrs"])
            address = attrs.get("IFA_LOCAL") or attrs.get("IFA_ADDRESS")
            if address:
                addresses.setdefault(message["index"], []).append(f"{address}/{message['prefixlen']}")
        links = []
        messages = list(route.link("dump"))
        names = {message["index"]: dict(message["attrs"])["IFLA_IFNAME"] for message in messages}
        shaped = read_classifiers(route)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            for message in messages:
                attrs = dict(message["attrs"])
                name = attrs["IFLA_IFNAME"]
                links.append(
                    Link(
                        name=name,
                        mac=attrs.get("IFLA_ADDRESS") or "",
                        mtu=attrs.get("IFLA_MTU") or 0,
                        admin_up=bool(message["flags"] & _IFF_UP),
                        carrier=bool(attrs.get("IFLA_CARRIER")),
                        speed_mbps=_speed_mbps(probe, name),
                        addresses=tuple(sorted(addresses.get(message["index"], ()))),
                        master=_master(names, attrs),
                        classifier=shaped.get(message["index"]),
                    )
                )
        return tuple(sorted(links, key=lambda link: link.name))

    def _apply(self, route: Any, step: NetlinkStep) -> None:
        name = step.name if isinstance(step, SetLink) else step.link
        try:
            index = socket.if_nametoindex(name)
        except OSError:
            if isinstance(step, RemoveAddress) or (isinstance(step, SetClassifier) and not step.filters):
                return
            raise OSError(errno.ENODEV, "no such interface") from None
        if isinstance(step, SetClassifier):
            write_classifier(route, index, step.filters, step.queue_bytes)
            return
        if isinstance(step, SetLink):
            if step.mtu is None:
                route.link("set", index=index, state="up")
            else:
                route.link("set", index=index, state="up", mtu=step.mtu)
            return
        interface = ipaddress.ip_interface(step.address)
        verb = "add" if isinstance(step, AddAddress) else "del"
        tolerated = errno.EEXIST if verb == "add" else errno.EADDRNOTAVAIL
        try:
            route.addr(verb, index=index, address=str(interface.ip), prefixlen=interface.network.prefixlen)
        except NetlinkError as error:
            if error.code != tolerated:
                raise

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


def _master(names: dict[int, str], attrs: dict[str, Any]) -> str:
    name = names.get(attrs.get("IFLA_MASTER", 0), "")
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
    verb = "add" if isinstance(step, AddAddress) else "remove"
    return f"interface {step.link}: could not {verb} address {step.address}, the kernel said {detail}; retrying"
