"""The store on SQLite and PostgreSQL: what is acknowledged is there, what is not leaves no trace, replicas agree."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, event, text

from netmgr.contract.types import (
    Kind,
    Location,
    LogicalPort,
    OpaqueNetwork,
    OpaqueSwitch,
    TransportZone,
    VtepAssignment,
    Withdrawal,
)
from netmgr.model import FREED_SEGMENT, TOKEN, FreedSegment, HostRecord, JoinToken, NetmgrError, PortHistory, Row
from netmgr.store import Store, migrate
from netmgr.store.schema import metadata

Open = Callable[[], Store]


@pytest.fixture
def open_store(store_url: str) -> Iterator[Open]:
    """Opens stores on one database; all are closed afterwards."""
    opened: list[Store] = []

    def open_one() -> Store:
        opened.append(Store.open(store_url))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


def zone(name: str) -> TransportZone:
    return TransportZone(uuid=uuid4(), name=name)


def put(store: Store, *rows: Row) -> int:
    with store.transaction() as tx:
        for row in rows:
            tx.put(row)
        return tx.revision


def one_of_each() -> list[Row]:
    a = zone("a")
    switch = OpaqueSwitch(uuid=uuid4(), name="s", zone_uuids=(a.uuid,), vtep_pool="10.0.0.0/24")
    vtep = VtepAssignment(switch_uuid=switch.uuid, address="10.0.0.1/24")
    host = HostRecord(uuid=uuid4(), name="h", zone_uuids=(a.uuid,), vteps=(vtep,), pnics=("eth0",), boot_id="b1")
    network = OpaqueNetwork(
        uuid=uuid4(), name="n", zone_uuid=a.uuid, switch_uuid=switch.uuid, segment_id=5000, subnets=("10.1.0.0/24",)
    )
    port = LogicalPort(
        uuid=uuid4(), name="p", network_uuid=network.uuid, vif_uuid=uuid4(), mac="02:00:00:00:00:01", ips=("10.1.0.2",)
    )
    location = Location(
        port_uuid=port.uuid,
        network_uuid=network.uuid,
        holder_host=host.uuid,
        holder_vtep="10.0.0.1",
        version=1_790_000_000_000,
        mac=port.mac,
    )
    token = JoinToken(uuid=uuid4(), secret_sha256="x", expires_at="2026-01-01T00:00:00+00:00", used_by=host.uuid)
    freed = FreedSegment(uuid=uuid4(), network_name="old", switch_uuid=switch.uuid, segment_id=5001)
    hidden = Withdrawal(uuid=uuid4(), network_uuid=network.uuid, host_uuid=host.uuid, reason="r", by="b", since="s")
    shadow = replace(port, uuid=uuid4(), name="s", vif_uuid=None, shadow_of=port.uuid)
    history = PortHistory(port_uuid=port.uuid, made_by=host.uuid, vm_uuid=uuid4())
    return [a, switch, host, network, port, location, token, freed, hidden, shadow, history]


def test_every_kind_of_row_comes_back_equal_after_reopening(open_store: Open) -> None:
    rows = one_of_each()
    first = open_store()
    revision = put(first, *rows)
    with first.read() as before, open_store().read() as after:
        assert after == before
        assert after.revision == revision
        assert {after.versions[key] for key in after.versions} == {revision}
        assert len(after.versions) == len(rows)


def test_commits_do_not_lengthen_a_log_that_is_laid_out(tmp_path: Path) -> None:
    log = tmp_path / "netmgr.db-wal"
    store = Store.open(f"sqlite:///{tmp_path}/netmgr.db")
    first, second = (TransportZone(uuid=uuid4(), name=name) for name in ("a", "b"))
    with store.transaction() as tx:
        tx.put(first)
    store.lay_out()
    size = log.stat().st_size
    assert size > 1000 * 4096
    with store.transaction() as tx:
        tx.put(second)
    assert log.stat().st_size == size
    copy = tmp_path / "copy"  # as it would be found after a crash
    copy.mkdir()
    for part in ("netmgr.db", "netmgr.db-wal"):
        (copy / part).write_bytes((tmp_path / part).read_bytes())
    store.close()
    found = Store.open(f"sqlite:///{copy}/netmgr.db")
    with found.read() as world:
        assert world.zones.keys() == {first.uuid, second.uuid}
    found.close()


def test_store_id_stays_and_differs_between_databases(open_store: Open, tmp_path: Path) -> None:
    first = open_store()
    assert open_store().store_id == first.store_id
    other = Store.open(f"sqlite:///{tmp_path}/other.db")
    assert other.store_id != first.store_id
    assert str(UUID(other.store_id)) == other.store_id
    other.close()


def test_one_transaction_is_one_revision_with_all_its_changes(open_store: Open) -> None:
    store = open_store()
    a, b = zone("a"), zone("b")
    assert put(store, a, b) == 1
    with store.transaction() as tx:
        tx.put(replace(a, name="c"))
        tx.delete(Kind.ZONE, b.uuid)
    changes = store.changes(after=0)
    assert [(c.revision, c.uuid, c.row) for c in changes] == [
        (1, a.uuid, a),
        (1, b.uuid, b),
        (2, b.uuid, None),
        (2, a.uuid, replace(a, name="c")),
    ]
    assert store.changes(after=1) == changes[2:]


def test_putting_what_is_there_spends_no_revision(open_store: Open) -> None:
    store = open_store()
    a = zone("a")
    put(store, a)
    put(store, a)
    with store.transaction() as tx:
        tx.put(replace(a, name="other"))
        tx.put(a)
        tx.delete(Kind.ZONE, uuid4())
    with store.read() as world:
        assert world.revision == 1
        assert world.versions["zone", a.uuid] == 1
    assert len(store.changes(after=0)) == 1


def test_transaction_sees_its_own_puts_and_an_exception_undoes_them(open_store: Open) -> None:
    store = open_store()
    rows = one_of_each()
    put(store, *rows)
    a = rows[0]
    assert isinstance(a, TransportZone)
    with open_store().read() as untouched:
        pass

    def fail() -> None:
        with store.transaction() as tx:
            tx.put(replace(a, name="renamed"))
            tx.put(zone("a"))  # the name is free now
            tx.delete(Kind.PORT, rows[4].uuid)  # type: ignore[union-attr]
            assert tx.world.zones[a.uuid].name == "renamed"
            assert rows[4].uuid not in tx.world.ports  # type: ignore[union-attr]
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError):
        fail()
    with store.read() as world:
        assert world == untouched
    assert put(store, zone("b")) == 2


def test_unique_values_may_be_exchanged_within_one_transaction(open_store: Open) -> None:
    store = open_store()
    rows = one_of_each()
    put(store, *rows)
    network = rows[3]
    assert isinstance(network, OpaqueNetwork)
    second = replace(network, uuid=uuid4(), name="m", segment_id=6000)
    put(store, second)
    with store.transaction() as tx:
        tx.put(replace(network, name="tmp", segment_id=7000))
        tx.put(replace(second, name="n", segment_id=5000))
        tx.put(replace(network, name="m", segment_id=6000))
    with open_store().read() as world:
        assert world.networks[network.uuid].name == "m"
        assert world.networks[second.uuid].segment_id == 5000


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: replace(rows[0], uuid=uuid4()),
        lambda rows: replace(rows[3], uuid=uuid4(), name="other"),
        lambda rows: replace(rows[4], uuid=uuid4(), name="other", vif_uuid=None, ips=()),
        lambda rows: replace(rows[4], uuid=uuid4(), name="other", mac="02:00:00:00:00:09", ips=()),
        lambda rows: replace(rows[3], uuid=uuid4(), name="other", segment_id=0),
        lambda rows: replace(rows[3], uuid=uuid4(), name="other", segment_id=77, zone_uuid=uuid4()),
        lambda rows: replace(rows[5], port_uuid=uuid4()),
    ],
    ids=["zone-name", "segment", "mac", "vif", "segment-range", "unknown-zone", "location-without-port"],
)
def test_database_refuses_what_the_rules_would_have(open_store: Open, change: Callable[[list[Row]], Row]) -> None:
    store = open_store()
    rows = one_of_each()
    put(store, *rows)
    with pytest.raises(NetmgrError) as caught:
        put(store, change(rows))
    assert caught.value.status == 409
    with store.read() as world, open_store().read() as fresh:
        assert world == fresh
        assert world.revision == 1
    assert put(store, zone("after")) == 2


def test_a_commit_and_a_read_with_nothing_foreign_go_past_sqlalchemy(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/netmgr.db")
    rows = one_of_each()
    put(store, *rows)
    asked: list[str] = []

    def note(_connection: Connection, _cursor: object, statement: str, *_more: object) -> None:
        asked.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        put(store, zone("b"))
        put(store, replace(rows[0], name="c"))  # type: ignore[arg-type]
        with store.read() as world:
            assert {one.name for one in world.zones.values()} == {"b", "c"}
        assert asked == []
        Store.open(store.url).close()  # reads, and so shows that the listener hears
        assert asked
    finally:
        event.remove(Engine, "before_cursor_execute", note)
        store.close()


def test_removal_of_what_others_refer_to_is_refused_by_the_database(open_store: Open) -> None:
    store = open_store()
    rows = one_of_each()
    put(store, *rows)
    with pytest.raises(NetmgrError), store.transaction() as tx:
        tx.delete(Kind.NETWORK, rows[3].uuid)  # type: ignore[union-attr]
    with store.read() as world:
        assert len(world.networks) == 1


def test_two_stores_on_one_database_see_each_others_changes(open_store: Open) -> None:
    one, two = open_store(), open_store()
    told_one, told_two = threading.Event(), threading.Event()
    one.on_commit(told_one.set)
    two.on_commit(told_two.set)
    a, b = zone("a"), zone("b")
    put(one, a)
    assert told_one.is_set()  # the committer is told at once
    with two.read() as world:
        assert world.zones == {a.uuid: a}
    assert told_two.wait(2)
    told_one.clear()
    assert put(two, b) == 2
    assert told_one.wait(2)
    with one.read() as world:
        assert world.zones == {a.uuid: a, b.uuid: b}
        assert world.versions["zone", b.uuid] == 2


def test_foreign_commit_is_told_within_a_tenth_of_a_second_usually(open_store: Open) -> None:
    one, two = open_store(), open_store()
    waits = []
    for number in range(5):
        told = threading.Event()
        two.on_commit(told.set)
        started = time.monotonic()
        put(one, zone(f"z{number}"))
        assert told.wait(2)
        waits.append(time.monotonic() - started)
    assert min(waits) < 0.15, waits


def test_what_is_remembered_of_commits_equals_the_log_or_is_not_told(open_store: Open) -> None:
    one, two = open_store(), open_store()
    put(one, zone("a"))
    assert one.recent(after=0) is None  # nothing is known of what was before
    for store, name in ((one, "b"), (two, "c"), (one, "d"), (two, "e")):
        put(store, zone(name))
    with one.read():
        pass  # catches up
    for after in range(1, 6):
        assert one.recent(after=after) == one.changes(after=after)
    assert one.recent(after=6) is None  # the future: a store that was restored, perhaps


def test_a_glance_waits_for_nobody_and_sees_nothing_old(open_store: Open) -> None:
    one, two = open_store(), open_store()
    put(one, zone("a"))
    sqlite = one.url.startswith("sqlite")
    put(two, zone("b"))
    with one.glance() as world:
        assert world is None or len(world.zones) == 2  # the watcher is there, or has been
    with one.read(), one.glance() as world:  # the lock is ours, and the World is level
        assert len(world.zones) == 2 if sqlite and world is not None else world is None and not sqlite
    entered, leave = threading.Event(), threading.Event()

    def write() -> None:
        with one.transaction():
            entered.set()
            leave.wait(5)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        assert entered.wait(5)
        with one.glance() as world:
            assert world is None
        leave.set()
        writing.result()
    with one.transaction(), one.glance() as world:
        assert world is None  # what is not committed is nobody's to see


def test_a_transaction_that_failed_is_not_remembered(open_store: Open) -> None:
    store = open_store()
    put(store, zone("a"))
    taken = zone("a")
    with pytest.raises(NetmgrError), store.transaction() as tx:
        tx.put(taken)
    assert store.recent(after=1) == []


def test_concurrent_writers_get_distinct_revisions_without_gaps(open_store: Open) -> None:
    stores = [open_store() for _ in range(3)]

    def write(number: int) -> int:
        return put(stores[number % 3], zone(f"z{number}"))

    with ThreadPoolExecutor(6) as pool:
        revisions = list(pool.map(write, range(30)))
    assert sorted(revisions) == list(range(1, 31))
    for store in stores:
        with store.read() as world:
            assert world.revision == 30
            assert len(world.zones) == 30
        assert [change.revision for change in store.changes(after=0)] == list(range(1, 31))


def test_decisions_are_made_on_the_newest_state(open_store: Open) -> None:
    stores = [open_store() for _ in range(2)]
    counter = JoinToken(uuid=uuid4(), secret_sha256="0", expires_at="x")
    put(stores[0], counter)

    def increment(number: int) -> None:
        with stores[number % 2].transaction() as tx:
            found = tx.world.tokens[counter.uuid]
            tx.put(replace(found, secret_sha256=str(int(found.secret_sha256) + 1)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(increment, range(20)))
    with stores[0].read() as world:
        assert world.tokens[counter.uuid].secret_sha256 == "20"


def test_killed_between_put_and_commit_leaves_nothing(store_url: str, open_store: Open) -> None:
    store = open_store()
    put(store, zone("before"))
    program = (
        "import os, signal, sys; from uuid import uuid4; from netmgr.store import Store;"
        "from netmgr.contract.types import TransportZone;"
        "s = Store.open(sys.argv[1]);\n"
        "with s.transaction() as tx:\n"
        "    tx.put(TransportZone(uuid=uuid4(), name='acknowledged'))\n"
        "print('acknowledged', flush=True)\n"
        "flush = type(tx)._flush\n"
        "type(tx)._flush = lambda self, c: (flush(self, c), os.kill(os.getpid(), signal.SIGKILL))\n"
        "with s.transaction() as tx:\n"
        "    tx.put(TransportZone(uuid=uuid4(), name='lost'))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, store_url], capture_output=True, text=True, timeout=30)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout == "acknowledged\n"
    with open_store().read() as world:
        assert sorted(z.name for z in world.zones.values()) == ["acknowledged", "before"]
        assert world.revision == 2
    assert put(store, zone("after")) == 3


def test_migrations_build_exactly_the_tables_of_the_schema(open_store: Open, store_url: str) -> None:
    open_store()
    engine = create_engine(store_url)
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection, {"compare_type": True}), metadata)
    engine.dispose()
    assert differences == []


def test_ports_and_locations_of_an_older_schema_are_taken_over(store_url: str) -> None:
    engine = create_engine(store_url)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        rows = {
            "zone": {"uuid": "z", "name": "a", "kind": "overlay"},
            "switch": {
                "uuid": "s",
                "name": "s",
                "zone_uuids": '["z"]',
                "pnic_globs": '["*"]',
                "mtu": 1600,
                "vtep_pool": "10.0.0.0/24",
                "teaming": "single",
            },
            "network": {
                "uuid": "n",
                "name": "n",
                "type": "vxlan",
                "zone_uuid": "z",
                "switch_uuid": "s",
                "mtu": 1450,
                "segment_id": 5000,
                "attach_mode": "auto",
                "subnets": "[]",
            },
            "port": {
                "uuid": "p",
                "name": "p",
                "network_uuid": "n",
                "vif_uuid": None,
                "mac": "02:00:00:00:00:01",
                "ips": '["10.1.0.2"]',
                "admin_up": True,
            },
            "location": {
                "port_uuid": "p",
                "network_uuid": "n",
                "holder_host": None,
                "holder_vtep": "",
                "parked": False,
                "incoming_host": None,
                "incoming_vtep": "",
                "version": 7,
                "mac": "02:00:00:00:00:01",
            },
        }
        ids = {short: str(uuid4()) for short in "zsnp"}
        for table, row in rows.items():
            values = {name: ids[value] if name.endswith("uuid") and value else value for name, value in row.items()} | {
                "version_revision": 3
            }
            if table == "switch":
                values["zone_uuids"] = f'["{ids["z"]}"]'
            names = ", ".join(values)
            marks = ", ".join(f":{name}" for name in values)
            connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), values)
    engine.dispose()
    store = Store.open(store_url)
    try:
        with store.read() as world:
            (port,) = world.ports.values()
            (location,) = world.locations.values()
        assert (str(port.uuid), port.mac, port.ips, port.admin_up, port.shadow_of) == (
            ids["p"],
            "02:00:00:00:00:01",
            ("10.1.0.2",),
            True,
            None,
        )
        assert (location.port_uuid, location.version) == (port.uuid, 7)
        put(store, replace(port, uuid=uuid4(), name="shadow", shadow_of=port.uuid))
        with pytest.raises(NetmgrError, match="refused the change"), store.transaction() as tx:
            tx.delete(Kind.PORT, port.uuid)  # its location and its shadow refer to it still
    finally:
        store.close()


def test_newer_schema_is_refused_with_a_sentence(open_store: Open, store_url: str) -> None:
    open_store().close()
    engine = create_engine(store_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(NetmgrError, match=r"schema 9999.*upgrade this one"):
        open_store()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nonsense", "no database URL"),
        ("mysql://x/y", "not supported"),
        ("sqlite://", "in-memory"),
        ("sqlite:///relative.db", "relative path"),
        ("sqlite:////nonexistent/directory/x.db", "can't be opened"),
        ("postgresql+psycopg://u:secret@127.0.0.1:1/x", "does not answer"),
    ],
)
def test_unusable_url_is_refused_with_a_sentence(url: str, sentence: str) -> None:
    with pytest.raises(NetmgrError, match=sentence) as caught:
        Store.open(url)
    assert "secret" not in caught.value.sentence


def test_locked_database_is_a_sentence_and_works_again_when_free(
    open_store: Open, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netmgr.store.engine._WAIT_FOR_LOCK_S", 1)
    store = open_store()
    engine = create_engine(store_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        sqlite = engine.dialect.name == "sqlite"
        connection.execute(text("BEGIN IMMEDIATE" if sqlite else f"SELECT pg_advisory_lock({0x6E65746D6772})"))
        with pytest.raises(NetmgrError, match="locked by another program") as caught:
            put(store, zone("a"))
        assert caught.value.status == 503
        connection.execute(text("ROLLBACK" if sqlite else f"SELECT pg_advisory_unlock({0x6E65746D6772})"))
    engine.dispose()
    assert put(store, zone("a")) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_full_disk_is_a_sentence_and_leaves_the_last_state(tmp_path: Path) -> None:
    program = """
