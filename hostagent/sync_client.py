"""The host's end of the Sync stream.

Theory of operation. One task keeps one stream open: connect, Hello (what is held), then read. What comes is given to
the state and then told to the agent, which acknowledges when it is realized; disk and switch work at the same time, and
the acknowledgement leaves when both have it. So what a host has acknowledged it does not forget, and what it forgets in
a crash it is sent again. A disk that refuses ends the stream: the host then holds less than the manager believes.
Keepalive notices a dead manager in 8 s; a lost stream is opened again with exponential backoff and full jitter, so that
a restarted manager does not meet all hosts at once, and with the next of several manager addresses in turn.

Claims are questions with numbers; they are answered, refused, or fail when the stream is lost, and nobody waits longer
than its deadline. Subscribe, Ack, HostReport are levels: only the newest unsent one of each is kept, and all are sent
anew after a reconnect.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol
from uuid import UUID

import grpc
import structlog

from hostagent.identity import Identity
from hostagent.outbox import Outbox
from hostagent.state import State, StateError
from netmgr.contract.codec import (
    ContractError,
    decode,
    decode_object,
    decode_ref,
    encode,
    encode_ref,
    ref_of_message,
)
from netmgr.contract.proto import sync_pb2, sync_pb2_grpc
from netmgr.contract.reading import WORDS
from netmgr.contract.types import (
    Claim,
    HostReport,
    Kind,
    Learned,
    Location,
    LogicalPort,
    Object,
    Ref,
    ReleaseReason,
    Tickets,
    TraceAnswer,
    TraceQuestion,
    ref_of,
)

__all__ = ["Grant", "Listener", "ManagerAway", "Refused", "SyncClient"]

log = structlog.get_logger(__name__)

_BACKOFF_S_MIN, _BACKOFF_S_MAX = 0.2, 10.0
_HURRY_S = 1.0  # how long a claim waits for a stream that is being opened
_OPTIONS = (
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

_REFUSALS = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION)


class ManagerAway(Exception):
    """No answer from any manager; the sentence says which was tried and what is known."""


class Refused(Exception):
    """The manager refused a claim; the message is its sentence. *dark*: the VIF may be plugged all the same."""

    def __init__(self, sentence: str, *, dark: bool = False) -> None:
        super().__init__(sentence)
        self.dark = dark


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A granted claim; both objects are in the state, whose `saved` tells when they are on disk."""

    port: LogicalPort
    location: Location


class Listener(Protocol):
    """Who is told what the stream brings; called on the event loop, must not wait."""

    def on_objects(self, changed: Sequence[Ref]) -> None:
        """These objects changed in the state (or went, where they are no longer held)."""

    def on_revision(self, revision: int, *, initial: bool) -> None:
        """Everything up to *revision* is here: realize it, then `acknowledge`."""

    def on_try_again(self) -> None:
        """Claims that were refused may be granted now."""

    def on_trace(self, question: TraceQuestion) -> None:
        """The manager asks what the switch would do with a frame: answer with `trace_answer`."""

    def on_tickets(self, tickets: Tickets) -> None:
        """Connections of a guest that is coming."""

    def on_connection(self, connected: bool) -> None:
        """The stream is open and Welcome was read, or it is lost."""


