"""Threads for calls that may hang, with a deadline for whoever waits.

A hung libvirt call cannot be interrupted, only left alone. So every host has threads of its own, which no other host's
calls use; the one who waits gets `TimeoutError` at the deadline, and a call that has not begun by then never runs. The
threads are daemons: a hung host does not keep the program from ending.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Workers", "run_in_thread"]

T = TypeVar("T")


class Workers:
    """A few daemon threads that run blocking functions in order of arrival."""

    def __init__(self, name: str, *, threads: int) -> None:
        self._name = name
        self._count = threads
        self._threads: list[threading.Thread] = []
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    async def run(self, function: Callable[[], T], *, deadline_s: float) -> T:
        """What *function* returns or raises; `TimeoutError` after *deadline_s*, the wait for a thread included."""
        if len(self._threads) < self._count:
            thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        future, job = _job(function)
        self._queue.put(job)
        async with asyncio.timeout(deadline_s):
            return await future

    def close(self) -> None:
        """Lets the threads end after the calls that are under way; does not wait for them."""
        for _ in self._threads:
            self._queue.put(None)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            job()


async def run_in_thread(name: str, function: Callable[[], T]) -> T:
    """What *function* returns or raises, from a daemon thread of its own, however long it takes."""
    future, job = _job(function)
    threading.Thread(target=job, name=name, daemon=True).start()
    return await future


def _job(function: Callable[[], T]) -> tuple[asyncio.Future[T], Callable[[], None]]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def job() -> None:
        if future.cancelled():
            return
        result, error = None, None
        try:
            result = function()
        except BaseException as caught:
            error = caught
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    return future, job
