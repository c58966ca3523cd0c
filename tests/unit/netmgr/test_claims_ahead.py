"""A host that claims is sent the peers of the network while its grant is being written, and only if it will get one."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from netmgr.contract import codec
from netmgr.contract.proto import sync_pb2
from netmgr.contract.types import Claim, ClaimIntent, Kind, Location
from tests.support.netmgr_rig import Rig, manager
from tests.support.netmgr_worlds import H1, H2, NET_A, PORT, VIF, held, uid, vtep

FREE = replace(PORT, uuid=uid("port-2"), name="vm2", vif_uuid=uid("vif-2"), mac="52:54:00:00:00:02")
CLAIM = Claim(request_id=1, vif_uuid=FREE.vif_uuid, network_uuid=None, mac=FREE.mac, intent=ClaimIntent.START)  # type: ignore[arg-type]


def over(directory: Path, test: Callable[[Rig], Awaitable[None]]) -> None:
    """PORT is held by h2, FREE by nobody."""

    async def run() -> None:
        async with manager(directory, PORT, held(H2), FREE) as rig:
            await test(rig)

    asyncio.run(run())


def test_peers_come_before_the_grant_is_on_disk(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        host = await rig.host(H1).connect()
        other = sqlite3.connect(rig.store.url.removeprefix("sqlite:///"), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")  # the grant waits for this writer
        await host.send(claim=codec.encode(CLAIM))
        await host.until(lambda: (Kind.LOCATION, PORT.uuid) in host.have, timeout_s=3)
        assert (Kind.PORT, PORT.uuid) in host.have
        assert not host.answers
        other.execute("ROLLBACK")
        await host.until(lambda: host.answers and (Kind.LOCATION, FREE.uuid) in host.have)
        body = host.have[Kind.LOCATION, FREE.uuid].body
        assert isinstance(body, Location)
        assert (body.holder_host, body.holder_vtep) == (H1.uuid, vtep(H1))

    over(tmp_path, test)


def test_whoever_will_be_refused_is_sent_nothing(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        host = await rig.host(H1).connect()
        sent = len(host.updates)
        answer = await host.claim(VIF, NET_A.uuid, PORT.mac, ClaimIntent.START)
        assert isinstance(answer, sync_pb2.ClaimAnswer)
        assert answer.refusal
        assert rig.hub._subscribers == {}
        assert len(host.updates) == sent

    over(tmp_path, test)


def test_peers_that_came_in_vain_are_taken_back(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        host = await rig.host(H1).connect()
        with rig.store.transaction() as transaction:  # committed, but the hub does not know it when the claim comes
            transaction.put(replace(held(H2), port_uuid=FREE.uuid, mac=FREE.mac))
            await host.send(claim=codec.encode(CLAIM))
            await host.until(lambda: (Kind.LOCATION, PORT.uuid) in host.have, timeout_s=3)
        await host.until(lambda: host.answers)
        assert "is held by host h2" in host.answers[1].refusal
        await host.until(lambda: (Kind.LOCATION, PORT.uuid) not in host.have)
        assert (Kind.PORT, PORT.uuid) not in host.have

    over(tmp_path, test)
