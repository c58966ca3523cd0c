"""The manager's OpaqueView: complete, true about what it does not know, and without a way to write."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import grpc
import pytest

from netmgr.api.ports import Role
from netmgr.contract import codec
from netmgr.contract.proto import opaque_view_pb2, sync_pb2
from netmgr.contract.types import (
    HostReport,
    Kind,
    NetworkStatus,
    Ref,
    Status,
    SwitchStatus,
    VifState,
    VifStatus,
)
from tests.support.netmgr_rig import Rig, eventually, manager
from tests.support.netmgr_worlds import H1, H3, NET_A, SWITCH_A, VIF, ZONE_A

GOOD = SwitchStatus(
    switch_uuid=SWITCH_A.uuid, status=Status.UP, health=100, vteps=("10.1.0.1",), pnics=("eth0",), datapath="netdev"
)


def over(directory: Path, test: Callable[[Rig], Awaitable[None]]) -> None:
    async def run() -> None:
        async with manager(directory) as rig:
            await test(rig)

    asyncio.run(run())


async def of_h1(rig: Rig, role: Role = Role.VIEWER, name: str = "vmctl") -> opaque_view_pb2.HostView:
    view = await rig.view(rig.identity(name, role)).List(opaque_view_pb2.ViewRequest(host_uuids=[str(H1.uuid)]))
    assert view.source == "manager"
    (host,) = view.hosts
    return host


def test_connected_host_is_shown_whole(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        host = await rig.host(H1).connect()
        vif = VifStatus(vif_uuid=VIF, state=VifState.LIT, ovs_port="vnet0")
        await host.send(report=codec.encode(HostReport(switches=(GOOD,), vifs=(vif,))))
        await eventually(lambda: rig.fleet.in_sync(H1.uuid) and rig.fleet.live(H1.uuid).report.vifs)
        seen = await of_h1(rig)
        assert (seen.host_name, seen.in_sync, seen.manager_connected, seen.sync_age_s) == ("h1", True, True, 0)
        assert [codec.encode(ZONE_A)] == list(seen.zones)
        assert [codec.encode(vif)] == list(seen.vifs)
        (switch,) = seen.switches
        assert (switch.key, switch.name, switch.status, switch.health) == (str(SWITCH_A.uuid), "sw-a", "up", 100)
        assert (list(switch.pnic), list(switch.vtep)) == (["eth0"], ["10.1.0.1"])
        assert (list(switch.pnic_zone), switch.extra_config["datapath"]) == ([str(ZONE_A.uuid)], "netdev")
        (network,) = seen.networks
        assert (network.opaque_network_id, network.opaque_network_name) == (str(NET_A.uuid), "net-a")
        assert (network.opaque_network_type, network.switch_key) == ("vxlan", str(SWITCH_A.uuid))
        assert (network.status, network.health, list(network.reasons)) == ("up", 100, [])
        assert list(network.capability) == ["attach-auto"]
        assert dict(network.extra_config) == {"mtu": "1500", "libvirt_network": "net-a"}
        assert switch.opaque
        assert network.opaque

    over(tmp_path, test)


def test_host_that_is_away_is_unavailable_with_the_reason_and_an_age(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        never = await of_h1(rig)
        assert not never.manager_connected
        host = await rig.host(H1).connect()
        await host.send(report=codec.encode(HostReport(switches=(GOOD,))))
        await eventually(lambda: rig.fleet.live(H1.uuid).report.switches)
        await host.close()
        await eventually(lambda: not rig.fleet.live(H1.uuid).connected)
        away = await of_h1(rig)
        for seen in (never, away):
            assert not seen.in_sync
            assert seen.sync_age_s > 0
            for construct in (*seen.switches, *seen.networks):
                assert (construct.status, construct.health) == ("unavailable", 0)
                assert list(construct.reasons) == ["host h1 is not connected to the manager"]
        assert list(never.switches[0].vtep) == ["10.1.0.1"]  # as assigned

    over(tmp_path, test)


def test_network_is_as_the_host_says_and_unavailable_until_it_has_confirmed_it(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        host = await rig.host(H1, auto_ack=False).connect()

        async def shown(**report: object) -> tuple[str, int, str]:
            await host.send(report=codec.encode(HostReport(**report)))  # type: ignore[arg-type]
            wanted = HostReport(**report)  # type: ignore[arg-type]
            await eventually(lambda: rig.fleet.live(H1.uuid).report == wanted)
            (network,) = (await of_h1(rig)).networks
            return network.status, network.health, " ".join(network.reasons)

        status, _, reason = await shown(switches=(GOOD,))
        assert (status, "not realized network net-a yet" in reason) == ("unavailable", True)
        await host.send(ack=sync_pb2.Ack(revision=host.revision))
        await eventually(lambda: rig.fleet.in_sync(H1.uuid))
        status, _, reason = await shown()
        assert (status, "not reported the status of switch" in reason) == ("unavailable", True)
        assert await shown(switches=(GOOD,)) == ("up", 100, "")
        ill = replace(GOOD, status=Status.DOWN, health=0, reasons=("no carrier",))
        assert await shown(switches=(ill,)) == ("down", 0, "no carrier")
        slow = NetworkStatus(network_uuid=NET_A.uuid, status=Status.WARNING, health=70, reasons=("drops",))
        assert await shown(switches=(GOOD,), networks=(slow,)) == ("warning", 70, "drops")
        ref = codec.encode_ref(Ref(kind=Kind.NETWORK, uuid=NET_A.uuid))
        rejection = sync_pb2.Rejection(object=ref, reason="MTU too big")
        await host.send(ack=sync_pb2.Ack(revision=host.revision, rejections=[rejection]))
        await eventually(lambda: rig.fleet.live(H1.uuid).rejections)
        assert await shown(switches=(GOOD,)) == ("down", 0, "MTU too big")

    over(tmp_path, test)


def test_watch_gives_a_view_now_and_one_after_each_change(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        watch = rig.view(rig.identity("vmctl", Role.VIEWER)).Watch(
            opaque_view_pb2.ViewRequest(host_uuids=[str(H1.uuid)])
        )
        first = await watch.read()
        assert not first.hosts[0].manager_connected
        await rig.host(H1).connect()
        while not (await watch.read()).hosts[0].in_sync:
            pass
        rig.put(replace(NET_A, name="renamed"))
        async with asyncio.timeout(5):
            while (await watch.read()).hosts[0].networks[0].opaque_network_name != "renamed":
                pass
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watch.read(), 0.4)  # nothing changes, nothing comes

    over(tmp_path, test)


def test_all_hosts_are_shown_when_none_is_named(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        view = await rig.view(rig.identity("ops", Role.OPERATOR)).List(opaque_view_pb2.ViewRequest())
        assert [host.host_name for host in view.hosts] == ["h1", "h2", "h3", "h4"]
        assert [n.opaque_network_name for n in view.hosts[3].networks] == ["net-a", "net-b"]

    over(tmp_path, test)


@pytest.mark.parametrize(
    ("name", "role", "asked", "code"),
    [
        (str(H3.uuid), Role.HOST, [], None),
        (str(UUID(int=9)), Role.HOST, [], grpc.StatusCode.PERMISSION_DENIED),
        ("vmctl", Role.VIEWER, ["h1"], grpc.StatusCode.INVALID_ARGUMENT),
        ("vmctl", Role.VIEWER, [str(UUID(int=9))], grpc.StatusCode.NOT_FOUND),
    ],
)
def test_who_may_ask_what(
    tmp_path: Path, name: str, role: Role, asked: list[str], code: grpc.StatusCode | None
) -> None:
    async def test(rig: Rig) -> None:
        stub = rig.view(rig.identity(name, role))
        request = opaque_view_pb2.ViewRequest(host_uuids=asked)
        for call in (stub.List(request), stub.Watch(request)):
            try:
                answer = await (call if hasattr(call, "__await__") else call.read())
                found = None if answer else "nothing"
            except grpc.aio.AioRpcError as error:
                found = error.code()
            assert found == code

    over(tmp_path, test)


def test_service_has_no_method_that_writes() -> None:
    service = opaque_view_pb2.DESCRIPTOR.services_by_name["OpaqueView"]
    assert [method.name for method in service.methods] == ["List", "Watch"]
