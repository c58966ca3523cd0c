"""What a switch says of its ports, and what is to leave with that word: before anything else is made of it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple

from hostagent.realize.openflow_bundle import Bundle

__all__ = ["PORT_STATUS", "Armed", "PortWord", "port_word"]

PORT_STATUS: Final = 12
_ADDED, _GONE = 0, 1
_STATUS: Final = struct.Struct("!B7xI12x16s")


class PortWord(NamedTuple):
    """A port was added, with its number; or is gone (0)."""

    name: str  # cut to 15 characters
    ofport: int


def port_word(body: bytes) -> PortWord | None:
    """What the body of a port status says; None where a port has changed otherwise.

    Raises:
        struct.error: it is not whole.
    """
    reason, ofport, name = _STATUS.unpack_from(body)
    if reason not in (_ADDED, _GONE):
        return None
    return PortWord(name.rstrip(b"\0").decode(errors="replace"), ofport if reason == _ADDED else 0)


class Armed:
    """A bundle that leaves once, and with the switch's *word* where that is the first which is heard; then it is for
    `fire` to see to the rest.

    Nobody else may change flows meanwhile, so it ends soon, by `fire` or by `disarm`.
    """

    def __init__(
        self,
        bundle: Bundle,
        word: PortWord,
        *,
        data: bytes,
        write: Callable[[bytes], None],
        resubmit: Callable[[int, Sequence[bytes]], None],
        confirmed: Callable[[], Coroutine[Any, Any, None]],
        end: Callable[[], None],
    ) -> None:
        """*data* is what is written, frames by *resubmit*; *confirmed* returns when the switch has answered; *end* lets
        others go on."""
        self.bundle = bundle
        self.word = word
        self.left = False
        self._data = data
        self._write = write
        self._resubmit = resubmit
        self._confirmed = confirmed
        self._end = end

    def heard(self, kind: int, body: bytes) -> None:
        """The switch has said this first: if it is the word, the bundle leaves."""
        if kind == PORT_STATUS and port_word(body) == self.word:
            self.leave()

    def leave(self) -> None:
        if not self.left:
            self.left = True
            self._write(self._data)

    def fire(self, frames: Sequence[bytes]) -> asyncio.Task[None]:
        """Send the bundle unless it has left, and right behind it *frames*, as if they had just come in by the port.
        The task ends when the switch has confirmed the flows, with the errors of `OpenFlowConnection.bundle`."""
        self.leave()
        if frames:
            self._resubmit(self.word.ofport, frames)
        task = asyncio.create_task(self._confirmed())
        task.add_done_callback(lambda _: self._end())
        return task

    def disarm(self) -> None:
        """It is not sent; unless it has left."""
        assert not self.left, "what has left must be followed"
        self._end()
