"""VIFs that a host meets at once are claimed at once, from a real manager; none waits for another to come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from hostagent.claims import Claims
from hostagent.identity import Identity
from hostagent.outbox import Outbox
from hostagent.presence import SeenVif
from hostagent.state import State
from hostagent.sync_client import SyncClient
from netmgr.api.ports import Role
from netmgr.contract.proto import sync_pb2
from netmgr.contract.types import CLAIMS_MAX, Ref
from tests.support.netmgr_rig import Rig, eventually, manager
from tests.support.netmgr_worlds import H1, NET_A, PORT, VIF, uid

MANY = CLAIMS_MAX + 20


class Listening:
    """A listener that counts how often it was told of changed objects, and of how many."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def on_objects(self, changed: tuple[Ref, ...]) -> None:
        self.told.append(len(changed))

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **more: None


class Host:
    """A host's claims over a stream of its own."""

    def __init__(self, rig: Rig, directory: Path) -> None:
        made = rig.identity(str(H1.uuid), Role.HOST)
        identity = Identity(
            host_uuid=H1.uuid,
            host_name=H1.name,
            managers=(f"127.0.0.1:{rig.server.port}",),
            manager_name="netmgr",
            ca_pem=made.ca_pem.encode(),
            cert_pem=made.cert_pem.encode(),
            key_pem=made.key_pem.encode(),
        )
        self.state, self.listener, self.changes = State(directory / "state.db"), Listening(), 0
        self.sync = SyncClient(
            identity=identity, state=self.state, listener=self.listener, boot_id="b", agent_version="0"
        )
        self.claims = Claims(
            host_uuid=H1.uuid, state=self.state, sync=self.sync, realized=self._realized, changed=self._changed
        )

    async def connect(self) -> None:
        self.sync.start()
        await eventually(lambda: self.sync.connected and self.state.revision)

    async def pursue(self, *vifs: SeenVif) -> None:
        """One look of the loop at these; returns when all are answered."""
        self.claims.pursue(vifs, vifs)
        await eventually(lambda: not self.claims.asking)

    async def close(self) -> None:
        await self.claims.close()
        await self.sync.close()
        self.state.close()

    async def _realized(self, _network: UUID) -> str:
        return ""

    def _changed(self) -> None:
        self.changes += 1


def vif(number: int, *, network: UUID = NET_A.uuid, vif_uuid: UUID | None = None) -> SeenVif:
    return SeenVif(
        vif_uuid=vif_uuid or uid(f"vif {number}"),
        ovs_port=f"tap{number}",
        bridge="osw-1",
        mac=f"52:54:00:01:{number // 256:02x}:{number % 256:02x}",
        vm_uuid=None,
        network_uuid=network,
        plugged=True,
        external_ids={},
    )


def over(directory: Path, test: Callable[[Rig, Host], Awaitable[None]], *rows: object) -> None:
    async def run() -> None:
        async with manager(directory, *rows) as rig:  # type: ignore[arg-type]
            host = Host(rig, directory)
            await host.connect()
            try:
                await test(rig, host)
            finally:
                await host.close()

    asyncio.run(run())


def test_a_crowd_of_vifs_costs_the_manager_a_transaction_for_each_message(tmp_path: Path) -> None:
    async def test(rig: Rig, host: Host) -> None:
        before = rig.hub.world.revision
        crowd = [vif(number) for number in range(MANY)]
        await host.pursue(*crowd)
        assert rig.hub.world.revision == before + 2
        assert {one.vif_uuid: one.ovs_port for one in host.state.vifs.values()} == {
            one.vif_uuid: one.ovs_port for one in crowd
        }
        held = [host.state.locations[host.state.port_by_vif[one.vif_uuid]] for one in crowd]
        assert all(location.holder_host == H1.uuid for location in held)
        assert host.changes == 2, "the loop is woken once a message"
        assert len(host.listener.told) < 10, "what they were granted was put on disk together"

    over(tmp_path, test)


def test_in_a_crowd_each_vif_is_granted_or_refused_for_itself(tmp_path: Path) -> None:
    async def test(_rig: Rig, host: Host) -> None:
        good, strange, taken = vif(1), vif(2, network=uid("no network")), vif(3, vif_uuid=VIF)
        await host.pursue(good, strange, taken)
        assert set(host.claims.refusals) == {strange.vif_uuid, taken.vif_uuid}
        assert "does not exist" in host.claims.refusals[strange.vif_uuid]
        assert "MAC" in host.claims.refusals[taken.vif_uuid]
        assert set(host.state.vifs) == {good.vif_uuid}

    over(tmp_path, test, PORT)


def test_a_crowd_that_meets_no_manager_is_told_so_one_by_one(tmp_path: Path) -> None:
    async def test(rig: Rig, host: Host) -> None:
        rig.hub.stopping.set()  # whoever is refused now is refused by the sentence of a manager that stops
        await rig.server.stop(0)
        await eventually(lambda: not host.sync.connected)
        host.claims.pursue([vif(1), vif(2)], [vif(1), vif(2)])
        assert not host.claims.asking
        assert all("nobody can be asked" in host.claims.refusals[uid(f"vif {n}")] for n in (1, 2))

    over(tmp_path, test)


def sent(*bodies: str, claims_max: int = CLAIMS_MAX) -> list[str]:
    """What leaves an outbox in which these were put, one after the other: `claims*N` for N of them together."""

    async def run() -> list[str]:
        outbox = Outbox()
        outbox.claims_max = claims_max
        for number, body in enumerate(bodies):
            message = {"claim": sync_pb2.Claim(request_id=number), "release": sync_pb2.Release()}.get(body)
            outbox.put(body, message or sync_pb2.Ack(revision=number), key=str(number))
        found = []
        async for message in outbox.messages():
            what = message.WhichOneof("body")
            found.append(f"claims*{len(message.claims.claims)}" if what == "claims" else what)
            if not outbox._waiting:
                return found
        raise AssertionError("unreachable")

    return asyncio.run(run())


def test_a_claim_alone_is_sent_alone_and_none_overtakes_what_was_said_before_it() -> None:
    assert sent("claim") == ["claim"]
    assert sent("claim", "claim", "release", "claim", "ack", "claim", "claim") == [
        "claims*2", "release", "claim", "ack", "claims*2",
    ]  # fmt: skip
    assert sent(*["claim"] * (CLAIMS_MAX + 1)) == [f"claims*{CLAIMS_MAX}", "claim"]


def test_a_manager_that_does_not_say_how_many_it_takes_at_once_is_sent_one_at_a_time() -> None:
    assert sent("claim", "claim", "claim", claims_max=1) == ["claim"] * 3
    assert Outbox().claims_max == 1
