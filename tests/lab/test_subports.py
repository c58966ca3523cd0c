"""Sub-ports on real hosts: one VIF whose tagged frames are on networks of their own, of its switch and of another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from scripts.labkit import Lab
from tests.support.agent_words import agent_shows
from tests.support.tcp_copy import copies
from tests.support.vlan_interface import vlan_interface
from tests.support.waiting import within

pytestmark = [pytest.mark.lab, pytest.mark.datapath]

APPLY = """
zones: [{name: a}, {name: b}]
switches:
  - {name: sw-a, zones: [a], pnic_globs: [pnic0], mtu: 1650, vtep_pool: 10.200.0.0/24}
  - {name: sw-b, zones: [b], pnic_globs: [pnic0], mtu: 1650, vtep_pool: 10.201.0.0/24}
hosts: [{name: h1, zones: [a, b]}, {name: h2, zones: [a, b]}]
networks: [{name: blue, zone: a}, {name: red, zone: a}, {name: green, zone: b}]
ports:
  - {name: outer, network: blue, mac: "02:00:00:00:01:01", ips: [10.1.0.1],
     vif_uuid: 0a0a0a0a-0000-4000-8000-000000000001}
  - {name: b, network: blue, mac: "02:00:00:00:01:02", vif_uuid: 0a0a0a0a-0000-4000-8000-000000000002, ips: [10.1.0.2]}
  - {name: g, network: green, parent: blue/outer, tag: 10, ips: [10.2.0.1]}
  - {name: p, network: green, mac: "02:00:00:00:02:02", vif_uuid: 0a0a0a0a-0000-4000-8000-000000000003, ips: [10.2.0.2]}
  - {name: r, network: red, parent: blue/outer, tag: 20, mac: "02:00:00:00:03:01"}
  - {name: s, network: red, mac: "02:00:00:00:03:02", vif_uuid: 0a0a0a0a-0000-4000-8000-000000000004}
"""
OUTER = "02:00:00:00:01:01"


def netmgr(lab: Lab, *words: str, **options: Any) -> Any:
    return lab.exec("mgr", ["netmgr", *words], **options)


def port(lab: Lab, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(netmgr(lab, "port", "show", name, "-o", "json").stdout)
    return found


def agent(lab: Lab, *words: str) -> Any:
    return json.loads(lab.exec("h1", ["hostagent", *words, "-o", "json"]).stdout)


def reach(lab: Lab, endpoint: str, address: str) -> bool:
    return lab.exec(endpoint, ["ping", "-c1", "-W1", address], check=False).returncode == 0


def bridge_of(lab: Lab, host: str, switch: str) -> str:
    shown = agent_shows(lab, host)["switches"]
    return str(next(one["bridge"] for one in shown if one["name"] == switch))


def plug(lab: Lab, host: str, name: str, switch: str, address: str) -> None:
    view = port(lab, name)
    bridge = bridge_of(lab, host, switch)
    lab.attach(host, name, bridge=bridge, vif_uuid=view["vif_uuid"], mac=view["mac"], addresses=[address], mtu=1500)


def patches(lab: Lab) -> dict[str, str]:
    """The ends of sub-ports' patches on h1, each with its bridge."""
    script = "for br in $(ovs-vsctl list-br); do for p in $(ovs-vsctl list-ports $br); do echo $p $br; done; done"
    rows = (line.split() for line in lab.exec("h1", ["sh", "-c", script]).stdout.splitlines())
    return {name: bridge for name, bridge in rows if name.startswith(("sub-", "tag-"))}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """outer with g (green, tag 10) and r (red, tag 20) on h1; b, p and s, of blue, green and red, on h2."""
    with Lab(hosts=2, with_libvirt=False, with_vmctl=False) as made:
        netmgr(made, "apply", "-f", "/dev/stdin", "--wait", "realized", input=APPLY)
        plug(made, "h1", "outer", "sw-a", "10.1.0.1/24")
        for name, switch, address in (("b", "sw-a", "10.1.0.2"), ("p", "sw-b", "10.2.0.2"), ("s", "sw-a", "10.3.0.2")):
            plug(made, "h2", name, switch, f"{address}/24")
        vlan_interface(made, "outer", tag=10, mac=OUTER, address="10.2.0.1/24")
        vlan_interface(made, "outer", tag=20, mac="02:00:00:00:03:01", address="10.3.0.1/24")
        yield made


def test_a_vif_reaches_each_network_by_its_tag_and_is_reached(lab: Lab) -> None:
    for here, there in (("10.1.0", "b"), ("10.2.0", "p"), ("10.3.0", "s")):
        assert within(10, lambda there=there, here=here: reach(lab, "outer", f"{here}.2")), there  # type: ignore[misc]
        assert reach(lab, there, f"{here}.1")
    for endpoint, elsewhere in (("b", "10.2.0.1"), ("p", "10.3.0.1"), ("p", "10.1.0.1")):
        lab.exec(endpoint, ["ip", "route", "add", f"{elsewhere}/32", "dev", "eth0"])
        assert not reach(lab, endpoint, elsewhere), "no network leads to another"
    lab.exec("p", ["ethtool", "-K", "eth0", "tx", "off"])  # who plays the VLAN interface reckons no checksums
    assert copies(lab, "outer", "p", "10.2.0.1", mib=1)


