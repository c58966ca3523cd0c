"""Ports in motion: the state machines of `migration` for the ports of this host, fed and obeyed.

Theory of operation. Only ports that this host holds, is about to get, or has just given away have a state; the ten
thousand others of a network cost nothing. News of location and guest go in; phases come out, for the compilation of
flows; effects are carried out here. What the manager must hear is kept until it can have heard it: a release or an
activation belongs to one version of the location, is said again on each new stream, and is forgotten when the location
has moved on. Sub-ports have the guest of their parent: they hear what it hears, change their phases in the same moment,
and the manager is told of the parent alone. A timer that ends RELAYING is the event loop's; its end is on disk too, off
the way from event to flows, so that an agent that is restarted goes on relaying.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Protocol
from uuid import UUID

import structlog

from hostagent.migration import (
    Effect,
    Event,
    Guest,
    LocationChanged,
    PortState,
    RelayTimeout,
    SendActivated,
    SendRelease,
    StartRelayTimer,
    advance,
    restate,
)
from hostagent.model import Phase
from hostagent.records import Records, Relay
from netmgr.contract.types import Location, ReleaseReason

__all__ = ["Manager", "Motion"]

log = structlog.get_logger(__name__)

_KEEP_S = 0.05  # from a phase to the disk


class Manager(Protocol):
    """What is said upward; lost without a stream."""

    def activated(self, location: Location) -> None: ...

    def release(self, location: Location, why: ReleaseReason) -> None: ...


class Motion:
    """States of the ports of one host. `on_phases` is called with the ports whose phase an event has changed."""

    def __init__(
        self,
        *,
        host: UUID,
        manager: Manager,
        relay_s: float,
        on_phases: Callable[[frozenset[UUID]], None],
        records: Records | None = None,
        subports: Mapping[UUID, Collection[UUID]] | None = None,
        parents: Mapping[UUID, UUID] | None = None,
    ) -> None:
        self._host = host
        self._subports = {} if subports is None else subports  # by their parent
        self._parents = {} if parents is None else parents  # by their sub-port
        self._manager = manager
        self._relay_s = relay_s
        self._on_phases = on_phases
        self._records = records
        self._states: dict[UUID, PortState] = {}
        self._timers: dict[UUID, asyncio.TimerHandle] = {}
        self._releases: dict[UUID, tuple[int, ReleaseReason]] = {}

    def phases(self) -> dict[UUID, Phase]:
        """Ports that are not steady."""
        return {uuid: state.phase for uuid, state in self._states.items() if state.phase is not Phase.STEADY}

    def phase(self, port_uuid: UUID) -> Phase:
        """The phase of one port."""
        state = self._states.get(port_uuid)
        return state.phase if state is not None else Phase.STEADY

    def relay_vteps(self) -> dict[UUID, str]:
        """Where ports in motion went, or come from."""
        return {uuid: state.relay_vtep for uuid, state in self._states.items() if state.relay_vtep}

    def guest(self, port_uuid: UUID) -> Guest:
        """What is known of the guest behind a port."""
        state = self._states.get(port_uuid)
        return state.guest if state is not None else Guest.UNKNOWN

    def ports(self) -> frozenset[UUID]:
        """Ports that have a state."""
        return frozenset(self._states)

    def revive(self, locations: Mapping[UUID, Location]) -> None:
        """Take up what an earlier life of the agent was in the middle of; call it before anything is located."""
        now = time.time()
        for relay in list(self._records.relays.values()) if self._records is not None else ():
            location, left_s = locations.get(relay.port_uuid), min(relay.until_unix - now, self._relay_s)
            if location is None or left_s <= 0:
                self._keep_relay(relay.port_uuid)
                continue
            self._states[relay.port_uuid] = PortState(
                location=location, phase=relay.phase, relay_vtep=relay.vtep, relay_timer=True
            )
            self._arm(relay.port_uuid, left_s)

    def located(self, port_uuid: UUID, location: Location | None) -> None:
        """netmgr's word on a port; None when it is removed."""
        ours = location is not None and self._host in (location.holder_host, location.incoming_host)
        if not ours and port_uuid not in self._states:
            return
        version = location.version if location is not None else 0
        if self._releases.get(port_uuid, (version,))[0] != version:
            del self._releases[port_uuid]
        self.feed(port_uuid, LocationChanged(location))
        state = self._states[port_uuid]
        if not ours and state.phase is Phase.STEADY:
            self._forget(port_uuid)

    def feed(self, port_uuid: UUID, event: Event) -> None:
        """An event of one port; ports that are none of this host's business have no state and ignore it."""
        of_guest = not isinstance(event, LocationChanged | RelayTimeout)
        ports = (port_uuid, *(self._subports.get(port_uuid, ()) if of_guest else ()))
        effects = [(port, effect) for port in ports for effect in self._advance(port, event)]
        changed = frozenset(port for port, effect in effects if effect is None)
        if changed:
            self._on_phases(changed)
        for port, effect in effects:
            location = self._states[port].location
            if isinstance(effect, StartRelayTimer):
                self._start_timer(port)
            elif location is None or port in self._parents:
                continue  # the manager hears of the parent
            elif isinstance(effect, SendActivated):
                self._manager.activated(location)
            elif isinstance(effect, SendRelease):
                self.release(location, effect.why)

    def _advance(self, port_uuid: UUID, event: Event) -> Iterator[Effect | None]:
        """Take *event* in: the effects, after None where the phase has changed."""
        before = self._states.get(port_uuid)
        if before is None:
            if not isinstance(event, LocationChanged):
                return
            before = PortState()
        after, effects = advance(before, event, host=self._host)
        self._states[port_uuid] = after
        if (after.phase, after.relay_vtep) != (before.phase, before.relay_vtep):
            log.info("port: phase", port=str(port_uuid), phase=after.phase.value, was=before.phase.value)
            yield None
        yield from effects

    def release(self, location: Location, why: ReleaseReason) -> None:
        """Tell the manager that the guest left, once for each version of the location, and again on each stream."""
        word = (location.version, why)
        if self._releases.get(location.port_uuid) == word:
            return
        self._releases[location.port_uuid] = word
        log.info("port: release", port=str(location.port_uuid), why=why.value, version=location.version)
        self._manager.release(location, why)

    def withdraw_release(self, port_uuid: UUID) -> None:
        """The guest is back before the manager took the release: say it no more."""
        self._releases.pop(port_uuid, None)

    def restate(self, locations: Callable[[UUID], Location | None]) -> None:
        """Say everything again on a new stream."""
        for port_uuid, (version, why) in list(self._releases.items()):
            location = locations(port_uuid)
            if location is not None and location.version == version:
                self._manager.release(location, why)
        for port_uuid, state in self._states.items():
            for effect in () if port_uuid in self._parents else restate(state, host=self._host):
                if isinstance(effect, SendActivated) and state.location is not None:
                    self._manager.activated(state.location)

    def close(self) -> None:
        """Stop the timers; what they would have ended stays as it is."""
        for timer in self._timers.values():
            timer.cancel()

    def in_motion(self, ports: Iterable[UUID]) -> bool:
        """True when one of *ports* is not steady."""
        return any(port in self._states and self._states[port].phase is not Phase.STEADY for port in ports)

    def _start_timer(self, port_uuid: UUID) -> None:
        self._arm(port_uuid, self._relay_s)
        if self._records is not None:  # a little later: what the disk takes must not delay the flows
            asyncio.get_running_loop().call_later(_KEEP_S, self._keep_relay, port_uuid)

    def _arm(self, port_uuid: UUID, seconds: float) -> None:
        running = self._timers.pop(port_uuid, None)
        if running is not None:
            running.cancel()
        self._timers[port_uuid] = asyncio.get_running_loop().call_later(seconds, self._relay_ended, port_uuid)

    def _keep_relay(self, port_uuid: UUID) -> None:
        """Bring the disk in line with the state of one port."""
        if self._records is None:
            return
        state, timer = self._states.get(port_uuid), self._timers.get(port_uuid)
        try:
            if state is None or timer is None or not state.relay_timer:
                self._records.drop_relay(port_uuid)
                return
            left_s = timer.when() - asyncio.get_running_loop().time()
            self._records.put_relay(
                Relay(port_uuid=port_uuid, phase=state.phase, vtep=state.relay_vtep, until_unix=time.time() + left_s)
            )
        except sqlite3.Error as error:
            log.warning("port: the end of its phase is not on disk", port=str(port_uuid), reason=str(error))

    def _relay_ended(self, port_uuid: UUID) -> None:
        self._timers.pop(port_uuid, None)
        if port_uuid not in self._states:
            return
        self.feed(port_uuid, RelayTimeout())
        state = self._states[port_uuid]
        location = state.location
        ours = location is not None and self._host in (location.holder_host, location.incoming_host)
        if not ours and state.phase is Phase.STEADY:
            self._forget(port_uuid)
        self._keep_relay(port_uuid)

    def _forget(self, port_uuid: UUID) -> None:
        self._states.pop(port_uuid, None)
        self._releases.pop(port_uuid, None)
        timer = self._timers.pop(port_uuid, None)
        if timer is not None:
            timer.cancel()
