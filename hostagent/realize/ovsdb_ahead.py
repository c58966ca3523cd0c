"""What OVSDB has sent and the thread that owns the connection has not taken yet, seen from the event loop.

The thread would work on a message for half a millisecond before it could tell what is in it, and then wake the event
loop. So the loop looks at the same socket, first, and takes nothing from it: whatever is more than one short and whole
message is none of its business. It is woken once for what comes, not for as long as it is there.
"""

from __future__ import annotations

import asyncio
import json
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

__all__ = ["Ahead"]

_LENGTH_MAX: Final = 4096  # bytes; what brings a tap has some 700


class Ahead:
    """*told* is called on the event loop with each message that is seen, decoded; *looked* after each look. Made and
    used there."""

    def __init__(self, told: Callable[[Any], None], looked: Callable[[], None]) -> None:
        self._told = told
        self._looked = looked
        self._socket: socket.socket | None = None
        self._edge: select.epoll | None = None

    def watch(self, connection: socket.socket | None) -> None:
        """Look at *connection*, which is ours (a duplicate), and at no other any more."""
        self.close()
        if connection is not None:
            self._socket, self._edge = connection, select.epoll()
            self._edge.register(connection, select.EPOLLIN | select.EPOLLET)
            asyncio.get_running_loop().add_reader(self._edge.fileno(), self._look)

    def close(self) -> None:
        """Look no more."""
        if self._socket is not None and self._edge is not None:
            asyncio.get_running_loop().remove_reader(self._edge.fileno())
            self._edge.close()
            self._socket.close()
        self._socket = self._edge = None

    def _look(self) -> None:
        assert self._socket is not None
        assert self._edge is not None
        self._edge.poll(0)
        message = None
        with suppress(OSError, ValueError):  # nothing is there any more, or not one whole message
            seen = self._socket.recv(_LENGTH_MAX, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            message = json.loads(seen) if len(seen) < _LENGTH_MAX else None
        if message is not None:
            self._told(message)
        self._looked()
