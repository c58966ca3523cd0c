"""What the host's end of the stream makes of its end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from hostagent.identity import Identity
from hostagent.state import State
from hostagent.sync_client import SyncClient


class Quiet:
    """A listener that is not told anything here."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **more: None


def client(tmp_path: Path) -> SyncClient:
    identity = Identity(
        host_uuid=uuid4(),
        host_name="h1",
        managers=("192.0.2.1:7444",),
        manager_name="netmgr",
        pnics=(),
        datapath="system",
        view_address="",
        ca_pem=b"",
        cert_pem=b"",
        key_pem=b"",
    )
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
