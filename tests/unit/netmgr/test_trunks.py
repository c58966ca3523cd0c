"""Sub-ports: what may be one, where they are, who may have their parent; on both kinds of database."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from netmgr import rules, service
from netmgr.arbiter import Refusal, decide_activation, decide_release
from netmgr.contract.reading import words_of
from netmgr.contract.types import Claim, ClaimIntent, Location, LogicalPort, ReleaseReason
from netmgr.model import HostRecord, NetmgrError, World
from netmgr.service import edits
from netmgr.service.document import load_document
from netmgr.service.port_views import places_of, port_view
from netmgr.service.specs import NetworkSpec, PortPatch, PortSpec, SwitchPatch, SwitchSpec, WithdrawalSpec, ZoneSpec
from netmgr.store import Store
from netmgr.sync import decisions
from tests.support.netmgr_worlds import uid

VIF = UUID(int=7)


@pytest.fixture
def store(ready_url: str) -> object:
    """Networks blue and red in zone a, green in zone b on a switch of its own; h1 and h2 in both, h3 in a.
    Port web1 of blue with sub-ports db (green, 10) and mon (red, 20)."""
    opened = Store.open(ready_url)
    for name in ("a", "b"):
        service.create_zone(opened, ZoneSpec(name=name))
    with opened.transaction() as tx:
        zones = {zone.name: zone.uuid for zone in tx.world.zones.values()}
        for name, of in (("h1", "ab"), ("h2", "ab"), ("h3", "a")):
            tx.put(HostRecord(uuid=uid(name), name=name, zone_uuids=tuple(zones[z] for z in of), pnics=("eth0",)))
    for name, pool in (("a", "10.200.0.0/24"), ("b", "10.201.0.0/24")):
        service.create_switch(opened, SwitchSpec(name=f"sw-{name}", zones=[name], vtep_pool=pool, mtu=1650))
    for name, zone in (("blue", "a"), ("red", "a"), ("green", "b")):
        service.create_network(opened, NetworkSpec(name=name, zone=zone))
    create(opened, "web1", "blue", vif_uuid=str(VIF), mac="02:00:00:00:00:01")
    create(opened, "db", "green", parent="blue/web1", tag=10)
    create(opened, "mon", "red", parent="web1", tag=20)
    yield opened
    opened.close()


def create(store: Store, name: str, network: str, **more: object) -> LogicalPort:
    return service.create_port(store, PortSpec(name=name, network=network, **more))  # type: ignore[arg-type]


def port(store: Store, name: str) -> LogicalPort:
    with store.read() as world:
        return next(one for one in world.ports.values() if one.name == name)


def where(store: Store, name: str) -> Location:
    with store.read() as world:
        return world.locations[next(one.uuid for one in world.ports.values() if one.name == name)]


def claim(store: Store, host: str, *, intent: ClaimIntent = ClaimIntent.START, vif: UUID = VIF) -> str:
    """What a host's claim does; the refusal."""
    asked = Claim(vif_uuid=vif, mac="02:00:00:00:00:01", intent=intent)
    (answer,) = decisions.answer_claims(store, decisions.Asker(host=uid(host)), [asked], now_ms=1)
    return str(answer.refusal)


def refused(call: object, *words: str) -> None:
    with pytest.raises(NetmgrError) as caught:
        call()  # type: ignore[operator]
    for word in words:
        assert word in caught.value.sentence


def together(store: Store) -> None:
    """web1 and its sub-ports are in one place, at the VTEPs of their own switches, since one revision."""
    with store.read() as world:
        ports = {one.name: one for one in world.ports.values()}
        at = {name: world.locations[one.uuid] for name, one in ports.items()}
        for name, network in (("db", "10.201.0."), ("mon", "10.200.0.")):
            for field in ("holder_host", "incoming_host", "parked"):
                assert getattr(at[name], field) == getattr(at["web1"], field)
            for host, vtep in (("holder_host", "holder_vtep"), ("incoming_host", "incoming_vtep")):
                found = getattr(at[name], vtep)
                assert found.startswith(network) if getattr(at[name], host) else found == ""


# --- what may be one ------------------------------------------------------------------------------------------------


