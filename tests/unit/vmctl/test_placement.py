"""One decision: who may, who may not and why, and who is best."""

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from netmgr.contract.types import Status
from tests.support.vmctl_fleets import (
    BLUE,
    GREEN,
    PLAIN,
    SWITCH,
    Question,
    facts,
    fleet,
    questions,
    view,
    vm,
)
from vmctl.eligibility import Atlas
from vmctl.eligibility import refusals as network_refusals
from vmctl.model import Code, Unread, Vif, VmState
from vmctl.placement.choice import best, explain, explain_hosts, ordered, ranking
from vmctl.placement.fleet import Fleet
from vmctl.placement.masks import RESOURCES, codes, masks
from vmctl.placement.model import Needs, Policy, Purpose, Request, Settings
from vmctl.placement.sentences import FleetAtlas, refusals

CASES = Path(__file__).parents[2] / "cases" / "placement"
OFF = VmState.SHUT_OFF
NO_NETWORK_CODES = {*RESOURCES, Code.LIBVIRT_UNREAD, Code.PEER_UNREACHABLE}


def start(number: int = 1, *, needs: Needs | None = None, home: str = "", **options: object) -> Request:
    asking = vm(number, state=OFF, **options)  # type: ignore[arg-type]
    return Request(vm=asking, purpose=Purpose.POWER_ON, needs=needs or Needs(), home=home)


def why(made: Fleet, request: Request, host: str) -> list[Code]:
    (choice,) = (c for c in explain(made, request) if c.host == host)
    assert (choice.score is None) == bool(choice.refusals)
    return [refusal.code for refusal in choice.refusals]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(questions())
def test_arrays_refuse_exactly_what_eligibility_refuses_for_each_host(question: Question) -> None:
    made, request = question.fleet(), question.request
    bits = masks(made, request)
    atlas = Atlas([h.view for h in question.hosts])
    for host in question.hosts:
        word = int(bits[made.column[host.name]])
        alone = network_refusals(
            request.vm, host.view, fleet=atlas, move=request.purpose.moves, can_wait=request.purpose.can_wait
        )
        assert {c for c in codes(word) if c not in NO_NETWORK_CODES} == {r.code for r in alone}
        told = refusals(made, request, host.name, bits=word, atlas=atlas)
        assert {r.code for r in told} == set(codes(word))
        assert all(r.sentence and r.host == host.name for r in told)
        assert bool(word) == bool(told)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(questions())
def test_hosts_explained_a_few_at_a_time_are_explained_alike_and_one_that_goes_meanwhile_is_left_out(
    question: Question,
) -> None:
    made, request = question.fleet(), question.request
    whole, atlas = explain(made, request), FleetAtlas(made)
    names = list(made.column)
    assert ordered(c for name in names for c in explain_hosts(made, request, [name], atlas=atlas)) == whole
    made.remove_host(names[0])
    assert names[0] not in {c.host for c in explain_hosts(made, request, names, atlas=atlas)}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(questions(), questions())
def test_arrays_kept_up_to_date_equal_arrays_made_anew(before: Question, after: Question) -> None:
    kept = before.fleet()
    kept.settings = after.settings
    kept.isolated = after.isolated
    for name in set(kept.column) - {h.name for h in after.hosts}:
        kept.remove_host(name)
    for host in after.hosts:
        kept.put_host(host)
        kept.put_vms(host.name, [(v, n) for v, n in after.vms if v.host == host.name])
    new = after.fleet()
    assert explain(kept, after.request) == explain(new, after.request)
    for host in after.hosts:
        old_column, new_column = kept.column[host.name], new.column[host.name]
        np.testing.assert_allclose(kept.used()[:, old_column], new.used()[:, new_column])


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(questions())
def test_a_trial_leaves_no_trace(question: Question) -> None:
    made = question.fleet()
    before = explain(made, question.request), made.used().tolist()
    with made.trial():
        for host in question.hosts:
            for placed in made.on(host.name):
                made.move(placed, question.hosts[-1].name) if host is not question.hosts[-1] else None
    assert (explain(made, question.request), made.used().tolist()) == before


