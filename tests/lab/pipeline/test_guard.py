"""What a guest may claim to be: every frame here meets a real switch, and is either heard by the peer or not."""

from __future__ import annotations

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Reply, DHCP6_Solicit
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from hostagent.pipeline.tables import Table
from netmgr.contract.types import Allowance
from tests.lab.pipeline.conftest import mac

pytestmark = pytest.mark.lab

OWN, OTHER, PEER = mac(1), mac(9), mac(2)
ALL = "ff:ff:ff:ff:ff:ff"
NODES = "33:33:00:00:00:01"
V4, V6 = "10.1.0.1", "fd00::1"
LL = "fe80::1"
PAD = Raw(b"\0" * 40)


def eth(payload, dst: str = PEER) -> bytes:
    return bytes(Ether(src=OWN, dst=dst) / payload)


def arp(**fields) -> bytes:
    return eth(ARP(**{"hwsrc": OWN, "psrc": V4, "pdst": "10.1.0.2", **fields}) / PAD, ALL)


def ns(src: str, target: str, option: str | None) -> bytes:
    packet = IPv6(src=src, dst="ff02::1:ff00:1") / ICMPv6ND_NS(tgt=target)
    return eth(packet / ICMPv6NDOptSrcLLAddr(lladdr=option) if option else packet)


def na(src: str, target: str, option: str | None) -> bytes:
    packet = IPv6(src=src, dst="ff02::1") / ICMPv6ND_NA(tgt=target)
    return eth(packet / ICMPv6NDOptDstLLAddr(lladdr=option) if option else packet)


RARP = bytes(
    Ether(src=OWN, dst=ALL, type=0x8035) / bytes(ARP(op=3, hwsrc=OWN, hwdst=OWN, psrc="0.0.0.0", pdst="0.0.0.0"))
)
LYING_RARP = bytes(Ether(src=OWN, dst=ALL, type=0x8035) / bytes(ARP(op=3, hwsrc=OTHER, hwdst=OTHER, psrc="0.0.0.0")))
RA = IPv6(src=LL, dst="ff02::1") / ICMPv6ND_RA()
DISCOVER = eth(
    IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / BOOTP(chaddr=b"\x02") / DHCP(options=["end"]),
    ALL,
)

