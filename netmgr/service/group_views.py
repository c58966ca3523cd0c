"""Security groups as the API shows them: rules in words and in fields, members, ports, and which of these no rule can
meet. Pure."""

from __future__ import annotations

from typing import Any

from netmgr.contract.types import SecurityRule
from netmgr.model import GroupRecord, World, port_path
from netmgr.rules.groups import members_of, rule_text, unmatched_members

__all__ = ["group_view"]

View = dict[str, Any]


def group_view(world: World, group: GroupRecord) -> View:
    """Everything about one group; `allows` says in words what `rules` says in fields."""
    names = {uuid: world.groups[uuid].name for uuid in group.refers_to()}
    ports = (world.ports[uuid] for uuid in world.ports_by_group.get(group.uuid, ()))
    return {
        "uuid": str(group.uuid),
        "name": group.name,
        "stateful": group.stateful,
        "allows": [rule_text(rule, names) for rule in group.rules],
        "ports": sorted(port_path(world, port) for port in ports),
        "members": list(members_of(world, group.uuid)),
        "referred_to_by": sorted(world.groups[uuid].name for uuid in world.groups_referring.get(group.uuid, ())),
        "warnings": unmatched_members(world, group.uuid),
        "rules": [_rule_view(world, rule) for rule in group.rules],
    }


def _rule_view(world: World, rule: SecurityRule) -> View:
    """What `RuleSpec` takes, so that a rule shown can be sent back."""
    given = {
        "direction": rule.direction.value,
        "ethertype": rule.ethertype.value,
        "protocol": rule.protocol,
        "port_min": rule.port_min or None,
        "port_max": rule.port_max or None,
        "icmp_type": rule.icmp_type if rule.icmp_type >= 0 else None,
        "icmp_code": rule.icmp_code if rule.icmp_code >= 0 else None,
        "remote_cidr": rule.remote_cidr or None,
        "remote_group": world.groups[rule.remote_group].name if rule.remote_group is not None else None,
    }
    return {name: value for name, value in given.items() if value is not None}
