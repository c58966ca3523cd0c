"""Containers, interfaces of the host and physical hosts on opaque networks, with real agents and Open vSwitch."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from scripts.labkit import Lab
from tests.support.waiting import within

pytestmark = pytest.mark.lab

C1 = "c1c1c1c1-0000-4000-8000-000000000001"

APPLY = """
switches: [{name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24}]
networks:
  - {name: blue, type: vxlan, zone: a, mtu: 1450, subnets: [10.10.0.0/24]}
  - {name: cms, type: vxlan, zone: a, mtu: 1450, attach_mode: manual}
"""


def agent(lab: Lab, host: str, *command: str, code: int = 0) -> Any:
    done = lab.exec(host, ["hostagent", *command, "-o", "json"], check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code == 1 and done.stderr else json.loads(done.stdout)


def port_of(lab: Lab, name: str) -> dict[str, Any]:
    ports = json.loads(lab.exec("mgr", ["netmgr", "port", "list", "-o", "json"]).stdout)
    return next((port for port in ports if port["name"] == name), {})


def reach(lab: Lab, host: str, namespace: str, address: str) -> bool:
    inside = ["ip", "netns", "exec", namespace] if namespace else []
    return lab.exec(host, [*inside, "ping", "-c1", "-W1", address], check=False).returncode == 0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two hosts; container c1 on h1, and interface blue0 of h2 itself, at 10.10.0.2, made by the claim."""
    with Lab(hosts=2, with_libvirt=False, with_vmctl=False, zones={"h1": "a", "h2": "a"}) as made:
        made.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)
        made.exec("mgr", ["netmgr", "port", "create", "c1", "--network", "blue", "--ip", "10.10.0.1"])
        made.exec("mgr", ["netmgr", "port", "attach", "c1", "--vif", C1])
        made.exec("h1", ["ip", "netns", "add", "c1"])
        agent(made, "h1", "port", "attach", "c1", "--network", "blue", "--netns", "c1")
        attach = ["port", "attach", "--network", "blue", "--internal", "blue0", "--ip", "10.10.0.2/24"]
        agent(made, "h2", *attach, "--name", "host2")
        yield made


@pytest.mark.datapath
def test_a_container_and_an_interface_of_a_host_reach_each_other(lab: Lab) -> None:
    assert within(5, lambda: reach(lab, "h1", "c1", "10.10.0.2"))
    inside = lab.exec("h1", ["ip", "netns", "exec", "c1", "ip", "-br", "address", "show", "eth0"]).stdout
    assert "10.10.0.1/24" in inside  # the prefix is the subnet's
    assert port_of(lab, "host2")["host"] == "h2"
    assert within(5, lambda: port_of(lab, "c1")["vif_state"] == "lit")
    explained = agent(lab, "h1", "vif", "explain", C1)
    assert explained["state"] == "lit"
    assert "port c1" in " ".join(explained["facts"])


def test_attaching_again_changes_nothing_and_detaching_takes_the_port_along(lab: Lab) -> None:
    lab.exec("h1", ["ip", "netns", "add", "c2"])
    attach = ["port", "attach", "--network", "blue", "--netns", "c2", "--ip", "10.10.0.12/24", "--name", "two"]
    first = agent(lab, "h1", *attach)
    assert agent(lab, "h1", *attach) == first
    assert within(5, lambda: reach(lab, "h1", "c2", "10.10.0.2"))
    agent(lab, "h1", "port", "detach", "two")
    assert [one["ifname"] for one in agent(lab, "h1", "port", "list")] == ["eth0"]
    assert first["device"] not in lab.exec("h1", ["ip", "-br", "link"]).stdout
    assert port_of(lab, "two") == {}
    again = agent(lab, "h1", *attach)
    assert (again["vif"], again["mac"]) == (first["vif"], first["mac"])
    assert within(5, lambda: reach(lab, "h1", "c2", "10.10.0.2"))
    agent(lab, "h1", "port", "detach", "c2")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--network", "blue", "--netns", "nowhere"], "does not exist; make it first"),
        (["--network", "blue", "--netns", "x" * 300], "does not exist; make it first"),
        (["--network", "green", "--internal", "x0"], "it has blue, cms"),
        (["--network", "blue", "--internal", "mgmt0"], "exists on this host already"),
        (["--network", "blue", "--internal", "x" * 16], "wanted up to 15"),
        (["--network", "blue", "--pnic", "mgmt0"], "carries 10.255.0.11/24"),
        (["--network", "blue", "--pnic", "pnic0"], "is part of upl-"),
        (["--network", "blue", "--pnic", "none0"], "no interface none0"),
        (["--network", "cms", "--internal", "x0"], "takes only ports made for it"),
        (["nobody", "--network", "blue", "--internal", "x0"], "has no port 'nobody'"),
        (["--network", "blue"], "exactly one of"),
        (["--network", "blue", "--internal", "x0", "--ip", "10.0.0.300"], "wanted one like"),
        (["c1", "--network", "blue", "--internal", "x0"], "attached here already"),
    ],
)
def test_what_can_not_be_attached_is_refused_and_leaves_nothing(lab: Lab, words: list[str], sentence: str) -> None:
    before = lab.exec("h1", ["ip", "-br", "link"]).stdout
    assert sentence in agent(lab, "h1", "port", "attach", *words, code=1)
    assert lab.exec("h1", ["ip", "-br", "link"]).stdout == before
    assert len(agent(lab, "h1", "port", "list")) == 1


