"""Ports of real guests that are not simply granted: not made yet, withdrawn, or a standby's.

Network `hand` takes only ports made for it. `web` runs on h1, its standby, with the same MAC and address, on h2; `peer`
is an endpoint on h2, whose ping shows whether one of them is connected.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from scripts.labkit import Lab
from scripts.labkit.domain import domain_xml
from scripts.labkit.guest import GuestImage
from tests.support.agent_words import agent_shows, agent_vifs
from tests.support.waiting import within

pytestmark = pytest.mark.e2e

APPLY = """
switches: [{name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24}]
networks: [{name: hand, type: vxlan, zone: a, mtu: 1450, attach_mode: manual}]
"""
MAC, ADDRESS = "52:54:00:00:07:01", "10.10.0.1"
VIFS = {name: f"77777777-0000-4000-8000-00000000000{n}" for n, name in enumerate(("web", "standby", "other", "peer"))}


def netmgr(lab: Lab, *words: str) -> Any:
    return json.loads(lab.exec("mgr", ["netmgr", *words, "-o", "json"]).stdout)


def vif(lab: Lab, host: str, name: str) -> dict[str, Any]:
    vifs = agent_vifs(lab, host)
    return next((vif for vif in vifs if vif["vif"] == VIFS[name]), {})


def virsh(lab: Lab, host: str, *command: str, ok: bool = True) -> str:
    done = lab.exec(host, ["virsh", "-c", "qemu:///system", *command], check=False, timeout_s=60)
    assert (done.returncode == 0) is ok, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def begin_anew(lab: Lab, host: str, vm: str, port: str) -> None:
    """Nothing is there of an earlier try."""
    lab.exec(host, ["virsh", "-c", "qemu:///system", "destroy", vm], check=False)
    lab.exec("mgr", ["netmgr", "port", "delete", port, "--force"], check=False)


def answers(lab: Lab) -> bool:
    return lab.exec("peer", ["ping", "-c1", "-W1", ADDRESS], check=False).returncode == 0


@pytest.fixture(scope="module")
def lab(guest_image: GuestImage) -> Iterator[Lab]:
    with Lab(hosts=2, with_vmctl=False, zones={"h1": "a", "h2": "a"}) as made:
        made.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)
        peer = {"vif_uuid": VIFS["peer"], "mac": "52:54:00:00:07:99"}
        netmgr(made, "port", "create", "peer", "--network", "hand", "--vif", VIFS["peer"], "--mac", peer["mac"])
        bridge = agent_shows(made, "h2")["switches"][0]["bridge"]
        made.attach("h2", "peer", bridge=bridge, addresses=["10.10.0.99/24"], mtu=1450, **peer)
        for host, name in (("h1", "web"), ("h2", "standby"), ("h2", "other")):
            mac, words = MAC, f"ip={ADDRESS}/24 host={name}"
            if name == "other":
                mac, words = "52:54:00:00:07:03", ""
            xml = domain_xml(name=name, image=guest_image, words=words, network="hand", vif_uuid=VIFS[name], mac=mac)
            made.exec(host, ["virsh", "-c", "qemu:///system", "define", "/dev/stdin"], input=xml)
        yield made


def test_guest_starts_dark_where_its_port_is_not_made_yet_is_reported_and_lit_when_it_is(lab: Lab) -> None:
    begin_anew(lab, "h1", "web", "hand/web")
    virsh(lab, "h1", "start", "web")
    assert within(5, lambda: "takes only ports made for it" in vif(lab, "h1", "web").get("reason", ""))
    assert vif(lab, "h1", "web")["state"] == "dark"
    lab.stop_daemon("h1", "hostagent")
    lab.start_daemon("h1", "hostagent")  # what libvirt's hook said of it is on disk
    assert within(5, lambda: vif(lab, "h1", "web") != {})
    said = {"vm": "web", "network": "hand", "mac": MAC}
    found = vif(lab, "h1", "web")  # once: its reason is another when the agent reaches its manager
    assert found == found | said
    explained = lab.exec("h1", ["hostagent", "vif", "explain", "web"], check=False)
    wanted = f"netmgr port create NAME --network hand --mac {MAC} --vif {VIFS['web']}"
    assert (explained.returncode, wanted in explained.stdout) == (1, True)
    assert within(
        3, lambda: [one["vif_uuid"] for one in netmgr(lab, "vif", "list", "--state", "dark")] == [VIFS["web"]]
    )
    (shown,) = netmgr(lab, "vif", "list", "--state", "dark")
    assert (shown["host"], shown["port"]) == ("h1", None)
    assert "takes only ports made for it" in shown["reason"]
    time.sleep(4)  # the agent's own pauses between tries have grown
    netmgr(lab, "port", "create", "web", "--network", "hand", "--mac", MAC)
    netmgr(lab, "port", "attach", "web", "--vif", VIFS["web"])
    assert within(3, lambda: vif(lab, "h1", "web")["state"] == "lit")
    assert vif(lab, "h1", "web")["vm"] == "web"
    assert within(40, lambda: answers(lab))


def test_guest_on_a_network_that_is_withdrawn_goes_on_and_another_is_refused_with_the_sentence(lab: Lab) -> None:
    begin_anew(lab, "h2", "other", "hand/other")
    netmgr(lab, "port", "create", "other", "--network", "hand", "--mac", "52:54:00:00:07:03", "--vif", VIFS["other"])
    netmgr(lab, "network", "withdraw", "hand", "--reason", "loop in rack 7", "--wait", "realized")
    try:
        ping = lab.start_ping("peer", ADDRESS, interval_ms=20)
        refused = virsh(lab, "h2", "start", "other", ok=False)
        assert "network hand is withdrawn from all hosts by operator" in refused
        assert "loop in rack 7" in refused
        assert "netmgr network restore hand" in refused
        assert lab.stop_ping(ping)["lost"] == 0
    finally:
        netmgr(lab, "network", "restore", "hand")
    virsh(lab, "h2", "start", "other")
    assert within(5, lambda: vif(lab, "h2", "other").get("state") == "lit")
    virsh(lab, "h2", "destroy", "other")


def test_standby_takes_over_when_its_primarys_vm_is_killed(lab: Lab) -> None:
    netmgr(lab, "port", "create", "standby", "--shadow-of", "hand/web", "--vif", VIFS["standby"])
    virsh(lab, "h2", "start", "standby")
    assert within(5, lambda: "is a shadow of port web" in vif(lab, "h2", "standby").get("reason", ""))
    time.sleep(8)  # it boots, and announces itself to nobody
    assert answers(lab)
    assert vif(lab, "h2", "standby")["state"] == "dark"
    virsh(lab, "h1", "destroy", "web")
    assert not answers(lab)
    done = netmgr(lab, "port", "failover", "hand/web")
    assert (done["name"], done["host"], done["shadows"]) == ("standby", "h2", ["web"])
    assert within(40, lambda: answers(lab))
    assert vif(lab, "h2", "standby")["state"] == "lit"
