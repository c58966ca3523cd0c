"""Security groups on hosts with real Open vSwitch, under a real manager; endpoints are namespaces with real TCP."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
groups:
  - {name: web, rules: [{direction: ingress, protocol: tcp, port_min: 80}]}
  - {name: client, rules: [{direction: egress, protocol: tcp, port_min: 80, remote_group: web}]}
"""
# Serves numbered lines, one every 20 ms for each that it is asked for, for as long as the client wants.
SERVER = """
import socket, sys, threading, time
def serve(s):
    for number in range(100000):
        s.sendall(b"%d\\n" % number)
        if s.recv(10) == b"":
            return
        time.sleep(0.02)
listener = socket.create_server(("", int(sys.argv[1])))
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
# Asks for lines until there are none for argv 3 seconds, or argv 4 lines have come; prints how many came.
CLIENT = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3]))
print("connected", flush=True)
lines = 0
try:
    while lines < int(sys.argv[4]):
        if not s.recv(100):
            break
        lines += 1
        s.sendall(b".")
except TimeoutError:
    pass
print(lines)
"""
# Says whether a datagram came to port 99 within 6 s.
LISTEN = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 99))
s.settimeout(6)
print("ready", flush=True)
try:
    s.recv(9)
    print("heard")
except TimeoutError:
    print("silence")
"""
FLOOD = """
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end = time.monotonic() + 5
while time.monotonic() < end:
    s.sendto(b"x", ("10.10.0.1", 99))
    time.sleep(0.002)
