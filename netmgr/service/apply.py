"""`apply`: makes the store say what a document says, all or nothing, in one transaction.

Objects are found by name: a missing one is created, one that differs is set, one that does not is left alone, so a
second apply of the same document writes nothing and spends no revision. With *prune*, objects of the kinds present in
the document that it does not name are deleted; hosts never are, because enrolment is not the document's to give.

Order matters to the rules, not to the user: what is pruned and may block goes first, from the user to the used; zones
come before the switches that carry them, those before networks, and so on; pruned zones go last, when nobody is in
them any more. Switches that give a zone up come before those that take it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from netmgr.contract.types import Kind
from netmgr.model import Change, GroupRecord, NetmgrError, World, port_path
from netmgr.rules.groups import rule_text
from netmgr.service import edits, groups
from netmgr.service.document import Document
from netmgr.service.lookup import find_group, find_host, find_network, find_switch, find_zones
from netmgr.service.specs import (
    GroupPatch,
    GroupSpec,
    HostPatch,
    NetworkPatch,
    PortPatch,
    SwitchPatch,
    SwitchSpec,
    ZonePatch,
)
from netmgr.store import Store, Transaction
from netmgr.store.rows import plain

__all__ = ["Action", "Applied", "apply"]

Key = tuple[Kind, UUID]


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing that was done, or would be."""

    verb: str  # "create", "set" or "delete"
    kind: str
    name: str
    fields: Mapping[str, Any]  # what it has now, where that is new


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What an apply did. `revision` is that of the store afterwards; `keys` are the objects the document names."""

    revision: int
    actions: tuple[Action, ...]
    changes: tuple[Change, ...]
    keys: frozenset[Key]


class _DryRun(Exception):
    """Leaves the transaction without a trace."""


def apply(
    store: Store, document: Document, *, acked: Mapping[UUID, int], prune: bool = False, dry_run: bool = False
) -> Applied:
    """Create and set what differs; with *dry_run*, say what would be done and do nothing.

    Raises:
        NetmgrError: something in the document can't be; nothing of it is done.
    """
    applied: Applied | None = None
    try:
        with store.transaction() as tx:
            before = tx.revision - 1
            actions = tuple(_steps(tx, document, acked=acked, prune=prune))
            changes = tuple(tx.net_changes())
            applied = Applied(
                revision=tx.revision if changes and not dry_run else before,
                actions=actions,
                changes=changes,
                keys=frozenset(_keys_of(tx.world, document)),
            )
            if dry_run:
                raise _DryRun
    except _DryRun:
        pass
    assert applied is not None
    return applied


def _steps(tx: Transaction, document: Document, *, acked: Mapping[UUID, int], prune: bool) -> Iterator[Action]:
    if prune:
        yield from _prune_users(tx, document)
    yield from _zones(tx, document)
    yield from _switches(tx, document)
    yield from _hosts(tx, document)
    yield from _networks(tx, document, acked)
    yield from _groups(tx, document)
    yield from _ports(tx, document)
    if prune and document.zones is not None:
        named = {spec.name for spec in document.zones}
        for zone in [z for z in tx.world.zones.values() if z.name not in named]:
            edits.drop_zone(tx, zone)
            yield _deleted("zone", zone.name)


def _prune_users(tx: Transaction, document: Document) -> Iterator[Action]:
    world = tx.world
    if document.ports is not None:
        kept = {(_network_name(world, spec.network), spec.name) for spec in document.ports}
        gone = [p for p in world.ports.values() if (world.networks[p.network_uuid].name, p.name) not in kept]
        # shadows and sub-ports before those that they are of
        for port in sorted(gone, key=lambda port: port.shadow_of is None and port.parent_port is None):
            edits.drop_port(tx, port)
            yield _deleted("port", port.name)
    if document.groups is not None:
        named = {spec.name for spec in document.groups}
        gone_groups = [group for group in world.groups.values() if group.name not in named]
        for group in gone_groups:  # they may refer to each other
            tx.put(replace(group, rules=()))
        for group in gone_groups:
            groups.drop_group(tx, world.groups[group.uuid])
            yield _deleted("group", group.name)
    if document.networks is not None:
        names = {spec.name for spec in document.networks}
        for network in [n for n in world.networks.values() if n.name not in names]:
            edits.drop_network(tx, network)
            yield _deleted("network", network.name)
    if document.switches is not None:
        names = {spec.name for spec in document.switches}
        for switch in [s for s in world.switches.values() if s.name not in names]:
            edits.drop_switch(tx, switch)
            yield _deleted("switch", switch.name)


def _network_name(world: World, network: str) -> str:
    """The name of a network that a document calls by name or UUID; one that is not there yet keeps its word."""
    try:
        return find_network(world, network).name
    except NetmgrError:
        return network


def _zones(tx: Transaction, document: Document) -> Iterator[Action]:
    for spec in document.zones or ():
        uuid = tx.world.unique.get(("name", Kind.ZONE, spec.name))
        if uuid is None:
            yield _created(tx.world, "zone", edits.add_zone(tx, spec))
        else:
            zone = tx.world.zones[uuid]
            yield from _changed(tx.world, "zone", zone, edits.set_zone(tx, zone, _patch(ZonePatch, spec)))


def _switches(tx: Transaction, document: Document) -> Iterator[Action]:
    def gives_up_zones(spec: SwitchSpec) -> bool:
        uuid = tx.world.unique.get(("name", Kind.SWITCH, spec.name))
        return uuid is not None and not set(tx.world.switches[uuid].zone_uuids) <= set(find_zones(tx.world, spec.zones))

    for spec in sorted(document.switches or (), key=gives_up_zones, reverse=True):
        uuid = tx.world.unique.get(("name", Kind.SWITCH, spec.name))
        if uuid is None:
            yield _created(tx.world, "switch", edits.add_switch(tx, spec))
        else:
            switch = tx.world.switches[uuid]
            yield from _changed(tx.world, "switch", switch, edits.set_switch(tx, switch, _patch(SwitchPatch, spec)))


def _hosts(tx: Transaction, document: Document) -> Iterator[Action]:
    for entry in document.hosts or ():
        uuid = tx.world.unique.get(("name", Kind.HOST, entry.name))
        if uuid is None:
            raise NetmgrError(
                f"host {entry.name!r} is not enrolled; let it join first: netmgr host token --name {entry.name}, then "
                "on the host: hostagent join",
                status=409,
            )
        host = tx.world.hosts[uuid]
        yield from _changed(tx.world, "host", host, edits.set_host(tx, host, HostPatch(zones=entry.zones)))


def _networks(tx: Transaction, document: Document, acked: Mapping[UUID, int]) -> Iterator[Action]:
    for spec in document.networks or ():
        uuid = tx.world.unique.get(("name", Kind.NETWORK, spec.name))
        if uuid is None:
            yield _created(tx.world, "network", edits.add_network(tx, spec, acked=acked))
        else:
            network = tx.world.networks[uuid]
            yield from _changed(
                tx.world, "network", network, edits.set_network(tx, network, _patch(NetworkPatch, spec))
            )


def _groups(tx: Transaction, document: Document) -> Iterator[Action]:
    """All are made before any gets its rules: they may refer to each other."""
    before: dict[str, GroupRecord | None] = {}
    for spec in document.groups or ():
        uuid = tx.world.unique.get(("name", Kind.SECURITY_GROUP, spec.name))
        before[spec.name] = None if uuid is None else tx.world.groups[uuid]
        if uuid is None:
            groups.add_group(tx, GroupSpec(name=spec.name, stateful=spec.stateful))
    for spec in document.groups or ():
        group = groups.set_group(tx, find_group(tx.world, spec.name), _patch(GroupPatch, spec))
        was = before[spec.name]
        if was is None:
            yield _created(tx.world, "group", group)
        else:
            yield from _changed(tx.world, "group", was, group)


def _ports(tx: Transaction, document: Document) -> Iterator[Action]:
    # shadows and sub-ports after those that they are of
    for spec in sorted(document.ports or (), key=lambda spec: spec.shadow_of is not None or spec.parent is not None):
        network = find_network(tx.world, spec.network)
        uuid = tx.world.unique.get(("name", Kind.PORT, network.uuid, spec.name))
        if uuid is None:
            yield _created(tx.world, "port", edits.add_port(tx, spec))
        else:
            port = tx.world.ports[uuid]
            yield from _changed(tx.world, "port", port, edits.set_port(tx, port, _patch(PortPatch, spec)))


def _keys_of(world: World, document: Document) -> Iterator[Key]:
    """Objects of the document that hosts realize as such."""
    for switch in document.switches or ():
        yield Kind.SWITCH, find_switch(world, switch.name).uuid
    for network in document.networks or ():
        yield Kind.NETWORK, find_network(world, network.name).uuid
    for group in document.groups or ():
        yield Kind.SECURITY_GROUP, find_group(world, group.name).uuid
    for host in document.hosts or ():
        yield Kind.HOST, find_host(world, host.name).uuid


def _patch(model: Any, spec: Any) -> Any:
    """Of *spec*, only what the document says: what it leaves out stays as it is."""
    return model(**spec.model_dump(exclude_unset=True, exclude_none=True))


def _created(world: World, kind: str, row: Any) -> Action:
    fields = {name: value for name, value in _fields(world, row).items() if name not in ("uuid", "name")}
    return Action(verb="create", kind=kind, name=row.name, fields=fields)


def _changed(world: World, kind: str, before: Any, after: Any) -> Iterator[Action]:
    if before != after:
        was, now = _fields(world, before), _fields(world, after)
        yield Action(verb="set", kind=kind, name=after.name, fields={k: v for k, v in now.items() if v != was[k]})


def _fields(world: World, row: Any) -> dict[str, Any]:
    """A row's fields for people: by name what it refers to, and without what follows from something else."""
    fields = plain(row)
    if "zone_uuids" in fields:
        fields["zones"] = [world.zones[uuid].name for uuid in row.zone_uuids]
    if "zone_uuid" in fields:
        fields["zone"] = world.zones[row.zone_uuid].name
    if "network_uuid" in fields:
        fields["network"] = world.networks[row.network_uuid].name
    if isinstance(row, GroupRecord):
        names = {group.uuid: group.name for group in world.groups.values()}
        fields["rules"] = [rule_text(rule, names) for rule in row.rules]
    if "security_groups" in fields:
        fields["security_groups"] = [world.groups[uuid].name for uuid in row.security_groups]
    if fields.get("shadow_of"):
        fields["shadow_of"] = world.ports[row.shadow_of].name
    if "parent_port" in fields:
        fields.pop("parent_port")
        fields["parent"] = port_path(world, world.ports[row.parent_port]) if row.parent_port else None
    hidden = ("zone_uuids", "zone_uuid", "switch_uuid", "network_uuid", "vteps", "members_at")
    return {name: value for name, value in fields.items() if name not in hidden}


def _deleted(kind: str, name: str) -> Action:
    return Action(verb="delete", kind=kind, name=name, fields={})
