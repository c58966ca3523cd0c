"""The compute manager on whole hosts: networks by the word of real agents, VMs only where their network is.

h1 and h2 are in zone a with network blue, h3 is in zone b (examples/two-zones.yaml).
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.vmctl_lab import (
    EXAMPLE,
    MANAGER,
    another_vmctl,
    ask,
    carried,
    lit,
    network_uuid,
    running,
    until,
    vmctl,
)

if TYPE_CHECKING:
    from scripts.labkit import Lab
    from scripts.labkit.guest import GuestImage

pytestmark = pytest.mark.e2e

AT_HOME = {"h1": ["already-there"], "h3": ["network-absent"]}  # of vm1


@pytest.fixture(scope="module")
def vms(lab: Lab, guest_image: GuestImage) -> Iterator[Lab]:
    """vm1 on h1 and vm2 on h2, both on blue and running."""
    from scripts.labkit.guest import COMMAND_LINE

    lab.exec(MANAGER, ["netmgr", "apply", "-f", str(EXAMPLE), "--wait", "realized"])
    until(lambda: carried(lab, blue=["h1", "h2"], green=["h3"]))
    for number in (1, 2):
        name, ip = f"vm{number}", f"10.10.0.{number}"
        boot = ["--kernel", str(guest_image.kernel), "--initrd", str(guest_image.initrd)]
        words = f"{COMMAND_LINE} ip={ip}/24 host={name}"
        home = ["--host", f"h{number}", "--memory", "128", "--network", f"blue,ip={ip}"]
        vmctl(lab, "vm", "define", name, *home, *boot, "--cmdline", words)
        vmctl(lab, "vm", "start", name)
    yield lab
    for name in ("vm1", "vm2"):
        vmctl(lab, "vm", "stop", name, "--force")
        vmctl(lab, "vm", "undefine", name)


def test_vms_start_on_their_networks_and_are_lit(vms: Lab) -> None:
    for number in (1, 2):
        assert running(vms, f"h{number}") == [f"vm{number}"]
        until(lambda name=f"vm{number}": lit(vms, name))
        (vif,) = ask(vms, "vm", "show", f"vm{number}")["vifs"]
        assert (vif["network"], vif["network_uuid"], vif["opaque"]) == ("blue", network_uuid(vms, "blue"), True)


def test_host_of_another_zone_is_refused_before_anything_moves(vms: Lab) -> None:
    sentence = (
        f"network blue ({network_uuid(vms, 'blue')}) of zone a is not on h3, whose zones are b; add h3 to zone a "
        "(netmgr host set h3 --zone b --zone a) or choose one of h2"
    )
    assert vmctl(vms, "why-not", "vm1", "h3", code=1) == f"{sentence}\n"
    before = vms.exec("h1", ["virsh", "domstate", "--reason", "vm1"]).stdout
    assert vmctl(vms, "migrate", "vm1", "h3", code=2) == f"Error: {sentence}\n"
    assert vms.exec("h1", ["virsh", "domstate", "--reason", "vm1"]).stdout == before
    assert running(vms, "h1") == ["vm1"]
    assert running(vms, "h3") == []
    row = ask(vms, "migrate", "--list")[0]["migration"]
    assert (row["state"], row["sentence"]) == ("failed", sentence)


def test_vm_cannot_be_defined_where_its_network_is_not(vms: Lab) -> None:
    assert "is not on h3" in vmctl(vms, "vm", "define", "vm9", "--network", "blue", "--host", "h3", code=2)
    assert vms.exec("h3", ["virsh", "list", "--all", "--name"]).stdout.split() == []


def test_vm_moves_to_the_host_that_carries_its_network_and_is_lit_there(vms: Lab) -> None:
    assert vmctl(vms, "why-not", "vm1", "h2") == "vm1 may move to h2\n"
    vif = ask(vms, "vm", "show", "vm1")["vifs"][0]["uuid"]
    said = vmctl(vms, "migrate", "vm1", "h2")
    assert re.search(r"vm1 is running on h2; \d+ ms in all, paused \d+ ms \(QEMU\)", said)
    assert sorted(running(vms, "h2")) == ["vm1", "vm2"]
    assert running(vms, "h1") == []
    until(lambda: lit(vms, "vm1"))
    assert ask(vms, "vm", "show", "vm1")["vifs"][0]["uuid"] == vif
    vmctl(vms, "migrate", "vm1", "h1")
    assert running(vms, "h1") == ["vm1"]
    until(lambda: lit(vms, "vm1"))


@pytest.fixture
def plain_vm(vms: Lab, guest_image: GuestImage) -> Iterator[str]:
    """A running VM on h1 without a NIC."""
    from scripts.labkit.guest import COMMAND_LINE

    boot = ["--kernel", str(guest_image.kernel), "--initrd", str(guest_image.initrd), "--cmdline", COMMAND_LINE]
    vmctl(vms, "vm", "define", "plain", "--memory", "128", "--host", "h1", *boot)
    vmctl(vms, "vm", "start", "plain")
    yield "plain"
    vmctl(vms, "vm", "stop", "plain", "--force")
    vmctl(vms, "vm", "undefine", "plain")


def test_with_the_manager_gone_vmctl_works_on_from_the_hosts(vms: Lab, plain_vm: str) -> None:
    manager = ["--manager", "127.0.0.1:7444", "--networks-from", "manager"]
    with another_vmctl(vms, "/run/second", *manager) as second:

        def says(asking: list[str], *command: str) -> Any:
            return json.loads(vms.exec(MANAGER, [*asking, *command, "-o", "json"], check=False).stdout)

        second_says = partial(says, second)

        def codes(places: Any) -> dict[str, list[str]]:
            return {host["host"]: [refusal["code"] for refusal in host["refusals"]] for host in places["hosts"]}

        until(lambda: codes(second_says("place", "vm1")) == {**AT_HOME, "h2": []})
        assert second_says("status")["networks_from"] == "manager"
        vms.stop_daemon(MANAGER, "netmgr", number=signal.SIGKILL)
        try:
            away = {**AT_HOME, "h2": ["manager-away"], "h3": ["network-absent", "manager-away"]}
            until(lambda: codes(ask(vms, "place", "vm1", code=1)) == away)
            until(lambda: codes(second_says("place", "vm1")) == away)
            assert second_says("status")["networks_from"] == "hosts, the manager is away"
            assert {n["name"]: n["hosts"] for n in second_says("network", "list")} == {
                "blue": ["h1", "h2"],
                "green": ["h3"],
            }
            said = vmctl(vms, "migrate", "vm1", "h2", code=2)
            assert re.fullmatch(
                r"Error: h2 has not reached the network manager for \d+ s, and without its grant no VIF may move in; "
                r"wait until it is back, or choose another host\n",
                said,
            )
            assert running(vms, "h2") == ["vm2"]
            vmctl(vms, "migrate", plain_vm, "h2")  # no VIF, no grant
            vmctl(vms, "migrate", plain_vm, "h1")

            vmctl(vms, "vm", "stop", "vm2", "--force")
            said = vmctl(vms, "vm", "start", "vm2", "--host", "h1", code=1)
            assert "the network manager at" in said
            assert "this host is not the recorded holder of VIF" in said
            assert "vm2" not in vms.exec("h1", ["virsh", "list", "--all", "--name"]).stdout.split(), (
                "a start leaves nothing"
            )
            assert ask(vms, "vm", "show", "vm2")["home"] == "h2"
            vmctl(vms, "vm", "start", "vm2")
            assert running(vms, "h2") == ["vm2"]
            until(lambda: lit(vms, "vm2"))
        finally:
            vms.start_daemon(MANAGER, "netmgr")
        until(lambda: second_says("status")["networks_from"] == "manager")
        home = {**AT_HOME, "h2": []}  # hosts reach the manager again one by one
        until(lambda: codes(says(["vmctl"], "place", "vm1")) == codes(second_says("place", "vm1")) == home)
