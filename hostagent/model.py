"""The agent's vocabulary: what is wanted on this host, what was read back, and the steps between.

The data flow of the agent is the list of these types: `Desired` (from the store on disk) and `Observed` (from OVSDB,
OpenFlow, netlink, libvirt) go into `plan.plan()`, which answers with `Step`s; the modules of `realize` carry steps out
and read back. Nothing here does I/O. An unreadable part of the host is an `Unread` value: no plan removes what it has
not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from netmgr.contract.types import (
    HostConfig,
    Learned,
    Location,
    LogicalPort,
    NetworkType,
    OpaqueNetwork,
    OpaqueSwitch,
    PeerState,
    SecurityGroup,
    Ticket,
    TransportZone,
    Withdrawal,
)

if TYPE_CHECKING:
    from hostagent.flow import Flow

__all__ = [
    "CONTROL_PORTS",
    "AddAddress",
    "Bridge",
    "ChangeFlows",
    "ChangeMeters",
    "Classifier",
    "DefineNetwork",
    "Desired",
    "Filter",
    "Interface",
    "KeepNetwork",
    "LibvirtNetwork",
    "Link",
    "MeterLimit",
    "Observed",
    "OvsPort",
    "PathKey",
    "PathStatus",
    "Phase",
    "Plug",
    "PutBridge",
    "PutNormal",
    "PutPort",
    "PutQos",
    "Qos",
    "Queue",
    "RemoveAddress",
    "RemoveBridge",
    "RemoveNetwork",
    "RemovePort",
    "RemoveQos",
    "SetArpIgnore",
    "SetClassifier",
    "SetLink",
    "Step",
    "Unread",
]


@dataclass(frozen=True, slots=True)
class Unread:
    """A part of the host that could not be read, and why. It is not absent."""

    reason: str


class Phase(StrEnum):
    """Where a port stands on this host, beyond what its location says (see `migration`)."""

    STEADY = "steady"  # the location says it all
    REDIRECTING = "redirecting"  # source, guest paused: send what arrives on to the incoming host
    RELAYING = "relaying"  # source, after the location has moved: peers may still send here
    INCOMING = "incoming"  # destination, guest not running yet: accept only what the source sends on
    ACTIVATED = "activated"  # destination, guest runs; netmgr has not moved the location yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Plug:
    """A VIF that the virtualization software plugged and has not taken back: its port on the switch's bridge.

    Should the port vanish from OVSDB while its link still exists, the port is put back.
    """

    bridge: str
    port: str
    external_ids: Mapping[str, str]  # of the Interface


CONTROL_PORTS: Final = (7443, 7444, 7445)
"""TCP ports of the manager's API and stream, and of agents' views, where nobody has said otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """Everything wanted on this host. Ports and locations: those of subscribed networks, and those this host holds."""

    host: HostConfig | None = None
    zones: Mapping[UUID, TransportZone] = field(default_factory=dict)
    switches: Mapping[UUID, OpaqueSwitch] = field(default_factory=dict)
    networks: Mapping[UUID, OpaqueNetwork] = field(default_factory=dict)
    ports: Mapping[UUID, LogicalPort] = field(default_factory=dict)
    locations: Mapping[UUID, Location] = field(default_factory=dict)  # by port UUID
    learned: Mapping[UUID, Learned] = field(default_factory=dict)  # by port UUID
    port_by_vif: Mapping[UUID, UUID] | None = None  # None where it is to be looked up in the ports
    hushed: frozenset[UUID] = frozenset()  # ports and networks of whose frames no copies are made
    # no manager has been reached for a while: a guest that was stopped elsewhere may run again, unheard of
    alone: bool = False
    # by network with VIFs here whose ports elsewhere are not known: since when no manager has been reached
    unheard: Mapping[UUID, str] = field(default_factory=dict)
    withdrawals: Mapping[UUID, Withdrawal] = field(default_factory=dict)  # by network UUID
    groups: Mapping[UUID, SecurityGroup] = field(default_factory=dict)
    ct_zones: Mapping[UUID, int] = field(default_factory=dict)  # zone of the connection tracker, by port UUID
    # by port UUID: the most connections that it may have, of those that have as many
    ct_full: Mapping[UUID, int] = field(default_factory=dict)
    ct_unlimited: str = ""  # why ports may have any number of connections, though they should not
    # by port UUID: connections that its guest had where it came from; empty is always safe
    tickets: Mapping[UUID, tuple[Ticket, ...]] = field(default_factory=dict)
    offered_pnics: tuple[str, ...] = ()
    datapath: str = "system"  # "system" or "netdev"
    control_ports: tuple[int, ...] = CONTROL_PORTS  # by which managers and agents talk, sorted
    phases: Mapping[UUID, Phase] = field(default_factory=dict)  # by port UUID; absent means STEADY
    # by port UUID: VTEP the port moved away to (RELAYING) or comes from (INCOMING, ACTIVATED)
    relay_vteps: Mapping[UUID, str] = field(default_factory=dict)
    plugs: Mapping[UUID, Plug] = field(default_factory=dict)  # by VIF UUID; empty is always safe


