"""The agent on hosts with real Open vSwitch, under a real manager; endpoints are network namespaces."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hostagent.pipeline.tables import SWITCH_COOKIE, Table
from scripts.labkit import Lab
from scripts.labkit.patience import patient
from tests.support.agent_words import agent_shows, agent_vifs
from tests.support.waiting import within

pytestmark = pytest.mark.lab

APPLY = """
switches: [{name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24}]
networks: [{name: blue, type: vxlan, zone: a, mtu: 1450}]
"""


class Agents:
    """Two hosts in zone a with agents, network `blue`, and endpoints e1 on h1 and e2 on h2."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)
        self.bridge = self.show("h1")["switches"][0]["bridge"]
        self.vifs: dict[str, str] = {}
        for number, host in enumerate(lab.hosts, 1):
            self.plug(host, f"e{number}", number)
        assert within(10, lambda: self.reach("e1", "10.10.0.2"))

    def plug(self, host: str, endpoint: str, number: int, *, vif: str = "", known: bool = True) -> str:
        mac = f"52:54:00:00:00:{number:02x}"
        vif = vif or str(uuid4())
        if known:
            command = ["netmgr", "port", "create", endpoint, "--network", "blue", "--vif", vif, "--mac", mac]
            self.lab.exec("mgr", command)
        address = f"10.10.0.{number}/24"
        self.lab.attach(host, endpoint, bridge=self.bridge, vif_uuid=vif, mac=mac, addresses=[address], mtu=1450)
        self.vifs[endpoint] = vif
        return vif

    def show(self, host: str) -> dict[str, Any]:
        return agent_shows(self.lab, host)

    def vif(self, host: str, ovs_port: str) -> dict[str, Any]:
        return next((vif for vif in self.show(host)["vifs"] if vif["ovs_port"] == ovs_port), {})

    def port(self, name: str) -> dict[str, Any]:
        ports = json.loads(self.lab.exec("mgr", ["netmgr", "port", "list", "-o", "json"]).stdout)
        return next((port for port in ports if port["name"] == name), {})

    def verify(self, host: str) -> tuple[int, str]:
        done = self.lab.exec(host, ["hostagent", "verify"], check=False)
        return done.returncode, done.stdout + done.stderr

    def metrics(self, host: str) -> str:
        return str(self.lab.exec(host, ["hostagent", "metrics"]).stdout)

    def reach(self, endpoint: str, address: str) -> bool:
        return self.lab.exec(endpoint, ["ping", "-c1", "-W1", address], check=False).returncode == 0


@pytest.fixture(scope="module")
def agents() -> Iterator[Agents]:
    with Lab(hosts=2, with_libvirt=False, zones={"h1": "a", "h2": "a"}) as lab:
        yield Agents(lab)


def test_a_network_is_realized_as_wanted_and_acknowledged(agents: Agents) -> None:
    status, text = agents.verify("h1")
    assert (status, text.splitlines()[0]) == (0, "equal: 1 networks on 1 switches are as wanted")
    shown = agents.show("h1")
    assert shown["sync"]["connected"]
    assert shown["switches"][0]["vteps"] == ["10.200.0.1"]
    assert agents.vif("h1", "ep-e1")["state"] == "lit"
    assert agents.port("e1")["host"] == "h1"


@pytest.mark.parametrize(("words", "verb"), [("show", agent_shows), ("vif list", agent_vifs)])
def test_a_command_prints_what_the_agent_says_at_its_socket(agents: Agents, words: str, verb: Any) -> None:
    printed = json.loads(agents.lab.exec("h1", ["hostagent", *words.split(), "-o", "json"]).stdout)
    said = verb(agents.lab, "h1")
    assert type(printed) is type(said)
    if isinstance(said, dict):
        assert printed.keys() == said.keys()
        printed, said = printed["networks"], said["networks"]
    assert printed == said != []