def test_every_reason_in_words() -> None:
    two = replace(vm(1, networks=(BLUE, GREEN), memory_mib=8192), state=OFF)
    asking = replace(two, vifs=(*two.vifs, Vif(network_name="lan", network_uuid=PLAIN)))
    full = vm(2, "h3", memory_mib=60_000, vcpus=120)
    sick = replace(BLUE, status=Status.DOWN, reasons=("tunnel port refused",))
    hosts = [
        facts("h1"),
        facts("h2", of=view("h2", GREEN)),
        facts("h3", port_groups=frozenset()),
        facts("h4", of=view("h4", sick, GREEN), maintenance=True),
        facts("h5", of=Unread(host="h5", reason="10.0.0.5:7445: connection refused"), libvirt_problem="no connection"),
        facts("h6", of=view("h6", switch=replace(SWITCH, free_ports=1, link_mbps=100))),
        facts("h7", of=view("h7", in_sync=False)),
        facts("h8"),
    ]
    made = fleet(hosts, [full])
    needs = Needs(bandwidth_mbps=200, disk_mib=5000, affinity=frozenset({"pair"}), anti_affinity=frozenset({"ha"}))
    made.put_vms("h8", [(vm(3, "h8"), Needs(anti_affinity=frozenset({"ha"})))])
    made.put_vms("h1", [(vm(4, "h1"), Needs(affinity=frozenset({"pair"})))])
    said = [
        f"{choice.host}: {choice.score}" if choice.score is not None else f"{choice.host} {r.code}: {r.sentence}"
        for choice in explain(made, Request(vm=asking, purpose=Purpose.POWER_ON, needs=needs))
        for r in (choice.refusals or (None,))
    ]
    assert "\n".join(said) + "\n" == (CASES / "explain.txt").read_text()


def test_emptier_host_is_better() -> None:
    made = fleet([facts("h1"), facts("h2")], [vm(9, "h1")])
    assert best(made, start()).host == "h2"  # type: ignore[union-attr]


def test_under_consolidation_the_fuller_host_that_still_fits_is_better() -> None:
    made = fleet([facts("h1"), facts("h2")], [vm(9, "h2")], settings=Settings(policy=Policy.CONSOLIDATE))
    assert best(made, start()).host == "h2"  # type: ignore[union-attr]


def test_vm_starts_at_home_unless_another_host_is_much_better() -> None:
    made = fleet([facts("h1"), facts("h2")], [vm(9, "h2", memory_mib=8000)])
    assert best(made, start(home="h2")).host == "h2"  # type: ignore[union-attr]
    made.put_vms("h2", [(vm(9, "h2", memory_mib=50_000), Needs())])
    assert best(made, start(home="h2")).host == "h1"  # type: ignore[union-attr]


def test_healthier_and_less_reserved_network_is_better() -> None:
    tired = facts("h1", of=view("h1", replace(BLUE, health=60)))
    assert best(fleet([tired, facts("h2")]), start()).host == "h2"  # type: ignore[union-attr]
    busy = fleet([facts("h1"), facts("h2")])
    busy.put_vms("h1", [(vm(8, "h1"), Needs(bandwidth_mbps=9000))])
    busy.put_vms("h2", [(vm(9, "h2"), Needs())])
    assert best(busy, start()).host == "h2"  # type: ignore[union-attr]


def test_equal_hosts_are_taken_by_name() -> None:
    assert [c.host for c in ranking(fleet([facts("h3"), facts("h1"), facts("h2")]), start(), limit=2)] == ["h1", "h2"]


def test_nobody_is_chosen_where_all_refuse() -> None:
    assert best(fleet([facts("h1", maintenance=True)]), start()) is None
    assert best(Fleet(), start()) is None


