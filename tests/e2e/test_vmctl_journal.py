"""Moves that something happens to, on whole hosts: vmctl killed at each step of its journal, networks withdrawn, hosts
out of memory or dead, guests that go off, a full disk. Afterwards the VM is on exactly one host, the journal says
which, and nothing is left elsewhere.

vmctl has no hook for this: the journal is read from outside while it works, and SIGKILL sent when a step appears.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.vmctl_lab import EXAMPLE, another_vmctl, until

if TYPE_CHECKING:
    from scripts.labkit import Lab
    from scripts.labkit.guest import GuestImage

pytestmark = pytest.mark.e2e

VM = "mover"
SLOW = ("--bandwidth", "8")  # MiB/s: some 8 s for what the guest has written


class Site:
    """The lab's hosts h1 and h2, its vmctl, and one VM on network blue."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def vmctl(self, *command: str, code: int = 0) -> str:
        done = self.lab.exec("mgr", ["vmctl", *command], check=False)
        assert done.returncode == code, f"{command}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def json(self, *command: str) -> Any:
        return json.loads(self.lab.exec("mgr", ["vmctl", *command, "-o", "json"]).stdout)

    def row(self) -> dict[str, Any]:
        """The last move, as the journal has it; read without vmctl."""
        with closing(self.journal()) as journal:
            return dict(
                journal.execute("SELECT * FROM migrations ORDER BY id DESC LIMIT 1").fetchone()
                or {"id": 0, "state": "done"}
            )

    def journal(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{self.lab.path('mgr', '/var/lib/vmctl/vmctl.db')}?mode=ro", uri=True, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        return connection

    def begin(self, host: str, *options: str) -> None:
        """A move that is under way: memory is being copied."""
        self.vmctl("migrate", VM, host, "--no-wait", *options)
        until(lambda: self.row()["state"] == "migrating")
        source = "h1" if host == "h2" else "h2"
        until(lambda: "Memory remaining" in self.lab.exec(source, ["virsh", "domjobinfo", VM], check=False).stdout)

    def ended(self) -> dict[str, Any]:
        until(lambda: self.row()["state"] in ("done", "failed"), within_s=60)
        return self.row()

    def active(self, host: str) -> list[str]:
        return self.lab.exec(host, ["virsh", "list", "--name"]).stdout.split()

    def defined(self, host: str) -> list[str]:
        return self.lab.exec(host, ["virsh", "list", "--all", "--name"]).stdout.split()

    def where(self) -> str:
        """The one host that has the VM; everything of the VM is there, and nothing of it anywhere else."""
        (host,) = (host for host in ("h1", "h2", "h3") if VM in self.defined(host))
        (other,) = {"h1", "h2"} - {host}
        assert self.lab.exec(host, ["virsh", "domstate", VM]).stdout.strip() in ("running", "shut off")
        until(lambda: self.taps(other) == [])
        assert self.json("vm", "show", VM)["home"] == host
        assert self.json("vm", "show", VM)["vm"]["host"] == host
        return host

    def taps(self, host: str) -> list[str]:
        """VIF UUIDs plugged into the host's switches, by Open vSwitch's word."""
        command = ["ovs-vsctl", "--bare", "--columns=name", "find", "interface", "external_ids:vm-id!=''"]
        return self.lab.exec(host, command).stdout.split()

    def home(self) -> str:
        """Where the VM is, and where it is not."""
        return "h1" if VM in self.active("h1") else "h2"

    def restart(self, host: str, daemon: str) -> None:
        self.lab.start_daemon(host, daemon)
        until(lambda: not any(h["libvirt"] for h in self.json("host", "list")), within_s=40)


@pytest.fixture(scope="module")
def site(lab: Lab, guest_image: GuestImage) -> Iterator[Site]:
    from scripts.labkit.guest import COMMAND_LINE

    made = Site(lab)
    lab.exec("mgr", ["netmgr", "apply", "-f", str(EXAMPLE), "--wait", "realized"])
    until(lambda: {"h1", "h2"} <= {h for n in made.json("network", "list") if n["name"] == "blue" for h in n["hosts"]})
    boot = ["--kernel", str(guest_image.kernel), "--initrd", str(guest_image.initrd)]
    words = f"{COMMAND_LINE} ip=10.10.0.77/24 host={VM}"
    made.vmctl("vm", "define", VM, "--host", "h1", "--memory", "128", "--network", "blue", *boot, "--cmdline", words)
    made.vmctl("vm", "start", VM)
    until(lambda: lab.guest(VM, ["true"]).returncode == 0)
    yield made
    made.vmctl("vm", "stop", VM, "--force")
    made.vmctl("vm", "undefine", VM)


@pytest.fixture
def running(site: Site) -> Iterator[Site]:
    """The site with its VM running; after the test it runs on exactly one host, as the journal says."""
    yield site
    site.where()
    assert site.ended()["state"] in ("done", "failed")


def other(host: str) -> str:
    return "h2" if host == "h1" else "h1"


def kill_vmctl_at(site: Site, state: str) -> threading.Thread:
    """Sends SIGKILL to vmctl as soon as the journal's next row has come to *state*.

    The event that tells of a step stays, so none is missed by looking too late; vmctl may then die in a later one.
    """
    last = site.row()["id"]
    process = site.lab.node("mgr").daemon("/run/lab/vmctl.pid")
    assert process is not None

    def watch() -> None:
        with closing(site.journal()) as journal:
            deadline = time.monotonic() + 40
            query = "SELECT 1 FROM events WHERE kind = 'migration' AND ref > ? AND what = ?"
            while not journal.execute(query, (last, state)).fetchone():
                assert time.monotonic() < deadline
        site.lab.stop_daemon("mgr", "vmctl", number=signal.SIGKILL)

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
            "mgr",
            ["vmctl", "migrate", VM, other(source), *slow],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if state == "undoing":
            abort = ["virsh", "domjobabort", VM]
            until(lambda: site.row()["state"] == "migrating")
            until(lambda: site.lab.exec(source, abort, check=False).returncode == 0)
    command.wait(timeout=20)
    return str(site.row()["state"])


@pytest.mark.parametrize("state", ["planned", "reserved", "ready", "migrating", "committed", "undoing"])
def test_vmctl_killed_at_any_step_finds_the_vm_on_one_host_and_closes_the_row(running: Site, state: str) -> None:
    for _ in range(6):  # it may be quicker than the one who watches: then again
        source = running.home()
        died_in = move_until_killed(running, state, source)
        running.lab.start_daemon("mgr", "vmctl")
        row = running.ended()
        if died_in in ("planned", "reserved", "ready", "undoing"):
            assert (row["state"], running.where()) == ("failed", source)
        else:  # libvirt has it, or never got it: what counts is that the row tells the truth
            assert running.where() == (other(source) if row["state"] == "done" else source)
        if died_in == state:
            return
    pytest.fail(f"vmctl never died in {state}: it was quicker six times")


def test_network_withdrawn_while_memory_is_copied_stops_the_move(running: Site) -> None:
    source = running.home()
    running.begin(other(source), *SLOW)
    running.lab.exec("mgr", ["netmgr", "network", "withdraw", "blue", "--host", other(source), "--reason", "test"])
    try:
        row = running.ended()
        assert row["state"] == "failed"
        assert f"was not moved to {other(source)}: network blue" in row["sentence"]
        assert f"it is running on {source} as before" in row["sentence"]
        assert running.where() == source
    finally:
        running.lab.exec("mgr", ["netmgr", "network", "restore", "blue", "--host", other(source)])
        until(lambda: "would move live" in running.lab.exec("mgr", ["vmctl", "migrate", VM, other(source), "--dry-run"],
                                                            check=False).stdout)  # fmt: skip


def test_destination_whose_libvirt_dies_leaves_the_vm_alive_and_is_cleaned_when_it_is_back(running: Site) -> None:
    source = running.home()
    running.begin(other(source), *SLOW)
    running.lab.stop_daemon(other(source), "libvirtd", number=signal.SIGKILL)
    try:
        until(lambda: running.row()["state"] == "undoing", within_s=60)
        said = running.row()["sentence"]
        assert f"it is running on {source} as before; {other(source)} does not answer" in said
        assert running.active(source) == [VM]
    finally:
        running.restart(other(source), "libvirtd")
    assert running.ended()["state"] == "failed"
    assert running.where() == source


def test_destination_out_of_memory_is_one_sentence(running: Site) -> None:
    source = running.home()
    libvirtd = running.lab.node(other(source)).daemon("/run/lab/libvirtd.pid")
    assert libvirtd is not None
    limit = ["prlimit", "--pid", str(libvirtd.pid)]
    subprocess.run([*limit, "--as=1500000000:unlimited"], check=True)  # QEMU inherits it: 128 MiB are not to be had
    try:
        said = running.vmctl("migrate", VM, other(source), code=1)
        assert said == (
            f"Error: {VM} was not moved to {other(source)}: QEMU there got no memory for it; free some, or choose "
            f"another host; it is running on {source} as before\n"
        )
    finally:
        subprocess.run([*limit, "--as=unlimited:unlimited"], check=True)
    assert running.where() == source


def test_one_of_two_moves_of_a_vm_at_once_is_refused_and_the_other_arrives(running: Site) -> None:
    source = running.home()
    before = running.row()["id"]
    command = ["vmctl", "migrate", VM, other(source)]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: running.lab.exec("mgr", command, check=False), range(2)))
    assert sorted(one.returncode for one in done) == [0, 2]
    refused = next(one for one in done if one.returncode == 2)
    assert f"{VM} is on its way to {other(source)}" in refused.stderr
    assert running.row()["id"] == before + 1
    assert running.where() == other(source)


