"""`Store`: one `World` in memory, kept level with a database that other replicas write too.

Theory of operation.

* The database is the truth, the `World` a cache of it. Every read and every transaction first catches up by the change
  log, so nobody decides on old facts.
* One writer at a time, across all processes of a database (see `engine`). A transaction applies each put to the cached
  World at once, so that the rules see it, and notes what was there before. On commit, the net difference goes to the
  tables and to the log under one new revision; when nothing differs, nothing is written and no revision is spent. On
  any exception the notes are undone, newest first, and the database rolls back: nobody has seen anything.
* On SQLite, where nobody else has written since, a read or a transaction asks SQLAlchemy nothing (see `statements`).
* When a commit fails half-way the answer may be lost, so nobody knows which way it went: the World is then read anew
  from the tables before its next use.
* After a commit, callbacks run: in the committing thread for our own, in the watcher's for those of other processes.
  Callbacks say *that* something changed (level), `changes` says what; `recent` says it from memory, without waiting
  for a writer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from threading import Lock, RLock
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, func, select

from netmgr.contract.types import Kind
from netmgr.model import Change, NetmgrError, Row, World, kind_of_row, unique_keys, uuid_of_row
from netmgr.store.engine import Sqlite, begin_write, connect_engine, is_sqlite, lay_out_log, named_errors
from netmgr.store.migrate import migrate
from netmgr.store.rows import row_of
from netmgr.store.schema import TABLES, change
from netmgr.store.statements import Statements, Writer
from netmgr.store.watch import watch_foreign_commits

__all__ = ["Store", "Transaction"]

_RECENT_MAX = 4000  # changes; the claims of a host that starts with hundreds of guests are one transaction of many


class Store:
    """All rows at the newest revision, and the only way to change them. Safe to use from any thread."""

    store_id: str
    url: str

    @classmethod
    def open(cls, url: str) -> Store:
        """Connect to *url* (`sqlite:////path` or `postgresql+psycopg://…`), migrate it, load it.

        Raises:
            NetmgrError: the URL is wrong, the database is away, or of a newer version of netmgr.
        """
        engine = connect_engine(url)
        try:
            with named_errors(engine), engine.connect() as connection:
                store_id = migrate(connection)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, url=url, store_id=store_id)

    def __init__(self, engine: Engine, *, url: str, store_id: str) -> None:
        self.url = url
        self.store_id = store_id
        self._engine = engine
        self._statements = Statements(engine.dialect)
        self._sqlite = Sqlite(engine) if is_sqlite(engine) else None
        self._lock = RLock()
        self._world = World()
        self._stale = True  # the World must be read anew
        self._data_version = -1
        self._transaction: Transaction | None = None
        self._notified_revision = 0
        self._callbacks: list[Callable[[], None]] = []
        self._recent: deque[Change] = deque(maxlen=_RECENT_MAX)
        self._recent_lock = Lock()
        with self._lock:
            self._catch_up()
        self._notified_revision = self._world.revision
        self._watcher = watch_foreign_commits(engine, self._foreign_commit)

    @contextmanager
    def read(self) -> Iterator[World]:
        """The World at the newest committed revision. Don't keep it, don't change it: it lives on behind the lock."""
        with self._lock:
            if self._transaction is None:
                self._catch_up()
            yield self._world

    @contextmanager
    def glance(self) -> Iterator[World | None]:
        """As `read`, but None where that would wait for a writer, or for a database to tell what is new in it."""
        if not self._lock.acquire(blocking=False):
            yield None
            return
        try:
            with named_errors(self._engine):
                level = self._transaction is None and self._is_level()
            yield self._world if level else None
        finally:
            self._lock.release()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """The only way to write: commits on exit, leaves no trace on an exception. Does not nest.

        Raises:
            NetmgrError: 503 when the database is full, locked or away; 409 when its constraints refuse.
        """
        with self._lock:
            assert self._transaction is None, "transactions do not nest"
            with self._open_transaction() as transaction:
                yield transaction
            committed = self._world.revision > self._notified_revision
            self._notified_revision = self._world.revision
        if committed:
            self._notify()

    def changes(self, *, after: int) -> list[Change]:
        """Committed changes with a revision greater than *after*, in the order of the log."""
        with self._lock, named_errors(self._engine), self._engine.connect() as connection:
            return _read_changes(connection, after=after)

    def recent(self, *, after: int) -> list[Change] | None:
        """As `changes`, of what this process knows to be committed; None where it does not remember so far back.

        Never waits for the disk or for a writer.
        """
        with self._recent_lock:
            known = self._recent
            if not known or known[0].revision > after or known[-1].revision < after:
                return None
            newest_first = list(takewhile(lambda item: item.revision > after, reversed(known)))
        return newest_first[::-1]

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Have *callback* called after each commit of any process, in whatever thread notices; it must not block."""
        with self._lock:
            self._callbacks.append(callback)

    def lay_out(self) -> None:
        """Give what will be written its place on the disk: commits are sooner there. For who writes for long."""
        with self._lock, named_errors(self._engine), self._engine.connect() as connection:
            lay_out_log(connection)

    def close(self) -> None:
        """Stop watching and disconnect. Callbacks end with it."""
        self._watcher.stop()
        with self._lock:
            self._callbacks.clear()
            if self._sqlite is not None:
                self._sqlite.close()
            self._engine.dispose()

    def _foreign_commit(self) -> None:
        """Called by the watcher when somebody has committed, perhaps ourselves."""
        with self._lock:
            self._catch_up()
            news = self._world.revision > self._notified_revision
            self._notified_revision = self._world.revision
        if news:
            self._notify()

    def _notify(self) -> None:
        for callback in tuple(self._callbacks):
            callback()

    @contextmanager
    def _open_transaction(self) -> Iterator[Transaction]:
        with named_errors(self._engine):
            with self._turn() as cursor:
                transaction = self._transaction = Transaction(self._world)
                try:
                    yield transaction
                    transaction._flush(Writer(cursor, self._statements))
                except BaseException:
                    transaction._undo()
                    raise
                finally:
                    self._transaction = None
                # Until COMMIT has returned, what is in memory may not be what is on disk.
                self._stale = True
            self._stale = False
            self._remember(transaction.committed)

    @contextmanager
    def _turn(self) -> Iterator[Any]:
        """The turn to write, with the World level with the database: the driver's cursor. Commits on exit."""
        if self._sqlite is None:
            with self._engine.connect() as connection, begin_write(connection):
                self._catch_up_on(connection)
                yield connection.connection.cursor()
            return
        self._sqlite.begin()
        while not self._is_level():  # what others have written is read outside of the turn
            self._sqlite.rollback()
            self._catch_up()
            self._sqlite.begin()
        with self._sqlite.committing() as cursor:
            yield cursor

    def _is_level(self) -> bool:
        """True when nothing can have been written that the World does not have; only SQLite can tell."""
        return self._sqlite is not None and not self._stale and self._sqlite.data_version() == self._data_version

    def _catch_up(self) -> None:
        with named_errors(self._engine):
            if self._is_level():
                return
            with self._engine.connect() as connection:
                self._catch_up_on(connection)

    def _catch_up_on(self, connection: Connection) -> None:
        if self._sqlite is not None:
            self._data_version = self._sqlite.data_version()
        if self._stale:
            self._world = _load(connection)
            self._stale = False
            with self._recent_lock:
                self._recent.clear()
            return
        changes = _read_changes(connection, after=self._world.revision)
        for item in changes:
            self._world.apply(item)
        self._remember(changes)

    def _remember(self, changes: Iterable[Change]) -> None:
        with self._recent_lock:
            self._recent.extend(changes)


