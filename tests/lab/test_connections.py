"""The tracker is shared: a port may have so many connections in it and no more, whatever becomes of the switch."""

from __future__ import annotations

import json
import signal
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
groups: [{name: asks, rules: [{direction: egress, protocol: udp}]}]
"""
LIMIT, ASKED = 30, 100
NUMBERS = {"loud": 1, "quiet": 2, "peer": 3}
# Opens argv 1 connections to a port where nobody answers.
FLOOD = """
import socket, sys
s = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(int(sys.argv[1]))]
for one in s:
    one.sendto(b"x", ("10.10.0.3", 99))
"""
# Answers what is asked.
SERVE = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 53))
print("ready", flush=True)
while True:
    s.sendto(b"y", s.recvfrom(9)[1])
"""
# Says whether it is answered.
ASK = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
s.sendto(b"x", ("10.10.0.3", 53))
try:
    s.recv(9)
    print("answered")
except TimeoutError:
    print("silence")
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One host; `loud` and `quiet` may ask, `peer` answers."""
    settings = {"HOSTAGENT_RUN_CONNECTIONS_MAX": str(LIMIT)}
    with Lab(hosts=1, with_libvirt=False, with_vmctl=False, zones={"h1": "a"}, agent_settings=settings) as one:
        one.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)
        bridge = agent_shows(one, "h1")["switches"][0]["bridge"]
        for name, number in NUMBERS.items():
            vif, mac, address = str(uuid4()), f"52:54:00:00:00:0{number}", f"10.10.0.{number}"
            words = ["--network", "blue", "--vif", vif, "--mac", mac, "--ip", address]
            groups = [] if name == "peer" else ["--group", "asks"]
            one.exec("mgr", ["netmgr", "port", "create", name, *words, *groups])
            one.attach("h1", name, bridge=bridge, vif_uuid=vif, mac=mac, addresses=[f"{address}/24"], mtu=1450)
        assert within(10, lambda: all(port(one, name)["vif_state"] == "lit" for name in NUMBERS))
        yield one


def port(lab: Lab, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lab.exec("mgr", ["netmgr", "port", "show", name, "-o", "json"]).stdout)
    return found


def held(lab: Lab, name: str) -> dict[str, int]:
    """What the switch says of the port's zone now."""
    zone = limits(lab)[port(lab, name)["uuid"]]
    said = lab.exec("h1", ["ovs-appctl", "dpctl/ct-get-limits", f"zone={zone}"]).stdout
    words = dict(word.split("=") for word in said.split()[-1].split(","))
    return {"limit": int(words["limit"]), "count": int(words["count"])}


def limits(lab: Lab) -> dict[str, str]:
    """By port: its zone, as `hostagent vif explain` has it."""
    found = {}
    for name in ("loud", "quiet"):
        said = lab.exec("h1", ["hostagent", "vif", "explain", port(lab, name)["vif_uuid"]]).stdout
        found[port(lab, name)["uuid"]] = " ".join(said.split()).partition("in zone ")[2].split()[0]
    return found


def answered(lab: Lab, name: str) -> bool:
    return "answered" in lab.exec(name, ["python3", "-c", ASK]).stdout


def test_who_opens_too_many_connections_keeps_no_other_from_its_own(lab: Lab) -> None:
    serving = lab.popen("peer", ["python3", "-c", SERVE], stdout=-1, text=True)
    assert serving.stdout is not None
    assert serving.stdout.readline() == "ready\n"
    assert within(5, lambda: answered(lab, "quiet") and answered(lab, "loud"))
    lab.exec("loud", ["python3", "-c", FLOOD, str(ASKED)])
    assert held(lab, "loud") == {"limit": LIMIT, "count": LIMIT}
    assert not answered(lab, "loud"), "it has as many as it may"
    assert answered(lab, "quiet")
    sentence = f"port loud has {LIMIT} connections, as many as the host's tracker keeps of one port"
    assert within(30, lambda: sentence in port(lab, "loud")["vif_reason"])
    assert port(lab, "loud")["vif_state"] == "lit"
    explained = lab.exec("h1", ["hostagent", "vif", "explain", port(lab, "loud")["vif_uuid"]]).stdout
    assert sentence in " ".join(explained.split())
    shown = agent_shows(lab, "h1")["connections"]
    assert shown[port(lab, "loud")["uuid"]] == {"limit": LIMIT, "connections": LIMIT}
    lab.exec("h1", ["ovs-appctl", "dpctl/flush-conntrack"])
    assert within(30, lambda: port(lab, "loud")["vif_reason"] == "")
    assert answered(lab, "loud")
    serving.kill()
    serving.wait()


@pytest.mark.parametrize("daemon", ["ovs-vswitchd", "hostagent"])
def test_limits_are_there_again_after_the_end_of_a_daemon(lab: Lab, daemon: str) -> None:
    lab.stop_daemon("h1", daemon, number=signal.SIGKILL)
    lab.start_daemon("h1", daemon)
    assert within(
        10, lambda: {name: held(lab, name)["limit"] for name in ("loud", "quiet")} == {"loud": LIMIT, "quiet": LIMIT}
    )


def test_a_zone_that_is_nobodys_any_more_has_no_limit_and_zones_of_others_keep_theirs(lab: Lab) -> None:
    zone = limits(lab)[port(lab, "quiet")["uuid"]]
    lab.exec("h1", ["ovs-appctl", "dpctl/ct-set-limits", "zone=7,limit=5"])
    lab.exec("mgr", ["netmgr", "port", "set", "blue/quiet", "--no-groups"])

    def said() -> str:
        return lab.exec("h1", ["ovs-appctl", "dpctl/ct-get-limits"]).stdout

    assert within(30, lambda: f"zone={zone}," not in said())
    assert "zone=7,limit=5," in said()
