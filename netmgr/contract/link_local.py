"""What manager and hosts both must know of IPv6 link-local addresses (RFC 4291). Pure.

Guests make them by themselves, in more ways than one. The oldest says of which MAC an address is made, and hence whose
it is whether or not it was ever seen: the modified EUI-64 of the MAC behind fe80::/64 (appendix A). Every other is
whoever's uses it first.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

__all__ = ["MADE", "MADE_MASK", "is_link_local", "mac_of", "made_of"]

MADE, MADE_MASK = 0xFE80 << 112 | 0xFFFE << 24, (1 << 128) - (1 << 64) | 0xFFFF << 24
"""What all addresses that are made of MACs have in common, and in which bits."""

_LOCAL_BIT = 0x02 << 40


def made_of(mac: int) -> IPv6Address:
    """The link-local address that is made of *mac*."""
    mac ^= _LOCAL_BIT
    return IPv6Address(MADE | mac >> 24 << 40 | mac & 0xFFFFFF)


def mac_of(address: str) -> str:
    """The MAC that *address* is made of; empty for one that is made of none, and for what is no address."""
    if not is_link_local(address):
        return ""
    number = int(ip_address(address))
    if number & MADE_MASK != MADE:
        return ""
    mac = (number >> 40 & 0xFFFFFF) << 24 | number & 0xFFFFFF
    return (mac ^ _LOCAL_BIT).to_bytes(6, "big").hex(":")


def is_link_local(address: str) -> bool:
    """True for an IPv6 link-local address; False for others, and for what is no address."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return isinstance(found, IPv6Address) and found.is_link_local
