"""The gRPC server: Sync and OpaqueView behind mutual TLS.

A caller without a certificate of this CA does not get past the handshake. Keepalive finds a silent host within 15 s
(a ping after 10 s of silence, 5 s for its answer); hosts may ping every 5 s.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import structlog

from netmgr.contract.codec import ContractError
from netmgr.contract.proto import opaque_view_pb2_grpc, sync_pb2, sync_pb2_grpc
from netmgr.identity import Identity
from netmgr.model import NetmgrError
from netmgr.sync.admission import Refused, admit, greeting_of, peer_of_call
from netmgr.sync.hub import Hub
from netmgr.sync.session import Session
from netmgr.sync.view import ManagerView

__all__ = ["SyncServer"]

_HELLO_S_MAX = 10.0
_CATCH_UP_S_MAX = 10.0
_MESSAGE_BYTES_MAX = 16 * 1024 * 1024
_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
    ("grpc.so_reuseport", 0),  # a second manager on the port is an error, not a silent partner
)

log = structlog.get_logger(__name__)


class SyncServer:
    """Listens from `start` to `stop`; `port` is the one it got."""

    def __init__(self, hub: Hub, identity: Identity) -> None:
        self._hub = hub
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers((_sync_handler(_Sync(hub)),))
        opaque_view_pb2_grpc.add_OpaqueViewServicer_to_server(ManagerView(hub), self._server)  # type: ignore[no-untyped-call]
        self._credentials = grpc.ssl_server_credentials(
            [(identity.key_pem.encode(), identity.cert_pem.encode())],
            root_certificates=identity.ca_pem.encode(),
            require_client_auth=True,
        )
        self.port = 0

    async def start(self, address: str) -> None:
        """Listen on *address* (`host:port`; port 0 takes a free one).

        Raises:
            NetmgrError: the address can't be had.
        """
        try:
            self.port = self._server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            await self._server.stop(0)
            raise NetmgrError(f"sync: can't listen on {address}: {error}; is another netmgr running?") from None
        await self._server.start()

    async def stop(self, grace_s: float = 0.3) -> None:
        """End every stream, so that hosts connect elsewhere at once, and stop listening."""
        self._hub.end_all(Refused(grpc.StatusCode.UNAVAILABLE, "the manager is stopping; connect again"))
        await self._server.stop(grace_s)


def _sync_handler(servicer: _Sync) -> grpc.GenericRpcHandler:
    """What protoc's code would register, but for messages that are bytes already: one for many hosts."""
    stream = grpc.stream_stream_rpc_method_handler(
        servicer.Stream, request_deserializer=sync_pb2.HostMessage.FromString, response_serializer=_to_bytes
    )
    name = sync_pb2.DESCRIPTOR.services_by_name["Sync"].full_name
    return grpc.method_handlers_generic_handler(name, {"Stream": stream})


def _to_bytes(message: sync_pb2.ManagerMessage | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


class _Sync(sync_pb2_grpc.SyncServicer):
    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def Stream(
        self,
        request_iterator: AsyncIterator[sync_pb2.HostMessage],
        context: grpc.aio.ServicerContext[sync_pb2.HostMessage, sync_pb2.ManagerMessage],
    ) -> None:
        try:
            await self._serve(request_iterator, context)
        except Refused as refused:
            log.info("stream.ended", peer=context.peer(), code=refused.code.name, reason=refused.sentence)
            await context.abort(refused.code, refused.sentence)

    async def _serve(
        self,
        messages: AsyncIterator[sync_pb2.HostMessage],
        context: grpc.aio.ServicerContext[sync_pb2.HostMessage, sync_pb2.ManagerMessage],
    ) -> None:
        peer = peer_of_call(context.auth_context())
        messages = aiter(messages)
        try:
            async with asyncio.timeout(_HELLO_S_MAX):
                first = await anext(messages)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Refused(grpc.StatusCode.DEADLINE_EXCEEDED, f"no Hello within {_HELLO_S_MAX:.0f} s") from None
        if first.WhichOneof("body") != "hello":
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "HostMessage: the first message of a stream is Hello")
        try:
            greeting = greeting_of(first.hello)
            record, revision = await asyncio.to_thread(admit, self._hub.store, peer, greeting)
            await self._hub.reach(revision, timeout_s=_CATCH_UP_S_MAX)
        except ContractError as error:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from None
        except NetmgrError as error:
            raise Refused(grpc.StatusCode.UNAVAILABLE, error.sentence) from None
        except TimeoutError:
            raise Refused(grpc.StatusCode.UNAVAILABLE, "the manager's store does not answer; connect again") from None
        if self._hub.stopping.is_set():
            raise Refused(grpc.StatusCode.UNAVAILABLE, "the manager is stopping; connect again")
        session = Session(self._hub, peer, greeting, record.name)
        await self._hub.add(session, agent_version=greeting.agent_version)
        log.info("host.connected", host=record.name, have=len(greeting.have), agent=greeting.agent_version)
        try:
            await session.run(messages, context.write)  # type: ignore[arg-type]  # bytes too: `_to_bytes`
        finally:
            log.info("host.lost", host=record.name)
