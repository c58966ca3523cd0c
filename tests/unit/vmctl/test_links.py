"""Which moves may run at once, and how fast; opposite moves in any order."""

import asyncio
import random
from collections.abc import Sequence
from uuid import UUID

import pytest

from netmgr.contract.types import Status
from vmctl.linkbook import LinkBook
from vmctl.links import MBPS_A_MIB_S, Link, Request, admit, links_of, need_mbps, shares
from vmctl.model import Host, HostView, NetworkView, SwitchView, Unread, Vif, Vm, VmState

BLUE, SWITCH = UUID(int=0xB1), UUID(int=0x51)
VM = Vm(
    uuid=UUID(int=1),
    name="vm1",
    host="h1",
    state=VmState.RUNNING,
    memory_mib=1024,
    vifs=(Vif(uuid=UUID(int=2), network_name="blue", network_uuid=BLUE, opaque=True),),
)


def a_host(name: str, mbps: int = 0) -> Host:
    return Host(name=name, libvirt_uri="x", peer_uri="x", migration_address="x", migration_mbps=mbps)


def view(name: str, *, mbps: int | None = 1000, load: int | None = None) -> HostView:
    switch = SwitchView(
        uuid=SWITCH, name="sw", status=Status.UP, pnics=("eth1", "eth0"), link_mbps=mbps, load_mbps=load
    )
    network = NetworkView(uuid=BLUE, name="blue", status=Status.UP, switch_uuid=SWITCH)
    return HostView(host=name, switches=(switch,), networks=(network,))


def links(*ends, used: float = 0.0) -> tuple[Link, ...]:  # type: ignore[no-untyped-def]
    return links_of(VM, ends=ends, moves_use=lambda _host, _link: used)


def request(id: int, *names: str, need: float = 100.0, mbps: float = 750.0, limit: float = 0.0) -> Request:
    ways = tuple(Link(host=name, name="eth0", mbps=mbps) for name in names)
    return Request(id=id, links=ways, need_mbps=need, limit_mbps=limit)


def test_link_is_the_pnics_of_the_switch_of_the_vms_networks_on_both_ends() -> None:
    found = links((a_host("h1"), view("h1")), (a_host("h2"), view("h2", mbps=10_000)))
    assert found == (
        Link(host="h1", name="eth0,eth1", mbps=750.0),
        Link(host="h2", name="eth0,eth1", mbps=7500.0),
    )


def test_known_migration_link_takes_the_place_of_the_pnics() -> None:
    found = links((a_host("h1", mbps=400), view("h1")), (a_host("h2"), view("h2")))
    assert [(link.name, link.mbps) for link in found] == [("migration", 300.0), ("eth0,eth1", 750.0)]


def test_guests_traffic_leaves_less_but_never_nothing_and_moves_own_traffic_is_not_theirs() -> None:
    def spare(load: int, used: float = 0.0) -> float:
        return links((a_host("h1"), view("h1", load=load)), used=used)[0].mbps

    assert [spare(0), spare(200), spare(600), spare(990)] == [750.0, 750.0, 400.0, 100.0]
    assert spare(600, used=500.0) == 750.0


def test_host_that_tells_nothing_governs_nothing_and_unknown_speed_is_a_gigabit() -> None:
    assert links((a_host("h1"), Unread(host="h1", reason="away"))) == ()
    assert links((a_host("h1"), view("h1", mbps=None)))[0].mbps == 750.0


def test_need_is_the_memory_in_twenty_seconds_within_what_is_asked_and_the_links_give() -> None:
    ways = request(1, "h1").links
    assert need_mbps(memory_mib=1024, links=ways, limit_mib_s=0) == pytest.approx(1024 * MBPS_A_MIB_S / 20)
    assert need_mbps(memory_mib=1024, links=ways, limit_mib_s=8) == pytest.approx(8 * MBPS_A_MIB_S)
    assert need_mbps(memory_mib=10**6, links=ways, limit_mib_s=0) == 750.0


def test_as_many_moves_run_as_the_slower_end_carries() -> None:
    waiting = [request(i, "h1", f"h{i}", need=200.0) for i in range(2, 8)]
    assert admit(holding=[], waiting=waiting) == (2, 3, 4)
    assert admit(holding=waiting[:3], waiting=waiting[3:]) == ()
    assert admit(holding=waiting[:2], waiting=waiting[3:]) == (5,)