@pytest.mark.datapath
@pytest.mark.parametrize(
    "what", ["flows", "tunnel", "foreign flow", "VTEP", "fail mode", "uplink flow", "uplink drops"]
)
def test_what_somebody_breaks_is_mended_within_two_seconds(agents: Agents, what: str) -> None:
    management = f"unix:/run/openvswitch/{agents.bridge}.mgmt"
    bridges = agents.lab.exec("h1", ["ovs-vsctl", "list-br"]).stdout.split()
    uplink = next(bridge for bridge in bridges if bridge.startswith("upl-"))
    command = {
        "flows": ["ovs-ofctl", "-OOpenFlow15", "del-flows", management],
        "tunnel": ["ovs-vsctl", "del-port", agents.bridge.replace("osw-", "vxlan-")[:14]],
        "foreign flow": ["ovs-ofctl", "-OOpenFlow15", "add-flow", management, "priority=65535,actions=drop"],
        "VTEP": ["ip", "address", "flush", "dev", uplink, "scope", "global"],
        "fail mode": ["ovs-vsctl", "set-fail-mode", agents.bridge, "standalone"],
        "uplink flow": ["ovs-ofctl", "del-flows", f"unix:/run/openvswitch/{uplink}.mgmt"],
        "uplink drops": ["ovs-ofctl", "mod-flows", f"unix:/run/openvswitch/{uplink}.mgmt", "actions=drop"],
    }[what]
    agents.lab.exec("h1", command)
    began = time.monotonic()
    assert within(2, lambda: agents.verify("h1")[0] == 0)
    assert within(2, lambda: agents.reach("e1", "10.10.0.2"))
    assert time.monotonic() - began < patient(4)  # the two looks themselves take most of it
    told = {
        "flows": rf"flows of bridge {agents.bridge}: \d+ deleted",
        "tunnel": rf"port vxlan-\w+ of bridge {agents.bridge} was taken out",
        "foreign flow": f"flows of bridge {agents.bridge}: 1 added",
        "VTEP": f"address 10.200.0.1/24 was removed from {uplink}",
        "fail mode": f"bridge {agents.bridge} was changed",
        "uplink flow": f"flows of bridge {uplink}: 1 deleted",
        "uplink drops": f"flows of bridge {uplink}: 1 deleted",
    }[what]

    def manager_knows() -> bool:
        repairs = json.loads(agents.lab.exec("mgr", ["netmgr", "host", "show", "h1", "-o", "json"]).stdout)["repairs"]
        return any(re.fullmatch(told, repair["what"]) for repair in repairs)

    assert within(2, manager_knows), agents.show("h1")["repairs"]


@pytest.mark.datapath
def test_verify_sees_by_itself_that_an_uplink_bridge_lost_its_flow(agents: Agents) -> None:
    bridges = agents.lab.exec("h1", ["ovs-vsctl", "list-br"]).stdout.split()
    uplink = next(bridge for bridge in bridges if bridge.startswith("upl-"))
    assert within(5, lambda: agents.verify("h1")[0] == 0)
    agents.lab.stop_daemon("h1", "hostagent")
    try:
        agents.lab.exec("h1", ["ovs-ofctl", "del-flows", f"unix:/run/openvswitch/{uplink}.mgmt"])
        status, text = agents.verify("h1")
        assert (status, f"PutNormal bridge={uplink}" in text) == (1, True), text
    finally:
        agents.lab.start_daemon("h1", "hostagent")
    assert within(5, lambda: agents.verify("h1")[0] == 0)


