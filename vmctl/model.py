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
    "Event",
    "Host",
    "HostView",
    "Migration",
    "MigrationState",
    "MoveKind",
    "MovePolicy",
    "NetworkView",
    "Refusal",
    "SwitchView",
    "Task",
    "TaskState",
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
    SWITCH_ABSENT = "switch-absent"
    SWITCH_ISOLATED = "switch-isolated"
    HOST_MAINTENANCE = "host-maintenance"
    PORT_GROUP_ABSENT = "port-group-absent"
    PORTS_SHORT = "ports-short"
    CPU_SHORT = "cpu-short"
    MEMORY_SHORT = "memory-short"
    DISK_SHORT = "disk-short"
    BANDWIDTH_SHORT = "bandwidth-short"
    MTU_DIFFERS = "mtu-differs"
    NOT_OFF = "not-off"
    AFFINITY = "affinity"
    ANTI_AFFINITY = "anti-affinity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One reason, as a code for programs and a sentence for people."""

    host: str
    code: Code
    sentence: str
    network_uuid: UUID | None = None


class VmctlError(Exception):
    """A request that is refused or has failed; the message is the sentence for the user.

    `status` is the HTTP status that says whose fault it is: 400 bad definition, 403 not vmctl's to change, 404 unknown,
    409 in conflict with what is there, 502 a host failed, 503 not now.
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
    migration_mbps: int = 0  # of the link that `migration_address` is on; 0 where it is not known


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
    zone_uuids: tuple[UUID, ...] = ()
    link_mbps: int | None = None  # of its PNICs that have a link; None where the host does not tell
    free_ports: int | None = None  # VIFs that it can still take; None where the host does not tell
    pnics: tuple[str, ...] = ()
    load_mbps: int | None = None  # traffic of its PNICs of late; None where the host does not tell


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
        wanted = uuid.int  # UUID's own comparison is four times as slow, and 10,000 hosts are asked
        return next((n for n in self.networks if n.uuid.int == wanted), None)

    def switch(self, uuid: UUID | None) -> SwitchView | None:
        """The switch of that UUID, None when the host does not carry it."""
        return next((s for s in self.switches if s.uuid == uuid), None)

    def switch_of(self, network: NetworkView) -> SwitchView | None:
        """The switch that carries *network*: the one it names, else that of its transport zone."""
        if network.switch_uuid is not None:
            return self.switch(network.switch_uuid)
        return next((s for s in self.switches if set(s.zone_uuids) & set(network.zone_uuids)), None)


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
    portgroup: str = ""  # of the traditional switch that `network_name` is
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

    network: str = ""  # name or UUID of an opaque network
    portgroup: str = ""  # else SWITCH/PORTGROUP of a traditional switch
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
    """Steps of a move, each written before what it names is done (see `vmctl.migration`)."""

    PLANNED = "planned"  # asked for; waits for room on the links
    RESERVED = "reserved"  # its share of both ends' links is its own
    READY = "ready"  # the destination has said that it realizes every network of the VM, at equal MTU
    MIGRATING = "migrating"  # handed to libvirt; only the two libvirts know how it ends
    COMMITTED = "committed"  # the VM is the destination's; what is left at the source is being removed
    UNDOING = "undoing"  # the VM stays the source's; what is left at the destination is being removed
    DONE = "done"  # moved and cleaned
    FAILED = "failed"  # not moved, and cleaned

    @property
    def final(self) -> bool:
        """True when nothing more happens."""
        return self in (MigrationState.DONE, MigrationState.FAILED)

    @property
    def settled(self) -> bool:
        """True when it is decided where the VM is; another move of it may begin."""
        return self.final or self in (MigrationState.COMMITTED, MigrationState.UNDOING)


class MoveKind(StrEnum):
    LIVE = "live"
    COLD = "cold"  # of a VM that is off: its definition moves


@dataclass(frozen=True, slots=True, kw_only=True)
class MovePolicy:
    """How a live move is carried out; 0 means that libvirt or vmctl choose."""

    bandwidth_mib_s: int = 0  # at most; less while links are shared
    auto_converge: bool = False  # slow the guest down when it writes faster than memory is copied
    post_copy: bool = False  # after the first pass let it run at the destination, and fetch what is missing
    max_pause_ms: int = 0
    suspend_after_s: float = 0.0  # pause the guest for the rest of the copy when it takes longer
    timeout_s: float = 0.0  # give up when the copy takes longer


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """A row of the journal. Times of the result are milliseconds, None where nobody told."""

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
    downtime_ms: int | None = None  # QEMU's own pause
    transferred_mib: int | None = None
    kind: MoveKind = MoveKind.LIVE
    policy: MovePolicy = MovePolicy()
    had_copy: bool = False  # the destination had a definition of the VM before
    gap_ms: int | None = None  # from the source's pause until the destination's network says that all VIFs are lit
    task_id: int | None = None


# --- tasks and events ---------------------------------------------------------------------------------------------


class TaskState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Something that takes long: a move, an evacuation. Its parent is the task that began it."""

    id: int
    kind: str
    subject: str
    state: TaskState
    sentence: str = ""
    started_at: str = ""
    changed_at: str = ""
    parent_id: int | None = None
    migration_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened. `ref` is the number of the migration or task that it belongs to."""

    id: int
    at: str
    kind: str  # "migration", "task", "vm", "host" …
    subject: str
    what: str
    sentence: str = ""
    ref: int | None = None
