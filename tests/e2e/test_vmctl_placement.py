"""Placement on whole hosts: a VM starts where its network is, a host is emptied under a running guest, and stays empty.

h1, h2 and h3 carry network blue; h4 carries green only.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.support.vmctl_lab import EXAMPLE, MANAGER, ask, carried, lit, running, until, vmctl

if TYPE_CHECKING:
    from scripts.labkit import Lab
    from scripts.labkit.guest import GuestImage

pytestmark = pytest.mark.e2e

HOSTS = {"h1": "a", "h2": "a", "h3": "a", "h4": "b"}


@pytest.fixture(scope="module")
def cluster(guest_image: GuestImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    from scripts.labkit import Lab

    wanted = yaml.safe_load(EXAMPLE.read_text())
    wanted["hosts"] = [{"name": name, "zones": [zone]} for name, zone in HOSTS.items()]
    document = tmp_path_factory.mktemp("apply") / "cluster.yaml"
    document.write_text(yaml.safe_dump(wanted))
    with Lab(hosts=4) as lab:
        lab.exec(MANAGER, ["netmgr", "apply", "-f", str(document), "--wait", "realized"])
        until(lambda: carried(lab, blue=["h1", "h2", "h3"], green=["h4"]))
        vmctl(lab, "settings", "settle_s=0", "return_s=0", "balance_gap=0.005", "copy_cost=0")
        yield lab


def define(lab: Lab, image: GuestImage, name: str, number: int, *options: str) -> str:
    """Defines the VM without saying where; its home."""
    from scripts.labkit.guest import COMMAND_LINE

    boot = ["--kernel", str(image.kernel), "--initrd", str(image.initrd), "--memory", "128"]
    words = f"{COMMAND_LINE} ip=10.10.0.{number}/24 host={name}"
    found = ask(lab, "vm", "define", name, "--network", "blue", *boot, "--cmdline", words, *options)
    host: str = found["vm"]["host"]
    return host


@pytest.fixture(scope="module")
def pair(cluster: Lab, guest_image: GuestImage) -> Lab:
    """vm1 and vm2, kept apart, running where placement put them."""
    for number in (1, 2):
        define(cluster, guest_image, f"vm{number}", number, "--anti-group", "ha")
        vmctl(cluster, "vm", "start", f"vm{number}")
    return cluster


def test_vms_that_are_kept_apart_start_on_two_hosts_that_carry_their_network(pair: Lab) -> None:
    where = {vm["name"]: vm["host"] for vm in ask(pair, "vm", "list")["vms"]}
    assert set(where.values()) < {"h1", "h2", "h3"}
    assert where["vm1"] != where["vm2"]
    for name, host in where.items():
        assert running(pair, host) == [name]
        until(lambda name=name: lit(pair, name))


def test_every_host_is_explained_and_why_not_says_the_same(pair: Lab) -> None:
    home = ask(pair, "vm", "show", "vm1")["vm"]["host"]
    other = ask(pair, "vm", "show", "vm2")["vm"]["host"]
    found = {host["host"]: host for host in ask(pair, "place", "vm1", "--explain")["hosts"]}
    codes = {name: [r["code"] for r in host["refusals"]] for name, host in found.items()}
    (free,) = {"h1", "h2", "h3"} - {home, other}
    assert codes == {home: ["already-there"], other: ["anti-affinity"], "h4": ["network-absent"], free: []}
    assert found[free]["score"] > 0
    assert vmctl(pair, "place", "vm1") == f"{free}\n"
    assert "h4 network-absent" in " ".join(vmctl(pair, "place", "vm1", "--explain").split()).replace("- ", "")
    for name in (other, "h4"):
        said = vmctl(pair, "why-not", "vm1", name, code=1)
        assert said.splitlines() == [r["sentence"] for r in found[name]["refusals"]]


def test_what_does_not_fit_is_refused_with_what_there_is(pair: Lab) -> None:
    said = vmctl(pair, "vm", "define", "giant", "--network", "blue", "--memory", "10000000", code=2)
    assert "MiB of memory that h1 may give" in said
    assert "network-absent 1" in said
    assert "giant" not in vmctl(pair, "vm", "list")
    speed = ask(pair, "host", "show", "h1")["switches"][0]["link_mbps"]
    said = vmctl(pair, "vm", "define", "fast", "--network", "blue", "--bandwidth", str(speed + 1), code=2)
    assert f"of the {speed} Mbit/s of switch sw-a 0 are reserved, and fast reserves {speed + 1}" in said


@pytest.fixture
def home(pair: Lab) -> Iterator[str]:
    """The host that runs vm1; no longer in maintenance when the test has ended."""
    host: str = ask(pair, "vm", "show", "vm1")["vm"]["host"]
    yield host
    vmctl(pair, "host", "maintenance", host, "--off")


def emptying(lab: Lab, host: str) -> bool:
    """True while vmctl empties the host. A dry run's exit code says whether it could; having just started it cannot."""
    done = lab.exec(MANAGER, ["vmctl", "host", "maintenance", host, "--dry-run", "-o", "json"], check=False)
    found: bool = json.loads(done.stdout)["evacuating"]
    return found


