"""MACs behind a port's VIF, compiled: what they cost, whose a MAC is, and that a pause reaches all of them at once."""

from __future__ import annotations

from dataclasses import replace

from hostagent.explain import explain
from hostagent.fastpath import phase_flows
from hostagent.flow import Match, mac_to_int
from hostagent.model import Phase
from hostagent.pipeline.tables import Table
from netmgr.contract.types import Allowance, Learned, LearnedMac, LogicalPort, NestedMac, VifState, VifStatus
from tests.support.hostagent_worlds import location, plug, port
from tests.unit.hostagent.test_flows import OSW, compiled, host_of, world

M1, M2 = "02:00:00:00:01:01", "02:00:00:00:01:02"


def learned(of: LogicalPort, *macs: str, refused: str = "") -> dict:
    seen = tuple(LearnedMac(mac=mac, refused=refused) for mac in macs)
    return {of.uuid: Learned(port_uuid=of.uuid, network_uuid=of.network_uuid, macs=seen)}


def destinations(flows) -> set[int]:
    return {item.value for flow in flows for item in flow.match if isinstance(item, Match) and item.field == "eth_dst"}


def test_a_mac_behind_a_remote_port_costs_one_flow_and_an_address_of_it_one_more() -> None:
    one = port("a", 1, ips=("10.1.0.1",))
    wanted = world((one, location(one, "h2")))
    there = host_of(wanted)
    few = compiled(wanted, there)
    more = replace(one, nested=(NestedMac(mac=M1), NestedMac(mac=M2, ips=("10.1.0.2",))))
    assert len(compiled(world((more, location(more, "h2"))), there)) == len(few) + 3
    opened = replace(one, allow=(Allowance.NESTED,))
    wanted = replace(world((opened, location(opened, "h2"))), learned=learned(opened, M1))
    assert len(compiled(wanted, there)) == len(few) + 1
    refused = replace(wanted, learned=learned(opened, M1, refused="another's"))
    assert compiled(refused, there) == few
    assert compiled(replace(wanted, ports={one.uuid: one}), there) == few, "what is not allowed is not learned"


def test_a_ports_own_mac_goes_before_what_is_defined_or_learned_elsewhere() -> None:
    owner, other = port("a", 1), replace(port("b", 2), allow=(Allowance.NESTED,), nested=(NestedMac(mac=M1),))
    wanted = world((owner, location(owner, "h2")), (other, location(other, "h3")))
    there = host_of(wanted)
    lying = replace(wanted, learned=learned(other, owner.mac, M1))
    assert compiled(lying, there) == compiled(wanted, there)


def test_a_pause_turns_frames_for_all_macs_of_the_port_in_one_change() -> None:
    one = replace(port("a", 1), nested=(NestedMac(mac=M1),), allow=(Allowance.NESTED,))
    wanted = replace(world((one, location(one, "h1", incoming="h2"))), learned=learned(one, M2))
    assert one.vif_uuid is not None
    there = plug(host_of(wanted), OSW, "tap0", one.vif_uuid, 7)
    there = replace(there, flows={OSW: compiled(wanted, there)})
    paused = replace(wanted, phases={one.uuid: Phase.REDIRECTING})
    (change,) = phase_flows([one.uuid], before={}, desired=paused, observed=there)
    turned = {flow for flow in change.add if flow.table == Table.FORWARD}
    assert destinations(turned) == {mac_to_int(mac) for mac in (one.mac, M1, M2)}
    after = compiled(paused, there)
    assert set(change.add) <= after, "the loop finds it done"


def test_explain_names_what_is_behind_a_vif() -> None:
    one = replace(port("a", 1), nested=(NestedMac(mac=M1, ips=("10.1.0.9",)),), allow=(Allowance.NESTED,))
    wanted = replace(world((one, location(one, "h1"))), learned=learned(one, M2))
    assert one.vif_uuid is not None
    status = VifStatus(vif_uuid=one.vif_uuid, port_uuid=one.uuid, state=VifState.LIT, ovs_port="tap0")
    (answer,) = explain(str(one.vif_uuid), desired=wanted, statuses=[status], records={}, missing={})
    told = " ".join(answer["facts"])
    assert f"MACs defined behind its VIF: {M1}, 10.1.0.9." in told
    assert f"MACs learned behind its VIF: {M2}." in told
