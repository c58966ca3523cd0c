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
    mac: str
    ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedAddress:
    address: str
    source: LearnedSource
    since: str = ""
    refused: str = ""
    mac: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedMac:
    mac: str
    since: str = ""
    refused: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    port_uuid: UUID
    network_uuid: UUID
    addresses: tuple[LearnedAddress, ...] = ()
    macs: tuple[LearnedMac, ...] = ()
