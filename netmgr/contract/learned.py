"""The part of the contract's values that is about MACs behind a VIF and what is learned from guests; see `types`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

__all__ = ["Learned", "LearnedAddress", "LearnedMac", "LearnedSource", "NestedMac"]


class LearnedSource(StrEnum):
    ARP = "arp"
    ND = "nd"
    DHCP = "dhcp"


@dataclass(frozen=True, slots=True, kw_only=True)
class NestedMac:
    """A further MAC behind a port's VIF: of a guest within the guest, or a host of a physical segment."""

    mac: str
    ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedAddress:
    """One address that a port without defined addresses was seen to use, or one of another port's that its guest has
    only *probed* for."""

    address: str
    source: LearnedSource
    since: str = ""
    refused: str = ""
    mac: str = ""
    probed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedMac:
    """A MAC that was seen behind a port that is allowed "nested"."""

    mac: str
    since: str = ""
    refused: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What was learned of a port: MACs behind it, and addresses of those of its MACs that have none defined."""

    port_uuid: UUID
    network_uuid: UUID
    addresses: tuple[LearnedAddress, ...] = ()
    macs: tuple[LearnedMac, ...] = ()
