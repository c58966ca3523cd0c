"""VIFs that come, and ports that get a place: put on the switch beside the loop.

Theory of operation. A guest that was let in waits for nothing but its flows, and they depend on its port alone. So a
tap that appears is looked for in what OVSDB and the switch tell, ahead of the loop's turn: if this host holds its port,
the port's flows are compiled (`fastpath`) and sent at once; if not, its claim is sent. A location that the manager
pushes, of a port here or elsewhere, is put on the switch in the same way. The loop follows, compares the whole, and
finds what was left to it: what depends on more than one port. Many at once are the loop's, which takes them together.

A port stays dark until its flows are in: they go as one bundle, and what they depend on (the network's way in, the
tap's number, the grant) is there before.

While a tap is being plugged its guest, the switch and the manager need the processors; a turn of the loop has nothing
to do for it. `calm_s` is for how long the loop may wait: briefly, and never again and again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

import structlog

from hostagent.claims import Claims
from hostagent.fastpath import arrival_flows
from hostagent.guests import Guests
from hostagent.host import Host
from hostagent.model import Bridge, ChangeFlows, Desired, Observed, Unread
from hostagent.motion import Motion
from hostagent.names import is_ours, is_switch_bridge, switch_bridge
from hostagent.presence import SeenVif, due_claims, seen_vifs
from hostagent.realize.errors import RealizeError
from hostagent.state import State
from hostagent.vifs import vif_of

__all__ = ["Arrivals"]

log = structlog.get_logger(__name__)

_TOGETHER_MAX = 8  # of more the loop's one turn is sooner done
_NUMBER_S = 0.01  # from a tap in OVSDB to the switch's number for it
_CALM_S = 0.005  # from flows on the switch to what can wait


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
        self._prepared: dict[UUID, tuple[tuple[object, ...], tuple[ChangeFlows, ...]]] = {}

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
        awaited: list[tuple[UUID, _Tap]] = []
        strange: set[tuple[str, str]] = set()
        for tap in taps.keys() - before.keys():
            port = self._state.port_by_vif.get(tap.vif)
            if port is not None and self._is_held(port):
                if tap.ofport:
                    ready.append(port)
                else:
                    awaited.append((port, tap))
            else:
                strange.add((taps[tap].name, tap.name))
        if strange:
            self._claim([vif for vif in seen_vifs(bridges, {}) if (vif.bridge, vif.ovs_port) in strange])
        self._put(ready)
        if awaited:
            self._keep_calm(_NUMBER_S)
        if len(awaited) == 1:
            ((port, tap),) = awaited
            self._prepare(port, taps[tap].name, tap.name)

    def located(self, ports: Collection[UUID]) -> None:
        """The manager has said where these *ports* are."""
        if len(ports) <= _TOGETHER_MAX:
            self._put(port for port in ports if self._state.locations.get(port) is not None)

    def calm_s(self) -> float:
        """Seconds for which what can wait should; 0 for none."""
        return max(0.0, self._calm_until - time.monotonic())

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _prepare(self, port: UUID, bridge: str, name: str) -> None:
        """Compile what *port* needs as if its tap had the number that the switch will probably give it: while the
        switch opens the device there is time."""
        if not self._motion.in_motion((port,)):
            observed = self._host.with_guess(bridge, name)
            key = self._key(port, observed)
            changes = arrival_flows((port,), trunks=self._state.subports, desired=self._desired(), observed=observed)
            if key is not None and changes:
                self._prepared = {port: (key, changes)}
                for change in changes:
                    self._host.switches.encode_ahead(change.bridge, change.add)

    def _take_prepared(self, ports: Sequence[UUID], observed: Observed) -> tuple[ChangeFlows, ...] | None:
        """What was prepared for *ports*, if all is as it was thought it would be."""
        prepared, self._prepared = self._prepared, {}
        found: list[ChangeFlows] = []
        for port in ports:
            key, changes = prepared.get(port, (None, ()))
            if key is None or key != self._key(port, observed):
                return None
            found += changes
        return tuple(found)

    def _key(self, port: UUID, observed: Observed) -> tuple[object, ...] | None:
        """What the flows of *port* follow from, as far as it changes in the milliseconds between two looks."""
        wanted, location = self._state.ports.get(port), self._state.locations.get(port)
        network = self._state.networks.get(location.network_uuid) if location is not None else None
        if wanted is None or network is None or isinstance(observed.bridges, Unread):
            return None
        bridge = next((one for one in observed.bridges if one.name == switch_bridge(network.switch_uuid)), None)
        if bridge is None:
            return None
        return wanted, location, network, tuple(_taps_of(bridge)), observed.flows.get(bridge.name), self._state.mark

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

    def _put(self, ports: Iterable[UUID]) -> None:
        wanted = [port for port in ports if not self._motion.in_motion((port,))]
        if not 0 < len(wanted) <= _TOGETHER_MAX:
            return
        observed = self._host.cached()
        changes = self._take_prepared(wanted, observed)
        if changes is None:
            changes = arrival_flows(wanted, trunks=self._state.subports, desired=self._desired(), observed=observed)
        if changes:
            self._keep_calm(_NUMBER_S)
            task = asyncio.create_task(self._send(changes, len(wanted)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, changes: Sequence[ChangeFlows], ports: int) -> None:
        for change in changes:
            try:
                await self._host.switches.change_flows(change.bridge, delete=(), add=change.add)
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
