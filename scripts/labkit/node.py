"""A node: a machine made of namespaces.

A node is a network, mount, UTS and pid namespace, held alive by its first process, a shell that does nothing but reap
(`node-init.sh`). The pid namespace makes the end certain: when the first process is killed, the kernel kills every
other one, however it was started or detached. Nothing is registered under /run/netns, no mount reaches the machine's
own mount table, so a dead node leaves a directory and nothing else.

Inside, /run, /var/lib, /var/log, /etc/libvirt, /etc/openvswitch and a few files (/etc/hosts, /etc/hostname, the machine
id, the boot id) are the node's own, bound from its directory; the rest of the machine's files shows through. So every
program finds its default paths, and touches nothing outside.

Signals: a command run by `exec` or `popen` is a child of `nsenter`, which does not pass signals on. `NodeProcess` sends
them to the command itself, and the command dies when its `nsenter` does.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.labkit import processes
from scripts.labkit.errors import LabError
from scripts.labkit.patience import patient
from scripts.labkit.processes import ProcessId

__all__ = ["HIDDEN", "REPOSITORY", "Node", "NodeProcess"]

REPOSITORY = Path(__file__).resolve().parents[2]
HIDDEN = ("/run", "/var/lib", "/var/log", "/etc/libvirt", "/etc/openvswitch", "/var/cache/libvirt")
_INIT = Path(__file__).with_name("node-init.sh")
_DAEMONS = ("NETMGR_", "HOSTAGENT_", "VMCTL_", "OVS_", "LIBVIRT_", "VIRSH_")
_FOREIGN_SETTINGS = (*_DAEMONS, "NOTIFY_SOCKET", "WATCHDOG_", "PYTHONDONTWRITEBYTECODE")


class NodeProcess(subprocess.Popen[Any]):
    """A command inside a node. `pid` is that of its `nsenter`; signals go to the command itself."""

    def send_signal(self, sig: int) -> None:
        if self.poll() is not None:
            return
        command = processes.children(self.pid)
        for child in command:
            processes.send(child, signal.Signals(sig))
        if not command:  # it has not come that far yet
            super().send_signal(sig)


class Node:
    """One node of a lab. Its directory outlives the namespaces, as a machine's disk outlives a crash."""

    def __init__(self, *, lab: str, name: str, directory: Path, init: ProcessId | None = None) -> None:
        self.lab = lab
        self.name = name
        self.directory = directory
        self.init = init

    def start(self, *, hosts_file: str = "") -> None:
        """Make the namespaces and mounts; about 30 ms. The directory is made when there is none."""
        self._lay_out(hosts_file)
        errors = self.directory / "init.log"
        with errors.open("wb") as log:
            process = subprocess.Popen(
                [
                    "unshare",
                    "--net",
                    "--mount",
                    "--uts",
                    "--pid",
                    "--fork",
                    "--kill-child=KILL",
                    "--",
                    "/bin/sh",
                    str(_INIT),
                ],
                env={**self.environment(), "NODE_DIR": str(self.directory), "NODE_NAME": self.name},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )
            assert process.stdout is not None
            with process.stdout:
                line = process.stdout.readline().decode().strip()
        found = processes.identify(int(line)) if line.isdigit() else None
        if found is None:
            process.kill()
            process.wait()
            raise LabError(
                f"node {self.name} of lab {self.lab} did not start: {errors.read_text().strip() or 'no message'}"
            )
        self.init = found

    @property
    def running(self) -> bool:
        return self.init is not None and processes.alive(self.init)

    def path(self, inside: str) -> Path:
        """Where a path of the node lies on the machine."""
        for hidden in HIDDEN:
            if inside == hidden or inside.startswith(hidden + "/"):
                return self.directory / inside.lstrip("/")
        return Path(inside)

    def exec(
        self,
        command: Sequence[str],
        *,
        check: bool = True,
        timeout_s: float = 60.0,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        network_only: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run *command* to its end; text output captured. Raises LabError on a non-zero exit (unless not *check*)."""
        with self.popen(
            command,
            env=env,
            cwd=cwd,
            network_only=network_only,
            stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                out, err = process.communicate(input, timeout=patient(timeout_s))
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                said = (err or out).strip()[-2000:]
                raise LabError(
                    f"{self.name}: `{shlex.join(command)}` did not end within {timeout_s:g} s: {said}"
                ) from None
            except BaseException:
                process.kill()
                raise
        if check and process.returncode != 0:
            said = (err.strip() or out.strip())[-4000:]
            raise LabError(f"{self.name}: `{shlex.join(command)}` ended with {process.returncode}: {said}")
        return subprocess.CompletedProcess(list(command), process.returncode, out, err)

    def popen(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        network_only: bool = False,
        **options: Any,
    ) -> NodeProcess:
        """Start *command* in the node; *options* are those of `subprocess.Popen`.

        With *network_only*, on the node's network but with the machine's files and pids.
        """
        arguments = [*self._enter(cwd, network_only), "setpriv", "--pdeathsig", "KILL", "--", *command]
        return NodeProcess(arguments, env={**self.environment(), **(env or {})}, **options)

    def spawn(self, name: str, command: Sequence[str], *, log: str, env: Mapping[str, str] | None = None) -> ProcessId:
        """Start a daemon that outlives us: output to *log* (a path inside), pid in /run/lab/NAME.pid."""
        script = 'exec >>"$1" 2>&1 </dev/null; pidfile=$2; shift 2; setsid "$@" & echo $! >"$pidfile"'
        self.exec(["/bin/sh", "-c", script, "sh", log, f"/run/lab/{name}.pid", *command], env=env)
        process = self.daemon(f"/run/lab/{name}.pid")
        if process is None:
            raise LabError(f"{self.name}: {name} ended at once: {self.tail(log)}")
        return process

    def daemon(self, pidfile: str) -> ProcessId | None:
        """The running process that *pidfile* (a path inside) names."""
        try:
            pid = int(self.path(pidfile).read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return None
        return processes.inner_pid(self.init, pid) if self.init is not None and self.running else None

    def tail(self, log: str, lines: int = 15) -> str:
        """The last lines of a log (a path inside), for a message."""
        try:
            return "\n".join(self.path(log).read_text(errors="replace").splitlines()[-lines:]) or "(its log is empty)"
        except OSError:
            return "(it left no log)"

    def await_(self, what: str, ready: Callable[[], bool], *, pidfile: str, log: str, timeout_s: float) -> None:
        """Return once *ready*; raise with the log's last lines when the daemon ends or *timeout_s* passes."""
        deadline = time.monotonic() + patient(timeout_s)
        while not ready():
            if self.daemon(pidfile) is None and not ready():
                raise LabError(f"{self.name}: {what} ended while starting. Its last words:\n{self.tail(log)}")
            if time.monotonic() > deadline:
                raise LabError(
                    f"{self.name}: {what} is not ready after {timeout_s:g} s. Its last words:\n{self.tail(log)}"
                )
            time.sleep(0.02)

    def kill(self) -> None:
        """Pull the plug: SIGKILL to everything in the node at once. The directory stays."""
        if self.init is None:
            return
        left = processes.stop([self.init], grace_s=0)
        if left:
            raise LabError(f"node {self.name} of lab {self.lab}: process {self.init.pid} does not die")

    def environment(self) -> dict[str, str]:
        """The environment inside: ours without settings meant for daemons outside, with the checkout's programs."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN_SETTINGS)}
        programs = f"{REPOSITORY / '.venv/bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {**kept, processes.MARK: f"{self.lab}/{self.name}", "PATH": programs, "PYTHONUNBUFFERED": "1"}

    def _enter(self, cwd: str, network_only: bool) -> list[str]:
        if self.init is None or not self.running:
            raise LabError(f"node {self.name} of lab {self.lab} is not running; `lab up` starts a lab")
        spaces = ["--net"] if network_only else ["--net", "--mount", "--uts", "--pid", f"--wdns={cwd}"]
        return ["nsenter", f"--target={self.init.pid}", *spaces, "--"]

    def _lay_out(self, hosts_file: str) -> None:
        for hidden in HIDDEN:
            (self.directory / hidden.lstrip("/")).mkdir(parents=True, exist_ok=True)
        for made in ("run/lab", "run/lock", "var/log/openvswitch", "run/openvswitch", "files"):
            (self.directory / made).mkdir(parents=True, exist_ok=True)
        files = self.directory / "files"
        (files / "hostname").write_text(self.name + "\n")
        (files / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{hosts_file}")
        (files / "boot_id").write_text(f"{uuid.uuid4()}\n")  # a new one at each start, as a kernel's
        if not (files / "machine-id").exists():
            (files / "machine-id").write_text(uuid.uuid4().hex + "\n")
        # The checkout must be visible inside even where it lies under a directory that the node has of its own.
        visible = next((h for h in HIDDEN if REPOSITORY.is_relative_to(h)), None)
        place = self.directory / str(REPOSITORY).lstrip("/") if visible else None
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
        (files / "rebind").write_text(f"{REPOSITORY}\n{place}\n" if place is not None else "")
