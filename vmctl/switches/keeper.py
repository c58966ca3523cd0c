"""Keeps every host's libvirt as vmctl's switches say, for as long as the daemon runs.

One task a host. It looks when libvirt tells of a network that came, went or was defined, when the connection is back,
and when a switch has changed. libvirt 9.0 does not tell of `virsh net-update` and `net-autostart`, so every 5 s the
switches' own networks are read, and where one is not as it was left, that is a reason to look; every half minute
everything is looked at, NICs of guests too. A look reads, plans (pure), applies and reads again; only what was read
back as wanted is called realized. Running NICs follow once their network is right.

What differs although this generation was realized before is a local change: it is put back, logged, kept in the
switch's history and told to `tell`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import structlog

from vmctl.inventory import Inventory
from vmctl.model import VmctlError
from vmctl.switches.limits import Way, trial_name, trial_xml
from vmctl.switches.model import Drift, HostState, HostSwitch, Switch, Uplink
from vmctl.switches.nics import plan_nics, users
from vmctl.switches.plan import Plan, plan
from vmctl.switches.realize import Glance, Seen, apply_nics, apply_steps, read_glance, read_seen, try_network
from vmctl.switches.store import SwitchStore

__all__ = ["Keeper"]

GLANCE_S = 5.0
RESYNC_S = 30.0
RETRY_S = 5.0
ROUNDS = 5  # network, NICs, and a look that all is well; more only where somebody changes it meanwhile

log = structlog.get_logger("vmctl.switches")


@dataclass
class _Host:
    dirty: asyncio.Event = field(default_factory=asyncio.Event)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    task: asyncio.Task[None] | None = None
    states: dict[UUID, HostSwitch] = field(default_factory=dict)
    told: set[tuple[UUID, str]] = field(default_factory=set)  # differences that were reported and still are there
    clean: bool = False  # looked at, and nothing of ours was there that should not be
    again: bool = False  # something could not be done
    left: Glance | None = None  # how the switches' networks were left, None while that is not known


class Keeper:
    """All switches, and how they fare on each host; made and used in the event loop's thread."""

    def __init__(self, *, store: SwitchStore, inventory: Inventory, tell: Callable[[Drift, str], None]) -> None:
        """*tell* gets each local change that is put back, with the switch's name."""
        self._store = store
        self._inventory = inventory
        self._tell = tell
        self._switches: dict[UUID, Switch] = {}
        self._realized: dict[tuple[UUID, str], int] = {}
        self._manager: UUID | None = None
        self._hosts: dict[str, _Host] = {}

    async def start(self) -> None:
        """Reads the store; hosts come with `mark`."""
        self._manager = await asyncio.to_thread(self._store.manager)
        self._switches = {switch.uuid: switch for switch in await asyncio.to_thread(self._store.switches)}
        self._realized = await asyncio.to_thread(self._store.realized)

    async def close(self) -> None:
        """Ends the tasks; hosts stay as they are."""
        tasks = [host.task for host in self._hosts.values() if host.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def switches(self) -> tuple[Switch, ...]:
        """All switches, by name."""
        return tuple(sorted(self._switches.values(), key=lambda switch: switch.name))

    def states(self, host: str) -> Mapping[UUID, HostSwitch]:
        """How the switches fare on the host, by UUID; one that was not looked at yet is not there."""
        found = self._hosts.get(host)
        return found.states if found is not None else {}

    async def put(self, switch: Switch) -> None:
        """Keeps the switch from now on as it is here; `sync` brings it to its hosts at once."""
        await asyncio.to_thread(self._store.put, switch)
        self._switches[switch.uuid] = switch
        for host in self._hosts.values():
            host.clean = False  # it may have left one

    async def forget(self, switch: Switch) -> None:
        """Keeps the switch no more; its networks go with the next sync of each host."""
        await asyncio.to_thread(self._store.remove, switch.uuid)
        del self._switches[switch.uuid]
        self._realized = {key: value for key, value in self._realized.items() if key[0] != switch.uuid}
        for host in self._hosts.values():
            host.states.pop(switch.uuid, None)
            host.clean = False

    def mark(self, host: str) -> None:
        """Has the host looked at soon."""
        found = self._hosts.setdefault(host, _Host())
        if found.task is None or found.task.done():
            found.task = asyncio.create_task(self._follow(host, found))
        found.dirty.set()

    async def read(self, host: str) -> Seen:
        """What the host's libvirt shows now; `VmctlError` when it cannot be asked."""
        ports_of = frozenset(s.uuid for s in self._switches.values() if s.uplink is Uplink.ISOLATED)
        return await self._inventory.hypervisor(host).call("list its networks", partial(read_seen, ports_of=ports_of))

    async def try_limits(self, host: str, way: Way) -> str:
        """Why the host's libvirt cannot limit traffic that way on a device of its own, empty when it can."""
        assert self._manager is not None, "start() comes first"
        trial = partial(try_network, name=trial_name(self._manager), xml=trial_xml((way,), manager=self._manager))
        return await self._inventory.hypervisor(host).errand("try a rate limit", trial)

    async def sync(self, host: str) -> None:
        """Brings the host up to date now, as far as it can be; what failed is in `states` and tried again."""
        found = self._hosts.setdefault(host, _Host())
        async with found.lock:
            await self._sync(host, found)

    async def _follow(self, host: str, found: _Host) -> None:
        while any(known.name == host for known in self._inventory.hosts()):
            await self._until_due(host, found)
            await asyncio.sleep(0.05)  # events come in bursts
            found.dirty.clear()
            if not found.clean or any(switch.host(host) for switch in self._switches.values()):
                try:
                    await self.sync(host)
                except VmctlError as error:  # the store, or the host was removed
                    found.again = True
                    log.warning("switches not kept", host=host, reason=error.sentence)
                except Exception:  # we are wrong, and other hosts and later looks shall not pay for it
                    found.again = True
                    log.exception("switches not kept", host=host)

    async def _until_due(self, host: str, found: _Host) -> None:
        """Until there is a reason to look at the host, or it is time to."""
        due = time.monotonic() + (RETRY_S if found.again else RESYNC_S)
        while (left_s := due - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(GLANCE_S, left_s)):
                    await found.dirty.wait()
                return
            except TimeoutError:
                if found.left is not None and await self._glance(host) != found.left:
                    return

    async def _glance(self, host: str) -> Glance | None:
        """How the switches' networks on the host are now, None when it cannot be asked."""
        here = [switch.uuid for switch in self._switches.values() if switch.host(host)]
        try:
            hypervisor = self._inventory.hypervisor(host)
            if not here or hypervisor.problem:
                return None
            return await hypervisor.call("look at its networks", partial(read_glance, uuids=here))
        except VmctlError:
            return None

    async def _sync(self, host: str, found: _Host) -> None:
        assert self._manager is not None, "start() comes first"
        failed: dict[UUID, str] = {}
        hypervisor = self._inventory.hypervisor(host)
        for _ in range(ROUNDS):
            switches = tuple(self._switches.values())
            try:
                seen = await self.read(host)
                planned = plan(
                    host=host,
                    switches=switches,
                    realized=seen.networks,
                    manager=self._manager,
                    users=users(seen.domains),
                )
                if steps := [step for step in planned.steps if step.uuid not in failed]:
                    await self._report(host, found, {uuid: said for uuid, said in planned.found.items() if said})
                    failed |= await hypervisor.errand("change its networks", partial(apply_steps, steps=steps))
                    continue
                here = [s for s in switches if s.host(host) and s.uuid in planned.found and s.uuid not in failed]
                nics = plan_nics(switches=here, domains=seen.domains, ports=seen.ports)
                if nics:
                    await self._report(host, found, _by_network([(nic.network, nic.sentence) for nic in nics]))
                    failed |= await hypervisor.errand("change NICs of its VMs", partial(apply_nics, steps=nics))
                    continue
            except VmctlError as error:
                self._unread(host, found, error.sentence)
                return
            found.left = seen.glance([switch.uuid for switch in switches if switch.host(host)])
            await self._note(host, found, switches, planned, failed)
            return
        contested = dict.fromkeys(planned.found, "others change it as often as vmctl puts it back; it is tried again")
        await self._note(host, found, switches, planned, contested | failed)

    def _unread(self, host: str, found: _Host, reason: str) -> None:
        found.again, found.left = True, None
        for switch in self._switches.values():
            if switch.host(host) is not None:
                found.states[switch.uuid] = HostSwitch(host=host, state=HostState.UNREAD, sentence=reason)

    async def _note(
        self, host: str, found: _Host, switches: Sequence[Switch], planned: Plan, failed: Mapping[UUID, str]
    ) -> None:
        conflicts = {conflict.uuid: conflict.sentence for conflict in planned.conflicts}
        states, done = dict[UUID, HostSwitch](), dict[UUID, int]()
        for switch in switches:
            uuid = switch.uuid
            if switch.host(host) is None:
                continue
            if uuid in conflicts:
                states[uuid] = HostSwitch(host=host, state=HostState.CONFLICT, sentence=conflicts[uuid])
            elif uuid in failed:
                states[uuid] = HostSwitch(host=host, state=HostState.PENDING, sentence=failed[uuid])
            else:
                states[uuid] = HostSwitch(host=host, state=HostState.REALIZED)
                found.told = {each for each in found.told if each[0] != uuid}
                if self._realized.get((uuid, host)) != switch.generation:
                    done[uuid] = switch.generation
        if done:
            await asyncio.to_thread(self._store.set_realized, host, done)
            self._realized |= {(uuid, host): generation for uuid, generation in done.items()}
        for uuid, sentence in (*conflicts.items(), *failed.items()):
            if (uuid, sentence) not in found.told:
                found.told.add((uuid, sentence))
                log.warning("switch not realized", host=host, switch=str(uuid), reason=sentence)
        found.states = states
        found.again = bool(failed or conflicts)
        found.clean = not found.again

    async def _report(self, host: str, found: _Host, differences: Mapping[UUID, Sequence[str]]) -> None:
        """Notes what differs although it was realized before, each difference once."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        drifts = []
        for uuid, said in differences.items():
            switch = self._switches.get(uuid)
            if switch is None or self._realized.get((uuid, host)) != switch.generation:
                continue  # our own change, on its way
            sentence = "; ".join(said)
            if (uuid, sentence) in found.told:
                continue
            found.told.add((uuid, sentence))
            drift = Drift(at=at, host=host, switch=uuid, sentence=f"{sentence}; vmctl puts it back")
            drifts.append(drift)
            log.warning("local change put back", host=host, switch=switch.name, change=sentence)
            self._tell(drift, switch.name)
        if drifts:
            await asyncio.to_thread(self._store.add_drifts, drifts)


def _by_network(said: Sequence[tuple[UUID, str]]) -> dict[UUID, list[str]]:
    found: dict[UUID, list[str]] = {}
    for uuid, sentence in said:
        found.setdefault(uuid, []).append(sentence)
    return found
