"""The verbs of vmctl: hosts, networks, VMs. Everything the REST API offers, and nothing about HTTP.

Every verb checks first and says no with a sentence before it changes anything. What must survive a crash is written to
the store before it is done to a host: a VM's row precedes its domain, so a definition that was interrupted shows as
`undefined` and is completed by the next `start`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from uuid import UUID, uuid4
from xml.etree import ElementTree as ET

from vmctl.balancer import Balancer
from vmctl.domain_xml import Nic, build, default_mac, default_vif, fix_vifs, network_names, read, uuid_in
from vmctl.eligibility import network_absent, refusals
from vmctl.inventory import Inventory
from vmctl.journal import Journal
from vmctl.maintenance import Maintainer
from vmctl.model import (
    Code,
    Host,
    HostView,
    Migration,
    MoveKind,
    MovePolicy,
    NetworkView,
    Refusal,
    Unread,
    Vif,
    VifSpec,
    Virt,
    Vm,
    VmctlError,
    VmRecord,
    VmSpec,
    VmState,
)
from vmctl.mover import Mover
from vmctl.placement.model import Move, Needs
from vmctl.placement_store import PlacementStore
from vmctl.placer import Placer
from vmctl.placing import agreed, fitting_rules, vifs_of
from vmctl.readiness import mtu_refusals
from vmctl.store import Store
from vmctl.switches.model import Uplink
from vmctl.switches.service import Switches
from vmctl.tasks import Tasks
from vmctl.views import Views

__all__ = ["Service"]


class Service:
    """Everything that vmctl does; made and used in the event loop's thread."""

    def __init__(
        self, *, store: Store, journal: Journal, inventory: Inventory, views: Views, mover: Mover, virt: Virt
    ) -> None:
        self.inventory = inventory
        self.views = views
        self.mover = mover
        self.journal = journal
        self.tasks = Tasks(journal)
        inventory.tell = self.tasks.emit
        self.switches = Switches(store=store, inventory=inventory, views=views, tell=self.tasks.emit)
        self._store = store
        self._virt = virt
        self.placer = Placer(
            store=PlacementStore(store),
            inventory=inventory,
            views=views,
            isolated=lambda: frozenset(s.name for s in self.switches.keeper.switches() if s.uplink is Uplink.ISOLATED),
        )
        self.maintainer = Maintainer(placer=self.placer, tasks=self.tasks, mover=mover, begin=self._begin_leg)
        self.balancer = Balancer(placer=self.placer, tasks=self.tasks, mover=mover, begin=self._begin_leg)

    async def start(self) -> None:
        """Takes up switches, hosts and open moves from the store."""
        await self.switches.keeper.start()
        await self.placer.start()
        for host in await asyncio.to_thread(self._store.hosts):
            self.inventory.add(host)
            self.views.add(host)
            self.placer.touch(host.name)
        await self.mover.recover()
        await self.maintainer.start()
        self.balancer.start()

    async def close(self) -> None:
        """Lets every host go; moves under way are ended by libvirt and read at the next start."""
        await self.balancer.close()
        await self.maintainer.close()
        await self.mover.close()
        await self.switches.keeper.close()
        self.tasks.close()
        await self.views.close()
        self.inventory.close()
        self._store.close()

    # --- hosts ----------------------------------------------------------------------------------------------------

    async def add_host(self, host: Host) -> Host:
        """Adds *host*, learning its UUID if it has none; refused when its name or UUID is taken."""
        if host.uuid is None:
            host = replace(host, uuid=await self.views.learn_uuid(host.name, host.agent_address))
        await asyncio.to_thread(self._store.add_host, host)
        self.inventory.add(host)
        self.views.add(host)
        self.placer.touch(host.name)
        return host

    async def remove_host(self, name: str) -> None:
        """Forgets the host; refused while a VM of ours is at home there or a move touches it."""
        self.inventory.host(name)
        homes = [record.name for record in await asyncio.to_thread(self._store.vms) if record.host == name]
        if homes:
            raise VmctlError(
                f"host {name} is home of {', '.join(homes)}; move them away or undefine them first", status=409
            )
        for row in await asyncio.to_thread(self.journal.open_migrations):
            if name in (row.source, row.destination):
                raise VmctlError(f"host {name} is part of migration {row.id} of {row.vm_name}; wait for it", status=409)
        self.switches.check_leaving(name)
        await asyncio.to_thread(self._store.remove_host, name)
        await self.maintainer.leave(name)
        self.inventory.remove(name)
        self.views.remove(name)
        self.placer.touch(name)

    # --- VMs ------------------------------------------------------------------------------------------------------

    async def vms(self) -> tuple[Vm, ...]:
        """Every VM that was seen, and those of ours that no host shows."""
        seen = self.inventory.vms()
        known = {vm.uuid for vm in seen}
        lost = VmState.UNKNOWN if self.inventory.unread() else VmState.UNDEFINED
        records = await asyncio.to_thread(self._store.vms)
        missing = (_of_record(record, lost) for record in records if record.uuid not in known)
        return tuple(sorted((*seen, *missing), key=lambda vm: (vm.name, vm.host)))

    async def record(self, uuid: UUID) -> VmRecord | None:
        """What was asked for, for a VM that vmctl has defined."""
        return next((r for r in await asyncio.to_thread(self._store.vms) if r.uuid == uuid), None)

    async def find(self, key: str) -> Vm:
        """The VM of that name or UUID, by its host's word of now.

        Raises:
            VmctlError: there is none, two share the name, or its host cannot be asked.
        """
        try:
            vm = self.inventory.find(key)
        except VmctlError as error:
            lost = [vm for vm in await self.vms() if key in (vm.name, str(vm.uuid)) and vm.state is VmState.UNDEFINED]
            if error.status == 404 and lost:
                return lost[0]
            raise
        if not vm.state.active and (record := await self.record(vm.uuid)) is not None:
            at_home = [v for v in self.inventory.vms() if v.uuid == vm.uuid and v.host == record.host]
            vm = at_home[0] if at_home else vm
        fresh = await self.inventory.read_vm(vm.host, vm.uuid)
        if fresh is None:
            known = (host.name for host in self.inventory.hosts() if not self.inventory.problem(host.name))
            await asyncio.gather(*(self.inventory.refresh(name) for name in known))
            vm = self.inventory.find(key)
            fresh = await self.inventory.read_vm(vm.host, vm.uuid)
        if fresh is None:
            raise VmctlError(f"{key} went away while vmctl looked at it; try again", status=503)
        return fresh

    async def define(self, spec: VmSpec, host_name: str = "", *, needs: Needs = Needs()) -> Vm:
        """Defines the VM on the host, on networks that the host carries by its own word; on the best one by default.

        Rules that *needs* names and that are not there yet are made.
        """
        if host_name:
            self.inventory.host(host_name)
        rules = await fitting_rules(self.placer, needs)
        taken = next((vm for vm in await self.vms() if vm.name == spec.name), None)
        if taken is not None and taken.state is not VmState.UNDEFINED:
            raise VmctlError(
                f"there is a VM {spec.name} on {taken.host} already; choose another name, or undefine it", status=409
            )
        uuid = taken.uuid if taken is not None else uuid_in(spec.xml) or uuid4()
        host_name = host_name or await self._home_of_new(spec, uuid, needs)
        host = self.inventory.host(host_name)
        view = await self.views.ask(host)
        names = network_names(spec.xml) if spec.xml else ()
        nics = self._nics(spec.vifs, uuid, view, host=host_name, first=len(names))
        xml = build(spec, uuid=uuid, nics=nics, domain_type=await self._domain_type(spec.virt, host_name))
        if names:
            loose, ids = self.switches.without_virtualport(), [default_vif(uuid, i) for i, _ in enumerate(names)]
            found = tuple(
                Vif(uuid=None if n in loose else v, mac=default_mac(v)) for n, v in zip(names, ids, strict=True)
            )
            xml = fix_vifs(xml, found, userspace=_userspace_networks(view))
        record = VmRecord(
            uuid=uuid,
            name=spec.name,
            host=host_name,
            xml=xml,
            wanted=VmState.SHUT_OFF,
            ips=tuple(vif.ip for vif in spec.vifs if vif.ip),
        )
        await asyncio.to_thread(self._store.put_vm, record)
        try:
            await self.inventory.hypervisor(host_name).define(xml, name=spec.name)
        except VmctlError as error:
            if not getattr(error, "unanswered", False):
                await asyncio.to_thread(self._store.remove_vm, uuid)
            raise
        for rule in rules:
            await self.placer.add_rule(rule)
        await self.placer.set_needs(uuid, disk_mib=needs.disk_mib, bandwidth_mbps=needs.bandwidth_mbps)
        for name in sorted(needs.affinity | needs.anti_affinity):
            await self.placer.change_rule(name, add=(uuid,))
        await self.inventory.refresh(host_name)
        return await self.find(str(uuid))

    async def start_vm(self, key: str, host_name: str = "") -> Vm:
        """Starts the VM on the host, by default at home or, where that may not or another is much better, there.

        Where it starts becomes its home.
        """
        vm = await self.find(key)
        if vm.state.active:
            if host_name and host_name != vm.host:
                raise VmctlError(
                    f"{vm.name} is {vm.state} on {vm.host}; move it: vmctl migrate {vm.name} {host_name}", status=409
                )
            return vm
        await self._not_moving(vm, "started")
        target = host_name or await self._best_for(vm)
        record = await self.record(vm.uuid)
        if host_name and (refused := await self.refusals_of(vm, target)):
            raise VmctlError("; ".join(r.sentence for r in refused), status=409, refusals=refused)
        with self.placer.reserved(replace(vm, host=target, state=VmState.RUNNING), target):
            await self._start_on(vm, target, record)
        await self._remove_other_definitions(vm, target)
        return await self.find(str(vm.uuid))

    async def _start_on(self, vm: Vm, target: str, record: VmRecord | None) -> None:
        if record is not None:
            await asyncio.to_thread(self._store.put_vm, replace(record, host=target, wanted=VmState.RUNNING))
        hypervisor = self.inventory.hypervisor(target)
        try:
            if target != vm.host or vm.state is VmState.UNDEFINED:
                await self._bring_definition(vm, target, record)
            await hypervisor.start_domain(vm.uuid, name=vm.name)
        except VmctlError as error:
            if target != vm.host and not getattr(error, "unanswered", False):
                with suppress(VmctlError):  # the first sentence is the one to tell
                    await self._take_back(vm, target, record)
            raise
        await self.inventory.refresh(target)

    async def _take_back(self, vm: Vm, target: str, record: VmRecord | None) -> None:
        """After a start that the target refused: the VM is at home where it was, and nothing of it is on the target."""
        if record is not None:
            await asyncio.to_thread(self._store.put_vm, replace(record, wanted=VmState.RUNNING))
        left = await self.inventory.read_vm(target, vm.uuid)
        if vm.state is not VmState.UNDEFINED and left is not None and not left.state.active:
            await self.inventory.hypervisor(target).undefine(vm.uuid, name=vm.name)
        await self.inventory.refresh(target)

    async def _best_for(self, vm: Vm) -> str:
        if len(self.inventory.hosts()) == 1:  # the sentence of the one host is the whole answer
            (host,) = self.inventory.hosts()
            if refused := await self.refusals_of(vm, host.name):
                raise VmctlError("; ".join(r.sentence for r in refused), status=409, refusals=refused)
            return host.name
        chosen = await self.placer.choose(self.placer.request(vm), lambda name: self.refusals_of(vm, name))
        return chosen.host

    async def _home_of_new(self, spec: VmSpec, uuid: UUID, needs: Needs) -> str:
        facts = read(build(spec, uuid=uuid, nics=(), domain_type="qemu"))
        vm = Vm(
            uuid=uuid,
            name=spec.name,
            host="",
            state=VmState.SHUT_OFF,
            memory_mib=facts.memory_mib,
            vcpus=facts.vcpus,
            vifs=vifs_of(
                spec.vifs,
                named=network_names(spec.xml) if spec.xml else (),
                views=self.views,
                plain=self.inventory.plain_network,
                portgroup=self.switches.vif,
            ),
        )
        request = self.placer.request(vm, needs=needs)
        chosen = await self.placer.choose(request, lambda name: self.refusals_of(vm, name, needs=needs))
        return chosen.host

    async def stop_vm(self, key: str, *, force: bool, wait_s: float) -> Vm:
        """Shuts the VM down, by its guest or with *force*; `VmctlError` when it is still up after *wait_s*."""
        vm = await self.find(key)
        if vm.state.active and not force:  # libvirt would keep the request until the move is over
            await self._not_moving(vm, "shut down")
        if (record := await self.record(vm.uuid)) is not None:
            await asyncio.to_thread(self._store.put_vm, replace(record, wanted=VmState.SHUT_OFF))
        if vm.state.active:
            await self.inventory.hypervisor(vm.host).stop_domain(vm.uuid, name=vm.name, force=force)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            fresh = await self.inventory.read_vm(vm.host, vm.uuid) if vm.state is not VmState.UNDEFINED else None
            if fresh is None or not fresh.state.active:
                await self.inventory.refresh(vm.host)
                return fresh or replace(vm, state=VmState.UNDEFINED)
            if loop.time() > deadline:
                raise VmctlError(
                    f"{vm.name} was asked to shut down and is still {fresh.state} on {vm.host} after {wait_s:.0f} s; "
                    f"its guest may not listen: vmctl vm stop {vm.name} --force cuts its power",
                    status=502,
                )
            await asyncio.sleep(0.2)

    async def undefine_vm(self, key: str) -> None:
        """Forgets a VM of ours that is off; its disks stay."""
        vm = await self.find(key)
        if vm.state.active:
            raise VmctlError(f"{vm.name} is {vm.state} on {vm.host}; stop it first (vmctl vm stop)", status=409)
        await self._not_moving(vm, "undefined")
        if not vm.ours:
            raise VmctlError(
                f"{vm.name} was not defined by vmctl; `virsh undefine {vm.name}` on {vm.host} undefines it", status=409
            )
        for copy in self.inventory.vms():
            if copy.uuid == vm.uuid:
                await self.inventory.hypervisor(copy.host).undefine(vm.uuid, name=vm.name)
                await self.inventory.refresh(copy.host)
        await asyncio.to_thread(self._store.remove_vm, vm.uuid)
        await self.placer.forget_vm(vm.uuid)

    # --- moves ----------------------------------------------------------------------------------------------------

    async def refusals_of(self, vm: Vm, host_name: str, *, needs: Needs | None = None) -> tuple[Refusal, ...]:
        """Why *vm* may not move to the host or, being off, start on it; by the host's own word of now."""
        host = self.inventory.host(host_name)
        if self.inventory.problem(host_name) and not self.inventory.hypervisor(host_name).problem:
            await self.inventory.refresh(host_name)
        view = await self.views.ask(host)
        request = self.placer.request(vm, needs=needs)
        return agreed(
            request, self.placer.refusals(request, host_name, view=view), self.switches.refusals(vm, host_name)
        )

    async def move_refusals(self, vm: Vm, host_name: str, *, kind: MoveKind) -> tuple[Refusal, ...]:
        """Why *vm* may not be moved to the host: `refusals_of`, and what only a move minds."""
        destination = self.inventory.host(host_name)
        if kind is MoveKind.COLD and vm.state.active:
            sentence = (
                f"{vm.name} is {vm.state} on {vm.host}, and a cold move is for a VM that is off; leave out --cold"
            )
            return (Refusal(host=host_name, code=Code.NOT_OFF, sentence=sentence),)
        if vm.host == host_name:
            sentence = f"{vm.name} is on {host_name} already; choose another host"
            return (Refusal(host=host_name, code=Code.ALREADY_THERE, sentence=sentence),)
        if kind is MoveKind.LIVE and not vm.state.active:
            return refusals(vm, await self.views.ask(destination), fleet=self.views.fleet())
        found = await self.refusals_of(vm, host_name)
        if not any(vif.opaque for vif in vm.vifs):
            return found
        source, there = await asyncio.gather(self.views.ask(self.inventory.host(vm.host)), self.views.ask(destination))
        return (*found, *mtu_refusals(vm, source=source, destination=there))

    async def migrate(
        self,
        key: str,
        host_name: str,
        *,
        cold: bool = False,
        policy: MovePolicy = MovePolicy(),
        parent_id: int | None = None,
    ) -> Migration:
        """Begins to move the VM; `VmctlError` with every refusal before anything has moved.

        A VM that is off is moved *cold* whether or not that was asked for; one that runs only if it was not.
        """
        vm = await self.find(key)
        if vm.state is VmState.UNDEFINED:
            raise VmctlError(
                f"{vm.name} is defined on no host, so there is nothing to move; start it on {host_name} "
                f"(vmctl vm start {vm.name} --host {host_name})",
                status=409,
            )
        destination = self.inventory.host(host_name)
        kind = MoveKind.LIVE if vm.state.active and not cold else MoveKind.COLD

        async def check() -> tuple[Refusal, ...]:
            return await self.move_refusals(vm, host_name, kind=kind)

        return await self.mover.begin(vm, destination, kind=kind, policy=policy, check=check, parent_id=parent_id)

    async def _begin_leg(self, move: Move, task: int) -> Migration:
        return await self.migrate(str(move.vm_uuid), move.destination, parent_id=task)

    async def migration(self, id: int) -> Migration:
        """One row of the journal; `VmctlError` when there is none of that number."""
        return await asyncio.to_thread(self.journal.migration, id)

    async def migrations(self, *, vm_uuid: UUID | None = None) -> tuple[Migration, ...]:
        """The journal, newest first; of one VM, or of all."""
        return await asyncio.to_thread(self.journal.migrations, vm_uuid=vm_uuid)

    async def _not_moving(self, vm: Vm, what: str) -> None:
        """Refuses to do *what* while a move of the VM is not settled."""
        for row in await asyncio.to_thread(self.journal.open_migrations):
            if row.vm_uuid == vm.uuid and not row.state.settled:
                raise VmctlError(
                    f"{vm.name} is on its way to {row.destination} (migration {row.id}) and cannot be {what} until "
                    f"then; wait for it, or stop it: vmctl migrate {vm.name} --cancel",
                    status=409,
                )

    # --- definitions ----------------------------------------------------------------------------------------------

    def _nics(
        self, specs: Sequence[VifSpec], vm_uuid: UUID, view: HostView | Unread, *, host: str, first: int
    ) -> list[Nic]:
        nics = []
        for index, spec in enumerate(specs, first):
            if spec.portgroup:
                nics.append(self.switches.nic(spec, vm_uuid, index=index, host=host))
                continue
            if isinstance(view, Unread):
                raise VmctlError(f"{view.host} does not say which networks it carries: {view.reason}", status=503)
            network = self._network(spec.network, view)
            vif_uuid = spec.vif_uuid or default_vif(vm_uuid, index)
            nics.append(
                Nic(
                    vif_uuid=vif_uuid,
                    mac=spec.mac.lower() or default_mac(vif_uuid),
                    network=network.libvirt_network,
                    network_uuid=network.uuid,
                    offloads=network.libvirt_network not in _userspace_networks(view, *self.views.fleet()),
                )
            )
        return nics

    def _network(self, key: str, view: HostView) -> NetworkView:
        found = next((n for n in view.networks if key in (n.name, str(n.uuid))), None)
        if found is not None:
            return found
        others = (n for v in self.views.fleet() if isinstance(v, HostView) for n in v.networks)
        elsewhere = next((n for n in others if key in (n.name, str(n.uuid))), None)
        vif = Vif(network_name=key, network_uuid=elsewhere.uuid if elsewhere else None)
        refusal = network_absent(vif, view, fleet=self.views.fleet())
        raise VmctlError(refusal.sentence, status=409, refusals=(refusal,))

    async def _domain_type(self, virt: Virt, host: str) -> str:
        wanted = self._virt if virt is Virt.AUTO else virt
        if wanted is not Virt.AUTO:
            return wanted.value
        capabilities = ET.fromstring(await self.inventory.hypervisor(host).read_capabilities())
        kinds = {e.get("type") for e in capabilities.iterfind("guest/arch[@name='x86_64']/domain")}
        return "kvm" if "kvm" in kinds else "qemu"

    async def _bring_definition(self, vm: Vm, target: str, record: VmRecord | None) -> None:
        xml = record.xml if record is not None else ""
        if vm.state is not VmState.UNDEFINED:
            xml = (await self.inventory.hypervisor(vm.host).movable_xml(vm.uuid, name=vm.name))[1] or xml
        await self.inventory.hypervisor(target).define(fix_vifs(xml, vm.vifs), name=vm.name)

    async def _remove_other_definitions(self, vm: Vm, home: str) -> None:
        for copy in self.inventory.vms():
            if copy.uuid == vm.uuid and copy.host != home and copy.state is VmState.SHUT_OFF:
                await self.inventory.hypervisor(copy.host).undefine(vm.uuid, name=vm.name)
                await self.inventory.refresh(copy.host)


def _of_record(record: VmRecord, state: VmState) -> Vm:
    facts = read(record.xml)
    return Vm(
        uuid=record.uuid,
        name=record.name,
        host=record.host,
        state=state,
        memory_mib=facts.memory_mib,
        vcpus=facts.vcpus,
        vifs=facts.vifs,
        ours=True,
    )


def _userspace_networks(*views: HostView | Unread) -> frozenset[str]:
    """Names of the networks whose switch runs in user space on any of the hosts: the guest may move to that one."""
    return frozenset(
        network.libvirt_network
        for view in views
        if isinstance(view, HostView)
        for network in view.networks
        if (switch := view.switch(network.switch_uuid)) is not None and switch.userspace
    )
