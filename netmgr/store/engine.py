"""SQLite and PostgreSQL behind one small vocabulary: connect, write-lock, notice foreign commits, say what went wrong.

SQLite: WAL, `synchronous=FULL` (a commit that returned is on disk), foreign keys on. A writer begins with BEGIN
IMMEDIATE, so two writers queue at the start instead of failing in the middle. `PRAGMA data_version` of a connection
changes when another connection has committed; asking costs microseconds.

PostgreSQL: writers queue at a transaction-level advisory lock, taken before the first read, so each sees all that
was committed before it. Commits are announced with NOTIFY.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.pool import StaticPool

from netmgr.model import NetmgrError

__all__ = [
    "NOTIFY_CHANNEL",
    "Sqlite",
    "begin_write",
    "connect_engine",
    "is_sqlite",
    "lay_out_log",
    "named_errors",
    "shown",
]

NOTIFY_CHANNEL = "netmgr_change"
_ADVISORY_LOCK = 0x6E65746D6772  # "netmgr": the one lock that all writers of a database take
_WAIT_FOR_LOCK_S = 5
_LOG_PAGES = 1000  # SQLite's own limit, after which it begins at the front of its log again


def connect_engine(url: str) -> Engine:
    """An engine for *url*; nothing is read or written yet.

    Raises:
        NetmgrError: the URL is malformed or of another kind of database.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise NetmgrError(
            f"store {url!r} is no database URL; use sqlite:////absolute/path or postgresql+psycopg://user@host/database"
        ) from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return _sqlite(parsed)
    if backend == "postgresql":
        return _postgresql(parsed.set(drivername="postgresql+psycopg"))
    raise NetmgrError(f"store {shown(url)}: {backend} is not supported; use sqlite or postgresql")


def is_sqlite(engine: Engine) -> bool:
    return engine.dialect.name == "sqlite"


def shown(url: str) -> str:
    """*url* without its password, for sentences."""
    return make_url(url).render_as_string(hide_password=True)


@contextmanager
def begin_write(connection: Connection) -> Iterator[None]:
    """A transaction that is the only one writing; waits its turn a few seconds, commits on exit."""
    with connection.execution_options(netmgr_writer=True).begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = '{_WAIT_FOR_LOCK_S}s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        yield


class Sqlite:
    """The one connection to an SQLite database, as its driver has it: nothing stands between a commit and the disk."""

    def __init__(self, engine: Engine) -> None:
        self._lent = engine.raw_connection()  # for as long as the engine lives: it has no other
        self._raw: Any = self._lent.driver_connection

    def data_version(self) -> int:
        """Another number as soon as another connection has committed; never for a commit of this one."""
        return int(self._raw.execute("PRAGMA data_version").fetchone()[0])

    def begin(self) -> None:
        """Begin to write; waits its turn a few seconds."""
        self._raw.execute("BEGIN IMMEDIATE")

    def rollback(self) -> None:
        self._raw.rollback()

    def close(self) -> None:
        """Give the connection back, which ends with the engine."""
        self._lent.close()

    @contextmanager
    def committing(self) -> Iterator[Any]:
        """A cursor in the transaction that was begun, which ends here: by a commit, or by none after an exception."""
        try:
            yield self._raw.cursor()
            self._raw.commit()
        except BaseException:
            self._raw.rollback()
            raise


def lay_out_log(connection: Connection) -> None:
    """Make SQLite's write-ahead log as long as it will ever be, and begin at its front: a commit that makes it longer
    waits for the file system's journal too, which takes as long again as the disk. Another database has no need of it.

    A log that can't be laid out now, as the disk is full or somebody else writes, grows as it is used.
    """
    if connection.dialect.name != "sqlite":
        return
    raw: Any = connection.connection.dbapi_connection
    with suppress(sqlite3.Error):
        (own,) = raw.execute("PRAGMA application_id").fetchone()
        raw.execute("PRAGMA wal_autocheckpoint = 0")  # it would not wait for the disk, and the log be overwritten
        raw.execute("PRAGMA synchronous = OFF")  # nothing is said that was not there
        try:
            for _ in range(_LOG_PAGES):
                raw.execute(f"PRAGMA application_id = {own}")
        finally:
            raw.execute("PRAGMA synchronous = FULL")
            raw.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        raw.execute("PRAGMA wal_checkpoint(RESTART)")


@contextmanager
def named_errors(engine: Engine) -> Iterator[None]:
    """Turns errors of the database into sentences: who must act is the operator of the store."""
    driver: Any = engine.dialect.loaded_dbapi
    try:
        yield
    except (IntegrityError, driver.IntegrityError) as error:
        raise NetmgrError(
            f"the store refused the change, nothing was written: {_first_line(error)}", status=409
        ) from error
    except (DBAPIError, driver.Error) as error:
        where = engine.url.render_as_string(hide_password=True)
        raise NetmgrError(_sentence(where, _first_line(error)), status=503) from error


def _sentence(where: str, found: str) -> str:
    if "database or disk is full" in found or "No space left" in found:
        return f"the store {where} is full, nothing was written: free space on its disk and try again"
    if "database is locked" in found or "lock timeout" in found:
        return f"the store {where} is locked by another program for more than {_WAIT_FOR_LOCK_S} s, nothing was written"
    if "unable to open database file" in found:
        return f"the store {where} can't be opened: its directory is missing or not writable"
    return f"the store {where} does not answer, what was asked is not done: {found}"


def _first_line(error: Exception) -> str:
    """What the driver said; SQLAlchemy has its error inside of its own."""
    said = error.orig if isinstance(error, DBAPIError) else error
    return str(said).strip().splitlines()[0] if str(said).strip() else type(said).__name__


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise NetmgrError("store: an in-memory SQLite database would be lost; use sqlite:////absolute/path")
    if not Path(url.database).is_absolute():
        raise NetmgrError(f"store: {url.database!r} is a relative path; use sqlite:////absolute/path (four slashes)")
    # One connection: the Store serializes its use, and data_version is a property of a connection.
    engine = create_engine(
        url, poolclass=StaticPool, connect_args={"check_same_thread": False, "timeout": _WAIT_FOR_LOCK_S}
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writer = connection.get_execution_options().get("netmgr_writer")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")

    return engine


def _postgresql(url: URL) -> Engine:
    # synchronous_commit: what is acknowledged is on disk, whatever the server's default.
    return create_engine(
        url,
        pool_pre_ping=True,
        pool_size=2,
        connect_args={"connect_timeout": 5, "options": "-c synchronous_commit=on"},
    )
