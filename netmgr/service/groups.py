"""Edits of security groups, and of ports as their members, within one transaction.

A group's members follow from the ports that have it. `put_port` and `delete_port` write a port together with that
consequence: each group whose members it alters gets the revision as its `members_at`, so that it is a changed object,
which is pushed, and no list of members is ever written twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from uuid import UUID, uuid4

from netmgr import rules
from netmgr.contract.types import Direction, Ethertype, Kind, LogicalPort, SecurityRule
from netmgr.model import PORT_HISTORY, GroupRecord, NetmgrError
from netmgr.rules.groups import groups_altered, rule_text
from netmgr.service.lookup import find_group
from netmgr.service.specs import GroupPatch, GroupSpec, RuleSpec
from netmgr.store import Transaction

__all__ = ["add_group", "add_rule", "delete_port", "drop_group", "put_port", "remove_rule", "set_group"]


def put_port(tx: Transaction, port: LogicalPort) -> None:
    """Put *port*; groups whose members it alters change with it."""
    before = tx.world.ports.get(port.uuid)
    tx.put(port)
    _note_members(tx, groups_altered(before, port))


def delete_port(tx: Transaction, port_uuid: UUID) -> None:
    """Delete a port with all that is kept of it; groups whose members it alters change with it."""
    before = tx.world.ports.get(port_uuid)
    tx.delete(PORT_HISTORY, port_uuid)
    tx.delete(Kind.LEARNED, port_uuid)
    tx.delete(Kind.LOCATION, port_uuid)
    tx.delete(Kind.PORT, port_uuid)
    _note_members(tx, groups_altered(before, None))


def add_group(tx: Transaction, spec: GroupSpec) -> GroupRecord:
    group = GroupRecord(uuid=uuid4(), name=spec.name, stateful=spec.stateful)
    return _put(tx, replace(group, rules=_rules(tx, group, spec.rules)))


def set_group(tx: Transaction, group: GroupRecord, patch: GroupPatch) -> GroupRecord:
    changed = group
    if patch.name is not None:
        changed = replace(changed, name=patch.name)
    if patch.stateful is not None:
        changed = replace(changed, stateful=patch.stateful)
    if patch.rules is not None:
        changed = replace(changed, rules=_rules(tx, changed, patch.rules))
    return _put(tx, changed)


def add_rule(tx: Transaction, group: GroupRecord, spec: RuleSpec) -> GroupRecord:
    """Adding what is there already changes nothing."""
    return _put(tx, replace(group, rules=_sorted({*group.rules, _rule(tx, group, spec)})))


def remove_rule(tx: Transaction, group: GroupRecord, spec: RuleSpec) -> GroupRecord:
    rule = _rule(tx, group, spec)
    if rule not in group.rules:
        names = {row.uuid: row.name for row in tx.world.groups.values()}
        there = "; ".join(rule_text(one, names) for one in group.rules) or "none"
        raise NetmgrError(f"group {group.name} has no rule {rule_text(rule, names)!r}; it has: {there}", status=404)
    return _put(tx, replace(group, rules=tuple(one for one in group.rules if one != rule)))


def drop_group(tx: Transaction, group: GroupRecord) -> None:
    rules.check_group_removal(tx.world, group)
    tx.delete(Kind.SECURITY_GROUP, group.uuid)


def _put(tx: Transaction, group: GroupRecord) -> GroupRecord:
    rules.check_group(tx.world, group)
    tx.put(group)
    return group


def _note_members(tx: Transaction, groups: Iterable[UUID]) -> None:
    for uuid in groups:
        group = tx.world.groups.get(uuid)
        if group is not None:
            tx.put(replace(group, members_at=tx.revision))


def _rules(tx: Transaction, group: GroupRecord, specs: Iterable[RuleSpec]) -> tuple[SecurityRule, ...]:
    return _sorted({_rule(tx, group, spec) for spec in specs})


def _sorted(found: set[SecurityRule]) -> tuple[SecurityRule, ...]:
    def place(rule: SecurityRule) -> tuple[object, ...]:
        ends = (rule.port_min, rule.port_max, rule.icmp_type, rule.icmp_code)
        return (rule.direction, rule.ethertype, rule.protocol, ends, rule.remote_cidr, str(rule.remote_group or ""))

    return tuple(sorted(found, key=place))


def _rule(tx: Transaction, group: GroupRecord, spec: RuleSpec) -> SecurityRule:
    """A group may be referred to by its name, its own rules included, before it is written."""
    remote = None
    if spec.remote_group is not None:
        own = spec.remote_group in (group.name, str(group.uuid))
        remote = group.uuid if own else find_group(tx.world, spec.remote_group).uuid
    wants_ipv6 = spec.protocol == "icmpv6" or ":" in (spec.remote_cidr or "")
    lowest = 0 if spec.port_min is None else spec.port_min
    any_address = spec.remote_cidr in ("0.0.0.0/0", "::/0")
    return SecurityRule(
        direction=Direction(spec.direction),
        ethertype=Ethertype(spec.ethertype or ("ipv6" if wants_ipv6 else "ipv4")),
        protocol=spec.protocol,
        port_min=lowest,
        port_max=lowest if spec.port_max is None else spec.port_max,
        icmp_type=-1 if spec.icmp_type is None else spec.icmp_type,
        icmp_code=-1 if spec.icmp_code is None else spec.icmp_code,
        remote_cidr="" if any_address or spec.remote_cidr is None else spec.remote_cidr,
        remote_group=remote,
    )
