"""`netmgr run` as a process: ready, one at a time, stopped at once, killed at any time."""

import asyncio
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import grpc
import httpx
import pytest

from netmgr.contract.proto import opaque_view_pb2, opaque_view_pb2_grpc, sync_pb2, sync_pb2_grpc
from netmgr.identity import certificate_sha256, make_request, parse_token_text
from tests.support.netmgr_daemon import PROGRAM, ROOT, Daemon, daemon


@contextmanager
def notifications(path: Path) -> Iterator[socket.socket]:
    """systemd's end of sd_notify."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listener:
        listener.bind(str(path))
        listener.settimeout(5)
        yield listener


def test_first_start_makes_a_private_state_directory_and_an_operator_who_may_ask(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with daemon(state) as running:
        assert state.stat().st_mode & 0o777 == 0o700
        assert (state / "operator" / "key.pem").stat().st_mode & 0o777 == 0o600
        assert (state / "operator").stat().st_mode & 0o777 == 0o700
        with running.client() as client:
            assert client.get("/api/v1/networks").status_code == 200
            assert client.post("/api/v1/zones", json={"name": "a"}).is_success
            deadline = time.monotonic() + 5
            metrics = ""
            while 'netmgr_objects{kind="zone"} 1.0' not in metrics:  # the commit wakes the push loop a moment later
                assert time.monotonic() < deadline, metrics
                metrics = client.get("/metrics").text
            assert "netmgr_hosts_connected 0.0" in metrics


def test_host_joins_connects_is_pushed_its_span_and_acknowledges(tmp_path: Path) -> None:
    uuid = str(uuid4())

    async def connect(running: Daemon, *files: str) -> sync_pb2.Update:
        credentials = grpc.ssl_channel_credentials(*(text.encode() for text in files))
        address, options = f"127.0.0.1:{running.ready['sync_port']}", [("grpc.ssl_target_name_override", "netmgr")]
        async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
            call = sync_pb2_grpc.SyncStub(channel).Stream()
            await call.write(sync_pb2.HostMessage(hello=sync_pb2.Hello(host_uuid=uuid, boot_id="b1")))
            assert (await call.read()).welcome.store_id == running.ready["store_id"]
            update = (await call.read()).update
            await call.write(sync_pb2.HostMessage(ack=sync_pb2.Ack(revision=update.revision)))
            async with httpx.AsyncClient(verify=running.trust(), base_url=running.url) as client:
                async with asyncio.timeout(5):
                    while "netmgr_hosts_in_sync 1.0" not in (await client.get("/metrics")).text:
                        pass
            return update  # type: ignore[no-any-return]

    with daemon(tmp_path) as running, running.client() as client:
        assert client.post("/api/v1/zones", json={"name": "a"}).is_success
        answer = client.post("/api/v1/tokens", json={"name": "h1", "zones": ["a"]})
        ca_pem = client.get("/api/v1/ca").text
        token = parse_token_text(answer.json()["token"])
        assert token.ca_sha256 == certificate_sha256(ca_pem)
        request, key = make_request(uuid)
        body = {"token": answer.json()["token"], "csr_pem": request, "host_uuid": uuid, "pnics": ["eth0"]}
        trust = ssl.create_default_context(cadata=ca_pem)
        joined = httpx.post(f"{running.url}/api/v1/join", json=body, verify=trust).json()
        update = asyncio.run(connect(running, joined["ca_pem"], key, joined["cert_pem"]))
        assert joined["sync_port"] == running.ready["sync_port"]
        assert [item.WhichOneof("body") for item in update.upserts] == ["host", "zone"]
        assert update.upserts[0].host.name == "h1"


def test_metrics_need_a_certificate(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        context = ssl.create_default_context(cafile=str(tmp_path / "operator" / "ca.pem"))
        assert httpx.get(f"{running.url}/metrics", verify=context).status_code == 401


def test_stop_takes_less_than_a_second_with_a_watcher_and_an_idle_connection(tmp_path: Path) -> None:
    async def watch(running: Daemon) -> grpc.StatusCode:
        identity = tmp_path / "operator"
        files = [(identity / name).read_bytes() for name in ("ca.pem", "key.pem", "cert.pem")]
        options = [("grpc.ssl_target_name_override", "netmgr")]
        address = f"127.0.0.1:{running.ready['sync_port']}"
        async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(*files), options=options) as channel:
            call = opaque_view_pb2_grpc.OpaqueViewStub(channel).Watch(opaque_view_pb2.ViewRequest())
            view = await call.read()
            assert view.source == "manager"
            status, took_s = await asyncio.to_thread(running.stop)
            assert status == 0
            assert took_s < 1
            return await call.code()  # type: ignore[no-any-return]

    with daemon(tmp_path) as running, running.client() as client:
        client.get("/api/v1/status")  # and keep the connection
        assert asyncio.run(watch(running)) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_what_was_acknowledged_is_there_after_any_end(tmp_path: Path, number: int) -> None:
    with daemon(tmp_path) as running:
        with running.client() as client:
            assert client.post("/api/v1/zones", json={"name": "kept"}).is_success
        running.stop(number)
        store_id = running.ready["store_id"]
    with daemon(tmp_path) as running, running.client() as client:  # the operator's identity is still the same
        assert [zone["name"] for zone in client.get("/api/v1/zones").json()] == ["kept"]
        assert running.ready["store_id"] == store_id


def test_second_manager_on_one_state_directory_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with daemon(tmp_path):
        second = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path), "0"], cwd=ROOT, capture_output=True, text=True, timeout=30
        )
    assert second.returncode == 1
    assert f"state directory {tmp_path} is in use by another netmgr" in second.stderr


def test_taken_port_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        tried = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path), str(port)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert tried.returncode == 1
    assert f"can't listen on 127.0.0.1:{port}" in tried.stderr
    assert "Traceback" not in tried.stderr


def test_systemd_is_told_of_readiness_and_fed_while_the_store_answers(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with notifications(path) as listener:
        with daemon(tmp_path / "state", NOTIFY_SOCKET=str(path), WATCHDOG_USEC="100000", WATCHDOG_PID="") as running:
            said = {listener.recv(100) for _ in range(3)}
            assert said == {b"READY=1", b"WATCHDOG=1"}
            running.stop()
        said = set()
        listener.settimeout(0.2)
        while b"STOPPING=1" not in said:
            said.add(listener.recv(100))
