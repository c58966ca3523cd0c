"""The value of a flow: canonical, so that sets of flows can be subtracted; and its bytes."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from hostagent.flow import (
    IN_PORT,
    Controller,
    Flow,
    Goto,
    Match,
    Move,
    Output,
    PopVlan,
    PushVlan,
    RawMatch,
    Resubmit,
    SetField,
    address_of,
    canonical,
    match,
)
from hostagent.realize.openflow_codec import ADD, decode_match, encode_flow_mod, encode_match


def flow(**changes) -> Flow:
    return Flow(**{"table": 1, "priority": 2, "cookie": 3, **changes})


def test_the_order_of_conditions_does_not_matter():
    one = match(eth_type=0x0806, in_port=4, arp_spa="10.0.0.1")
    other = canonical([*match(arp_spa="10.0.0.1"), *match(in_port=4), *match(eth_type=0x0806)])
    assert one == other
    assert flow(match=one) == flow(match=other)
    assert len({flow(match=one), flow(match=other)}) == 1


def test_prerequisites_come_before_what_needs_them():
    kind = {"icmpv6_code": 0, "icmpv6_type": 135, "nw_proto": 58, "eth_type": 0x86DD}
    names = [one.field for one in match(nd_target="fe80::/10", **kind)]
    assert names == ["eth_type", "nw_proto", "icmpv6_type", "icmpv6_code", "nd_target"]


def test_a_field_of_neighbour_discovery_is_not_taken_without_the_code():
    """The kernel's datapath would leave it out of its megaflows."""
    with pytest.raises(AssertionError, match="nd_sll"):
        match(eth_type=0x86DD, nw_proto=58, icmpv6_type=135, nd_sll="52:54:00:00:00:01")


def test_a_full_mask_is_no_mask_and_an_empty_one_no_condition():
    assert match(metadata=(5, (1 << 64) - 1)) == match(metadata=5)
    assert match(vlan_tci=(0, 0x1FFF)) == (Match("vlan_tci", 0),)
    assert match(reg0=(5, 0)) == ()
    assert match(arp_spa="10.0.0.1/32") == match(arp_spa=0x0A000001)


def test_bits_outside_of_the_mask_do_not_matter():
    assert match(reg0=(0xFF, 1)) == match(reg0=(1, 1))


def test_wide_registers_are_the_narrow_ones():
    assert match(xreg6=0x1_0000_0002) == match(reg12=1, reg13=2)
    assert match(xxreg1=(1 << 96 | 4)) == match(reg4=1, reg5=0, reg6=0, reg7=4)


def test_actions_of_different_kinds_are_different_though_their_numbers_are_the_same():
    assert len({Output(1), Goto(1), Resubmit(1), Controller(1)}) == 4


def test_the_key_is_where_a_flow_lives_not_what_it_does():
    assert flow(actions=(Output(1),)).key() == flow(cookie=9).key()
    assert flow().key() != flow(priority=9).key()


def test_text_is_that_of_ovs_ofctl():
    one = flow(
        match=match(in_port=4, vlan_tci=0, eth_src="02:00:00:00:00:01", metadata=(16, 16)),
        actions=(SetField("reg0", 1), Move("eth_src", "xreg6", 48), Resubmit(200), Output(IN_PORT), Goto(10)),
    )
    assert str(one) == (
        "cookie=0x3,table=1,priority=2,in_port=4,metadata=0x10/0x10,eth_src=02:00:00:00:00:01,vlan_tci=0x0000/0x1fff "
        "actions=set_field:0x1->reg0,move:eth_src[0..47]->xreg6[0..47],resubmit(,200),IN_PORT,goto_table:10"
    )
    assert str(flow()) == "cookie=0x3,table=1,priority=2 actions=drop"


@pytest.mark.parametrize(
    ("conditions", "wire"),
    [
        ((), "00010004 00000000"),
        (match(in_port=5), "0001000c 80000004 00000005 00000000"),
        (match(metadata=1), "00010010 80000408 0000000000000001"),
        (match(reg0=(1, 1)), "00010010 00010108 00000001 00000001"),
        (match(vlan_tci=0), "0001000a 80000c02 0000 000000000000"),
        (match(tun_src="10.0.0.1"), "0001000c 00013e04 0a000001 00000000"),
    ],
)
def test_matches_have_the_bytes_of_openflow(conditions, wire):
    data = bytes.fromhex(wire)
    assert encode_match(conditions) == data
    assert decode_match(data[4 : int.from_bytes(data[2:4], "big")]) == conditions


def test_a_condition_without_a_name_survives_with_its_bytes():
    data = bytes.fromhex("8000fe02 1234")
    (raw,) = decode_match(data)
    assert raw == RawMatch(0x8000FE02, b"\x12\x34")
    assert encode_match((raw,))[4:10] == data


def test_a_tag_is_put_on_and_taken_off_in_the_words_of_openflow():
    tagged = flow(actions=(PushVlan(), SetField("vlan_tci", 0x1064), Output(3)))
    assert str(tagged).endswith("actions=push_vlan:0x8100,set_field:4196->vlan_vid,output:3")
    assert bytes.fromhex("0011000881000000 0019001080000c0210640000 00000000") in encode_flow_mod(ADD, tagged)
    assert str(flow(actions=(PopVlan(),))).endswith("actions=pop_vlan")


@pytest.mark.parametrize(
    "text", ["0.0.0.0", "10.30.0.20", "255.255.255.255", "192.168.001.1", "::", "fe80::1", "fd00::10.0.0.1"]
)
def test_an_address_is_the_number_that_the_standard_library_makes_of_it(text: str):
    try:
        wanted = int(ip_address(text))
    except ValueError:
        with pytest.raises(ValueError, match="does not appear to be"):
            address_of(text)
    else:
        assert address_of(text) == wanted


@pytest.mark.parametrize("text", ["", "10.0.0", "10.0.0.256", "10.0.0.-1", "10.0.0.1 ", "10.0.0.٣", "web"])
def test_what_is_no_address_is_no_number(text: str):
    with pytest.raises(ValueError, match="does not appear to be"):
        address_of(text)
