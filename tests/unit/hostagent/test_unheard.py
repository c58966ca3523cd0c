"""Whose ports elsewhere nobody has told, and what that means for the guests here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from hostagent.health import host_report
from hostagent.names import switch_bridge
from hostagent.presence import SeenVif
from hostagent.unheard import unheard_networks, unheard_sentence
from netmgr.contract.types import LogicalPort, NetworkType, OpaqueNetwork, Status, VifState
from tests.support.hostagent_worlds import bare, desired, location, named, network, plug, port, settled, switch

VIF, PORT, BLUE, RED = (UUID(int=number) for number in range(1, 5))
SEEN = SeenVif(
    vif_uuid=VIF, ovs_port="tap0", bridge="br", mac="", vm_uuid=None, network_uuid=None, plugged=True, external_ids={}
)
NOON = "2026-01-01T12:00:00Z"


def unheard(*vifs: SeenVif, **changes: Any) -> dict[UUID, str]:
    given: dict[str, Any] = {
        "told": frozenset(),
        "port_by_vif": {VIF: PORT},
        "ports": {PORT: LogicalPort(uuid=PORT, name="web1", network_uuid=BLUE, vif_uuid=VIF, mac="")},
        "networks": {BLUE, RED},
        "away_since": NOON,
    }
    return dict(unheard_networks(vifs=vifs, **given | changes))


def test_a_network_with_a_vif_here_that_was_not_subscribed_to_is_unheard_while_the_manager_is_away() -> None:
    assert unheard(SEEN) == {BLUE: NOON}
    assert unheard(SEEN, told={RED}) == {BLUE: NOON}


@pytest.mark.parametrize(
    ("vifs", "changes"),
    [
        ((SEEN,), {"told": {BLUE, RED}}),
        ((SEEN,), {"told": None}),
        ((SEEN,), {"away_since": ""}),
        ((SEEN,), {"networks": {RED}}),
        ((SEEN,), {"ports": {}}),
        ((SEEN,), {"port_by_vif": {}}),
        ((replace(SEEN, plugged=False),), {}),
        ((), {}),
    ],
    ids=["told", "not known", "manager there", "not here", "no port", "no line", "not plugged", "no VIF"],
)
def test_else_nothing_is_said(vifs: tuple[SeenVif, ...], changes: dict[str, Any]) -> None:
    assert unheard(*vifs, **changes) == {}


def test_the_sentence_says_what_still_works_on_either_kind_of_network() -> None:
    blue = OpaqueNetwork(uuid=BLUE, name="blue", zone_uuid=uuid4(), switch_uuid=uuid4(), segment_id=7)
    assert "guests there are not reached, nor do they reach guests here, until" in unheard_sentence(blue, NOON)
    on_vlan = replace(blue, type=NetworkType.VLAN)
    assert "guests there are reached, but all questions" in unheard_sentence(on_vlan, NOON)
    assert unheard_sentence(blue, NOON).startswith(f"network blue: no manager has been reached since {NOON}, and")


def test_the_network_and_its_lit_vif_say_so_and_other_networks_do_not() -> None:
    vm, bridge = port("a", 1), switch_bridge(named("s1"))
    networks = [network(), network("n2", segment=5002)]
    there = desired(switches=[switch()], networks=networks, ports=[vm], locations=[location(vm, "h1")])
    assert vm.vif_uuid is not None
    lit = settled(there, plug(settled(there, bare()), bridge, "tap0", vm.vif_uuid, 9))
    wanted = replace(there, unheard={named("n1"): NOON})
    said = host_report(desired=wanted, observed=lit, openflow_alive={bridge: True})
    sentence = unheard_sentence(wanted.networks[named("n1")], NOON)
    (sick,) = said.networks
    assert (sick.network_uuid, sick.status, sick.reasons) == (named("n1"), Status.WARNING, (sentence,))
    assert [(vif.state, vif.reason) for vif in said.vifs] == [(VifState.LIT, sentence)]
