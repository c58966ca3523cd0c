"""The verbs of traditional switches and port groups: check, write down, bring to the hosts.

An opaque network or switch is none of these: whatever verb names one is refused with the sentence that says whose it
is. So is a new switch with the name or the UUID of a network that a host of it has already, opaque or of others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from uuid import UUID

from vmctl.domain_xml import Nic, default_mac, default_vif, read
from vmctl.inventory import Inventory
from vmctl.model import HostView, Refusal, Vif, VifSpec, Vm, VmctlError
from vmctl.store import Store
from vmctl.switches.eligible import switch_refusals
from vmctl.switches.keeper import Keeper
from vmctl.switches.limits import needs_trial, refusal, unpoliced
from vmctl.switches.model import (
    Datapath,
    Drift,
    HostState,
    HostSwitch,
    PortGroup,
    Switch,
    SwitchHost,
    Uplink,
    check_switch,
)
from vmctl.switches.network_xml import read_network
from vmctl.switches.store import SwitchStore
from vmctl.views import Views

__all__ = ["Switches"]


class Switches:
    """Everything that vmctl does with its own switches; made and used in the event loop's thread."""

    def __init__(
        self, *, store: Store, inventory: Inventory, views: Views, tell: Callable[[str, str, str, str], None]
    ) -> None:
        """*tell* gets each local change that is put back, as an event: kind, subject, what, sentence."""

        def report(drift: Drift, name: str) -> None:
            tell("switch", name, "drift", f"{drift.host}: {drift.sentence}")

        self._store = store
        self._switch_store = SwitchStore(store)
        self.keeper = Keeper(store=self._switch_store, inventory=inventory, tell=report)
        inventory.on_networks = self.keeper.mark
        self._inventory = inventory
        self._views = views
        self._changing = asyncio.Lock()  # checks look at what is there

    # --- switches -------------------------------------------------------------------------------------------------

    def find(self, key: str) -> Switch:
        """The switch of that name or UUID.

        Raises:
            VmctlError: there is none, or it is the network manager's.
        """
        found = next((s for s in self.keeper.switches() if key in (s.name, str(s.uuid))), None)
        if found is not None:
            return found
        self._refuse_opaque(key)
        known = ", ".join(s.name for s in self.keeper.switches()) or "none yet"
        raise VmctlError(f"vmctl has no switch {key}; it has {known} (vmctl switch create)", status=404)

    def states(self, switch: Switch) -> tuple[HostSwitch, ...]:
        """How the switch fares on each of its hosts."""
        unknown = "vmctl has not looked there yet"
        return tuple(
            self.keeper.states(host.host).get(switch.uuid)
            or HostSwitch(host=host.host, state=HostState.PENDING, sentence=unknown)
            for host in switch.hosts
        )

    async def drifts(self, switch: Switch) -> tuple[Drift, ...]:
        """The local changes to it that were put back, newest first."""
        return await asyncio.to_thread(self._switch_store.drifts, switch.uuid)

    def users(self, switch: Switch) -> tuple[tuple[Vm, str], ...]:
        """VMs with a NIC on the switch, with the port group of each NIC."""
        return tuple(
            (vm, vif.portgroup)
            for vm in self._inventory.vms()
            for vif in vm.vifs
            if vif.network_uuid == switch.uuid and not vif.opaque
        )

    async def create(self, switch: Switch) -> Switch:
        """Makes the switch on its hosts; refused while a host cannot be asked what it has already."""
        async with self._changing:
            check_switch(switch)
            if any(switch.name == other.name or switch.uuid == other.uuid for other in self.keeper.switches()):
                raise VmctlError(f"there is a switch {switch.name} already; choose another name", status=409)
            self._refuse_opaque(switch.name, str(switch.uuid))
            await self._check_room(switch, [host.host for host in switch.hosts])
            await self._check_limits(None, switch)
            await self.keeper.put(switch)
        await self._bring(host.host for host in switch.hosts)
        return switch

    async def change(
        self, key: str, *, hosts: tuple[SwitchHost, ...] | None = None, datapath: Datapath | None = None
    ) -> Switch:
        """Puts the switch onto other hosts or uplinks; refused where it would leave a host whose VMs use it."""
        async with self._changing:
            old = self.find(key)
            new = replace(old, hosts=hosts or old.hosts, datapath=datapath or old.datapath)
            new = self._changed(old, new)
            left = [host.host for host in old.hosts if new.host(host.host) is None]
            for vm, _ in self.users(old):
                if vm.host in left:
                    raise VmctlError(
                        f"switch {old.name} cannot leave {vm.host} while {vm.name} has a NIC on it there; "
                        f"move {vm.name} first (vmctl migrate {vm.name} HOST)",
                        status=409,
                    )
                if vm.state.active and old.host(vm.host) != new.host(vm.host):
                    raise VmctlError(
                        f"the uplink of switch {old.name} on {vm.host} cannot change while {vm.name} runs on it there; "
                        f"move {vm.name} away or stop it first",
                        status=409,
                    )
            await self._check_room(new, [host.host for host in new.hosts if old.host(host.host) is None])
            await self._check_limits(old, new)
            await self.keeper.put(new)
        await self._bring({*(host.host for host in new.hosts), *left})
        return new

    async def delete(self, key: str) -> None:
        """Removes the switch from its hosts, from those that are away now when they are back."""
        async with self._changing:
            switch = self.find(key)
            self._refuse_used(f"switch {switch.name}", [vm.name for vm, _ in self.users(switch)])
            records = await asyncio.to_thread(self._store.vms)
            noted = [r.name for r in records if any(vif.network_uuid == switch.uuid for vif in read(r.xml).vifs)]
            self._refuse_used(f"switch {switch.name}", noted)
            await self.keeper.forget(switch)
        await self._bring(host.host for host in switch.hosts)

    # --- port groups ----------------------------------------------------------------------------------------------

    async def add_group(self, key: str, group: PortGroup) -> Switch:
        """Adds a port group to the switch."""
        async with self._changing:
            old = self.find(key)
            if old.group(group.name) is not None:
                raise VmctlError(f"switch {old.name} has a port group {group.name} already", status=409)
            new = self._changed(old, replace(old, groups=(*old.groups, group)))
            await self._check_limits(old, new)
            await self.keeper.put(new)
        await self._bring(host.host for host in new.hosts)
        return new

    async def change_group(self, key: str, group: PortGroup) -> Switch:
        """Replaces the port group of that name; NICs of running VMs follow, but for its MTU."""
        async with self._changing:
            old = self.find(key)
            self.group(old, group.name)
            groups = tuple(group if each.name == group.name else each for each in old.groups)
            new = self._changed(old, replace(old, groups=groups))
            await self._check_limits(old, new)
            await self.keeper.put(new)
        await self._bring(host.host for host in new.hosts)
        return new

    async def delete_group(self, key: str, name: str) -> Switch:
        """Removes the port group; refused while a VM has a NIC on it."""
        async with self._changing:
            old = self.find(key)
            self.group(old, name)
            records = await asyncio.to_thread(self._store.vms)
            noted = [
                record.name
                for record in records
                if any(vif.network_uuid == old.uuid and vif.portgroup == name for vif in read(record.xml).vifs)
            ]
            running = [vm.name for vm, group in self.users(old) if group == name]
            self._refuse_used(f"port group {old.name}/{name}", [*running, *noted])
            new = replace(old, groups=tuple(group for group in old.groups if group.name != name))
            new = self._changed(old, new)
            await self.keeper.put(new)
        await self._bring(host.host for host in new.hosts)
        return new

    def group(self, switch: Switch, name: str) -> PortGroup:
        """The port group of that name; `VmctlError` when there is none."""
        found = switch.group(name)
        if found is None:
            known = ", ".join(group.name for group in switch.groups) or "none yet"
            raise VmctlError(
                f"switch {switch.name} has no port group {name}; it has {known} (vmctl portgroup create)", status=404
            )
        return found

    # --- VMs ------------------------------------------------------------------------------------------------------

    def nic(self, spec: VifSpec, vm_uuid: UUID, *, index: int, host: str) -> Nic:
        """The NIC of *spec*, which names a port group, as number *index* of a VM on *host*.

        Raises:
            VmctlError: there is no such port group, or its switch is not on the host.
        """
        switch, group = self._plugged(spec.portgroup)
        if switch.host(host) is None:
            names = ",".join([*(h.host for h in switch.hosts), host])
            raise VmctlError(
                f"switch {switch.name} is not on {host}; put it there (vmctl switch set {switch.name} --hosts {names}) "
                f"or choose one of {', '.join(h.host for h in switch.hosts)}",
                status=409,
            )
        vif_uuid = spec.vif_uuid or default_vif(vm_uuid, index)
        return Nic(
            vif_uuid=vif_uuid,
            mac=spec.mac.lower() or default_mac(vif_uuid),
            network=switch.name,
            network_uuid=switch.uuid,
            portgroup=group.name,
            openvswitch=switch.uplink is Uplink.BRIDGE,
            mtu=group.mtu,
            offloads=not self._in_user_space(switch),
        )

    def vif(self, portgroup: str) -> Vif:
        """A NIC on *portgroup* (SWITCH/PORTGROUP), of a VM that is on no host yet; `VmctlError` when there is none."""
        switch, group = self._plugged(portgroup)
        return Vif(network_name=switch.name, network_uuid=switch.uuid, portgroup=group.name)

    def without_virtualport(self) -> frozenset[str]:
        """Names of the libvirt networks of ours on which a NIC cannot name its VIF UUID to Open vSwitch."""
        return frozenset(switch.name for switch in self.keeper.switches() if switch.uplink is not Uplink.BRIDGE)

    def refusals(self, vm: Vm, host: str) -> tuple[Refusal, ...]:
        """Why *host* may not have *vm*, as far as its NICs on traditional switches go."""
        states = self.keeper.states(host)
        return switch_refusals(vm, host, switches=self.keeper.switches(), states=states, move=vm.state.active)

    def check_leaving(self, host: str) -> None:
        """Refuses to let go of a host that a switch is on."""
        names = [switch.name for switch in self.keeper.switches() if switch.host(host) is not None]
        if names:
            raise VmctlError(
                f"host {host} carries switch {', '.join(names)}; take it off first (vmctl switch set NAME --hosts …, "
                "or vmctl switch delete NAME)",
                status=409,
            )

    def _plugged(self, portgroup: str) -> tuple[Switch, PortGroup]:
        name, slash, group = portgroup.partition("/")
        if not slash:
            raise VmctlError(f"{portgroup!r} names no port group; SWITCH/PORTGROUP is wanted")
        switch = self.find(name)
        return switch, self.group(switch, group)

    # --- checks ---------------------------------------------------------------------------------------------------

    def _changed(self, old: Switch, new: Switch) -> Switch:
        new = replace(new, generation=old.generation + 1)
        check_switch(new)
        return new

    async def _check_room(self, switch: Switch, hosts: Sequence[str]) -> None:
        """Refuses where a host has a network of that name or UUID, or cannot tell."""
        for host in hosts:
            self._inventory.host(host)
        for host, seen in zip(hosts, await asyncio.gather(*(self.keeper.read(h) for h in hosts)), strict=True):
            for network in seen.networks:
                if network.uuid != switch.uuid and network.name != switch.name:
                    continue
                if read_network(network.kept_xml or network.live_xml).opaque:
                    raise _opaque(f"network {network.name} ({network.uuid}) of {host}")
                raise VmctlError(
                    f"{host} has a libvirt network {network.name} ({network.uuid}) that vmctl did not make and leaves "
                    "alone; choose another name, or remove it there (virsh net-undefine)",
                    status=409,
                )

    async def _check_limits(self, old: Switch | None, new: Switch) -> None:
        """Refuses limits that would not be kept. A host that is away is not asked: it tells when a VM starts."""
        if reason := unpoliced(new, userspace=self._in_user_space(new)):
            raise VmctlError(reason, status=409)
        for host, wanted in needs_trial(old=old, new=new).items():
            if self._inventory.hypervisor(host).problem:
                continue
            for way in wanted:
                if reason := await self.keeper.try_limits(host, way):
                    raise VmctlError(refusal(new, host=host, way=way, reason=reason), status=409)

    def _refuse_opaque(self, *keys: str) -> None:
        for view in self._views.fleet():
            if not isinstance(view, HostView):
                continue
            for network in view.networks:
                if not {network.name, str(network.uuid), network.libvirt_network}.isdisjoint(keys):
                    raise _opaque(f"network {network.name} ({network.uuid})")
            for switch in view.switches:
                if not {switch.name, str(switch.uuid)}.isdisjoint(keys):
                    raise _opaque(f"switch {switch.name} ({switch.uuid})")

    def _refuse_used(self, what: str, names: Sequence[str]) -> None:
        if names:
            each = ", ".join(sorted(set(names)))
            raise VmctlError(f"{what} is used by {each}; undefine them or give them other NICs first", status=409)

    def _in_user_space(self, switch: Switch) -> bool:
        if switch.uplink is not Uplink.BRIDGE or switch.datapath is Datapath.KERNEL:
            return False
        views = [self._views.latest(host.host) for host in switch.hosts]
        return switch.datapath is Datapath.USERSPACE or any(
            each.userspace for view in views if isinstance(view, HostView) for each in view.switches
        )

    async def _bring(self, hosts: Iterable[str]) -> None:
        """Brings hosts up to date now, those that vmctl still knows; what fails is tried again later."""
        known = {host.name for host in self._inventory.hosts() if not self._inventory.hypervisor(host.name).problem}
        wanted = [host for host in hosts if host in known]
        await asyncio.gather(*(self.keeper.sync(host) for host in wanted))


def _opaque(what: str) -> VmctlError:
    return VmctlError(
        f"{what} is opaque: it belongs to the network manager, and vmctl reads it and can neither create, change nor "
        "delete it; use netmgr for that, or another name for a switch of vmctl's own",
        status=403,
    )