def test_manager_and_agent_show_them_with_their_parent(lab: Lab) -> None:
    assert within(5, lambda: port(lab, "green/g")["vif_state"] == "lit")
    view, parent = port(lab, "green/g"), port(lab, "outer")
    assert (view["location"], view["host"], view["parent"], view["tag"]) == ("held", "h1", "blue/outer", 10)
    assert view["vtep"].startswith("10.201."), "that of its own switch"
    assert parent["subports"] == [{"tag": 10, "port": "green/g"}, {"tag": 20, "port": "red/r"}]
    rows = {row["port"]: row for row in agent(lab, "vif", "list")}
    assert (rows["g"]["state"], rows["g"]["parent"], rows["g"]["tag"]) == ("lit", "outer", 10)
    told = " ".join(lab.exec("h1", ["hostagent", "vif", "explain", "g"]).stdout.split())
    assert "It is a sub-port: the frames of port outer with VLAN tag 10." in told
    told = " ".join(lab.exec("h1", ["hostagent", "vif", "explain", "outer"]).stdout.split())
    assert "tag 10 is port g of network green; tag 20 is port r of network red" in told
    assert within(5, lambda: port(lab, "red/r")["learned"][0]["address"] == "10.3.0.1"), "it learns like any port"


def test_the_trace_follows_frames_from_and_to_a_sub_port(lab: Lab) -> None:
    for source, destination in (("green/g", "green/p"), ("green/p", "green/g")):
        done = netmgr(lab, "trace", "--from", source, "--to", destination, "-o", "json", check=False)
        found = json.loads(done.stdout)
        assert (found["result"], done.returncode) == ("delivered", 0), found
        assert destination.partition("/")[2] in found["sentence"]


def test_what_somebody_takes_away_is_put_back_and_an_agent_that_restarts_changes_nothing(lab: Lab) -> None:
    before = patches(lab)
    assert len(before) == 4
    assert len(set(before.values())) == 2, "g is on the bridge of another switch than outer"
    for name in sorted(before):
        lab.exec("h1", ["ovs-vsctl", "del-port", name])
        assert within(5, lambda: patches(lab) == before), name
        assert within(5, lambda: reach(lab, "outer", "10.2.0.2") and reach(lab, "outer", "10.3.0.2")), name
    lab.stop_daemon("h1", "hostagent")
    assert reach(lab, "outer", "10.2.0.2")
    lab.start_daemon("h1", "hostagent")
    assert within(10, lambda: lab.exec("h1", ["hostagent", "verify"], check=False).returncode == 0)
    assert patches(lab) == before
    assert reach(lab, "outer", "10.2.0.2")


def test_what_a_sub_port_must_not_say_is_dropped_and_counted_at_it(lab: Lab) -> None:
    lab.exec("outer", ["ip", "address", "add", "10.2.0.77/24", "dev", "v10"])
    assert lab.exec("outer", ["ping", "-c1", "-W1", "-I", "10.2.0.77", "10.2.0.2"], check=False).returncode
    lab.exec("outer", ["ip", "address", "delete", "10.2.0.77/24", "dev", "v10"])
    (end,) = [row["ovs_port"] for row in agent(lab, "vif", "list") if row["port"] == "g"]

    def counted() -> bool:
        return any(row["port"] == end and row["reason"] == "IP source is not the port's" for row in agent(lab, "drops"))

    assert within(5, counted)
    assert reach(lab, "outer", "10.2.0.2")


def test_groups_limits_and_tags_of_a_sub_port_are_its_own(lab: Lab) -> None:
    netmgr(lab, "group", "create", "closed")
    netmgr(lab, "port", "set", "green/g", "--group", "closed")
    assert within(5, lambda: not reach(lab, "outer", "10.2.0.2"))
    assert reach(lab, "outer", "10.1.0.2")
    netmgr(lab, "port", "set", "green/g", "--no-groups")
    assert within(5, lambda: reach(lab, "outer", "10.2.0.2"))
    netmgr(lab, "port", "set", "green/g", "--egress-kbps", "2000")
    meters = f"ovs-ofctl -O OpenFlow15 dump-meters {bridge_of(lab, 'h1', 'sw-b')} | grep -q rate=2000"
    assert within(5, lambda: lab.exec("h1", ["sh", "-c", meters], check=False).returncode == 0)
    refused = netmgr(lab, "port", "set", "green/g", "--ingress-kbps", "2000", check=False)
    assert (refused.returncode, "set it on port outer" in refused.stderr) == (2, True)
    netmgr(lab, "port", "set", "green/g", "--tag", "11")
    assert within(5, lambda: not reach(lab, "outer", "10.2.0.2"))
    netmgr(lab, "port", "set", "green/g", "--tag", "10", "--egress-kbps", "0")
    assert within(5, lambda: reach(lab, "outer", "10.2.0.2"))


def test_set_down_with_the_parent_and_gone_with_its_vif(lab: Lab) -> None:
    netmgr(lab, "port", "set", "outer", "--down")
    assert within(5, lambda: port(lab, "green/g")["vif_state"] == "dark")
    assert "is a sub-port of port outer, which is set down" in port(lab, "green/g")["vif_reason"]
    assert not reach(lab, "p", "10.2.0.1")
    netmgr(lab, "port", "set", "outer", "--up")
    assert within(5, lambda: reach(lab, "p", "10.2.0.1"))
    lab.detach("outer")
    assert within(10, lambda: port(lab, "green/g")["location"] == "parked"), "with its parent"
    assert port(lab, "outer")["location"] == "parked"
    assert within(10, lambda: patches(lab) == {})
    assert lab.exec("h1", ["hostagent", "verify"], check=False).returncode == 0
    refused = netmgr(lab, "port", "delete", "outer", check=False)
    assert (refused.returncode, "port g of network green" in refused.stderr) == (2, True)
    netmgr(lab, "port", "delete", "green/g", "red/r")
    netmgr(lab, "port", "delete", "outer")
