"""Every reason of one host, in words. What concerns networks comes from `vmctl.eligibility`, the rest from the bits.

`refusals` is the one account of why not: of `vmctl why-not` and of the check before a move with the host's own word of
now, of `vmctl place --explain` with the word that Watch has left. Its codes are those of `masks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from uuid import UUID

import numpy as np

from vmctl.eligibility import Atlas
from vmctl.eligibility import refusals as network_refusals
from vmctl.model import Candidate, Code, HostView, Refusal
from vmctl.placement.fleet import BIT, CARRIED, Fleet
from vmctl.placement.masks import RESOURCES
from vmctl.placement.model import Request, networks_of

__all__ = ["FleetAtlas", "refusals"]


class FleetAtlas(Atlas):
    """The atlas of a fleet: which hosts carry a network is told by its row of flags, not by asking every host.

    *view* is a newer word of its host.
    """

    def __init__(self, fleet: Fleet, *, view: Candidate | None = None) -> None:
        super().__init__(())
        self._fleet = fleet
        self._newer = view

    def views(self) -> Iterator[HostView]:
        return self._of(self._fleet.column)

    def views_with(self, network: UUID) -> Iterator[HostView]:
        newer = {self._newer.host} if self._newer is not None else set()
        columns = np.flatnonzero(self._fleet.flags(network) & CARRIED).tolist()
        return self._of({self._fleet.names[column] for column in columns} | newer)

    def _of(self, hosts: Iterable[str]) -> Iterator[HostView]:
        newer = self._newer
        for host in hosts:
            facts = self._fleet.facts.get(host)
            view = newer if newer is not None and newer.host == host else facts.view if facts is not None else None
            if isinstance(view, HostView):
                yield view


def refusals(
    fleet: Fleet, request: Request, host: str, *, bits: int, atlas: Atlas, view: Candidate | None = None
) -> tuple[Refusal, ...]:
    """Every reason why *host* may not take the VM; *bits* are those of `masks`, *view* is a newer word of the host."""
    facts = fleet.facts[host]
    vm, purpose = request.vm, request.purpose
    found = list(network_refusals(vm, view or facts.view, fleet=atlas, move=purpose.moves, can_wait=purpose.can_wait))
    if any(refusal.code is Code.ALREADY_THERE for refusal in found):
        return tuple(found)

    def add(code: Code, sentence: str) -> None:
        found.append(Refusal(host=host, code=code, sentence=sentence))

    if facts.libvirt_problem:
        add(Code.LIBVIRT_UNREAD, f"{host}: {facts.libvirt_problem}")
    if purpose.moves and facts.peer_is_local:
        add(
            Code.PEER_UNREACHABLE,
            f"to the libvirt of {vm.host}, {facts.peer_uri} is {vm.host} itself and not {host}; "
            f"add {host} again with --peer-libvirt, the URI by which other hosts reach it",
        )
    for code in RESOURCES:
        if bits & BIT[code]:
            add(code, _WORDS[code](fleet, request, host))
    return tuple(found)


def _maintenance(_fleet: Fleet, _request: Request, host: str) -> str:
    return f"{host} is in maintenance and takes no VM; end it (vmctl host maintenance {host} --off) or choose another"


def _port_group(fleet: Fleet, request: Request, host: str) -> str:
    missing = sorted(request.port_groups() - fleet.facts[host].port_groups)
    return (
        f"{host} has no libvirt network {', '.join(missing)}, which {request.vm.name} has a NIC on; "
        f"add {host} to the switch of that port group, or choose another host"
    )


def _isolated(fleet: Fleet, request: Request, host: str) -> str:
    names = ", ".join(sorted(request.port_groups() & fleet.isolated))
    return (
        f"switch {names}, which {request.vm.name} has a NIC on, is isolated, on {host} a network of its own; shut "
        f"{request.vm.name} down and start it there, or use a switch with an uplink"
    )


def _ports(fleet: Fleet, request: Request, host: str) -> str:
    each = [
        f"{switch} has {free:.0f} free ports and {nics} are wanted"
        for switch, nics, _, _, free in _on_switches(fleet, request, host)
        if free < nics
    ]
    return f"on {host} {'; '.join(each)}; choose another host"


def _bandwidth(fleet: Fleet, request: Request, host: str) -> str:
    wanted = request.needs.bandwidth_mbps
    each = [
        f"of the {limit:.0f} Mbit/s of {switch} {used:.0f} are reserved"
        for switch, _, limit, used, _ in _on_switches(fleet, request, host)
        if limit - used < wanted
    ]
    return f"on {host} {'; '.join(each)}, and {request.vm.name} reserves {wanted}; choose another host"


def _on_switches(fleet: Fleet, request: Request, host: str) -> list[tuple[str, int, float, float, float]]:
    """For each switch that the VM would use: its name, NICs on it, Mbit/s there are and are reserved, free ports."""
    column = fleet.column[host]
    found: dict[int, tuple[str, int, float, float, float]] = {}
    for uuid, count in networks_of(request.vm).items():
        rows = fleet.switch_rows(uuid)
        row = int(rows[column])
        if row >= 0:
            limit, used, free = (float(a[column]) for a in fleet.of_switch(rows, besides=request.vm.uuid))
            nics = count + (found[row][1] if row in found else 0)
            found[row] = (_switch(fleet, host, row), nics, limit, used, free)
    return list(found.values())


def _short(row: int, what: str, unit: str) -> Callable[[Fleet, Request, str], str]:
    def words(fleet: Fleet, request: Request, host: str) -> str:
        column = fleet.column[host]
        limit, used = fleet.limits()[row, column], fleet.used(besides=request.vm.uuid)[row, column]
        wanted = (request.vm.vcpus, request.vm.memory_mib, request.needs.disk_mib)[row]
        return (
            f"of {limit:.0f}{unit} {what} that {host} may give, {used:.0f} are taken, and {request.vm.name} wants "
            f"{wanted}; move a VM away, or choose another host"
        )

    return words


def _affinity(fleet: Fleet, request: Request, host: str) -> str:
    each = []
    for rule in sorted(request.needs.affinity):
        columns = fleet.columns_of_rule(rule, besides=request.vm.uuid)
        if columns and fleet.column[host] not in columns:
            each.append(f"rule {rule} keeps it with the VMs on {', '.join(sorted({fleet.names[c] for c in columns}))}")
    return f"{request.vm.name} may not go to {host}: {'; '.join(each)}"


def _anti_affinity(fleet: Fleet, request: Request, host: str) -> str:
    each = [
        f"rule {rule} keeps it apart from {', '.join(names)}"
        for rule in sorted(request.needs.anti_affinity)
        if (names := fleet.members_on(rule, host, besides=request.vm.uuid))
    ]
    return f"{request.vm.name} may not go to {host}: {'; '.join(each)}, which is there"


def _switch(fleet: Fleet, host: str, row: int) -> str:
    uuid = next(u for u, r in fleet.switch_row.items() if r == row)
    view = fleet.facts[host].view
    switches = getattr(view, "switches", ())
    return f"switch {next((s.name for s in switches if s.uuid == uuid), uuid)}"


_WORDS: dict[Code, Callable[[Fleet, Request, str], str]] = {
    Code.HOST_MAINTENANCE: _maintenance,
    Code.PORT_GROUP_ABSENT: _port_group,
    Code.SWITCH_ISOLATED: _isolated,
    Code.PORTS_SHORT: _ports,
    Code.CPU_SHORT: _short(0, "CPUs", ""),
    Code.MEMORY_SHORT: _short(1, "of memory", " MiB"),
    Code.DISK_SHORT: _short(2, "of disk", " MiB"),
    Code.BANDWIDTH_SHORT: _bandwidth,
    Code.AFFINITY: _affinity,
    Code.ANTI_AFFINITY: _anti_affinity,
}
