"""Daemons killed at random moments while networks come and go: when the killing stops, everything is as wanted.

One seed a run, printed on failure, so that a run can be repeated. The killing is SIGKILL, by pid, of netmgr, of the
agents and of ovs-vswitchd; changes go on meanwhile and may be refused, but one that was acknowledged must be there at
the end, on every host of its zone, and what is not ours must not have changed by a byte.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from scripts.labkit import Lab, LabError
from scripts.labkit.state import MANAGER
from tests.support.agent_words import agent_shows

pytestmark = pytest.mark.lab

SEED = random.randrange(1 << 32)
CHAOS_S = 15.0
SETTLE_S = 40.0


@pytest.fixture
def two_hosts() -> Iterator[Lab]:
    with Lab(hosts=2, with_libvirt=False, with_vmctl=False, zones={"h1": "a", "h2": "a"}) as lab:
        options = ["--zone", "a", "--pnic", "pnic*", "--mtu", "1650", "--vtep-pool", "10.200.0.0/24"]
        lab.exec(MANAGER, ["netmgr", "switch", "create", "sw", *options])
        for host in lab.hosts:
            lab.exec(
                host,
                ["ovs-vsctl", "add-br", "foreign", "--", "set", "bridge", "foreign", f"datapath_type={lab.datapath}"],
            )
            lab.exec(host, ["ovs-ofctl", "add-flow", "foreign", "cookie=0x77,priority=5,ip,actions=drop"])
        yield lab


def foreign(lab: Lab, host: str) -> tuple[str, str]:
    """Everything OVSDB says of the foreign bridge's rows; flows are not OVSDB's and die with vswitchd."""
    bridge = lab.exec(host, ["ovs-vsctl", "-f", "json", "list", "bridge", "foreign"]).stdout
    ports = lab.exec(host, ["ovs-vsctl", "-f", "json", "--columns=name,type,options,external_ids", "list", "interface",
                            "foreign"]).stdout  # fmt: skip
    wanted = json.loads(bridge)
    # status columns are vswitchd's own and change with its restart
    keep = [i for i, name in enumerate(wanted["headings"]) if name not in ("status", "datapath_id", "_version")]
    return json.dumps([[row[i] for i in keep] for row in wanted["data"]]), ports


def change_networks(lab: Lab, rng: random.Random, stop: threading.Event, acknowledged: dict[str, bool]) -> None:
    """Create and delete networks until *stop*; note what the manager acknowledged."""
    number = 0
    while not stop.is_set():
        number += 1
        alive = [name for name, there in acknowledged.items() if there]
        if alive and rng.random() < 0.4:
            name, command, there = (n := rng.choice(alive)), ["netmgr", "network", "delete", n], False
        else:
            name, there = f"net{number}", True
            command = ["netmgr", "network", "create", name, "--zone", "a", "--mtu", "1400"]
        result = lab.exec(MANAGER, command, check=False)
        if result.returncode == 0:
            acknowledged[name] = there
        else:  # it may have been done before the manager died: unknown until it is asked
            acknowledged.pop(name, None)
        time.sleep(0.05)


def kill_and_restart(lab: Lab, rng: random.Random, *, until: float) -> int:
    """Kill a random daemon and start it again, over and over; how often."""
    kills = 0
    while time.monotonic() < until:
        node, daemon = rng.choice(
            [(MANAGER, "netmgr"), ("h1", "hostagent"), ("h2", "hostagent"), ("h1", "ovs-vswitchd")]
        )
        time.sleep(rng.uniform(0.0, 0.8))
        with contextlib.suppress(LabError):
            lab.stop_daemon(node, daemon, number=signal.SIGKILL)
        time.sleep(rng.uniform(0.0, 0.5))
        lab.start_daemon(node, daemon)
        kills += 1
    return kills


def settled(lab: Lab) -> str:
    """Empty when every host is as wanted, else what is not."""
    hosts = json.loads(lab.exec(MANAGER, ["netmgr", "host", "list", "-o", "json"]).stdout)
    late = [host["name"] for host in hosts if not host["in_sync"]]
    if late:
        return f"not in sync: {late}"
    for host in lab.hosts:
        result = lab.exec(host, ["hostagent", "verify"], check=False)
        if result.returncode != 0:
            return f"{host}: {result.stdout}{result.stderr}"
    return ""


@pytest.mark.timeout(240)
def test_daemons_killed_at_random_converge_and_nothing_acknowledged_is_lost(two_hosts: Lab) -> None:
    lab, rng = two_hosts, random.Random(SEED)
    before = {host: foreign(lab, host) for host in lab.hosts}
    acknowledged: dict[str, bool] = {}
    stop = threading.Event()
    changer = threading.Thread(target=change_networks, args=(lab, random.Random(SEED + 1), stop, acknowledged))
    changer.start()
    try:
        kills = kill_and_restart(lab, rng, until=time.monotonic() + CHAOS_S)
    finally:
        stop.set()
        changer.join()
    assert kills >= 3, "the run killed nothing worth the name"

    deadline = time.monotonic() + SETTLE_S
    while problem := settled(lab):
        assert time.monotonic() < deadline, f"seed {SEED}: still {problem}"
        time.sleep(0.5)
    networks = {n["name"] for n in json.loads(lab.exec(MANAGER, ["netmgr", "network", "list", "-o", "json"]).stdout)}
    lost = {name for name, there in acknowledged.items() if there and name not in networks}
    risen = {name for name, there in acknowledged.items() if not there and name in networks}
    assert not lost, f"seed {SEED}: acknowledged and lost: {lost}"
    assert not risen, f"seed {SEED}: deleted and risen: {risen}"
    for host in lab.hosts:
        shown = agent_shows(lab, host)
        assert {network["name"] for network in shown["networks"]} == networks, f"seed {SEED}: {host}"
        assert foreign(lab, host) == before[host], f"seed {SEED}: {host}: the foreign bridge has changed"
