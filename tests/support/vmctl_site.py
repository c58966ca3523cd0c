"""A VM that moves between two hosts of a lab, its vmctl, which is killed on the way, and the journal, read beside it.

vmctl has no hook for this: the journal is read from outside while it works, and SIGKILL sent when a step appears.
"""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.support.vmctl_lab import EXAMPLE, MANAGER, until

if TYPE_CHECKING:
    from scripts.labkit import Lab
    from scripts.labkit.guest import GuestImage

STEPS = ("planned", "reserved", "ready", "migrating", "committed", "undoing")
SLOW = ("--bandwidth", "8")  # MiB/s: some 8 s for what the guest has written


class Site:
    """The lab's hosts h1 and h2, its vmctl, and one VM, called *vm*, on network blue."""

    asking: Sequence[str] = ("vmctl",)  # the command that asks this vmctl

    def __init__(self, lab: Lab, vm: str, *, store: str = "") -> None:
        self.lab = lab
        self.vm = vm
        file = lab.path(MANAGER, "/var/lib/vmctl/vmctl.db")
        self._engine = sa.create_engine(
            store or f"sqlite:///file:{file}?mode=ro&uri=true", isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
        )

    def vmctl(self, *command: str, code: int = 0) -> str:
        done = self.lab.exec(MANAGER, [*self.asking, *command], check=False)
        assert done.returncode == code, f"{command}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def json(self, *command: str) -> Any:
        return json.loads(self.lab.exec(MANAGER, [*self.asking, *command, "-o", "json"]).stdout)

    def killer(self) -> Callable[[], object]:
        """SIGKILL for vmctl; looked up beforehand, since a step may last no longer than that."""
        from scripts.labkit import processes

        process = self.lab.node(MANAGER).daemon("/run/lab/vmctl.pid")
        assert process is not None

        def strike() -> None:
            processes.send(process, signal.SIGKILL)
            assert not processes.ended([process], timeout_s=15)

        return strike

    def start(self) -> None:
        """vmctl again; returns when it answers."""
        self.lab.start_daemon(MANAGER, "vmctl")

    @contextmanager
    def with_vm(self, image: GuestImage) -> Iterator[None]:
        """The VM, running on h1 and answering; gone at the end."""
        from scripts.labkit.guest import COMMAND_LINE

        self.lab.exec(MANAGER, ["netmgr", "apply", "-f", str(EXAMPLE), "--wait", "realized"])
        until(
            lambda: {"h1", "h2"} <= {h for n in self.json("network", "list") if n["name"] == "blue" for h in n["hosts"]}
        )
        boot = ["--kernel", str(image.kernel), "--initrd", str(image.initrd), "--memory", "128"]
        words = f"{COMMAND_LINE} ip=10.10.0.77/24 host={self.vm}"
        self.vmctl("vm", "define", self.vm, "--host", "h1", "--network", "blue", *boot, "--cmdline", words)
        self.vmctl("vm", "start", self.vm)
        until(lambda: self.lab.guest(self.vm, ["true"]).returncode == 0)
        yield
        self.vmctl("vm", "stop", self.vm, "--force")
        self.vmctl("vm", "undefine", self.vm)

    def row(self) -> dict[str, Any]:
        """The last move, as the journal has it; read without vmctl."""
        with self.journal() as journal:
            last = journal.execute(sa.text("SELECT * FROM migrations ORDER BY id DESC LIMIT 1")).mappings().first()
            return dict(last or {"id": 0, "state": "done"})

    def journal(self) -> sa.Connection:
        """A way into vmctl's database, past vmctl."""
        return self._engine.connect()

    def begin(self, host: str, *options: str) -> None:
        """A move that is under way: memory is being copied."""
        self.vmctl("migrate", self.vm, host, "--no-wait", *options)
        until(lambda: self.row()["state"] == "migrating")
        source = "h1" if host == "h2" else "h2"
        until(lambda: "Memory remaining" in self.lab.exec(source, ["virsh", "domjobinfo", self.vm], check=False).stdout)

    def ended(self) -> dict[str, Any]:
        until(lambda: self.row()["state"] in ("done", "failed"), within_s=60)
        return self.row()

    def active(self, host: str) -> list[str]:
        return self.lab.exec(host, ["virsh", "list", "--name"]).stdout.split()

    def defined(self, host: str) -> list[str]:
        return self.lab.exec(host, ["virsh", "list", "--all", "--name"]).stdout.split()

    def where(self) -> str:
        """The one host that has the VM; everything of the VM is there, and nothing of it anywhere else."""
        (host,) = (host for host in ("h1", "h2", "h3") if self.vm in self.defined(host))
        (other,) = {"h1", "h2"} - {host}
        assert self.lab.exec(host, ["virsh", "domstate", self.vm]).stdout.strip() in ("running", "shut off")
        until(lambda: self.taps(other) == [])
        assert self.json("vm", "show", self.vm)["home"] == host
        assert self.json("vm", "show", self.vm)["vm"]["host"] == host
        return host

    def taps(self, host: str) -> list[str]:
        """VIF UUIDs plugged into the host's switches, by Open vSwitch's word."""
        command = ["ovs-vsctl", "--bare", "--columns=name", "find", "interface", "external_ids:vm-id!=''"]
        return self.lab.exec(host, command).stdout.split()

    def home(self) -> str:
        """Where the VM is, and where it is not."""
        return "h1" if self.vm in self.active("h1") else "h2"

    def restart(self, host: str, daemon: str) -> None:
        self.lab.start_daemon(host, daemon)
        until(lambda: not any(h["libvirt"] for h in self.json("host", "list")), within_s=40)


