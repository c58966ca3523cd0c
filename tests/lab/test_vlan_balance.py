"""Networks on VLANs over two balanced PNICs: the physical network reflects what guests say, and guests move."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from scripts.labkit import Lab
from tests.support.agent_words import agent_shows
from tests.support.waiting import within

pytestmark = [pytest.mark.lab, pytest.mark.datapath]

APPLY = """
zones: [{name: street, kind: vlan}]
switches: [{name: sw-street, zones: [street], pnic_globs: ["pnic*"], mtu: 1500, teaming: balance}]
hosts: [{name: h1, zones: [street]}, {name: h2, zones: [street]}]
networks: [{name: office, zone: street, segment_id: 100}]
"""
VIFS = {
    name: (f"99999999-0000-4000-8000-00000000000{n}", f"52:54:00:00:00:0{n}", n) for n, name in enumerate(("a", "b"), 1)
}


def attach(lab: Lab, host: str, name: str) -> None:
    shown = agent_shows(lab, host)
    vif, mac, number = VIFS[name]
    bridge = shown["switches"][0]["bridge"]
    lab.attach(host, name, bridge=bridge, vif_uuid=vif, mac=mac, addresses=[f"10.20.0.{number}/24"], mtu=1500)


def location(lab: Lab, name: str) -> tuple[str, str]:
    shown = json.loads(lab.exec("mgr", ["netmgr", "port", "show", name, "-o", "json"]).stdout)
    return shown["location"], shown["host"]


def reach(lab: Lab) -> bool:
    return lab.exec("a", ["ping", "-c1", "-W1", "10.20.0.2"], check=False).returncode == 0


def test_a_guest_that_comes_up_elsewhere_is_not_cut_off_from_those_it_left_behind(make_lab: Callable[..., Lab]) -> None:
    """Open vSwitch takes its frames for reflections where it lived before, until its MAC is forgotten there: for 300 s,
    were it not told. RARP and all but gratuitous ARP are dropped."""
    lab = make_lab(hosts=2, pnics=2, with_libvirt=False, with_vmctl=False)
    lab.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)
    for name, (vif, mac, _) in VIFS.items():
        lab.exec("mgr", ["netmgr", "port", "create", name, "--network", "office", "--vif", vif, "--mac", mac])
        attach(lab, "h1", name)
    assert within(10, lambda: reach(lab))
    for there in ("h2", "h1", "h2"):
        before = location(lab, "b")[1]
        lab.exec("b", ["ping", "-c1", "-b", "-W1", "10.20.0.255"], check=False)  # the uplink bridge hears it
        lab.detach("b")
        assert within(10, lambda: location(lab, "b")[0] == "parked"), location(lab, "b")
        attach(lab, there, "b")
        assert within(10, lambda there=there: location(lab, "b") == ("held", there))
        assert within(3, lambda: reach(lab)), f"{before} to {there}"
