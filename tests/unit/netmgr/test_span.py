"""A host gets what it needs and nothing else, and the three directions of the rule agree."""

from dataclasses import replace
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from netmgr.contract.types import (
    Direction,
    HostConfig,
    Kind,
    Location,
    Object,
    SecurityGroup,
    SecurityRule,
    VtepAssignment,
    Withdrawal,
)
from netmgr.model import Change, GroupRecord, HostRecord, World, kind_of_row, uuid_of_row
from netmgr.span import Holdings, hosts_for, object_for, objects_for, touched
from tests.support.netmgr_worlds import (
    H1,
    H2,
    H3,
    H4,
    NET_A,
    NET_B,
    PORT,
    SWITCH_A,
    ZONE_A,
    ZONE_B,
    held,
    put,
    uid,
    world_of,
)

NOTHING: frozenset[object] = frozenset()
HOSTS = (H1, H2, H3, H4)
PORT_KEYS = {(Kind.PORT, PORT.uuid), (Kind.LOCATION, PORT.uuid)}


def keys(world: World, host: HostRecord, *networks: object) -> set[object]:
    subscribed = frozenset(n.uuid for n in networks)  # type: ignore[attr-defined]
    return set(objects_for(world, host.uuid, subscribed))


def test_host_gets_itself_and_what_its_zones_carry() -> None:
    found = objects_for(world_of(), H1.uuid, frozenset())
    assert set(found) == {
        (Kind.HOST, H1.uuid),
        (Kind.ZONE, ZONE_A.uuid),
        (Kind.SWITCH, SWITCH_A.uuid),
        (Kind.NETWORK, NET_A.uuid),
    }
    assert [key[0] for key in found] == [Kind.HOST, Kind.ZONE, Kind.SWITCH, Kind.NETWORK]
    config = found[Kind.HOST, H1.uuid].body
    assert (config.name, config.vteps) == ("h1", H1.vteps)  # type: ignore[union-attr]


def test_version_of_an_object_is_the_revision_of_its_last_change() -> None:
    world = world_of()
    put(world, replace(NET_A, mtu=1400))
    assert objects_for(world, H1.uuid, frozenset())[Kind.NETWORK, NET_A.uuid] == Object(
        version=world.revision, body=replace(NET_A, mtu=1400)
    )


def test_host_that_is_not_enrolled_gets_nothing() -> None:
    assert objects_for(world_of(), uid("stranger"), frozenset([NET_A.uuid])) == {}


def test_ports_come_only_with_a_subscription() -> None:
    world = world_of(PORT, held(H2))
    assert keys(world, H1) & PORT_KEYS == set()
    assert keys(world, H1, NET_A) >= PORT_KEYS


def test_subscription_to_a_network_of_another_zone_brings_nothing() -> None:
    world = world_of(PORT, held(H1))
    assert keys(world, H3, NET_A) == keys(world, H3)


def test_held_and_incoming_ports_come_without_a_subscription_and_nothing_more_of_their_network() -> None:
    other = replace(PORT, uuid=uid("port-2"), name="vm2", vif_uuid=uid("v2"), mac="52:54:00:00:00:02")
    world = world_of(PORT, other, held(H1, incoming=H2))
    for host in (H1, H2):
        assert keys(world, host) & {*PORT_KEYS, (Kind.PORT, other.uuid)} == PORT_KEYS
    assert keys(world, H4) & PORT_KEYS == set()


def test_host_that_left_the_zone_keeps_only_the_port_it_holds() -> None:
    world = world_of(PORT, held(H1), replace(H1, zone_uuids=(), vteps=()))
    assert keys(world, H1, NET_A) == {(Kind.HOST, H1.uuid), *PORT_KEYS}


def test_unplaced_port_comes_without_a_location() -> None:
    assert keys(world_of(PORT), H1, NET_A) & PORT_KEYS == {(Kind.PORT, PORT.uuid)}


def test_change_of_one_port_concerns_the_hosts_of_one_network() -> None:
    world = world_of(PORT, held(H1))
    subscribers = {NET_A.uuid: {H2.uuid}, NET_B.uuid: {H3.uuid, H4.uuid}}
    assert set(hosts_for(world, (Kind.LOCATION, PORT.uuid), subscribers)) == {H1.uuid, H2.uuid}


