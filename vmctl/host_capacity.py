"""What a host offers to VMs, by its libvirt's word. Blocking; `libvirtError` goes through to the caller.

Disk is that of the storage pool `default`, the one libvirt's own tools use: libvirt tells of no other place how full it
is. A host without it, or a driver without pools, does not tell. Memory is what the kernel has: the sum of the NUMA
cells, which libvirt tells first, leaves out what was added to a virtual machine later.
"""

from __future__ import annotations

from typing import Any

import libvirt

from vmctl.placement.model import Capacity

__all__ = ["read_capacity_of"]

POOL = "default"
_NOT_TOLD = (libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_OPERATION_INVALID)
_MIB = 1024**2


def read_capacity_of(connection: Any) -> Capacity:
    """CPUs, memory and disk of the host."""
    _model, memory_mib, cpus, *_ = connection.getInfo()
    try:
        memory_mib = connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)["total"] // 1024
    except libvirt.libvirtError as error:
        if error.get_error_code() not in _NOT_TOLD:
            raise
    disk_mib, taken_mib = None, 0
    try:
        _state, capacity, allocation, _available = connection.storagePoolLookupByName(POOL).info()
        if capacity:  # a pool that is not active tells nothing
            disk_mib, taken_mib = capacity // _MIB, allocation // _MIB
    except libvirt.libvirtError as error:
        if error.get_error_code() not in _NOT_TOLD:
            raise
    return Capacity(cpus=cpus, memory_mib=memory_mib, disk_mib=disk_mib, disk_taken_mib=taken_mib)
