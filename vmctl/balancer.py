"""Balancing at work: one pass when asked for, and, where the administrator wants it, one every few minutes.

The past that keeps VMs from going to and fro is the journal of moves: all moves, by whomever. One pass at a time; the
next one looks at what came of it.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from uuid import UUID

import structlog

from vmctl.convoy import Begin, Run, travel
from vmctl.model import MigrationState, Task, VmctlError
from vmctl.mover import Mover
from vmctl.placement.balance import Departure, plan_balance
from vmctl.placement.model import Plan, Policy
from vmctl.placer import Placer
from vmctl.tasks import Tasks

__all__ = ["Balancer"]

LOOK_S = 1.0
_ROWS = 20_000  # of the journal; more moves than any window holds

log = structlog.get_logger("vmctl.balancer")


class Balancer:
    """Made and used in the event loop's thread."""

    def __init__(self, *, placer: Placer, tasks: Tasks, mover: Mover, begin: Begin) -> None:
        self._placer = placer
        self._tasks = tasks
        self._mover = mover
        self._begin = begin
        self._working: asyncio.Task[None] | None = None
        self._policy: asyncio.Task[None] | None = None
        self.last: Run | None = None

    def start(self) -> None:
        """Begins to look whether a pass is due."""
        self._policy = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Plans no further; moves under way are the mover's."""
        tasks = [task for task in (self._policy, self._working) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def plan(self, policy: Policy | None = None) -> Plan:
        """What a pass would do now; nothing is changed."""
        departures = await self._departures()
        return plan_balance(self._placer.fleet, now_s=time.time(), departures=departures, policy=policy)

    async def apply(self, policy: Policy | None = None) -> Run:
        """Begins a pass.

        Raises:
            VmctlError: one is under way.
        """
        if self._working is not None and not self._working.done():
            raise VmctlError("a pass of balancing is under way; see `vmctl balance`, or wait for it", status=409)
        run = Run(subject=str(policy or self._placer.settings.policy), plan=await self.plan(policy))
        self.last = run
        self._working = asyncio.create_task(self._work(run))
        return run

    async def _work(self, run: Run) -> None:
        try:
            if run.plan.moves:
                await self._tasks.run("balance", run.subject, lambda task: self._pass(run, task))
            else:
                run.sentence = run.plan.sentence
        except VmctlError as error:
            log.warning("balancing failed", reason=error.sentence)
            run.sentence = error.sentence
        finally:
            run.over = True

    async def _pass(self, run: Run, task: Task) -> tuple[None, str]:
        run.task = task.id
        moves = run.plan.moves
        arrived = await travel(
            run,
            moves,
            task=task.id,
            begin=self._begin,
            wait=self._mover.wait,
            at_once=self._placer.settings.parallel_moves,
        )
        run.sentence = f"{arrived} of {len(moves)} VMs moved; {run.plan.sentence}"
        return None, run.sentence

    async def _keep(self) -> None:
        due = time.monotonic() + self._placer.settings.balance_every_s
        while True:
            await asyncio.sleep(LOOK_S)
            settings = self._placer.settings
            if not settings.balance_auto:
                due = time.monotonic() + settings.balance_every_s
                continue
            due = min(due, time.monotonic() + settings.balance_every_s)
            if time.monotonic() < due:
                continue
            due = time.monotonic() + settings.balance_every_s
            try:
                await self.apply()
            except VmctlError as error:
                log.info("no pass", reason=error.sentence)
            except Exception:
                log.exception("pass failed")  # the next one looks again

    async def _departures(self) -> dict[UUID, list[Departure]]:
        found: dict[UUID, list[Departure]] = {}
        for row in await asyncio.to_thread(self._tasks.journal.migrations, limit=_ROWS):
            if row.state in (MigrationState.COMMITTED, MigrationState.DONE):
                at_s = datetime.fromisoformat(row.changed_at).timestamp()
                found.setdefault(row.vm_uuid, []).append((row.source, at_s))
        return found
