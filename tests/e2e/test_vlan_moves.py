"""A guest on a VLAN that moves live, by virsh alone: peers on both hosts go on hearing it.

Nothing is sent on while the guest is paused, for physical switches decide; so what counts is that its first word moves
its MAC everywhere, that nobody is cut off, and that it may come straight back.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from scripts.labkit import Lab, hypervisor
from scripts.labkit.domain import domain_xml
from scripts.labkit.guest import GuestImage
from tests.support.agent_words import agent_shows
from tests.support.waiting import within

pytestmark = pytest.mark.e2e

MAC = "52:54:00:00:02:01"
APPLY = """
zones: [{name: street, kind: vlan}]
switches: [{name: sw-street, zones: [street], pnic_globs: ["pnic*"], mtu: 1500, teaming: TEAMING}]
hosts: [{name: h1, zones: [street]}, {name: h2, zones: [street]}]
networks: [{name: office, zone: street, segment_id: 100}]
"""


def answers(lab: Lab, peer: str) -> bool:
    return lab.exec(peer, ["ping", "-c1", "-W1", "10.20.0.1"], check=False).returncode == 0


def held_by(lab: Lab) -> str | None:
    ports = json.loads(lab.exec("mgr", ["netmgr", "port", "list", "-o", "json"]).stdout)
    port = next(port for port in ports if port["mac"] == MAC)
    return None if port["incoming_host"] else port["host"]


@pytest.mark.parametrize("teaming", ["single", "balance"])
def test_a_guest_on_a_vlan_moves_there_and_back(
    make_lab: Callable[..., Lab], guest_image: GuestImage, teaming: str
) -> None:
    lab = make_lab(hosts=2, pnics=2, with_vmctl=False)
    lab.exec(
        "mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY.replace("TEAMING", teaming)
    )
    for number, host in enumerate(lab.hosts, 1):
        vif, mac = f"99999999-0000-4000-8000-00000000000{number}", f"52:54:00:00:02:9{number}"
        port = ["netmgr", "port", "create", f"p{number}", "--network", "office", "--vif", vif, "--mac", mac]
        lab.exec("mgr", port)
        bridge = agent_shows(lab, host)["switches"][0]["bridge"]
        address = f"10.20.0.9{number}/24"
        lab.attach(host, f"p{number}", bridge=bridge, vif_uuid=vif, mac=mac, addresses=[address], mtu=1500)
    xml = domain_xml(name="web", image=guest_image, words="ip=10.20.0.1/24 host=web", network="office", mac=MAC)
    lab.exec("h1", ["virsh", "create", "/dev/stdin"], input=xml)
    assert within(40, lambda: answers(lab, "p1") and answers(lab, "p2"))

    for source, destination in (("h1", "h2"), ("h2", "h1")):
        pings = [lab.start_ping(peer, "10.20.0.1") for peer in ("p1", "p2")]
        address = lab.address(destination)
        to = ["--live", "--p2p", "web", hypervisor.remote_uri(address), "--migrateuri", f"tcp://{address}"]
        lab.exec(source, ["virsh", "migrate", *to], timeout_s=60)
        assert within(10, lambda destination=destination: held_by(lab) == destination)
        assert within(3, lambda: answers(lab, "p1") and answers(lab, "p2")), f"{source} to {destination}"
        for peer, ping in zip(("p1", "p2"), pings, strict=True):
            seen = lab.stop_ping(ping)
            assert seen["gap_ms"] < 2000, (peer, seen)
            assert seen["duplicates"] == 0, (peer, seen)
