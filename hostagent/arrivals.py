"""VIFs that come, and ports that get a place: put on the switch beside the loop.

Theory of operation. A guest that was let in waits for nothing but its flows, and they depend on its port alone. So a
tap that appears is looked for in what OVSDB and the switch tell, ahead of the loop's turn: if this host holds its port,
the port's flows are compiled (`fastpath`) and sent at once; if not, its claim is sent. A location that the manager
pushes, of a port here or elsewhere, is put on the switch in the same way. The loop follows, compares the whole, and
finds what was left to it: what depends on more than one port. Many at once are the loop's, which takes them together.

While a granted VIF's tap is awaited, or a claim is on its way, the flows are compiled beforehand (`anticipated`), and
sent when all has come that they wait for. What the guest says before they are in is not lost (`held`).

A port stays dark until its flows are in: they go as one bundle, and what they depend on (the network's way in, the
tap's number, the grant) is there before.

While a tap is being plugged its guest, the switch and the manager need the processors; a turn of the loop has nothing
to do for it. `calm_s` is for how long the loop may wait: briefly, and never again and again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple
from uuid import UUID

import structlog

from hostagent.anticipated import Anticipated
from hostagent.claims import Claims
from hostagent.fastpath import arrival_flows
from hostagent.flow import Flow, Match
from hostagent.guests import Guests
from hostagent.held import Held
from hostagent.host import Host
from hostagent.learning import HUSH_S
from hostagent.model import Bridge, ChangeFlows, Desired, Unread
from hostagent.motion import Motion
from hostagent.names import is_ours, is_switch_bridge, switch_bridge
from hostagent.pipeline.tables import Table
from hostagent.presence import SeenVif, due_claims, seen_vifs
from hostagent.realize.errors import RealizeError
from hostagent.state import State
from hostagent.vifs import vif_of

__all__ = ["Arrivals"]

log = structlog.get_logger(__name__)

_TOGETHER_MAX = 8  # of more the loop's one turn is sooner done
_NUMBER_S = 0.01  # from a tap in OVSDB to the switch's number for it
_CALM_S = 0.005  # from flows on the switch to what can wait
_QUIET_S = 0.01  # from a change to when its consequences are on the switch, mostly
_LEFT_S = 0.0005  # from a claim to when it is on its way


class _Tap(NamedTuple):
    vif: UUID
    name: str
    ofport: int  # 0: the switch has not looked at it yet


class Arrivals:
    """*desired* gives what is wanted now; *done* wakes the loop after each change."""

    def __init__(
        self,
        *,
        host: Host,
        host_uuid: UUID,
        state: State,
        desired: Callable[[], Desired],
        motion: Motion,
        guests: Guests,
        claims: Claims,
        done: Callable[[], None],
    ) -> None:
        self._host = host
        self._host_uuid = host_uuid
        self._state = state
        self._desired = desired
        self._motion = motion
        self._guests = guests
        self._claims = claims
        self._done = done
        self._taps: Mapping[_Tap, Bridge] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._soon: asyncio.Handle | None = None
        self._calm_until = 0.0
        self._anticipated = Anticipated(host=host, state=state, desired=desired, motion=motion)
        self._held = Held()
        host.switches.added = self._let_in
        self._hushed: frozenset[str] = frozenset()
        self._later: asyncio.Handle | None = None

    def look_soon(self) -> None:
        """A switch has told of a port, and perhaps goes on."""
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon(self.look)

    def look(self) -> None:
        """OVSDB has changed, or a switch has told of a port."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        bridges = self._host.bridges()
        if isinstance(bridges, Unread):
            return
        taps = {tap: bridge for bridge in bridges if is_switch_bridge(bridge.external_ids) for tap in _taps_of(bridge)}
        before, self._taps = self._taps, taps
        if before is None:
            return  # the agent has just begun: what is there is the loop's
        ready: list[UUID] = []
        awaited: list[UUID] = []
        strange: set[tuple[str, str]] = set()
        for tap in taps.keys() - before.keys():
            port = self._state.port_by_vif.get(tap.vif)
            if port is not None and self._is_held(port):
                if tap.ofport:
                    ready.append(port)
                else:
                    awaited.append(port)
            else:
                strange.add((taps[tap].name, tap.name))
        if strange:
            self._claim([vif for vif in seen_vifs(bridges, {}) if (vif.bridge, vif.ovs_port) in strange])
        self._put(ready)
        if awaited:
            self._keep_calm(_NUMBER_S)
        if len(awaited) == 1:
            self._anticipated.prepare(awaited[0], granted=True)

    def added(self, bridge: str, ofport: int) -> None:
        """A switch has given a port this number."""
        self._held.forget(bridge, ofport)

    def lost(self, bridge: str) -> None:
        """The switch of *bridge* is not heard any more: its numbers may be others'."""
        self._held.forget(bridge)

    def on_frame(self, bridge: str, ofport: int, frame: bytes) -> None:
        """A frame of a port that is dark, as far as the switch remembers, with the MAC of one that is awaited."""
        before = self._hushed
        if self._held.frame(bridge, ofport, frame, now=time.monotonic()):
            self._host.switches.resubmit(bridge, ofport, (frame,))
        self._hushed = self._held.hushed(now=time.monotonic())
        if self._hushed - before:
            log.warning("hushed: a port that is dark says too much", bridge=bridge, ofport=ofport, for_s=HUSH_S)
            self._done()

    def hushed(self) -> frozenset[UUID]:
        """Switches on which no frames are held: too many came."""
        if not self._hushed:
            return frozenset()
        bridges = self._held.hushed(now=time.monotonic())
        return frozenset(uuid for uuid in self._state.switches if switch_bridge(uuid) in bridges)

    def located(self, ports: Collection[UUID]) -> None:
        """The manager has said where these *ports* are."""
        if len(ports) <= _TOGETHER_MAX:
            self._put(port for port in ports if self._state.locations.get(port) is not None)

    def expect(self) -> None:
        """Something has changed: what granted VIFs will need once they are here is compiled when all is quiet again."""
        if self._later is None and self._claims.granted_until:
            self._later = asyncio.get_running_loop().call_later(_QUIET_S, self._expect)

    def calm_s(self) -> float:
        """Seconds for which what can wait should; 0 for none."""
        return max(0.0, self._calm_until - time.monotonic())

    def close(self) -> None:
        for handle in (self._soon, self._later):
            if handle is not None:
                handle.cancel()
        for task in self._tasks:
            task.cancel()

    def _expect(self) -> None:
        self._later = None
        coming = [self._state.port_by_vif.get(vif) for vif in self._claims.granted_until]
        for port in coming[:_TOGETHER_MAX]:
            if port is not None and self._is_held(port):
                self._anticipated.prepare(port, granted=True)

    def _is_held(self, port: UUID) -> bool:
        location = self._state.locations.get(port)
        return location is not None and location.holder_host == self._host_uuid and not location.parked

    def _claim(self, vifs: Sequence[SeenVif]) -> None:
        due = due_claims(
            locations=self._state.locations,
            vifs=[vif for vif in vifs if self._guests.may_claim(vif)],
            host=self._host_uuid,
            ports=self._state.port_by_vif,
            arriving={vif.vif_uuid for vif in vifs},
        )
        if self._claims.meet(due):
            self._keep_calm(_NUMBER_S)
            port = self._state.port_by_vif.get(due[0].vif_uuid) if len(due) == 1 else None
            if port is not None:  # once the claim has left, there is time
                asyncio.get_running_loop().call_later(_LEFT_S, partial(self._anticipated.prepare, port, granted=False))

    def _put(self, ports: Iterable[UUID]) -> None:
        wanted = [port for port in ports if not self._motion.in_motion((port,))]
        if not 0 < len(wanted) <= _TOGETHER_MAX:
            return
        observed, desired = self._host.cached(), self._desired()
        changes = self._anticipated.take(wanted, desired=desired, observed=observed)
        if changes is None:
            changes = arrival_flows(wanted, trunks=self._state.subports, desired=desired, observed=observed)
        if changes:
            self._keep_calm(_NUMBER_S)
            task = asyncio.create_task(self._send(changes, len(wanted)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _let_in(self, bridge: str, flows: Sequence[Flow]) -> None:
        """The switch has *flows*, from here or from the loop: what was held is given back, unless it has been."""
        for ofport in _entries_of(flows):
            frames = self._held.lit(bridge, ofport, now=time.monotonic())
            self._host.switches.resubmit(bridge, ofport, frames)

    async def _send(self, changes: Sequence[ChangeFlows], ports: int) -> None:
        for change in changes:
            entering = _entries_of(change.add)
            sending = asyncio.ensure_future(self._host.switches.change_flows(change.bridge, delete=(), add=change.add))
            await asyncio.sleep(0)  # the flows are written, unless others are under way
            for ofport in entering:
                frames = self._held.take(change.bridge, ofport, now=time.monotonic())
                self._host.switches.resubmit(change.bridge, ofport, frames)
            try:
                await sending
            except RealizeError as error:
                log.warning("arrival: left to the loop", reason=error.sentence)
                break
            log.info("arrival: flows confirmed", bridge=change.bridge, ports=ports, flows=len(change.add))
        self._keep_calm(_CALM_S)
        self._done()

    def _keep_calm(self, seconds: float) -> None:
        self._calm_until = max(self._calm_until, time.monotonic() + seconds)


def _taps_of(bridge: Bridge) -> Iterator[_Tap]:
    for port in bridge.ports:
        for one in port.interfaces:
            vif = vif_of(one)
            if vif is not None and not is_ours(one.external_ids) and not one.error:
                yield _Tap(vif, one.name, one.ofport or 0)


def _entries_of(flows: Iterable[Flow]) -> frozenset[int]:
    """Numbers of the ports that *flows* let in."""
    first = (flow for flow in flows if flow.table == Table.CLASSIFY)
    return frozenset(
        item.value for flow in first for item in flow.match if isinstance(item, Match) and item.field == "in_port"
    )
