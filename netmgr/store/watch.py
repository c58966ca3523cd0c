"""Notices commits of other processes and calls back, in one thread a store.

SQLite has no notification: `PRAGMA data_version`, some microseconds, is asked every 50 ms. PostgreSQL's LISTEN delivers
at once; a lost connection is made again with a growing pause, and then counts as a commit, because some may have
been missed. The callback asks the database what there is, so calling it once too often is harmless.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from threading import Event, Thread
from typing import Any

import structlog
from sqlalchemy import Engine

from netmgr.model import NetmgrError
from netmgr.store.engine import NOTIFY_CHANNEL, is_sqlite

__all__ = ["Watcher", "watch_foreign_commits"]

_POLL_S = 0.05
_LISTEN_S = 0.1  # how long stop() may have to wait
_BACKOFF_S_MAX = 10.0

log = structlog.get_logger(__name__)


class Watcher:
    """A running watch; `stop` ends it and waits for its thread."""

    def __init__(self, run: Callable[[Event], None]) -> None:
        self._stopping = Event()
        self._thread = Thread(target=run, args=(self._stopping,), name="store-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()


def watch_foreign_commits(engine: Engine, committed: Callable[[], None]) -> Watcher:
    """Call *committed* soon after each commit to the database of *engine*, by whomever."""
    watch = _poll_sqlite if is_sqlite(engine) else _listen_postgresql

    def run(stopping: Event) -> None:
        pause_s = _POLL_S
        while not stopping.wait(pause_s):
            try:
                watch(engine, committed, stopping)
                pause_s = _POLL_S
            except Exception as error:  # whatever it was, watching must go on
                pause_s = min(max(pause_s * 2, 0.2), _BACKOFF_S_MAX)
                log.warning("store.watch.failed", error=str(error), retry_s=pause_s)

    return Watcher(run)


def _poll_sqlite(engine: Engine, committed: Callable[[], None], stopping: Event) -> None:
    with closing(sqlite3.connect(str(engine.url.database), isolation_level=None)) as connection:
        seen = -1
        while not stopping.wait(_POLL_S):
            (found,) = connection.execute("PRAGMA data_version").fetchone()
            if found != seen:
                _call(committed)
                seen = found


def _listen_postgresql(engine: Engine, committed: Callable[[], None], stopping: Event) -> None:
    import psycopg  # only where PostgreSQL is used

    args, kwargs = engine.dialect.create_connect_args(engine.url)
    options: dict[str, Any] = {**kwargs, "autocommit": True, "connect_timeout": 5}
    with closing(psycopg.connect(*args, **options)) as connection:
        connection.execute(f"LISTEN {NOTIFY_CHANNEL}")
        _call(committed)  # what came before LISTEN was not announced to us
        while not stopping.is_set():
            for _notification in connection.notifies(timeout=_LISTEN_S, stop_after=1):
                _call(committed)


def _call(committed: Callable[[], None]) -> None:
    try:
        committed()
    except NetmgrError as error:
        log.warning("store.watch.behind", error=error.sentence)
