"""Phases of migrations, sent to the switch beside the loop.

Theory of operation. A guest that has paused on this host must have its frames sent on within a millisecond or two, so a
phase that changes is compiled at once (`fastpath`) and sent over the open connection; the loop is woken after that and
finds nothing left to do. What was sent is remembered, because the next phase's difference is taken against it; each
turn of the loop that found nothing to do corrects the memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog

from hostagent.fastpath import phase_flows
from hostagent.host import Host
from hostagent.model import ChangeFlows, Desired, Phase
from hostagent.realize.errors import RealizeError

__all__ = ["Switchover"]

log = structlog.get_logger(__name__)


class Switchover:
    """Sends phases. *desired* gives what is wanted now; *done* wakes the loop after each change."""

    def __init__(self, *, host: Host, desired: Callable[[], Desired], done: Callable[[], None]) -> None:
        self._host = host
        self._desired = desired
        self._done = done
        self._sent: dict[UUID, tuple[Phase, str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        """True while a change is on its way to the switch; its end wakes the loop."""
        return bool(self._tasks)

    def changed(self, ports: frozenset[UUID]) -> None:
        """The phases of *ports* changed: put their flows on the switch now."""
        began = time.monotonic()
        desired = self._desired()
        changes = phase_flows(ports, before=self._sent, desired=desired, observed=self._host.cached())
        marks = phase_marks(desired)
        for port in ports:
            self._sent.pop(port, None)
            if port in marks:
                self._sent[port] = marks[port]
        task = asyncio.create_task(self._send(changes, began))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def realized(self, desired: Desired) -> None:
        """The whole of *desired* is on the switch."""
        self._sent = phase_marks(desired)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _send(self, changes: Sequence[ChangeFlows], began: float) -> None:
        compiled = time.monotonic()
        for change in changes:
            try:
                await self._host.change_flows(change.bridge, delete=change.delete, add=change.add)
            except RealizeError as error:
                log.warning("phase: left to the loop", reason=error.sentence)
                break
            log.info(
                "phase: flows confirmed",
                bridge=change.bridge,
                flows=len(change.delete) + len(change.add),
                compile_ms=round((compiled - began) * 1000, 2),
                confirm_ms=round((time.monotonic() - compiled) * 1000, 2),
            )
        self._done()


def phase_marks(desired: Desired) -> dict[UUID, tuple[Phase, str]]:
    """Phase and VTEP of the ports that are not steady."""
    return {port: (phase, desired.relay_vteps.get(port, "")) for port, phase in desired.phases.items()}
