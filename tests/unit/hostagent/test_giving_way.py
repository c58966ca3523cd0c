"""While a guest is awaited the agent interrupts nobody, and only then."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine

import pytest

from hostagent.giving_way import GivingWay


def in_thread(work: Callable[[], Coroutine[None, None, None]]) -> None:
    """*work* with a policy of its own: it is the thread's."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def policy() -> int:
    return os.sched_getscheduler(0)


def test_from_the_beginning_to_the_end() -> None:
    async def work() -> None:
        way = GivingWay()
        way.end()
        assert policy() == os.SCHED_OTHER
        way.begin(60)
        way.begin(60)
        assert policy() == os.SCHED_BATCH
        way.end()
        assert policy() == os.SCHED_OTHER

    in_thread(work)


def test_it_ends_by_itself_and_each_guest_prolongs_it() -> None:
    async def work() -> None:
        way = GivingWay()
        way.begin(0.2)
        await asyncio.sleep(0.1)
        way.begin(0.2)
        await asyncio.sleep(0.15)
        assert policy() == os.SCHED_BATCH
        await asyncio.sleep(0.2)
        assert policy() == os.SCHED_OTHER
        way.begin(60)
        assert policy() == os.SCHED_BATCH, "and can begin anew"
        way.end()

    in_thread(work)


def test_what_an_operator_has_chosen_stays() -> None:
    async def work() -> None:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        way = GivingWay()
        way.begin(60)
        way.end()
        assert policy() == os.SCHED_BATCH

    in_thread(work)


def test_a_sandbox_that_forbids_it_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    async def work() -> None:
        monkeypatch.setattr(os, "sched_setscheduler", refuse)
        way = GivingWay()
        way.begin(60)
        way.end()
        assert policy() == os.SCHED_OTHER

    in_thread(work)
