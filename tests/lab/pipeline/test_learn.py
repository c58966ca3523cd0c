"""What of a guest's claims reaches the agent, and what a learned address is good for: frames meet real switches."""

from __future__ import annotations

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Release, DHCP6_Reply, DHCP6OptClientId, DHCP6OptIA_NA, DHCP6OptIAAddress
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from hostagent.dhcp import read_asked, read_given_up, read_leases
from hostagent.learning import read_claim, read_probe
from hostagent.names import network_key
from hostagent.pipeline.learn import claimed_address
from hostagent.pipeline.tables import Table
from netmgr.contract.types import Allowance
from tests.lab.pipeline.conftest import mac, named

pytestmark = pytest.mark.lab

ALL = "ff:ff:ff:ff:ff:ff"
V4, V6 = "10.1.0.1", "fd00::1"
CLIENT = DHCP6OptClientId(duid=b"\0\3\0\1me")


def arp(number: int, sender: str, target: str, *, op: int = 1) -> bytes:
    return bytes(Ether(src=mac(number), dst=ALL) / ARP(op=op, hwsrc=mac(number), psrc=sender, pdst=target))


def ns(number: int, sender: str, target: str) -> bytes:
    option = ICMPv6NDOptSrcLLAddr(lladdr=mac(number))
    packet = IPv6(src=sender, dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt=target)
    return bytes(Ether(src=mac(number), dst="33:33:ff:00:00:01") / (packet if sender == "::" else packet / option))


def na(number: int, target: str) -> bytes:
    packet = IPv6(src=target, dst="ff02::1", hlim=255) / ICMPv6ND_NA(tgt=target)
    return bytes(Ether(src=mac(number), dst="33:33:00:00:00:01") / packet / ICMPv6NDOptDstLLAddr(lladdr=mac(number)))


@pytest.fixture
def guests(fabric):
    """Without defined addresses: a and b on h1, c on h2."""
    fabric.network("n", 5001)
    fabric.port("a", 1, "n", "h1")
    fabric.port("b", 2, "n", "h1")
    fabric.port("c", 3, "n", "h2")
    return fabric


def copied(fabric, *said: tuple[str, bytes]) -> list[str]:
    """The addresses in what h1's agent sees of frames that its guests say, sorted."""
    host = fabric.hosts["h1"]
    host.signals.clear()
    fabric.watch("h1", then=[(name, "h1", frame) for name, frame in said])
    assert {signal[1] for signal in host.signals} <= {Table.CLAIMS, Table.RIVAL}
    assert {signal[0] for signal in host.signals if signal[1] == Table.CLAIMS} <= {network_key(named("n"))}
    return sorted(claim.address for signal in host.signals if (claim := read_claim(signal[3])) is not None)


def test_a_claim_to_nobodys_address_is_copied_once_it_is_known_no_more(guests):
    said = [("a", arp(1, V4, "10.1.0.9")), ("a", ns(1, V6, "fd00::9")), ("a", na(1, "fd00::11"))]
    assert copied(guests, *said) == [V4, "fd00::1", "fd00::11"]
    assert guests.hear("b", "h1"), "the copy does not stop the frame"
    guests.learn("a", V4, V6, "fd00::11")
    assert copied(guests, *said) == []


def test_probes_for_what_is_nobodys_claim_nothing_and_are_not_copied(guests):
    host = guests.hosts["h1"]
    assert copied(guests, ("a", arp(1, "0.0.0.0", V4)), ("a", ns(1, "::", V6))) == []
    assert not host.signals
    assert len(guests.hear("b", "h1")) == 2


def probes(fabric, *said: tuple[str, bytes]) -> list[str]:
    """The addresses in copies of probes that h1's agent sees when its guests say frames."""
    host = fabric.hosts["h1"]
    host.signals.clear()
    fabric.watch("h1", then=[(name, "h1", frame) for name, frame in said])
    assert len({signal[3] for signal in host.signals}) == len(host.signals), "one copy each"
    return [probe.address for signal in host.signals if (probe := read_probe(signal[3])) is not None]