def test_maintenance_shows_its_plan_then_empties_the_host_under_a_running_guest(
    pair: Lab, home: str, guest_image: GuestImage
) -> None:
    other = ask(pair, "vm", "show", "vm2")["vm"]["host"]
    (free,) = {"h1", "h2", "h3"} - {home, other}
    planned = ask(pair, "host", "maintenance", home, "--dry-run")
    assert [(m["vm_name"], m["source"], m["destination"]) for m in planned["run"]["plan"]["moves"]] == [
        ("vm1", home, free)
    ]
    assert planned["since"] == ""
    assert running(pair, home) == ["vm1"], "a dry run moves nothing"

    vmctl(pair, "host", "maintenance", home, "--yes", "--no-wait")
    pair.stop_daemon(MANAGER, "vmctl", number=signal.SIGKILL)
    pair.start_daemon(MANAGER, "vmctl")
    until(lambda: not emptying(pair, home))
    assert vmctl(pair, "host", "maintenance", home, "--yes").endswith(f"{home} is in maintenance and runs nothing\n")
    assert (running(pair, home), running(pair, free)) == ([], ["vm1"])
    until(lambda: lit(pair, "vm1"))
    assert "maintenance" in vmctl(pair, "host", "list")
    task = next(task for task in ask(pair, "task", "list") if task["kind"] == "maintenance")
    assert (task["subject"], task["state"]) == (home, "done")

    assert vmctl(pair, "why-not", "vm2", home, code=1) == (
        f"{home} is in maintenance and takes no VM; end it (vmctl host maintenance {home} --off) or choose another\n"
    )
    assert "is in maintenance" in vmctl(pair, "migrate", "vm2", home, code=2)
    third = define(pair, guest_image, "vm3", 3)
    assert third != home
    vmctl(pair, "vm", "undefine", "vm3")

    said = vmctl(pair, "host", "maintenance", free, "--dry-run", code=1)
    assert "vm1 stays" in said
    assert "rule ha keeps it apart from vm2" in said
    vmctl(pair, "host", "maintenance", home, "--off")
    assert vmctl(pair, "why-not", "vm2", home) == f"vm2 may move to {home}\n"


@pytest.fixture
def crowded(pair: Lab, guest_image: GuestImage) -> Iterator[str]:
    """The host that runs vm1 and, for this test, vm4 as well."""
    host: str = ask(pair, "vm", "show", "vm1")["vm"]["host"]
    until(lambda: not ask(pair, "status")["unread"])
    define(pair, guest_image, "vm4", 4, "--host", host)
    vmctl(pair, "vm", "start", "vm4", "--host", host)
    yield host
    vmctl(pair, "balance", "--auto", "off")
    vmctl(pair, "settings", "settle_s=0", "return_s=0", "balance_every_s=300", "policy=spread")
    vmctl(pair, "vm", "stop", "vm4", "--force")
    vmctl(pair, "vm", "undefine", "vm4")


def placed(lab: Lab) -> dict[str, list[str]]:
    """What each host runs, by libvirt's own word."""
    return {host: sorted(running(lab, host)) for host in HOSTS}


def test_balance_spreads_when_told_and_the_policy_packs_as_far_as_one_host_may_fail(pair: Lab, crowded: str) -> None:
    before = placed(pair)
    plan = ask(pair, "balance", "--dry-run")["run"]["plan"]
    assert {m["source"] for m in plan["moves"]} == {crowded}
    assert all(m["destination"] != "h4" and m["benefit"] > m["cost"] for m in plan["moves"])
    assert placed(pair) == before, "a dry run moves nothing"
    moved = {m["vm_name"] for m in plan["moves"]}  # one or both, by where the earlier moves have left the others
    count = len(moved)
    assert f"{count} of {count} VMs moved" in vmctl(pair, "balance", "--apply")
    spread = placed(pair)
    assert len(spread[crowded]) == len(before[crowded]) - count

    packed = ask(pair, "balance", "--policy", "consolidate")["run"]["plan"]
    assert packed["moves"] == [], "rule ha would keep vm1 and vm2 apart on the one host that a failure leaves"
    members = vmctl(pair, "rule", "list", "-o", "json")
    vmctl(pair, "rule", "delete", "ha")
    try:
        vmctl(pair, "settings", "settle_s=600")
        packed = ask(pair, "balance", "--policy", "consolidate")["run"]["plan"]
        assert moved.isdisjoint(m["vm_name"] for m in packed["moves"]), "they have not settled"
        vmctl(pair, "settings", "settle_s=0")
        packed = ask(pair, "balance", "--policy", "consolidate")["run"]["plan"]
        (freed,) = packed["freed"]
        assert freed in {"h1", "h2", "h3"}, "green has no carrier but h4, and of blue's three two must stay"
        assert placed(pair) == spread

        vmctl(pair, "settings", "balance_every_s=1")
        vmctl(pair, "balance", "--auto", "on", "--policy", "consolidate")
        until(lambda: running(pair, freed) == [])
        vmctl(pair, "balance", "--auto", "off")
        until(lambda: ask(pair, "balance")["run"]["over"])
        after = placed(pair)
        assert sorted(name for names in after.values() for name in names) == ["vm1", "vm2", "vm4"]
        assert (after[freed], after["h4"]) == ([], [])
        again = ask(pair, "balance", "--policy", "consolidate")["run"]["plan"]
        assert (again["moves"], again["freed"]) == ([], [freed])
    finally:
        vmctl(pair, "rule", "create", "ha", "vm1", "vm2", "--kind", "anti-affinity")
    assert json.loads(members) == ask(pair, "rule", "list")
