"""Shadow ports: mirrors of their primaries, dark to peers, in their place at failover, in one revision."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from netmgr import service
from netmgr.arbiter import Grant, decide_claim
from netmgr.contract.types import Claim, ClaimIntent, Kind, Location, LogicalPort
from netmgr.model import HostRecord, NetmgrError
from netmgr.service.document import load_document
from netmgr.service.specs import NetworkSpec, PortPatch, PortSpec, SwitchSpec, ZoneSpec
from netmgr.store import Store
from tests.support.netmgr_worlds import uid

VIF, STANDBY = uuid4(), uuid4()


@pytest.fixture
def store(ready_url: str) -> object:
    """Here on both kinds of database, with network blue, its port web1 with a VIF, and hosts h1 and h2."""
    opened = Store.open(ready_url)
    service.create_zone(opened, ZoneSpec(name="a"))
    with opened.transaction() as tx:
        (zone,) = tx.world.zones
        for name in ("h1", "h2"):
            tx.put(HostRecord(uuid=uid(name), name=name, zone_uuids=(zone,), pnics=("eth0",)))
    service.create_switch(opened, SwitchSpec(name="s", zones=["a"], vtep_pool="10.200.0.0/24", mtu=1650))
    for name in ("blue", "green"):
        service.create_network(opened, NetworkSpec(name=name, zone="a", subnets=["10.1.0.0/24"]))
    web1 = PortSpec(name="web1", network="blue", vif_uuid=str(VIF), mac="02:00:00:00:00:01", ips=["10.1.0.5"])
    service.create_port(opened, web1)
    yield opened
    opened.close()


def shadow(store: Store, name: str = "standby", **more: object) -> LogicalPort:
    fields = {"name": name, "network": "blue", "shadow_of": "web1", "vif_uuid": str(STANDBY), **more}
    return service.create_port(store, PortSpec(**fields))  # type: ignore[arg-type]


def claim(store: Store, host: str, vif: UUID) -> None:
    """What a host's claim does, for a VIF with the MAC of web1."""
    with store.transaction() as tx:
        asked = Claim(vif_uuid=vif, mac="02:00:00:00:00:01", intent=ClaimIntent.START)
        decided = decide_claim(tx.world, host=uid(host), claim=asked, new_port_uuid=uuid4())
        assert isinstance(decided, Grant), decided
        tx.put(decided.location)


def ports(store: Store) -> dict[str, LogicalPort]:
    with store.read() as world:
        return {port.name: port for port in world.ports.values()}


def where(store: Store, name: str) -> Location:
    with store.read() as world:
        return next(world.locations[port.uuid] for port in world.ports.values() if port.name == name)


def refused(call: object, *words: str) -> None:
    with pytest.raises(NetmgrError) as caught:
        call()  # type: ignore[operator]
    for word in words:
        assert word in caught.value.sentence


def test_shadow_mirrors_its_primary_and_tells_peers_no_mac(store: Store) -> None:
    made = shadow(store)
    primary = ports(store)["web1"]
    assert (made.mac, made.ips, made.admin_up) == (primary.mac, primary.ips, primary.admin_up)
    assert made.shadow_of == primary.uuid
    assert where(store, "standby").mac == ""
    claim(store, "h2", STANDBY)
    assert where(store, "standby").holder_host == uid("h2")
    assert where(store, "standby").mac == ""
    assert where(store, "web1").mac == primary.mac


def test_shadow_follows_every_change_of_its_primary_in_the_same_revision(store: Store) -> None:
    shadow(store)
    shadow(store, "second", vif_uuid=None)
    before = store._world.revision
    service.set_port(
        store, "web1", PortPatch(mac="02:00:00:00:00:09", ips=["10.1.0.9"], admin_up=False, allow=["router"])
    )
    found = ports(store)
    for name in ("standby", "second"):
        assert (found[name].mac, found[name].ips, found[name].admin_up) == ("02:00:00:00:00:09", ("10.1.0.9",), False)
        assert found[name].allow == ("router",)
        assert where(store, name).mac == ""
    assert store._world.revision == before + 1
    assert where(store, "web1").mac == "02:00:00:00:00:09"


def test_failover_exchanges_the_roles_in_one_revision_and_both_locations_grow(store: Store) -> None:
    shadow(store)
    shadow(store, "second", vif_uuid=None)
    claim(store, "h1", VIF)
    claim(store, "h2", STANDBY)
    old, new = where(store, "web1"), where(store, "standby")
    revision = store._world.revision
    assert service.failover_port(store, "standby").name == "standby"
    found = ports(store)
    assert found["standby"].shadow_of is None
    assert found["web1"].shadow_of == found["second"].shadow_of == found["standby"].uuid
    assert (where(store, "standby").mac, where(store, "web1").mac) == ("02:00:00:00:00:01", "")
    assert where(store, "standby").holder_host == uid("h2")
    assert where(store, "web1").holder_host == uid("h1")
    assert where(store, "web1").version > old.version
    assert where(store, "standby").version > new.version
    changes = store.changes(after=revision)
    assert {change.revision for change in changes} == {revision + 1}
    assert len([c for c in changes if c.kind is Kind.PORT or c.kind == "port"]) == 3
    service.failover_port(store, "web1")  # and back, by the name of the shadow of now
    assert ports(store)["web1"].shadow_of is None
    assert where(store, "web1").mac == "02:00:00:00:00:01"