ALWAYS = {
    "arp": arp(),
    "arp probe": arp(psrc="0.0.0.0"),
    "rarp of its own mac": RARP,
    "ipv4": eth(IP(src=V4, dst="10.1.0.2") / UDP() / PAD),
    "dhcp discover": DISCOVER,
    "ipv6": eth(IPv6(src=V6, dst="fd00::2") / UDP() / PAD),
    "link-local ipv6": eth(IPv6(src=LL, dst="fd00::2") / UDP() / PAD),
    "neighbour solicitation": ns(V6, "fd00::2", OWN),
    "neighbour advertisement": na(V6, V6, OWN),
    "neighbour advertisement without option": na(V6, V6, None),
    "duplicate address detection": ns("::", V6, None),
    "duplicate address detection, link-local": ns("::", LL, None),
    "router solicitation from ::": eth(IPv6(src="::", dst="ff02::2") / ICMPv6ND_RS()),
    "mld report from ::": eth(IPv6(src="::", dst="ff02::16") / ICMPv6MLReport2()),
    "dhcpv6 solicit": eth(
        IPv6(src=LL, dst="ff02::1:2") / UDP(sport=546, dport=547) / DHCP6_Solicit(), "33:33:00:01:00:02"
    ),
    "echo request": eth(IPv6(src=V6, dst="fd00::2") / ICMPv6EchoRequest(data=b"x")),
    "neither arp nor ip": bytes(Ether(src=OWN, dst=PEER, type=0x88B5) / PAD),
}
NEVER = {
    "arp with another mac": arp(hwsrc=OTHER),
    "rarp of another mac": LYING_RARP,
    "neighbour solicitation with another mac": ns(V6, "fd00::2", OTHER),
    "neighbour advertisement with another mac": na(V6, V6, OTHER),
    "dhcp offer": eth(IP(src=V4, dst="255.255.255.255") / UDP(sport=67, dport=68) / BOOTP(op=2), ALL),
    "dhcp offer from an odd port": eth(IP(src=V4, dst="10.1.0.2") / UDP(sport=1067, dport=68) / BOOTP(op=2)),
    "dhcp relayed": eth(IP(src=V4, dst="10.1.0.2") / UDP(sport=67, dport=67) / BOOTP(op=1)),
    "dhcpv6 reply": eth(IPv6(src=LL, dst="fe80::2") / UDP(sport=547, dport=546) / DHCP6_Reply()),
    "dhcpv6 reply from an odd port": eth(IPv6(src=LL, dst="fe80::2") / UDP(sport=1547, dport=546) / DHCP6_Reply()),
    "dhcpv6 reply behind an extension header": eth(
        IPv6(src=LL, dst="fe80::2") / IPv6ExtHdrDestOpt() / UDP(sport=547, dport=546) / DHCP6_Reply()
    ),
    "router advertisement": eth(RA, NODES),
    "router advertisement behind extension headers": eth(
        IPv6(src=LL, dst="ff02::1") / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / ICMPv6ND_RA(), NODES
    ),
    "router advertisement in an atomic fragment": eth(
        IPv6(src=LL, dst="ff02::1") / IPv6ExtHdrFragment(nh=58) / ICMPv6ND_RA(), NODES
    ),
    "router advertisement in a first fragment": eth(
        IPv6(src=LL, dst="ff02::1") / IPv6ExtHdrFragment(nh=58, m=1) / ICMPv6ND_RA(), NODES
    ),
    "redirect": eth(IPv6(src=LL, dst="fd00::2") / ICMPv6ND_Redirect(tgt=LL, dst="fd00::7")),
    "ipv4 redirect": eth(IP(src=V4, dst="10.1.0.2") / ICMP(type=5, code=1, gw=V4) / PAD),
    "ipv4 router advertisement": eth(IP(src=V4, dst="224.0.0.1") / ICMP(type=9) / PAD),
    "bridge protocol": bytes(Ether(src=OWN, dst="01:80:c2:00:00:00", type=38) / PAD),
    "link layer discovery": bytes(Ether(src=OWN, dst="01:80:c2:00:00:0e", type=0x88CC) / PAD),
}
WITH_ADDRESSES_NEVER = {
    "arp for another address": arp(psrc="10.1.0.9"),
    "another ipv4 source": eth(IP(src="10.1.0.9", dst="10.1.0.2") / UDP() / PAD),
    "ipv4 source 0.0.0.0 that is no dhcp": eth(IP(src="0.0.0.0", dst="10.1.0.2") / UDP() / PAD),
    "another ipv6 source": eth(IPv6(src="fd00::9", dst="fd00::2") / UDP() / PAD),
    "advertisement of another address": na(V6, "fd00::9", OWN),
    "advertisement of another address without option": na(V6, "fd00::9", None),
    "duplicate address detection for another address": ns("::", "fd00::9", None),
}


def passed(fabric, frames: dict[str, bytes]) -> set[str]:
    """Names of the *frames* that the peer hears, on the same host and on another."""
    fabric.settle()
    for frame in frames.values():
        fabric.say("a", "h1", frame)
    heard = {*fabric.hear("here", "h1"), *fabric.hear("there", "h2")}
    names = {name for name, frame in frames.items() if frame in heard}
    assert len(heard) == len(names), "something was heard that nobody said"
    return names


@pytest.fixture
def guests(fabric):
    fabric.network("n", 5001)
    fabric.port("here", 2, "n", "h1")
    fabric.port("there", 3, "n", "h2")
    return fabric


def test_without_addresses_a_guest_may_use_any_but_not_another_mac_nor_speak_as_server_or_router(guests):
    guests.port("a", 1, "n", "h1")
    frames = {**ALWAYS, **NEVER, **WITH_ADDRESSES_NEVER}
    assert passed(guests, frames) == {*ALWAYS, *WITH_ADDRESSES_NEVER}


def server(src: str) -> bytes:
    return eth(IP(src=src, dst="255.255.255.255") / UDP(sport=67, dport=68) / BOOTP(op=2), ALL)


