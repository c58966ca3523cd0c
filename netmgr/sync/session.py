"""One host's stream, from its Hello to its end.

Two tasks share a stream. The *reader* takes the host's messages one at a time, in order, and waits for each to be on
disk before it reads the next: a host's release never overtakes its claim, and a host that asks faster than the store
writes is slowed by gRPC's flow control instead of by a queue. The *writer* is the only one that writes: Welcome, the
difference that brings the host level, then a difference whenever the outbox is marked. Answers to claims go first,
even between two parts of a long difference; the same objects follow through the outbox.

A message that does not fit the contract ends the stream with INVALID_ARGUMENT and changes nothing. A store that can't
write ends it with UNAVAILABLE where the host would otherwise believe that its word was taken.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import grpc
import structlog

from netmgr.contract import codec
from netmgr.contract.codec import ContractError
from netmgr.contract.proto import sync_pb2
from netmgr.contract.reading import unreadable
from netmgr.contract.types import (
    CLAIMS_MAX,
    Claim,
    HostReport,
    Kind,
    Learned,
    ReleaseReason,
    Tickets,
    TraceAnswer,
    TraceQuestion,
)
from netmgr.identity import Peer
from netmgr.model import NetmgrError
from netmgr.sync import decisions
from netmgr.sync.admission import Greeting, Refused, uuid_of
from netmgr.sync.hub import Hub
from netmgr.sync.outbox import Outbox

__all__ = ["Session"]

_CATCH_UP_S_MAX = 10.0

T = TypeVar("T")
Write = Callable[[sync_pb2.ManagerMessage | bytes], Any]  # a message, or one that is packed already

log = structlog.get_logger(__name__)


class Session:
    """An admitted stream; `run` serves it. Implements `netmgr.sync.hub.Stream`."""

    def __init__(self, hub: Hub, peer: Peer, greeting: Greeting, host_name: str) -> None:
        self.host_uuid = greeting.host_uuid
        self.peer = peer
        self.boot_id = greeting.boot_id
        words = unreadable(greeting.reads)
        self.outbox = Outbox(greeting.host_uuid, greeting.network_uuids, unreadable=words)
        self._agent = f"the agent of host {host_name} (version {greeting.agent_version or 'unknown'})"
        self._hub = hub
        self._log = log.bind(host=host_name, host_uuid=str(greeting.host_uuid))
        self._answers: deque[sync_pb2.ManagerMessage] = deque()
        self._questions: deque[TraceQuestion] = deque()
        self._tickets: dict[UUID, Tickets] = {}  # by port
        self._try_again: set[UUID] | None = None  # VIFs to be told of; empty: any
        self._awake = asyncio.Event()
        self._end: asyncio.Future[Refused] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()
        self._job: asyncio.Future[Any] | None = None
        if greeting.store_id == hub.store.store_id:
            newest = max((ref.version for ref in greeting.have), default=0)
            ahead = newest > hub.world.revision
            if ahead:
                self._log.error("host.ahead_of_store", host_revision=newest, store_revision=hub.world.revision)
            self.outbox.assume(greeting.have, trusted=not ahead)

    async def run(self, messages: AsyncIterator[sync_pb2.HostMessage], write: Write) -> None:
        """Serve the stream until the host closes it.

        Raises:
            Refused: the stream was ended by this side.
        """
        tasks: list[asyncio.Future[None]] = [
            asyncio.ensure_future(self._read(messages)),
            asyncio.ensure_future(self._write(write)),
        ]
        try:
            waits: list[asyncio.Future[Any]] = [*tasks, self._end]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if self._end.done():
                raise self._end.result()
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            try:
                await asyncio.gather(*tasks, return_exceptions=True)
            finally:  # a call that is cancelled just now must leave too, or its host is never let in again
                if self._job is None or self._job.done():
                    self._leave()
                else:  # a thread can't be cancelled, only waited for
                    self._job.add_done_callback(lambda _job: self._leave())

    def _leave(self) -> None:
        self._hub.remove(self)
        self._ended.set()

    def wake(self) -> None:
        """The outbox has marks."""
        self._awake.set()

    def try_again(self, vifs: Collection[UUID]) -> None:
        """Claims of these VIFs, or of any if none is named, may be granted now."""
        known = self._try_again
        self._try_again = set() if not vifs or known == set() else {*(known or ()), *vifs}
        self.wake()

    def ask(self, question: TraceQuestion) -> None:
        """Send *question*; the answer goes to the hub's questions."""
        self._questions.append(question)
        self.wake()

    def bring(self, tickets: Tickets) -> None:
        """Send the connections of a guest that is coming, after what tells of its coming."""
        self._tickets[tickets.port_uuid] = tickets
        self.wake()

    def end(self, reason: Refused) -> None:
        """Close the stream with this status, soon."""
        if not self._end.done():
            self._end.set_result(reason)

    async def ended(self) -> None:
        """Return when nothing of the stream is at work any more."""
        await self._ended.wait()

    # --- writer ----------------------------------------------------------------------------------------------------

    async def _write(self, write: Write) -> None:
        hub = self._hub
        welcome = sync_pb2.Welcome(store_id=hub.store.store_id, revision=hub.world.revision, claims_max=CLAIMS_MAX)
        await write(sync_pb2.ManagerMessage(welcome=welcome))
        initial = True
        while True:
            if self._answers:
                await self._write_answers(write)
            if self.outbox.marked:
                batch = self.outbox.take(hub.world, hub.holdings)
                if self.outbox.unreadable:
                    self._tell_withheld()
                if initial or batch.upserts or batch.removals:
                    for last, message in hub.packing.parts(batch, initial=initial):
                        if last:
                            hub.fleet.sent(self.host_uuid, revision=batch.revision)
                        await write(message)
                        hub.counts["updates_sent"] += 1
                        if self._answers:
                            await self._write_answers(write)
                    initial = False
            if self._try_again is not None and not self.outbox.marked:
                vifs, self._try_again = sorted(self._try_again), None
                hint = sync_pb2.TryAgain(vif_uuids=[str(vif) for vif in vifs])
                await write(sync_pb2.ManagerMessage(try_again=hint))
            while self._questions:
                await write(sync_pb2.ManagerMessage(trace=codec.encode(self._questions.popleft())))
            while self._tickets and not self.outbox.marked:
                tickets = self._tickets.pop(next(iter(self._tickets)))
                await write(sync_pb2.ManagerMessage(tickets=codec.encode(tickets)))
            if not self._pending():
                await self._awake.wait()
            self._awake.clear()

    def _tell_withheld(self) -> None:
        before = self._hub.fleet.live(self.host_uuid)
        found = {
            (str(kind), uuid): decisions.too_old(self._agent, words)
            for (kind, uuid), words in self.outbox.withheld.items()
        }
        if before is not None and found != before.withheld:
            for (kind, uuid), sentence in found.items():
                self._log.warning("host.withheld", kind=kind, uuid=str(uuid), reason=sentence)
            self._hub.fleet.withhold(self.host_uuid, found)

    def _pending(self) -> bool:
        return bool(
            self.outbox.marked or self._answers or self._try_again is not None or self._questions or self._tickets
        )

    async def _write_answers(self, write: Write) -> None:
        while self._answers:
            await write(self._answers.popleft())

    # --- reader ----------------------------------------------------------------------------------------------------

    async def _read(self, messages: AsyncIterator[sync_pb2.HostMessage]) -> None:
        async for message in messages:
            try:
                await self._take(message)
            except ContractError as error:
                self._log.warning("host.bad_message", reason=str(error))
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from None
            except NetmgrError as error:
                raise Refused(grpc.StatusCode.UNAVAILABLE, error.sentence) from None

    async def _take(self, message: sync_pb2.HostMessage) -> None:
        body = message.WhichOneof("body")
        if body == "ack":
            self._take_ack(message.ack)
        elif body == "claim":
            await self._take_claims([message.claim], together=False)
        elif body == "claims":
            await self._take_claims(message.claims.claims, together=True)
        elif body == "activated":
            await self._take_activated(message.activated)
        elif body == "release":
            await self._take_release(message.release)
        elif body == "learned":
            word = codec.decode(Learned, message.learned)
            since = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            await self._in_thread(lambda: decisions.learn(self._hub.store, self.host_uuid, word, since=since))
        elif body == "retire":
            await self._take_retire(message.retire)
        elif body == "subscribe":
            networks = frozenset(uuid_of(x, "Subscribe.network_uuids") for x in message.subscribe.network_uuids)
            self._hub.subscribe(self, networks)
        elif body == "report":
            await self._take_report(codec.decode(HostReport, message.report))
        elif body == "trace_answer":
            self._hub.questions.answered(self.host_uuid, codec.decode(TraceAnswer, message.trace_answer))
        elif body == "tickets":
            refusal = self._hub.pass_on(self.host_uuid, codec.decode(Tickets, message.tickets))
            if refusal:
                self._hub.counts["tickets_refused"] += 1
                self._log.warning("tickets.refused", reason=refusal)
        elif body == "hello":
            raise ContractError("HostMessage: a second Hello; it opens a stream and comes once")
        else:
            raise ContractError("HostMessage: no body that this version knows; upgrade the manager first")

    async def _take_claims(self, messages: Sequence[sync_pb2.Claim], *, together: bool) -> None:
        if len(messages) > CLAIMS_MAX:
            raise ContractError(f"Claims.claims: {len(messages)}, at most {CLAIMS_MAX} are taken in one message")
        claims = [codec.decode(Claim, message) for message in messages]
        ahead = self._hub.subscribe_ahead(self, claims)
        asker = decisions.Asker(host=self.host_uuid, agent=self._agent, unreadable=self.outbox.unreadable)
        loop = asyncio.get_running_loop()

        def answered(found: list[sync_pb2.ClaimAnswer]) -> None:  # in the thread, which has more to do
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._answer, found, together)

        answers = await self._in_thread(
            lambda: decisions.answer_claims(self._hub.store, asker, claims, now_ms=_now_ms(), answered=answered)
        )
        granted = [answer for answer in answers if not answer.refusal]
        vain = ahead - {UUID(answer.port.port.network_uuid) for answer in granted}
        if vain:  # refused after all
            self._hub.subscribe(self, self.outbox.subscribed - vain)
        self._hub.counts["claims_granted"] += len(granted)
        self._hub.counts["claims_refused"] += len(answers) - len(granted)
        if granted:
            await self._give(granted)

    def _answer(self, answers: Sequence[sync_pb2.ClaimAnswer], together: bool) -> None:
        if together:
            self._answers.append(sync_pb2.ManagerMessage(answers=sync_pb2.ClaimAnswers(answers=answers)))
        else:
            self._answers.extend(sync_pb2.ManagerMessage(answer=answer) for answer in answers)
        self.wake()

    async def _give(self, answers: Sequence[sync_pb2.ClaimAnswer]) -> None:
        """Have the outbox look after what *answers* hand out, once the hub knows of the grants: not before, or the
        outbox would take back what it does not see the host may hold."""
        newest = max(max(answer.port.version, answer.location.version) for answer in answers)
        try:
            await self._hub.reach(newest, timeout_s=_CATCH_UP_S_MAX)
        except TimeoutError:
            raise Refused(grpc.StatusCode.UNAVAILABLE, "the manager's store does not answer; connect again") from None
        # The host will subscribe to the networks of what it was granted; nobody waits for that.
        ports = [UUID(answer.port.port.uuid) for answer in answers]
        world = self._hub.world
        below = [world.ports[uuid].network_uuid for port in ports for uuid in world.subports_of.get(port, ())]
        networks = {UUID(answer.port.port.network_uuid) for answer in answers} | {*below}
        self._hub.subscribe(self, self.outbox.subscribed | networks)
        self.outbox.given((kind, port) for port in ports for kind in (Kind.PORT, Kind.LOCATION))
        self.wake()

    def _take_ack(self, ack: sync_pb2.Ack) -> None:
        rejections = {}
        for rejection in ack.rejections:
            ref = codec.decode_ref(rejection.object)
            rejections[str(ref.kind), ref.uuid] = rejection.reason
        before = self._hub.fleet.live(self.host_uuid)
        if before is not None and rejections != before.rejected:
            for (kind, uuid), reason in rejections.items():
                self._log.warning("host.rejects", kind=kind, uuid=str(uuid), reason=reason)
        self._hub.fleet.acknowledge(self.host_uuid, revision=ack.revision, rejections=rejections)

    async def _take_activated(self, message: sync_pb2.Activated) -> None:
        port_uuid, version = uuid_of(message.port_uuid, "Activated.port_uuid"), message.version
        store = self._hub.store
        await self._in_thread(
            lambda: decisions.activate(store, self.host_uuid, port_uuid=port_uuid, version=version, now_ms=_now_ms())
        )

    async def _take_release(self, message: sync_pb2.Release) -> None:
        port_uuid, version = uuid_of(message.port_uuid, "Release.port_uuid"), message.version
        try:
            why = ReleaseReason(message.why)
        except ValueError:
            raise ContractError(f"Release.why: {message.why!r} is none of {', '.join(ReleaseReason)}") from None
        store = self._hub.store
        await self._in_thread(
            lambda: decisions.release(
                store, self.host_uuid, port_uuid=port_uuid, version=version, why=why, now_ms=_now_ms()
            )
        )

    async def _take_retire(self, message: sync_pb2.Retire) -> None:
        port_uuid, version = uuid_of(message.port_uuid, "Retire.port_uuid"), message.version
        store = self._hub.store
        await self._in_thread(lambda: decisions.retire(store, self.host_uuid, port_uuid=port_uuid, version=version))

    async def _take_report(self, report: HostReport) -> None:
        self._hub.fleet.report(self.host_uuid, report)
        self._hub.review_vifs(self.host_uuid)
        record = self._hub.world.hosts.get(self.host_uuid)
        names = tuple(pnic.name for pnic in report.pnics)
        # A host that could not read its PNICs says none; that is no news of them.
        if record is not None and names and set(names) != set(record.pnics):
            await self._in_thread(lambda: decisions.note_pnics(self._hub.store, self.host_uuid, names))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        self._job = job = asyncio.ensure_future(asyncio.to_thread(work))
        return await asyncio.shield(job)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
