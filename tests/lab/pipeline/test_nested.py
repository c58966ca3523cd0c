"""MACs behind a port's VIF, defined and learned: what they may say, where frames for them go, what is copied."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from hostagent.learning import read_claim
from hostagent.model import Phase
from hostagent.pipeline.learn import source_of
from hostagent.pipeline.tables import SWITCH_COOKIE, Denied, Table
from netmgr.contract.types import Allowance, NestedMac
from tests.lab.pipeline.conftest import mac, named

pytestmark = pytest.mark.lab

ALL = "ff:ff:ff:ff:ff:ff"
OPEN = (Allowance.NESTED,)
HELD, FREE, UNKNOWN, LATER = mac(0x11), mac(0x12), mac(0x21), mac(0x22)
OWN_IP, HELD_IP, PEER_IP, NOBODYS = "10.1.0.1", "10.1.0.11", "10.1.0.3", "10.1.0.66"


def udp(source: str, destination: str, ip: str = OWN_IP) -> bytes:
    return bytes(Ether(src=source, dst=destination) / IP(src=ip, dst=PEER_IP) / UDP() / Raw(bytes(20)))


def arp(source: str, sender: str, target: str = "10.1.0.99", *, hardware: str = "") -> bytes:
    return bytes(Ether(src=source, dst=ALL) / ARP(hwsrc=hardware or source, psrc=sender, pdst=target))


@pytest.fixture
def guests(fabric):
    """a on h1 with HELD and its address, and FREE without one, behind it; b beside it; c on h2; d on h3."""
    fabric.network("n", 5001)
    nested = (NestedMac(mac=HELD, ips=(HELD_IP,)), NestedMac(mac=FREE))
    fabric.port("a", 1, "n", "h1", ips=(OWN_IP,), nested=nested)
    fabric.port("b", 2, "n", "h1")
    fabric.port("c", 3, "n", "h2")
    fabric.port("d", 4, "n", "h3")
    fabric.settle()
    return fabric


@pytest.fixture
def opened(fabric):
    """a on h1 may have further MACs, which are learned; b beside it; c on h2."""
    fabric.network("n", 5001)
    fabric.port("a", 1, "n", "h1", allow=OPEN)
    fabric.port("b", 2, "n", "h1")
    fabric.port("c", 3, "n", "h2")
    fabric.settle()
    return fabric


def copied(fabric, *said: tuple[str, bytes]) -> list[tuple[int, bytes]]:
    """By table, the frames that h1's agent sees of what its guests say."""
    host = fabric.hosts["h1"]
    fabric.settle()
    host.signals.clear()
    fabric.watch("h1", then=[(name, "h1", frame) for name, frame in said])
    return [(table, frame) for _, table, _, frame in host.signals]


# --- defined --------------------------------------------------------------------------------------------------------


def test_what_they_say_arrives_on_this_host_and_on_others(guests):
    for source, ip in ((mac(1), OWN_IP), (HELD, HELD_IP), (FREE, "10.1.0.77")):
        guests.say("a", "h1", udp(source, mac(2), ip), udp(source, mac(3), ip))
    assert len(guests.hear("b", "h1")) == len(guests.hear("c", "h2")) == 3


def test_what_is_said_to_them_goes_to_their_vif_and_to_nobody_else(guests):
    for name, host, number in (("b", "h1", 2), ("c", "h2", 3)):
        guests.crossed(host)
        guests.say(name, host, udp(mac(number), HELD, NOBODYS), udp(mac(number), FREE, NOBODYS))
        assert len(guests.hear("a", "h1")) == 2
        assert guests.hear("d", "h3") == []
        assert guests.crossed(host) == (0 if host == "h1" else 2), "unicast, not flooded"


