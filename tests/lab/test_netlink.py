"""Links and addresses through our netlink module, inside a host's network namespace."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from scripts.labkit import Lab
from scripts.labkit.node import REPOSITORY

pytestmark = pytest.mark.lab

_PROGRAM = """
import asyncio, json, subprocess, sys
from dataclasses import asdict
from hostagent.model import AddAddress, Classifier, RemoveAddress, SetArpIgnore, SetClassifier, SetLink
from hostagent.realize.errors import RealizeError
from hostagent.realize.netlink import Netlink

async def main():
    changed = asyncio.Event()
    netlink = Netlink(on_change=changed.set)
    netlink.start()
    async def link(name):
        return next((asdict(one) for one in await netlink.read_links() if one.name == name), None)
    async def refused(*steps):
        try:
            await netlink.apply(steps)
        except RealizeError as error:
            return error.sentence
        return ""
    result = await run(netlink, link, refused, changed)
    await netlink.close()
    print(json.dumps(result))
"""


def _run(lab: Lab, body: str) -> dict[str, Any]:
    indented = "\n".join("    " + line for line in body.strip().splitlines())
    program = f"{_PROGRAM}\nasync def run(netlink, link, refused, changed):\n{indented}\nasyncio.run(main())\n"
    done = lab.exec("h1", [sys.executable, "-c", program], cwd=str(REPOSITORY))
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_links_and_addresses_are_set_idempotently_and_read_back(bare_lab: Lab) -> None:
    bare_lab.exec("h1", ["ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"])
    result = _run(
        bare_lab,
        """
down = await link("v0")
for _ in range(2):
    await netlink.apply([SetLink(name="v0", mtu=1650), SetLink(name="v1"), AddAddress(link="v0", address="10.9.0.1/24"),
                         AddAddress(link="v0", address="2001:db8::1/64")])
up = await link("v0")
for _ in range(2):
    await netlink.apply([RemoveAddress(link="v0", address="10.9.0.1/24")])
return {"down": down, "up": up, "after": await link("v0")}
""",
    )
    assert (result["down"]["admin_up"], result["down"]["carrier"]) == (False, False)
    up = result["up"]
    assert (up["admin_up"], up["carrier"], up["mtu"], up["speed_mbps"]) == (True, True, 1650, 10000)
    assert {"10.9.0.1/24", "2001:db8::1/64"} <= set(up["addresses"])
    assert "10.9.0.1/24" not in result["after"]["addresses"]
    assert "2001:db8::1/64" in result["after"]["addresses"]


def test_a_link_answers_arp_for_its_own_addresses_only_once_told_so(bare_lab: Lab) -> None:
    bare_lab.exec("h1", ["ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"])
    bare_lab.exec("h1", ["ip", "link", "set", "lo", "mtu", "60"])  # too small for IPv4, which the kernel takes off
    result = _run(
        bare_lab,
        """
before = await link("v0"), await link("lo")
for _ in range(2):
    await netlink.apply([SetArpIgnore(link="v0", arp_ignore=1)])
refusals = [await refused(SetArpIgnore(link=name, arp_ignore=1)) for name in ("lo", "nosuch0")]
after = await link("v0")
return {"before": [one["arp_ignore"] for one in before], "after": after["arp_ignore"], "refusals": refusals}
""",
    )
    assert result["before"] == [0, None]
    assert result["after"] == 1
    assert bare_lab.exec("h1", ["cat", "/proc/sys/net/ipv4/conf/v0/arp_ignore"]).stdout.strip() == "1"
    for name, refusal in zip(("lo", "nosuch0"), result["refusals"], strict=True):
        assert f"interface {name}: wanted arp_ignore 1" in refusal


def test_refusals_name_the_interface_and_what_was_wanted(bare_lab: Lab) -> None:
    result = _run(
        bare_lab,
        """
