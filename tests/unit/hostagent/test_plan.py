"""Plans: safe order, nothing foreign touched, nothing left to do after."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.flow import Flow, mac_to_int
from hostagent.health import rejections
from hostagent.model import (
    AddAddress,
    Bridge,
    ChangeFlows,
    DefineNetwork,
    Desired,
    Interface,
    KeepNetwork,
    LibvirtNetwork,
    Link,
    Observed,
    OvsPort,
    Plug,
    PutBridge,
    PutNormal,
    PutPort,
    RemoveAddress,
    RemoveBridge,
    RemoveNetwork,
    RemovePort,
    SetArpIgnore,
    SetLink,
    Unread,
)
from hostagent.names import OWNER, network_key, switch_bridge, tunnel_port, uplink_bridge
from hostagent.pipeline.tables import Table, hold_flow
from hostagent.plan import kept_bridges, plan
from netmgr.contract.types import NetworkType, Teaming
from tests.support.hostagent_worlds import (
    bare,
    desired,
    location,
    named,
    network,
    obey,
    plug,
    port,
    settled,
    switch,
)

OSW = switch_bridge(named("s1"))
UPL = uplink_bridge(("eth1",))
ONE = desired(switches=[switch()], networks=[network()])


def kinds(steps) -> list[type]:
    return [type(step) for step in steps]


def sentences(wanted, observed) -> str:
    return "\n".join(text for _, text in rejections(desired=wanted, observed=observed))


def bridge_ports(observed, bridge: str, prefix: str):
    return [one for one in bridge_of(observed, bridge).ports if one.name.startswith(prefix)]


def with_port(observed, bridge: str, prefix: str, **changes):
    """*observed* with the ports of *bridge* that begin with *prefix* changed."""

    def changed(one):
        ports = tuple(replace(port, **changes) if port.name.startswith(prefix) else port for port in one.ports)
        return replace(one, ports=ports)

    return replace(observed, bridges=tuple(changed(one) if one.name == bridge else one for one in observed.bridges))


def bridge_of(observed: Observed, name: str) -> Bridge:
    return next(bridge for bridge in observed.bridges if bridge.name == name)


def test_a_bare_host_gets_uplink_bridge_tunnel_and_address_first():
    steps = plan(desired=ONE, observed=bare())
    uplink = [PutBridge, PutPort, PutPort, SetArpIgnore, SetLink, SetArpIgnore, AddAddress]
    assert kinds(steps) == [*uplink, PutBridge, PutPort]
    assert steps[0].fail_mode == "standalone"
    assert (steps[2].interfaces[0].mtu_request, steps[2].tag) == (1600, 0)
    assert steps[6] == AddAddress(link=UPL, address="10.0.0.1/24")
    assert (steps[7].name, steps[7].fail_mode, steps[7].datapath_type) == (OSW, "secure", "netdev")
    assert dict(steps[8].interfaces[0].options) == {"remote_ip": "flow", "key": "flow", "local_ip": "10.0.0.1"}


def test_the_second_round_lays_flows_and_only_then_defines_the_network():
    second = plan(desired=ONE, observed=obey(bare(), plan(desired=ONE, observed=bare())))
    assert kinds(second) == [ChangeFlows, DefineNetwork]
    assert second[1] == DefineNetwork(uuid=named("n1"), name="n1", bridge=OSW, mtu=1500)


def test_the_third_round_has_libvirt_keep_the_network_and_the_fourth_has_nothing_to_do():
    second = obey(bare(), plan(desired=ONE, observed=bare()))
    third = obey(second, plan(desired=ONE, observed=second))
    (step,) = plan(desired=ONE, observed=third)
    assert step == KeepNetwork(uuid=named("n1"), name="n1", bridge=OSW, mtu=1500)
    assert plan(desired=ONE, observed=obey(third, (step,))) == ()


def test_a_host_that_never_heard_its_manager_does_nothing():
    there = settled(ONE, bare())
    assert plan(desired=Desired(), observed=there) == ()


@pytest.mark.parametrize("part", ["bridges", "links", "libvirt_networks"])
def test_what_was_not_read_is_neither_made_nor_removed(part):
    unread = {part: Unread("no answer")}
    for wanted in (ONE, desired()):
        steps = plan(desired=wanted, observed=replace(settled(ONE, bare()), **unread))
        touched = {
            "bridges": object,
            "links": (SetLink, SetArpIgnore, AddAddress, RemoveAddress),
            "libvirt_networks": (DefineNetwork, RemoveNetwork),
        }
        assert [step for step in steps if isinstance(step, touched[part])] == []


def test_flows_that_were_not_read_are_not_changed():
    there = settled(ONE, bare())
    assert plan(desired=ONE, observed=replace(there, flows={OSW: Unread("vswitchd is away")})) == ()
    assert plan(desired=ONE, observed=replace(there, flows={})) == ()


def test_a_removed_network_loses_flows_then_libvirt_then_its_tunnel():
    vm = port("a", 1)
    there = settled(replace(ONE, ports={vm.uuid: vm}, locations={vm.uuid: location(vm, "h1")}), bare())
    steps = plan(desired=desired(switches=[switch()]), observed=there)
    assert kinds(steps) == [ChangeFlows, RemoveNetwork, RemovePort, ChangeFlows]
    assert {flow.cookie for flow in steps[0].delete} == {network_key(named("n1"))}
    assert steps[0].add == ()
    assert steps[2].name == tunnel_port(NetworkType.VXLAN, named("s1"))
    assert {flow.table for flow in steps[3].delete} == {Table.CLASSIFY}
    assert hold_flow(mac_to_int(vm.mac)) in steps[3].delete, "nobody is awaited"
    assert len(steps[3].delete) == 2, "no probes come in by a tunnel that is gone"


def test_a_removed_network_leaves_the_tunnel_to_others_of_its_type():
    both = desired(switches=[switch()], networks=[network(), network("n2", segment=5002)])
    assert kinds(plan(desired=ONE, observed=settled(both, bare()))) == [RemoveNetwork]


def test_a_network_without_ports_is_a_matter_of_libvirt_alone():
    both = desired(switches=[switch()], networks=[network(), network("n2", segment=5002)])
    there = settled(ONE, bare())
    assert kinds(plan(desired=both, observed=there)) == [DefineNetwork]
    vm = port("a", 1, on="n2")
    peopled = replace(both, ports={vm.uuid: vm}, locations={vm.uuid: location(vm, "h1")})
    (flows,) = plan(desired=peopled, observed=settled(both, there))
    own = set(flows.add) - {hold_flow(mac_to_int(vm.mac))}
    assert {flow.cookie for flow in own} == {network_key(named("n2"))}, "its flows come with its first port"
    (gone,) = plan(desired=both, observed=settled(peopled, there))
    assert set(gone.delete) == set(flows.add), "and go with its last"


def test_a_removed_switch_takes_its_bridges_along():
    there = settled(ONE, bare())
    after = obey(there, plan(desired=desired(), observed=there))
    assert after.bridges == ()
    assert after.libvirt_networks == ()


def test_a_removed_switch_with_a_tap_keeps_its_bridge_without_flows_and_says_so():
    there = plug(settled(ONE, bare()), OSW, "tap0", named("vif a"), 7)
    after = settled(desired(), there)
    assert [bridge.name for bridge in after.bridges] == [OSW]
    assert after.flows[OSW] == frozenset()
    assert "tap0 is still plugged" in kept_bridges(desired=desired(), observed=after)[OSW]
    assert settled(ONE, after).flows[OSW] != frozenset()


FOREIGN = (
    Bridge(
        name="br-foreign",
        external_ids={"opaque-switch": str(named("s1")), "opaque-pnics": "eth9"},
        ports=(OvsPort(name="eth9", interfaces=(Interface(name="eth9"),)),),
    ),
    Bridge(name="osw-0123456789", datapath_type="netdev"),
)


@pytest.mark.parametrize("wanted", [ONE, desired()], ids=["wanted", "nothing wanted"])
def test_foreign_bridges_ports_networks_and_addresses_are_left_alone(wanted):
    there = settled(ONE, bare())
    mine = LibvirtNetwork(uuid=named("theirs"), name="default", active=True)
    there = replace(
        there,
        bridges=(*there.bridges, *FOREIGN),
        libvirt_networks=(*there.libvirt_networks, mine),
        links=(*there.links, Link(name="eth0", addresses=("192.0.2.1/24",))),
    )
    there = plug(there, OSW, "theirs", named("not a vif of ours"), 9)
    after = settled(wanted, there)
    assert all(bridge in after.bridges for bridge in FOREIGN)
    assert mine in after.libvirt_networks
    assert Link(name="eth0", addresses=("192.0.2.1/24",)) in after.links
    assert any(one.name == "theirs" for one in bridge_of(after, OSW).ports)


def test_a_foreign_bridge_under_our_name_blocks_the_switch_and_is_not_touched():
    there = replace(bare(), bridges=(Bridge(name=OSW),))
    assert [step for step in plan(desired=ONE, observed=there) if getattr(step, "name", "") == OSW] == []
    assert f"a bridge {OSW} exists that this agent did not make" in sentences(ONE, there)


def test_an_operators_address_on_our_uplink_stays_and_ours_goes_when_it_changes():
    there = settled(ONE, bare())
    links = tuple(
        replace(link, addresses=(*link.addresses, "198.51.100.1/24")) if link.name == UPL else link
        for link in there.links
    )
    moved = desired(switches=[switch()], networks=[network()], vteps={"s1": "10.0.0.77/24"})
    after = settled(moved, replace(there, links=links))
    local = next(link for link in after.links if link.name == UPL)
    assert sorted(local.addresses) == ["10.0.0.77/24", "198.51.100.1/24"]


@pytest.mark.parametrize(
    ("links", "bridges", "says"),
    [
        ((), (), "PNIC eth1 does not exist on this host"),
        ((Link(name="eth1", mtu=1500),), (), "PNIC eth1 has an MTU of 1500, the switch needs 1600"),
        ((Link(name="eth1", mtu=9000, addresses=("192.0.2.1/24",)),), (), "PNIC eth1 carries 192.0.2.1/24"),
        ((Link(name="eth1", mtu=9000, master="bond0"),), (), "PNIC eth1 is in bridge or bond bond0"),
        (
            (Link(name="eth1", mtu=9000),),
            (Bridge(name="br0", ports=(OvsPort(name="eth1", interfaces=(Interface(name="eth1"),)),)),),
            "PNIC eth1 is in bridge or bond br0, which is not ours",
        ),
        (
            (Link(name="eth1", mtu=9000), Link(name="eth7", addresses=("10.0.0.1/8",))),
            (),
            "its VTEP address 10.0.0.1 is on eth7 already",
        ),
    ],
)
def test_a_pnic_that_cannot_carry_the_switch_is_rejected_and_not_moved(links, bridges, says):
    there = Observed(links=links, bridges=bridges)
    assert plan(desired=ONE, observed=there) == ()
    assert says in sentences(ONE, there)


def test_a_pnic_that_fails_later_tears_nothing_down_and_flows_are_kept_up():
    there = settled(ONE, bare())
    broken = replace(there, links=tuple(link for link in there.links if link.name != "eth1"))
    assert plan(desired=ONE, observed=broken) == ()
    vm = port("a", 1)
    more = replace(ONE, ports={vm.uuid: vm}, locations={vm.uuid: location(vm, "h2")})
    assert kinds(plan(desired=more, observed=broken)) == [ChangeFlows]


def test_a_link_local_address_on_a_pnic_is_no_hindrance():
    there = Observed(links=(Link(name="eth1", mtu=9000, addresses=("fe80::1/64",)),))
    assert sentences(ONE, there) == ""


def test_no_pnic_offered_is_said_with_what_was_wanted():
    assert "wants a PNIC that matches eth1, but this host offers none" in sentences(
        replace(ONE, offered_pnics=()), bare()
    )


def test_two_switches_with_the_same_pnic_share_one_uplink_bridge():
    wanted = desired(
        switches=[switch(), switch("s2", mtu=2000)],
        networks=[network(), network("n2", on="s2")],
        vteps={"s1": "10.0.0.1/24", "s2": "10.0.1.1/24"},
    )
    after = settled(wanted, bare())
    assert sorted(bridge.name for bridge in after.bridges) == sorted([UPL, OSW, switch_bridge(named("s2"))])
    local = next(link for link in after.links if link.name == UPL)
    assert sorted(local.addresses) == ["10.0.0.1/24", "10.0.1.1/24"]
    internal = next(one for p in bridge_of(after, UPL).ports if p.name == UPL for one in p.interfaces)
    assert internal.mtu_request == 2000


def test_vlans_are_kept_from_where_tunnels_end_unless_somebody_has_said_which_it_carries():
    there = settled(ONE, bare())
    (step,) = plan(desired=ONE, observed=with_port(there, UPL, UPL, tag=None))
    assert (step.name, step.tag) == (UPL, 0)
    for said in ({"tag": 20}, {"tag": None, "trunks": (0, 20)}, {"tag": None, "vlan_mode": "native-tagged"}):
        assert plan(desired=ONE, observed=with_port(there, UPL, UPL, **said)) == ()


def test_of_two_switches_that_want_a_pnic_in_different_sets_the_later_is_rejected():
    first, second = sorted(
        [switch(pnics=("eth1",)), switch("s2", pnics=("eth1", "eth2"), teaming=Teaming.ACTIVE_BACKUP)],
        key=lambda one: one.uuid,
    )
    wanted = desired(switches=[first, second], pnics=("eth1", "eth2"))
    text = sentences(wanted, bare("eth1", "eth2"))
    assert f"switch {second.name}: PNIC eth1 is the uplink of switch {first.name} already" in text
    after = settled(wanted, bare("eth1", "eth2"))
    assert switch_bridge(second.uuid) not in {bridge.name for bridge in after.bridges}


def test_a_bond_holds_all_pnics_that_match():
    wanted = desired(switches=[switch(pnics=("eth*",), teaming=Teaming.ACTIVE_BACKUP)], pnics=("eth2", "eth1", "wan"))
    steps = plan(desired=wanted, observed=bare("eth1", "eth2", "wan"))
    bond = next(step for step in steps if isinstance(step, PutPort))
    assert [one.name for one in bond.interfaces] == ["eth1", "eth2"]
    assert bond.bond_mode == "active-backup"


@pytest.mark.parametrize(
    ("teaming", "mode", "lacp"),
    [
        (Teaming.ACTIVE_BACKUP, "active-backup", ""),
        (Teaming.BALANCE, "balance-slb", ""),
        (Teaming.LACP, "balance-tcp", "active"),
    ],
)
@pytest.mark.parametrize("before", [Teaming.ACTIVE_BACKUP, Teaming.BALANCE, Teaming.LACP])
def test_a_bond_is_teamed_anew_in_place(before, teaming, mode, lacp):
    old = desired(switches=[switch(pnics=("eth*",), teaming=before)], pnics=("eth1", "eth2"))
    new = desired(switches=[switch(pnics=("eth*",), teaming=teaming)], pnics=("eth1", "eth2"))
    there = settled(old, bare("eth1", "eth2"))
    steps = plan(desired=new, observed=there)
    assert [type(step) for step in steps] == ([] if before is teaming else [PutPort])
    (port,) = bridge_ports(settled(new, there), uplink_bridge(("eth1", "eth2")), "bond-")
    assert (port.bond_mode, port.lacp) == (mode, lacp)
    assert (port.other_config.get("lacp-fallback-ab") == "true") or not lacp


@pytest.mark.parametrize(
    "drift", [{"lacp": "passive"}, {"lacp": ""}, {"bond_mode": "balance-slb"}, {"other_config": {"mine": "1"}}]
)
def test_a_bond_that_somebody_changed_is_put_back(drift):
    wanted = desired(switches=[switch(pnics=("eth*",), teaming=Teaming.LACP)], pnics=("eth1", "eth2"))
    there = settled(wanted, bare("eth1", "eth2"))
    changed = with_port(there, uplink_bridge(("eth1", "eth2")), "bond-", **drift)
    assert [type(step) for step in plan(desired=wanted, observed=changed)] == [PutPort]
    assert plan(desired=wanted, observed=settled(wanted, changed)) == ()


def test_a_key_of_a_bond_that_is_not_ours_is_left_alone():
    wanted = desired(switches=[switch(pnics=("eth*",), teaming=Teaming.BALANCE)], pnics=("eth1", "eth2"))
    there = settled(wanted, bare("eth1", "eth2"))
    theirs = with_port(there, uplink_bridge(("eth1", "eth2")), "bond-", other_config={"bond-rebalance-interval": "9"})
    assert plan(desired=wanted, observed=theirs) == ()


def test_one_pnic_is_no_bond_whatever_the_teaming():
    wanted = desired(switches=[switch(teaming=Teaming.LACP)])
    uplink = next(step for step in plan(desired=wanted, observed=bare()) if isinstance(step, PutPort))
    assert (uplink.name, uplink.bond_mode, uplink.lacp) == ("eth1", "", "")


def test_of_two_switches_that_team_the_same_pnics_differently_the_later_is_rejected_and_keeps_its_address():
    first, second = sorted(
        [switch(name, pnics=("eth*",), teaming=Teaming.BALANCE) for name in ("s1", "s2")], key=lambda one: one.uuid
    )
    where = {first.name: "10.0.0.1/24", second.name: "10.0.1.1/24"}
    agreed = desired(switches=[first, second], pnics=("eth1", "eth2"), vteps=where)
    there = settled(agreed, bare("eth1", "eth2"))
    torn = replace(agreed, switches={first.uuid: first, second.uuid: replace(second, teaming=Teaming.LACP)})
    assert f"switch {second.name}: wants teaming lacp on eth1, eth2" in sentences(torn, there)
    assert plan(desired=torn, observed=there) == ()
    after = settled(agreed, settled(torn, there))
    local = next(link for link in after.links if link.name == uplink_bridge(("eth1", "eth2")))
    assert sorted(local.addresses) == ["10.0.0.1/24", "10.0.1.1/24"]


def test_a_single_uplink_takes_the_first_match_by_name_and_changes_bridges_without_holding_it_twice():
    one = desired(switches=[switch(pnics=("eth*",))], pnics=("eth2", "eth3"))
    there = settled(one, bare("eth1", "eth2", "eth3"))
    assert [bridge.name for bridge in there.bridges if bridge.name.startswith("upl")] == [uplink_bridge(("eth2",))]
    both = desired(switches=[switch(pnics=("eth*",), teaming=Teaming.ACTIVE_BACKUP)], pnics=("eth2", "eth3"))
    after = settled(both, there)
    assert [bridge.name for bridge in after.bridges if bridge.name.startswith("upl")] == [
        uplink_bridge(("eth2", "eth3"))
    ]


def test_of_two_networks_with_one_segment_the_one_in_use_stays():
    for first, second in (("n1", "n2"), ("n2", "n1")):
        there = settled(desired(switches=[switch()], networks=[network(first)]), bare())
        wanted = desired(switches=[switch()], networks=[network(first), network(second)])
        assert plan(desired=wanted, observed=there) == ()
        assert f"network {second}: vxlan segment 5001 is carried for network {first}" in sentences(wanted, there)


def test_a_segment_is_per_type_and_per_switch():
    wanted = desired(
        switches=[switch(), switch("s2")],
        networks=[network(), network("n2", kind=NetworkType.GENEVE), network("n3", on="s2")],
        vteps={"s1": "10.0.0.1/24", "s2": "10.0.1.1/24"},
    )
    assert sentences(wanted, settled(wanted, bare())) == ""


def test_a_network_too_big_for_the_underlay_is_not_given_to_libvirt():
    wanted = desired(
        switches=[switch(mtu=1549)], networks=[network(), network("n2", kind=NetworkType.NVGRE, segment=1)]
    )
    after = settled(wanted, bare())
    assert [one.name for one in after.libvirt_networks] == ["n2"]
    assert "lower the network's MTU to 1499" in sentences(wanted, after)


@pytest.mark.parametrize(
    ("vtep", "datapath", "types"),
    [
        ("10.0.0.1/24", "system", {"vxlan", "gre"}),
        ("fd00::1/64", "system", {"vxlan", "ip6gre"}),  # the kernel's device of "gre" speaks IPv4 only
        ("fd00::1/64", "netdev", {"vxlan", "gre"}),
    ],
)
def test_a_tunnel_is_of_a_type_that_the_datapath_has_for_its_addresses(vtep, datapath, types):
    networks = [network(), network("n2", kind=NetworkType.NVGRE, segment=7)]
    wanted = replace(desired(switches=[switch()], networks=networks, vteps={"s1": vtep}), datapath=datapath)
    there = settled(wanted, bare())
    (bridge,) = (one for one in there.bridges if one.name == switch_bridge(named("s1")))
    tunnels = (one for port in bridge.ports for one in port.interfaces if one.options.get("remote_ip") == "flow")
    assert {one.type for one in tunnels} == types


@pytest.mark.parametrize("same", ["uuid", "name"])
def test_a_foreign_libvirt_network_in_the_way_is_named_and_left(same):
    theirs = LibvirtNetwork(uuid=named("n1" if same == "uuid" else "x"), name="n1" if same == "name" else "x")
    there = replace(bare(), libvirt_networks=(theirs,))
    after = settled(ONE, there)
    assert after.libvirt_networks == (theirs,)
    assert "did not make; rename or undefine it" in sentences(ONE, after)


def test_networks_that_swap_names_are_redefined_without_a_clash():
    wanted = desired(switches=[switch()], networks=[network("n1"), network("n2", segment=2)])
    swapped = desired(
        switches=[switch()],
        networks=[replace(network("n1"), name="n2"), replace(network("n2", segment=2), name="n1")],
    )
    after = settled(swapped, settled(wanted, bare()))
    assert {one.uuid: one.name for one in after.libvirt_networks} == {named("n1"): "n2", named("n2"): "n1"}


@pytest.mark.parametrize(
    ("field", "step"),
    [
        ("active", DefineNetwork),
        ("as_defined", DefineNetwork),
        ("autostart", KeepNetwork),
        ("persistent", KeepNetwork),
    ],
)
def test_a_libvirt_network_changed_by_hand_is_put_back(field, step):
    there = settled(ONE, bare())
    there = replace(there, libvirt_networks=(replace(there.libvirt_networks[0], **{field: False}),))
    assert kinds(plan(desired=ONE, observed=there)) == [step]


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("could not add vxlan: File exists", "remove what stands in its way"),
        (
            "could not add network device (Address family not supported by protocol)",
            "the kernel has no module vport-vxlan: have it loaded",
        ),
    ],
)
def test_a_network_is_not_defined_before_its_tunnel_works(error, advice):
    there = obey(bare(), plan(desired=ONE, observed=bare()))
    tunnel = tunnel_port(NetworkType.VXLAN, named("s1"))

    def broken(one: OvsPort) -> OvsPort:
        refused = replace(one.interfaces[0], ofport=-1, error=error)
        return replace(one, interfaces=(refused,)) if one.name == tunnel else one

    there = replace(there, bridges=tuple(replace(b, ports=tuple(map(broken, b.ports))) for b in there.bridges))
    after = settled(ONE, there)
    assert after.libvirt_networks == ()
    assert f"Open vSwitch refuses its vxlan tunnel port: {error}; {advice}, it is retried" in sentences(ONE, after)


def test_deleted_ports_and_flows_are_put_back():
    there = settled(ONE, bare())
    tunnel = tunnel_port(NetworkType.VXLAN, named("s1"))
    robbed = tuple(replace(b, ports=tuple(p for p in b.ports if p.name not in (tunnel, "eth1"))) for b in there.bridges)
    robbed_host = replace(there, bridges=robbed, flows={OSW: frozenset()})
    after = settled(ONE, robbed_host)
    assert {p.name for b in after.bridges for p in b.ports} == {p.name for b in there.bridges for p in b.ports}
    assert len(after.flows[OSW]) == len(there.flows[OSW])


def test_an_uplink_bridge_that_lost_its_flow_gets_it_back_and_one_that_is_not_ours_does_not():
    there = settled(ONE, bare())
    silent = replace(there, silent_uplinks=frozenset({UPL, "upl-other"}))
    assert plan(desired=ONE, observed=silent) == (PutNormal(bridge=UPL),)
    assert obey(silent, plan(desired=ONE, observed=silent)) == replace(there, silent_uplinks=frozenset({"upl-other"}))


def test_a_strangers_flow_on_our_bridge_is_deleted():
    there = settled(ONE, bare())
    stranger = Flow(table=0, priority=7, cookie=0)
    there = replace(there, flows={OSW: there.flows[OSW] | {stranger}})
    assert plan(desired=ONE, observed=there) == (ChangeFlows(bridge=OSW, delete=(stranger,), add=()),)


def test_a_strangers_flow_in_the_place_of_ours_is_replaced_in_one_bundle():
    there = settled(ONE, bare())
    ours = next(flow for flow in there.flows[OSW] if flow.table == 0 and flow.priority == 100)
    changed = replace(ours, actions=())
    there = replace(there, flows={OSW: there.flows[OSW] - {ours} | {changed}})
    assert plan(desired=ONE, observed=there) == (ChangeFlows(bridge=OSW, delete=(), add=(ours,)),)


def test_a_tap_taken_out_of_the_bridge_is_plugged_again_only_while_its_plug_stands():
    there = settled(ONE, bare())
    mark = {"iface-id": str(named("vif a"))}
    wanted = replace(ONE, plugs={named("vif a"): Plug(bridge=OSW, port="tap0", external_ids=mark)})
    gone = replace(there, links=(*there.links, Link(name="tap0")))
    assert plan(desired=wanted, observed=there) == (), "its link is gone: the guest has ended"
    steps = plan(desired=wanted, observed=gone)
    assert steps == (
        PutPort(bridge=OSW, name="tap0", interfaces=(Interface(name="tap0", external_ids=mark),), external_ids={}),
    )
    assert plan(desired=ONE, observed=gone) == ()


def test_an_uplink_bridge_with_a_strangers_port_is_not_removed():
    there = settled(ONE, bare())
    stranger = OvsPort(name="eth5", interfaces=(Interface(name="eth5"),))
    there = replace(
        there, bridges=tuple(replace(b, ports=(*b.ports, stranger)) if b.name == UPL else b for b in there.bridges)
    )
    assert UPL in {bridge.name for bridge in settled(desired(), there).bridges}


WORLDS = st.builds(
    lambda names, types, segments: desired(
        switches=[switch(name, pnics=("eth*",)) for name in sorted({*names})],
        networks=[
            network(f"n{index}", on=names[index % len(names)], kind=kind, segment=segment)
            for index, (kind, segment) in enumerate(zip(types, segments, strict=False))
        ]
        if names
        else [],
        vteps={name: f"10.0.{name[1:]}.1/24" for name in names},
    ),
    st.lists(st.sampled_from(["s1", "s2", "s3"]), max_size=3),
    st.lists(st.sampled_from(list(NetworkType)), max_size=5),
    st.lists(st.integers(1, 3), min_size=5, max_size=5),
)


@settings(max_examples=80, deadline=None)
@given(first=WORLDS, second=WORLDS)
def test_from_any_world_to_any_other_the_plan_ends(first, second):
    assert plan(desired=second, observed=settled(second, settled(first, bare()))) == ()


@settings(max_examples=40, deadline=None)
@given(world=WORLDS)
def test_what_is_made_is_marked_and_all_of_it_goes_again(world):
    there = settled(world, bare())
    assert all(OWNER.items() <= dict(bridge.external_ids).items() for bridge in there.bridges)
    after = settled(desired(), there)
    assert after.bridges == ()
    assert after.libvirt_networks == ()


def test_remove_bridge_precedes_the_bridge_that_takes_its_pnic():
    one = settled(desired(switches=[switch()], pnics=("eth1",)), bare("eth1", "eth2"))
    bond = desired(switches=[switch(pnics=("eth*",), teaming=Teaming.ACTIVE_BACKUP)], pnics=("eth1", "eth2"))
    order = kinds(plan(desired=bond, observed=one))
    assert order.index(RemoveBridge) < order.index(PutBridge)
