"""Ports over the wire: both sequences, both attach modes, withdrawals, failover, and hints to ask again."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from netmgr import service
from netmgr.api.ports import Role
from netmgr.contract import codec
from netmgr.contract.proto import opaque_view_pb2, sync_pb2
from netmgr.contract.types import (
    ClaimIntent,
    HostReport,
    Kind,
    Location,
    LogicalPort,
    Status,
    SwitchStatus,
    VifState,
    VifStatus,
)
from netmgr.service.specs import NetworkPatch, PortSpec, WithdrawalSpec
from netmgr.span import objects_for
from netmgr.sync.retries import grantable
from tests.support.netmgr_rig import HostEnd, Rig, eventually, manager
from tests.support.netmgr_worlds import H1, H2, H3, NET_A, NET_B, PORT, SWITCH_A, VIF, held, uid, world_of

START, MIGRATE = ClaimIntent.START, ClaimIntent.MIGRATE_IN
MAC = PORT.mac


def over(directory: Path, test: Callable[[Rig], Awaitable[None]], *rows: object) -> None:
    async def run() -> None:
        async with manager(directory, *rows) as rig:  # type: ignore[arg-type]
            await test(rig)

    asyncio.run(run())


def dark(vif: UUID = VIF, state: VifState = VifState.DARK) -> HostReport:
    return HostReport(vifs=(VifStatus(vif_uuid=vif, state=state, reason="refused", ovs_port="tap0"),))


async def says(end: HostEnd, report: HostReport) -> None:
    await end.send(report=codec.encode(report))


async def hinted(end: HostEnd, timeout_s: float = 1.0) -> set[str]:
    """The VIFs of the next hint; everything read on the way is taken."""
    async with asyncio.timeout(timeout_s):
        while True:
            message = await end.read()
            if message.WhichOneof("body") == "try_again":
                return set(message.try_again.vif_uuids)


async def not_hinted(end: HostEnd) -> bool:
    """True when nothing comes in a while that is long for a loopback."""
    try:
        await hinted(end, 0.2)
    except TimeoutError:
        return True
    return False


async def reported(rig: Rig, end: HostEnd, report: HostReport) -> None:
    await says(end, report)
    await eventually(lambda: (live := rig.fleet.live(end.uuid)) is not None and live.report == report)


def test_host_initiated_sequence_makes_a_port_that_comes_back_with_its_policy(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        host = await rig.host(H1, subscribed={NET_A.uuid}).connect()
        answer = await host.claim(VIF, NET_A.uuid, MAC, START)
        assert not answer.refusal  # type: ignore[attr-defined]
        port = codec.decode_object(answer.port).body  # type: ignore[attr-defined]
        assert (port.vif_uuid, port.mac, port.admin_up) == (VIF, MAC, True)
        await host.until(lambda: (Kind.PORT, port.uuid) in host.have)

    over(tmp_path, test)


def test_granted_host_is_sent_its_networks_ports_unasked_until_it_subscribes(tmp_path: Path) -> None:
    """It could only ask for them once it has the answer: a way there and back before its first frame to a peer."""

    async def test(rig: Rig) -> None:
        mine, peer = uid("vif-of-mine"), (Kind.LOCATION, PORT.uuid)
        host = await rig.host(H2).connect()
        assert peer not in host.have
        assert not (await host.claim(mine, NET_A.uuid, "52:54:00:00:00:02", START)).refusal  # type: ignore[attr-defined]
        await host.until(lambda: peer in host.have)
        await host.send(subscribe=sync_pb2.Subscribe(network_uuids=[]))
        await host.until(lambda: peer not in host.have)

    over(tmp_path, test, PORT, held(H1))


def test_manual_network_takes_only_vifs_that_were_attached_first(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        host = await rig.host(H3).connect()
        refused = await host.claim(VIF, NET_B.uuid, MAC, START)
        assert "attach mode manual" in refused.refusal  # type: ignore[attr-defined]
        service.create_port(rig.store, PortSpec(name="p", network="net-b", mac=MAC))
        still = await host.claim(VIF, NET_B.uuid, MAC, START, number=2)
        assert "attached to no port" in still.refusal  # type: ignore[attr-defined]
        service.attach_port(rig.store, "p", vif_uuid=str(VIF))
        granted = await host.claim(VIF, NET_B.uuid, MAC, START, number=3)
        assert granted.location.location.holder_host == str(H3.uuid)  # type: ignore[attr-defined]

    over(tmp_path, test)


@pytest.mark.parametrize("how", ["create", "attach"])
def test_host_with_a_dark_vif_is_told_to_claim_when_its_port_is_attached(tmp_path: Path, how: str) -> None:
    async def test(rig: Rig) -> None:
        plugged = await rig.host(H3).connect()
        other = await rig.host(H1).connect()
        await reported(rig, plugged, dark())
        await reported(rig, other, dark(uid("another vif")))
        spec = PortSpec(name="p", network="net-b", mac=MAC)
        if how == "create":
            service.create_port(rig.store, spec.model_copy(update={"vif_uuid": str(VIF)}))
        else:
            service.create_port(rig.store, spec)
            service.attach_port(rig.store, "p", vif_uuid=str(VIF))
        assert await hinted(plugged) == {str(VIF)}
        assert await not_hinted(other)
        granted = await plugged.claim(VIF, None, MAC, START)
        assert not granted.refusal  # type: ignore[attr-defined]

    over(tmp_path, test)


def test_vif_that_is_reported_after_its_port_was_attached_is_told_of_too(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        host = await rig.host(H1).connect()
        await says(host, dark())
        assert await hinted(host) == {str(VIF)}

    over(tmp_path, test, PORT, held())


@pytest.mark.parametrize(
    ("location", "report"),
    [
        (held(H2), dark()),  # another runs it: a claim would be refused again
        (held(H1), dark()),  # it has it, and is dark for a reason of its own
        (held(), dark(state=VifState.LIT)),
    ],
)
def test_host_is_not_told_to_ask_what_would_be_refused_or_what_it_has(
    tmp_path: Path, location: Location, report: HostReport
) -> None:
    async def test(rig: Rig) -> None:
        host = await rig.host(H1).connect()
        await says(host, report)
        assert await not_hinted(host)

    over(tmp_path, test, PORT, location)


def test_grantable_is_what_a_claim_would_change() -> None:
    assert grantable(world_of(PORT, held(H2, parked=True)), H1.uuid, VIF)
    assert not grantable(world_of(PORT, held(H2)), H1.uuid, VIF)
    assert not grantable(world_of(PORT, held()), H3.uuid, VIF)
    assert not grantable(world_of(), H1.uuid, VIF)


def test_restored_network_or_mode_has_hosts_with_dark_vifs_ask_again(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        service.withdraw_network(rig.store, "net-a", WithdrawalSpec(reason="loop"), by="anna")
        host = await rig.host(H1).connect()
        refused = await host.claim(VIF, NET_A.uuid, MAC, START)
        assert "withdrawn from all hosts by anna" in refused.refusal  # type: ignore[attr-defined]
        await reported(rig, host, dark())
        service.restore_network(rig.store, "net-a")
        assert await hinted(host) == set()
        service.set_network(rig.store, "net-b", NetworkPatch(attach_mode="auto"))
        assert await hinted(host) == set()
        granted = await host.claim(VIF, NET_A.uuid, MAC, START, number=2)
        assert not granted.refusal  # type: ignore[attr-defined]

    over(tmp_path, test)


def test_withdrawal_is_pushed_to_its_host_and_taken_back(tmp_path: Path) -> None:
    def has(end: HostEnd) -> list[str]:
        return [item.body.reason for key, item in end.have.items() if key[0] is Kind.WITHDRAWAL]  # type: ignore[union-attr]

    async def test(rig: Rig) -> None:
        h1, h2 = await rig.host(H1).connect(), await rig.host(H2).connect()
        service.withdraw_network(rig.store, "net-a", WithdrawalSpec(host="h1", reason="flaps"), by="anna")
        await h1.until(lambda: has(h1) == ["flaps"])
        service.withdraw_network(rig.store, "net-a", WithdrawalSpec(reason="loop"), by="anna")
        await h1.until(lambda: sorted(has(h1)) == ["flaps", "loop"])
        await h2.until(lambda: has(h2) == ["loop"])
        service.restore_network(rig.store, "net-a")
        await h1.until(lambda: has(h1) == [])
        await h2.until(lambda: has(h2) == [])
        with rig.store.read() as world:
            assert h1.have == objects_for(world, H1.uuid, h1.subscribed)

    over(tmp_path, test)


def test_managers_view_keeps_a_withdrawn_network_in_maintenance_with_the_reason(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        host = await rig.host(H1).connect()
        await rig.host(H2).connect()
        service.withdraw_network(rig.store, "net-a", WithdrawalSpec(host="h1", reason="flaps"), by="anna")
        await host.until(lambda: any(key[0] is Kind.WITHDRAWAL for key in host.have))
        good = SwitchStatus(switch_uuid=SWITCH_A.uuid, status=Status.UP, health=100)
        await reported(rig, host, HostReport(switches=(good,)))
        view = await rig.view(rig.identity("vmctl", Role.VIEWER)).List(opaque_view_pb2.ViewRequest())
        shown = {one.host_name: one.networks[0] for one in view.hosts if one.host_name in ("h1", "h2")}
        assert (shown["h1"].status, shown["h1"].health) == ("maintenance", 100)
        assert "withdrawn from host h1 by anna" in shown["h1"].reasons[0]
        assert not any("withdrawn" in reason for reason in shown["h2"].reasons)

    over(tmp_path, test)


def test_detached_port_of_a_running_vif_reaches_its_host_without_the_vif_and_unbound(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        host = await rig.host(H1, subscribed={NET_A.uuid}).connect()
        service.detach_port(rig.store, "vm1", force=True)
        keys = (Kind.PORT, PORT.uuid), (Kind.LOCATION, PORT.uuid)
        await host.until(lambda: host.have[keys[0]].body.vif_uuid is None)  # type: ignore[union-attr]
        assert host.have[keys[1]].body.holder_host is None  # type: ignore[union-attr]
        claimed = await host.claim(VIF, NET_A.uuid, MAC, START)
        assert "belongs to port vm1" in claimed.refusal  # type: ignore[attr-defined]

    over(tmp_path, test, PORT, held(H1))


def test_failover_reaches_every_host_as_one_update(tmp_path: Path) -> None:
    shadow = replace(PORT, uuid=uid("shadow"), name="standby", vif_uuid=uid("standby vif"), shadow_of=PORT.uuid)
    at_h2 = replace(held(H2), port_uuid=shadow.uuid, mac="")

    async def test(rig: Rig) -> None:
        ends = [await rig.host(record, subscribed={NET_A.uuid}).connect() for record in (H1, H2)]
        assert all((Kind.PORT, shadow.uuid) in end.have for end in ends)
        service.failover_port(rig.store, "vm1")
        for end in ends:
            end.updates.clear()
            await end.until(lambda end=end: end.have[Kind.PORT, PORT.uuid].body.shadow_of == shadow.uuid)
            (update,) = end.updates
            assert update.last
            bodies = [codec.decode_object(item).body for item in update.upserts]
            ports = {body.name: body.shadow_of for body in bodies if isinstance(body, LogicalPort)}
            macs = {body.port_uuid: body.mac for body in bodies if isinstance(body, Location)}
            assert ports == {"vm1": shadow.uuid, "standby": None}
            assert macs == {PORT.uuid: "", shadow.uuid: MAC}

    over(tmp_path, test, PORT, held(H1), shadow, at_h2)


def test_hint_is_not_sent_before_what_it_builds_on(tmp_path: Path) -> None:
    """A host that subscribes to the network has the port when it is told to ask."""

    async def test(rig: Rig) -> None:
        host = await rig.host(H1, subscribed={NET_A.uuid}).connect()
        await reported(rig, host, dark())
        port = service.create_port(rig.store, PortSpec(name="p", network="net-a", mac=MAC, vif_uuid=str(VIF)))
        assert await hinted(host) == {str(VIF)}
        assert (Kind.PORT, port.uuid) in host.have

    over(tmp_path, test)
