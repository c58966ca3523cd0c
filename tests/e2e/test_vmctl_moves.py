"""vmctl against real libvirtds and QEMU: moves that work, fail, are cancelled, or lose their vmctl.

The VMs here are on no opaque network, so that neither agents nor a network manager are needed; `test_vmctl.py` has
both.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.support.vmctl_lab import until

if TYPE_CHECKING:
    from scripts.labkit import Lab
    from scripts.labkit.guest import GuestImage

pytestmark = pytest.mark.e2e

PLAIN = (
    "<network><name>plain</name><forward mode='bridge'/><bridge name='br-plain'/><virtualport type='openvswitch'/>"
    "</network>"
)
HOOK = """#!/bin/sh
[ "$2" != port-created ] || { echo "VIF of this VM is not granted: ask the operator" >&2; exit 1; }
"""


class Cluster:
    """h1 and h2 with libvirt and a plain libvirt network, and a vmctl on h1 that knows both."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.daemon: subprocess.Popen[Any] | None = None

    def start(self) -> None:
        self.daemon = self.lab.popen("h1", ["vmctl", "serve", "--virt", "qemu"], stderr=subprocess.DEVNULL)
        until(lambda: self.lab.exec("h1", ["vmctl", "status"], check=False).returncode == 0)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.daemon is not None:
            self.daemon.send_signal(number)
            self.daemon.wait(timeout=10)

    def run(self, *command: str, code: int = 0) -> str:
        done = self.lab.exec("h1", ["vmctl", *command], check=False)
        assert done.returncode == code, f"{command}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def json(self, *command: str) -> Any:
        return json.loads(self.lab.exec("h1", ["vmctl", *command, "-o", "json"]).stdout)

    def running(self, host: str) -> list[str]:
        """Names of the VMs that run there, by libvirt's own word."""
        return self.lab.exec(host, ["virsh", "list", "--name"]).stdout.split()

    def last_move(self) -> dict[str, Any]:
        row: dict[str, Any] = self.json("migrate", "--list")[0]["migration"]
        return row


@pytest.fixture(scope="module")
def cluster(libvirt_lab: Lab) -> Iterator[Cluster]:
    for host in ("h1", "h2"):
        libvirt_lab.exec(
            host,
            [
                "ovs-vsctl",
                "add-br",
                "br-plain",
                "--",
                "set",
                "bridge",
                "br-plain",
                f"datapath_type={libvirt_lab.datapath}",
            ],
        )
        libvirt_lab.path(host, "/run/plain.xml").write_text(PLAIN)
        libvirt_lab.exec(host, ["virsh", "net-define", "/run/plain.xml"])
        libvirt_lab.exec(host, ["virsh", "net-start", "plain"])
    made = Cluster(libvirt_lab)
    made.start()
    for host in ("h1", "h2"):
        uri = f"qemu+tcp://{libvirt_lab.address(host)}/system"
        made.run("host", "add", host, "--libvirt", uri, "--host-uuid", str(uuid4()))
    yield made
    made.stop()


@pytest.fixture
def vm(cluster: Cluster, guest_image: GuestImage) -> Iterator[str]:
    """A running VM of ours on h1."""
    from scripts.labkit.guest import COMMAND_LINE

    name = f"vm{time.monotonic_ns() % 10**6}"
    boot = [
        "--kernel",
        str(guest_image.kernel),
        "--initrd",
        str(guest_image.initrd),
        "--cmdline",
        COMMAND_LINE,
    ]
    cluster.run("vm", "define", name, "--memory", "128", "--host", "h1", *boot)
    cluster.run("vm", "start", name)
    yield name
    cluster.run("vm", "stop", name, "--force")
    cluster.run("vm", "undefine", name)


def test_vm_moves_live_and_back_and_leaves_nothing_behind(cluster: Cluster, vm: str) -> None:
    said = cluster.run("migrate", vm, "h2")
    assert re.search(rf"{vm} is running on h2; \d+ ms in all, paused \d+ ms \(QEMU\)", said)
    assert cluster.running("h2") == [vm]
    assert cluster.lab.exec("h1", ["virsh", "list", "--all", "--name"]).stdout.split() == []
    shown = cluster.json("vm", "show", vm)
    assert (shown["vm"]["host"], shown["home"], shown["vm"]["persistent"]) == ("h2", "h2", True)
    cluster.run("migrate", vm, "h1")
    assert cluster.running("h1") == [vm]


