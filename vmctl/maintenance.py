"""Hosts in maintenance: marked first, so that nothing new comes, then emptied until nothing more can go.

The mark is kept in the store and with it whether the host is still being emptied: a vmctl that starts again goes on.
Emptying is level-triggered: plan, move, look again, until a plan has no move or no move of it succeeds. What must stay
is told with the reason; the mark stays too, until an administrator takes it away.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import structlog

from vmctl.convoy import Begin, Run, travel
from vmctl.journal import Journal
from vmctl.model import Task, VmctlError
from vmctl.mover import Mover
from vmctl.placement.evacuation import plan_evacuation
from vmctl.placement.model import Plan
from vmctl.placement_store import Maintenance
from vmctl.placer import Placer
from vmctl.tasks import Tasks, now_text

__all__ = ["Maintainer"]

WORDS_LOOKS, WORDS_LOOK_S = 75, 0.2

log = structlog.get_logger("vmctl.maintenance")


class Maintainer:
    """Made and used in the event loop's thread."""

    def __init__(self, *, placer: Placer, tasks: Tasks, mover: Mover, begin: Begin) -> None:
        self._placer = placer
        self._tasks = tasks
        self._mover = mover
        self._begin = begin
        self._runs: dict[str, Run] = {}
        self._working: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Goes on with hosts that were being emptied."""
        for state in self._placer.in_maintenance():
            if state.evacuating:
                self._spawn(state)

    async def close(self) -> None:
        """Plans no further; moves under way are the mover's."""
        for task in self._working.values():
            task.cancel()
        await asyncio.gather(*self._working.values(), return_exceptions=True)

    def plan(self, host: str) -> Plan:
        """Where the host's VMs would go, and what cannot; nothing is changed."""
        fleet = self._placer.fleet
        if host not in fleet.column:
            raise VmctlError(f"{host} was not looked at yet; try again in a moment", status=503)
        return plan_evacuation(fleet, host)

    def run(self, host: str) -> Run | None:
        """How emptying the host goes or went, None where that was not asked since vmctl started."""
        return self._runs.get(host)

    async def enter(self, host: str) -> Run:
        """Marks the host and begins to empty it; one that is in maintenance is emptied anew."""
        plan = self.plan(host)
        known = self._placer.maintenance(host)
        state = Maintenance(host=host, since=known.since if known else now_text(), evacuating=True)
        if host in self._working and self._runs[host].over:  # its end is just being written; this would be lost in it
            await asyncio.wait({self._working[host]})
        await self._placer.put_maintenance(state)
        if host not in self._working:
            self._runs[host] = Run(subject=host, plan=plan)
            self._spawn(state)
        return self._runs[host]

    async def leave(self, host: str) -> None:
        """The host takes VMs again; what has left it stays where it is."""
        if (working := self._working.get(host)) is not None:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        await self._placer.end_maintenance(host)
        self._runs.pop(host, None)

    def _spawn(self, state: Maintenance) -> None:
        self._runs.setdefault(state.host, Run(subject=state.host, plan=Plan()))
        working = asyncio.create_task(self._work(state))
        self._working[state.host] = working
        working.add_done_callback(lambda _: self._working.pop(state.host, None))

    async def _work(self, state: Maintenance) -> None:
        host = state.host
        try:
            await self._tasks.run("maintenance", host, lambda task: self._empty(host, task))
        except VmctlError as error:
            log.warning("host not emptied", host=host, reason=error.sentence)
        finally:
            self._runs[host].over = True
        await self._placer.put_maintenance(replace(state, evacuating=False))

    async def _empty(self, host: str, task: Task) -> tuple[None, str]:
        run = self._runs[host]
        run.task = task.id
        await self._await_words(host)
        while True:
            await self._await_moves(host)
            run.plan = plan_evacuation(self._placer.fleet, host)
            if not run.plan.moves:
                break
            arrived = await travel(
                run,
                run.plan.moves,
                task=task.id,
                begin=self._begin,
                wait=self._mover.wait,
                at_once=self._placer.settings.parallel_moves,
            )
            if not arrived:
                run.sentence = "; ".join(leg.sentence for leg in run.legs if leg.state == "failed")
                raise VmctlError(f"{host} is in maintenance and was not emptied: {run.sentence}")
        if host not in run.plan.freed:
            run.sentence = f"{host} is in maintenance; {': '.join(filter(None, (run.plan.sentence, _why(run.plan))))}"
            raise VmctlError(run.sentence)
        run.sentence = f"{host} is in maintenance and runs nothing"
        return None, run.sentence

    async def _await_moves(self, host: str) -> None:
        """Moves that were begun before end first: what comes must go again, what goes need not be moved."""
        for row in await asyncio.to_thread(self._journal.open_migrations):
            if host in (row.source, row.destination):
                await self._mover.wait(row.id)

    async def _await_words(self, host: str) -> None:
        """After a start of vmctl nobody has said anything yet; a host that stays silent is not waited for long."""
        for _ in range(WORDS_LOOKS):
            if not self._placer.unread():
                return
            await asyncio.sleep(WORDS_LOOK_S)

    @property
    def _journal(self) -> Journal:
        return self._tasks.journal


def _why(plan: Plan) -> str:
    return "; ".join(stay.sentence for stay in plan.stays)
