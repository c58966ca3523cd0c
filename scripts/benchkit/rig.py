"""A subject at work: its lab, a guest that moves between h1 and h2, a peer on each host; one move, measured.

Peers have the guest's MAC as a permanent neighbour, so that no ARP of theirs is in the figures, and their pingers start
anew for each move, a second before it, and stop two seconds after: what a subject does late (loses, or sends twice) is
seen too.

QEMU's STOP on the source and RESUME on the destination are written down with QEMU's own times. They show on which side
of the pause the rest of the gap lies.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator

from scripts.benchkit.figures import Move, Seen
from scripts.benchkit.subject import GUEST, GUEST_ADDRESS, MOVERS, NETWORK_MTU, PEERS, PREFIX, Port, Subject, eventually
from scripts.labkit import Lab, LabError, domain, guest
from scripts.labkit.node import NodeProcess

__all__ = ["INTERVAL_MS", "Rig", "parse_downtime", "parse_event_times"]

INTERVAL_MS = 5.0
_BEFORE_S, _AFTER_S = 1.0, 2.0
_MOVE_S, _REACHED_S = 90, 30.0
_EVENT = re.compile(r"event (STOP|RESUME) at (\d+\.\d+) for domain")
_DOWNTIME = re.compile(r"^Total downtime:\s+(\d+(?:\.\d+)?)\s+(ms|s)\s*$", re.MULTILINE)


class Rig:
    """One subject in its lab. `place` readies it, `move` moves the guest to the other host and measures."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.lab: Lab = subject.lab
        self.at = MOVERS[0]
        self._port: Port | None = None

    def place(self, image: guest.GuestImage) -> None:
        """Network, guest on h1, peers on all hosts; returns when every peer reaches the guest."""
        self.subject.build()
        port = self._port = self.subject.port(GUEST, GUEST_ADDRESS)
        for host in self.lab.hosts:
            self._attach_peer(host, port)
        xml = domain.domain_xml(
            name=GUEST,
            image=image,
            words=f"ip={GUEST_ADDRESS}/{PREFIX} host={GUEST} mtu={NETWORK_MTU}",
            network=self.subject.network,
            vif_uuid=port.vif_uuid,
            mac=port.mac,
        )
        self.lab.exec(self.at, ["virsh", "create", "/dev/stdin"], input=xml)
        self.subject.guest_started(self.at, port)
        self._await_reached()

    def move(self) -> Move:
        """Move the guest to the other host. LabError when the move fails or the guest is not reached afterwards."""
        assert self._port is not None
        source, destination = self.at, next(host for host in MOVERS if host != self.at)
        self.subject.before_move(self._port, source, destination)
        self._await_reached()
        with self._signals(source, destination) as signals, self._pingers() as pingers:
            time.sleep(_BEFORE_S)
            began = time.monotonic()
            try:
                self._migrate(source, destination)
            finally:
                self.at = self._whereabouts()
            copy_s = time.monotonic() - began
            time.sleep(_AFTER_S)
            seen = _results(self.lab, pingers)
            events = {host: _end(process) for host, process in signals.items()}
        pause_ms = parse_downtime(self.lab.exec(destination, ["virsh", "domjobinfo", GUEST, "--completed"]).stdout)
        self.subject.after_move(self._port, source, destination)
        self._await_reached()
        third = next(host for host in self.lab.hosts if host not in MOVERS)
        return Move(
            source=source,
            destination=destination,
            pause_ms=pause_ms,
            copy_s=round(copy_s, 2),
            seen={"source": seen[source], "destination": seen[destination], "third": seen[third]},
            stopped_at=parse_event_times(events[source]).get("STOP"),
            resumed_at=parse_event_times(events[destination]).get("RESUME"),
        )

    def usable(self) -> bool:
        """After a failed move: True when the guest runs somewhere and all peers reach it."""
        try:
            self.at = self._whereabouts()
            self._await_reached()
        except LabError:
            return False
        return True

    def _attach_peer(self, host: str, guest_port: Port) -> None:
        endpoint = f"peer{host}"
        port = self.subject.port(endpoint, PEERS[host])
        self.lab.attach(
            host,
            endpoint,
            bridge=self.subject.bridge(host),
            vif_uuid=port.vif_uuid,
            mac=port.mac,
            addresses=[f"{port.address}/{PREFIX}"],
            mtu=NETWORK_MTU,
        )
        neighbour = ["ip", "neighbour", "replace", GUEST_ADDRESS, "lladdr", guest_port.mac, "dev", "eth0"]
        self.lab.exec(endpoint, [*neighbour, "nud", "permanent"])
        self.subject.peer_attached(endpoint, host, port)

    def _migrate(self, source: str, destination: str) -> None:
        """By plain virsh. The memory goes over the management network, which carries nothing else meanwhile."""
        to = self.lab.address(destination)
        virsh = ["virsh", "migrate", "--live", "--p2p", GUEST, f"qemu+tcp://{to}/system", "--migrateuri", f"tcp://{to}"]
        self.lab.exec(source, virsh, timeout_s=_MOVE_S)

    def _whereabouts(self) -> str:
        for host in MOVERS:
            state = self.lab.exec(host, ["virsh", "domstate", GUEST], check=False).stdout.strip()
            if state == "running":
                return host
        raise LabError(f"{self.subject.name}: the guest runs neither on {' nor on '.join(MOVERS)}")

    def _await_reached(self) -> None:
        for host in self.lab.hosts:
            eventually(
                self._reaches(f"peer{host}"),
                within_s=_REACHED_S,
                otherwise=f"{self.subject.name}: the peer on {host} did not reach the guest on {self.at}",
            )

    def _reaches(self, endpoint: str) -> Callable[[], bool]:
        ping = ["ping", "-c", "2", "-i", "0.1", "-W", "1", GUEST_ADDRESS]
        return lambda: " 0% packet loss" in self.lab.exec(endpoint, ping, check=False).stdout

    @contextlib.contextmanager
    def _pingers(self) -> Iterator[dict[str, NodeProcess]]:
        running = {}
        try:
            for host in self.lab.hosts:
                running[host] = self.lab.start_ping(f"peer{host}", GUEST_ADDRESS, interval_ms=INTERVAL_MS)
            yield running
        finally:
            _kill(running.values())

    @contextlib.contextmanager
    def _signals(self, *hosts: str) -> Iterator[dict[str, NodeProcess]]:
        """What QEMU says of itself on each host, by libvirt."""
        watch = ["virsh", "qemu-monitor-event", "--loop"]
        running: dict[str, NodeProcess] = {}
        try:
            for host in hosts:
                running[host] = self.lab.popen(
                    host, watch, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True
                )
            yield running
        finally:
            _kill(running.values())


