"""The journal of moves, tasks and events, on both kinds of database."""

import asyncio
from collections.abc import Iterator
from uuid import UUID

import pytest

from vmctl.journal import KEPT_EVENTS, Journal
from vmctl.model import (
    Code,
    Event,
    Migration,
    MigrationState,
    MovePolicy,
    Task,
    TaskState,
    VmctlError,
    VmRecord,
    VmState,
)
from vmctl.store import Store
from vmctl.tasks import BACKLOG, Tasks

VM = UUID(int=2)


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    opened = Store(store_url)
    yield opened
    opened.close()


@pytest.fixture
def journal(store: Store) -> Journal:
    return Journal(store)


@pytest.fixture
def file_journal(tmp_path) -> Iterator[Journal]:  # type: ignore[no-untyped-def]
    opened = Store(f"sqlite:///{tmp_path}/vmctl.db")
    yield Journal(opened)
    opened.close()


def plan(journal: Journal, vm: UUID = VM) -> Migration:
    policy = MovePolicy(bandwidth_mib_s=7, post_copy=True)
    return journal.plan(vm_uuid=vm, vm_name="vm1", source="h1", destination="h2", now="t0", policy=policy)


def test_second_open_move_of_a_vm_is_refused_by_the_store_itself(journal: Journal) -> None:
    row = plan(journal)
    plan(journal, UUID(int=3))
    with pytest.raises(VmctlError, match=rf"on its way to h2 \(migration {row.id}\)") as refused:
        plan(journal)
    assert [refusal.code for refusal in refused.value.refusals] == [Code.MOVING]
    journal.change(row.id, state=MigrationState.UNDOING, now="t1", sentence="because")
    assert plan(journal).id > row.id  # where the VM is is certain: only cleaning is left


def test_change_is_seen_and_numbers_are_kept(journal: Journal) -> None:
    id = plan(journal).id
    row = journal.change(id, state=MigrationState.DONE, now="t9", sentence="moved", total_ms=4000, downtime_ms=7)
    assert row == journal.migration(id) == journal.migrations(vm_uuid=VM)[0]
    assert (row.started_at, row.changed_at, row.total_ms, row.downtime_ms) == ("t0", "t9", 4000, 7)
    assert row.policy == MovePolicy(bandwidth_mib_s=7, post_copy=True)
    assert journal.open_migrations() == ()


def test_committed_move_makes_the_destination_the_home_in_the_same_step(store: Store, journal: Journal) -> None:
    store.put_vm(VmRecord(uuid=VM, name="vm1", host="h1", xml="", wanted=VmState.RUNNING))
    id = plan(journal).id
    journal.change(id, state=MigrationState.MIGRATING, now="t1")
    assert store.vms()[0].host == "h1"
    journal.change(id, state=MigrationState.COMMITTED, now="t2", sentence="vm1 is running on h2")
    assert store.vms()[0].host == "h2"


def test_task_of_a_move_goes_with_it_and_every_step_is_an_event(journal: Journal) -> None:
    told: list[Event] = []
    journal.tell = told.append
    row = plan(journal)
    assert row.task_id is not None
    steps = [MigrationState.RESERVED, MigrationState.READY, MigrationState.MIGRATING]
    for state in steps:
        journal.change(row.id, state=state, now="t1")
    assert journal.task(row.task_id).state is TaskState.RUNNING
    journal.change(row.id, state=MigrationState.FAILED, now="t2", sentence="it was cancelled")
    task = journal.task(row.task_id)
    assert (task.state, task.sentence, task.migration_id) == (TaskState.FAILED, "it was cancelled", row.id)
    assert [event.what for event in told] == ["planned", *steps, "failed"]
    assert list(journal.events(kind="migration", ref=row.id)) == told


def test_tasks_that_died_with_their_vmctl_are_closed_but_not_those_of_moves(journal: Journal) -> None:
    row = plan(journal)
    task = journal.begin_task(kind="evacuate", subject="h1", sentence="", now="t0")
    journal.end_tasks_of_old(now="t1")
    assert (journal.task(task.id).state, journal.task(task.id).sentence) == (
        TaskState.FAILED,
        "vmctl was stopped meanwhile",
    )
    assert row.task_id is not None
    assert journal.task(row.task_id).state is TaskState.RUNNING


def test_unknown_numbers_are_sentences(journal: Journal) -> None:
    with pytest.raises(VmctlError, match="there is no migration 77"):
        journal.migration(77)
    with pytest.raises(VmctlError, match="there is no task 77"):
        journal.task(77)


def test_old_events_are_dropped_and_the_newest_kept(file_journal: Journal) -> None:
    with file_journal._store.begin() as connection:
        connection.exec_driver_sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 11999) "
            "INSERT INTO events SELECT i, 't', 'vm', 'x', 'y', '', NULL FROM n"
        )
    file_journal.add_event(kind="vm", subject="x", what="z", sentence="", now="t")
    kept = file_journal.events(limit=20_000)
    assert (kept[0].id, kept[-1].id, len(kept)) == (2001, 12_000, KEPT_EVENTS)


def test_follower_gets_what_was_and_what_comes_once_and_in_order(file_journal: Journal) -> None:
    async def run() -> None:
        tasks = Tasks(file_journal)
        plan(file_journal)
        seen: list[Event] = []

        async def follow() -> None:
            async for event in tasks.follow(after=0):
                seen.append(event)

        following = asyncio.create_task(follow())
        await asyncio.sleep(0.05)
        for number in range(30):
            tasks.emit("vm", f"vm{number}", "running")
        await until(lambda: len(seen) == 31)
        assert [event.id for event in seen] == list(range(1, 32))
        tasks.close()
        await asyncio.wait_for(following, 2)

    asyncio.run(run())


def test_follower_that_does_not_read_is_cut_off_and_holds_nobody_up(file_journal: Journal) -> None:
    async def run() -> None:
        tasks = Tasks(file_journal)
        stream = tasks.follow(after=0)
        plan(file_journal)
        assert (await anext(stream)).what == "planned"
        for number in range(BACKLOG + 5):
            tasks._hand_on(Event(id=number + 10, at="t", kind="vm", subject="x", what="y"))
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    asyncio.run(run())


def test_task_ends_with_its_sentence_either_way(file_journal: Journal) -> None:
    async def run() -> None:
        tasks = Tasks(file_journal)

        async def works(task: Task) -> tuple[int, str]:
            return task.id, "2 VMs moved"

        async def fails(task: Task) -> tuple[int, str]:
            raise VmctlError("h2 is full")

        id = await tasks.run("evacuate", "h1", works)
        assert (file_journal.task(id).state, file_journal.task(id).sentence) == (TaskState.DONE, "2 VMs moved")
        with pytest.raises(VmctlError, match="h2 is full"):
            await tasks.run("evacuate", "h1", fails, parent_id=id)
        last = file_journal.tasks()[0]
        assert (last.state, last.sentence, last.parent_id) == (TaskState.FAILED, "h2 is full", id)

    asyncio.run(run())


async def until(condition) -> None:  # type: ignore[no-untyped-def]
    deadline = asyncio.get_running_loop().time() + 5
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "did not come about in time"
        await asyncio.sleep(0.01)
