"""Requests and answers of the REST API. Requests refuse what they do not know.

Answers are the model's frozen values, and the few shapes below where a list needs company.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from vmctl.domains import JobStats
from vmctl.model import (
    Disk,
    Event,
    Host,
    Migration,
    MovePolicy,
    NetworkView,
    Refusal,
    SwitchView,
    Task,
    Unread,
    VifSpec,
    Virt,
    Vm,
    VmctlError,
    VmSpec,
    Zone,
)
from vmctl.placement.model import Needs

__all__ = [
    "ErrorOut",
    "HostIn",
    "HostOut",
    "MigrateIn",
    "MigrationOut",
    "NetworkOut",
    "RefusalsOut",
    "StartIn",
    "StatusOut",
    "StopIn",
    "TaskOut",
    "VifOut",
    "VmIn",
    "VmOut",
    "VmsOut",
]

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
Text = Annotated[str, Field(max_length=4096)]
_MAC = re.compile(r"^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$")


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class HostIn(_In):
    """A host to add. Without a UUID it is learned from the network manager, or from the agent's certificate."""

    name: Name
    libvirt_uri: Annotated[str, Field(pattern=r"^[a-z][a-z0-9+]*://")]
    peer_uri: Annotated[str, Field(pattern=r"^([a-z][a-z0-9+]*://.*)?$")] = ""
    migration_address: Annotated[str, Field(max_length=255, pattern=r"^[^\s/]*$")] = ""
    agent_address: Annotated[str, Field(pattern=r"^(\S+:\d{1,5})?$")] = ""
    uuid: UUID | None = None
    migration_mbps: Annotated[int, Field(ge=0, le=10**7)] = 0

    def value(self) -> Host:
        """The host; `VmctlError` when nothing tells where memory is to be sent."""
        address = self.migration_address or urlsplit(self.libvirt_uri).hostname or ""
        if not address:
            raise VmctlError(
                f"{self.libvirt_uri} names no address, so tell where the memory of guests that move to {self.name} is "
                "to be sent: --migration-address ADDRESS"
            )
        return Host(
            name=self.name,
            libvirt_uri=self.libvirt_uri,
            peer_uri=self.peer_uri or self.libvirt_uri,
            migration_address=address,
            agent_address=self.agent_address,
            uuid=self.uuid,
            migration_mbps=self.migration_mbps,
        )


class VifIn(_In):
    """A virtual NIC on an opaque network, by name or UUID, or on SWITCH/PORTGROUP; one of both.

    MAC and VIF UUID are derived where not given.
    """

    network: Annotated[str, Field(max_length=255)] = ""
    portgroup: Annotated[str, Field(pattern=r"^([^/]+/[^/]+)?$", max_length=127)] = ""
    ip: Annotated[str, Field(max_length=64)] = ""
    mac: str = ""
    vif_uuid: UUID | None = None

    @field_validator("mac")
    @classmethod
    def _unicast(cls, mac: str) -> str:
        if mac and not _MAC.match(mac.lower()):
            raise ValueError("a unicast MAC is wanted, six bytes with colons")
        return mac.lower()

    @model_validator(mode="after")
    def _on_one(self) -> VifIn:
        if bool(self.network) == bool(self.portgroup):
            raise ValueError("a NIC is on a network or on a portgroup; name one of them")
        return self


class DiskIn(_In):
    """A disk image on the host."""

    path: Annotated[str, Field(pattern=r"^/")]
    format: Annotated[str, Field(pattern=r"^(qcow2|raw)$")] = "qcow2"


