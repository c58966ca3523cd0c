"""Size is no limit: a network on thousands of hosts floods to each of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from hostagent.pipeline.tables import Table
from tests.lab.pipeline.conftest import mac, named

pytestmark = pytest.mark.lab

HOSTS = 5000
BROADCAST = bytes(Ether(src=mac(1), dst="ff:ff:ff:ff:ff:ff") / IP(src="10.1.0.1") / UDP() / Raw(b"x" * 40))


def test_a_broadcast_reaches_the_first_and_the_last_of_five_thousand_vteps(fabric):
    fabric.network("n", 5001)
    for name, number, host in (("a", 1, "h1"), ("b", 2, "h2"), ("c", 3, "h3"), ("d", 4, "h1")):
        fabric.port(name, number, "n", host)
    for index in range(HOSTS):  # addresses before and after those of h2 and h3, and no way to any of them
        first = 1 if index % 2 else 99
        fabric.port(f"far{index}", 0, "n", "h2", tap=False)
        uuid = named(f"far{index}")
        far = f"02:01:00:00:{index >> 8:02x}:{index & 255:02x}"
        fabric.ports[uuid] = replace(fabric.ports[uuid], mac=far)
        fabric.locations[uuid] = replace(
            fabric.locations[uuid],
            mac=far,
            holder_host=named(f"far host {index}"),
            holder_vtep=f"{first}.0.{index >> 8}.{index & 255}",
        )
    fabric.settle("h1")
    fabric.settle("h2", "h3")
    host = fabric.hosts["h1"]
    assert len(host.switch.ofctl("dump-flows", host.bridge, f"table={int(Table.REPLICATE)}").splitlines()) > 5
    fabric.say("a", "h1", BROADCAST)
    assert fabric.hear("a", "h1") == []
    for name, where in (("d", "h1"), ("b", "h2"), ("c", "h3")):
        assert fabric.hear(name, where) == [BROADCAST], name
    trace = host.switch.appctl(
        "ofproto/trace", host.bridge, f"in_port=a-h1,dl_src={mac(1)},dl_dst=ff:ff:ff:ff:ff:ff,dl_type=0x88b5"
    )
    asked = {line.split("->")[0].rsplit(":", 1)[1] for line in trace.splitlines() if line.strip().endswith("->tun_dst")}
    assert len(asked) == HOSTS + 2