def test_vm_that_is_off_starts_on_another_host_and_is_defined_only_there(cluster: Cluster, vm: str) -> None:
    cluster.run("vm", "stop", vm, "--force")
    cluster.run("vm", "start", vm, "--host", "h2")
    assert cluster.running("h2") == [vm]
    assert cluster.lab.exec("h1", ["virsh", "list", "--all", "--name"]).stdout.split() == []


def test_cancelled_move_leaves_the_vm_where_it_was_and_a_second_one_is_refused_meanwhile(
    cluster: Cluster, vm: str
) -> None:
    cluster.run("migrate", vm, "h2", "--bandwidth", "8", "--no-wait")
    until(lambda: (cluster.json("migrate", "--list")[0]["progress"] or {}).get("remaining_mib"))
    assert "is on its way to h2" in cluster.run("migrate", vm, "h2", code=2)
    assert "it was cancelled" in cluster.run("migrate", vm, "--cancel")
    assert cluster.last_move()["state"] == "failed"
    assert cluster.running("h1") == [vm]
    assert cluster.running("h2") == []


def test_move_that_takes_too_long_is_given_up_or_pauses_the_guest_as_asked(cluster: Cluster, vm: str) -> None:
    said = cluster.run("migrate", vm, "h2", "--bandwidth", "2", "--timeout", "3", code=1)
    assert "the copy had not ended after 3 s" in said
    assert (cluster.running("h1"), cluster.running("h2")) == ([vm], [])
    limits = ("--bandwidth", "8", "--suspend-after", "1", "--auto-converge", "--max-pause", "500")
    said = cluster.run("migrate", vm, "h2", *limits)
    assert (cluster.running("h1"), cluster.running("h2")) == ([], [vm])
    pause = re.search(r"paused (\d+) ms", said)
    assert pause is not None, said
    assert int(pause[1]) > 1000  # for the rest of the copy, which takes seconds at this rate
    cluster.run("migrate", vm, "h1")


def test_interrupted_command_stops_the_move(cluster: Cluster, vm: str) -> None:
    command = cluster.lab.popen("h1", ["vmctl", "migrate", vm, "h2", "--bandwidth", "8"], stderr=subprocess.PIPE)
    until(lambda: cluster.json("migrate", "--list")[0]["progress"])
    command.send_signal(signal.SIGINT)
    assert command.stderr is not None
    said = command.stderr.read()
    assert command.wait(timeout=10) == 1
    assert "it was cancelled" in (said if isinstance(said, str) else said.decode())
    assert cluster.running("h1") == [vm]


def test_move_outlives_a_killed_vmctl_and_the_journal_tells_the_truth(cluster: Cluster, vm: str) -> None:
    cluster.run("migrate", vm, "h2", "--bandwidth", "20", "--no-wait")
    until(lambda: cluster.json("migrate", "--list")[0]["progress"])
    cluster.stop(signal.SIGKILL)
    cluster.start()
    until(lambda: cluster.last_move()["state"] in ("done", "failed"))
    assert cluster.last_move()["state"] == "done"
    assert cluster.running("h2") == [vm]
    assert cluster.json("vm", "show", vm)["home"] == "h2"


def test_move_that_failed_while_vmctl_was_dead_is_journaled_as_failed(cluster: Cluster, vm: str) -> None:
    cluster.run("migrate", vm, "h2", "--bandwidth", "8", "--no-wait")
    until(lambda: cluster.json("migrate", "--list")[0]["progress"])
    cluster.stop(signal.SIGKILL)
    cluster.lab.exec("h1", ["virsh", "domjobabort", vm])
    cluster.start()
    until(lambda: cluster.last_move()["state"] in ("done", "failed"))
    assert cluster.last_move()["state"] == "failed"
    assert "it is running on h1 as before" in cluster.last_move()["sentence"]
    assert cluster.running("h1") == [vm]


