"""Whether hosts have realized what is wanted of them. Pure over a World and the live hosts.

A host acknowledges a revision when its switch has confirmed it, so an object is realized on a host that has
acknowledged the object's version or a later one and does not reject the object. Who must realize what follows from
zones: a switch or network is for the hosts of its zones, a host's own settings are for itself; a security group is for
the hosts of its ports, and of ports whose rules refer to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from netmgr.contract.types import Kind, OpaqueNetwork, OpaqueSwitch, TransportZone, Withdrawal
from netmgr.model import Change, GroupRecord, HostLive, HostRecord, World
from netmgr.span import hosts_for

__all__ = ["HostState", "Realization", "Target", "realization_of", "state_on", "surely_waiting", "targets_of"]

Key = tuple[Kind, UUID]


class HostState(StrEnum):
    REALIZED = "realized"
    WAITING = "waiting"
    REJECTED = "rejected"
    DISCONNECTED = "disconnected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What one host must have realized: everything up to a revision, and these objects without rejection."""

    revision: int
    keys: frozenset[Key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Realization:
    """Where one host stands."""

    host_uuid: UUID
    host: str
    state: HostState
    reason: str = ""


def targets_of(world: World, *, keys: Iterable[Key], changes: Iterable[Change] = ()) -> dict[UUID, Target]:
    """By host, what objects (*keys*) and committed *changes* ask of it. A removed object asks nothing."""
    targets: dict[UUID, Target] = {}
    for key in keys:
        for host in _hosts_of(world, key):
            _raise_target(targets, host.uuid, revision=world.versions.get(key, 0), key=key)
    for change in changes:
        if change.kind in (Kind.ZONE, Kind.SWITCH, Kind.NETWORK, Kind.HOST) and change.row is not None:
            changed = (Kind(change.kind), change.uuid)
            for host in _hosts_of(world, changed):
                _raise_target(targets, host.uuid, revision=change.revision, key=changed)
    return targets


def realization_of(world: World, targets: Mapping[UUID, Target], lives: Mapping[UUID, HostLive]) -> list[Realization]:
    """Where each host of *targets* stands, by host name."""
    found = []
    for host_uuid, target in targets.items():
        host = world.hosts.get(host_uuid)
        if host is not None:
            state, reason = _state(world, host, target, lives.get(host_uuid))
            found.append(Realization(host_uuid=host_uuid, host=host.name, state=state, reason=reason))
    return sorted(found, key=lambda item: item.host)


def surely_waiting(target: Target, live: HostLive | None) -> bool:
    """True when a host is waiting, whatever a World says: it has not confirmed the revision yet."""
    return (
        live is not None
        and live.connected
        and live.acked_revision < target.revision
        and not (live.rejections and any(key in live.rejections for key in target.keys))
    )


def state_on(world: World, host: HostRecord, key: Key, live: HostLive | None) -> tuple[HostState, str]:
    """Where one host stands with one object, and the sentence when it has not realized it."""
    return _state(world, host, Target(revision=world.versions.get(key, 0), keys=frozenset((key,))), live)


def _state(world: World, host: HostRecord, target: Target, live: HostLive | None) -> tuple[HostState, str]:
    if live is None or not live.connected:
        return HostState.DISCONNECTED, "the host is not connected; it takes the change when it is back"
    for key in sorted(target.keys):
        sentence = live.rejections.get(key)
        if sentence is not None:
            return HostState.REJECTED, sentence
    # An object may be older than the host's right to it: what the host's own last change brought counts, once sent.
    wanted = max(target.revision, min(world.versions["host", host.uuid], live.wanted_revision))
    if live.acked_revision < wanted:
        return HostState.WAITING, f"the host has confirmed revision {live.acked_revision}, wanted is {wanted}"
    return HostState.REALIZED, ""


def _hosts_of(world: World, key: Key) -> list[HostRecord]:
    kind, uuid = key
    if kind is Kind.HOST:
        host = world.hosts.get(uuid)
        return [host] if host else []
    row = world.rows(kind).get(uuid)
    if isinstance(row, TransportZone):
        zones = {row.uuid}
    elif isinstance(row, OpaqueSwitch):
        zones = set(row.zone_uuids)
    elif isinstance(row, OpaqueNetwork):
        zones = {row.zone_uuid}
    elif isinstance(row, Withdrawal):
        carriers = _hosts_of(world, (Kind.NETWORK, row.network_uuid))
        return [host for host in carriers if row.host_uuid in (None, host.uuid)]
    elif isinstance(row, GroupRecord):
        return [world.hosts[uuid] for uuid in sorted(set(hosts_for(world, key, {}))) if uuid in world.hosts]
    else:
        return []
    return [host for host in world.hosts.values() if zones & set(host.zone_uuids)]


def _raise_target(targets: dict[UUID, Target], host_uuid: UUID, *, revision: int, key: Key) -> None:
    before = targets.get(host_uuid)
    if before is None:
        targets[host_uuid] = Target(revision=revision, keys=frozenset((key,)))
    else:
        targets[host_uuid] = Target(revision=max(before.revision, revision), keys=before.keys | {key})
