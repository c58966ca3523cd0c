"""Who may go where, and what the refusal says."""

from dataclasses import replace
from uuid import UUID

import pytest

from netmgr.contract.types import Status
from vmctl.eligibility import refusals
from vmctl.model import Code, HostView, NetworkView, SwitchView, Unread, Vif, Vm, VmState, Zone

ZONE_A, ZONE_B = Zone(uuid=UUID(int=0xA), name="a"), Zone(uuid=UUID(int=0xB), name="b")
SWITCH = SwitchView(uuid=UUID(int=5), name="sw", status=Status.UP)
BLUE = NetworkView(
    uuid=UUID(int=0xB1), name="blue", zone_uuids=(ZONE_A.uuid,), switch_uuid=SWITCH.uuid, status=Status.UP
)
VM = Vm(
    uuid=UUID(int=1),
    name="vm1",
    host="h1",
    state=VmState.RUNNING,
    vifs=(Vif(uuid=UUID(int=9), network_name="blue", network_uuid=BLUE.uuid, opaque=True),),
)
H1 = HostView(host="h1", zones=(ZONE_A,), switches=(SWITCH,), networks=(BLUE,))
H2 = replace(H1, host="h2")
H3 = HostView(host="h3", zones=(ZONE_B,))


def codes(vm: Vm, host: HostView | Unread, **options: bool) -> list[Code]:
    return [refusal.code for refusal in refusals(vm, host, fleet=(H1, H2, H3), **options)]


def test_host_with_the_network_is_eligible() -> None:
    assert refusals(VM, H2, fleet=(H1, H2)) == ()


def test_absent_network_is_named_with_its_zone_and_the_way_out() -> None:
    (refusal,) = refusals(VM, H3, fleet=(H1, H2, H3))
    assert refusal.code is Code.NETWORK_ABSENT
    assert refusal.network_uuid == BLUE.uuid
    assert refusal.sentence == (
        f"network blue ({BLUE.uuid}) of zone a is not on h3, whose zones are b; add h3 to zone a "
        "(netmgr host set h3 --zone b --zone a) or choose one of h2"
    ), "h1 is where it is"
    (starting,) = refusals(VM, H3, fleet=(H1, H2, H3), move=False)
    assert starting.sentence.endswith("or choose one of h1, h2")


def test_host_in_the_zone_without_the_network_is_told_apart_from_one_outside() -> None:
    elsewhere = replace(H1, host="h4")
    (refusal,) = refusals(VM, replace(H2, networks=()), fleet=(H1, replace(H2, networks=()), H3, elsewhere))
    assert refusal.code is Code.NETWORK_ABSENT
    assert "although h2 is in that zone" in refusal.sentence
    assert refusal.sentence.endswith(", or choose one of h4")


def test_network_that_nobody_else_tells_of_is_refused_all_the_same() -> None:
    (refusal,) = refusals(VM, H3)
    assert refusal.code is Code.NETWORK_ABSENT
    assert "network blue" in refusal.sentence
    assert "is not on h3" in refusal.sentence


def test_same_name_with_another_uuid_is_another_network() -> None:
    impostor = replace(BLUE, uuid=UUID(int=0xBAD))
    assert codes(VM, replace(H2, networks=(impostor,))) == [Code.NETWORK_ABSENT]


@pytest.mark.parametrize("status", [Status.DOWN, Status.UNAVAILABLE, Status.MAINTENANCE])
def test_sick_network_and_sick_switch_refuse_with_their_reasons(status: Status) -> None:
    sick = replace(BLUE, status=status, reasons=("tunnel port refused",))
    (refusal,) = refusals(VM, replace(H2, networks=(sick,)))
    assert refusal.code is Code.NETWORK_UNHEALTHY
    assert f"is {status} on h2 (tunnel port refused)" in refusal.sentence
    assert codes(VM, replace(H2, switches=(replace(SWITCH, status=status),))) == [Code.SWITCH_UNHEALTHY]


def test_warning_is_no_reason_to_refuse() -> None:
    assert codes(VM, replace(H2, networks=(replace(BLUE, status=Status.WARNING),))) == []


def test_host_behind_refuses_only_what_can_wait() -> None:
    behind = replace(H2, in_sync=False, sync_age_s=4.0)
    assert codes(VM, behind) == [Code.NOT_IN_SYNC]
    assert codes(VM, behind, can_wait=False) == []


def test_host_without_manager_refuses_a_move_but_not_a_power_on() -> None:
    alone = replace(H2, manager_connected=False, sync_age_s=40.0)
    assert codes(VM, alone) == [Code.MANAGER_AWAY]
    assert codes(replace(VM, state=VmState.SHUT_OFF), alone, move=False) == []


def test_unread_host_is_refused_and_not_taken_for_an_empty_one() -> None:
    (refusal,) = refusals(VM, Unread(host="h2", reason="10.0.0.2:7445: connection refused"))
    assert refusal.code is Code.HOST_UNREAD
    assert "connection refused" in refusal.sentence


def test_vm_without_opaque_network_needs_no_word_on_networks() -> None:
    plain = replace(VM, vifs=(Vif(network_name="default", network_uuid=UUID(int=7)),))
    assert codes(plain, Unread(host="h2", reason="down")) == []
    assert codes(plain, replace(H3, in_sync=False)) == []


def test_nic_on_a_network_that_libvirt_has_lost_is_refused() -> None:
    lost = replace(VM, vifs=(Vif(mac="02:00:00:00:00:01", network_name="gone"),))
    (refusal,) = refusals(lost, H2)
    assert refusal.code is Code.NETWORK_UNKNOWN
    assert "gone" in refusal.sentence


def test_vm_is_not_moved_to_where_it_is() -> None:
    assert codes(VM, H1) == [Code.ALREADY_THERE]


def test_vm_that_is_off_is_not_moved_live() -> None:
    assert codes(replace(VM, state=VmState.SHUT_OFF), H2) == [Code.NOT_RUNNING]


def test_every_reason_is_given_at_once() -> None:
    red = UUID(int=0xED)
    two = replace(VM, vifs=(*VM.vifs, Vif(network_name="red", network_uuid=red, opaque=True)))
    sick = replace(H2, networks=(replace(BLUE, status=Status.DOWN),), in_sync=False)
    assert codes(two, sick) == [Code.NETWORK_UNHEALTHY, Code.NETWORK_ABSENT, Code.NOT_IN_SYNC]
