"""What the host's end of the stream makes of its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from hostagent.identity import Identity
from hostagent.outbox import Outbox
from hostagent.state import State
from hostagent.sync_client import SyncClient
from netmgr.contract.codec import encode_object
from netmgr.contract.proto import objects_pb2, sync_pb2
from netmgr.contract.types import Object, OpaqueNetwork


class Quiet:
    """A listener that is not told anything here."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **more: None


def client(tmp_path: Path) -> SyncClient:
    identity = Identity(host_uuid=uuid4(), host_name="h1", managers=("192.0.2.1:7444",))
    state = State(tmp_path / "state.db")
    return SyncClient(identity=identity, state=state, listener=Quiet(), boot_id="b", agent_version="1")


def fails_with(sync: SyncClient, monkeypatch: pytest.MonkeyPatch, *errors: BaseException) -> str:
    """Why there is no stream after these, one attempt each."""
    waiting = list(errors)

    async def main() -> str:
        tried_all = asyncio.Event()

        async def attempt(_address: str) -> None:
            if waiting:
                raise waiting.pop(0)
            tried_all.set()
            await asyncio.sleep(60)

        monkeypatch.setattr(sync, "_run_stream", attempt)
        sync.start()
        await asyncio.wait_for(tried_all.wait(), 10)
        why = sync.why_away
        await sync.close()
        return why

    return asyncio.run(main())


def rpc(code: grpc.StatusCode, details: str) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata(), details=details)


def test_a_refusal_that_was_heard_once_is_still_told_when_the_transport_blurs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = rpc(grpc.StatusCode.PERMISSION_DENIED, "host h1 is not enrolled; join it again")
    blurred = rpc(grpc.StatusCode.INTERNAL, "Failed grpc_call_start_batch")
    sync = client(tmp_path)
    assert "internal" in fails_with(sync, monkeypatch, blurred)
    why = fails_with(client(tmp_path), monkeypatch, refused, blurred)
    assert why == "the network manager at 192.0.2.1:7444 refuses this host: host h1 is not enrolled; join it again"
    gone = rpc(grpc.StatusCode.UNAVAILABLE, "connection refused")
    assert "can't be reached" in fails_with(client(tmp_path), monkeypatch, refused, gone)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), asyncio.InvalidStateError("RPC already finished.")])
def test_whatever_ends_a_stream_another_one_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    away = rpc(grpc.StatusCode.UNAVAILABLE, "connection refused")
    assert "can't be reached" in fails_with(client(tmp_path), monkeypatch, error, away)


def test_an_object_that_can_not_be_read_is_rejected_and_the_rest_of_its_update_taken(tmp_path: Path) -> None:
    """As a manager pushes it that is newer, and does not know what this agent reads."""
    sync = client(tmp_path)
    network = OpaqueNetwork(uuid=uuid4(), name="blue", zone_uuid=uuid4(), switch_uuid=uuid4(), segment_id=5000)
    good, bad = encode_object(Object(version=7, body=network)), encode_object(Object(version=7, body=network))
    strange = str(uuid4())
    bad.network.uuid, bad.network.type = strange, "stt"
    unknown = objects_pb2.Object(version=7)
    outbox = Outbox()

    def told(update: sync_pb2.Update) -> dict[str, str]:
        sync._take(update, set(), strange_store=False)
        sync._outbox = outbox
        sync.acknowledge(update.revision, ())
        ((_, message),) = outbox._waiting.items()
        return {rejection.object.uuid: rejection.reason for rejection in message.ack.rejections}

    rejected = told(sync_pb2.Update(revision=7, upserts=[bad, unknown, good], last=True))
    assert set(rejected) == {strange}
    assert "this agent (version 1) can't read it: OpaqueNetwork.type: 'stt'" in rejected[strange]
    assert [ref.uuid for ref in sync._state.have()] == [network.uuid]
    bad.network.type = "vxlan"
    assert told(sync_pb2.Update(revision=8, upserts=[bad], last=True)) == {}
    assert {str(ref.uuid) for ref in sync._state.have()} == {str(network.uuid), strange}
    bad.network.type = "stt"
    assert set(told(sync_pb2.Update(revision=9, upserts=[bad], last=True))) == {strange}
    gone = objects_pb2.ObjectRef(kind="network", uuid=strange)
    assert told(sync_pb2.Update(revision=10, removals=[gone], last=True)) == {}


def test_networks_that_are_wanted_while_a_stream_is_being_opened_are_subscribed_to(tmp_path: Path) -> None:
    """Its Hello was written before: with the manager's host away, an attempt to connect takes long."""
    sync, first, more = client(tmp_path), uuid4(), uuid4()
    sync.subscribe([first])

    async def opened(*, wanted: list[UUID]) -> list[list[str]]:
        outbox = Outbox()
        assert sync._hello().network_uuids == [str(first)]
        sync.subscribe(wanted)

        async def stream() -> AsyncIterator[sync_pb2.ManagerMessage]:
            yield sync_pb2.ManagerMessage(welcome=sync_pb2.Welcome(store_id="s", revision=1))

        await sync._read(stream(), outbox, "192.0.2.1:7444")
        sync._outbox = None
        return [list(one.subscribe.network_uuids) for one in outbox._waiting.values()]

    assert asyncio.run(opened(wanted=[first])) == []
    assert asyncio.run(opened(wanted=[first, more])) == [sorted([str(first), str(more)])]


def test_networks_count_as_told_once_the_manager_has_told_the_whole(tmp_path: Path) -> None:
    sync, blue, red = client(tmp_path), uuid4(), uuid4()
    sync.subscribe([blue])
    sync._hello()

    def told(*, last: bool) -> frozenset[UUID] | None:
        sync._take(sync_pb2.Update(revision=7, last=last, initial=True), set(), strange_store=False)
        return sync._state.told

    assert told(last=False) is None
    assert told(last=True) == {blue}
    sync.subscribe([red])
    assert told(last=True) == {blue}, "there is no stream on which to ask for it"
    sync._outbox = Outbox()
    sync.subscribe([blue, red])
    assert sync._state.told == {blue}
    assert told(last=True) == {blue, red}
