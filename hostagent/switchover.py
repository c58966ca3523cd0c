"""Phases of migrations, sent to the switch beside the loop.

Theory of operation. A guest that has paused on this host must have its frames sent on within a millisecond or two, so a
phase that changes is compiled at once (`fastpath`) and sent over the open connection; the loop is woken after that and
finds nothing left to do. What was sent is remembered, because the next phase's difference is taken against it; each
turn of the loop that found nothing to do corrects the memory.

Which pause is to come is known from the grant on. So the loop's last turn before it compiles what the pause will need,
and the pause only sends it. Whatever wakes the loop makes that old; then the pause compiles for itself.

A guest that has just paused or come alive needs the host's processors itself, and answers what waits for it. What can
wait does: the loop's turn, and the word to the manager, whose news gives every host of the network something to do.

Until a phase is on the switch, nobody may act on it: peers that learn of the new location send straight to this host,
which would still send their frames back. `after_sent` is how the word to the manager waits for the switch.

Uplink bridges are told to forget the MACs of guests that are elsewhere (`strays`) once the rest is on the switch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

import structlog

from hostagent.fastpath import phase_flows
from hostagent.host import Host
from hostagent.model import ChangeFlows, Desired, Phase
from hostagent.realize.errors import RealizeError
from hostagent.strays import Stray, strays

__all__ = ["Switchover"]

log = structlog.get_logger(__name__)

_CALM_S = 0.05
"""From a phase on the switch to what can wait. Measured: a guest's first reply comes some 25 ms after its resume."""


class Switchover:
    """Sends phases. *desired* gives what is wanted now, *in_motion* the ports that may pause here next; *done* wakes
    the loop after each change."""

    def __init__(
        self,
        *,
        host: Host,
        desired: Callable[[], Desired],
        in_motion: Callable[[], Iterable[UUID]],
        done: Callable[[], None],
    ) -> None:
        self._host = host
        self._in_motion = in_motion
        self._desired = desired
        self._done = done
        self._sent: dict[UUID, tuple[Phase, str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._prepared: dict[UUID, tuple[tuple[Phase, str], tuple[ChangeFlows, ...]]] = {}
        self._waiting: list[Callable[[], None]] = []
        self._calm_until = 0.0
        self._forgotten: frozenset[Stray] = frozenset()
        self._forgetting: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """True while a change is on its way to the switch; its end wakes the loop."""
        return bool(self._tasks)

    def changed(self, ports: frozenset[UUID]) -> None:
        """The phases of *ports* changed: put their flows on the switch now."""
        began = time.monotonic()
        desired = self._desired()
        marks = phase_marks(desired)
        changes = self._take_prepared(ports, marks)
        if changes is None:
            changes = phase_flows(ports, before=self._sent, desired=desired, observed=self._host.cached())
        self._prepared = {}
        for port in ports:
            self._sent.pop(port, None)
            if port in marks:
                self._sent[port] = marks[port]
        task = asyncio.create_task(self._send(changes, began))
        self._tasks.add(task)
        task.add_done_callback(self._done_sending)

    def calm_s(self) -> float:
        """Seconds for which what can wait should; 0 for none."""
        return max(0.0, self._calm_until - time.monotonic())

    def after_sent(self, word: Callable[[], None]) -> None:
        """Call *word* once the phases so far are on the switch, or left to the loop, and the guest has had its calm;
        at once when it has."""
        calm_s = self.calm_s()
        if not self._tasks and not calm_s:
            word()
            return
        self._waiting.append(word)
        if not self._tasks:
            asyncio.get_running_loop().call_later(calm_s, self._say)

    def outdated(self) -> None:
        """Something has changed: what was prepared may be wrong."""
        self._prepared = {}

    def realized(self, desired: Desired) -> None:
        """The whole of *desired* is on the switch: prepare the pauses that may come next."""
        self._forget_strays(desired)
        self._sent = phase_marks(desired)
        self._prepared = {}
        here = desired.host.uuid if desired.host is not None else None
        for port in self._in_motion():
            location = desired.locations.get(port)
            if location is None or location.holder_host != here or location.incoming_host in (None, here):
                continue
            mark = (Phase.REDIRECTING, location.incoming_vtep)
            paused = replace(
                desired,
                phases={**desired.phases, port: mark[0]},
                relay_vteps={**desired.relay_vteps, port: mark[1]},
            )
            changes = phase_flows((port,), before=self._sent, desired=paused, observed=self._host.cached())
            self._prepared[port] = (mark, changes)

    def close(self) -> None:
        self._waiting.clear()
        for task in (*self._tasks, *((self._forgetting,) if self._forgetting is not None else ())):
            task.cancel()

    def _forget_strays(self, desired: Desired) -> None:
        """Each once: a MAC that is believed here again was heard here since. What failed is tried in the next turn."""
        found = strays(desired, self._host.cached())
        news = found - self._forgotten
        self._forgotten &= found
        if news and self._forgetting is None:
            self._forgetting = asyncio.create_task(self._forget(news))

    async def _forget(self, news: frozenset[Stray]) -> None:
        try:
            await self._host.forget_macs(news)
            self._forgotten |= news
        except RealizeError as error:
            log.warning("an uplink bridge keeps what it learned", reason=error.sentence)
        finally:
            self._forgetting = None

    def _take_prepared(
        self, ports: frozenset[UUID], marks: Mapping[UUID, tuple[Phase, str]]
    ) -> tuple[ChangeFlows, ...] | None:
        """What was prepared for exactly these phases; None when something else was, or nothing."""
        found = [self._prepared.get(port) for port in ports]
        fitting = [each for each, port in zip(found, ports, strict=True) if each and each[0] == marks.get(port)]
        return tuple(change for _, changes in fitting for change in changes) if len(fitting) == len(found) else None

    def _done_sending(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._calm_until = time.monotonic() + _CALM_S
            asyncio.get_running_loop().call_later(_CALM_S, self._say)

    def _say(self) -> None:
        if not self._tasks:
            waiting, self._waiting = self._waiting, []
            for word in waiting:
                word()

    async def _send(self, changes: Sequence[ChangeFlows], began: float) -> None:
        compiled = time.monotonic()
        for change in changes:
            try:
                await self._host.switches.change_flows(change.bridge, delete=change.delete, add=change.add, urgent=True)
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
