"""Our OpenFlow against a real switch, with `ovs-ofctl` as oracle in both directions."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from hostagent.flow import (
    FIELDS,
    IN_PORT,
    Controller,
    Ct,
    Drop,
    Flow,
    Goto,
    Match,
    Meter,
    Move,
    Output,
    PopMpls,
    PushMpls,
    Raw,
    Resubmit,
    SetField,
    WriteMetadata,
    canonical,
    mac_to_int,
    match,
)
from hostagent.model import ChangeMeters, MeterLimit
from hostagent.pipeline.answer import binding
from hostagent.pipeline.locate import locate
from hostagent.pipeline.tables import hold_flow
from hostagent.realize.openflow import OpenFlowConnection, OpenFlowError
from hostagent.realize.openflow_bundle import Bundle
from hostagent.realize.openflow_ports import PortWord
from hostagent.switches import Switches
from scripts.labkit.dummy_switch import DummySwitch
from scripts.labkit.kernel_switch import make_switch
from tests.support.waiting import within

pytestmark = pytest.mark.lab

BRIDGE = "br-of"


@pytest.fixture(scope="module")
def switch() -> Iterator[DummySwitch]:
    with make_switch() as one:
        one.add_bridge(BRIDGE)
        one.add_port(BRIDGE, "p1")
        yield one


@dataclass
class Heard:
    changes: int = 0
    packets: list[tuple[int, int, int, bytes]] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    ports: list[tuple[str, int]] = field(default_factory=list)

    def change(self) -> None:
        self.changes += 1


@asynccontextmanager
async def connected(switch: DummySwitch, heard: Heard | None = None) -> AsyncIterator[OpenFlowConnection]:
    into = heard or Heard()
    connection = await OpenFlowConnection.connect(
        f"{switch.rundir}/{BRIDGE}.mgmt",
        bridge=BRIDGE,
        on_change=into.change,
        on_packet_in=lambda *packet: into.packets.append(packet),
        on_close=into.closed.append,
        on_port=lambda *port: into.ports.append(port),
    )
    try:
        yield connection
    finally:
        connection.close()


async def replace_all(connection: OpenFlowConnection, flows: frozenset[Flow]) -> None:
    await connection.bundle([*await connection.dump()], [*flows])


# --- any flow there and back ------------------------------------------------------------------------------------------

KINDS = {
    "arp": match(eth_type=0x0806),
    "rarp": match(eth_type=0x8035),
    "ip": match(eth_type=0x0800),
    "ipv6": match(eth_type=0x86DD),
    "tcp": match(eth_type=0x0800, nw_proto=6),
    "udp": match(eth_type=0x86DD, nw_proto=17),
    "icmp": match(eth_type=0x0800, nw_proto=1),
    "ns": match(eth_type=0x86DD, nw_proto=58, icmpv6_type=135),
    "na": match(eth_type=0x86DD, nw_proto=58, icmpv6_type=136),
    "any": (),
}
ALLOWED = {
    "arp": ["arp_op", "arp_spa", "arp_tpa", "arp_sha", "arp_tha"],
    "rarp": ["arp_sha", "arp_tha"],
    "ip": ["nw_src", "nw_dst"],
    "ipv6": ["ipv6_src", "ipv6_dst"],
    "tcp": ["nw_src", "tcp_src", "tcp_dst", "tcp_flags"],
    "udp": ["udp_src", "udp_dst"],
    "icmp": ["icmp_type", "icmp_code"],
    "ns": ["nd_target", "nd_sll"],
    "na": ["nd_target", "nd_tll"],
    "any": [],
}
ANYWHERE = ["metadata", "tun_id", "tun_src", "tun_dst", "eth_src", "eth_dst", "ct_mark", "ct_zone", "ct_label", "xreg6"]
ANYWHERE += ["xxreg1", "in_port", "vlan_tci", *(f"reg{i}" for i in range(12))]
MASKED = {"metadata", "tun_id", "tun_src", "eth_src", "eth_dst", "nw_src", "arp_spa", "reg0"}
SETTABLE = ["metadata", "reg0", "reg3", "xreg6", "xxreg1", "tun_id", "tun_src", "tun_dst", "tun_ipv6_dst", "eth_src"]


@st.composite
def conditions(draw: st.DrawFn) -> tuple[Match, ...]:
    kind = draw(st.sampled_from(sorted(KINDS)))
    names = draw(st.lists(st.sampled_from([*ALLOWED[kind], *ANYWHERE]), unique=True, max_size=4))
    if {"xreg6", "xxreg1"} & set(names):
        names = [name for name in names if not name.startswith("reg")]
    items = [*KINDS[kind]]
    for name in names:
        ones = (1 << FIELDS[name].bits) - 1
        value = draw(st.integers(0, ones))
        if name == "vlan_tci":
            items.append(Match(name, draw(st.sampled_from([0, 0x1005]))))
        elif name == "in_port":
            items.append(Match(name, draw(st.sampled_from([1, 7, 65000]))))
        elif name in ("icmp_type", "tcp_flags", "arp_op"):
            items.append(Match(name, value & 0xFF))
        elif name in ("ipv6_src", "nd_target") and draw(st.booleans()):
            # prefixes: ovs-ofctl cannot read every other mask ("::/0:984a::" is an invalid address to it)
            items.append(Match(name, value, ones - (1 << draw(st.integers(0, 127))) + 1))
        elif name in MASKED and draw(st.booleans()):
            items.append(Match(name, value, draw(st.integers(0, ones))))
        else:
            items.append(Match(name, value))
    return canonical(items)


@st.composite
def set_fields(draw: st.DrawFn) -> SetField:
    name = draw(st.sampled_from(SETTABLE))
    ones = (1 << FIELDS[name].bits) - 1
    value = draw(st.integers(0, ones))
    mask = draw(st.none() if name == "tun_ipv6_dst" else st.none() | st.integers(1, ones - 1))
    return SetField(name, value if mask is None else value & mask, mask)


ACTIONS = st.one_of(
    set_fields(),
    st.sampled_from([Output(1), Output(IN_PORT), Controller(64), Controller(65535), Resubmit(7), Resubmit(200)]),
    st.sampled_from([Move("eth_src", "xreg6", 48), Move("reg1", "tun_dst", 32), Move("xxreg1", "tun_ipv6_dst", 128)]),
)
ENDS = st.sampled_from(
    [
        (),
        (Goto(254),),
        (PushMpls(), PopMpls(), Resubmit(7)),
        (WriteMetadata(5), Goto(254)),
        (WriteMetadata(5, 0xF),),
    ]
)
FLOWS = st.builds(
    lambda table, priority, cookie, items, actions, end: Flow(
        table=table, priority=priority, cookie=cookie, match=items, actions=(*actions, *end)
    ),
    st.integers(0, 253),
    st.integers(0, 0xFFFF),
    st.integers(0, (1 << 64) - 2),
    conditions(),
    st.lists(ACTIONS, max_size=4),
    ENDS,
)


def one_a_key(flows: list[Flow]) -> frozenset[Flow]:
    return frozenset({flow.key(): flow for flow in flows}.values())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flows=st.lists(FLOWS, min_size=1, max_size=30).map(one_a_key))
def test_flows_come_back_from_the_switch_as_they_were_sent(switch, flows):
    async def run() -> frozenset[Flow]:
        async with connected(switch) as connection:
            await replace_all(connection, flows)
            return await connection.dump()

    assert asyncio.run(run()) == flows


@settings(
    max_examples=15, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(flows=st.lists(FLOWS, min_size=20, max_size=60).map(one_a_key))
def test_ovs_ofctl_reads_our_text_as_the_flows_we_mean(switch, flows):
    """Both ways: what ovs-ofctl makes of `str(flow)` is what we dump, and what we sent is no difference to it."""
    path = switch.rundir / "flows.txt"
    path.write_text("".join(f"{flow}\n" for flow in flows))

    async def run() -> tuple[frozenset[Flow], frozenset[Flow]]:
        async with connected(switch) as connection:
            switch.ofctl("del-flows", BRIDGE)
            switch.ofctl("add-flows", BRIDGE, str(path))
            theirs = await connection.dump()
            await replace_all(connection, frozenset())
            await replace_all(connection, flows)
            return theirs, await connection.dump()

    theirs, ours = asyncio.run(run())
    assert theirs == flows
    assert ours == flows
    assert switch.ofctl("diff-flows", BRIDGE, str(path)) == ""


def test_forms_of_ct_are_those_that_ovs_ofctl_means(switch):
    forms = (
        Ct(zone=40960, table=92),
        Ct(zone="ct_zone", commit=True),
        Ct(zone="ct_zone", commit=True, mark=(1, 1)),
        Ct(zone=7, commit=True, table=3, mark=(2, 3)),
        Ct(zone=7, commit=True, mark=(5, 0xFFFFFFFF)),
    )
    flows = frozenset(
        Flow(table=1, priority=number, cookie=1, match=match(eth_type=0x0800, ct_state=(0x21, 0x31)), actions=(form,))
        for number, form in enumerate(forms)
    )
    path = switch.rundir / "ct"
    path.write_text("".join(f"{flow}\n" for flow in flows))

    async def run() -> tuple[frozenset[Flow], frozenset[Flow]]:
        async with connected(switch) as connection:
            await replace_all(connection, flows)
            ours = await connection.dump()
            assert switch.ofctl("diff-flows", BRIDGE, str(path)) == ""
            switch.ofctl("del-flows", BRIDGE)
            switch.ofctl("add-flows", BRIDGE, str(path))
            return ours, await connection.dump()

    ours, theirs = asyncio.run(run())
    assert ours == theirs == flows


@pytest.mark.datapath
def test_a_zone_is_emptied_and_others_are_not(switch):
    """Two connections made by frames that the switch is told of, in two zones."""
    flows = [
        Flow(
            table=0, priority=1, cookie=1, match=match(eth_type=0x0800, nw_src=source), actions=(Ct(zone, commit=True),)
        )
        for source, zone in (("10.0.0.1", 40960), ("10.0.0.2", 40961))
    ]
    frames = [
        bytes(Ether() / IP(src=source, dst="10.0.0.9") / UDP(sport=1, dport=2)) for source in ("10.0.0.1", "10.0.0.2")
    ]

    async def run() -> None:
        async with connected(switch) as connection:
            await replace_all(connection, frozenset(flows))
            await asyncio.to_thread(switch.receive, "p1", *frames)
            await connection.flush_zone(40960)

    asyncio.run(run())
    left = switch.appctl("dpctl/dump-conntrack").split()
    assert len(left) == 1
    assert "zone=40961" in left[0]


def test_ct_and_the_flows_of_strangers_are_read_told_apart_and_deleted(switch):
    ct = Flow(table=1, priority=1, cookie=1, match=match(eth_type=0x0800), actions=(Ct(zone=7, commit=True, table=2),))
    strange = [
        "table=2,priority=5,cookie=0x9,idle_timeout=600,ip,nw_tos=4,actions=dec_ttl,learn(table=3,NXM_OF_ETH_DST[])",
        "table=2,priority=6,cookie=0x9,pkt_mark=3/7,conj_id=4,actions=push_vlan:0x8100,set_field:4097->vlan_vid,normal",
        "table=2,priority=7,cookie=0x9,ct_state=+trk+new,ip,actions=ct(nat(src=1.2.3.4),commit,exec(set_field:1->ct_mark))",
    ]

    async def run() -> None:
        async with connected(switch) as connection:
            await replace_all(connection, frozenset({ct}))
            for text in strange:
                switch.ofctl("add-flow", BRIDGE, text)
            flows = await connection.dump()
            assert ct in flows
            others = [flow for flow in flows if flow.cookie == 9]
            assert len(others) == len(strange)
            assert any(isinstance(action, Raw) for flow in others for action in flow.actions)
            assert ("idle_timeout", 600) in next(flow for flow in others if flow.priority == 5).extra
            await connection.bundle(others, [])
            assert await connection.dump() == {ct}

    asyncio.run(run())


# --- promises of the connection ---------------------------------------------------------------------------------------


def many(count: int, *, vtep: int = 1) -> list[Flow]:
    return [
        Flow(
            table=200,
            priority=100,
            cookie=7,
            match=canonical([Match("metadata", 7), Match("xreg6", number)]),
            actions=(SetField("reg1", vtep),),
        )
        for number in range(count)
    ]


def test_a_refused_flow_is_named_and_nothing_of_its_bundle_is_done(switch):
    good = many(3)
    bad = Flow(table=1, priority=1, cookie=1, match=(Match("nw_src", 1),))

    async def run() -> None:
        async with connected(switch) as connection:
            await replace_all(connection, frozenset(good[:1]))
            for bundle in ([good[1], bad, good[2]], [bad]):
                with pytest.raises(
                    OpenFlowError, match=r"refused the flow .*nw_src=0\.0\.0\.1.*BAD_PREREQ.*nothing was"
                ):
                    await connection.bundle(good[:1], bundle)
                assert await connection.dump() == {good[0]}
            await connection.bundle([], good[1:])  # the connection is as good as before
            assert await connection.dump() == set(good)

    asyncio.run(run())


def test_a_refusal_at_commit_changes_nothing(switch):
    """A table number is valid on the wire, but the switch has no table 255 to put a flow in."""
    good, bad = many(1)[0], Flow(table=255, priority=1, cookie=1)

    async def run() -> None:
        async with connected(switch) as connection:
            await replace_all(connection, frozenset())
            with pytest.raises(OpenFlowError, match="refused"):
                await connection.bundle([], [good, bad])
            assert await connection.dump() == frozenset()

    asyncio.run(run())


def test_flows_of_forms_that_the_switch_has_taken_go_in_one_round_trip_and_others_are_judged_first(switch):
    first, second, third = many(2), many(4)[2:], many(6)[4:]
    strange = Flow(table=1, priority=1, cookie=1, match=(Match("nw_src", 1),))

    async def run() -> None:
        async with connected(switch) as connection:
            await replace_all(connection, frozenset())
            writes: list[int] = []
            write = connection._wire.write
            connection._wire.write = lambda data: (writes.append(len(data)), write(data))  # type: ignore[assignment]
            await connection.bundle([], first)
            assert len(writes) == 2
            await connection.bundle([], second)
            assert len(writes) == 3
            with pytest.raises(OpenFlowError, match=r"refused the flow .*nw_src=0\.0\.0\.1.*nothing was changed"):
                await connection.bundle([], [*third, strange])
            assert await connection.dump() == {*first, *second}
            await connection.bundle([], third)
            assert await connection.dump() == {*first, *second, *third}

    asyncio.run(run())


def test_a_bundle_packed_before_it_is_due_goes_at_once_where_nothing_is_in_its_way(switch):
    first, second, third, strange = many(2), many(4)[2:], many(6)[4:], Flow(table=1, priority=1, cookie=1)

    async def run() -> None:
        async with connected(switch) as connection, connected(switch) as other:
            await replace_all(connection, frozenset())

            def send(bundle: Bundle, by: OpenFlowConnection = connection) -> asyncio.Task[None] | None:
                armed = by.arm(bundle, PortWord("p1", 1))
                return armed.fire(()) if armed is not None else None

            bundles = [connection.pack((), flows) for flows in (second, third, (strange, *first))]
            assert send(bundles[0]) is None, "a form that the switch has not taken yet"
            await connection.bundle((), first)
            assert send(bundles[2]) is None, "one of the forms"
            assert send(bundles[0], other) is None, "another's"
            waiting = connection.arm(bundles[0], PortWord("p1", 1))
            assert waiting is not None
            assert send(bundles[1]) is None, "another is ready to leave"
            waiting.disarm()
            under_way = send(bundles[0])
            assert under_way is not None
            assert send(bundles[1]) is None, "another is under way"
            await under_way
            assert await connection.dump() == {*first, *second}
            last = send(bundles[1])
            assert last is not None
            await connection.bundle(first, ())  # waits for its turn
            assert last.done()
            assert await connection.dump() == {*second, *third}

    asyncio.run(run())


def test_a_full_table_refuses_a_bundle_of_known_forms_as_a_whole():
    good = many(4)

    async def run(switch: DummySwitch) -> None:
        async with connected(switch) as connection:
            await connection.bundle([], good[:2])
            limit = ("--", "--id=@t", "create", "Flow_Table", "flow_limit=3")
            switch.vsctl(*limit, "--", "set", "Bridge", BRIDGE, f"flow_tables:{good[0].table}=@t")
            with pytest.raises(OpenFlowError, match=r"TABLE_FULL.*rolled it back"):
                await connection.bundle([], good[2:])
            assert await connection.dump() == {*good[:2]}

    with DummySwitch() as switch:
        switch.add_bridge(BRIDGE)
        asyncio.run(run(switch))


def test_a_flow_too_long_for_a_message_is_refused_before_anything_is_sent(switch):
    long = Flow(table=1, priority=1, cookie=1, actions=(Output(1),) * 4080)
    longer = replace(long, actions=(Output(1),) * 4100)

    async def run() -> None:
        async with connected(switch) as connection:
            await replace_all(connection, frozenset())
            with pytest.raises(OpenFlowError, match="4100 actions does not fit"):
                await connection.bundle([], [*many(1), longer])
            assert await connection.dump() == frozenset()
            await connection.bundle([], [*many(1), long])
            assert len(await connection.dump()) == 2

    asyncio.run(run())


def test_adding_in_the_place_of_a_flow_replaces_it_and_deleting_what_is_gone_succeeds(switch):
    old, new = many(1)[0], many(1, vtep=2)[0]

    async def run() -> None:
        async with connected(switch) as connection:
            await replace_all(connection, frozenset({old}))
            await connection.bundle([replace(old, priority=9)], [new])
            assert await connection.dump() == {new}

    asyncio.run(run())


def test_changes_by_others_are_told_and_our_own_are_not(switch):
    heard = Heard()

    async def run() -> None:
        async with connected(switch, heard) as connection:
            await replace_all(connection, frozenset(many(50)))
            await connection.bundle(many(1), [])
            await connection.echo(5)
            assert heard.changes == 0
            for command, flow in (
                ("add-flow", "table=9,actions=drop"),
                ("mod-flows", "table=9,actions=1"),
                ("del-flows", ""),
            ):
                before = heard.changes
                switch.ofctl(command, BRIDGE, *([flow] if flow else []))
                await connection.echo(5)
                assert heard.changes > before, command

    asyncio.run(run())


def test_packets_come_with_the_cookie_the_table_and_the_port(switch):
    heard = Heard()
    flow = Flow(table=0, priority=1, cookie=0xC00C1E, match=match(in_port=1), actions=(Controller(64),))

    async def run() -> None:
        async with connected(switch, heard) as connection:
            await replace_all(connection, frozenset({flow}))
            frame = bytes.fromhex("020000000002020000000001 88b5") + bytes(range(100))
            switch.receive("p1", frame)
            await connection.echo(5)
            await asyncio.sleep(0.05)
            assert [(cookie, table, port) for cookie, table, port, _ in heard.packets] == [(0xC00C1E, 0, 1)]
            assert heard.packets[0][3] == frame, "Open vSwitch sends the whole frame, whatever max_len says"

    asyncio.run(run())


def test_a_frame_that_was_held_is_judged_by_the_flows_that_are_in_when_it_is_given_back():
    """At once: the switch remembers what it did with such frames, and would do it for milliseconds more."""

    async def quiet(connection: OpenFlowConnection) -> None:
        await connection.echo(5)
        await asyncio.sleep(0.05)

    async def scenario(switch: DummySwitch, frame: bytes) -> None:
        heard = Heard()
        async with connected(switch, heard) as connection:
            await connection.bundle((), (hold_flow(mac_to_int(frame[6:12].hex(":"))),))
            await asyncio.to_thread(switch.receive, "p1", frame)
            await quiet(connection)
            assert [(table, in_port, data) for _, table, in_port, data in heard.packets] == [(0, 1, frame)]
            connection.resubmit(1, [frame])
            await quiet(connection)
            assert len(heard.packets) == 2
            assert switch.sent("p2") == [], "nothing lets it in"
            entry = Flow(table=0, priority=100, cookie=0, match=match(in_port=1), actions=(Output(2),))
            await connection.bundle((), (entry,))
            connection.resubmit(2, [frame])
            connection.resubmit(1, [frame])
            await quiet(connection)
            assert switch.sent("p2") == [frame]
            assert len(heard.packets) == 3, "by another port it is held again"
            again = connection.pack((), (replace(entry, match=match(in_port=2), actions=(Output(1),)),))
            armed = connection.arm(again, PortWord("p2", 2))
            assert armed is not None
            await armed.fire([frame])
            await quiet(connection)
            assert switch.sent("p1") == [frame], "it comes right behind the flows"
            assert len(heard.packets) == 3

    with make_switch() as one:
        one.add_bridge(BRIDGE)
        for number in (1, 2):
            one.add_port(BRIDGE, f"p{number}")
        asyncio.run(scenario(one, bytes(Ether(src="52:54:00:00:00:01", dst="52:54:00:00:00:02") / IP() / UDP())))


def test_ports_are_told_by_name_and_number_when_they_come_and_when_they_go(switch):
    async def run() -> None:
        heard = Heard()
        async with connected(switch, heard) as connection:
            switch.add_port(BRIDGE, "comes")
            number = int(switch.vsctl("get", "Interface", "comes", "ofport"))
            await connection.echo(5)
            assert ("comes", number) in heard.ports
            switch.vsctl("del-port", BRIDGE, "comes")
            await connection.echo(5)
            assert heard.ports[-1] == ("comes", 0)

    asyncio.run(run())


def test_a_bundle_leaves_with_the_number_of_the_port_that_it_waits_for_and_with_no_other(switch):
    flows = many(2)

    async def run() -> None:
        heard = Heard()
        async with connected(switch, heard) as connection:
            await replace_all(connection, frozenset())
            await connection.bundle((), flows)  # of these forms the switch takes more
            await connection.bundle(flows, ())
            switch.add_port(BRIDGE, "before")
            await connection.echo(5)
            number = int(switch.vsctl("get", "Interface", "before", "ofport"))
            for name, leaves in (("strange", False), ("awaited", True)):
                number += 1
                armed = connection.arm(connection.pack((), flows), PortWord("awaited", number))
                assert armed is not None
                adding = asyncio.create_task(asyncio.to_thread(switch.add_port, BRIDGE, name))
                await asyncio.sleep(0)
                while (name, number) not in heard.ports:
                    connection.hear(armed)
                await adding
                assert armed.left == leaves
                if leaves:
                    await armed.fire(())
                    assert await connection.dump() == frozenset(flows)
                else:
                    armed.disarm()
                    assert await connection.dump() == frozenset()

    try:
        asyncio.run(run())
    finally:
        for name in ("before", "strange", "awaited"):
            switch.vsctl("--if-exists", "del-port", BRIDGE, name)


def test_a_loud_port_cannot_flood_a_connection_that_does_not_read(switch):
    flow = Flow(table=0, priority=1, cookie=1, match=match(in_port=1), actions=(Controller(64),))
    heard = Heard()

    async def run() -> None:
        async with connected(switch, heard) as connection:
            await replace_all(connection, frozenset({flow}))
            frame = "in_port(1),eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),eth_type(0x88b5)"
            # nobody reads meanwhile: the event loop stands still
            switch.appctl("netdev-dummy/receive", "p1", *[frame] * 3000)
            await asyncio.sleep(0.1)
            await replace_all(connection, frozenset({replace(flow, actions=Drop)}))
            assert await connection.dump()

    asyncio.run(run())
    assert 0 < len(heard.packets) < 3000


def test_the_end_of_the_switch_is_told_once_and_its_return_can_be_connected_to():
    async def run(switch: DummySwitch) -> None:
        heard = Heard()
        async with connected(switch, heard) as connection:
            await connection.bundle([], many(3))
            switch.kill_vswitchd()
            for _ in range(100):
                if heard.closed:
                    break
                await asyncio.sleep(0.01)
            assert connection.closed
            with pytest.raises(OpenFlowError, match="connection is gone"):
                await connection.dump()
            with pytest.raises(OpenFlowError, match="is ovs-vswitchd running"):
                async with connected(switch):
                    pass
            switch.start_vswitchd()
            switch.vsctl("set", "Bridge", BRIDGE, "external_ids:back=yes")  # waits until it has its bridges again
            async with connected(switch) as again:
                assert await again.dump() == frozenset(), "a restarted switch has no flows"
        assert len(heard.closed) == 1

    with DummySwitch() as switch:
        switch.add_bridge(BRIDGE)
        asyncio.run(run(switch))


def test_a_hundred_thousand_flows_and_one_change_are_quick(switch):
    """Generous bounds, so that a busy machine passes and a wrong order of growth does not."""
    flows = many(100_000)

    async def run() -> tuple[float, float]:
        async with connected(switch) as connection:
            switch.ofctl("del-flows", BRIDGE)
            start = time.perf_counter()
            await connection.bundle([], flows)
            all_s = time.perf_counter() - start
            assert len(await connection.dump()) == 100_000
            single = []
            for flow in many(50, vtep=2):
                start = time.perf_counter()
                await connection.bundle([], [flow])
                single.append(time.perf_counter() - start)
            switch.ofctl("del-flows", BRIDGE)
            return all_s, sorted(single)[25]

    all_s, one_s = asyncio.run(run())
    print(f"100,000 flows {all_s:.2f} s, one change {one_s * 1e3:.2f} ms")
    assert all_s < 10
    assert one_s < 0.02


@pytest.mark.datapath
def test_meters_are_made_changed_read_back_and_removed(switch):
    first = {MeterLimit(number=7, rate_kbps=5000, burst_kbit=600), MeterLimit(number=9, rate_kbps=64, burst_kbit=600)}
    faster = MeterLimit(number=7, rate_kbps=400_000_000, burst_kbit=40_000_000)
    flow = Flow(table=0, priority=1, cookie=1, match=match(in_port=1), actions=(Meter(7), Output(2)))

    async def run() -> None:
        async with connected(switch) as connection:
            await connection.change_meters(put=tuple(first), remove=())
            assert await connection.meters() == first
            await replace_all(connection, frozenset({flow}))
            await connection.change_meters(put=(faster,), remove=(9,))
            assert await connection.meters() == {faster}
            assert await connection.dump() == {flow}, "a changed meter keeps its flows"
            with pytest.raises(OpenFlowError, match="refused the flow"):
                await connection.bundle((), (replace(flow, actions=(Meter(8), Output(2))),))
            text = switch.ofctl("dump-meters", BRIDGE)
            assert "meter=7" in text
            assert "rate=400000000" in text

    asyncio.run(run())


@pytest.mark.datapath
def test_what_meters_drop_is_counted_as_the_oracle_counts_it(switch):
    tight, wide = MeterLimit(number=7, rate_kbps=64, burst_kbit=80), MeterLimit(number=9, rate_kbps=64, burst_kbit=600)
    flows = frozenset(
        Flow(table=0, priority=1, cookie=1, match=match(eth_src=source), actions=(Meter(meter.number), Output(2)))
        for source, meter in ((1, tight), (2, wide))
    )
    frames = [bytes(6) + number.to_bytes(6, "big") + b"\x08\x00" + bytes(986) for number in (1, 2)]

    def told_of(packets: int) -> int:
        return switch.ofctl("meter-stats", BRIDGE).count(f"packet_in_count:{packets} ")

    async def run() -> tuple[dict[int, int], str]:
        switch.ofctl("del-meters", BRIDGE)
        async with connected(switch) as connection:
            assert await connection.meter_drops() == {}
            await connection.change_meters(put=(tight, wide), remove=())
            await replace_all(connection, flows)
            assert await connection.meter_drops() == {7: 0, 9: 0}
            await asyncio.to_thread(switch.receive, "p1", *frames * 30)
            assert await asyncio.to_thread(within, 5, lambda: told_of(30) == 2), "they are taken in the switch's rounds"
            counted, told = await connection.meter_drops(), switch.ofctl("meter-stats", BRIDGE)
            await connection.change_meters(put=(), remove=(7, 9))
            assert await connection.meter_drops() == {}
            return counted, told

    counted, told = asyncio.run(run())
    oracle = re.findall(r"meter:(\d+) .*\n0: packet_count:(\d+)", told)
    assert counted == {int(number): int(packets) for number, packets in oracle}, told
    assert 10 <= counted[7] < 30
    assert counted[9] == 0


def test_a_dump_gives_known_flows_by_themselves_and_forgets_what_went(switch: DummySwitch) -> None:
    def row(number: int) -> Flow:
        return Flow(table=9, priority=7, cookie=5, match=match(metadata=5, reg3=number), actions=(Output(1),))

    async def run() -> None:
        ours = frozenset(map(row, range(1, 3001)))
        async with connected(switch) as connection:
            await replace_all(connection, ours)
            dumped = await connection.dump(before=ours)
            assert dumped == ours
            own = {id(flow) for flow in ours}
            assert all(id(flow) in own for flow in dumped), "of two equal flows one is enough"
            again = await connection.dump()
            assert all(id(flow) in own for flow in again), "as it was told the first time"
            for step in range(2, 5):
                await replace_all(connection, frozenset(map(row, range(3000 * step, 3000 * step + 10))))
                await connection.dump()
            assert len(connection._known) < 1100, "of flows that went nothing is kept for long"
            await replace_all(connection, frozenset())

    asyncio.run(run())


def test_flows_that_are_expected_are_recognised_without_being_decoded(switch: DummySwitch) -> None:
    """The flows of remote ports, which are nearly all where there are thousands, as Open vSwitch writes them."""
    key, addresses = 0xFE6B77B65BC75DA6, ((4, 0x0A010203), (6, 0xFD00_0000_0000_0000_0000_0000_0000_0005))
    ours = {
        *locate(key, 0x525400ABCDEF, "10.200.0.2", "", "10.200.0.1"),
        *locate(key, 0x020000000001, "10.200.0.2", "10.200.0.3", "10.200.0.1"),
        *locate(key, 0x020000000002, "fd01::2", "", "fd01::1"),
        *(binding(key, version, number, 0x525400ABCDEF) for version, number in addresses),
    }
    others = {Flow(table=2, priority=9, cookie=key, match=match(in_port=1, eth_src="02:00:00:00:00:09"))}

    async def run() -> None:
        async with connected(switch) as connection:
            await replace_all(connection, frozenset(ours | others))
        async with connected(switch) as connection:
            connection.expect(ours | others)
            dumped = {id(flow): flow for flow in await connection.dump()}
            assert set(dumped.values()) == ours | others
            assert {id(flow) for flow in ours} <= dumped.keys()
            assert not {id(flow) for flow in others} & dumped.keys(), "how these are written is not said"
            await replace_all(connection, frozenset())

    asyncio.run(run())


@pytest.mark.datapath
def test_a_changed_meter_is_read_back_without_all_the_flows_and_one_that_took_flows_with_it_with_them(
    switch, monkeypatch
):
    meter, dumps = MeterLimit(number=7, rate_kbps=5000, burst_kbit=600), []
    flow = Flow(table=0, priority=1, cookie=1, match=match(in_port=1), actions=(Meter(7), Output(2)))

    async def dump(self: OpenFlowConnection, **more: Any) -> frozenset[Flow]:
        dumps.append(self.bridge)
        return await whole(self, **more)

    async def run() -> None:
        news = asyncio.Event()
        switches = Switches(
            switch.rundir,
            dirty=lambda _: news.set(),
            packet_in=lambda *_: None,
            port=lambda *_: None,
            lost=lambda _: None,
        )
        switches.follow([BRIDGE])
        async with asyncio.timeout(10):
            while not switches.connected(BRIDGE):
                await news.wait()
                news.clear()
            await switches.read_stale()
            dumps.clear()
            await switches.change_meters(ChangeMeters(bridge=BRIDGE, put=(meter,), remove=()))
            await switches.change_flows(BRIDGE, delete=(), add=(flow,))
            await switches.read_stale()
            assert switches.meters() == {BRIDGE: frozenset({meter})}
            assert dumps == []
            news.clear()
            await switches.change_meters(ChangeMeters(bridge=BRIDGE, put=(), remove=(7,)))
            await news.wait()
            await switches.read_stale()
            assert switches.meters() == {BRIDGE: frozenset()}
            assert flow not in switches.flows(BRIDGE)
            assert dumps == [BRIDGE]
        await switches.close()

    whole = OpenFlowConnection.dump
    monkeypatch.setattr(OpenFlowConnection, "dump", dump)
    switch.ofctl("del-flows", BRIDGE)
    switch.ofctl("del-meters", BRIDGE)
    asyncio.run(run())
