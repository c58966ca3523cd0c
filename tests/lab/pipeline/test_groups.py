"""Security groups with real switches: what a port with groups may say and hear, frame by frame and in connections.

`vm` is on h1 and has groups; `near` is on its host and `far` is on h3, neither with groups.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, UDPerror, fragment
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrFragment,
    fragment6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from hostagent.model import Phase
from netmgr.contract.types import Allowance, Direction, Ethertype, SecurityRule
from tests.lab.pipeline.conftest import mac, named

pytestmark = pytest.mark.lab

ALL = "ff:ff:ff:ff:ff:ff"
VM, NEAR, FAR, OTHER, THIRD = 10, 1, 3, 4, 5
V4 = {VM: "10.1.0.10", NEAR: "10.1.0.1", FAR: "10.1.0.3", OTHER: "10.1.0.4", THIRD: "10.1.0.5"}
V6 = {number: f"fd00::{number}" for number in V4}
PAD = Raw(b"p" * 20)


def rule(direction: str, protocol: str = "any", ports: tuple[int, int] | int = 0, **fields) -> SecurityRule:
    low, high = ports if isinstance(ports, tuple) else (ports, ports)
    return SecurityRule(direction=Direction(direction), protocol=protocol, port_min=low, port_max=high, **fields)


def rule6(*args, **fields) -> SecurityRule:
    return rule(*args, ethertype=Ethertype.IPV6, **fields)


def ip(src: int, dst: int, payload, six: bool = False, **fields) -> bytes:
    layer = IPv6(src=V6[src], dst=V6[dst]) if six else IP(src=V4[src], dst=V4[dst], **fields)
    return bytes(Ether(src=mac(src), dst=mac(dst)) / layer / payload)


def tcp(src: int, dst: int, sport: int, dport: int, flags: str = "S", six: bool = False, **fields) -> bytes:
    return ip(src, dst, TCP(sport=sport, dport=dport, flags=flags, window=4000, **fields) / PAD, six)


def udp(src: int, dst: int, sport: int, dport: int, six: bool = False) -> bytes:
    return ip(src, dst, UDP(sport=sport, dport=dport) / PAD, six)


@pytest.fixture
def net(fabric):
    fabric.network("n", 5001)
    for name, number, host in (("vm", VM, "h1"), ("near", NEAR, "h1"), ("far", FAR, "h3"), ("other", OTHER, "h3")):
        fabric.port(name, number, "n", host, ips=(V4[number], V6[number]))
    fabric.group("g")
    fabric.guarded("vm", "g")
    return fabric


def put(net, *rules: SecurityRule, stateful: bool = True) -> None:
    net.group("g", *rules, stateful=stateful)
    net.settle()


def passes(net, frame: bytes, *, to: str = "vm") -> bool:
    """Whether *frame*, out of the port whose MAC is its source, gets to *to*."""
    by_mac = {mac(number): name for name, number in (("vm", VM), ("near", NEAR), ("far", FAR), ("other", OTHER))}
    sender = by_mac[Ether(frame).src]
    where = {"vm": "h1", "near": "h1", "far": "h3", "other": "h3"}
    net.hear(to, where[to])
    net.say(sender, where[sender], frame)
    heard = net.hear(to, where[to])
    assert heard in ([], [frame]), "whole, once, or not at all"
    return heard == [frame]


# --- each frame by itself -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", [NEAR, FAR])
@pytest.mark.parametrize("stateful", [True, False], ids=["stateful", "stateless"])
def test_without_a_rule_nothing_of_ip_passes_and_with_one_only_what_it_names(net, peer, stateful):
    put(net, stateful=stateful)
    name = {NEAR: "near", FAR: "far"}[peer]
    for six in (False, True):
        assert not passes(net, tcp(peer, VM, 1000, 80, six=six))
        assert not passes(net, udp(VM, peer, 1000, 53, six=six), to=name)
    put(net, rule("ingress", "tcp", 80), rule6("egress", "udp", (53, 60)), stateful=stateful)
    assert passes(net, tcp(peer, VM, 1001, 80))
    assert not passes(net, tcp(peer, VM, 1002, 81))
    assert not passes(net, tcp(peer, VM, 1003, 80, six=True))
    assert not passes(net, udp(peer, VM, 1004, 80))
    assert passes(net, udp(VM, peer, 1005, 53, six=True), to=name)
    assert passes(net, udp(VM, peer, 1006, 60, six=True), to=name)
    assert not passes(net, udp(VM, peer, 1007, 61, six=True), to=name)
    assert not passes(net, udp(VM, peer, 1008, 53), to=name)
    assert not passes(net, tcp(VM, peer, 1009, 53, six=True), to=name)


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("stateful", [True, False], ids=["stateful", "stateless"])
def test_what_is_for_a_known_port_goes_there_and_is_flooded_to_nobody(net, stateful, six):
    net.port("third", THIRD, "n", "h2", ips=(V4[THIRD], V6[THIRD]))
    put(net, rule("egress", "udp"), rule6("egress", "udp"), stateful=stateful)
    frame = udp(VM, FAR, 1000, 53, six=six)
    for name, host in (("near", "h1"), ("far", "h3"), ("third", "h2")):
        net.hear(name, host)
    before = net.drops("h2")
    for _ in range(3):
        net.say("vm", "h1", frame)
    assert net.hear("far", "h3") == [frame] * 3
    assert net.hear("near", "h1") == []
    assert net.hear("third", "h2") == []
    assert net.drops("h2") == before, "its host has not even had to drop a copy"


@pytest.mark.parametrize("stateful", [True, False], ids=["stateful", "stateless"])
def test_a_cidr_is_the_other_end_of_either_direction(net, stateful):
    rules = [rule("ingress", remote_cidr="10.1.0.0/31"), rule6("egress", remote_cidr="fd00::2/127")]
    put(net, *rules, stateful=stateful)
    assert passes(net, udp(NEAR, VM, 1, 2))
    assert not passes(net, udp(FAR, VM, 1, 2))
    assert passes(net, udp(VM, FAR, 3, 4, six=True), to="far")
    assert not passes(net, udp(VM, NEAR, 3, 4, six=True), to="near")


@pytest.mark.parametrize("stateful", [True, False], ids=["stateful", "stateless"])
def test_members_of_a_group_are_let_in_while_they_are_members(net, stateful):
    net.group("clients", stateful=False)
    rules = [rule("ingress", "tcp", 80, remote_group=named("clients")), rule6("egress", remote_group=named("clients"))]
    put(net, *rules, stateful=stateful)
    assert not passes(net, tcp(FAR, VM, 1, 80))
    net.ports[named("far")] = replace(net.ports[named("far")], security_groups=(named("clients"),))
    net.group("clients", stateful=False)
    net.ports[named("far")] = replace(net.ports[named("far")], security_groups=())  # a member, itself unfiltered
    net.settle("h1", "h3")
    assert passes(net, tcp(FAR, VM, 2, 80))
    assert not passes(net, tcp(FAR, VM, 3, 81))
    assert not passes(net, tcp(OTHER, VM, 4, 80))
    assert passes(net, udp(VM, FAR, 5, 6, six=True), to="far")
    assert not passes(net, udp(VM, OTHER, 5, 6, six=True), to="other")
    assert not passes(net, udp(VM, FAR, 5, 6), to="far")
    net.group("clients", stateful=False)
    net.settle("h1", "h3")
    assert not passes(net, tcp(FAR, VM, 7, 80))


def test_a_port_without_defined_addresses_is_no_member_by_using_ones(net):
    net.group("clients", stateful=False)
    net.ports[named("far")] = replace(net.ports[named("far")], security_groups=(named("clients"),))
    put(net, rule("ingress", "udp", 80, remote_group=named("clients")))
    net.group("clients", stateful=False)
    net.ports[named("far")] = replace(net.ports[named("far")], security_groups=())
    net.port("liar", 8, "n", "h1")
    net.settle()
    assert passes(net, udp(FAR, VM, 1, 80))
    lie = Ether(udp(FAR, VM, 2, 80))
    lie.src = mac(8)
    net.say("liar", "h1", bytes(lie))
    assert net.hear("vm", "h1") == []


def test_rules_of_several_groups_add_up(net):
    net.group("web", rule("ingress", "tcp", 80))
    net.group("dns", rule("ingress", "udp", 53))
    net.guarded("vm", "web", "dns")
    net.settle()
    assert passes(net, tcp(FAR, VM, 1, 80))
    assert passes(net, udp(FAR, VM, 1, 53))
    assert not passes(net, udp(FAR, VM, 1, 80))


def test_types_of_icmp_and_numbers_of_protocols(net):
    put(net, rule("ingress", "icmp", icmp_type=8, icmp_code=0), rule("ingress", "47"), rule6("ingress", "icmpv6"))
    assert passes(net, ip(FAR, VM, ICMP(type=8, id=1) / PAD))
    assert not passes(net, ip(FAR, VM, ICMP(type=13, id=1) / PAD))
    assert passes(net, ip(FAR, VM, Raw(b"\0" * 30), proto=47))
    assert not passes(net, ip(FAR, VM, Raw(b"\0" * 30), proto=50))
    assert passes(net, ip(FAR, VM, ICMPv6EchoRequest(id=1) / PAD, six=True))
    put(net, rule("egress", "icmp", icmp_type=3), rule6("egress", "icmpv6", icmp_type=1, icmp_code=4), stateful=False)
    inner = IPerror(src=V4[FAR], dst=V4[VM]) / UDPerror(sport=1, dport=2)
    assert passes(net, ip(VM, FAR, ICMP(type=3, code=3) / inner), to="far")
    assert not passes(net, ip(VM, FAR, ICMP(type=8) / PAD), to="far")
    assert passes(net, ip(VM, FAR, ICMPv6DestUnreach(code=4) / PAD, six=True), to="far")
    assert not passes(net, ip(VM, FAR, ICMPv6DestUnreach(code=1) / PAD, six=True), to="far")


@pytest.mark.parametrize("stateful", [True, False], ids=["stateful", "stateless"])
def test_arp_nd_and_a_dhcp_clients_talk_need_no_rule_and_other_protocols_have_none(net, stateful):
    put(net, stateful=stateful)
    net.ports[named("far")] = replace(net.ports[named("far")], allow=(Allowance.DHCP_SERVER,))
    net.settle()
    question = bytes(Ether(src=mac(VM), dst=ALL) / ARP(hwsrc=mac(VM), psrc=V4[VM], pdst="10.1.0.77") / PAD)
    assert passes(net, question, to="far")
    solicit = IPv6(src=V6[FAR], dst="ff02::1:ff00:77") / ICMPv6ND_NS(tgt="fd00::77")
    to_all = Ether(src=mac(FAR), dst="33:33:ff:00:00:77")
    assert passes(net, bytes(to_all / solicit / ICMPv6NDOptSrcLLAddr(lladdr=mac(FAR))))
    advert = IPv6(src=V6[VM], dst=V6[FAR]) / ICMPv6ND_NA(tgt=V6[VM]) / ICMPv6NDOptDstLLAddr(lladdr=mac(VM))
    assert passes(net, bytes(Ether(src=mac(VM), dst=mac(FAR)) / advert), to="far")
    report = IPv6(src=V6[VM], dst="ff02::16", hlim=1) / ICMPv6MLReport2()
    assert passes(net, bytes(Ether(src=mac(VM), dst="33:33:00:00:00:16") / report), to="far")
    discover = IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / PAD
    assert passes(net, bytes(Ether(src=mac(VM), dst=ALL) / discover), to="far")
    assert passes(net, udp(FAR, VM, 67, 68))
    assert passes(net, udp(VM, FAR, 546, 547, six=True), to="far")
    assert not passes(net, udp(NEAR, VM, 67, 68)), "not of a port that may not be a server"
    assert not passes(net, bytes(Ether(src=mac(FAR), dst=mac(VM), type=0x88B5) / Raw(b"x" * 46)))
    assert not passes(net, bytes(Ether(src=mac(VM), dst=mac(FAR), type=0x88B5) / Raw(b"x" * 46)), to="far")


def test_a_broadcast_is_judged_for_each_port_by_its_own_groups_and_never_for_its_sender(net):
    net.network("n", 5001)
    net.group("open", rule("ingress", "udp", 9))
    net.guarded("near", "open")
    put(net, rule("egress"), rule("ingress", "udp", 7))
    wave = bytes(Ether(src=mac(FAR), dst=ALL) / IP(src=V4[FAR], dst="10.1.255.255") / UDP(sport=5, dport=9) / PAD)
    net.say("far", "h3", wave)
    assert net.hear("near", "h1") == [wave]
    assert net.hear("vm", "h1") == []
    assert net.hear("other", "h3") == [wave], "without groups"
    own = bytes(Ether(src=mac(VM), dst=ALL) / IP(src=V4[VM], dst="10.1.255.255") / UDP(sport=5, dport=9) / PAD)
    for _ in range(3):  # its own copy must not end what it is part of
        net.say("vm", "h1", own)
    assert net.hear("vm", "h1") == []
    assert net.hear("far", "h3") == net.hear("near", "h1") == [own] * 3


# --- connections --------------------------------------------------------------------------------------------------


def test_answers_pass_while_the_connection_does_and_only_its_own(net):
    put(net, rule("ingress", "tcp", 80), rule("egress", "udp", 53))
    assert passes(net, tcp(FAR, VM, 1000, 80, "S", seq=10))
    assert passes(net, tcp(VM, FAR, 80, 1000, "SA", seq=50, ack=11), to="far")
    assert passes(net, tcp(FAR, VM, 1000, 80, "A", seq=11, ack=51))
    assert not passes(net, tcp(VM, FAR, 80, 1001, "SA", seq=50, ack=11), to="far")
    assert not passes(net, tcp(VM, FAR, 81, 1000, "A", seq=50, ack=11), to="far")
    assert not passes(net, tcp(VM, NEAR, 80, 1000, "A", seq=50, ack=11), to="near")
    assert not passes(net, udp(FAR, VM, 53, 2000))
    assert passes(net, udp(VM, FAR, 2000, 53), to="far")
    assert passes(net, udp(FAR, VM, 53, 2000))
    assert not passes(net, udp(OTHER, VM, 53, 2000))


def test_a_stateless_group_needs_a_rule_for_answers_too(net):
    put(net, rule("ingress", "tcp", 80), stateful=False)
    assert passes(net, tcp(FAR, VM, 1000, 80))
    assert not passes(net, tcp(VM, FAR, 80, 1000, "SA"), to="far")


def test_what_the_tracker_knows_for_a_sender_is_no_business_of_a_stateless_port_that_hears_it(net):
    """Two ports on one host: the frame comes to the second one tracked, in the zone of the first."""
    net.group("open", rule("ingress", "udp", 9), rule("egress"), stateful=False)
    net.guarded("near", "open")
    put(net, rule("egress", "udp", 9))
    assert passes(net, udp(VM, NEAR, 5, 9), to="near")
    assert passes(net, udp(NEAR, VM, 9, 5))
    net.group("open", rule("egress"), stateful=False)
    net.settle()
    assert not passes(net, udp(VM, NEAR, 5, 9), to="near")
    known = net.hosts["h1"].switch.appctl("dpctl/dump-conntrack").split()
    assert len(known) == 1
    assert known[0].endswith("mark=4"), "the guest of vm opened it, and may say it"


def test_who_removes_a_rule_ends_what_it_allowed_both_ways_and_who_adds_it_again_mends_it(net):
    put(net, rule("ingress", "udp", 80), rule("egress", "tcp", 443))
    assert passes(net, udp(FAR, VM, 1000, 80))
    assert passes(net, udp(VM, FAR, 80, 1000), to="far")
    put(net, rule("egress", "tcp", 443))
    assert not passes(net, udp(FAR, VM, 1000, 80))
    assert not passes(net, udp(VM, FAR, 80, 1000), to="far")
    put(net, rule("ingress", "udp", 80))
    assert passes(net, udp(FAR, VM, 1000, 80))
    assert passes(net, udp(VM, FAR, 80, 1000), to="far")


def answered(net, six: bool) -> list[tuple[bytes, str]]:
    """Connections that both sides opened, with an answer each; the answers that go on, and to whom."""
    assert passes(net, udp(VM, FAR, 2000, 53, six), to="far")
    assert passes(net, udp(FAR, VM, 53, 2000, six))
    assert passes(net, udp(FAR, VM, 5000, 69, six))
    assert passes(net, udp(VM, FAR, 69, 5000, six), to="far")
    assert passes(net, tcp(FAR, VM, 1000, 80, "S", six, seq=10))
    assert passes(net, tcp(VM, FAR, 80, 1000, "SA", six, seq=50, ack=11), to="far")
    assert passes(net, tcp(FAR, VM, 1000, 80, "A", six, seq=11, ack=51))
    question, answer = (ICMPv6EchoRequest, ICMPv6EchoReply) if six else (ICMP, ICMP)
    assert passes(net, ip(VM, FAR, question(type=128 if six else 8, id=5) / PAD, six), to="far")
    echo = ip(FAR, VM, answer(type=129 if six else 0, id=5) / PAD, six)
    assert passes(net, echo)
    return [
        (udp(FAR, VM, 53, 2000, six), "vm"),
        (udp(VM, FAR, 69, 5000, six), "far"),
        (tcp(VM, FAR, 80, 1000, "A", six, seq=51, ack=11), "far"),
        (echo, "vm"),
    ]


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
def test_a_rule_that_goes_takes_its_answers_with_it_though_the_opener_says_no_more(net, six):
    one = rule6 if six else rule
    ping = one("egress", "icmpv6", icmp_type=128) if six else one("egress", "icmp", icmp_type=8)
    kept = [one("egress", "udp", 53), one("ingress", "udp", (60, 70)), one("ingress", "tcp", 80), ping]
    put(net, *kept)
    answers = answered(net, six)
    for index, (frame, to) in enumerate(answers):
        put(net, *(rule for place, rule in enumerate(kept) if place != index))
        assert not passes(net, frame, to=to)
        others = [passes(net, other, to=end) for other, end in answers if other is not frame]
        assert all(others), "a rule that is gone ends nothing that another allows"
        put(net, *kept)
        assert passes(net, frame, to=to), "and one that is back mends it"


def test_a_member_that_leaves_and_a_cidr_that_narrows_end_the_answers(net):
    net.group("friends")
    net.guarded("far", "friends")
    net.group("friends", rule("ingress"), rule("egress"))
    ways = [
        rule("egress", "udp", 53, remote_group=named("friends")),
        rule("ingress", "udp", 69, remote_cidr="10.1.0.0/29"),
    ]
    put(net, *ways)
    assert passes(net, udp(VM, FAR, 2000, 53), to="far")
    assert passes(net, udp(FAR, VM, 53, 2000))
    assert passes(net, udp(FAR, VM, 5000, 69))
    assert passes(net, udp(VM, FAR, 69, 5000), to="far")
    put(net, ways[0], rule("ingress", "udp", 69, remote_cidr="10.1.0.4/32"))
    assert not passes(net, udp(VM, FAR, 69, 5000), to="far")
    assert passes(net, udp(FAR, VM, 53, 2000))
    net.ports[named("far")] = replace(net.ports[named("far")], security_groups=())
    net.group("friends")
    net.settle()
    assert not passes(net, udp(FAR, VM, 53, 2000))


def test_errors_about_a_connection_pass_and_errors_about_none_do_not(net):
    put(net, rule("egress", "udp", 53), rule6("ingress", "udp", 53))
    assert passes(net, udp(VM, FAR, 2000, 53), to="far")
    about = IPerror(src=V4[VM], dst=V4[FAR]) / UDPerror(sport=2000, dport=53)
    other = IPerror(src=V4[VM], dst=V4[FAR]) / UDPerror(sport=2001, dport=53)
    assert passes(net, ip(FAR, VM, ICMP(type=3, code=3) / about))
    assert not passes(net, ip(FAR, VM, ICMP(type=3, code=3) / other))


def test_pings_are_answered_and_answers_without_a_question_are_dropped_as_unknown(net):
    put(net, rule("egress", "icmp"), rule6("egress", "icmpv6", icmp_type=128))
    assert not passes(net, ip(FAR, VM, ICMP(type=0, id=5, seq=1) / PAD))
    assert passes(net, ip(VM, FAR, ICMP(type=8, id=5, seq=1) / PAD), to="far")
    assert passes(net, ip(FAR, VM, ICMP(type=0, id=5, seq=1) / PAD))
    assert not passes(net, ip(FAR, VM, ICMP(type=8, id=6, seq=1) / PAD))
    assert passes(net, ip(VM, FAR, ICMPv6EchoRequest(id=5) / PAD, six=True), to="far")
    assert passes(net, ip(FAR, VM, ICMPv6EchoReply(id=5) / PAD, six=True))
    drops = net.drops("h1", "vm", "near")
    assert drops["vm", "for the port, but the connection tracker knows nothing that it is part of"] == 1
    assert drops["vm", "no rule of its security groups allows it to be received"] == 1


def test_a_port_has_no_part_in_the_connections_of_another_with_the_same_addresses(net):
    """A second network with the same addresses; its port has the same groups and a zone of its own."""
    net.network("m", 5002)
    net.port("twin", VM, "m", "h1", ips=(V4[VM], V6[VM]))
    net.port("twin-far", FAR, "m", "h3", ips=(V4[FAR], V6[FAR]))
    net.guarded("twin", "g")
    put(net, rule("egress", "udp", 53))
    assert passes(net, udp(VM, FAR, 2000, 53), to="far")
    assert passes(net, udp(FAR, VM, 53, 2000))
    net.say("twin-far", "h3", udp(FAR, VM, 53, 2000))
    assert net.hear("twin", "h1") == []


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
def test_fragments_are_judged_as_the_datagram_that_they_are_of(net, six):
    put(net, rule("ingress", "udp", 80), rule6("ingress", "udp", 80), rule("egress", "icmp", icmp_type=8))

    def pieces(src: int, dst: int, payload, number: int) -> list[bytes]:
        body = Raw(b"d" * 2800)
        if six:
            whole = IPv6(src=V6[src], dst=V6[dst]) / IPv6ExtHdrFragment(id=number) / payload / body
            parts = fragment6(whole, 1400)
        else:
            parts = fragment(IP(src=V4[src], dst=V4[dst], id=number) / payload / body, 1400)
        return [bytes(Ether(src=mac(src), dst=mac(dst)) / part) for part in parts]

    def heard(name: str, host: str, frames: list[bytes], src: str, src_host: str) -> int:
        net.hear(name, host)
        for frame in frames:
            net.say(src, src_host, frame)
        return len(net.hear(name, host))

    for turn in (1, 2):  # the first of a connection, and a later one
        frames = pieces(FAR, VM, UDP(sport=5000, dport=80), turn)
        assert len(frames) >= 2
        assert heard("vm", "h1", frames, "far", "h3") == len(frames)
        back = pieces(VM, FAR, UDP(sport=80, dport=5000), turn)
        assert heard("far", "h3", back, "vm", "h1") == len(back)
    assert heard("vm", "h1", pieces(FAR, VM, UDP(sport=5000, dport=81), 3), "far", "h3") == 0
    if not six:
        ping = pieces(VM, FAR, ICMP(type=8, id=9), 4)
        assert heard("far", "h3", ping, "vm", "h1") == len(ping)


# --- around -------------------------------------------------------------------------------------------------------


def test_a_port_whose_groups_are_not_known_is_dark(net):
    put(net, rule("ingress"), rule("egress"))
    assert passes(net, udp(FAR, VM, 1, 2))
    del net.groups[named("g")]
    net.settle()
    assert not passes(net, udp(FAR, VM, 1, 2))
    assert not passes(net, udp(VM, FAR, 2, 1), to="far")


def test_what_a_detour_brings_to_an_incoming_port_is_judged_there_and_nowhere_twice(net):
    """The guest moves from h1 to h2; the source sends on, the destination judges."""
    net.plug("vm", "h2")
    net.relocate("vm", incoming="h2")
    put(net, rule("ingress", "udp", 80), rule("egress", "udp", 53))
    net.phase("h1", "vm", Phase.REDIRECTING)
    net.phase("h2", "vm", Phase.INCOMING)
    net.settle()
    for name, number, host in (("near", NEAR, "h1"), ("far", FAR, "h3")):
        net.say(name, host, udp(number, VM, 1, 80), udp(number, VM, 1, 81))
        assert net.hear("vm", "h2") == [udp(number, VM, 1, 80)]
    assert net.hear("vm", "h1") == []
    net.say("vm", "h2", udp(VM, FAR, 9, 53), udp(VM, FAR, 9, 54))
    assert net.hear("far", "h3") == [udp(VM, FAR, 9, 53)]


@pytest.fixture
def moving(net):
    """The guest of `vm` is granted from h1 to h2, and has connections of both sides."""
    net.plug("vm", "h2")
    put(net, rule("ingress", "tcp", 80), rule("egress", "tcp", 443), rule("egress", "udp", 53), rule("egress", "icmp"))
    assert passes(net, tcp(FAR, VM, 1000, 80, "S", seq=10))
    assert passes(net, tcp(VM, FAR, 80, 1000, "SA", seq=50, ack=11), to="far")
    assert passes(net, tcp(FAR, VM, 1000, 80, "A", seq=11, ack=51))
    assert passes(net, tcp(VM, FAR, 2000, 443, "S", seq=70), to="far")
    assert passes(net, tcp(FAR, VM, 443, 2000, "SA", seq=90, ack=71))
    assert passes(net, tcp(VM, FAR, 2000, 443, "A", seq=71, ack=91), to="far")
    assert passes(net, udp(VM, FAR, 3000, 53), to="far")
    assert passes(net, ip(VM, FAR, ICMP(type=8, id=5) / PAD), to="far")
    net.relocate("vm", incoming="h2")
    net.phase("h1", "vm", Phase.REDIRECTING)
    net.phase("h2", "vm", Phase.ACTIVATED, relay="h1")
    return net


def arrives(net, frame: bytes, *, out: bool) -> bool:
    """Whether *frame* gets from the guest, by now on h2, to `far` or the other way."""
    sender, receiver = (("vm", "h2"), ("far", "h3")) if out else (("far", "h3"), ("vm", "h2"))
    net.hear(*receiver)
    net.say(*sender, frame)
    return net.hear(*receiver) == [frame]


SERVED = tcp(VM, FAR, 80, 1000, "PA", seq=51, ack=11)  # the guest's server goes on sending to its client
FETCHED = tcp(FAR, VM, 443, 2000, "PA", seq=91, ack=71)  # and what the guest fetches goes on coming


def test_without_tickets_answers_end_until_the_opener_speaks(moving):
    moving.settle()
    assert not arrives(moving, SERVED, out=True)
    assert not arrives(moving, FETCHED, out=False)
    assert arrives(moving, tcp(FAR, VM, 1000, 80, "A", seq=11, ack=51), out=False)
    assert arrives(moving, SERVED, out=True)
    assert arrives(moving, tcp(VM, FAR, 2000, 443, "A", seq=71, ack=91), out=True)
    assert arrives(moving, FETCHED, out=False)


def test_with_tickets_answers_pass_first_and_connections_are_those_of_their_opener(moving):
    tickets = moving.hand_over("vm", "h1", "h2")
    assert len(tickets) == 4
    moving.settle()
    assert arrives(moving, SERVED, out=True)
    assert arrives(moving, FETCHED, out=False)
    assert arrives(moving, udp(FAR, VM, 53, 3000), out=False)
    assert arrives(moving, ip(FAR, VM, ICMP(type=0, id=5) / PAD), out=False)
    assert not arrives(moving, tcp(VM, FAR, 80, 1001, "PA"), out=True), "another connection"
    assert not arrives(moving, tcp(FAR, VM, 443, 2000, "S"), out=False), "a beginning"
    moving.hosts["h2"].tickets.clear()  # their time is over, the connections are not
    moving.settle("h2")
    for _ in range(2):  # while the openers only listen, and when they speak
        assert arrives(moving, SERVED, out=True)
        assert arrives(moving, FETCHED, out=False)
        assert not arrives(moving, tcp(FAR, VM, 443, 2000, "S"), out=False), "a beginning"
        assert arrives(moving, udp(FAR, VM, 53, 3000), out=False)
        assert arrives(moving, tcp(FAR, VM, 1000, 80, "A", seq=11, ack=71), out=False)
        assert arrives(moving, tcp(VM, FAR, 2000, 443, "A", seq=71, ack=111), out=True)
        assert arrives(moving, udp(VM, FAR, 3000, 53), out=True)
    moving.group("g")  # every rule is gone: who opened is judged, though the tracker saw the answer first
    moving.settle("h2")
    assert not arrives(moving, tcp(FAR, VM, 1000, 80, "A", seq=11, ack=71), out=False)
    assert not arrives(moving, SERVED, out=True)
    assert not arrives(moving, udp(VM, FAR, 3000, 53), out=True)
    assert not arrives(moving, udp(FAR, VM, 53, 3000), out=False)


def test_a_ticket_lets_in_nothing_whose_rule_is_gone(moving):
    moving.hand_over("vm", "h1", "h2")
    moving.group("g", rule("egress", "tcp", 443))
    moving.settle()
    assert not arrives(moving, SERVED, out=True)
    assert not arrives(moving, udp(FAR, VM, 53, 3000), out=False)
    assert not arrives(moving, ip(FAR, VM, ICMP(type=0, id=5) / PAD), out=False)
    assert arrives(moving, FETCHED, out=False)


def test_a_guest_that_moves_twice_has_its_connections_ticketed_the_right_way_round(moving):
    first = moving.hand_over("vm", "h1", "h2")
    moving.settle()
    assert arrives(moving, SERVED, out=True)
    assert arrives(moving, FETCHED, out=False)
    assert arrives(moving, udp(FAR, VM, 53, 3000), out=False)
    again = moving.hand_over("vm", "h2", "h1")
    assert set(again) == {ticket for ticket in first if ticket.protocol != 1}
