"""Who has this address? Answered on the asker's host where it is known: what the asker hears, and what crosses.

The kernel's datapath writes no neighbour advertisements: there the agent does while it attends. While it does not, a
solicitation goes to the owner alone, who is known.
"""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6NDOptUnknown,
    IPv6,
    in6_chksum,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from hostagent.model import Phase
from hostagent.pipeline.tables import Table
from netmgr.contract.types import Allowance
from tests.lab.pipeline.conftest import mac

pytestmark = pytest.mark.lab

ALL, NODES = "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"
V4 = {number: f"10.1.0.{number}" for number in range(1, 10)}
V6 = {number: f"fd00::{number}" for number in range(1, 10)}
SHARED = "10.1.0.100"


def ask(
    src: int, target: str, *, sender: str | None = None, dst: str = ALL, op: int = 1, pad: bytes = b"\0" * 18
) -> bytes:
    packet = ARP(op=op, hwsrc=mac(src), psrc=V4[src] if sender is None else sender, pdst=target)
    return bytes(Ether(src=mac(src), dst=dst) / packet / Raw(pad))


def solicit(src: int, target: str, *, sender: str | None = None, dst: str = "", option: bool = True, more=b"") -> bytes:
    to = dst or "ff02::1:ff00:" + target.rpartition(":")[2]
    packet = IPv6(src=V6[src] if sender is None else sender, dst=to, hlim=255) / ICMPv6ND_NS(tgt=target)
    if option:
        packet /= ICMPv6NDOptSrcLLAddr(lladdr=mac(src))
    return bytes(Ether(src=mac(src), dst="33:33:ff:00:00:02") / packet / more)


def assert_arp_reply(frames: list[bytes], *, to: int, of: int, ip: str, told: str | None = None) -> None:
    (frame,) = frames
    reply = Ether(frame)
    assert (reply.src, reply.dst) == (mac(of), mac(to))
    arp = reply[ARP]
    assert (arp.op, arp.hwsrc, arp.psrc) == (2, mac(of), ip)
    assert (arp.hwdst, arp.pdst) == (mac(to), V4[to] if told is None else told)


def assert_advertisement(frames: list[bytes], *, to: int, of: int, ip: str) -> None:
    (frame,) = frames
    reply = Ether(frame)
    assert (reply.src, reply.dst) == (mac(of), mac(to))
    assert (reply[IPv6].src, reply[IPv6].dst, reply[IPv6].hlim) == (ip, V6[to], 255)
    answer = reply[ICMPv6ND_NA]
    assert (answer.tgt, answer.R, answer.S, answer.O) == (ip, 0, 1, 1)
    assert answer[ICMPv6NDOptDstLLAddr].lladdr == mac(of)
    assert checksum_is_right(frame)


def checksum_is_right(frame: bytes) -> bool:
    return in6_chksum(58, Ether(frame)[IPv6], frame[54:]) == 0


def writes_nd(fabric) -> bool:
    return fabric.hosts["h1"].switch.datapath != "system"


def to_owner(frame: bytes, number: int) -> bytes:
    """*frame*, sent to the MAC *number*."""
    return bytes.fromhex(mac(number).replace(":", "")) + frame[6:]


@pytest.fixture
def guests(fabric):
    """a and b on h1, c on h2, d on h3; all with addresses but d, who uses what it likes. One network more."""
    fabric.network("n", 5001)
    fabric.network("o", 5002)
    for name, number, host in (("a", 1, "h1"), ("b", 2, "h1"), ("c", 3, "h2")):
        fabric.port(name, number, "n", host, ips=(V4[number], V6[number]))
    fabric.port("d", 4, "n", "h3")
    fabric.port("e", 5, "o", "h1", ips=(V4[5], V6[5]))
    fabric.port("f", 6, "o", "h2", ips=(V4[6], V6[6]))
    fabric.settle()
    return fabric


def heard_elsewhere(fabric, *but: str) -> list[str]:
    names = {"a": "h1", "b": "h1", "c": "h2", "d": "h3", "e": "h1", "f": "h2"}
    return [name for name, host in names.items() if name not in but and fabric.hear(name, host)]


