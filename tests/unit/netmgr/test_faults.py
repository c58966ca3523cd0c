"""netmgr killed in the middle of a port's beginning: what was decided stays decided, what was asked is asked again.

(That nothing is left of what was not committed is shown in test_store.)
"""

from __future__ import annotations

import asyncio
import signal
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import httpx
import pytest

from netmgr.contract.proto import sync_pb2, sync_pb2_grpc
from netmgr.identity import make_request
from tests.support.netmgr_daemon import PROGRAM, Daemon, daemon

# The answer to the first claim is made, what it grants is on disk, and nobody is told.
DIES_BEFORE_ITS_ANSWER = """
import os, signal
from netmgr.sync import decisions
decide = decisions.answer_claims
def die(answers):
    assert not answers[0].refusal, answers[0].refusal
    os.kill(os.getpid(), signal.SIGKILL)
def answer_claims(*args, answered, **kwargs):
    return decide(*args, answered=die, **kwargs)
decisions.answer_claims = answer_claims
"""
# The port is created with its location, and the commit is on disk; the caller has no answer.
DIES_AFTER_CREATING_A_PORT = """
import os, signal
from netmgr import service
create = service.create_port
def create_port(*args, **kwargs):
    create(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
service.create_port = create_port
"""


@dataclass
class Host:
    """A host of zone a that has joined."""

    uuid: str
    ca_pem: str
    key_pem: str
    cert_pem: str

    def claim(self, running: Daemon, **claim: str) -> sync_pb2.ClaimAnswer:
        """Connect and ask.

        Raises:
            grpc.aio.AioRpcError: the manager died.
        """

        async def ask() -> sync_pb2.ClaimAnswer:
            files = (self.ca_pem.encode(), self.key_pem.encode(), self.cert_pem.encode())
            options = [("grpc.ssl_target_name_override", "netmgr"), ("grpc.use_local_subchannel_pool", 1)]
            address = f"127.0.0.1:{running.ready['sync_port']}"
            async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(*files), options) as channel:
                call = sync_pb2_grpc.SyncStub(channel).Stream()
                hello = sync_pb2.Hello(host_uuid=self.uuid, boot_id="b1")
                await call.write(sync_pb2.HostMessage(hello=hello))
                await call.write(sync_pb2.HostMessage(claim=sync_pb2.Claim(request_id=1, intent="start", **claim)))
                async with asyncio.timeout(10):
                    while True:
                        message = await call.read()
                        if message is grpc.aio.EOF:
                            raise grpc.aio.AioRpcError(await call.code(), grpc.aio.Metadata(), grpc.aio.Metadata())
                        if message.WhichOneof("body") == "answer":
                            return message.answer

        return asyncio.run(ask())


def ok(answer: httpx.Response) -> Any:
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


def scene(running: Daemon, client: httpx.Client, *, attach_mode: str = "auto") -> tuple[Host, str]:
    """Zone a with one host, and the UUID of network blue."""
    uuid = str(uuid4())
    ok(client.post("/api/v1/zones", json={"name": "a"}))
    switch = {"name": "s", "zones": ["a"], "vtep_pool": "10.200.0.0/24", "mtu": 1650}
    ok(client.post("/api/v1/switches", json=switch))
    blue = ok(client.post("/api/v1/networks", json={"name": "blue", "zone": "a", "attach_mode": attach_mode}))
    token = ok(client.post("/api/v1/tokens", json={"name": "h1", "zones": ["a"]}))["token"]
    request, key = make_request(uuid)
    trust = ssl.create_default_context(cadata=client.get("/api/v1/ca").text)
    body = {"token": token, "csr_pem": request, "host_uuid": uuid, "pnics": ["eth0"]}
    joined = httpx.post(f"{running.url}/api/v1/join", json=body, verify=trust).json()
    return Host(uuid, joined["ca_pem"], key, joined["cert_pem"]), blue["uuid"]


def dies(running: Daemon) -> None:
    running.process.wait(10)
    assert running.process.returncode == -signal.SIGKILL


def test_claim_whose_answer_was_lost_gets_the_same_port_and_location_when_repeated(tmp_path: Path) -> None:
    with daemon(tmp_path, program=DIES_BEFORE_ITS_ANSWER + PROGRAM) as running, running.client() as client:
        host, blue = scene(running, client)
        claim = {"vif_uuid": str(uuid4()), "network_uuid": blue, "mac": "52:54:00:00:00:01", "vm_name": "web"}
        with pytest.raises(grpc.aio.AioRpcError):
            host.claim(running, **claim)
        dies(running)
    with daemon(tmp_path) as running, running.client() as client:
        (granted,) = ok(client.get("/api/v1/ports"))
        assert (granted["name"], granted["host"], granted["location"]) == ("web", "h1", "held")
        answer = host.claim(running, **claim)
        assert not answer.refusal
        assert answer.port.port.uuid == granted["uuid"]
        assert answer.location.location.version == granted["location_version"]
        assert len(ok(client.get("/api/v1/ports"))) == 1


def test_port_that_was_created_before_the_manager_died_can_be_found_attached_and_claimed(tmp_path: Path) -> None:
    port, vif = {"name": "web", "network": "blue", "mac": "52:54:00:00:00:01"}, str(uuid4())
    with daemon(tmp_path, program=DIES_AFTER_CREATING_A_PORT + PROGRAM) as running, running.client() as client:
        host, _blue = scene(running, client, attach_mode="manual")
        with pytest.raises(httpx.TransportError):
            client.post("/api/v1/ports", json=port)
        dies(running)
    with daemon(tmp_path) as running, running.client() as client:
        assert "exists already" in client.post("/api/v1/ports", json=port).json()["error"]
        found = ok(client.get("/api/v1/ports/web"))
        assert (found["vif_uuid"], found["location"]) == (None, "unbound")
        assert "attached to no port" in host.claim(running, vif_uuid=vif, network_uuid=found["network_uuid"]).refusal
        ok(client.post("/api/v1/ports/web/attach", json={"vif_uuid": vif}))
        answer = host.claim(running, vif_uuid=vif, mac=port["mac"])
        assert answer.location.location.holder_host == host.uuid