def test_move_on_other_links_passes_one_that_waits_but_none_takes_what_that_one_waits_for() -> None:
    big, small, other = request(2, "h1", "h2", need=700.0), request(3, "h2", "h3", need=50.0), request(4, "h4", "h5")
    assert admit(holding=[request(1, "h1", "h9")], waiting=[big, small, other]) == (4,)


def test_move_that_needs_more_than_a_link_has_still_gets_an_idle_one() -> None:
    assert admit(holding=[], waiting=[request(1, "h1", "h2", need=9999.0)]) == (1,)


def test_links_are_shared_out_whole_and_a_limit_of_its_own_holds() -> None:
    alone = request(1, "h1", "h2")
    assert shares([alone]) == {1: 750.0}
    assert shares([alone, request(2, "h1", "h3")]) == {1: 375.0, 2: 375.0}
    assert shares([request(1, "h1", "h2", limit=80.0)]) == {1: 80.0}
    assert shares([Request(id=1, links=(), need_mbps=0.0)]) == {1: 0.0}


def used_of(holding: Sequence[Request], give: dict[int, float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in holding:
        for link in one.links:
            found[link.host] = found.get(link.host, 0.0) + give[one.id]
    return found


@pytest.mark.parametrize("seed", range(40))
def test_moves_between_all_hosts_both_ways_in_any_order_all_end_and_no_link_is_overdrawn(seed: int) -> None:
    rng = random.Random(seed)
    hosts = [f"h{i}" for i in range(rng.randint(2, 5))]
    waiting: list[Request] = []
    holding: list[Request] = []
    coming = []
    for id in range(60):
        ends = rng.sample(hosts, 2)  # h1 to h2 and h2 to h1 alike
        coming.append(request(id, *ends, need=rng.uniform(1.0, 750.0), limit=rng.choice([0.0, 40.0])))
    ended, rounds = 0, 0
    while ended < 60:
        rounds += 1
        assert rounds < 2000, f"stuck with {waiting} waiting and {holding} under way"
        if coming and rng.random() < 0.5:
            waiting.append(coming.pop(rng.randrange(len(coming))))
        for id in admit(holding=holding, waiting=waiting):
            index = next(i for i, one in enumerate(waiting) if one.id == id)
            holding.append(waiting.pop(index))
        assert holding or not waiting, "somebody waits for links that nobody holds"
        give = shares(holding)
        assert all(value <= 750.0 + 1e-6 for value in used_of(holding, give).values())
        assert all(give[one.id] >= min(one.need_mbps, one.limit_mbps or 1e9) - 1e-6 for one in holding)
        if holding and rng.random() < 0.6:
            holding.pop(rng.randrange(len(holding)))
            ended += 1


@pytest.mark.parametrize("seed", range(10))
def test_large_move_is_not_starved_by_small_ones_that_keep_coming(seed: int) -> None:
    rng = random.Random(seed)
    holding = [request(i, "h1", "h2", need=100.0) for i in range(7)]
    waiting = [request(99, "h1", "h2", need=750.0)]
    for id in range(100, 160):
        waiting.append(request(id, "h1", "h2", need=100.0))
        holding.pop(rng.randrange(len(holding)))
        granted = admit(holding=holding, waiting=waiting)
        if granted:
            assert granted == (99,)
            return
        assert not granted
    pytest.fail("the large move never began")


@pytest.mark.parametrize("seed", range(10))
def test_book_lets_opposite_moves_begin_and_end_in_any_order_and_forgets_one_that_gave_up(seed: int) -> None:
    rng = random.Random(seed)

    async def run() -> None:
        book, most, now = LinkBook(), 0, 0

        async def move(id: int) -> None:
            nonlocal most, now
            async with book.hold(request(id, *rng.sample(["h1", "h2", "h3"], 2), need=rng.choice([200.0, 750.0]))):
                now += 1
                most = max(most, now)
                assert book.share(id) > 0
                await asyncio.sleep(rng.uniform(0, 0.003))
                now -= 1

        moves = [asyncio.create_task(move(id)) for id in range(40)]
        await asyncio.sleep(0)
        for task in rng.sample(moves, 5):
            task.cancel()
        done = await asyncio.wait_for(asyncio.gather(*moves, return_exceptions=True), 10)
        assert sum(isinstance(result, asyncio.CancelledError) for result in done) >= 1
        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in done)
        assert most > 1
        assert not book.would_wait(request(99, "h1", "h2", need=750.0))
        assert book.used("h1", "eth0") == 0

    asyncio.run(run())
