"""The loop of the agent: observe → plan → apply → re-read → report, over levels.

Theory of operation. A turn reads what changed, takes note of who is plugged and who went, plans from the whole (pure,
see `plan`), carries the steps out, reads again, and does so until nothing is left to do or what is left has failed;
then it releases, acknowledges and reports. What failed is tried again with growing pauses, and the reason is reported
meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from uuid import UUID

import structlog

from hostagent.arrivals import Arrivals
from hostagent.claims import Claims
from hostagent.definition import is_whole, without_libvirt
from hostagent.discovery import Discovery
from hostagent.endpoints.keeper import Endpoints
from hostagent.guests import Guests
from hostagent.health import host_report, measuring, rejections
from hostagent.host import Host
from hostagent.idle_networks import at_rest_with
from hostagent.model import Desired, Observed, Step, Unread
from hostagent.motion import Motion
from hostagent.network_steps import NetworkSteps, at_libvirt, can_wait, missed
from hostagent.news import News
from hostagent.plan import plan
from hostagent.presence import due_claims, due_releases, seen_vifs
from hostagent.progress import Failures, failed_objects
from hostagent.repairs import Repairs
from hostagent.reporting import Reporting
from hostagent.resolve import resolve
from hostagent.state import State
from hostagent.steps import log_steps
from hostagent.switchover import Switchover
from hostagent.tracking.keeper import Tracking
from hostagent.underlay.peers import cut_before, tunnel_ofports, wanted_paths
from hostagent.underlay.probing import Probing
from netmgr.contract.types import Kind, PeerState, Ref

__all__ = ["Loop", "Parts"]

log = structlog.get_logger(__name__)

_ROUNDS_MAX = 20  # a plan that never becomes empty is our mistake; it must not spin
_LOOK_S_MAX = 5.0  # after which the loop comes round without being woken
_LET_OUT = 3  # turns of the event loop until a claim is on its way: the manager works on it while this turn goes on
_MISTAKE_S = 1.0  # until the turn after one that a mistake of ours ended
_LONG_S, _REST_S_MAX = 0.01, 0.05  # a turn with more work is followed by a rest as long, up to this


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the loop works with. *desired* is what is wanted on this host now, *subscribe* asks the manager for the
    networks that it needs, and *informed* is False while the manager's first word is not here, or not whole:
    nothing is known to be unwanted yet."""

    host_uuid: UUID
    host: Host
    state: State
    news: News
    desired: Callable[[], Desired]
    subscribe: Callable[[Desired], object]
    informed: Callable[[], bool]
    reporting: Reporting
    motion: Motion
    guests: Guests
    claims: Claims
    endpoints: Endpoints
    discovery: Discovery
    tracking: Tracking
    probing: Probing
    switchover: Switchover
    arrivals: Arrivals
    network_steps: NetworkSteps
    failures: Failures


@dataclass(frozen=True, slots=True)
class _Rest:
    """A host with which nothing was left to do, and the count of the news that this takes in."""

    count: int
    desired: Desired
    observed: Observed


