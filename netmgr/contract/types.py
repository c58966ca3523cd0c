"""The frozen values that cross package borders, one for each message of `objects.proto`.

Field names and meaning are those of the `.proto` files, which also name each field's author; this module adds Python's
types: UUIDs are `uuid.UUID`, absent ones `None`, closed vocabularies are string enums, lists are tuples. `codec` turns
one form into the other by these names, so a field here without a twin there fails a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from netmgr.contract.learned import Learned, LearnedAddress, LearnedMac, LearnedSource, NestedMac
from netmgr.contract.trace import (
    TraceAnswer,
    TraceEnd,
    TraceEndKind,
    TraceFrame,
    TraceProtocol,
    TraceQuestion,
    TraceStep,
)

__all__ = [
    "CLAIMS_MAX",
    "SWITCH_PORTS",
    "TICKETS_MAX",
    "Allowance",
    "AttachMode",
    "Claim",
    "ClaimIntent",
    "Constructs",
    "Direction",
    "Ethertype",
    "HostConfig",
    "HostReport",
    "Kind",
    "Learned",
    "LearnedAddress",
    "LearnedMac",
    "LearnedSource",
    "Location",
    "LogicalPort",
    "NestedMac",
    "NetworkStatus",
    "NetworkType",
    "Object",
    "OpaqueNetwork",
    "OpaqueSwitch",
    "PeerState",
    "PeerStatus",
    "Pnic",
    "Ref",
    "ReleaseReason",
    "Repair",
    "SecurityGroup",
    "SecurityRule",
    "Status",
    "SwitchStatus",
    "Teaming",
    "Ticket",
    "Tickets",
    "TraceAnswer",
    "TraceEnd",
    "TraceEndKind",
    "TraceFrame",
    "TraceProtocol",
    "TraceQuestion",
    "TraceStep",
    "TrafficClasses",
    "TransportZone",
    "TunnelPeer",
    "VifState",
    "VifStatus",
    "VtepAssignment",
    "Withdrawal",
    "ZoneKind",
    "identity_of",
    "kind_of",
    "ref_of",
    "switch_facts",
    "why_withdrawn",
]


class ZoneKind(StrEnum):
    OVERLAY = "overlay"
    VLAN = "vlan"


class NetworkType(StrEnum):
    VXLAN = "vxlan"
    GENEVE = "geneve"
    NVGRE = "nvgre"
    VLAN = "vlan"

    @property
    def tunneled(self) -> bool:
        """Whether its frames travel in tunnels between VTEPs; else on the uplink itself, by their VLAN."""
        return self is not NetworkType.VLAN


class AttachMode(StrEnum):
    AUTO = "auto"
    MANUAL = "manual"


class Teaming(StrEnum):
    """How several PNICs share an uplink; only LACP asks anything of the physical switch."""

    SINGLE = "single"
    ACTIVE_BACKUP = "active-backup"
    BALANCE = "balance"
    LACP = "lacp"


class Allowance(StrEnum):
    """What a port's guest may say that no other may."""

    DHCP_SERVER = "dhcp-server"
    NESTED = "nested"
    ROUTER = "router"


class Status(StrEnum):
    UP = "up"
    WARNING = "warning"
    DOWN = "down"
    MAINTENANCE = "maintenance"
    UNAVAILABLE = "unavailable"


class VifState(StrEnum):
    LIT = "lit"
    DARK = "dark"
    INCOMING = "incoming"


class ClaimIntent(StrEnum):
    START = "start"
    MIGRATE_IN = "migrate-in"


class ReleaseReason(StrEnum):
    STOPPED = "stopped"
    ABORTED = "aborted"
    RESUMED = "resumed"


class Direction(StrEnum):
    INGRESS = "ingress"
    EGRESS = "egress"


class Ethertype(StrEnum):
    IPV4 = "ipv4"
    IPV6 = "ipv6"


class Kind(StrEnum):
    """Kinds of pushed object, in the order in which a host needs them."""

    HOST = "host"
    ZONE = "zone"
    SWITCH = "switch"
    NETWORK = "network"
    WITHDRAWAL = "withdrawal"
    SECURITY_GROUP = "security_group"
    PORT = "port"
    LOCATION = "location"
    LEARNED = "learned"

    __hash__ = str.__hash__  # as its text, which it equals; enum's own is slow, and tens of thousands of keys have it


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportZone:
    uuid: UUID
    name: str
    kind: ZoneKind = ZoneKind.OVERLAY


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficClasses:
    tenant_percent: int = 0
    control_percent: int = 0
    management_percent: int = 0
    link_mbps: int = 0

    @property
    def wanted(self) -> bool:
        """False where nothing is to be shaped."""
        return bool(self.tenant_percent or self.control_percent or self.management_percent)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaqueSwitch:
    uuid: UUID
    name: str
    zone_uuids: tuple[UUID, ...]
    pnic_globs: tuple[str, ...] = ("*",)
    mtu: int = 1600
    vtep_pool: str
    teaming: Teaming = Teaming.SINGLE
    traffic_classes: TrafficClasses = TrafficClasses()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaqueNetwork:
    uuid: UUID
    name: str
    type: NetworkType = NetworkType.VXLAN
    zone_uuid: UUID
    switch_uuid: UUID
    segment_id: int
    attach_mode: AttachMode = AttachMode.AUTO
    mtu: int = 1500
    subnets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalPort:
    uuid: UUID
    name: str
    network_uuid: UUID
    vif_uuid: UUID | None = None
    mac: str
    ips: tuple[str, ...] = ()
    admin_up: bool = True
    shadow_of: UUID | None = None
    security_groups: tuple[UUID, ...] = ()
    allow: tuple[Allowance, ...] = ()
    egress_kbps: int = 0
    ingress_kbps: int = 0
    nested: tuple[NestedMac, ...] = ()
    parent_port: UUID | None = None
    tag: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityRule:
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
    uuid: UUID
    name: str
    stateful: bool = True
    rules: tuple[SecurityRule, ...] = ()
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    port_uuid: UUID
    network_uuid: UUID
    holder_host: UUID | None = None
    holder_vtep: str = ""
    incoming_host: UUID | None = None
    incoming_vtep: str = ""
    parked: bool = False
    version: int = 0
    mac: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    protocol: int
    source: str
    destination: str
    source_port: int = 0
    destination_port: int = 0
    outbound: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tickets:
    port_uuid: UUID
    tickets: tuple[Ticket, ...] = ()


