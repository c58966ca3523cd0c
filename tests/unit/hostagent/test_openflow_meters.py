"""Meters as Open vSwitch 3.1 says and takes them, byte for byte."""

from __future__ import annotations

from hostagent.model import MeterLimit
from hostagent.realize.openflow_meters import ASK_DROPS, ASK_METERS, drops_in, meter_changes, meters_in

WIDE, TIGHT = MeterLimit(number=7, rate_kbps=5000, burst_kbit=600), MeterLimit(number=9, rate_kbps=64, burst_kbit=600)
DESCRIBED = (
    "0018 0005 00000007 0001 0010 00001388 00000258 00000000",
    "0018 0005 00000009 0001 0010 00000040 00000258 00000000",
)
# meter 7 has let 10 of 30 frames of 1,000 bytes pass, meter 9 all of them
COUNTED = (
    "00000007 0038 000000000000 00000001 000000000000001e 0000000000007530 00000000 00989680"
    "0000000000000014 0000000000004e20",
    "00000009 0038 000000000000 00000001 000000000000001e 0000000000007530 00000000 00989680"
    "0000000000000000 0000000000000000",
)


def test_all_meters_are_asked_for_as_openflow_1_5_has_it():
    assert bytes.fromhex("000a 0000 00000000 ffffffff 00000000") == ASK_METERS
    assert bytes.fromhex("0009 0000 00000000 ffffffff 00000000") == ASK_DROPS


def test_each_meter_is_added_and_changed_after_others_have_gone():
    band = "0001 0010 00001388 00000258 00000000"
    expected = ("0002 0000 00000009", f"0000 0005 00000007 {band}", f"0001 0005 00000007 {band}")
    assert meter_changes(put=[WIDE], remove=[9]) == [bytes.fromhex(one) for one in expected]


def test_meters_are_read_from_one_message_or_from_several():
    one, other = map(bytes.fromhex, DESCRIBED)
    assert meters_in([one + other]) == meters_in([one, other]) == {WIDE, TIGHT}
    assert meters_in([b""]) == frozenset()


def test_a_meter_of_another_form_has_no_rate():
    in_packets = bytes.fromhex(DESCRIBED[0].replace("0005", "0006"))
    assert meters_in([in_packets]) == {MeterLimit(number=7, rate_kbps=0, burst_kbit=0)}


def test_what_each_meter_has_dropped_is_what_its_bands_have_met():
    one, other = map(bytes.fromhex, COUNTED)
    assert drops_in([one + other]) == drops_in([one, other]) == {7: 20, 9: 0}
    assert drops_in([b""]) == {}


def test_a_meter_of_several_bands_has_dropped_by_all_and_one_of_none_nothing():
    head = "00000003 {} 000000000000 00000001 000000000000001e 0000000000007530 00000000 00989680"
    several = head.format("0048") + "0000000000000014 0000000000004e20" + "0000000000000003 0000000000000bb8"
    assert drops_in([bytes.fromhex(several)]) == {3: 23}
    assert drops_in([bytes.fromhex(head.format("0028"))]) == {3: 0}
