"""Learned addresses at the manager: who may speak, whose an address is, who is told, and what survives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from netmgr import rules, service
from netmgr.contract import codec
from netmgr.contract.types import Kind, Learned, LearnedAddress, LearnedSource, Location, LogicalPort
from netmgr.model import HostRecord, NetmgrError, World
from netmgr.rules import learned as rule
from netmgr.service.mac_views import mac_views, rival_sentences
from netmgr.service.specs import PortPatch
from netmgr.service.views import span_views
from tests.support.netmgr_rig import Rig, manager
from tests.support.netmgr_worlds import H1, H2, H4, NET_A, PORT, VIF, drop, held, put, uid, vtep, world_of

SINCE, LATER = "2026-01-02T03:04:05Z", "2026-01-02T03:05:00Z"
SECOND = LogicalPort(
    uuid=uid("port-2"), name="vm2", network_uuid=NET_A.uuid, vif_uuid=uid("vif-2"), mac="52:54:00:00:00:02"
)
A, B, LL = "10.0.0.5", "10.0.0.6", "fe80::5"


def at(port: LogicalPort, host: HostRecord, *, parked: bool = False) -> Location:
    return Location(
        port_uuid=port.uuid,
        network_uuid=port.network_uuid,
        holder_host=host.uuid,
        holder_vtep=vtep(host),
        parked=parked,
        version=7,
        mac=port.mac,
    )


def word(port: LogicalPort, *addresses: str) -> Learned:
    found = tuple(LearnedAddress(address=one, source=LearnedSource.ARP) for one in addresses)
    return Learned(port_uuid=port.uuid, network_uuid=port.network_uuid, addresses=found)


def hear(world: World, host: HostRecord, said: Learned, since: str = SINCE) -> None:
    """Do with the rows what the store does, refusing what it would refuse."""
    for row in rules.learned_rows(world, host=host.uuid, word=said, since=since):
        for one in row.addresses:
            assert one.refused or not one.probed, "what was probed for is no address of the port's"
            holder = world.unique.get(("learned", row.network_uuid, one.address), row.port_uuid)
            assert one.refused or holder == row.port_uuid, "two rows with one address"
        put(world, row) if row.addresses else drop(world, row)


def state(world: World, port: LogicalPort) -> dict[str, str]:
    row = world.learned.get(port.uuid)
    return {one.address: one.refused for one in row.addresses} if row is not None else {}


@pytest.fixture
def world() -> World:
    return world_of(PORT, held(H1), SECOND, at(SECOND, H2))


def test_the_holder_says_what_its_guest_uses_and_says_it_again_without_a_change(world: World) -> None:
    hear(world, H1, word(PORT, A, LL))
    assert state(world, PORT) == {A: "", LL: ""}
    assert rules.learned_rows(world, host=H1.uuid, word=word(PORT, LL, A), since=LATER) == []
    hear(world, H1, word(PORT, A, B, LL), LATER)
    assert [one.since for one in world.learned[PORT.uuid].addresses] == [SINCE, SINCE, LATER]
    hear(world, H1, word(PORT))
    assert PORT.uuid not in world.learned


@pytest.mark.parametrize("location", [held(), held(H2), held(H2, incoming=H1)], ids=["nobody", "another", "incoming"])
def test_who_does_not_hold_a_port_does_not_speak_for_it(location: Location) -> None:
    with pytest.raises(NetmgrError, match="does not hold it") as caught:
        rules.learned_rows(world_of(PORT, location), host=H1.uuid, word=word(PORT, A), since=SINCE)
    assert caught.value.status == 403


@pytest.mark.parametrize("address", ["10.0.0.300", "", "fd00:0::1", "10.0.0.1/24"])
def test_what_is_no_address_is_refused_whole(world: World, address: str) -> None:
    with pytest.raises(NetmgrError):
        rules.learned_rows(world, host=H1.uuid, word=word(PORT, A, address), since=SINCE)


def test_of_two_ports_with_one_address_the_first_keeps_it_and_both_show_it(world: World) -> None:
    hear(world, H1, word(PORT, A))
    hear(world, H2, word(SECOND, A, B))
    assert state(world, PORT) == {A: ""}
    assert state(world, SECOND) == {A: "port vm1 had it before", B: ""}
    assert rival_sentences(world, PORT) == [f"{A}: the guest of port vm2 uses it too"]
    assert rival_sentences(world, SECOND) == [f"{A}: port vm1 had it before"]
    hear(world, H1, word(PORT))
    assert state(world, SECOND) == {A: "", B: ""}, "who waited gets it, in the same revision"
    assert rival_sentences(world, SECOND) == []


def probed(said: Learned, *addresses: str) -> Learned:
    """*said*, and that the guest has probed for *addresses*."""
    more = tuple(LearnedAddress(address=one, source=LearnedSource.ND, probed=True) for one in addresses)
    return replace(said, addresses=(*said.addresses, *more))


def test_who_only_probes_for_anothers_address_is_shown_on_both_and_never_gets_it(world: World) -> None:
    hear(world, H1, word(PORT, A, LL))
    hear(world, H2, probed(word(SECOND, B), A, LL, "10.0.0.7"))
    had = "port vm1 had it before"
    assert state(world, SECOND) == {B: "", A: had, LL: had}, "what is nobody's is nothing to tell of"
    assert rival_sentences(world, PORT) == [f"{one}: the guest of port vm2 has probed for it" for one in (A, LL)]
    assert rival_sentences(world, SECOND) == [f"{one}: {had}; its guest has probed for it" for one in (A, LL)]
    hear(world, H1, word(PORT, LL))
    assert state(world, SECOND) == {B: "", LL: had}, "it does not wait for the address"
    assert rival_sentences(world, PORT) == [f"{LL}: the guest of port vm2 has probed for it"]


def test_who_has_probed_for_an_address_and_uses_it_then_claims_it_like_any_other(world: World) -> None:
    hear(world, H1, word(PORT, A))
    hear(world, H2, probed(word(SECOND), A))
    hear(world, H2, word(SECOND, A), LATER)
    assert rival_sentences(world, PORT) == [f"{A}: the guest of port vm2 uses it too"]
    assert [one.since for one in world.learned[SECOND.uuid].addresses] == [LATER]
    hear(world, H1, word(PORT))
    assert state(world, SECOND) == {A: ""}
    hear(world, H2, probed(word(SECOND), A))
    assert SECOND.uuid not in world.learned


def test_who_waits_for_an_address_gets_it_though_another_has_probed_for_it_first() -> None:
    third = replace(SECOND, uuid=uid("port-3"), name="vm3", vif_uuid=uid("vif-3"), mac="52:54:00:00:00:03")
    prober, waiter = sorted((SECOND, third), key=lambda port: port.uuid)
    world = world_of(PORT, held(H1), prober, at(prober, H2), waiter, at(waiter, H2))
    hear(world, H1, word(PORT, A))
    hear(world, H2, probed(word(prober), A))
    hear(world, H2, word(waiter, A))
    hear(world, H1, word(PORT))
    assert state(world, waiter) == {A: ""}
    assert state(world, prober) == {}


def test_a_port_with_defined_addresses_that_probes_for_anothers_is_shown_too() -> None:
    defined = replace(PORT, ips=(A,))
    world = world_of(defined, held(H1), replace(SECOND, ips=(B,)), at(SECOND, H2))
    hear(world, H2, probed(word(SECOND), A, "10.0.0.7"))
    assert state(world, SECOND) == {A: "it is defined for port vm1"}
    assert rival_sentences(world, defined) == [f"{A}: the guest of port vm2 has probed for it"]


def test_of_many_probes_no_more_are_kept_than_of_other_collisions(world: World) -> None:
    many = [f"10.0.1.{number}" for number in range(1, rule.RIVALS_A_PORT_MAX + 3)]
    both = replace(PORT, ips=tuple(many))
    put(world, both)
    hear(world, H2, probed(word(SECOND, B), *many))
    assert list(state(world, SECOND)) == [B, *many[: rule.RIVALS_A_PORT_MAX]]


def test_a_guest_that_is_stopped_loses_its_address_to_one_that_runs(world: World) -> None:
    hear(world, H1, word(PORT, A, B))
    put(world, held(H1, parked=True))
    hear(world, H2, word(SECOND, A))
    assert (state(world, SECOND), state(world, PORT)) == ({A: ""}, {B: ""})


def test_a_defined_address_is_not_learned_by_another_and_a_port_with_some_learns_none(world: World) -> None:
    put(world, replace(SECOND, ips=(A,)))
    hear(world, H1, word(PORT, A))
    assert state(world, PORT) == {A: "it is defined for port vm2"}
    assert rival_sentences(world, world.ports[SECOND.uuid]) == [f"{A}: the guest of port vm1 uses it too"]
    hear(world, H2, word(SECOND, B))
    assert state(world, SECOND) == {}


def test_a_port_with_defined_addresses_learns_link_local_ones_as_any_other(world: World) -> None:
    put(world, replace(PORT, ips=(A,)))
    hear(world, H1, word(PORT, LL))
    hear(world, H2, word(SECOND, LL))
    assert state(world, PORT) == {LL: ""}
    assert state(world, SECOND) == {LL: "port vm1 had it before"}
    put(world, replace(SECOND, ips=(LL,)))
    assert rules.evicted_rows(world, world.ports[SECOND.uuid])[0].addresses[0].refused == "it is defined for port vm2"
    hear(world, H1, word(PORT, *(f"fe80::{number:x}" for number in range(9, 99))))
    assert len(state(world, PORT)) == rule.ADDRESSES_A_MAC_MAX


def test_a_link_local_address_that_is_made_of_a_mac_is_nobody_elses(world: World) -> None:
    own, seconds, strangers = "fe80::5054:ff:fe00:1", "fe80::5054:ff:fe00:2", "fe80::5054:ff:fe00:3"
    for ips in ((), (A,)):
        put(world, replace(PORT, ips=ips))
        hear(world, H1, word(PORT, own, seconds, strangers))
        assert state(world, PORT) == {
            own: "",
            seconds: "it is made of the MAC of port vm2",
            strangers: "it is made of 52:54:00:00:00:03, which is not its MAC",
        }
        assert rival_sentences(world, SECOND) == [f"{seconds}: the guest of port vm1 uses it too"]
    hear(world, H2, word(SECOND, seconds))
    assert state(world, SECOND) == {seconds: ""}


def test_an_address_outside_of_the_networks_subnets_is_kept_apart_but_not_a_link_local_one(world: World) -> None:
    put(world, replace(NET_A, subnets=("10.0.0.0/24",)))
    hear(world, H1, word(PORT, A, "10.9.0.1", LL))
    assert state(world, PORT) == {A: "", "10.9.0.1": "it is in none of the network's subnets (10.0.0.0/24)", LL: ""}


def test_there_is_an_end_to_the_addresses_of_a_port_and_of_a_network(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [f"10.0.1.{number}" for number in range(1, 30)]
    hear(world, H1, word(PORT, *many))
    assert list(state(world, PORT)) == many[: rule.ADDRESSES_A_MAC_MAX]
    monkeypatch.setattr(rule, "ADDRESSES_A_NETWORK_MAX", rule.ADDRESSES_A_MAC_MAX + 1)
    hear(world, H2, word(SECOND, A, B))
    assert state(world, SECOND) == {A: "", B: "network net-a has 17 learned addresses"}


def test_mac_list_and_span_say_where_things_are(world: World) -> None:
    hear(world, H1, word(PORT, A))
    put(world, at(SECOND, H2, parked=True))
    first, second = mac_views(world, network=NET_A.uuid)
    assert (first["mac"], first["learned"], first["host"], first["vtep"], first["state"]) == (
        PORT.mac, [A], "h1", vtep(H1), "live",
    )  # fmt: skip
    assert (second["learned"], second["state"]) == ([], "parked")
    assert [view["port"] for view in mac_views(world, host=H2.uuid)] == ["vm2"]
    assert {view["host"]: view["live_ports"] for view in span_views(world, NET_A, {})} == {"h1": 1, "h2": 0, "h4": 0}


# --- over the wire -------------------------------------------------------------------------------------------------


def over(directory: Path, test: Callable[[Rig], Awaitable[None]], *rows: object) -> None:
    async def run() -> None:
        async with manager(directory, *rows) as rig:  # type: ignore[arg-type]
            await test(rig)

    asyncio.run(run())


def key(port: UUID) -> tuple[Kind, UUID]:
    return Kind.LEARNED, port


def test_what_is_learned_goes_to_the_holder_and_to_hosts_of_the_network_and_to_no_others(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        holder = await rig.host(H1).connect()
        peer = await rig.host(H2, subscribed={NET_A.uuid}).connect()
        other = await rig.host(H4).connect()
        await holder.send(learned=codec.encode(word(PORT, A)))
        for end in (holder, peer):
            await end.until(lambda end=end: key(PORT.uuid) in end.have)
        assert [one.address for one in peer.have[key(PORT.uuid)].body.addresses] == [A]  # type: ignore[union-attr]
        rig.put(replace(held(H2), version=8))  # the guest moves; its addresses stay
        await peer.until(lambda: peer.have[Kind.LOCATION, PORT.uuid].body.holder_host == H2.uuid)  # type: ignore[union-attr]
        await holder.until(lambda: key(PORT.uuid) not in holder.have)
        assert key(PORT.uuid) in peer.have
        late = await rig.host(H4, subscribed={NET_A.uuid}).connect()
        assert key(PORT.uuid) in late.have
        assert not {kind for kind, _ in other.have} & {Kind.PORT, Kind.LOCATION, Kind.LEARNED}

    over(tmp_path, test, PORT, held(H1))


def test_a_host_that_lies_of_a_port_changes_nothing_and_keeps_its_stream(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        liar = await rig.host(H2, subscribed={NET_A.uuid}).connect()
        before = rig.hub.world.revision
        await liar.send(learned=codec.encode(word(PORT, A)))
        await liar.send(learned=codec.encode(word(replace(PORT, uuid=uid("nowhere")), A)))
        granted = await liar.claim(SECOND.vif_uuid, NET_A.uuid, SECOND.mac, "start")  # type: ignore[arg-type]
        assert not granted.refusal  # type: ignore[attr-defined]
        with rig.store.read() as world:  # the hub hears of the grant a moment after its answer
            assert not world.learned
            assert world.revision == before + 1

    over(tmp_path, test, PORT, held(H1))


def test_what_was_learned_survives_the_managers_restart_and_not_the_ports_end(tmp_path: Path) -> None:
    async def learn(rig: Rig) -> None:
        holder = await rig.host(H1).connect()
        await holder.send(learned=codec.encode(word(PORT, A)))
        await holder.until(lambda: key(PORT.uuid) in holder.have)
        revision = rig.hub.world.revision
        await holder.send(learned=codec.encode(word(PORT, A)))
        await holder.claim(VIF, NET_A.uuid, PORT.mac, "start")  # type: ignore[arg-type]
        assert rig.hub.world.revision == revision, "an address that is used again is no news"

    async def after(rig: Rig) -> None:
        assert [one.address for one in rig.hub.world.learned[PORT.uuid].addresses] == [A]
        service.set_port(rig.store, "vm1", PortPatch(mac="02:00:00:00:00:77"))
        with rig.store.read() as world:
            assert not world.learned, "another MAC is another guest"

    over(tmp_path, learn, PORT, held(H1))
    over(tmp_path, after)


@pytest.mark.parametrize("end", ["delete", "detach", "define"])
def test_what_was_learned_ends_with_what_it_was_learned_of(tmp_path: Path, end: str) -> None:
    async def test(rig: Rig) -> None:
        with rig.store.transaction() as transaction:
            transaction.put(word(PORT, A))
        if end == "delete":
            service.delete_port(rig.store, "vm1", force=True)
        elif end == "detach":
            service.detach_port(rig.store, "vm1", force=True)
        else:
            service.set_port(rig.store, "vm1", PortPatch(ips=["10.0.0.9"]))
        with rig.store.read() as world:
            assert not world.learned
            assert ("learned", NET_A.uuid, A) not in world.unique

    over(tmp_path, test, PORT, held(H1))
