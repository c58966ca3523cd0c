"""Follows the store and marks what each stream must be sent.

The hub keeps its own copy of the world, level with the change log, in the event loop's thread: streams are served from
it without the store's lock, and a writer waiting for its disk delays nobody. For each change it asks `netmgr.span`
which hosts the object goes to, before the change and after it, and marks the object in their outboxes. Streams are
indexed by the networks they subscribe to, so a port's change costs work for the streams of one network.

What a host reports dark it has been refused, and it asks again by itself with growing pauses. Once a claim for such a
VIF would be granted, its host is told to ask now (`retries` has the rule).

A host that was deleted, joined again or booted anew elsewhere loses its stream here, with the sentence it would be
refused with.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Protocol
from uuid import UUID

import grpc
import structlog

from netmgr.contract.types import TICKETS_MAX, Claim, Kind, Location, Tickets, TraceAnswer, TraceQuestion
from netmgr.identity import Peer
from netmgr.model import Change, NetmgrError, World
from netmgr.span import Holdings, Key, hosts_for, touched
from netmgr.store import Store
from netmgr.sync.admission import Refused, record_of, why_not
from netmgr.sync.fleet import Fleet
from netmgr.sync.outbox import Outbox, Packing
from netmgr.sync.questions import Questions
from netmgr.sync.retries import grantable, likely, network_of

__all__ = ["Hub", "Stream"]

_RETRY_S_MAX = 5.0

log = structlog.get_logger(__name__)


class Stream(Protocol):
    """An admitted stream, as the hub sees it."""

    host_uuid: UUID
    peer: Peer
    boot_id: str
    outbox: Outbox

    def wake(self) -> None:
        """The outbox has marks."""
        ...

    def try_again(self, vifs: Collection[UUID]) -> None:
        """Claims of these VIFs may be granted now."""
        ...

    def ask(self, question: TraceQuestion) -> None:
        """Send a question; its answer comes to `Hub.questions`."""
        ...

    def bring(self, tickets: Tickets) -> None:
        """Send the connections of a guest that is coming, the newest of each port."""
        ...

    def end(self, reason: Refused) -> None:
        """Close the stream with this status, soon."""
        ...

    async def ended(self) -> None:
        """Return when nothing of the stream is at work any more."""
        ...


class Hub:
    """See the module's theory. All methods in the event loop's thread; made inside the running loop."""

    def __init__(self, store: Store, fleet: Fleet) -> None:
        self.store = store
        self.fleet = fleet
        self.started_s = time.time()
        self.stopping = asyncio.Event()
        self.counts: Counter[str] = Counter()  # of what streams did, for metrics
        with store.read() as world:
            self.world = _copy(world)
        self.holdings = Holdings.of(self.world)
        self.questions = Questions()
        self.packing = Packing()
        self._streams: dict[UUID, Stream] = {}
        self._subscribers: dict[UUID, set[UUID]] = {}
        self._commit = asyncio.Event()
        self._advanced = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        store.on_commit(self._on_commit)
        self._commit.set()  # what was committed between the copy and the registration

    async def run(self) -> None:
        """Follow the store until cancelled; a store that does not answer is asked again."""
        pause_s = 0.1
        while True:
            await self._commit.wait()
            self._commit.clear()
            try:
                changes = self.store.recent(after=self.world.revision)
                if changes is None:
                    changes = await asyncio.to_thread(self.store.changes, after=self.world.revision)
            except NetmgrError as error:
                log.warning("hub.store_unreadable", reason=error.sentence, retry_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _RETRY_S_MAX)
                self._commit.set()
                continue
            pause_s = 0.1
            self.advance(changes)

    def advance(self, changes: Iterable[Change]) -> None:
        """Apply *changes*, all of one or more whole transactions, and mark what follows from them."""
        moved: set[UUID] = set()  # ports of which something was decided
        wide = False
        for change in changes:
            if change.kind == Kind.HOST or change.uuid in self.world.rows(change.kind):
                self._mark_concerned(change)  # of what was not there nobody has anything; a host has neighbours
            if change.kind in (Kind.PORT, Kind.LOCATION):
                moved.add(change.uuid)
            wide = wide or change.kind in (Kind.NETWORK, Kind.WITHDRAWAL)
            if change.kind == Kind.LOCATION:
                after = change.row if isinstance(change.row, Location) else None
                self.holdings.move(before=self.world.locations.get(change.uuid), after=after)
            self.world.apply(change)
            self._mark_concerned(change)
            if change.kind == Kind.HOST:
                self._review(change.uuid)
        for stream in self._streams.values():
            if stream.outbox.marked:
                stream.wake()
        self._have_try_again(moved, wide=wide)
        advanced, self._advanced = self._advanced, asyncio.Event()
        advanced.set()

    async def reach(self, revision: int, *, timeout_s: float) -> None:
        """Return when the hub's world has *revision*.

        Raises:
            TimeoutError: not within *timeout_s*.
        """
        async with asyncio.timeout(timeout_s):
            while self.world.revision < revision:
                await self._advanced.wait()

    def news(self) -> asyncio.Event:
        """Is set at the next advance of the world; take it before you read the world."""
        return self._advanced

    async def add(self, stream: Stream, *, agent_version: str) -> None:
        """Take a stream in; an older one of the same host is ended first, and done with all it was doing."""
        while True:
            older = self._streams.get(stream.host_uuid)
            if older is None:
                break
            older.end(Refused(grpc.StatusCode.ABORTED, "replaced by a newer stream of the same host"))
            await older.ended()
        self._streams[stream.host_uuid] = stream
        self._index(stream, before=frozenset(), after=stream.outbox.subscribed)
        self.fleet.connect(stream.host_uuid, agent_version=agent_version, now_s=time.time())
        self._review(stream.host_uuid)

    def remove(self, stream: Stream) -> None:
        """Let a stream go."""
        if self._streams.get(stream.host_uuid) is stream:
            del self._streams[stream.host_uuid]
            self._index(stream, before=stream.outbox.subscribed, after=frozenset())
            self.questions.gone(stream.host_uuid)
            self.fleet.disconnect(stream.host_uuid, now_s=time.time())

    async def ask(self, host_uuid: UUID, question: TraceQuestion, *, timeout_s: float) -> TraceAnswer:
        """A host's answer to *question*, or a refusal in its place: it is not connected, goes away, or is silent."""
        stream = self._streams.get(host_uuid)
        if stream is None:
            return TraceAnswer(refusal=f"{self._name(host_uuid)} is not connected to this manager")
        answer = await self.questions.ask(host_uuid, question, send=stream.ask, timeout_s=timeout_s)
        return answer or TraceAnswer(
            refusal=f"{self._name(host_uuid)} did not answer within {timeout_s:g} s; its agent may be gone, or too old "
            "to trace (`netmgr host list -o wide`)"
        )

    def pass_on(self, host_uuid: UUID, tickets: Tickets) -> str:
        """Send *tickets* of *host_uuid* to the host that its guest is going to; why not, in a sentence, else empty."""
        location = self.world.locations.get(tickets.port_uuid)
        name = f"port {tickets.port_uuid}"
        if location is None or location.holder_host != host_uuid:
            return f"{name} is not held by {self._name(host_uuid)}, so its connections are not this host's to tell"
        if location.incoming_host is None:
            return f"{name} is not migrating; its connections are nobody else's business"
        if len(tickets.tickets) > TICKETS_MAX:
            return f"{name}: {len(tickets.tickets)} connections, at most {TICKETS_MAX} are passed on"
        stream = self._streams.get(location.incoming_host)
        if stream is None:
            return f"{name}: {self._name(location.incoming_host)}, where it goes, is not connected to this manager"
        stream.bring(tickets)
        self.counts["tickets_passed"] += 1
        return ""

    def subscribe(self, stream: Stream, networks: frozenset[UUID]) -> None:
        """The host of *stream* wants the ports of *networks*, and of no others."""
        before = stream.outbox.subscribed
        stream.outbox.subscribe(self.world, networks)
        self._index(stream, before=before, after=networks)
        if stream.outbox.marked:
            stream.wake()

    def subscribe_ahead(self, stream: Stream, claims: Iterable[Claim]) -> frozenset[UUID]:
        """Subscribe the host of *stream*, which makes *claims*, to the networks of what it will be granted by all that
        is known: it is sent their peers while the grant is being written. The networks that are new to it."""
        ahead: set[UUID] = set()
        for claim in claims:
            network = network_of(self.world, claim)
            if network is None or network in stream.outbox.subscribed or network in ahead:
                continue
            if likely(self.world, stream.host_uuid, claim):
                ahead.add(network)
        if ahead:
            self.subscribe(stream, stream.outbox.subscribed | ahead)
        return frozenset(ahead)

    def review_vifs(self, host_uuid: UUID) -> None:
        """The host has reported: what it says is dark may have been granted meanwhile."""
        stream = self._streams.get(host_uuid)
        if stream is not None:
            vifs = [vif for vif in self.fleet.dark_vifs(host_uuid) if grantable(self.world, host_uuid, vif)]
            if vifs:
                stream.try_again(vifs)

    def end_all(self, reason: Refused) -> None:
        """Close every stream, and admit no more."""
        self.stopping.set()
        for stream in tuple(self._streams.values()):
            stream.end(reason)

    def _name(self, host_uuid: UUID) -> str:
        record = self.world.hosts.get(host_uuid)
        return f"host {record.name if record is not None else host_uuid}"

    def _index(self, stream: Stream, *, before: frozenset[UUID], after: frozenset[UUID]) -> None:
        for network in before - after:
            hosts = self._subscribers[network]
            hosts.discard(stream.host_uuid)
            if not hosts:
                del self._subscribers[network]
        for network in after - before:
            self._subscribers.setdefault(network, set()).add(stream.host_uuid)

    def _mark_concerned(self, change: Change) -> None:
        concern = touched(self.world, (change,))
        for host in concern.hosts:
            if host in self._streams:
                self._streams[host].outbox.mark_whole()
        for host, keys in concern.of_host.items():
            if host in self._streams:
                self._streams[host].outbox.mark(keys)
        for key in concern.keys:
            self._mark(key)

    def _mark(self, key: Key) -> None:
        for host in hosts_for(self.world, key, self._subscribers):
            stream = self._streams.get(host)
            if stream is not None:
                stream.outbox.mark((key,))

    def _have_try_again(self, moved: Iterable[UUID], *, wide: bool) -> None:
        """Hint at claims of dark VIFs that these ports, or any network (*wide*), have changed in favour of."""
        if wide:
            for host_uuid in self.fleet.dark_hosts():
                if host_uuid in self._streams:
                    self._streams[host_uuid].try_again(())
        for port in (self.world.ports.get(uuid) for uuid in moved):
            vif = port.vif_uuid if port is not None else None
            for host_uuid in self.fleet.hosts_of_vif(vif) if vif is not None else ():
                stream, dark = self._streams.get(host_uuid), vif in self.fleet.dark_vifs(host_uuid)
                if stream is not None and vif is not None and dark and grantable(self.world, host_uuid, vif):
                    stream.try_again((vif,))

    def _review(self, host_uuid: UUID) -> None:
        """End the stream of a host that would not be admitted now."""
        if host_uuid not in self.world.hosts:
            self.fleet.forget(host_uuid)
        stream = self._streams.get(host_uuid)
        if stream is None:
            return
        try:
            record = record_of(self.world, stream.peer)
        except Refused as refused:
            stream.end(refused)
            return
        sentence = why_not(record, stream.boot_id)
        if sentence:
            stream.end(Refused(grpc.StatusCode.PERMISSION_DENIED, sentence))

    def _on_commit(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._commit.set)


def _copy(world: World) -> World:
    """A second world with the same rows; rows are shared, they never change."""
    copy = World()
    for (kind, uuid), version in world.versions.items():
        copy.apply(Change(revision=version, kind=kind, uuid=uuid, row=world.rows(kind)[uuid]))
    copy.revision = world.revision
    return copy
