"""Claims that wait for a tap, and migrations that libvirt announced: how long each counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch
from uuid import UUID, uuid4

import pytest

from hostagent.claims import UNCLAIMED_S, Claims
from hostagent.control import HookRequest
from hostagent.identity import Identity
from hostagent.state import State
from hostagent.sync_client import SyncClient
from netmgr.contract.types import HostConfig, Object
from tests.support.hostagent_worlds import location, named, network, port
from tests.unit.hostagent.test_withdrawn import Nobody

VM = uuid4()
NET, PORT = network(), port("web", 1)
CREATED = HookRequest(
    verb="port-created", network_uuid=NET.uuid, vif_uuid=PORT.vif_uuid, mac=PORT.mac, vm_uuid=VM, vm_name="web"
)
BEGUN = HookRequest(verb="migrate-begin", vm_uuid=VM)


@asynccontextmanager
async def claims_at(host: str, path: Path) -> AsyncIterator[Claims]:
    """Claims of *host*, without a manager; the port is held by h1, whose guest is stopped."""
    state = State(path / "state.db")
    state.take(
        [Object(version=1, body=body) for body in (NET, HostConfig(uuid=named(host), name=host), PORT)]
        + [Object(version=1, body=location(PORT, "h1", parked=True))],
        revision=1,
    )
    identity = Identity(host_uuid=named(host), host_name=host, managers=("127.0.0.1:1",))
    sync = SyncClient(identity=identity, state=state, listener=Nobody(), boot_id="b", agent_version="0")

    async def realized(_network: UUID) -> str:
        return ""

    claims = Claims(host_uuid=named(host), state=state, sync=sync, realized=realized, changed=lambda: None)
    yield claims
    await claims.close()
    state.close()


@pytest.mark.parametrize(
    ("active", "lost_after_s", "waits"),
    [([], 1.0, False), ([VM], 1.0, True), ([], -1.0, True)],
    ids=["its start died with libvirtd", "its guest is there", "it was granted to the new libvirtd"],
)
def test_a_grant_waits_for_its_tap_unless_its_start_died_with_libvirtd(
    tmp_path: Path, active: list[UUID], lost_after_s: float, waits: bool
) -> None:
    async def run() -> bool:
        async with claims_at("h1", tmp_path) as claims:
            assert await claims.port_created(CREATED) == ""
            assert PORT.vif_uuid in claims.granted_until
            claims.libvirt_is_back(active, away_since=time.monotonic() + lost_after_s)
            return PORT.vif_uuid in claims.granted_until

    assert asyncio.run(run()) is waits


def test_a_start_after_a_migration_that_was_refused_does_not_pass_for_it(tmp_path: Path) -> None:
    """libvirt says nothing of a guest that it did not let in, and its source runs on."""

    async def run() -> None:
        async with claims_at("h2", tmp_path) as claims:
            for _ in range(2):
                claims.migrate_begin(BEGUN)
                assert "web can't migrate here" in await claims.port_created(CREATED)
                assert "web can't start here" in await claims.port_created(CREATED)

    asyncio.run(run())


def test_a_start_after_a_migration_whose_port_libvirt_let_go_does_not_pass_for_it(tmp_path: Path) -> None:
    async def run() -> None:
        async with claims_at("h2", tmp_path) as claims:
            claims.migrate_begin(BEGUN)
            claims.port_deleted(replace(CREATED, verb="port-deleted"))
            assert "web can't start here" in await claims.port_created(CREATED)

    asyncio.run(run())


def test_a_migration_whose_guest_claims_nothing_is_soon_forgotten(tmp_path: Path) -> None:
    async def run() -> None:
        async with claims_at("h2", tmp_path) as claims:
            claims.migrate_begin(BEGUN)
            claims.pursue([], [])
            with patch("hostagent.claims.time.time", return_value=time.time() + UNCLAIMED_S + 1):
                claims.pursue([], [])
            assert "web can't start here" in await claims.port_created(CREATED)

    asyncio.run(run())
