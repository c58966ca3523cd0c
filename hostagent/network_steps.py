"""Steps at libvirt, in a task of their own: libvirtd may be waiting for the agent in a hook.

That libvirt keeps a network is nothing that anybody waits for, and takes libvirtd's time from those that are waited
for, here and on hosts that share a machine with this one: it follows a moment later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

from hostagent.host import Host
from hostagent.model import DefineNetwork, KeepNetwork, RemoveNetwork, Step
from hostagent.progress import Failures
from hostagent.steps import log_steps

__all__ = ["NetworkSteps", "at_libvirt", "can_wait", "missed"]

_KEEP_S = 0.2


def at_libvirt(step: Step) -> bool:
    """True for steps that are carried out here."""
    return isinstance(step, DefineNetwork | KeepNetwork | RemoveNetwork)


def can_wait(step: Step) -> bool:
    """True for steps without which the host carries what it is to carry all the same."""
    return isinstance(step, KeepNetwork)


def missed(steps: Iterable[Step], failures: Failures) -> list[Step]:
    """Of planned *steps*, those for want of which the host is not in sync: not what can wait, unless it has failed."""
    return [step for step in steps if not can_wait(step) or failures.failed(step)]


class NetworkSteps:
    """Carries out one batch at a time; *done* wakes the loop after each."""

    def __init__(self, *, host: Host, failures: Failures, done: Callable[[], None]) -> None:
        self._host = host
        self._failures = failures
        self._done = done
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._since: dict[Step, float] = {}  # what can wait, from when on it was planned

    @property
    def busy(self) -> bool:
        """True while steps are under way."""
        return self._task is not None

    def start(self, steps: Sequence[Step]) -> None:
        """Begin with *steps*, unless others are under way: then the plan that follows them has these again."""
        ripe = self._ripe([step for step in steps if can_wait(step)])
        now = [step for step in steps if not can_wait(step)] or ripe
        if now and self._task is None:
            self._task = asyncio.create_task(self._apply(now), name="libvirt-networks")

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _ripe(self, waiting: Sequence[Step]) -> list[Step]:
        """Of *waiting* those that have been planned for a moment; the loop is woken when others will have been."""
        now = time.monotonic()
        self._since = {step: self._since.get(step, now) for step in waiting}
        unripe = [since + _KEEP_S - now for since in self._since.values() if since + _KEEP_S > now]
        if unripe and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(min(unripe), self._due)
        return [step for step in waiting if self._since[step] + _KEEP_S <= now]

    def _due(self) -> None:
        self._timer = None
        self._done()

    async def _apply(self, steps: Sequence[Step]) -> None:
        try:
            log_steps(steps)
            failed = await self._host.apply(steps)
            self._failures.note(steps, failed, now=time.monotonic())
        finally:
            self._task = None
            self._done()
