"""A bundle that leaves with the switch's word of a port, and what such words are."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Sequence

import pytest

from hostagent.realize.openflow_bundle import pack
from hostagent.realize.openflow_ports import PORT_STATUS, Armed, PortWord, port_word
from hostagent.realize.openflow_wire import Wire, message

WORD = PortWord("tap0", 7)


def status(name: str = "tap0", ofport: int = 7, *, reason: int = 0, kind: int = PORT_STATUS) -> bytes:
    body = struct.pack("!B7xIH2x6s2x16s", reason, ofport, 72, b"\xfe\x54\x00\x00\x00\x01", name.encode())
    return message(kind, 0, body + bytes(40))


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        pytest.param(0, WORD, id="added"),
        pytest.param(1, PortWord("tap0", 0), id="gone"),
        pytest.param(2, None, id="changed"),
    ],
)
def test_a_port_status_tells_which_port_is_there_and_as_what(reason: int, told: PortWord | None):
    assert port_word(status(reason=reason)[8:]) == told


class Rig:
    """One that is armed, and what it wrote."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.ended = 0
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.armed = Armed(
            pack(sender=self, number=1, first_xid=1, delete=(), add=(), encode=lambda *_: b""),
            WORD,
            data=b"bundle",
            write=self.written.append,
            resubmit=self._resubmit,
            confirmed=self._confirmed,
            end=self._end,
        )

    def _resubmit(self, ofport: int, frames: Sequence[bytes]) -> None:
        assert ofport == WORD.ofport
        self.written += frames

    async def _confirmed(self) -> None:
        await self.answer

    def _end(self) -> None:
        self.ended += 1


async def hear(rig: Rig, said: bytes) -> None:
    """*said* comes by a wire."""
    wire = Wire(lambda *_: None, lambda _why: None)
    switch, ours = socket.socketpair()
    with switch:
        await asyncio.get_running_loop().create_unix_connection(lambda: wire, sock=ours)
        switch.sendall(said)
        assert wire.hear(rig.armed.heard) == bool(said)
        wire.close()


@pytest.mark.parametrize(
    ("said", "leaves"),
    [
        pytest.param(status(), True, id="its word"),
        pytest.param(status() + status("tap1", 8), True, id="its word and more"),
        pytest.param(status("tap1", 8) + status(), False, id="another's first"),
        pytest.param(status("tap1"), False, id="another's name"),
        pytest.param(status(ofport=8), False, id="another number"),
        pytest.param(status(reason=1), False, id="gone"),
        pytest.param(status(reason=2), False, id="changed"),
        pytest.param(status(kind=10), False, id="no port status"),
        pytest.param(status()[:40], False, id="not whole"),
        pytest.param(status()[:60], False, id="not whole, though it tells what counts"),
        pytest.param(b"", False, id="the end"),
    ],
)
def test_it_leaves_with_its_word_and_with_no_other(said: bytes, leaves: bool):
    async def main() -> None:
        rig = Rig()
        await hear(rig, said)
        assert (rig.armed.left, rig.written) == ((True, [b"bundle"]) if leaves else (False, []))
        assert rig.ended == 0

    asyncio.run(main())


@pytest.mark.parametrize("left", [False, True])
def test_it_leaves_once_with_the_frames_behind_it_and_others_go_on_when_it_is_confirmed(left: bool):
    async def main() -> None:
        rig = Rig()
        if left:
            await hear(rig, status())
        task = rig.armed.fire([b"frame"])
        await asyncio.sleep(0)
        assert (rig.written, rig.ended) == ([b"bundle", b"frame"], 0)
        rig.answer.set_result(None)
        await task
        await asyncio.sleep(0)
        assert rig.ended == 1

    asyncio.run(main())


def test_one_that_is_disarmed_has_left_nothing_and_lets_others_go_on():
    async def main() -> None:
        rig = Rig()
        rig.armed.disarm()
        assert (rig.written, rig.ended) == ([], 1)

    asyncio.run(main())
