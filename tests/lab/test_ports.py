"""The life of standalone ports on hosts with real Open vSwitch, under a real manager; endpoints are namespaces."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from scripts.benchkit.inside import question
from scripts.labkit import Lab
from scripts.labkit.processes import send
from tests.support.agent_words import agent_shows
from tests.support.waiting import within

pytestmark = pytest.mark.lab

APPLY = """
switches: [{name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24}]
networks:
  - {name: blue, type: vxlan, zone: a, mtu: 1450}
  - {name: hand, type: vxlan, zone: a, mtu: 1450, attach_mode: manual}
"""


class Ports:
    """Three hosts in zone a, networks blue (auto) and hand (manual), and endpoint `peer` of blue on h1: 10.10.0.1."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)
        self.bridge = self.agent("h1")["switches"][0]["bridge"]
        create(self, "peer", 1, "--vif", self.plug("h1", "peer", 1))
        assert within(5, lambda: self.port("peer")["vif_state"] == "lit")

    def netmgr(self, *words: str) -> Any:
        return json.loads(self.lab.exec("mgr", ["netmgr", *words, "-o", "json"]).stdout)

    def refused(self, *words: str) -> str:
        done = self.lab.exec("mgr", ["netmgr", *words], check=False)
        assert done.returncode == 2
        return done.stderr

    def port(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.netmgr("port", "show", name)
        return found

    def agent(self, host: str) -> dict[str, Any]:
        return agent_shows(self.lab, host)

    def vif(self, host: str, endpoint: str) -> dict[str, Any]:
        return next((vif for vif in self.agent(host)["vifs"] if vif["ovs_port"] == f"ep-{endpoint}"), {})

    def plug(self, host: str, endpoint: str, number: int, *, vif: str = "") -> str:
        """A new endpoint with MAC …:number and address 10.10.0.number; the VIF's UUID."""
        vif = vif or str(uuid4())
        self.lab.attach(
            host,
            endpoint,
            bridge=self.bridge,
            vif_uuid=vif,
            mac=mac(number),
            addresses=[f"10.10.0.{number}/24"],
            mtu=1450,
        )
        return vif

    def reach(self, endpoint: str, number: int) -> bool:
        command = ["ping", "-c1", "-W1", f"10.10.0.{number}"]
        return self.lab.exec(endpoint, command, check=False).returncode == 0


def mac(number: int) -> str:
    return f"52:54:00:00:00:{number:02x}"


@pytest.fixture(scope="module")
def ports() -> Iterator[Ports]:
    with Lab(hosts=3, with_libvirt=False, zones={"h1": "a", "h2": "a", "h3": "a"}) as lab:
        yield Ports(lab)


def create(ports: Ports, name: str, number: int, *more: str, network: str = "blue") -> None:
    ports.netmgr("port", "create", name, "--network", network, "--mac", mac(number), *more)


def test_shadow_is_dark_until_failover_lights_it_and_peers_follow_at_once(ports: Ports) -> None:
    web, standby = (ports.plug(host, name, 2) for host, name in (("h2", "web"), ("h3", "standby")))
    create(ports, "web", 2, "--vif", web)
    ports.netmgr("port", "create", "standby", "--shadow-of", "blue/web", "--vif", standby)
    assert within(5, lambda: ports.port("web")["vif_state"] == "lit")
    assert within(5, lambda: ports.port("standby")["host"] == "h3")
    assert within(2, lambda: "is a shadow of port web" in ports.vif("h3", "standby").get("reason", ""))
    assert ports.vif("h3", "standby")["state"] == "dark"
    assert within(3, lambda: ports.reach("peer", 2))
    assert not ports.reach("standby", 1)  # it may plug, it may not speak

    ping = ports.lab.start_ping("peer", "10.10.0.2", interval_ms=10)
    time.sleep(0.3)
    done = ports.netmgr("port", "failover", "web")
    assert (done["name"], done["shadow_of"], done["shadows"]) == ("standby", None, ["web"])
    assert within(2, lambda: ports.vif("h3", "standby").get("state", "") == "lit")
    assert within(2, lambda: "is a shadow of port standby" in ports.vif("h2", "web").get("reason", ""))
    time.sleep(0.3)
    seen = ports.lab.stop_ping(ping)
    assert seen["duplicates"] == 0
    assert seen["gap_ms"] < 1000  # three hosts change one after the other, with nothing in between but their own work
    ports.lab.detach("web")  # nobody but the standby is left to answer
    assert within(2, lambda: ports.reach("peer", 2))
    assert ports.reach("standby", 1)
    assert all(ports.lab.exec(host, ["hostagent", "verify"], check=False).returncode == 0 for host in ports.lab.hosts)
    ports.lab.detach("standby")


def announce(ports: Ports, host: str, name: str, number: int) -> str:
    """A port and, as libvirt's hook does, the word that its guest is about to come to *host*; its VIF."""
    vif, network = str(uuid4()), ports.netmgr("network", "show", "blue")["uuid"]
    create(ports, name, number, "--vif", vif)
    asked = {"verb": "port-created", "network_uuid": network, "vif_uuid": vif, "mac": mac(number), "vm_name": name}
    answer = question(ports.lab.path(host, "/run/hostagent/hostagent.sock"), {**asked, "vm_uuid": str(uuid4())})
    assert answer["ok"], answer
    return vif


@pytest.mark.parametrize("comes", [True, False])
def test_while_a_guest_is_awaited_the_agent_interrupts_nobody(ports: Ports, comes: bool) -> None:
    agent = ports.lab.node("h2").daemon("/run/lab/hostagent.pid")
    assert agent is not None
    ports.plug("h2", "before", 42)  # the number that comes next is known from the last one
    assert within(2, lambda: ports.vif("h2", "before"))
    assert within(3, lambda: os.sched_getscheduler(agent.pid) == os.SCHED_OTHER)
    vif = announce(ports, "h2", "awaited", 43)
    assert within(1, lambda: os.sched_getscheduler(agent.pid) == os.SCHED_BATCH)
    if comes:
        ports.plug("h2", "awaited", 43, vif=vif)
        assert within(2, lambda: ports.vif("h2", "awaited").get("state", "") == "lit")
    assert within(3, lambda: os.sched_getscheduler(agent.pid) == os.SCHED_OTHER)
    for endpoint in ("before", "awaited") if comes else ("before",):
        ports.lab.detach(endpoint)
    ports.lab.exec("mgr", ["netmgr", "port", "delete", "awaited", "--force"])


def test_what_an_awaited_guest_says_before_it_is_lit_is_not_lost(ports: Ports) -> None:
    """The agent is too late on purpose. A guest asks by ARP once a second: what it said first must have been held."""
    vif = announce(ports, "h2", "early", 41)
    assert within(2, lambda: f"{mac(41)} " in ports.lab.exec("h2", ["ovs-ofctl", "dump-flows", ports.bridge]).stdout)
    # the peer needn't ask for the guest: a question is flooded, and the flood reaches a new tap with the loop's turn
    known = ["ip", "neigh", "replace", "10.10.0.41", "lladdr", mac(41), "dev", "eth0", "nud", "permanent"]
    ports.lab.exec("peer", known)
    agent = ports.lab.node("h2").daemon("/run/lab/hostagent.pid")
    assert agent is not None
    with ThreadPoolExecutor(1) as beside:
        assert send(agent, signal.SIGSTOP)
        try:
            ports.plug("h2", "early", 41, vif=vif)
            talk = beside.submit(ports.lab.exec, "early", ["ping", "-c1", "-W3", "10.10.0.1"], check=False)
            time.sleep(0.2)
            assert not talk.done(), "nobody has lit it"
        finally:
            send(agent, signal.SIGCONT)
        heard = talk.result()
    assert heard.returncode == 0, heard.stdout
    took = re.search(r"time=([\d.]+) ms", heard.stdout)
    assert took is not None
    assert float(took[1]) < 950, "what was answered is the first question, not the next"
    ports.lab.detach("early")


def test_vif_on_a_manual_network_is_dark_until_its_port_is_attached_and_dark_again_when_detached(ports: Ports) -> None:
    first, second = ports.plug("h1", "m1", 11), ports.plug("h2", "m2", 12)
    for host, name in (("h1", "m1"), ("h2", "m2")):
        assert within(5, lambda host=host, name=name: "attach it to a port" in ports.vif(host, name).get("reason", ""))  # type: ignore[misc]
    time.sleep(4)  # the agents' own pauses between tries have grown
    create(ports, "m2", 12, "--vif", second, network="hand")
    create(ports, "m1", 11, network="hand")
    assert ports.port("m1")["location"] == "unbound"
    assert not ports.reach("m1", 12)
    ports.netmgr("port", "attach", "m1", "--vif", first)
    assert within(1, lambda: ports.vif("h1", "m1").get("state", "") == "lit")
    assert within(1, lambda: ports.vif("h2", "m2").get("state", "") == "lit")
    assert within(2, lambda: ports.reach("m1", 12))
    assert "can't detach it" in ports.refused("port", "detach", "m1")
    ports.netmgr("port", "detach", "m1", "--force")
    assert within(1, lambda: ports.vif("h1", "m1").get("state", "") == "dark")
    assert not ports.reach("m1", 12)
    assert not ports.reach("m2", 11)
    ports.netmgr("port", "attach", "m1", "--vif", first)
    assert within(1, lambda: ports.vif("h1", "m1").get("state", "") == "lit")
    for name in ("m1", "m2"):
        ports.lab.detach(name)


def test_withdrawn_network_keeps_what_runs_and_takes_nothing_new_until_it_is_restored(ports: Ports) -> None:
    old = ports.plug("h2", "old", 21)
    create(ports, "old", 21, "--vif", old)
    assert within(3, lambda: ports.port("old")["vif_state"] == "lit")
    assert within(3, lambda: ports.reach("peer", 21))
    ping = ports.lab.start_ping("peer", "10.10.0.21", interval_ms=10)
    ports.netmgr("network", "withdraw", "blue", "--host", "h2", "--reason", "uplink flaps", "--wait", "realized")
    (network,) = (one for one in ports.agent("h2")["networks"] if one["name"] == "blue")
    assert network["status"] == "maintenance"
    assert "withdrawn from host h2 by operator" in network["reasons"][0]
    assert ports.lab.stop_ping(ping)["lost"] == 0
    new = ports.plug("h2", "new", 22)  # not counted: vswitchd in user space drops what comes while it takes a port in
    create(ports, "new", 22, "--vif", new)
    assert within(3, lambda: "withdrawn from host h2" in ports.port("new")["vif_reason"])
    assert not ports.reach("peer", 22)
    ping = ports.lab.start_ping("peer", "10.10.0.21", interval_ms=10)
    ports.lab.stop_daemon("h2", "hostagent")
    ports.lab.start_daemon("h2", "hostagent")
    assert within(5, lambda: ports.vif("h2", "old").get("state") == "lit")
    assert ports.lab.stop_ping(ping)["lost"] == 0
    assert within(5, lambda: ports.agent("h2")["sync"]["connected"])
    time.sleep(4)
    assert ports.vif("h2", "new")["state"] == "dark"
    ports.netmgr("network", "restore", "blue", "--host", "h2")
    assert within(1.5, lambda: ports.vif("h2", "new").get("state", "") == "lit")
    assert within(2, lambda: ports.reach("peer", 22))
    for name in ("old", "new"):
        ports.lab.detach(name)


def test_vif_that_is_plugged_on_two_hosts_stays_dark_on_the_second_and_both_are_named(ports: Ports) -> None:
    twin = ports.plug("h2", "first", 31)
    create(ports, "first", 31, "--vif", twin)
    assert within(3, lambda: ports.port("first")["vif_state"] == "lit")
    ports.plug("h3", "second", 31, vif=twin)
    assert within(3, lambda: [one["host"] for one in ports.port("first")["conflicts"]] == ["h3"])
    found = ports.port("first")
    assert (found["host"], found["plugged_on"], found["vif_state"]) == ("h2", ["h2", "h3"], "lit")
    assert found["conflicts"][0]["state"] == "dark"
    assert not ports.reach("second", 1)
    assert ports.reach("peer", 31)
    for name in ("second", "first"):
        ports.lab.detach(name)


def test_manager_killed_between_create_and_attach_has_lost_neither(ports: Ports) -> None:
    late = ports.plug("h2", "late", 15)
    create(ports, "late", 15, network="hand")
    ports.lab.stop_daemon("mgr", "netmgr", number=signal.SIGKILL)
    ports.lab.start_daemon("mgr", "netmgr")
    ports.netmgr("port", "attach", "late", "--vif", late)
    ports.lab.stop_daemon("mgr", "netmgr", number=signal.SIGKILL)
    ports.lab.start_daemon("mgr", "netmgr")
    assert within(15, lambda: ports.vif("h2", "late").get("state", "") == "lit")
    assert within(15, lambda: ports.port("late")["host"] == "h2")
    ports.lab.detach("late")