SERVER_ONLY = {name for name in NEVER if name.startswith("dhcp")}
ROUTER_ONLY = {name for name in NEVER if "router" in name or "redirect" in name} - {
    "router advertisement in a first fragment"  # RFC 6980
}


@pytest.mark.parametrize(
    ("allow", "more"),
    [
        ((Allowance.DHCP_SERVER,), SERVER_ONLY),
        ((Allowance.ROUTER,), ROUTER_ONLY),
        ((Allowance.DHCP_SERVER, Allowance.ROUTER), SERVER_ONLY | ROUTER_ONLY),
    ],
    ids=["server", "router", "both"],
)
def test_a_port_may_say_what_it_is_allowed_and_nothing_else_that_is_denied(guests, allow, more):
    guests.port("a", 1, "n", "h1", allow=allow)
    frames = {**ALWAYS, **NEVER, **WITH_ADDRESSES_NEVER}
    if guests.hosts["h1"].switch.datapath == "system":  # whole ones let fragments in there (docs/pipeline.md, Limits)
        frames.pop("router advertisement in a first fragment")
    assert passed(guests, frames) == {*ALWAYS, *WITH_ADDRESSES_NEVER, *more}


def test_a_server_answers_from_its_own_addresses_only(guests):
    guests.port("a", 1, "n", "h1", ips=(V4,), allow=(Allowance.DHCP_SERVER,))
    tagged = bytes(Ether(src=OWN, dst=ALL) / Dot1Q(vlan=5) / IP(src=V4) / UDP(sport=67, dport=68) / BOOTP(op=2))
    another_mac = bytes(Ether(src=OTHER, dst=ALL) / IP(src=V4) / UDP(sport=67, dport=68) / BOOTP(op=2))
    frames = {"own": server(V4), "another": server("10.1.0.9"), "tagged": tagged, "another mac": another_mac}
    assert passed(guests, frames) == {"own"}


def test_with_addresses_a_guest_may_use_only_those_and_not_speak_as_server_or_router(guests):
    guests.port("a", 1, "n", "h1", ips=(V4, V6))
    frames = {**ALWAYS, **NEVER, **WITH_ADDRESSES_NEVER}
    assert passed(guests, frames) == {*ALWAYS}


ROUTER_LL, LEARNED_LL, FREE_LL = "fe80::fe", "fe80::aa", "fe80::77"
MADE_OF_MAC = "fe80::ff:fe00:1"  # of OWN, EUI-64


def link_local_words(address: str, also: str = "fd00::2") -> dict[str, bytes]:
    """All in which a guest may say that *address* is its own."""
    advert = ICMPv6ND_NA(tgt=address) / ICMPv6NDOptDstLLAddr(lladdr=OWN)
    return {
        f"{address}, packet": eth(IPv6(src=address, dst=also) / UDP() / PAD),
        f"{address}, solicitation": ns(address, "fd00::99", OWN),
        f"{address}, advertisement": na(address, address, OWN),
        f"{address}, advertisement without option": na(address, address, None),
        f"{address}, advertisement from a defined address": na(V6, address, OWN),
        f"{address}, advertisement of another from there": na(address, FREE_LL, OWN),
        f"{address}, advertisement behind an extension header": eth(
            IPv6(src=V6, dst="ff02::1") / IPv6ExtHdrDestOpt() / advert, NODES
        ),
    }


def test_a_link_local_address_that_is_bound_to_another_port_is_nobody_elses_to_use(guests):
    """With defined addresses too: whoever has a router's link-local address is its neighbours' default gateway."""
    guests.port("r", 5, "n", "h1", ips=("fd00::fe", ROUTER_LL))
    guests.port("far", 6, "n", "h2")
    guests.learn("far", LEARNED_LL, MADE_OF_MAC)
    guests.port("a", 1, "n", "h1", ips=(V4, V6))
    own = {**link_local_words(MADE_OF_MAC), **link_local_words(FREE_LL)}
    others = {**link_local_words(ROUTER_LL), **link_local_words(LEARNED_LL)}
    guests.settle()
    heard = {}
    for name, frame in {**own, **others}.items():
        guests.say("a", "h1", frame)
        heard[name] = frame in guests.hear("here", "h1")
    assert {name for name, was in heard.items() if was} == {*own}
    counted = {reason: count for (port, reason), count in guests.drops("h1", "a").items() if port == "a"}
    lie = "neighbour discovery that names another's MAC or address"
    assert counted == {lie: 2 * 4, "IP source is not the port's": 2 * 3}


