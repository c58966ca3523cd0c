"""The frozen values that cross package borders, one for each message of `objects.proto`.

Field names and meaning are those of the `.proto` files, which also name each field's author; this module adds Python's
types: UUIDs are `uuid.UUID`, absent ones `None`, closed vocabularies are string enums, lists are tuples. `codec` turns
one form into the other by these names, so a field here without a twin there fails a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from netmgr.contract.groups import TICKETS_MAX, Direction, Ethertype, SecurityGroup, SecurityRule, Ticket, Tickets
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
    "KINDS",
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
    """A set of hosts that networks may span."""

    uuid: UUID
    name: str
    kind: ZoneKind = ZoneKind.OVERLAY


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficClasses:
    """Shares of a PNIC's bandwidth, what each class is sure of when all want more than there is. All 0: not shaped."""

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
    """A forwarding element that every host of its zones realizes as one bridge."""

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
    """A virtual layer 2 on a transport zone."""

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
    """A network's attachment point for one VIF."""

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
class Location:
    """Who is where. The network manager is the only author, by compare-and-swap on the version."""

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
class Withdrawal:
    """A network is hidden from one host or all: running VIFs keep forwarding, no VM starts there or moves there."""

    uuid: UUID
    network_uuid: UUID
    host_uuid: UUID | None = None
    reason: str = ""
    by: str = ""
    since: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VtepAssignment:
    """VTEP address of one host on one switch, as assigned."""

    switch_uuid: UUID
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelPeer:
    """Another host of a switch, as a place where tunnels end."""

    switch_uuid: UUID
    host_uuid: UUID
    host_name: str
    vtep: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfig:
    """What the manager knows of the host it speaks to."""

    uuid: UUID
    name: str
    zone_uuids: tuple[UUID, ...] = ()
    vteps: tuple[VtepAssignment, ...] = ()
    peers: tuple[TunnelPeer, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pnic:
    """A physical NIC as the kernel shows it."""

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
    """What probes through the tunnel tell of the way from one host to another."""

    vtep: str
    host_uuid: UUID | None = None
    type: NetworkType
    state: PeerState
    shared: bool = False
    cut: bool = False
    mtu: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchStatus:
    """How one switch fares on one host, as realized."""

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
    """How one network fares on one host, sent where it is not plainly up."""

    network_uuid: UUID
    status: Status
    health: int
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VifStatus:
    """How one VIF fares on one host."""

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
    """Something of the agent's that somebody else changed on the host, and that is as wanted again."""

    what: str
    at_unix: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """Whole status of a host; replaces the earlier one."""

    pnics: tuple[Pnic, ...] = ()
    switches: tuple[SwitchStatus, ...] = ()
    networks: tuple[NetworkStatus, ...] = ()
    vifs: tuple[VifStatus, ...] = ()
    repairs: tuple[Repair, ...] = ()
    repairs_total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """May this host plug this VIF?"""

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


KINDS: Final[Mapping[type, Kind]] = {
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
"""Under which kind a value is pushed, by its type."""


def kind_of(body: Constructs) -> Kind:
    """The kind under which *body* is pushed."""
    return KINDS[type(body)]


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
