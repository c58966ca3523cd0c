"""Probes of the underlay, sent and counted: `liveness` decides, this module has the clock and the switch.

It runs beside the loop, which it wakes only when a path changes: peers are watched also while the loop is busy, and
without any manager. What is over a switch that does not answer OpenFlow is not probed; what is known of it stays.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from uuid import UUID

import structlog

from hostagent.flow import Action
from hostagent.host import Host
from hostagent.model import PathKey, PathStatus
from hostagent.names import switch_bridge
from hostagent.pipeline.probe import probe_frame, probe_number, way_out
from hostagent.realize.neighbours import prime_neighbours, solicit_neighbours
from hostagent.underlay.liveness import Liveness, Measure, Probe, WantedPath
from hostagent.underlay.path_fit import overhead
from netmgr.contract.types import NetworkType, PeerState

__all__ = ["Probing"]

log = structlog.get_logger(__name__)

_PAUSE_S = 0.02  # probes that are due together leave together
_IDLE_S = 1.0
_FORGET_S = 60.0  # from one look at which paths need not be remembered any more to the next
_ECHO_S = 10.0
_PRIME_S = 5.0
_SOLICIT_S = 12.0  # Open vSwitch hears an answer only if no megaflow is left from the last one; they live for 10 s


class Probing:
    """Asks the peers of one host; *changed* is called on the event loop when what is known of a path changes."""

    def __init__(self, *, host: Host, own: str, mtu_again_s: float, changed: Callable[[], None]) -> None:
        self._host = host
        self._changed = changed
        self._liveness = Liveness(
            first_number=secrets.randbits(62),
            own=own,
            mtu_again_s=mtu_again_s,
            ahead_s=time.time() - time.monotonic(),
        )
        self._source = secrets.randbits(40) | 0x02 << 40
        self._paths: Sequence[WantedPath] = ()
        self._wanted: frozenset[PathKey] = frozenset()  # their keys
        self._again_at = 0.0  # when the same paths are given over again
        self._own_vteps: Mapping[UUID, str] = {}
        self._tunnels: Mapping[tuple[UUID, NetworkType], int] = {}
        self._woken = asyncio.Event()
        self._soon: asyncio.Handle | None = None
        self._due = 0.0  # when `run` comes round
        self._prime_at = self._solicit_at = 0.0
        self._echoes: dict[UUID, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                try:
                    self._turn()
                except Exception:  # a mistake of ours must not end the watch; it is logged whole
                    log.exception("probing: a turn failed")
                await asyncio.sleep(_PAUSE_S)
                now, due = time.monotonic(), self._liveness.next_at()
                self._due = min(now + _IDLE_S, due) if due is not None else now + _IDLE_S
                self._woken.clear()
                try:
                    async with asyncio.timeout(max(0.0, self._due - now)):
                        await self._woken.wait()
                except TimeoutError:
                    continue
        finally:
            for task in self._echoes.values():
                task.cancel()

    def want(
        self,
        paths: Sequence[WantedPath],
        *,
        own_vteps: Mapping[UUID, str],
        tunnels: Mapping[tuple[UUID, NetworkType], int],
    ) -> None:
        """Ask exactly *paths* from now on. *own_vteps* is by switch; *tunnels* has the numbers of tunnel ports.

        What is known of them is with the host on return; of that nobody is woken.
        """
        now = time.monotonic()
        self._own_vteps, self._tunnels = own_vteps, tunnels
        if self._paths == paths and now < self._again_at:
            return
        self._paths, self._again_at = paths, now + _FORGET_S
        before, self._wanted = self._wanted, frozenset(path.key for path in paths)
        self.prime(self._wanted - before)
        self._liveness.want(paths, now=now)
        if self._liveness.judge(now=now):
            self._host.paths = self._liveness.statuses()
        if self._wanted != before:
            self._woken.set()

    def recall(self, cut: Iterable[PathKey]) -> None:
        """An earlier life of this agent had found these paths down; so they stay until they answer."""
        self._liveness.recall(cut, now=time.monotonic())
        if self._liveness.judge(now=time.monotonic()):
            self._host.paths = self._liveness.statuses()

    def prime(self, paths: Iterable[PathKey] | None = None) -> None:
        """Make the neighbours of *paths*, or of all, known to kernel and switch."""
        prime_neighbours(self._ends(self._wanted if paths is None else paths))

    def on_frame(self, frame: bytes) -> None:
        """A frame that a switch took for an answer."""
        number = probe_number(frame)
        if number is not None and self._liveness.answered(number, now=time.monotonic()) and self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon(self._take_answers)

    def measures(self) -> Mapping[PathKey, Measure]:
        """Round trips and losses of each path."""
        return self._liveness.measures(now=time.monotonic())

    # --- one turn --------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        now = time.monotonic()
        self._prime_lost(now)
        by_bridge: dict[str, list[Probe]] = {}
        for probe in self._liveness.due(now=now, able=self._able):
            by_bridge.setdefault(switch_bridge(probe.path.switch), []).append(probe)
        for bridge, probes in by_bridge.items():
            self._host.switches.packets_out(bridge, map(self._packet, probes))
        for switch in self._liveness.unjudged(now=now) - set(self._echoes):
            task = asyncio.create_task(self._hear(switch))
            self._echoes[switch] = task
        self._judge()

    def _take_answers(self) -> None:
        """Answers come together, as probes leave; what follows is found once."""
        self._soon = None
        self._judge()
        due = self._liveness.next_at()
        if due is not None and due < self._due:
            self._woken.set()

    async def _hear(self, switch: UUID) -> None:
        """The switch has told all that had come in before it answers an echo."""
        try:
            asked_at = time.monotonic()
            if await self._host.switches.echo(switch_bridge(switch), _ECHO_S):
                self._liveness.heard(switch, asked_at=asked_at)
                self._judge()
            else:
                await asyncio.sleep(_IDLE_S)
        finally:
            del self._echoes[switch]

    def _judge(self) -> None:
        if not self._liveness.judge(now=time.monotonic()):
            return
        before = {path.key: path for path in self._host.paths}
        self._host.paths = self._liveness.statuses()
        for path in self._host.paths:
            known = before.get(path.key)
            if known is None or (known.state, known.cut) != (path.state, path.cut):
                self._tell(path, known)
        self._changed()

    def _tell(self, path: PathStatus, before: PathStatus | None) -> None:
        key = path.key
        if before is not None:
            say = log.warning if path.state in (PeerState.DOWN, PeerState.UNHEARD) else log.info
            say("tunnel: " + path.state.value, peer=key.vtep, type=key.type.value, was=before.state.value, cut=path.cut)

    def _prime_lost(self, now: float) -> None:
        """A peer that does not answer may have another MAC than the kernel or the switch thinks: both hear again."""
        if now < self._prime_at:
            return
        self._prime_at = now + _PRIME_S
        lost = [path.key for path in self._host.paths if path.state is not PeerState.UP]
        self.prime(lost)
        if lost and now >= self._solicit_at:
            self._solicit_at = now + _SOLICIT_S
            solicit_neighbours(self._ends(lost))

    def _ends(self, paths: Iterable[PathKey]) -> set[tuple[str, str]]:
        return {(self._own_vteps[path.switch], path.vtep) for path in paths if path.switch in self._own_vteps}

    def _able(self, path: PathKey) -> bool:
        tunnel = self._tunnels.get((path.switch, path.type), 0)
        return tunnel > 0 and self._host.switches.connected(switch_bridge(path.switch))

    def _packet(self, probe: Probe) -> tuple[tuple[Action, ...], bytes]:
        path = probe.path
        inner = probe.size - overhead(path.type, path.vtep) if probe.size else 0
        frame = probe_frame(probe.number, source=self._source, inner_bytes=inner)
        return way_out(path.vtep, self._tunnels[path.switch, path.type]), frame
