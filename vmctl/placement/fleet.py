"""All hosts and the VMs on them as arrays, kept up to date, never rebuilt for a decision.

One column a host; a column that a removed host leaves is given to the next. What holds for a host whatever the VM
(unread, behind, in maintenance, …) is kept as bits of `Code`, so that a decision takes them as they are. A network has
a row of flags and of health over all hosts, and for each host the row of the switch that carries it there; a switch has
rows of PNIC bandwidth, of what is reserved of it, and of free ports. What VMs use is added up when one comes, goes or
changes. A host that does not tell a limit has an infinite one.

A VM that moves is on both its hosts, and counts twice until it is gone from one. `trial()` tries moves and takes them
back: plans are made on the fleet itself, not on a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt

from netmgr.contract.types import Status
from vmctl.model import Code, HostView, Unread, Vm
from vmctl.placement.model import HostFacts, Needs, Settings, networks_of

__all__ = ["BIT", "CARRIED", "NETWORK_UNFIT", "SWITCH_UNFIT", "Fleet", "Placed"]

BIT = {code: 1 << index for index, code in enumerate(Code)}
CARRIED, NETWORK_UNFIT, SWITCH_UNFIT = 1, 2, 4
_UNFIT = (Status.DOWN, Status.UNAVAILABLE, Status.MAINTENANCE)
_NOWHERE = -1

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A VM on a host, with what was added to the host's columns for it. *reserved* is one that is only expected."""

    vm: Vm
    needs: Needs
    column: int
    switches: tuple[int, ...]
    reserved: bool = False

    def holds(self, rule: str) -> bool:
        """True while it counts as a member of the rule."""
        return self.vm.state.active and (rule in self.needs.affinity or rule in self.needs.anti_affinity)


