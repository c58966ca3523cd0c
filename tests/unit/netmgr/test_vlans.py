"""Networks on VLANs: what may be created, and which VLAN is chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from netmgr import allocate, rules
from netmgr.contract.types import NetworkType, OpaqueNetwork, OpaqueSwitch, Teaming, TransportZone, ZoneKind
from netmgr.model import FreedSegment, NetmgrError
from netmgr.rules.encapsulation import network_mtu_max
from tests.support.netmgr_builder import Builder


class Street:
    """VLAN zones s and t, each on a switch without VTEPs; hosts h1 in both, h2 in t; network office, VLAN 100, on s."""

    def __init__(self, build: Builder) -> None:
        self.build = build
        self.s = build.put(TransportZone(uuid=uuid4(), name="s", kind=ZoneKind.VLAN))
        self.t = build.put(TransportZone(uuid=uuid4(), name="t", kind=ZoneKind.VLAN))
        self.overlay = build.zone("a")
        self.one = build.switch("sw-s", self.s, pool="", mtu=1500)
        self.two = build.switch("sw-t", self.t, pool="", mtu=1500)
        self.one = build.put(replace(self.one, pnic_globs=("eth*",)))
        self.two = build.put(replace(self.two, pnic_globs=("eth*",)))
        self.h1 = build.host("h1", self.s, self.t, pnics=("eth0", "eth1"))
        self.h2 = build.host("h2", self.t, pnics=("eth0",))
        self.office = build.put(self.network("office"))

    def network(self, name: str, vlan: int = 100, on: OpaqueSwitch | None = None, **changes: Any) -> OpaqueNetwork:
        switch = on or self.one
        values = {"zone_uuid": switch.zone_uuids[0], "switch_uuid": switch.uuid, "type": NetworkType.VLAN}
        return OpaqueNetwork(uuid=uuid4(), name=name, segment_id=vlan, **{**values, **changes})

    def free_office(self) -> None:
        """As the service does when office is deleted."""
        self.build.remove(self.office)
        self.build.put(
            FreedSegment(
                uuid=self.office.uuid,
                network_name="office",
                switch_uuid=self.one.uuid,
                segment_id=self.office.segment_id,
                host_uuids=(self.h1.uuid,),
            )
        )

    def chosen(self, switch: OpaqueSwitch) -> int:
        return allocate.segment_id(self.build.world, switch, NetworkType.VLAN)

    def check(self, network: OpaqueNetwork) -> None:
        rules.check_network(self.build.world, network)


@pytest.fixture
def street(build: Builder) -> Street:
    return Street(build)


def refused(check: Callable[[], None], *words: str, status: int) -> None:
    with pytest.raises(NetmgrError) as caught:
        check()
    assert [word for word in words if word not in caught.value.sentence] == [], caught.value.sentence
    assert caught.value.status == status, caught.value.sentence


@pytest.mark.parametrize("vlan", [1, 2, 4094])
def test_fitting_vlans_are_taken(street: Street, vlan: int) -> None:
    street.check(street.network("n", vlan))


@pytest.mark.parametrize("vlan", [0, 4095, 5000])
def test_what_is_no_vlan_is_refused(street: Street, vlan: int) -> None:
    refused(lambda: street.check(street.network("n", vlan)), "a VLAN, must be 1 to 4094", f"got {vlan}", status=400)


def test_a_vlan_is_one_networks_on_a_switch(street: Street) -> None:
    refused(lambda: street.check(street.network("n")), "100 is that of network office on switch sw-s", status=409)


def test_a_vlan_is_one_networks_on_all_switches_that_share_a_pnic(street: Street) -> None:
    clash = street.network("n", on=street.two)
    words = ("VLAN 100 is that of network office on switch sw-s", "PNICs in common with switch sw-t")
    refused(lambda: street.check(clash), *words, status=409)
    street.check(replace(clash, segment_id=101))
    street.build.put(replace(street.two, pnic_globs=("eth1",)))
    street.check(clash)  # one PNIC each: single teaming takes the first that fits
    street.build.put(replace(street.one, teaming=Teaming.ACTIVE_BACKUP))
    refused(lambda: street.check(clash), *words, status=409)
    street.build.put(replace(street.h1, zone_uuids=(street.s.uuid,)))
    street.check(clash)  # no host has both


def test_a_network_that_is_there_is_not_refused_for_a_neighbour_of_later(street: Street) -> None:
    late = street.build.put(street.network("late", on=street.two))
    street.check(replace(late, mtu=1400))


@pytest.mark.parametrize("kind", [kind for kind in NetworkType if kind.tunneled])
def test_a_zone_carries_what_its_kind_says(street: Street, kind: NetworkType) -> None:
    words = (f"zone s is of kind vlan, which carries no {kind} networks", "(vlan)")
    refused(lambda: street.check(street.network("n", 7, type=kind)), *words, status=400)
    switch = street.build.switch("sw-a", street.overlay)
    words = ("zone a is of kind overlay, which carries no vlan networks", "(vxlan, geneve, nvgre)")
    refused(lambda: street.check(street.network("n", 7, on=switch)), *words, status=400)


def test_the_tag_is_beside_the_mtu(street: Street) -> None:
    assert network_mtu_max(NetworkType.VLAN, street.one) == 1500
    street.check(street.network("n", 7, mtu=1500))
    refused(lambda: street.check(street.network("n", 7, mtu=1501)), "to 1500", "vlan adds no bytes", status=400)


def test_a_switch_of_vlan_zones_needs_no_vteps_and_its_hosts_get_none(street: Street) -> None:
    rules.check_switch(street.build.world, street.one)
    assert allocate.reassigned_hosts(street.build.world) == []
    both = replace(street.one, zone_uuids=(street.s.uuid, street.overlay.uuid))
    refused(
        lambda: rules.check_switch(street.build.world, both),
        "zone a is of kind overlay",
        "give a vtep_pool",
        status=400,
    )
    rules.check_switch(street.build.world, replace(both, vtep_pool="10.9.0.0/24"))


def test_hosts_give_back_the_vteps_of_a_switch_that_needs_none_any_more(street: Street) -> None:
    street.build.put(replace(street.two, vtep_pool="10.9.0.0/24"))
    for host in allocate.reassigned_hosts(street.build.world):
        street.build.put(host)
    assert [len(host.vteps) for host in street.build.world.hosts.values()] == [1, 1]
    street.build.put(street.two)
    assert [host.vteps for host in allocate.reassigned_hosts(street.build.world)] == [(), ()]


def test_the_lowest_vlan_from_2_on_is_chosen_that_no_neighbour_has(street: Street) -> None:
    chosen = lambda switch: allocate.segment_id(street.build.world, switch, NetworkType.VLAN)  # noqa: E731
    assert chosen(street.one) == chosen(street.two) == 2
    street.build.put(street.network("two", 2))
    street.build.put(FreedSegment(uuid=uuid4(), network_name="old", switch_uuid=street.one.uuid, segment_id=3))
    assert chosen(street.one) == chosen(street.two) == 4
    elsewhere = street.build.put(replace(street.two, pnic_globs=("eth1",)))
    assert (chosen(street.one), chosen(elsewhere)) == (4, 2)
    for vlan in range(4, 4095):
        if vlan != street.office.segment_id:
            street.build.put(street.network(f"n{vlan}", vlan))
    assert chosen(street.one) == 1
    street.build.put(street.network("n1", 1))
    with pytest.raises(NetmgrError, match="all 4094 VLANs are taken"):
        chosen(street.one)


def check_office_is_quarantined_on_two(street: Street, *words: str) -> None:
    """VLAN 100, which office had, is nobody's on switch sw-t: not when asked for, and not by choice."""
    expected = ("VLAN 100 was that of network office", "(it was on h1)", "PNICs in common with switch sw-t", *words)
    refused(lambda: street.check(street.network("n", on=street.two)), *expected, status=409)
    for vlan in range(2, 100):
        street.build.put(street.network(f"n{vlan}", vlan, on=street.two))
    assert street.chosen(street.two) == 101


