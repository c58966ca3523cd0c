"""Which hosts may not take a VM, all at once: for each a word of bits, one a `Code`. Zero means that it may.

Whether a host carries the VM's networks, healthy and in sync, is decided as `vmctl.eligibility` decides it for one
host; that both agree on every host is tested. CPUs, memory, disk, PNIC bandwidth, ports and rules are decided here
alone, and `vmctl.placement.sentences` turns their bits into words.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vmctl.model import Code
from vmctl.placement.fleet import BIT, CARRIED, NETWORK_UNFIT, SWITCH_UNFIT, Fleet
from vmctl.placement.model import Purpose, Request, networks_of

__all__ = ["RESOURCES", "codes", "masks"]

RESOURCES = (
    Code.HOST_MAINTENANCE,
    Code.PORT_GROUP_ABSENT,
    Code.SWITCH_ISOLATED,
    Code.PORTS_SHORT,
    Code.CPU_SHORT,
    Code.MEMORY_SHORT,
    Code.DISK_SHORT,
    Code.BANDWIDTH_SHORT,
    Code.AFFINITY,
    Code.ANTI_AFFINITY,
)
Bits = npt.NDArray[np.uint32]
_GONE = np.uint32(1 << 31)  # a column of no host
assert len(Code) < 31

# what each combination of a network's flags on a host means
_NETWORK = np.array(
    [
        (0 if flags & CARRIED else BIT[Code.NETWORK_ABSENT])
        | (BIT[Code.NETWORK_UNHEALTHY] if flags & NETWORK_UNFIT else 0)
        | (BIT[Code.SWITCH_UNHEALTHY] if flags & SWITCH_UNFIT else 0)
        for flags in range(8)
    ],
    np.uint32,
)
_OF_NETWORKS = np.uint32(BIT[Code.NETWORK_ABSENT] | BIT[Code.NETWORK_UNHEALTHY] | BIT[Code.SWITCH_UNHEALTHY])


def masks(fleet: Fleet, request: Request) -> Bits:
    """Why each column of *fleet* refuses *request*; 0 where it does not, never 0 for a column of no host."""
    vm, purpose = request.vm, request.purpose
    networks = networks_of(vm)
    bits: Bits = fleet.bits & np.uint32(_applicable(purpose, opaque=bool(networks)))
    bits[~fleet.there] |= _GONE
    if purpose.moves and not vm.state.active:
        bits |= np.uint32(BIT[Code.NOT_RUNNING])
    if any(vif.network_name and vif.network_uuid is None for vif in vm.vifs):
        bits |= np.uint32(BIT[Code.NETWORK_UNKNOWN])
    if networks:
        told = np.zeros(fleet.width, np.uint32)
        for uuid in networks:
            told |= _NETWORK[fleet.flags(uuid)]
        told[(bits & np.uint32(BIT[Code.HOST_UNREAD])) != 0] &= ~_OF_NETWORKS
        bits |= told
    _mask_resources(fleet, request, bits)
    _mask_rules(fleet, request, bits)
    source = fleet.column.get(vm.host)
    if purpose.moves and source is not None:
        bits[source] = BIT[Code.ALREADY_THERE]
    return bits


def codes(bits: int) -> tuple[Code, ...]:
    """The reasons that *bits* stand for."""
    return tuple(code for code, bit in BIT.items() if bits & bit)


def _applicable(purpose: Purpose, *, opaque: bool) -> int:
    bits = BIT[Code.LIBVIRT_UNREAD] | BIT[Code.HOST_MAINTENANCE]
    if opaque:
        bits |= BIT[Code.HOST_UNREAD]
        bits |= BIT[Code.NOT_IN_SYNC] if purpose.can_wait else 0
        bits |= BIT[Code.MANAGER_AWAY] if purpose.moves else 0
    return bits | (BIT[Code.PEER_UNREACHABLE] if purpose.moves else 0)


def _mask_resources(fleet: Fleet, request: Request, bits: Bits) -> None:
    vm, needs = request.vm, request.needs
    free = fleet.limits() - fleet.used(besides=vm.uuid)
    for row, wanted, code in (
        (0, vm.vcpus, Code.CPU_SHORT),
        (1, vm.memory_mib, Code.MEMORY_SHORT),
        (2, needs.disk_mib, Code.DISK_SHORT),
    ):
        if wanted:
            bits[free[row] < wanted] |= np.uint32(BIT[code])
    for name in request.port_groups():
        bits[~fleet.has_port_group(name)] |= np.uint32(BIT[Code.PORT_GROUP_ABSENT])
    if request.purpose.moves and request.port_groups() & fleet.isolated:
        bits |= np.uint32(BIT[Code.SWITCH_ISOLATED])
    networks = networks_of(vm)
    carried = {uuid: fleet.switch_rows(uuid) for uuid in networks}
    for uuid, rows in carried.items():
        limit, used, ports = fleet.of_switch(rows, besides=vm.uuid)
        nics = np.zeros(fleet.width)
        for other, count in networks.items():
            nics += np.where(carried[other] == rows, count, 0) if other != uuid else count
        bits[ports < nics] |= np.uint32(BIT[Code.PORTS_SHORT])
        if needs.bandwidth_mbps:
            bits[limit - used < needs.bandwidth_mbps] |= np.uint32(BIT[Code.BANDWIDTH_SHORT])


def _mask_rules(fleet: Fleet, request: Request, bits: Bits) -> None:
    vm, needs = request.vm, request.needs
    leaving = fleet.column.get(vm.host) if request.purpose in (Purpose.EVACUATE, Purpose.FAILOVER) else None
    for rule in needs.affinity:
        together = [c for c in fleet.columns_of_rule(rule, besides=vm.uuid) if c != leaving]
        if together:
            apart = np.ones(fleet.width, bool)
            apart[together] = False
            bits[apart] |= np.uint32(BIT[Code.AFFINITY])
    for rule in needs.anti_affinity:
        taken = fleet.columns_of_rule(rule, besides=vm.uuid)
        if taken:
            bits[taken] |= np.uint32(BIT[Code.ANTI_AFFINITY])
