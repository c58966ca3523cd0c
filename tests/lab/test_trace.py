"""`netmgr trace` and `hostagent flows` on hosts with real Open vSwitch: what they say is what frames then do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from scripts.labkit import Lab
from tests.support.agent_words import agent_shows
from tests.support.waiting import within

pytestmark = [pytest.mark.lab, pytest.mark.datapath]

APPLY = """
switches:
  - {name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24}
  - {name: sw-b, zones: [b], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: "fd00:200::/64"}
networks:
  - {name: blue, type: vxlan, zone: a, mtu: 1450}
  - {name: red, type: geneve, zone: a, mtu: 1450}
  - {name: four-nvgre, type: nvgre, zone: a, mtu: 1450}
  - {name: six-vxlan, type: vxlan, zone: b, mtu: 1450}
  - {name: six-geneve, type: geneve, zone: b, mtu: 1450}
  - {name: six-nvgre, type: nvgre, zone: b, mtu: 1450}
"""
PLACES = {"web1": ("h1", "blue", 1), "web2": ("h2", "blue", 2), "web3": ("h1", "blue", 3), "red1": ("h2", "red", 4)}


def netmgr(lab: Lab, *words: str) -> Any:
    return json.loads(lab.exec("mgr", ["netmgr", *words, "-o", "json"]).stdout)


def trace(lab: Lab, source: str, destination: str, *more: str) -> tuple[int, str]:
    """Exit status and last line."""
    done = lab.exec("mgr", ["netmgr", "trace", "--from", source, "--to", destination, *more], check=False)
    return done.returncode, (done.stdout + done.stderr).splitlines()[-1]


def reaches(lab: Lab, source: str, number: int, *, prefix: str = "10.10.0.") -> bool:
    return lab.exec(source, ["ping", "-c1", "-W1", f"{prefix}{number}"], check=False).returncode == 0


def attach(lab: Lab, name: str, host: str, network: str, number: int) -> None:
    """An endpoint and its port, with an address of each family that is its own."""
    shown = agent_shows(lab, host)
    (switch,) = [one["switch"] for one in shown["networks"] if one["name"] == network]
    (bridge,) = [one["bridge"] for one in shown["switches"] if one["name"] == switch]
    vif, four, six = str(uuid4()), f"10.10.0.{number}", f"fd00::{number}"
    port = netmgr(lab, "port", "create", name, "--network", network, "--ip", four, "--ip", six, "--vif", vif)
    addresses = [f"{four}/24", f"{six}/64"]
    lab.attach(host, name, bridge=bridge, vif_uuid=vif, mac=port["mac"], addresses=addresses, mtu=1450)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two hosts on switches of both address families, and the ports of PLACES."""
    with Lab(hosts=2, zones={"h1": "a,b", "h2": "a,b"}, with_libvirt=False) as made:
        made.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)
        for name, (host, network, number) in PLACES.items():
            attach(made, name, host, network, number)
        assert within(10, lambda: all(netmgr(made, "port", "show", name)["vif_state"] == "lit" for name in PLACES))
        assert within(10, lambda: reaches(made, "web1", 2))
        yield made


@pytest.mark.parametrize(
    ("network", "number"), [("red", 11), ("four-nvgre", 13), ("six-vxlan", 15), ("six-geneve", 17), ("six-nvgre", 19)]
)
def test_trace_follows_frames_through_a_tunnel_of_any_kind(lab: Lab, network: str, number: int) -> None:
    one, two = f"p{number}", f"p{number + 1}"
    attach(lab, one, "h1", network, number)
    attach(lab, two, "h2", network, number + 1)
    vteps = {":" in vtep: vtep for switch in agent_shows(lab, "h2")["switches"] for vtep in switch["vteps"]}
    for prefix in ("10.10.0.", "fd00::"):
        assert within(10, lambda prefix=prefix: reaches(lab, one, number + 1, prefix=prefix))
        found = netmgr(lab, "trace", "--from", one, "--to", f"{prefix}{number + 1}")
        assert found["sentence"].startswith(f"Delivered to port {two} (")
        (end,) = found["path"]["ends"]
        assert (end["kind"], end["vtep"]) == (
            "tunnel",
            vteps["six" in network],
        )
        assert "it has answered a probe " in end["reason"]
    status, said = trace(lab, two, one, "--proto", "arp")
    assert (status, said.split(":")[0]) == (0, "Answered on host h2")
    netmgr(lab, "port", "set", two, "--down")
    assert within(5, lambda: not reaches(lab, one, number + 1))
    status, said = trace(lab, one, two)
    assert status == 1
    assert said.startswith("Dropped on host h2 in table FORWARD: destination on this host is dark")


def test_trace_says_what_frames_do(lab: Lab) -> None:

    status, said = trace(lab, "web1", "10.10.0.2")
    assert (status, said.split(" (")[0]) == (0, "Delivered to port web2")
    assert said.endswith("on host h2.")
    shown = lab.exec("mgr", ["netmgr", "trace", "--from", "web1", "--to", "web2"]).stdout
    found = re.search(r"it has answered a probe ([\d.]+) s ago", " ".join(shown.split()))
    assert found is not None, shown
    assert float(found[1]) < 60, "how old its knowledge of the path is"
    assert trace(lab, "web1", "web3", "--proto", "tcp", "--dport", "80")[1].endswith("on host h1.")
    status, said = trace(lab, "web2", "web1", "--proto", "arp")
    assert (status, said.split(":")[0]) == (0, "Answered on host h2")

    status, said = trace(lab, "web1", "web2", "--source-ip", "10.10.0.99")
    assert (status, said) == (1, "Dropped on host h1 in table SOURCES: IP source is not the port's.")
    status, said = trace(lab, "web1", "web2", "--source-mac", "02:00:00:00:00:99")
    assert (status, said) == (1, "Dropped on host h1 in table GUARD: source MAC is not the port's.")
    status, said = trace(lab, "web1", "red1")
    assert status == 1
    assert "port red1 is on network red, web1 on blue, and no frame crosses networks" in said

    netmgr(lab, "port", "set", "web2", "--down")
    assert within(5, lambda: not reaches(lab, "web1", 2))
    status, said = trace(lab, "web1", "web2")
    assert status == 1
    assert said.startswith("Dropped on host h2 in table FORWARD: destination on this host is dark")
    assert "port web2 is set down by its operator" in said
    assert trace(lab, "web2", "web1")[1].startswith("Dropped on host h2 in table CLASSIFY: port that is dark")

    flows = json.loads(lab.exec("h1", ["hostagent", "flows", "blue", "--table", "locate", "-o", "json"]).stdout)
    assert [flow["table"] for flow in flows] == ["LOCATE"]
    assert flows[0]["match"][1].endswith("(web2)")
    assert flows[0]["actions"][0].endswith("(h2)")

    lab.stop_daemon("h2", "hostagent")
    assert within(15, lambda: trace(lab, "web1", "web2")[0] == 2)
    assert "host h2 is not connected to this manager" in trace(lab, "web1", "web2")[1]
