"""Removed means removed for every packet: `revalidator/wait` over our own client, against a real switch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from hostagent.flow import Flow, Output, match
from hostagent.host import Events, Host, HostPaths
from hostagent.model import ChangeFlows
from hostagent.names import OWNER, SWITCH_KEY
from hostagent.pipeline.tables import CANARY
from hostagent.realize.openflow import OpenFlowConnection
from hostagent.realize.unixctl import UnixctlError, await_revalidation, unixctl
from scripts.labkit.dummy_switch import DummySwitch
from scripts.labkit.kernel_switch import make_switch

pytestmark = [pytest.mark.lab, pytest.mark.datapath]

BRIDGE = "br-of"
FORWARD = Flow(table=0, priority=1, cookie=1, match=match(in_port=1), actions=(Output(2),))
FRAME = bytes.fromhex("020000000002 020000000001 88b5") + bytes(46)


@pytest.fixture(scope="module")
def switch() -> Iterator[DummySwitch]:
    with make_switch() as one:
        one.add_bridge(BRIDGE)
        one.add_port(BRIDGE, "p1")
        one.add_port(BRIDGE, "p2")
        yield one


async def connect(switch: DummySwitch) -> OpenFlowConnection:
    return await OpenFlowConnection.connect(
        f"{switch.rundir}/{BRIDGE}.mgmt",
        bridge=BRIDGE,
        on_change=lambda: None,
        on_packet_in=lambda *_: None,
        on_close=lambda _: None,
    )


def forwards(switch: DummySwitch) -> bool:
    """Whether a megaflow that outputs is cached."""
    flows = [line.rpartition("actions:")[2] for line in switch.appctl("dpctl/dump-flows").splitlines()]
    return any(actions.isdecimal() for actions in flows)


def test_once_confirmed_no_cached_megaflow_forwards_what_was_removed(switch):
    async def run() -> list[float]:
        connection = await connect(switch)
        took = []

        async def kick() -> None:
            await connection.bundle((), (CANARY,))

        for _ in range(5):
            await connection.bundle((), (CANARY, FORWARD))
            await asyncio.to_thread(switch.receive, "p1", FRAME)
            assert await asyncio.to_thread(switch.sent, "p2") == [FRAME]
            assert await asyncio.to_thread(forwards, switch)
            await connection.bundle((FORWARD,), ())
            start = time.perf_counter()
            await await_revalidation(switch.rundir, kick=kick)
            took.append(time.perf_counter() - start)
            assert not await asyncio.to_thread(forwards, switch)
            await asyncio.to_thread(switch.receive, "p1", FRAME)
            assert await asyncio.to_thread(switch.sent, "p2") == []
        connection.close()
        return took

    took = asyncio.run(run())
    print(f"confirmed within {min(took) * 1e3:.1f} to {max(took) * 1e3:.1f} ms")
    assert min(took) < 0.25, "kicked, a round does not wait for its turn"


def test_an_unknown_command_and_an_absent_switch_are_sentences(switch):
    with pytest.raises(UnixctlError, match=r"no-such-thing was refused: .*no-such-thing"):
        asyncio.run(unixctl(switch.rundir, "no-such-thing"))
    with pytest.raises(UnixctlError, match=r"ovs-vswitchd at .*version failed"):
        asyncio.run(unixctl(Path("/nonexistent"), "version"))


def test_a_long_answer_comes_whole_and_arguments_arrive(switch):
    assert BRIDGE in asyncio.run(unixctl(switch.rundir, "fdb/stats-show", BRIDGE))
    assert len(asyncio.run(unixctl(switch.rundir, "list-commands"))) > 3000


def test_a_host_is_settling_from_a_removal_until_no_megaflow_knows_it(switch):
    marks = [f"external_ids:{key}={value}" for key, value in {**OWNER, SWITCH_KEY: "x"}.items()]
    switch.vsctl("set", "Bridge", BRIDGE, *marks)

    async def run() -> None:
        heard: list[str] = []
        paths = HostPaths(ovs_rundir=switch.rundir, libvirt_uri="none")
        events = Events(dirty=heard.append, packet_in=lambda *_: None, domain=lambda _: None, libvirt=lambda: None)
        host = Host(paths, events)
        host.start()
        try:
            await within(lambda: host.switches.alive().get(BRIDGE, False), host.observe)
            await host.apply([ChangeFlows(bridge=BRIDGE, delete=(), add=(CANARY, FORWARD))])
            assert not host.switches.settling, "what is added needs no wait"
            await asyncio.to_thread(switch.receive, "p1", FRAME)
            assert await asyncio.to_thread(forwards, switch)
            assert await host.apply([ChangeFlows(bridge=BRIDGE, delete=(FORWARD,), add=())]) == []
            assert host.switches.settling
            heard.clear()
            await within(lambda: not host.switches.settling)
            assert "settled" in heard
            assert set(await host.switches.drops()) == {BRIDGE}
            assert not await asyncio.to_thread(forwards, switch)
        finally:
            await host.close()

    asyncio.run(run())


async def within(claim: Callable[[], bool], between: Callable[[], Awaitable[object]] | None = None) -> None:
    deadline = time.monotonic() + 10
    while not claim():
        assert time.monotonic() < deadline
        if between is not None:
            await between()
        await asyncio.sleep(0.01)
