"""A guest that sends what no guest should, as fast as it can, and a flow table wiped by hand; real agents and vswitchd.

h1 carries the hostile endpoint `bad`, without defined addresses and allowed further MACs, so that its frames reach the
agent; and `good`, which has a limit, so that there are meters too. `peer` is on h2.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from hostagent.pipeline.tables import SWITCH_COOKIE, Table
from hostagent.tap_drops import REFUSED
from scripts.labkit import Lab
from scripts.labkit.patience import patient
from tests.support.agent_words import agent_shows
from tests.support.waiting import within

pytestmark = [pytest.mark.lab, pytest.mark.datapath]

APPLY = """
switches: [{name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24}]
networks: [{name: blue, type: vxlan, zone: a, mtu: 1450}]
"""
ENDPOINTS = {
    "bad": ("h1", 1, ["--allow", "nested"]),
    "good": ("h1", 2, ["--egress-kbps", "50000"]),
    "peer": ("h2", 3, []),
}

# Each kind of frame in turn, many times over, each time bent a little: claims that reach the agent among them.
STORM = """
import random, socket, sys, time
chance, mac = random.Random(7), bytes.fromhex("525400000001")
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))
every, cast = b"\\xff" * 6, bytes.fromhex("333300000001")
ends = bytes(15) + b"\\1" + bytes(15) + b"\\2"
v6 = lambda nh, body: b"\\x60\\0\\0\\0" + len(body).to_bytes(2, "big") + bytes([nh, 255]) + ends + body
arp = lambda: bytes.fromhex("0001080006040001") + mac + bytes([10, 66]) + chance.randbytes(2) + bytes(10)
dhcp = b"\\x45\\0\\1\\x20" + bytes(5) + b"\\x11" + bytes(10) + bytes.fromhex("0044004301100000")
dhcp += b"\\1\\1\\6\\0" + bytes(232) + b"\\x63\\x82\\x53\\x63"
whole = b"\\x45\\0\\0\\x28" + bytes(4) + b"\\x40\\xfd" + bytes(30)  # an IPv4 packet with nothing wrong but its sender
def frames():
    yield every + mac + b"\\x08\\x06" + arp()
    yield every + mac + b"\\x08\\x06" + arp()[:chance.randrange(28)]
    yield cast + mac + b"\\x86\\xdd" + v6(58, b"\\x88\\0" + chance.randbytes(chance.randrange(40)))
    yield cast + mac + b"\\x86\\xdd" + v6(58, b"\\x87\\0\\0\\0")[:chance.randrange(14, 60)]
    yield every + mac + b"\\x81\\0\\0\\5\\x81\\0\\0\\6\\x08\\0" + bytes(40)
    yield every + b"\\2" + chance.randbytes(5) + b"\\x08\\0" + whole
    yield every + mac + b"\\x08\\0" + bytes(8900)
    yield every + mac + b"\\x08\\0" + dhcp + chance.randbytes(chance.randrange(300))
    yield every + mac + b"\\x08\\0" + dhcp + b"\\x35\\1\\7" + b"\\xff" * chance.randrange(60)
    release6 = bytes.fromhex("0222022300ff0000") + b"\\x08" + chance.randbytes(chance.randrange(200))
    yield cast + mac + b"\\x86\\xdd" + v6(17, release6)
end, sent = time.monotonic() + float(sys.argv[1]), 0
while time.monotonic() < end:
    for frame in frames():
        try:
            s.send(frame)
            sent += 1
        except OSError:
            pass
print(sent)
"""

CANARY = f"table={Table.CANARY},"


class Two:
    """The lab and words for it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)
        self.bridge = self.show("h1")["switches"][0]["bridge"]
        for name, (host, number, options) in ENDPOINTS.items():
            vif, mac = str(uuid4()), f"52:54:00:00:00:{number:02x}"
            create = ["netmgr", "port", "create", name, "--network", "blue", "--vif", vif, "--mac", mac, *options]
            lab.exec("mgr", create)
            address = f"10.10.0.{number}/24"
            lab.attach(host, name, bridge=self.bridge, vif_uuid=vif, mac=mac, addresses=[address], mtu=1450)
        assert within(10, lambda: self.reach("good", "10.10.0.3") and self.reach("bad", "10.10.0.3"))

    def show(self, host: str) -> dict[str, Any]:
        return agent_shows(self.lab, host)

    def reach(self, endpoint: str, address: str) -> bool:
        return self.lab.exec(endpoint, ["ping", "-c1", "-W1", address], check=False).returncode == 0

    def verified(self, host: str) -> bool:
        return self.lab.exec(host, ["hostagent", "verify"], check=False).returncode == 0

    def ofctl(self, *words: str) -> str:
        at = f"unix:/run/openvswitch/{self.bridge}.mgmt"
        command, *rest = words
        strict = ["--strict"] if command == "del-flows" and "priority=" in rest[0] else []
        return str(self.lab.exec("h1", ["ovs-ofctl", "-OOpenFlow15", *strict, command, at, *rest]).stdout)

    def agent(self) -> tuple[int, int]:
        """The agent of h1: its process, and the kilobytes that it holds."""
        pid = self.lab.exec("h1", ["cat", "/run/lab/hostagent.pid"]).stdout.strip()
        text = self.lab.exec("h1", ["cat", f"/proc/{pid}/status"]).stdout
        held = next(line for line in text.splitlines() if line.startswith("VmRSS:"))
        return int(pid), int(held.split()[1])


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    with Lab(hosts=2, with_libvirt=False, with_vmctl=False, zones={"h1": "a", "h2": "a"}) as lab:
        yield Two(lab)