def test_uniqueness_holds_for_everybody_but_the_pair(store: Store) -> None:
    shadow(store)
    other = {"name": "other", "network": "blue"}
    for twin in ({"mac": "02:00:00:00:00:01"}, {"ips": ["10.1.0.5"]}):
        refused(lambda twin=twin: service.create_port(store, PortSpec(**other, **twin)), "that of port web1")
    claim(store, "h2", STANDBY)
    service.failover_port(store, "web1")
    for twin in ({"mac": "02:00:00:00:00:01"}, {"ips": ["10.1.0.5"]}):
        refused(lambda twin=twin: service.create_port(store, PortSpec(**other, **twin)), "that of port standby")


def test_database_refuses_a_second_port_with_the_mac_that_is_no_shadow(store: Store) -> None:
    with store.transaction() as tx:
        (primary,) = tx.world.ports.values()
        twin = replace(primary, uuid=uuid4(), name="twin", vif_uuid=None, ips=())
        with pytest.raises(NetmgrError, match="taken by another"):
            tx.put(twin)
    with pytest.raises(NetmgrError, match="refused the change"), store.transaction() as tx:
        tx._apply("port", twin.uuid, twin)  # past the first line of defence
    assert list(ports(store)) == ["web1"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mac": "02:00:00:00:00:02"}, ("mirrors port web1, whose mac is 02:00:00:00:00:01",)),
        ({"ips": ["10.1.0.6"]}, ("mirrors port web1, whose ips",)),
        ({"admin_up": False}, ("whose admin_up is True",)),
        ({"network": "green", "shadow_of": "blue/web1"}, ("port web1 is of network blue",)),
        ({"shadow_of": "nobody"}, ("has no port 'nobody'",)),
        ({"vif_uuid": str(VIF)}, ("is attached to port web1",)),
    ],
)
def test_unfitting_shadow_is_refused(store: Store, fields: dict[str, object], words: tuple[str, ...]) -> None:
    refused(lambda: shadow(store, **fields), *words)
    assert list(ports(store)) == ["web1"]


def test_shadow_of_a_shadow_is_refused_and_names_the_primary(store: Store) -> None:
    shadow(store)
    refused(lambda: shadow(store, "third", shadow_of="standby", vif_uuid=None), "is a shadow itself, of port web1")


def test_shadow_takes_no_settings_of_its_own_but_name_and_vif(store: Store) -> None:
    shadow(store, vif_uuid=None)
    refused(lambda: service.set_port(store, "standby", PortPatch(ips=["10.1.0.7"])), "set it there and it follows")
    assert service.set_port(store, "standby", PortPatch(name="twin")).name == "twin"
    assert service.attach_port(store, "twin", vif_uuid=str(STANDBY)).vif_uuid == STANDBY


def test_failover_that_would_lose_the_vm_is_refused_and_done_by_force(store: Store) -> None:
    refused(lambda: service.failover_port(store, "web1"), "needs a shadow", "--shadow-of blue/web1")
    shadow(store)
    refused(lambda: service.failover_port(store, "web1"), "standby", "held by no host", "repeat with force")
    assert service.failover_port(store, "web1", force=True).name == "standby"


def test_failover_of_a_primary_with_several_shadows_wants_the_shadows_name(store: Store) -> None:
    shadow(store)
    shadow(store, "second", vif_uuid=None)
    refused(lambda: service.failover_port(store, "web1"), "second, standby", "name the one")


def test_primary_is_not_deleted_under_its_shadows(store: Store) -> None:
    shadow(store)
    refused(lambda: service.delete_port(store, "web1", force=True), "in use by port standby, its shadow")
    service.delete_port(store, "standby")
    service.delete_port(store, "web1")


def test_network_goes_with_unattached_ports_and_their_shadows(store: Store) -> None:
    service.detach_port(store, "web1")
    shadow(store, vif_uuid=None)
    service.delete_network(store, "blue")
    assert ports(store) == {}


def test_document_with_a_pair_holds_before_and_after_a_failover(store: Store) -> None:
    text = f"""
ports:
  - {{name: standby, network: blue, shadow_of: web1, vif_uuid: {STANDBY}}}
  - {{name: web1, network: blue, vif_uuid: {VIF}, mac: "02:00:00:00:00:01", ips: [10.1.0.5]}}
"""
    document = load_document(text.encode())
    first = service.apply(store, document, acked={})
    assert [(a.verb, a.name, a.fields["shadow_of"]) for a in first.actions] == [("create", "standby", "web1")]
    claim(store, "h2", STANDBY)
    service.failover_port(store, "web1")
    assert service.apply(store, document, acked={}).actions == ()
    service.detach_port(store, "standby", force=True)
    emptied = service.apply(store, load_document(b"ports: []"), acked={}, prune=True, dry_run=True)
    assert [a.name for a in emptied.actions] == ["web1", "standby"]  # the shadow of now first
