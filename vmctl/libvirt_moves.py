"""What libvirt is asked during a move, and to clean up after one. Blocking calls; `libvirtError` goes through.

Each verb is idempotent: what is done already, or was never there, is no error. Nothing that runs is removed: the check
and the removal are one after the other on the host itself, and a guest that came to life in between is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import libvirt

from vmctl.domains import find, read_fate_of
from vmctl.migration import Fate
from vmctl.model import MovePolicy

__all__ = [
    "LiveMove",
    "abort",
    "begin_post_copy",
    "has_definition",
    "live_migrate",
    "remove_leftover",
    "resume_post_copy",
    "resume_source",
    "set_bandwidth",
    "suspend",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveMove:
    """Everything that libvirt is told of a live move. *kept_xml* is empty for a VM that is not defined."""

    uuid: UUID
    peer_uri: str
    migration_uri: str
    live_xml: str
    kept_xml: str
    policy: MovePolicy
    bandwidth_mib_s: int  # 0: as fast as it goes


def live_migrate(connection: Any, move: LiveMove) -> None:
    """Moves the running domain; comes back when the source's libvirt says how it ended.

    The domain stays defined on the destination, and leaves the source, where it is defined here.
    """
    domain = connection.lookupByUUIDString(str(move.uuid))
    flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
    parameters: dict[str, str | int] = {
        libvirt.VIR_MIGRATE_PARAM_URI: move.migration_uri,
        libvirt.VIR_MIGRATE_PARAM_DEST_XML: move.live_xml,
    }
    if move.kept_xml:
        flags |= libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
        parameters[libvirt.VIR_MIGRATE_PARAM_PERSIST_XML] = move.kept_xml
    if move.policy.auto_converge:
        flags |= libvirt.VIR_MIGRATE_AUTO_CONVERGE
    if move.policy.post_copy:
        flags |= libvirt.VIR_MIGRATE_POSTCOPY
    if move.bandwidth_mib_s:
        parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = move.bandwidth_mib_s
    if move.policy.max_pause_ms:
        domain.migrateSetMaxDowntime(move.policy.max_pause_ms, 0)
    domain.migrateToURI3(move.peer_uri, parameters, flags)


def abort(connection: Any, uuid: UUID) -> None:
    """Stops the domain's job; none under way is no error."""
    domain = find(connection, uuid)
    try:
        if domain is not None and domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE:
            domain.abortJob()
    except libvirt.libvirtError as error:
        if error.get_error_code() not in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
            raise  # those two: it has just ended


def set_bandwidth(connection: Any, uuid: UUID, *, mib_s: int) -> None:
    """How fast the migration under way may be from now on."""
    connection.lookupByUUIDString(str(uuid)).migrateSetMaxSpeed(mib_s)


def begin_post_copy(connection: Any, uuid: UUID) -> None:
    """Lets the guest run at the destination now; the rest of its memory follows."""
    connection.lookupByUUIDString(str(uuid)).migrateStartPostCopy()


def suspend(connection: Any, uuid: UUID) -> None:
    """Pauses the guest, so that the rest of its memory is copied once; the destination resumes it."""
    connection.lookupByUUIDString(str(uuid)).suspend()


def has_definition(connection: Any, uuid: UUID) -> bool:
    """Whether the host has a definition of the domain."""
    return find(connection, uuid) is not None


def remove_leftover(connection: Any, uuid: UUID) -> None:
    """Removes a half-moved copy or a definition of the domain; one that runs stays."""
    fate = read_fate_of(connection, uuid)
    domain = find(connection, uuid)
    if domain is None:
        return
    if fate in (Fate.HALF, Fate.MOVING_IN, Fate.STRANDED):
        domain.destroyFlags(0)
        domain = find(connection, uuid)
    elif fate is not Fate.SHUT_OFF:
        return
    if domain is None or not domain.isPersistent() or domain.isActive():
        return
    try:
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise


def resume_source(connection: Any, uuid: UUID) -> None:
    """Lets the guest run again that a migration has left paused."""
    domain = find(connection, uuid)
    if domain is not None and domain.isActive():
        domain.resume()


def resume_post_copy(connection: Any, uuid: UUID, *, peer_uri: str, migration_uri: str) -> None:
    """Connects the two ends of a broken post-copy again; comes back when the rest of the memory is there."""
    flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER | libvirt.VIR_MIGRATE_POSTCOPY
    flags |= libvirt.VIR_MIGRATE_POSTCOPY_RESUME
    parameters = {libvirt.VIR_MIGRATE_PARAM_URI: migration_uri}
    connection.lookupByUUIDString(str(uuid)).migrateToURI3(peer_uri, parameters, flags)
