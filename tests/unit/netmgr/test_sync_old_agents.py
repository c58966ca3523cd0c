"""Agents that are older than an object: it is not sent to them, the manager says why, and all else goes on."""

from dataclasses import replace
from pathlib import Path

import pytest

from netmgr.contract.reading import WORDS
from netmgr.contract.types import Allowance, ClaimIntent, Kind, NetworkType, TransportZone, ZoneKind
from netmgr.service.realization import HostState, state_on
from tests.support.netmgr_rig import Rig, eventually
from tests.support.netmgr_worlds import H1, NET_A, PORT, SWITCH_A, VIF, ZONE_A, held, uid
from tests.unit.netmgr.test_sync import over

START = ClaimIntent.START
VLAN = replace(NET_A, uuid=uid("office"), name="office", type=NetworkType.VLAN, segment_id=100)
OLD = WORDS - {"NetworkType.vlan", "Allowance.nested", "LogicalPort.security_groups"}


@pytest.mark.parametrize("reads", [(), sorted(OLD)], ids=["older than words", "words"])
def test_what_an_agent_can_not_read_is_not_sent_to_it_and_the_manager_says_so(tmp_path: Path, reads: list[str]) -> None:
    async def test(rig: Rig) -> None:
        host = await rig.host(H1).connect(reads=reads, agent_version="0.0.9")
        revision = rig.put(VLAN)
        await eventually(lambda: rig.fleet.live(H1.uuid).rejections)
        reason = rig.fleet.live(H1.uuid).rejections["network", VLAN.uuid]
        assert reason == "the agent of host h1 (version 0.0.9) is too old to read NetworkType.vlan; upgrade it"
        with rig.store.read() as world:
            found = state_on(world, H1, (Kind.NETWORK, VLAN.uuid), rig.fleet.live(H1.uuid))
        assert found == (HostState.REJECTED, reason)
        assert not rig.fleet.realized(H1.uuid, Kind.NETWORK, VLAN.uuid, version=revision)
        changed = rig.put(replace(NET_A, mtu=1400))  # the stream lives on
        await host.until(lambda: host.revision == changed)
        assert (Kind.NETWORK, VLAN.uuid) not in host.have
        rig.delete(Kind.NETWORK, VLAN.uuid)
        await eventually(lambda: rig.fleet.in_sync(H1.uuid))

    over(tmp_path, test)


def test_a_switch_of_zones_that_can_not_be_read_is_kept_back_with_them(tmp_path: Path) -> None:
    street = TransportZone(uuid=uid("street"), name="street", kind=ZoneKind.VLAN)
    alone = replace(SWITCH_A, uuid=uid("sw-street"), name="sw-street", zone_uuids=(street.uuid,), vtep_pool="")
    both = replace(SWITCH_A, zone_uuids=(ZONE_A.uuid, street.uuid))

    async def test(rig: Rig) -> None:
        host = await rig.host(H1).connect(reads=sorted(WORDS - {"ZoneKind.vlan"}))
        await eventually(lambda: rig.fleet.live(H1.uuid).rejections)
        assert {uuid for _, uuid in rig.fleet.live(H1.uuid).rejections} == {street.uuid, alone.uuid}
        assert host.have[Kind.SWITCH, SWITCH_A.uuid].body == both

    over(tmp_path, test, street, alone, both, replace(H1, zone_uuids=(ZONE_A.uuid, street.uuid)))


def test_an_agent_that_was_upgraded_is_sent_what_was_kept_from_it(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        host = await rig.host(H1).connect(reads=sorted(OLD))
        await eventually(lambda: rig.fleet.live(H1.uuid).rejections)
        await host.close()
        await host.connect()
        assert host.have[Kind.NETWORK, VLAN.uuid].body == VLAN
        await eventually(lambda: rig.fleet.in_sync(H1.uuid))

    over(tmp_path, test, VLAN)


def test_what_a_host_has_stays_there_when_it_becomes_something_that_it_can_not_read(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        host = rig.host(H1, subscribed={NET_A.uuid})
        await host.connect(reads=sorted(OLD))
        assert host.have[Kind.PORT, PORT.uuid].body == PORT
        rig.put(replace(PORT, allow=(Allowance.NESTED,)))
        await eventually(lambda: ("port", PORT.uuid) in rig.fleet.live(H1.uuid).rejections)
        revision = rig.put(replace(NET_A, mtu=1400))
        await host.until(lambda: host.revision == revision)
        assert host.have[Kind.PORT, PORT.uuid].body == PORT
        revision = rig.put(replace(PORT, name="vm2"))
        await host.until(lambda: host.revision == revision)
        assert host.have[Kind.PORT, PORT.uuid].body.name == "vm2"
        assert not rig.fleet.live(H1.uuid).rejections

    over(tmp_path, test, PORT, held(H1))


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"allow": (Allowance.NESTED,)}, "Allowance.nested"), ({"security_groups": (uid("web"),)}, "LogicalPort.secur")],
)
def test_a_claim_is_refused_for_a_port_that_the_agent_can_not_read(
    tmp_path: Path, changes: dict[str, object], word: str
) -> None:
    async def test(rig: Rig) -> None:
        host = await rig.host(H1).connect(reads=sorted(OLD), agent_version="0.0.9")
        answer = await host.claim(VIF, NET_A.uuid, PORT.mac, START)
        assert answer.refusal.startswith("port vm1 can't be used here: the agent of host h1 (version 0.0.9) is too old")
        assert word in answer.refusal
        with rig.store.read() as world:
            assert PORT.uuid not in world.locations

    over(tmp_path, test, replace(PORT, **changes))  # type: ignore[arg-type]
