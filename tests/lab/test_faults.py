"""Things that go wrong between VIF, agent and manager: two of one, a host that lies, processes that die in between."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from scripts.labkit import Lab
from tests.support.frame_count import count_frames, counted
from tests.support.waiting import within

pytestmark = pytest.mark.lab

APPLY = """
switches: [{name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24}]
networks: [{name: blue, type: vxlan, zone: a, mtu: 1450}]
"""
# A VXLAN frame as a kernel would send it: from argv 1 to argv 2, VNI argv 3, inner MACs argv 4 (to) and 5 (from).
SEND = """
import socket, sys
own, other, vni, to, by = sys.argv[1:]
frame = bytes.fromhex(to.replace(":", "")) + bytes.fromhex(by.replace(":", "")) + b"\\x88\\xb5" + b"forged" * 10
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((own, 0))
for _ in range(5):
    s.sendto(b"\\x08\\0\\0\\0" + int(vni).to_bytes(3, "big") + b"\\0" + frame, (other, 4789))
"""


class Three:
    """Three hosts with agents on network `blue`; e1 on h1 and e2 on h2."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)
        self.bridge = self.agent("h1", "show")["switches"][0]["bridge"]
        self.vifs = {name: str(uuid4()) for name in ("e1", "e2", "e5")}
        for name in self.vifs:
            words = ["--vif", self.vifs[name], "--mac", mac(int(name[1:]))]
            lab.exec("mgr", ["netmgr", "port", "create", name, "--network", "blue", *words])
        self.plug("h1", "e1", 1)
        self.plug("h2", "e2", 2)
        assert within(10, lambda: self.reach("e1", "10.10.0.2"))

    def plug(self, host: str, endpoint: str, number: int, *, vif: str = "") -> None:
        self.lab.attach(
            host,
            endpoint,
            bridge=self.bridge,
            vif_uuid=vif or self.vifs[endpoint],
            mac=mac(number),
            addresses=[f"10.10.0.{number}/24"],
            mtu=1450,
        )

    def agent(self, host: str, *command: str) -> Any:
        return json.loads(self.lab.exec(host, ["hostagent", *command, "-o", "json"], check=False).stdout)

    def vif(self, host: str, ovs_port: str) -> dict[str, Any]:
        return next((vif for vif in self.agent(host, "vif", "list") if vif["ovs_port"] == ovs_port), {})

    def port(self, name: str) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(self.lab.exec("mgr", ["netmgr", "port", "show", name, "-o", "json"]).stdout)
        return shown

    def ports(self) -> list[str]:
        ports = json.loads(self.lab.exec("mgr", ["netmgr", "port", "list", "-o", "json"]).stdout)
        return sorted(port["name"] for port in ports)

    def reach(self, endpoint: str, address: str) -> bool:
        return self.lab.exec(endpoint, ["ping", "-c1", "-W1", address], check=False).returncode == 0


def mac(number: int) -> str:
    return f"52:54:00:00:05:{number:02x}"


@pytest.fixture(scope="module")
def three() -> Iterator[Three]:
    zones = {"h1": "a", "h2": "a", "h3": "a"}
    with Lab(hosts=3, with_libvirt=False, with_vmctl=False, zones=zones) as lab:
        yield Three(lab)


@pytest.mark.datapath
def test_of_one_vif_plugged_on_two_hosts_the_second_stays_dark_and_both_are_named(three: Three) -> None:
    three.plug("h3", "twin", 1, vif=three.vifs["e1"])
    try:
        assert within(5, lambda: "held by host h1" in three.vif("h3", "ep-twin").get("reason", ""))
        explained = three.agent("h3", "vif", "explain", "ep-twin")
        assert explained["state"] == "dark"
        assert "held by host h1" in explained["facts"][-1]
        assert "the agent asks again by itself" in explained["advice"][0]
        assert within(3, lambda: [one["host"] for one in three.port("e1")["conflicts"]] == ["h3"])
        shown = three.port("e1")
        assert (shown["host"], shown["vif_state"], shown["plugged_on"]) == ("h1", "lit", ["h1", "h3"])
        assert three.reach("e2", "10.10.0.1")
        assert not three.reach("twin", "10.10.0.2")
    finally:
        three.lab.detach("twin")
    assert within(3, lambda: three.port("e1")["conflicts"] == [])


