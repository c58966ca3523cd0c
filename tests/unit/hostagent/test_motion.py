"""Events of guests reach the ports' state machines, and what the manager must hear is said until it can have heard."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from uuid import UUID, uuid4

from hostagent.guests import START_GRACE_S, Guests
from hostagent.model import Desired, Link, Observed, Phase
from hostagent.motion import Motion
from hostagent.presence import SeenVif
from hostagent.realize.domains import DomainEvent, DomainEventKind, DomainState
from hostagent.records import Records, Relay
from netmgr.contract.types import HostConfig, Location, LogicalPort, ReleaseReason

HOST, OTHER, NETWORK, PORT, VIF, VM = (uuid4() for _ in range(6))
HELD = Location(port_uuid=PORT, network_uuid=NETWORK, holder_host=HOST, holder_vtep="10.0.0.1", version=5)
LEAVING = replace(HELD, incoming_host=OTHER, incoming_vtep="10.0.0.2", version=6)
LEFT = replace(HELD, holder_host=OTHER, holder_vtep="10.0.0.2", version=7)
COMING = replace(LEFT, incoming_host=HOST, incoming_vtep="10.0.0.1", version=8)
TAP = SeenVif(
    vif_uuid=VIF,
    ovs_port="vnet0",
    bridge="osw-1",
    mac="52:54:00:00:00:01",
    vm_uuid=VM,
    network_uuid=None,
    plugged=True,
    ofport=4,
    external_ids={"iface-id": str(VIF)},
)


class Host:
    """A host's motion and guests; stands in for the manager by writing down what it is told."""

    def __init__(self, relay_s: float = 60, records: Records | None = None) -> None:
        self.told: list[tuple[str, int]] = []
        self.changed: list[UUID] = []
        self.motion = Motion(host=HOST, manager=self, relay_s=relay_s, on_phases=self.changed.extend, records=records)
        self.guests = Guests(motion=self.motion, port_by_vif={VIF: PORT})
        self.now = time.monotonic() + START_GRACE_S
        self.location: Location | None = None

    def activated(self, location: Location) -> None:
        self.told.append(("activated", location.version))

    def release(self, location: Location, why: ReleaseReason) -> None:
        self.told.append((why.value, location.version))

    def locate(self, location: Location | None) -> None:
        self.location = location
        self.motion.located(PORT, location)

    def look(self, *vifs: SeenVif, after_s: float = 0, dead: frozenset[str] = frozenset()) -> None:
        self.now += after_s
        port = LogicalPort(uuid=PORT, name="p", network_uuid=NETWORK, vif_uuid=VIF, mac=TAP.mac)
        locations = {PORT: self.location} if self.location else {}
        desired = Desired(host=HostConfig(uuid=HOST, name="h"), ports={PORT: port}, locations=locations)
        self.guests.look(vifs, dead_bridges=dead, desired=desired, now=self.now)

    def event(self, kind: DomainEventKind, *, migrated: bool = False) -> None:
        self.guests.on_event(
            DomainEvent(domain=VM, name="web", kind=kind, source="qmp", migrated=migrated, at=self.now)
        )

    @property
    def phase(self) -> Phase:
        return self.motion.phases().get(PORT, Phase.STEADY)


NEW = replace(TAP, plugged=False, ofport=0, awaited=True)


def test_a_vif_that_comes_while_one_looks_is_arriving_until_the_switch_has_looked_at_it() -> None:
    host = Host()
    host.look()
    host.look(NEW)
    assert host.guests.arriving == {VIF}
    host.look(NEW)
    assert host.guests.arriving == {VIF}
    host.look(TAP)
    assert not host.guests.arriving
    host.look(NEW)  # vswitchd takes its ports anew
    assert not host.guests.arriving


def test_what_lay_in_the_database_before_the_first_look_or_on_a_dead_switch_is_not_arriving() -> None:
    host = Host()
    host.look(NEW)
    assert not host.guests.arriving
    other = Host()
    other.look()
    other.look(NEW, dead=frozenset({NEW.bridge}))
    assert not other.guests.arriving


def _on_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())  # type: ignore[arg-type]

    run.__doc__ = test.__doc__
    return run


@_on_loop
async def test_a_pause_during_a_migration_redirects_and_its_end_relays_then_forgets() -> None:
    host = Host(relay_s=0.02)
    host.locate(HELD)
    host.look(TAP)
    host.event(DomainEventKind.PAUSED)
    assert host.phase is Phase.STEADY  # a pause alone moves nothing
    host.event(DomainEventKind.RESUMED)
    host.locate(LEAVING)
    host.event(DomainEventKind.PAUSED)
    assert host.phase is Phase.REDIRECTING
    assert host.motion.relay_vteps() == {PORT: "10.0.0.2"}
    host.locate(LEFT)
    assert host.phase is Phase.RELAYING
    assert host.guests.with_living_guest() == ()  # the tap that lingers is not claimed back
    await asyncio.sleep(0.05)
    assert host.phase is Phase.STEADY
    assert host.motion.ports() == frozenset()
    assert host.told == []


@_on_loop
async def test_a_source_that_resumes_says_so() -> None:
    host = Host()
    host.locate(HELD)
    host.look(TAP)
    host.locate(LEAVING)
    host.event(DomainEventKind.PAUSED)
    host.event(DomainEventKind.RESUMED)
    assert host.phase is Phase.STEADY
    assert host.told == [("resumed", 6)]


