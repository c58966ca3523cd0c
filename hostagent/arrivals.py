"""VIFs that come, and ports that get a place: put on the switch beside the loop.

Theory of operation. A guest that was let in waits for nothing but its flows, and they depend on its port alone. So a
tap that appears is looked for in what OVSDB and the switch tell, ahead of the loop's turn: if this host holds its port,
the port's flows are compiled (`fastpath`) and sent at once; if not, its claim is sent. A location that the manager
pushes, of a port here or elsewhere, is put on the switch in the same way. The loop follows, compares the whole, and
finds what was left to it: what depends on more than one port. Many at once are the loop's, which takes them together.

While a granted VIF's tap is awaited, or a claim is on its way, the flows are compiled beforehand (`anticipated`), and
sent when all has come that they wait for. What the guest says before they are in is not lost (`held`).

Of a granted VIF two things tell all that is still to be known: OVSDB, which VIF the new tap is, and the switch, which
number it has. Whichever comes first, the flows leave with the second, from the words themselves and before anything is
made of them (`tap_told`, `added`). Where the row came first the bundle is armed while the number is looked for: it
leaves with the word itself, and vswitchd reads it in the round of its loop in which it told. The claim of one that is
not granted leaves with OVSDB's word, too.

A port stays dark until its flows are in: they go as one bundle, and what they depend on (the network's way in, the
tap's number, the grant) is there before. Where a guest waits for them they go in two, and to frames of some types the
port stays dark until the second is in (`first_words`).

While a tap is being plugged its guest, the switch and the manager need the processors; a turn of the loop has nothing
to do for it, and would be in the way of either word. `pause_s` and `calm_s` are for how long the loop may wait: briefly
and never again and again.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple
from uuid import UUID

import structlog

from hostagent.anticipated import ANY_MOMENT_S, Anticipated, Compiled
from hostagent.claims import Claims
from hostagent.fastpath import arrival_flows
from hostagent.flow import Flow
from hostagent.giving_way import GivingWay
from hostagent.guests import Guests
from hostagent.held import Held
from hostagent.host import Host
from hostagent.learning import HUSH_S
from hostagent.model import Bridge, ChangeFlows, Desired, Interface, Unread
from hostagent.motion import Motion
from hostagent.names import IFACE_ID, is_ours, is_switch_bridge, switch_bridge
from hostagent.presence import SeenVif, due_claims, seen_vif, seen_vifs
from hostagent.realize.errors import RealizeError
from hostagent.realize.openflow_ports import Armed, PortWord
from hostagent.realize.ovsdb_taps import NewTap
from hostagent.state import State
from hostagent.vifs import entered_by, uuid_of, vif_of

__all__ = ["Arrivals"]

log = structlog.get_logger(__name__)

_TOGETHER_MAX = 8  # of more the loop's one turn is sooner done
_SIGN_S = 0.002  # from netlink's word of an awaited tap to OVSDB's or the switch's
_NUMBER_S = 0.01  # from a tap in OVSDB to the switch's number for it
_HEAR_S = 0.0015  # for which the number of a tap is waited for at once, with nothing else done
_REST_S = 0.0025  # after flows that left in that time: until the guest is heard, the processors are for others
_CALM_S = 0.005  # from flows on the switch to what can wait
_QUIET_S = 0.01  # from a change to when its consequences are on the switch, mostly
_LEFT_S = 0.0005  # from a claim to when it is on its way
_PASS_S = 0.002  # from flows that were sent to when frames have passed by them


class _Tap(NamedTuple):
    vif: UUID
    name: str
    ofport: int  # 0: the switch has not looked at it yet


class _Coming(NamedTuple):
    """A tap of which OVSDB has told, and whose number is awaited."""

    port: UUID
    vif: UUID
    go_on: Callable[[], None]


class _Ready(NamedTuple):
    """What was packed, and may leave any moment."""

    compiled: Compiled
    armed: Armed


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
        self._giving_way = GivingWay()
        host.switches.added = self._let_in
        self._hushed: frozenset[str] = frozenset()
        self._later: asyncio.Handle | None = None
        self._coming: dict[tuple[str, str], _Coming] = {}  # by bridge and name
        self._let_ahead: set[_Tap] = set()  # let in, and not shown by a look yet
        self._ready: _Ready | None = None  # while a number is looked for without a rest
        self._claimed: UUID | None = None  # VIF that was claimed last by OVSDB's word alone, and not shown yet

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
        self._wait_no_more()
        taps = {tap: bridge for bridge in bridges if is_switch_bridge(bridge.external_ids) for tap in _taps_of(bridge)}
        before, self._taps = self._taps, taps
        if before is None:
            return  # the agent has just begun: what is there is the loop's
        ready: list[UUID] = []
        awaited: list[UUID] = []
        strange: set[tuple[str, str]] = set()
        new = taps.keys() - before.keys() - self._let_ahead
        self._let_ahead.clear()
        for tap in new:
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

    def tap_told(self, tap: NewTap, go_on: Callable[[], None]) -> None:
        """OVSDB has told of a tap that no look shows yet. Until *go_on* is called none will, but for milliseconds."""
        vif = None if is_ours(tap.external_ids) else uuid_of(tap.external_ids.get(IFACE_ID, ""))
        if vif is None or self._taps is None or any(one.vif == vif for one in self._taps):
            go_on()
            return
        port = self._state.port_by_vif.get(vif)
        if port is None or not self._is_held(port):
            self._claim_told(tap, vif)
            asyncio.get_running_loop().call_later(_LEFT_S, go_on)
            return
        coming, ofport = _Coming(port, vif, go_on), tap.ofport or self._host.ofport(tap.bridge, tap.name)
        if ofport:
            self._let_ahead_in(coming, tap.bridge, tap.name, ofport)
        elif (compiled := self._anticipated.due(port, tap.bridge)) is not None:
            self._wait_no_more()
            self._keep_calm(_NUMBER_S)
            self._coming[tap.bridge, tap.name] = coming
            self._hear_number(coming, compiled, tap.name)
        else:
            go_on()

    def added(self, bridge: str, name: str, ofport: int) -> bool:
        """A switch has given a port this number; True when nothing is left to be done about it."""
        self._held.forget(bridge, ofport)
        coming = self._coming.pop((bridge, name), None)
        if coming is None and self._anticipated.awaits(bridge, ofport):
            self._keep_calm(_NUMBER_S)
            self._host.hear_ovsdb()  # whose it is, OVSDB tells any moment
            return not any(tap.name == name for tap in self._taps or ())
        return coming is not None and self._let_ahead_in(coming, bridge, name, ofport)

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

    def pause_s(self) -> float:
        """Seconds for which what can wait should, before it asks `calm_s`: what is new may be a tap's first sign."""
        return _SIGN_S if self._anticipated.awaits() else 0.0

    def calm_s(self) -> float:
        """Seconds for which what can wait should; 0 for none."""
        return max(0.0, self._calm_until - time.monotonic())

    def close(self) -> None:
        self._wait_no_more()
        self._giving_way.end()
        for handle in (self._soon, self._later):
            if handle is not None:
                handle.cancel()
        for task in self._tasks:
            task.cancel()

    def _expect(self) -> None:
        self._later = None
        ports = (self._state.port_by_vif.get(vif) for vif in reversed(tuple(self._claims.granted_until)))
        coming = (port for port in ports if port is not None and self._is_held(port))
        # Of many those that were granted last: of the others the tap has come by now, or never will.
        for port in islice(coming, _TOGETHER_MAX):
            self._anticipated.prepare(port, granted=True)
        if self._anticipated.awaits():
            self._giving_way.begin(ANY_MOMENT_S)

    def _hear_number(self, coming: _Coming, compiled: Compiled, name: str) -> None:
        """The switch's word is about to come, or is there. We look for it without a rest: to be woken on the switch's
        own processor, as the kernel likes to do, would cost it as long as the whole takes. But whoever waits for ours
        goes first: it may be the switch. If its word is the first that comes, and OVSDB shows nothing new, all is still
        as it was found to be, so the flows leave before anything else is made of it."""
        until, shown, bridge = time.monotonic() + _HEAR_S, self._host.bridges(), compiled.change.bridge
        assert self._ready is None
        if not self._motion.in_motion((coming.port,)):
            self._ready = self._arm(compiled, name)
        try:
            while True:
                if self._host.bridges() is not shown:
                    self._disarm()
                if self._host.switches.hear(bridge, self._ready.armed if self._ready is not None else None):
                    self._disarm()
                if (bridge, name) not in self._coming or time.monotonic() >= until:
                    break
                os.sched_yield()
        finally:
            self._disarm()
        if any(tap.vif == coming.vif for tap in self._let_ahead):
            time.sleep(_REST_S)

    def _let_ahead_in(self, coming: _Coming, bridge: str, name: str, ofport: int) -> bool:
        """A tap of which all is known is let in; False where that is left to a look."""
        sent = self._send_due(coming, bridge, ofport)
        if sent is None:
            coming.go_on()
            return False
        asyncio.get_running_loop().call_later(_PASS_S, coming.go_on)
        self._anticipated.forget(coming.port)
        self._let_ahead.add(_Tap(coming.vif, name, ofport))
        self._keep_calm(_NUMBER_S)
        self._follow((sent,), 1)
        return True

    def _send_due(self, coming: _Coming, bridge: str, ofport: int) -> tuple[Compiled, asyncio.Task[None]] | None:
        """Send what was packed for a tap of which all is known; what has left already is followed. None where that is
        left to a look."""
        if self._ready is not None and self._ready.armed.left:
            ready, self._ready = self._ready, None
            return ready.compiled, self._fire(ready)
        self._disarm()
        if not self._is_held(coming.port) or self._motion.in_motion((coming.port,)):
            return None
        due = self._anticipated.due(coming.port, bridge, ofport)
        sending = self._send_now(due) if due is not None else None
        return (due, sending) if due is not None and sending is not None else None

    def _arm(self, compiled: Compiled, name: str = "") -> _Ready | None:
        """What was packed, ready to leave at once, or with the number of the port *name*; None where it must be sent
        as ever."""
        if compiled.bundle is None or len(compiled.entries) != 1:
            return None
        (ofport,) = compiled.entries
        armed = self._host.switches.arm(compiled.change.bridge, compiled.bundle, PortWord(name, ofport))
        return _Ready(compiled, armed) if armed is not None else None

    def _disarm(self) -> None:
        """What is armed does not leave any more; should it have left, it is followed."""
        ready, self._ready = self._ready, None
        if ready is not None and ready.armed.left:
            self._follow(((ready.compiled, self._fire(ready)),), 1)
        elif ready is not None:
            ready.armed.disarm()

    def _wait_no_more(self) -> None:
        """What OVSDB has told is in its tables, or soon will be: a look shows it."""
        for coming in self._coming.values():
            coming.go_on()
        self._coming.clear()

    def _is_held(self, port: UUID) -> bool:
        location = self._state.locations.get(port)
        return location is not None and location.holder_host == self._host_uuid and not location.parked

    def _claim(self, vifs: Sequence[SeenVif]) -> None:
        due = self._due_claims(vifs)
        told, self._claimed = self._claimed in [vif.vif_uuid for vif in due], None
        if self._claims.meet(due) or told:
            self._keep_calm(_NUMBER_S)
            port = self._state.port_by_vif.get(due[0].vif_uuid) if len(due) == 1 else None
            if port is not None:  # once the claim has left, there is time
                asyncio.get_running_loop().call_later(_LEFT_S, partial(self._anticipated.prepare, port, granted=False))

    def _claim_told(self, tap: NewTap, vif: UUID) -> None:
        bridges = self._host.bridges()
        if isinstance(bridges, Unread):
            return
        if any(one.name == tap.bridge and is_switch_bridge(one.external_ids) for one in bridges):
            row = Interface(name=tap.name, ofport=tap.ofport or None, external_ids=tap.external_ids)
            if self._claims.meet(self._due_claims([seen_vif(tap.bridge, row, vif)])):
                self._keep_calm(_NUMBER_S)
                self._claimed = vif

    def _due_claims(self, vifs: Sequence[SeenVif]) -> tuple[SeenVif, ...]:
        return due_claims(
            locations=self._state.locations,
            vifs=[vif for vif in vifs if self._guests.may_claim(vif)],
            host=self._host_uuid,
            ports=self._state.port_by_vif,
            arriving={vif.vif_uuid for vif in vifs},
        )

    def _put(self, ports: Iterable[UUID]) -> None:
        wanted = [port for port in ports if not self._motion.in_motion((port,))]
        if not 0 < len(wanted) <= _TOGETHER_MAX:
            return
        observed, desired = self._host.cached(), self._desired()
        compiled = self._anticipated.take(wanted, desired=desired, observed=observed)
        if compiled is None:
            changes = arrival_flows(wanted, trunks=self._state.subports, desired=desired, observed=observed)
            compiled = tuple(Compiled(one, None, entered_by(one.add)) for one in changes)
        if compiled:
            self._keep_calm(_NUMBER_S)
            self._follow([(one, self._send_now(one)) for one in compiled], len(wanted))

    def _send_now(self, compiled: Compiled) -> asyncio.Task[None] | None:
        """Send what was packed and give back what was held, within this call; None where it must be sent as ever."""
        ready = self._arm(compiled)
        return self._fire(ready) if ready is not None else None

    def _fire(self, ready: _Ready) -> asyncio.Task[None]:
        # What comes from now on is given back at once, too: the switch takes it after these flows.
        bridge, ofport = ready.compiled.change.bridge, ready.armed.word.ofport
        frames = self._held.lit(bridge, ofport, now=time.monotonic(), types=ready.compiled.entries[ofport])
        return self._host.switches.fire(bridge, ready.armed, frames)

    def _follow(self, changes: Sequence[tuple[Compiled, asyncio.Task[None] | None]], ports: int) -> None:
        task = asyncio.create_task(self._send(changes, ports))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _let_in(self, bridge: str, flows: Sequence[Flow]) -> None:
        """The switch has *flows*, from here or from the loop: what was held is given back, unless it has been."""
        for ofport, types in entered_by(flows).items():
            frames = self._held.lit(bridge, ofport, now=time.monotonic(), types=types)
            self._host.switches.resubmit(bridge, ofport, frames)

    async def _send(self, changes: Sequence[tuple[Compiled, asyncio.Task[None] | None]], ports: int) -> None:
        """See to it that all *changes* are confirmed; those that are on their way have a task."""
        for (change, _, entries, rest), under_way in changes:
            sending = asyncio.ensure_future(under_way or self._change(change))
            if under_way is None:
                await asyncio.sleep(0)  # the flows are written, unless others are under way
                for ofport in entries:
                    frames = self._held.take(change.bridge, ofport, now=time.monotonic())
                    self._host.switches.resubmit(change.bridge, ofport, frames)
            try:
                await sending
                if rest is not None:
                    await self._change(rest)
            except RealizeError as error:
                log.warning("arrival: left to the loop", reason=error.sentence)
                continue
            log.info("arrival: flows confirmed", bridge=change.bridge, ports=ports, flows=len(change.add))
        if not self._anticipated.awaits():
            self._giving_way.end()
        self._keep_calm(_CALM_S)
        self._done()

    async def _change(self, change: ChangeFlows) -> None:
        await self._host.switches.change_flows(change.bridge, delete=change.delete, add=change.add)

    def _keep_calm(self, seconds: float) -> None:
        self._calm_until = max(self._calm_until, time.monotonic() + seconds)


def _taps_of(bridge: Bridge) -> Iterator[_Tap]:
    for port in bridge.ports:
        for one in port.interfaces:
            vif = vif_of(one)
            if vif is not None and not is_ours(one.external_ids) and not one.error:
                yield _Tap(vif, one.name, one.ofport or 0)