@pytest.mark.parametrize("owner", [2, 3], ids=["on the same host", "on another host"])
@pytest.mark.parametrize("dst", [ALL, mac(3)], ids=["broadcast", "unicast"])
def test_an_arp_request_for_a_known_address_is_answered_at_once_and_nobody_else_hears_it(guests, owner, dst):
    guests.say("a", "h1", ask(1, V4[owner], dst=dst))
    assert_arp_reply(guests.hear("a", "h1"), to=1, of=owner, ip=V4[owner])
    assert guests.crossed("h1") == 0
    assert heard_elsewhere(guests, "a") == []


@pytest.mark.parametrize("owner", [2, 3], ids=["on the same host", "on another host"])
@pytest.mark.parametrize("unicast", [False, True], ids=["multicast", "unicast"])
def test_a_solicitation_of_a_known_address_is_answered_at_once_or_by_its_owner_and_nobody_else_hears_it(
    guests, owner, unicast
):
    question = solicit(1, V6[owner], dst=V6[owner] if unicast else "")
    guests.say("a", "h1", question)
    if not writes_nd(guests):
        assert guests.hear(*{2: ("b", "h1"), 3: ("c", "h2")}[owner]) == [to_owner(question, owner)]
        assert guests.crossed("h1") == (owner == 3)
        assert heard_elsewhere(guests) == []
        return
    assert_advertisement(guests.hear("a", "h1"), to=1, of=owner, ip=V6[owner])
    assert guests.crossed("h1") == 0
    assert heard_elsewhere(guests, "a") == []


@pytest.mark.parametrize("where", ["h1", "h2"], ids=["on the same host", "on another host"])
def test_who_may_be_a_router_hears_who_solicits_it_and_says_itself_whether_it_is_one(guests, where):
    """RFC 4861, 7.2.5: who hears that its default router is no router any more forgets it. ARP says no such thing."""
    guests.port("r", 7, "n", where, ips=(V4[7], V6[7]), allow=(Allowance.ROUTER,))
    guests.settle()
    for asker, host, question in (
        ("a", "h1", solicit(1, V6[7])),
        ("a", "h1", solicit(1, V6[7], dst=V6[7])),
        ("a", "h1", solicit(1, V6[7], option=False)),
        ("d", "h3", solicit(4, V6[7], sender="::", option=False)),  # duplicate address detection
    ):
        guests.say(asker, host, question)
        assert guests.hear("r", where) == [to_owner(question, 7)]
        assert guests.crossed(host) == (where != host)
        assert heard_elsewhere(guests) == []
    options = ICMPv6NDOptDstLLAddr(lladdr=mac(7))
    said = IPv6(src=V6[7], dst=V6[1], hlim=255) / ICMPv6ND_NA(tgt=V6[7], R=1, S=1, O=1) / options
    answer = bytes(Ether(src=mac(7), dst=mac(1)) / said)
    guests.say("r", where, answer)
    assert guests.hear("a", "h1") == [answer]
    guests.say("a", "h1", ask(1, V4[7]))
    assert_arp_reply(guests.hear("a", "h1"), to=1, of=7, ip=V4[7])
    own = solicit(7, V6[7], sender="::", option=False)
    guests.say("r", where, own)
    assert guests.hear("r", where) == [], "it is not asked for its own address"
    assert guests.hear("a", "h1") == [own]


def test_a_port_without_addresses_is_answered_too(guests):
    guests.say("d", "h3", ask(4, V4[3]))
    assert_arp_reply(guests.hear("d", "h3"), to=4, of=3, ip=V4[3])
    assert guests.crossed("h3") == 0
    guests.say("d", "h3", solicit(4, V6[3]))
    if not writes_nd(guests):
        assert guests.hear("c", "h2") == [to_owner(solicit(4, V6[3]), 3)]
        return
    assert_advertisement(guests.hear("d", "h3"), to=4, of=3, ip=V6[3])
    assert guests.crossed("h3") == 0


