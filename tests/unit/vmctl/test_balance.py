"""Balancing and evacuation: worth their moves, within bounds, and never to and fro."""

import random
from dataclasses import replace
from uuid import UUID

import pytest

from netmgr.contract.types import Status
from tests.support.vmctl_fleets import BLUE, GREEN, SWITCH, facts, fleet, view, vm
from vmctl.model import Unread, Vm, VmState
from vmctl.placement.balance import Departure, plan_balance
from vmctl.placement.evacuation import plan_evacuation
from vmctl.placement.fleet import Fleet
from vmctl.placement.model import Needs, Plan, Policy, Settings

QUICK = Settings(settle_s=600.0, return_s=3600.0)
NARROW = replace(BLUE, uuid=UUID(int=0xBA), name="narrow")


def moves(plan: Plan) -> list[tuple[str, str, str]]:
    return [(m.vm_name, m.source, m.destination) for m in plan.moves]


def plan(made: Fleet, policy: Policy = Policy.SPREAD, now_s: float = 0.0, **departures: list[Departure]) -> Plan:
    left = {vm(int(name[2:])).uuid: at for name, at in departures.items()}
    return plan_balance(made, now_s=now_s, departures=left, policy=policy)


def crowded(*others: object, settings: Settings = QUICK) -> Fleet:
    """Six VMs on h1, none on the others."""
    hosts = [facts("h1"), *(others or (facts("h2"), facts("h3")))]
    return fleet(hosts, [vm(i, "h1", memory_mib=8192) for i in range(1, 7)], settings=settings)  # type: ignore[arg-type]


def test_crowded_host_gives_to_the_empty_ones() -> None:
    made = crowded()
    found = plan(made)
    assert sorted(d for _, _, d in moves(found)) == ["h2", "h2", "h3", "h3"]
    assert all(m.benefit > m.cost > 0 and m.source_load > m.destination_load_after for m in found.moves)
    assert made.running.tolist() == [6, 0, 0], "a plan moves nothing"


def test_one_pass_moves_no_more_than_it_may() -> None:
    assert len(plan(crowded(settings=replace(QUICK, balance_moves=2))).moves) == 2


def test_even_fleet_is_left_alone() -> None:
    made = fleet([facts("h1"), facts("h2")], [vm(1, "h1"), vm(2, "h2"), vm(3, "h2")])
    assert plan(made).moves == ()
    assert "nothing is worth moving" in plan(made).sentence


def test_move_that_costs_more_than_it_gains_is_not_made() -> None:
    assert plan(crowded(settings=replace(QUICK, copy_cost=1000.0))).moves == ()


@pytest.mark.parametrize(
    "unfit",
    [
        facts("h2", of=view("h2", GREEN)),
        facts("h2", of=view("h2", replace(BLUE, status=Status.DOWN))),
        facts("h2", of=view("h2", switch=replace(SWITCH, status=Status.UNAVAILABLE))),
        facts("h2", of=view("h2", in_sync=False)),
        facts("h2", of=view("h2", manager_connected=False)),
        facts("h2", of=Unread(host="h2", reason="gone")),
        facts("h2", maintenance=True),
        facts("h2", libvirt_problem="no connection"),
        facts("h2", of=view("h2", switch=replace(SWITCH, free_ports=0))),
    ],
)
@pytest.mark.parametrize("policy", list(Policy))
def test_nothing_is_moved_to_a_host_that_is_not_fit(unfit: object, policy: Policy) -> None:
    found = plan(crowded(unfit, facts("h3")), policy)
    assert "h2" not in {m.destination for m in found.moves}


def test_vm_that_has_just_moved_stays_and_later_does_not_go_back() -> None:
    made = fleet(
        [facts("h1"), facts("h2")], [vm(1, "h1", memory_mib=20_000), vm(2, "h1", memory_mib=20_000)], settings=QUICK
    )
    recent = {"vm1": [("h2", 0.0)], "vm2": [("h2", 0.0)]}
    assert plan(made, now_s=599.0, **recent).moves == ()
    assert plan(made, now_s=601.0, **recent).moves == ()
    assert len(plan(made, now_s=3601.0, **recent).moves) == 1


