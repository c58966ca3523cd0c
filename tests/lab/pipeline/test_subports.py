"""Sub-ports: tagged frames of one VIF are those of ports on other networks, with all that protects these."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_RA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

from hostagent.model import Phase
from netmgr.contract.types import Direction, NetworkType, SecurityRule
from tests.lab.pipeline.conftest import mac, named

pytestmark = pytest.mark.lab

ALL = "ff:ff:ff:ff:ff:ff"
OUTER_IP, OUTER_PEER = "10.1.0.1", "10.1.0.9"
GREEN_IP, GREEN_PEER, GREEN_BESIDE = "10.2.0.1", "10.2.0.2", "10.2.0.3"
RED_IP = "10.3.0.1"


def tagged(frame: Ether, *tags: int, priority: int = 0, kind: type = Dot1Q) -> bytes:
    """*frame* with 802.1Q *tags*, the outermost first."""
    head, packet = Ether(src=frame.src, dst=frame.dst), frame.payload
    head.type = 0x88A8 if kind is Dot1AD else 0x8100
    layers = [kind(vlan=tag, prio=priority) for tag in tags]
    layers[-1].type = frame.type
    for outer in layers[:-1]:
        outer.type = 0x8100
    for layer in layers:
        head = head / layer
    return bytes(head / packet)


def udp(source: int, destination: int | str, ip: str, to: str = "10.9.9.9", text: bytes = b"x" * 20) -> Ether:
    target = destination if isinstance(destination, str) else mac(destination)
    return Ether(src=mac(source), dst=target, type=0x0800) / IP(src=ip, dst=to) / UDP(sport=999, dport=999) / Raw(text)


def arp(number: int, sender: str, target: str, *, hardware: int = 0) -> Ether:
    question = ARP(hwsrc=mac(hardware or number), psrc=sender, pdst=target)
    return Ether(src=mac(number), dst=ALL, type=0x0806) / question


def tags_of(frame: bytes) -> list[int]:
    """The tags of a frame on a tap, the outermost first."""
    found, at = [], 12
    while frame[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
        found.append(int.from_bytes(frame[at + 2 : at + 4], "big") & 0xFFF)
        at += 4
    return found


@pytest.fixture
def trunk(fabric):
    """outer (MAC 1, blue) on h1 with green's g (MAC 1 too, tag 10) and red's r (MAC 3, tag 20) through its VIF.
    Of blue: b on h2. Of green: p on h2, q on h1. Of red: s on h2."""
    for index, name in enumerate(("blue", "green", "red")):
        fabric.network(name, 5001 + index)
    fabric.port("outer", 1, "blue", "h1", ips=(OUTER_IP,))
    fabric.port("b", 9, "blue", "h2", ips=(OUTER_PEER,))
    fabric.subport("g", 1, "green", "outer", 10, ips=(GREEN_IP,))
    fabric.port("p", 2, "green", "h2", ips=(GREEN_PEER,))
    fabric.port("q", 4, "green", "h1", ips=(GREEN_BESIDE,))
    fabric.subport("r", 3, "red", "outer", 20, ips=(RED_IP,))
    fabric.port("s", 5, "red", "h2", ips=("10.3.0.5",))
    fabric.settle()
    return fabric


def heard(fabric, *names: str) -> dict[str, list[bytes]]:
    """What arrived anywhere, by port and, where it was tagged, tag; *names* are looked at beside all."""
    everywhere = {"outer": "h1", "q": "h1", "b": "h2", "p": "h2", "s": "h2", **dict.fromkeys(names, "h3")}
    found = {}
    for name, host in everywhere.items():
        for frame in fabric.hear(name, host):
            found.setdefault(".".join([name, *map(str, tags_of(frame))]), []).append(frame)
    return found


# --- there and back -------------------------------------------------------------------------------------------------


def test_a_tagged_frame_is_the_sub_ports_without_the_tag_and_its_peers_frame_comes_back_with_it(trunk):
    said = udp(1, 2, GREEN_IP)
    trunk.say("outer", "h1", tagged(said, 10))
    assert heard(trunk) == {"p": [bytes(said)]}
    back = udp(2, 1, GREEN_PEER)
    trunk.say("p", "h2", bytes(back))
    assert heard(trunk) == {"outer.10": [tagged(back, 10)]}
    beside = udp(4, 1, GREEN_BESIDE)
    trunk.say("q", "h1", bytes(beside))
    assert heard(trunk) == {"outer.10": [tagged(beside, 10)]}


def test_broadcasts_reach_each_sub_port_of_the_network_once_and_no_other_network(trunk):
    trunk.say("outer", "h1", tagged(udp(1, ALL, GREEN_IP), 10))
    assert {name: len(frames) for name, frames in heard(trunk).items()} == {"p": 1, "q": 1}
    trunk.say("p", "h2", bytes(udp(2, ALL, GREEN_PEER)))
    assert {name: len(frames) for name, frames in heard(trunk).items()} == {"outer.10": 1, "q": 1}
    trunk.say("s", "h2", bytes(udp(5, ALL, "10.3.0.5")))
    assert {name: len(frames) for name, frames in heard(trunk).items()} == {"outer.20": 1}


def test_untagged_frames_are_the_parents_as_ever(trunk):
    said, back = udp(1, 9, OUTER_IP), udp(9, 1, OUTER_PEER)
    trunk.say("outer", "h1", bytes(said))
    assert heard(trunk) == {"b": [bytes(said)]}
    trunk.say("b", "h2", bytes(back), bytes(udp(9, ALL, OUTER_PEER)))
    assert {name: len(frames) for name, frames in heard(trunk).items()} == {"outer": 2}


def test_the_priority_of_a_tag_may_be_any(trunk):
    trunk.say("outer", "h1", *(tagged(udp(1, 2, GREEN_IP), 10, priority=n) for n in range(8)))
    assert {name: len(frames) for name, frames in heard(trunk).items()} == {"p": 8}


def test_questions_are_answered_where_they_are_asked_with_the_tag(trunk):
    trunk.crossed("h1"), trunk.crossed("h2")
    trunk.say("outer", "h1", tagged(arp(1, GREEN_IP, GREEN_PEER), 10))
    (answer,) = heard(trunk)["outer.10"]
    assert (Ether(answer)[ARP].hwsrc, Ether(answer)[ARP].psrc) == (mac(2), GREEN_PEER)
    trunk.say("p", "h2", bytes(arp(2, GREEN_PEER, GREEN_IP)))
    (answer,) = heard(trunk)["p"]
    assert (Ether(answer)[ARP].hwsrc, Ether(answer)[ARP].psrc) == (mac(1), GREEN_IP)
    assert trunk.crossed("h1") == trunk.crossed("h2") == 0


def test_two_sub_ports_of_one_vif_on_one_network_reach_each_other(trunk):
    trunk.subport("g2", 6, "green", "outer", 30, ips=("10.2.0.6",))
    trunk.settle()
    said = udp(1, 6, GREEN_IP)
    trunk.say("outer", "h1", tagged(said, 10), tagged(udp(6, ALL, "10.2.0.6"), 30))
    found = heard(trunk)
    assert found.pop("outer.30") == [tagged(said, 30)]
    assert {name: len(frames) for name, frames in found.items()} == {"outer.10": 1, "p": 1, "q": 1}


def test_a_sub_port_may_be_on_a_vlan_whose_number_is_on_the_wire_and_its_own_tag_is_not(trunk):
    trunk.network("office", 100, NetworkType.VLAN)
    trunk.subport("o", 7, "office", "outer", 40)
    trunk.settle()
    trunk.hosts["h1"].switch.sent("p0")
    trunk.say("outer", "h1", tagged(udp(7, mac(0x77), "10.4.0.7"), 40))
    assert [tags_of(frame) for frame in trunk.hosts["h1"].switch.sent("p0")] == [[100]]


# --- isolation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("destination", [1, 2, 3, 4, 5, 9, 0x55, ALL], ids=str)
@pytest.mark.parametrize("tags", [(), (10,), (20,)], ids=str)
def test_a_frame_never_leaves_the_network_of_its_tag(trunk, tags, destination):
    mine = {(): ((1, OUTER_IP), {"outer", "b"}), (10,): ((1, GREEN_IP), {"outer.10", "p", "q"}),
            (20,): ((3, RED_IP), {"outer.20", "s"})}  # fmt: skip
    (source, ip), network = mine[tags]
    said = udp(source, destination, ip)
    trunk.say("outer", "h1", tagged(said, *tags) if tags else bytes(said))
    assert set(heard(trunk)) <= network


@pytest.mark.parametrize(
    ("tags", "port"),
    [((11,), "outer"), ((0,), "outer"), ((4095,), "outer"), ((10, 20), "g"), ((10, 10), "g"), ((20, 10), "r"),
     ((11, 10), "outer"), ((10, 0), "g"), ((10, 20, 10), "g")],
    ids=str,
)  # fmt: skip
def test_unknown_and_second_tags_are_dropped_and_counted(trunk, tags, port):
    before = trunk.drops("h1", "outer", "g", "r").get((port, "VLAN tag"), 0)
    for source, ip in ((1, OUTER_IP), (1, GREEN_IP), (3, RED_IP)):
        trunk.say("outer", "h1", tagged(udp(source, ALL, ip), *tags))
    assert heard(trunk) == {}
    assert trunk.drops("h1", "outer", "g", "r")[port, "VLAN tag"] == before + 3


def test_a_tag_that_is_cut_off_is_dropped(trunk):
    trunk.say("outer", "h1", tagged(udp(1, 2, GREEN_IP), 10)[:15], tagged(udp(1, 2, GREEN_IP), 10, 20)[:19])
    assert heard(trunk) == {}


def test_after_a_parent_and_its_sub_ports_are_gone_their_tags_are_nobodys(trunk):
    del trunk.ports[named("g")], trunk.locations[named("g")]
    trunk.settle()
    trunk.say("outer", "h1", tagged(udp(1, 2, GREEN_IP), 10))
    trunk.say("p", "h2", bytes(udp(2, ALL, GREEN_PEER)))
    assert set(heard(trunk)) == {"q"}
    assert trunk.drops("h1", "outer")["outer", "VLAN tag"] == 1


def test_a_parent_that_is_set_down_takes_its_sub_ports_with_it(trunk):
    trunk.ports[named("outer")] = replace(trunk.ports[named("outer")], admin_up=False)
    trunk.settle()
    trunk.say("outer", "h1", tagged(udp(1, 2, GREEN_IP), 10), bytes(udp(1, 9, OUTER_IP)))
    trunk.say("p", "h2", bytes(udp(2, 1, GREEN_PEER)), bytes(udp(2, ALL, GREEN_PEER)))
    assert {name: len(frames) for name, frames in heard(trunk).items()} == {"q": 1}


def test_a_sub_port_that_is_set_down_is_dark_and_its_parent_and_sibling_are_not(trunk):
    trunk.ports[named("g")] = replace(trunk.ports[named("g")], admin_up=False)
    trunk.settle()
    said = [tagged(udp(1, 2, GREEN_IP), 10), tagged(udp(3, 5, RED_IP), 20), bytes(udp(1, 9, OUTER_IP))]
    trunk.say("outer", "h1", *said)
    trunk.say("p", "h2", bytes(udp(2, 1, GREEN_PEER)))
    assert set(heard(trunk)) == {"s", "b"}


# --- protection -----------------------------------------------------------------------------------------------------


def lies() -> dict[str, tuple[Ether, str]]:
    """What the guest of g (MAC 1, GREEN_IP) must not say, and why it ends."""
    advertised = IPv6(src="fe80::1", dst="ff02::1", hlim=255)
    stolen = advertised / ICMPv6ND_NA(tgt="fd00::2") / ICMPv6NDOptDstLLAddr(lladdr=mac(1))
    of_router = Ether(src=mac(1), dst="33:33:00:00:00:01", type=0x86DD) / advertised / ICMPv6ND_RA()
    offer = IP(src=GREEN_IP, dst="255.255.255.255") / UDP(sport=67, dport=68) / Raw(bytes(240))
    return {
        "mac": (udp(0x66, 2, GREEN_IP), "source MAC is not the port's"),
        "another sub-port's mac": (udp(3, 2, GREEN_IP), "source MAC is not the port's"),
        "ip": (udp(1, 2, OUTER_IP), "IP source is not the port's"),
        "arp sender": (arp(1, GREEN_PEER, "10.2.0.99"), "ARP or RARP that names another's MAC or address"),
        "arp hardware": (arp(1, GREEN_IP, "10.2.0.99", hardware=2), "ARP or RARP that names another's MAC or address"),
        "nd": (
            Ether(src=mac(1), dst="33:33:00:00:00:01", type=0x86DD) / stolen,
            "neighbour discovery that names another's MAC or address",
        ),
        "router": (of_router, "router advertisement or redirect"),
        "dhcp server": (Ether(src=mac(1), dst=ALL, type=0x0800) / offer, "DHCP server's message"),
        "bridge": (udp(1, "01:80:c2:00:00:00", GREEN_IP), "frame for the bridge itself (01:80:c2:00:00:0x)"),
    }


@pytest.mark.parametrize("lie", lies())
def test_a_sub_port_is_held_to_the_truth_like_any_port(trunk, lie):
    frame, reason = lies()[lie]
    before = trunk.drops("h1", "g").get(("g", reason), 0)
    trunk.say("outer", "h1", tagged(frame, 10))
    assert heard(trunk) == {}
    assert trunk.drops("h1", "g")["g", reason] == before + 1


def test_security_groups_judge_a_sub_port_and_nothing_else_of_its_vif(trunk):
    web = SecurityRule(direction=Direction.INGRESS, protocol="tcp", port_min=80, port_max=80)
    trunk.group("web", web)
    trunk.guarded("g", "web")
    trunk.settle()

    def tcp(source: int, destination: int, ips: tuple[str, str], ports: tuple[int, int], flags: str) -> Ether:
        segment = TCP(sport=ports[0], dport=ports[1], flags=flags, seq=1, ack=1)
        return Ether(src=mac(source), dst=mac(destination), type=0x0800) / IP(src=ips[0], dst=ips[1]) / segment

    there, back = (GREEN_PEER, GREEN_IP), (GREEN_IP, GREEN_PEER)
    trunk.say("p", "h2", bytes(tcp(2, 1, there, (4000, 81), "S")), bytes(udp(2, 1, GREEN_PEER, GREEN_IP)))
    trunk.say("outer", "h1", tagged(udp(1, 2, GREEN_IP, GREEN_PEER), 10))
    assert heard(trunk) == {}, "no rule allows it, neither way"
    trunk.say("p", "h2", bytes(tcp(2, 1, there, (4000, 80), "S")))
    assert set(heard(trunk)) == {"outer.10"}
    trunk.say("outer", "h1", tagged(tcp(1, 2, back, (80, 4000), "SA"), 10))
    assert set(heard(trunk)) == {"p"}, "an answer passes by the connection tracker"
    trunk.say("outer", "h1", bytes(udp(1, 9, OUTER_IP)), tagged(udp(3, 5, RED_IP), 20))
    assert set(heard(trunk)) == {"b", "s"}
    ping = Ether(src=mac(2), dst=ALL, type=0x0800) / IP(src=GREEN_PEER, dst="10.2.0.255") / ICMP()
    trunk.say("p", "h2", bytes(ping))
    assert set(heard(trunk)) == {"q"}, "each copy of a broadcast is judged for itself"


# --- migrations -----------------------------------------------------------------------------------------------------


def move(fabric, *phases: tuple[str, Phase, str], **where: str) -> None:
    """outer and its sub-ports: where the manager says they are, and the phases of hosts."""
    fabric.relocate("outer", **where)
    for host in fabric.hosts.values():
        host.phases.clear()
        host.relay_vteps.clear()
    for host, phase, relay in phases:
        for name in ("outer", "g", "r"):
            fabric.phase(host, name, phase, relay)
    fabric.settle()


def test_sub_ports_move_with_their_parent_through_every_phase(trunk):
    trunk.plug("outer", "h3")
    to_g = bytes(udp(2, 1, GREEN_PEER))

    def arrives() -> set[str]:
        trunk.say("p", "h2", to_g)
        found = heard(trunk)
        here, there = found.pop("outer.10", []), [tags_of(frame) for frame in trunk.hear("outer", "h3")]
        assert found == {}
        assert len(here) + len(there) <= 1, "never twice"
        return {name for name, came in (("h1", bool(here)), ("h3", there == [[10]])) if came}
        return {name for name, came in (("h1", bool(here)), ("h3", there == [[10]])) if came}

    def moved(*phases: tuple[str, Phase, str], **where: str) -> set[str]:
        move(trunk, *phases, **where)
        return arrives()

    coming = ("h3", Phase.INCOMING, "h1")
    assert moved(coming, incoming="h3") == {"h1"}
    trunk.say("outer", "h3", tagged(udp(1, 2, GREEN_IP), 10))
    assert set(heard(trunk)) == {"p"}, "what the incoming guest says is forwarded from its first frame on"
    assert moved(coming, ("h1", Phase.REDIRECTING, "h3")) == {"h3"}
    assert moved(("h3", Phase.ACTIVATED, "h1"), ("h1", Phase.REDIRECTING, "h3")) == {"h3"}
    assert moved(("h3", Phase.ACTIVATED, "h1"), ("h1", Phase.RELAYING, "h3"), holder="h3", incoming=None) == {"h3"}
    assert moved() == {"h3"}
