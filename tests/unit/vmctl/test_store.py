"""vmctl's store: what survives, and what it refuses."""

import os
import sqlite3
from pathlib import Path
from uuid import UUID

import pytest

from vmctl.model import Code, Host, MigrationState, VmctlError, VmRecord, VmState
from vmctl.store import Store

HOST = Host(
    name="h1", libvirt_uri="qemu:///system", peer_uri="qemu+tls://h1/system", migration_address="::1", uuid=UUID(int=1)
)
RECORD = VmRecord(uuid=UUID(int=2), name="vm1", host="h1", xml="<domain/>", wanted=VmState.SHUT_OFF, ips=("10.0.0.1",))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'state' / 'vmctl.db'}"


@pytest.fixture
def store(url: str) -> Store:
    return Store(url)


def plan(store: Store, vm: int = 2) -> int:
    return store.plan_migration(vm_uuid=UUID(int=vm), vm_name="vm1", source="h1", destination="h2", now="t0").id


def test_rows_survive_a_restart(store: Store, url: str) -> None:
    store.add_host(HOST)
    store.put_vm(RECORD)
    id = plan(store)
    store.close()
    again = Store(url)
    assert again.hosts() == (HOST,)
    assert again.vms() == (RECORD,)
    assert again.migration(id).state is MigrationState.PLANNED


def test_acknowledged_writes_are_synced_to_disk(store: Store) -> None:
    with store._begin() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


def test_second_open_move_of_a_vm_is_refused_by_the_store_itself(store: Store) -> None:
    id = plan(store)
    plan(store, vm=3)
    with pytest.raises(VmctlError, match=rf"on its way to h2 \(migration {id}\)") as refused:
        plan(store)
    assert [refusal.code for refusal in refused.value.refusals] == [Code.MOVING]
    store.change_migration(id, state=MigrationState.FAILED, now="t1", sentence="because")
    assert plan(store) > id


def test_change_is_seen_and_numbers_are_kept(store: Store) -> None:
    id = plan(store)
    row = store.change_migration(
        id, state=MigrationState.DONE, now="t9", sentence="moved", total_ms=4000, downtime_ms=7
    )
    assert row == store.migration(id) == store.migrations()[0]
    assert (row.started_at, row.changed_at, row.total_ms, row.downtime_ms) == ("t0", "t9", 4000, 7)


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


def test_store_of_a_newer_vmctl_is_left_alone(store: Store, url: str) -> None:
    store.close()
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute("INSERT INTO vmctl_schema VALUES (99)")
    with pytest.raises(VmctlError, match="schema 99"):
        Store(url)


def test_disk_that_takes_no_more_is_one_sentence_and_changes_nothing(store: Store) -> None:
    with store._begin() as connection:  # SQLite's own limit stands for the disk's: the same error, SQLITE_FULL
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(VmctlError, match="full; nothing was changed"):
        store.put_vm(VmRecord(uuid=UUID(int=5), name="big", host="h1", xml="x" * 10**6, wanted=VmState.RUNNING))
    assert store.vms() == ()


def test_directory_of_the_store_is_closed_to_others(store: Store, url: str) -> None:
    assert os.stat(Path(url.removeprefix("sqlite:///")).parent).st_mode & 0o077 == 0
