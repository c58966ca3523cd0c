"""`DummySwitch` on the kernel's datapath: the same verbs, so that one test shows the same of both.

The switch runs in a network namespace of its own. A port is a tap, as a guest's is, and we are the guest: frames are
written to it and read from it. Cables are veth pairs. Needs root, and a kernel that has Open vSwitch.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Self, TypeVar

from scripts.labkit.dummy_switch import DummySwitch
from scripts.labkit.patience import patient
from scripts.labkit.switch import choose_datapath

__all__ = ["KernelSwitch", "make_switch"]

_TUNSETIFF, _TAP, _NO_HEADER = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
_SIOCSIFFLAGS, _UP = 0x8914, 0x1  # linux/sockios.h, linux/if.h
_ALL_PROTOCOLS, _OUTGOING = 0x0003, 4  # linux/if_ether.h, linux/if_packet.h
_CLONE_NEWNET = 0x40000000
_SO_RCVBUFFORCE, _WATCHED_BYTES = 33, 1 << 25  # asm-generic/socket.h; a flood to thousands waits there to be read
_FRAME = 65536
_CABLE_MTU = "1700"
_PAUSE_S, _IDLE_LOOKS = 0.01, 3
Made = TypeVar("Made")


def make_switch() -> DummySwitch:
    """A switch on the datapath that labs have here: the kernel's, or in user space."""
    return KernelSwitch() if choose_datapath(None) == "system" else DummySwitch()


class KernelSwitch(DummySwitch):
    """One ovs-vswitchd, its database and its network namespace."""

    datapath = "system"
    _options = ()

    def __init__(self) -> None:
        super().__init__()
        self._taps: dict[str, int] = {}
        self._watched: dict[str, socket.socket] = {}
        self._far: dict[str, socket.socket] = {}  # of cables: the other end
        script = "sysctl -qw net.ipv6.conf.default.disable_ipv6=1; ip link set lo up; echo; exec sleep infinity"
        holder = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--net", "sh", "-c", script]
        self._holder = subprocess.Popen(holder, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        self._holder.stdout.readline()
        self._within = ("nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--")

    def close(self) -> None:
        """End the switch and its namespace, with the kernel's datapath and all devices in it."""
        super().close()
        for descriptor in self._taps.values():
            os.close(descriptor)
        for watched in self._watched.values():
            watched.close()
        self._taps.clear()
        self._watched.clear()
        self._holder.kill()
        self._holder.wait()

    def add_port(self, bridge: str, name: str, *settings: str) -> None:
        """A tap that is held by us; *settings* are columns of Interface."""
        if name in self._taps:
            os.close(self._taps.pop(name))  # the device goes with it
        self._taps[name] = self._inside(lambda: _open_tap(name))
        self._plug(bridge, name, *settings)

    def join(self, bridge: str, port: str, other: Self, other_bridge: str, other_port: str) -> None:
        """Lay a cable to the *other* switch, a port here and there."""
        near, far = (port, "mtu", _CABLE_MTU), (other_port, "mtu", _CABLE_MTU, "netns", str(other._holder.pid))
        self.ip("link", "add", *near, "type", "veth", "peer", *far)
        self._plug_cable(bridge, port)
        other._plug_cable(other_bridge, other_port)
        self._far[port], other._far[other_port] = other._watched[other_port], self._watched[port]

    def add_address(self, bridge: str, address: str, network: str) -> None:
        """Give the bridge's LOCAL an *address* (with prefix): what tunnels are sent from."""
        if ":" in address:
            self._run(*self._within, "sysctl", "-qw", f"net.ipv6.conf.{bridge}.disable_ipv6=0")
        self.ip("address", "add", address, "dev", bridge, *(["nodad"] if ":" in address else []))
        self.ip("link", "set", bridge, "up")

    def add_route(self, bridge: str, network: str, gateway: str) -> None:
        """Send to *network* by *gateway*, beyond the bridge's LOCAL."""
        self.ip("route", "replace", network, "via", gateway, "dev", bridge)

    def remove_route(self, network: str) -> None:
        """Undo `add_route`."""
        self.ip("route", "delete", network)

    def add_neighbour(self, bridge: str, address: str, mac: str) -> None:
        """Say who has *address*, so that nobody must ask by ARP."""
        self.ip("neighbour", "replace", address, "lladdr", mac, "dev", bridge, "nud", "permanent")

    def receive(self, port: str, *frames: bytes) -> None:
        """Let *frames* arrive at *port*, a tap or the end of a cable, in this order."""
        for frame in frames:
            if port in self._far:
                self._far[port].send(frame)
            else:
                os.write(self._taps[port], frame)

    def sent(self, port: str, *, settle_s: float = 0.5) -> list[bytes]:
        """Frames that left *port* since the last call.

        It waits until nothing on the machine runs any more (a frame on its way is always somebody's work: the kernel's,
        or that of a vswitchd which the kernel asks), or, on a machine that is never idle, for *settle_s*.
        """
        frames = []
        source = self._watched.get(port) or self._taps[port]
        idle, deadline = 0, time.monotonic() + patient(settle_s)
        while idle < _IDLE_LOOKS and time.monotonic() < deadline:
            if not select.select([source], [], [], _PAUSE_S)[0]:
                idle = idle + 1 if _running() <= 1 else 0
                continue
            idle, deadline = 0, time.monotonic() + patient(settle_s)
            if isinstance(source, int):
                frames.append(os.read(source, _FRAME))
            else:
                frame, where = source.recvfrom(_FRAME)
                if where[2] == _OUTGOING:
                    frames.append(frame)
        return frames

    def ip(self, *arguments: str) -> None:
        """Run `ip` in the switch's namespace."""
        self._run(*self._within, "ip", *arguments)

    def _plug_cable(self, bridge: str, name: str) -> None:
        """Take an end of a cable as a port; what leaves by it is recorded."""
        self._run(
            *self._within, "ethtool", "-K", name, "txvlan", "off", "tx", "off"
        )  # whole frames, as the wire would have them
        self.ip("link", "set", name, "up")
        self._watched[name] = self._inside(lambda: _watch(name))
        self._plug(bridge, name)

    def _plug(self, bridge: str, name: str, *settings: str) -> None:
        change = ("--", "set", "Interface", name, *settings) if settings else ()
        self.vsctl("--may-exist", "add-port", bridge, name, *change)

    def _inside(self, make: Callable[[], Made]) -> Made:
        """What *make* makes in the switch's namespace: a device or socket stays where it was made."""
        made: list[Made] = []

        def enter() -> None:  # only this thread moves, and it ends here
            with open(f"/proc/{self._holder.pid}/ns/net", "rb") as space:
                if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "the switch's namespace can't be entered")
            made.append(make())

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        return made[0]


def _open_tap(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP | _NO_HEADER))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), _UP))
    return descriptor


def _running() -> int:
    """How many threads of the machine run or want to; one is ourselves."""
    with open("/proc/stat") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("procs_running"))


def _watch(name: str) -> socket.socket:
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
    found.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _WATCHED_BYTES)
    found.bind((name, 0))
    return found
