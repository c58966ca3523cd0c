"""One move, from its first row to its last.

Forward, each step is written before what it names is done: links, the destination's word, libvirt. What follows, and
what a restart finds, is `vmctl.migration`'s to decide: `settle()` looks at both libvirts, does the one thing that is
next, and looks again, until the row is closed. A store that takes no more (a full disk) stops a move that has not
been handed over; later it only delays the row, which is written as soon as there is room: the guest does not care.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import TypeVar

import structlog

from vmctl import libvirt_moves
from vmctl.domain_xml import fix_vifs
from vmctl.domains import JobStats
from vmctl.escort import Escort
from vmctl.hypervisor import Hypervisor
from vmctl.inventory import Inventory
from vmctl.journal import Journal
from vmctl.libvirt_moves import LiveMove
from vmctl.linkbook import LinkBook
from vmctl.links import MBPS_A_MIB_S, Request, links_of, need_mbps, waits_for
from vmctl.migration import Act, Action, Fate, next_action
from vmctl.model import Host, Migration, MigrationState, MoveKind, Refusal, Vm, VmctlError
from vmctl.readiness import CAN_WAIT
from vmctl.tasks import now_text
from vmctl.views import Views

__all__ = ["Move", "Order", "Tools"]

READY_S = 15.0  # that a destination gets to realize what it was told
POLL_S, POLL_S_MAX = 0.25, 3.0
LINGER_S = 4.0  # of cleaning, after which nobody waits for it any more
T = TypeVar("T")

log = structlog.get_logger("vmctl.moving")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every move works with."""

    journal: Journal
    inventory: Inventory
    views: Views
    book: LinkBook


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a move was begun with; one that a restart finds has none."""

    vm: Vm
    check: Callable[[], Awaitable[tuple[Refusal, ...]]]


class Move:
    """One row of the journal, worked on until it is closed."""

    def __init__(self, row: Migration, tools: Tools, order: Order | None) -> None:
        self.row = row
        self.lingers = False  # only cleaning is left, and it takes long
        self.waits = ""  # for what, while it waits
        self._tools = tools
        self._order = order
        self._stopped = asyncio.Event()
        self._why = ""
        self._escort: Escort | None = None
        self._gap_ms: int | None = None

    @property
    def progress(self) -> JobStats | None:
        """How far the copy of memory is, None when nothing is copied."""
        copying = self._escort is not None and self.row.state is MigrationState.MIGRATING
        return self._escort.progress if copying and self._escort is not None else None

    def stop(self, why: str) -> None:
        """Stops the move where it can still be stopped; the first reason stays."""
        if not self._stopped.is_set():
            self._why = why
            self._stopped.set()

    def forget_order(self) -> None:
        """From now on only looks: what was being done has broken off."""
        self._order = None

    async def run(self) -> None:
        """Until the row is closed."""
        error, asked = "", False
        if self._order is not None:
            async with AsyncExitStack() as held:
                error = await self._go(self._order, held)
                asked = True
                error = self._why if self._stopped.is_set() and error else error
                await self._settle(error, asked=asked, until_settled=True)
        elif self.row.state is MigrationState.MIGRATING:
            error = "vmctl was restarted meanwhile and does not know libvirt's reason"
        await self._settle(error, asked=asked)

    # --- forward --------------------------------------------------------------------------------------------------

    async def _go(self, order: Order, held: AsyncExitStack) -> str:
        """Hands the VM over step by step; why that failed, empty when libvirt says that it has moved."""
        try:
            request = await self._unless_stopped(_request(self.row, order.vm, self._tools))
            self.waits = waits_for(self.row, request) if self._tools.book.would_wait(request) else ""
            await self._unless_stopped(held.enter_async_context(self._tools.book.hold(request)))
            self.waits = ""
            await self._write(MigrationState.RESERVED)
            await self._wait_for_network(order)
            await self._write(MigrationState.READY, had_copy=await self._has_copy())
            live_xml, kept_xml = await self._hypervisor(self.row.source).movable_xml(order.vm.uuid, name=order.vm.name)
            live_xml, kept_xml = (fix_vifs(xml, order.vm.vifs) if xml else "" for xml in (live_xml, kept_xml))
            if self._stopped.is_set():
                raise VmctlError(self._why)
            await self._write(MigrationState.MIGRATING)
            if self.row.kind is MoveKind.COLD:
                await self._hypervisor(self.row.destination).define(kept_xml, name=order.vm.name)
            else:
                await self._copy(order, live_xml, kept_xml)
        except VmctlError as error:
            return error.sentence
        return ""

    async def _wait_for_network(self, order: Order) -> None:
        deadline = time.monotonic() + READY_S
        while refused := await self._unless_stopped(order.check()):
            late = time.monotonic() > deadline or any(refusal.code not in CAN_WAIT for refusal in refused)
            if late:
                raise VmctlError("; ".join(r.sentence for r in refused), status=409, refusals=refused)
            self.waits = refused[0].sentence
            await self._unless_stopped(asyncio.sleep(POLL_S))
        self.waits = ""

    async def _has_copy(self) -> bool:
        uuid = self.row.vm_uuid
        look = self._hypervisor(self.row.destination).call(
            f"look for VM {self.row.vm_name}", lambda connection: libvirt_moves.has_definition(connection, uuid)
        )
        return await self._unless_stopped(look)

    async def _copy(self, order: Order, live_xml: str, kept_xml: str) -> None:
        source, destination = self._hypervisor(self.row.source), self._host(self.row.destination)
        share = self._tools.book.share(self.row.id)
        policy = self.row.policy
        wanted = [x for x in (policy.bandwidth_mib_s, max(1, round(share / MBPS_A_MIB_S)) if share else 0) if x]
        move = LiveMove(
            uuid=order.vm.uuid,
            peer_uri=destination.peer_uri,
            migration_uri=_migration_uri(destination.migration_address),
            live_xml=live_xml,
            kept_xml=kept_xml,
            policy=policy,
            bandwidth_mib_s=min(wanted, default=0),
        )
        views = self._tools.views
        self._escort = Escort(
            self.row,
            order.vm,
            source=source,
            latest=lambda: views.latest(destination.name),
            ask=lambda: views.ask(destination, deadline_s=1.0),
            share=lambda: self._tools.book.share(self.row.id),
            stop=self.stop,
            note=self._note,
        )
        beside = [asyncio.create_task(self._escort.run()), asyncio.create_task(self._stopper(source))]
        try:
            await source.errand("", lambda connection: libvirt_moves.live_migrate(connection, move), deadline_s=None)
            self._gap_ms = await self._escort.gap_ms()
        finally:
            for task in beside:
                task.cancel()

    async def _stopper(self, source: Hypervisor) -> None:
        """Once the move is to be stopped, aborts its job, again and again: it may not have begun yet."""
        await self._stopped.wait()
        while True:
            with suppress(VmctlError):
                await source.call(
                    f"stop the move of VM {self.row.vm_name}",
                    lambda connection: libvirt_moves.abort(connection, self.row.vm_uuid),
                )
            await asyncio.sleep(0.2)

    async def _unless_stopped(self, work: Awaitable[T]) -> T:
        """What *work* returns; `VmctlError` as soon as the move is stopped."""
        doing = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait((doing, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                doing.cancel()
                with suppress(asyncio.CancelledError, VmctlError):
                    await doing
                raise VmctlError(self._why)
            return doing.result()
        finally:
            stopped.cancel()
            doing.cancel()

    # --- until the row is closed ----------------------------------------------------------------------------------

    async def _settle(self, error: str, *, asked: bool, until_settled: bool = False) -> None:
        since, state, pause = time.monotonic(), self.row.state, POLL_S
        stopper: asyncio.Task[None] | None = None
        if not asked and state is MigrationState.MIGRATING:
            stopper = asyncio.create_task(self._stopper(self._hypervisor(self.row.source)))
        try:
            while not (self.row.state.settled if until_settled else self.row.state.final):
                if self.row.state is not state:
                    since, state, pause = time.monotonic(), self.row.state, POLL_S
                waited_s = time.monotonic() - since
                self.lingers = state.settled and waited_s > LINGER_S
                action = await self._next(error, asked=asked, waited_s=waited_s)
                if action.act is Act.WAIT or not await self._do(action):
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.3, POLL_S_MAX)
        finally:
            if stopper is not None:
                stopper.cancel()

    async def _next(self, error: str, *, asked: bool, waited_s: float) -> Action:
        row = self.row
        if row.state in (MigrationState.PLANNED, MigrationState.RESERVED, MigrationState.READY):
            # nothing was done to any host: none needs to be asked
            return next_action(move=row, source=Fate.UNREAD, destination=Fate.UNREAD, asked=asked, error=error)
        if row.state.settled and await self._superseded():
            return Action(act=Act.FINISH if row.state is MigrationState.COMMITTED else Act.CLOSE)
        source, destination = await asyncio.gather(
            self._hypervisor(row.source).read_fate(row.vm_uuid),
            self._hypervisor(row.destination).read_fate(row.vm_uuid),
        )
        error = self._why if self._stopped.is_set() and error else error
        return next_action(
            move=row, source=source, destination=destination, asked=asked, error=error, waited_s=waited_s
        )

    async def _superseded(self) -> bool:
        """Whether a later move of the VM has to do with the host that is to be cleaned."""
        row = self.row
        cleaned = row.source if row.state is MigrationState.COMMITTED else row.destination
        newer = await asyncio.to_thread(self._tools.journal.migrations, vm_uuid=row.vm_uuid)
        return any(
            other.id > row.id
            and cleaned in (other.source, other.destination)
            and other.state is not MigrationState.FAILED
            for other in newer
        )

    async def _do(self, action: Action) -> bool:
        """Does it; False when it failed, or changed nothing that could be seen at once."""
        uuid = self.row.vm_uuid
        said = {"sentence": action.sentence} if action.sentence else {}
        try:
            if action.act is Act.COMMIT:
                await self._write(MigrationState.COMMITTED, **said)
            elif action.act is Act.ROLL_BACK:
                await self._write(MigrationState.UNDOING, **said)
            elif action.act is Act.FINISH:
                await self._finish()
            elif action.act is Act.CLOSE:
                if self.row.state in (MigrationState.MIGRATING, MigrationState.UNDOING, MigrationState.COMMITTED):
                    await self._refresh()
                await self._write(MigrationState.FAILED, **said)
            elif action.act is Act.REMOVE_AT_SOURCE:
                await self._clean(self.row.source)
            elif action.act is Act.REMOVE_AT_DESTINATION:
                await self._clean(self.row.destination)
            elif action.act is Act.RESUME_AT_SOURCE:
                await self._hypervisor(self.row.source).errand(
                    f"resume VM {self.row.vm_name}", lambda c: libvirt_moves.resume_source(c, uuid)
                )
            elif action.act is Act.REPAIR:
                await self._repair()
                return False
        except VmctlError as problem:
            log.warning("step of a move failed", migration=self.row.id, act=action.act.value, reason=problem.sentence)
            return False
        return True

    async def _clean(self, host: str) -> None:
        uuid = self.row.vm_uuid
        await self._hypervisor(host).errand(
            f"remove what is left of VM {self.row.vm_name}", lambda c: libvirt_moves.remove_leftover(c, uuid)
        )

    async def _repair(self) -> None:
        row, peer = self.row, self._host(self.row.destination)
        await self._hypervisor(row.source).errand(
            f"go on with the post-copy of VM {row.vm_name}",
            lambda c: libvirt_moves.resume_post_copy(
                c, row.vm_uuid, peer_uri=peer.peer_uri, migration_uri=_migration_uri(peer.migration_address)
            ),
        )

    async def _finish(self) -> None:
        stats = JobStats()
        if self.row.kind is MoveKind.LIVE:
            try:
                stats = await self._hypervisor(self.row.destination).read_finished_job(self.row.vm_uuid)
            except VmctlError as error:
                log.info("no statistics of the move", migration=self.row.id, reason=error.sentence)
        await self._refresh()
        await self._write(
            MigrationState.DONE,
            total_ms=stats.elapsed_ms,
            downtime_ms=stats.downtime_ms,
            transferred_mib=stats.transferred_mib,
            gap_ms=self._gap_ms,
        )

    async def _refresh(self) -> None:
        known = [name for name in (self.row.source, self.row.destination) if not self._hypervisor(name).problem]
        await asyncio.gather(*(self._tools.inventory.refresh(name) for name in known))

    async def _write(self, state: MigrationState, **values: object) -> None:
        self.row = await asyncio.to_thread(
            self._tools.journal.change, self.row.id, state=state, now=now_text(), **values
        )
        log.info("move", migration=self.row.id, vm=self.row.vm_name, state=state.value, sentence=self.row.sentence)

    async def _note(self, what: str) -> None:
        await asyncio.to_thread(
            self._tools.journal.add_event,
            kind="migration",
            subject=self.row.vm_name,
            what=what,
            sentence="",
            now=now_text(),
            ref=self.row.id,
        )

    def _hypervisor(self, host: str) -> Hypervisor:
        return self._tools.inventory.hypervisor(host)

    def _host(self, name: str) -> Host:
        return self._tools.inventory.host(name)


async def _request(row: Migration, vm: Vm, tools: Tools) -> Request:
    """What the move asks of the links of both its ends, by their own word."""
    if row.kind is MoveKind.COLD:
        return Request(id=row.id, links=(), need_mbps=0.0)
    hosts = [tools.inventory.host(name) for name in (row.source, row.destination)]
    views = await asyncio.gather(*(tools.views.ask(host) for host in hosts))
    links = links_of(vm, ends=list(zip(hosts, views, strict=True)), moves_use=tools.book.used)
    limit = row.policy.bandwidth_mib_s
    need = need_mbps(memory_mib=vm.memory_mib, links=links, limit_mib_s=limit) if links else 0.0
    return Request(id=row.id, links=links, need_mbps=need, limit_mbps=limit * MBPS_A_MIB_S)


def _migration_uri(address: str) -> str:
    return f"tcp://[{address}]" if ":" in address and not address.startswith("[") else f"tcp://{address}"
