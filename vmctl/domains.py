"""What libvirt's objects say, as frozen values. Blocking calls; `libvirtError` goes through to the caller.

A domain may go away between two questions: that is an answer here (None, absent), not an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import libvirt

from vmctl.migration import Fate
from vmctl.model import VmState

__all__ = ["Domain", "JobStats", "LibvirtNetwork", "find", "job_stats", "read_domain_of", "read_fate_of"]

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: VmState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: VmState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: VmState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: VmState.RUNNING,  # shutting down, still there
    libvirt.VIR_DOMAIN_SHUTOFF: VmState.SHUT_OFF,
    libvirt.VIR_DOMAIN_CRASHED: VmState.CRASHED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: VmState.SUSPENDED,
}
_HALF = (libvirt.VIR_DOMAIN_PAUSED_MIGRATION, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP)
_STRANDED = (
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED),
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A domain as read. `xml` is the running one's where it runs."""

    uuid: UUID
    name: str
    xml: str
    state: VmState
    persistent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LibvirtNetwork:
    uuid: UUID
    name: str
    xml: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStats:
    """A migration job; what libvirt does not tell is None."""

    elapsed_ms: int | None = None
    remaining_mib: int | None = None
    total_mib: int | None = None
    transferred_mib: int | None = None
    rate_mib_s: float | None = None
    downtime_ms: int | None = None  # expected while it runs, measured afterwards
    iteration: int | None = None  # pass over the memory


def find(connection: Any, uuid: UUID) -> Any:
    try:
        return connection.lookupByUUIDString(str(uuid))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def read_domain_of(raw: Any) -> Domain | None:
    """None when the domain went away while it was read."""
    try:
        state = raw.state()[0]
        return Domain(
            uuid=UUID(raw.UUIDString()),
            name=raw.name(),
            xml=raw.XMLDesc(0),
            state=_STATES.get(state, VmState.CRASHED),
            persistent=bool(raw.isPersistent()),
        )
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def read_fate_of(connection: Any, uuid: UUID) -> Fate:
    domain = find(connection, uuid)
    if domain is None:
        return Fate.ABSENT
    try:
        if not domain.isActive():
            return Fate.SHUT_OFF
        operation = _operation(domain)
        state, reason = domain.state()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return Fate.ABSENT
        raise
    if operation == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT:
        return Fate.MOVING_OUT
    if operation == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN:
        return Fate.MOVING_IN
    if (state, reason) in _STRANDED:
        return Fate.STRANDED
    if state == libvirt.VIR_DOMAIN_PAUSED:
        return Fate.HALF if reason in _HALF else Fate.PAUSED
    return Fate.RUNNING


def _operation(domain: Any) -> int:
    try:
        stats: dict[str, Any] = domain.jobStats()
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_SUPPORT):
            return 0
        raise
    if stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE:
        return 0
    return int(stats.get("operation", 0))


def job_stats(raw: Mapping[str, Any]) -> JobStats:
    mib = 1024**2
    rate = raw.get("memory_bps")
    counted = raw.get("memory_total", 0) > 0  # QEMU says 0 of 0 until it has looked at the memory
    return JobStats(
        elapsed_ms=raw.get("time_elapsed"),
        remaining_mib=raw["memory_remaining"] // mib if counted and "memory_remaining" in raw else None,
        total_mib=raw["memory_total"] // mib if counted else None,
        transferred_mib=raw["memory_processed"] // mib if "memory_processed" in raw else None,
        rate_mib_s=rate / mib if rate is not None else None,
        downtime_ms=raw.get("downtime"),
        iteration=raw.get("memory_iteration"),
    )
