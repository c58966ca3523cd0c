"""What waits to go up the stream to the manager."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from netmgr.contract.proto import sync_pb2

__all__ = ["Outbox"]


class Outbox:
    """Messages on their way up: in order, and of each level only the newest. Claims that wait one behind the other go
    together; none waits for another to come."""

    def __init__(self) -> None:
        self.claims_max = 1  # in one message; the manager says it
        self._waiting: dict[tuple[str, str], Any] = {}
        self._filled = asyncio.Event()

    def put(self, body: str, message: Any, *, key: str = "") -> None:
        self._waiting.pop((body, key), None)  # a newer word goes to the end: never before what it builds on
        self._waiting[body, key] = sync_pb2.HostMessage(**{body: message})
        self._filled.set()

    async def messages(self) -> Any:
        """Messages for the stream, for as long as it is read."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._waiting:
                claims = self._take_claims()
                if len(claims) > 1:
                    yield sync_pb2.HostMessage(claims=sync_pb2.Claims(claims=claims))
                elif claims:
                    yield sync_pb2.HostMessage(claim=claims[0])
                else:
                    yield self._waiting.pop(next(iter(self._waiting)))

    def _take_claims(self) -> list[sync_pb2.Claim]:
        """The claims that nothing else stands before."""
        ready = itertools.takewhile(lambda key: key[0] == "claim", self._waiting)
        return [self._waiting.pop(key).claim for key in list(itertools.islice(ready, self.claims_max))]
