"""Status, score and reasons: what is unusable says so, what is unread is not up."""

from __future__ import annotations

from dataclasses import replace

from hostagent.health import host_report, rejections
from hostagent.model import Link, Phase, Unread
from hostagent.names import switch_bridge, uplink_bridge
from netmgr.contract.types import Kind, Status, Teaming, VifState
from tests.support.hostagent_worlds import bare, desired, location, named, network, plug, port, settled, switch

OSW, UPL = switch_bridge(named("s1")), uplink_bridge(("eth1",))
ONE = desired(switches=[switch()], networks=[network()])
ALIVE = {OSW: True}


def working():
    """A host where all is well: the bridge's own port is up as well."""
    return settled(ONE, bare())


def report(wanted=ONE, observed=None, alive=ALIVE):
    return host_report(desired=wanted, observed=working() if observed is None else observed, openflow_alive=alive)


def with_link(observed, name: str, **changes):
    return replace(
        observed, links=tuple(replace(one, **changes) if one.name == name else one for one in observed.links)
    )


def test_all_is_well():
    said = report()
    assert [(one.status, one.health, one.reasons) for one in said.switches] == [(Status.UP, 100, ())]
    assert said.switches[0].vteps == ("10.0.0.1",)
    assert said.switches[0].pnics == ("eth1",)
    assert said.switches[0].datapath == "netdev"
    assert said.networks == ()
    assert [one.name for one in said.pnics] == ["eth1"]


def test_a_switch_that_does_not_answer_openflow_is_down_and_its_networks_with_it():
    said = report(alive={})
    assert said.switches[0].status is Status.DOWN
    assert "does not answer OpenFlow" in said.switches[0].reasons[0]
    assert said.networks[0].status is Status.DOWN
    assert "switch s1 is down" in said.networks[0].reasons


def test_connections_that_are_not_limited_are_a_warning_while_the_switch_answers():
    wanted = replace(ONE, ct_unlimited="the kernel knows no limits")
    (found,) = report(wanted).switches
    assert (found.status, found.health) == (Status.WARNING, 90)
    assert found.reasons == (
        "switch s1: connections of its ports are not limited, and one guest may take all: the kernel knows no limits",
    )
    (dead,) = report(wanted, alive={}).switches
    assert len(dead.reasons) == 1
    assert "does not answer OpenFlow" in dead.reasons[0]


def test_a_host_that_was_just_given_a_switch_is_down_until_it_has_it():
    said = report(observed=bare(), alive={})
    assert (said.switches[0].status, said.switches[0].health) == (Status.DOWN, 0)


def test_an_unreadable_database_is_unavailable():
    said = report(observed=replace(working(), bridges=Unread("connection refused")))
    assert said.switches[0].status is Status.UNAVAILABLE
    assert "connection refused" in said.switches[0].reasons[0]


def test_a_pulled_cable_is_down_and_half_a_bond_a_warning():
    assert "no link on eth1" in report(observed=with_link(working(), "eth1", carrier=False)).switches[0].reasons[0]
    bond = desired(switches=[switch(pnics=("eth*",), teaming=Teaming.ACTIVE_BACKUP)], pnics=("eth1", "eth2"))
    half = with_link(settled(bond, bare("eth1", "eth2")), "eth2", carrier=False)
    said = report(bond, half).switches[0]
    assert (said.status, said.health) == (Status.WARNING, 70)
    assert "not redundant" in said.reasons[0]


def lacp_spoken(observed, **by_pnic):
    """*observed* where the partner's word is fresh, or not, on the PNICs named."""
    bridges = tuple(
        replace(bridge, ports=tuple(replace(one, interfaces=spoken(one.interfaces, by_pnic)) for one in bridge.ports))
        for bridge in observed.bridges
    )
    return replace(observed, bridges=bridges)


def spoken(interfaces, by_pnic):
    return tuple(replace(one, lacp_current=by_pnic.get(one.name)) for one in interfaces)


def test_lacp_that_is_not_negotiated_is_a_warning_that_says_what_carries_traffic():
    bond = desired(switches=[switch(pnics=("eth*",), teaming=Teaming.LACP)], pnics=("eth1", "eth2"))
    there = settled(bond, bare("eth1", "eth2"))
    assert report(bond, lacp_spoken(there, eth1=True, eth2=True)).switches[0].status is Status.UP
    none, one = (report(bond, lacp_spoken(there, eth1=first, eth2=False)).switches[0] for first in (False, True))
    assert (none.status, none.health) == (one.status, one.health) == (Status.WARNING, 70)
    assert "not negotiated on eth1, eth2; one PNIC at a time" in none.reasons[0]
    assert "not negotiated on eth2; only the others" in one.reasons[0]
    unplugged = with_link(lacp_spoken(there, eth1=True, eth2=False), "eth2", carrier=False)
    (reason,) = report(bond, unplugged).switches[0].reasons
    assert "no link on eth2" in reason


