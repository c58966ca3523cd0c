"""The phases of a port, row by row, and what holds whatever happens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.migration import (
    Event,
    FirstFrame,
    Guest,
    LocationChanged,
    Paused,
    PortState,
    RelayTimeout,
    Restarted,
    Resumed,
    SendActivated,
    SendRelease,
    StartRelayTimer,
    TapGone,
    TapSeen,
    advance,
    restate,
)
from hostagent.model import Phase
from netmgr.contract.types import Location, ReleaseReason
from tests.support.hostagent_worlds import location, named, port, vtep

ME = named("h1")
VM = port("vm", 1)
STOPPED, ABORTED, RESUMED = ReleaseReason.STOPPED, ReleaseReason.ABORTED, ReleaseReason.RESUMED


def at(holder: str | None, incoming: str | None = None, *, version: int = 1, parked: bool = False) -> LocationChanged:
    return LocationChanged(location(VM, holder, incoming=incoming, version=version, parked=parked))


def run(*events: Event, state: PortState | None = None) -> tuple[PortState, list]:
    """The state after *events*, and the effects of the last of them."""
    now, effects = state or PortState(), ()
    for event in events:
        now, effects = advance(now, event, host=ME)
    return now, list(effects)


HELD = (at("h1"), TapSeen(), Resumed())
GRANTED_AWAY = (*HELD, at("h1", "h2", version=2))
REDIRECTING = (*GRANTED_AWAY, Paused())
INCOMING = (at("h2"), at("h2", "h1", version=2), TapSeen())
ACTIVATED = (*INCOMING, FirstFrame())
MOVED_HERE = (*ACTIVATED, at("h1", version=3))

ROWS = [
    # claim, start, stop
    ("a claimed port has no guest yet and is not released", [at("h1")], Phase.STEADY, "", []),
    ("a guest starts", HELD, Phase.STEADY, "", []),
    ("a guest stops: park it", [*HELD, TapGone()], Phase.STEADY, "", [SendRelease(1, STOPPED)]),
    ("a parked port's tap ends: no news", [at("h1", parked=True), TapGone()], Phase.STEADY, "", []),
    ("a pause alone is nobody's business", [*HELD, Paused()], Phase.STEADY, "", []),
    # source
    ("a grant changes nothing while the guest runs", GRANTED_AWAY, Phase.STEADY, "", []),
    ("the pause redirects", REDIRECTING, Phase.REDIRECTING, "10.0.0.2", []),
    ("a tap that ends unannounced redirects too", [*GRANTED_AWAY, TapGone()], Phase.REDIRECTING, "10.0.0.2", []),
    ("the tap's end after the pause changes nothing", [*REDIRECTING, TapGone()], Phase.REDIRECTING, "10.0.0.2", []),
    (
        "a guest paused before the grant redirects at the grant",
        [*HELD, Paused(), at("h1", "h2", version=2)],
        Phase.REDIRECTING,
        "10.0.0.2",
        [],
    ),
    ("the source resumed: undone, and told", [*REDIRECTING, Resumed()], Phase.STEADY, "", [SendRelease(2, RESUMED)]),
    ("the grant ends while paused: undone", [*REDIRECTING, at("h1", version=3)], Phase.STEADY, "", []),
    (
        "the grant ends and the guest is gone: park it",
        [*REDIRECTING, TapGone(), at("h1", version=3)],
        Phase.STEADY,
        "",
        [SendRelease(3, STOPPED)],
    ),
    ("it moved: relay", [*REDIRECTING, at("h2", version=3)], Phase.RELAYING, "10.0.0.2", [StartRelayTimer()]),
    ("it moved unpaused: relay", [*GRANTED_AWAY, at("h2", version=3)], Phase.RELAYING, "10.0.0.2", [StartRelayTimer()]),
    ("relaying ends", [*REDIRECTING, at("h2", version=3), RelayTimeout()], Phase.STEADY, "", []),
    (
        "a relay follows the port to its next holder",
        [*REDIRECTING, at("h2", version=3), at("h3", version=4)],
        Phase.RELAYING,
        "10.0.0.3",
        [],
    ),
    (
        "both resumed, the manager chose the other: stay dark",
        [*REDIRECTING, at("h2", version=3), Resumed()],
        Phase.RELAYING,
        "10.0.0.2",
        [],
    ),
    # destination
    ("a grant here waits for the guest", INCOMING, Phase.INCOMING, "10.0.0.2", []),
    ("the first frame activates", ACTIVATED, Phase.ACTIVATED, "10.0.0.2", [SendActivated(2)]),
    ("resumed activates", [*INCOMING, Resumed()], Phase.ACTIVATED, "10.0.0.2", [SendActivated(2)]),
    ("it activates once", [*ACTIVATED, FirstFrame()], Phase.ACTIVATED, "10.0.0.2", []),
    ("a pause after activation does not undo it", [*ACTIVATED, Paused()], Phase.ACTIVATED, "10.0.0.2", []),
    ("a pause before it is not the guest's start", [*INCOMING, Paused()], Phase.INCOMING, "10.0.0.2", []),
    ("it did not come", [*INCOMING, TapGone()], Phase.INCOMING, "10.0.0.2", [SendRelease(2, ABORTED)]),
    ("it came and died at once", [*ACTIVATED, TapGone()], Phase.INCOMING, "10.0.0.2", [SendRelease(2, ABORTED)]),
    ("the grant ended", [*INCOMING, at("h2", version=3)], Phase.STEADY, "", []),
    ("the source won: dark though the guest runs", [*ACTIVATED, at("h2", version=3)], Phase.STEADY, "", []),
    ("the move is done: still take what is sent on", MOVED_HERE, Phase.ACTIVATED, "10.0.0.2", [StartRelayTimer()]),
    ("and after the relay time all is steady", [*MOVED_HERE, RelayTimeout()], Phase.STEADY, "", []),
    (
        "it died between activation and move: park it here",
        [*ACTIVATED, TapGone(), at("h1", version=3)],
        Phase.STEADY,
        "",
        [SendRelease(3, STOPPED)],
    ),
    (
        "a newer version of the same grant is activated under its number",
        [*ACTIVATED, at("h2", "h1", version=3)],
        Phase.ACTIVATED,
        "10.0.0.2",
        [SendActivated(3)],
    ),
    # straight on, straight back
    (
        "it moves on within the relay time",
        [*MOVED_HERE, at("h1", "h3", version=4), Paused()],
        Phase.REDIRECTING,
        "10.0.0.3",
        [],
    ),
    (
        "granted on within the relay time, not paused yet",
        [*MOVED_HERE, at("h1", "h3", version=4)],
        Phase.ACTIVATED,
        "10.0.0.2",
        [],
    ),
    (
        "it comes back while its old tap is still there",
        [*REDIRECTING, at("h2", version=3), at("h2", "h1", version=4)],
        Phase.INCOMING,
        "10.0.0.2",
        [],
    ),
    (
        "and that old tap's end does not end the new grant",
        [*REDIRECTING, at("h2", version=3), at("h2", "h1", version=4), TapGone()],
        Phase.INCOMING,
        "10.0.0.2",
        [],
    ),
    (
        "and is lit again at its first frame",
        [*REDIRECTING, at("h2", version=3), at("h2", "h1", version=4), TapGone(), TapSeen(), FirstFrame()],
        Phase.ACTIVATED,
        "10.0.0.2",
        [SendActivated(4)],
    ),
    # memory and its loss
    ("an older location is no news", [at("h1", version=5), at("h2", version=4)], Phase.STEADY, "", []),
    ("a removed port is forgotten", [*REDIRECTING, LocationChanged(None)], Phase.STEADY, "", []),
    (
        "restarted source, guest paused: redirect",
        [Restarted(Guest.PAUSED), at("h1", "h2")],
        Phase.REDIRECTING,
        "10.0.0.2",
        [],
    ),
    ("restarted source, guest runs", [Restarted(Guest.RUNS), at("h1", "h2")], Phase.STEADY, "", []),
    (
        "restarted destination, guest runs",
        [Restarted(Guest.RUNS), at("h2", "h1")],
        Phase.ACTIVATED,
        "10.0.0.2",
        [SendActivated(1)],
    ),
    (
        "restarted, the guest stopped meanwhile",
        [at("h1"), Restarted(Guest.GONE)],
        Phase.STEADY,
        "",
        [SendRelease(1, STOPPED)],
    ),
    (
        "restarted, the source resumed meanwhile",
        [*REDIRECTING, Restarted(Guest.RUNS)],
        Phase.STEADY,
        "",
        [SendRelease(2, RESUMED)],
    ),
]


@pytest.mark.parametrize(
    ("events", "phase", "relay", "effects"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_row(events, phase, relay, effects):
    state, done = run(*events)
    assert (state.phase, state.relay_vtep, done) == (phase, relay, effects)


def test_a_new_stream_hears_of_an_activation_again_until_the_location_has_moved():
    assert restate(run(*ACTIVATED)[0], host=ME) == (SendActivated(2),)
    assert restate(run(*MOVED_HERE)[0], host=ME) == (StartRelayTimer(),)
    assert restate(run(*MOVED_HERE, RelayTimeout())[0], host=ME) == ()
    assert restate(run(*REDIRECTING)[0], host=ME) == ()


def test_a_restarted_agent_starts_its_relay_timer_again():
    state, _ = run(*REDIRECTING, at("h2", version=3))
    assert restate(state, host=ME) == (StartRelayTimer(),)


HOSTS = st.sampled_from([None, "h1", "h2", "h3"])
EVENTS = st.lists(
    st.one_of(
        st.sampled_from([Paused(), Resumed(), TapSeen(), TapGone(), FirstFrame(), RelayTimeout()]),
        st.builds(Restarted, st.sampled_from(list(Guest))),
        st.builds(
            lambda holder, incoming, parked: ("location", holder, None if incoming == holder else incoming, parked),
            HOSTS,
            HOSTS,
            st.booleans(),
        ),
    ),
    max_size=25,
)


@settings(max_examples=400, deadline=None)
@given(steps=EVENTS)
def test_whatever_happens_a_phase_agrees_with_the_location(steps):
    state, timer, version = PortState(), False, 0
    for step in steps:
        event = step
        if isinstance(step, tuple):
            version += 1
            event = at(step[1], step[2], version=version, parked=step[3])
        before = state
        state, effects = advance(state, event, host=ME)
        timer = (timer and not isinstance(event, RelayTimeout)) or StartRelayTimer() in effects
        now = state.location
        holds, comes = now is not None and now.holder_host == ME, now is not None and now.incoming_host == ME
        if state.phase is Phase.REDIRECTING:
            assert holds
            assert state.relay_vtep == now.incoming_vtep != ""
            assert state.guest in (Guest.PAUSED, Guest.GONE)
        if state.phase in (Phase.INCOMING, Phase.ACTIVATED):
            assert holds or comes
        if comes and not holds:
            assert state.phase in (Phase.INCOMING, Phase.ACTIVATED)
        if state.phase is Phase.RELAYING:
            assert not holds
            assert not comes
            assert state.relay_vtep == now.holder_vtep
        if state.relay_timer:
            assert timer, "a state that waits for a timer has had it started"
        for effect in effects:
            if isinstance(effect, SendActivated):
                assert comes
                assert effect.version == now.version
            if isinstance(effect, SendRelease) and effect.why is not ABORTED:
                assert holds, "only the holder parks or resumes"
        # an event told twice changes nothing the second time
        if not isinstance(event, Restarted):
            again, repeated = advance(state, event, host=ME)
            assert again == state, (before, event)
            assert not [one for one in repeated if isinstance(one, SendActivated)]


@settings(max_examples=200, deadline=None)
@given(steps=EVENTS)
def test_an_agent_without_memory_reaches_the_same_lit_or_dark(steps):
    """Location and guest suffice, but for relays, which end by themselves."""
    state, version = PortState(), 0
    for step in steps:
        event = step
        if isinstance(step, tuple):
            version += 1
            event = at(step[1], step[2], version=version, parked=step[3])
        state, _ = advance(state, event, host=ME)
    fresh, _ = run(Restarted(state.guest), LocationChanged(state.location))
    same = {Phase.STEADY, Phase.REDIRECTING, Phase.INCOMING}
    if state.phase is Phase.REDIRECTING:
        assert fresh.phase is Phase.REDIRECTING
    if state.phase is Phase.INCOMING:
        assert fresh.phase in (Phase.INCOMING, Phase.ACTIVATED)
    if state.phase is Phase.STEADY:
        assert fresh.phase in same | {Phase.ACTIVATED}


def two_hosts(*steps: tuple[str, Event]) -> dict[str, PortState]:
    states = {"h1": PortState(), "h2": PortState()}
    for host, event in steps:
        states[host], _ = advance(states[host], event, host=named(host))
    return states


def test_when_both_libvirtds_resume_the_manager_s_word_leaves_one_lit():
    both = [at("h1"), at("h1", "h2", version=2)]
    start = [(host, event) for event in both for host in ("h1", "h2")]
    race = [("h1", Paused()), ("h2", FirstFrame()), ("h1", Resumed())]
    for word in (at("h2", version=3), at("h1", version=3)):
        states = two_hosts(*start, *race, ("h1", word), ("h2", word))
        lit = [host for host, state in states.items() if word.location.holder_host == named(host)]
        assert len(lit) == 1
        dark = states["h2" if lit == ["h1"] else "h1"]
        assert dark.phase in (Phase.STEADY, Phase.RELAYING)


def test_a_guest_that_goes_back_and_forth_within_the_relay_time_ends_steady_everywhere():
    steps: list[tuple[str, Event]] = []

    def all_hear(event: Event) -> None:
        steps.extend((host, event) for host in ("h1", "h2"))

    all_hear(at("h1"))
    version = 1
    for source, destination in (("h1", "h2"), ("h2", "h1"), ("h1", "h2")):
        all_hear(at(source, destination, version=version + 1))
        steps += [(destination, TapSeen()), (source, Paused()), (destination, FirstFrame()), (source, TapGone())]
        all_hear(at(destination, version=version + 2))
        version += 2
    states = two_hosts(*steps)
    assert (states["h1"].phase, states["h2"].phase) == (Phase.RELAYING, Phase.ACTIVATED)
    assert states["h1"].relay_vtep == vtep("h2")
    states = two_hosts(*steps, ("h1", RelayTimeout()), ("h2", RelayTimeout()))
    assert {state.phase for state in states.values()} == {Phase.STEADY}


def test_states_are_values():
    state, _ = run(*REDIRECTING)
    assert state == replace(state)
    assert isinstance(state.location, Location)
