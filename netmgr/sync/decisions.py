"""A host's claims, activations, releases and lasting facts, into the store: one rule, one transaction. All block.

Claims that a host sends together are decided in their order, each in the world that those before it have left, and
committed together: a host that starts with a hundred guests costs one write to the disk, and its peers one difference.

A question of a host never ends its stream because the store can't answer: a claim is then refused with the sentence of
the store, and the guest is not plugged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID, uuid4

import structlog

from netmgr.arbiter import Grant, Refusal, decide_activation, decide_claim, decide_release
from netmgr.contract import codec
from netmgr.contract.proto import sync_pb2
from netmgr.contract.reading import words_of
from netmgr.contract.types import Claim, Kind, Learned, Location, Object, ReleaseReason
from netmgr.model import NetmgrError, World
from netmgr.rules import learned_rows, subports_of
from netmgr.service import edits
from netmgr.store import Store, Transaction

__all__ = ["Asker", "activate", "answer_claims", "learn", "note_pnics", "release", "retire", "too_old"]

_Answered = tuple[list[sync_pb2.ClaimAnswer], list[Callable[[], None]]]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """The host that claims, and what its agent, named in sentences, can't read: that it is not granted."""

    host: UUID
    agent: str = ""
    unreadable: frozenset[str] = frozenset()


def answer_claims(
    store: Store,
    asker: Asker,
    claims: Sequence[Claim],
    *,
    now_ms: int,
    answered: Callable[[list[sync_pb2.ClaimAnswer]], None] | None = None,
) -> list[sync_pb2.ClaimAnswer]:
    """The answers to *claims*, decided one after the other; what they grant is on disk, in one transaction. *answered*
    is called with them then, before the log is told: a guest waits for them.

    None of them is refused for another's sake: should what one grants not fit the store, each has its own transaction.
    """
    answers, told = _decide_claims(store, asker, claims, now_ms=now_ms)
    if answered is not None:
        answered(answers)
    for tell in told:
        tell()
    return answers


def _decide_claims(store: Store, asker: Asker, claims: Sequence[Claim], *, now_ms: int) -> _Answered:
    """The answers, and what the log is to be told."""
    try:
        return _answer_together(store, asker, claims, now_ms=now_ms)
    except NetmgrError as error:
        if len(claims) > 1 and error.status < 500:
            each = [_decide_claims(store, asker, [claim], now_ms=now_ms) for claim in claims]
            return [answer for answers, _told in each for answer in answers], [
                tell for _, told in each for tell in told
            ]
        vifs = [str(claim.vif_uuid) for claim in claims]
        tell = partial(log.warning, "claim.unanswered", host=str(asker.host), vifs=vifs, reason=error.sentence)
        return [
            sync_pb2.ClaimAnswer(
                request_id=claim.request_id, refusal=f"VIF {claim.vif_uuid} can't be granted now: {error.sentence}"
            )
            for claim in claims
        ], [tell]


def _answer_together(store: Store, asker: Asker, claims: Sequence[Claim], *, now_ms: int) -> _Answered:
    decisions: list[Grant | Refusal] = []
    with store.transaction() as transaction:
        world = transaction.world
        for claim in claims:
            decided = decide_claim(world, host=asker.host, claim=claim, new_port_uuid=uuid4(), now_ms=now_ms)
            if isinstance(decided, Grant):
                decided = _unreadable(world, asker, decided) or decided
            if isinstance(decided, Grant):
                _put_grant(transaction, decided)
            decisions.append(decided)
        # Encoded when all are decided: what a host is told is what is committed.
        decided_of = list(zip(claims, decisions, strict=True))
        answers = [_answer(world, claim, decided) for claim, decided in decided_of]
    return answers, [partial(_log_claim, asker.host, claim, decided) for claim, decided in decided_of]


def _unreadable(world: World, asker: Asker, grant: Grant) -> Refusal | None:
    ports = (grant.port, *subports_of(world, grant.port)) if asker.unreadable else ()
    networks = (world.networks[port.network_uuid] for port in ports)
    of_grant = [(f"network {one.name}", one) for one in networks] + [(f"port {one.name}", one) for one in ports]
    for name, item in of_grant:
        missing = words_of(item) & asker.unreadable
        if missing:
            return Refusal(f"{name} can't be used here: {too_old(asker.agent, missing)}")
    return None


def _put_grant(transaction: Transaction, grant: Grant) -> None:
    world, port, location = transaction.world, grant.port, grant.location
    if world.ports.get(port.uuid) != port:  # new, or taken over by another VIF
        transaction.put(port)
        edits.settle_learned(transaction, port)
    if world.locations.get(port.uuid) != location:
        edits.put_location(transaction, location)
    if grant.history.made_by or grant.history.vm_uuid:
        transaction.put(grant.history)


