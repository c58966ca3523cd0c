"""Claims that come together: decided one after the other, committed at once, each with its own answer."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import grpc
import pytest
from structlog.testing import capture_logs

from netmgr.arbiter import Grant, decide_claim
from netmgr.contract import codec
from netmgr.contract.proto import sync_pb2
from netmgr.contract.types import CLAIMS_MAX, Claim, ClaimIntent, Kind, ReleaseReason
from netmgr.model import World
from netmgr.sync import decisions
from tests.support.netmgr_rig import Closed, Rig, eventually, manager
from tests.support.netmgr_worlds import H1, H2, H3, NET_A, NET_B, PORT, VIF, held, uid

START = ClaimIntent.START


def over(directory: Path, test: Callable[[Rig], Awaitable[None]], *rows: object) -> None:
    async def run() -> None:
        async with manager(directory, *rows) as rig:  # type: ignore[arg-type]
            await test(rig)

    asyncio.run(run())


def claim(number: int, **more: object) -> Claim:
    fields: dict[str, object] = {
        "request_id": number,
        "vif_uuid": uid(f"vif {number}"),
        "network_uuid": NET_A.uuid,
        "mac": f"52:54:00:01:{number // 256:02x}:{number % 256:02x}",
        "intent": START,
    }
    return Claim(**{**fields, **more})  # type: ignore[arg-type]


def test_many_claims_are_one_transaction_one_answer_and_one_difference_to_peers(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        host = await rig.host(H1).connect()
        peer = await rig.host(H2, subscribed={NET_A.uuid}).connect()
        before, sent = rig.hub.world.revision, len(peer.updates)
        answers = await host.claim_together(*(claim(number) for number in range(100, 400)))
        assert not any(answer.refusal for answer in answers)
        assert host.answered == [list(range(100, 400))]
        assert rig.hub.world.revision == before + 1
        vifs = [codec.decode_object(answer.port).body.vif_uuid for answer in answers]  # type: ignore[union-attr]
        assert vifs == [uid(f"vif {number}") for number in range(100, 400)]
        await peer.until(lambda: sum(kind is Kind.LOCATION for kind, _ in peer.have) == 300)
        assert {update.revision for update in peer.updates[sent:]} == {before + 1}
        assert sum(update.last for update in peer.updates[sent:]) == 1
        await host.until(lambda: host.revision > before)  # what the answers gave is looked after from now on
        await eventually(lambda: rig.hub.counts["claims_granted"] == 300)  # counted once the answers have left

    over(tmp_path, test)


def test_each_claim_has_its_own_answer_and_sees_what_those_before_it_were_granted(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        host = await rig.host(H1).connect()
        before = rig.hub.world.revision
        mine, twin, again = claim(1), claim(2, mac=claim(1).mac), claim(7, vif_uuid=claim(1).vif_uuid, mac=claim(1).mac)
        nowhere, elsewhere = claim(3, network_uuid=uid("no network")), claim(4, vif_uuid=VIF, mac=PORT.mac)
        out_of_zone, other = claim(5, network_uuid=NET_B.uuid), claim(6)
        answers = await host.claim_together(mine, twin, nowhere, elsewhere, out_of_zone, other, again)
        assert [bool(answer.refusal) for answer in answers] == [False, True, True, True, True, False, False]
        assert f"not to VIF {twin.vif_uuid}" in answers[1].refusal
        assert "does not exist" in answers[2].refusal
        assert "is held by host h2" in answers[3].refusal
        assert "which host h1 is not in" in answers[4].refusal
        assert answers[6].port == answers[0].port
        assert answers[6].location == answers[0].location
        assert rig.hub.world.revision == before + 1
        assert len(rig.hub.world.ports) == 3

    over(tmp_path, test, PORT, held(H2))


def test_refused_together_they_cost_no_revision_and_may_still_be_dark(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        host = await rig.host(H3).connect()
        before = rig.hub.world.revision
        answers = await host.claim_together(*(claim(number, network_uuid=NET_B.uuid) for number in range(1, 4)))
        assert all(answer.dark and "attach mode manual" in answer.refusal for answer in answers)
        assert rig.hub.world.revision == before
        async with asyncio.timeout(5):
            while rig.hub.counts["claims_refused"] != 3:  # noqa: ASYNC110  # counted once the answers have left
                await asyncio.sleep(0.01)

    over(tmp_path, test)


def test_what_a_host_says_next_is_about_what_it_was_granted(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        host = await rig.host(H1).connect()
        answers = await host.claim_together(claim(1), claim(2))
        given = codec.decode_object(answers[0].location).body
        release = sync_pb2.Release(
            port_uuid=str(given.port_uuid),  # type: ignore[union-attr]
            version=given.version,  # type: ignore[union-attr]
            why=ReleaseReason.STOPPED.value,
        )
        await host.send(release=release)
        await eventually(lambda: rig.hub.world.locations[given.port_uuid].parked)  # type: ignore[union-attr]
        assert sum(location.parked for location in rig.hub.world.locations.values()) == 1

    over(tmp_path, test)


@pytest.mark.parametrize(
    ("claims", "names"),
    [
        ([claim(number) for number in range(CLAIMS_MAX + 1)], f"at most {CLAIMS_MAX}"),
        ([claim(1), "not a claim"], "Claim.vif_uuid"),
    ],
    ids=["too many", "one that does not fit"],
)
def test_a_message_that_does_not_fit_grants_nothing(tmp_path: Path, claims: list[object], names: str) -> None:
    async def test(rig: Rig) -> None:
        host = await rig.host(H1).connect()
        before = rig.hub.world.revision
        words = [
            codec.encode(one) if isinstance(one, Claim) else sync_pb2.Claim(vif_uuid=str(one), intent="start")
            for one in claims
        ]
        await host.send(claims=sync_pb2.Claims(claims=words))
        closed: Closed = await host.ended()
        assert closed.code is grpc.StatusCode.INVALID_ARGUMENT
        assert names in closed.sentence
        assert rig.hub.world.revision == before

    over(tmp_path, test)


def test_no_claim_is_refused_because_another_ones_grant_does_not_fit_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arbiter grants nothing that does not fit; here it is made to."""
    wrong = claim(2)

    def decide(world: World, *, host: UUID, claim: Claim, new_port_uuid: UUID, now_ms: int) -> object:
        decided = decide_claim(world, host=host, claim=claim, new_port_uuid=new_port_uuid, now_ms=now_ms)
        if claim == wrong and isinstance(decided, Grant):
            return replace(decided, port=replace(decided.port, name=PORT.name))
        return decided

    monkeypatch.setattr(decisions, "decide_claim", decide)

    async def test(rig: Rig) -> None:
        claims = [claim(1), wrong, claim(3)]
        answers = decisions.answer_claims(rig.store, decisions.Asker(host=H1.uuid), claims, now_ms=5)
        assert [bool(answer.refusal) for answer in answers] == [False, True, False]
        assert f"VIF {wrong.vif_uuid} can't be granted now" in answers[1].refusal
        with rig.store.read() as world:
            assert {world.ports[uuid].vif_uuid for uuid in world.ports} == {VIF, claims[0].vif_uuid, claims[2].vif_uuid}

    over(tmp_path, test, PORT)