def other(host: str) -> str:
    return "h2" if host == "h1" else "h1"


def kill_vmctl_at(site: Site, state: str) -> threading.Thread:
    """Sends SIGKILL to vmctl as soon as the journal's next row has come to *state*.

    The event that tells of a step stays, so none is missed by looking too late; vmctl may then die in a later one.
    """
    last, kill = site.row()["id"], site.killer()
    query = f"SELECT 1 FROM events WHERE kind = 'migration' AND ref > {last} AND what = '{state}'"

    def watch() -> None:
        with site.journal() as journal:
            deadline = time.monotonic() + 40
            while not journal.exec_driver_sql(query).first():
                assert time.monotonic() < deadline
            kill()

    watching = threading.Thread(target=watch)
    watching.start()
    return watching


@contextmanager
def vmctl_killed_at(site: Site, state: str) -> Iterator[None]:
    watching = kill_vmctl_at(site, state)
    yield
    watching.join()


def move_until_killed(site: Site, state: str, source: str) -> str:
    """Moves the VM, vmctl being killed when *state* appears; the state in which it died."""
    slow = SLOW if state == "undoing" else ()
    with vmctl_killed_at(site, state):
        command = site.lab.popen(
            MANAGER,
            [*site.asking, "migrate", site.vm, other(source), *slow],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if state == "undoing":
            abort = ["virsh", "domjobabort", site.vm]
            until(lambda: site.row()["state"] == "migrating")
            until(lambda: site.lab.exec(source, abort, check=False).returncode == 0)
    command.wait(timeout=20)
    return str(site.row()["state"])


def kill_at_and_start_again(site: Site, state: str) -> None:
    """The claim: whichever step vmctl dies in, the VM is on one host and its next start closes the row truthfully."""
    for _ in range(8):  # it may be quicker than the one who watches: then again
        source = site.home()
        died_in = move_until_killed(site, state, source)
        site.start()
        row = site.ended()
        if died_in in ("planned", "reserved", "ready", "undoing"):
            assert (row["state"], site.where()) == ("failed", source)
        else:  # libvirt has it, or never got it: what counts is that the row tells the truth
            assert site.where() == (other(source) if row["state"] == "done" else source)
        if died_in == state:
            return
    pytest.fail(f"vmctl never died in {state}: it was quicker eight times")