def test_events_follow_a_move_step_by_step_and_its_history_has_the_pause(running: Site) -> None:
    source = running.home()
    last = max((task["id"] for task in running.json("task", "list")), default=0)
    follower = running.lab.popen("mgr", ["vmctl", "events", "--follow", "-o", "json"], stdout=subprocess.PIPE)
    running.vmctl("migrate", VM, other(source))
    row = running.row()
    steps = [e["what"] for e in running.json("task", "show", str(row["task_id"]))["steps"]]
    assert steps == ["planned", "reserved", "ready", "migrating", "committed", "done"]
    until(lambda: True)
    follower.send_signal(signal.SIGINT)
    assert follower.stdout is not None
    told = [json.loads(line) for line in follower.stdout.read().splitlines()]
    assert [e["what"] for e in told if e["kind"] == "migration" and e["ref"] == row["id"]] == steps
    assert {"running", "gone"} <= {e["what"] for e in told if e["kind"] == "vm" and e["subject"] == VM}
    task = running.json("task", "list")[0]
    assert (task["id"] > last, task["kind"], task["state"], task["subject"]) == (True, "migrate", "done", VM)
    moved = running.json("vm", "history", VM)[0]
    assert moved["downtime_ms"] > 0
    assert moved["gap_ms"] is not None
    assert moved == running.json("vm", "show", VM)["moves"][0]
    assert running.vmctl("task", "watch", str(task["id"])).startswith(f"{VM} is running on {other(source)}")