return {
    "absent": await refused(SetLink(name="nosuch0")),
    "mtu": await refused(SetLink(name="lo", mtu=10)) or await refused(AddAddress(link="nosuch0", address="10.0.0.1/8")),
    "gone": await refused(RemoveAddress(link="nosuch0", address="10.0.0.1/8")),
}
""",
    )
    assert "interface nosuch0: wanted up" in result["absent"]
    assert "could not add address 10.0.0.1/8" in result["mtu"]
    assert result["gone"] == ""


def test_the_bridge_that_holds_a_link_is_read(bare_lab: Lab) -> None:
    for command in ("link add br0 type bridge", "link add v0 type veth peer name v1", "link set v0 master br0"):
        bare_lab.exec("h1", ["ip", *command.split()])
    result = _run(bare_lab, 'return {"v0": await link("v0"), "v1": await link("v1")}')
    assert (result["v0"]["master"], result["v1"]["master"]) == ("br0", "")


def test_changes_by_others_are_told(bare_lab: Lab) -> None:
    result = _run(
        bare_lab,
        """
told = []
for command in ("link add v0 type veth peer name v1", "address add 10.9.0.1/24 dev v0", "link delete v0"):
    await asyncio.sleep(0.1)
    changed.clear()
    subprocess.run(["ip", *command.split()], check=True)
    await asyncio.wait_for(changed.wait(), 2)
    told.append(command)
return {"told": len(told)}
""",
    )
    assert result["told"] == 3


def test_a_thousand_readings_neither_leak_memory_nor_sockets(bare_lab: Lab) -> None:
    result = _run(
        bare_lab,
        """
import os, resource
for _ in range(100):
    await netlink.read_links()
before, files = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, len(os.listdir("/proc/self/fd"))
for _ in range(900):
    await netlink.read_links()
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
return {"kib": after - before, "files": len(os.listdir("/proc/self/fd")) - files}
""",
    )
    assert result["kib"] < 4096
    assert result["files"] <= 0


def test_a_tap_that_is_awaited_is_up_once_it_has_its_mac_and_others_stay_as_they_are(bare_lab: Lab) -> None:
    result = _run(
        bare_lab,
        """
import structlog
from hostagent.realize.early_taps import EarlyTaps
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
def told():
    return subprocess.run(["ip", "link", "show", "vnet7"], check=True, capture_output=True, text=True).stdout
taps = EarlyTaps(lambda mac: mac == "fe:00:00:00:00:07")
taps.watch()
taps.watch()
for name, mac in (("vnet7", "fe:00:00:00:00:07"), ("vnet8", "fe:00:00:00:00:08")):
    subprocess.run(["ip", "tuntap", "add", "dev", name, "mode", "tap"], check=True)
    subprocess.run(["ip", "link", "set", name, "address", mac], check=True)
for _ in range(200):
    if (await link("vnet7"))["admin_up"]:
        break
    await asyncio.sleep(0.01)
found = {name: (await link(name))["admin_up"] for name in ("vnet7", "vnet8")}
promiscuous = "PROMISC" in told()
taps.close()
subprocess.run(["ip", "link", "set", "vnet7", "down"], check=True)
await asyncio.sleep(0.1)
return {**found, "promiscuous": promiscuous, "closed": (await link("vnet7"))["admin_up"]}
""",
    )
    assert result == {"vnet7": True, "vnet8": False, "promiscuous": True, "closed": False}


def test_filters_are_read_back_whole_and_those_of_another_port_replaced(bare_lab: Lab) -> None:
    for words in (
        "ip link add w0 type veth peer name w1",
        "tc qdisc add dev w0 root handle 1: htb",
        *(f"tc class add dev w0 parent 1: classid 1:{number} htb rate 10mbit" for number in (1, 2, 3)),
    ):
        bare_lab.exec("h1", words.split())
    result = _run(
        bare_lab,
        """
from hostagent.qos import filters_of
async def sorted_by(ports):
    filters = filters_of(ports)
    await netlink.apply([SetClassifier(link="w0", filters=filters, queue_bytes=20_000)])
    found = next(one.classifier for one in await netlink.read_links() if one.name == "w0")
    return found == Classifier(filters=tuple(sorted(filters)), queue_bytes=20_000) or str(found)
return {"first": await sorted_by((7443, 7444, 7445)), "then": await sorted_by((80, 7443, 9444, 65535))}
""",
    )
    assert result == {"first": True, "then": True}
