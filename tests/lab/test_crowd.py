"""Many VIFs that appear on a host in one moment, as after its reboot: real agents, manager and vswitchd.

Their VIFs are Open vSwitch's dummies, which need no device. One of them is no crowd's business: its MAC is another's.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest

from scripts.labkit import Lab
from tests.support.agent_words import agent_shows
from tests.support.waiting import within

pytestmark = pytest.mark.lab

APPLY = """
switches: [{name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24}]
networks: [{name: blue, type: vxlan, zone: a, mtu: 1450}]
"""
CROWD = 200


class Two:
    """The lab and words for it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)
        self.bridge = self.show("h1")["switches"][0]["bridge"]
        self.network = json.loads(lab.exec("mgr", ["netmgr", "network", "show", "blue", "-o", "json"]).stdout)["uuid"]

    def show(self, host: str) -> dict[str, Any]:
        return agent_shows(self.lab, host)

    def plug(self, host: str, numbers: range) -> None:
        """VIFs with MACs of these numbers, by one transaction of the host's database."""
        words: list[str] = []
        for number in numbers:
            name, mac = f"crowd{number}", f"52:54:00:00:{number // 256:02x}:{number % 256:02x}"
            words += ["--", "add-port", self.bridge, name, "--", "set", "Interface", name, "type=dummy"]
            words += [f"external_ids:iface-id={uuid4()}", f'external_ids:attached-mac="{mac}"']
            words += [f"external_ids:opaque-network={self.network}"]
        self.lab.exec(host, ["ovs-vsctl", "--timeout=30", *words[1:]])

    def states(self, host: str) -> dict[str, tuple[str, str]]:
        """State and reason of each VIF of *host*, by OVS port, as the manager has heard."""
        found = json.loads(self.lab.exec("mgr", ["netmgr", "vif", "list", "-o", "json"]).stdout)
        return {vif["ovs_port"]: (vif["state"], vif["reason"]) for vif in found if vif["host"] == host}

    def commits(self) -> int:
        """Transactions that made or moved ports."""
        path = self.lab.path("mgr", "/var/lib/netmgr/netmgr.db")
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            query = "SELECT count(DISTINCT revision) FROM change WHERE kind = 'location'"
            return int(connection.execute(query).fetchone()[0])


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    with Lab(hosts=2, with_libvirt=False, with_vmctl=False, zones={"h1": "a", "h2": "a"}, dummy_ports=True) as lab:
        yield Two(lab)


def test_vifs_plugged_at_once_are_lit_and_cost_the_manager_few_commits(two: Two) -> None:
    two.plug("h1", range(CROWD))
    lit = within(20, lambda: [state for state, _ in two.states("h1").values()] == ["lit"] * CROWD)
    assert lit, {name: of for name, of in two.states("h1").items() if of[0] != "lit"}
    assert two.commits() <= 10
    assert two.lab.exec("h1", ["hostagent", "verify"], check=False).returncode == 0


def test_of_a_crowd_only_those_that_may_not_are_refused(two: Two) -> None:
    """On h2, of 20 VIFs five have MACs of VIFs of h1."""
    two.plug("h2", range(CROWD - 5, CROWD + 15))
    wanted = {f"crowd{number}": "dark" if number < CROWD else "lit" for number in range(CROWD - 5, CROWD + 15)}
    assert within(20, lambda: {name: state for name, (state, _) in two.states("h2").items()} == wanted)
    reasons = [reason for state, reason in two.states("h2").values() if state == "dark"]
    assert all("belongs to port" in reason for reason in reasons), reasons
    assert {state for state, _ in two.states("h1").values()} == {"lit"}


def test_agent_and_manager_restarted_with_a_crowd_commit_nothing_anew(two: Two) -> None:
    before = two.commits()
    two.lab.stop_daemon("mgr", "netmgr")
    two.lab.start_daemon("mgr", "netmgr")
    two.lab.stop_daemon("h1", "hostagent")
    two.lab.start_daemon("h1", "hostagent")
    assert within(20, lambda: two.show("h1")["sync"]["in_sync"])
    assert within(20, lambda: [state for state, _ in two.states("h1").values()] == ["lit"] * CROWD)
    assert two.commits() == before
