"""Domains that know nothing of opaque networks, driven by virsh alone: no VIF UUID, no vmctl.

`web` starts on h1; `peer` is an endpoint on h2, from which a ping every 5 ms shows what the network does meanwhile.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from scripts.labkit import Lab, hypervisor
from scripts.labkit.domain import domain_xml
from scripts.labkit.guest import GuestImage
from tests.support.agent_words import agent_shows, agent_vifs
from tests.support.waiting import first_served, within

pytestmark = pytest.mark.e2e

VIRSH = ["virsh", "-c", "qemu:///system"]
MAC = "52:54:00:00:02:01"
VM = "0b0b0b0b-0000-4000-8000-000000000001"
APPLY = """
switches: [{name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24}]
networks: [{name: blue, type: vxlan, zone: a, mtu: 1450}]
"""
THEIR_HOOK = """#!/bin/sh
# An administrator's own hook, beside ours: gives domains that arrive a description.
[ "$2 $3" = "migrate begin" ] || exit 0
exec sed 's|<memory |<description>seen by their hook</description><memory |'
"""
SLOW_HOOK = """#!/bin/sh
# Holds a VIF up between our hook and its tap, where a test asks for it.
[ "$2" = port-created ] && [ -e /run/slow ] && sleep 4
exit 0
"""


class Plain:
    """The lab, and `web`."""

    def __init__(self, lab: Lab, xml: str) -> None:
        self.lab = lab
        self.xml = xml

    def virsh(self, host: str, *command: str, ok: bool = True) -> str:
        done = self.lab.exec(host, [*VIRSH, *command], check=False, timeout_s=60)
        assert (done.returncode == 0) is ok, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def to(self, destination: str) -> list[str]:
        """virsh's words for a peer-to-peer migration to *destination*."""
        address = self.lab.address(destination)
        return ["--live", "--p2p", "web", hypervisor.remote_uri(address), "--migrateuri", f"tcp://{address}"]

    def migrate(self, source: str, destination: str, *more: str, ok: bool = True) -> str:
        return self.virsh(source, "migrate", *more, *self.to(destination), ok=ok)

    def begin(self, source: str, destination: str, *, mib_per_s: int = 1) -> Any:
        """A migration in the background, granted but slow."""
        command = [*VIRSH, "migrate", "--bandwidth", str(mib_per_s), *self.to(destination)]
        moving = self.lab.popen(source, command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert within(10, lambda: self.port()["incoming_host"] == destination)
        return moving

    def copies(self) -> bool:
        """True once memory goes to the destination. A libvirtd that dies while its QEMU still starts can't get hold of
        it afterwards (9.0; `virsh destroy` says "cannot acquire state change lock"): that QEMU keeps its tap, and the
        port its grant, until somebody kills it."""
        return "Data processed" in self.virsh("h1", "domjobinfo", "web")

    def ports(self) -> list[dict[str, Any]]:
        ports = json.loads(self.lab.exec("mgr", ["netmgr", "port", "list", "-o", "json"]).stdout)
        return [port for port in ports if port["mac"] == MAC]

    def port(self) -> dict[str, Any]:
        (port,) = self.ports()
        return port

    def vif(self, host: str) -> dict[str, Any]:
        vifs = agent_vifs(self.lab, host)
        return next((vif for vif in vifs if vif["mac"] == MAC), {})

    def settled_at(self, host: str) -> bool:
        port = self.port()
        return bool(
            port["host"] == host
            and port["incoming_host"] is None
            and not port["parked"]
            and self.vif(host).get("state") == "lit"
        )

    def story(self) -> str:
        """What manager, libvirts and agents say, for whoever reads of a failure."""
        parts = [str(self.port())]
        for host in self.lab.hosts:
            log = self.lab.path(host, "/var/log/hostagent.log").read_text()
            parts += [host, str(self.vif(host)), self.virsh(host, "list", "--all"), log[-5000:]]
        return "\n".join(parts)

    def answers(self) -> bool:
        return self.lab.exec("peer", ["ping", "-c1", "-W1", "10.10.0.1"], check=False).returncode == 0


@pytest.fixture(scope="module")
def plain(guest_image: GuestImage) -> Iterator[Plain]:
    with Lab(hosts=2, with_vmctl=False, zones={"h1": "a", "h2": "a"}) as lab:
        lab.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)
        for host in lab.hosts:
            hook = lab.path(host, "/etc/libvirt/hooks/qemu.d/10-theirs")
            hook.write_text(THEIR_HOOK)
            hook.chmod(0o755)
            slow = lab.path(host, "/etc/libvirt/hooks/network.d/90-slow")
            slow.write_text(SLOW_HOOK)
            slow.chmod(0o755)
        xml = domain_xml(name="web", image=guest_image, words="ip=10.10.0.1/24 host=web", network="blue", mac=MAC)
        assert "interfaceid" not in xml
        xml = xml.replace("<name>", f"<uuid>{VM}</uuid><name>", 1)
        web = Plain(lab, xml)
        lab.exec("h1", [*VIRSH, "define", "/dev/stdin"], input=xml)
        web.virsh("h1", "start", "web")
        peer = {"vif_uuid": "99999999-0000-4000-8000-000000000001", "mac": "52:54:00:00:02:99"}
        lab.exec(
            "mgr",
            ["netmgr", "port", "create", "peer", "--network", "blue", "--vif", peer["vif_uuid"], "--mac", peer["mac"]],
        )
        bridge = agent_shows(lab, "h2")["switches"][0]["bridge"]
        lab.attach("h2", "peer", bridge=bridge, addresses=["10.10.0.99/24"], mtu=1450, **peer)
        assert within(40, web.answers)
        time.sleep(2)  # a guest that boots dirties its memory faster than it can be copied
        yield web