import sys
from uuid import uuid4
from netmgr.contract.types import TransportZone
from netmgr.model import JoinToken, NetmgrError
from netmgr.store import Store
store = Store.open(f"sqlite:///{sys.argv[1]}/x.db")
done = 0
try:
    for number in range(1000):
        with store.transaction() as tx:
            tx.put(JoinToken(uuid=uuid4(), secret_sha256="x" * 20000, expires_at=""))
        done += 1
except NetmgrError as error:
    print(error.status, error.sentence)
with store.read() as world:
    assert len(world.tokens) == world.revision == done > 0
store.close()
again = Store.open(f"sqlite:///{sys.argv[1]}/x.db")
with again.read() as world:
    assert len(world.tokens) == done
again.close()
"""
    mounted = f'mount -t tmpfs -o size=1m tmpfs {tmp_path} && exec {sys.executable} -c "$PROGRAM" {tmp_path}'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mounted],
        env={**os.environ, "PROGRAM": program},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("503 ")
    assert "is full, nothing was written" in done.stdout


def test_kinds_that_hosts_do_not_see_are_logged_too(open_store: Open) -> None:
    store = open_store()
    token = JoinToken(uuid=uuid4(), secret_sha256="x", expires_at="y")
    freed = FreedSegment(uuid=uuid4(), network_name="n", switch_uuid=uuid4(), segment_id=1, host_uuids=(uuid4(),))
    put(store, token, freed)
    assert [(c.kind, c.row) for c in store.changes(after=0)] == [(TOKEN, token), (FREED_SEGMENT, freed)]