def test_an_unknown_address_is_asked_for_everywhere_as_ever(guests):
    for frame in (ask(1, "10.1.0.77"), ask(1, V4[4]), solicit(1, "fd00::77"), solicit(1, V6[4])):
        guests.say("a", "h1", frame)
        assert guests.hear("a", "h1") == []
        for name, host in (("b", "h1"), ("c", "h2"), ("d", "h3")):
            assert guests.hear(name, host) == [frame]


def test_an_address_of_another_network_is_not_known(guests):
    for frame in (ask(1, V4[6]), solicit(1, V6[6]), ask(1, V4[5]), solicit(1, V6[5])):
        guests.say("a", "h1", frame)
        assert guests.hear("a", "h1") == []
        assert guests.hear("c", "h2") == [frame]
        assert guests.hear("e", "h1") == guests.hear("f", "h2") == []


def test_announcing_or_probing_an_address_of_its_own_is_not_answered_but_heard_by_others(guests):
    own = [
        ask(1, V4[1]),  # gratuitous
        ask(1, V4[1], op=2),
        ask(1, V4[1], sender="0.0.0.0"),  # probe, RFC 5227
        solicit(1, V6[1], sender="::", option=False),  # duplicate address detection, RFC 4862
    ]
    for frame in own:
        guests.say("a", "h1", frame)
        assert guests.hear("a", "h1") == []
        assert guests.hear("c", "h2") == [frame]


def test_probing_an_address_of_another_port_tells_of_the_collision(guests):
    guests.say("d", "h3", ask(4, V4[1], sender="0.0.0.0"))
    assert_arp_reply(guests.hear("d", "h3"), to=4, of=1, ip=V4[1], told="0.0.0.0")
    nonce = bytes(ICMPv6NDOptUnknown(type=14, len=1, data=b"nonce!"))
    for more in (b"", nonce):  # Linux adds a nonce (RFC 7527)
        question = solicit(4, V6[1], sender="::", option=False, more=more)
        guests.say("d", "h3", question)
        if not writes_nd(guests):
            assert guests.hear("a", "h1") == [to_owner(question, 1)]
            assert guests.crossed("h3") == 1
            continue
        (frame,) = guests.hear("d", "h3")
        reply = Ether(frame)
        assert (reply.src, reply.dst) == (mac(1), NODES)
        assert (reply[IPv6].src, reply[IPv6].dst) == (V6[1], "ff02::1")
        answer = reply[ICMPv6ND_NA]
        assert (answer.tgt, answer.S, answer.O) == (V6[1], 0, 1)
        assert checksum_is_right(frame)
    assert guests.crossed("h3") == 0


def test_a_solicitation_with_a_nonce_or_more_options_is_answered_with_the_right_mac(guests):
    nonce = bytes(ICMPv6NDOptUnknown(type=14, len=1, data=b"nonce!"))
    question = solicit(1, V6[3], more=nonce)
    guests.say("a", "h1", question)
    if not writes_nd(guests):
        assert guests.hear("c", "h2") == [to_owner(question, 3)]
        return
    (frame,) = guests.hear("a", "h1")
    assert Ether(frame)[ICMPv6NDOptDstLLAddr].lladdr == mac(3)
    assert checksum_is_right(frame)


@pytest.mark.parametrize("owner", [2, 3], ids=["on the same host", "on another host"])
def test_where_the_switch_cannot_answer_the_agent_does_and_nobody_else_hears_the_question(guests, owner):
    guests.as_in_the_kernel = True
    guests.settle()
    nonce = bytes(ICMPv6NDOptUnknown(type=14, len=1, data=b"nonce!"))
    for question in (
        solicit(1, V6[owner]),
        solicit(1, V6[owner], dst=V6[owner]),
        solicit(1, V6[owner], option=False),
        solicit(1, V6[owner], more=nonce),
    ):
        assert_advertisement(guests.attended("h1", "a", question), to=1, of=owner, ip=V6[owner])
        assert guests.crossed("h1") == 0
        assert heard_elsewhere(guests) == []