def test_tokens_concern_no_host() -> None:
    result = touched(world_of(), [Change(revision=99, kind="token", uuid=uid("t"), row=None)])
    assert not result.keys
    assert not result.hosts


def test_holdings_follow_a_move() -> None:
    holdings = Holdings.of(world_of(PORT, held(H1, incoming=H2)))
    assert set(holdings.of_host(H1.uuid)) == set(holdings.of_host(H2.uuid)) == {PORT.uuid}
    holdings.move(before=held(H1, incoming=H2), after=held(H2))
    assert not holdings.of_host(H1.uuid)
    holdings.move(before=held(H2), after=None)
    assert not holdings.ports_of


def test_group_goes_where_a_port_has_it_or_is_judged_by_who_is_in_it() -> None:
    other = replace(PORT, uuid=uid("db1"), name="db1", vif_uuid=uid("vif-db1"), mac="02:00:00:00:00:0b")
    at_h2 = replace(held(H2), port_uuid=other.uuid)
    web1, db1 = replace(PORT, security_groups=(WEB.uuid,)), replace(other, security_groups=(DB.uuid,))
    world = world_of(WEB, DB, web1, db1, held(H1), at_h2)
    groups = {h.name: {key[1] for key in keys(world, h) if key[0] is Kind.SECURITY_GROUP} for h in (H1, H2, H3)}
    assert groups == {"h1": {WEB.uuid}, "h2": {WEB.uuid, DB.uuid}, "h3": set()}
    told = objects_for(world, H2.uuid, frozenset())[Kind.SECURITY_GROUP, WEB.uuid].body
    assert isinstance(told, SecurityGroup)
    assert told.members == PORT.ips


def ring(*numbers: int) -> World:
    """A world whose switch has hosts of these numbers, in the order of their UUIDs."""
    world = world_of()
    for host in HOSTS:
        world.apply(Change(revision=world.revision + 1, kind=Kind.HOST, uuid=host.uuid, row=None))
    for number in numbers:
        put(world, ringed(number))
    return world


def ringed(number: int, *, name: str = "") -> HostRecord:
    vteps = (VtepAssignment(switch_uuid=SWITCH_A.uuid, address=f"10.1.0.{number}/24"),)
    return replace(H1, uuid=UUID(int=number), name=name or f"h{number}", vteps=vteps)


def peers(world: World, number: int) -> list[str]:
    config = objects_for(world, UUID(int=number), ())[Kind.HOST, UUID(int=number)].body
    assert isinstance(config, HostConfig)
    assert all(
        (peer.switch_uuid, peer.vtep) == (SWITCH_A.uuid, f"10.1.0.{peer.host_name[1:]}") for peer in config.peers
    )
    return [peer.host_name for peer in config.peers]


def test_host_is_told_of_the_two_on_either_side_of_it() -> None:
    world = ring(1, 2, 3, 4, 5, 6, 7)
    assert [peers(world, n) for n in (1, 4)] == [["h2", "h3", "h6", "h7"], ["h2", "h3", "h5", "h6"]]
    assert [peers(ring(*range(1, n + 1)), 1) for n in (1, 2, 3)] == [[], ["h2"], ["h2", "h3"]]


def test_neighbours_that_come_change_and_go_make_other_versions_and_nothing_else_does() -> None:
    world = ring(1, 2, 4, 6, 8, 9, 10)
    key = (Kind.HOST, UUID(int=2))

    def version() -> int:
        item = object_for(world, UUID(int=2), (), key)
        assert item is not None
        return item.version

    versions = [version()]
    for row in (ringed(3), ringed(3, name="h33")):
        put(world, row)
        versions.append(version())
    world.apply(Change(revision=world.revision + 1, kind=Kind.HOST, uuid=UUID(int=3), row=None))
    versions.append(version())
    assert versions == sorted(set(versions))
    assert max(versions) <= world.revision
    put(world, replace(ringed(4), boot_id="another"))
    put(world, ringed(7))
    assert version() == versions[-1]


