"""What a switch has said can be taken ahead of the event loop."""

from __future__ import annotations

import asyncio
import socket

from hostagent.realize.openflow_wire import Wire, message


def test_what_has_come_is_taken_at_once_in_its_order_and_nothing_twice():
    async def main() -> list[int]:
        heard: list[int] = []
        wire = Wire(lambda _kind, xid, _body: heard.append(xid), lambda _why: None)
        switch, ours = socket.socketpair()
        with switch:
            await asyncio.get_running_loop().create_unix_connection(lambda: wire, sock=ours)
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


def test_what_begins_with_a_message_can_be_had_before_anything_is_made_of_it():
    async def main() -> list[object]:
        heard: list[object] = []
        wire = Wire(lambda _kind, xid, _body: heard.append(xid), lambda _why: None)
        switch, ours = socket.socketpair()
        with switch:
            await asyncio.get_running_loop().create_unix_connection(lambda: wire, sock=ours)
            assert not wire.hear(heard.append)
            switch.sendall(message(2, 1) + message(2, 2)[:4])
            assert wire.hear(heard.append)
            switch.sendall(message(2, 2)[4:])
            assert wire.hear(heard.append), "the rest of one is no beginning"
            wire.close()
        return heard

    assert asyncio.run(main()) == [message(2, 1) + message(2, 2)[:4], 1, 2]


def test_end_of_the_connection_is_left_to_the_event_loop():
    async def main() -> list[str]:
        lost: list[str] = []
        wire = Wire(lambda *_: None, lost.append)
        switch, ours = socket.socketpair()
        await asyncio.get_running_loop().create_unix_connection(lambda: wire, sock=ours)
        switch.close()
        wire.hear()
        assert lost == []
        await asyncio.sleep(0.02)
        wire.hear()
        return lost

    assert asyncio.run(main()) == ["closed by the switch"]


def test_before_there_is_a_connection_nothing_is_heard():
    Wire(lambda *_: None, lambda _why: None).hear()