def test_foreign_objects_stay_as_they_are_while_ours_come_and_go(agents: Agents) -> None:
    lab = agents.lab
    lab.exec("h1", ["ip", "link", "add", "theirs0", "type", "veth", "peer", "name", "theirs1"])
    lab.exec("h1", ["ip", "address", "add", "10.77.0.1/24", "dev", "theirs0"])
    setup = f"add-br theirs -- set bridge theirs datapath_type={lab.datapath} fail_mode=secure external_ids:who=them"
    lab.exec("h1", ["ovs-vsctl", *setup.split(), "--", "add-port", "theirs", "theirs1"])
    lab.exec("h1", ["ovs-ofctl", "add-flow", "unix:/run/openvswitch/theirs.mgmt", "cookie=7,priority=9,actions=drop"])
    looks = (
        ["ovs-vsctl", "-f", "csv", "--columns=name,fail_mode,external_ids,other_config", "list", "bridge", "theirs"],
        ["ovs-vsctl", "list-ports", "theirs"],
        ["ovs-ofctl", "--no-stats", "dump-flows", "unix:/run/openvswitch/theirs.mgmt"],
        ["ip", "-brief", "address", "show", "theirs0"],
    )

    def look() -> list[str]:
        return [lab.exec("h1", list(command)).stdout for command in looks]

    before = look()
    try:
        create = ["netmgr", "network", "create", "green", "--zone", "a", "--type", "geneve", "--mtu", "1440"]
        lab.exec("mgr", [*create, "--wait", "realized"])
        lab.stop_daemon("h1", "hostagent")
        lab.start_daemon("h1", "hostagent")
        lab.exec("mgr", ["netmgr", "network", "delete", "green"])
        assert within(5, lambda: agents.verify("h1")[0] == 0 and len(agents.show("h1")["networks"]) == 1)
        assert look() == before
    finally:
        lab.exec("h1", ["ovs-vsctl", "del-br", "theirs"])
        lab.exec("h1", ["ip", "link", "delete", "theirs0"])


@pytest.mark.datapath
@pytest.mark.parametrize("manager", ["with the manager", "without the manager"])
def test_an_agent_killed_and_started_again_loses_no_packet(agents: Agents, manager: str) -> None:
    lab = agents.lab
    if manager == "without the manager":
        lab.stop_daemon("mgr", "netmgr")
    try:
        ping = lab.start_ping("e1", "10.10.0.2", interval_ms=10)
        lab.stop_daemon("h1", "hostagent", number=signal.SIGKILL)
        lab.start_daemon("h1", "hostagent")
        time.sleep(1.5)
        assert agents.verify("h1")[0] == 0
        seen = lab.stop_ping(ping)
        assert (seen["lost"], seen["duplicates"]) == (0, 0)
        assert seen["sent"] > 100
        assert agents.vif("h1", "ep-e1")["state"] == "lit"
    finally:
        if manager == "without the manager":
            lab.start_daemon("mgr", "netmgr")
            assert within(15, lambda: agents.show("h1")["sync"]["connected"])


def test_an_agent_that_is_upgraded_changes_flows_without_losing_a_packet(agents: Agents) -> None:
    """It finds flows that its version does not make, and lacks some that it does."""
    lab = agents.lab
    ping = lab.start_ping("e1", "10.10.0.2", interval_ms=10)
    lab.stop_daemon("h1", "hostagent")
    at, strict = f"unix:/run/openvswitch/{agents.bridge}.mgmt", "-OOpenFlow15"
    lab.exec("h1", ["ovs-ofctl", strict, "del-flows", at, f"table={Table.DROPPED}"])
    for flow in (
        f"cookie={SWITCH_COOKIE:#x},table={Table.SIGNAL},priority=50,ip,actions=goto_table:{Table.EGRESS}",
        f"cookie={SWITCH_COOKIE:#x},table=150,priority=7,tcp,actions=drop",
    ):
        lab.exec("h1", ["ovs-ofctl", strict, "add-flow", at, flow])
    assert agents.verify("h1")[0] == 1
    lab.start_daemon("h1", "hostagent")
    assert within(5, lambda: agents.verify("h1")[0] == 0)
    time.sleep(0.5)
    seen = lab.stop_ping(ping)
    assert (seen["lost"], seen["duplicates"]) == (0, 0)
    assert seen["sent"] > 100