def test_a_domain_without_a_vif_uuid_keeps_its_port_there_and_straight_back(plain: Plain) -> None:
    before = plain.port()
    assert before["host"] == "h1"
    ping = plain.lab.start_ping("peer", "10.10.0.1")
    plain.migrate("h1", "h2")
    assert "seen by their hook" in plain.virsh("h2", "dumpxml", "web")
    plain.migrate("h2", "h1")  # within the second: its own word on where it runs may still be on its way
    assert within(10, lambda: plain.settled_at("h1"))
    time.sleep(1)
    seen = plain.lab.stop_ping(ping)
    assert (plain.port()["uuid"], plain.port()["vif_uuid"]) == (before["uuid"], before["vif_uuid"])
    assert plain.vif("h1")["vif"] == before["vif_uuid"]
    assert within(5, lambda: plain.vif("h2") == {})
    assert seen["duplicates"] == 0
    assert seen["received"] > 100
    assert seen["gap_ms"] < 5000  # two pauses of QEMU's, without KVM


def test_a_manager_that_dies_in_the_middle_learns_afterwards_where_the_guest_went(plain: Plain) -> None:
    moving = plain.begin("h1", "h2", mib_per_s=16)
    plain.lab.stop_daemon("mgr", "netmgr", number=signal.SIGKILL)
    try:
        assert moving.wait(timeout=40) == 0
        assert within(5, plain.answers)  # nothing between pause and first frame waits for the manager
        refused = plain.migrate("h2", "h1", ok=False)
        assert "can't migrate here" in refused
        assert plain.answers()
    finally:
        plain.lab.start_daemon("mgr", "netmgr")
    assert within(20, lambda: plain.settled_at("h2"))
    plain.migrate("h2", "h1")  # at once: a claim does not wait for h1's next attempt to reach the manager
    assert within(10, lambda: plain.settled_at("h1"))


