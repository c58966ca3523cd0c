"""Malformed and hostile frames of a guest: dropped and counted, or passed on; nothing crosses, nothing breaks."""

from __future__ import annotations

import random

import pytest
from scapy.layers.dhcp import BOOTP
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from hostagent.model import Phase
from hostagent.pipeline.tables import Table
from tests.lab.pipeline.conftest import mac

pytestmark = pytest.mark.lab

OWN, PEER, OTHER = mac(1), mac(2), mac(9)
ALL, NODES = "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"
V4, V6, LL = "10.1.0.1", "fd00::1", "fe80::1"
PAD = Raw(b"\0" * 40)
PASSES = "passes"
TOO_LONG = "the tap of the receiver refuses it"
MAC, TAG = "source MAC is not the port's", "VLAN tag"
ARP_LIE = "ARP or RARP that names another's MAC or address"
ND_LIE = "neighbour discovery that names another's MAC or address"
HIDDEN = "IP that hides what it is"
SERVER, ROUTER = "DHCP server's message", "router advertisement or redirect"
GOOD = bytes(Ether(src=OWN, dst=PEER) / IP(src=V4, dst="10.1.0.2") / UDP(sport=7, dport=7) / PAD)


def eth(payload, dst: str = PEER, src: str = OWN, **fields) -> bytes:
    return bytes(Ether(src=src, dst=dst, **fields) / payload)


