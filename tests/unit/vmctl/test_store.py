"""vmctl's store: what survives, and what it refuses."""

import os
import sqlite3
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from vmctl.journal import Journal
from vmctl.model import Host, MigrationState, MoveKind, MovePolicy, VmctlError, VmRecord, VmState
from vmctl.store import Store
from vmctl.tables import metadata

HOST = Host(
    name="h1", libvirt_uri="qemu:///system", peer_uri="qemu+tls://h1/system", migration_address="::1", uuid=UUID(int=1)
)
RECORD = VmRecord(uuid=UUID(int=2), name="vm1", host="h1", xml="<domain/>", wanted=VmState.SHUT_OFF, ips=("10.0.0.1",))


BEFORE_MIGRATIONS = """
CREATE TABLE vmctl_schema (version INTEGER NOT NULL PRIMARY KEY); INSERT INTO vmctl_schema VALUES (1);
CREATE TABLE hosts (name TEXT NOT NULL PRIMARY KEY, uuid TEXT UNIQUE, libvirt_uri TEXT NOT NULL, peer_uri TEXT NOT NULL,
    migration_address TEXT NOT NULL, agent_address TEXT NOT NULL);
INSERT INTO hosts VALUES ('h1', NULL, 'x', 'x', 'x', '');
CREATE TABLE vms (uuid TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL UNIQUE, host TEXT NOT NULL, xml TEXT NOT NULL,
    wanted TEXT NOT NULL, ips TEXT NOT NULL);
CREATE TABLE migrations (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, vm_uuid TEXT NOT NULL, vm_name TEXT NOT NULL,
    source TEXT NOT NULL, destination TEXT NOT NULL, state TEXT NOT NULL, sentence TEXT NOT NULL,
    started_at TEXT NOT NULL, changed_at TEXT NOT NULL, total_ms INTEGER, downtime_ms INTEGER, transferred_mib INTEGER);
CREATE INDEX ix_migrations_vm_uuid ON migrations (vm_uuid);
CREATE UNIQUE INDEX one_open_move_a_vm ON migrations (vm_uuid) WHERE state NOT IN ('done', 'failed');
INSERT INTO migrations VALUES (7, '00000000-0000-0000-0000-000000000002', 'vm1', 'h1', 'h2', 'checked', '', 't', 't',
    NULL, NULL, NULL);
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'state' / 'vmctl.db'}"


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    opened = Store(store_url)
    yield opened
    opened.close()


@pytest.fixture
def file_store(url: str) -> Iterator[Store]:
    """On SQLite, for what only a file has."""
    opened = Store(url)
    yield opened
    opened.close()


def test_rows_survive_a_restart(store: Store, store_url: str) -> None:
    store.add_host(HOST)
    store.put_vm(RECORD)
    store.close()
    again = Store(store_url)
    assert again.hosts() == (HOST,)
    assert again.vms() == (RECORD,)
    again.close()


def test_acknowledged_writes_are_synced_to_disk(file_store: Store) -> None:
    with file_store.begin() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


def test_host_name_and_host_uuid_are_each_taken_once(store: Store) -> None:
    store.add_host(HOST)
    with pytest.raises(VmctlError, match="a host of name h1 already"):
        store.add_host(Host(name="h1", libvirt_uri="x", peer_uri="x", migration_address="x", uuid=UUID(int=9)))
    with pytest.raises(VmctlError, match="host h1 with UUID"):
        store.add_host(Host(name="h2", libvirt_uri="x", peer_uri="x", migration_address="x", uuid=HOST.uuid))
    assert store.hosts() == (HOST,)


def test_vm_name_is_taken_once_and_a_row_is_replaced_by_its_uuid(store: Store) -> None:
    store.put_vm(RECORD)
    store.put_vm(VmRecord(uuid=RECORD.uuid, name="vm1", host="h2", xml="<x/>", wanted=VmState.RUNNING))
    assert [record.host for record in store.vms()] == ["h2"]
    with pytest.raises(VmctlError, match="VM of name vm1"):
        store.put_vm(VmRecord(uuid=UUID(int=9), name="vm1", host="h1", xml="", wanted=VmState.RUNNING))
    store.remove_vm(RECORD.uuid)
    assert store.vms() == ()


def test_tables_are_what_the_migrations_make(store: Store) -> None:
    for module in ("vmctl.placement_store", "vmctl.switches.store"):
        import_module(module)  # they have tables of their own
    with store.begin() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "vmctl_version"})
        assert compare_metadata(context, metadata) == []


def test_store_of_a_newer_vmctl_is_left_alone(store: Store, store_url: str) -> None:
    with store.begin() as connection:
        connection.exec_driver_sql("UPDATE vmctl_version SET version_num = '9999'")
    with pytest.raises(VmctlError, match="has schema 9999, and this vmctl knows schemas up to"):
        Store(store_url)


def test_store_from_before_there_were_migrations_keeps_its_rows(url: str) -> None:
    path = Path(url.removeprefix("sqlite:///"))
    path.parent.mkdir()
    with sqlite3.connect(path) as old:
        old.executescript(BEFORE_MIGRATIONS)
    store = Store(url)
    assert [host.name for host in store.hosts()] == ["h1"]
    (row,) = Journal(store).migrations()
    assert (row.state, row.kind, row.policy) == (MigrationState.RESERVED, MoveKind.LIVE, MovePolicy())
    with store.begin() as connection:
        assert "vmctl_schema" not in sa.inspect(connection).get_table_names()
    store.close()


def test_upgrade_that_is_cut_off_leaves_the_store_as_it_was(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(url.removeprefix("sqlite:///"))
    path.parent.mkdir()
    with sqlite3.connect(path) as old:
        old.executescript(BEFORE_MIGRATIONS)
    before = list(sqlite3.connect(path).iterdump())
    with sqlite3.connect(path) as blocker:
        blocker.execute("CREATE TABLE tasks (x)")  # the last migration makes it, and fails
    with pytest.raises(VmctlError, match="tasks"):
        Store(url)
    with sqlite3.connect(path) as blocker:
        blocker.execute("DROP TABLE tasks")
    assert list(sqlite3.connect(path).iterdump()) == before


def test_disk_that_takes_no_more_is_one_sentence_and_changes_nothing(file_store: Store) -> None:
    with file_store.begin() as connection:  # SQLite's own limit stands for the disk's: the same error, SQLITE_FULL
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(VmctlError, match="is full; nothing was changed: free space"):
        file_store.put_vm(VmRecord(uuid=UUID(int=5), name="big", host="h1", xml="x" * 10**6, wanted=VmState.RUNNING))
    assert file_store.vms() == ()


def test_url_of_no_database_is_refused_and_a_password_is_never_shown() -> None:
    for url, said in (
        ("nonsense", "is no database URL"),
        ("mysql://h/x", "use sqlite or postgresql"),
        ("sqlite://", "would be lost"),
    ):
        with pytest.raises(VmctlError, match=said):
            Store(url)
    with pytest.raises(VmctlError) as refused:
        Store("postgresql://u:secret@127.0.0.1:1/x")
    assert "secret" not in refused.value.sentence


def test_directory_of_the_store_is_closed_to_others(file_store: Store, url: str) -> None:
    assert os.stat(Path(url.removeprefix("sqlite:///")).parent).st_mode & 0o077 == 0
