"""The agent's memory: what is on disk after a crash, and what is refused."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from hostagent.identity import read_boot_id
from hostagent.model import Phase
from hostagent.records import Endpoint, EndpointKind, Relay
from hostagent.state import State, StateError, VifRecord
from netmgr.contract.types import (
    HostConfig,
    Kind,
    Location,
    LogicalPort,
    Object,
    OpaqueNetwork,
    Ref,
    TransportZone,
)

ZONE, NETWORK, PORT, VIF, HOST = (uuid4() for _ in range(5))


def _zone(name: str = "a", version: int = 1) -> Object:
    return Object(version=version, body=TransportZone(uuid=ZONE, name=name))


def _port(vif: UUID | None = VIF, version: int = 2) -> Object:
    return Object(
        version=version,
        body=LogicalPort(uuid=PORT, name="p", network_uuid=NETWORK, vif_uuid=vif, mac="52:54:00:00:00:01"),
    )


def _location(version: int, **more: object) -> Object:
    return Object(version=version, body=Location(port_uuid=PORT, network_uuid=NETWORK, version=version, **more))  # type: ignore[arg-type]


def test_what_was_taken_is_there_after_a_restart(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    state.set_store("store-1")
    network = OpaqueNetwork(uuid=NETWORK, name="blue", zone_uuid=ZONE, switch_uuid=uuid4(), segment_id=5000)
    host = HostConfig(uuid=HOST, name="h1", zone_uuids=(ZONE,))
    state.take(
        [_zone(), _port(), _location(7), Object(version=3, body=network), Object(version=4, body=host)], revision=9
    )
    state.put_vif(VifRecord(vif_uuid=VIF, port_uuid=PORT, network_uuid=NETWORK, vm_name="web"))
    state.note_migration(HOST, at_unix=100.0)
    # no close: as after kill -9
    again = State(tmp_path / "state.db")
    assert (again.store_id, again.revision, again.host) == ("store-1", 9, host)
    assert again.networks == {NETWORK: network}
    assert again.port_by_vif == {VIF: PORT}
    assert again.locations[PORT].version == 7
    assert again.vifs[VIF].vm_name == "web"
    assert again.notes == {HOST: 100.0}
    assert set(again.have()) == set(state.have())


def test_of_which_networks_all_was_told_is_kept_with_what_was_told(tmp_path: Path) -> None:
    state, red = State(tmp_path / "state.db"), uuid4()
    assert state.told is None, "an older version of the agent did not note it"
    for told in (frozenset({NETWORK, red}), frozenset({NETWORK}), frozenset[UUID]()):
        state.take([], revision=9, told=told)
        state.take([_zone()])
        assert state.told == State(tmp_path / "state.db").told == told


def test_a_port_has_one_line_of_the_mapping_table_that_of_its_latest_vif(tmp_path: Path) -> None:
    """libvirt invents a VIF UUID at each start of a domain that has none."""
    state, later, other = State(tmp_path / "state.db"), uuid4(), uuid4()
    state.put_vif(VifRecord(vif_uuid=VIF, port_uuid=PORT, network_uuid=NETWORK))
    state.put_vif(VifRecord(vif_uuid=other, port_uuid=None, network_uuid=NETWORK, mac="52:54:00:00:00:02"))
    state.put_vif(VifRecord(vif_uuid=later, port_uuid=PORT, network_uuid=NETWORK))
    assert state.vifs.keys() == {later, other}
    again = State(tmp_path / "state.db")
    assert again.vifs == state.vifs
    assert again.vifs[other].port_uuid is None


def test_lines_of_the_mapping_table_that_lead_nowhere_go_and_those_of_known_ports_or_plugged_vifs_stay(
    tmp_path: Path,
) -> None:
    state, plugged, gone = State(tmp_path / "state.db"), uuid4(), uuid4()
    state.take([_port()])
    for vif, port in ((VIF, PORT), (plugged, None), (gone, uuid4())):
        state.put_vif(VifRecord(vif_uuid=vif, port_uuid=port, network_uuid=NETWORK))
    state.forget_vifs(but={plugged})
    assert state.vifs.keys() == State(tmp_path / "state.db").vifs.keys() == {VIF, plugged}
    state.forget_vifs(but=())
    assert state.vifs.keys() == {VIF}  # its guest is stopped, and may start again without a manager


def test_a_line_that_can_not_be_written_is_not_remembered_either(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    with sqlite3.connect(tmp_path / "state.db") as db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON vifs BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    with pytest.raises(StateError, match="disk is full"):
        state.put_vif(VifRecord(vif_uuid=VIF, port_uuid=PORT, network_uuid=NETWORK))
    assert state.vifs == {}


def test_taking_the_same_again_changes_nothing(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    assert state.take([_zone(), _port()]) != ()
    assert state.take([_zone(), _port()]) == ()


def test_removed_objects_are_gone_and_the_vif_index_with_them(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    state.take([_zone(), _port()])
    removed = state.take((), [Ref(kind=Kind.PORT, uuid=PORT), Ref(kind=Kind.NETWORK, uuid=NETWORK)])
    assert removed == (Ref(kind=Kind.PORT, uuid=PORT),)
    assert state.port_by_vif == {}
    assert State(tmp_path / "state.db").ports == {}


def test_a_port_that_changes_its_vif_is_found_by_the_new_one_only(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    other = uuid4()
    state.take([_port()])
    state.take([_port(vif=other, version=3)])
    assert state.port_by_vif == {other: PORT}


def test_an_older_location_is_refused_even_after_its_removal_and_a_restart(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    state.take([_location(7)])
    state.take((), [Ref(kind=Kind.LOCATION, uuid=PORT)])
    again = State(tmp_path / "state.db")
    assert again.take([_location(6)]) == ()
    assert again.locations == {}
    assert "older than 7" in again.refused_locations[PORT]
    again.take([_location(8)])
    assert again.locations[PORT].version == 8
    assert again.refused_locations == {}


def test_an_answer_that_a_push_has_overtaken_changes_nothing_and_a_push_may_go_back(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    other = uuid4()
    state.take([_port(other, version=9), _location(9)])
    assert state.take_answer([_port(VIF, version=8), _location(8)]) == ()
    assert (state.ports[PORT].vif_uuid, state.locations[PORT].version) == (other, 9)
    assert len(state.take_answer([_port(VIF, version=10), _location(10)])) == 2
    state.take([_port(other, version=3)])  # a restored store's word
    assert state.ports[PORT].vif_uuid == other


def test_a_refused_location_keeps_its_body_and_takes_the_managers_row_version(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    state.take([_location(9)])
    old = _location(5)
    state.take([Object(version=77, body=old.body)])
    again = State(tmp_path / "state.db")
    for one in (state, again):
        assert one.locations[PORT].version == 9
        assert Ref(kind=Kind.LOCATION, uuid=PORT, version=77) in one.have()
    assert again.take([Object(version=78, body=_location(10).body)])  # the next difference is taken against that row


def test_endpoints_and_relays_outlive_the_agent(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    endpoint = Endpoint(
        vif_uuid=VIF,
        port_uuid=PORT,
        network_uuid=NETWORK,
        kind=EndpointKind.NETNS,
        device="opn-1",
        netns="/run/netns/c1",
        ifname="eth0",
        mac="02:00:00:00:00:01",
        addresses=("10.0.0.1/24", "fd00::1/64"),
        name="c1",
    )
    relay = Relay(port_uuid=PORT, phase=Phase.RELAYING, vtep="10.0.0.2", until_unix=1e9)
    state.records.put_endpoint(endpoint)
    state.records.put_relay(relay)
    again = State(tmp_path / "state.db")
    assert (again.records.endpoints, again.records.relays) == ({VIF: endpoint}, {PORT: relay})
    again.records.drop_endpoint(VIF)
    again.records.drop_relay(PORT)
    last = State(tmp_path / "state.db").records
    assert (last.endpoints, last.relays) == ({}, {})


def test_keep_only_drops_what_another_store_did_not_send(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    state.take([_zone(), _port()])
    assert state.keep_only([Ref(kind=Kind.ZONE, uuid=ZONE)]) == (Ref(kind=Kind.PORT, uuid=PORT),)
    assert (set(state.zones), state.ports) == ({ZONE}, {})


@pytest.mark.parametrize("damage", [b"not a database at all" * 100, b""])
def test_a_damaged_database_is_moved_aside_and_an_empty_one_begun(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "state.db"
    State(path).take([_zone()], revision=5)
    for part in tmp_path.iterdir():
        part.unlink()
    path.write_bytes(damage)
    state = State(path)
    assert (state.revision, state.zones) == (0, {})
    state.take([_zone()], revision=6)
    assert State(path).revision == 6
    moved = [part for part in tmp_path.iterdir() if ".damaged-" in part.name]
    assert bool(moved) == bool(damage)  # an empty file is a new database


@pytest.mark.parametrize("damage", ["value = x'ffffff'", "value = x'9201c0'", "kind = 'weather'"])
def test_an_object_that_this_version_cannot_read_does_not_stop_the_start(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state.db"
    State(path).take([_zone()], revision=5)
    with sqlite3.connect(path) as db:
        db.execute(f"UPDATE objects SET {damage}")
    assert State(path).zones == {}


def test_a_write_that_fails_leaves_memory_as_the_disk_is(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    state = State(path)
    state.take([_zone()], revision=5)
    with sqlite3.connect(path) as db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON objects BEGIN SELECT RAISE(FAIL, 'disk full'); END")
    with pytest.raises(StateError, match="disk full"):
        state.take([_port(), _zone("b", version=8)], revision=6)
    assert (state.revision, state.ports, state.zones[ZONE].name) == (5, {}, "a")
    assert state.port_by_vif == {}


def test_the_boot_id_lasts_for_one_boot_and_one_run_directory(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_text("k1\n")
    ids = iter(["one", "two", "three"])

    def read(run: str) -> str:
        return read_boot_id(tmp_path / run, make=lambda: next(ids), kernel=kernel)

    first = read("run")
    assert read("run") == first == "k1/one"
    assert read("fresh-run") == "k1/two"
    kernel.write_text("k2\n")
    assert read("run") == "k2/three"


def test_a_small_table_that_was_handed_out_stays_as_it_was(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    before = state.zones
    state.take([_zone()])
    one = state.zones
    state.take([_zone(name="b", version=2)])
    two = state.zones
    state.take((), [Ref(kind=Kind.ZONE, uuid=ZONE)])
    assert [[zone.name for zone in zones.values()] for zones in (before, one, two, state.zones)] == [
        [],
        ["a"],
        ["b"],
        [],
    ]