# --- what was read back -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """A row of OVSDB's Interface. `ofport` is None until the datapath has given one, -1 when it refused."""

    name: str
    type: str = ""
    ofport: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    external_ids: Mapping[str, str] = field(default_factory=dict)
    mtu: int | None = None
    mtu_request: int | None = None
    link_state: str = ""
    error: str = ""
    lacp_current: bool | None = None  # the partner's word is fresh; None where LACP is not spoken


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A row of OVSDB's Queue, of kind linux-htb: what it is sure of, what it may take, who goes first (0)."""

    min_bps: int
    max_bps: int
    priority: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Qos:
    """A row of OVSDB's QoS: a port shaped by HTB. Queue 0 takes what no classifier sends to another."""

    max_bps: int
    queues: tuple[Queue, ...] = ()  # by number
    ours: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterLimit:
    """A meter of a bridge that drops what exceeds a rate; `rate_kbps` 0 where it is one of another form."""

    number: int
    rate_kbps: int
    burst_kbit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OvsPort:
    """A port of a bridge, as OVSDB shows it."""

    name: str
    interfaces: tuple[Interface, ...] = ()
    external_ids: Mapping[str, str] = field(default_factory=dict)
    bond_mode: str = ""
    lacp: str = ""
    other_config: Mapping[str, str] = field(default_factory=dict)
    vlan_mode: str = ""
    trunks: tuple[int, ...] = ()  # VLANs that it carries, sorted; none means all
    tag: int | None = None  # the VLAN that it is in, untagged
    qos: Qos | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """A bridge of the host, ours or not, as OVSDB shows it."""

    name: str
    datapath_type: str = ""
    fail_mode: str = ""
    external_ids: Mapping[str, str] = field(default_factory=dict)
    other_config: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[OvsPort, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Filter:
    """Frames of an Ethernet type in which all `keys` hold go to `queue`."""

    protocol: int
    queue: int
    keys: tuple[tuple[int, int, int], ...] = ()  # value, mask, byte of the packet after the Ethernet header


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """What sorts frames into the queues of a link: ours only."""

    filters: tuple[Filter, ...] = ()  # sorted
    queue_bytes: int = 0  # length of each queue; 0 for the kernel's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A kernel interface; `addresses` are CIDRs, `speed_mbps` is 0 when the driver does not say."""

    name: str
    mac: str = ""
    mtu: int = 0
    admin_up: bool = False
    carrier: bool = False
    speed_mbps: int = 0
    addresses: tuple[str, ...] = ()
    master: str = ""  # name of the kernel bridge or bond that holds it; "ovs-system" does not count
    arp_ignore: int | None = None  # for whom it answers ARP (ip-sysctl), 0 for all; None: it has no IPv4
    classifier: Classifier | None = None  # None where Open vSwitch does not shape the link


@dataclass(frozen=True, slots=True, kw_only=True)
class LibvirtNetwork:
    """A network of this host's libvirt, ours or not."""

    uuid: UUID
    name: str
    bridge: str = ""
    mtu: int = 0
    ours: bool = False  # carries our metadata element
    active: bool = False
    autostart: bool = False
    persistent: bool = True  # False: libvirt has it for as long as it is active
    as_defined: bool = True  # False: something else in its XML differs from what we define


class PathKey(NamedTuple):
    """The way from this host to one peer: a switch, a tunnel type on it, and the peer's VTEP."""

    switch: UUID
    type: NetworkType
    vtep: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStatus:
    """What is known of one path. Sizes are of the outer IP packet, in bytes."""

    key: PathKey
    state: PeerState
    shared: bool = True  # a port that needs it lives there; False where it is only asked for comparison
    cut: bool = False  # nothing is sent there
    mtu_passed: int = 0  # the largest known to arrive, when it was last known to the byte
    mtu_refused: int = 0  # the smallest that does not; 0 while what is wanted passes, or nothing is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One reading of the host."""

    bridges: tuple[Bridge, ...] | Unread = ()
    links: tuple[Link, ...] | Unread = ()
    libvirt_networks: tuple[LibvirtNetwork, ...] | Unread = ()
    flows: Mapping[str, Set[Flow] | Unread] = field(default_factory=dict)  # by bridge; only our bridges are read
    meters: Mapping[str, frozenset[MeterLimit]] = field(default_factory=dict)  # by bridge; absent: not read
    loose_qos: tuple[UUID, ...] = ()  # rows of ours that no port has any more
    silent_uplinks: frozenset[str] = frozenset()  # bridges whose flow for all that no other takes is gone
    paths: tuple[PathStatus, ...] = ()  # what probes tell of the underlay; empty where nobody asks


# --- steps --------------------------------------------------------------------------------------------------------
# Each is idempotent: "put" makes or mends, "remove" of what is gone succeeds.


@dataclass(frozen=True, slots=True, kw_only=True)
class PutBridge:
    """Make the bridge, or bring it to this."""

    name: str
    datapath_type: str
    fail_mode: str
    external_ids: Mapping[str, str]
    other_config: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveBridge:
    """Remove the bridge with all its ports."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PutPort:
    """A port with its interfaces; more than one interface makes a bond.

    A port named as its bridge is the bridge's LOCAL port: only its `mtu_request` is set, and its `tag` where there is
    none. With `trunks` it carries these VLANs only, tagged; without, nothing is said of VLANs.
    """

    bridge: str
    name: str
    interfaces: tuple[Interface, ...]
    external_ids: Mapping[str, str]
    bond_mode: str = ""
    lacp: str = ""
    other_config: Mapping[str, str] = field(default_factory=dict)
    trunks: tuple[int, ...] = ()
    tag: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovePort:
    """Take the port out of its bridge."""

    bridge: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLink:
    """Bring a link up and give it an MTU; None leaves the MTU alone."""

    name: str
    mtu: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetArpIgnore:
    """Have a link answer ARP for the addresses that `arp_ignore` (ip-sysctl) names: 1, its own."""

    link: str
    arp_ignore: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AddAddress:
    """Give the link an address."""

    link: str
    address: str  # CIDR


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveAddress:
    """Take the address from the link."""

    link: str
    address: str  # CIDR


@dataclass(frozen=True, slots=True, kw_only=True)
class DefineNetwork:
    """Give libvirt the network, active, redefining it where it differs. From then on guests can be started on it; a new
    one is libvirt's for as long as it is active, until `KeepNetwork`."""

    uuid: UUID
    name: str
    bridge: str
    mtu: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepNetwork:
    """Have libvirt keep an active network of ours when it stops or the host boots: definition and autostart."""

    uuid: UUID
    name: str
    bridge: str
    mtu: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveNetwork:
    """Undefine a libvirt network of ours, and stop it."""

    uuid: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeFlows:
    """Delete, then add, in one atomic bundle closed by a barrier."""

    bridge: str
    delete: tuple[Flow, ...]
    add: tuple[Flow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PutNormal:
    """Have an uplink bridge switch what no other of its flows takes, as a bridge does that nobody controls."""

    bridge: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeMeters:
    """Make the meters *put*, and delete those of the numbers *remove*: flows that use them must be gone before."""

    bridge: str
    put: tuple[MeterLimit, ...] = ()
    remove: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PutQos:
    """Shape a port so; None ends our shaping. A QoS of somebody else's is refused."""

    bridge: str
    name: str
    qos: Qos | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveQos:
    """Delete a QoS row of ours that no port refers to."""

    uuid: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class SetClassifier:
    """Have the kernel send what leaves by a link to the queues of its QoS; no filters: none of ours stay.

    `queue_bytes` is the length of each queue, of queue 0 where there are no filters; 0 leaves the kernel's own.
    """

    link: str
    filters: tuple[Filter, ...]
    queue_bytes: int = 0


Step = (
    PutBridge
    | RemoveBridge
    | PutPort
    | RemovePort
    | SetLink
    | SetArpIgnore
    | AddAddress
    | RemoveAddress
    | DefineNetwork
    | KeepNetwork
    | RemoveNetwork
    | ChangeFlows
    | PutNormal
    | ChangeMeters
    | PutQos
    | RemoveQos
    | SetClassifier
)