def test_vm_that_has_just_moved_stays_also_where_a_third_host_would_be_better() -> None:
    vms = [vm(1, "h1", memory_mib=20_000), vm(2, "h1", memory_mib=20_000)]
    made = fleet([facts("h1"), facts("h2"), facts("h3")], vms, settings=QUICK)
    recent = {"vm1": [("h2", 0.0)], "vm2": [("h2", 0.0)]}
    assert plan(made, now_s=599.0, **recent).moves == ()
    assert [d for _, _, d in moves(plan(made, now_s=601.0, **recent))] == ["h3"]


def test_rules_hold_for_a_pass_as_a_whole() -> None:
    made = fleet([facts("h1"), facts("h2")], settings=QUICK)
    apart = Needs(anti_affinity=frozenset({"ha"}))
    made.put_vms("h1", [(vm(i, "h1", memory_mib=15_000), apart) for i in range(1, 4)])
    assert len(plan(made).moves) == 1, "two of them would be together again"


def test_a_hundred_passes_converge_and_bring_no_vm_back_within_its_window() -> None:
    chance = random.Random(7)
    settings = replace(QUICK, balance_moves=4)
    names = [f"h{i}" for i in range(12)]
    hosts = [
        facts(
            n,
            memory_mib=chance.choice((65_536, 131_072)),
            of=view(n, *chance.sample([BLUE, GREEN], k=chance.choice((1, 2, 2)))),
        )
        for n in names
    ]
    carrying = {n: [h.name for h in hosts if h.view.network(n.uuid)] for n in (BLUE, GREEN)}  # type: ignore[union-attr]
    where: dict[int, Vm] = {}
    for i in range(80):
        net = chance.choice((BLUE, GREEN))
        where[i] = vm(
            i, chance.choice(carrying[net][:3]), memory_mib=chance.choice((1024, 4096, 8192)), networks=(net,)
        )
    departures: dict[UUID, list[Departure]] = {}
    every_s, quiet, last_change = 300.0, 0, 60
    for step in range(100):
        now_s = step * every_s
        if step < last_change and step % 5 == 0:  # the load changes under its hands
            i = chance.randrange(80)
            where[i] = replace(where[i], memory_mib=chance.choice((512, 4096, 12_288)))
        made = fleet(hosts, list(where.values()), settings=settings)
        found = plan_balance(made, now_s=now_s, departures=departures)
        for move in found.moves:
            assert move.benefit > move.cost
            for host, at in departures.get(move.vm_uuid, []):
                assert now_s - at >= settings.settle_s, f"{move.vm_name} has not settled"
                assert host != move.destination or now_s - at >= settings.return_s, f"{move.vm_name} comes back"
            departures.setdefault(move.vm_uuid, []).append((move.source, now_s))
            number = int(move.vm_name[2:])
            assert where[number].host == move.source
            where[number] = replace(where[number], host=move.destination)
        quiet = 0 if found.moves else quiet + 1
    assert quiet >= 20, "it still moves VMs although nothing has changed for 40 passes"
    assert 10 < sum(map(len, departures.values())) < 200
    made = fleet(hosts, list(where.values()), settings=settings)
    assert made.loads().max() < 0.75


def test_consolidation_empties_hosts_and_leaves_room_for_a_failure() -> None:
    vms = [vm(i, f"h{i}", memory_mib=8192) for i in range(1, 6)]
    made = fleet([facts(f"h{i}") for i in range(1, 6)], vms)
    found = plan(made, Policy.CONSOLIDATE)
    kept = {f"h{i}" for i in range(1, 6)} - set(found.freed)
    assert len(kept) == 2, "one would do for the load, and the second may fail"
    assert {m.source for m in found.moves} == set(found.freed)
    assert {m.destination for m in found.moves} <= kept
    assert plan(made, Policy.CONSOLIDATE) == found


def test_consolidation_stops_where_a_failure_would_not_be_survived() -> None:
    vms = [vm(i, f"h{i}", memory_mib=30_000) for i in range(1, 4)]
    made = fleet([facts(f"h{i}") for i in range(1, 4)], vms)
    assert plan(made, Policy.CONSOLIDATE).freed == (), "two hosts hold three of them, one host does not"


