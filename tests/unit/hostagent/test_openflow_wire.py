"""What a switch has said can be taken ahead of the event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from hostagent.realize.openflow_wire import Wire, message


@asynccontextmanager
async def connected(wire: Wire) -> AsyncIterator[socket.socket]:
    """The switch's end."""
    switch, ours = socket.socketpair()
    with switch:
        await asyncio.get_running_loop().create_unix_connection(lambda: wire, sock=ours)
        yield switch


def test_what_has_come_is_taken_at_once_in_its_order_and_nothing_twice():
    async def main() -> list[int]:
        heard: list[int] = []
        wire = Wire(lambda _kind, xid, _body: heard.append(xid), lambda _why: None)
        async with connected(wire) as switch:
            wire.hear()
            assert heard == []
            switch.sendall(message(2, 1) + message(2, 2, b"halves")[:11])
            wire.hear()
            assert heard == [1]
            switch.sendall(message(2, 2, b"halves")[11:])
            wire.hear()
            assert heard == [1, 2]
            switch.sendall(message(2, 3))
            await asyncio.sleep(0.02)
            wire.hear()
            wire.close()
        return heard

    assert asyncio.run(main()) == [1, 2, 3]


def test_the_first_message_can_be_had_before_anything_is_made_of_it():
    async def main() -> list[object]:
        heard: list[object] = []
        wire = Wire(lambda _kind, xid, _body: heard.append(xid), lambda _why: None)

        def first(kind: int, body: bytes) -> None:
            heard.append((kind, body))

        async with connected(wire) as switch:
            assert not wire.hear(first)
            switch.sendall(message(2, 1, b"body") + message(2, 2)[:4])
            assert wire.hear(first)
            switch.sendall(message(2, 2)[4:])
            assert wire.hear(first), "the rest of one is no beginning"
            switch.sendall(message(2, 3, b"body")[:11])
            assert wire.hear(first), "nor is one that is not whole"
            switch.sendall(message(2, 3, b"body")[11:])
            assert wire.hear(first)
            wire.close()
        return heard

    assert asyncio.run(main()) == [(2, b"body"), 1, 2, 3]


def test_a_mistake_of_ours_ends_the_connection_and_is_told_here():
    def receive(kind: int, xid: int, body: bytes) -> None:
        raise ZeroDivisionError

    async def main() -> list[str]:
        lost: list[str] = []
        wire = Wire(receive, lost.append)
        async with connected(wire) as switch:
            switch.sendall(message(2, 1))
            with pytest.raises(ZeroDivisionError):
                wire.hear()
            assert lost == ["ZeroDivisionError()"]
            assert not wire.hear()
            await asyncio.sleep(0.02)
            assert switch.recv(10) == b"", "it is closed"
        return lost

    assert asyncio.run(main())


def test_nothing_is_heard_in_the_middle_of_a_message():
    heard: list[int] = []
    within: list[bool] = []

    def receive(kind: int, xid: int, body: bytes) -> None:
        heard.append(xid)
        within.append(wire.hear())

    wire = Wire(receive, lambda _why: None)

    async def main() -> None:
        async with connected(wire) as switch:
            switch.sendall(message(2, 1) + message(2, 2) + message(2, 3)[:5])
            assert wire.hear()
            switch.sendall(message(2, 3)[5:])
            assert wire.hear()
            wire.close()

    asyncio.run(main())
    assert (heard, within) == ([1, 2, 3], [False] * 3)


def test_end_of_the_connection_is_left_to_the_event_loop():
    async def main() -> list[str]:
        lost: list[str] = []
        wire = Wire(lambda *_: None, lost.append)
        async with connected(wire) as switch:
            switch.close()
            wire.hear()
            assert lost == []
            await asyncio.sleep(0.02)
            wire.hear()
        return lost

    assert asyncio.run(main()) == ["closed by the switch"]


def test_before_there_is_a_connection_nothing_is_heard():
    Wire(lambda *_: None, lambda _why: None).hear()
