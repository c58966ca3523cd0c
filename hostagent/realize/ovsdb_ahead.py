"""What OVSDB has sent and the thread that owns the connection has not taken yet, seen from the event loop.

The thread would work on a message for half a millisecond before it could tell what is in it, and then wake the event
loop. So the loop alone is woken by the socket, looks at what is there, and takes nothing from it: whatever is more than
one short and whole message is none of its business. Then it wakes the thread. It is woken once for what comes, not for
as long as it is there.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import ovs.poller

__all__ = ["Ahead", "Bell", "Poller", "has_come"]

_LENGTH_MAX: Final = 4096  # bytes; what brings a tap has some 700


class Ahead:
    """*told* is called on the event loop after each look, with the message that was seen, decoded, or None. Made and
    used there."""

    def __init__(self, told: Callable[[Any], None]) -> None:
        self._told = told
        self._socket: socket.socket | None = None
        self._edge: select.epoll | None = None

    def watch(self, connection: socket.socket | None) -> None:
        """Look at *connection*, which is ours (a duplicate), and at no other any more."""
        self.close()
        if connection is not None:
            self._socket, self._edge = connection, select.epoll()
            self._edge.register(connection, select.EPOLLIN | select.EPOLLET)
            asyncio.get_running_loop().add_reader(self._edge.fileno(), self.look)

    def close(self) -> None:
        """Look no more."""
        if self._socket is not None and self._edge is not None:
            asyncio.get_running_loop().remove_reader(self._edge.fileno())
            self._edge.close()
            self._socket.close()
        self._socket = self._edge = None

    def look(self) -> None:
        """Look now, without being woken."""
        if self._socket is None or self._edge is None:
            return
        self._edge.poll(0)
        message = None
        with suppress(OSError, ValueError):  # nothing is there any more, or not one whole message
            seen = self._socket.recv(_LENGTH_MAX, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            message = json.loads(seen) if len(seen) < _LENGTH_MAX else None
        self._told(message)


class Bell:
    """Wakes a thread that polls *fd*; may be rung by anyone, also when nobody listens any more."""

    def __init__(self) -> None:
        self.fd, self._rope = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def ring(self) -> None:
        if self._rope >= 0:
            with suppress(BlockingIOError):  # it rings already
                os.write(self._rope, b"x")

    def silence(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.fd, 4096)

    def close(self) -> None:
        """The thread has ended."""
        ends, self.fd, self._rope = (self.fd, self._rope), -1, -1
        for end in ends:
            if end >= 0:
                os.close(end)


class Poller(ovs.poller.Poller):  # type: ignore[misc]
    """What the thread waits for: not for what comes by the socket at which the event loop looks."""

    def __init__(self, looked_at: socket.socket | None) -> None:
        super().__init__()
        self._looked_at = looked_at

    def fd_wait(self, fd: Any, events: int) -> None:
        if self._looked_at is None or fd is not self._looked_at or events != select.POLLIN:
            super().fd_wait(fd, events)


def has_come(connection: socket.socket | None) -> bool:
    """Whether something is there to be read."""
    return connection is not None and bool(select.select([connection], [], [], 0)[0])