@pytest.mark.parametrize("allow", [(), (Allowance.ROUTER,)], ids=["anybody", "router"])
def test_without_addresses_a_guest_may_send_from_any_that_is_not_another_ports(guests, allow):
    """A router forwards what others have sent it."""
    guests.port("d", 5, "n", "h1", ips=("10.1.0.5", "fd00::5"))
    guests.port("far", 6, "n", "h2")
    guests.learn("far", "10.1.0.6", "fd00::6")
    guests.port("a", 1, "n", "h1", allow=allow)
    guests.learn("a", V4, V6)
    names = ("10.1.0.5", "10.1.0.6", "fd00::5", "fd00::6", V4, V6, "10.1.0.77", "fd00::77", "0.0.0.0")
    frames = {
        source: eth(
            (IPv6(src=source, dst="fd00::2") if ":" in source else IP(src=source, dst="10.1.0.2")) / UDP() / PAD
        )
        for source in names
    }
    assert passed(guests, frames) == {*(names if allow else names[4:])}
    counted = {reason: count for (port, reason), count in guests.drops("h1", "a").items() if port == "a"}
    assert counted == ({} if allow else {"IP source is not the port's": 4})


@pytest.mark.parametrize("ips", [(), (V4, V6)], ids=["without addresses", "with addresses"])
def test_a_link_local_address_that_is_made_of_another_mac_is_nobodys_to_use_be_it_seen_or_not(guests, ips):
    """Of a port here, of one elsewhere, of one that is not there yet: fe80::ff:fe00:N is made of 02:00:00:00:00:0N."""
    guests.port("a", 1, "n", "h1", ips=ips)
    guests.port("r", 5, "n", "h1", ips=("fd00::fe", "fe80::ff:fe00:8"))  # whoever is given one has it
    own = {
        **link_local_words(MADE_OF_MAC),
        **link_local_words("fe80:0:0:1:0:ff:fe00:2"),
        **link_local_words("fe80::fffe:2"),
    }
    lies = [word for number in (2, 3, 7, 8) for word in link_local_words(f"fe80::ff:fe00:{number}").items()]
    if not ips:  # an advertisement is held to its target there
        lies = [(name, frame) for name, frame in lies if "of another from there" not in name]
    guests.settle()
    for name, frame in (*own.items(), *lies):
        guests.say("a", "h1", frame)
        assert (frame in guests.hear("here", "h1")) == (name in own), name
    guests.port("r", 5, "n", "h1", ips=("fd00::fe", "fe80::ff:fe00:8"), tap=False)
    theirs = bytes(Ether(src=mac(5), dst=PEER) / IPv6(src="fe80::ff:fe00:8", dst="fd00::2") / UDP() / PAD)
    guests.say("r", "h1", theirs)
    assert guests.hear("here", "h1") == [theirs]


def test_whoever_uses_anothers_link_local_address_is_told_of_to_the_agent(guests):
    guests.port("r", 5, "n", "h1", ips=("fd00::fe", ROUTER_LL))
    guests.port("a", 1, "n", "h1", ips=(V4, V6))
    lies = [na(ROUTER_LL, ROUTER_LL, OWN), ns(ROUTER_LL, "fd00::99", OWN)]
    guests.watch("h1", [("a", "h1", frame) for frame in lies])
    assert [frame for _, table, _, frame in guests.hosts["h1"].signals if table == Table.RIVAL] == lies


def test_an_address_with_prefix_means_all_of_the_prefix_and_one_with_host_bits_itself(guests):
    guests.port("a", 1, "n", "h1", ips=("10.1.0.0/24", "10.2.0.5/24"))
    frames = {
        source: eth(IP(src=source, dst="10.1.0.2") / UDP() / PAD) for source in ("10.1.0.77", "10.2.0.5", "10.2.0.6")
    }
    assert passed(guests, frames) == {"10.1.0.77", "10.2.0.5"}
