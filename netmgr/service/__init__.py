"""The verbs of the API: each finds what it is about, asks the rules, and is one transaction of the store.

Whoever calls a verb is already known to be allowed to. Objects go by UUID or name. What a verb returns is the row as
committed; refusals are `NetmgrError` and leave nothing behind. *acked* are the revisions that hosts have acknowledged,
which end quarantines of segment ids; without it, none ends.

Larger verbs have modules of their own: `apply`, `join`; so have the edits of `groups`. `views` shows rows,
`realization` says who has realized them.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from netmgr.contract.types import LogicalPort, OpaqueNetwork, OpaqueSwitch, TransportZone, Withdrawal
from netmgr.model import GroupRecord, HostRecord
from netmgr.service import edits, failover, groups, withdrawals
from netmgr.service.apply import Action, Applied, apply
from netmgr.service.document import load_document
from netmgr.service.join import Joined, create_token, join
from netmgr.service.lookup import find_group, find_host, find_network, find_port, find_switch, find_zone
from netmgr.service.specs import (
    GroupPatch,
    GroupSpec,
    HostPatch,
    NetworkPatch,
    NetworkSpec,
    PortPatch,
    PortSpec,
    RuleSpec,
    SwitchPatch,
    SwitchSpec,
    WithdrawalSpec,
    ZonePatch,
    ZoneSpec,
)
from netmgr.store import Store

__all__ = [
    "Action",
    "Applied",
    "Joined",
    "add_rule",
    "apply",
    "attach_port",
    "create_group",
    "create_network",
    "create_port",
    "create_switch",
    "create_token",
    "create_zone",
    "delete_group",
    "delete_host",
    "delete_network",
    "delete_port",
    "delete_switch",
    "delete_zone",
    "detach_port",
    "failover_port",
    "join",
    "load_document",
    "remove_rule",
    "restore_network",
    "set_group",
    "set_host",
    "set_network",
    "set_port",
    "set_switch",
    "set_zone",
    "withdraw_network",
]


def create_zone(store: Store, spec: ZoneSpec) -> TransportZone:
    with store.transaction() as tx:
        return edits.add_zone(tx, spec)


def set_zone(store: Store, zone: str, patch: ZonePatch) -> TransportZone:
    with store.transaction() as tx:
        return edits.set_zone(tx, find_zone(tx.world, zone), patch)


def delete_zone(store: Store, zone: str) -> None:
    with store.transaction() as tx:
        edits.drop_zone(tx, find_zone(tx.world, zone))


def create_switch(store: Store, spec: SwitchSpec) -> OpaqueSwitch:
    with store.transaction() as tx:
        return edits.add_switch(tx, spec)


def set_switch(store: Store, switch: str, patch: SwitchPatch) -> OpaqueSwitch:
    with store.transaction() as tx:
        return edits.set_switch(tx, find_switch(tx.world, switch), patch)


def delete_switch(store: Store, switch: str) -> None:
    with store.transaction() as tx:
        edits.drop_switch(tx, find_switch(tx.world, switch))


def create_network(store: Store, spec: NetworkSpec, *, acked: Mapping[UUID, int] | None = None) -> OpaqueNetwork:
    with store.transaction() as tx:
        return edits.add_network(tx, spec, acked=acked or {})


def set_network(store: Store, network: str, patch: NetworkPatch) -> OpaqueNetwork:
    with store.transaction() as tx:
        return edits.set_network(tx, find_network(tx.world, network), patch)


def delete_network(store: Store, network: str) -> None:
    with store.transaction() as tx:
        edits.drop_network(tx, find_network(tx.world, network))


def set_host(store: Store, host: str, patch: HostPatch) -> HostRecord:
    with store.transaction() as tx:
        return edits.set_host(tx, find_host(tx.world, host), patch)


def delete_host(store: Store, host: str) -> None:
    with store.transaction() as tx:
        edits.drop_host(tx, find_host(tx.world, host))


def create_port(store: Store, spec: PortSpec) -> LogicalPort:
    with store.transaction() as tx:
        return edits.add_port(tx, spec)


def set_port(store: Store, port: str, patch: PortPatch) -> LogicalPort:
    with store.transaction() as tx:
        return edits.set_port(tx, find_port(tx.world, port), patch)


def delete_port(store: Store, port: str, *, force: bool = False) -> None:
    """*force*: also when a host holds it for a running VM, which loses its network then."""
    with store.transaction() as tx:
        edits.drop_port(tx, find_port(tx.world, port), force=force)


def attach_port(store: Store, port: str, *, vif_uuid: str) -> LogicalPort:
    """Attach a VIF to a port that has none."""
    with store.transaction() as tx:
        return edits.set_port(tx, find_port(tx.world, port), PortPatch(vif_uuid=vif_uuid))


def detach_port(store: Store, port: str, *, force: bool = False) -> LogicalPort:
    """Take the VIF off a port; its location becomes unbound. *force*: as in `delete_port`."""
    with store.transaction() as tx:
        return edits.detach_port(tx, find_port(tx.world, port), force=force)


def failover_port(store: Store, port: str, *, force: bool = False) -> LogicalPort:
    """Let a shadow take its primary's place; *port* is either of the two. The port that is lit now.

    *force*: also when no host holds the shadow for a VM.
    """
    with store.transaction() as tx:
        return failover.failover_port(tx, find_port(tx.world, port), force=force)


def create_group(store: Store, spec: GroupSpec) -> GroupRecord:
    with store.transaction() as tx:
        return groups.add_group(tx, spec)


def set_group(store: Store, group: str, patch: GroupPatch) -> GroupRecord:
    with store.transaction() as tx:
        return groups.set_group(tx, find_group(tx.world, group), patch)


def delete_group(store: Store, group: str) -> None:
    with store.transaction() as tx:
        groups.drop_group(tx, find_group(tx.world, group))


def add_rule(store: Store, group: str, spec: RuleSpec) -> GroupRecord:
    """Allow more; a rule that is there already changes nothing."""
    with store.transaction() as tx:
        return groups.add_rule(tx, find_group(tx.world, group), spec)


def remove_rule(store: Store, group: str, spec: RuleSpec) -> GroupRecord:
    """Allow it no more, in connections that are open either."""
    with store.transaction() as tx:
        return groups.remove_rule(tx, find_group(tx.world, group), spec)


def withdraw_network(store: Store, network: str, spec: WithdrawalSpec, *, by: str) -> Withdrawal:
    """Hide a network from a host or all; done again, the reason is the newer one and the beginning stays."""
    with store.transaction() as tx:
        host = find_host(tx.world, spec.host) if spec.host is not None else None
        return withdrawals.withdraw(tx, find_network(tx.world, network), host, reason=spec.reason, by=by)


def restore_network(store: Store, network: str, *, host: str | None = None) -> OpaqueNetwork:
    """Show a network again, on one host or everywhere."""
    with store.transaction() as tx:
        found = find_network(tx.world, network)
        withdrawals.restore(tx, found, find_host(tx.world, host) if host is not None else None)
        return found