def test_where_the_switch_cannot_answer_the_agent_tells_of_a_collision(guests):
    guests.as_in_the_kernel = True
    guests.settle()
    (frame,) = guests.attended("h3", "d", solicit(4, V6[1], sender="::", option=False))
    reply = Ether(frame)
    assert (reply.src, reply.dst) == (mac(1), NODES)
    assert (reply[IPv6].src, reply[IPv6].dst, reply[IPv6].hlim) == (V6[1], "ff02::1", 255)
    assert (reply[ICMPv6ND_NA].tgt, reply[ICMPv6ND_NA].S, reply[ICMPv6ND_NA].O) == (V6[1], 0, 1)
    assert reply[ICMPv6NDOptDstLLAddr].lladdr == mac(1)
    assert checksum_is_right(frame)
    assert guests.crossed("h3") == 0
    assert [table for _, table, _, _ in guests.hosts["h3"].signals][-2:] == [Table.CONTEST, Table.SOLICITED]


def test_the_agent_is_asked_for_nothing_but_what_is_known_of_others_and_no_router(guests):
    guests.port("r", 7, "n", "h2", ips=(V6[7],), allow=(Allowance.ROUTER,))
    guests.as_in_the_kernel = True
    guests.settle()
    for target, hears in ((V6[7], "r"), ("fd00::77", "c"), (V6[6], "c"), (V6[1], "c")):
        own = target == V6[1]
        question = solicit(1, target, sender="::", option=False) if own else solicit(1, target)
        assert guests.attended("h1", "a", question) == []
        assert guests.hear(hears, "h2")
    assert Table.SOLICITED not in {table for _, table, _, _ in guests.hosts["h1"].signals}


def test_a_solicitation_without_option_is_left_to_the_owner(guests):
    frame = solicit(1, V6[3], option=False)
    guests.say("a", "h1", frame)
    assert guests.hear("a", "h1") == []
    assert guests.hear("c", "h2") == [frame if writes_nd(guests) else to_owner(frame, 3)]


def test_nobody_is_answered_for_a_guest_that_is_stopped_or_set_down(guests):
    guests.relocate("c", parked=True)
    guests.settle()
    guests.say("a", "h1", ask(1, V4[3]))
    assert guests.hear("a", "h1") == []
    assert guests.hear("b", "h1") == [ask(1, V4[3])]
    guests.say("c", "h2", ask(3, V4[1]))
    assert guests.hear("c", "h2") == [], "nor is a dark one answered"


def test_an_address_that_two_ports_have_is_left_to_them(guests):
    for name, number, host in (("x", 7, "h2"), ("y", 8, "h3")):
        guests.port(name, number, "n", host, ips=(V4[number], SHARED))
    guests.settle()
    guests.say("a", "h1", ask(1, SHARED))
    assert guests.hear("a", "h1") == []
    assert guests.hear("x", "h2") == guests.hear("y", "h3") == [ask(1, SHARED)]
    guests.relocate("x", parked=True)
    guests.settle()
    guests.say("a", "h1", ask(1, SHARED))
    assert_arp_reply(guests.hear("a", "h1"), to=1, of=8, ip=SHARED)


def test_a_prefix_is_nobodys_address_and_one_with_host_bits_is(guests):
    guests.port("x", 7, "n", "h2", ips=("10.3.0.0/24", "10.4.0.7/24"))
    guests.settle()
    for address in ("10.3.0.0", "10.3.0.5"):
        guests.say("a", "h1", ask(1, address))
        assert guests.hear("a", "h1") == []
    guests.say("a", "h1", ask(1, "10.4.0.7"))
    assert_arp_reply(guests.hear("a", "h1"), to=1, of=7, ip="10.4.0.7")