def test_a_port_held_elsewhere_is_refused_and_its_device_not_made(lab: Lab) -> None:
    said = agent(lab, "h2", "port", "attach", "c1", "--network", "blue", "--internal", "c1", code=1)
    assert "held by host h1" in said
    assert agent(lab, "h2", "vif", "explain", C1, code=1)["state"] == "unplugged"


@pytest.mark.datapath
def test_a_physical_host_behind_a_nic_speaks_as_its_port(lab: Lab) -> None:
    lab.exec("h1", ["ip", "link", "add", "nic9", "type", "veth", "peer", "name", "wire9"])
    lab.exec("h1", ["ip", "netns", "add", "printer"])
    lab.exec("h1", ["ip", "link", "set", "wire9", "netns", "printer", "address", "00:11:22:33:44:55"])
    inside = ["ip", "netns", "exec", "printer"]
    lab.exec("h1", [*inside, "ip", "address", "add", "10.10.0.20/24", "dev", "wire9"])
    lab.exec("h1", [*inside, "ip", "link", "set", "wire9", "mtu", "1450", "up"])
    attach = ["port", "attach", "--network", "blue", "--pnic", "nic9", "--mac", "00:11:22:33:44:55"]
    agent(lab, "h1", *attach, "--name", "printer")
    assert within(5, lambda: reach(lab, "h1", "printer", "10.10.0.2"))
    agent(lab, "h1", "port", "detach", "printer")
    assert "nic9" in lab.exec("h1", ["ip", "-br", "link"]).stdout
    assert not reach(lab, "h1", "printer", "10.10.0.2")
    lab.exec("h1", ["ip", "link", "delete", "nic9"])


def cni(lab: Lab, command: str, **more: Any) -> tuple[int, dict[str, Any]]:
    conf = {"cniVersion": "1.0.0", "name": "x", "type": "opaque", "network": "blue", **more}
    env = {"CNI_COMMAND": command, "CNI_CONTAINERID": "c0ffee", "CNI_NETNS": "/run/netns/pod", "CNI_IFNAME": "eth0"}
    words = ["env", *(f"{key}={value}" for key, value in env.items()), "CNI_PATH=/run/cni", "/run/cni/opaque"]
    done = lab.exec("h1", words, input=json.dumps(conf), check=False)
    return done.returncode, json.loads(done.stdout or "{}")


def test_a_container_runtime_attaches_by_cni(lab: Lab) -> None:
    lab.exec("h1", ["hostagent", "install-cni", "--dir", "/run/cni"])
    ipam = lab.path("h1", "/run/cni/static")
    given = {"ips": [{"address": "10.10.0.40/24", "gateway": "10.10.0.2"}], "routes": [{"dst": "198.51.100.0/24"}]}
    ipam.write_text(f"#!/bin/sh\ncat >/dev/null\n[ $CNI_COMMAND != ADD ] || echo '{json.dumps(given)}'\n")
    ipam.chmod(0o755)
    code, refused = cni(lab, "ADD")
    assert (code, refused["code"]) == (1, 104)
    assert "does not exist" in refused["msg"]
    lab.exec("h1", ["ip", "netns", "add", "pod"])
    for _ in range(2):
        code, result = cni(lab, "ADD", ipam={"type": "static"})
        assert code == 0, result
        assert result["ips"] == [{"address": "10.10.0.40/24", "interface": 0, "gateway": "10.10.0.2"}]
        assert result["interfaces"][0]["sandbox"] == "/run/netns/pod"
    assert within(5, lambda: reach(lab, "h1", "pod", "10.10.0.2"))
    assert "198.51.100.0/24 via 10.10.0.2" in lab.exec("h1", ["ip", "-n", "pod", "route"]).stdout
    assert cni(lab, "CHECK", ipam={"type": "static"}) == (0, {})
    for _ in range(2):
        assert cni(lab, "DEL", ipam={"type": "static"}) == (0, {})
    assert cni(lab, "CHECK")[1]["code"] == 100
    assert port_of(lab, "c0ffee.eth0") == {}
    assert cni(lab, "VERSION")[1]["supportedVersions"] == ["0.4.0", "1.0.0"]
    assert cni(lab, "ADD", cniVersion="9.0")[1]["code"] == 1