def test_consolidation_keeps_two_carriers_of_every_network() -> None:
    hosts = [facts(f"h{i}", of=view(f"h{i}", BLUE, NARROW) if i > 3 else view(f"h{i}", BLUE)) for i in range(1, 6)]
    found = plan(fleet(hosts, [vm(1, "h1"), vm(2, "h4"), vm(3, "h5")]), Policy.CONSOLIDATE)
    assert not {"h4", "h5"} & set(found.freed)
    assert set(found.freed) == {"h1", "h2", "h3"}


def test_consolidation_moves_a_host_whole_or_not_at_all() -> None:
    hosts = [facts("h1"), facts("h2"), facts("h3", of=view("h3", BLUE, GREEN, NARROW))]
    stuck = vm(9, "h3", networks=(NARROW,), memory_mib=1024)
    made = fleet(hosts, [vm(1, "h1"), vm(2, "h1"), vm(3, "h2"), vm(4, "h2"), stuck, vm(5, "h3", memory_mib=1024)])
    assert "h3" not in {m.source for m in plan(made, Policy.CONSOLIDATE).moves}


def test_consolidation_under_load_relieves_instead() -> None:
    found = plan(
        fleet([facts("h1"), facts("h2")], [vm(i, "h1", memory_mib=15_000) for i in range(1, 5)]), Policy.CONSOLIDATE
    )
    assert found.freed == ()
    assert {m.destination for m in found.moves} == {"h2"}


def test_evacuation_places_the_largest_first_and_says_what_stays_and_why() -> None:
    small = facts("h2", memory_mib=10_000)
    hosts = [facts("h1", maintenance=True), small, facts("h3", of=view("h3", GREEN))]
    vms = [
        vm(1, "h1", memory_mib=1024),
        vm(2, "h1", memory_mib=8192),
        vm(3, "h1", memory_mib=4096),
        vm(4, "h1", state=VmState.SHUT_OFF),
        vm(5, "h1", state=VmState.UNKNOWN),
    ]
    found = plan_evacuation(fleet(hosts, vms), "h1")
    assert moves(found) == [("vm2", "h1", "h2"), ("vm1", "h1", "h2")]
    stays = {s.vm_name: s.sentence for s in found.stays}
    assert stays["vm3"].startswith("of 9488 MiB of memory that h2 may give, 8192 are taken, and vm3 wants 4096")
    assert "network blue" in stays["vm3"]
    assert stays["vm4"] == "vm4 is shut off and stays defined on h1; while h1 is in maintenance it starts elsewhere"
    assert "does not tell" in stays["vm5"]
    assert found.freed == ()


def test_evacuation_of_a_host_with_only_stopped_vms_has_nothing_to_move() -> None:
    found = plan_evacuation(fleet([facts("h1")], [vm(1, "h1", state=VmState.SHUT_OFF)]), "h1")
    assert (found.moves, found.freed) == ((), ("h1",))


def test_host_that_cannot_be_asked_is_not_taken_for_empty() -> None:
    found = plan_evacuation(fleet([facts("h1", libvirt_problem="no connection"), facts("h2")]), "h1")
    assert found.freed == ()
    assert found.sentence == "h1 cannot be asked what it runs: no connection"


def test_evacuation_with_nowhere_to_go_says_so() -> None:
    (stay,) = plan_evacuation(fleet([facts("h1")], [vm(1, "h1")]), "h1").stays
    assert stay.sentence == "there is no other host for vm1; add one (vmctl host add)"
    many = fleet([facts("h1"), *(facts(f"x{i}", of=view(f"x{i}", GREEN)) for i in range(6))], [vm(1, "h1")])
    (stay,) = plan_evacuation(many, "h1").stays
    assert stay.sentence.endswith("; 3 more hosts refuse it (network-absent 3)")


def test_group_is_evacuated_together() -> None:
    pair = Needs(affinity=frozenset({"pair"}))
    made = fleet([facts("h1"), facts("h2"), facts("h3")])
    made.put_vms("h1", [(vm(i, "h1", memory_mib=20_000), pair) for i in (1, 2, 3)])
    found = plan_evacuation(made, "h1")
    assert len({m.destination for m in found.moves}) == 1
    assert len(found.moves) == 3