@_on_loop
async def test_the_first_frame_activates_the_destination_and_is_said_again_on_a_new_stream() -> None:
    host = Host()
    host.locate(COMING)
    host.look(TAP)
    host.event(DomainEventKind.STARTED, migrated=True)
    assert host.phase is Phase.INCOMING
    frame = bytes.fromhex("ffffffffffff" + "525400000001") + bytes(50)
    forged = bytes.fromhex("ffffffffffff" + "525400000099") + bytes(50)
    assert not host.guests.on_frame("osw-1", 4, forged)
    assert not host.guests.on_frame("osw-1", 5, frame)
    assert host.phase is Phase.INCOMING
    assert host.guests.on_frame("osw-1", 4, frame)
    assert host.phase is Phase.ACTIVATED
    host.motion.restate({PORT: COMING}.get)
    assert host.told == [("activated", 8), ("activated", 8)]


@_on_loop
async def test_a_release_is_repeated_until_the_location_moves_on() -> None:
    host = Host()
    host.locate(HELD)
    host.look(TAP)
    host.look(after_s=0)
    host.look(after_s=0.5)
    assert host.told == []  # a blip is not an end
    host.look(after_s=1)
    assert host.told == [("stopped", 5)]
    host.motion.restate({PORT: HELD}.get)
    assert host.told == [("stopped", 5)] * 2
    parked = replace(HELD, parked=True, version=6)
    host.locate(parked)
    host.motion.restate({PORT: parked}.get)
    assert host.told == [("stopped", 5)] * 2


@_on_loop
async def test_a_switch_that_does_not_answer_says_nothing_about_its_taps() -> None:
    host = Host()
    host.locate(HELD)
    host.look(TAP)
    unplugged = replace(TAP, plugged=False, ofport=0)
    host.look(unplugged, dead=frozenset({"osw-1"}), after_s=5)
    host.look(unplugged, dead=frozenset({"osw-1"}), after_s=5)
    assert host.told == []
    assert host.guests.absent_since == {}


@_on_loop
async def test_a_guest_paused_unseen_is_found_when_libvirt_comes_back() -> None:
    host = Host()
    host.locate(LEAVING)
    host.look(TAP)
    host.guests.resync([DomainState(domain=VM, name="web", running=False, migrating=True)])
    assert host.phase is Phase.REDIRECTING


@_on_loop
async def test_ports_of_others_have_no_state() -> None:
    host = Host()
    host.locate(LEFT)
    host.event(DomainEventKind.PAUSED)
    assert host.motion.ports() == frozenset()


@_on_loop
async def test_a_tap_taken_out_of_ovs_is_put_back_while_its_guest_and_its_link_live() -> None:
    host = Host()
    host.locate(HELD)
    host.event(DomainEventKind.STARTED)
    host.look(TAP)
    with_link, without = Observed(links=(Link(name="vnet0"),)), Observed(links=())
    assert host.guests.plugs(with_link)[VIF].port == "vnet0"
    host.look()
    assert host.guests.plugs(with_link)[VIF].external_ids == {"iface-id": str(VIF)}
    assert host.guests.plugs(without) == {}
    host.look(replace(TAP, vm_uuid=None))
    assert host.guests.plugs(with_link) == {}  # an endpoint without a domain goes when its port goes


@_on_loop
async def test_a_restarted_agent_goes_on_relaying_until_the_moment_that_was_set() -> None:
    records = Records(sqlite3.connect(":memory:"))
    first = Host(relay_s=0.4, records=records)
    first.locate(HELD)
    first.locate(LEAVING)
    first.locate(LEFT)
    assert first.phase is Phase.RELAYING
    await asyncio.sleep(0.1)
    first.motion.close()
    second = Host(relay_s=0.4, records=records)
    second.motion.revive({PORT: LEFT})
    second.locate(LEFT)
    assert (second.phase, second.motion.relay_vteps()) == (Phase.RELAYING, {PORT: "10.0.0.2"})
    await asyncio.sleep(0.4)
    assert second.phase is Phase.STEADY
    assert records.relays == {}


@_on_loop
async def test_a_relay_whose_time_is_over_or_whose_port_is_gone_is_not_taken_up() -> None:
    records = Records(sqlite3.connect(":memory:"))
    records.put_relay(Relay(port_uuid=PORT, phase=Phase.RELAYING, vtep="10.0.0.2", until_unix=time.time() - 1))
    records.put_relay(Relay(port_uuid=VIF, phase=Phase.RELAYING, vtep="10.0.0.2", until_unix=time.time() + 60))
    host = Host(records=records)
    host.motion.revive({PORT: LEFT})
    assert (host.phase, records.relays) == (Phase.STEADY, {})


@_on_loop
async def test_what_is_still_true_is_said_on_every_new_stream_whenever_the_manager_restarts() -> None:
    """The manager may forget nothing it acknowledged, but it may never have heard what was said last."""
    host = Host()
    host.locate(COMING)
    host.look(TAP)
    host.event(DomainEventKind.STARTED, migrated=True)
    host.motion.restate({PORT: COMING}.get)
    assert host.told == []  # it does not run here yet
    host.event(DomainEventKind.RESUMED)
    for _ in range(3):
        host.motion.restate({PORT: COMING}.get)
    assert host.told == [("activated", 8)] * 4
    parked = replace(COMING, parked=True, version=9)  # the source has parked it; it still is to come here
    host.locate(parked)
    host.motion.restate({PORT: parked}.get)
    assert host.told[4:] == [("activated", 9)] * 2
    arrived = replace(HELD, version=10)
    host.locate(arrived)
    host.motion.restate({PORT: arrived}.get)
    assert len(host.told) == 6