def test_a_broadcast_comes_to_their_vif_once(guests):
    guests.say("c", "h2", arp(mac(3), "10.1.0.3"))
    everybody = (("a", "h1"), ("b", "h1"), ("c", "h2"), ("d", "h3"))
    assert [len(guests.hear(*who)) for who in everybody] == [1, 1, 0, 1]
    guests.say("a", "h1", arp(HELD, HELD_IP))
    assert [len(guests.hear(*who)) for who in everybody] == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (udp(HELD, mac(3), OWN_IP), Denied.SOURCE),
        (udp(mac(1), mac(3), HELD_IP), Denied.SOURCE),
        (arp(HELD, OWN_IP), Denied.ARP),
        (arp(mac(1), HELD_IP), Denied.ARP),
        (arp(HELD, HELD_IP, hardware=mac(1)), Denied.ARP),
        (arp(FREE, HELD_IP), Denied.ARP),
        (udp(UNKNOWN, mac(3)), Denied.MAC),
        (bytes(Ether(src=HELD, dst=mac(3)) / Dot1Q(vlan=5) / IP(src=HELD_IP, dst=PEER_IP)), Denied.TAGGED),
    ],
)
def test_each_is_held_to_its_own_addresses(guests, frame, why):
    before = counted_as(guests, why)
    guests.say("a", "h1", frame)
    assert guests.hear("b", "h1") == guests.hear("c", "h2") == []
    assert counted_as(guests, why) == before + 1


def counted_as(fabric, why: Denied) -> int:
    flows = fabric.counted("h1")
    return sum(
        n for flow, n in flows if flow.table == Table.DROPPED and any(m[:2] == ("reg3", why) for m in flow.match)
    )


@pytest.mark.parametrize(("name", "host"), [("b", "h1"), ("c", "h2")])
def test_no_other_port_can_speak_for_them(guests, name, host):
    guests.say(name, host, udp(HELD, mac(4)), arp(HELD, HELD_IP), udp(FREE, mac(4)))
    assert guests.hear("d", "h3") == []
    number = 2 if name == "b" else 3
    guests.say(name, host, arp(mac(number), HELD_IP))
    assert guests.hear("d", "h3") == [], "nor for their address"


def test_their_frames_are_taken_from_their_holders_vtep_only(guests):
    """h2 lies: it lets its guest speak as a's nested MAC."""
    truth, a, c = dict(guests.ports), named("a"), named("c")
    guests.ports = truth | {a: replace(truth[a], nested=()), c: replace(truth[c], nested=truth[a].nested)}
    guests.settle("h2")
    guests.ports = truth
    guests.say("c", "h2", udp(HELD, mac(4)))
    assert guests.hear("d", "h3") == []
    assert guests.hear("b", "h1") == []
    guests.say("a", "h1", udp(HELD, mac(4), HELD_IP))
    assert len(guests.hear("d", "h3")) == 1


def test_who_asks_for_their_address_is_answered_on_the_spot(guests):
    guests.crossed("h2")
    guests.say("c", "h2", arp(mac(3), "10.1.0.3", HELD_IP))
    (answer,) = map(Ether, guests.hear("c", "h2"))
    assert (answer[ARP].hwsrc, answer[ARP].psrc) == (HELD, HELD_IP)
    assert guests.crossed("h2") == 0


def test_they_move_with_their_port(guests):
    guests.plug("a", "h2")
    guests.relocate("a", incoming="h2")
    guests.phase("h1", "a", Phase.REDIRECTING, "h2")
    guests.phase("h2", "a", Phase.INCOMING, "h1")
    guests.settle()
    guests.say("d", "h3", udp(mac(4), HELD, NOBODYS))
    assert (len(guests.hear("a", "h1")), len(guests.hear("a", "h2"))) == (0, 1), "what arrives at the source goes on"
    guests.phase("h2", "a", Phase.ACTIVATED, "h1")
    guests.settle()
    guests.say("a", "h2", udp(HELD, mac(4), HELD_IP))
    assert len(guests.hear("d", "h3")) == 1, "and is heard from the destination at once"
    guests.relocate("a", holder="h2", incoming=None)
    for host in ("h1", "h2"):
        guests.hosts[host].phases.clear()
        guests.hosts[host].relay_vteps.clear()
    guests.settle()
    guests.say("b", "h1", udp(mac(2), HELD, NOBODYS), udp(mac(2), FREE, NOBODYS))
    assert (len(guests.hear("a", "h1")), len(guests.hear("a", "h2"))) == (0, 2)
    guests.say("a", "h1", udp(HELD, mac(4), HELD_IP))
    assert guests.hear("d", "h3") == [], "the tap it left says nothing any more"


# --- learned --------------------------------------------------------------------------------------------------------