@pytest.mark.datapath
def test_a_host_that_lies_about_a_vif_delivers_nothing_in_its_name_and_receives_nothing(three: Three) -> None:
    lab = three.lab
    vteps = {host: three.agent(host, "show")["switches"][0]["vteps"][0] for host in lab.hosts}
    segment = str(three.agent("h1", "show")["networks"][0]["segment"])
    lab.stop_daemon("h3", "hostagent")  # from now on h3 does what it likes
    try:
        for liar, delivered in (("h3", 0), ("h1", 5)):  # the same from the holder arrives: the forgery is a good one
            watcher = count_frames(lab, "e2", "eth0", seconds=1.5, has={12: b"\x88\xb5forged"})
            lab.exec(liar, ["python3", "-c", SEND, vteps[liar], vteps["h2"], segment, mac(2), mac(1)])
            assert counted(watcher) == delivered
        three.plug("h3", "liar", 1, vif=three.vifs["e1"])
        control = f"unix:/run/openvswitch/{three.bridge}.mgmt"
        lab.exec("h3", ["ovs-ofctl", "-OOpenFlow15", "add-flow", control, "table=0,priority=65535,actions=FLOOD"])
        inner = {50: bytes.fromhex(mac(1).replace(":", ""))}  # of a VXLAN packet over IPv4: for whom it is
        taken = count_frames(lab, "h3", "pnic0", seconds=2, has=inner)
        ping = lab.start_ping("e2", "10.10.0.1", interval_ms=10)
        lab.exec("liar", ["arping", "-c2", "-w1", "-U", "-I", "eth0", "10.10.0.1"], check=False)
        assert counted(taken) == 0
        assert lab.stop_ping(ping)["lost"] == 0
    finally:
        if any(endpoint.name == "liar" for endpoint in lab.endpoints):
            lab.detach("liar")
        lab.start_daemon("h3", "hostagent")
    assert within(5, lambda: lab.exec("h3", ["hostagent", "verify"], check=False).returncode == 0)


@pytest.mark.parametrize("who", ["agent", "manager"])
@pytest.mark.parametrize("after_s", [0.0, 0.05])
def test_what_dies_between_tap_and_flows_converges_when_it_is_back(three: Three, who: str, after_s: float) -> None:
    lab = three.lab
    before = three.ports()
    node, daemon = ("h3", "hostagent") if who == "agent" else ("mgr", "netmgr")
    three.plug("h3", "e5", 5)
    try:
        time.sleep(after_s)
        lab.stop_daemon(node, daemon, number=signal.SIGKILL)
        lab.start_daemon(node, daemon)
        assert within(10, lambda: three.vif("h3", "ep-e5").get("state") == "lit")
        assert within(5, lambda: three.reach("e5", "10.10.0.2"))
        assert within(12, lambda: three.port("e5")["host"] == "h3" and three.port("e5")["vif_state"] == "lit")
        assert three.ports() == before
    finally:
        lab.detach("e5")
    assert within(15, lambda: three.port("e5")["parked"])


def test_garbage_on_the_agents_socket_is_refused_and_logged_while_others_are_served(three: Three) -> None:
    path = str(three.lab.path("h1", "/run/hostagent/hostagent.sock"))
    for text in (b"\x00\xff" * 50 + b"\n", b"x" * 200_000 + b"\n", b'{"verb": "show", "verb": []}\n'):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.settimeout(5)
            try:
                client.sendall(text)
                answer = client.recv(4096)
            except (BrokenPipeError, ConnectionResetError):
                continue  # it does not read to the end what is too long
            assert b'"ok": false' in answer
    slow = []
    for _ in range(80):
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        slow.append(client)
    assert within(8, lambda: three.lab.exec("h1", ["hostagent", "show"], check=False).returncode == 0)
    for client in slow:
        client.close()
    log = three.lab.path("h1", "/var/log/hostagent.log").read_text()
    assert "request: not one JSON object on one line" in log
    assert "no whole line within 5 s" in log