def parse_event_times(text: str) -> dict[str, float]:
    """Unix time of the last STOP and of the last RESUME in the output of `virsh qemu-monitor-event`."""
    return {kind: float(at) for kind, at in _EVENT.findall(text)}


def parse_downtime(text: str) -> float:
    """ms, from the output of `virsh domjobinfo --completed`."""
    found = _DOWNTIME.search(text)
    if found is None:
        raise LabError(f"`virsh domjobinfo --completed` says no downtime: {text.strip()[:300]!r}")
    return float(found[1]) * (1000 if found[2] == "s" else 1)


def _results(lab: Lab, pingers: dict[str, NodeProcess]) -> dict[str, Seen]:
    """End all pingers, then read what each saw."""
    for pinger in pingers.values():
        pinger.terminate()
    seen = {}
    for host, pinger in pingers.items():
        try:
            out, _ = pinger.communicate(timeout=15)
            figures = json.loads(out)
        except (subprocess.TimeoutExpired, ValueError) as error:
            raise LabError(f"the pinger on {host} of lab {lab.name} ended without figures: {error}") from None
        seen[host] = Seen(**{name: figures[name] for name in Seen.__slots__})
    return seen


def _end(process: NodeProcess) -> str:
    """End a `virsh qemu-monitor-event`; it writes what it has heard at its end."""
    process.send_signal(signal.SIGINT)
    try:
        out: str = process.communicate(timeout=5)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        out = process.communicate()[0]
    return out


def _kill(running: Iterable[NodeProcess]) -> None:
    for process in running:
        if process.poll() is None:
            process.kill()
            process.wait()