# --- the three directions, on random histories -----------------------------------------------------------------------

vlan = replace(PORT, uuid=uid("port-b"), name="vm-b", network_uuid=NET_B.uuid, vif_uuid=uid("vb"))
hosts = st.sampled_from(HOSTS)
places = st.one_of(st.none(), hosts)


def location(port_row: object, at: HostRecord | None, incoming: HostRecord | None) -> Location:
    found = held(at, incoming=incoming)
    return replace(found, port_uuid=port_row.uuid, network_uuid=port_row.network_uuid)  # type: ignore[attr-defined]


moves = st.builds(location, st.sampled_from([PORT, vlan]), places, places)
zone_sets = st.sampled_from([(), (ZONE_A.uuid,), (ZONE_B.uuid,), (ZONE_A.uuid, ZONE_B.uuid)])
rezonings = st.builds(lambda h, z: replace(h, zone_uuids=z, vteps=h.vteps if z else ()), hosts, zone_sets)
WEB = GroupRecord(uuid=uid("web"), name="web")
DB = GroupRecord(uuid=uid("db"), name="db", rules=(SecurityRule(direction=Direction.INGRESS, remote_group=WEB.uuid),))
grouped = [replace(PORT, security_groups=(WEB.uuid,)), replace(vlan, security_groups=(DB.uuid,))]
group_rows = [WEB, replace(WEB, members_at=7), DB, replace(DB, rules=())]
edits = st.sampled_from(
    [replace(NET_A, mtu=1400), NET_A, PORT, vlan, replace(PORT, admin_up=False), *grouped, *group_rows]
)
renamed = st.sampled_from([replace(SWITCH_A, zone_uuids=(ZONE_A.uuid, uid("z"))), SWITCH_A, ZONE_A])
withdrawals = st.builds(
    lambda n, h: Withdrawal(uuid=uid(f"w{n.name}{h}"), network_uuid=n.uuid, host_uuid=h.uuid if h else None),
    st.sampled_from([NET_A, NET_B]),
    places,
)
puts = st.one_of(moves, rezonings, edits, renamed, withdrawals).map(lambda row: (row, True))
dropped = st.one_of(st.sampled_from([held(), location(vlan, None, None), NET_A, WEB, DB]), withdrawals)
drops = dropped.map(lambda row: (row, False))
subscriptions = st.dictionaries(hosts.map(lambda h: h.uuid), st.sets(st.sampled_from([NET_A.uuid, NET_B.uuid])))


@settings(max_examples=150, deadline=None)
@given(history=st.lists(st.one_of(puts, drops), max_size=8), subscribed=subscriptions)
def test_marking_what_changes_touch_keeps_every_host_exact(
    history: list[object], subscribed: dict[object, set]
) -> None:  # type: ignore[type-arg]
    world = world_of(PORT, vlan)
    networks = (NET_A.uuid, NET_B.uuid)
    subscribers = {n: [h for h, wanted in subscribed.items() if n in wanted] for n in networks}
    held_now = {h.uuid: objects_for(world, h.uuid, subscribed.get(h.uuid, ())) for h in HOSTS}
    for row, is_put in history:  # type: ignore[misc]
        change = Change(
            revision=world.revision + 1, kind=kind_of_row(row), uuid=uuid_of_row(row), row=row if is_put else None
        )
        concerned = set()
        whole = set()
        for apply in (True, False):
            result = touched(world, [change])
            whole |= result.hosts
            concerned |= {(h, key) for key in result.keys for h in hosts_for(world, key, subscribers)}  # type: ignore[arg-type]
            concerned |= {(h, key) for h, keys in result.of_host.items() for key in keys}
            if apply:
                world.apply(change)
        for host, key in concerned:
            item = object_for(world, host, subscribed.get(host, ()), key)
            held_now[host].pop(key, None)
            if item is not None:
                held_now[host][key] = item
        for host in whole:
            held_now[host] = objects_for(world, host, subscribed.get(host, ()))
        for host in held_now:
            assert held_now[host] == objects_for(world, host, subscribed.get(host, ()))