@pytest.mark.datapath
def test_a_vswitchd_that_restarts_gets_its_flows_back_and_nobody_is_parked(agents: Agents) -> None:
    lab = agents.lab
    before = agents.port("e1")["location_version"]
    lab.stop_daemon("h1", "ovs-vswitchd")
    assert within(3, lambda: "hostagent_drops_read 0.0" in agents.metrics("h1")), "unread is not none"
    assert "hostagent_dropped_frames" not in agents.metrics("h1")
    asked = lab.exec("h1", ["hostagent", "drops"], check=False)
    assert asked.returncode != 0
    assert "is ovs-vswitchd running?" in asked.stderr or "the OpenFlow connection ended" in asked.stderr
    time.sleep(2.5)
    lab.start_daemon("h1", "ovs-vswitchd")
    assert within(3, lambda: agents.reach("e1", "10.10.0.2"))
    assert within(3, lambda: agents.verify("h1")[0] == 0)
    assert agents.port("e1")["location_version"] == before


@pytest.mark.datapath
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_of_vswitchd_costs_what_its_own_restart_takes_and_little_more(agents: Agents, number: int) -> None:
    lab = agents.lab
    ping = lab.start_ping("e1", "10.10.0.2", interval_ms=5)
    time.sleep(0.5)
    began = time.monotonic()
    lab.stop_daemon("h1", "ovs-vswitchd", number=number)
    lab.start_daemon("h1", "ovs-vswitchd")  # returns when it is ready
    away_ms = (time.monotonic() - began) * 1000
    time.sleep(2)
    seen = lab.stop_ping(ping)
    print(f"vswitchd was away for {away_ms:.0f} ms; gap {seen['gap_ms']:.0f} ms, {seen['lost']} of {seen['sent']} lost")
    if lab.datapath != "system":  # the kernel forwards by the flows that it has while vswitchd is away
        assert seen["lost"] > 0
    assert seen["lost"] <= away_ms / 5 + patient(100), "half a second for flows of a few ports is generous"
    assert seen["gap_ms"] < away_ms + patient(500)
    assert seen["duplicates"] == 0
    assert within(5, lambda: agents.verify("h1")[0] == 0)


def test_a_damaged_memory_is_moved_aside_and_everything_sent_again(agents: Agents) -> None:
    lab = agents.lab
    ping = lab.start_ping("e1", "10.10.0.2", interval_ms=10)
    lab.stop_daemon("h1", "hostagent")
    state = lab.path("h1", "/var/lib/hostagent")
    for part in state.glob("state.db*"):
        part.write_bytes(b"damaged" * 1000)
    lab.start_daemon("h1", "hostagent")
    assert within(5, lambda: agents.show("h1")["sync"]["in_sync"])
    assert within(5, lambda: agents.vif("h1", "ep-e1").get("state") == "lit")
    assert lab.stop_ping(ping)["lost"] == 0
    assert list(state.glob("state.db.damaged-*"))


def test_an_unplugged_vif_leaves_its_port_parked_and_may_be_plugged_elsewhere(agents: Agents) -> None:
    vif = agents.plug("h1", "e3", 3)
    assert within(5, lambda: agents.port("e3")["vif_state"] == "lit")
    agents.lab.detach("e3")
    assert within(15, lambda: agents.port("e3")["parked"] is True)  # an agent that just began is patient
    agents.plug("h2", "e3", 3, vif=vif, known=False)
    try:
        assert within(5, lambda: agents.port("e3")["host"] == "h2" and agents.port("e3")["vif_state"] == "lit")
        assert within(3, lambda: agents.reach("e1", "10.10.0.3"))
    finally:
        agents.lab.detach("e3")


def test_a_vif_held_elsewhere_stays_dark_and_says_so(agents: Agents) -> None:
    agents.plug("h2", "imposter", 1, vif=agents.vifs["e1"], known=False)
    try:
        assert within(5, lambda: "held by host h1" in agents.vif("h2", "ep-imposter").get("reason", ""))
        assert agents.vif("h2", "ep-imposter")["state"] == "dark"
        assert agents.reach("e1", "10.10.0.2")
        assert not agents.reach("imposter", "10.10.0.2")
    finally:
        agents.lab.detach("imposter")


