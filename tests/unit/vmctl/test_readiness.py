"""Whether the destination's network is ready, and stays so while memory is copied."""

from dataclasses import replace
from uuid import UUID

import pytest

from netmgr.contract.types import Status, VifState
from vmctl.model import Candidate, Code, HostView, NetworkView, Unread, Vif, VifView, Vm, VmState
from vmctl.readiness import all_lit, mtu_refusals, withdrawn

BLUE, VIF = UUID(int=0xB1), UUID(int=2)
VM = Vm(
    uuid=UUID(int=1),
    name="vm1",
    host="h1",
    state=VmState.RUNNING,
    vifs=(Vif(uuid=VIF, network_name="blue", network_uuid=BLUE, opaque=True), Vif(network_name="plain")),
)
AWAY = Unread(host="h2", reason="away")


def view(host: str, *, status: Status = Status.UP, mtu: int = 1450, vif: VifState | None = None) -> HostView:
    network = NetworkView(uuid=BLUE, name="blue", status=status, mtu=mtu, reasons=("ticket 7",))
    return HostView(host=host, networks=(network,), vifs=(VifView(uuid=VIF, state=vif),) if vif else ())


def test_mtu_that_differs_is_refused_with_both_values() -> None:
    (refusal,) = mtu_refusals(VM, source=view("h1"), destination=view("h2", mtu=1400))
    assert (refusal.code, refusal.network_uuid, refusal.host) == (Code.MTU_DIFFERS, BLUE, "h2")
    assert "MTU 1450 on h1 and 1400 on h2" in refusal.sentence


@pytest.mark.parametrize("destination", [view("h2"), view("h2", mtu=0), AWAY, HostView(host="h2")])
def test_mtu_that_is_equal_or_not_told_is_no_refusal(destination: Candidate) -> None:
    assert mtu_refusals(VM, source=view("h1"), destination=destination) == ()


@pytest.mark.parametrize("status", [Status.MAINTENANCE, Status.UNAVAILABLE, Status.DOWN])
def test_network_that_turns_unfit_is_withdrawn_with_the_reason(status: Status) -> None:
    said = withdrawn(VM, view("h2", status=status))
    assert said.startswith(f"network blue ({BLUE}) turned {status} on h2 while memory was copied")
    assert said.endswith("ticket 7")


def test_network_that_is_gone_is_withdrawn_and_one_that_cannot_be_read_is_not() -> None:
    assert "was withdrawn from h2" in withdrawn(VM, HostView(host="h2"))
    assert withdrawn(VM, AWAY) == ""
    assert withdrawn(VM, view("h2")) == withdrawn(VM, view("h2", status=Status.WARNING)) == ""
    assert withdrawn(replace(VM, vifs=()), HostView(host="h2")) == ""


def test_all_vifs_must_be_lit_by_the_hosts_own_word() -> None:
    assert all_lit(VM, view("h2", vif=VifState.LIT))
    assert not all_lit(VM, view("h2", vif=VifState.INCOMING))
    assert not all_lit(VM, view("h2"))
    assert not all_lit(VM, AWAY)
    assert not all_lit(replace(VM, vifs=()), view("h2"))
