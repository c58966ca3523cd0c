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
    eth_src: str
    eth_dst: str
    protocol: TraceProtocol
    ip_src: str
    ip_dst: str
    source_port: int = 0
    destination_port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceQuestion:
    request_id: int = 0
    network_uuid: UUID
    vif_uuid: UUID | None = None
    from_vtep: str = ""
    frame: TraceFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStep:
    table: str
    priority: int = 0
    match: str = ""
    actions: tuple[str, ...] = ()
    depth: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceEnd:
    kind: TraceEndKind
    vif_uuid: UUID | None = None
    ovs_port: str = ""
    vtep: str = ""
    table: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceAnswer:
    request_id: int = 0
    refusal: str = ""
    steps: tuple[TraceStep, ...] = ()
    ends: tuple[TraceEnd, ...] = ()