@pytest.mark.parametrize("owner", ["a", "c"], ids=["on the same host", "on another host"])
def test_a_probe_for_what_is_another_ports_is_copied_and_answered_as_ever(guests, owner):
    number, host = {"a": (1, "h1"), "c": (3, "h2")}[owner]
    guests.learn(owner, V4, V6)
    guests.settle()
    guests.crossed("h1")
    said = [arp(2, "0.0.0.0", V4), ns(2, "::", V6)]
    assert probes(guests, *[("b", frame) for frame in said]) == [V4, V6]
    assert [signal[3] for signal in guests.hosts["h1"].signals] == said, "as the guest has said them"
    assert {signal[1] for signal in guests.hosts["h1"].signals} == {Table.CONTEST}
    answers = [Ether(frame) for frame in guests.hear("b", "h1")]
    assert {answer.src for answer in answers} == {mac(number)}
    if guests.hosts["h1"].switch.datapath == "system":
        assert [Ether(frame).dst for frame in guests.hear(owner, host)] == [mac(number)]
    else:
        assert [answers[0][ARP].psrc, answers[1][ICMPv6ND_NA].tgt] == [V4, V6]
        assert guests.crossed("h1") == 0
    free = [("b", arp(2, "0.0.0.0", "10.1.0.77")), ("b", ns(2, "::", "fd00::77"))]
    own = [("a", arp(1, "0.0.0.0", V4)), ("a", ns(1, "::", V6))] if owner == "a" else []
    assert probes(guests, *free, *own, ("b", arp(2, "10.1.0.2", V4))) == [], "nobody's, its own, and a mere question"
    assert not [signal for signal in guests.hosts["h1"].signals if signal[1] == Table.CONTEST]


def test_a_port_with_defined_addresses_that_probes_for_anothers_is_seen_too(guests):
    guests.port("d", 4, "n", "h1", ips=("10.1.0.4", "fd00::4"))
    guests.port("e", 5, "n", "h2", ips=(V4, V6))
    guests.learn("c", "fe80::c")
    said = [("d", arp(4, "0.0.0.0", V4)), ("d", ns(4, "::", V6)), ("d", ns(4, "::", "fe80::c"))]
    assert probes(guests, *said) == [V4, V6, "fe80::c"]
    free = [("d", arp(4, "0.0.0.0", "10.1.0.77")), ("d", ns(4, "::", "fd00::77")), ("d", ns(4, "::", "fe80::77"))]
    own = [("d", arp(4, "0.0.0.0", "10.1.0.4")), ("d", ns(4, "::", "fd00::4"))]
    assert probes(guests, *free, *own) == []
    assert not guests.hosts["h1"].signals
    assert guests.drops("h1", "d")["d", "IP source is not the port's"] == 2, "as before"


def test_of_a_hushed_port_no_probe_is_copied_and_it_is_answered_all_the_same(guests):
    guests.port("d", 4, "n", "h1", ips=("10.1.0.4", "fd00::4"))
    guests.learn("a", V4, V6)
    guests.hush("h1", "b")
    guests.hush("h1", "d")
    said = [("b", arp(2, "0.0.0.0", V4)), ("d", arp(4, "0.0.0.0", V4)), ("d", ns(4, "::", V6))]
    assert probes(guests, *said) == []
    for name, number in (("b", 2), ("d", 4)):
        (answer,) = (Ether(frame) for frame in guests.hear(name, "h1"))
        assert (answer.src, answer[ARP].psrc, answer.dst) == (mac(1), V4, mac(number))
    reasons = {reason for _, reason in guests.drops("h1", "b", "d")}
    assert not [reason for reason in reasons if reason.startswith("table ")], "what is not copied is not dropped"