def test_a_storm_of_malformed_frames_harms_neither_the_agent_nor_a_neighbour(two: Two) -> None:
    two.lab.exec("bad", ["ip", "link", "set", "eth0", "mtu", "9000"])
    process, held_kb = two.agent()
    storm = two.lab.popen("bad", [sys.executable, "-c", STORM, "6"], text=True, stdout=-1)
    slowest, lost = 0.0, 0
    for _ in range(4):
        began = time.monotonic()
        two.show("h1")
        slowest = max(slowest, time.monotonic() - began)
        lost += not two.reach("good", "10.10.0.3")
    sent = int(storm.communicate(timeout=patient(30))[0])
    assert sent > 1000
    assert lost == 0
    assert slowest < patient(5)
    same, holds_kb = two.agent()
    assert same == process
    assert holds_kb < held_kb + 30_000
    told = json.loads(two.lab.exec("h1", ["hostagent", "drops", "-o", "json"]).stdout)
    reasons = {drop["reason"] for drop in told if drop["port"] == "ep-bad"}
    assert {"VLAN tag", "source MAC is not the port's"} <= reasons
    assert any(reason.startswith("ARP or RARP") for reason in reasons)
    assert any(reason.startswith("neighbour discovery") for reason in reasons)
    assert REFUSED in reasons, "jumbo frames"
    assert within(10, lambda: two.verified("h1"))


def test_what_the_storm_claimed_is_bounded_and_takes_nobody_s_address(two: Two) -> None:
    rows = json.loads(two.lab.exec("mgr", ["netmgr", "mac", "list", "--network", "blue", "-o", "json"]).stdout)
    of_bad = [row for row in rows if row["port"] == "bad"]
    assert len(of_bad) <= 1 + 64
    assert all(len(row["learned"]) <= 16 for row in of_bad)
    assert two.reach("good", "10.10.0.3")
    assert two.reach("peer", "10.10.0.2")


@pytest.mark.parametrize("what", ["one flow", "changed actions", "one table", "all of a network", "meters"])
def test_what_is_wiped_by_hand_is_back_within_two_seconds_and_nothing_else_is_touched(two: Two, what: str) -> None:
    assert within(40, lambda: two.verified("h1"))
    two.lab.exec("h1", ["ovs-vsctl", "--may-exist", "add-br", "br-other", "--", "set", "Bridge", "br-other",
                        f"datapath_type={two.lab.datapath}"])  # fmt: skip
    time.sleep(1.2)
    stays = {
        "one flow": f"table={Table.FLOOD}",
        "changed actions": f"table={Table.GUARD}",
        "one table": f"table={Table.CLASSIFY}",
        "all of a network": f"cookie={SWITCH_COOKIE:#x}/-1",
        "meters": f"table={Table.GUARD}",
    }[what]
    # the canary is put anew whenever the switch is to go through what it has cached: after any removal
    counted = {flow: age_s for flow, age_s in durations(two.ofctl("dump-flows", stays)).items() if CANARY not in flow}
    own = two.ofctl("dump-flows", f"table={Table.FORWARD}")
    network = next(line.split("cookie=")[1].split(",")[0] for line in own.splitlines() if "dl_dst=52:54" in line)
    if what == "one flow":
        two.ofctl("del-flows", f"table={Table.FORWARD},priority=10")
    elif what == "changed actions":
        two.ofctl("mod-flows", f"table={Table.FORWARD},actions=drop")
    elif what == "one table":
        two.ofctl("del-flows", f"table={Table.GUARD}")
    elif what == "all of a network":
        two.ofctl("del-flows", f"cookie={network}/-1")
    else:
        two.ofctl("del-meters")
    began = time.monotonic()
    assert within(2, lambda: two.reach("good", "10.10.0.3"))
    assert within(2, lambda: two.verified("h1"))
    assert time.monotonic() - began < patient(5), "the two looks themselves take most of it"
    after = durations(two.ofctl("dump-flows", stays))
    anew = {flow: (age_s, after.get(flow)) for flow, age_s in counted.items() if not after.get(flow, 0) > age_s}
    assert anew == {}, "they were installed once, and not again"
    assert "actions=NORMAL" in two.lab.exec("h1", ["ovs-ofctl", "dump-flows", "br-other"]).stdout


def durations(text: str) -> dict[str, float]:
    """By flow, as its match: the seconds that it has been there."""
    found = {}
    for line in text.splitlines():
        if "duration=" in line:
            words = [word.strip() for word in line.split(",")]
            seconds = next(word for word in words if word.startswith("duration="))
            rest = [
                w for w in words if not w.startswith(("duration=", "n_packets=", "n_bytes=", "idle_age=", "hard_age="))
            ]
            found[",".join(rest)] = float(seconds.removeprefix("duration=").rstrip("s"))
    return found
