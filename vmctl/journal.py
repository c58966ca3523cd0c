"""The journal: moves step by step, tasks, and what happened.

A step of a move, the state of its task and the event that tells of it are one transaction, so a journal that was cut
off anywhere agrees with itself. Two moves of one VM at once are refused by a partial unique index, not by a look
before. Every write is on disk when the call returns, and events are told in the order of their numbers. Calls block;
the daemon makes them from a thread.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from vmctl import tables
from vmctl.model import (
    Code,
    Event,
    Migration,
    MigrationState,
    MoveKind,
    MovePolicy,
    Refusal,
    Task,
    TaskState,
    VmctlError,
)
from vmctl.store import Store

__all__ = ["KEPT_EVENTS", "Journal"]

KEPT_EVENTS = 10_000


class Journal:
    """Moves, tasks and events in *store*. *tell*, if given, gets every event once it is on disk."""

    def __init__(self, store: Store, *, tell: Callable[[Event], None] = lambda _event: None) -> None:
        self._store = store
        self.tell = tell
        self._turn = threading.Lock()

    # --- moves ----------------------------------------------------------------------------------------------------

    def plan(
        self,
        *,
        vm_uuid: UUID,
        vm_name: str,
        source: str,
        destination: str,
        now: str,
        kind: MoveKind = MoveKind.LIVE,
        policy: MovePolicy = MovePolicy(),
        parent_id: int | None = None,
    ) -> Migration:
        """A new move, planned, with its task; refused while the VM has one that is not settled."""
        values = {
            "vm_uuid": str(vm_uuid), "vm_name": vm_name, "source": source, "destination": destination,
            "state": MigrationState.PLANNED.value, "sentence": "", "started_at": now, "changed_at": now,
            "kind": kind.value, "policy": json.dumps(asdict(policy)),
        }  # fmt: skip
        try:
            with self._write() as (connection, tell):
                id = _key(connection.execute(tables.migrations.insert().values(**values)))
                task = {
                    "kind": "migrate", "subject": vm_name, "state": TaskState.RUNNING.value,
                    "sentence": f"from {source} to {destination}", "started_at": now, "changed_at": now,
                    "parent_id": parent_id, "migration_id": id,
                }  # fmt: skip
                task_id = _key(connection.execute(tables.tasks.insert().values(**task)))
                where = tables.migrations.c.id == id
                connection.execute(tables.migrations.update().where(where).values(task_id=task_id))
                tell(
                    _add_event(connection, now, "migration", vm_name, "planned", f"from {source} to {destination}", id)
                )
        except IntegrityError:
            raise self._moving(vm_uuid, vm_name, destination) from None
        return self.migration(id)

    def change(self, id: int, *, state: MigrationState, now: str, **values: Any) -> Migration:
        """The move after its change; *values* are columns of it."""
        row = tables.migrations
        with self._write() as (connection, tell):
            connection.execute(row.update().where(row.c.id == id).values(state=state.value, changed_at=now, **values))
            found = _migration(connection.execute(sa.select(row).where(row.c.id == id)).mappings().one())
            task: dict[str, Any] = {"changed_at": now}
            if state is MigrationState.COMMITTED:  # the destination is its home from now on
                home = tables.vms.update().where(tables.vms.c.uuid == str(found.vm_uuid))
                connection.execute(home.values(host=found.destination))
            if state.settled:
                failed = state in (MigrationState.FAILED, MigrationState.UNDOING)
                task |= {"sentence": found.sentence, "state": (TaskState.FAILED if failed else TaskState.DONE).value}
            connection.execute(tables.tasks.update().where(tables.tasks.c.migration_id == id).values(**task))
            tell(_add_event(connection, now, "migration", found.vm_name, state.value, found.sentence, id))
        return found

    def migration(self, id: int) -> Migration:
        """One move.

        Raises:
            VmctlError: there is none of that number.
        """
        with self._store.begin() as connection:
            query = sa.select(tables.migrations).where(tables.migrations.c.id == id)
            row = connection.execute(query).mappings().first()
        if row is None:
            raise VmctlError(f"there is no migration {id}; see `vmctl migrate --list`", status=404)
        return _migration(row)

    def migrations(self, *, vm_uuid: UUID | None = None, limit: int = 1000) -> tuple[Migration, ...]:
        """Moves, newest first, of one VM or of all."""
        row = tables.migrations
        query = sa.select(row).order_by(row.c.id.desc()).limit(limit)
        if vm_uuid is not None:
            query = query.where(row.c.vm_uuid == str(vm_uuid))
        with self._store.begin() as connection:
            return tuple(_migration(found) for found in connection.execute(query).mappings())

    def open_migrations(self) -> tuple[Migration, ...]:
        """Moves that are not final, oldest first."""
        row = tables.migrations
        final = [state.value for state in MigrationState if state.final]
        query = sa.select(row).where(row.c.state.not_in(final)).order_by(row.c.id)
        with self._store.begin() as connection:
            return tuple(_migration(found) for found in connection.execute(query).mappings())

    # --- tasks ----------------------------------------------------------------------------------------------------

    def begin_task(self, *, kind: str, subject: str, sentence: str, now: str, parent_id: int | None = None) -> Task:
        """A new task, running."""
        values = {
            "kind": kind, "subject": subject, "state": TaskState.RUNNING.value, "sentence": sentence,
            "started_at": now, "changed_at": now, "parent_id": parent_id,
        }  # fmt: skip
        with self._write() as (connection, tell):
            id = _key(connection.execute(tables.tasks.insert().values(**values)))
            tell(_add_event(connection, now, "task", subject, f"{kind} began", sentence, id))
        return self.task(id)

    def change_task(self, id: int, *, state: TaskState, sentence: str, now: str) -> Task:
        """The task after its change."""
        with self._write() as (connection, tell):
            row = tables.tasks
            values = {"state": state.value, "sentence": sentence, "changed_at": now}
            connection.execute(row.update().where(row.c.id == id).values(**values))
            found = _task(connection.execute(sa.select(row).where(row.c.id == id)).mappings().one())
            tell(_add_event(connection, now, "task", found.subject, f"{found.kind} {state}", sentence, id))
        return found

    def end_tasks_of_old(self, *, now: str) -> None:
        """Closes tasks that a vmctl before this one has left running; those of moves live on with their moves."""
        row = tables.tasks
        with self._store.begin() as connection:
            connection.execute(
                row.update()
                .where(row.c.state == TaskState.RUNNING.value, row.c.migration_id.is_(None))
                .values(state=TaskState.FAILED.value, changed_at=now, sentence="vmctl was stopped meanwhile")
            )

    def task(self, id: int) -> Task:
        """One task.

        Raises:
            VmctlError: there is none of that number.
        """
        with self._store.begin() as connection:
            row = connection.execute(sa.select(tables.tasks).where(tables.tasks.c.id == id)).mappings().first()
        if row is None:
            raise VmctlError(f"there is no task {id}; see `vmctl task list`", status=404)
        return _task(row)

    def tasks(self, *, limit: int = 1000) -> tuple[Task, ...]:
        """Tasks, newest first."""
        query = sa.select(tables.tasks).order_by(tables.tasks.c.id.desc()).limit(limit)
        with self._store.begin() as connection:
            return tuple(_task(row) for row in connection.execute(query).mappings())

    # --- events ---------------------------------------------------------------------------------------------------

    def add_event(self, *, kind: str, subject: str, what: str, sentence: str, now: str, ref: int | None = None) -> None:
        """Notes that something happened."""
        with self._write() as (connection, tell):
            tell(_add_event(connection, now, kind, subject, what, sentence, ref))

    def events(self, *, after: int = 0, limit: int = 1000, kind: str = "", ref: int | None = None) -> tuple[Event, ...]:
        """The newest *limit* events with a number above *after*, in the order in which they happened."""
        row = tables.events
        query = sa.select(row).where(row.c.id > after).order_by(row.c.id.desc()).limit(limit)
        if kind:
            query = query.where(row.c.kind == kind)
        if ref is not None:
            query = query.where(row.c.ref == ref)
        with self._store.begin() as connection:
            return tuple(Event(**found) for found in reversed(list(connection.execute(query).mappings())))

    @contextmanager
    def _write(self) -> Iterator[tuple[sa.Connection, Callable[[Event], None]]]:
        """A transaction; what it tells is told once it is on disk."""
        told: list[Event] = []
        with self._turn:
            with self._store.begin() as connection:
                yield connection, told.append
            for event in told:
                self.tell(event)

    def _moving(self, vm_uuid: UUID, vm_name: str, destination: str) -> VmctlError:
        other = next((m for m in self.migrations(vm_uuid=vm_uuid) if not m.state.settled), None)
        where = f"to {other.destination} (migration {other.id})" if other else "elsewhere"
        sentence = f"{vm_name} is on its way {where} already; wait for it, or stop it: vmctl migrate {vm_name} --cancel"
        refusal = Refusal(host=destination, code=Code.MOVING, sentence=sentence)
        return VmctlError(sentence, status=409, refusals=(refusal,))


def _add_event(
    connection: sa.Connection, now: str, kind: str, subject: str, what: str, sentence: str, ref: int | None
) -> Event:
    values = {"at": now, "kind": kind, "subject": subject, "what": what, "sentence": sentence, "ref": ref}
    id = _key(connection.execute(tables.events.insert().values(**values)))
    if id % 1000 == 0:
        connection.execute(tables.events.delete().where(tables.events.c.id <= id - KEPT_EVENTS))
    return Event(id=id, **values)  # type: ignore[arg-type]


def _key(result: Any) -> int:
    return int(result.inserted_primary_key[0])


def _task(row: Any) -> Task:
    return Task(**{**row, "state": TaskState(row["state"])})


def _migration(row: Any) -> Migration:
    values = {field.name: row[field.name] for field in fields(Migration)}
    return Migration(
        **values
        | {
            "vm_uuid": UUID(row["vm_uuid"]),
            "state": MigrationState(row["state"]),
            "kind": MoveKind(row["kind"]),
            "policy": MovePolicy(**json.loads(row["policy"])),
        }
    )
