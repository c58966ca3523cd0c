"""Writes beside the loop: in order, together, told when they are on disk, and lost together."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from hostagent import journal
from hostagent.identity import Identity
from hostagent.outbox import Outbox
from hostagent.state import State, StateError, VifRecord
from hostagent.sync_client import SyncClient
from netmgr.contract.types import Object, TransportZone, ZoneKind

IDENTITY = Identity(host_uuid=uuid4(), host_name="h1", managers=("192.0.2.1:7444",))


class Quiet:
    """A listener that is not told anything here."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **more: None


def _zone(name: str) -> Object:
    return Object(version=1, body=TransportZone(uuid=uuid4(), name=name, kind=ZoneKind.OVERLAY))


def _beside(path: Path, test: Callable[[State, list[str]], Awaitable[None]]) -> State:
    """Run *test* with a state that writes beside the loop, and the words that it says; the state as read anew."""

    async def main() -> None:
        state, words = State(path), list[str]()
        state.write_beside(saved=lambda: words.append("saved"), lost=words.append)
        try:
            await test(state, words)
        finally:
            state.close()

    asyncio.run(main())
    return State(path)


def _hold(path: Path) -> sqlite3.Connection:
    """Another writer, that keeps the database from everybody else until it rolls back."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.execute("BEGIN IMMEDIATE")
    return db


def test_what_is_taken_is_known_at_once_and_on_disk_when_saved_returns(tmp_path: Path) -> None:
    path = tmp_path / "state.db"

    async def test(state: State, words: list[str]) -> None:
        held = _hold(path)
        began = asyncio.get_running_loop().time()
        assert len(state.take([_zone("a")], revision=5)) == 1
        assert asyncio.get_running_loop().time() - began < 1  # the other writer is not waited for
        assert (state.revision, [zone.name for zone in state.zones.values()]) == (5, ["a"])
        assert (state.mark, state.mark_saved, words) == (1, 0, [])
        held.execute("ROLLBACK")
        await state.saved()
        assert (state.mark_saved, words) == (1, ["saved"])
        assert State(path, read_only=True).revision == 5

    assert _beside(path, test).revision == 5


def test_what_comes_during_a_commit_goes_into_the_next_together_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "state.db"

    async def test(state: State, words: list[str]) -> None:
        held = _hold(path)
        for revision in range(1, 51):
            state.take([_zone(str(revision))], revision=revision)
        state.put_vif(VifRecord(vif_uuid=uuid4(), port_uuid=uuid4(), network_uuid=uuid4()))
        held.execute("ROLLBACK")
        await state.saved()
        assert len(words) <= 2  # 51 writes

    after = _beside(path, test)
    assert (after.revision, len(after.zones), len(after.vifs)) == (50, 50, 1)


def test_closing_waits_for_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "state.db"

    async def test(state: State, words: list[str]) -> None:
        held = _hold(path)
        state.take([_zone("a")], revision=7)
        threading.Timer(0.2, held.execute, ("ROLLBACK",)).start()

    assert _beside(path, test).revision == 7


def test_a_write_that_fails_takes_what_follows_with_it_and_memory_is_what_the_disk_holds(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    State(path).take([_zone("kept")], revision=1)

    async def test(state: State, words: list[str]) -> None:
        with sqlite3.connect(path) as db:
            db.execute("CREATE TRIGGER full BEFORE INSERT ON objects BEGIN SELECT RAISE(FAIL, 'disk full'); END")
        state.take([_zone("lost")], revision=2)
        with pytest.raises(StateError, match="can't be written"):
            await state.saved()
        assert ["disk full" in word for word in words] == [True]
        assert (state.revision, [zone.name for zone in state.zones.values()]) == (1, ["kept"])
        assert state.mark == state.mark_saved
        with sqlite3.connect(path) as db:
            db.execute("DROP TRIGGER full")
        state.take([_zone("later")], revision=3)
        await state.saved()

    after = _beside(path, test)
    assert (after.revision, sorted(zone.name for zone in after.zones.values())) == (3, ["kept", "later"])


def test_an_acknowledgement_leaves_when_the_disk_has_what_it_is_about(tmp_path: Path) -> None:
    path = tmp_path / "state.db"

    async def main() -> None:
        state = State(path)
        sync = SyncClient(identity=IDENTITY, state=state, listener=Quiet(), boot_id="b", agent_version="1")
        outbox = sync._outbox = Outbox()
        state.write_beside(saved=sync.saved, lost=lambda why: None)
        held = _hold(path)
        state.take([_zone("a")], revision=5)
        sync.acknowledge(5, ())
        assert not outbox._waiting
        state.take([_zone("b")], revision=6)  # nothing newer holds it up, and it is not said twice
        held.execute("ROLLBACK")
        await state.saved()
        assert [message.ack.revision for message in outbox._waiting.values()] == [5]
        sync.acknowledge(6, ())
        assert [message.ack.revision for message in outbox._waiting.values()] == [6]
        state.close()

    asyncio.run(main())


def _long(log: Path) -> None:
    """Return when *log* is as long as it will ever be."""
    deadline = time.monotonic() + 5
    while log.stat().st_size < journal._LOG_PAGES * 4096:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_log_is_laid_out_when_nobody_writes_and_commits_do_not_lengthen_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_QUIET_S", 0.02)
    log = tmp_path / "state.db-wal"
    before, after = _zone("a"), _zone("b")

    async def test(state: State, _words: list[str]) -> None:
        state.take([before], revision=1)
        await state.saved()
        await asyncio.to_thread(_long, log)
        await asyncio.sleep(0.2)  # it begins at its front again
        size = log.stat().st_size
        state.take([after], revision=2)
        await state.saved()
        assert log.stat().st_size == size
        copy = tmp_path / "copy"  # as it would be found after a crash
        copy.mkdir()
        for part in ("state.db", "state.db-wal"):
            (copy / part).write_bytes((tmp_path / part).read_bytes())

    _beside(tmp_path / "state.db", test)
    found = State(tmp_path / "copy/state.db")
    assert found.zones.keys() == {before.body.uuid, after.body.uuid}
    assert found.revision == 2


def test_a_stream_whose_word_could_not_be_kept_is_ended_and_says_why(tmp_path: Path) -> None:
    async def main() -> None:
        state = State(tmp_path / "state.db")
        sync = SyncClient(identity=IDENTITY, state=state, listener=Quiet(), boot_id="b", agent_version="1")
        began: list[str] = []
        again = asyncio.Event()

        class Call:
            def __init__(self, task: asyncio.Future[None]) -> None:
                self.cancel = task.cancel

        async def run_stream(address: str) -> None:
            began.append(sync.why_away)
            if len(began) == 2:
                again.set()
            over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            sync._stream = Call(over)
            await over

        sync._run_stream = run_stream  # type: ignore[method-assign]
        sync.start()
        await asyncio.sleep(0)
        sync.give_up("the disk is full")
        await asyncio.wait_for(again.wait(), 5)
        assert began[1] == "the disk is full"
        await sync.close()
        state.close()

    asyncio.run(main())
