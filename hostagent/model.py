"""The agent's vocabulary: what is wanted on this host, what was read back, and the steps between.

The data flow of the agent is the list of these types: `Desired` (from the store on disk) and `Observed` (from OVSDB,
OpenFlow, netlink, libvirt) go into `plan.plan()`, which answers with `Step`s; the modules of `realize` carry steps out
and read back. Nothing here does I/O. An unreadable part of the host is an `Unread` value: no plan removes what it has
not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import UUID

from netmgr.contract.types import (
    HostConfig,
    Location,
    LogicalPort,
    OpaqueNetwork,
    OpaqueSwitch,
    TransportZone,
    Withdrawal,
)

if TYPE_CHECKING:
    from hostagent.flow import Flow

__all__ = [
    "AddAddress",
    "Bridge",
    "ChangeFlows",
    "DefineNetwork",
    "Desired",
    "Interface",
    "LibvirtNetwork",
    "Link",
    "Observed",
    "OvsPort",
    "Phase",
    "Plug",
    "PutBridge",
    "PutPort",
    "RemoveAddress",
    "RemoveBridge",
    "RemoveNetwork",
    "RemovePort",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """Everything wanted on this host. Ports and locations: those of subscribed networks, and those this host holds."""

    host: HostConfig | None = None
    zones: Mapping[UUID, TransportZone] = field(default_factory=dict)
    switches: Mapping[UUID, OpaqueSwitch] = field(default_factory=dict)
    networks: Mapping[UUID, OpaqueNetwork] = field(default_factory=dict)
    ports: Mapping[UUID, LogicalPort] = field(default_factory=dict)
    locations: Mapping[UUID, Location] = field(default_factory=dict)  # by port UUID
    withdrawals: Mapping[UUID, Withdrawal] = field(default_factory=dict)  # by network UUID
    offered_pnics: tuple[str, ...] = ()
    datapath: str = "system"  # "system" or "netdev"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class OvsPort:
    name: str
    interfaces: tuple[Interface, ...] = ()
    external_ids: Mapping[str, str] = field(default_factory=dict)
    bond_mode: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    name: str
    datapath_type: str = ""
    fail_mode: str = ""
    external_ids: Mapping[str, str] = field(default_factory=dict)
    other_config: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[OvsPort, ...] = ()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class LibvirtNetwork:
    uuid: UUID
    name: str
    bridge: str = ""
    mtu: int = 0
    ours: bool = False  # carries our metadata element
    active: bool = False
    autostart: bool = False
    as_defined: bool = True  # False: something else in its XML differs from what we define


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One reading of the host."""

    bridges: tuple[Bridge, ...] | Unread = ()
    links: tuple[Link, ...] | Unread = ()
    libvirt_networks: tuple[LibvirtNetwork, ...] | Unread = ()
    flows: Mapping[str, frozenset[Flow] | Unread] = field(default_factory=dict)  # by bridge; only our bridges are read


# --- steps --------------------------------------------------------------------------------------------------------
# Each is idempotent: "put" makes or mends, "remove" of what is gone succeeds.


@dataclass(frozen=True, slots=True, kw_only=True)
class PutBridge:
    name: str
    datapath_type: str
    fail_mode: str
    external_ids: Mapping[str, str]
    other_config: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveBridge:
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PutPort:
    """A port with its interfaces; more than one interface makes a bond.

    A port named as its bridge is the bridge's LOCAL port: only its `mtu_request` is set.
    """

    bridge: str
    name: str
    interfaces: tuple[Interface, ...]
    external_ids: Mapping[str, str]
    bond_mode: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovePort:
    bridge: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLink:
    """Bring a link up and give it an MTU; None leaves the MTU alone."""

    name: str
    mtu: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AddAddress:
    link: str
    address: str  # CIDR


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveAddress:
    link: str
    address: str  # CIDR


@dataclass(frozen=True, slots=True, kw_only=True)
class DefineNetwork:
    """Define the libvirt network, redefining it where it differs; start it and set autostart."""

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


Step = (
    PutBridge
    | RemoveBridge
    | PutPort
    | RemovePort
    | SetLink
    | AddAddress
    | RemoveAddress
    | DefineNetwork
    | RemoveNetwork
    | ChangeFlows
)
