"""What may be created, set and deleted, and the sentence when it may not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from netmgr import rules
from netmgr.contract.types import (
    Location,
    LogicalPort,
    NetworkType,
    OpaqueNetwork,
    OpaqueSwitch,
    TrafficClasses,
    TransportZone,
    ZoneKind,
)
from netmgr.model import FreedSegment, HostRecord, NetmgrError
from tests.support.netmgr_builder import Builder


def shares(tenant: int, control: int, management: int, *, link_mbps: int = 0) -> TrafficClasses:
    return TrafficClasses(
        tenant_percent=tenant, control_percent=control, management_percent=management, link_mbps=link_mbps
    )


class Scene:
    """Zones a and b; switch sw-a with hosts h1 and h2 and network blue; port p on it; zone b bare with host h3."""

    def __init__(self, build: Builder) -> None:
        self.build = build
        self.a, self.b = build.zone("a"), build.zone("b")
        self.switch = build.switch("sw-a", self.a, mtu=1650)
        self.h1, self.h2, self.h3 = build.host("h1", self.a), build.host("h2", self.a), build.host("h3", self.b)
        self.blue = build.put(replace(build.network("blue", self.a, self.switch), subnets=("10.1.0.0/24", "fd01::/64")))
        self.port = build.put(
            LogicalPort(
                uuid=uuid4(),
                name="p",
                network_uuid=self.blue.uuid,
                mac="02:00:00:00:00:01",
                vif_uuid=uuid4(),
                ips=("10.1.0.5",),
            )
        )
        self.location = build.put(Location(port_uuid=self.port.uuid, network_uuid=self.blue.uuid, version=1))

    def new_switch(self, **changes: Any) -> OpaqueSwitch:
        values = {"name": "sw-b", "zone_uuids": (self.b.uuid,), "vtep_pool": "10.201.0.0/24", **changes}
        return OpaqueSwitch(uuid=uuid4(), **values)

    def new_network(self, **changes: Any) -> OpaqueNetwork:
        values = {
            "name": "red",
            "zone_uuid": self.a.uuid,
            "switch_uuid": self.switch.uuid,
            "segment_id": 6000,
            "mtu": 1500,
        }
        return OpaqueNetwork(uuid=uuid4(), **{**values, **changes})

    def new_port(self, **changes: Any) -> LogicalPort:
        values = {"name": "q", "network_uuid": self.blue.uuid, "mac": "02:00:00:00:00:02"}
        return LogicalPort(uuid=uuid4(), **{**values, **changes})

    def hold(self, **changes: Any) -> None:
        self.location = self.build.put(replace(self.location, **changes))


@pytest.fixture
def scene(build: Builder) -> Scene:
    return Scene(build)


def refused(check: Callable[[], None], *words: str, status: int) -> None:
    with pytest.raises(NetmgrError) as caught:
        check()
    for word in words:
        assert word in caught.value.sentence
    assert caught.value.status == status, caught.value.sentence


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "x" * 63])
def test_fitting_names_are_taken(scene: Scene, name: str) -> None:
    rules.check_zone(scene.build.world, TransportZone(uuid=uuid4(), name=name + "z" if name == "a" else name))


@pytest.mark.parametrize("name", ["", "x" * 64, "a b", "a/b", "ä", "a\n"])
def test_unfitting_names_are_refused(scene: Scene, name: str) -> None:
    refused(lambda: rules.check_zone(scene.build.world, TransportZone(uuid=uuid4(), name=name)), "1 to 63", status=400)


def test_names_are_unique_within_their_kind_only(scene: Scene) -> None:
    world = scene.build.world
    refused(lambda: rules.check_zone(world, TransportZone(uuid=uuid4(), name="a")), "exists already", status=409)
    rules.check_zone(world, TransportZone(uuid=uuid4(), name="blue"))
    refused(lambda: rules.check_network(world, scene.new_network(name="blue")), "exists already", status=409)
    refused(lambda: rules.check_switch(world, scene.new_switch(name="sw-a")), "exists already", status=409)
    refused(lambda: rules.check_host(world, HostRecord(uuid=uuid4(), name="h1")), "exists already", status=409)
    refused(lambda: rules.check_port(world, scene.new_port(name="p")), "exists already", status=409)


def test_kind_of_a_zone_is_for_life(scene: Scene) -> None:
    refused(
        lambda: rules.check_zone(scene.build.world, replace(scene.a, kind=ZoneKind.VLAN)),
        "can't be changed",
        status=409,
    )


def test_fitting_switch_is_taken(scene: Scene) -> None:
    rules.check_switch(scene.build.world, scene.new_switch())
    rules.check_switch(scene.build.world, scene.new_switch(traffic_classes=shares(98, 1, 1)))
    rules.check_switch(scene.build.world, scene.new_switch(mtu=1280, vtep_pool="fd00::/64", pnic_globs=("et*", "x")))
    rules.check_switch(scene.build.world, replace(scene.switch, mtu=9216))


@pytest.mark.parametrize(
    ("changes", "words", "status"),
    [
        ({"mtu": 1279}, ("1280 to 9216", "1279"), 400),
        ({"mtu": 9217}, ("1280 to 9216",), 400),
        ({"zone_uuids": ()}, ("at least one transport zone",), 400),
        ({"vtep_pool": "10.201.0.1/24"}, ("host bits", "write 10.201.0.0/24"), 400),
        ({"vtep_pool": "10.201.0.0/33"}, ("no CIDR",), 400),
        ({"vtep_pool": "nonsense"}, ("no CIDR",), 400),
        ({"vtep_pool": "224.0.0.0/24"}, ("no range of host addresses",), 400),
        ({"vtep_pool": "10.200.0.128/25"}, ("overlaps 10.200.0.0/24 of switch sw-a",), 409),
        ({"pnic_globs": ()}, ("at least one pnic_glob",), 400),
        ({"pnic_globs": ("",)}, ("at least one pnic_glob",), 400),
        ({"pnic_globs": ("bond*",)}, ("bond*", "h3 has eth0", "--pnic"), 409),
        ({"traffic_classes": TrafficClasses(tenant_percent=60)}, ("at least 1 each", "60, 0 and 0"), 400),
        ({"traffic_classes": shares(60, 30, 11)}, ("100 together", "60, 30 and 11"), 400),
        ({"traffic_classes": shares(60, 30, 10, link_mbps=900_000)}, ("link_mbps must be 0 to 800000",), 400),
    ],
)
def test_unfitting_switch_is_refused(
    scene: Scene, changes: dict[str, Any], words: tuple[str, ...], status: int
) -> None:
    refused(lambda: rules.check_switch(scene.build.world, scene.new_switch(**changes)), *words, status=status)


def test_zone_is_on_one_switch(scene: Scene) -> None:
    switch = scene.new_switch(zone_uuids=(scene.a.uuid, scene.b.uuid))
    refused(
        lambda: rules.check_switch(scene.build.world, switch), "zone a is carried by switch sw-a", "first", status=409
    )
    both = replace(scene.switch, zone_uuids=(scene.a.uuid, scene.a.uuid))
    refused(lambda: rules.check_switch(scene.build.world, both), "twice", status=400)


def test_pool_must_have_room_for_the_hosts_there(scene: Scene) -> None:
    scene.build.host("h4", scene.b)
    scene.build.host("h5", scene.b)
    refused(
        lambda: rules.check_switch(scene.build.world, scene.new_switch(vtep_pool="10.201.0.0/30")),
        "has addresses for 2 hosts",
        "h3, h4, h5",
        status=409,
    )


def test_switch_is_refused_only_when_no_host_offers_a_pnic(scene: Scene) -> None:
    scene.build.host("h4", scene.b, pnics=("bond0",))
    rules.check_switch(scene.build.world, scene.new_switch(pnic_globs=("bond*",)))


def test_pnics_that_vanished_are_no_reason_to_refuse_another_change(scene: Scene) -> None:
    for host in (scene.h1, scene.h2):
        scene.build.put(replace(host, pnics=()))
    rules.check_switch(scene.build.world, replace(scene.switch, mtu=2000))


def test_switch_in_use_keeps_zone_and_room_for_its_networks(scene: Scene) -> None:
    world = scene.build.world
    dropped = replace(scene.switch, zone_uuids=(scene.b.uuid,))
    refused(lambda: rules.check_switch(world, dropped), "can't drop zone a", "network blue", status=409)
    refused(
        lambda: rules.check_switch(world, replace(scene.switch, mtu=1499)), "1449 bytes", "blue", "1450", status=409
    )
    rules.check_switch(world, replace(scene.switch, mtu=1500))
    refused(
        lambda: rules.check_switch(world, replace(scene.switch, mtu=1500, vtep_pool="fd00::/64")), "blue", status=409
    )


@pytest.mark.parametrize(
    ("changes", "words", "status"),
    [
        ({"segment_id": 0}, ("1 to 16777215", "got 0"), 400),
        ({"segment_id": 16777216}, ("1 to 16777215",), 400),
        ({"segment_id": 5000}, ("that of network blue on switch sw-a",), 409),
        ({"mtu": 1601}, ("to 1600", "switch sw-a has mtu 1650", "vxlan adds 50"), 400),
        ({"mtu": 1609, "type": NetworkType.NVGRE}, ("to 1608", "nvgre adds 42"), 400),
        ({"mtu": 575}, ("576 to",), 400),
        ({"mtu": 1279, "subnets": ("fd02::/64",)}, ("1280 to",), 400),
        ({"subnets": ("10.2.0.1/24",)}, ("write 10.2.0.0/24",), 400),
        ({"subnets": ("10.2.0.0/24", "10.2.0.128/25")}, ("overlap",), 400),
    ],
)
def test_unfitting_network_is_refused(
    scene: Scene, changes: dict[str, Any], words: tuple[str, ...], status: int
) -> None:
    refused(lambda: rules.check_network(scene.build.world, scene.new_network(**changes)), *words, status=status)


@pytest.mark.parametrize("changes", [{}, {"segment_id": 1}, {"segment_id": 16777215}, {"mtu": 1600}, {"mtu": 576}])
def test_fitting_network_is_taken(scene: Scene, changes: dict[str, Any]) -> None:
    rules.check_network(scene.build.world, scene.new_network(**changes))


def test_vlan_zone_carries_no_overlay(scene: Scene) -> None:
    zone = scene.build.put(TransportZone(uuid=uuid4(), name="v", kind=ZoneKind.VLAN))
    scene.build.put(replace(scene.switch, zone_uuids=(scene.a.uuid, zone.uuid)))
    refused(
        lambda: rules.check_network(scene.build.world, scene.new_network(zone_uuid=zone.uuid)),
        "kind vlan",
        status=400,
    )


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"type": NetworkType.GENEVE}, "type"),
        ({"segment_id": 7000}, "segment_id"),
        ({"zone_uuid": None}, "zone"),
    ],
)
def test_constants_of_a_network_are_refused_to_change(scene: Scene, changes: dict[str, Any], field: str) -> None:
    if field == "zone":
        changes = {"zone_uuid": scene.b.uuid}
    refused(
        lambda: rules.check_network(scene.build.world, replace(scene.blue, **changes)),
        f"its {field} can't be changed",
        status=409,
    )


def test_subnets_keep_the_addresses_of_ports(scene: Scene) -> None:
    changed = replace(scene.blue, subnets=("10.9.0.0/24",))
    refused(lambda: rules.check_network(scene.build.world, changed), "port p has address 10.1.0.5", status=409)
    rules.check_network(scene.build.world, replace(scene.blue, subnets=()))


def test_quarantined_segment_is_refused_and_names_who_is_awaited(scene: Scene) -> None:
    freed = FreedSegment(
        uuid=uuid4(),
        network_name="old",
        switch_uuid=scene.switch.uuid,
        segment_id=6000,
        host_uuids=(scene.h1.uuid,),
    )
    scene.build.put(freed)
    refused(lambda: rules.check_network(scene.build.world, scene.new_network()), "network old", "h1", status=409)


def test_quarantine_ends_when_every_host_has_confirmed(scene: Scene) -> None:
    world = scene.build.world
    freed = scene.build.put(
        FreedSegment(
            uuid=uuid4(),
            network_name="old",
            switch_uuid=scene.switch.uuid,
            segment_id=6000,
            host_uuids=(scene.h1.uuid, scene.h2.uuid),
        )
    )
    removed_at = world.versions["freed_segment", freed.uuid]
    acked = {scene.h1.uuid: removed_at, scene.h2.uuid: removed_at, scene.h3.uuid: world.versions["host", scene.h3.uuid]}
    assert rules.freed_segments_to_release(world, acked=acked) == [freed]
    assert rules.freed_segments_to_release(world, acked={}) == []
    for host, short in ((scene.h1, removed_at - 1), (scene.h2, 0), (scene.h3, acked[scene.h3.uuid] - 1)):
        assert rules.freed_segments_to_release(world, acked={**acked, host.uuid: short}) == [], host.name


def test_quarantine_does_not_wait_for_hosts_that_are_gone(scene: Scene) -> None:
    gone = uuid4()
    freed = scene.build.put(
        FreedSegment(
            uuid=uuid4(), network_name="old", switch_uuid=scene.switch.uuid, segment_id=6000, host_uuids=(gone,)
        )
    )
    acked = dict.fromkeys(scene.build.world.hosts, 1000)
    assert rules.freed_segments_to_release(scene.build.world, acked=acked) == [freed]


def test_host_enters_a_zone_only_with_a_pnic_for_its_switch(scene: Scene) -> None:
    world = scene.build.world
    stranger = HostRecord(uuid=uuid4(), name="h9", pnics=("wlan0",), zone_uuids=(scene.a.uuid,))
    scene.build.put(replace(scene.switch, pnic_globs=("eth*",)))
    refused(lambda: rules.check_host(world, stranger), "zone a", "wants PNICs eth*", "offers wlan0", status=409)
    rules.check_host(world, replace(stranger, pnics=("wlan0", "eth7")))
    rules.check_host(world, replace(stranger, zone_uuids=(scene.b.uuid,)))


def test_host_leaves_no_zone_whose_ports_it_holds(scene: Scene) -> None:
    world = scene.build.world
    left = replace(scene.h1, zone_uuids=())
    rules.check_host(world, left)
    for changes in ({"holder_host": scene.h1.uuid}, {"holder_host": scene.h2.uuid, "incoming_host": scene.h1.uuid}):
        scene.hold(**changes)
        refused(lambda: rules.check_host(world, left), "can't leave zone a", "port p of network blue", status=409)
    scene.hold(holder_host=scene.h1.uuid, incoming_host=None, parked=True)
    rules.check_host(world, left)


@pytest.mark.parametrize(
    ("changes", "words", "status"),
    [
        ({"mac": "03:00:00:00:00:01"}, ("unicast",), 400),
        ({"mac": "00:00:00:00:00:00"}, ("unicast",), 400),
        ({"mac": "02:00:00:00:00"}, ("unicast",), 400),
        ({"mac": "02:00:00:00:00:01"}, ("is that of port p",), 409),
        ({"ips": ("10.1.0.5",)}, ("10.1.0.5 is that of port p",), 409),
        ({"ips": ("10.2.0.5",)}, ("in none of the network's subnets (10.1.0.0/24, fd01::/64)",), 400),
        ({"ips": ("10.1.0.0",)}, ("network or broadcast",), 400),
        ({"ips": ("10.1.0.255",)}, ("network or broadcast",), 400),
        ({"ips": ("10.1.0.6/24",)}, ("no IP address",), 400),
        ({"ips": ("fd01:0::7",)}, ("as fd01::7",), 400),
        ({"ips": ("10.1.0.6", "10.1.0.6")}, ("twice",), 400),
        ({"ips": ("224.0.0.1",)}, ("not one a guest can have",), 400),
        ({"egress_kbps": 63}, ("egress_kbps must be 64 to 400000000 kbit/s, or 0", "63"), 400),
        ({"ingress_kbps": -1}, ("ingress_kbps must be 64", "-1"), 400),
    ],
)
def test_unfitting_port_is_refused(scene: Scene, changes: dict[str, Any], words: tuple[str, ...], status: int) -> None:
    refused(lambda: rules.check_port(scene.build.world, scene.new_port(**changes)), *words, status=status)


def test_fitting_port_is_taken(scene: Scene) -> None:
    world = scene.build.world
    rules.check_port(world, scene.new_port(ips=("10.1.0.6", "fd01::6"), vif_uuid=uuid4()))
    rules.check_port(world, scene.port)
    rules.check_port(world, replace(scene.port, ips=()))


def test_vif_is_attached_to_one_port(scene: Scene) -> None:
    refused(
        lambda: rules.check_port(scene.build.world, scene.new_port(vif_uuid=scene.port.vif_uuid)),
        "attached to port p of network blue",
        "detach",
        status=409,
    )


def test_port_stays_in_its_network(scene: Scene) -> None:
    red = scene.build.put(scene.new_network())
    refused(
        lambda: rules.check_port(scene.build.world, replace(scene.port, network_uuid=red.uuid, ips=())),
        "can't change its network",
        status=409,
    )


def test_removal_of_what_is_in_use_names_the_users(scene: Scene) -> None:
    world = scene.build.world
    refused(
        lambda: rules.check_zone_removal(world, scene.a),
        "host h1, host h2, network blue, switch sw-a",
        status=409,
    )
    refused(lambda: rules.check_zone_removal(world, scene.b), "zone b is in use by host h3", status=409)
    refused(lambda: rules.check_switch_removal(world, scene.switch), "network blue", status=409)
    refused(lambda: rules.check_network_removal(world, scene.blue), f"port p (VIF {scene.port.vif_uuid})", status=409)
    rules.check_network_removal(world, scene.build.put(scene.new_network()))


def test_many_users_are_counted_not_all_named(scene: Scene) -> None:
    for number in range(20):
        scene.build.host(f"x{number:02}", scene.b)
    refused(lambda: rules.check_zone_removal(scene.build.world, scene.b), "host x03 and 16 more", status=409)


def test_host_that_holds_ports_is_not_removed(scene: Scene) -> None:
    rules.check_host_removal(scene.build.world, scene.h1)
    scene.hold(holder_host=scene.h1.uuid)
    refused(
        lambda: rules.check_host_removal(scene.build.world, scene.h1),
        "host h1 is in use by port p of network blue",
        status=409,
    )
    scene.hold(parked=True)
    rules.check_host_removal(scene.build.world, scene.h1)


def test_port_of_a_running_guest_is_not_taken_away(scene: Scene) -> None:
    def check() -> None:
        rules.check_port_release(scene.build.world, scene.port, verb="detach")

    check()
    scene.hold(holder_host=scene.h1.uuid)
    refused(check, "can't detach", "host h1 holds it", "force", status=409)
    scene.hold(parked=True)
    check()
    scene.hold(incoming_host=scene.h2.uuid)
    refused(check, "host h2 holds it", status=409)
