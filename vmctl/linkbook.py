"""Who holds which links now; waiting for them. The decisions are `vmctl.links`.

One event loop, one book: a grant of all links of a move is one step that nothing can come between.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from vmctl.links import Request, admit, shares

__all__ = ["LinkBook"]


class LinkBook:
    """Made and used in the event loop's thread."""

    def __init__(self) -> None:
        self._holding: dict[int, Request] = {}
        self._waiting: dict[int, tuple[Request, asyncio.Event]] = {}
        self._shares: dict[int, float] = {}

    @asynccontextmanager
    async def hold(self, request: Request) -> AsyncIterator[None]:
        """Waits until the request is granted, and holds its links until the end of the block."""
        granted = asyncio.Event()
        self._waiting[request.id] = (request, granted)
        try:
            self._admit()
            await granted.wait()
            yield
        finally:
            self._waiting.pop(request.id, None)
            self._holding.pop(request.id, None)
            self._admit()

    def would_wait(self, request: Request) -> bool:
        """Whether the request would have to wait now."""
        waiting = [other for other, _ in self._waiting.values()]
        return request.id not in admit(holding=list(self._holding.values()), waiting=[*waiting, request])

    def share(self, id: int) -> float:
        """Mbit/s that the move may use now, 0 for as fast as it goes."""
        return self._shares.get(id, 0.0)

    def used(self, host: str, link: str) -> float:
        """Mbit/s that moves may use of the host's link now."""
        return sum(
            self._shares.get(request.id, 0.0)
            for request in self._holding.values()
            if any((way.host, way.name) == (host, link) for way in request.links)
        )

    def _admit(self) -> None:
        waiting = [request for request, _ in self._waiting.values()]
        for id in admit(holding=list(self._holding.values()), waiting=waiting):
            request, granted = self._waiting.pop(id)
            self._holding[id] = request
            granted.set()
        self._shares = shares(list(self._holding.values()))
