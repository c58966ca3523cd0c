"""Placement at work: the arrays follow inventory and views; a decision takes them as they are.

Inventory and views name hosts that may have changed; before a decision those hosts, and no others, are put into the
arrays again. The best host by the arrays is then asked itself (`check`), and if it refuses by its own word of now, the
next best: what Watch has left is a picture. Between a decision and the sight of the VM on its host the place is
reserved, so two decisions at once do not give one place twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any
from uuid import UUID

from vmctl.inventory import Inventory
from vmctl.model import Candidate, Host, Refusal, Unread, Vm, VmctlError
from vmctl.placement.choice import explain_hosts, ranking
from vmctl.placement.evacuation import nowhere
from vmctl.placement.fleet import Fleet
from vmctl.placement.masks import masks
from vmctl.placement.model import Choice, HostFacts, Needs, Policy, Purpose, Request, Settings
from vmctl.placement.sentences import FleetAtlas, refusals
from vmctl.placement_store import Maintenance, PlacementStore, Rule
from vmctl.views import Views

__all__ = ["LOCAL_URIS", "Placer"]

LOCAL_URIS = ("qemu:///", "qemu+unix:///", "test:///")
AT_A_TIME = 100  # hosts that are explained before others get their turn
TOLD = 50  # hosts whose refusals go with the error of a VM that has no place
ASKED = 3  # hosts that are asked, best first, before placing gives up

Check = Callable[[str], Awaitable[tuple[Refusal, ...]]]


class Placer:
    """Made and used in the event loop's thread."""

    def __init__(
        self, *, store: PlacementStore, inventory: Inventory, views: Views, isolated: Callable[[], frozenset[str]]
    ) -> None:
        """*isolated* names the libvirt networks that are another layer 2 on every host."""
        self._isolated = isolated
        self.store = store
        self._inventory = inventory
        self._views = views
        self._fleet = Fleet()
        self._dirty: set[str] = set()
        self._needs: dict[UUID, Needs] = {}
        self._maintenance: dict[str, Maintenance] = {}
        inventory.on_host = self._dirty.add
        views.on_host = self._dirty.add

    async def start(self) -> None:
        """Reads what administrators want."""
        self._fleet.settings = await asyncio.to_thread(self.store.settings)
        await self._read_needs()
        await self._read_maintenance()

    @property
    def settings(self) -> Settings:
        return self._fleet.settings

    @property
    def fleet(self) -> Fleet:
        """The arrays, with all that has changed."""
        self._fleet.isolated = self._isolated()
        while self._dirty:
            self._put(self._dirty.pop())
        return self._fleet

    def unread(self) -> tuple[str, ...]:
        """Hosts whose libvirt or agent cannot be asked now."""
        facts = self.fleet.facts.values()
        return tuple(f.name for f in facts if f.libvirt_problem or isinstance(f.view, Unread))

    def touch(self, host: str) -> None:
        """The host was added, removed or changed."""
        self._dirty.add(host)

    # --- decisions ------------------------------------------------------------------------------------------------

    def request(self, vm: Vm, purpose: Purpose | None = None, *, needs: Needs | None = None) -> Request:
        """A request for *vm*; without a purpose, what it would be asked for now: a power-on, a move, or to leave."""
        if purpose is None:
            leaving = vm.host in self._maintenance
            purpose = Purpose.POWER_ON if not vm.state.active else Purpose.EVACUATE if leaving else Purpose.MOVE
        return Request(vm=vm, purpose=purpose, needs=needs or self._needs.get(vm.uuid, Needs()), home=vm.host)

    async def explain(self, request: Request) -> AsyncIterator[list[Choice]]:
        """Every host, with its score or its refusals, in no order and some at a time; nobody is asked.

        Between them others get their turn: the sentences of 10,000 hosts take a quarter of a second, a decision one
        millisecond. What changes meanwhile is seen: each host is told of as it is when its turn comes.
        """
        hosts = list(self.fleet.column)
        atlas = FleetAtlas(self.fleet)
        for first in range(0, len(hosts), AT_A_TIME):
            yield explain_hosts(self.fleet, request, hosts[first : first + AT_A_TIME], atlas=atlas)
            await asyncio.sleep(0)

    def refusals(self, request: Request, host: str, *, view: Candidate) -> tuple[Refusal, ...]:
        """Every reason why the host may not, by *view*, its own word of now."""
        fleet = self.fleet
        if host not in fleet.column:
            return ()
        bits = int(masks(fleet, request)[fleet.column[host]])
        return refusals(fleet, request, host, bits=bits, atlas=FleetAtlas(fleet, view=view), view=view)

    async def choose(self, request: Request, check: Check) -> Choice:
        """The best host that takes the VM by its own word of now.

        Raises:
            VmctlError: no host may; the sentences of all, or of those that were asked.
        """
        refused: list[Refusal] = []
        for choice in ranking(self.fleet, request, limit=ASKED):
            why = await check(choice.host)
            if not why:
                return choice
            refused.extend(why)
        sentence = "; ".join(r.sentence for r in refused) or nowhere(self.fleet, request)
        if not refused:
            told = explain_hosts(self.fleet, request, sorted(self.fleet.column)[:TOLD], atlas=FleetAtlas(self.fleet))
            refused = [refusal for choice in told for refusal in choice.refusals]
        raise VmctlError(f"no host may take {request.vm.name}: {sentence}", status=409, refusals=tuple(refused))

    @contextmanager
    def reserved(self, vm: Vm, host: str, needs: Needs | None = None) -> Iterator[None]:
        """While the block runs, *vm* counts as running on the host."""
        fleet = self.fleet
        known = host in fleet.column
        if known:
            fleet.reserve(vm, needs or self._needs.get(vm.uuid, Needs()), host)
        try:
            yield
        finally:
            if known:
                self.fleet.release(vm.uuid, host)

    # --- what administrators want ---------------------------------------------------------------------------------

    def needs(self, vm: UUID) -> Needs:
        return self._needs.get(vm, Needs())

    async def set_needs(self, vm: UUID, *, disk_mib: int, bandwidth_mbps: int) -> None:
        await asyncio.to_thread(self.store.put_needs, vm, disk_mib=disk_mib, bandwidth_mbps=bandwidth_mbps)
        await self._read_needs()

    async def forget_vm(self, vm: UUID) -> None:
        await asyncio.to_thread(self.store.forget_vm, vm)
        await self._read_needs()

    async def rules(self) -> tuple[Rule, ...]:
        return await asyncio.to_thread(self.store.rules)

    async def add_rule(self, rule: Rule) -> Rule:
        await asyncio.to_thread(self.store.add_rule, rule)
        await self._read_needs()
        return rule

    async def remove_rule(self, name: str) -> None:
        await asyncio.to_thread(self.store.remove_rule, name)
        await self._read_needs()

    async def change_rule(self, name: str, *, add: tuple[UUID, ...] = (), remove: tuple[UUID, ...] = ()) -> Rule:
        found = await asyncio.to_thread(self.store.change_members, name, add=add, remove=remove)
        await self._read_needs()
        return found

    async def change_settings(self, values: dict[str, Any]) -> Settings:
        """Sets *values* by their names.

        Raises:
            VmctlError: a name is none of `Settings`, or a value is out of range; nothing was changed.
        """
        checked = {key: _setting(key, value) for key, value in values.items()}
        self._fleet.settings = await asyncio.to_thread(self.store.change_settings, checked)
        return self._fleet.settings

    # --- maintenance ----------------------------------------------------------------------------------------------

    def maintenance(self, host: str) -> Maintenance | None:
        """The host's maintenance, None when it takes VMs."""
        return self._maintenance.get(host)

    def in_maintenance(self) -> tuple[Maintenance, ...]:
        return tuple(self._maintenance[name] for name in sorted(self._maintenance))

    async def put_maintenance(self, state: Maintenance) -> None:
        await asyncio.to_thread(self.store.put_maintenance, state)
        await self._read_maintenance()

    async def end_maintenance(self, host: str) -> None:
        await asyncio.to_thread(self.store.end_maintenance, host)
        await self._read_maintenance()

    # --- arrays ---------------------------------------------------------------------------------------------------

    def _put(self, name: str) -> None:
        host = self._known(name)
        if host is None:
            self._fleet.remove_host(name)
            return
        self._fleet.put_host(
            HostFacts(
                name=name,
                view=self._views.latest(name),
                libvirt_problem=self._inventory.problem(name),
                peer_uri=host.peer_uri,
                peer_is_local=host.peer_uri.startswith(LOCAL_URIS),
                maintenance=name in self._maintenance,
                capacity=self._inventory.capacity(name),
                port_groups=self._inventory.plain_networks(name),
            )
        )
        self._fleet.put_vms(name, [(vm, self._needs.get(vm.uuid, Needs())) for vm in self._inventory.vms_on(name)])

    def _known(self, name: str) -> Host | None:
        try:
            return self._inventory.host(name)
        except VmctlError:
            return None

    async def _read_needs(self) -> None:
        before, self._needs = self._needs, await asyncio.to_thread(self.store.needs)
        changed = {vm for vm in before.keys() | self._needs.keys() if before.get(vm) != self._needs.get(vm)}
        self._dirty |= {placed.vm.host for vm in changed for placed in self._fleet.where(vm)}

    async def _read_maintenance(self) -> None:
        before = self._maintenance
        self._maintenance = {state.host: state for state in await asyncio.to_thread(self.store.maintenance)}
        self._dirty |= before.keys() ^ self._maintenance.keys()


def _setting(key: str, value: Any) -> Any:
    kinds = {field.name: type(getattr(Settings(), field.name)) for field in fields(Settings)}
    if key not in kinds:
        raise VmctlError(f"there is no setting {key}; there are {', '.join(kinds)}")
    kind = kinds[key]
    if kind is Policy:
        if value not in list(Policy):
            raise VmctlError(f"{key}: {value!r} is no policy; choose {' or '.join(Policy)}")
        return str(value)
    if kind is bool:
        if not isinstance(value, bool):
            raise VmctlError(f"{key}: true or false is wanted, not {value!r}")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 10**9:
        raise VmctlError(f"{key}: a number from 0 to 1000000000 is wanted, not {value!r}")
    if kind is int and int(value) != value:
        raise VmctlError(f"{key}: a whole number is wanted, not {value!r}")
    if value == 0 and (key.endswith("_ratio") or key in ("parallel_moves", "balance_every_s", "balance_moves")):
        raise VmctlError(f"{key}: 0 would leave nothing; give more")
    return kind(value)