def split6(payload: bytes, header: int, *, first: int, src: str = LL, dst: str = "ff02::1") -> list[bytes]:
    """IPv6 fragments of *payload*, whose first header is number *header*: *first* bytes, and the rest."""
    parts = [(0, 1, payload[:first]), (first // 8, 0, payload[first:])]
    return [
        eth(
            IPv6(src=src, dst=dst, hlim=255) / IPv6ExtHdrFragment(nh=header, offset=at, m=more, id=7) / Raw(data), NODES
        )
        for at, more, data in parts
    ]


def _with(packet, field: str, value: int):
    """*packet* with another *value* in the *field* of its first header."""
    other = packet.copy()
    other.setfieldval(field, value)
    return other


def upper(packet) -> bytes:
    """What follows the IPv6 header of *packet*, checksums made."""
    return bytes(packet)[40:]


LLA = ICMPv6NDOptSrcLLAddr
TLLA = ICMPv6NDOptDstLLAddr
NS = IPv6(src=V6, dst="ff02::1:ff00:2", hlim=255) / ICMPv6ND_NS(tgt="fd00::77")
NA = IPv6(src=V6, dst="ff02::1", hlim=255) / ICMPv6ND_NA(tgt=V6)
RA = IPv6(src=LL, dst="ff02::1", hlim=255) / ICMPv6ND_RA()
OFFER = IP(src=V4, dst="10.1.0.2") / UDP(sport=67, dport=68) / BOOTP(op=2) / Raw(b"x" * 200)
offer_parts = [eth(part) for part in fragment(OFFER, fragsize=64)]
ping_parts = [eth(part) for part in fragment(IP(src=V4, dst="10.1.0.2") / UDP() / Raw(b"x" * 200), fragsize=64)]
ra_parts = split6(upper(RA) + bytes(LLA(lladdr=OWN)), 58, first=16)
ns_parts = split6(upper(NS / LLA(lladdr=OTHER)), 58, first=24, src=V6)
hidden = split6(bytes(IPv6ExtHdrDestOpt(nh=58)) + upper(RA), 60, first=8)
hidden_reply = split6(bytes(IPv6ExtHdrDestOpt(nh=17)) + bytes(UDP(sport=547, dport=546) / PAD), 60, first=8)
torn = split6(bytes(IPv6ExtHdrDestOpt(nh=58, options=[PadN(optdata=b"x" * 20)])) + upper(RA), 60, first=8)
echo6 = split6(upper(IPv6(src=V6, dst="fd00::2") / ICMPv6EchoRequest(data=b"x" * 64)), 58, first=32, src=V6)

FRAMES: dict[str, tuple[bytes, str]] = {
    "arp without a payload": (eth(b"", ALL, type=0x0806), ARP_LIE),
    "arp cut short": (eth(bytes(ARP(hwsrc=OWN, psrc=V4))[:12], ALL, type=0x0806), ARP_LIE),
    "arp with 8 byte addresses": (eth(ARP(hwlen=8, hwsrc=OWN, psrc=V4) / PAD, ALL), ARP_LIE),
    "arp of token ring": (eth(ARP(hwtype=6, hwsrc=OWN, psrc=V4) / PAD, ALL), ARP_LIE),
    "rarp cut short": (eth(b"\0\1\x08\0", ALL, type=0x8035), ARP_LIE),
    "solicitation cut short": (eth(IPv6(src=V6, dst="ff02::1", nh=58) / Raw(bytes(NS)[40:52]), NODES), ND_LIE),
    "solicitation with two options, both lies": (eth(NS / LLA(lladdr=OTHER) / LLA(lladdr=OTHER), NODES), ND_LIE),
    "solicitation with two options, one a lie": (eth(NS / LLA(lladdr=OWN) / LLA(lladdr=OTHER), NODES), ND_LIE),
    "advertisement with two options": (eth(NA / TLLA(lladdr=OTHER) / TLLA(lladdr=OTHER), NODES), ND_LIE),
    "solicitation with an odd code": (eth(IPv6(src=V6) / ICMPv6ND_NS(tgt=V6, code=7) / LLA(lladdr=OTHER)), ND_LIE),
    "solicitation with an option of length 0": (eth(NS / Raw(b"\1\0" + b"\2" * 6), NODES), PASSES),
    "solicitation with an unknown option": (eth(NS / Raw(b"\xfd\1" + b"\0" * 6) / LLA(lladdr=OWN), NODES), PASSES),
    "unknown option before a lie": (eth(NS / Raw(b"\xfd\1" + b"\0" * 6) / LLA(lladdr=OTHER), NODES), ND_LIE),
    "priority tag": (eth(Dot1Q(vlan=0) / IP(src=V4) / UDP() / PAD), TAG),
    "tag in tag": (eth(Dot1Q(vlan=1) / Dot1Q(vlan=5) / IP(src=V4) / UDP() / PAD), TAG),
    "tag in service tag": (eth(Dot1AD(vlan=1) / Dot1Q(vlan=5) / ARP(hwsrc=OWN, psrc=V4) / PAD), TAG),
    "three tags": (eth(Dot1Q(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3) / IP(src=V4) / PAD), TAG),
    "cut off within a tag": (eth(b"\0", type=0x8100), TAG),
    "multicast source": (eth(IP(src=V4) / UDP() / PAD, src="01:00:5e:00:00:01"), MAC),
    "broadcast source": (eth(IP(src=V4) / UDP() / PAD, src=ALL), MAC),
    "source all zero": (eth(IP(src=V4) / UDP() / PAD, src="00:00:00:00:00:00"), MAC),
    "own source with the group bit": (eth(IP(src=V4) / UDP() / PAD, src="03:00:00:00:00:01"), MAC),
    "source of the peer": (eth(IP(src=V4) / UDP() / PAD, src=PEER), MAC),
    "jumbo": (eth(IP(src=V4, dst="10.1.0.2") / UDP() / Raw(b"j" * 8900)), TOO_LONG),
    "first fragment of a dhcp offer": (offer_parts[0], SERVER),
    "later fragment of a dhcp offer": (offer_parts[1], PASSES),
    "first fragment, ipv4": (ping_parts[0], PASSES),
    "last fragment, ipv4": (ping_parts[-1], PASSES),
    "first fragment of a router advertisement": (ra_parts[0], ROUTER),
    "first fragment of a solicitation": (ns_parts[0], HIDDEN),
    "router advertisement that begins in a later fragment": (hidden[0], HIDDEN),
    "what it begins with then": (hidden[1], PASSES),
    "the same with a dhcpv6 reply": (hidden_reply[0], HIDDEN),
    "first fragment that ends within an extension header": (torn[0], HIDDEN),
    "first fragment of an echo request": (echo6[0], PASSES),
    "last fragment of an echo request": (echo6[1], PASSES),
    "extension headers": (eth(IPv6(src=V6) / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting() / UDP() / PAD), PASSES),
    "lie behind an extension header": (eth(IPv6(src=V6) / IPv6ExtHdrDestOpt() / ICMPv6ND_RA(), NODES), ROUTER),
    "ip header cut short": (eth(bytes(IP(src=V4))[:11], type=0x0800), HIDDEN),
    "ip of version 15": (eth(IP(src=V4, version=15) / UDP() / PAD), PASSES),
    "ip longer than the frame": (eth(IP(src=V4, len=4000) / UDP() / PAD), HIDDEN),
    "ipv6 cut short": (eth(bytes(IPv6(src=V6))[:20], type=0x86DD), HIDDEN),
    "a tunnel's packet": (
        eth(
            IP(src=V4, dst="10.0.0.2")
            / UDP(dport=4789)
            / VXLAN(vni=5002, flags=8)
            / Ether(src=mac(5), dst=mac(6))
            / PAD
        ),
        PASSES,
    ),
    "no payload": (eth(b"", type=0x88B5), PASSES),
    "length instead of a type": (eth(b"\x42\x42\3" + b"\0" * 40, type=43), PASSES),
}
SERVERS4 = IP(src=V4, dst="255.255.255.255") / UDP(sport=67, dport=68) / BOOTP(op=2)
SERVERS6 = IPv6(src=LL, dst="ff02::1:2") / UDP(sport=547, dport=546) / PAD
ND_LIES = IPv6(src=V6, dst="ff02::1", hlim=255) / ICMPv6ND_NA(tgt=V6) / TLLA(lladdr=OTHER)
# What a guest may not say, and the same with a length that cuts it off before its header, or goes beyond the frame.
OPENERS: dict[str, tuple[bytes, bytes]] = {
    f"{name}, {how}": (eth(falsified, to), eth(packet, to))
    for name, packet, to, lengths in (
        ("dhcp offer", SERVERS4, ALL, {"len": (20, 4000)}),
        ("dhcpv6 advertise", SERVERS6, NODES, {"plen": (0, 4000)}),
        ("router advertisement", RA, NODES, {"plen": (0, 4000)}),
        ("lie in neighbour discovery", ND_LIES, NODES, {"plen": (0, 4000)}),
    )
    for field, values in lengths.items()
    for how, falsified in zip(("cut off", "too long"), (_with(packet, field, v) for v in values), strict=True)
}


@pytest.fixture
def guests(fabric):
    """Network n: here on h1, there on h2. Network o with the same MACs: here-o, there-o."""
    fabric.network("n", 5001)
    fabric.network("o", 5002)
    for name, number, network, host in (
        ("here", 2, "n", "h1"),
        ("there", 3, "n", "h2"),
        ("here-o", 2, "o", "h1"),
        ("there-o", 3, "o", "h2"),
    ):
        fabric.port(name, number, network, host)
    return fabric


def forget(fabric) -> None:
    """What a guest's frames whose lengths lie leave in the kernel's cache may drop good ones of its own, for a while
    (docs/pipeline.md, Limits): each frame is judged anew."""
    fabric.hosts["h1"].switch.appctl("revalidator/purge")


def heard_by_others(fabric) -> list[bytes]:
    return [*fabric.hear("here-o", "h1"), *fabric.hear("there-o", "h2")]


@pytest.mark.parametrize("ips", [(), (V4, V6)], ids=["without addresses", "with addresses"])
def test_each_is_dropped_for_its_reason_or_passed_on_unchanged_within_its_network(guests, ips):
    guests.port("a", 1, "n", "h1", ips=ips)
    guests.settle()
    wanted: dict[str, int] = {}
    otherwise: dict[str, list[bytes]] = {}
    for name, (frame, outcome) in FRAMES.items():
        forget(guests)
        guests.say("a", "h1", frame)
        heard = guests.hear("here", "h1")
        if heard != ([frame] if outcome == PASSES else []):
            otherwise[name] = heard
        if outcome not in (PASSES, TOO_LONG):
            wanted[outcome] = wanted.get(outcome, 0) + 1
        assert guests.hear("a", "h1") == [], name
    assert otherwise == {}
    assert {*guests.hear("there", "h2")} <= {frame for frame, _ in FRAMES.values()}
    assert heard_by_others(guests) == []
    counted = {reason: count for (port, reason), count in guests.drops("h1", "a").items() if port == "a"}
    if guests.hosts["h1"].switch.datapath == "system":
        wanted[TAG] -= 1  # a tag that is not whole: the kernel throws it away before any switch sees it
    assert counted == wanted
    forget(guests)
    guests.say("a", "h1", GOOD)
    assert guests.hear("here", "h1") == [GOOD]


def test_frames_cut_and_bent_at_random_stay_in_their_network_and_speak_for_nobody_else(guests):
    guests.port("a", 1, "n", "h1", ips=(V4, V6))
    guests.settle()
    chance = random.Random(5)
    frames = []
    for whole, _ in FRAMES.values():
        for _ in range(12):
            bent = bytearray(whole[: chance.randrange(1, min(len(whole), 200))])
            for _ in range(chance.randrange(3)):
                bent[chance.randrange(len(bent))] = chance.randrange(256)
            frames.append(bytes(bent))
    for at in range(0, len(frames), 50):
        for frame in frames[at : at + 50]:
            if len(frame) < 14:  # the dummy device takes whole Ethernet headers only
                continue
            guests.say("a", "h1", frame)
    for frame in (*guests.hear("here", "h1"), *guests.hear("there", "h2")):
        assert frame[6:12] == bytes.fromhex(OWN.replace(":", ""))
    assert heard_by_others(guests) == []
    forget(guests)
    guests.say("a", "h1", GOOD)
    assert guests.hear("here", "h1") == [GOOD]


@pytest.mark.parametrize("what", OPENERS)
def test_a_frame_whose_lengths_lie_opens_no_way_for_what_a_guest_may_not_say(guests, what):
    """The kernel finds headers beyond the end that a packet tells, vswitchd does not, and caches what it decides."""
    guests.port("a", 1, "n", "h1")
    guests.settle()
    falsified, forbidden = OPENERS[what]
    for _ in range(2):
        guests.say("a", "h1", falsified)
        guests.hear("here", "h1")
        guests.say("a", "h1", forbidden)
        assert forbidden not in guests.hear("here", "h1")
    assert forbidden not in guests.hear("there", "h2")


def test_an_agent_that_listens_to_an_incoming_guest_survives_what_it_says(guests):
    guests.port("a", 1, "n", "h1")
    guests.plug("a", "h2")
    guests.relocate("a", incoming="h2")
    guests.phase("h2", "a", Phase.INCOMING)
    guests.settle()
    guests.watch("h2", [("a", "h2", frame) for frame, _ in FRAMES.values()] + [("a", "h2", GOOD)])
    frames = [frame for _, table, _, frame in guests.hosts["h2"].signals if table == Table.SIGNAL]
    assert frames[-1] == GOOD
    assert all(frame[6:12] == GOOD[6:12] for frame in frames), "what GUARD refuses is no signal"
