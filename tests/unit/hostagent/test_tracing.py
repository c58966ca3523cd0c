"""Questions to `ofproto/trace`, and answers that real switches gave (`tests/cases/trace`).

In them web1 sits at port 3 of h1, web3 at port 4, web2 at port 3 of h2; port 1 is the tunnel.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from hostagent.tracing.question import Entry, Ports, TraceError, describe, flow_of
from hostagent.tracing.text import parse
from netmgr.contract.types import TraceEnd, TraceEndKind, TraceFrame, TraceProtocol

CASES = Path(__file__).resolve().parents[2] / "cases" / "trace"
BRIDGE = "osw-2628de404e"
VIF3, VIF4, VIF5, VIF7 = UUID(int=3), UUID(int=4), UUID(int=5), UUID(int=7)
PORTS = Ports(
    names={1: "vxlan-1", 3: "tap3", 4: "tap4", 5: "sub-5", 7: "sub-7"},
    vifs={3: VIF3, 4: VIF4, 5: VIF5, 7: VIF7},
    tunnels=frozenset({1}),
)
FROM_VIF = Entry(ofport=3)
FROM_TUNNEL = Entry(ofport=1, tun_src="10.200.0.1", tun_dst="10.200.0.2", tun_id=5000)


def dropped(table: str, reason: str) -> TraceEnd:
    return TraceEnd(kind=TraceEndKind.DROPPED, table=table, reason=reason)


def tunnel(reason: str = "") -> TraceEnd:
    return TraceEnd(kind=TraceEndKind.TUNNEL, ovs_port="vxlan-1", vtep="10.200.0.2", reason=reason)


@pytest.mark.parametrize(
    ("case", "entry", "ends"),
    [
        ("away", FROM_VIF, [tunnel()]),
        ("arrive", FROM_TUNNEL, [TraceEnd(kind=TraceEndKind.VIF, ovs_port="tap3", vif_uuid=VIF3)]),
        ("flood", FROM_VIF, [TraceEnd(kind=TraceEndKind.VIF, ovs_port="tap4", vif_uuid=VIF4), tunnel()]),
        (
            "sub-port",
            FROM_VIF,
            [
                TraceEnd(kind=TraceEndKind.VIF, ovs_port="sub-5", vif_uuid=VIF5),
                TraceEnd(kind=TraceEndKind.VIF, ovs_port="tap4", vif_uuid=VIF4),
                TraceEnd(kind=TraceEndKind.VIF, ovs_port="sub-7", vif_uuid=VIF7),
            ],
        ),
        ("arp", FROM_VIF, [TraceEnd(kind=TraceEndKind.ANSWERED, ovs_port="tap3", vif_uuid=VIF3)]),
        ("spoofed", FROM_VIF, [dropped("SOURCES", "IP source is not the port's")]),
        ("liar", FROM_TUNNEL, [dropped("TUNNEL", "source MAC does not live at the VTEP it came from")]),
        ("dark", Entry(ofport=9), [dropped("CLASSIFY", "port that is dark, or segment that is not carried")]),
        (
            "unresolved",
            FROM_VIF,
            [tunnel("VTEP 10.200.0.2 is not resolved: the switch asks by ARP, and loses this frame")],
        ),
    ],
)
def test_every_copy_s_end_is_told(case: str, entry: Entry, ends: list[TraceEnd]) -> None:
    parsed = parse((CASES / f"{case}.txt").read_text(), bridge=BRIDGE)
    assert list(describe(parsed, entry, PORTS)[1]) == ends


def test_over_ipv6_a_vtep_that_is_not_resolved_is_asked_for_by_neighbour_discovery() -> None:
    text = (CASES / "unresolved.txt").read_text().replace("TUN_IPV4_DST", "TUN_IPV6_DST")
    text = text.replace("10.200.0.2", "fd00:200::2").replace("sending ARP request", "sending ND request")
    (end,) = describe(parse(text, bridge=BRIDGE), FROM_VIF, PORTS)[1]
    assert end.reason.startswith("VTEP fd00:200::2 is not resolved: the switch asks by neighbour discovery, and ")


def test_how_old_the_knowledge_of_a_path_is_is_told_where_a_frame_leaves_by_it() -> None:
    known = replace(PORTS, answered_s={"10.200.0.2": 0.42, "10.200.0.3": 9.0})
    for case, wanted in (("away", "it has answered a probe 0.4 s ago"), ("unresolved", "VTEP 10.200.0.2 is not")):
        (end,) = describe(parse((CASES / f"{case}.txt").read_text(), bridge=BRIDGE), FROM_VIF, known)[1]
        assert end.reason.startswith(wanted)


def test_way_is_told_by_tables_and_a_caller_goes_on_behind_its_subroutine() -> None:
    steps, _ = describe(parse((CASES / "away.txt").read_text(), bridge=BRIDGE), FROM_VIF, PORTS)
    way = "CLASSIFY GUARD SOURCES SIGNAL ANSWER FORWARD LOCATE REMOTE SEND"
    assert " ".join(step.table for step in steps) == way
    forward, locate = steps[5], steps[6]
    assert (forward.depth, locate.depth) == (0, 1)
    assert forward.actions[-2:] == ("resubmit(,LOCATE)", "goto_table:REMOTE")
    assert locate.actions == ("set_field:0xac80002->reg1",)
    assert steps[0].match == "in_port=tap3"
    assert "output:vxlan-1" in steps[-1].actions


def test_frame_is_followed_through_the_connection_tracker() -> None:
    parsed = parse((CASES / "tracked.txt").read_text(), bridge="tst")
    assert [one.table for one in parsed.way] == [0, 5, 6]
    assert [one.ofport for one in parsed.exits] == [1]
    assert all("drop" not in one.actions for one in parsed.met)
    denied = parse((CASES / "tracked-denied.txt").read_text(), bridge="tst")
    assert not denied.exits
    assert denied.way[-1].table == 6


def test_answer_about_another_bridge_is_no_answer() -> None:
    with pytest.raises(ValueError, match="says nothing of bridge osw-1"):
        parse((CASES / "away.txt").read_text(), bridge="osw-1")


def frame(**changes: object) -> TraceFrame:
    plain = {
        "eth_src": "02:00:00:00:00:01",
        "eth_dst": "02:00:00:00:00:02",
        "protocol": TraceProtocol.ICMP,
        "ip_src": "10.0.0.1",
        "ip_dst": "10.0.0.2",
    }
    return TraceFrame(**plain | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, {"icmp", "icmp_type=8", "nw_src=10.0.0.1", "in_port=3"}),
        ({"ip_src": "fd00::1", "ip_dst": "fd00::2"}, {"icmp6", "icmpv6_type=128", "ipv6_dst=fd00::2"}),
        ({"protocol": TraceProtocol.TCP, "destination_port": 80}, {"tcp", "tcp_dst=80", "tcp_flags=0x002"}),
        ({"protocol": TraceProtocol.UDP, "destination_port": 53}, {"udp", "udp_dst=53"}),
        ({"protocol": TraceProtocol.ARP}, {"arp", "arp_op=1", "arp_tpa=10.0.0.2", "arp_sha=02:00:00:00:00:01"}),
    ],
)
def test_frame_is_written_in_the_switch_s_words(changes: dict[str, object], words: set[str]) -> None:
    assert words <= set(flow_of(frame(**changes), FROM_VIF).split(","))


def test_frame_from_a_tunnel_has_its_outer_addresses() -> None:
    assert {"tun_src=10.200.0.1", "tun_dst=10.200.0.2", "tun_id=0x1388"} <= set(
        flow_of(frame(), FROM_TUNNEL).split(",")
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"eth_src": "02:00:00:00:00:01,in_port=4"},
        {"eth_dst": "x"},
        {"ip_src": "10.0.0.1,in_port=4"},
        {"ip_dst": "fd00::1"},
        {"protocol": TraceProtocol.TCP, "destination_port": 70000},
        {"protocol": TraceProtocol.ARP, "ip_src": "fd00::1", "ip_dst": "fd00::2"},
    ],
)
def test_what_is_no_frame_is_refused_before_the_switch_hears_of_it(changes: dict[str, object]) -> None:
    with pytest.raises(TraceError):
        flow_of(frame(**changes), FROM_VIF)
