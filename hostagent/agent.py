"""The agent: its parts, and which of them hears what.

Theory of operation. Whatever happens (OVSDB, kernel, libvirt, switch, manager, hooks) only marks the host dirty and
wakes the `loop`, which compares what is wanted with what is there, as a whole. Every 15 s everything is read anew from
the source, whatever events said.

Three things do not wait for a turn of the loop. A migration's phases go to the switch at once (`fastpath`). Libvirt's
networks are defined in a task of their own, because libvirtd may be waiting for the agent in a hook. And that a network
came or went that asks nothing of a host at rest (`idle_networks`) is acknowledged at once; the loop looks later.

The agent never takes anything down when it stops: what it was asked for is the host's state, not its own. Only what it
does itself, answers that the switch can't make (`solicited`), it leaves to others then.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import structlog

from hostagent.arrivals import Arrivals
from hostagent.claims import Claims
from hostagent.definition import desired_of, with_plugged
from hostagent.discovery import Discovery
from hostagent.endpoints.keeper import Endpoints
from hostagent.endpoints.retirement import Retirements
from hostagent.guests import Guests
from hostagent.host import Events, Host, HostPaths
from hostagent.identity import Identity
from hostagent.indexed import held_here
from hostagent.looking import answer_trace
from hostagent.lookup import Lookup
from hostagent.loop import Loop, Parts
from hostagent.model import Desired, Phase, Unread
from hostagent.motion import Motion
from hostagent.network_steps import NetworkSteps
from hostagent.news import News
from hostagent.pipeline.tables import Table
from hostagent.plan import expected_flows
from hostagent.pnic_load import PnicLoad
from hostagent.presence import Subscriptions, wanted_networks
from hostagent.progress import Failures
from hostagent.qos import control_ports
from hostagent.realize.domains import DomainEventKind
from hostagent.realize.ovsdb_taps import NewTap
from hostagent.reporting import Reporting
from hostagent.solicited import Solicited
from hostagent.state import State
from hostagent.switchover import Switchover
from hostagent.sync_client import SyncClient
from hostagent.tracking.keeper import Tracking
from hostagent.tracking.limits import CONNECTIONS_MAX
from hostagent.tracking.ticketing import Ticketing
from hostagent.underlay.path_mtu import AGAIN_S
from hostagent.underlay.probing import Probing
from hostagent.unheard import unheard_networks
from netmgr.contract.types import Kind, Location, ReleaseReason, TraceQuestion

__all__ = ["Agent"]

log = structlog.get_logger(__name__)

AUDIT_S, _PROBE_S, _PRIME_S, _REFRESH_S = 15, 3, 300, 60
RELAY_S = 10.0
ALONE_S = 5.0  # without a manager, after which what it said last of others' guests may have changed
_LATER_S = 1.0  # from news for which nothing is to be done to the loop's look; many come in a row
_SUBSCRIBE_S = 1.0  # how long an agent without memory waits for the ports of its networks


class Agent:
    """Everything of one host. Made on the event loop; `run` until cancelled."""

    def __init__(
        self,
        *,
        identity: Identity,
        state: State,
        paths: HostPaths,
        boot_id: str,
        agent_version: str,
        view_port: int = 0,
        mtu_again_s: float = AGAIN_S,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self._identity = identity
        self._control_ports = control_ports(identity.managers, view_port)
        self._state = state
        self._failures = Failures()
        self._news = News(networks=lambda: state.networks, failures=self.failures)
        self.host = Host(
            paths,
            Events(
                dirty=self._dirty,
                port=self._port,
                tap=self._tap,
                lost=self._lost,
                packet_in=self._packet_in,
                domain=self._domain,
                libvirt=self._libvirt,
            ),
        )
        self.host.switches.expected = lambda name: expected_flows(
            desired=self.desired(), observed=self.host.cached(), bridge=name
        )
        self.sync = SyncClient(
            identity=identity, state=state, listener=self, boot_id=boot_id, agent_version=agent_version
        )
        self.reporting = Reporting(self.sync)
        self.motion = Motion(
            host=identity.host_uuid,
            manager=self,
            relay_s=RELAY_S,
            on_phases=self._phases_changed,
            records=state.records,
            subports=state.subports,
            parents=state.parents,
        )
        self.guests = Guests(motion=self.motion, port_by_vif=state.port_by_vif, parents=state.parents)
        self.claims = Claims(
            host_uuid=identity.host_uuid,
            state=state,
            sync=self.sync,
            realized=self._news.realized,
            changed=self._claims_changed,
        )
        self.lookup = Lookup(state=state, changed=self._claims_changed)
        self._retirements = Retirements(state=state, sync=self.sync, host_uuid=identity.host_uuid)
        self.endpoints = Endpoints(
            state=state,
            host=self.host,
            claims=self.claims,
            lookup=self.lookup,
            retirements=self._retirements,
            host_uuid=identity.host_uuid,
            netdev=identity.datapath == "netdev",
        )
        self.discovery = Discovery(
            learned=state.learned,
            tell=self.sync.learned,
            count=self.host.switches.count_table,
            port_at=self.guests.port_at,
            changed=partial(self._dirty, "hushed"),
        )
        tracking = Tracking(records=state.records, host=self.host, limit=connections_max)
        self.limiting = tracking.limiting
        self.ticketing = Ticketing(
            host=self.host, zones=tracking.zones, tell=self.sync.tickets, changed=partial(self._dirty, "tickets")
        )
        self.on_tickets = self.ticketing.take
        self._network_steps = NetworkSteps(
            host=self.host, failures=self._failures, done=partial(self._dirty, "networks")
        )
        self._subscriptions = Subscriptions()
        self._background: set[asyncio.Task[None]] = set()
        self._switchover = Switchover(
            host=self.host,
            desired=self.desired,
            in_motion=self.motion.ports,
            done=partial(self._dirty, "phases"),
        )
        self._arrivals = Arrivals(
            host=self.host,
            host_uuid=identity.host_uuid,
            state=state,
            desired=self.desired,
            motion=self.motion,
            guests=self.guests,
            claims=self.claims,
            done=partial(self._dirty, "arrivals"),
        )
        self._solicited = Solicited(self.host.switches)
        self._libvirt_away_since = 0.0
        self._lost_at = _now()  # the last stream, or since when there was none
        self._began_empty = state.revision == 0
        self._hold_until = 0.0
        self._plain = True  # nothing is to be done for what has come since the last whole revision
        self._later: asyncio.TimerHandle | None = None
        self.load = PnicLoad()
        self.probing = Probing(
            host=self.host,
            own=str(identity.host_uuid),
            mtu_again_s=mtu_again_s,
            changed=partial(self._dirty, "paths"),
        )
        self._loop = Loop(
            Parts(
                host_uuid=identity.host_uuid,
                host=self.host,
                state=state,
                news=self._news,
                desired=self.desired,
                subscribe=self._subscribe,
                informed=self._informed,
                reporting=self.reporting,
                motion=self.motion,
                guests=self.guests,
                claims=self.claims,
                endpoints=self.endpoints,
                discovery=self.discovery,
                tracking=tracking,
                probing=self.probing,
                switchover=self._switchover,
                arrivals=self._arrivals,
                network_steps=self._network_steps,
                failures=self._failures,
            )
        )

    # --- for the daemon --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the host as wanted until cancelled; then stop listening and leave everything as it is."""
        self._state.write_beside(saved=self.sync.saved, lost=self._forgotten)
        self.motion.revive(self._state.locations)
        locations = self._state.locations
        for port_uuid in {*held_here(locations, self._identity.host_uuid), *self.motion.ports()}:
            self.motion.located(port_uuid, locations.get(port_uuid))
        self.host.start()
        self._subscribe()
        self.sync.start()
        beside = [asyncio.create_task(self._audit(), name="audit")]
        beside.append(asyncio.create_task(self.probing.run(), name="probing"))
        if self._identity.datapath == "system":
            beside.append(asyncio.create_task(self._solicited.run(), name="solicited"))
        try:
            await self._loop.run()
        finally:
            for task in beside:
                task.cancel()
            self.motion.close()
            self._switchover.close()
            self._arrivals.close()
            self.ticketing.close()
            await self.claims.close()
            await self.endpoints.close()
            self._network_steps.close()
            for task in self._background:
                task.cancel()
            await self.sync.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._solicited.close(), 2)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.host.close(), 8)

    def desired(self) -> Desired:
        """What is wanted on this host now."""
        pushed = desired_of(
            self._state,
            self._identity,
            control_ports=self._control_ports,
            phases=self.motion.phases(),
            relay_vteps=self.motion.relay_vteps(),
            tickets=self.ticketing.held,
            ct_full=self.limiting.full,
            ct_unlimited=self.limiting.unlimited,
            hushed=self.discovery.hushed() | self._arrivals.hushed(),
            alone=self.sync.away_s > ALONE_S,
            unheard=unheard_networks(
                told=self._state.told,
                vifs=self.guests.vifs,
                port_by_vif=self._state.port_by_vif,
                ports=self._state.ports,
                networks=self._state.networks,
                away_since="" if self.sync.connected else self._lost_at,
            ),
        )
        return with_plugged(pushed, vifs=self.guests.vifs, ports=self._state.port_by_vif)

    @property
    def in_sync(self) -> bool:
        """True when nothing wanted was unrealized at the last look."""
        return self._loop.in_sync

    @property
    def beat(self) -> float:
        """When the loop last came round (monotonic): proof of life for the watchdog."""
        return self._loop.beat

    @property
    def repairs_by_kind(self) -> Mapping[str, int]:
        """How many things others changed and were put back, by what they were."""
        return self._loop.repairs_by_kind

    def failures(self) -> tuple[str, ...]:
        """Sentences of the steps that failed and are being retried."""
        return self._failures.sentences()

    # --- the host as a whole ---------------------------------------------------------------------------------------

    def _forgotten(self, why: str) -> None:
        """The disk refused what the manager had pushed, and memory is what the disk holds."""
        log.error("state: not kept; the manager is asked to send it again", reason=why)
        self.sync.give_up(f"the stream was given up: {why}")
        self._dirty("state")

    def _informed(self) -> bool:
        return self._state.host is not None and self._state.revision > 0 and time.monotonic() >= self._hold_until

    async def _audit(self) -> None:
        for turn in itertools.count(1):
            await asyncio.sleep(_PROBE_S)
            self.load.sample(now_s=time.monotonic())
            await self.host.switches.probe()
            if turn % (AUDIT_S // _PROBE_S) == 0:
                self.host.forget()
                self._dirty("audit")
            if turn % (_REFRESH_S // _PROBE_S) == 0:
                await self.discovery.refresh()
            if turn % (_PRIME_S // _PROBE_S) == 0:
                self.probing.prime()

    def _lost(self, bridge: str) -> None:
        self._arrivals.lost(bridge)
        self._solicited.lost(bridge)

    def _tap(self, tap: NewTap, go_on: Callable[[], None]) -> None:
        if self._informed():
            self._arrivals.tap_told(tap, go_on)
        else:
            go_on()

    def _port(self, bridge: str, name: str, ofport: int) -> None:
        if not self._arrivals.added(bridge, name, ofport) and self._informed():
            self._arrivals.look_soon()

    def _dirty(self, part: str) -> None:
        if part == "ovsdb" and self._informed():
            self._arrivals.look()
        self._arrivals.expect()
        self._switchover.outdated()
        self._news.add()

    def _subscribe(self, desired: Desired | None = None) -> frozenset[UUID]:
        """Subscribe to what is wanted, for a while also to what was; what is wanted."""
        wanted = self._wanted_networks(self.desired() if desired is None else desired)
        self.sync.subscribe(self._subscriptions.follow(wanted, now=time.monotonic()))
        return wanted

    def _wanted_networks(self, desired: Desired) -> frozenset[UUID]:
        return wanted_networks(
            desired=desired,
            vifs=self.guests.vifs,
            ports=self._state.port_by_vif,
            claimed=(*self.claims.networks(), *self.lookup.networks()),
        )

    # --- the manager's stream (Listener) ---------------------------------------------------------------------------

    def on_objects(self, changed: Any) -> None:
        self._plain = self._plain and self._loop.stays_at_rest(changed)
        if self._plain:
            return
        located = [ref.uuid for ref in changed if ref.kind is Kind.LOCATION]
        for ref in changed:
            if ref.kind is Kind.LOCATION:
                location = self._state.locations.get(ref.uuid)
                self.motion.located(ref.uuid, location)
                self.ticketing.located(ref.uuid, location, here=self._identity.host_uuid)
                self.claims.try_again()
        self._retirements.look()
        if located and self._informed():
            self._arrivals.located(located)
        self._dirty_after_phases("objects")

    def on_revision(self, revision: int, *, initial: bool) -> None:
        self._hold_until = 0.0
        if initial:
            self.discovery.restate()
        if initial and self._began_empty:
            # Begun without memory: which networks have VIFs here shows only now. What their ports need is on the
            # switch, from an earlier life, and is not swept before the manager has said what it is.
            self._began_empty = False
            if self._subscribe():
                self._hold_until = time.monotonic() + _SUBSCRIBE_S
                asyncio.get_running_loop().call_later(_SUBSCRIBE_S, self._dirty, "subscribed")
        plain, self._plain = self._plain, True
        if plain and self._loop.at_rest and not initial and not self._switchover.busy:
            self.reporting.acknowledge(revision, ())
            self._look_later()
        else:
            self._dirty("revision")

    def _look_later(self) -> None:
        """Nothing is to be done for what is new: the loop compares the whole once those have gone ahead who wait for
        this host's word, and for that of others on the same processors."""
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(_LATER_S, self._look)

    def _look(self) -> None:
        self._later = None
        self._dirty("idle networks")

    def on_try_again(self) -> None:
        self.claims.try_again()
        self._dirty("claims")

    def on_trace(self, question: TraceQuestion) -> None:
        measures = self.probing.measures()
        self._in_background(
            answer_trace(self.host, self.desired(), question, self.sync.trace_answer, measures=measures)
        )

    def on_connection(self, connected: bool) -> None:
        if connected:
            self.claims.try_again()
            self._subscribe()
            self.motion.restate(self._state.locations.get)
            self._retirements.restate()
        else:
            self._lost_at = _now()
        self.reporting.on_connection(connected)
        self._dirty("connection")

    # --- guests ----------------------------------------------------------------------------------------------------

    def _domain(self, event: Any) -> None:
        self.guests.on_event(event)
        if event.kind in (DomainEventKind.RESUMED, DomainEventKind.STOPPED):
            self._state.forget_migration(event.domain)
        self._dirty_after_phases("domain")

    def _libvirt(self) -> None:
        """The connection to libvirtd was made or lost: events were missed."""
        if self.host.libvirt is not None and not self.host.libvirt.connected:
            self._libvirt_away_since = time.monotonic()
        elif self.host.domains is not None:
            self._in_background(self._resync_guests(self._libvirt_away_since))
        self._dirty("libvirt")

    async def _resync_guests(self, away_since: float) -> None:
        assert self.host.domains is not None
        states = await self.host.domains.read()
        if not isinstance(states, Unread):
            self.guests.resync(states)
            self.claims.libvirt_is_back([state.domain for state in states], away_since=away_since)
            self._dirty("guests")

    def _packet_in(self, bridge: str, cookie: int, table: int, in_port: int, frame: bytes) -> None:
        if table == Table.PROBE:
            self.probing.on_frame(frame)
        elif table == Table.CLASSIFY:
            self._arrivals.on_frame(bridge, in_port, frame)
        elif table == Table.SOLICITED:
            self._solicited.on_frame(bridge, in_port, frame)
        elif table in (Table.GUARD, Table.CLAIMS, Table.RIVAL, Table.CONTEST, Table.LEASES):
            self.discovery.on_frame(bridge, cookie, table, in_port, frame)
        elif self.guests.on_frame(bridge, in_port, frame):
            self._dirty_after_phases("frame")

    def _claims_changed(self) -> None:
        self._subscribe()
        self._dirty("claims")

    # --- what motion says upward (Manager) -------------------------------------------------------------------------

    def activated(self, location: Location) -> None:
        """Said when the switch has it: whoever hears of it may send here at once."""
        self._switchover.after_sent(partial(self.sync.activated, location))

    def release(self, location: Location, why: ReleaseReason) -> None:
        self.sync.release(location, why)

    def _phases_changed(self, ports: frozenset[UUID]) -> None:
        self._switchover.changed(ports)
        self.ticketing.tell(port for port in ports if self.motion.phases().get(port) is Phase.REDIRECTING)

    def _dirty_after_phases(self, part: str) -> None:
        """Wake the loop, but let phases that are on their way to the switch arrive first."""
        if not self._switchover.busy:
            self._dirty(part)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
