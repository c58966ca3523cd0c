"""What administrators want of placement, kept: needs of VMs, rules, settings, hosts in maintenance.

Reads are whole, since all of it is held in memory beside the arrays; writes are one transaction each, on disk when the
call returns. Calls block; the daemon makes them from a thread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from vmctl import tables
from vmctl.model import VmctlError
from vmctl.placement.model import Needs, Policy, RuleKind, Settings
from vmctl.store import Store

__all__ = ["Maintenance", "PlacementStore", "Rule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """VMs that are kept together or apart."""

    name: str
    kind: RuleKind
    vms: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintenance:
    """A host that takes no VM. *evacuating* while vmctl still empties it."""

    host: str
    since: str  # RFC 3339, UTC
    evacuating: bool


class PlacementStore:
    """Rows in, frozen values out, by way of *store*."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # --- VMs and rules --------------------------------------------------------------------------------------------

    def needs(self) -> dict[UUID, Needs]:
        """Needs of every VM that has any, with its rules."""
        rules = self.rules()
        with self._store.begin() as connection:
            rows = {UUID(row.vm_uuid): row for row in connection.execute(sa.select(tables.placement_needs))}
        of: dict[RuleKind, dict[UUID, set[str]]] = {kind: {} for kind in RuleKind}
        for rule in rules:
            for vm in rule.vms:
                of[rule.kind].setdefault(vm, set()).add(rule.name)
        vms = rows.keys() | of[RuleKind.AFFINITY].keys() | of[RuleKind.ANTI_AFFINITY].keys()
        return {
            vm: Needs(
                disk_mib=rows[vm].disk_mib if vm in rows else 0,
                bandwidth_mbps=rows[vm].bandwidth_mbps if vm in rows else 0,
                affinity=frozenset(of[RuleKind.AFFINITY].get(vm, ())),
                anti_affinity=frozenset(of[RuleKind.ANTI_AFFINITY].get(vm, ())),
            )
            for vm in vms
        }

    def put_needs(self, vm: UUID, *, disk_mib: int, bandwidth_mbps: int) -> None:
        """Sets what the VM needs beyond its domain."""
        with self._store.begin() as connection:
            connection.execute(tables.placement_needs.delete().where(tables.placement_needs.c.vm_uuid == str(vm)))
            if disk_mib or bandwidth_mbps:
                values = {"vm_uuid": str(vm), "disk_mib": disk_mib, "bandwidth_mbps": bandwidth_mbps}
                connection.execute(tables.placement_needs.insert().values(**values))

    def forget_vm(self, vm: UUID) -> None:
        """Drops its needs and takes it out of its rules; one that has none is no error."""
        with self._store.begin() as connection:
            connection.execute(tables.placement_needs.delete().where(tables.placement_needs.c.vm_uuid == str(vm)))
            connection.execute(tables.placement_members.delete().where(tables.placement_members.c.vm_uuid == str(vm)))

    def rules(self) -> tuple[Rule, ...]:
        """All rules, by name."""
        with self._store.begin() as connection:
            members: dict[str, list[UUID]] = {}
            for row in connection.execute(
                sa.select(tables.placement_members).order_by(tables.placement_members.c.vm_uuid)
            ):
                members.setdefault(row.rule, []).append(UUID(row.vm_uuid))
            return tuple(
                Rule(name=row.name, kind=RuleKind(row.kind), vms=tuple(members.get(row.name, ())))
                for row in connection.execute(sa.select(tables.placement_rules).order_by(tables.placement_rules.c.name))
            )

    def rule(self, name: str) -> Rule:
        """The rule of that name.

        Raises:
            VmctlError: there is none; the sentence names those that are.
        """
        rules = self.rules()
        found = next((rule for rule in rules if rule.name == name), None)
        if found is None:
            known = ", ".join(rule.name for rule in rules) or "none yet"
            raise VmctlError(f"there is no rule {name}; there is {known} (vmctl rule create)", status=404)
        return found

    def add_rule(self, rule: Rule) -> None:
        """Adds *rule*; refused when its name is taken."""
        try:
            with self._store.begin() as connection:
                connection.execute(tables.placement_rules.insert().values(name=rule.name, kind=rule.kind.value))
                _join(connection, rule.name, rule.vms)
        except IntegrityError:
            raise VmctlError(
                f"there is a rule {rule.name} already; see `vmctl rule list`, or choose another name", status=409
            ) from None

    def remove_rule(self, name: str) -> None:
        """Forgets the rule; its VMs stay where they are."""
        self.rule(name)
        with self._store.begin() as connection:
            connection.execute(tables.placement_members.delete().where(tables.placement_members.c.rule == name))
            connection.execute(tables.placement_rules.delete().where(tables.placement_rules.c.name == name))

    def change_members(self, name: str, *, add: Sequence[UUID] = (), remove: Sequence[UUID] = ()) -> Rule:
        """The rule after VMs were added and taken out; those that were in, or were not, are no error."""
        before = self.rule(name)
        with self._store.begin() as connection:
            gone = [str(vm) for vm in remove]
            connection.execute(
                tables.placement_members.delete().where(
                    tables.placement_members.c.rule == name, tables.placement_members.c.vm_uuid.in_(gone)
                )
            )
            _join(connection, name, [vm for vm in dict.fromkeys(add) if vm not in before.vms])
        return self.rule(name)

    # --- settings -------------------------------------------------------------------------------------------------

    def settings(self) -> Settings:
        """The settings; what nobody has set is as `Settings` has it."""
        known = {field.name for field in fields(Settings)}
        with self._store.begin() as connection:
            rows = connection.execute(sa.select(tables.placement_settings))
            values: dict[str, Any] = {row.key: json.loads(row.value) for row in rows if row.key in known}
        if "policy" in values:
            values["policy"] = Policy(values["policy"])
        return Settings(**values)

    def change_settings(self, values: Mapping[str, Any]) -> Settings:
        """The settings after *values*, which the caller has checked, were set."""
        with self._store.begin() as connection:
            for key, value in values.items():
                connection.execute(tables.placement_settings.delete().where(tables.placement_settings.c.key == key))
                connection.execute(tables.placement_settings.insert().values(key=key, value=json.dumps(value)))
        return self.settings()

    # --- maintenance ----------------------------------------------------------------------------------------------

    def maintenance(self) -> tuple[Maintenance, ...]:
        """Hosts in maintenance, by name."""
        with self._store.begin() as connection:
            rows = connection.execute(sa.select(tables.maintenance).order_by(tables.maintenance.c.host)).mappings()
            return tuple(Maintenance(**row) for row in rows)

    def put_maintenance(self, state: Maintenance) -> None:
        """Adds the host, or replaces its row."""
        with self._store.begin() as connection:
            connection.execute(tables.maintenance.delete().where(tables.maintenance.c.host == state.host))
            values = {"host": state.host, "since": state.since, "evacuating": state.evacuating}
            connection.execute(tables.maintenance.insert().values(**values))

    def end_maintenance(self, host: str) -> None:
        """The host takes VMs again; one that was not in maintenance is no error."""
        with self._store.begin() as connection:
            connection.execute(tables.maintenance.delete().where(tables.maintenance.c.host == host))


def _join(connection: sa.Connection, rule: str, vms: Sequence[UUID]) -> None:
    for vm in vms:
        connection.execute(tables.placement_members.insert().values(rule=rule, vm_uuid=str(vm)))