def test_a_sub_port_has_its_own_uuid_for_a_vif_and_its_parents_mac_where_that_is_free(store: Store) -> None:
    db = port(store, "db")
    assert (db.vif_uuid, db.mac, db.tag, db.parent_port) == (db.uuid, "02:00:00:00:00:01", 10, port(store, "web1").uuid)
    second = create(store, "db2", "green", parent="web1", tag=11)
    assert second.mac not in ("", "02:00:00:00:00:01"), "two on one network can't have one MAC"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"parent": "web1", "tag": 10}, ("tag 10 of port web1 is that of port db of network green",)),
        ({"parent": "web1"}, ("tag must be a VLAN id, 1 to 4094, got 0",)),
        ({"parent": "web1", "tag": 4095}, ("1 to 4094",)),
        ({"tag": 5}, ("needs a parent",)),
        ({"parent": "db", "tag": 5}, ("is a sub-port itself, of port web1",)),
        ({"parent": "nobody", "tag": 5}, ("nobody",)),
        ({"parent": "web1", "tag": 5, "vif_uuid": str(UUID(int=8))}, ("none can be attached",)),
        ({"parent": "web1", "tag": 5, "ingress_kbps": 1000}, ("ingress_kbps", "set it on port web1")),
        ({"shadow_of": "mon"}, ("can't be a shadow of port mon",)),
    ],
    ids=str,
)
def test_what_can_be_no_sub_port_is_refused_with_the_reason(
    store: Store, more: dict[str, object], words: tuple[str, ...]
) -> None:
    refused(lambda: create(store, "x", "red", **more), *words)


def test_who_has_sub_ports_gets_no_shadow_and_who_has_a_shadow_no_sub_ports(store: Store) -> None:
    refused(lambda: create(store, "standby", "blue", shadow_of="web1"), "would not follow at a failover")
    create(store, "plain", "blue")
    create(store, "standby", "blue", shadow_of="plain")
    refused(lambda: create(store, "x", "red", parent="plain", tag=1), "can have no shadows")
    refused(lambda: create(store, "x", "red", parent="standby", tag=1), "can have no shadows")


def test_vif_and_parent_of_a_sub_port_are_not_changed_its_tag_is(store: Store) -> None:
    create(store, "other", "blue")
    refused(lambda: service.attach_port(store, "db", vif_uuid=str(uuid4())), "is a sub-port of port web1")
    refused(lambda: service.detach_port(store, "db"), "is a sub-port of port web1")
    refused(lambda: service.set_port(store, "db", PortPatch(parent="other")), "its parent can't be changed")
    refused(lambda: service.set_port(store, "db", PortPatch(tag=20)), "is that of port mon")
    assert service.set_port(store, "db", PortPatch(tag=30)).tag == 30


def test_a_parent_goes_after_its_sub_ports_and_a_network_after_those_of_its_ports(store: Store) -> None:
    refused(lambda: service.delete_port(store, "web1", force=True), "port db of network green", "its sub-ports")
    refused(lambda: service.delete_network(store, "green"), "port db (tag 10 of web1)")
    service.detach_port(store, "web1")
    refused(lambda: service.delete_network(store, "blue"), "port db of network green")
    service.delete_port(store, "db")
    service.delete_port(store, "mon")
    service.delete_network(store, "blue")
    service.delete_network(store, "green")


def test_at_most_64_are_taken() -> None:
    assert rules.trunks.SUBPORTS_MAX == 64


# --- where they are -------------------------------------------------------------------------------------------------


def test_sub_ports_are_where_their_parent_is_whatever_moves_it(store: Store) -> None:
    assert where(store, "db").holder_host is None
    assert claim(store, "h1") == ""
    together(store)
    assert where(store, "db").holder_host == uid("h1")
    late = create(store, "late", "green", parent="web1", tag=30)
    assert where(store, "late").holder_host == uid("h1"), "also one that comes later"
    assert claim(store, "h2", intent=ClaimIntent.MIGRATE_IN) == ""
    together(store)
    assert where(store, "mon").incoming_host == uid("h2")
    web1 = port(store, "web1").uuid
    before = where(store, "db").version
    decisions.activate(store, uid("h2"), port_uuid=web1, version=where(store, "web1").version, now_ms=1)
    together(store)
    assert (where(store, "db").holder_host, where(store, "db").incoming_host) == (uid("h2"), None)
    assert where(store, "db").version > before
    version = where(store, "web1").version
    decisions.release(store, uid("h2"), port_uuid=web1, version=version, why=ReleaseReason.STOPPED, now_ms=1)
    together(store)
    assert where(store, "late").parked
    service.detach_port(store, "web1")
    together(store)
    assert where(store, "mon").holder_host is None
    assert late.uuid != web1


def test_all_of_them_move_in_one_revision(store: Store) -> None:
    claim(store, "h1")
    with store.read() as world:
        revisions = {world.versions["location", one] for one in world.locations}
    assert len(revisions) == 1


def test_nobody_claims_activates_or_releases_a_sub_port(store: Store) -> None:
    claim(store, "h1")
    db = port(store, "db")
    assert "is a sub-port (tag 10) of port web1 of network blue" in claim(store, "h2", vif=db.uuid)
    assert "is a sub-port" in claim(store, "h1", vif=db.uuid)
    with store.read() as world:
        for host in ("h1", "h2"):
            said = {"host": uid(host), "port_uuid": db.uuid, "version": world.locations[db.uuid].version}
            assert isinstance(decide_activation(world, **said), Refusal)
            assert isinstance(decide_release(world, **said, why=ReleaseReason.STOPPED), Refusal)
    together(store)


