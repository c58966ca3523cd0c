"""That one vmctl at a time works from a PostgreSQL database: two would move the same VM twice.

A session-wide advisory lock, held on a connection of its own for as long as the daemon lives; PostgreSQL frees it when
that session ends, however it ends. The server probes a silent peer after 10 s, so the place of a vmctl whose machine
has died is free within half a minute. A lock that went with its connection (PostgreSQL was restarted) is taken again
before the next transaction; if another vmctl was quicker, nothing is written any more.
"""

from __future__ import annotations

import threading

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from vmctl.model import VmctlError

__all__ = ["SERVER_OPTIONS", "Holding"]

SERVER_OPTIONS = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
_KEY = int.from_bytes(b"vmctl", "big")


class Holding:
    """The lock of one database; its methods may be called from any thread."""

    def __init__(self, engine: sa.Engine, *, shown: str) -> None:
        """*shown* is the database's URL as people may read it."""
        self._engine = engine
        self._shown = shown
        self._turn = threading.Lock()
        self._connection: sa.Connection | None = None

    def check(self) -> None:
        """Returns while the database is ours.

        Raises:
            VmctlError: another vmctl holds it.
        """
        with self._turn:
            if self._connection is not None:
                try:
                    self._connection.execute(sa.select(1))
                    return
                except SQLAlchemyError:
                    self._let_go()
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            if not connection.scalar(sa.select(sa.func.pg_try_advisory_lock(_KEY))):
                connection.close()
                raise VmctlError(
                    f"another vmctl serves from {self._shown}; stop it, or give another --store (one that has died "
                    "holds it for half a minute at most)",
                    status=503,
                )
            self._connection = connection

    def close(self) -> None:
        """Gives the database to whoever comes next."""
        with self._turn:
            self._let_go()

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()  # else the pool would keep the session, and with it the lock
            self._connection.close()
            self._connection = None
