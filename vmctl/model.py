"""The compute manager's vocabulary: hosts, VMs, what a host says of its networks, and moves.

A host's networks are known by its own word only (`HostView`, read through OpaqueView) and a VM's whereabouts by
libvirt's only (`Vm`). A part that could not be asked is an `Unread` with the reason; it is never taken as absent.
`Host`, `VmRecord` and `Migration` are what the store keeps. Nothing here does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from netmgr.contract.types import Status, VifState

__all__ = [
    "Candidate",
    "Code",
    "Disk",
    "Host",
    "HostView",
    "Migration",
    "MigrationState",
    "NetworkView",
    "Refusal",
    "SwitchView",
    "Unread",
    "Vif",
    "VifSpec",
    "VifView",
    "Virt",
    "Vm",
    "VmRecord",
    "VmSpec",
    "VmState",
    "VmctlError",
    "Zone",
]


class Code(StrEnum):
    """Why a VM may not go to a host."""

    HOST_UNREAD = "host-unread"
    ALREADY_THERE = "already-there"
    NOT_RUNNING = "not-running"
    NETWORK_ABSENT = "network-absent"
    NETWORK_UNKNOWN = "network-unknown"
    NETWORK_UNHEALTHY = "network-unhealthy"
    SWITCH_UNHEALTHY = "switch-unhealthy"
    NOT_IN_SYNC = "not-in-sync"
    MANAGER_AWAY = "manager-away"
    LIBVIRT_UNREAD = "libvirt-unread"
    PEER_UNREACHABLE = "peer-unreachable"
    MOVING = "moving"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One reason, as a code for programs and a sentence for people."""

    host: str
    code: Code
    sentence: str
    network_uuid: UUID | None = None


class VmctlError(Exception):
    """A request that is refused or has failed; the message is the sentence for the user.

    `status` is the HTTP status that says whose fault it is: 400 bad definition, 404 unknown, 409 in conflict with what
    is there, 502 a host failed, 503 not now.
    """

    def __init__(self, sentence: str, *, status: int = 400, refusals: tuple[Refusal, ...] = ()) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.status = status
        self.refusals = refusals


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """A host that could not be asked, and why."""

    host: str
    reason: str


# --- hosts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A hypervisor as an administrator has added it. `uuid` is its identity in the network manager's certificates."""

    name: str
    libvirt_uri: str
    peer_uri: str  # by which other hosts' libvirt reaches it
    migration_address: str
    agent_address: str = ""
    uuid: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    uuid: UUID
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchView:
    uuid: UUID
    name: str
    status: Status
    health: int = 100
    reasons: tuple[str, ...] = ()
    userspace: bool = False  # its datapath runs in user space: guests must not offload checksums to it


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkView:
    uuid: UUID
    name: str
    type: str = ""
    zone_uuids: tuple[UUID, ...] = ()
    switch_uuid: UUID | None = None
    status: Status
    health: int = 100
    reasons: tuple[str, ...] = ()
    libvirt_network: str = ""  # name under which the host's libvirt knows it
    mtu: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class VifView:
    uuid: UUID
    state: VifState
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """One host's word on its networks. `host` is vmctl's name of it."""

    host: str
    host_uuid: UUID | None = None
    in_sync: bool = True
    manager_connected: bool = True
    sync_age_s: float = 0.0
    zones: tuple[Zone, ...] = ()
    switches: tuple[SwitchView, ...] = ()
    networks: tuple[NetworkView, ...] = ()
    vifs: tuple[VifView, ...] = ()

    def network(self, uuid: UUID) -> NetworkView | None:
        """The network of that UUID, None when the host does not carry it."""
        return next((n for n in self.networks if n.uuid == uuid), None)

    def switch(self, uuid: UUID | None) -> SwitchView | None:
        """The switch of that UUID, None when the host does not carry it."""
        return next((s for s in self.switches if s.uuid == uuid), None)


Candidate = HostView | Unread

# --- VMs ----------------------------------------------------------------------------------------------------------


class VmState(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    SHUT_OFF = "shut off"
    CRASHED = "crashed"
    SUSPENDED = "suspended"
    UNDEFINED = "undefined"  # in our store, on no host's libvirt
    UNKNOWN = "unknown"  # its host, or the one that may have it, cannot be asked

    @property
    def active(self) -> bool:
        """True while a QEMU process exists for it."""
        return self in (VmState.RUNNING, VmState.PAUSED, VmState.SUSPENDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vif:
    """A VM's virtual NIC as libvirt shows it. `network_uuid` is None where it is on no libvirt network."""

    uuid: UUID | None = None
    mac: str = ""
    network_name: str = ""
    network_uuid: UUID | None = None
    opaque: bool = False  # the network belongs to the network manager
    tap: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """A VM as one host's libvirt shows it."""

    uuid: UUID
    name: str
    host: str
    state: VmState
    persistent: bool = True
    memory_mib: int = 0
    vcpus: int = 0
    vifs: tuple[Vif, ...] = ()
    ours: bool = False  # defined by vmctl


class Virt(StrEnum):
    AUTO = "auto"
    KVM = "kvm"
    QEMU = "qemu"


@dataclass(frozen=True, slots=True, kw_only=True)
class VifSpec:
    """A virtual NIC as asked for; `ip` is a note of the address the guest will use, shown and nothing more."""

    network: str  # name or UUID
    ip: str = ""
    mac: str = ""
    vif_uuid: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    path: str
    format: str = "qcow2"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSpec:
    """A VM as asked for. With `xml`, that domain is taken and only its NICs and its mark of ownership are added."""

    name: str
    memory_mib: int = 512
    vcpus: int = 1
    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""
    disks: tuple[Disk, ...] = ()
    vifs: tuple[VifSpec, ...] = ()
    virt: Virt = Virt.AUTO
    xml: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VmRecord:
    """A VM that vmctl has defined: where it is at home, and whether it is meant to run."""

    uuid: UUID
    name: str
    host: str
    xml: str
    wanted: VmState  # RUNNING or SHUT_OFF
    ips: tuple[str, ...] = ()


# --- moves --------------------------------------------------------------------------------------------------------


class MigrationState(StrEnum):
    PLANNED = "planned"  # asked for, nothing looked at
    CHECKED = "checked"  # destination eligible by its own word
    MIGRATING = "migrating"  # handed to libvirt; only the two libvirts know how it ends
    DONE = "done"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """True when nothing more happens."""
        return self in (MigrationState.DONE, MigrationState.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """A row of the journal. Times of the result are milliseconds, None where libvirt did not tell."""

    id: int
    vm_uuid: UUID
    vm_name: str
    source: str
    destination: str
    state: MigrationState
    sentence: str = ""
    started_at: str = ""  # RFC 3339, UTC
    changed_at: str = ""
    total_ms: int | None = None
    downtime_ms: int | None = None
    transferred_mib: int | None = None
