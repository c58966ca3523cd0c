"""Peers: who is asked, what their silence does to flows, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

from hostagent.flow import Goto, Match, Output, SetField
from hostagent.flows import compile_flows
from hostagent.health import host_report
from hostagent.model import Observed, PathKey, PathStatus, Unread
from hostagent.names import network_key, switch_bridge
from hostagent.pipeline.drops import reason_of
from hostagent.pipeline.probe import probe_frame, probe_number
from hostagent.pipeline.tables import Table
from hostagent.resolve import resolve
from hostagent.underlay.liveness import Liveness
from hostagent.underlay.peers import cut_before, tunnel_ofports, wanted_paths
from netmgr.contract.types import NetworkType, PeerState, Status, TunnelPeer
from tests.support.hostagent_worlds import bare, desired, location, named, network, port, settled, switch

OSW = switch_bridge(named("s1"))
A, B, C = port("a", 1), port("b", 2), port("c", 3, on="n2")
WORLD = desired(
    switches=[switch()],
    networks=[network(), network("n2", segment=5002, kind=NetworkType.GENEVE)],
    ports=[A, B, C],
    locations=[location(A, "h2"), location(B, "h3", incoming="h4"), location(C, "h2")],
)


def path(host: str, *, state: PeerState = PeerState.UP, cut: bool = False, kind: NetworkType = NetworkType.VXLAN):
    key = PathKey(named("s1"), kind, f"10.0.0.{host[1:]}")
    return PathStatus(key=key, state=state, cut=cut, mtu_passed=1600)


def flows(observed: Observed, *, remember: bool = False):
    intent = resolve(WORLD, observed).switches[named("s1")]
    assert not isinstance(observed.bridges, Unread)
    bridge = next(one for one in observed.bridges if one.name == OSW)
    return compile_flows(desired=WORLD, intent=intent, bridge=bridge, remember=remember)


def report(*paths: PathStatus):
    observed = replace(settled(WORLD, bare()), paths=paths)
    (status,) = host_report(desired=WORLD, observed=observed, openflow_alive={OSW: True}).switches
    return status


def test_asked_are_those_with_a_port_in_common_on_the_types_in_use():
    resolved = resolve(WORLD, bare())
    assert {(wanted.key.vtep, wanted.key.type, wanted.mtu) for wanted in wanted_paths(WORLD, resolved)} == {
        ("10.0.0.2", NetworkType.VXLAN, 1600),
        ("10.0.0.2", NetworkType.GENEVE, 1600),
        ("10.0.0.3", NetworkType.VXLAN, 1600),
        ("10.0.0.4", NetworkType.VXLAN, 1600),
    }
    parked = desired(switches=[switch()], networks=[network()], ports=[A], locations=[location(A, "h2", parked=True)])
    assert wanted_paths(parked, resolve(parked, bare())) == ()


def test_tunnels_are_known_by_switch_and_type():
    there = settled(WORLD, bare())
    assert not isinstance(there.bridges, Unread)
    found = tunnel_ofports(resolve(WORLD, there), there.bridges)
    assert set(found) == {(named("s1"), NetworkType.VXLAN), (named("s1"), NetworkType.GENEVE)}
    assert all(number > 0 for number in found.values())


def test_what_is_for_a_peer_that_is_cut_ends_in_send_and_is_not_flooded():
    there = settled(WORLD, bare())
    before, after = flows(there), flows(replace(there, paths=(path("h2", state=PeerState.DOWN, cut=True),)))
    to_h2 = SetField("tun_dst", 0x0A000002)
    flood = {f.cookie: f for f in after if f.table == Table.FLOOD and any(isinstance(a, Output) for a in f.actions)}
    assert to_h2 not in flood[network_key(named("n1"))].actions
    assert to_h2 in flood[network_key(named("n2"))].actions, "another type's tunnel may work"
    (drop,) = [f for f in after - before if f.table == Table.SEND]
    assert (drop.cookie, drop.actions) == (network_key(named("n1")), ())
    assert Match("tun_dst", 0x0A000002) in drop.match
    assert reason_of(drop) == "tunnel to the destination's host does not answer"
    assert {f.table for f in before ^ after} == {Table.FLOOD, Table.SEND}, "locations stay what they are"


def test_no_probe_comes_in_by_the_way_to_vlans():
    world = desired(switches=[switch()], networks=[network(mtu=1500), network("v", segment=100, kind=NetworkType.VLAN)])
    there = settled(world, bare())
    assert not isinstance(there.bridges, Unread)
    tunnels = tunnel_ofports(resolve(world, there), there.bridges)
    assert set(tunnels) == {(named("s1"), NetworkType.VXLAN)}
    ways_in = [flow for flow in there.flows[OSW] if flow.actions == (Goto(Table.PROBE),)]
    assert [Match("in_port", tunnels[named("s1"), NetworkType.VXLAN]) in flow.match for flow in ways_in] == [True]


def test_memory_of_earlier_flows_changes_nothing():
    there = settled(WORLD, bare())
    for paths in (
        (),
        (path("h2", cut=True),),
        (path("h9", cut=True),),
        (path("h2", cut=True), path("h3", cut=True)),
        (),
    ):
        seen = replace(there, paths=paths)
        assert flows(seen, remember=True) == flows(seen)


def test_an_agent_that_begins_anew_knows_from_the_flows_what_was_cut():
    dead = path("h2", state=PeerState.DOWN, cut=True)
    there = replace(settled(WORLD, bare()), paths=(dead,))
    there = replace(there, flows={OSW: flows(there)}, paths=())
    among = [path(host, kind=kind).key for host in ("h2", "h3") for kind in (NetworkType.VXLAN, NetworkType.GENEVE)]
    found = cut_before(WORLD, resolve(WORLD, there), there.flows, among)
    assert found == {dead.key}
    liveness = Liveness()
    liveness.want(wanted_paths(WORLD, resolve(WORLD, there)), now=5)
    liveness.recall(found, now=5)
    liveness.judge(now=5)
    assert [(one.key, one.state) for one in liveness.statuses() if one.cut] == [(dead.key, PeerState.DOWN)]


def test_a_peer_that_is_gone_is_named_and_lowers_health():
    status = report(path("h2", state=PeerState.DOWN, cut=True), path("h3"))
    assert (status.status, status.health) == (Status.WARNING, 70)
    assert "10.0.0.2; nothing is sent there" in status.reasons[0]


def test_where_all_are_gone_the_host_is_down():
    status = report(path("h2", state=PeerState.DOWN), path("h3", state=PeerState.DOWN))
    assert (status.status, status.health) == (Status.DOWN, 0)
    assert "cut off from the underlay" in status.reasons[0]


def test_a_peer_that_never_answered_costs_little():
    status = report(path("h2", state=PeerState.UNHEARD), path("h3"))
    assert (status.status, status.health) == (Status.WARNING, 90)
    assert "never answered by 10.0.0.2" in status.reasons[0]


def test_who_shares_no_port_costs_nothing():
    witness = replace(path("h9", state=PeerState.DOWN, cut=True), shared=False)
    assert report(witness, path("h3")).status is Status.UP


def test_a_frame_is_known_by_its_number_and_only_as_an_answer():
    question = probe_frame(77, source=0x020000000001, inner_bytes=1450)
    assert len(question) == 1464
    assert probe_number(question) is None
    answer = bytes.fromhex("0670726f6265") + question[6:]
    assert probe_number(answer) == 77
    assert probe_number(answer[:20]) is None
    assert len(probe_frame(1, source=2)) == 60


def test_neighbours_that_the_manager_names_are_asked_on_the_types_in_use_and_give_names():
    told = TunnelPeer(switch_uuid=named("s1"), host_uuid=named("h7"), host_name="h7", vtep="10.0.0.7")
    other_family = replace(told, vtep="fd00::7")
    assert WORLD.host is not None
    world = replace(WORLD, host=replace(WORLD.host, peers=(told, other_family)))
    wanted = wanted_paths(world, resolve(world, bare()))
    assert {(one.key.vtep, one.key.type) for one in wanted if not one.shared} == {
        ("10.0.0.7", NetworkType.VXLAN),
        ("10.0.0.7", NetworkType.GENEVE),
    }
    seen = replace(settled(world, bare()), paths=(path("h7", state=PeerState.DOWN), path("h2", state=PeerState.DOWN)))
    (status,) = host_report(desired=world, observed=seen, openflow_alive={OSW: True}).switches
    assert "h7 (10.0.0.7)" in status.reasons[0]
    assert [(one.vtep, one.host_uuid, one.state) for one in status.peers] == [
        ("10.0.0.7", named("h7"), PeerState.DOWN),
        ("10.0.0.2", named("h2"), PeerState.DOWN),
    ]
