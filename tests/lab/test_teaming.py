"""Two PNICs a host: traffic, guests' TCP too, goes on when one loses its link, whatever the teaming; health says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from scripts.labkit import Lab
from tests.support.agent_words import agent_shows
from tests.support.tcp_copy import Stream
from tests.support.waiting import within

pytestmark = [pytest.mark.lab, pytest.mark.datapath]

APPLY = """
switches: [{name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24, teaming: active-backup}]
networks: [{name: blue, type: vxlan, zone: a, mtu: 1450}]
"""


def reach(lab: Lab) -> bool:
    return lab.exec("e1", ["ping", "-c1", "-W1", "10.10.0.2"], check=False).returncode == 0


def reasons(lab: Lab, host: str) -> str:
    (switch,) = agent_shows(lab, host)["switches"]
    return " ".join([switch["status"], *switch["reasons"]])


def bond(lab: Lab, host: str, *columns: str) -> list[Any]:
    text = lab.exec(
        host, ["ovs-vsctl", "-f", "json", f"--columns={','.join(columns)}", "list", "Port", bond_name(lab, host)]
    ).stdout
    row: list[Any] = json.loads(text)["data"][0]
    return row


def bond_name(lab: Lab, host: str) -> str:
    bridge = next(one for one in lab.exec(host, ["ovs-vsctl", "list-br"]).stdout.split() if one.startswith("upl-"))
    ports = lab.exec(host, ["ovs-vsctl", "list-ports", bridge]).stdout.split()
    return next(one for one in ports if one.startswith("bond-"))


def link(lab: Lab, cable: str, state: str) -> None:
    """The PNIC whose cable ends in the fabric as *cable* loses, or regains, its link."""
    lab.exec("fabric", ["ip", "link", "set", cable, state])


def team(lab: Lab, teaming: str) -> None:
    lab.exec("mgr", ["netmgr", "switch", "set", "sw-a", "--teaming", teaming, "--wait", "realized"])


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two hosts, two PNICs each, in zone a; endpoints e1 on h1 and e2 on h2 on network blue."""
    zones = {"h1": "a", "h2": "a"}
    with Lab(hosts=2, pnics=2, with_libvirt=False, with_vmctl=False, zones=zones) as made:
        made.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)
        shown = agent_shows(made, "h1")
        for number, host in enumerate(made.hosts, 1):
            vif, mac = str(uuid4()), f"52:54:00:00:00:{number:02x}"
            port = ["netmgr", "port", "create", f"e{number}", "--network", "blue", "--vif", vif, "--mac", mac]
            made.exec("mgr", port)
            made.attach(
                host,
                f"e{number}",
                bridge=shown["switches"][0]["bridge"],
                vif_uuid=vif,
                mac=mac,
                addresses=[f"10.10.0.{number}/24"],
                mtu=1450,
            )
        assert within(10, lambda: reach(made))
        yield made


@pytest.mark.parametrize(("teaming", "mode"), [("active-backup", "active-backup"), ("balance", "balance-slb")])
def test_traffic_goes_on_over_the_pnic_that_is_left(lab: Lab, teaming: str, mode: str) -> None:
    team(lab, teaming)
    assert bond(lab, "h1", "bond_mode") == [mode]
    with Stream(lab, "e1", "e2", "10.10.0.2") as stream:
        for pnic in ("pnic0", "pnic1"):  # whichever is the active one, the stream's is among them
            link(lab, f"h1-{pnic}", "down")
            assert within(5, lambda pnic=pnic: f"no link on {pnic}" in reasons(lab, "h1")), reasons(lab, "h1")
            assert reasons(lab, "h1").startswith("warning")
            assert within(3, lambda: reach(lab))
            had = stream.arrived()
            assert within(5, lambda had=had: stream.arrived() > had + 100_000), "guests' TCP does not go on"
            link(lab, f"h1-{pnic}", "up")
            assert within(5, lambda: reasons(lab, "h1") == "up")
        assert stream.end(), "a byte is lost or another"
    assert within(3, lambda: reach(lab))


def test_lacp_is_negotiated_survives_a_lost_link_and_falls_back_without_a_partner(lab: Lab) -> None:
    for host in lab.hosts:
        for pnic in ("pnic0", "pnic1"):  # PNIC to PNIC, host to host: each is the other's partner
            there = "h2" if host == "h1" else "h1"
            redirect = f"u32 match u32 0 0 action mirred egress redirect dev {there}-{pnic}"
            lab.exec("fabric", ["tc", "qdisc", "add", "dev", f"{host}-{pnic}", "clsact"])
            lab.exec("fabric", f"tc filter add dev {host}-{pnic} ingress protocol all {redirect}".split())
    team(lab, "lacp")
    assert bond(lab, "h1", "bond_mode", "lacp") == ["balance-tcp", "active"]
    assert within(15, lambda: reasons(lab, "h1") == reasons(lab, "h2") == "up"), reasons(lab, "h1")
    assert within(5, lambda: reach(lab))

    with Stream(lab, "e1", "e2", "10.10.0.2") as stream:
        for pnic in ("pnic0", "pnic1"):  # the stream is on one of them
            for host in lab.hosts:
                link(lab, f"{host}-{pnic}", "down")
            assert within(5, lambda pnic=pnic: f"no link on {pnic}" in reasons(lab, "h1")), reasons(lab, "h1")
            assert within(5, lambda: reach(lab))
            had = stream.arrived()
            assert within(5, lambda had=had: stream.arrived() > had + 100_000), "guests' TCP does not go on"
            for host in lab.hosts:
                link(lab, f"{host}-{pnic}", "up")
            assert within(15, lambda: reasons(lab, "h1") == reasons(lab, "h2") == "up"), reasons(lab, "h1")
        assert stream.end(), "a byte is lost or another"

    for host in lab.hosts:
        for pnic in ("pnic0", "pnic1"):  # the underlay is a plain bridge again, which does not speak LACP
            lab.exec("fabric", ["tc", "qdisc", "delete", "dev", f"{host}-{pnic}", "clsact"])
    silent = "LACP is not negotiated on pnic0, pnic1; one PNIC at a time carries traffic"
    assert within(15, lambda: silent in reasons(lab, "h1") and silent in reasons(lab, "h2")), reasons(lab, "h1")
    assert within(10, lambda: reach(lab))


def test_a_bond_that_somebody_changes_is_put_back(lab: Lab) -> None:
    team(lab, "balance")
    lab.exec("h1", ["ovs-vsctl", "set", "Port", bond_name(lab, "h1"), "bond_mode=active-backup", "lacp=passive"])
    assert within(2, lambda: bond(lab, "h1", "bond_mode", "lacp") == ["balance-slb", ["set", []]])