def test_an_unknown_mac_is_dropped_counted_and_copied(opened):
    said = [("a", udp(UNKNOWN, mac(3))), ("a", arp(LATER, "10.1.0.22")), ("b", udp(UNKNOWN, mac(3)))]
    seen = copied(opened, *said)
    assert [(table, frame[6:12].hex(":")) for table, frame in seen] == [(Table.GUARD, UNKNOWN), (Table.GUARD, LATER)]
    assert opened.hear("c", "h2") == opened.hear("b", "h1") == []
    assert opened.drops("h1", "a", "b")["a", "source MAC is not the port's"] == 1


def test_a_learned_mac_speaks_is_reached_and_is_copied_no_more(opened):
    opened.learn_behind("a", UNKNOWN)
    assert copied(opened, ("a", udp(UNKNOWN, mac(3)))) == []
    assert len(opened.hear("c", "h2")) == 1
    opened.crossed("h2")
    opened.say("c", "h2", udp(mac(3), UNKNOWN))
    assert len(opened.hear("a", "h1")) == opened.crossed("h2") == 1
    opened.say("c", "h2", udp(UNKNOWN, mac(1)))
    assert opened.hear("a", "h1") == []


def test_a_mac_that_was_refused_and_one_of_a_hushed_port_stay_mute(opened):
    opened.learn_behind("a", UNKNOWN, refused="it is defined for port x")
    opened.settle()
    opened.say("a", "h1", udp(UNKNOWN, mac(3)))
    assert opened.hear("c", "h2") == []
    opened.hush("h1", "a")
    assert copied(opened, ("a", udp(UNKNOWN, mac(3))), ("a", udp(LATER, mac(3)))) == []
    assert opened.hear("c", "h2") == []


def test_even_a_wrong_word_of_the_manager_takes_no_port_its_mac(opened):
    opened.learn_behind("a", mac(3), mac(2))
    opened.settle()
    opened.say("a", "h1", udp(mac(3), mac(2)), udp(mac(2), mac(3)))
    assert opened.hear("b", "h1") == opened.hear("c", "h2") == []
    opened.say("b", "h1", udp(mac(2), mac(3)))
    assert len(opened.hear("c", "h2")) == 1


def test_their_addresses_are_learned_and_may_change_from_one_to_the_other(opened):
    opened.learn_behind("a", UNKNOWN, LATER)
    claim = [("a", arp(UNKNOWN, "10.1.0.21"))]
    assert [(table, read_claim(frame).address) for table, frame in copied(opened, *claim)] == [
        (Table.CLAIMS, "10.1.0.21")
    ]
    opened.learn_behind("a", UNKNOWN, LATER, m0="10.1.0.21")
    assert copied(opened, *claim) == []
    opened.hear("c", "h2")
    assert len(copied(opened, ("a", arp(LATER, "10.1.0.21")), ("a", arp(mac(1), "10.1.0.21")))) == 2
    assert len(opened.hear("c", "h2")) == 2
    opened.say("b", "h1", arp(mac(2), "10.1.0.21"))
    assert opened.hear("c", "h2") == []


def test_the_switch_counts_whether_a_mac_is_used(opened):
    opened.learn_behind("a", UNKNOWN, LATER)
    opened.settle()
    opened.say("a", "h1", udp(UNKNOWN, mac(3)), arp(UNKNOWN, "10.1.0.21"))
    used: dict[str, int] = {}
    for flow, packets in opened.counted("h1"):
        found = source_of(flow)
        if found is not None:
            text = found[1].to_bytes(6, "big").hex(":")
            used[text] = used.get(text, 0) + packets
    assert (used[UNKNOWN], used[LATER]) == (2, 0)


def test_what_no_vif_may_say_is_copied_of_no_mac(opened):
    server = bytes(Ether(src=UNKNOWN, dst=mac(3)) / IP() / UDP(sport=67, dport=68))
    tagged = bytes(Ether(src=UNKNOWN, dst=mac(3)) / Dot1Q(vlan=5) / IP())
    group = udp("03:00:00:00:00:01", mac(3))
    seen = copied(opened, ("a", server), ("a", tagged), ("a", group))
    assert seen == []
    assert opened.hear("c", "h2") == []
    for flow in opened.flows("h1"):
        assert flow.cookie != SWITCH_COOKIE or source_of(flow) is None
