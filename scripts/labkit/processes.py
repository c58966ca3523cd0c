"""Processes of this machine: identified so that no signal ever reaches the wrong one.

A pid alone names a process only until it ends; the number is then reused. So a process is remembered as pid *and* start
time, and a signal goes through a pidfd that was opened before the start time was compared: whatever happens between,
it reaches that process or none.

Every process of a lab carries `OPLAB=<lab>/<node>` in the environment it was started with. That mark, not a file, is
what finds the processes of a lab again after a crash; and whatever shares a network namespace with a marked process is
taken to belong to the lab too (somebody's `nsenter`), except for the namespaces of init and of ourselves.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.labkit.patience import patient

__all__ = [
    "MARK",
    "ProcessId",
    "alive",
    "children",
    "ended",
    "identify",
    "inner_pid",
    "marked",
    "send",
    "sharing_network",
    "stop",
]

MARK = "OPLAB"


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process: its pid as this machine sees it, and its start time in clock ticks since boot."""

    pid: int
    started: int


def identify(pid: int) -> ProcessId | None:
    """The process that has *pid* now; None when there is none, or only a zombie."""
    state, process = _look(pid)
    return process if state not in "ZX" else None


def _look(pid: int) -> tuple[str, ProcessId | None]:
    """The state of whatever has *pid* now (proc(5)) and what it is; of nothing, X."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "X", None
    fields = stat[stat.rindex(")") + 2 :].split()  # the name may hold blanks and parentheses
    return fields[0], ProcessId(pid, int(fields[19]))


def alive(process: ProcessId) -> bool:
    """Whether exactly this process still runs."""
    return identify(process.pid) == process


def send(process: ProcessId, number: signal.Signals) -> bool:
    """Send a signal to this process and no other; False when it has ended."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if not alive(process):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def stop(processes: Iterable[ProcessId], *, grace_s: float, kill_s: float = 5.0) -> list[ProcessId]:
    """SIGTERM to each, SIGKILL after *grace_s* to those that stay; returns those that outlive even that by *kill_s*."""
    left = [process for process in processes if send(process, signal.SIGTERM)] if grace_s > 0 else list(processes)
    left = ended(left, timeout_s=grace_s)
    for process in left:
        send(process, signal.SIGKILL)
    return ended(left, timeout_s=kill_s)


def ended(processes: Iterable[ProcessId], *, timeout_s: float) -> list[ProcessId]:
    """Wait for the end of all *processes*, at most *timeout_s*; returns those that still run."""
    deadline = time.monotonic() + patient(timeout_s)
    poller, descriptors = select.poll(), {}
    for process in processes:
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        descriptors[descriptor] = process
        poller.register(descriptor, select.POLLIN)
    try:
        # A zombie is not gone: of a process that is being killed, threads may still hold its files and their locks.
        for descriptor in [d for d, process in descriptors.items() if _look(process.pid)[1] != process]:
            poller.unregister(descriptor)
            os.close(descriptor)
            del descriptors[descriptor]
        while descriptors and (rest_s := deadline - time.monotonic()) > 0:
            for descriptor, _ in poller.poll(rest_s * 1000):
                poller.unregister(descriptor)
                os.close(descriptor)
                del descriptors[descriptor]
        return list(descriptors.values())
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def marked(lab: str | None = None) -> dict[ProcessId, str]:
    """Processes whose environment bears a lab's mark, with its value (`<lab>/<node>`); of one *lab* or of all."""
    wanted = f"{MARK}=".encode() if lab is None else f"{MARK}={lab}/".encode()
    found: dict[ProcessId, str] = {}
    for pid in _pids():
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        value = next((entry for entry in environ.split(b"\0") if entry.startswith(wanted)), None)
        process = identify(pid) if value is not None else None
        if value is not None and process is not None and pid != os.getpid():
            found[process] = value.decode(errors="replace").partition("=")[2]
    return found


def sharing_network(processes: Iterable[ProcessId]) -> set[ProcessId]:
    """Every process in a network namespace of *processes*, themselves included; never init's namespace nor ours."""
    given = set(processes)
    common = {_network(1), _network(os.getpid())}
    spaces = {_network(process.pid) for process in given if alive(process)} - common - {None}
    members = {identify(pid) for pid in _pids() if pid != os.getpid() and _network(pid) in spaces}
    return {process for process in members | given if process is not None}


def children(pid: int) -> list[ProcessId]:
    """Children of *pid*, in no order."""
    found = []
    for other in _pids():
        try:
            stat = Path(f"/proc/{other}/stat").read_text()
        except OSError:
            continue
        if int(stat[stat.rindex(")") + 2 :].split()[1]) == pid and (process := identify(other)):
            found.append(process)
    return found


def inner_pid(init: ProcessId, pid: int) -> ProcessId | None:
    """The process that has *pid* inside the pid namespace whose first process is *init*."""
    space = _link(f"/proc/{init.pid}/ns/pid")
    for other in _pids():
        if space is None or _link(f"/proc/{other}/ns/pid") != space:
            continue
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{other}/status").read_text().splitlines():
                if line.startswith("NSpid:") and int(line.split()[-1]) == pid:
                    return identify(other)
    return None


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _network(pid: int) -> str | None:
    return _link(f"/proc/{pid}/ns/net")


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
