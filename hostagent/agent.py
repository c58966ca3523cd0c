"""The agent: observe → plan → apply → re-read → report, as one loop over levels.

Theory of operation. Whatever happens (OVSDB, kernel, libvirt, switch, manager, hooks) only marks the host dirty and
wakes the loop. The loop reads what changed, plans from the whole (pure, see `plan`), carries the steps out, reads
again, and does so until nothing is left to do or what is left has failed; then it acknowledges and reports. What
failed is tried again with growing pauses, and the reason is reported meanwhile. Every 15 s everything is read anew
from the source, whatever events said.

Two things do not wait for a turn of the loop. A migration's phases go to the switch at once (`fastpath`). And libvirt's
networks are defined in a task of their own, because libvirtd may be waiting for the agent in a hook.

The agent never takes anything down when it stops: what it was asked for is the host's state, not its own.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

import structlog

from hostagent.claims import Claims
from hostagent.definition import desired_of, is_whole, with_plugged, without_libvirt
from hostagent.discovery import Discovery
from hostagent.endpoints.keeper import Endpoints
from hostagent.endpoints.retirement import Retirements
from hostagent.guests import Guests
from hostagent.health import host_report, measuring, rejections
from hostagent.host import Events, Host, HostPaths
from hostagent.identity import Identity
from hostagent.looking import answer_trace
from hostagent.lookup import Lookup
from hostagent.model import Desired, Observed, Phase, Step, Unread
from hostagent.motion import Motion
from hostagent.names import switch_bridge, uplink_links
from hostagent.network_steps import NetworkSteps, at_libvirt
from hostagent.pipeline.tables import Table
from hostagent.plan import plan
from hostagent.pnic_load import PnicLoad
from hostagent.presence import due_claims, due_releases, seen_vifs, wanted_networks
from hostagent.progress import Failures, failed_objects
from hostagent.realize.domains import DomainEventKind
from hostagent.realize.neighbours import answer_only_for_own
from hostagent.repairs import Repairs
from hostagent.reporting import Reporting
from hostagent.resolve import resolve
from hostagent.state import State
from hostagent.steps import log_steps
from hostagent.switchover import Switchover
from hostagent.sync_client import SyncClient
from hostagent.tracking.keeper import Tracking
from hostagent.tracking.ticketing import Ticketing
from hostagent.underlay.peers import cut_before, tunnel_ofports, wanted_paths
from hostagent.underlay.probing import Probing
from netmgr.contract.types import Kind, Location, PeerState, ReleaseReason, TraceQuestion

__all__ = ["Agent"]

log = structlog.get_logger(__name__)

AUDIT_S, _PROBE_S, _PRIME_S, _REFRESH_S = 15, 3, 300, 60
RELAY_S = 10.0
_ROUNDS_MAX = 20  # a plan that never becomes empty is our mistake; it must not spin
_SUBSCRIBE_S = 1.0  # how long an agent without memory waits for the ports of its networks
_LONG_S, _REST_S_MAX = 0.01, 0.05  # a turn that is longer is followed by a rest as long, up to this
_REALIZED_S = 5.0  # how long a hook waits for its network


class Agent:
    """Everything of one host. Made on the event loop; `run` until cancelled."""

    def __init__(self, *, identity: Identity, state: State, paths: HostPaths, boot_id: str, agent_version: str) -> None:
        self._identity = identity
        self._state = state
        self._wake = asyncio.Event()
        self._dirt = 0  # counts news
        self._settled = -1  # value of `_dirt` up to which the host is as wanted, or known not to be
        self._progress = asyncio.Event()
        self.beat = time.monotonic()
        """When the loop last came round: proof of life for the watchdog."""
        self.host = Host(
            paths, Events(dirty=self._dirty, packet_in=self._packet_in, domain=self._domain, libvirt=self._libvirt)
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
        )
        self.guests = Guests(motion=self.motion, port_by_vif=state.port_by_vif)
        self.claims = Claims(
            host_uuid=identity.host_uuid,
            state=state,
            sync=self.sync,
            realized=self._realized,
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
            count=self.host.count_table,
            port_at=self.guests.port_at,
            changed=partial(self._dirty, "hushed"),
        )
        self.tracking = Tracking(records=state.records, host=self.host)
        self.ticketing = Ticketing(
            host=self.host, zones=self.tracking.zones, tell=self.sync.tickets, changed=partial(self._dirty, "tickets")
        )
        self.on_tickets = self.ticketing.take
        self._failures = Failures()
        self.repairs = Repairs()
        self._network_steps = NetworkSteps(
            host=self.host, failures=self._failures, done=partial(self._dirty, "networks")
        )
        self._background: set[asyncio.Task[None]] = set()
        self._switchover = Switchover(
            host=self.host,
            desired=self.desired,
            in_motion=self.motion.ports,
            done=partial(self._dirty, "phases"),
        )
        self._libvirt_away_since = 0.0
        self._in_sync = False
        self._lit_bridges: frozenset[str] = frozenset()
        self._began_empty = state.revision == 0
        self._hold_until = 0.0
        self.load = PnicLoad()
        self.probing = Probing(host=self.host, own=str(identity.host_uuid), changed=partial(self._dirty, "paths"))

    # --- for the daemon --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the host as wanted until cancelled; then stop listening and leave everything as it is."""
        self.motion.revive(self._state.locations)
        for port_uuid, location in list(self._state.locations.items()):
            self.motion.located(port_uuid, location)
        self.host.start()
        self.sync.subscribe(self._wanted_networks())
        self.sync.start()
        audit = asyncio.create_task(self._audit(), name="audit")
        probing = asyncio.create_task(self.probing.run(), name="probing")
        try:
            await self._loop()
        finally:
            audit.cancel()
            probing.cancel()
            self.motion.close()
            self._switchover.close()
            self.ticketing.close()
            await self.claims.close()
            await self.endpoints.close()
            self._network_steps.close()
            for task in self._background:
                task.cancel()
            await self.sync.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.host.close(), 8)

    def desired(self) -> Desired:
        """What is wanted on this host now."""
        pushed = desired_of(
            self._state, self._identity, phases=self.motion.phases(), relay_vteps=self.motion.relay_vteps()
        )
        pushed = replace(pushed, tickets=self.ticketing.held, hushed=self.discovery.hushed())
        return with_plugged(pushed, vifs=self.guests.vifs, ports=self._state.port_by_vif)

    @property
    def in_sync(self) -> bool:
        """True when nothing wanted was unrealized at the last look."""
        return self._in_sync

    def failures(self) -> tuple[str, ...]:
        """Sentences of the steps that failed and are being retried."""
        return self._failures.sentences()

    # --- the loop --------------------------------------------------------------------------------------------------

    async def _loop(self) -> None:
        pause: float | None = 0.0
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), min(pause if pause is not None else 5.0, 5.0))
            await asyncio.sleep(self._switchover.calm_s())
            self._wake.clear()
            self.beat = began = time.monotonic()
            try:
                pause = await self._converge()
            except Exception:  # a mistake of ours must not end the host's agent; it is logged whole
                log.exception("loop: a turn failed")
                pause = 1.0
            # What comes while a turn is long comes in crowds: the next turn takes it all at once.
            took_s = time.monotonic() - began
            if took_s > _LONG_S and self._wake.is_set():
                await asyncio.sleep(min(took_s, _REST_S_MAX))

    async def _converge(self) -> float | None:
        """Make the host as wanted, as far as can be; seconds after which to look again without being woken."""
        observed = Observed()
        steps: tuple[Step, ...] = ()
        dirt, claim_again = self._dirt, None
        for turn in range(_ROUNDS_MAX):
            self.beat = time.monotonic()
            dirt = self._dirt
            observed = await self.host.observe()
            self._look(observed)
            if not self._knows_enough():
                break
            claim_again = self._claim()
            await self.tracking.look(self.desired())
            desired = self.desired()
            if self.host.links_fresh:  # whether a tap that left the bridge is still there can't be told from old links
                desired = replace(desired, plugs=self.guests.plugs(observed))
            if turn == 0:
                self._watch_peers(desired, observed)
                observed = replace(observed, paths=self.host.paths)
            steps = plan(desired=desired, observed=observed)
            if steps:
                self.repairs.note(steps, observed, now_unix=time.time())
            elif is_whole(observed):
                self.repairs.rest(observed)
            self._failures.keep_only(steps)
            ready = self._failures.ready(steps, now=time.monotonic())
            self._network_steps.start([step for step in ready if at_libvirt(step)])
            ready = [step for step in ready if not at_libvirt(step)]
            if not ready:
                self._switchover.realized(desired)
                if dirt != self._dirt:  # there is news since *desired* was taken; the next turn prepares again
                    self._switchover.outdated()
                break
            log_steps(ready)
            failed = await self.host.apply(ready)
            self._failures.note(ready, failed, now=time.monotonic())
        else:
            log.error("loop: the plan does not come to an end", steps=[type(step).__name__ for step in steps][:10])
            self.host.forget()
        pauses = (self._conclude(observed, steps, dirt), claim_again)
        return min((pause for pause in pauses if pause is not None), default=None)

    def _knows_enough(self) -> bool:
        """False while the manager's first word is not here, or not whole: nothing is known to be unwanted yet."""
        return self._state.host is not None and self._state.revision > 0 and time.monotonic() >= self._hold_until

    def _look(self, observed: Observed) -> None:
        """Take note of the VIFs that are here, and of those that are not."""
        if isinstance(observed.bridges, Unread):
            return
        answer_only_for_own(link for one in observed.bridges for link in uplink_links(one.name, one.external_ids))
        dead = {name for name, flows in observed.flows.items() if isinstance(flows, Unread)}
        vifs = seen_vifs(observed.bridges, observed.flows)
        self.guests.look(vifs, dead_bridges=dead, desired=self.desired(), now=time.monotonic())
        for vif in vifs:
            self._state.remember_ovs_port(vif.vif_uuid, vif.ovs_port)
        if self._knows_enough():
            self.endpoints.look(observed)
            self.discovery.look(self.desired())
        self.sync.subscribe(self._wanted_networks())

    def _watch_peers(self, desired: Desired, observed: Observed) -> None:
        """Before the flows that lead to a new peer: the first frame shall find its MAC known."""
        if isinstance(observed.bridges, Unread):
            return
        resolved = resolve(desired, observed)
        self.probing.want(
            wanted_paths(desired, resolved),
            own_vteps={uuid: intent.vtep_address for uuid, intent in resolved.switches.items()},
            tunnels=tunnel_ofports(resolved, observed.bridges),
        )
        new = [path.key for path in self.host.paths if path.state is PeerState.NEW]
        if new:
            self.probing.recall(cut_before(desired, resolved, observed.flows, new))

    def _conclude(self, observed: Observed, steps: tuple[Step, ...], dirt: int) -> float | None:
        """Release, acknowledge, report; seconds until the next look."""
        now, desired, host = time.monotonic(), self.desired(), self._identity.host_uuid
        pauses = [self._failures.next_retry(now=now), self.tracking.retry_s]
        if not isinstance(observed.bridges, Unread):
            self._release(desired, now)
            pauses.append(self.guests.next_look(now=now))
        unlit = {bridge for step in steps if (bridge := getattr(step, "bridge", None)) is not None}
        self._lit_bridges = frozenset(
            name for name, flows in observed.flows.items() if not isinstance(flows, Unread) and name not in unlit
        )
        whole = is_whole(observed) and self._knows_enough()
        pending = [step for step in steps if not self._failures.failed(step)]
        if desired.host is not None:
            assert desired.host.uuid == host
            seen = observed if self.host.libvirt is not None else without_libvirt(desired, observed)
            refused = rejections(desired=desired, observed=seen)
            known = {ref for ref, _ in refused}
            more = failed_objects(
                desired=desired,
                failures=self._failures.by_step(),
                refused_locations=self._state.refused_locations,
            )
            refused += tuple((ref, sentence) for ref, sentence in more if ref not in known)
            self._in_sync = whole and not steps and not refused
            waits = self.host.awaits_networks or self.host.settling or measuring(desired=desired, observed=observed)
            if whole and not pending and not waits:
                self.reporting.acknowledge(self._state.revision, refused)
            hold_s = self.reporting.hold_s(busy=self._network_steps.busy or self.claims.asking, now=now)
            if hold_s > 0:
                pauses.append(hold_s)
            else:
                alive = self.host.alive()
                report = host_report(desired=desired, observed=seen, openflow_alive=alive, steps=steps)
                report = replace(report, repairs=self.repairs.latest(), repairs_total=self.repairs.total)
                self.reporting.tell(report, refusals=self.claims.refusals, missing=self.endpoints.missing)
        if all(map(at_libvirt, pending)):
            self._settled = max(self._settled, dirt)
        self._progress.set()
        self._progress = asyncio.Event()
        return min((pause for pause in pauses if pause is not None), default=None)

    def _claim(self) -> float | None:
        """Ask for VIFs that are here and not this host's; seconds until one is to be asked for again."""
        due = due_claims(
            locations=self._state.locations,
            vifs=self.guests.with_living_guest(),
            host=self._identity.host_uuid,
            ports=self._state.port_by_vif,
            arriving=self.guests.arriving,
        )
        return self.claims.pursue(due, self.guests.vifs)

    def _release(self, desired: Desired, now: float) -> None:
        host = self._identity.host_uuid
        for location, why in due_releases(
            desired=desired,
            host=host,
            absent_since=self.guests.absent_since,
            granted_until=self.claims.granted_until,
            now=now,
        ):
            self.motion.release(location, why)

    async def _audit(self) -> None:
        for turn in itertools.count(1):
            await asyncio.sleep(_PROBE_S)
            self.load.sample(now_s=time.monotonic())
            await self.host.probe()
            if turn % (AUDIT_S // _PROBE_S) == 0:
                self.host.forget()
                self._dirty("audit")
            if turn % (_REFRESH_S // _PROBE_S) == 0:
                await self.discovery.refresh()
            if turn % (_PRIME_S // _PROBE_S) == 0:
                self.probing.prime()

    def _dirty(self, _part: str) -> None:
        self._switchover.outdated()
        self._dirt += 1
        self._wake.set()

    def _wanted_networks(self) -> frozenset[UUID]:
        return wanted_networks(
            desired=self.desired(),
            vifs=self.guests.vifs,
            ports=self._state.port_by_vif,
            claimed=(*self.claims.networks(), *self.lookup.networks()),
        )

    async def _realized(self, network_uuid: UUID) -> str:
        """Wait until the host is as wanted for this network; a sentence when it is not in time."""
        target, deadline = self._dirt, time.monotonic() + _REALIZED_S
        self._wake.set()
        while time.monotonic() < deadline:
            network = self._state.networks.get(network_uuid)
            if network is None:
                return "it was removed from this host meanwhile"
            if self._settled >= target and switch_bridge(network.switch_uuid) in self._lit_bridges:
                return ""
            with suppress(TimeoutError):
                await asyncio.wait_for(self._progress.wait(), deadline - time.monotonic())
        reasons = "; ".join(self.failures()[:3])
        return reasons or f"its bridge is not as wanted after {_REALIZED_S:g} s; see `hostagent show`"

    # --- the manager's stream (Listener) ---------------------------------------------------------------------------

    def on_objects(self, changed: Any) -> None:
        for ref in changed:
            if ref.kind is Kind.LOCATION:
                location = self._state.locations.get(ref.uuid)
                self.motion.located(ref.uuid, location)
                self.ticketing.located(ref.uuid, location, here=self._identity.host_uuid)
                self.claims.try_again()
        self._retirements.look()
        self._dirty_after_phases("objects")

    def on_revision(self, revision: int, *, initial: bool) -> None:
        self._hold_until = 0.0
        if initial:
            self.discovery.restate()
        if initial and self._began_empty:
            # Begun without memory: which networks have VIFs here shows only now. What their ports need is on the
            # switch, from an earlier life, and is not swept before the manager has said what it is.
            self._began_empty = False
            wanted = self._wanted_networks()
            self.sync.subscribe(wanted)
            if wanted:
                self._hold_until = time.monotonic() + _SUBSCRIBE_S
                asyncio.get_running_loop().call_later(_SUBSCRIBE_S, self._dirty, "subscribed")
        self._dirty("revision")

    def on_try_again(self) -> None:
        self.claims.try_again()
        self._dirty("claims")

    def on_trace(self, question: TraceQuestion) -> None:
        self._in_background(answer_trace(self.host, self.desired(), question, self.sync.trace_answer))

    def on_connection(self, connected: bool) -> None:
        if connected:
            self.claims.try_again()
            self.sync.subscribe(self._wanted_networks())
            self.motion.restate(self._state.locations.get)
            self._retirements.restate()
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
        elif table in (Table.GUARD, Table.CLAIMS, Table.LEASES):
            self.discovery.on_frame(bridge, cookie, table, in_port, frame)
        elif self.guests.on_frame(bridge, in_port, frame):
            self._dirty_after_phases("frame")

    def _claims_changed(self) -> None:
        self.sync.subscribe(self._wanted_networks())
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