def test_a_learned_address_is_answered_on_the_askers_host_and_crosses_nothing(guests):
    guests.learn("a", V4, V6)
    guests.settle()
    guests.crossed("h2")
    guests.say("c", "h2", arp(3, "10.1.0.3", V4), ns(3, "fd00::3", V6))
    answers = [Ether(frame) for frame in guests.hear("c", "h2")]
    assert {(answer.src, answer.dst) for answer in answers} == {(mac(1), mac(3))}
    assert answers[0][ARP].psrc == V4
    if guests.hosts["h2"].switch.datapath == "system":  # writes no advertisements: the owner is asked, alone
        assert len(answers) == guests.crossed("h2") == 1
        (question,) = (Ether(frame) for frame in guests.hear("a", "h1"))
        assert (question.dst, question[ICMPv6ND_NS].tgt) == (mac(1), V6)
        assert guests.hear("b", "h1") == []
    else:
        assert answers[1][ICMPv6ND_NA].tgt == V6
        assert len(answers) == 2
        assert guests.crossed("h2") == 0


def test_of_two_guests_with_one_address_the_first_keeps_working_and_the_second_is_seen(guests):
    guests.learn("a", V4, V6)
    guests.settle()
    said = [("b", arp(2, V4, "10.1.0.9")), ("b", ns(2, V6, "fd00::9")), ("b", na(2, V6))]
    assert copied(guests, *said) == [V4, V6, V6]
    assert guests.hear("a", "h1") == []
    assert guests.hear("c", "h2") == []
    guests.say("a", "h1", arp(1, V4, "10.1.0.9"), na(1, V6))
    assert len(guests.hear("b", "h1")) == len(guests.hear("c", "h2")) == 2
    assert guests.drops("h1", "b")["b", "ARP or RARP that names another's MAC or address"] == 1


def test_what_was_refused_is_not_answered_for(guests):
    guests.learn("a", V4)
    guests.learn("b", V4, refused="port a had it before")
    guests.settle()
    guests.say("c", "h2", arp(3, "10.1.0.3", V4))
    (answer,) = (Ether(frame) for frame in guests.hear("c", "h2"))
    assert answer.src == mac(1)


def test_a_defined_address_goes_before_a_learned_one(guests):
    guests.learn("a", V4)
    guests.port("d", 4, "n", "h2", ips=(V4,))
    guests.settle()
    guests.say("b", "h1", arp(2, "10.1.0.2", V4))
    (answer,) = (Ether(frame) for frame in guests.hear("b", "h1"))
    assert answer.src == mac(4)


def test_of_a_hushed_port_nothing_is_copied_and_its_frames_go_on(guests):
    guests.hush("h1", "a")
    assert copied(guests, *[("a", arp(1, f"10.1.0.{n}", "10.1.0.200")) for n in range(20, 60)]) == []
    assert len(guests.hear("b", "h1")) == 40
    assert copied(guests, ("b", arp(2, "10.1.0.2", "10.1.0.200"))) == ["10.1.0.2"]


def test_of_a_port_with_defined_addresses_only_link_local_ones_are_learned(guests):
    guests.port("d", 4, "n", "h1", ips=(V4, V6))
    assert copied(guests, ("d", arp(4, V4, "10.1.0.9")), ("d", arp(4, "10.1.0.77", "10.1.0.9"))) == []
    assert copied(guests, ("d", ns(4, V6, "fd00::9")), ("d", ns(4, "fd00::77", "fd00::9"))) == []
    made, chosen = "fe80::ff:fe00:4", "fe80::4"
    assert copied(guests, ("d", ns(4, made, "fd00::9")), ("d", ns(4, chosen, "fd00::9"))) == [chosen]
    guests.learn("d", chosen)
    assert copied(guests, ("d", ns(4, chosen, "fd00::9")), ("d", na(4, chosen))) == []
    for name, number in (("a", 1), ("b", 2)):
        assert copied(guests, (name, ns(number, chosen, "fd00::9"))) == [chosen], "it is another port's now"
    guests.port("e", 5, "n", "h1", ips=("10.1.0.5",))
    assert copied(guests, ("e", ns(5, chosen, "fd00::9"))) == [chosen]
    assert guests.hosts["h1"].signals[-1][1] == Table.RIVAL
    assert mac(5) not in {Ether(frame).src for frame in guests.hear("b", "h1")}
    used = {claimed_address(flow): packets for flow, packets in guests.counted("h1") if claimed_address(flow)}
    assert sum(used.values()) == 2


