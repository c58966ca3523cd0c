"""Awake when OVSDB's word comes: its server writes the database's file before it tells anybody.

A new tap is known to vswitchd and to us a quarter of a millisecond after that, and vswitchd tells its number within
half a millisecond more. Whoever sleeps until then is late, as the machine wakes him on a cold processor or on the one
that vswitchd has. So the event loop is woken by the write. Nothing is read from the file and nothing is made of it: to
be busy when the word comes costs more than to be asleep. Without it, where the database is elsewhere or the host has
used up its watches, all is the same but for a part of a millisecond.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import structlog
from inotify_simple import INotify, flags

__all__ = ["OvsdbWrites"]

_EVENTS_MAX = 4096  # bytes, of some 32 an event

log = structlog.get_logger(__name__)


class OvsdbWrites:
    """Wakes the event loop, which must be running, when the file *database*, or another beside it, is written."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._inotify: INotify | None = None
        self.seen = 0
        """How often it was woken."""

    def start(self) -> None:
        """Watch the directory, not the file: that is another one when ovsdb-server has compacted its database."""
        try:
            self._inotify = INotify()
            self._inotify.add_watch(self._database.parent, flags.MODIFY)
        except OSError as error:
            self.close()
            log.info("ovsdb: its file is not watched", file=str(self._database), reason=str(error))
            return
        asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._written)

    def close(self) -> None:
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None

    def _written(self) -> None:
        assert self._inotify is not None
        os.read(self._inotify.fileno(), _EVENTS_MAX)
        self.seen += 1