def test_a_lost_vtep_address_is_down():
    said = report(observed=with_link(working(), UPL, addresses=()))
    assert said.switches[0].status is Status.DOWN
    assert said.switches[0].vteps == ()


def test_a_rejected_switch_is_unavailable_with_the_sentence_of_the_rejection():
    there = with_link(working(), "eth1", mtu=1500)
    said = report(observed=there).switches[0]
    (ref, sentence), *_ = rejections(desired=ONE, observed=there)
    assert (ref.kind, ref.uuid) == (Kind.SWITCH, named("s1"))
    assert said.reasons == (sentence,)
    assert said.status is Status.UNAVAILABLE


def test_a_network_says_what_it_lacks():
    wanted = holding("h2")
    there = settled(wanted, bare())

    def reason(**changes):
        return report(wanted, replace(there, **changes)).networks[0].reasons[0]

    assert "libvirt does not have it yet" in reason(libvirt_networks=())
    assert "flows are not in" in reason(flows={OSW: frozenset()})
    unread = report(observed=replace(there, flows={OSW: Unread("vswitchd restarts")})).networks[0]
    assert (unread.status, unread.health) == (Status.WARNING, 50)
    robbed = frozenset(flow for flow in there.flows[OSW] if flow.table != 80)
    assert "are not as wanted" in reason(flows={OSW: robbed})


def test_a_network_without_ports_needs_no_flows():
    assert report(observed=replace(working(), flows={OSW: frozenset()})).networks == ()


def test_a_network_whose_switch_is_not_here_is_unavailable():
    stray = desired(networks=[network()])
    assert report(stray, bare()).networks[0].status is Status.UNAVAILABLE


VM = port("a", 1)


def vif(wanted, *, ofport=9, lay=True):
    there = plug(
        settled(replace(ONE, ports=wanted.ports, locations=wanted.locations), bare()), OSW, "tap0", VM.vif_uuid, ofport
    )
    return report(wanted, settled(wanted, there) if lay else there).vifs[0]


def holding(holder, **changes):
    return replace(ONE, ports={VM.uuid: VM}, locations={VM.uuid: location(VM, holder, **changes)})


def test_a_vif_is_lit_once_the_switch_has_its_flows():
    said = vif(holding("h1"))
    assert (said.state, said.reason, said.ovs_port, said.port_uuid) == (VifState.LIT, "", "tap0", VM.uuid)
    assert said.vm_uuid == named("vm")
    before = vif(holding("h1"), lay=False)
    assert before.state is VifState.DARK
    assert "flows are not in" in before.reason


def test_a_dark_vif_says_why():
    assert "no logical port is known" in vif(ONE).reason
    assert "held by host" in vif(holding("h2")).reason
    assert "parked" in vif(holding("h1", parked=True)).reason
    assert "held by no host" in vif(holding(None)).reason
    assert "no location" in vif(replace(holding("h1"), locations={})).reason
    down = replace(holding("h1"), ports={VM.uuid: replace(VM, admin_up=False)})
    assert "set down by its operator" in vif(down).reason
    assert "has no port for tap0" in vif(holding("h1"), ofport=-1, lay=False).reason


def test_an_incoming_vif_is_incoming_until_activated():
    coming = holding("h2", incoming="h1")
    assert vif(coming).state is VifState.INCOMING
    assert vif(replace(coming, phases={VM.uuid: Phase.ACTIVATED})).state is VifState.LIT


def test_a_vif_plugged_twice_is_reported_twice_and_lit_once():
    wanted = holding("h1")
    there = plug(settled(wanted, bare()), OSW, "tap0", VM.vif_uuid, 9)
    there = plug(settled(wanted, there), OSW, "tap1", VM.vif_uuid, 4)
    said = report(wanted, settled(wanted, there)).vifs
    assert [(one.ovs_port, one.state) for one in said] == [("tap0", VifState.LIT), ("tap1", VifState.DARK)]
    assert "plugged twice" in said[1].reason


def test_a_vif_on_the_wrong_bridge_says_which_is_right():
    two = desired(
        switches=[switch(), switch("s2")],
        networks=[network(), network("n2", on="s2")],
        ports=[VM],
        locations=[location(VM, "h1")],
        vteps={"s1": "10.0.0.1/24", "s2": "10.0.1.1/24"},
    )
    wrong = switch_bridge(named("s2"))
    said = report(two, settled(two, plug(settled(two, bare()), wrong, "tap0", VM.vif_uuid, 9))).vifs[0]
    assert said.state is VifState.DARK
    assert f"plugged into {wrong}" in said.reason
    assert OSW in said.reason


def test_pnics_that_do_not_exist_are_not_reported():
    assert report(observed=replace(working(), links=(Link(name="eth9"),))).pnics == ()