def test_the_log_is_told_when_the_host_has_its_answers(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        claims = [claim(1), claim(2, network_uuid=uid("nowhere"))]
        before: list[object] = []
        with capture_logs() as told:
            answers = decisions.answer_claims(
                rig.store,
                decisions.Asker(host=H1.uuid),
                claims,
                now_ms=5,
                answered=lambda found: before.extend((list(found), list(told))),
            )
        assert before == [answers, []]
        assert [one["event"] for one in told] == ["claim.granted", "claim.refused"]

    over(tmp_path, test)


def test_a_store_that_cannot_write_refuses_all_with_its_sentence(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.store.close()
        gone = tmp_path / "netmgr.db"
        gone.unlink()
        gone.mkdir()  # nobody can open it any more
        answers = decisions.answer_claims(rig.store, decisions.Asker(host=H1.uuid), [claim(1), claim(2)], now_ms=5)
        assert [f"VIF {claim(n).vif_uuid} can't be granted now" in answers[n - 1].refusal for n in (1, 2)] == [True] * 2
        gone.rmdir()

    over(tmp_path, test)


def test_numbers_of_claims_are_the_hosts(tmp_path: Path) -> None:
    """Two messages, answered each in its own, by the numbers that they bear."""

    async def test(rig: Rig) -> None:
        host = await rig.host(H1).connect()
        more = [claim(number, vif_uuid=uuid4()) for number in (50, 40)]
        await host.claim_together(*more)
        await host.claim_together(claim(60))
        assert host.answered == [[50, 40], [60]]

    over(tmp_path, test)
