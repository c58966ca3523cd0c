"""The event loop sees what OVSDB has sent, and takes nothing of it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from hostagent.realize.ovsdb_ahead import Ahead

UPDATE = json.dumps({"id": None, "method": "update3", "params": [["m", "d"], "t", {}]}).encode()


def looking(scene: Callable[[Ahead, socket.socket, socket.socket, list[Any]], Awaitable[None]]) -> list[Any]:
    """*scene* with what looks, the server's end, the thread's own end, and what was told."""

    async def main() -> list[Any]:
        told: list[Any] = []
        ahead = Ahead(told.append, lambda: None)
        server, ours = socket.socketpair()
        with server, ours:
            ahead.watch(ours.dup())
            await scene(ahead, server, ours, told)
            ahead.close()
        return told

    return asyncio.run(main())


async def soon() -> None:
    await asyncio.sleep(0.02)


def test_a_message_is_told_once_and_left_for_its_owner():
    async def scene(_: Ahead, server: socket.socket, ours: socket.socket, told: list[Any]) -> None:
        server.sendall(UPDATE)
        await soon()
        assert told == [json.loads(UPDATE)]
        assert ours.recv(65536) == UPDATE
        server.sendall(b'{"id":"echo"}')
        await soon()

    assert looking(scene) == [json.loads(UPDATE), {"id": "echo"}]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(UPDATE[:-1], id="not whole"),
        pytest.param(UPDATE[7:], id="the end of one"),
        pytest.param(UPDATE + UPDATE, id="two"),
        pytest.param(json.dumps({"params": "x" * 5000}).encode(), id="a long one"),
        pytest.param(b"\xff\x00", id="no text"),
    ],
)
def test_what_is_not_one_short_and_whole_message_is_left_alone(sent: bytes):
    async def scene(_: Ahead, server: socket.socket, ours: socket.socket, told: list[Any]) -> None:
        server.sendall(sent)
        await soon()
        assert ours.recv(65536) == sent

    assert looking(scene) == []


def test_the_end_of_a_connection_tells_nothing_and_another_takes_its_place():
    async def scene(ahead: Ahead, server: socket.socket, ours: socket.socket, told: list[Any]) -> None:
        server.close()
        await soon()
        other_server, other = socket.socketpair()
        with other_server, other:
            ahead.watch(other.dup())
            other_server.sendall(UPDATE)
            await soon()
            assert len(told) == 1
            ahead.watch(None)
            other_server.sendall(UPDATE)
            await soon()

    assert len(looking(scene)) == 1
