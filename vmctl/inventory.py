"""Hosts and the VMs on them, kept up to date from libvirt's events.

One task a host: it waits until the host's libvirt rings, or a minute has passed, and reads all its domains again
(level, not edge). A host that cannot be read keeps its last list, each VM of it in state `unknown`: unread is not
absent. Which of a VM's networks are opaque is told by the mark that the host's libvirt network of that name carries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from uuid import UUID

import structlog

from vmctl.domain_xml import read
from vmctl.domains import Domain, LibvirtNetwork
from vmctl.host_capacity import read_capacity_of
from vmctl.hypervisor import Hypervisor
from vmctl.model import Host, Unread, Vif, Vm, VmctlError, VmState
from vmctl.placement.model import Capacity

__all__ = ["Inventory"]

RESYNC_S = 60.0
NOT_ASKED = "it was not asked yet"
OPAQUE_MARK = "urn:opaque-networks:1"

# which of several sightings is the VM itself: while it moves, its copy is paused
_RANK = {VmState.RUNNING: 0, VmState.PAUSED: 1, VmState.SUSPENDED: 1, VmState.UNKNOWN: 2}

log = structlog.get_logger("vmctl.inventory")


@dataclass
class _Entry:
    host: Host
    hypervisor: Hypervisor
    dirty: asyncio.Event
    task: asyncio.Task[None] | None = None
    vms: tuple[Vm, ...] = ()
    problem: str = NOT_ASKED
    networks: dict[UUID, LibvirtNetwork] = field(default_factory=dict)
    capacity: Capacity | None = None
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)  # else an old list could overwrite a newer one


class Inventory:
    """All hosts; made and used in the event loop's thread."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self.on_host: Callable[[str], None] = lambda host: None  # something of the host may have changed
        self.tell: Callable[[str, str, str, str], None] = lambda _kind, _subject, _what, _sentence: None
        self.on_networks: Callable[[str], None] = lambda host: None  # libvirt networks of the host may have changed

    def add(self, host: Host) -> None:
        """Begins to follow *host*."""
        dirty = asyncio.Event()
        entry = _Entry(
            host=host,
            hypervisor=Hypervisor(
                name=host.name,
                uri=host.libvirt_uri,
                on_change=dirty.set,
                on_networks=lambda: self.on_networks(host.name),
            ),
            dirty=dirty,
        )
        self._entries[host.name] = entry
        entry.hypervisor.start()
        entry.task = asyncio.create_task(self._follow(entry))

    def remove(self, name: str) -> None:
        """Stops following the host."""
        entry = self._entries.pop(name)
        if entry.task is not None:
            entry.task.cancel()
        entry.hypervisor.close()

    def close(self) -> None:
        """Lets every host go."""
        for name in list(self._entries):
            self.remove(name)

    def hosts(self) -> tuple[Host, ...]:
        """All hosts, by name."""
        return tuple(self._entries[name].host for name in sorted(self._entries))

    def host(self, name: str) -> Host:
        """The host of that name.

        Raises:
            VmctlError: there is none; the sentence names those that are.
        """
        return self._entry(name).host

    def hypervisor(self, name: str) -> Hypervisor:
        """libvirt of that host; `VmctlError` when there is no such host."""
        return self._entry(name).hypervisor

    def problem(self, name: str) -> str:
        """Why the host's VMs cannot be read now, empty when they can."""
        return self._entry(name).problem

    def capacity(self, name: str) -> Capacity | None:
        """What the host offers, None while it was not read."""
        return self._entry(name).capacity

    def vms_on(self, name: str) -> tuple[Vm, ...]:
        """The VMs that were last read on the host."""
        return self._entry(name).vms

    def plain_networks(self, name: str) -> frozenset[str]:
        """Names of the host's libvirt networks that are not opaque."""
        return frozenset(n.name for n in self._entry(name).networks.values() if OPAQUE_MARK not in n.xml)

    def plain_network(self, name: str) -> UUID:
        """UUID of the libvirt network of that name, not opaque, on the first host that has it.

        Raises:
            VmctlError: no host has it.
        """
        for _, entry in sorted(self._entries.items()):
            for network in entry.networks.values():
                if network.name == name and OPAQUE_MARK not in network.xml:
                    return network.uuid
        raise VmctlError(
            f"no host that answers has a libvirt network {name}, which a NIC is on; make it there (virsh net-define), "
            "or name another network (`vmctl network list`)",
            status=409,
        )

    def unread(self) -> tuple[Unread, ...]:
        """The hosts whose VMs cannot be read now."""
        return tuple(Unread(host=n, reason=e.problem) for n, e in sorted(self._entries.items()) if e.problem)

    def vms(self) -> tuple[Vm, ...]:
        """Every VM that was read, by name; the same VM twice, when two hosts have it."""
        return tuple(sorted((vm for e in self._entries.values() for vm in e.vms), key=lambda vm: (vm.name, vm.host)))

    def find(self, key: str) -> Vm:
        """The VM of that name or UUID, where it is active if two hosts have it.

        Raises:
            VmctlError: there is none, or two VMs share the name.
        """
        found = [vm for vm in self.vms() if key in (vm.name, str(vm.uuid))]
        if len({vm.uuid for vm in found}) > 1:
            each = ", ".join(f"{vm.uuid} on {vm.host}" for vm in found)
            raise VmctlError(f"several VMs are called {key}: {each}; name the one you mean by its UUID", status=409)
        if not found:
            unread = "; ".join(f"{u.host} could not be asked: {u.reason}" for u in self.unread())
            raise VmctlError(
                f"there is no VM {key}" + (f"; {unread}" if unread else "; see `vmctl vm list`"), status=404
            )
        return min(found, key=lambda vm: (_RANK.get(vm.state, 3), vm.host))

    async def refresh(self, name: str) -> None:
        """Reads the host's VMs now; a failure is noted, not raised."""
        entry = self._entry(name)
        async with entry.reading:
            await self._read(entry)

    async def read_vm(self, host: str, uuid: UUID) -> Vm | None:
        """The VM as the host's libvirt shows it now, None when it has it not; `VmctlError` when it cannot be asked."""
        entry = self._entry(host)
        await self._read_networks(entry)
        domain = await entry.hypervisor.read_domain(uuid)
        return _vm(domain, entry) if domain is not None else None

    async def _follow(self, entry: _Entry) -> None:
        while True:
            try:
                async with asyncio.timeout(RESYNC_S):
                    await entry.dirty.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(0.05)  # events come in bursts
            entry.dirty.clear()
            if entry.hypervisor.problem:
                self._lose(entry, entry.hypervisor.problem)
            else:
                await self.refresh(entry.host.name)

    async def _read(self, entry: _Entry) -> None:
        try:
            await self._read_networks(entry)
            domains = await entry.hypervisor.read_domains()
            entry.capacity = await entry.hypervisor.call("tell its CPUs, memory and disk", read_capacity_of)
        except VmctlError as error:
            self._lose(entry, error.sentence)
            return
        problem, entry.problem = entry.problem, ""
        before, entry.vms = entry.vms, tuple(_vm(domain, entry) for domain in domains)
        if problem != NOT_ASKED:  # what is found at the start is no news
            if problem:
                self.tell("host", entry.host.name, "read", "")
            self._tell_changes(before, entry.vms)
        self.on_host(entry.host.name)

    def _lose(self, entry: _Entry, reason: str) -> None:
        if not entry.problem:
            log.warning("host unread", host=entry.host.name, reason=reason)
            self.tell("host", entry.host.name, "unread", reason)
        entry.problem = reason
        entry.vms = tuple(replace(vm, state=VmState.UNKNOWN) for vm in entry.vms)
        self.on_host(entry.host.name)

    def _tell_changes(self, before: tuple[Vm, ...], after: tuple[Vm, ...]) -> None:
        old = {vm.uuid: vm for vm in before}
        for vm in after:
            was = old.pop(vm.uuid, None)
            if was is None or was.state is not vm.state:
                self.tell("vm", vm.name, vm.state.value, f"on {vm.host}")
        for gone in old.values():
            self.tell("vm", gone.name, "gone", f"from {gone.host}")

    async def _read_networks(self, entry: _Entry) -> None:
        entry.networks = {n.uuid: n for n in await entry.hypervisor.read_networks(entry.networks)}

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            known = ", ".join(sorted(self._entries)) or "none yet"
            raise VmctlError(f"vmctl knows no host {name}; it knows {known} (vmctl host add)", status=404)
        return entry


def _vm(domain: Domain, entry: _Entry) -> Vm:
    facts = read(domain.xml)
    by_name = {network.name: network for network in entry.networks.values()}
    return Vm(
        uuid=domain.uuid,
        name=domain.name,
        host=entry.host.name,
        state=domain.state,
        persistent=domain.persistent,
        memory_mib=facts.memory_mib,
        vcpus=facts.vcpus,
        vifs=tuple(_vif(vif, by_name.get(vif.network_name)) for vif in facts.vifs),
        ours=facts.ours,
    )


def _vif(vif: Vif, network: LibvirtNetwork | None) -> Vif:
    if network is None:
        return vif
    return replace(vif, network_uuid=network.uuid, opaque=OPAQUE_MARK in network.xml)
