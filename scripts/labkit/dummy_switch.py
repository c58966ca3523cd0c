"""A real Open vSwitch without any device: ovsdb-server and ovs-vswitchd on OVS's own dummy ports.

Frames go in with `receive` and come out in files that `sent` reads; ports of two switches are joined with `wire`.
Bridges need `datapath_type=dummy`, ports `type=dummy`. Nothing touches the kernel's network, no root is needed, a
switch is up in a tenth of a second: the place for tests of what a packet does, and for many hosts on one machine.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from scripts.labkit.patience import patient

__all__ = ["DummySwitch", "DummySwitchError", "wire"]

_SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
_START_S = patient(10.0)


class DummySwitchError(Exception):
    """A program of Open vSwitch failed; holds its words."""


class DummySwitch:
    """One ovs-vswitchd with its database, in a directory of its own. Use it as a context."""

    datapath = "dummy"
    _options: tuple[str, ...] = ("--enable-dummy", "--disable-system", "--disable-system-route")
    _within: tuple[str, ...] = ()
    """What a command is put behind to run where the switch has its devices."""

    def __init__(self) -> None:
        self.rundir = Path(tempfile.mkdtemp(prefix="dummy-ovs-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._read: dict[str, int] = {}

    def __enter__(self) -> DummySwitch:
        try:
            self._run("ovsdb-tool", "create", str(self.rundir / "conf.db"), _SCHEMA)
            self._start("ovsdb-server", f"{self.rundir}/conf.db", f"--remote=punix:{self.rundir}/db.sock")
            self._await_socket("ovsdb-server.ctl")
            self.vsctl("--no-wait", "init")
            self.start_vswitchd()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start_vswitchd(self) -> None:
        """Start the switch itself; returns when it serves."""
        (self.rundir / "ovs-vswitchd.ctl").unlink(missing_ok=True)
        self._start("ovs-vswitchd", f"unix:{self.rundir}/db.sock", *self._options)
        self._await_socket("ovs-vswitchd.ctl")

    def kill_vswitchd(self) -> None:
        """Kill the switch as a crash would; its database lives on."""
        process = self._processes.pop()
        process.kill()
        process.wait()

    def close(self) -> None:
        """End both processes and remove the directory."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()
        self._processes.clear()
        shutil.rmtree(self.rundir, ignore_errors=True)

    def vsctl(self, *arguments: str) -> str:
        """Output of `ovs-vsctl`, which waits until the switch has obeyed."""
        return self._run("ovs-vsctl", f"--db=unix:{self.rundir}/db.sock", f"--timeout={patient(10):.0f}", *arguments)

    def appctl(self, *arguments: str) -> str:
        """Output of `ovs-appctl` at the switch."""
        return self._run("ovs-appctl", "-t", f"{self.rundir}/ovs-vswitchd.ctl", *arguments)

    def ofctl(self, command: str, bridge: str, *arguments: str) -> str:
        """Output of `ovs-ofctl` in OpenFlow 1.5."""
        return self._run("ovs-ofctl", "-O", "OpenFlow15", command, f"unix:{self.rundir}/{bridge}.mgmt", *arguments)

    def add_bridge(self, name: str, *, fail_mode: str = "secure") -> None:
        """A bridge on the switch's datapath."""
        settings = (f"datapath_type={self.datapath}", f"fail_mode={fail_mode}")
        self.vsctl("add-br", name, "--", "set", "Bridge", name, *settings)

    def add_port(self, bridge: str, name: str, *settings: str) -> None:
        """A dummy port whose frames are recorded; *settings* are columns of Interface."""
        path = self.rundir / f"{name}.pcap"
        path.unlink(missing_ok=True)
        self._read.pop(name, None)
        record = f"options:tx_pcap={path}"
        self.vsctl("add-port", bridge, name, "--", "set", "Interface", name, "type=dummy", record, *settings)

    def join(self, bridge: str, port: str, other: Self, other_bridge: str, other_port: str) -> None:
        """Add a port here, another at the *other* switch, and a cable between them."""
        self.add_port(bridge, port)
        other.add_port(other_bridge, other_port)
        wire((self, port), (other, other_port))

    def add_address(self, bridge: str, address: str, network: str) -> None:
        """Give the bridge's LOCAL an *address* (with prefix) in *network*: what tunnels are sent from."""
        self.appctl("netdev-dummy/ip4addr", bridge, address)
        self.appctl("ovs/route/add", network, bridge)

    def add_route(self, bridge: str, network: str, gateway: str) -> None:
        """Send to *network* by *gateway*, beyond the bridge's LOCAL."""
        self.appctl("ovs/route/add", network, bridge, gateway)

    def remove_route(self, network: str) -> None:
        """Undo `add_route`."""
        self.appctl("ovs/route/del", network)

    def add_neighbour(self, bridge: str, address: str, mac: str) -> None:
        """Say who has *address*, so that nobody must ask by ARP."""
        self.appctl("tnl/neigh/set", bridge, address, mac)

    def interfaces(self) -> list[dict[str, Any]]:
        """Rows of Interface as OVSDB has them, values as JSON."""
        table = json.loads(self.vsctl("--format=json", "list", "Interface"))
        return [dict(zip(table["headings"], row, strict=True)) for row in table["data"]]

    def receive(self, port: str, *frames: bytes) -> None:
        """Let *frames* arrive at *port*, in this order."""
        self.appctl("netdev-dummy/receive", port, *(frame.hex() for frame in frames))

    def sent(self, port: str, *, settle_s: float = 0.03) -> list[bytes]:
        """Frames that left *port* since the last call, after the switch has been quiet for *settle_s*."""
        path = self.rundir / f"{port}.pcap"
        size = -1
        while size != (size := path.stat().st_size if path.exists() else 0):
            time.sleep(settle_s)
        skip = self._read.get(port, 0)
        frames = [*_read_pcap(path.read_bytes())] if path.exists() else []
        self._read[port] = len(frames)
        return frames[skip:]

    def turn(self) -> None:
        """Return when the switch has gone once around its loop: what it had been given by now, it has seen."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_START_S)
            connection.connect(f"{self.rundir}/ovs-vswitchd.ctl")
            connection.sendall(b'{"id":0,"method":"version","params":[]}')
            connection.recv(4096)

    def _start(self, program: str, *arguments: str) -> None:
        control, log = self.rundir / f"{program}.ctl", self.rundir / f"{program}.log"
        quiet = ("--verbose=console:off", "--verbose=syslog:off")
        command = [
            *self._within,
            program,
            *arguments,
            f"--unixctl={control}",
            f"--log-file={log}",
            "--no-chdir",
            *quiet,
        ]
        environment = {"OVS_RUNDIR": str(self.rundir), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        self._processes.append(subprocess.Popen(command, env=environment))

    def _await_socket(self, name: str) -> None:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(DummySwitchError):
                self._run("ovs-appctl", "-t", f"{self.rundir}/{name}", "version")
                return
            time.sleep(0.01)
        raise TimeoutError(f"{name}: not served within {_START_S:g} s in {self.rundir}")

    def _run(self, *command: str) -> str:
        environment = {"OVS_RUNDIR": str(self.rundir), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DummySwitchError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout


def wire(one: tuple[DummySwitch, str], other: tuple[DummySwitch, str]) -> None:
    """Join a dummy port of *one* switch with one of *other*, by a socket."""
    cable = f"{one[0].rundir}/{one[1]}.wire"
    one[0].vsctl("set", "Interface", one[1], f'options:pstream="punix:{cable}"')
    other[0].vsctl("set", "Interface", other[1], f'options:stream="unix:{cable}"')


def _read_pcap(data: bytes) -> Iterator[bytes]:
    at = 24
    while at + 16 <= len(data):
        length = struct.unpack_from("<I", data, at + 8)[0]
        if at + 16 + length > len(data):
            return
        yield data[at + 16 : at + 16 + length]
        at += 16 + length