def test_a_host_without_one_of_the_networks_gets_no_parent_and_a_parent_there_no_such_sub_port(store: Store) -> None:
    assert "network green" in claim(store, "h3")
    assert where(store, "web1").holder_host is None
    service.delete_port(store, "db")
    assert claim(store, "h3") == ""
    refused(lambda: create(store, "db", "green", parent="web1", tag=10), "host h3", "transport zone b")


def test_a_network_withdrawn_from_a_host_takes_no_parent_of_its_sub_ports_there(store: Store) -> None:
    service.withdraw_network(store, "green", WithdrawalSpec(host="h2", reason="loops"), by="me")
    assert "network green is withdrawn from host h2" in claim(store, "h2")
    assert claim(store, "h1") == ""
    assert "network green is withdrawn from host h2" in claim(store, "h2", intent=ClaimIntent.MIGRATE_IN)
    service.withdraw_network(store, "green", WithdrawalSpec(reason="loops"), by="me")
    assert claim(store, "h1") == "", "what runs goes on"


def test_an_agent_too_old_for_sub_ports_is_not_granted_their_parent(store: Store) -> None:
    asker = decisions.Asker(host=uid("h1"), agent="0.1", unreadable=frozenset({"LogicalPort.parent_port"}))
    asked = Claim(vif_uuid=VIF, mac="02:00:00:00:00:01", intent=ClaimIntent.START)
    (answer,) = decisions.answer_claims(store, asker, [asked], now_ms=1)
    assert "port db" in answer.refusal or "port mon" in answer.refusal
    assert {"LogicalPort.parent_port", "LogicalPort.tag"} <= words_of(port(store, "db"))
    assert not {"LogicalPort.parent_port", "LogicalPort.tag"} & words_of(port(store, "web1"))


def test_new_vteps_of_a_switch_reach_its_sub_ports_too(store: Store) -> None:
    claim(store, "h1")
    service.set_switch(store, "sw-b", SwitchPatch(vtep_pool="10.202.0.0/24"))
    assert where(store, "db").holder_vtep.startswith("10.202.0.")
    assert where(store, "web1").holder_vtep.startswith("10.200.0.")


def test_following_says_nothing_where_all_is_as_it_should_be(store: Store) -> None:
    claim(store, "h1")
    with store.read() as world:
        assert list(rules.following(world, where(store, "web1"), now_ms=5)) == []
        elsewhere = replace(where(store, "web1"), parked=True)
        assert {one.parked for one in rules.following(world, elsewhere, now_ms=5)} == {True}


# --- shown and written ----------------------------------------------------------------------------------------------


def test_parent_and_sub_ports_name_each_other(store: Store) -> None:
    with store.read() as world:
        views = {one.name: port_view(world, one, places_of({})) for one in world.ports.values()}
    assert views["web1"]["subports"] == [{"tag": 10, "port": "green/db"}, {"tag": 20, "port": "red/mon"}]
    assert (views["db"]["parent"], views["db"]["tag"], views["db"]["subports"]) == ("blue/web1", 10, [])


DOCUMENT = b"""
ports:
  - {name: app-db, network: green, parent: blue/app, tag: 7}
  - {name: app, network: blue}
"""


def test_a_document_has_them_in_any_order_and_applied_twice_changes_nothing(store: Store) -> None:
    first = service.apply(store, load_document(DOCUMENT), acked={})
    assert [(one.verb, one.name) for one in first.actions] == [("create", "app"), ("create", "app-db")]
    assert first.actions[1].fields["parent"] == "blue/app"
    assert service.apply(store, load_document(DOCUMENT), acked={}).actions == ()
    pruned = service.apply(store, load_document(b"ports: []"), acked={}, prune=True)
    gone = [one.name for one in pruned.actions]
    assert gone.index("app-db") < gone.index("app")


def test_the_example_applies(ready_url: str) -> None:
    opened = Store.open(ready_url)
    document = Path(__file__).parents[3].joinpath("examples", "trunk.yaml").read_bytes()
    service.apply(opened, load_document(document), acked={})
    assert (port(opened, "web1-backup").tag, port(opened, "web1-back").mac) == (20, port(opened, "web1").mac)
    opened.close()


def test_the_world_forgets_sub_ports_with_their_rows(store: Store) -> None:
    with store.transaction() as tx:
        edits.drop_port(tx, next(one for one in tx.world.ports.values() if one.name == "db"))
        world: World = tx.world
        assert len(world.subports_of[next(one.uuid for one in world.ports.values() if one.name == "web1")]) == 1