class Loop:
    """Keeps one host as wanted; `run` until cancelled."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._repairs = Repairs()
        self.beat = time.monotonic()
        """When the loop last came round."""
        self._rest: _Rest | None = None
        self.in_sync = False
        """True when nothing wanted was unrealized at the last look, but for what nobody has to wait for."""

    @property
    def repairs_by_kind(self) -> Mapping[str, int]:
        """How many things others changed and were put back, by what they were."""
        return self._repairs.by_kind

    @property
    def at_rest(self) -> bool:
        """True when nothing was left to do at the last look, nothing is rejected, and nothing has happened since."""
        return self._rest is not None and self._rest.count == self._parts.news.count

    def stays_at_rest(self, changed: Collection[Ref]) -> bool:
        """Whether the host is at rest although these objects changed in the state; see `idle_networks`."""
        if not self.at_rest or any(ref.kind is not Kind.NETWORK for ref in changed):
            return False
        assert self._rest is not None
        return at_rest_with(
            {ref.uuid for ref in changed},
            networks=self._parts.state.networks,
            rested=self._rest.desired,
            observed=self._rest.observed,
        )

    async def run(self) -> None:
        news = self._parts.news
        pause: float | None = 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S_MAX if pause is None else min(pause, _LOOK_S_MAX)):
                    await news.wake.wait()
            await asyncio.sleep(self._parts.arrivals.pause_s())
            await asyncio.sleep(max(self._parts.switchover.calm_s(), self._parts.arrivals.calm_s()))
            news.wake.clear()
            self.beat, began = time.monotonic(), time.thread_time()
            try:
                pause = await self._converge()
            except Exception:  # a mistake of ours must not end the host's agent; it is logged whole
                log.exception("loop: a turn failed")
                pause = _MISTAKE_S
            # What comes while a turn is long comes in crowds: the next turn takes it all at once.
            # Waiting for the switch, or for a processor that others have, is no work.
            worked_s = time.thread_time() - began
            if worked_s > _LONG_S and news.wake.is_set():
                await asyncio.sleep(min(worked_s, _REST_S_MAX))

    async def _converge(self) -> float | None:
        """Make the host as wanted, as far as can be; seconds after which to look again without being woken."""
        parts, observed, claim_again = self._parts, Observed(), None
        desired = Desired()
        steps: tuple[Step, ...] = ()
        count = parts.news.count
        for turn in range(_ROUNDS_MAX):
            self.beat = time.monotonic()
            count = parts.news.count
            observed = await parts.host.observe()
            desired = self._look(observed)
            if not parts.informed():
                break
            claim_again = self._claim()
            for _ in range(_LET_OUT if parts.claims.asking else 0):
                await asyncio.sleep(0)
            await parts.tracking.look(desired)
            desired = parts.desired()
            if parts.host.links_fresh:  # whether a tap that left the bridge is still there can't be told from old links
                desired = replace(desired, plugs=parts.guests.plugs(observed))
            if turn == 0:
                self._watch_peers(desired, observed)
            self._recall_peers(desired, observed)
            observed = replace(observed, paths=parts.host.paths)
            steps = plan(desired=desired, observed=observed)
            if steps:
                self._repairs.note(steps, observed, now_unix=time.time())
            elif is_whole(observed):
                self._repairs.rest(observed)
            parts.failures.keep_only(steps)
            ready = parts.failures.ready(steps, now=time.monotonic())
            parts.network_steps.start([step for step in ready if at_libvirt(step)])
            ready = [step for step in ready if not at_libvirt(step)]
            if not ready:
                parts.switchover.realized(desired)
                if count != parts.news.count:  # there is news since *desired* was taken; the next turn prepares again
                    parts.switchover.outdated()
                break
            log_steps(ready)
            failed = await parts.host.apply(ready)
            parts.failures.note(ready, failed, now=time.monotonic())
        else:
            log.error("loop: the plan does not come to an end", steps=[type(step).__name__ for step in steps][:10])
            parts.host.forget()
        return _first((self._conclude(desired, observed, steps, count), claim_again))

    # --- who is here -----------------------------------------------------------------------------------------------

    def _look(self, observed: Observed) -> Desired:
        """Take note of the VIFs that are here, and of those that are not; what is wanted then."""
        parts = self._parts
        desired = parts.desired()
        if isinstance(observed.bridges, Unread):
            return desired
        dead = {name for name, flows in observed.flows.items() if isinstance(flows, Unread)}
        vifs = seen_vifs(observed.bridges, observed.flows)
        parts.guests.look(vifs, dead_bridges=dead, desired=desired, now=time.monotonic())
        parts.state.remember_ovs_ports({vif.vif_uuid: vif.ovs_port for vif in vifs})
        desired = parts.desired()  # what came or went may have set ports in motion
        if parts.informed():
            parts.claims.forget_gone(vifs)
            parts.endpoints.look(observed)
            parts.discovery.look(desired)
        parts.subscribe(desired)
        return desired

    def _claim(self) -> float | None:
        """Ask for VIFs that are here and not this host's; seconds until one is to be asked for again."""
        parts = self._parts
        due = due_claims(
            locations=parts.state.locations,
            vifs=parts.guests.with_living_guest(),
            host=parts.host_uuid,
            ports=parts.state.port_by_vif,
            arriving=parts.guests.arriving,
        )
        return parts.claims.pursue(due, parts.guests.vifs)

    def _watch_peers(self, desired: Desired, observed: Observed) -> None:
        """Before the flows that lead to a new peer: the first frame shall find its MAC known."""
        parts = self._parts
        if isinstance(observed.bridges, Unread):
            return
        resolved = resolve(desired, observed)
        parts.probing.want(
            wanted_paths(desired, resolved),
            own_vteps={uuid: intent.vtep_address for uuid, intent in resolved.switches.items()},
            tunnels=tunnel_ofports(resolved, observed.bridges),
        )

    def _recall_peers(self, desired: Desired, observed: Observed) -> None:
        """Before a plan that would send to a new peer: an agent that was here before may have found it gone."""
        parts = self._parts
        new = [path.key for path in parts.host.paths if path.state is PeerState.NEW]
        if new and not isinstance(observed.bridges, Unread):
            parts.probing.recall(cut_before(desired, resolve(desired, observed), observed.flows, new))

    # --- the end of a turn -----------------------------------------------------------------------------------------

    def _conclude(self, desired: Desired, observed: Observed, steps: tuple[Step, ...], count: int) -> float | None:
        """Release, acknowledge, report, and let hooks go whose network is realized; seconds until the next look."""
        parts, now = self._parts, time.monotonic()
        pauses = [parts.failures.next_retry(now=now), parts.tracking.retry_s]
        if not isinstance(observed.bridges, Unread):
            self._release(desired, now)
            pauses.append(parts.guests.next_look(now=now))
        pending = [step for step in steps if not (parts.failures.failed(step) or can_wait(step))]
        if desired.host is not None:
            assert desired.host.uuid == parts.host_uuid
            pauses.append(self._say(desired, observed, steps=steps, pending=pending, count=count, now=now))
        # Not what libvirt is still to be told: it may be waiting, in a hook, for this very answer.
        unlit = {getattr(step, "bridge", None) for step in steps if not at_libvirt(step)}
        lit = {name for name, flows in observed.flows.items() if not isinstance(flows, Unread) and name not in unlit}
        parts.news.turned(lit_bridges=lit, settled=count if all(map(at_libvirt, pending)) else None)
        return _first(pauses)

    def _release(self, desired: Desired, now: float) -> None:
        parts = self._parts
        for location, why in due_releases(
            desired=desired,
            host=parts.host_uuid,
            absent_since=parts.guests.absent_since,
            granted_until=parts.claims.granted_until,
            now=now,
        ):
            parts.motion.release(location, why)

    def _say(
        self,
        desired: Desired,
        observed: Observed,
        *,
        steps: tuple[Step, ...],
        pending: list[Step],
        count: int,
        now: float,
    ) -> float | None:
        """Acknowledge what is realized, and report; seconds for which the report has to wait, if it has to."""
        parts = self._parts
        seen = observed if parts.host.libvirt is not None else without_libvirt(desired, observed)
        refused = rejections(desired=desired, observed=seen)
        known = {ref for ref, _ in refused}
        more = failed_objects(
            desired=desired,
            failures=parts.failures.by_step(),
            refused_locations=parts.state.refused_locations,
        )
        refused += tuple((ref, sentence) for ref, sentence in more if ref not in known)
        whole = is_whole(observed) and parts.informed()
        self.in_sync = whole and not refused and not missed(steps, parts.failures)
        waits = (
            parts.host.awaits_networks or parts.host.switches.settling or measuring(desired=desired, observed=observed)
        )
        settled = whole and not pending and not waits
        if settled:
            parts.reporting.acknowledge(parts.state.revision, refused)
        resting = settled and not steps and not refused
        self._rest = _Rest(count, desired, observed) if resting else None
        hold_s = parts.reporting.hold_s(busy=parts.network_steps.busy or parts.claims.asking, now=now)
        if hold_s > 0:
            return hold_s
        report = host_report(desired=desired, observed=seen, openflow_alive=parts.host.switches.alive(), steps=steps)
        report = replace(report, repairs=self._repairs.latest(), repairs_total=self._repairs.total)
        parts.reporting.tell(
            report, in_sync=self.in_sync, refusals=parts.claims.refusals, missing=parts.endpoints.missing
        )
        return None


def _first(pauses: Iterable[float | None]) -> float | None:
    return min((pause for pause in pauses if pause is not None), default=None)