class SyncClient:
    """Keeps the stream. `start` it, `close` it."""

    def __init__(
        self, *, identity: Identity, state: State, listener: Listener, boot_id: str, agent_version: str
    ) -> None:
        self._identity = identity
        self._state = state
        self._listener = listener
        self._boot_id = boot_id
        self._agent_version = agent_version
        self._networks: tuple[UUID, ...] = ()
        self._asked: tuple[UUID, ...] = ()  # on this stream, or the last
        self._pending: dict[int, asyncio.Future[Grant]] = {}
        self._gone: dict[tuple[Kind, UUID], int] = {}  # removed while a claim was under way -> at which revision
        self._hurry = asyncio.Event()  # ends the pause between two attempts
        self._open = asyncio.Event()  # set while there is a stream
        self._numbers = itertools.count(1)
        self._outbox: Outbox | None = None
        self._unsaid: tuple[int, sync_pb2.Ack] | None = None  # waits for the disk to have got so far
        self._stream: Any = None
        self._given_up = ""  # why this side ended the stream
        self._task: asyncio.Task[None] | None = None
        self._unread: dict[tuple[Kind, UUID], str] = {}  # pushed on this stream, and why it can't be read
        self._why = "no manager reached yet"
        self._refusals: dict[str, str] = {}  # by manager address: its last refusal of this host
        self._away_since = time.monotonic()

    # --- for the agent ---------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self._outbox is not None

    @property
    def why_away(self) -> str:
        """Why there is no stream, one sentence."""
        return self._why

    @property
    def away_s(self) -> float:
        """Seconds since the stream was lost; 0 while it is open."""
        return 0.0 if self.connected else time.monotonic() - self._away_since

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep(), name="sync")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def subscribe(self, networks: Iterable[UUID]) -> None:
        """Want ports and locations of exactly these networks from now on."""
        wanted = tuple(sorted(networks))
        if wanted != self._networks:
            self._networks = wanted
            if self._outbox is not None:
                self._ask(self._outbox)

    def _ask(self, outbox: Outbox) -> None:
        self._asked = self._networks
        outbox.put("subscribe", sync_pb2.Subscribe(network_uuids=[str(uuid) for uuid in self._asked]))

    def acknowledge(self, revision: int, rejections: Iterable[tuple[Ref, str]]) -> None:
        """Everything up to *revision* is realized, but for the rejections; said once all that is held is on disk."""
        unread = ((Ref(kind=kind, uuid=uuid), sentence) for (kind, uuid), sentence in self._unread.items())
        message = sync_pb2.Ack(
            revision=revision,
            rejections=[
                sync_pb2.Rejection(object=encode_ref(ref), reason=reason) for ref, reason in (*rejections, *unread)
            ],
        )
        self._unsaid = (self._state.mark, message)
        self.saved()

    def saved(self) -> None:
        """The disk has got further: say what waited for it."""
        if self._unsaid is not None and self._outbox is not None and self._unsaid[0] <= self._state.mark_saved:
            self._outbox.put("ack", self._unsaid[1])
            self._unsaid = None

    def give_up(self, why: str) -> None:
        """End the stream, and begin another: the manager believes that this host holds what it does not hold."""
        if self._stream is not None:
            self._given_up = why
            self._stream.cancel()

    def report(self, report: HostReport) -> None:
        """Tell the whole status of the host; lost without a stream, so repeat it on each connection."""
        if self._outbox is not None:
            self._outbox.put("report", encode(report))

    def activated(self, location: Location) -> None:
        """The guest runs here: ask the manager to move the location."""
        if self._outbox is not None:
            message = sync_pb2.Activated(port_uuid=str(location.port_uuid), version=location.version)
            self._outbox.put("activated", message, key=str(location.port_uuid))

    def release(self, location: Location, why: ReleaseReason) -> None:
        """The VIF left this host, or did not come."""
        if self._outbox is not None:
            message = sync_pb2.Release(port_uuid=str(location.port_uuid), version=location.version, why=why.value)
            self._outbox.put("release", message, key=str(location.port_uuid))

    def tickets(self, tickets: Tickets) -> None:
        """Connections of a guest that leaves, the newest word on its port; lost without a stream."""
        if self._outbox is not None:
            self._outbox.put("tickets", encode(tickets), key=str(tickets.port_uuid))

    def trace_answer(self, answer: TraceAnswer) -> None:
        """Answer a question of this stream; without one nobody waits for it any more."""
        if self._outbox is not None:
            self._outbox.put("trace_answer", encode(answer), key=str(answer.request_id))

    def learned(self, word: Learned) -> None:
        """What the guest of a port was seen to use, whole."""
        if self._outbox is not None:
            self._outbox.put("learned", encode(word), key=str(word.port_uuid))

    def retire(self, location: Location) -> None:
        """What was attached to the port is gone for good."""
        if self._outbox is not None:
            message = sync_pb2.Retire(port_uuid=str(location.port_uuid), version=location.version)
            self._outbox.put("retire", message, key=str(location.port_uuid))

    async def claim(self, claim: Claim, *, deadline_s: float = 5.0) -> Grant:
        """Ask for a port; the granted port and location are in the state when this returns, not yet on disk.

        Raises:
            Refused: the manager said no.
            ManagerAway: no stream, lost meanwhile, or no answer within the deadline.
        """
        (outcome,) = await self.claim_all([claim], deadline_s=deadline_s)
        if isinstance(outcome, Grant):
            return outcome
        raise outcome

    async def claim_all(
        self, claims: Sequence[Claim], *, deadline_s: float = 5.0
    ) -> list[Grant | Refused | ManagerAway]:
        """Ask for several ports at once: of each, in this order, what `claim` returns or raises."""
        await self._reconnected()
        if self._outbox is None:
            return [ManagerAway(self._why) for _ in claims]
        loop = asyncio.get_running_loop()
        asked: dict[int, asyncio.Future[Grant]] = {next(self._numbers): loop.create_future() for _ in claims}
        self._pending.update(asked)
        for number, claim in zip(asked, claims, strict=True):
            self._outbox.put("claim", encode(replace(claim, request_id=number)), key=str(number))
        try:
            if asked:
                await asyncio.wait(asked.values(), timeout=deadline_s)
            return [_outcome(future, deadline_s) for future in asked.values()]
        finally:
            for number in asked:
                self._pending.pop(number, None)
            if not self._pending:
                self._gone.clear()

    async def _reconnected(self) -> None:
        """Whoever asks while there is no stream ends the pause between two attempts, and waits for the next one: the
        manager may have come back since the last."""
        if self._outbox is None:
            self._hurry.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._open.wait(), _HURRY_S)

    # --- the task --------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        failures = 0
        for address in itertools.cycle(self._identity.managers):
            try:
                await self._run_stream(address)
                self._why = f"the network manager at {address} closed the stream"
            except grpc.aio.AioRpcError as error:
                self._note_failure(address, error)
            except (ContractError, StateError) as error:
                self._why = f"the stream from {address} was given up: {error}"
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                # grpc cancels a call of its own
                self._why = self._given_up or f"the stream to {address} was ended by its transport"
            except Exception as error:  # without this task the host would never hear its manager again
                log.exception("sync: the stream failed in an unforeseen way")
                self._why = f"the stream to the network manager at {address} failed: {error!r}"
            failures = self._lost(failures)
            ceiling = min(_BACKOFF_S_MAX, _BACKOFF_S_MIN * 2 ** min(failures, 10))
            self._hurry.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), random.uniform(_BACKOFF_S_MIN / 4, ceiling))

    def _note_failure(self, address: str, error: grpc.aio.AioRpcError) -> None:
        """Why there is no stream. A server that refuses while we write is heard as INTERNAL or CANCELLED: what it said
        the last time is then the better answer."""
        refused = error.code() in _REFUSALS
        blurred = error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED)
        if blurred and address in self._refusals:
            self._why = self._refusals[address]
            return
        self._why = _sentence(address, error)
        if refused:
            self._refusals[address] = self._why

    def _lost(self, failures: int) -> int:
        was_connected = self._outbox is not None
        self._outbox, self._unsaid, self._stream = None, None, None
        self._given_up = ""
        self._open.clear()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(ManagerAway(self._why))
        if was_connected:
            self._away_since = time.monotonic()
            self._listener.on_connection(False)
            log.warning("sync: lost", reason=self._why)
            return 0
        if failures in (0, 3) or failures % 30 == 0:
            log.warning("sync: no stream, trying again", reason=self._why, attempts=failures + 1)
        return failures + 1

    async def _run_stream(self, address: str) -> None:
        credentials = grpc.ssl_channel_credentials(
            self._identity.ca_pem, self._identity.key_pem, self._identity.cert_pem
        )
        options = (*_OPTIONS, ("grpc.ssl_target_name_override", self._identity.manager_name))
        async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
            outbox = Outbox()
            self._unread.clear()  # what it still can't read will be sent again
            outbox.put("hello", self._hello())  # not kept here: it is large, and the stream lives long
            stub: Any = sync_pb2_grpc.SyncStub(channel)  # type: ignore[no-untyped-call]
            self._stream = stub.Stream(outbox.messages())
            await self._read(self._stream, outbox, address)

    def _hello(self) -> sync_pb2.Hello:
        self._asked = self._networks
        hello = sync_pb2.Hello(
            host_uuid=str(self._identity.host_uuid),
            boot_id=self._boot_id,
            agent_version=self._agent_version,
            store_id=self._state.store_id,
            network_uuids=[str(uuid) for uuid in self._asked],
            view_address=self._identity.view_address,
            reads=sorted(WORDS),
        )
        add, texts = hello.have.add, dict[UUID, str]()  # a port and its location have one UUID
        for kind, versions in self._state.held():  # tens of thousands: not worth an object each
            name = kind.value
            for uuid, version in versions.items():
                text = texts.get(uuid)
                if text is None:
                    texts[uuid] = text = str(uuid)
                add(kind=name, uuid=text, version=version)
        return hello

    async def _read(self, stream: Any, outbox: Outbox, address: str) -> None:
        initial: set[Ref] = set()
        strange_store = False
        async for message in stream:
            body = message.WhichOneof("body")
            if body == "welcome":
                outbox.claims_max = message.welcome.claims_max or 1
                strange_store = bool(self._state.store_id) and self._state.store_id != message.welcome.store_id
                self._state.set_store(message.welcome.store_id)
                self._outbox = outbox
                self._open.set()
                self._refusals.pop(address, None)
                if self._asked != self._networks:  # others are wanted since Hello was written: connecting may take long
                    self._ask(outbox)
                log.info("sync: connected", manager=address, revision=message.welcome.revision)
                self._listener.on_connection(True)
            elif body == "update":
                self._take(message.update, initial, strange_store=strange_store)
            elif body == "answer":
                self._answer([message.answer])
            elif body == "answers":
                self._answer(message.answers.answers)
            elif body == "try_again":
                self._listener.on_try_again()
            elif body == "tickets":
                self._listener.on_tickets(decode(Tickets, message.tickets))
            elif body == "trace":
                self._listener.on_trace(decode(TraceQuestion, message.trace))
            else:
                log.warning("sync: message of a newer manager ignored")

    def _take(self, update: sync_pb2.Update, initial: set[Ref], *, strange_store: bool) -> None:
        upserts, unread = self._decoded(update)
        removals = [decode_ref(ref) for ref in update.removals]
        for ref in removals:
            self._unread.pop(_key(ref), None)
        if self._pending:
            self._gone.update(((ref.kind, ref.uuid), update.revision) for ref in removals)
        # Since what was asked for last may cross with what is told, it can count a round trip too early.
        whole: dict[str, Any] = {"revision": update.revision, "told": frozenset(self._asked)} if update.last else {}
        changed = list(self._state.take(upserts, removals, **whole))
        if update.initial and strange_store:
            # Another store: what it did not send is not there. Dropped only once its whole word is here.
            initial.update(Ref(kind=ref.kind, uuid=ref.uuid) for ref in (*map(ref_of, upserts), *unread))
            if update.last:
                changed.extend(self._state.keep_only(initial))
        if changed:
            self._listener.on_objects(changed)
        if update.last:
            self._listener.on_revision(update.revision, initial=update.initial)

    def _decoded(self, update: sync_pb2.Update) -> tuple[list[Object], list[Ref]]:
        """The objects of *update*, and what of it this version can't read: that is rejected, by `acknowledge`, and
        what was there of it stays as it was. A newer manager should not have sent it; the rest is not to suffer."""
        upserts: list[Object] = []
        unread: list[Ref] = []
        for message in update.upserts:
            try:
                upserts.append(decode_object(message))
            except ContractError as error:
                ref = ref_of_message(message)
                log.warning("sync: object of a newer manager not read", reason=str(error), object=str(ref))
                if ref is not None:
                    unread.append(ref)
                    self._unread[_key(ref)] = f"this agent (version {self._agent_version}) can't read it: {error}"
        for item in upserts if self._unread else ():
            self._unread.pop(_key(ref_of(item)), None)
        return upserts, unread

    def _answer(self, answers: Sequence[sync_pb2.ClaimAnswer]) -> None:
        items: list[Object] = []
        grants: dict[int, Grant] = {}
        for answer in answers:
            if answer.refusal:
                continue
            port, location = decode_object(answer.port), decode_object(answer.location)
            if not isinstance(port.body, LogicalPort) or not isinstance(location.body, Location):
                raise ContractError("ClaimAnswer: wanted a port and a location")
            # Kept even when nobody waits any more: it is the manager's word on where the port is. A push may have
            # overtaken it, with something newer or with the end of it.
            items += [item for item in (port, location) if item.version > self._gone.get(_key(ref_of(item)), -1)]
            grants[answer.request_id] = Grant(port=port.body, location=location.body)
        changed = self._state.take_answer(items) if items else ()
        if changed:
            self._listener.on_objects(changed)
        for answer in answers:
            future = self._pending.get(answer.request_id)
            if future is None or future.done():
                continue
            if answer.refusal:
                future.set_exception(Refused(answer.refusal, dark=answer.dark))
            else:
                future.set_result(grants[answer.request_id])


def _outcome(future: asyncio.Future[Grant], deadline_s: float) -> Grant | Refused | ManagerAway:
    if not future.done():
        return ManagerAway(f"the network manager did not answer a claim within {deadline_s:g} s")
    error = future.exception()
    if error is None:
        return future.result()
    assert isinstance(error, Refused | ManagerAway)
    return error


def _key(ref: Ref) -> tuple[Kind, UUID]:
    return ref.kind, ref.uuid


def _sentence(address: str, error: grpc.aio.AioRpcError) -> str:
    details = error.details() or "no details"
    if error.code() in _REFUSALS:
        return f"the network manager at {address} refuses this host: {details}"
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return f"the network manager at {address} can't be reached: {details}"
    return f"the stream to the network manager at {address} failed: {error.code().name.lower()}: {details}"