def _answer(world: World, claim: Claim, decided: Grant | Refusal) -> sync_pb2.ClaimAnswer:
    if isinstance(decided, Refusal):
        return sync_pb2.ClaimAnswer(request_id=claim.request_id, refusal=decided.sentence, dark=decided.dark)
    uuid = decided.port.uuid
    return sync_pb2.ClaimAnswer(
        request_id=claim.request_id,
        port=codec.encode_object(Object(version=world.versions[Kind.PORT, uuid], body=world.ports[uuid])),
        location=codec.encode_object(Object(version=world.versions[Kind.LOCATION, uuid], body=world.locations[uuid])),
    )


def _log_claim(host: UUID, claim: Claim, decided: Grant | Refusal) -> None:
    if isinstance(decided, Refusal):
        log.info("claim.refused", host=str(host), vif=str(claim.vif_uuid), reason=decided.sentence)
        return
    log.info(
        "claim.granted",
        host=str(host),
        vif=str(claim.vif_uuid),
        port=str(decided.port.uuid),
        created=decided.created,
        incoming=decided.location.incoming_host == host,
        version=decided.location.version,
    )


def too_old(agent: str, words: Collection[str]) -> str:
    """Why *agent* is not given what needs *words* that it can't read."""
    return f"{agent} is too old to read {', '.join(sorted(words))}; upgrade it"


def activate(store: Store, host: UUID, *, port_uuid: UUID, version: int, now_ms: int) -> None:
    """Move the location to *host* if its word is about the location as it is."""

    def decide(world: World) -> Location | Refusal | None:
        return decide_activation(world, host=host, port_uuid=port_uuid, version=version, now_ms=now_ms)

    _decide(store, host, port_uuid, "activation", decide)


def release(store: Store, host: UUID, *, port_uuid: UUID, version: int, why: ReleaseReason, now_ms: int) -> None:
    """Park the port or end the grant, if the host's word is about the location as it is."""

    def decide(world: World) -> Location | Refusal | None:
        return decide_release(world, host=host, port_uuid=port_uuid, version=version, why=why, now_ms=now_ms)

    _decide(store, host, port_uuid, f"release.{why}", decide)


def learn(store: Store, host: UUID, word: Learned, *, since: str) -> None:
    """Take what *host* has learned of a port, if it is its to say."""
    try:
        with store.transaction() as transaction:
            for row in learned_rows(transaction.world, host=host, word=word, since=since):
                edits.put_learned(transaction, row)
                refused = {one.address: one.refused for one in row.addresses if one.refused}
                refused |= {one.mac: one.refused for one in row.macs if one.refused}
                counts = {"addresses": len(row.addresses), "macs": len(row.macs)}
                log.info("learned", port=str(row.port_uuid), **counts, refused=refused)
    except NetmgrError as error:
        if error.status >= 500:
            raise
        log.warning("learned.ignored", host=str(host), port=str(word.port_uuid), reason=error.sentence)


def retire(store: Store, host: UUID, *, port_uuid: UUID, version: int) -> None:
    """Delete the port if it is one of those that go with what was attached to them."""
    with store.transaction() as transaction:
        port = transaction.world.ports.get(port_uuid)
        if port is None:
            return
        try:
            edits.retire_port(transaction, port, host=host, version=version)
        except NetmgrError as error:
            log.warning("port.not_retired", host=str(host), port=str(port_uuid), reason=error.sentence)
            return
    log.info("port.retired", host=str(host), port=str(port_uuid), name=port.name)


def note_pnics(store: Store, host: UUID, pnics: tuple[str, ...]) -> None:
    """Write down which PNICs the host has, if they are others than before."""
    with store.transaction() as transaction:
        record = transaction.world.hosts.get(host)
        if record is not None and set(record.pnics) != set(pnics):
            log.info("host.pnics_changed", host=record.name, before=record.pnics, after=pnics)
            transaction.put(replace(record, pnics=pnics))


def _decide(
    store: Store, host: UUID, port_uuid: UUID, what: str, decide: Callable[[World], Location | Refusal | None]
) -> None:
    with store.transaction() as transaction:
        decided = decide(transaction.world)
        if isinstance(decided, Location):
            edits.put_location(transaction, decided)
    if isinstance(decided, Refusal):
        log.warning("location.ignored", what=what, host=str(host), port=str(port_uuid), reason=decided.sentence)
    elif decided is not None:
        log.info("location.moved", what=what, host=str(host), port=str(port_uuid), version=decided.version)
