"""Questions to hosts that wait for their answers: numbered, each with a deadline, in memory only.

An answer counts only from the host that was asked; one that nobody waits for any more is dropped. The end of a stream
answers all that its host was asked, with nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

from netmgr.contract.types import TraceAnswer, TraceQuestion

__all__ = ["Questions"]


class Questions:
    """All methods in the event loop's thread."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._waiting: dict[tuple[UUID, int], asyncio.Future[TraceAnswer | None]] = {}

    async def ask(
        self, host_uuid: UUID, question: TraceQuestion, *, send: Callable[[TraceQuestion], None], timeout_s: float
    ) -> TraceAnswer | None:
        """The host's answer; None when its stream ends first, or none comes within *timeout_s*."""
        number = next(self._numbers)
        waiting: asyncio.Future[TraceAnswer | None] = asyncio.get_running_loop().create_future()
        self._waiting[host_uuid, number] = waiting
        try:
            send(replace(question, request_id=number))
            return await asyncio.wait_for(waiting, timeout_s)
        except TimeoutError:
            return None
        finally:
            del self._waiting[host_uuid, number]

    def answered(self, host_uuid: UUID, answer: TraceAnswer) -> None:
        """A host has answered."""
        self._resolve(host_uuid, answer.request_id, answer)

    def gone(self, host_uuid: UUID) -> None:
        """The host's stream has ended."""
        for host, number in list(self._waiting):
            if host == host_uuid:
                self._resolve(host, number, None)

    def _resolve(self, host_uuid: UUID, number: int, answer: TraceAnswer | None) -> None:
        waiting = self._waiting.get((host_uuid, number))
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)