def test_what_is_denied_is_copied_where_it_names_another_port_be_it_here_or_elsewhere(guests):
    guests.port("d", 4, "n", "h1", ips=("10.1.0.4",))
    guests.port("e", 5, "n", "h2", ips=(V4, V6))
    lies = [("d", arp(4, V4, "10.1.0.9")), ("d", ns(4, V6, "fd00::9")), ("d", na(4, V6))]
    assert copied(guests, *lies) == [V4, V6, V6]
    host = guests.hosts["h1"]
    assert {signal[1] for signal in host.signals} == {Table.RIVAL}
    assert copied(guests, ("d", arp(4, "10.1.0.77", V4)), ("d", na(4, "fd00::77"))) == [], "nobody's"
    stolen = [("d", bytes(Ether(src=mac(n), dst=ALL) / IP(src="10.1.0.4") / UDP() / b"x")) for n in (1, 5, 77)]
    copied(guests, *stolen)
    assert [signal[3][6:12].hex(":") for signal in host.signals] == [mac(1), mac(5)], "77 is nobody's"
    guests.hush("h1", "d")
    assert copied(guests, *lies, *stolen) == []
    assert not host.signals
    assert guests.hear("a", "h1") == guests.hear("e", "h2") == []
    drops = guests.drops("h1", "d")
    assert drops["d", "source MAC is not the port's"] == 6
    assert drops["d", "ARP or RARP that names another's MAC or address"] == 3
    assert drops["d", "IP source is not the port's"] == 2


def test_a_spoofed_or_malformed_claim_reaches_nobody_not_even_the_agent(guests):
    another = bytes(Ether(src=mac(1), dst=ALL) / ARP(hwsrc=mac(9), psrc=V4))
    cut_off = arp(1, V4, "10.1.0.9")[:30]
    tagged = arp(1, V4, "10.1.0.9").replace(b"\x08\x06", b"\x81\x00\x00\x05\x08\x06", 1)
    host = guests.hosts["h1"]
    assert copied(guests, ("a", another), ("a", cut_off), ("a", tagged)) == []
    assert not host.signals
    assert guests.hear("b", "h1") == []


def test_the_switch_counts_the_use_of_a_learned_address(guests):
    guests.learn("a", V4, V6)
    guests.settle()
    guests.say("a", "h1", arp(1, V4, "10.1.0.9"), arp(1, V4, "10.1.0.9"), na(1, V6))
    used = {}
    for flow, packets in guests.counted("h1"):
        found = claimed_address(flow)
        if found is not None:
            used[found[1][0]] = packets
    assert used == {4: 2, 6: 1}


# --- DHCP ---------------------------------------------------------------------------------------------------------


def ack(server: int, client: int, address: str, *, dst: str = "") -> bytes:
    message = BOOTP(op=2, yiaddr=address, chaddr=bytes.fromhex(mac(client).replace(":", "")))
    options = DHCP(options=[("message-type", "ack"), ("lease_time", 600), "end"])
    packet = IP(src="10.1.0.254", dst=address) / UDP(sport=67, dport=68) / message / options
    return bytes(Ether(src=mac(server), dst=dst or mac(client)) / packet)


def reply(server: int, client: int, address: str) -> bytes:
    association = DHCP6OptIA_NA(ianaopts=[DHCP6OptIAAddress(addr=address, validlft=600)])
    packet = IPv6(src="fe80::fe", dst="fe80::1") / UDP(sport=547, dport=546) / DHCP6_Reply() / CLIENT / association
    return bytes(Ether(src=mac(server), dst=mac(client)) / packet)


def release(client: int, address: str, *, kind: str = "release") -> bytes:
    message = BOOTP(op=1, ciaddr=address, chaddr=bytes.fromhex(mac(client).replace(":", "")))
    packet = IP(src=address, dst="10.1.0.254") / UDP(sport=68, dport=67) / message
    options = DHCP(options=[("message-type", kind), "end"])
    return bytes(Ether(src=mac(client), dst=mac(200)) / packet / options)