TICKETS_MAX = 1000
"""Of one port, at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    uuid: UUID
    network_uuid: UUID
    host_uuid: UUID | None = None
    reason: str = ""
    by: str = ""
    since: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VtepAssignment:
    switch_uuid: UUID
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelPeer:
    switch_uuid: UUID
    host_uuid: UUID
    host_name: str
    vtep: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfig:
    uuid: UUID
    name: str
    zone_uuids: tuple[UUID, ...] = ()
    vteps: tuple[VtepAssignment, ...] = ()
    peers: tuple[TunnelPeer, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pnic:
    name: str
    mac: str = ""
    speed_mbps: int = 0
    link_up: bool = False
    mtu: int = 0


class PeerState(StrEnum):
    NEW = "new"
    UNHEARD = "unheard"
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    vtep: str
    host_uuid: UUID | None = None
    type: NetworkType
    state: PeerState
    shared: bool = False
    cut: bool = False
    mtu: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchStatus:
    switch_uuid: UUID
    status: Status
    health: int
    reasons: tuple[str, ...] = ()
    vteps: tuple[str, ...] = ()
    pnics: tuple[str, ...] = ()
    datapath: str = ""
    peers: tuple[PeerStatus, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkStatus:
    network_uuid: UUID
    status: Status
    health: int
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VifStatus:
    vif_uuid: UUID
    port_uuid: UUID | None = None
    network_uuid: UUID | None = None
    state: VifState
    reason: str = ""
    ovs_port: str = ""
    vm_uuid: UUID | None = None
    mac: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    what: str
    at_unix: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    pnics: tuple[Pnic, ...] = ()
    switches: tuple[SwitchStatus, ...] = ()
    networks: tuple[NetworkStatus, ...] = ()
    vifs: tuple[VifStatus, ...] = ()
    repairs: tuple[Repair, ...] = ()
    repairs_total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    request_id: int = 0
    vif_uuid: UUID
    network_uuid: UUID | None = None
    mac: str = ""
    vm_uuid: UUID | None = None
    vm_name: str = ""
    intent: ClaimIntent


CLAIMS_MAX = 500
"""In one message."""


Constructs = (
    TransportZone
    | OpaqueSwitch
    | OpaqueNetwork
    | Withdrawal
    | SecurityGroup
    | LogicalPort
    | Location
    | Learned
    | HostConfig
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """One pushed object with the revision of its last change, as one host sees it."""

    version: int
    body: Constructs


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Ref:
    """Names one object; the version is the one held, 0 where none is meant."""

    kind: Kind
    uuid: UUID
    version: int = 0


_KINDS: dict[type, Kind] = {
    HostConfig: Kind.HOST,
    TransportZone: Kind.ZONE,
    OpaqueSwitch: Kind.SWITCH,
    OpaqueNetwork: Kind.NETWORK,
    Withdrawal: Kind.WITHDRAWAL,
    SecurityGroup: Kind.SECURITY_GROUP,
    LogicalPort: Kind.PORT,
    Location: Kind.LOCATION,
    Learned: Kind.LEARNED,
}


def kind_of(body: Constructs) -> Kind:
    """The kind under which *body* is pushed."""
    return _KINDS[type(body)]


def identity_of(body: Constructs) -> UUID:
    """The UUID by which *body* goes: a location and what was learned go by their port's."""
    return body.port_uuid if isinstance(body, Location | Learned) else body.uuid


def ref_of(item: Object) -> Ref:
    """Reference to *item* at its version."""
    return Ref(kind=kind_of(item.body), uuid=identity_of(item.body), version=item.version)


SWITCH_PORTS = 0xFEFF - 16  # OpenFlow numbers ports up to 0xfeff; some are not VIFs


def switch_facts(report: HostReport, status: SwitchStatus, networks: Mapping[UUID, OpaqueNetwork]) -> dict[str, str]:
    """What manager and host both tell of a switch beside its status: datapath, free ports, Mbit/s of its PNICs."""
    mine = [networks.get(vif.network_uuid) for vif in report.vifs if vif.network_uuid is not None]
    taken = sum(network is not None and network.switch_uuid == status.switch_uuid for network in mine)
    link_mbps = sum(pnic.speed_mbps for pnic in report.pnics if pnic.name in status.pnics and pnic.link_up)
    found = {"datapath": status.datapath, "free_ports": str(SWITCH_PORTS - taken)}
    return found | ({"link_mbps": str(link_mbps)} if link_mbps else {})


def why_withdrawn(withdrawal: Withdrawal, *, network: str, host: str = "") -> str:
    """The sentence that manager and host both say: what is hidden from whom, by whom, since when, why.

    *network* and *host* are names; *host* is needed only where the withdrawal is of one host.
    """
    whom = "all hosts" if withdrawal.host_uuid is None else f"host {host or withdrawal.host_uuid}"
    who = f"by {withdrawal.by} since {withdrawal.since}"
    return f"network {network} is withdrawn from {whom} {who}: {withdrawal.reason}"