def test_port_that_was_made_at_the_manager_stays_and_one_of_a_claim_goes_once_the_manager_is_back(lab: Lab) -> None:
    for netns in ("own", "hers"):
        lab.exec("h1", ["ip", "netns", "add", netns])
    lab.exec("mgr", ["netmgr", "port", "create", "hers", "--network", "blue", "--ip", "10.10.0.31"])
    lab.exec("mgr", ["netmgr", "port", "attach", "hers", "--vif", f"{C1[:-2]}31"])
    agent(lab, "h1", "port", "attach", "hers", "--network", "blue", "--netns", "hers")
    own = ["port", "attach", "--network", "blue", "--netns", "own", "--ip", "10.10.0.32/24", "--name", "own"]
    agent(lab, "h1", *own)
    assert (port_of(lab, "own")["made_by"], port_of(lab, "hers")["made_by"]) == ("h1", None)
    lab.stop_daemon("mgr", "netmgr")
    try:
        agent(lab, "h1", "port", "detach", "hers")
        agent(lab, "h1", "port", "detach", "own")
        agent(lab, "h1", *own)  # wanted again: nothing is to be deleted
        assert within(8, lambda: reach(lab, "h1", "own", "10.10.0.2"))
        agent(lab, "h1", "port", "detach", "own")
        lab.stop_daemon("h1", "hostagent", number=signal.SIGKILL)
        lab.start_daemon("h1", "hostagent")
    finally:
        lab.start_daemon("mgr", "netmgr")
    assert within(15, lambda: port_of(lab, "own") == {} and port_of(lab, "hers")["parked"])
    parked = json.loads(lab.exec("mgr", ["netmgr", "port", "list", "--parked", "-o", "json"]).stdout)
    assert [port["name"] for port in parked] == ["hers"]
    lab.exec("mgr", ["netmgr", "port", "delete", "hers"])


def test_an_endpoint_whose_port_or_addresses_somebody_takes_away_comes_back(lab: Lab) -> None:
    lab.exec("h2", ["ip", "address", "flush", "dev", "blue0"])
    assert within(8, lambda: "10.10.0.2" in lab.exec("h2", ["ip", "-br", "address"]).stdout)
    lab.exec("h2", ["ovs-vsctl", "del-port", "blue0"])
    assert within(10, lambda: reach(lab, "h1", "c1", "10.10.0.2"))


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.2])
def test_an_agent_killed_while_it_attaches_leaves_a_whole_endpoint_or_none(lab: Lab, after_s: float) -> None:
    lab.exec("h1", ["ip", "netns", "add", "k"])
    words = ["port", "attach", "--network", "blue", "--netns", "k", "--ip", "10.10.0.30/24", "--name", "k"]
    command = lab.popen("h1", ["sh", "-c", f"hostagent {' '.join(words)} >/dev/null 2>&1; true"])
    time.sleep(0.35 + after_s)  # the command itself takes that long to begin
    lab.stop_daemon("h1", "hostagent", number=signal.SIGKILL)
    command.wait(timeout=20)
    lab.start_daemon("h1", "hostagent")
    agent(lab, "h1", *words)
    assert within(8, lambda: reach(lab, "h1", "k", "10.10.0.2"))
    ports = json.loads(lab.exec("mgr", ["netmgr", "port", "list", "-o", "json"]).stdout)
    assert len([port for port in ports if port["name"].startswith("k")]) == 1
    agent(lab, "h1", "port", "detach", "k")
    lab.exec("h1", ["ip", "netns", "delete", "k"])
    assert "opn-" not in lab.exec("h1", ["ovs-vsctl", "list-ports", _bridge(lab)]).stdout.replace(_c1(lab), "")


def test_after_a_reboot_without_a_manager_interfaces_of_the_host_are_back_and_containers_are_awaited(lab: Lab) -> None:
    lab.stop_daemon("mgr", "netmgr")
    try:
        for host in lab.hosts:
            lab.crash(host)
            lab.boot(host)
        missing = {one["ifname"]: one["missing"] for one in agent(lab, "h1", "port", "list")}
        assert within(5, lambda: "does not exist" in agent(lab, "h1", "port", "list")[0]["missing"]), missing
        assert "does not exist" in str(agent(lab, "h1", "vif", "explain", C1, code=1)["facts"])
        lab.exec("h1", ["ip", "netns", "add", "c1"])
        assert within(15, lambda: reach(lab, "h1", "c1", "10.10.0.2"))
    finally:
        lab.start_daemon("mgr", "netmgr")
    assert within(20, lambda: port_of(lab, "c1")["host"] == "h1" and port_of(lab, "host2")["vif_state"] == "lit")


def _bridge(lab: Lab) -> str:
    return str(agent(lab, "h1", "show")["switches"][0]["bridge"])


def _c1(lab: Lab) -> str:
    return next(str(one["device"]) for one in agent(lab, "h1", "port", "list") if one["netns"].endswith("c1"))
