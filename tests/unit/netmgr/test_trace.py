"""A trace through hosts whose answers the test gives, and questions over real streams."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from netmgr.contract import codec
from netmgr.contract.learned import Learned, LearnedAddress, LearnedSource
from netmgr.contract.proto import sync_pb2
from netmgr.contract.types import (
    Location,
    TraceAnswer,
    TraceEnd,
    TraceEndKind,
    TraceFrame,
    TraceProtocol,
    TraceQuestion,
    TraceStep,
)
from netmgr.sync.admission import Greeting
from netmgr.sync.session import Session
from tests.support.netmgr_api import Api
from tests.support.netmgr_rig import manager
from tests.support.netmgr_worlds import H1, H2, NET_A

VIFS = {name: uuid4() for name in ("web1", "web2", "red1")}
FRAME = TraceFrame(
    eth_src="02:00:00:00:00:01",
    eth_dst="02:00:00:00:00:02",
    protocol=TraceProtocol.ICMP,
    ip_src="10.0.0.1",
    ip_dst="10.0.0.2",
)
QUESTION = TraceQuestion(network_uuid=NET_A.uuid, vif_uuid=VIFS["web1"], frame=FRAME)


class World:
    """Hosts h1, h2 in zone a; blue/web1 held by h1, blue/web2 by h2, red/red1 by nobody."""

    def __init__(self, api: Api) -> None:
        self.api = api
        for path, body in (
            ("zones", {"name": "a"}),
            ("switches", {"name": "sw", "zones": ["a"], "vtep_pool": "10.200.0.0/24", "mtu": 1650}),
        ):
            assert api.operator.post(f"/api/v1/{path}", json=body).status_code == 201
        self.h1, self.h2 = api.enrol("h1", "a"), api.enrol("h2", "a")
        for network in ("blue", "red"):
            done = api.operator.post("/api/v1/networks", json={"name": network, "zone": "a", "mtu": 1450})
            assert done.status_code == 201, done.text
        for number, (name, network) in enumerate((("web1", "blue"), ("web2", "blue"), ("red1", "red")), start=1):
            body = {"name": name, "network": network, "ips": [f"10.0.0.{number}"], "vif_uuid": str(VIFS[name])}
            done = api.operator.post("/api/v1/ports", json=body)
            assert done.status_code == 201, done.text
        with api.store.transaction() as tx:
            for name, host in (("web1", self.h1), ("web2", self.h2)):
                port = tx.world.ports[tx.world.port_by_vif[VIFS[name]]]
                vtep = host.vteps[0].address.partition("/")[0]
                tx.put(
                    Location(
                        port_uuid=port.uuid,
                        network_uuid=port.network_uuid,
                        holder_host=host.uuid,
                        holder_vtep=vtep,
                        version=1,
                    )
                )
        self.asked: list[TraceQuestion] = []

    def answers(self, host: UUID, *ends: TraceEnd) -> None:
        def answer(question: TraceQuestion) -> TraceAnswer:
            self.asked.append(question)
            return TraceAnswer(steps=(TraceStep(table="CLASSIFY"),), ends=ends)

        self.api.hosts.answers[host] = answer

    def away(self) -> TraceEnd:
        vtep = self.h2.vteps[0].address.partition("/")[0]
        return TraceEnd(kind=TraceEndKind.TUNNEL, ovs_port="vxlan", vtep=vtep)

    def trace(self, **body: object) -> tuple[str, str]:
        done = self.api.operator.post("/api/v1/trace", json={"source": "web1", "destination": "web2", **body})
        assert done.status_code == 200, done.text
        return done.json()["result"], done.json()["sentence"]

    def refusal(self, **body: object) -> tuple[int, str]:
        done = self.api.operator.post("/api/v1/trace", json={"source": "web1", "destination": "web2", **body})
        return done.status_code, done.json()["error"]


@pytest.fixture
def world(api: Api) -> World:
    return World(api)


def to(name: str) -> TraceEnd:
    return TraceEnd(kind=TraceEndKind.VIF, ovs_port="tap", vif_uuid=VIFS[name])


def test_copy_that_leaves_by_the_tunnel_is_followed_to_the_host_of_that_vtep(world: World) -> None:
    world.answers(world.h1.uuid, world.away())
    world.answers(world.h2.uuid, to("web2"))
    assert world.trace(destination="10.0.0.2") == (
        "delivered",
        f"Delivered to port web2 (VIF {VIFS['web2']}) on host h2.",
    )
    first, second = world.asked
    assert (first.vif_uuid, first.from_vtep) == (VIFS["web1"], "")
    assert (second.vif_uuid, second.from_vtep) == (None, world.h1.vteps[0].address.partition("/")[0])
    assert second.frame == first.frame


def test_a_port_without_defined_addresses_speaks_from_what_was_learned_of_it(world: World) -> None:
    web2 = world.api.operator.patch("/api/v1/ports/web2", json={"ips": []}).json()
    assert world.refusal()[0] == 409
    assert "port web2 has no address, defined or learned" in world.refusal()[1]
    learned = [
        LearnedAddress(address="10.0.0.1", source=LearnedSource.ARP, refused="is web1's"),
        LearnedAddress(address="10.0.0.70", source=LearnedSource.ARP, mac="02:00:00:00:00:77"),
        LearnedAddress(address="10.0.0.7", source=LearnedSource.DHCP),
    ]
    uuid, network = UUID(web2["uuid"]), UUID(web2["network_uuid"])
    with world.api.store.transaction() as tx:
        tx.put(Learned(port_uuid=uuid, network_uuid=network, addresses=tuple(learned)))
    world.answers(world.h1.uuid, world.away())
    world.answers(world.h2.uuid, to("web2"))
    assert world.trace()[0] == "delivered"
    assert world.asked[0].frame.ip_dst == "10.0.0.7"
    assert world.trace(destination="10.0.0.7")[0] == "delivered"


def test_drop_says_host_table_and_reason_and_what_is_known_of_the_port(world: World) -> None:
    world.answers(
        world.h1.uuid, TraceEnd(kind=TraceEndKind.DROPPED, table="SOURCES", reason="IP source is not the port's")
    )
    result, sentence = world.trace(source_ip="10.0.0.99")
    assert result == "dropped"
    assert sentence.startswith("Dropped on host h1 in table SOURCES: IP source is not the port's")
    assert world.asked[0].frame.ip_src == "10.0.0.99"
    assert world.api.operator.patch("/api/v1/ports/web2", json={"admin_up": False}).status_code == 200
    assert "port web2 is set down by its operator" in world.trace()[1]


@pytest.mark.parametrize(
    ("table", "reason", "sentence"),
    [
        ("INGRESS_VERDICT", "no rule", "group db of port web2: no rule allows ingress tcp/443 from 10.0.0.1 "),
        ("EGRESS_VERDICT", "no rule", "groups lan, web of port web1: no rule allows egress tcp/443 to 10.0.0.2 "),
        ("INGRESS_TRACKED", "the tracker knows nothing", "group db of port web2: the tracker knows nothing "),
    ],
)
def test_drop_of_security_groups_says_whose_and_what_no_rule_allows(
    world: World, table: str, reason: str, sentence: str
) -> None:
    for name in ("web", "lan", "db"):
        assert world.api.operator.post("/api/v1/groups", json={"name": name}).status_code == 201
    for port, groups in (("web1", ["web", "lan"]), ("web2", ["db"])):
        assert world.api.operator.patch(f"/api/v1/ports/{port}", json={"security_groups": groups}).status_code == 200
    world.answers(world.h1.uuid, TraceEnd(kind=TraceEndKind.DROPPED, table=table, reason=reason))
    result, found = world.trace(protocol="tcp", destination_port=443)
    assert result == "dropped"
    assert found.startswith(f"Dropped on host h1 by security {sentence}(table {table})")


def test_copies_to_others_are_no_delivery(world: World) -> None:
    world.answers(world.h1.uuid, world.away())
    world.answers(world.h2.uuid, to("web2"))
    result, sentence = world.trace(destination="red1")
    assert result == "dropped"
    assert "1 other VIF of network blue gets a copy" in sentence
    assert "port red1 is on network red, web1 on blue, and no frame crosses networks" in sentence


def test_arp_that_is_answered_on_the_asker_s_host_is_delivered(world: World) -> None:
    world.answers(world.h1.uuid, TraceEnd(kind=TraceEndKind.ANSWERED, ovs_port="tap", vif_uuid=VIFS["web1"]))
    result, sentence = world.trace(protocol="arp")
    assert result == "delivered"
    assert sentence.startswith("Answered on host h1")
    assert world.asked[0].frame.eth_dst == "ff:ff:ff:ff:ff:ff"


def test_host_that_is_not_connected_is_said_and_is_no_drop(world: World) -> None:
    world.answers(world.h1.uuid, world.away())
    result, sentence = world.trace()
    assert result == "unknown"
    assert f"host {world.h2.uuid} is not connected" in sentence


def test_hosts_that_send_a_frame_in_circles_are_not_followed_for_ever(world: World) -> None:
    back = TraceEnd(kind=TraceEndKind.TUNNEL, ovs_port="vxlan", vtep=world.h1.vteps[0].address.partition("/")[0])
    world.answers(world.h1.uuid, world.away())
    world.answers(world.h2.uuid, back, back)
    result, sentence = world.trace()
    assert result == "unknown"
    assert "more than 6 hosts in a row" in sentence
    assert len(world.asked) < 50


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"destination": "10.0.0.77"}, 404, "no port of network blue has the address 10.0.0.77"),
        ({"destination": "web9"}, 404, "did you mean"),
        ({"destination": "web1"}, 400, "a frame to itself"),
        ({"protocol": "tcp"}, 400, "tcp needs one"),
        ({"source_mac": "02:00"}, 400, "is no MAC"),
        ({"source_ip": "here"}, 400, "is no address"),
        ({"source_ip": "fd00::1"}, 409, "no addresses of one family"),
        ({"source": "red1"}, 409, "no connected host has its VIF"),
        ({"port": 1}, 400, "port"),
    ],
)
def test_what_makes_no_frame_is_refused_and_nobody_is_asked(
    world: World, body: dict[str, object], status: int, words: str
) -> None:
    found, sentence = world.refusal(**body)
    assert found == status
    assert words in sentence
    assert not world.asked


def test_answer_reaches_who_asked_and_a_lost_stream_is_an_answer_too(tmp_path: Path) -> None:
    async def run() -> None:
        async with manager(tmp_path) as rig:
            end = await rig.host(rig.enrol(H1)).connect()
            asking = asyncio.ensure_future(rig.hub.ask(H1.uuid, QUESTION, timeout_s=5))
            message = await end.call.read()
            asked = codec.decode(TraceQuestion, message.trace)
            assert replace(asked, request_id=0) == QUESTION
            wrong = TraceAnswer(request_id=asked.request_id + 1)
            answer = TraceAnswer(
                request_id=asked.request_id, ends=(TraceEnd(kind=TraceEndKind.DROPPED, table="GUARD"),)
            )
            for one in (wrong, answer):
                await end.send(trace_answer=codec.encode(one))
            assert await asking == answer
            asking = asyncio.ensure_future(rig.hub.ask(H1.uuid, QUESTION, timeout_s=60))
            await end.call.read()
            await end.close()
            assert "did not answer" in (await asyncio.wait_for(asking, 10)).refusal
            assert "not connected" in (await rig.hub.ask(H2.uuid, QUESTION, timeout_s=5)).refusal

    asyncio.run(run())


def test_stream_that_is_cancelled_while_it_ends_lets_its_host_in_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with manager(tmp_path) as rig:
            greeting = Greeting(
                host_uuid=H1.uuid,
                boot_id="b",
                agent_version="1",
                store_id="",
                have=(),
                network_uuids=frozenset(),
                view_address="",
            )
            session = Session(rig.hub, None, greeting, "h1")  # type: ignore[arg-type]
            ending = asyncio.Event()

            async def nothing() -> object:
                return
                yield

            async def write(_message: sync_pb2.ManagerMessage) -> None:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    ending.set()
                    await asyncio.sleep(60)

            rig.hub._streams[H1.uuid] = session
            running = asyncio.ensure_future(session.run(nothing(), write))  # type: ignore[arg-type]
            await asyncio.wait_for(ending.wait(), 5)
            running.cancel()
            await asyncio.wait_for(session.ended(), 5)
            assert "not connected" in (await rig.hub.ask(H1.uuid, QUESTION, timeout_s=5)).refusal

    asyncio.run(run())
