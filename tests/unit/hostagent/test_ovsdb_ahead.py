"""The event loop sees what OVSDB has sent, and takes nothing of it."""

from __future__ import annotations

import asyncio
import json
import select
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from hostagent.realize.ovsdb_ahead import Ahead, Bell, Poller, has_come

UPDATE = json.dumps({"id": None, "method": "update3", "params": [["m", "d"], "t", {}]}).encode()


def looking(scene: Callable[[Ahead, socket.socket, socket.socket, list[Any]], Awaitable[None]]) -> list[Any]:
    """*scene* with what looks, the server's end, the thread's own end, and what was told."""

    async def main() -> list[Any]:
        told: list[Any] = []
        ahead = Ahead(told.append)
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

    assert looking(scene) == [None], "its owner is to take it"


def test_a_look_sees_what_is_there_and_is_not_followed_by_another():
    async def scene(ahead: Ahead, server: socket.socket, ours: socket.socket, told: list[Any]) -> None:
        await asyncio.sleep(0)
        server.sendall(UPDATE)
        ahead.look()
        assert told == [json.loads(UPDATE)]
        await soon()
        ahead.watch(None)
        ahead.look()

    assert len(looking(scene)) == 1


def test_its_owner_waits_for_everything_but_what_is_looked_at():
    server, ours = socket.socketpair()
    other, more = socket.socketpair()
    with server, ours, other, more:
        server.sendall(UPDATE)
        assert has_come(ours)
        assert not has_come(more)
        assert not has_come(None)
        for looked_at, waited_s in ((ours, 0.05), (None, 0.0)):
            poller = Poller(looked_at)
            poller.fd_wait(ours, select.POLLIN)
            poller.fd_wait(more, select.POLLIN)
            poller.timer_wait(50)
            began = time.monotonic()
            poller.block()
            assert waited_s - 0.01 <= time.monotonic() - began < waited_s + 0.04
        poller = Poller(ours)
        poller.fd_wait(ours, select.POLLOUT)
        poller.timer_wait(10_000)
        poller.block()


def test_a_bell_wakes_until_it_is_silenced_and_may_be_rung_when_nobody_listens():
    bell = Bell()
    for _ in range(100_000):  # more than a pipe holds
        bell.ring()
    assert select.select([bell.fd], [], [], 0)[0]
    for _ in range(100):
        bell.silence()
    assert not select.select([bell.fd], [], [], 0)[0]
    bell.close()
    bell.close()
    bell.ring()


def test_the_end_of_a_connection_tells_nothing_and_another_takes_its_place():
    async def scene(ahead: Ahead, server: socket.socket, ours: socket.socket, told: list[Any]) -> None:
        server.close()
        await soon()
        other_server, other = socket.socketpair()
        with other_server, other:
            ahead.watch(other.dup())
            other_server.sendall(UPDATE)
            await soon()
            assert len(told) == 2
            ahead.watch(None)
            other_server.sendall(UPDATE)
            await soon()

    assert looking(scene) == [None, json.loads(UPDATE)]