@dataclass(frozen=True, slots=True)
class _Before:
    """What a transaction found under one key: the row, and the revision of its last change."""

    row: Row | None
    version: int


class Transaction:
    """Puts and deletes of one revision. Valid inside `Store.transaction()` only."""

    world: World  # includes what this transaction has put so far
    revision: int  # that its changes will carry

    def __init__(self, world: World) -> None:
        self.world = world
        self.revision = world.revision + 1
        self._revision_before = world.revision
        self._before: dict[tuple[str, UUID], _Before] = {}
        self.committed: tuple[Change, ...] = ()
        """What was written, once it was."""

    def put(self, row: Row) -> None:
        """Insert or replace *row* by kind and identity.

        Raises:
            NetmgrError: 409 when another row has one of its unique values; the rules say so more kindly, before.
        """
        for key in unique_keys(row):
            if self.world.unique.get(key, uuid_of_row(row)) != uuid_of_row(row):
                raise NetmgrError(f"{kind_of_row(row)} {uuid_of_row(row)}: {key} is taken by another", status=409)
        self._apply(kind_of_row(row), uuid_of_row(row), row)

    def delete(self, kind: Kind | str, uuid: UUID) -> None:
        """Remove a row; nothing happens when there is none."""
        self._apply(str(kind), uuid, None)

    @property
    def changed(self) -> bool:
        """True when the commit will write something."""
        return bool(self._net())

    def net_changes(self) -> list[Change]:
        """What the commit will write, in the order of the log."""
        return [
            Change(revision=self.revision, kind=kind, uuid=uuid, row=self.world.rows(kind).get(uuid))
            for kind, uuid in self._net()
        ]

    def _apply(self, kind: str, uuid: UUID, row: Row | None) -> None:
        if (kind, uuid) not in self._before:
            before = self.world.rows(kind).get(uuid)
            self._before[kind, uuid] = _Before(before, self.world.versions.get((kind, uuid), 0))
        if self.world.rows(kind).get(uuid) != row:
            self.world.apply(Change(revision=self.revision, kind=kind, uuid=uuid, row=row))

    def _net(self) -> list[tuple[str, UUID]]:
        """Keys whose rows differ from what was there: removals first, each in the order of first touch."""
        rows = self.world.rows
        keys = [key for key, before in self._before.items() if rows(key[0]).get(key[1]) != before.row]
        return sorted(keys, key=lambda key: key[1] in rows(key[0]))

    def _flush(self, writer: Writer) -> None:
        changes = self.net_changes()
        net = {(str(item.kind), item.uuid) for item in changes}
        self._restore(key for key in self._before if key not in net)
        if not changes:
            self.world.revision = self._revision_before
            return
        self.committed = tuple(changes)
        writer.write(changes, known={key for key, before in self._before.items() if before.row is not None})

    def _undo(self) -> None:
        self._restore(reversed(tuple(self._before)))
        self.world.revision = self._revision_before

    def _restore(self, keys: Any) -> None:
        for kind, uuid in keys:
            before = self._before[kind, uuid]
            self.world.apply(Change(revision=before.version, kind=kind, uuid=uuid, row=before.row))


def _load(connection: Connection) -> World:
    """The World as the tables have it."""
    world = World()
    for kind, table in TABLES.items():
        for record in connection.execute(select(table)).mappings():
            row = row_of(kind, dict(record))
            world.apply(Change(revision=record["version_revision"], kind=kind, uuid=uuid_of_row(row), row=row))
    world.revision = connection.execute(select(func.max(change.c.revision))).scalar() or 0
    return world


def _read_changes(connection: Connection, *, after: int) -> list[Change]:
    query = select(change).where(change.c.revision > after).order_by(change.c.revision, change.c.seq)
    return [
        Change(
            revision=record.revision,
            kind=record.kind,
            uuid=UUID(record.uuid),
            row=None if record.row is None else row_of(record.kind, record.row),
        )
        for record in connection.execute(query)
    ]
