"""What placement speaks of: what a VM asks for, what a host offers, and how both are weighed. Frozen values.

What a domain itself says (CPUs, memory, NICs) comes with the `Vm`; what an administrator wants beyond that are its
`Needs`. What a host offers are its `HostFacts`: its own word on networks, what libvirt tells of CPUs, memory and disk,
and whether an administrator has put it into maintenance. `Settings` are the administrator's, one set for all hosts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from vmctl.model import Candidate, Refusal, Vm

__all__ = [
    "Capacity",
    "Choice",
    "HostFacts",
    "Move",
    "Needs",
    "NoMove",
    "Plan",
    "Policy",
    "Purpose",
    "Request",
    "RuleKind",
    "Settings",
    "networks_of",
]


class Purpose(StrEnum):
    """What a place is wanted for; it decides which masks hold."""

    POWER_ON = "power-on"
    MOVE = "move"
    EVACUATE = "evacuate"  # the source empties itself: the rest of a group there keeps nobody back
    BALANCE = "balance"
    FAILOVER = "failover"  # the source is dead: neither its state nor sync is waited for

    @property
    def moves(self) -> bool:
        """True where a running VM goes from host to host."""
        return self in (Purpose.MOVE, Purpose.EVACUATE, Purpose.BALANCE)

    @property
    def can_wait(self) -> bool:
        """True where a host that is behind may be waited for."""
        return self is not Purpose.FAILOVER


class Policy(StrEnum):
    SPREAD = "spread"
    CONSOLIDATE = "consolidate"


class RuleKind(StrEnum):
    """Members of an affinity rule run on one host, those of an anti-affinity rule on different ones."""

    AFFINITY = "affinity"
    ANTI_AFFINITY = "anti-affinity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What an administrator wants for a VM beyond its domain. Groups are names of rules."""

    disk_mib: int = 0  # space that must be left for it where it runs
    bandwidth_mbps: int = 0  # reserved on the PNICs of every opaque switch that it uses
    affinity: frozenset[str] = frozenset()
    anti_affinity: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What libvirt tells of a host. Disk is the default storage pool's, None where there is none."""

    cpus: int
    memory_mib: int
    disk_mib: int | None = None
    disk_taken_mib: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """A host as far as placement cares. `capacity` is None while it was not read: nothing is then known to be short."""

    name: str
    view: Candidate
    libvirt_problem: str = ""
    peer_uri: str = ""
    peer_is_local: bool = False  # by its peer URI other hosts would reach themselves
    maintenance: bool = False
    capacity: Capacity | None = None
    port_groups: frozenset[str] = frozenset()  # libvirt networks on it that are not opaque


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How hosts are filled and weighed. Ratios multiply what a host has; weights add up to a score of 100."""

    cpu_ratio: float = 8.0
    memory_ratio: float = 1.0
    disk_ratio: float = 1.0
    bandwidth_ratio: float = 1.0
    memory_reserved_mib: int = 512  # kept for the host itself

    weight_load: float = 50.0
    weight_bandwidth: float = 20.0
    weight_health: float = 20.0
    weight_ports: float = 10.0
    home_bonus: float = 20.0  # a VM that is off starts at home unless another host is better by more

    policy: Policy = Policy.SPREAD
    balance_auto: bool = False
    balance_every_s: float = 300.0
    balance_gap: float = 0.1  # loads closer than this are left as they are
    balance_moves: int = 16  # in one pass
    copy_cost: float = 0.2  # gain in points that a move must bring for each GiB of memory that it copies
    settle_s: float = 600.0  # a VM that has moved stays for so long
    return_s: float = 3600.0  # and does not come back to where it was for so long
    pack_limit: float = 0.7  # consolidation fills a host no further
    parallel_moves: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A place that is wanted. `home` is where the VM is defined, empty for one that is not defined yet."""

    vm: Vm
    purpose: Purpose
    needs: Needs = Needs()
    home: str = ""

    def port_groups(self) -> frozenset[str]:
        """Names of the libvirt networks, not opaque, that its NICs are on."""
        return frozenset(
            vif.network_name
            for vif in self.vm.vifs
            if vif.network_name and not vif.opaque and vif.network_uuid is not None
        )


def networks_of(vm: Vm) -> dict[UUID, int]:
    """The opaque networks of *vm* with how many NICs it has on each."""
    found: dict[UUID, int] = {}
    for vif in vm.vifs:
        if vif.opaque and vif.network_uuid is not None:
            found[vif.network_uuid] = found.get(vif.network_uuid, 0) + 1
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One host for one request: its score, or why it is refused."""

    host: str
    score: float | None = None
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A move that a plan proposes. Loads are fractions of what the hosts offer, in steps of the plan."""

    vm_uuid: UUID
    vm_name: str
    source: str
    destination: str
    memory_mib: int  # what is copied
    source_load: float
    source_load_after: float
    destination_load: float
    destination_load_after: float
    benefit: float = 0.0  # points
    cost: float = 0.0  # points


@dataclass(frozen=True, slots=True, kw_only=True)
class NoMove:
    """A VM that stays, and why."""

    vm_uuid: UUID
    vm_name: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Moves in the order in which they fit, what stays, and the hosts that would run nothing any more."""

    moves: tuple[Move, ...] = ()
    stays: tuple[NoMove, ...] = ()
    freed: tuple[str, ...] = ()
    sentence: str = ""