@pytest.mark.parametrize(
    "how",
    [
        "is aborted",
        "destination's libvirtd dies",
        "destination's libvirtd dies before the tap",
        "source's libvirtd restarts",
    ],
)
def test_a_migration_that_fails_leaves_the_guest_and_its_port_where_they_were(plain: Plain, how: str) -> None:
    lab = plain.lab
    vif = plain.port()["vif_uuid"]
    ping = lab.start_ping("peer", "10.10.0.1")
    slow = lab.path("h2", "/run/slow")
    slow_hook = how.endswith("before the tap")
    if slow_hook:
        slow.touch()
    moving = plain.begin("h1", "h2")
    slow.unlink(missing_ok=True)
    if how == "is aborted":
        plain.virsh("h1", "domjobabort", "web")
    elif how.startswith("destination's libvirtd dies"):
        if not slow_hook:
            assert within(20, plain.copies)
        lab.stop_daemon("h2", "libvirtd", number=signal.SIGKILL)
        assert moving.wait(timeout=60) != 0
        lab.start_daemon("h2", "libvirtd")
        lab.exec("h2", [*VIRSH, "destroy", "web"], check=False)  # what it found when it came back
    else:
        lab.stop_daemon("h1", "libvirtd", number=signal.SIGKILL)
        lab.start_daemon("h1", "libvirtd")
    assert moving.wait(timeout=60) != 0
    if not within(30, lambda: plain.settled_at("h1")):
        pytest.fail(plain.story())
    seen = lab.stop_ping(ping)
    assert plain.port()["vif_uuid"] == vif
    assert "web" in plain.virsh("h1", "list", "--name")
    assert (seen["duplicates"], seen["received"] > 100) == (0, True)


def test_a_wrong_address_fails_before_anything_moves(plain: Plain) -> None:
    target = ["--live", "--p2p", "web", "qemu+tcp://10.255.0.99/system"]
    plain.virsh("h1", "migrate", *target, ok=False)
    assert plain.settled_at("h1")
    assert plain.answers()


def test_a_start_after_a_refused_migration_does_not_pass_for_it(plain: Plain) -> None:
    """The destination was told of a migration that it then refused; libvirt says nothing of its end."""
    hide = ["netmgr", "network", "withdraw", "blue", "--host", "h2", "--reason", "test", "--wait", "realized"]
    plain.lab.exec("mgr", hide)
    try:
        assert "network blue is withdrawn from host h2" in plain.migrate("h1", "h2", ok=False)
    finally:
        plain.lab.exec("mgr", ["netmgr", "network", "restore", "blue", "--host", "h2"])
    xml = plain.virsh("h1", "dumpxml", "--migratable", "--security-info", "web")
    plain.lab.exec("h2", [*VIRSH, "define", "/dev/stdin"], input=xml)
    try:
        sentence = "held by host h1, where its guest runs"
        assert within(5, lambda: sentence in plain.virsh("h2", "start", "web", ok=False))  # the other once restored
    finally:
        plain.virsh("h2", "undefine", "web")
    assert plain.settled_at("h1")
    assert plain.answers()


def test_a_guest_that_is_migrated_while_paused_is_reached_when_it_runs_again(plain: Plain) -> None:
    plain.virsh("h1", "suspend", "web")
    plain.migrate("h1", "h2")
    plain.virsh("h2", "resume", "web")
    assert within(10, lambda: plain.settled_at("h2"))
    assert within(5, plain.answers)
    plain.migrate("h2", "h1")
    assert within(10, lambda: plain.settled_at("h1"))


