"""Writes to the agent's database that the loop does not wait for.

Theory of operation. A commit waits for the disk, a millisecond or several, and the loop has better things to do: what
the manager pushed can be on the switch by then. So once `begin` was called, writes go to a thread with a connection of
its own, in the order in which they were made; what comes while one commit is under way goes into the next, together.
Whoever promises to somebody that a thing is kept waits for it (`saved`): acknowledgements to the manager, answers to
libvirt's hooks. Nothing else may be called durable.

A write that fails takes with it all that were made after it and before *lost* was called: they may build on it. Memory
is then read anew from the disk.

A commit that makes the log longer waits for the file system's journal too, which takes as long again as the disk. So
the log is written over its whole length once, when nobody has written for a moment; then commits overwrite it.

Without `begin`, for programs that have no loop, each write is on the disk when the call returns.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["Journal", "Statement"]

_LOG_PAGES = 1000  # SQLite's own limit, after which it begins at the front again
_QUIET_S = 2.0  # without a write, until the log is laid out: not while an agent that has just been started is busy

Statement = tuple[str, Sequence[Any]]


class Journal:
    """Writes to the database at *path*, of which *db* is the caller's own connection."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self._path = path
        self._db = db
        self._turn = threading.Condition()
        self._waiting: deque[tuple[int, Sequence[Statement]]] = deque()
        self._stop = False
        self._broken = False  # a write has failed, and *lost* was not called yet
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._saved: Callable[[], None] = lambda: None
        self._lost: Callable[[sqlite3.Error], None] = lambda error: None
        self.given = 0
        """How many writes were made."""
        self.done = 0
        """How many of them are on the disk, or were lost."""

    def begin(self, *, saved: Callable[[], None], lost: Callable[[sqlite3.Error], None]) -> None:
        """From now on write beside the running loop, on which *saved* is called after each commit, and *lost* when
        writes were."""
        assert self._thread is None
        self._loop, self._saved, self._lost = asyncio.get_running_loop(), saved, lost
        db = sqlite3.connect(self._path, timeout=5, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA synchronous = FULL")
        self._thread = threading.Thread(target=self._run, args=(db,), name="journal", daemon=True)
        self._thread.start()

    def write(self, statements: Sequence[Statement]) -> None:
        """Carry *statements* out, all or none.

        Raises:
            sqlite3.Error: the disk refused; never after `begin`.
        """
        if not statements:
            return
        if self._thread is None:
            with self._db:
                for sql, values in statements:
                    self._db.execute(sql, values)
            return
        with self._turn:
            self.given += 1
            self._waiting.append((self.given, statements))
            self._turn.notify()

    def close(self) -> None:
        """Return when everything is on the disk, or was lost."""
        if self._thread is not None:
            with self._turn:
                self._stop = True
                self._turn.notify()
            self._thread.join()
            self._thread = None

    # --- the thread ------------------------------------------------------------------------------------------------

    def _run(self, db: sqlite3.Connection) -> None:
        laid_out = False
        try:
            while (batch := self._next(None if laid_out else _QUIET_S)) is not None:
                if not batch:
                    laid_out = True
                    _lay_out_log(db)
                    continue
                newest = batch[-1][0]
                try:
                    self._commit(db, batch)
                except sqlite3.Error as error:
                    self._call(self._fail, error)
                else:
                    self._call(self._tell, newest)
        finally:
            db.close()

    def _next(self, quiet_s: float | None) -> list[tuple[int, Sequence[Statement]]] | None:
        """What is to be written; nothing when there was nothing for *quiet_s*, None at the end."""
        with self._turn:
            while not (self._waiting and not self._broken):
                if self._stop:
                    return None
                if not self._turn.wait(quiet_s) and not self._waiting:
                    return []
            batch = list(self._waiting)
            self._waiting.clear()
            return batch

    def _commit(self, db: sqlite3.Connection, batch: Sequence[tuple[int, Sequence[Statement]]]) -> None:
        try:
            db.execute("BEGIN IMMEDIATE")
            for _, statements in batch:
                for sql, values in statements:
                    db.execute(sql, values)
            db.execute("COMMIT")
        except sqlite3.Error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            with self._turn:
                self._broken = True
            raise

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            assert self._loop.is_closed()  # nobody is left to tell

    # --- on the loop -----------------------------------------------------------------------------------------------

    def _tell(self, newest: int) -> None:
        self.done = newest
        self._saved()

    def _fail(self, error: sqlite3.Error) -> None:
        with self._turn:
            self._waiting.clear()
            self._broken = False
        self.done = self.given
        self._lost(error)


def _lay_out_log(db: sqlite3.Connection) -> None:
    """Make the write-ahead log as long as it will ever be, and begin at its front. A log that can't be laid out now, as
    the disk is full or somebody else reads, grows as it is used."""
    with suppress(sqlite3.Error):
        (own,) = db.execute("PRAGMA application_id").fetchone()
        db.execute("PRAGMA wal_autocheckpoint = 0")  # it would not wait for the disk, and the log be overwritten
        db.execute("PRAGMA synchronous = OFF")  # nothing is said that was not there
        try:
            for _ in range(_LOG_PAGES):
                db.execute(f"PRAGMA application_id = {own}")
        finally:
            db.execute("PRAGMA synchronous = FULL")
            db.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        db.execute("PRAGMA wal_checkpoint(RESTART)")
