"""Verbs of the service: what follows from a change is committed with it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from netmgr import service
from netmgr.contract.types import Location
from netmgr.model import HostRecord, NetmgrError, World
from netmgr.service.apply import apply
from netmgr.service.document import Document
from netmgr.service.specs import (
    HostPatch,
    NetworkPatch,
    NetworkSpec,
    PortPatch,
    PortSpec,
    SwitchPatch,
    SwitchSpec,
    ZoneSpec,
    parse,
)
from netmgr.store import Store


@pytest.fixture
def store(ready_url: str) -> object:
    """Here on both kinds of database."""
    opened = Store.open(ready_url)
    yield opened
    opened.close()


def enrol(store: Store, name: str, *zones: str, pnics: tuple[str, ...] = ("eth0",)) -> UUID:
    """An enrolled host, without the certificates that joining is about."""
    uuid = uuid4()
    with store.transaction() as tx:
        tx.put(HostRecord(uuid=uuid, name=name, pnics=pnics))
    service.set_host(store, name, HostPatch(zones=list(zones)))
    return uuid


def scene(store: Store) -> None:
    """Zone a with switch sw-a, hosts h1 and h2, network blue, port p with a VIF."""
    service.create_zone(store, ZoneSpec(name="a"))
    service.create_switch(store, SwitchSpec(name="sw-a", zones=["a"], vtep_pool="10.200.0.0/24", mtu=1650))
    enrol(store, "h1", "a")
    enrol(store, "h2", "a")
    service.create_network(store, NetworkSpec(name="blue", zone="a", subnets=["10.1.0.0/24"]))
    service.create_port(store, PortSpec(name="p", network="blue", vif_uuid=str(uuid4()), ips=["10.1.0.5"]))


def location_of(store: Store, port: str = "p") -> Location:
    with store.read() as world:
        return next(world.locations[p.uuid] for p in world.ports.values() if p.name == port)


def hold(store: Store, host: str, *, parked: bool = False) -> None:
    """What the arbiter does when a host claims port p."""
    with store.transaction() as tx:
        holder = next(h for h in tx.world.hosts.values() if h.name == host)
        location = next(iter(tx.world.locations.values()))
        tx.put(
            replace(
                location,
                holder_host=holder.uuid,
                holder_vtep=holder.vteps[0].address.split("/")[0],
                parked=parked,
                version=location.version + 1,
            )
        )


def vteps(store: Store) -> dict[str, list[str]]:
    with store.read() as world:
        return {host.name: [v.address for v in host.vteps] for host in world.hosts.values()}


def test_vteps_follow_zones_switches_and_hosts(store: Store) -> None:
    scene(store)
    assert vteps(store) == {"h1": ["10.200.0.1/24"], "h2": ["10.200.0.2/24"]}
    service.create_zone(store, ZoneSpec(name="b"))
    service.set_host(store, "h1", HostPatch(zones=["b"]))
    assert vteps(store) == {"h1": [], "h2": ["10.200.0.2/24"]}
    service.create_switch(store, SwitchSpec(name="sw-b", zones=["b"], vtep_pool="fd00::/64", mtu=1650))
    assert vteps(store) == {"h1": ["fd00::1/64"], "h2": ["10.200.0.2/24"]}
    enrol(store, "h3", "a", "b")
    assert vteps(store)["h3"] == ["10.200.0.1/24", "fd00::2/64"]
    service.delete_switch(store, "sw-b")
    assert vteps(store) == {"h1": [], "h2": ["10.200.0.2/24"], "h3": ["10.200.0.1/24"]}


def test_zone_change_and_vteps_are_one_revision(store: Store) -> None:
    scene(store)
    with store.read() as world:
        before = world.revision
    service.set_switch(store, "sw-a", SwitchPatch(vtep_pool="10.77.0.0/24"))
    changes = store.changes(after=before)
    assert {change.revision for change in changes} == {before + 1}
    assert sorted(change.kind for change in changes) == ["host", "host", "switch"]
    assert vteps(store) == {"h1": ["10.77.0.1/24"], "h2": ["10.77.0.2/24"]}


def test_locations_follow_the_addresses_of_their_hosts(store: Store) -> None:
    scene(store)
    hold(store, "h2")
    before = location_of(store)
    service.set_switch(store, "sw-a", SwitchPatch(vtep_pool="10.77.0.0/24"))
    assert location_of(store).holder_vtep == "10.77.0.2"
    assert location_of(store).version > before.version


def test_port_comes_and_goes_with_its_location(store: Store) -> None:
    scene(store)
    location = location_of(store)
    with store.read() as world:
        (port,) = world.ports.values()
        assert world.versions["port", port.uuid] == world.versions["location", port.uuid]
    assert (location.holder_host, location.mac) == (None, port.mac)
    assert location.version > 0
    service.set_port(store, "p", PortPatch(mac="02:AA:00:00:00:01"))
    assert location_of(store).mac == "02:aa:00:00:00:01"
    assert location_of(store).version > location.version
    service.delete_port(store, "blue/p")
    with store.read() as world:
        assert not world.locations
        assert not world.ports


def test_detached_port_is_unbound_and_can_be_attached_again(store: Store) -> None:
    scene(store)
    hold(store, "h1", parked=True)
    version = location_of(store).version
    assert service.detach_port(store, "p").vif_uuid is None
    assert (location_of(store).holder_host, location_of(store).parked) == (None, False)
    assert location_of(store).version > version
    vif = str(uuid4())
    assert str(service.attach_port(store, "p", vif_uuid=vif).vif_uuid) == vif
    with pytest.raises(NetmgrError, match="detach that before"):
        service.attach_port(store, "p", vif_uuid=str(uuid4()))
    assert str(service.attach_port(store, "p", vif_uuid=vif).vif_uuid) == vif


def test_port_of_a_running_vm_is_released_by_force_only(store: Store) -> None:
    scene(store)
    hold(store, "h1")
    with pytest.raises(NetmgrError, match="h1 holds it"):
        service.detach_port(store, "p")
    with pytest.raises(NetmgrError, match="h1 holds it"):
        service.delete_port(store, "p")
    service.detach_port(store, "p", force=True)
    assert location_of(store).holder_host is None
    service.delete_port(store, "p")


def test_removed_host_leaves_its_parked_ports_unbound(store: Store) -> None:
    scene(store)
    hold(store, "h1")
    with pytest.raises(NetmgrError, match="port p of network blue"):
        service.delete_host(store, "h1")
    hold(store, "h1", parked=True)
    service.delete_host(store, "h1")
    assert location_of(store).holder_host is None
    assert vteps(store) == {"h2": ["10.200.0.2/24"]}


def test_removed_network_takes_unattached_ports_and_quarantines_its_segment(store: Store) -> None:
    scene(store)
    with pytest.raises(NetmgrError, match="in use by port p"):
        service.delete_network(store, "blue")
    service.detach_port(store, "p")
    service.delete_network(store, "blue")
    with store.read() as world:
        assert (len(world.ports), len(world.locations), len(world.networks)) == (0, 0, 0)
        (freed,) = world.freed_segments.values()
        assert (freed.segment_id, freed.network_name, len(freed.host_uuids)) == (5000, "blue", 2)
        removed_at = world.versions["freed_segment", freed.uuid]
        hosts = list(world.hosts)
    assert service.create_network(store, NetworkSpec(name="red", zone="a")).segment_id == 5001
    acked = dict.fromkeys(hosts, removed_at)
    assert service.create_network(store, NetworkSpec(name="green", zone="a"), acked=acked).segment_id == 5000
    with store.read() as world:
        assert not world.freed_segments


def street(store: Store) -> UUID:
    """VLAN zones s and t on switches sw-s and sw-t over the same PNIC of host h1; network office, VLAN 100, on s."""
    for name in ("s", "t"):
        service.create_zone(store, ZoneSpec(name=name, kind="vlan"))
        service.create_switch(store, SwitchSpec(name=f"sw-{name}", zones=[name], mtu=1500))
    host = enrol(store, "h1", "s", "t", pnics=("eth0", "eth1"))
    service.create_network(store, NetworkSpec(name="office", zone="s", segment_id=100))
    return host


@pytest.mark.parametrize("switch_too", [False, True])
def test_freed_vlan_is_a_neighbours_only_when_hosts_have_confirmed(
    store: Store, ready_url: str, switch_too: bool
) -> None:
    host = street(store)
    service.delete_network(store, "office")
    with store.read() as world:
        removed_at = world.revision
    if switch_too:
        service.delete_switch(store, "sw-s")
    wanted = NetworkSpec(name="shop", zone="t", segment_id=100)
    with closing(Store.open(ready_url)) as another:  # it has not seen how things came about
        for asked in (store, another):
            with pytest.raises(NetmgrError, match=r"VLAN 100 was that of network office .* \(it was on h1\)"):
                service.create_network(asked, wanted, acked={host: removed_at - 1})
    assert service.create_network(store, wanted, acked={host: removed_at}).segment_id == 100
    with store.read() as world:
        assert not world.freed_segments


@pytest.mark.parametrize(("name", "where"), [("sw-new", "a switch that is deleted"), ("sw-s", "switch sw-s")])
def test_freed_vlan_is_in_quarantine_in_the_document_that_frees_it(store: Store, name: str, where: str) -> None:
    """Though the same document makes another switch of sw-s, or gives it another PNIC."""
    host = street(store)
    with store.read() as world:
        acked = {host: world.revision}
    values: dict[str, Any] = {
        "switches": [
            {"name": name, "zones": ["s"], "pnic_globs": ["eth1"], "mtu": 1500},
            {"name": "sw-t", "zones": ["t"], "pnic_globs": ["eth0"], "mtu": 1500},
        ],
        "networks": [{"name": "shop", "zone": "t", "segment_id": 100}],
    }
    with pytest.raises(NetmgrError, match=f"VLAN 100 was that of network office on {where}"):
        apply(store, parse(Document, values, where="document"), acked=acked, prune=True)
    values["networks"][0]["segment_id"] = 101
    apply(store, parse(Document, values, where="document"), acked=acked, prune=True)


def test_network_needs_a_switch_in_its_zone(store: Store) -> None:
    service.create_zone(store, ZoneSpec(name="bare"))
    with pytest.raises(NetmgrError, match="netmgr switch create NAME --zone bare"):
        service.create_network(store, NetworkSpec(name="n", zone="bare"))


def test_network_mtu_defaults_to_what_the_switch_leaves(store: Store) -> None:
    scene(store)
    assert service.create_network(store, NetworkSpec(name="n", zone="a")).mtu == 1600
    assert service.create_network(store, NetworkSpec(name="g", zone="a", type="nvgre")).mtu == 1608


def test_null_in_a_patch_leaves_the_field_alone(store: Store) -> None:
    scene(store)
    changed = service.set_network(store, "blue", NetworkPatch(mtu=1400, subnets=None))
    assert (changed.mtu, changed.subnets) == (1400, ("10.1.0.0/24",))


@pytest.mark.parametrize(
    "verb",
    [
        lambda s: service.create_zone(s, ZoneSpec(name="a")),
        lambda s: service.create_network(s, NetworkSpec(name="blue", zone="a")),
        lambda s: service.create_network(s, NetworkSpec(name="n", zone="a", segment_id=5000)),
        lambda s: service.create_port(s, PortSpec(name="q", network="blue", ips=["10.9.0.1"])),
        lambda s: service.delete_zone(s, "a"),
        lambda s: service.delete_switch(s, "sw-a"),
        lambda s: service.set_switch(s, "sw-a", SwitchPatch(vtep_pool="10.200.0.0/31", mtu=1300)),
        lambda s: service.set_host(s, "h1", HostPatch(name="h2")),
        lambda s: service.set_network(s, "blue", NetworkPatch(segment_id=9)),
    ],
)
def test_refused_verb_changes_nothing(store: Store, verb: Callable[[Store], object]) -> None:
    scene(store)
    with store.read() as world:
        revision = world.revision
    with pytest.raises(NetmgrError):
        verb(store)
    with store.read() as world:
        assert world.revision == revision
    assert store.changes(after=revision) == []


def test_ports_of_one_name_are_told_apart_by_network(store: Store) -> None:
    scene(store)
    service.create_network(store, NetworkSpec(name="red", zone="a"))
    service.create_port(store, PortSpec(name="p", network="red"))
    with pytest.raises(NetmgrError, match="blue/p, red/p"):
        service.delete_port(store, "p")
    service.delete_port(store, "red:p")
    with store.read() as world:
        assert len(world.ports) == 1


def test_every_revision_is_whole(store: Store) -> None:
    """Each port has its location and each host the VTEPs of its zones, after every single commit of the scene."""
    scene(store)
    service.detach_port(store, "p")
    service.delete_network(store, "blue")
    world = World()
    for _revision, changes in itertools.groupby(store.changes(after=0), key=lambda change: change.revision):
        for change in changes:
            world.apply(change)
        assert world.locations.keys() == world.ports.keys()
        for host in world.hosts.values():
            wanted = {s.uuid for s in world.switches.values() if set(s.zone_uuids) & set(host.zone_uuids)}
            assert {v.switch_uuid for v in host.vteps} == wanted
    with store.read() as now:
        assert world == now


def test_unknown_fields_name_the_nearest_known_one() -> None:
    with pytest.raises(NetmgrError, match=r"networks\[2\]\.subnet: unknown field; did you mean subnets\?"):
        parse(NetworkSpec, {"name": "n", "zone": "a", "subnet": []}, where="networks[2]")
