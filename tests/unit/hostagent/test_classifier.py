"""Filters of the kernel, as it tells them."""

from __future__ import annotations

import sys

import pytest

from hostagent.qos import filters_of
from hostagent.realize.classifier import keys_of

# `tc_u32_sel` (the third byte counts its keys) and each `tc_u32_key`, of a machine with the lowest byte first.
TWO, ONE = "01000200 00000000 00000000 00000000", "01000100 00000000 00000000 00000000"
TOLD = {
    "VXLAN": f"{TWO} ff000000 11000000 09000000 00000000 ffff0000 12b50000 16000000 00000000",
    "TCP": f"{TWO} ff000000 06000000 06000000 00000000 ffff0000 1d140000 28000000 00000000",
    "ND": f"{TWO} ff000000 3a000000 06000000 00000000 fc000000 84000000 28000000 00000000",
    "all": f"{ONE} 00000000 00000000 00000000 00000000",
}
KEYS = {
    "VXLAN": ((17, 0xFF, 9), (4789, 0xFFFF, 22)),
    "TCP": ((6, 0xFF, 6), (7444, 0xFFFF, 40)),
    "ND": ((58, 0xFF, 6), (0x84, 0xFC, 40)),
    "all": (),
}


@pytest.mark.skipif(sys.byteorder != "little", reason="captured on a machine with the lowest byte first")
@pytest.mark.parametrize("name", KEYS)
def test_a_filter_is_read_back_with_the_keys_it_was_made_of(name: str) -> None:
    assert keys_of(bytes.fromhex(TOLD[name])) == KEYS[name]
    assert KEYS[name] in {one.keys for one in filters_of((7444,))}
