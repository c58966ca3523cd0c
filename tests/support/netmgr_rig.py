"""A real store, CA, hub and gRPC server on loopback, and the host's end of a stream, for tests of the manager."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import grpc

from netmgr.api.ports import Role
from netmgr.contract import codec
from netmgr.contract.proto import opaque_view_pb2_grpc, sync_pb2, sync_pb2_grpc
from netmgr.contract.reading import WORDS
from netmgr.contract.types import Claim, ClaimIntent, Kind, Object, Ref, Tickets, ref_of
from netmgr.identity import Identity, certificate_sha256, make_request
from netmgr.model import HostRecord, Row
from netmgr.pki import CertificateAuthority
from netmgr.store import Store
from netmgr.sync.fleet import Fleet
from netmgr.sync.hub import Hub
from netmgr.sync.server import SyncServer
from tests.support.netmgr_store import migrated_sqlite
from tests.support.netmgr_worlds import BASE

NOW = datetime.now(UTC)
Key = tuple[Kind, UUID]


class Closed(Exception):
    """The manager ended the stream."""

    def __init__(self, code: grpc.StatusCode | None, sentence: str) -> None:
        super().__init__(f"{code}: {sentence}")
        self.code = code
        self.sentence = sentence


@dataclass
class Rig:
    """A running manager without its REST part."""

    directory: Path
    store: Store
    authority: CertificateAuthority
    hub: Hub
    fleet: Fleet
    server: SyncServer
    identities: dict[tuple[str, str], Identity] = field(default_factory=dict)

    def put(self, *rows: Row) -> int:
        """One transaction; its revision."""
        with self.store.transaction() as transaction:
            for row in rows:
                transaction.put(row)
            return transaction.revision

    def delete(self, kind: Kind, uuid: UUID) -> int:
        with self.store.transaction() as transaction:
            transaction.delete(kind, uuid)
            return transaction.revision

    def identity(self, name: str, role: Role, authority: CertificateAuthority | None = None) -> Identity:
        """An identity of the rig's CA, the same at each call; of another CA, always new."""
        if authority is None and (name, role) in self.identities:
            return self.identities[name, role]
        request, key = make_request(name)
        signer = authority or self.authority
        pem = signer.sign(csr_pem=request, role=role, name=name)
        made = Identity(ca_pem=self.authority.ca_pem(), cert_pem=pem, key_pem=key)
        if authority is None:
            self.identities[name, role] = made
        return made

    def channel(self, identity: Identity) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(
            identity.ca_pem.encode(), identity.key_pem.encode(), identity.cert_pem.encode()
        )
        options = [("grpc.ssl_target_name_override", "netmgr"), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.aio.secure_channel(f"127.0.0.1:{self.server.port}", credentials, options=options)

    def view(self, identity: Identity) -> opaque_view_pb2_grpc.OpaqueViewStub:
        return opaque_view_pb2_grpc.OpaqueViewStub(self.channel(identity))

    def host(self, record: HostRecord, **more: object) -> HostEnd:
        identity = more.pop("identity", None) or self.identity(str(record.uuid), Role.HOST)
        return HostEnd(rig=self, uuid=record.uuid, identity=identity, **more)  # type: ignore[arg-type]

    def enrol(self, record: HostRecord) -> HostRecord:
        """Write the fingerprint of the host's certificate down, as join does."""
        pem = self.identity(str(record.uuid), Role.HOST).cert_pem
        enrolled = replace(record, certificate_sha256=certificate_sha256(pem))
        self.put(enrolled)
        return enrolled


@dataclass
class HostEnd:
    """The host's end of a stream: sends what the test says, keeps what it is pushed."""

    rig: Rig
    uuid: UUID
    identity: Identity
    boot_id: str = "boot-1"
    store_id: str = ""
    have: dict[Key, Object] = field(default_factory=dict)
    subscribed: set[UUID] = field(default_factory=set)
    updates: list[sync_pb2.Update] = field(default_factory=list)
    answers: dict[int, sync_pb2.ClaimAnswer] = field(default_factory=dict)
    answered: list[list[int]] = field(default_factory=list)  # numbers of the claims that each message answered
    tickets: list[Tickets] = field(default_factory=list)
    revision: int = 0
    auto_ack: bool = True

    async def connect(self, **hello: object) -> HostEnd:
        """Open a stream and read until it is level.

        Raises:
            Closed: it was refused.
        """
        self.channel = self.rig.channel(self.identity)
        self.call = sync_pb2_grpc.SyncStub(self.channel).Stream()
        self.updates.clear()
        fields = {
            "host_uuid": str(self.uuid),
            "boot_id": self.boot_id,
            "agent_version": "test",
            "store_id": self.store_id,
            "have": [codec.encode_ref(ref_of(x)) for x in self.have.values()],
            "network_uuids": [str(x) for x in self.subscribed],
            "reads": sorted(WORDS),
            **hello,
        }
        await self.send(hello=sync_pb2.Hello(**fields))  # type: ignore[arg-type]
        await self.until(lambda: self.updates and self.updates[-1].last)
        assert all(update.initial for update in self.updates)
        return self

    async def send(self, **body: object) -> None:
        try:
            await self.call.write(sync_pb2.HostMessage(**body))  # type: ignore[arg-type]
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._closed()

    async def until(self, condition: object, timeout_s: float = 5.0) -> None:
        """Read until *condition* holds.

        Raises:
            Closed: the manager ended the stream first.
        """
        async with asyncio.timeout(timeout_s):
            while not condition():  # type: ignore[operator]
                await self.read()

    async def read(self) -> sync_pb2.ManagerMessage:
        try:
            message = await self.call.read()
        except grpc.aio.AioRpcError:
            await self._closed()
        if message is grpc.aio.EOF:
            await self._closed()
        await self._take(message)
        return message  # type: ignore[no-any-return]

    async def claim(self, vif: UUID, network: UUID | None, mac: str, intent: ClaimIntent, number: int = 1) -> object:
        asked = Claim(request_id=number, vif_uuid=vif, network_uuid=network, mac=mac, vm_name="vm1", intent=intent)
        await self.send(claim=codec.encode(asked))
        await self.until(lambda: number in self.answers)
        return self.answers.pop(number)

    async def claim_together(self, *claims: Claim) -> list[sync_pb2.ClaimAnswer]:
        """Ask in one message; the answers, in the order of *claims*, which have numbers of their own."""
        await self.send(claims=sync_pb2.Claims(claims=[codec.encode(claim) for claim in claims]))
        await self.until(lambda: all(claim.request_id in self.answers for claim in claims))
        return [self.answers.pop(claim.request_id) for claim in claims]

    async def ended(self, timeout_s: float = 5.0) -> Closed:
        """How the manager ended the stream.

        A write that meets the end makes grpc.aio report its own INTERNAL instead of the manager's status, so this end
        keeps quiet; a real host learns the sentence when it connects again.
        """
        self.auto_ack = False
        try:
            await self.until(lambda: False, timeout_s)
        except Closed as closed:
            return closed
        raise AssertionError("unreachable")

    async def close(self) -> None:
        self.call.cancel()
        await self.channel.close()

    async def _take(self, message: sync_pb2.ManagerMessage) -> None:
        body = message.WhichOneof("body")
        if body == "welcome":
            if message.welcome.store_id != self.store_id:
                self.have.clear()
            self.store_id = message.welcome.store_id
        elif body in ("answer", "answers"):
            answers = [message.answer] if body == "answer" else message.answers.answers
            self.answered.append([answer.request_id for answer in answers])
            self.answers.update((answer.request_id, answer) for answer in answers)
            for given in (part for answer in answers for part in (answer.port, answer.location)):
                if given.HasField("body"):
                    self._put(codec.decode_object(given))
        elif body == "tickets":
            self.tickets.append(codec.decode(Tickets, message.tickets))
        else:
            update = message.update
            self.updates.append(update)
            for removal in update.removals:
                ref = codec.decode_ref(removal)
                del self.have[ref.kind, ref.uuid]
            for upsert in update.upserts:
                self._put(codec.decode_object(upsert))
            if update.last:
                self.revision = update.revision
                if self.auto_ack:
                    await self.send(ack=sync_pb2.Ack(revision=update.revision))

    def _put(self, item: Object) -> None:
        key = ref_of(item).kind, ref_of(item).uuid
        if key not in self.have or self.have[key].version <= item.version:
            self.have[key] = item

    async def _closed(self) -> None:
        code, details = await self.call.code(), await self.call.details()
        await self.channel.close()
        raise Closed(code, details or "")


def refs(items: Iterable[Object]) -> list[Ref]:
    return sorted(ref_of(item) for item in items)


@asynccontextmanager
async def manager(directory: Path, *rows: Row) -> AsyncIterator[Rig]:
    """A manager over the base world and *rows*, kept in *directory*; a second call there is a restart."""
    store = Store.open(migrated_sqlite(directory))
    with store.transaction() as transaction:
        if not transaction.world.revision:
            for row in (*BASE, *rows):
                transaction.put(row)
    authority = CertificateAuthority.open(directory, now=NOW)
    fleet = Fleet()
    hub = Hub(store, fleet)
    server = SyncServer(hub, authority.server_identity(["127.0.0.1"], now=NOW))
    following = asyncio.ensure_future(hub.run())
    await server.start("127.0.0.1:0")
    try:
        yield Rig(directory, store, authority, hub, fleet, server)
    finally:
        await server.stop(0)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        store.close()


async def eventually(condition: object, timeout_s: float = 5.0) -> None:
    """Wait until *condition* holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110 - a condition of any kind
            await asyncio.sleep(0.005)
