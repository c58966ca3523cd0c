"""Steps at libvirt, in a task of their own: libvirtd may be waiting for the agent in a hook."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from hostagent.host import Host
from hostagent.model import DefineNetwork, RemoveNetwork, Step
from hostagent.progress import Failures
from hostagent.steps import log_steps

__all__ = ["NetworkSteps", "at_libvirt"]


def at_libvirt(step: Step) -> bool:
    """True for steps that are carried out here."""
    return isinstance(step, DefineNetwork | RemoveNetwork)


class NetworkSteps:
    """Carries out one batch at a time; *done* wakes the loop after each."""

    def __init__(self, *, host: Host, failures: Failures, done: Callable[[], None]) -> None:
        self._host = host
        self._failures = failures
        self._done = done
        self._task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """True while steps are under way."""
        return self._task is not None

    def start(self, steps: Sequence[Step]) -> None:
        """Begin with *steps*, unless others are under way: then the plan that follows them has these again."""
        if steps and self._task is None:
            self._task = asyncio.create_task(self._apply(steps), name="libvirt-networks")

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _apply(self, steps: Sequence[Step]) -> None:
        try:
            log_steps(steps)
            failed = await self._host.apply(steps)
            self._failures.note(steps, failed, now=time.monotonic())
        finally:
            self._task = None
            self._done()