def test_a_leftover_that_somebody_resumes_at_the_source_stays_dark(plain: Plain) -> None:
    """A migration's client that dies before its last word leaves the guest paused at the source: libvirt can't know
    whether it runs at the destination. Whoever resumes it there has it twice."""
    lab, log = plain.lab, plain.lab.path("h2", "/var/log/hostagent.log")
    before = log.stat().st_size
    source, destination = (hypervisor.remote_uri(lab.address(host)) for host in lab.hosts)
    command = ["virsh", "-c", source, "migrate", "--live", "web", destination]
    command += ["--migrateuri", f"tcp://{lab.address('h2')}"]
    client = lab.popen("mgr", command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 40
        with first_served():  # between the two words are some 10 ms
            while b"phase=activated" not in log.read_bytes()[before:]:
                assert time.monotonic() < deadline, plain.story()
                time.sleep(0.001)
            client.send_signal(signal.SIGSTOP)
        assert within(10, lambda: plain.port()["host"] == "h2")
    finally:
        client.kill()
        os.kill(client.pid, signal.SIGCONT)  # its nsenter has stopped with it
        client.wait(timeout=10)
    assert "paused" in plain.virsh("h1", "domstate", "web")
    held = plain.port()["location_version"]
    assert "is held by host" in plain.vif("h1")["reason"]
    ping = lab.start_ping("peer", "10.10.0.1")
    plain.virsh("h1", "resume", "web")
    time.sleep(2)
    assert plain.vif("h1")["state"] == "dark"
    assert lab.exec("h1", ["hostagent", "vif", "explain", plain.port()["vif_uuid"]], check=False).returncode == 1
    plain.virsh("h1", "destroy", "web")
    time.sleep(2)  # nobody takes its end for the guest's
    seen = lab.stop_ping(ping)
    assert (seen["duplicates"], seen["lost"]) == (0, 0)
    assert plain.port()["location_version"] == held
    assert plain.settled_at("h2")
    plain.migrate("h2", "h1")
    assert within(10, lambda: plain.settled_at("h1"))


def test_a_domain_that_is_started_again_has_the_port_it_had(plain: Plain) -> None:
    """libvirt invents another VIF UUID at each start of a domain that has none; the port goes by MAC and VM."""
    before = plain.port()
    plain.virsh("h1", "destroy", "web")
    assert within(10, lambda: plain.port()["parked"])
    plain.virsh("h1", "undefine", "web")  # its migrations have left the UUID in its definition
    thief = plain.xml.replace(VM, str(uuid4()))  # another VM that chooses the same MAC
    plain.lab.exec("h1", [*VIRSH, "define", "/dev/stdin"], input=thief)
    refused = plain.virsh("h1", "start", "web", ok=False)
    assert f"last granted to VM {VM}" in refused
    plain.virsh("h1", "undefine", "web")
    assert plain.port() == plain.port() | {"uuid": before["uuid"], "vif_uuid": before["vif_uuid"], "parked": True}
    plain.lab.exec("h1", [*VIRSH, "define", "/dev/stdin"], input=plain.xml)
    plain.virsh("h1", "start", "web")
    assert within(10, lambda: plain.settled_at("h1"))
    after = plain.port()
    assert (after["uuid"], after["name"]) == (before["uuid"], before["name"])
    assert after["vif_uuid"] != before["vif_uuid"]
    assert within(40, plain.answers)
    time.sleep(2)
    plain.migrate("h1", "h2")
    plain.migrate("h2", "h1")
    assert within(10, lambda: plain.settled_at("h1"))


@pytest.mark.parametrize("starts", ["by hand", "at boot"])
def test_after_a_reboot_with_the_manager_gone_only_the_recorded_holder_may_start_it(plain: Plain, starts: str) -> None:
    lab = plain.lab
    vif = plain.port()["vif_uuid"]
    xml = plain.virsh("h1", "dumpxml", "--migratable", "--security-info", "web")
    assert vif in xml  # its definition has the UUID by now: it has migrated
    plain.virsh("h1", "destroy", "web")
    for host in lab.hosts:
        lab.exec(host, [*VIRSH, "undefine", "web"], check=False)
        lab.exec(host, [*VIRSH, "define", "/dev/stdin"], input=xml)
    assert within(10, lambda: plain.port()["parked"])
    lab.stop_daemon("mgr", "netmgr")
    try:
        if starts == "at boot":
            plain.virsh("h1", "autostart", "web")
        lab.crash("h1")
        lab.boot("h1")
        refused = plain.virsh("h2", "start", "web", ok=False)
        assert "not the recorded holder" in refused
        assert "start the guest on the host that held it last" in refused
        if starts == "by hand":
            plain.virsh("h1", "start", "web")
        assert within(10, lambda: plain.vif("h1").get("state") == "lit")
        assert plain.vif("h1")["vif"] == vif
        assert within(40, plain.answers)
    finally:
        lab.start_daemon("mgr", "netmgr")
    assert within(20, lambda: plain.settled_at("h1"))
    assert len(plain.ports()) == 1
