"""Many moves as one piece of work: those of a plan, a few at a time, each by the mover and with its own row.

A plan is a picture; each move is checked again when its turn comes, and one that is refused or fails stops no other.
Whoever wanted the plan looks at the fleet afterwards and plans anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from vmctl.model import Migration, MigrationState, VmctlError
from vmctl.placement.model import Move, Plan

__all__ = ["Begin", "Leg", "Run", "travel"]

Begin = Callable[[Move, int], Awaitable[Migration]]  # with the number of the task that it belongs to
Wait = Callable[[int], Awaitable[Migration]]


@dataclass(slots=True)
class Leg:
    """A move of a plan and what became of it; `state` is empty until its turn comes."""

    move: Move
    state: str = ""
    migration: int | None = None
    sentence: str = ""


@dataclass(slots=True)
class Run:
    """A plan that is carried out; it goes on when nobody looks."""

    subject: str
    plan: Plan
    legs: list[Leg] = field(default_factory=list)
    over: bool = False
    sentence: str = ""
    task: int | None = None


async def travel(run: Run, moves: tuple[Move, ...], *, task: int, begin: Begin, wait: Wait, at_once: int) -> int:
    """Carries *moves* out in their order, at most *at_once* together; how many have arrived."""
    legs = [Leg(move=move) for move in moves]
    run.legs += legs
    gate = asyncio.Semaphore(at_once)

    async def go(leg: Leg) -> bool:
        async with gate:
            leg.state = "moving"
            try:
                row = await begin(leg.move, task)
                leg.migration = row.id
                row = await wait(row.id)
            except VmctlError as error:
                leg.state, leg.sentence = "failed", error.sentence
                return False
            arrived = row.state in (MigrationState.COMMITTED, MigrationState.DONE)
            leg.state, leg.sentence = "done" if arrived else "failed", row.sentence
            return arrived

    return sum(await asyncio.gather(*(go(leg) for leg in legs)))
