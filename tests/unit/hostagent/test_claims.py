"""Claims that wait for a tap: what libvirtd took with it when it died is waited for no more."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from hostagent.claims import Claims
from hostagent.control import HookRequest
from hostagent.identity import Identity
from hostagent.state import State
from hostagent.sync_client import SyncClient
from netmgr.contract.types import HostConfig, Object
from tests.support.hostagent_worlds import location, named, network, port
from tests.unit.hostagent.test_withdrawn import Nobody

HOST, VM = named("h1"), uuid4()
NET, PORT = network(), port("web", 1)


@pytest.mark.parametrize(
    ("active", "lost_after_s", "waits"),
    [([], 1.0, False), ([VM], 1.0, True), ([], -1.0, True)],
    ids=["its start died with libvirtd", "its guest is there", "it was granted to the new libvirtd"],
)
def test_a_grant_waits_for_its_tap_unless_its_start_died_with_libvirtd(
    tmp_path: Path, active: list[UUID], lost_after_s: float, waits: bool
) -> None:
    async def run() -> bool:
        state = State(tmp_path / "state.db")
        state.take(
            [Object(version=1, body=body) for body in (NET, HostConfig(uuid=HOST, name="h1"), PORT)]
            + [Object(version=1, body=location(PORT, "h1", parked=True))],
            revision=1,
        )
        identity = Identity(host_uuid=HOST, host_name="h1", managers=("127.0.0.1:1",))
        sync = SyncClient(identity=identity, state=state, listener=Nobody(), boot_id="b", agent_version="0")

        async def realized(_network: UUID) -> str:
            return ""

        claims = Claims(host_uuid=HOST, state=state, sync=sync, realized=realized, changed=lambda: None)
        request = HookRequest(
            verb="port-created",
            network_uuid=NET.uuid,
            vif_uuid=PORT.vif_uuid,
            mac=PORT.mac,
            vm_uuid=VM,
            vm_name="web",
        )
        assert await claims.port_created(request) == ""
        assert PORT.vif_uuid in claims.granted_until
        claims.libvirt_is_back(active, away_since=time.monotonic() + lost_after_s)
        found = PORT.vif_uuid in claims.granted_until
        await claims.close()
        state.close()
        return found

    assert asyncio.run(run()) is waits
