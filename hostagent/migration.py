"""Phases of one port on this host: a pure state machine.

Theory of operation. What netmgr decides is the location (holder, incoming); what only this host can see is its guest
(runs, paused, gone). The phase follows from both, and from a little history: that the port was here a moment ago
(RELAYING) or that the guest has come alive here (ACTIVATED). Events carry news of one or the other; `advance` takes the
news in and settles the phase. A host that restarts without memory gets the same phase from location and guest, but for
RELAYING, which is bounded in time anyway.

This host is                 guest             phase         effects on the way in
---------------------------  ----------------  ------------  ---------------------------------------------------------
holder, nobody incoming      any               STEADY        guest's end, or a grant's end without guest: Release
                                                             stopped. ACTIVATED lasts until the relay timer ends
holder, other host incoming  runs or unknown   STEADY        after REDIRECTING, by Resumed: Release resumed
                                               (ACTIVATED)   a port that moves on within the relay time stays ACTIVATED
holder, other host incoming  paused or gone    REDIRECTING
incoming                     not seen running  INCOMING      guest's end: Release aborted
incoming                     runs              ACTIVATED     Activated, once for each version of the location
neither, was holder          any               RELAYING      relay timer started; STEADY when it ends
neither                      any               STEADY

A guest that runs where the location says neither (both libvirtds resumed it, or its grant ended) stays dark: no phase
lights it. A location older than the one known is not news: a restored store must not revive what was written off.

REDIRECTING begins at the pause, also of a guest that was paused before the grant: a guest migrated while paused
announces nothing, and its tap's end comes late or never. Should the migration fail, the grant's end undoes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from uuid import UUID

from hostagent.model import Phase
from netmgr.contract.types import Location, ReleaseReason

__all__ = [
    "Effect",
    "Event",
    "FirstFrame",
    "Guest",
    "LocationChanged",
    "Paused",
    "PortState",
    "RelayTimeout",
    "Restarted",
    "Resumed",
    "SendActivated",
    "SendRelease",
    "StartRelayTimer",
    "TapGone",
    "TapSeen",
    "advance",
    "restate",
]


class Guest(StrEnum):
    """What this host sees of the guest behind a port."""

    UNKNOWN = "unknown"
    RUNS = "runs"
    PAUSED = "paused"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class PortState:
    """One port on this host. A port nothing is known of is `PortState()`."""

    location: Location | None = None
    guest: Guest = Guest.UNKNOWN
    phase: Phase = Phase.STEADY
    relay_vtep: str = ""  # RELAYING, REDIRECTING: where to; INCOMING, ACTIVATED: where from
    relay_timer: bool = False  # started and not yet ended: a host that restarts starts it again


# --- events -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LocationChanged:
    """netmgr's word; None when the port is removed or no longer this host's business."""

    location: Location | None


@dataclass(frozen=True, slots=True)
class Paused:
    """QMP STOP, or libvirt's Suspended."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """libvirt's Resumed, or Started without a pause."""


@dataclass(frozen=True, slots=True)
class TapSeen:
    """The VIF's tap is plugged."""


@dataclass(frozen=True, slots=True)
class TapGone:
    """The VIF's tap is unplugged, or its domain stopped."""


@dataclass(frozen=True, slots=True)
class FirstFrame:
    """A frame of the guest itself came out of its tap."""