"""


class Groups:
    """Two hosts; `server` on h1 has group web, `client` on h2 has group client, `stranger` on h2 has none."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)
        self.bridge = self.agent("h1")["switches"][0]["bridge"]
        for name, host, number, groups in (
            ("server", "h1", 1, ["--group", "web"]),
            ("client", "h2", 2, ["--group", "client"]),
            ("stranger", "h2", 3, []),
        ):
            self.create(name, number, *groups, "--vif", self.plug(host, name, number))
        assert within(5, lambda: all(self.port(n)["vif_state"] == "lit" for n in ("server", "client", "stranger")))

    def netmgr(self, *words: str, check: bool = True) -> Any:
        done = self.lab.exec("mgr", ["netmgr", *words, "-o", "json"], check=check)
        return json.loads(done.stdout)

    def create(self, name: str, number: int, *more: str) -> None:
        words = ("--mac", f"52:54:00:00:00:{number:02x}", "--ip", f"10.10.0.{number}")
        self.netmgr("port", "create", name, "--network", "blue", *words, *more)

    def port(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.netmgr("port", "show", name)
        return found

    def agent(self, host: str) -> dict[str, Any]:
        return agent_shows(self.lab, host)

    def plug(self, host: str, endpoint: str, number: int) -> str:
        vif = str(uuid4())
        addresses = [f"10.10.0.{number}/24"]
        mac = f"52:54:00:00:00:{number:02x}"
        self.lab.attach(host, endpoint, bridge=self.bridge, vif_uuid=vif, mac=mac, addresses=addresses, mtu=1450)
        return vif

    @contextmanager
    def serving(self, where: str, port: int) -> Iterator[None]:
        process = self.lab.popen(where, ["python3", "-c", SERVER, str(port)], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()
            process.wait()

    def fetch(self, where: str, number: int, port: int, *, lines: int = 3, patience_s: float = 1.0) -> int:
        """Lines that *where* gets from the server at 10.10.0.*number*; -1 when it does not even connect."""
        words = ["python3", "-c", CLIENT, f"10.10.0.{number}", str(port), str(patience_s), str(lines)]
        done = self.lab.exec(where, words, check=False)
        return int(done.stdout.split()[-1]) if done.returncode == 0 else -1


@pytest.fixture(scope="module")
def groups() -> Iterator[Groups]:
    with Lab(hosts=2, with_libvirt=False, zones={"h1": "a", "h2": "a"}) as lab:
        yield Groups(lab)


def test_members_get_through_and_others_do_not(groups: Groups) -> None:
    with groups.serving("server", 80), groups.serving("server", 81), groups.serving("stranger", 80):
        assert groups.fetch("client", 1, 80) == 3
        assert groups.fetch("stranger", 1, 80) == 3, "anybody may come to port 80 of group web"
        assert groups.fetch("client", 1, 81) == groups.fetch("stranger", 1, 81) == -1
        assert groups.fetch("client", 3, 80) == -1, "the stranger is no member of group web"
        groups.netmgr("port", "set", "blue/stranger", "--group", "web")
        assert within(3, lambda: groups.fetch("client", 3, 80) == 3)
        groups.netmgr("port", "set", "blue/stranger", "--no-groups")
        assert within(3, lambda: groups.fetch("client", 3, 80) == -1)


def test_what_is_dropped_is_counted_and_explained(groups: Groups) -> None:
    trace = groups.netmgr("trace", "--from", "client", "--to", "server", "--proto", "tcp", "--dport", "80")
    assert trace["result"] == "delivered"
    for words, sentence in (
        (("client", "server", "22"), "security group client of port client: no rule allows egress tcp/22 to 10.10.0.1"),
        (("stranger", "server", "22"), "security group web of port server: no rule allows ingress tcp/22 from"),
    ):
        ends = ("--from", words[0], "--to", words[1], "--proto", "tcp", "--dport", words[2])
        trace = groups.netmgr("trace", *ends, check=False)
        assert trace["result"] == "dropped"
        assert sentence in trace["sentence"]
    assert groups.fetch("stranger", 1, 81) == -1
    drops = json.loads(groups.lab.exec("h1", ["hostagent", "drops", "-o", "json"]).stdout)
    assert any("no rule of its security groups allows it to be received" in json.dumps(drop) for drop in drops)
    flows = groups.lab.exec("h1", ["hostagent", "flows", "blue"]).stdout
    assert "group=web" in flows
    vif = groups.port("server")["vif_uuid"]
    explained = groups.lab.exec("h1", ["hostagent", "vif", "explain", vif]).stdout
    assert "what its security groups allow: web, stateful, in zone" in " ".join(explained.split())


def test_taking_a_rule_away_cuts_the_connections_that_it_allowed(groups: Groups) -> None:
    with groups.serving("server", 80):
        words = ["python3", "-u", "-c", CLIENT, "10.10.0.1", "80", "3", "2000"]
        client = groups.lab.popen("client", words, stdout=subprocess.PIPE, text=True)
        assert client.stdout is not None
        assert client.stdout.readline() == "connected\n"
        time.sleep(0.5)
        rule = ("--ingress", "--protocol", "tcp", "--port", "80")
        groups.netmgr("group", "rule", "remove", "web", *rule, "--wait", "realized")
        lines = int(client.stdout.read())
        assert client.wait() == 0
        assert 0 < lines < 500, "it ended long before its time"
        assert groups.fetch("client", 1, 80) == -1
        groups.netmgr("group", "rule", "add", "web", *rule, "--wait", "realized")
        assert groups.fetch("client", 1, 80) == 3


def test_an_agent_that_is_killed_keeps_zones_and_connections(groups: Groups) -> None:
    with groups.serving("server", 80):
        words = ["python3", "-u", "-c", CLIENT, "10.10.0.1", "80", "3", "150"]
        client = groups.lab.popen("client", words, stdout=subprocess.PIPE, text=True)
        assert client.stdout is not None
        assert client.stdout.readline() == "connected\n"
        for host in ("h1", "h2"):
            groups.lab.stop_daemon(host, "hostagent", number=signal.SIGKILL)
            groups.lab.start_daemon(host, "hostagent")
        assert int(client.stdout.read()) == 150
        assert client.wait() == 0
    assert within(5, lambda: groups.agent("h1")["sync"]["connected"])
    assert groups.fetch("client", 1, 81) == -1
    assert all(groups.lab.exec(host, ["hostagent", "verify"], check=False).returncode == 0 for host in groups.lab.hosts)


def test_a_switch_that_restarts_lets_nothing_through_that_no_rule_allows(groups: Groups) -> None:
    """A flood of frames to a closed port, through the end and the beginning of vswitchd."""
    listener = groups.lab.popen("server", ["python3", "-c", LISTEN], stdout=subprocess.PIPE, text=True)
    assert listener.stdout is not None
    assert listener.stdout.readline() == "ready\n"
    sender = groups.lab.popen("stranger", ["python3", "-c", FLOOD])
    time.sleep(0.5)
    for number in (signal.SIGTERM, signal.SIGKILL):
        groups.lab.stop_daemon("h1", "ovs-vswitchd", number=number)
        groups.lab.start_daemon("h1", "ovs-vswitchd")
        time.sleep(1)
    assert sender.wait() == 0
    assert listener.stdout.read() == "silence\n"
    assert within(5, lambda: groups.port("server")["vif_state"] == "lit")
    with groups.serving("server", 80):
        assert within(5, lambda: groups.fetch("client", 1, 80) == 3)
        assert groups.fetch("stranger", 1, 81) == -1