def test_post_copy_lets_the_guest_run_at_the_destination_before_its_memory_is_there(running: Site) -> None:
    source = running.home()
    busy = "while :; do dd if=/dev/zero of=/tmp/x bs=1M count=24 2>/dev/null; done"
    running.lab.guest(VM, ["sh", "-c", f"({busy}) >/dev/null 2>&1 & echo $! >/tmp/busy"])
    said = running.vmctl("migrate", VM, other(source), "--post-copy", "--bandwidth", "16")
    assert f"{VM} is running on {other(source)}" in said
    steps = running.json("task", "show", str(running.row()["task_id"]))["steps"]
    assert "switched to post-copy" in [e["what"] for e in steps]
    running.lab.guest(VM, ["sh", "-c", "kill $(cat /tmp/busy); rm /tmp/x"])
    assert running.where() == other(source)


def test_guest_that_shuts_down_while_it_moves_is_off_where_it_was_and_then_moves_cold(running: Site) -> None:
    source = running.home()
    running.begin(other(source), *SLOW)
    assert "is on its way" in running.vmctl("vm", "stop", VM, code=1)
    running.lab.guest(VM, ["sh", "-c", "(sleep 0.3; poweroff -f) &"])
    row = running.ended()
    assert row["state"] == "failed"
    assert row["sentence"].startswith(f"{VM} went off while it moved to {other(source)}")
    assert running.where() == source
    assert running.vmctl("migrate", VM, other(source), "--cold") == f"{VM} is shut off on {other(source)}\n"
    assert running.row()["kind"] == "cold"
    assert running.where() == other(source)
    running.vmctl("vm", "start", VM)
    assert "a cold move is for a VM that is off" in running.vmctl("migrate", VM, source, "--cold", code=2)


def test_full_disk_refuses_a_move_before_it_begins_and_only_delays_the_row_of_one_under_way(running: Site) -> None:
    lab, source = running.lab, running.home()
    lab.exec("mgr", ["mkdir", "-p", "/run/small"])
    lab.exec("mgr", ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", "/run/small"])
    try:
        with another_vmctl(lab, "/run/small") as small:
            refuse_and_delay(running, small, source)
    finally:
        lab.exec("mgr", ["umount", "/run/small"])
    running.vmctl("migrate", VM, source)  # the lab's own vmctl learns again that it is where it belongs


def refuse_and_delay(running: Site, small: list[str], source: str) -> None:
    """The disk of the vmctl that *small* asks fills up before a move, then during one."""
    lab = running.lab
    until(lambda: lab.exec("mgr", [*small, "migrate", VM, other(source), "--dry-run"], check=False).returncode == 0)
    fill = ["dd", "if=/dev/zero", "of=/run/small/ballast", "bs=4k"]
    lab.exec("mgr", fill, check=False)
    refused = lab.exec("mgr", [*small, "migrate", VM, other(source)], check=False)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert "vmctl.db is full; nothing was changed: free space on its disk" in refused.stderr
    assert running.active(source) == [VM]

    lab.exec("mgr", ["rm", "/run/small/ballast"])
    lab.exec("mgr", [*small, "migrate", VM, other(source), "--no-wait", "--bandwidth", "40"])
    listed = [*small, "migrate", "--list", "-o", "json"]
    until(lambda: json.loads(lab.exec("mgr", listed).stdout)[0]["progress"])
    lab.exec("mgr", fill, check=False)
    until(lambda: running.active(other(source)) == [VM] and running.active(source) == [])
    time.sleep(0.5)
    assert json.loads(lab.exec("mgr", listed).stdout)[0]["migration"]["state"] == "migrating"
    lab.exec("mgr", ["rm", "/run/small/ballast"])
    until(lambda: json.loads(lab.exec("mgr", listed).stdout)[0]["migration"]["state"] == "done")
