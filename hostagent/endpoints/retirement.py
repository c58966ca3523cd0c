"""Ports that go with their endpoints: the manager is told until they are gone.

Theory of operation. A port that a claim of this host made for an endpoint is of no use once that was detached, and the
next container would leave another one. So `retire` writes it down and asks the manager to delete it. The answer is the
port's removal, pushed like any other; until it comes the question is on disk and said again on each new stream, so a
manager that is away delays it and nothing more. Whoever attaches the endpoint again takes the question back. The
manager has the last word: a port that an operator made stays.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from uuid import UUID

import structlog

from hostagent.state import State
from hostagent.sync_client import SyncClient

__all__ = ["Retirements"]

log = structlog.get_logger(__name__)

_ANSWER_S = 2.0


class Retirements:
    """Of one host."""

    def __init__(self, *, state: State, sync: SyncClient, host_uuid: UUID) -> None:
        self._state = state
        self._sync = sync
        self._host_uuid = host_uuid
        self._news = asyncio.Event()

    async def retire(self, port_uuid: UUID) -> None:
        """Have the port deleted; returns when it is gone, or could not be for a moment."""
        self._state.records.put_retirement(port_uuid)
        log.info("port: retire", port=str(port_uuid))
        self.restate()
        await self._answered(port_uuid)

    async def take_back(self, port_uuid: UUID) -> None:
        """The port is wanted again: what was asked already is waited for, what was not is not asked."""
        if port_uuid in self._state.records.retirements:
            await self._answered(port_uuid)
            self._state.records.drop_retirement(port_uuid)

    def restate(self) -> None:
        """Ask for all that is not gone yet; forget what is gone, or is another host's by now."""
        for port_uuid in tuple(self._state.records.retirements):
            location = self._state.locations.get(port_uuid)
            if location is None or location.holder_host != self._host_uuid:
                self._state.records.drop_retirement(port_uuid)
            else:
                self._sync.retire(location)

    def look(self) -> None:
        """Something was pushed: what is gone by now is done with."""
        for port_uuid in tuple(self._state.records.retirements):
            if port_uuid not in self._state.ports:
                self._state.records.drop_retirement(port_uuid)
        self._news.set()

    async def _answered(self, port_uuid: UUID) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_S if self._sync.connected else 0):
                while port_uuid in self._state.records.retirements:
                    self._news.clear()
                    await self._news.wait()
