"""Security groups: compiled flows against a few lines that say what rules mean, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.flow import Flow
from hostagent.flows import compile_flows
from hostagent.group_memory import enforced_flows
from hostagent.names import switch_bridge
from hostagent.pipeline.drops import reason_of
from hostagent.pipeline.policy import (
    BLOCKED,
    REVERSED,
    Policy,
    group_key,
    policy_flows,
    port_policy_flows,
    range_masks,
)
from hostagent.pipeline.tables import ONWARD, TAP, Table, family_of, switch_flows
from hostagent.resolve import resolve
from netmgr.contract.types import Direction, Ethertype, SecurityGroup, SecurityRule
from tests.support.flow_machine import Outcome, run
from tests.support.hostagent_worlds import bare, desired, location, named, network, plug, port, settled, switch

A, B = UUID("a" * 32), UUID("b" * 32)
OWN, NETWORK, ZONE = 7, 0x5, 40960
NEW, EST, REL, RPL, INV, TRK = 1, 2, 4, 8, 16, 32
SYN, ACK = 0x002, 0x010
MEMBERS = ("10.0.0.5", "10.0.1.0/24", "fd00::5", "fd00:0:0:1::/64", "10.0.0.9/16")


# --- what rules mean ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packet:
    six: bool
    protocol: int
    peer: str
    port: int = 0  # destination port, or type of ICMP
    code: int = 0
    fragment: int = 0  # 1 first, 3 later
    flags: int = 0  # of TCP


def allows(rules: tuple[SecurityRule, ...], members: tuple[str, ...], direction: str, packet: Packet) -> bool:
    return any(_allows(rule, members, direction, packet) for rule in rules)


def _allows(rule: SecurityRule, members: tuple[str, ...], direction: str, packet: Packet) -> bool:
    if rule.direction != direction or (rule.ethertype is Ethertype.IPV6) != packet.six:
        return False
    peer = ip_address(packet.peer)
    if rule.remote_cidr and peer not in ip_network(rule.remote_cidr):
        return False
    if rule.remote_group is not None and not any(peer in _member(text) for text in members):
        return False
    number = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58}.get(rule.protocol)
    number = int(rule.protocol) if number is None and rule.protocol != "any" else number
    if number is None:
        return True
    if packet.fragment == 3 and packet.six:
        return True
    if number != packet.protocol:
        return False
    if packet.fragment == 3:
        return True
    if rule.port_max:
        return rule.port_min <= packet.port <= rule.port_max
    return rule.icmp_type in (-1, packet.port) and rule.icmp_code in (-1, packet.code)


def _member(text: str):
    """10.0.0.9/16 is one address, 10.0.1.0/24 all of it."""
    whole = ip_network(text, strict=False)
    return ip_network(text.partition("/")[0]) if str(whole.network_address) != text.partition("/")[0] else whole


# --- what flows do ------------------------------------------------------------------------------------------------


def compiled(groups: list[SecurityGroup], *, stateful: bool) -> set[Flow]:
    known = {group.uuid: group for group in groups}
    policy = Policy((group_key(A),), ZONE if stateful else 0)
    flows = set(switch_flows(family_of("10.0.0.1"))) | policy_flows() | enforced_flows(known, {A})
    flows |= port_policy_flows(ofport=OWN, policy=policy, network=NETWORK)
    keys = [flow.key() for flow in flows]
    assert len(keys) == len(set(keys)), "two flows in one place"
    return flows


def judge(
    flows: set[Flow], direction: str, packet: Packet, *, state: int = NEW, mark: int = 0, answer: bool = False
) -> Outcome:
    """What becomes of *packet* that goes this way, or of the *answer* to it, which goes the other."""
    if answer:
        direction = "ingress" if direction == "egress" else "egress"
    own = "fd00::99" if packet.six else "10.9.9.9"
    prefix = "ipv6" if packet.six else "nw"
    ends = (own, packet.peer) if direction == "egress" else (packet.peer, own)
    frame = {
        "metadata": NETWORK,
        "eth_type": 0x86DD if packet.six else 0x0800,
        f"{prefix}_src": int(ip_address(ends[0])),
        f"{prefix}_dst": int(ip_address(ends[1])),
        "nw_proto": 44 if packet.six and packet.fragment == 3 else packet.protocol,
        "ip_frag": packet.fragment,
        "in_port": OWN if direction == "egress" else 1,
    }
    if packet.fragment != 3:
        kind = {6: "tcp", 17: "udp"}.get(packet.protocol)
        if kind:
            ports = (packet.port, 40000) if answer else (40000, packet.port)
            frame |= {f"{kind}_src": ports[0], f"{kind}_dst": ports[1], "tcp_flags": packet.flags}
        elif packet.protocol in (1, 58):
            name = "icmp" if packet.protocol == 1 else "icmpv6"
            number = ANSWERED.get((packet.protocol, packet.port), packet.port) if answer else packet.port
            frame |= {f"{name}_type": number, f"{name}_code": packet.code}
    if direction == "ingress":
        frame[TAP] = OWN
    # one flow stands for all that comes behind EGRESS
    beyond = {flow for flow in flows if flow.table != ONWARD[Table.ANSWER]}
    beyond.add(Flow(table=ONWARD[Table.ANSWER], priority=0, cookie=0, actions=_OUT))
    table = Table.EGRESS if direction == "egress" else Table.INGRESS
    return run(beyond, frame, table=table, tracked={"ct_state": TRK | state, "ct_mark": mark})


_ICMP = {"icmp": 1, "icmpv6": 58}
ANSWERED = {(1, 8): 0, (58, 128): 129}  # what a question of ICMP is answered by

_OUT = tuple(
    action
    for flow in port_policy_flows(ofport=1, policy=Policy((), 0), network=NETWORK)
    if flow.table == Table.DELIVER
    for action in flow.actions
)

_PEERS = ("10.0.0.5", "10.0.0.6", "10.0.1.77", "10.0.0.9", "192.0.2.1", "0.0.0.0")
_PEERS6 = ("fd00::5", "fd00::6", "fd00:0:0:1::7", "2001:db8::1")
_CIDRS = ("", "10.0.0.0/8", "10.0.0.4/30", "0.0.0.0/0", "192.0.2.1/32")
_CIDRS6 = ("", "fd00::/8", "fd00::4/126", "::/0")


@st.composite
def rules(draw) -> SecurityRule:
    six = draw(st.booleans())
    protocol = draw(st.sampled_from(("any", "tcp", "udp", "icmpv6" if six else "icmp", "47", "6")))
    ports = sorted(draw(st.tuples(st.integers(1, 65535), st.integers(1, 65535))))
    remote = draw(st.booleans())
    rule = SecurityRule(
        direction=Direction(draw(st.sampled_from(("ingress", "egress")))),
        ethertype=Ethertype.IPV6 if six else Ethertype.IPV4,
        protocol=protocol,
        remote_group=draw(st.sampled_from((A, B))) if remote else None,
        remote_cidr="" if remote else draw(st.sampled_from(_CIDRS6 if six else _CIDRS)),
    )
    if protocol in ("tcp", "udp") and draw(st.booleans()):
        return replace(rule, port_min=ports[0], port_max=ports[1])
    if protocol in ("icmp", "icmpv6") and draw(st.booleans()):
        return replace(
            rule, icmp_type=draw(st.sampled_from((1, 3, 8, 128))), icmp_code=draw(st.sampled_from((-1, 0, 4)))
        )
    return rule


@st.composite
def packets(draw, edges: list[int]) -> Packet:
    six = draw(st.booleans())
    protocol = draw(st.sampled_from((6, 17, 58 if six else 1, 47)))
    ports = st.one_of(st.integers(1, 65535), st.sampled_from(edges)) if edges else st.integers(1, 65535)
    return Packet(
        six=six,
        protocol=protocol,
        peer=draw(st.sampled_from(_PEERS6 if six else _PEERS)),
        port=draw(ports) if protocol in (6, 17) else draw(st.sampled_from((1, 3, 8, 128))),
        code=0 if protocol in (6, 17, 47) else draw(st.sampled_from((0, 4))),
        fragment=draw(st.sampled_from((0, 0, 0, 1, 3))),
    )


@settings(max_examples=300, deadline=None)
@given(data=st.data(), found=st.lists(rules(), max_size=6), stateful=st.booleans())
def test_a_frame_passes_if_and_only_if_a_rule_allows_it(data, found, stateful) -> None:
    own = SecurityGroup(uuid=A, name="a", stateful=stateful, rules=tuple(found), members=MEMBERS)
    other = SecurityGroup(uuid=B, name="b", members=MEMBERS)
    flows = compiled([own, other], stateful=stateful)
    edges = sorted({port for rule in found for port in (rule.port_min, rule.port_max) if port})
    edges += [port + step for port in edges for step in (-1, 1) if 0 < port + step < 65536]
    for _ in range(20):
        packet = data.draw(packets(edges))
        direction = data.draw(st.sampled_from(("ingress", "egress")))
        outcome = judge(flows, direction, packet)
        wanted = allows(tuple(found), MEMBERS, direction, packet)
        assert outcome.outputs == ([1 if direction == "egress" else OWN] if wanted else []), packet
        assert len(outcome.commits) == (1 if wanted and stateful else 0)
        if not wanted:
            assert outcome.ended is not None
            assert "security groups" in reason_of(outcome.ended)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), found=st.lists(rules(), max_size=6))
def test_an_answer_passes_if_and_only_if_a_rule_allows_what_it_answers(data, found) -> None:
    own = SecurityGroup(uuid=A, name="a", rules=tuple(found), members=MEMBERS)
    flows = compiled([own, SecurityGroup(uuid=B, name="b", members=MEMBERS)], stateful=True)
    edges = sorted({port for rule in found for port in (rule.port_min, rule.port_max) if port})
    edges += [port + step for port in edges for step in (-1, 1) if 0 < port + step < 65536]
    for _ in range(20):
        packet = data.draw(packets(edges))
        if packet.protocol in (1, 58) and packet.fragment != 3 and (packet.protocol, packet.port) not in ANSWERED:
            continue  # the tracker knows no answers to it
        direction = data.draw(st.sampled_from(("ingress", "egress")))
        state, mark = data.draw(st.sampled_from(((EST | RPL, 0), (EST, REVERSED), (NEW, REVERSED))))
        outcome = judge(flows, direction, packet, state=state, mark=mark, answer=True)
        answered = [one for one in found if one.icmp_type < 0 or (_ICMP[one.protocol], one.icmp_type) in ANSWERED]
        wanted = allows(tuple(answered), MEMBERS, direction, packet)
        assert outcome.outputs == ([OWN if direction == "egress" else 1] if wanted else []), packet


@pytest.mark.parametrize(
    ("state", "mark", "answer"),
    [
        (NEW, 0, False),
        (EST, 0, False),
        (EST, BLOCKED, False),
        (EST | RPL, 0, True),
        (EST | RPL, BLOCKED, True),
        (EST | RPL, REVERSED, False),
        (EST | RPL, REVERSED | BLOCKED, False),
        (EST, REVERSED, True),
        (EST, REVERSED | BLOCKED, True),
        (NEW, REVERSED, True),
        (NEW, REVERSED | BLOCKED, True),
    ],
)
@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_both_ends_are_judged_by_what_the_side_that_opened_may_say(
    state: int, mark: int, answer: bool, direction: str
) -> None:
    rule = SecurityRule(direction=Direction(direction), protocol="tcp", port_min=80, port_max=80)
    flows = compiled([SecurityGroup(uuid=A, name="a", rules=(rule,))], stateful=True)
    ends = [Packet(six=False, protocol=6, peer="192.0.2.1", port=number) for number in (80, 81)]
    outcomes = [judge(flows, direction, packet, state=state, mark=mark, answer=answer) for packet in ends]
    assert [bool(outcome.outputs) for outcome in outcomes] == [True, False]
    wrong = judge(flows, direction, ends[0], state=state, mark=mark, answer=not answer)
    assert not wrong.outputs, "it goes the other way"
    marks = [[commit.mark for commit in outcome.commits] for outcome in outcomes]
    if (state, mark) != (NEW, 0):  # a refusal is remembered with the connection, and forgotten when it is allowed again
        assert marks == [[(0, BLOCKED)] if mark & BLOCKED else [], [] if mark & BLOCKED else [(BLOCKED, BLOCKED)]]


@pytest.mark.parametrize("state", [NEW, EST])
@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_no_answer_of_a_moved_connection_begins_one(direction: str, state: int) -> None:
    rule = SecurityRule(direction=Direction(direction), protocol="tcp", port_min=80, port_max=80)
    flows = compiled([SecurityGroup(uuid=A, name="a", rules=(rule,))], stateful=True)
    server = Packet(six=False, protocol=6, peer="192.0.2.1", port=80)
    passing = [
        bits
        for bits in (SYN, SYN | ACK, ACK)
        if judge(flows, direction, replace(server, flags=bits), state=state, mark=REVERSED, answer=True).outputs
    ]
    assert passing == [SYN | ACK, ACK]


@pytest.mark.parametrize(
    ("state", "mark", "passes"),
    [
        (REL, 0, True),
        (REL | RPL, 0, True),
        (REL | RPL, REVERSED, True),
        (REL | RPL, BLOCKED, False),
        (INV, 0, False),
    ],
)
@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_an_error_is_not_judged_and_passes_unless_its_connection_is_blocked(
    state: int, mark: int, passes: bool, direction: str
) -> None:
    flows = compiled([SecurityGroup(uuid=A, name="a")], stateful=True)
    error = Packet(six=False, protocol=1, peer="192.0.2.1", port=3)
    assert bool(judge(flows, direction, error, state=state, mark=mark).outputs) is passes


@given(st.integers(1, 65535), st.integers(1, 65535))
def test_masks_of_a_range_cover_it_and_nothing_else(one: int, other: int) -> None:
    low, high = min(one, other), max(one, other)
    masks = list(range_masks(low, high))
    assert len(masks) <= 30
    covered = sorted((value, value | (0xFFFF ^ (0xFFFF if mask is None else mask))) for value, mask in masks)
    assert covered[0][0] == low
    assert covered[-1][1] == high
    assert all(before[1] + 1 == after[0] for before, after in pairwise(covered))


# --- what it costs ------------------------------------------------------------------------------------------------


def test_flows_grow_by_members_and_rules_and_one_member_more_is_one_flow() -> None:
    members = tuple(f"10.{i >> 8}.{i & 255}.1" for i in range(2000))
    rules_of = tuple(
        SecurityRule(direction=way, protocol="tcp", port_min=number, port_max=number, remote_group=B)
        for number in range(1, 51)
        for way in Direction
    )
    groups = {A: SecurityGroup(uuid=A, name="a", rules=rules_of), B: SecurityGroup(uuid=B, name="b", members=members)}
    before = enforced_flows(groups, {A})
    assert len(before) <= 2000 + 2 * 100 + 10
    after = enforced_flows({**groups, B: replace(groups[B], members=(*members, "10.99.0.1"))}, {A})
    assert len(after - before) == 1
    assert not before - after


# --- on a host ----------------------------------------------------------------------------------------------------


def host_flows(**changes) -> frozenset[Flow]:
    """The flows of h1, which holds `web` of group A."""
    web = replace(port("web", 1), security_groups=(A,))
    wanted = desired(switches=[switch()], networks=[network()], ports=[web], locations=[location(web, "h1")])
    rule = SecurityRule(direction=Direction.INGRESS, protocol="tcp", port_min=80, port_max=80)
    group = SecurityGroup(uuid=A, name="a", rules=(rule,))
    wanted = replace(wanted, **{"groups": {A: group}, "ct_zones": {web.uuid: ZONE}, **changes})
    bridge = switch_bridge(named("s1"))
    observed = plug(settled(replace(wanted, ports={}, locations={}), bare()), bridge, "tap5", web.vif_uuid, 5)
    return compile_flows(
        desired=wanted,
        intent=resolve(wanted, observed).switches[named("s1")],
        bridge=next(one for one in observed.bridges if one.name == bridge),
    )


def entering(flows: frozenset[Flow]) -> bool:
    return any(flow.table == Table.CLASSIFY and any(m.value == 5 for m in flow.match) for flow in flows)


def test_a_port_is_dark_until_its_groups_and_its_zone_are_there() -> None:
    assert entering(host_flows())
    assert not entering(host_flows(groups={}))
    assert not entering(host_flows(ct_zones={}))
    stateless = SecurityGroup(uuid=A, name="a", stateful=False)
    assert entering(host_flows(groups={A: stateless}, ct_zones={}))


def test_nothing_goes_to_the_tap_of_a_port_with_groups_but_from_delivery() -> None:
    tables = {flow.table for flow in host_flows() if any(str(action) == "Output(port=5)" for action in flow.actions)}
    assert tables == {Table.DELIVER}
