"""Guests' TCP over a tunnel, not only their pings: large copies arrive whole, whichever datapath carries them.

On the kernel's datapath endpoints offload what veth offers, checksums and segmentation, and the kernel forwards by
itself; in user space their offloads are off (`scripts/labkit/wires.py` says why).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from scripts.labkit import Lab
from tests.support.agent_words import agent_shows
from tests.support.waiting import within

pytestmark = [pytest.mark.lab, pytest.mark.datapath]

MIB = 32
APPLY = """
switches: [{name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24}]
networks:
  - {name: vxlan, type: vxlan, zone: a, mtu: 1450}
  - {name: geneve, type: geneve, zone: a, mtu: 1450}
  - {name: nvgre, type: nvgre, zone: a, mtu: 1450}
"""
# Takes one connection on port 9, reads it to its end; prints bytes and their hash.
TAKE = """
import hashlib, json, socket, sys
with socket.create_server((sys.argv[1], 9), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET) as server:
    print("ready", flush=True)
    link, _ = server.accept()
    seen, size = hashlib.sha256(), 0
    while part := link.recv(1 << 18):
        seen.update(part)
        size += len(part)
    print(json.dumps([size, seen.hexdigest()]))
"""
# Sends argv 2 MiB of chance to argv 1; prints the same.
GIVE = """
import hashlib, json, os, socket, sys
with socket.create_connection((sys.argv[1], 9), timeout=60) as link:
    seen = hashlib.sha256()
    for _ in range(int(sys.argv[2])):
        part = os.urandom(1 << 20)
        seen.update(part)
        link.sendall(part)
print(json.dumps([int(sys.argv[2]) << 20, seen.hexdigest()]))
"""


class Pairs:
    """Two hosts with agents; of each network an endpoint on each, named by its type: `vxlan1` on h1, `vxlan2` on h2."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.netmgr("apply", "-f", "/dev/stdin", "--wait", "realized", input=APPLY)
        self.bridge = agent_shows(lab, "h1")["switches"][0]["bridge"]
        for kind, number in (("vxlan", 1), ("geneve", 2), ("nvgre", 3)):
            for host in (1, 2):
                self.plug(kind, number, host)
            assert within(10, lambda number=number, kind=kind: self.reach(f"{kind}1", f"10.{number}.0.2"))  # type: ignore[misc]

    def plug(self, kind: str, number: int, host: int) -> None:
        name, vif, mac = f"{kind}{host}", str(uuid4()), f"52:54:00:00:0{number}:0{host}"
        self.netmgr("port", "create", name, "--network", kind, "--mac", mac, "--vif", vif)
        addresses = [f"10.{number}.0.{host}/24", f"fd00:{number}::{host}/64"]
        self.lab.attach(f"h{host}", name, bridge=self.bridge, vif_uuid=vif, mac=mac, addresses=addresses, mtu=1450)

    def netmgr(self, *words: str, **options: Any) -> str:
        return self.lab.exec("mgr", ["netmgr", *words], **options).stdout

    def reach(self, endpoint: str, address: str) -> bool:
        return self.lab.exec(endpoint, ["ping", "-c1", "-W1", address], check=False).returncode == 0

    def copy(self, source: str, sink: str, address: str) -> tuple[list[Any], list[Any]]:
        """Copy MIB from *source* to *address*, which is *sink*'s: bytes and hash as sent and as received."""
        pipe = {"stdout": subprocess.PIPE, "text": True}
        taking = self.lab.popen(sink, [sys.executable, "-c", TAKE, address], **pipe)
        assert taking.stdout is not None
        assert taking.stdout.readline() == "ready\n"
        given = self.lab.exec(source, [sys.executable, "-c", GIVE, address, str(MIB)], timeout_s=150)
        received, _ = taking.communicate(timeout=30)
        return json.loads(given.stdout), json.loads(received)

    def sent(self, endpoint: str) -> tuple[int, int]:
        """Bytes and packets that the endpoint has handed to its cable."""
        shown = json.loads(self.lab.exec(endpoint, ["ip", "-j", "-s", "link", "show", "eth0"]).stdout)[0]
        return shown["stats64"]["tx"]["bytes"], shown["stats64"]["tx"]["packets"]


@pytest.fixture(scope="module")
def pairs() -> Iterator[Pairs]:
    with Lab(hosts=2, with_libvirt=False, with_vmctl=False, zones={"h1": "a", "h2": "a"}) as lab:
        yield Pairs(lab)


@pytest.mark.parametrize(
    ("kind", "address"),
    [("vxlan", "10.1.0.2"), ("vxlan", "fd00:1::2"), ("geneve", "10.2.0.2"), ("nvgre", "10.3.0.2")],
)
def test_a_large_copy_by_tcp_arrives_whole(pairs: Pairs, kind: str, address: str) -> None:
    before = pairs.sent(f"{kind}1")
    sent, received = pairs.copy(f"{kind}1", f"{kind}2", address)
    assert received == sent == [MIB << 20, sent[1]]
    size, packets = (after - past for after, past in zip(pairs.sent(f"{kind}1"), before, strict=True))
    if pairs.lab.datapath == "system":
        assert size / packets > 2 * 1450, "segments are left to whoever needs them small"
    else:
        assert size / packets <= 1464


def test_frames_of_a_flow_are_forwarded_without_asking_the_switch(pairs: Pairs) -> None:
    pairs.copy("vxlan1", "vxlan2", "10.1.0.2")
    shown = pairs.lab.exec("h1", ["ovs-appctl", "dpctl/dump-flows"]).stdout.splitlines()
    tunnelled = [line for line in shown if "set(tunnel(" in line or "tnl_push" in line]
    packets = max(int(line.partition("packets:")[2].partition(",")[0]) for line in tunnelled)
    assert packets > 100, shown