@pytest.mark.parametrize(
    ("asking", "code"),
    [
        (start(vcpus=129), Code.CPU_SHORT),
        (start(memory_mib=65_100), Code.MEMORY_SHORT),
        (start(needs=Needs(disk_mib=1_000_001)), Code.DISK_SHORT),
        (start(needs=Needs(bandwidth_mbps=10_001)), Code.BANDWIDTH_SHORT),
    ],
)
def test_what_is_short_is_refused_and_what_just_fits_is_not(asking: Request, code: Code) -> None:
    assert why(fleet([facts("h1")]), asking, "h1") == [code]
    just = replace(asking.vm, vcpus=min(asking.vm.vcpus, 128), memory_mib=min(asking.vm.memory_mib, 65_024))
    needs = Needs(disk_mib=min(asking.needs.disk_mib, 10**6), bandwidth_mbps=min(asking.needs.bandwidth_mbps, 10**4))
    assert why(fleet([facts("h1")]), replace(asking, vm=just, needs=needs), "h1") == []


def test_bandwidth_of_vms_that_are_there_is_taken() -> None:
    made = fleet([facts("h1")])
    made.put_vms("h1", [(vm(9, "h1"), Needs(bandwidth_mbps=9_500))])
    assert why(made, start(needs=Needs(bandwidth_mbps=501)), "h1") == [Code.BANDWIDTH_SHORT]
    assert why(made, start(needs=Needs(bandwidth_mbps=500)), "h1") == []


def test_what_a_vm_takes_already_is_not_counted_against_itself() -> None:
    """Checked again on its way, when the destination counts it already."""
    made = fleet([facts("h1"), facts("h2", memory_mib=5000)], [vm(1, "h1")])
    made.reserve(vm(1, "h2"), Needs(), "h2")
    assert why(made, Request(vm=vm(1, "h1"), purpose=Purpose.MOVE), "h2") == []
    assert why(made, start(2), "h2") == [Code.MEMORY_SHORT]


def test_reservation_ends_when_released_and_when_the_vm_is_seen() -> None:
    made = fleet([facts("h2", memory_mib=5000)])
    made.reserve(vm(1, "h2"), Needs(), "h2")
    made.put_vms("h2", [])
    assert why(made, start(2), "h2") == [Code.MEMORY_SHORT]
    made.release(vm(1).uuid, "h2")
    assert why(made, start(2), "h2") == []
    made.reserve(vm(1, "h2"), Needs(), "h2")
    made.put_vms("h2", [(vm(1, "h2"), Needs())])
    made.release(vm(1).uuid, "h2")
    assert why(made, start(2), "h2") == [Code.MEMORY_SHORT]
    made.put_vms("h2", [])
    assert why(made, start(2), "h2") == []


def test_vm_that_is_off_takes_disk_and_nothing_else() -> None:
    made = fleet([facts("h1", memory_mib=5000)])
    made.put_vms("h1", [(vm(9, "h1", state=OFF), Needs(disk_mib=999_999, bandwidth_mbps=10_000))])
    assert why(made, start(needs=Needs(disk_mib=2)), "h1") == [Code.DISK_SHORT]
    assert why(made, start(needs=Needs(disk_mib=1, bandwidth_mbps=10_000)), "h1") == []


def test_two_nics_on_one_switch_need_two_ports_of_it() -> None:
    one = facts("h1", of=view("h1", switch=replace(SWITCH, free_ports=1)))
    assert why(fleet([one]), start(networks=(BLUE,)), "h1") == []
    assert why(fleet([one]), start(networks=(BLUE, GREEN)), "h1") == [Code.PORTS_SHORT]


def test_switch_is_found_through_the_transport_zone_where_the_network_names_none() -> None:
    unnamed = replace(BLUE, switch_uuid=None)
    down = facts("h1", of=view("h1", unnamed, switch=replace(SWITCH, status=Status.DOWN)))
    assert why(fleet([down]), start(), "h1") == [Code.SWITCH_UNHEALTHY]