@dataclass(frozen=True, slots=True)
class RelayTimeout:
    """The relay timer has run out."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """The agent has started, or has lost and regained libvirt: the guest is read, not heard of."""

    guest: Guest


Event = LocationChanged | Paused | Resumed | TapSeen | TapGone | FirstFrame | RelayTimeout | Restarted


# --- effects ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendActivated:
    """Tell the manager that the guest runs here."""

    version: int


@dataclass(frozen=True, slots=True)
class SendRelease:
    """Tell the manager that the port is not held here any more."""

    version: int
    why: ReleaseReason


@dataclass(frozen=True, slots=True)
class StartRelayTimer:
    """Deliver RelayTimeout after the relay time; restarts a timer that runs."""


Effect = SendActivated | SendRelease | StartRelayTimer


def advance(state: PortState, event: Event, *, host: UUID) -> tuple[PortState, tuple[Effect, ...]]:
    """The state of the port after *event* on *host*, and what is to be done about it, in order."""
    if isinstance(event, LocationChanged) and _is_old(event.location, state.location):
        return state, ()
    heard = _hear(state, event)
    after = _settle(state, heard, host)
    return after, _effects(state, event, after, host)


def restate(state: PortState, *, host: UUID) -> tuple[Effect, ...]:
    """What netmgr must be told again on a new stream, and the timer a restarted agent must start again."""
    effects: list[Effect] = []
    if state.phase is Phase.ACTIVATED and _incoming(state.location, host):
        assert state.location is not None
        effects.append(SendActivated(state.location.version))
    if state.relay_timer:
        effects.append(StartRelayTimer())
    return tuple(effects)


# --- the rules ----------------------------------------------------------------------------------------------------


def _is_old(news: Location | None, known: Location | None) -> bool:
    return news is not None and known is not None and news.version < known.version


def _hear(state: PortState, event: Event) -> PortState:
    """*state* with the news in it and its phase not yet settled."""
    match event:
        case LocationChanged(location):
            return replace(state, location=location)
        case Paused():
            return replace(state, guest=Guest.PAUSED)
        case Resumed() | FirstFrame():
            return replace(state, guest=Guest.RUNS)
        case TapSeen():
            return replace(state, guest=Guest.UNKNOWN) if state.guest is Guest.GONE else state
        case TapGone():
            return replace(state, guest=Guest.GONE)
        case Restarted(guest):
            return replace(state, guest=guest)
        case RelayTimeout():
            return replace(state, relay_timer=False)


def _settle(before: PortState, state: PortState, host: UUID) -> PortState:
    location = state.location
    if location is None:
        return replace(state, phase=Phase.STEADY, relay_vtep="", relay_timer=False)
    if location.holder_host == host:
        return _settle_holder(before, state, location)
    if location.incoming_host == host:
        return _settle_incoming(before, state, location)
    was_here = before.location is not None and before.location.holder_host == host
    if was_here and location.holder_vtep:
        return replace(state, phase=Phase.RELAYING, relay_vtep=location.holder_vtep, relay_timer=True)
    if before.phase is Phase.RELAYING and state.relay_timer and location.holder_vtep:
        return replace(state, phase=Phase.RELAYING, relay_vtep=location.holder_vtep)
    return replace(state, phase=Phase.STEADY, relay_vtep="", relay_timer=False)


def _settle_holder(before: PortState, state: PortState, location: Location) -> PortState:
    if location.incoming_host is not None and state.guest in (Guest.PAUSED, Guest.GONE):
        return replace(state, phase=Phase.REDIRECTING, relay_vtep=location.incoming_vtep, relay_timer=False)
    if before.phase is Phase.ACTIVATED:
        arrived = not _held(before.location, location)
        if arrived or state.relay_timer:
            return replace(state, phase=Phase.ACTIVATED, relay_timer=True)
    return replace(state, phase=Phase.STEADY, relay_vtep="", relay_timer=False)


def _settle_incoming(before: PortState, state: PortState, location: Location) -> PortState:
    same_grant = (
        before.location is not None
        and before.location.incoming_host == location.incoming_host
        and before.location.holder_host == location.holder_host
    )
    was_activated = before.phase is Phase.ACTIVATED and same_grant and state.guest is not Guest.GONE
    # A guest of an earlier stay that this host has not seen end is not the one that comes.
    heard_now = state.guest is Guest.RUNS and (same_grant or before.location is None)
    phase = Phase.ACTIVATED if was_activated or heard_now else Phase.INCOMING
    guest = state.guest if same_grant or before.location is None else _fresh(state.guest)
    return replace(state, phase=phase, guest=guest, relay_vtep=location.holder_vtep, relay_timer=False)


def _fresh(guest: Guest) -> Guest:
    """What is known of the guest of a new grant: an earlier stay's tap may end late, and its end ends no new grant."""
    return Guest.UNKNOWN if guest is Guest.UNKNOWN else Guest.GONE


def _effects(before: PortState, event: Event, after: PortState, host: UUID) -> tuple[Effect, ...]:
    location = after.location
    effects: list[Effect] = []
    if after.relay_timer and not (before.relay_timer and before.phase is after.phase):
        effects.append(StartRelayTimer())
    if location is None:
        return tuple(effects)
    if _incoming(location, host):
        is_news = before.phase is not Phase.ACTIVATED or _version(before) != location.version
        if after.phase is Phase.ACTIVATED and is_news:
            effects.append(SendActivated(location.version))
        if isinstance(event, TapGone) and before.guest is not Guest.GONE:
            effects.append(SendRelease(location.version, ReleaseReason.ABORTED))
    elif location.holder_host == host:
        if before.phase is Phase.REDIRECTING and isinstance(event, Resumed | FirstFrame | Restarted):
            if after.guest is Guest.RUNS:
                effects.append(SendRelease(location.version, ReleaseReason.RESUMED))
        elif location.incoming_host is None and not location.parked and _guest_ended(before, event, after):
            effects.append(SendRelease(location.version, ReleaseReason.STOPPED))
    return tuple(effects)


def _guest_ended(before: PortState, event: Event, after: PortState) -> bool:
    """True when the guest's end is news; a port claimed for a start has no guest yet and must not be released."""
    if after.guest is not Guest.GONE:
        return False
    if isinstance(event, LocationChanged):
        # a grant ended, or arrived here, after the guest had gone
        return before.location is not None and before.location.incoming_host is not None
    return isinstance(event, TapGone | Restarted)


def _held(known: Location | None, now: Location) -> bool:
    return known is not None and known.holder_host == now.holder_host


def _incoming(location: Location | None, host: UUID) -> bool:
    return location is not None and location.incoming_host == host and location.holder_host != host


def _version(state: PortState) -> int:
    return state.location.version if state.location is not None else 0
