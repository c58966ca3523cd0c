"""Which moves make the fleet better, and are worth their cost.

*Spread*: from the fullest host to where the sum of squared loads falls most. The benefit of a move is that fall in
points (a hundredth), its cost the memory that it copies; only a move that gains more than it costs is made. Every move
lowers the same sum, so passes on a fleet that nobody changes come to an end. *Consolidate*: hosts with the least are
emptied, whole or not at all, onto hosts that run something already, none beyond `pack_limit`; of what stays on, any one
host may fail and its VMs still fit (N+1), and every network keeps two carriers, or as many as it had. A host that is
too full under this policy is relieved as by *spread*.

Hysteresis: loads closer than `balance_gap` are left, a VM that has moved, for whatever reason, stays for `settle_s`
and does not return to a host that it has left for `return_s`. Every destination passes the masks of `Purpose.BALANCE`,
so none lacks a network of the VM, has it sick or is behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt

from vmctl.model import Code
from vmctl.placement.evacuation import proposed
from vmctl.placement.fleet import BIT, CARRIED, Fleet, Placed
from vmctl.placement.masks import masks
from vmctl.placement.model import Move, Plan, Policy, Purpose, Request

__all__ = ["Departure", "plan_balance"]

Departure = tuple[str, float]  # a host that a VM has left, and when, in seconds
Array = npt.NDArray[Any]

_CANDIDATES = 32  # VMs of one host that are weighed
_FAILURES = 64  # hosts that could not be emptied before a pass gives up
_PROBED = 16  # hosts whose failure is played through, VM by VM
_UNUSABLE = np.uint32(
    BIT[Code.HOST_UNREAD] | BIT[Code.LIBVIRT_UNREAD] | BIT[Code.HOST_MAINTENANCE] | BIT[Code.PEER_UNREACHABLE]
)


def plan_balance(
    fleet: Fleet, *, now_s: float, departures: Mapping[UUID, Sequence[Departure]], policy: Policy | None = None
) -> Plan:
    """The best moves of one pass, at most `balance_moves`; *fleet* is left as it was.

    *departures* are the moves of the past, at least those of the last `return_s`.
    """
    limits = fleet.limits()[:2]
    usable = fleet.there & ((fleet.bits & _UNUSABLE) == 0) & np.isfinite(limits).any(axis=0)
    if int(usable.sum()) < 2:
        return Plan(sentence="fewer than two hosts can be balanced: the others cannot be asked or are in maintenance")
    with fleet.trial():
        scene = _Pass(fleet, now_s, departures, usable)
        if (policy or fleet.settings.policy) is Policy.SPREAD:
            return scene.spread(above=0.0)
        relieved = scene.spread(above=fleet.settings.pack_limit + fleet.settings.balance_gap)
        return relieved if relieved.moves else scene.consolidate()


class _Pass:
    """One pass, inside a trial."""

    def __init__(
        self, fleet: Fleet, now_s: float, departures: Mapping[UUID, Sequence[Departure]], usable: Array
    ) -> None:
        self._fleet = fleet
        self._now_s = now_s
        self._departures = departures
        self._usable = usable
        self._limits = fleet.limits()[:2]
        self._moved: set[UUID] = set()

    # --- spread ---------------------------------------------------------------------------------------------------

    def spread(self, *, above: float) -> Plan:
        fleet, s = self._fleet, self._fleet.settings
        moves: list[Move] = []
        exhausted = ~self._usable
        while len(moves) < s.balance_moves:
            loads = fleet.loads()
            source = int(np.argmax(np.where(exhausted, -1.0, loads)))
            lowest = float(loads[self._usable].min())
            if exhausted[source] or loads[source] <= above or loads[source] - lowest < s.balance_gap:
                break
            move = self._best_from(source, loads)
            if move is None:
                exhausted[source] = True
            else:
                moves.append(move)
        loads = fleet.loads()[self._usable]
        spread = f"loads would be between {loads.min():.0%} and {loads.max():.0%}"
        return Plan(moves=tuple(moves), sentence=spread if moves else f"nothing is worth moving; {spread}")

    def _best_from(self, source: int, loads: Array) -> Move | None:
        fleet, s = self._fleet, self._fleet.settings
        found: tuple[float, float, float, Placed, int] | None = None
        used = fleet.used()[:2]
        for placed in self._movable(source)[:_CANDIDATES]:
            wanted = np.array([[placed.vm.vcpus], [placed.vm.memory_mib]], float)
            source_after = float(((used[:, source] - wanted[:, 0]) / self._limits[:, source]).max())
            after = ((used + wanted) / self._limits).max(axis=0)
            benefit = 100 * (loads[source] ** 2 + loads**2 - source_after**2 - after**2)
            cost = s.copy_cost * placed.vm.memory_mib / 1024
            worth = np.where(after < loads[source], benefit - cost, -np.inf)
            if worth.max() <= max(0.0, found[0] if found else 0.0):
                continue  # not even where nothing refuses it
            worth[~self._eligible(placed)] = -np.inf
            target = int(np.argmax(worth))
            if worth[target] > max(0.0, found[0] if found else 0.0):
                found = (float(worth[target]), float(benefit[target]), cost, placed, target)
        if found is None:
            return None
        _, gain, cost, placed, target = found
        return self._make(placed, target, benefit=gain, cost=cost)

    # --- consolidate ----------------------------------------------------------------------------------------------

    def consolidate(self) -> Plan:
        fleet, s = self._fleet, self._fleet.settings
        kept = self._usable.copy()
        moves: list[Move] = []
        freed: list[str] = []
        failures = 0
        loads, running = fleet.loads(), fleet.running.copy()
        order = sorted(
            np.flatnonzero(kept).tolist(), key=lambda c: (running[c] > 0, loads[c], running[c], fleet.names[c])
        )
        carried = (fleet.all_flags() == CARRIED) & kept  # carried, and neither it nor its switch is sick
        wanted = np.minimum(carried.sum(axis=1), 2)
        for column in order:
            if failures > _FAILURES or len(moves) >= s.balance_moves:
                break
            rest = kept.copy()
            rest[column] = False
            if ((carried & rest).sum(axis=1) < wanted).any():
                continue
            mark = fleet.mark()
            emptied = self._empty(column, rest & (fleet.running > 0), room=s.balance_moves - len(moves))
            if emptied is None or not self._survives_one(rest, {fleet.column[m.destination] for m in emptied}):
                fleet.back_to(mark)
                self._moved -= {move.vm_uuid for move in emptied or ()}
                failures += 1
                continue
            kept = rest
            moves += emptied
            freed.append(fleet.names[column])
        hosts = int(self._usable.sum())
        told = f"{len(freed)} of {hosts} hosts would run nothing" if freed else "no host can be emptied"
        return Plan(
            moves=tuple(moves),
            freed=tuple(freed),
            sentence=f"{told}; any one of the others may fail, and every network keeps its span",
        )

    def _empty(self, column: int, allowed: Array, *, room: int) -> list[Move] | None:
        """The moves that leave nothing on the host, None when one of its VMs cannot go."""
        fleet = self._fleet
        moves: list[Move] = []
        on = [p for p in fleet.on(fleet.names[column]) if p.vm.state.active]
        movable = self._movable(column)
        if len(movable) < len(on) or len(on) > room:
            return None
        for placed in movable:
            wanted = np.array([[placed.vm.vcpus], [placed.vm.memory_mib]], float)
            after = ((fleet.used()[:2] + wanted) / self._limits).max(axis=0)
            fits = allowed & (after <= fleet.settings.pack_limit) & self._eligible(placed)
            if not fits.any():
                self._moved -= {move.vm_uuid for move in moves}
                return None
            target = int(np.argmax(np.where(fits, after, -1.0)))
            cost = fleet.settings.copy_cost * placed.vm.memory_mib / 1024
            moves.append(self._make(placed, target, benefit=0.0, cost=cost))
        return moves

    def _survives_one(self, kept: Array, touched: Iterable[int]) -> bool:
        """True when the VMs of any one kept host fit on the other kept hosts: by sums for all, and played through for
        all of a small fleet, else for the hosts that have just been filled and the fullest."""
        fleet = self._fleet
        used = fleet.used()[:2]
        free = np.where(kept, np.maximum(self._limits - used, 0.0), 0.0)
        if (kept & ((free.sum(axis=1, keepdims=True) - free < used).any(axis=0))).any():
            return False
        columns = np.flatnonzero(kept).tolist()
        fullest = int(np.argmax(np.where(kept, fleet.loads(), -1.0)))
        probed = columns if len(columns) <= _PROBED else {*touched, fullest}
        return all(self._fails_softly(column, kept) for column in probed)

    def _fails_softly(self, column: int, kept: Array) -> bool:
        fleet = self._fleet
        mark = fleet.mark()
        rest = kept.copy()
        rest[column] = False
        try:
            for placed in sorted(fleet.on(fleet.names[column]), key=lambda p: -p.vm.memory_mib):
                if not placed.vm.state.active:
                    continue
                request = Request(vm=placed.vm, needs=placed.needs, purpose=Purpose.FAILOVER)
                fits = np.flatnonzero((masks(fleet, request) == 0) & rest)
                if not fits.size:
                    return False
                fleet.move(placed, fleet.names[int(fits[np.argmin(fleet.loads()[fits])])])
            return True
        finally:
            fleet.back_to(mark)

    # --- both -----------------------------------------------------------------------------------------------------

    def _movable(self, column: int) -> list[Placed]:
        """Running VMs of the host that have settled, largest first."""
        settle_s = self._fleet.settings.settle_s
        found = [
            p
            for p in self._fleet.on(self._fleet.names[column])
            if p.vm.state.active
            and not p.reserved
            and p.vm.uuid not in self._moved
            and len(self._fleet.where(p.vm.uuid)) == 1
            and all(self._now_s - at >= settle_s for _, at in self._departures.get(p.vm.uuid, ()))
        ]
        return sorted(found, key=lambda p: (-p.vm.memory_mib, -p.vm.vcpus, p.vm.name))

    def _eligible(self, placed: Placed) -> Array:
        fleet = self._fleet
        request = Request(vm=placed.vm, needs=placed.needs, purpose=Purpose.BALANCE)
        may: Array = (masks(fleet, request) == 0) & self._usable
        for host, at in self._departures.get(placed.vm.uuid, ()):
            if self._now_s - at < fleet.settings.return_s and host in fleet.column:
                may[fleet.column[host]] = False
        return may

    def _make(self, placed: Placed, target: int, *, benefit: float, cost: float) -> Move:
        self._moved.add(placed.vm.uuid)
        return proposed(self._fleet, placed, self._fleet.names[target], benefit=benefit, cost=cost)
