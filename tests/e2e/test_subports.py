"""A guest with a VLAN interface moves, by virsh alone: its port and the sub-port of its tagged frames go together."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from scripts.labkit import Lab, hypervisor
from scripts.labkit.domain import domain_xml
from scripts.labkit.guest import GuestImage
from tests.support.agent_words import agent_shows
from tests.support.waiting import within

pytestmark = pytest.mark.e2e

VIRSH = ["virsh", "-c", "qemu:///system"]
MAC, VIF = "52:54:00:00:04:01", "0c0c0c0c-0000-4000-8000-000000000001"
# back is on another switch than front; only h1 is in zone c
APPLY = """
zones: [{name: a}, {name: b}, {name: c}]
switches:
  - {name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24}
  - {name: sw-b, zones: [b], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.201.0.0/24}
  - {name: sw-c, zones: [c], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.202.0.0/24}
hosts: [{name: h1, zones: [a, b, c]}, {name: h2, zones: [a, b]}]
networks: [{name: front, zone: a, mtu: 1450}, {name: back, zone: b, mtu: 1450}, {name: far, zone: c, mtu: 1450}]
groups: [{name: ping, rules: [{direction: ingress, protocol: icmp}]}]
ports:
  - {name: web, network: front, mac: "52:54:00:00:04:01", vif_uuid: 0c0c0c0c-0000-4000-8000-000000000001}
  - {name: web-back, network: back, parent: front/web, tag: 10, ips: [10.20.0.1], security_groups: [ping]}
  - {name: f, network: front, mac: "52:54:00:00:04:02", vif_uuid: 0c0c0c0c-0000-4000-8000-000000000002}
  - {name: b, network: back, mac: "52:54:00:00:04:03", vif_uuid: 0c0c0c0c-0000-4000-8000-000000000003}
"""


# QEMU before 8.0 forgets in a migration which VLANs a virtio NIC has asked for, and keeps their frames from the guest.
_NO_VLAN_FILTER = """<qemu:commandline>
    <qemu:arg value='-global'/><qemu:arg value='virtio-net-pci.ctrl_vlan=off'/>
  </qemu:commandline>
</domain>"""
_QEMU = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'"


def virsh(lab: Lab, host: str, *command: str, ok: bool = True) -> str:
    done = lab.exec(host, [*VIRSH, *command], check=False, timeout_s=60)
    assert (done.returncode == 0) is ok, f"{command}: {done.stdout}{done.stderr}"
    return str(done.stdout + done.stderr)


def migrate(lab: Lab, source: str, destination: str, *, ok: bool = True) -> str:
    address = lab.address(destination)
    where = [hypervisor.remote_uri(address), "--migrateuri", f"tcp://{address}"]
    return virsh(lab, source, "migrate", "--live", "--p2p", "web", *where, ok=ok)


def port(lab: Lab, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lab.exec("mgr", ["netmgr", "port", "show", name, "-o", "json"]).stdout)
    return found


def settled_at(lab: Lab, host: str) -> bool:
    found = [port(lab, name) for name in ("front/web", "back/web-back")]
    return all((one["location"], one["host"], one["vif_state"]) == ("held", host, "lit") for one in found)


def answers(lab: Lab, endpoint: str, address: str) -> bool:
    return lab.exec(endpoint, ["ping", "-c1", "-W1", address], check=False).returncode == 0


@pytest.fixture(scope="module")
def lab(guest_image: GuestImage) -> Iterator[Lab]:
    """web on h1 with eth0 on front and eth0.10 on back; f of front on h1, b of back on h2."""
    with Lab(hosts=2, with_vmctl=False) as made:
        made.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)
        words = "ip=10.10.0.1/24 vlan10=10.20.0.1/24 host=web"
        xml = domain_xml(name="web", image=guest_image, words=words, network="front", mac=MAC, vif_uuid=VIF)
        xml = xml.replace("<domain ", f"<domain {_QEMU} ", 1).replace("</domain>", _NO_VLAN_FILTER)
        made.exec("h1", [*VIRSH, "define", "/dev/stdin"], input=xml)
        virsh(made, "h1", "start", "web")
        for host, name, switch, address in (("h1", "f", "sw-a", "10.10.0.9"), ("h2", "b", "sw-b", "10.20.0.9")):
            shown = agent_shows(made, host)["switches"]
            bridge = next(one["bridge"] for one in shown if one["name"] == switch)
            view = port(made, name)
            plug = {"vif_uuid": view["vif_uuid"], "mac": view["mac"], "addresses": [f"{address}/24"], "mtu": 1450}
            made.attach(host, name, bridge=bridge, **plug)
        assert within(40, lambda: answers(made, "f", "10.10.0.1"))
        assert within(10, lambda: answers(made, "b", "10.20.0.1"))
        time.sleep(2)  # a guest that boots dirties its memory faster than it can be copied
        yield made


def test_port_and_sub_port_arrive_together_and_tagged_frames_are_lost_no_longer_than_others(lab: Lab) -> None:
    assert settled_at(lab, "h1")
    pings = [lab.start_ping("f", "10.10.0.1"), lab.start_ping("b", "10.20.0.1")]
    migrate(lab, "h1", "h2")
    assert within(10, lambda: settled_at(lab, "h2"))
    migrate(lab, "h2", "h1")
    assert within(10, lambda: settled_at(lab, "h1"))
    time.sleep(1)
    untagged, tagged = (lab.stop_ping(ping) for ping in pings)
    assert untagged["duplicates"] == tagged["duplicates"] == 0
    assert min(untagged["received"], tagged["received"]) > 100
    assert tagged["gap_ms"] < untagged["gap_ms"] + 1000


def test_a_host_without_the_sub_ports_network_gets_neither_and_the_guest_runs_on(lab: Lab) -> None:
    lab.exec("mgr", ["netmgr", "port", "create", "web-far", "--network", "far", "--parent", "front/web", "--tag", "30"])
    said = migrate(lab, "h1", "h2", ok=False)
    assert "network far" in said
    assert "transport zone c" in said
    assert settled_at(lab, "h1")
    assert answers(lab, "b", "10.20.0.1")
    lab.exec("mgr", ["netmgr", "port", "delete", "far/web-far", "--force"])
    migrate(lab, "h1", "h2")
    assert within(10, lambda: settled_at(lab, "h2"))
    assert answers(lab, "b", "10.20.0.1")


def test_a_guest_that_stops_parks_both_and_may_start_elsewhere(lab: Lab) -> None:
    virsh(lab, "h2", "destroy", "web")
    both = ("front/web", "back/web-back")
    assert within(10, lambda: {port(lab, name)["location"] for name in both} == {"parked"})
    lab.exec("h1", [*VIRSH, "start", "web"])
    assert within(10, lambda: settled_at(lab, "h1"))
    assert within(40, lambda: answers(lab, "b", "10.20.0.1"))
