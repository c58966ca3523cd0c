"""Forwarding between guests of three hosts: who hears what. Real vswitchds, real tunnels."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from hostagent.names import tunnel_port
from netmgr.contract.types import NetworkType
from tests.lab.pipeline.conftest import SWITCH

pytestmark = pytest.mark.lab

ALL = "ff:ff:ff:ff:ff:ff"


def m(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


def frame(src: int, dst: int | str, text: str = "hello") -> bytes:
    to = dst if isinstance(dst, str) else m(dst)
    return bytes(
        Ether(src=m(src), dst=to) / IP(src="10.1.0.1", dst="10.1.0.2") / UDP(sport=1, dport=2) / Raw(text.ljust(40))
    )


@pytest.mark.parametrize("kind", list(NetworkType))
def test_unicast_reaches_its_port_on_another_host_and_nobody_else(fabric, kind):
    fabric.network("n", 5001 if kind.tunneled else 100, kind)
    fabric.port("a", 1, "n", "h1")
    fabric.port("b", 2, "n", "h2")
    fabric.port("c", 3, "n", "h3")
    fabric.settle()
    fabric.say("a", "h1", frame(1, 2))
    assert fabric.hear("b", "h2") == [frame(1, 2)]
    assert fabric.hear("c", "h3") == []
    assert fabric.crossed("h1") == 1


def test_unicast_between_two_ports_of_one_host_stays_on_it(fabric):
    fabric.network("n", 5001)
    fabric.port("a", 1, "n", "h1")
    fabric.port("b", 2, "n", "h1")
    fabric.settle()
    fabric.say("a", "h1", frame(1, 2))
    assert fabric.hear("b", "h1") == [frame(1, 2)]
    assert fabric.crossed("h1") == 0


@pytest.mark.parametrize("to", [ALL, 99], ids=["broadcast", "unknown unicast"])
def test_flooding_reaches_each_port_of_the_network_once_and_not_the_sender(fabric, to):
    fabric.network("n", 5001)
    for name, number, host in (("a", 1, "h1"), ("b", 2, "h1"), ("c", 3, "h2"), ("d", 4, "h2")):
        fabric.port(name, number, "n", host)
    fabric.settle()
    fabric.say("a", "h1", frame(1, to))
    assert fabric.hear("a", "h1") == []
    for name, host in (("b", "h1"), ("c", "h2"), ("d", "h2")):
        assert fabric.hear(name, host) == [frame(1, to)], name
    assert fabric.crossed("h1") == 1, "one copy for each host, and none for a host without a port"


def test_flooding_skips_a_host_whose_only_port_is_parked(fabric):
    fabric.network("n", 5001)
    fabric.port("a", 1, "n", "h1")
    fabric.port("b", 2, "n", "h2")
    fabric.relocate("b", parked=True)
    fabric.settle()
    fabric.say("a", "h1", frame(1, ALL))
    assert fabric.crossed("h1") == 0
    assert fabric.hear("b", "h2") == []


def test_flooding_skips_a_host_whose_only_port_is_set_down(fabric):
    fabric.network("n", 5001)
    fabric.port("a", 1, "n", "h1")
    fabric.port("b", 2, "n", "h2")
    fabric.port("c", 3, "n", "h3")
    fabric.set_down("b")
    fabric.settle()
    fabric.say("a", "h1", frame(1, ALL))
    assert fabric.crossed("h1") == 1
    assert len(fabric.hear("c", "h3")) == 1
    assert fabric.hear("b", "h2") == []


def test_networks_never_meet_though_macs_and_hosts_are_the_same(fabric):
    fabric.network("n", 5001)
    fabric.network("o", 5002)
    fabric.port("a", 1, "n", "h1")
    fabric.port("b", 2, "o", "h1")
    fabric.port("c", 2, "n", "h2")
    fabric.port("d", 3, "o", "h2")
    fabric.settle()
    fabric.say("a", "h1", frame(1, ALL))
    fabric.say("a", "h1", frame(1, 2))
    fabric.say("a", "h1", frame(1, 3))
    assert fabric.hear("b", "h1") == []
    assert fabric.hear("d", "h2") == []
    assert len(fabric.hear("c", "h2")) == 3


def test_a_network_type_has_its_own_segments(fabric):
    fabric.network("n", 7, NetworkType.VXLAN)
    fabric.network("o", 7, NetworkType.GENEVE)
    fabric.port("a", 1, "n", "h1")
    fabric.port("b", 2, "n", "h2")
    fabric.port("c", 3, "o", "h2")
    fabric.settle()
    fabric.say("a", "h1", frame(1, ALL))
    assert fabric.hear("b", "h2") == [frame(1, ALL)]
    assert fabric.hear("c", "h2") == []


def test_a_spoofed_source_mac_is_dropped(fabric):
    fabric.network("n", 5001)
    fabric.port("a", 1, "n", "h1")
    fabric.port("b", 2, "n", "h2")
    fabric.settle()
    fabric.say("a", "h1", frame(9, 2))
    fabric.say("a", "h1", frame(2, ALL))
    assert fabric.crossed("h1") == 0
    assert fabric.hear("b", "h2") == []


def test_a_tagged_frame_is_dropped_whatever_it_carries(fabric):
    fabric.network("n", 5001)
    fabric.port("a", 1, "n", "h1")
    fabric.port("b", 2, "n", "h2")
    fabric.settle()
    for inner in (IP(src="10.1.0.1", dst="10.1.0.2") / UDP(), ARP(hwsrc=m(1), psrc="10.1.0.1", pdst="10.1.0.2")):
        for tag in (0, 5):
            fabric.say("a", "h1", bytes(Ether(src=m(1), dst=m(2)) / Dot1Q(vlan=tag) / inner))
    assert fabric.hear("b", "h2") == []


def test_a_frame_from_another_host_than_its_source_lives_on_is_dropped(fabric):
    fabric.network("n", 5001)
    fabric.port("a", 1, "n", "h1")
    fabric.port("b", 2, "n", "h2")
    fabric.port("c", 3, "n", "h3")
    fabric.settle()
    # h3 lies: it believes, or says, that it holds the port of MAC 1
    fabric.plug("a", "h3")
    fabric.relocate("a", holder="h3")
    fabric.settle("h3")
    fabric.say("a", "h3", frame(1, 2))
    assert fabric.crossed("h3") == 1
    assert fabric.hear("b", "h2") == []


@pytest.mark.parametrize("kind", [kind for kind in NetworkType if kind.tunneled])
def test_a_tagged_frame_out_of_a_tunnel_is_dropped_whatever_it_carries(fabric, kind):
    """RFC 7348, 6.1. No guest may send one; a host that lies could reach a sub-port's network with it, at any VIF with
    the tag that it shares a network with."""
    fabric.network("n", 5001, kind)
    fabric.port("a", 1, "n", "h1")
    fabric.port("b", 2, "n", "h2")
    fabric.subport("inner", 3, "n", "b", 10)
    fabric.settle()
    before = fabric.drops("h2").get(("", "VLAN tag within the tunnel"), 0)
    liar = fabric.hosts["h1"]
    numbers = {row["name"]: row["ofport"] for row in liar.switch.interfaces()}
    tunnel, key = numbers[tunnel_port(kind, SWITCH.uuid)], 5001 << 8 if kind is NetworkType.NVGRE else 5001
    out = f"set_field:{key:#x}->tun_id,set_field:{fabric.hosts['h2'].vtep}->tun_dst,output:{tunnel}"
    for tag in ("", "0x8100", "0x88a8"):
        push = f"push_vlan:{tag},set_field:0x100a->vlan_vid," if tag else ""
        words = f"table=0,priority=999,in_port={numbers['a-h1']},actions={push}{out}"
        liar.switch.ofctl("add-flow", liar.bridge, words)
        fabric.say("a", "h1", frame(1, 2))
        assert fabric.hear("b", "h2") == ([] if tag else [frame(1, 2)])
    assert fabric.drops("h2")["", "VLAN tag within the tunnel"] == before + 2


def test_a_port_without_location_or_held_elsewhere_is_dark(fabric):
    fabric.network("n", 5001)
    fabric.port("a", 1, "n", "h1")
    fabric.port("b", 2, "n", "h2")
    fabric.plug("a", "h2")
    fabric.settle()
    fabric.say("a", "h2", frame(1, 2))
    fabric.say("a", "h2", frame(1, ALL))
    assert fabric.hear("b", "h2") == []
    fabric.say("b", "h2", frame(2, ALL))
    assert fabric.hear("a", "h2") == []
    assert fabric.hear("a", "h1") == [frame(2, ALL)]


def test_a_parked_port_is_dark_and_what_is_sent_to_it_is_not_flooded(fabric):
    fabric.network("n", 5001)
    fabric.port("a", 1, "n", "h1")
    fabric.port("b", 2, "n", "h1")
    fabric.port("c", 3, "n", "h2")
    fabric.relocate("a", parked=True)
    fabric.settle()
    fabric.say("a", "h1", frame(1, 2))
    assert fabric.hear("b", "h1") == []
    fabric.say("b", "h1", frame(2, 1))
    assert fabric.hear("a", "h1") == []
    assert fabric.hear("c", "h2") == []


def test_a_bridge_without_flows_passes_nothing(fabric):
    fabric.network("n", 5001)
    fabric.port("a", 1, "n", "h1")
    fabric.port("b", 2, "n", "h1")
    host = fabric.hosts["h1"]
    host.switch.ofctl("del-flows", host.bridge)
    fabric.say("a", "h1", frame(1, 2))
    assert fabric.hear("b", "h1") == []


def test_the_second_tap_of_one_vif_stays_dark(fabric):
    fabric.network("n", 5001)
    fabric.port("a", 1, "n", "h1")
    fabric.port("b", 2, "n", "h1")
    fabric.settle()
    host = fabric.hosts["h1"]
    vif = dict(next(row for row in host.switch.interfaces() if row["name"] == "a-h1")["external_ids"][1])["iface-id"]
    host.switch.add_port(host.bridge, "again", f"external_ids:iface-id={vif}")
    fabric.settle()
    host.switch.receive("again", frame(1, 2))
    assert fabric.hear("b", "h1") == []
    fabric.say("a", "h1", frame(1, 2))
    assert fabric.hear("b", "h1") == [frame(1, 2)]


def test_nvgre_takes_a_peers_frames_whatever_flow_id_they_have(fabric):
    """RFC 7637, 3.2: the last byte of the key is the peer's to choose, to spread frames of one network over links."""
    fabric.network("n", 5001, NetworkType.NVGRE)
    fabric.network("o", 5002, NetworkType.NVGRE)
    fabric.port("a", 1, "n", "h1")
    fabric.port("b", 2, "n", "h2")
    fabric.port("c", 2, "o", "h2")
    fabric.settle()
    host = fabric.hosts["h1"]
    fabric.say("a", "h1", frame(1, 2))
    assert fabric.hear("b", "h2") == [frame(1, 2)]
    (sent,) = host.switch.sent("p0")
    at = sent.index(b"\x20\x00\x65\x58") + 4  # GRE with a key, of Ethernet frames
    assert sent[at : at + 4] == (5001 << 8).to_bytes(4, "big")
    for flow_id in (1, 0x7F, 0xFF):
        with_id = sent[:at] + (5001 << 8 | flow_id).to_bytes(4, "big") + sent[at + 4 :]
        fabric.hosts["h2"].switch.receive("p0", with_id)
        assert fabric.hear("b", "h2") == [frame(1, 2)], flow_id
    assert fabric.hear("c", "h2") == []