def test_apart_and_together() -> None:
    apart, together = Needs(anti_affinity=frozenset({"ha"})), Needs(affinity=frozenset({"pair"}))
    made = fleet([facts("h1"), facts("h2"), facts("h3")])
    made.put_vms("h1", [(vm(8, "h1"), apart)])
    made.put_vms("h2", [(vm(9, "h2"), together)])
    assert best(made, start(needs=Needs(anti_affinity=frozenset({"ha"})), networks=(BLUE,))).host != "h1"  # type: ignore[union-attr]
    assert [why(made, start(needs=together), f"h{i}") for i in (1, 2, 3)] == [[Code.AFFINITY], [], [Code.AFFINITY]]
    made.put_vms("h2", [(vm(9, "h2", state=OFF), together)])
    assert why(made, start(needs=together), "h3") == [], "a member that is off holds nobody"


def test_group_may_leave_a_host_that_is_emptied_but_not_be_torn_apart_otherwise() -> None:
    together = Needs(affinity=frozenset({"pair"}))
    made = fleet([facts("h1"), facts("h2")])
    made.put_vms("h1", [(vm(1, "h1"), together), (vm(2, "h1"), together)])
    assert why(made, Request(vm=vm(1, "h1"), purpose=Purpose.MOVE, needs=together), "h2") == [Code.AFFINITY]
    assert why(made, Request(vm=vm(1, "h1"), purpose=Purpose.EVACUATE, needs=together), "h2") == []


def test_vm_that_moves_while_its_rule_is_taken_away_leaves_the_rule_behind_nowhere() -> None:
    """Seen at the destination, without the rule, before it is gone from the source."""
    made = fleet([facts("h1"), facts("h2")])
    apart = Needs(anti_affinity=frozenset({"ha"}))
    made.put_vms("h2", [(vm(1, "h2"), apart)])
    made.put_vms("h1", [(vm(1, "h1"), Needs())])
    assert [why(made, start(2, needs=apart), host) for host in ("h1", "h2")] == [[], [Code.ANTI_AFFINITY]]
    made.put_vms("h2", [])
    assert [why(made, start(2, needs=apart), host) for host in ("h1", "h2")] == [[], []]


def test_failover_waits_for_nothing() -> None:
    behind = facts("h2", of=view("h2", in_sync=False, manager_connected=False))
    made = fleet([behind])
    assert why(made, Request(vm=vm(1, "h1"), purpose=Purpose.FAILOVER), "h2") == []
    assert why(made, Request(vm=vm(1, "h1"), purpose=Purpose.BALANCE), "h2") == [Code.MANAGER_AWAY, Code.NOT_IN_SYNC]


def test_column_of_a_removed_host_holds_nothing_of_it() -> None:
    made = fleet([facts("h1"), facts("h2")], [vm(1, "h1", memory_mib=60_000)])
    made.remove_host("h1")
    assert [c.host for c in explain(made, start())] == ["h2"]
    made.put_host(facts("h9"))
    assert why(made, start(memory_mib=60_000), "h9") == []


def test_rows_of_networks_that_are_gone_are_used_again() -> None:
    made = Fleet()
    for number in range(200):
        net = replace(BLUE, uuid=UUID(int=0x1000 + number))
        made.put_host(facts("h1", of=view("h1", net)))
        assert why(made, start(networks=(net,)), "h1") == []
    assert len(made.network_row) < 20
    gone = replace(BLUE, uuid=UUID(int=0x1000))
    assert why(made, start(networks=(gone,)), "h1") == [Code.NETWORK_ABSENT]


def test_fleet_grows_beyond_its_first_size() -> None:
    made = fleet([facts(f"h{i:03}") for i in range(300)], [vm(i, f"h{i:03}") for i in range(299)])
    assert best(made, start(1000)).host == "h299"  # type: ignore[union-attr]
