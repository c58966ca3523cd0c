"""Emptying a host: where each of its VMs would go, and which must stay, and why.

The largest guests are placed first, since they fit in the fewest places, each on the fleet as the moves before it would
leave it. What is off stays: its definition costs nothing, and the next start places it elsewhere while the host is in
maintenance.
"""

from __future__ import annotations

from collections import Counter

from vmctl.model import Code, VmState
from vmctl.placement.choice import best
from vmctl.placement.fleet import Fleet, Placed
from vmctl.placement.masks import codes, masks
from vmctl.placement.model import Move, NoMove, Plan, Purpose, Request
from vmctl.placement.sentences import FleetAtlas, refusals

__all__ = ["nowhere", "plan_evacuation", "proposed"]

_SHOWN = 3  # hosts whose refusals are told in full


def plan_evacuation(fleet: Fleet, host: str) -> Plan:
    """Moves that leave nothing running on *host*, as far as other hosts may take it; *fleet* is left as it was."""
    moves, stays = [], []
    with fleet.trial():
        for placed in sorted(fleet.on(host), key=lambda p: (-p.vm.memory_mib, p.vm.name)):
            vm = placed.vm
            if placed.reserved or not vm.state.active:
                stays.append(NoMove(vm_uuid=vm.uuid, vm_name=vm.name, sentence=_idle(placed, host)))
                continue
            request = Request(vm=vm, needs=placed.needs, purpose=Purpose.EVACUATE)
            chosen = best(fleet, request)
            if chosen is None:
                stays.append(NoMove(vm_uuid=vm.uuid, vm_name=vm.name, sentence=nowhere(fleet, request)))
            else:
                moves.append(proposed(fleet, placed, chosen.host))
    if problem := fleet.facts[host].libvirt_problem:  # what it runs now is not known, and unread is not absent
        return Plan(stays=tuple(stays), sentence=f"{host} cannot be asked what it runs: {problem}")
    left = [stay for stay in stays if _runs(fleet, host, stay)]
    return Plan(
        moves=tuple(moves),
        stays=tuple(stays),
        freed=() if left else (host,),
        sentence=f"{host} cannot be emptied: {len(left)} of its VMs may go nowhere" if left else "",
    )


def proposed(fleet: Fleet, placed: Placed, destination: str, *, benefit: float = 0.0, cost: float = 0.0) -> Move:
    """Makes the move inside the trial and tells what it does to both hosts."""
    source, target = placed.column, fleet.column[destination]
    before = fleet.loads()
    fleet.move(placed, destination)
    after = fleet.loads()
    return Move(
        vm_uuid=placed.vm.uuid,
        vm_name=placed.vm.name,
        source=fleet.names[source],
        destination=destination,
        memory_mib=placed.vm.memory_mib,
        source_load=round(float(before[source]), 4),
        source_load_after=round(float(after[source]), 4),
        destination_load=round(float(before[target]), 4),
        destination_load_after=round(float(after[target]), 4),
        benefit=round(benefit, 2),
        cost=round(cost, 2),
    )


def nowhere(fleet: Fleet, request: Request) -> str:
    """Why no host may take the VM: the hosts with the fewest reasons in full, the others counted."""
    bits = masks(fleet, request)
    columns = sorted(
        ((int(bits[column]).bit_count(), host) for host, column in fleet.column.items() if host != request.vm.host)
    )
    if not columns:
        return f"there is no other host for {request.vm.name}; add one (vmctl host add)"
    atlas = FleetAtlas(fleet)
    told = [
        refusal.sentence
        for _, host in columns[:_SHOWN]
        for refusal in refusals(fleet, request, host, bits=int(bits[fleet.column[host]]), atlas=atlas)
    ]
    counted: Counter[Code] = Counter()
    for _, host in columns[_SHOWN:]:
        counted.update(codes(int(bits[fleet.column[host]])))
    more = ", ".join(f"{code} {count}" for code, count in counted.most_common())
    return "; ".join(told) + (f"; {len(columns) - _SHOWN} more hosts refuse it ({more})" if more else "")


def _runs(fleet: Fleet, host: str, stay: NoMove) -> bool:
    """True when what stays is a VM that runs there."""
    return any(p.vm.uuid == stay.vm_uuid and p.vm.state.active and not p.reserved for p in fleet.on(host))


def _idle(placed: Placed, host: str) -> str:
    name, state = placed.vm.name, placed.vm.state
    if placed.reserved:
        return f"{name} is on its way to {host}; wait for it, then empty {host} again"
    if state is VmState.UNKNOWN:
        return f"{host} does not tell how {name} is, so it cannot be moved"
    return f"{name} is {state} and stays defined on {host}; while {host} is in maintenance it starts elsewhere"
