"""Connections that move with a port, without a guest: hooks are spoken by hand, endpoints are namespaces.

`vm` is on h1 behind a stateful group that lets it ask, and nobody speak to it. It asks `peer`, which goes on answering.
Then the port comes to h2, where nothing has been said yet.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from scripts.labkit import Lab
from tests.support.agent_words import agent_shows
from tests.support.waiting import within

pytestmark = [pytest.mark.lab, pytest.mark.datapath]

APPLY = """
switches: [{name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24}]
networks: [{name: blue, type: vxlan, zone: a, mtu: 1450}]
groups: [{name: asks, rules: [{direction: egress, protocol: udp, port_min: 53}]}]
"""
VM, MAC, VIF = str(uuid4()), "52:54:00:00:00:05", str(uuid4())
# Asked at port 53, goes on answering from there, and from port 54, where nobody asked.
PEER = """
import socket, time
asked, other = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
asked.bind(("", 53))
other.bind(("", 54))
print("ready", flush=True)
_, who = asked.recvfrom(100)
while True:
    for one in (asked, other):
        one.sendto(b"answer", who)
    time.sleep(0.05)
"""
# Asks if argv 1 says so; prints the ports from which datagrams come to port 3000 within 2 s.
GUEST = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 3000))
if sys.argv[1] == "ask":
    s.sendto(b"question", ("10.10.0.9", 53))
heard, end = set(), time.monotonic() + 2
while (left := end - time.monotonic()) > 0:
    s.settimeout(left)
    try:
        heard.add(s.recvfrom(100)[1][1])
    except TimeoutError:
        break
print(sorted(heard))
"""
# A line to the agent, as libvirt's hooks say it.
HOOK = """
import json, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect("/run/hostagent/hostagent.sock")
s.sendall(sys.argv[1].encode() + b"\\n")
print(s.makefile().readline())
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(hosts=2, with_libvirt=False, zones={"h1": "a", "h2": "a"}) as one:
        yield one


def netmgr(lab: Lab, *words: str) -> Any:
    return json.loads(lab.exec("mgr", ["netmgr", *words, "-o", "json"]).stdout)


def hook(lab: Lab, host: str, verb: str, **words: str) -> None:
    line = json.dumps({"verb": verb, "vm_uuid": VM, "vm_name": "vm", **words})
    assert json.loads(lab.exec(host, ["python3", "-c", HOOK, line]).stdout)["ok"]


def tickets(lab: Lab, host: str) -> list[dict[str, Any]]:
    shown = agent_shows(lab, host)["tickets"]
    return [ticket for found in shown.values() for ticket in found]


def heard(lab: Lab, endpoint: str, how: str) -> list[int]:
    found: list[int] = json.loads(lab.exec(endpoint, ["python3", "-c", GUEST, how]).stdout)
    return found


def test_answers_follow_the_port_to_its_new_host_and_nothing_else_does(lab: Lab) -> None:
    lab.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)
    bridge = agent_shows(lab, "h1")["switches"][0]["bridge"]
    peer = {"mac": "52:54:00:00:00:09", "vif_uuid": str(uuid4())}
    for name, address, mac, vif, *more in (
        ("peer", "10.10.0.9", peer["mac"], peer["vif_uuid"]),
        ("vm", "10.10.0.5", MAC, VIF, "--group", "asks"),
    ):
        words = ("--network", "blue", "--mac", mac, "--ip", address, "--vif", vif)
        netmgr(lab, "port", "create", name, *words, *more)
        lab.attach("h1", f"{name}1", bridge=bridge, addresses=[f"{address}/24"], mtu=1450, mac=mac, vif_uuid=vif)
    assert within(5, lambda: all(netmgr(lab, "port", "show", name)["vif_state"] == "lit" for name in ("peer", "vm")))
    answering = lab.popen("peer1", ["python3", "-c", PEER], stdout=subprocess.PIPE, text=True)
    assert answering.stdout is not None
    assert answering.stdout.readline() == "ready\n"
    assert heard(lab, "vm1", "ask") == [53]

    network = netmgr(lab, "network", "show", "blue")["uuid"]
    lab.attach("h2", "vm2", bridge=bridge, addresses=["10.10.0.5/24"], mtu=1450, mac=MAC, vif_uuid=VIF)
    hook(lab, "h2", "migrate-begin")
    hook(lab, "h2", "port-created", network_uuid=network, vif_uuid=VIF, mac=MAC)
    assert within(10, lambda: [ticket["destination_port"] for ticket in tickets(lab, "h2")] == [53]), tickets(lab, "h2")
    lab.exec("vm2", ["ping", "-c1", "-W1", "10.10.0.77"], check=False)  # a first frame: ARP
    assert within(5, lambda: netmgr(lab, "port", "show", "vm")["host"] == "h2")
    lab.detach("vm1")
    assert heard(lab, "vm2", "listen") == [53]
    assert lab.exec("h2", ["hostagent", "verify"], check=False).returncode == 0
    answering.kill()
    answering.wait()