def release6(client: int, address: str) -> bytes:
    association = DHCP6OptIA_NA(ianaopts=[DHCP6OptIAAddress(addr=address)])
    packet = IPv6(src="fe80::1", dst="ff02::1:2") / UDP(sport=546, dport=547) / DHCP6_Release() / CLIENT / association
    return bytes(Ether(src=mac(client), dst="33:33:00:01:00:02") / packet)


@pytest.fixture
def served(guests):
    """The guests, and servers of their network on h1 and h2."""
    guests.port("s1", 201, "n", "h1", allow=(Allowance.DHCP_SERVER,))
    guests.port("s2", 202, "n", "h2", allow=(Allowance.DHCP_SERVER,))
    return guests


def granted(fabric, *said: tuple[str, str, bytes]) -> list[tuple[str, str, int | None]]:
    """What h1's agent reads of leases when guests, each on a host, say frames: MAC, address and seconds."""
    host = fabric.hosts["h1"]
    fabric.settle()
    host.signals.clear()
    fabric.watch("h1", then=list(said))
    seen = [signal for signal in host.signals if signal[1] == Table.LEASES]
    assert {signal[0] for signal in seen} <= {network_key(named("n"))}
    return [(one.mac, one.address, one.seconds) for signal in seen for one in read_leases(signal[3])]


@pytest.mark.parametrize(("server", "number", "host"), [("s1", 201, "h1"), ("s2", 202, "h2")])
def test_what_a_server_grants_is_copied_once_and_delivered(served, server, number, host):
    said = [(server, host, ack(number, 1, V4)), (server, host, reply(number, 1, V6))]
    said.append((server, host, ack(number, 2, "10.1.0.2", dst=ALL)))
    assert granted(served, *said) == [(mac(1), V4, 600), (mac(1), V6, 600), (mac(2), "10.1.0.2", 600)]
    assert len(served.hear("a", "h1")) == 3
    assert len(served.hear("b", "h1")) == 1


def test_the_word_of_one_who_is_no_server_is_neither_copied_nor_delivered(served):
    said = [("b", "h1", ack(2, 1, V4)), ("c", "h2", ack(3, 1, V4, dst=ALL)), ("c", "h2", reply(3, 1, V6))]
    assert granted(served, *said) == []
    assert served.hear("a", "h1") == []
    spoofed = [
        ("s1", "h1", ack(9, 1, V4)),
        ("s1", "h1", ack(201, 1, V4)[:12] + b"\x81\x00\x00\x05\x08\x00" + bytes(300)),
    ]
    assert granted(served, *spoofed) == []


def test_of_another_network_with_the_same_macs_nothing_is_taken_for_ours(served):
    served.network("m", 5002)
    served.port("x", 1, "m", "h2")
    served.port("s3", 203, "m", "h2", allow=(Allowance.DHCP_SERVER,))
    assert granted(served, ("s3", "h2", ack(203, 1, V4))) == []


def test_where_no_port_learns_and_where_the_network_is_hushed_no_grant_is_copied(served):
    served.hush("h1", "n")
    assert granted(served, ("s1", "h1", ack(201, 1, V4))) == []
    assert len(served.hear("a", "h1")) == 1
    for flow in served.flows("h3"):
        assert flow.table != Table.LEASES or not flow.match


def test_what_a_guest_tells_the_server_is_copied_and_goes_on(served):
    served.settle()
    host = served.hosts["h1"]
    host.signals.clear()
    renewal, lie = release(1, V4, kind="request"), release(2, V4)
    words = [release(1, V4), release6(1, V6), renewal, lie]
    served.watch("h1", then=[("a", "h1", word) for word in words])
    seen = [signal[3] for signal in host.signals if signal[1] == Table.GUARD]
    assert [read_given_up(frame) for frame in seen] == [(V4,), (V6,), ()]
    assert [bool(read_asked(frame)) for frame in seen] == [False, False, True]
    assert len(served.hear("c", "h2")) == 3
