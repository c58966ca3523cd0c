"""What a frame would meet: the values of a trace's question and answer, as `types` has the others (`sync.proto`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

__all__ = [
    "TraceAnswer",
    "TraceEnd",
    "TraceEndKind",
    "TraceFrame",
    "TraceProtocol",
    "TraceQuestion",
    "TraceStep",
]


class TraceEndKind(StrEnum):
    VIF = "vif"
    ANSWERED = "answered"
    TUNNEL = "tunnel"
    UPLINK = "uplink"
    PORT = "port"
    DROPPED = "dropped"


class TraceProtocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"
    ARP = "arp"


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFrame:
    """A frame that nobody sends: what a switch is asked about."""

    eth_src: str
    eth_dst: str
    protocol: TraceProtocol
    ip_src: str
    ip_dst: str
    source_port: int = 0
    destination_port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceQuestion:
    """What would the host's switch do with a frame? Nothing is sent, nothing is counted."""

    request_id: int = 0
    network_uuid: UUID
    vif_uuid: UUID | None = None
    from_vtep: str = ""
    frame: TraceFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStep:
    """One flow that the frame met, in the order in which it met them."""

    table: str
    priority: int = 0
    match: str = ""
    actions: tuple[str, ...] = ()
    depth: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceEnd:
    """Where one copy of the frame leaves the switch, or where it ended."""

    kind: TraceEndKind
    vif_uuid: UUID | None = None
    ovs_port: str = ""
    vtep: str = ""
    table: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceAnswer:
    """Answer to a TraceQuestion."""

    request_id: int = 0
    refusal: str = ""
    steps: tuple[TraceStep, ...] = ()
    ends: tuple[TraceEnd, ...] = ()
