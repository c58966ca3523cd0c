"""Bytes of an OpenFlow connection to messages, and back."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable
from typing import Final

__all__ = ["HELLO", "VERSION", "Wire", "message"]

VERSION: Final = 6  # OpenFlow 1.5
_HEADER: Final = struct.Struct("!BBHI")
HELLO: Final = 0
_HEARD_MAX: Final = 1 << 16  # bytes


def message(kind: int, xid: int, body: bytes = b"") -> bytes:
    """One message of OpenFlow 1.5."""
    return _HEADER.pack(VERSION, kind, 8 + len(body), xid) + body


class Wire(asyncio.Protocol):
    """Bytes to messages; knows the header and nothing else."""

    def __init__(self, receive: Callable[[int, int, bytes], None], lost: Callable[[str], None]) -> None:
        self._receive = receive
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._fd = -1
        self._parsing = False
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._fd = transport.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        self._parsing = True
        try:
            self._buffer += data
            self._parse(self._buffer)
        finally:
            self._parsing = False

    def _parse(self, buffer: bytearray) -> None:
        at = 0
        while len(buffer) - at >= 8:
            version, kind, length, xid = _HEADER.unpack_from(buffer, at)
            if version != VERSION and kind != HELLO:
                self.close()
                self._lost(f"the switch speaks OpenFlow version {version}, not 1.5")
                return
            if length < 8:
                self.close()
                self._lost(f"the switch sent a message of {length} bytes")
                return
            if len(buffer) - at < length:
                break
            self._receive(kind, xid, bytes(buffer[at + 8 : at + length]))
            at += length
        del buffer[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(str(exc) if exc else "closed by the switch")

    def hear(self, first: Callable[[int, bytes], None] | None = None) -> bool:
        """Take what has come and waits for the event loop; False where that is nothing, or where we are called while a
        message is being dealt with. *first* is called with kind and body of the message with which it begins, if that
        is whole, before anything is made of it. The end of the connection is left to the loop; a mistake of ours ends
        it, as it does in the loop."""
        if self._transport is None or self._transport.is_closing() or self._parsing:
            return False
        try:
            data = os.read(self._fd, _HEARD_MAX)
        except OSError:  # nothing has come, or the loop will tell what is wrong
            return False
        try:
            if first is not None and not self._buffer and len(data) >= 8:
                _, kind, length, _ = _HEADER.unpack_from(data)
                if 8 <= length <= len(data):
                    first(kind, data[8:length])
            self.data_received(data)
        except Exception as error:
            self.close()
            self._lost(repr(error))
            raise
        return bool(data)

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