@pytest.fixture
def foreign_vm(cluster: Cluster, guest_image: GuestImage) -> Iterator[str]:
    """A running VM on h1's plain network that others have defined, without a VIF UUID in its definition."""
    from scripts.labkit.domain import domain_xml

    xml = domain_xml(name="foreign", image=guest_image, network="plain").replace(
        "<virtualport type='openvswitch'></virtualport>", ""
    )
    cluster.lab.path("h1", "/run/foreign.xml").write_text(xml)
    cluster.lab.exec("h1", ["virsh", "define", "/run/foreign.xml"])
    cluster.lab.exec("h1", ["virsh", "start", "foreign"])
    until(lambda: "foreign" in [vm["name"] for vm in cluster.json("vm", "list")["vms"]])
    yield "foreign"
    for host in ("h1", "h2"):
        cluster.lab.exec(host, ["virsh", "destroy", "foreign"], check=False)
        cluster.lab.exec(host, ["virsh", "undefine", "foreign"], check=False)


def vif_on_switch(cluster: Cluster, host: str) -> list[str]:
    """VIF UUIDs of the ports that libvirt has plugged, by Open vSwitch's word."""
    command = ["ovs-vsctl", "--bare", "--columns=external_ids", "find", "interface", "external_ids:iface-id!=''"]
    return re.findall(r"iface-id=\"?([0-9a-f-]{36})", cluster.lab.exec(host, command).stdout)


def test_vm_of_others_moves_and_keeps_its_vif_uuid_for_good(cluster: Cluster, foreign_vm: str) -> None:
    (vif,) = vif_on_switch(cluster, "h1")
    assert not cluster.json("vm", "show", foreign_vm)["vm"]["ours"]
    assert cluster.json("vm", "show", foreign_vm)["vifs"][0]["uuid"] == vif
    cluster.run("migrate", foreign_vm, "h2")
    assert vif_on_switch(cluster, "h2") == [vif]
    assert vif_on_switch(cluster, "h1") == []
    assert vif in cluster.lab.exec("h2", ["virsh", "dumpxml", "--inactive", foreign_vm]).stdout
    cluster.run("vm", "stop", foreign_vm, "--force")
    assert "was not defined by vmctl" in cluster.run("vm", "undefine", foreign_vm, code=1)


def test_words_of_the_destinations_hook_reach_the_user_and_the_vm_runs_on(cluster: Cluster, foreign_vm: str) -> None:
    hook = cluster.lab.path("h2", "/etc/libvirt/hooks/network")
    hook.write_text(HOOK)
    hook.chmod(0o755)
    restart_libvirtd(cluster, "h2")
    try:
        said = cluster.run("migrate", foreign_vm, "h2", code=1)
        assert said == (
            "Error: foreign was not moved to h2: VIF of this VM is not granted: ask the operator; "
            "it is running on h1 as before\n"
        )
        assert cluster.last_move()["state"] == "failed"
        assert cluster.running("h1") == ["foreign"]
    finally:
        hook.unlink()
        restart_libvirtd(cluster, "h2")


def restart_libvirtd(cluster: Cluster, host: str) -> None:
    cluster.lab.stop_daemon(host, "libvirtd")
    cluster.lab.start_daemon(host, "libvirtd")
    until(lambda: not next(h for h in cluster.json("host", "list") if h["host"]["name"] == host)["libvirt"])


def off_and_on(cluster: Cluster, vm: str) -> float:
    """Seconds that it takes this machine, busy as it is, to look at a VM that runs, to stop and to start it."""
    before = time.monotonic()
    assert cluster.json("vm", "show", vm)["vm"]["state"] == "running"
    cluster.run("vm", "stop", vm, "--force")
    cluster.run("vm", "start", vm)
    return time.monotonic() - before


def test_hung_libvirtd_harms_no_other_host_and_comes_back(cluster: Cluster, vm: str) -> None:
    pid = int(cluster.lab.path("h2", "/run/lab/libvirtd.pid").read_text())
    process = cluster.lab.node("h2").daemon("/run/lab/libvirtd.pid")
    assert process is not None
    usual = off_and_on(cluster, vm)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        took = off_and_on(cluster, vm)
        assert took < 2 * usual + 2, f"h1 waited for h2's libvirtd ({pid}): {took:.1f} s, else {usual:.1f} s"
        # keepalive: 5 s, three times
        until(lambda: cluster.json("status")["unread"], within_s=30)
        assert "h2" in cluster.run("why-not", vm, "h2", code=1)
    finally:
        os.kill(process.pid, signal.SIGCONT)
    until(lambda: not cluster.json("status")["unread"], within_s=30)
    assert cluster.run("why-not", vm, "h2") == f"{vm} may move to h2\n"
