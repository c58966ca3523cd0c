"""Numbers that netmgr chooses."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netmgr import allocate
from netmgr.contract.types import Location, LogicalPort, NetworkType, OpaqueSwitch
from netmgr.model import FreedSegment, NetmgrError
from netmgr.rules.encapsulation import network_mtu_max, overhead
from tests.support.netmgr_builder import Builder


@pytest.mark.parametrize(
    ("kind", "ip_version", "expected"),
    [("vxlan", 4, 50), ("vxlan", 6, 70), ("geneve", 4, 50), ("geneve", 6, 70), ("nvgre", 4, 42), ("nvgre", 6, 62)],
)
def test_overhead_is_that_of_the_headers(kind: str, ip_version: int, expected: int) -> None:
    assert overhead(NetworkType(kind), ip_version=ip_version) == expected


def test_largest_network_mtu_follows_from_the_family_of_the_pool(build: Builder) -> None:
    zone = build.zone("a")
    assert network_mtu_max(NetworkType.VXLAN, build.switch("s4", zone, mtu=1650)) == 1600
    assert network_mtu_max(NetworkType.VXLAN, build.switch("s6", zone, pool="fd00::/64", mtu=1650)) == 1580


def test_segment_ids_are_the_lowest_free_of_the_switch(build: Builder) -> None:
    zone, other = build.zone("a"), build.zone("b")
    one, two = build.switch("s1", zone), build.switch("s2", other, pool="10.9.0.0/24")
    assert allocate.segment_id(build.world, one, NetworkType.VXLAN) == 5000
    build.network("n1", zone, one, segment_id=5000)
    build.network("n3", zone, one, segment_id=5002)
    assert allocate.segment_id(build.world, one, NetworkType.VXLAN) == 5001
    assert allocate.segment_id(build.world, two, NetworkType.VXLAN) == 5000


def test_quarantined_segment_id_is_not_given_again(build: Builder) -> None:
    zone = build.zone("a")
    switch = build.switch("s", zone)
    build.put(FreedSegment(uuid=uuid4(), network_name="old", switch_uuid=switch.uuid, segment_id=5000))
    assert allocate.segment_id(build.world, switch, NetworkType.VXLAN) == 5001


def settled(build: Builder) -> None:
    for host in allocate.reassigned_hosts(build.world):
        build.put(host)


def vtep(build: Builder, name: str, switch: OpaqueSwitch) -> str:
    host = next(h for h in build.world.hosts.values() if h.name == name)
    return allocate.vtep_of(build.world, host_uuid=host.uuid, switch_uuid=switch.uuid)


def test_hosts_of_the_zones_get_the_lowest_free_addresses_and_keep_them(build: Builder) -> None:
    a, b = build.zone("a"), build.zone("b")
    switch = build.switch("s", a, pool="10.0.0.0/29")
    first = build.host("h1", a)
    build.host("h2", a)
    build.host("elsewhere", b)
    settled(build)
    assert [vtep(build, n, switch) for n in ("h1", "h2", "elsewhere")] == ["10.0.0.1", "10.0.0.2", ""]
    assert allocate.reassigned_hosts(build.world) == []
    build.put(replace(build.world.hosts[first.uuid], zone_uuids=()))
    settled(build)
    assert [vtep(build, n, switch) for n in ("h1", "h2")] == ["", "10.0.0.2"]
    build.host("h3", a)
    settled(build)
    assert vtep(build, "h3", switch) == "10.0.0.1"


def test_assignment_carries_the_prefix_length_of_the_pool(build: Builder) -> None:
    a = build.zone("a")
    build.switch("s4", a, pool="10.0.0.0/20")
    build.host("h1", a)
    settled(build)
    assert [v.address for h in build.world.hosts.values() for v in h.vteps] == ["10.0.0.1/20"]


def test_new_pool_moves_hosts_and_the_locations_of_their_ports(build: Builder) -> None:
    a = build.zone("a")
    switch = build.switch("s", a)
    host = build.host("h1", a)
    settled(build)
    network = build.network("n", a, switch)
    port = build.put(LogicalPort(uuid=uuid4(), name="p", network_uuid=network.uuid, mac="02:00:00:00:00:01"))
    build.put(
        Location(
            port_uuid=port.uuid,
            network_uuid=network.uuid,
            holder_host=host.uuid,
            holder_vtep="10.200.0.1",
            version=7,
        )
    )
    assert allocate.relocated(build.world, now_ms=0) == []
    build.put(replace(switch, vtep_pool="fd00::/64"))
    settled(build)
    assert vtep(build, "h1", switch) == "fd00::1"
    (moved,) = allocate.relocated(build.world, now_ms=0)
    assert (moved.holder_vtep, moved.version) == ("fd00::1", 8)
    (moved,) = allocate.relocated(build.world, now_ms=1000)
    assert moved.version == 1000


def test_removed_switch_takes_its_addresses_with_it(build: Builder) -> None:
    a = build.zone("a")
    switch = build.switch("s", a)
    build.host("h1", a)
    settled(build)
    del build.world.switches[switch.uuid]
    settled(build)
    assert all(host.vteps == () for host in build.world.hosts.values())


def test_exhausted_pool_names_switch_pool_and_host(build: Builder) -> None:
    a = build.zone("a")
    build.switch("s", a, pool="10.0.0.0/30")
    for number in range(3):
        build.host(f"h{number}", a)
    with pytest.raises(NetmgrError, match=r"switch s.*10\.0\.0\.0/30 has room for 2 .* host h2 gets none"):
        allocate.reassigned_hosts(build.world)


@given(st.sets(st.integers(0, 40)), st.integers(26, 30))
def test_no_two_hosts_ever_share_an_address(members: set[int], prefix: int) -> None:
    build = Builder()
    a = build.zone("a")
    pool = f"10.0.0.0/{prefix}"
    build.switch("s", a, pool=pool)
    for number in sorted(members):
        build.host(f"h{number}", a)
    try:
        settled(build)
    except NetmgrError:
        assert len(members) > allocate.pool_room(pool)
        return
    addresses = [v.address for h in build.world.hosts.values() for v in h.vteps]
    assert len(addresses) == len(set(addresses)) == len(members) <= allocate.pool_room(pool)


def test_made_mac_is_unicast_local_and_avoids_those_of_the_network(build: Builder) -> None:
    a = build.zone("a")
    network = build.network("n", a, build.switch("s", a))
    uuid = uuid4()
    first = allocate.mac_of(build.world, network_uuid=network.uuid, port_uuid=uuid)
    assert first.startswith("02:")
    build.put(LogicalPort(uuid=uuid4(), name="p", network_uuid=network.uuid, mac=first))
    assert allocate.mac_of(build.world, network_uuid=network.uuid, port_uuid=uuid) != first
