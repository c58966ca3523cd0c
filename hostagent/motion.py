"""Ports in motion: the state machines of `migration` for the ports of this host, fed and obeyed.

Theory of operation. Only ports that this host holds, is about to get, or has just given away have a state; the ten
thousand others of a network cost nothing. News of location and guest go in; phases come out, for the compilation of
flows; effects are carried out here. What the manager must hear is kept until it can have heard it: a release or an
activation belongs to one version of the location, is said again on each new stream, and is forgotten when the location
has moved on. A timer that ends RELAYING is the event loop's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol
from uuid import UUID

import structlog

from hostagent.migration import (
    Event,
    Guest,
    LocationChanged,
    PortState,
    RelayTimeout,
    SendActivated,
    SendRelease,
    advance,
    restate,
)
from hostagent.model import Phase
from netmgr.contract.types import Location, ReleaseReason

__all__ = ["Manager", "Motion"]

log = structlog.get_logger(__name__)


class Manager(Protocol):
    """What is said upward; lost without a stream."""

    def activated(self, location: Location) -> None: ...

    def release(self, location: Location, why: ReleaseReason) -> None: ...


class Motion:
    """States of the ports of one host. `on_phases` is called with the ports whose phase an event has changed."""

    def __init__(
        self, *, host: UUID, manager: Manager, relay_s: float, on_phases: Callable[[frozenset[UUID]], None]
    ) -> None:
        self._host = host
        self._manager = manager
        self._relay_s = relay_s
        self._on_phases = on_phases
        self._states: dict[UUID, PortState] = {}
        self._timers: dict[UUID, asyncio.TimerHandle] = {}
        self._releases: dict[UUID, tuple[int, ReleaseReason]] = {}

    def phases(self) -> dict[UUID, Phase]:
        """Ports that are not steady."""
        return {uuid: state.phase for uuid, state in self._states.items() if state.phase is not Phase.STEADY}

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
        before = self._states.get(port_uuid)
        if before is None:
            if not isinstance(event, LocationChanged):
                return
            before = PortState()
        after, effects = advance(before, event, host=self._host)
        self._states[port_uuid] = after
        if (after.phase, after.relay_vtep) != (before.phase, before.relay_vtep):
            log.info("port: phase", port=str(port_uuid), phase=after.phase.value, was=before.phase.value)
            self._on_phases(frozenset((port_uuid,)))
        for effect in effects:
            if isinstance(effect, SendActivated):
                if after.location is not None:
                    self._manager.activated(after.location)
            elif isinstance(effect, SendRelease):
                if after.location is not None:
                    self.release(after.location, effect.why)
            else:
                self._start_timer(port_uuid)

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
        for state in self._states.values():
            for effect in restate(state, host=self._host):
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
        running = self._timers.pop(port_uuid, None)
        if running is not None:
            running.cancel()
        loop = asyncio.get_running_loop()
        self._timers[port_uuid] = loop.call_later(self._relay_s, self._relay_ended, port_uuid)

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

    def _forget(self, port_uuid: UUID) -> None:
        self._states.pop(port_uuid, None)
        self._releases.pop(port_uuid, None)
        timer = self._timers.pop(port_uuid, None)
        if timer is not None:
            timer.cancel()