class Fleet:
    """Arrays over all hosts. Names of hosts are unique; VMs are told apart by UUID and host."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._limits: Array | None = None  # as `limits`, until a host's or the settings change
        self.isolated: frozenset[str] = frozenset()  # libvirt networks that are another on every host
        self.names: list[str] = []  # by column, empty where no host is
        self.facts: dict[str, HostFacts] = {}
        self.column: dict[str, int] = {}
        self.network_row: dict[UUID, int] = {}
        self.switch_row: dict[UUID, int] = {}
        self._unused: list[int] = []
        self._recycled = False  # rows of networks were given to others, so they are no longer dense
        self._on: list[dict[UUID, Placed]] = []  # by column
        self._where: dict[UUID, dict[int, Placed]] = {}
        self._groups: dict[str, set[UUID]] = {}  # active members of each rule
        self._port_groups: dict[str, Array] = {}
        self._trial: list[tuple[str, Placed]] | None = None
        self._size = 64
        self._bits = np.zeros(64, np.uint32)
        self._there = np.zeros(64, bool)
        self._totals = np.full((3, 64), np.inf)  # CPUs, MiB of memory, MiB of disk
        self._used = np.zeros((3, 64))
        self._disk_taken = np.zeros(64)
        self._running = np.zeros(64, np.int32)
        self._flags = np.zeros((16, 64), np.uint8)
        self._health = np.zeros((16, 64), np.uint8)
        self._switch_of = np.full((16, 64), _NOWHERE, np.int16)
        self._link = np.full((4, 64), np.inf)
        self._link_used = np.zeros((4, 64))
        self._ports = np.full((4, 64), np.inf)

    # --- what there is --------------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._settings = settings
        self._limits = None

    @property
    def width(self) -> int:
        """Columns in use; some may be of no host (see `there`)."""
        return len(self.names)

    @property
    def there(self) -> Array:
        return self._there[: self.width]

    @property
    def bits(self) -> Array:
        """Why a host takes no VM, whatever the VM; the caller picks what matters to it."""
        return self._bits[: self.width]

    @property
    def running(self) -> Array:
        """Active VMs on each host."""
        return self._running[: self.width]

    def limits(self) -> Array:
        """CPUs, memory and disk that may be given away, three rows; infinite where a host does not tell."""
        if self._limits is None:
            s = self.settings
            ratios = np.array([[s.cpu_ratio], [s.memory_ratio], [s.disk_ratio]])
            found: Array = self._totals[:, : self.width] * ratios
            found[1] = np.maximum(found[1] - s.memory_reserved_mib, 1.0)
            found.flags.writeable = False
            self._limits = found
        return self._limits

    def used(self, *, besides: UUID | None = None) -> Array:
        """What active VMs, other than *besides*, take of CPUs and memory, and what is taken or promised of disk."""
        found: Array = self._used[:, : self.width].copy()
        for placed in self._where.get(besides, {}).values() if besides is not None else ():
            found[:, placed.column] -= _shares(placed)
        np.maximum(found[2], self._disk_taken[: self.width], out=found[2])
        return found

    def loads(self) -> Array:
        """The larger of CPU's and memory's share that is given away, of each host; 0 where limits are unknown."""
        shares: Array = (self._used[:2, : self.width] / self.limits()[:2]).max(axis=0)
        return shares

    def flags(self, network: UUID) -> Array:
        """CARRIED, NETWORK_UNFIT and SWITCH_UNFIT of each host; 0 where it does not carry the network."""
        row = self.network_row.get(network)
        return self._flags[row, : self.width] if row is not None else np.zeros(self.width, np.uint8)

    def all_flags(self) -> Array:
        """The flags of all networks, by `network_row`."""
        return self._flags[:, : self.width]

    def health(self, network: UUID) -> Array:
        """0 to 100, the network's or its switch's, whichever is worse."""
        row = self.network_row.get(network)
        return self._health[row, : self.width] if row is not None else np.zeros(self.width, np.uint8)

    def switch_rows(self, network: UUID) -> Array:
        """Row of the switch that carries the network on each host, negative where none does."""
        row = self.network_row.get(network)
        return self._switch_of[row, : self.width] if row is not None else np.full(self.width, _NOWHERE, np.int16)

    def of_switch(self, rows: Array, *, besides: UUID) -> tuple[Array, Array, Array]:
        """Mbit/s that may be reserved, Mbit/s reserved by VMs other than *besides*, and free ports, on switch
        *rows[i]* of host i."""
        columns = np.arange(self.width)
        known = rows >= 0
        limit = np.where(known, self._link[rows, columns] * self.settings.bandwidth_ratio, np.inf)
        used = np.where(known, self._link_used[rows, columns], 0.0)
        ports = np.where(known, self._ports[rows, columns], np.inf)
        for placed in self._where.get(besides, {}).values():
            if placed.vm.state.active and rows[placed.column] in placed.switches:
                used[placed.column] -= placed.needs.bandwidth_mbps
        return limit, used, ports

    def has_port_group(self, name: str) -> Array:
        found = self._port_groups.get(name)
        return found[: self.width] if found is not None else np.zeros(self.width, bool)

    def columns_of_rule(self, rule: str, *, besides: UUID) -> list[int]:
        """Columns where active members of the rule are, other than VM *besides*."""
        members = self._groups.get(rule, set()) - {besides}
        return [c for uuid in members for c, placed in self._where[uuid].items() if placed.holds(rule)]

    def members_on(self, rule: str, host: str, *, besides: UUID) -> list[str]:
        """Names of the active members of the rule on the host, other than VM *besides*."""
        on = self._on[self.column[host]]
        members = (on.get(uuid) for uuid in self._groups.get(rule, set()) - {besides})
        return sorted(placed.vm.name for placed in members if placed is not None and placed.holds(rule))

    def on(self, host: str) -> tuple[Placed, ...]:
        """What is on the host, expected VMs too."""
        return tuple(self._on[self.column[host]].values())

    def where(self, vm: UUID) -> tuple[Placed, ...]:
        """Every sighting of the VM."""
        return tuple(self._where.get(vm, {}).values())

    def vm_count(self) -> int:
        return len(self._where)

    # --- what changes ---------------------------------------------------------------------------------------------

    def put_host(self, facts: HostFacts) -> None:
        """Adds the host, or replaces what is known of it. VMs on it stay."""
        column = self.column.get(facts.name)
        if column is None:
            column = self._new_column(facts.name)
            self._limits = None
        old = self.facts.get(facts.name)
        self.facts[facts.name] = facts
        self._bits[column] = _host_bits(facts)
        if old is None or old.capacity != facts.capacity:
            c = facts.capacity
            known = (c.cpus, c.memory_mib, c.disk_mib) if c is not None else (None, None, None)
            self._totals[:, column] = [np.inf if value is None else value for value in known]
            self._limits = None
            self._disk_taken[column] = c.disk_taken_mib if c is not None else 0
        if old is None or old.port_groups != facts.port_groups:
            for name in facts.port_groups - self._port_groups.keys():
                self._port_groups[name] = np.zeros(self._size, bool)
            for name, row in self._port_groups.items():
                row[column] = name in facts.port_groups
        if old is None or old.view is not facts.view:
            self._put_view(column, facts.view)

    def remove_host(self, name: str) -> None:
        """Forgets the host and what is on it; one that is not there is no error."""
        if name not in self.column:
            return
        for placed in self.on(name):
            self._take(placed)
        self.put_host(HostFacts(name=name, view=Unread(host=name, reason="removed")))
        column = self.column.pop(name)
        del self.facts[name]
        self.names[column] = ""
        self._there[column] = False
        self._unused.append(column)

    def put_vms(self, host: str, vms: Sequence[tuple[Vm, Needs]]) -> None:
        """Makes *vms* all that is seen on the host; what is only expected there stays until it is seen."""
        column = self.column[host]
        mine = self._on[column]
        seen = {vm.uuid for vm, _ in vms}
        for placed in [p for uuid, p in mine.items() if uuid not in seen and not p.reserved]:
            self._take(placed)
        for vm, needs in vms:
            old = mine.get(vm.uuid)
            if old is None or old.vm != vm or old.needs != needs or old.reserved:
                if old is not None:
                    self._take(old)
                self._give(vm, needs, column)

    def reserve(self, vm: Vm, needs: Needs, host: str) -> None:
        """Counts *vm* on the host as if it ran there, until it is seen there or `release` is called."""
        column = self.column[host]
        if vm.uuid not in self._on[column]:
            self._give(vm, needs, column, reserved=True)

    def release(self, vm: UUID, host: str) -> None:
        """Ends a reservation; none is no error."""
        placed = self._on[self.column[host]].get(vm) if host in self.column else None
        if placed is not None and placed.reserved:
            self._take(placed)

    @contextmanager
    def trial(self) -> Iterator[Fleet]:
        """Moves made inside are taken back at the end."""
        assert self._trial is None, "a trial inside a trial"
        self._trial = []
        try:
            yield self
        finally:
            self.back_to(0)
            self._trial = None

    def mark(self) -> int:
        """A point of the trial to go back to."""
        assert self._trial is not None
        return len(self._trial)

    def back_to(self, mark: int) -> None:
        """Takes back what was moved since *mark*."""
        steps = self._trial
        assert steps is not None
        self._trial = None
        while len(steps) > mark:
            did, placed = steps.pop()
            if did == "gave":
                self._take(placed)
                self._count_ports(placed, +1)
            else:
                self._restore(placed)
                self._count_ports(placed, -1)
        self._trial = steps

    def move(self, placed: Placed, host: str) -> None:
        """Puts the VM on another host, inside a trial; free ports, else told by the hosts, are counted too."""
        assert self._trial is not None, "moves are tried, not made, here"
        self._take(placed)
        self._count_ports(placed, +1)
        vm = replace(placed.vm, host=host)
        self._count_ports(self._give(vm, placed.needs, self.column[host]), -1)

    # --- columns --------------------------------------------------------------------------------------------------

    def _give(self, vm: Vm, needs: Needs, column: int, *, reserved: bool = False) -> Placed:
        networks = networks_of(vm)
        rows = {int(self.switch_rows(uuid)[column]) for uuid in networks} - {_NOWHERE}
        placed = Placed(vm=vm, needs=needs, column=column, switches=tuple(sorted(rows)), reserved=reserved)
        self._restore(placed)
        if self._trial is not None:
            self._trial.append(("gave", placed))
        return placed

    def _restore(self, placed: Placed) -> None:
        vm, column = placed.vm, placed.column
        self._on[column][vm.uuid] = placed
        self._where.setdefault(vm.uuid, {})[column] = placed
        self._charge(placed, +1)
        if vm.state.active:
            for rule in placed.needs.affinity | placed.needs.anti_affinity:
                self._groups.setdefault(rule, set()).add(vm.uuid)

    def _take(self, placed: Placed) -> None:
        vm, column = placed.vm, placed.column
        del self._on[column][vm.uuid]
        left = self._where[vm.uuid]
        del left[column]
        if not left:
            del self._where[vm.uuid]
        for rule in placed.needs.affinity | placed.needs.anti_affinity:
            if not any(other.holds(rule) for other in left.values()):
                members = self._groups.get(rule, set())
                members.discard(vm.uuid)
                if not members:
                    self._groups.pop(rule, None)
        self._charge(placed, -1)
        if self._trial is not None:
            self._trial.append(("took", placed))

    def _charge(self, placed: Placed, sign: int) -> None:
        column = placed.column
        self._used[:, column] += sign * _shares(placed)
        if placed.vm.state.active:
            self._running[column] += sign
            for row in placed.switches:
                self._link_used[row, column] += sign * placed.needs.bandwidth_mbps

    def _count_ports(self, placed: Placed, sign: int) -> None:
        for uuid, count in networks_of(placed.vm).items():
            row = int(self.switch_rows(uuid)[placed.column])
            if row != _NOWHERE:
                self._ports[row, placed.column] += sign * count

    def _put_view(self, column: int, view: HostView | Unread) -> None:
        on = tuple(self._on[column].values())
        for placed in on:
            self._take(placed)
        self._flags[:, column] = 0
        self._health[:, column] = 0
        self._switch_of[:, column] = _NOWHERE
        self._link[:, column] = np.inf
        self._ports[:, column] = np.inf
        if isinstance(view, HostView):
            for switch in view.switches:
                row = self._row(self.switch_row, switch.uuid, ("_link", "_link_used", "_ports"))
                self._link[row, column] = np.inf if switch.link_mbps is None else switch.link_mbps
                self._ports[row, column] = np.inf if switch.free_ports is None else switch.free_ports
            for network in view.networks:
                row = self._row(self.network_row, network.uuid, ("_flags", "_health", "_switch_of"))
                carrier = view.switch_of(network)
                lost = carrier is None and network.switch_uuid is not None
                self._flags[row, column] = (
                    CARRIED
                    | (NETWORK_UNFIT if network.status in _UNFIT else 0)
                    | (SWITCH_UNFIT if lost or (carrier is not None and carrier.status in _UNFIT) else 0)
                )
                self._health[row, column] = min(network.health, carrier.health if carrier else 100, 100)
                if carrier is not None:
                    self._switch_of[row, column] = self.switch_row[carrier.uuid]
        for placed in on:
            self._give(placed.vm, placed.needs, column, reserved=placed.reserved)

    def _new_column(self, name: str) -> int:
        if self._unused:
            column = self._unused.pop()
            self.names[column] = name
        else:
            column = len(self.names)
            self.names.append(name)
            self._on.append({})
            if column >= self._size:
                self._widen()
        self.column[name] = column
        self._there[column] = True
        return column

    def _widen(self) -> None:
        """Twice as many columns, new ones as those of no host."""
        fills = {"_totals": np.inf, "_link": np.inf, "_ports": np.inf, "_switch_of": _NOWHERE}
        for name in ("_bits", "_there", "_totals", "_used", "_disk_taken", "_running", "_flags", "_health",
                     "_switch_of", "_link", "_link_used", "_ports"):  # fmt: skip
            array = getattr(self, name)
            setattr(self, name, np.concatenate((array, np.full_like(array, fills.get(name, 0))), axis=-1))
        self._port_groups = {n: np.concatenate((row, np.zeros_like(row))) for n, row in self._port_groups.items()}
        self._size *= 2

    def _row(self, index: dict[UUID, int], uuid: UUID, arrays: Sequence[str]) -> int:
        """The row of *uuid*; a new one takes the place of a network that no host carries any more, or makes room."""
        if uuid in index:
            return index[uuid]
        rows = getattr(self, arrays[0]).shape[0]
        if len(index) < rows:
            row = next(iter(set(range(rows)) - set(index.values()))) if self._recycled else len(index)
        elif index is self.network_row and (gone := [u for u, r in index.items() if not self._flags[r].any()]):
            for other in gone:
                del index[other]
            self._recycled = True
            return self._row(index, uuid, arrays)
        else:
            row = rows
            fills = {"_link": np.inf, "_ports": np.inf, "_switch_of": _NOWHERE}
            for name in arrays:
                array = getattr(self, name)
                setattr(self, name, np.concatenate((array, np.full_like(array, fills.get(name, 0)))))
        index[uuid] = row
        return row


def _shares(placed: Placed) -> Array:
    """CPUs, memory and disk that a VM takes where it is; one that is off takes disk alone."""
    vm, active = placed.vm, placed.vm.state.active
    return np.array([vm.vcpus if active else 0, vm.memory_mib if active else 0, placed.needs.disk_mib], float)


def _host_bits(facts: HostFacts) -> int:
    bits = 0
    if isinstance(facts.view, Unread):
        bits |= BIT[Code.HOST_UNREAD]
    else:
        bits |= 0 if facts.view.in_sync else BIT[Code.NOT_IN_SYNC]
        bits |= 0 if facts.view.manager_connected else BIT[Code.MANAGER_AWAY]
    bits |= BIT[Code.LIBVIRT_UNREAD] if facts.libvirt_problem else 0
    bits |= BIT[Code.PEER_UNREACHABLE] if facts.peer_is_local else 0
    bits |= BIT[Code.HOST_MAINTENANCE] if facts.maintenance else 0
    return bits
