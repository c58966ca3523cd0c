"""The host's OVSDB through our connection, against real servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from hostagent.model import (
    Bridge,
    Interface,
    OvsPort,
    PutBridge,
    PutPort,
    PutQos,
    Qos,
    Queue,
    RemoveBridge,
    RemovePort,
    RemoveQos,
    Unread,
)
from hostagent.realize.errors import RealizeError
from hostagent.realize.ovsdb import OvsDb
from hostagent.realize.ovsdb_taps import NewTap
from scripts.labkit import Lab
from scripts.labkit.switch import choose_datapath

pytestmark = pytest.mark.lab

OURS = {"opaque-owner": "hostagent"}
BRIDGE = PutBridge(
    name="osw-0123456789", datapath_type=choose_datapath(None), fail_mode="secure", external_ids=OURS, other_config={}
)
TUNNEL = PutPort(
    bridge=BRIDGE.name,
    name="vxlan-01234567",
    interfaces=(
        Interface(name="vxlan-01234567", type="vxlan", options={"remote_ip": "flow", "key": "flow"}, external_ids=OURS),
    ),
    external_ids=OURS,
)


def _with_db(lab: Lab, test: Callable[[OvsDb, asyncio.Event], Awaitable[None]]) -> None:
    async def main() -> None:
        changed = asyncio.Event()
        remote = f"unix:{lab.path('h1', '/run/openvswitch/db.sock')}"
        db = OvsDb(remote, on_change=changed.set, on_tap=lambda _tap, go_on: go_on())
        db.start()
        try:
            assert await _within(5, lambda: isinstance(db.read_bridges(), tuple))
            await test(db, changed)
        finally:
            await db.close()

    asyncio.run(main())


async def _within(seconds: float, claim: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True


def _bridge(db: OvsDb, name: str = BRIDGE.name) -> Bridge | None:
    bridges = db.read_bridges()
    assert isinstance(bridges, tuple)
    return next((bridge for bridge in bridges if bridge.name == name), None)


def _port(db: OvsDb, name: str) -> OvsPort | None:
    bridge = _bridge(db)
    return next((port for port in bridge.ports if port.name == name), None) if bridge else None


def _plug(name: str) -> list[str]:
    settings = ["--", "set", "Interface", name, f"external_ids:iface-id={name}"]
    return ["ovs-vsctl", "--no-wait", "add-port", BRIDGE.name, name, *settings]


def test_bridge_and_port_are_made_mended_and_removed(bare_lab: Lab) -> None:
    async def test(db: OvsDb, _: asyncio.Event) -> None:
        local = PutPort(
            bridge=BRIDGE.name,
            name=BRIDGE.name,
            interfaces=(Interface(name=BRIDGE.name, mtu_request=1650),),
            external_ids={},
            tag=0,
        )
        await db.apply([BRIDGE, TUNNEL, local])
        bridge, port = _bridge(db), _port(db, TUNNEL.name)
        assert bridge is not None
        assert port is not None
        assert (bridge.datapath_type, bridge.fail_mode, bridge.external_ids) == (BRIDGE.datapath_type, "secure", OURS)
        interface = port.interfaces[0]
        assert (interface.type, interface.options["key"], interface.error) == ("vxlan", "flow", "")
        assert interface.ofport is not None  # apply waits until vswitchd has taken the change over
        assert interface.ofport > 0
        assert any(i.mtu_request == 1650 and p.tag == 0 for p in bridge.ports for i in p.interfaces)
        bare_lab.exec("h1", ["ovs-vsctl", "set", "Port", BRIDGE.name, "tag=20"])
        await db.apply([local])
        made = _port(db, BRIDGE.name)
        assert made is not None
        assert made.tag == 20, "what somebody has said stays"

        bare_lab.exec("h1", ["ovs-vsctl", "set", "Interface", TUNNEL.name, "options:key=7"])
        bare_lab.exec("h1", ["ovs-vsctl", "set", "Bridge", BRIDGE.name, "fail_mode=standalone"])
        await db.apply([BRIDGE, TUNNEL])
        bridge, port = _bridge(db), _port(db, TUNNEL.name)
        assert bridge is not None
        assert port is not None
        assert (bridge.fail_mode, port.interfaces[0].options["key"]) == ("secure", "flow")

        await db.apply([RemovePort(bridge=BRIDGE.name, name=TUNNEL.name)])
        assert _port(db, TUNNEL.name) is None
        await db.apply([RemoveBridge(name=BRIDGE.name)])
        assert _bridge(db) is None
        await db.apply([RemovePort(bridge=BRIDGE.name, name=TUNNEL.name), RemoveBridge(name=BRIDGE.name)])

    _with_db(bare_lab, test)


def test_what_others_write_beside_us_stays(bare_lab: Lab) -> None:
    async def test(db: OvsDb, _: asyncio.Event) -> None:
        await db.apply([BRIDGE])
        settings = ["set", "bridge", "theirs", f"datapath_type={bare_lab.datapath}"]
        bare_lab.exec("h1", ["ovs-vsctl", "add-br", "theirs", "--", *settings])
        bare_lab.exec("h1", ["ovs-vsctl", "set", "Bridge", BRIDGE.name, "external_ids:their-key=x"])
        bare_lab.exec(
            "h1", ["ovs-vsctl", "add-port", BRIDGE.name, "int0", "--", "set", "Interface", "int0", "type=internal"]
        )
        marked = replace(BRIDGE, external_ids={**OURS, "opaque-switch": "s"})
        await db.apply([marked, TUNNEL])
        bridge = _bridge(db)
        assert bridge is not None
        assert bridge.external_ids == {**OURS, "opaque-switch": "s", "their-key": "x"}
        assert {port.name for port in bridge.ports} == {BRIDGE.name, TUNNEL.name, "int0"}
        assert _bridge(db, "theirs") is not None

    _with_db(bare_lab, test)


def test_a_change_by_others_is_told_and_read(bare_lab: Lab) -> None:
    async def test(db: OvsDb, changed: asyncio.Event) -> None:
        await db.apply([BRIDGE])
        changed.clear()
        command = ["ovs-vsctl", "--no-wait", "set", "Interface", BRIDGE.name, "external_ids:iface-id=v"]
        bare_lab.exec("h1", command)
        await asyncio.wait_for(changed.wait(), 2)
        bridge = _bridge(db)
        assert bridge is not None
        assert bridge.ports[0].interfaces[0].external_ids == {"iface-id": "v"}

    _with_db(bare_lab, test)


def test_a_tap_is_told_before_it_is_shown_and_shown_whether_or_not_somebody_deals_with_it(bare_lab: Lab) -> None:
    async def main() -> None:
        told: list[tuple[NewTap, bool]] = []

        def shown(name: str) -> bool:
            return any(port.name == name for port in getattr(_bridge(db), "ports", ()))

        def on_tap(tap: NewTap, go_on: Callable[[], None]) -> None:
            told.append((tap, shown(tap.name)))
            if tap.name == "tap1":
                go_on()

        db = OvsDb(f"unix:{bare_lab.path('h1', '/run/openvswitch/db.sock')}", on_change=lambda: None, on_tap=on_tap)
        db.start()
        try:
            assert await _within(5, lambda: isinstance(db.read_bridges(), tuple))
            await db.apply([BRIDGE])
            for name in ("tap1", "tap2"):  # they are there: a tap that can't be opened is the IDL's business
                bare_lab.exec("h1", ["ip", "tuntap", "add", name, "mode", "tap"])
                await asyncio.to_thread(bare_lab.exec, "h1", _plug(name))
                assert await _within(2, lambda name=name: shown(name))
            assert [(tap.bridge, tap.name, dict(tap.external_ids)) for tap, _ in told] == [
                (BRIDGE.name, name, {"iface-id": name}) for name in ("tap1", "tap2")
            ]
            assert not told[0][1]
            await db.apply([RemovePort(bridge=BRIDGE.name, name=name) for name in ("tap1", "tap2")])
            assert len(told) == 2, "one that goes is none that comes"
            told.clear()
            plugging = asyncio.create_task(asyncio.to_thread(bare_lab.exec, "h1", _plug("tap1")))
            await asyncio.sleep(0)
            time.sleep(0.5)  # noqa: ASYNC251 (the event loop is to be busy when it comes)
            await plugging
            assert await _within(2, lambda: [tap.name for tap, _ in told] == ["tap1"])
        finally:
            await db.close()

    asyncio.run(main())


def test_a_refused_step_changes_nothing_of_its_transaction_and_says_why(bare_lab: Lab) -> None:
    async def test(db: OvsDb, _: asyncio.Event) -> None:
        elsewhere = replace(TUNNEL, bridge="osw-ffffffffff")
        with pytest.raises(RealizeError, match="bridge osw-ffffffffff is gone"):
            await db.apply([BRIDGE, elsewhere])
        assert _bridge(db) is None
        await db.apply([BRIDGE, TUNNEL, replace(BRIDGE, name="osw-ffffffffff")])
        with pytest.raises(RealizeError, match="found in another bridge"):
            await db.apply([elsewhere])

    _with_db(bare_lab, test)


def test_a_server_that_goes_leaves_unread_not_absent_and_is_found_again(bare_lab: Lab) -> None:
    async def test(db: OvsDb, _: asyncio.Event) -> None:
        await db.apply([BRIDGE])
        await asyncio.to_thread(bare_lab.stop_daemon, "h1", "ovsdb-server")
        assert await _within(3, lambda: isinstance(db.read_bridges(), Unread))
        found = db.read_bridges()
        assert isinstance(found, Unread)
        assert found.reason.endswith("does not answer")
        with pytest.raises(RealizeError, match="does not answer"):
            await db.apply([TUNNEL])
        await asyncio.to_thread(bare_lab.start_daemon, "h1", "ovsdb-server")
        assert await _within(5, lambda: isinstance(db.read_bridges(), tuple))
        await db.apply([TUNNEL])
        assert _port(db, TUNNEL.name) is not None

    _with_db(bare_lab, test)


def test_without_vswitchd_a_change_fails_in_time(bare_lab: Lab) -> None:
    async def test(db: OvsDb, _: asyncio.Event) -> None:
        await asyncio.to_thread(bare_lab.stop_daemon, "h1", "ovs-vswitchd")
        began = time.monotonic()
        with pytest.raises(RealizeError, match="ovs-vswitchd has not taken the change over"):
            await db.apply([BRIDGE], deadline_s=0.5)
        assert time.monotonic() - began < 2

    _with_db(bare_lab, test)


def test_a_port_is_shaped_by_what_is_ours_and_nothing_stays_of_it(bare_lab):
    shaped = Qos(
        max_bps=10_000_000, queues=(Queue(min_bps=1, max_bps=2, priority=2), Queue(min_bps=3, max_bps=4, priority=0))
    )
    put = PutQos(bridge=BRIDGE.name, name=TUNNEL.name, qos=shaped)

    async def test(db: OvsDb, _: asyncio.Event) -> None:
        def qos() -> Qos | None:
            bridge = _bridge(db)
            assert bridge is not None
            return next(port for port in bridge.ports if port.name == TUNNEL.name).qos

        await db.apply([BRIDGE, TUNNEL, put])
        assert await _within(2, lambda: qos() == shaped)
        less = replace(shaped, queues=shaped.queues[:1])
        await db.apply([replace(put, qos=less)])
        assert await _within(2, lambda: qos() == less)
        bare_lab.exec("h1", ["ovs-vsctl", "clear", "port", TUNNEL.name, "qos"])
        assert await _within(2, lambda: len(db.read_loose_qos()) == 1)
        await db.apply([RemoveQos(uuid=uuid) for uuid in db.read_loose_qos()])
        assert await _within(2, lambda: not db.read_loose_qos())
        theirs = ["--", "--id=@q", "create", "qos", "type=linux-htb", "other_config:max-rate=5"]
        bare_lab.exec("h1", ["ovs-vsctl", "set", "port", TUNNEL.name, "qos=@q", *theirs])
        assert await _within(2, lambda: qos() == Qos(max_bps=5, ours=False))
        with pytest.raises(RealizeError, match="did not make"):
            await db.apply([put])
        bare_lab.exec("h1", ["ovs-vsctl", "clear", "port", TUNNEL.name, "qos"])
        assert "opaque-owner" not in bare_lab.exec("h1", ["ovs-vsctl", "list", "qos"]).stdout
        assert bare_lab.exec("h1", ["ovs-vsctl", "list", "queue"]).stdout.strip() == ""
        assert bare_lab.exec("h1", ["ovs-vsctl", "list", "qos"]).stdout.strip(), "theirs stays"

    _with_db(bare_lab, test)