def test_a_spoofed_question_is_not_answered(guests):
    spoofed = [
        bytes(Ether(src=mac(9), dst=ALL) / ARP(hwsrc=mac(9), psrc=V4[1], pdst=V4[3])),
        bytes(Ether(src=mac(1), dst=ALL) / ARP(hwsrc=mac(2), psrc=V4[1], pdst=V4[3])),
        ask(1, V4[3], sender=V4[2]),
    ]
    for frame in spoofed:
        guests.say("a", "h1", frame)
    assert guests.hear("a", "h1") == []
    assert guests.crossed("h1") == 0
    assert heard_elsewhere(guests) == []


def test_the_answer_is_the_same_in_every_phase_of_a_migration_and_on_every_host(guests):
    def all_answered(why: str) -> None:
        for name, number, host in (("a", 1, "h1"), ("c", 3, "h2"), ("d", 4, "h3")):
            guests.say(name, host, ask(number, V4[2]))
            assert_arp_reply(guests.hear(name, host), to=number, of=2, ip=V4[2])
            if not writes_nd(guests):
                continue
            guests.say(name, host, solicit(number, V6[2]))
            assert_advertisement(guests.hear(name, host), to=number, of=2, ip=V6[2])
        for host in guests.hosts:
            assert guests.crossed(host) == 0, why

    guests.plug("b", "h2")
    guests.relocate("b", incoming="h2")
    guests.settle()
    all_answered("granted")
    guests.phase("h1", "b", Phase.REDIRECTING)
    guests.phase("h2", "b", Phase.INCOMING)
    guests.settle()
    all_answered("paused")
    guests.say("b", "h2", ask(2, V4[1]))
    assert_arp_reply(guests.hear("b", "h2"), to=2, of=1, ip=V4[1])
    guests.say("b", "h2", ask(2, V4[2]))
    assert guests.hear("b", "h2") == [], "the incoming guest announces itself, unanswered"
    for name, host in (("a", "h1"), ("c", "h2"), ("d", "h3")):
        assert guests.hear(name, host) == [ask(2, V4[2])]
    for host in guests.hosts:
        guests.crossed(host)
    guests.phase("h2", "b", Phase.ACTIVATED, relay="h1")
    guests.settle()
    all_answered("activated")
    guests.relocate("b", holder="h2", incoming=None)
    guests.phase("h1", "b", Phase.RELAYING, relay="h2")
    guests.hosts["h2"].phases.clear()
    guests.settle()
    all_answered("moved")


def test_a_port_without_addresses_cannot_claim_what_is_bound_to_another(guests):
    lies = [
        ask(4, V4[1], sender=V4[1]),
        ask(4, V4[3], sender=V4[1]),
        ask(4, V4[3], sender=V4[1], op=2),
        solicit(4, "fd00::77", sender=V6[1]),
        bytes(
            Ether(src=mac(4), dst=NODES)
            / IPv6(src="fe80::4", dst="ff02::1", hlim=255)
            / ICMPv6ND_NA(tgt=V6[1], R=0)
            / ICMPv6NDOptDstLLAddr(lladdr=mac(4))
        ),
    ]
    for frame in lies:
        guests.say("d", "h3", frame)
    assert guests.hear("d", "h3") == []
    assert guests.crossed("h3") == 0
    free = ask(4, "10.1.0.44", sender="10.1.0.44")
    guests.say("d", "h3", free)
    assert guests.hear("a", "h1") == [free]


def test_other_traffic_of_the_asker_is_as_before(guests):
    guests.say("a", "h1", ask(1, V4[3]))
    guests.hear("a", "h1")
    frame = bytes(Ether(src=mac(1), dst=mac(3)) / IP(src=V4[1], dst=V4[3]) / UDP() / Raw(b"x" * 40))
    guests.say("a", "h1", frame)
    assert guests.hear("c", "h2") == [frame]


def test_ovs_ofctl_reads_the_whole_pipeline_as_we_do(guests):
    host = guests.hosts["h1"]
    path = host.switch.rundir / "pipeline.txt"
    path.write_text("".join(f"{flow}\n" for flow in guests.flows("h1")))
    before = guests.flows("h1")
    host.switch.ofctl("del-flows", host.bridge)
    host.switch.ofctl("add-flows", host.bridge, str(path))
    assert guests.flows("h1") == before
