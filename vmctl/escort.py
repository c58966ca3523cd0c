"""At the side of a live move while memory is copied: progress, the network's last word, the policy.

libvirt switches the guest over by itself as soon as little enough memory is left, so the check of the network is not
one moment: every view that the destination's Watch brings is looked at, and when what is left would be copied within
`NEAR_S` the destination is asked itself once more. A network withdrawn meanwhile stops the move; the guest runs on.
The same question is asked before a guest is paused or switched over by the policy.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from vmctl import libvirt_moves
from vmctl.domains import JobStats
from vmctl.hypervisor import Hypervisor
from vmctl.links import MBPS_A_MIB_S
from vmctl.model import Candidate, Migration, Vm, VmctlError
from vmctl.readiness import all_lit, withdrawn

__all__ = ["Escort"]

LOOK_S = 0.05  # at the picture that Watch has brought: no request goes out
STATS_EVERY = 4  # looks
NEAR_S = 1.5
LIT_S = 1.0  # that the report of a lit VIF is waited for after the end

log = structlog.get_logger("vmctl.escort")


class Escort:
    """One move's; `run()` until cancelled."""

    def __init__(
        self,
        row: Migration,
        vm: Vm,
        *,
        source: Hypervisor,
        latest: Callable[[], Candidate],
        ask: Callable[[], Awaitable[Candidate]],
        share: Callable[[], float],
        stop: Callable[[str], None],
        note: Callable[[str], Awaitable[None]],
    ) -> None:
        self.progress: JobStats | None = None
        self._row, self._vm, self._source = row, vm, source
        self._latest, self._ask, self._share, self._stop, self._note = latest, ask, share, stop, note
        self._began = time.monotonic()
        self._speed = share()
        self._asked = self._suspended = self._post_copy = False
        self._lit_at: float | None = None

    async def run(self) -> None:
        """Looks until it is cancelled."""
        turn = 0
        while True:
            if why := withdrawn(self._vm, self._latest()):
                self._stop(why)
            self._see_light()
            if turn % STATS_EVERY == 0:
                try:
                    await self._step()
                except VmctlError as error:
                    log.debug("move not seen", migration=self._row.id, reason=error.sentence)
            turn += 1
            await asyncio.sleep(LOOK_S)

    async def gap_ms(self) -> int | None:
        """From the source's pause until the destination reported all VIFs lit, None where nobody told."""
        paused = self._source.paused_at(self._vm.uuid)
        if paused is None or paused < self._began or not any(vif.opaque for vif in self._vm.vifs):
            return None
        deadline = time.monotonic() + LIT_S
        while self._lit_at is None and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_S / 2)
            self._see_light()
        return round((self._lit_at - paused) * 1000) if self._lit_at is not None else None

    def _see_light(self) -> None:
        paused = self._source.paused_at(self._vm.uuid)
        if self._lit_at is None and (paused or 0.0) > self._began and all_lit(self._vm, self._latest()):
            self._lit_at = time.monotonic()

    async def _step(self) -> None:
        stats = await self._source.read_job(self._vm.uuid)
        if stats.elapsed_ms is None:
            return
        self.progress = stats
        policy, took_s = self._row.policy, time.monotonic() - self._began
        if policy.timeout_s and took_s > policy.timeout_s:
            self._stop(f"the copy had not ended after {policy.timeout_s:g} s, as was asked")
            return
        near = bool(stats.rate_mib_s) and (stats.remaining_mib or 0) < NEAR_S * (stats.rate_mib_s or 0.0)
        if not near:
            self._asked = False
        elif not self._asked:
            self._asked = True
            await self._last_word()
        if policy.post_copy and not self._post_copy and (stats.iteration or 0) >= 2 and await self._last_word():
            self._post_copy = True
            await self._source.call("switch to post-copy", lambda c: libvirt_moves.begin_post_copy(c, self._vm.uuid))
            await self._note("switched to post-copy")
        late = policy.suspend_after_s and took_s > policy.suspend_after_s
        if late and not self._suspended and not self._post_copy and await self._last_word():
            self._suspended = True
            await self._source.call("pause a moving VM", lambda c: libvirt_moves.suspend(c, self._vm.uuid))
            await self._note("paused for the rest of the copy")
        await self._keep_share()

    async def _last_word(self) -> bool:
        """False when the destination's own word stops the move."""
        why = withdrawn(self._vm, await self._ask())
        if why:
            self._stop(why)
        return not why

    async def _keep_share(self) -> None:
        share = self._share()
        if share and abs(share - self._speed) > 0.05 * share:
            mib_s = max(1, round(share / MBPS_A_MIB_S))
            await self._source.call(
                "change a move's speed", lambda c: libvirt_moves.set_bandwidth(c, self._vm.uuid, mib_s=mib_s)
            )
            self._speed = share
