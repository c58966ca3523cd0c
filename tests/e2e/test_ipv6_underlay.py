"""A guest over an IPv6 underlay: it starts, moves live there and back under a ping, and its TCP goes through."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest

from scripts.labkit import Lab, hypervisor
from scripts.labkit.domain import domain_xml
from scripts.labkit.guest import GuestImage
from tests.support.agent_words import agent_shows
from tests.support.waiting import within

pytestmark = pytest.mark.e2e

APPLY = """
switches: [{name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: "fd00:200::/64"}]
networks: [{name: blue, type: vxlan, zone: a, mtu: 1500}]
"""
FETCH = "import urllib.request\nprint(len(urllib.request.urlopen('http://10.10.0.1/file', timeout=20).read()))\n"


def test_a_guest_moves_live_over_ipv6_and_tcp_goes_through(guest_image: GuestImage) -> None:
    with Lab(hosts=2, with_vmctl=False, zones={"h1": "a", "h2": "a"}) as lab:
        lab.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)
        vif, mac = str(uuid4()), "52:54:00:00:06:99"
        words = ["netmgr", "port", "create", "peer", "--network", "blue", "--vif", vif, "--mac", mac]
        lab.exec("mgr", words)
        bridge = agent_shows(lab, "h2")["switches"][0]["bridge"]
        lab.attach("h2", "peer", bridge=bridge, vif_uuid=vif, mac=mac, addresses=["10.10.0.99/24"], mtu=1500)
        xml = domain_xml(
            name="web", image=guest_image, words="ip=10.10.0.1/24 host=web", network="blue", mac="52:54:00:00:06:01"
        )
        lab.exec("h1", ["virsh", "define", "/dev/stdin"], input=xml)
        lab.exec("h1", ["virsh", "start", "web"])
        assert within(60, lambda: lab.exec("peer", ["ping", "-c1", "-W1", "10.10.0.1"], check=False).returncode == 0)
        time.sleep(2)  # a guest that boots dirties its memory faster than it can be copied
        ping = lab.start_ping("peer", "10.10.0.1")
        for source, destination in (("h1", "h2"), ("h2", "h1")):
            address = lab.address(destination)
            uri = hypervisor.remote_uri(address)
            lab.exec(
                source,
                ["virsh", "migrate", "--live", "--p2p", "web", uri, "--migrateuri", f"tcp://{address}"],
                timeout_s=90,
            )
            time.sleep(1)
        seen = lab.stop_ping(ping)
        assert (seen["duplicates"], seen["gap_ms"] < 5000, seen["received"] > 100) == (0, True, True), seen
        assert seen["lost"] <= 8, seen
        assert int(lab.exec("peer", ["python3", "-c", FETCH]).stdout) > 100_000
        (peer,) = agent_shows(lab, "h1")["peers"]
        assert (peer["state"], peer["mtu_passed"], ":" in peer["vtep"]) == ("up", 1650, True)
