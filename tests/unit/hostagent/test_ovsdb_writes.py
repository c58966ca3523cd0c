"""What wakes the agent ahead of OVSDB's word, on real files."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from hostagent.realize.ovsdb_writes import OvsdbWrites


def watching(database: Path, test: Callable[[OvsdbWrites], Awaitable[None]]) -> None:
    async def main() -> None:
        writes = OvsdbWrites(database)
        writes.start()
        try:
            await test(writes)
        finally:
            writes.close()
            writes.close()

    asyncio.run(main())


async def woken(writes: OvsdbWrites, before: int) -> bool:
    for _ in range(1000):
        if writes.seen != before:
            return True
        await asyncio.sleep(0.005)
    return False


def append(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"OVSDB JSON 2 x\n{}\n")


def test_each_write_wakes_also_after_the_file_was_replaced(tmp_path: Path) -> None:
    database, other = tmp_path / "conf.db", tmp_path / "conf.db.tmp"
    database.touch()

    async def test(writes: OvsdbWrites) -> None:
        for _ in range(3):
            before = writes.seen
            append(database)
            assert await woken(writes, before)
        append(other)  # as ovsdb-server compacts
        other.rename(database)
        await asyncio.sleep(0.05)
        before = writes.seen
        append(database)
        assert await woken(writes, before)

    watching(database, test)


def test_where_there_is_no_database_nothing_is_watched(tmp_path: Path) -> None:
    async def test(writes: OvsdbWrites) -> None:
        await asyncio.sleep(0)
        assert writes.seen == 0

    watching(tmp_path / "nowhere/conf.db", test)
