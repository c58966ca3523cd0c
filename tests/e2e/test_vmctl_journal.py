"""Moves that something happens to, on whole hosts: vmctl killed at each step of its journal, networks withdrawn, hosts
out of memory or dead, guests that go off, a full disk. Afterwards the VM is on exactly one host, the journal says
which, and nothing is left elsewhere.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.support.vmctl_lab import another_vmctl, until
from tests.support.vmctl_site import SLOW, STEPS, Site, kill_at_and_start_again, other

if TYPE_CHECKING:
    from scripts.labkit import Lab
    from scripts.labkit.guest import GuestImage

pytestmark = pytest.mark.e2e

VM = "mover"


@pytest.fixture(scope="module")
def site(lab: Lab, guest_image: GuestImage) -> Iterator[Site]:
    made = Site(lab, VM)
    with made.with_vm(guest_image):
        yield made


@pytest.fixture
def running(site: Site) -> Iterator[Site]:
    """The site with its VM running; after the test it runs on exactly one host, as the journal says."""
    yield site
    site.where()
    assert site.ended()["state"] in ("done", "failed")


@pytest.mark.parametrize("state", STEPS)
def test_vmctl_killed_at_any_step_finds_the_vm_on_one_host_and_closes_the_row(running: Site, state: str) -> None:
    kill_at_and_start_again(running, state)


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