class VmIn(_In):
    """A VM to define, on the best host where none is given. With `xml`, that domain is taken, NICs of `vifs` added.

    `groups` are affinity rules that it joins, `anti_groups` anti-affinity rules; what is not there yet is made.
    """

    name: Name
    host: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,62})?$")] = ""
    groups: Annotated[list[Name], Field(max_length=32)] = []
    anti_groups: Annotated[list[Name], Field(max_length=32)] = []
    disk_mib: Annotated[int, Field(ge=0, le=2**40)] = 0
    bandwidth_mbps: Annotated[int, Field(ge=0, le=10**7)] = 0
    memory_mib: Annotated[int, Field(ge=16, le=64 * 1024**2)] = 512
    vcpus: Annotated[int, Field(ge=1, le=4096)] = 1
    kernel: Annotated[str, Field(pattern=r"^(/.*)?$")] = ""
    initrd: Annotated[str, Field(pattern=r"^(/.*)?$")] = ""
    cmdline: Text = ""
    disks: Annotated[list[DiskIn], Field(max_length=24)] = []
    vifs: Annotated[list[VifIn], Field(max_length=28)] = []
    virt: Virt = Virt.AUTO
    xml: Annotated[str, Field(max_length=1024**2)] = ""

    def needs(self) -> Needs:
        return Needs(
            disk_mib=self.disk_mib,
            bandwidth_mbps=self.bandwidth_mbps,
            affinity=frozenset(self.groups),
            anti_affinity=frozenset(self.anti_groups),
        )

    def value(self) -> VmSpec:
        return VmSpec(
            name=self.name,
            memory_mib=self.memory_mib,
            vcpus=self.vcpus,
            kernel=self.kernel,
            initrd=self.initrd,
            cmdline=self.cmdline,
            disks=tuple(Disk(path=disk.path, format=disk.format) for disk in self.disks),
            vifs=tuple(VifSpec(**vif.model_dump()) for vif in self.vifs),
            virt=self.virt,
            xml=self.xml,
        )


class StartIn(_In):
    """Where to start: empty means at home, or where placement finds better."""

    host: str = ""


class StopIn(_In):
    """How to stop: by the guest, or by force."""

    force: bool = False
    wait_s: Annotated[float, Field(ge=0, le=3600)] = 60.0


class MigrateIn(_In):
    """Where to move, and how hard to try; 0 leaves it to libvirt and vmctl."""

    host: str
    cold: bool = False
    auto_converge: bool = False
    bandwidth_mib_s: Annotated[int, Field(ge=0, le=10**6)] = 0
    post_copy: bool = False
    max_pause_ms: Annotated[int, Field(ge=0, le=2_000_000)] = 0
    suspend_after_s: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    timeout_s: Annotated[float, Field(ge=0, le=86_400)] = 0.0

    def policy(self) -> MovePolicy:
        return MovePolicy(**self.model_dump(exclude={"host", "cold"}))


# --- answers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ErrorOut:
    """Why not; `refusals` with their codes where a host was refused."""

    error: str
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HostOut:
    """A host; `libvirt` and `view` are empty when it can be asked, else why not."""

    host: Host
    libvirt: str
    view: str
    in_sync: bool | None
    manager_connected: bool | None
    zones: tuple[Zone, ...]
    switches: tuple[SwitchView, ...]
    networks: tuple[NetworkView, ...]
    vms: tuple[str, ...]
    maintenance: str = ""  # since when, empty while it takes VMs


@dataclass(frozen=True, kw_only=True)
class NetworkOut:
    """An opaque network, by the word of the hosts that carry it. Read-only: it belongs to the network manager."""

    uuid: UUID
    name: str
    type: str
    zones: tuple[str, ...]
    hosts: tuple[str, ...]
    status: str
    reasons: tuple[str, ...]
    opaque: bool = True


@dataclass(frozen=True, kw_only=True)
class VifOut:
    """A VIF with how its host says it fares: `lit`, `dark` or `incoming`; empty where the host does not know it."""

    uuid: UUID | None
    mac: str
    network: str
    network_uuid: UUID | None
    opaque: bool
    portgroup: str
    state: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class VmOut:
    vm: Vm
    vifs: tuple[VifOut, ...]
    ips: tuple[str, ...] = ()
    wanted: str = ""
    home: str = ""
    moves: tuple[Migration, ...] = ()  # the last few, newest first


@dataclass(frozen=True, kw_only=True)
class VmsOut:
    """VMs, and the hosts that could not be asked."""

    vms: tuple[Vm, ...]
    unread: tuple[Unread, ...]


@dataclass(frozen=True, kw_only=True)
class RefusalsOut:
    """May the VM go there: move, or start where it is off."""

    eligible: bool
    sentence: str
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, kw_only=True)
class MigrationOut:
    """A move. *over*: nothing is left to wait for, although cleaning may go on; *waits* says what it waits for."""

    migration: Migration
    progress: JobStats | None
    over: bool
    waits: str = ""


@dataclass(frozen=True, kw_only=True)
class TaskOut:
    """A task; with its move, where it is one."""

    task: Task
    move: MigrationOut | None = None
    steps: tuple[Event, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StatusOut:
    version: str
    networks_from: str
    hosts: int
    unread: tuple[Unread, ...]
