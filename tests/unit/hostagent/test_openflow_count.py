"""A large answer of the switch is read in pieces: what is urgent does not wait for all of them."""

from __future__ import annotations

import asyncio

import pytest

from hostagent.realize.openflow import OpenFlowConnection

PARTS = 7


def test_others_have_their_turn_between_the_parts_of_a_count(monkeypatch: pytest.MonkeyPatch) -> None:
    async def parts(_table: int, _timeout_s: float) -> list[bytes]:
        return [b""] * PARTS

    async def main() -> int:
        connection = OpenFlowConnection(
            bridge="osw-1", on_change=lambda: None, on_packet_in=lambda *_: None, on_close=lambda _: None
        )
        monkeypatch.setattr(connection, "_dump_parts", parts)
        counting, turns = asyncio.create_task(connection.count()), 0
        while not counting.done():
            await asyncio.sleep(0)
            turns += 1
        assert counting.result() == ()
        return turns

    assert asyncio.run(main()) >= PARTS
