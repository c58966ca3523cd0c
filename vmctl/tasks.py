"""Tasks under way, and the stream of events.

A task is a row of the journal and, while it runs, a coroutine. It ends with a sentence either way; its failure is the
row's, and the caller's. Followers of the events each have a queue: one that does not read is cut off after
`BACKLOG` events instead of holding anybody up, and reads the rest from the journal by the last number it saw.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

import structlog

from vmctl.journal import Journal
from vmctl.model import Event, Task, TaskState, VmctlError

__all__ = ["Tasks", "now_text"]

BACKLOG = 1000
T = TypeVar("T")

log = structlog.get_logger("vmctl.tasks")


def now_text() -> str:
    """The time, RFC 3339, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Tasks:
    """Begins tasks and hands events on; made and used in the event loop's thread."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._loop = asyncio.get_running_loop()
        self._followers: set[asyncio.Queue[Event | None]] = set()
        self._notes: set[asyncio.Task[None]] = set()
        journal.tell = self._tell

    async def run(
        self,
        kind: str,
        subject: str,
        work: Callable[[Task], Awaitable[tuple[T, str]]],
        *,
        sentence: str = "",
        parent_id: int | None = None,
    ) -> T:
        """What *work* returns, as a task; its second value is the sentence that the task ends with.

        Raises:
            VmctlError: what *work* raised; the task has failed with that sentence.
        """
        task = await asyncio.to_thread(
            self.journal.begin_task, kind=kind, subject=subject, sentence=sentence, now=now_text(), parent_id=parent_id
        )
        try:
            result, said = await work(task)
        except VmctlError as error:
            await self._end(task, TaskState.FAILED, error.sentence)
            raise
        except asyncio.CancelledError:
            await self._end(task, TaskState.FAILED, "it was cancelled")
            raise
        except Exception as error:
            await self._end(task, TaskState.FAILED, f"vmctl is wrong: {type(error).__name__}: {error}")
            raise
        await self._end(task, TaskState.DONE, said)
        return result

    def emit(self, kind: str, subject: str, what: str, sentence: str = "", *, ref: int | None = None) -> None:
        """Notes that something happened, soon; a store that does not take it is logged and stops nobody."""

        async def note() -> None:
            try:
                await asyncio.to_thread(
                    self.journal.add_event,
                    kind=kind,
                    subject=subject,
                    what=what,
                    sentence=sentence,
                    now=now_text(),
                    ref=ref,
                )
            except VmctlError as error:
                log.warning("event not kept", kind=kind, subject=subject, what=what, reason=error.sentence)

        writing = asyncio.create_task(note())
        self._notes.add(writing)
        writing.add_done_callback(self._notes.discard)

    async def follow(self, *, after: int) -> AsyncIterator[Event]:
        """Events with a number above *after*: those in the journal, then each as it happens."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(BACKLOG)
        self._followers.add(queue)
        try:
            for event in await asyncio.to_thread(self.journal.events, after=after):
                after = event.id
                yield event
            while (new := await queue.get()) is not None:
                if new.id > after:
                    after = new.id
                    yield new
        finally:
            self._followers.discard(queue)

    def close(self) -> None:
        """Ends every stream."""
        for queue in list(self._followers):
            self._end_stream(queue)

    async def _end(self, task: Task, state: TaskState, sentence: str) -> None:
        try:
            await asyncio.to_thread(self.journal.change_task, task.id, state=state, sentence=sentence, now=now_text())
        except VmctlError as error:
            log.warning("end of task not kept", task=task.id, state=state.value, reason=error.sentence)

    def _tell(self, event: Event) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hand_on, event)

    def _hand_on(self, event: Event) -> None:
        for queue in list(self._followers):
            if queue.full():
                self._end_stream(queue)
            else:
                queue.put_nowait(event)

    def _end_stream(self, queue: asyncio.Queue[Event | None]) -> None:
        self._followers.discard(queue)
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)
