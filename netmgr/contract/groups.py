"""The part of the contract's values that is about security groups and the connections they let through; see `types`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

__all__ = [
    "TICKETS_MAX",
    "Direction",
    "Ethertype",
    "SecurityGroup",
    "SecurityRule",
    "Ticket",
    "Tickets",
    "why_unmatched",
]


class Direction(StrEnum):
    INGRESS = "ingress"
    EGRESS = "egress"


class Ethertype(StrEnum):
    IPV4 = "ipv4"
    IPV6 = "ipv6"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityRule:
    """What a security group allows: packets that match all of it. There are no rules that deny."""

    direction: Direction
    ethertype: Ethertype = Ethertype.IPV4
    protocol: str = "any"
    port_min: int = 0
    port_max: int = 0
    icmp_type: int = -1
    icmp_code: int = -1
    remote_cidr: str = ""
    remote_group: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityGroup:
    """A set of ports and what they may send and receive. A port with groups may do what one of them allows, and nothing
    else."""

    uuid: UUID
    name: str
    stateful: bool = True
    rules: tuple[SecurityRule, ...] = ()
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A connection through stateful security groups, as the connection tracker of a host knows it."""

    protocol: int
    source: str
    destination: str
    source_port: int = 0
    destination_port: int = 0
    outbound: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tickets:
    """Connections of a guest that is migrating: its new host lets replies of these pass, which it would take for
    beginnings."""

    port_uuid: UUID
    tickets: tuple[Ticket, ...] = ()


TICKETS_MAX = 1000
"""Of one port, at once."""


def why_unmatched(*, port: str, group: str, rules_of: str, define_on: str) -> str:
    """The sentence that manager and host both say of a member that no rule can meet: a group knows its members by their
    defined addresses, and *port* has none.

    *rules_of* are the groups whose rules name *group*, in words; *define_on* is the port to set them on: itself, or
    its primary. Ports are written NETWORK/PORT.
    """
    return (
        f"port {port} of group {group} has no defined addresses: rules of {rules_of} that name {group} as the other "
        f"end never match it; define them: netmgr port set {define_on} --ip ADDRESS"
    )