def test_a_freed_vlan_is_in_quarantine_on_all_switches_that_share_a_pnic(street: Street) -> None:
    street.free_office()
    street.check(street.network("n", 101, on=street.two))
    check_office_is_quarantined_on_two(street, "on switch sw-s")


def test_a_freed_vlan_is_free_on_switches_of_other_wires(street: Street) -> None:
    street.build.put(replace(street.two, pnic_globs=("eth1",)))
    street.free_office()
    street.check(street.network("n", on=street.two))


def test_the_end_of_a_quarantine_is_its_end_on_all_switches(street: Street) -> None:
    street.free_office()
    street.build.remove(street.build.world.freed_segments[street.office.uuid])
    street.check(street.network("n", on=street.two))


def test_a_network_that_is_there_is_not_refused_for_a_neighbours_quarantine(street: Street) -> None:
    late = street.build.put(street.network("late", on=street.two))
    street.free_office()
    street.check(replace(late, mtu=1400))


def test_a_host_that_leaves_a_zone_takes_no_vlan_out_of_quarantine(street: Street) -> None:
    street.free_office()
    street.build.put(replace(street.h1, zone_uuids=(street.t.uuid,)))
    check_office_is_quarantined_on_two(street, "on switch sw-s")


def test_a_switch_that_changes_its_pnics_takes_no_vlan_out_of_quarantine(street: Street) -> None:
    street.free_office()
    street.build.put(replace(street.one, pnic_globs=("eth1",)))
    check_office_is_quarantined_on_two(street, "on switch sw-s")


def test_a_deleted_switch_takes_no_vlan_out_of_quarantine(street: Street) -> None:
    street.free_office()
    street.build.remove(street.one)
    acked = {street.h1.uuid: 1, street.h2.uuid: 1000}
    assert rules.freed_segments_to_release(street.build.world, acked=acked) == []
    check_office_is_quarantined_on_two(street, "on a switch that is deleted")
    acked[street.h1.uuid] = 1000
    assert len(rules.freed_segments_to_release(street.build.world, acked=acked)) == 1


def test_a_freed_vni_is_no_vlan(street: Street) -> None:
    """Where that is known: a switch of tunnels alone had no VLANs."""
    tunnels = street.build.switch("sw-a", street.overlay)
    street.build.put(replace(street.h1, zone_uuids=(*street.h1.zone_uuids, street.overlay.uuid)))
    street.build.put(FreedSegment(uuid=uuid4(), network_name="old", switch_uuid=tunnels.uuid, segment_id=101))
    street.check(street.network("n", 101))


def test_a_freed_vlan_is_no_vni_of_another_switch(street: Street) -> None:
    tunnels = street.build.switch("sw-a", street.overlay)
    street.build.put(replace(street.h1, zone_uuids=(*street.h1.zone_uuids, street.overlay.uuid)))
    street.free_office()
    street.build.remove(street.one)
    street.check(street.network("n", 100, on=tunnels, type=NetworkType.VXLAN, mtu=1450))


def test_a_vni_of_a_deleted_switch_is_released_at_once(street: Street) -> None:
    """VTEPs and locations keep tunnels of two switches apart; only wires are shared."""
    freed = FreedSegment(uuid=uuid4(), network_name="old", switch_uuid=uuid4(), segment_id=5000)
    street.build.put(freed)
    assert rules.freed_segments_to_release(street.build.world, acked={}) == [freed]
