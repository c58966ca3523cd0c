"""Size is no limit: a network on thousands of hosts floods to each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from hostagent.names import uplink_bridge
from hostagent.pipeline.tables import Table
from tests.lab.pipeline.conftest import Fabric, mac, named

pytestmark = pytest.mark.lab

HOSTS = 5000
BROADCAST = bytes(Ether(src=mac(1), dst="ff:ff:ff:ff:ff:ff") / IP(src="10.1.0.1") / UDP() / Raw(b"x" * 40))
FAR, GATEWAY = "99.0.0.0/8", "10.0.0.254"
OUTER_DESTINATION, VNI, PAYLOAD = slice(30, 34), slice(46, 49), slice(50, None)  # of VXLAN over IPv4


@pytest.fixture
def wide(fabric: Fabric) -> Iterator[Fabric]:
    """A network with ports on the three hosts, and on thousands beyond a gateway that takes what is for them."""
    fabric.network("n", 5001)
    for name, number, host in (("a", 1, "h1"), ("b", 2, "h2"), ("c", 3, "h3"), ("d", 4, "h1")):
        fabric.port(name, number, "n", host)
    for index in range(HOSTS):
        fabric.port(f"far{index}", 0, "n", "h2", tap=False)
        uuid = named(f"far{index}")
        far = f"02:01:00:00:{index >> 8:02x}:{index & 255:02x}"
        fabric.ports[uuid] = replace(fabric.ports[uuid], mac=far)
        fabric.locations[uuid] = replace(
            fabric.locations[uuid], mac=far, holder_host=named(f"far host {index}"), holder_vtep=vtep(index)
        )
    uplink, switch = uplink_bridge(("p0",)), fabric.hosts["h1"].switch
    switch.add_neighbour(uplink, GATEWAY, "02:ff:00:00:00:fe")
    switch.add_route(uplink, FAR, GATEWAY)
    fabric.settle("h1")
    fabric.settle("h2", "h3")
    yield fabric
    switch.remove_route(FAR)


def vtep(index: int) -> str:
    return f"99.0.{index >> 8}.{index & 255}"


def test_a_broadcast_reaches_each_of_five_thousand_vteps_once_and_whole(wide: Fabric) -> None:
    host = wide.hosts["h1"]
    assert len(host.switch.ofctl("dump-flows", host.bridge, f"table={int(Table.REPLICATE)}").splitlines()) > 5
    for again in range(2):  # by what the switch looks up, and by what it remembers
        host.switch.sent("p0")
        wide.say("a", "h1", BROADCAST)
        assert wide.hear("a", "h1") == []
        for name, where in (("d", "h1"), ("b", "h2"), ("c", "h3")):
            assert wide.hear(name, where) == [BROADCAST], (name, again)
        copies = host.switch.sent("p0")
        assert Counter(str(IPv4Address(copy[OUTER_DESTINATION])) for copy in copies) == Counter(
            ["10.0.0.2", "10.0.0.3", *(vtep(index) for index in range(HOSTS))]
        )
        assert {(int.from_bytes(copy[VNI], "big"), copy[PAYLOAD]) for copy in copies} == {(5001, BROADCAST)}
