"""Link-local addresses that are made of MACs: as RFC 4291 makes them, and told from all others."""

from __future__ import annotations

from ipaddress import IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from netmgr.contract.link_local import MADE, MADE_MASK, is_link_local, mac_of, made_of


def test_the_address_of_a_mac_is_that_of_the_rfc() -> None:
    assert str(made_of(0x3456789ABCDE)) == "fe80::3656:78ff:fe9a:bcde"
    assert mac_of("fe80::3656:78ff:fe9a:bcde") == "34:56:78:9a:bc:de"


@given(st.integers(0, (1 << 48) - 1))
def test_an_address_tells_the_mac_that_it_is_made_of(mac: int) -> None:
    address = made_of(mac)
    assert mac_of(str(address)) == mac.to_bytes(6, "big").hex(":")
    assert int(address) & MADE_MASK == MADE
    assert is_link_local(str(address))


@given(st.integers(0, (1 << 64) - 1))
def test_an_address_is_made_of_a_mac_if_and_only_if_that_macs_is_the_same(number: int) -> None:
    address = IPv6Address(0xFE80 << 112 | number)
    mac = mac_of(str(address))
    assert (mac != "") == (number >> 24 & 0xFFFF == 0xFFFE)
    assert not mac or made_of(int(mac.replace(":", ""), 16)) == address


def test_what_is_not_link_local_or_no_address_is_made_of_nothing() -> None:
    for text in ("2001:db8::3656:78ff:fe9a:bcde", "fe80:0:0:1:3656:78ff:fe9a:bcde", "fe80::1", "10.0.0.1", "", "fe80"):
        assert mac_of(text) == ""
    assert not is_link_local("169.254.0.1")
