"""What the manager pushed, as rows: nothing is lost on the way, nor on the way from an earlier schema."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent import kept_objects
from hostagent.state import State
from netmgr.contract import types as t
from netmgr.contract.codec import ContractError, encode_object
from tests.support.contract_values import bodies, u64

NETWORK, HOST = uuid4(), uuid4()


def memory() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    db.execute(kept_objects.TABLE)
    return db


def kept(*items: t.Object) -> sqlite3.Connection:
    db = memory()
    db.executemany("INSERT INTO objects VALUES (?, ?, ?)", map(kept_objects.row, items))
    return db


def make_schema_1(path: Path, *items: t.Object) -> None:
    """A database as agents had it that kept the contract's messages."""
    State(path).take((), revision=12)
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE objects")
        db.execute("CREATE TABLE objects (kind, uuid, body, PRIMARY KEY (kind, uuid)) WITHOUT ROWID")
        for item in items:
            ref = t.ref_of(item)
            raw = encode_object(item).SerializeToString()
            db.execute("INSERT INTO objects VALUES (?, ?, ?)", (ref.kind.value, str(ref.uuid), raw))
        db.execute("PRAGMA user_version = 1")


def pair(name: str) -> tuple[t.Object, t.Object]:
    """A port elsewhere, and where it is; equal parts are other objects."""
    uuid, mac = uuid4(), f"52:54:00:00:00:{len(name):02x}"
    port = t.LogicalPort(uuid=uuid, name=name, network_uuid=UUID(int=NETWORK.int), mac=mac, ips=("10.0.0.1",))
    where = t.Location(
        port_uuid=UUID(int=uuid.int),
        network_uuid=UUID(int=NETWORK.int),
        holder_host=UUID(int=HOST.int),
        holder_vtep="192.0.2.1",
        version=7,
        mac="".join(mac),
    )
    return t.Object(version=3, body=port), t.Object(version=9, body=where)


@settings(max_examples=200, deadline=None)
@given(items=st.lists(st.builds(t.Object, version=u64, body=bodies), max_size=4, unique_by=t.ref_of))
def test_whatever_was_pushed_is_read_again(items: list[t.Object]) -> None:
    read = {(version, body) for _, version, body in kept_objects.read(kept(*items))}
    assert read == {(item.version, item.body) for item in items}


def test_equal_parts_are_one_object_in_memory() -> None:
    items = [*pair("a"), *pair("bc")]
    read = [body for _, _, body in kept_objects.read(kept(*items))]
    assert set(read) == {item.body for item in items}
    for port, where in zip(read[::2], read[1::2], strict=True):
        assert isinstance(port, t.LogicalPort)
        assert isinstance(where, t.Location)
        assert port.uuid is where.port_uuid
        assert port.mac is where.mac
        assert port.network_uuid is where.network_uuid is read[0].network_uuid  # type: ignore[union-attr]
        assert where.holder_host is read[1].holder_host  # type: ignore[union-attr]
        assert where.holder_vtep is read[1].holder_vtep  # type: ignore[union-attr]


def test_a_field_of_a_newer_version_is_passed_over_and_an_absent_one_has_its_default() -> None:
    row = {"uuid": str(NETWORK), "name": "a", "colour": "red"}
    db = memory()
    db.execute("INSERT INTO objects VALUES ('zone', ?, ?)", (str(NETWORK), msgspec.msgpack.encode((4, row))))
    assert [*kept_objects.read(db)] == [(str(NETWORK), 4, t.TransportZone(uuid=NETWORK, name="a"))]


def test_a_value_that_can_not_be_read_is_named() -> None:
    db = memory()
    value = msgspec.msgpack.encode((4, {"uuid": "no UUID", "name": "a"}))
    db.execute("INSERT INTO objects VALUES ('zone', ?, ?)", (str(NETWORK), value))
    with pytest.raises(ContractError, match=rf"zone {NETWORK} can't be read: .*Invalid UUID"):
        list(kept_objects.read(db))


def test_an_agent_that_kept_messages_is_upgraded_without_a_word_of_the_manager(tmp_path: Path) -> None:
    items = [*pair("a"), t.Object(version=1, body=t.TransportZone(uuid=uuid4(), name="z"))]
    path = tmp_path / "state.db"
    make_schema_1(path, *items)
    for _ in range(2):  # and then as any other
        state = State(path)
        assert set(state.have()) == {t.ref_of(item) for item in items}
        assert {*state.ports.values(), *state.locations.values(), *state.zones.values()} == {i.body for i in items}
        assert state.revision == 12
        state.close()
    assert [entry.name for entry in tmp_path.iterdir() if "damaged" in entry.name] == []


def test_an_upgrade_that_is_cut_off_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.db"
    zone = t.Object(version=1, body=t.TransportZone(uuid=uuid4(), name="z"))
    make_schema_1(path, zone)

    def cut_off(item: t.Object) -> tuple[str, str, bytes]:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(kept_objects, "row", cut_off)
        with pytest.raises(KeyboardInterrupt):
            State(path)
    assert [*State(path).zones.values()] == [zone.body]
