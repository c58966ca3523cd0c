"""Who may open a stream, and which of two machines that claim to be one host.

The certificate says who the host is; the store says whether it is enrolled, with which certificate, and in which boot.
A boot that was not seen before supersedes the one before it: it is written down (one durable write a boot), and the
older one is refused from then on, wherever it connects. So of two machines cloned from one disk the one that booted
last is the host, and the other learns why it is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import grpc

from netmgr.api.ports import Role
from netmgr.contract import codec
from netmgr.contract.codec import ContractError
from netmgr.contract.proto import sync_pb2
from netmgr.contract.types import Ref
from netmgr.identity import Peer, peer_of
from netmgr.model import HostRecord, NetmgrError, World
from netmgr.store import Store

__all__ = ["Greeting", "Refused", "admit", "greeting_of", "peer_of_call", "record_of", "uuid_of", "why_not"]

_PAST_BOOTS_MAX = 16
_TEXT_MAX = 255
_WORDS_MAX = 2000


class Refused(Exception):
    """The call ends with this status; the sentence reaches the caller."""

    def __init__(self, code: grpc.StatusCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """A Hello, checked for form."""

    host_uuid: UUID
    boot_id: str
    agent_version: str
    store_id: str
    have: tuple[Ref, ...]
    network_uuids: frozenset[UUID]
    view_address: str
    reads: tuple[str, ...] = ()


def peer_of_call(auth_context: Mapping[str, Any]) -> Peer:
    """Who calls, by the certificate that TLS has verified."""
    certificates: Sequence[bytes] = auth_context.get("x509_pem_cert", [])
    if len(certificates) != 1:
        raise Refused(grpc.StatusCode.UNAUTHENTICATED, "a client certificate of this manager's CA is needed")
    try:
        return peer_of(certificates[0])
    except NetmgrError as error:
        raise Refused(grpc.StatusCode.UNAUTHENTICATED, error.sentence) from None


def uuid_of(text: str, where: str) -> UUID:
    """The UUID that *text* is, in canonical form.

    Raises:
        ContractError: it is not; the sentence names *where*.
    """
    try:
        value = UUID(text)
        if str(value) == text:
            return value
    except ValueError:
        pass
    raise ContractError(f"{where}: {text!r} is not a UUID in canonical form")


def greeting_of(hello: sync_pb2.Hello) -> Greeting:
    """The checked form of *hello*.

    Raises:
        ContractError: a field does not fit.
    """
    for name in ("boot_id", "agent_version", "store_id", "view_address"):
        if len(getattr(hello, name)) > _TEXT_MAX:
            raise ContractError(f"Hello.{name}: longer than {_TEXT_MAX} characters")
    if len(hello.reads) > _WORDS_MAX or any(len(word) > _TEXT_MAX for word in hello.reads):
        raise ContractError(f"Hello.reads: more than {_WORDS_MAX} words, or one of more than {_TEXT_MAX} characters")
    if not hello.boot_id:
        raise ContractError("Hello.boot_id: empty; it must be new at each boot of the host")
    return Greeting(
        host_uuid=uuid_of(hello.host_uuid, "Hello.host_uuid"),
        boot_id=hello.boot_id,
        agent_version=hello.agent_version,
        store_id=hello.store_id,
        have=tuple(codec.decode_ref(ref) for ref in hello.have),
        network_uuids=frozenset(uuid_of(x, "Hello.network_uuids") for x in hello.network_uuids),
        view_address=hello.view_address,
        reads=tuple(hello.reads),
    )


def record_of(world: World, peer: Peer) -> HostRecord:
    """The enrolled host that *peer* is.

    Raises:
        Refused: it is no host, or not enrolled, or enrolled with another certificate.
    """
    if peer.role is not Role.HOST:
        raise Refused(
            grpc.StatusCode.PERMISSION_DENIED,
            f"certificate {peer.name!r} has role {peer.role}; a stream needs the certificate of a host",
        )
    try:
        record = world.hosts.get(UUID(peer.name))
    except ValueError:
        record = None
    if record is None:
        raise Refused(
            grpc.StatusCode.PERMISSION_DENIED,
            f"host {peer.name} is not enrolled here, it was deleted or belongs to another manager; join it again",
        )
    if record.certificate_sha256 and record.certificate_sha256 != peer.certificate_sha256:
        raise Refused(
            grpc.StatusCode.UNAUTHENTICATED,
            f"host {record.name} ({record.uuid}) has joined again since this certificate was issued; "
            "use the newer one, or join again",
        )
    return record


def why_not(record: HostRecord, boot_id: str) -> str | None:
    """Why this boot of the host is refused; None if it is the newest, or one never seen."""
    if boot_id == record.boot_id or boot_id not in record.past_boot_ids:
        return None
    return (
        f"host {record.name} ({record.uuid}): boot {boot_id} is superseded by boot {record.boot_id}; two machines use "
        "this identity, as after cloning a disk: join one of them anew"
    )


def admit(store: Store, peer: Peer, greeting: Greeting) -> tuple[HostRecord, int]:
    """Let the host in: its record with this boot written down, and the revision at which it is. Blocks.

    Raises:
        Refused: it may not open a stream.
        NetmgrError: the store can't write.
    """
    with store.read() as world:
        record, revision = _checked(world, peer, greeting), world.revision
        known = record == _greeted(record, greeting)
    if known:  # the common case needs no write lock
        return record, revision
    with store.transaction() as transaction:
        record = _greeted(_checked(transaction.world, peer, greeting), greeting)
        transaction.put(record)
        return record, transaction.revision if transaction.changed else transaction.revision - 1


def _checked(world: World, peer: Peer, greeting: Greeting) -> HostRecord:
    record = record_of(world, peer)
    if greeting.host_uuid != record.uuid:
        raise Refused(
            grpc.StatusCode.PERMISSION_DENIED,
            f"Hello speaks for host {greeting.host_uuid}, but the certificate is of host {record.uuid}",
        )
    sentence = why_not(record, greeting.boot_id)
    if sentence:
        raise Refused(grpc.StatusCode.PERMISSION_DENIED, sentence)
    return record


def _greeted(record: HostRecord, greeting: Greeting) -> HostRecord:
    if record.boot_id and record.boot_id != greeting.boot_id:
        past = (*record.past_boot_ids, record.boot_id)[-_PAST_BOOTS_MAX:]
    else:
        past = record.past_boot_ids
    return replace(record, boot_id=greeting.boot_id, past_boot_ids=past, view_address=greeting.view_address)