def test_a_vif_that_nobody_knows_stays_dark_with_what_to_do(agents: Agents) -> None:
    agents.plug("h1", "stranger", 8, known=False)
    try:
        assert within(5, lambda: "attach it to a port" in agents.vif("h1", "ep-stranger").get("reason", ""))
        assert not agents.reach("stranger", "10.10.0.2")
    finally:
        agents.lab.detach("stranger")


@pytest.mark.datapath
def test_a_guest_lit_without_the_manager_where_its_peers_were_dropped_says_that_they_are_not_known(
    agents: Agents,
) -> None:
    lab, vif, elsewhere = agents.lab, agents.vifs["e1"], agents.vifs["e2"]

    def explained(which: str) -> str:
        return lab.exec("h1", ["hostagent", "vif", "explain", which], check=False).stdout

    lab.detach("e1")
    parked = within(15, lambda: "parked: its guest is stopped" in explained(vif) and not agents.show("h1")["motion"])
    lab.stop_daemon("h1", "hostagent")  # an agent that starts does not linger on networks that it does not need
    lab.start_daemon("h1", "hostagent")
    dropped = within(15, lambda: "VIF" in (said := explained(elsewhere)) and "port e2" not in said)
    lab.stop_daemon("mgr", "netmgr")
    try:
        agents.plug("h1", "e1", 1, vif=vif, known=False)
        assert parked
        assert dropped
        assert within(10, lambda: agents.vif("h1", "ep-e1").get("state") == "lit")
        sentence = "its ports on other hosts are not known here; guests there are not reached"
        assert within(5, lambda: sentence in agents.vif("h1", "ep-e1")["reason"])
        (blue,) = agents.show("h1")["networks"]
        assert blue["status"] == "warning"
        assert sentence in blue["reasons"][0]
        assert sentence in explained(vif)
        assert "bring one back" in explained(vif)
        assert not agents.reach("e1", "10.10.0.2")
        lab.stop_daemon("h1", "hostagent", number=signal.SIGKILL)
        lab.start_daemon("h1", "hostagent")
        assert within(10, lambda: sentence in agents.vif("h1", "ep-e1").get("reason", "")), "it is remembered"
    finally:
        lab.start_daemon("mgr", "netmgr")
    assert within(20, lambda: agents.reach("e1", "10.10.0.2"))
    assert within(5, lambda: agents.vif("h1", "ep-e1")["reason"] == "")
    assert within(5, lambda: agents.show("h1")["networks"][0]["status"] == "up")


def test_the_view_of_a_host_is_served_to_those_of_its_ca(agents: Agents) -> None:
    view = agents.show("h1")["host"]["view_address"]
    assert view == f"{agents.lab.address('h1')}:7445"
    listening = agents.lab.exec("h1", ["ss", "-Htln", "sport", "=", ":7445"]).stdout
    assert "7445" in listening


SPOOF = """
from scapy.all import IP, UDP, Ether, sendp
frame = Ether(src="02:00:00:00:66:66", dst="ff:ff:ff:ff:ff:ff") / IP(dst="10.10.0.2") / UDP()
sendp(frame, iface="eth0", count=7, verbose=0)
"""


@pytest.mark.datapath
def test_frames_that_a_vif_must_not_send_are_counted_with_the_reason(agents: Agents) -> None:
    agents.lab.exec("e1", [sys.executable, "-c", SPOOF])

    def counted() -> bool:
        drops = json.loads(agents.lab.exec("h1", ["hostagent", "drops", "-o", "json"]).stdout)
        return any(
            (drop["port"], drop["packets"], drop["reason"]) == ("ep-e1", 7, "source MAC is not the port's")
            for drop in drops
        )

    assert within(2, counted)
    families = text_string_to_metric_families(agents.metrics("h1"))
    dropped = [one for family in families for one in family.samples if one.name == "hostagent_dropped_frames_total"]
    wrong = [one for one in dropped if one.labels["reason"] == "source MAC is not the port's"]
    assert [(one.labels["port"], one.labels["ovs_port"], one.value) for one in wrong] == [("e1", "ep-e1", 7)]
