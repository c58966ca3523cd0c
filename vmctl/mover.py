"""Moves VMs, by the journal.

Each step is written before it is done: planned, checked (the destination's own word), migrating, and at the end done
or failed. From `migrating` on, only the two libvirts know how it ends (see `vmctl.migration`): after libvirt's call,
and at the start of the daemon for every row that is open, both are asked until they tell. A row that was not yet
`migrating` when vmctl died has moved nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from vmctl.domain_xml import fix_vifs
from vmctl.domains import JobStats
from vmctl.hypervisor import Hypervisor
from vmctl.inventory import Inventory
from vmctl.migration import Ended, verdict
from vmctl.model import Host, Migration, MigrationState, Refusal, Vm, VmctlError
from vmctl.store import Store

__all__ = ["Mover", "now_text"]

POLL_S = 0.25
PATIENCE_S = 30.0  # for a half-moved copy to go away once nothing moves out of the source

log = structlog.get_logger("vmctl.mover")


def now_text() -> str:
    """The time, RFC 3339, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Mover:
    """Begins, follows, cancels and, after a restart, ends moves."""

    def __init__(self, *, store: Store, inventory: Inventory) -> None:
        self._store = store
        self._inventory = inventory
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._progress: dict[int, JobStats] = {}
        self._cancelled: set[int] = set()

    def progress(self, id: int) -> JobStats | None:
        """How far the move is, None when it is not moving."""
        return self._progress.get(id)

    async def begin(
        self,
        vm: Vm,
        destination: Host,
        *,
        check: Callable[[], Awaitable[tuple[Refusal, ...]]],
        auto_converge: bool,
        bandwidth_mib_s: int,
    ) -> Migration:
        """The journal's row, migrating; the move goes on by itself.

        Raises:
            VmctlError: refused, with *check*'s refusals, before anything has moved.
        """
        planned = await asyncio.to_thread(
            self._store.plan_migration,
            vm_uuid=vm.uuid,
            vm_name=vm.name,
            source=vm.host,
            destination=destination.name,
            now=now_text(),
        )
        source = self._inventory.hypervisor(vm.host)
        try:
            if refused := await check():
                sentence = "; ".join(refusal.sentence for refusal in refused)
                raise VmctlError(sentence, status=409, refusals=refused)
            await self._change(planned, MigrationState.CHECKED)
            live_xml, kept_xml = await source.movable_xml(vm.uuid, name=vm.name)
            row = await self._change(planned, MigrationState.MIGRATING)
        except VmctlError as error:
            await self._change(planned, MigrationState.FAILED, sentence=error.sentence)
            raise
        except asyncio.CancelledError:
            await self._change(planned, MigrationState.FAILED, sentence="vmctl was stopped before anything had moved")
            raise

        async def move() -> str:
            try:
                await source.migrate(
                    vm.uuid,
                    name=vm.name,
                    peer_uri=destination.peer_uri,
                    migration_uri=_migration_uri(destination.migration_address),
                    live_xml=fix_vifs(live_xml, vm.vifs),
                    kept_xml=fix_vifs(kept_xml, vm.vifs) if kept_xml else "",
                    auto_converge=auto_converge,
                    bandwidth_mib_s=bandwidth_mib_s,
                )
            except VmctlError as error:
                return error.sentence
            return ""

        self._spawn(row, move)
        return row

    async def cancel(self, id: int) -> None:
        """Stops the move; returns when libvirt has been told, or it has ended by itself."""
        row = await asyncio.to_thread(self._store.migration, id)
        if row.state.final:
            raise VmctlError(f"migration {id} of {row.vm_name} has ended already: {row.sentence}", status=409)
        self._cancelled.add(id)
        task = self._tasks.get(id)
        source = self._inventory.hypervisor(row.source)
        deadline = time.monotonic() + 5.0
        while task is not None and not task.done() and time.monotonic() < deadline:
            await source.cancel_job(row.vm_uuid, name=row.vm_name)  # the job may not have begun: ask again
            await asyncio.wait((task,), timeout=0.2)

    async def recover(self) -> None:
        """Takes up every open row of the journal."""
        for row in await asyncio.to_thread(self._store.migrations):
            if row.state.final:
                continue
            if row.state is MigrationState.MIGRATING:
                self._spawn(row, self._forgotten)
            else:
                sentence = f"vmctl was stopped before anything had moved; {row.vm_name} is on {row.source} as before"
                await self._change(row, MigrationState.FAILED, sentence=sentence)

    async def close(self) -> None:
        """Lets go of what is under way: libvirt ends it, the next start reads how."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    # --- a move under way -----------------------------------------------------------------------------------------

    async def _forgotten(self) -> str:
        return "vmctl was restarted meanwhile and does not know libvirt's reason"

    def _spawn(self, row: Migration, move: Callable[[], Awaitable[str]]) -> None:
        task = asyncio.create_task(self._follow(row, move))
        self._tasks[row.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(row.id, None))

    async def _follow(self, row: Migration, move: Callable[[], Awaitable[str]]) -> None:
        try:
            watcher = asyncio.create_task(self._watch(row))
            try:
                error = await move()
                ended = await self._settle(row, error)
            finally:
                watcher.cancel()
            await self._finish(row, ended)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception(
                "move not settled", migration=row.id, vm=row.vm_name
            )  # the row stays open: the next start asks
        finally:
            self._progress.pop(row.id, None)
            self._cancelled.discard(row.id)

    async def _watch(self, row: Migration) -> None:
        source = self._inventory.hypervisor(row.source)
        while True:
            await asyncio.sleep(POLL_S)
            try:
                stats = await source.read_job(row.vm_uuid)
            except VmctlError:
                continue  # not begun, over, or the source is away: `_settle` finds out
            if stats.elapsed_ms is not None:
                self._progress[row.id] = stats

    async def _settle(self, row: Migration, error: str) -> Ended:
        began = time.monotonic()
        while True:
            at_source, at_destination = await asyncio.gather(
                self._hypervisor(row.source).read_fate(row.vm_uuid),
                self._hypervisor(row.destination).read_fate(row.vm_uuid),
            )
            ended = verdict(
                vm=row.vm_name,
                source=row.source,
                destination=row.destination,
                at_source=at_source,
                at_destination=at_destination,
                error="it was cancelled" if row.id in self._cancelled and error else error,
                patient=time.monotonic() - began < PATIENCE_S,
            )
            if ended is not None:
                return ended
            await asyncio.sleep(POLL_S)

    async def _finish(self, row: Migration, ended: Ended) -> None:
        stats = JobStats()
        if ended.state is MigrationState.DONE:
            try:
                stats = await self._hypervisor(row.destination).read_finished_job(row.vm_uuid)
            except VmctlError as error:
                log.info("no statistics of the move", migration=row.id, reason=error.sentence)
            for record in await asyncio.to_thread(self._store.vms):
                if record.uuid == row.vm_uuid:
                    await asyncio.to_thread(self._store.put_vm, replace(record, host=row.destination))
        await asyncio.gather(self._inventory.refresh(row.source), self._inventory.refresh(row.destination))
        await self._change(
            row,
            ended.state,
            sentence=ended.sentence,
            total_ms=stats.elapsed_ms,
            downtime_ms=stats.downtime_ms,
            transferred_mib=stats.transferred_mib,
        )
        log.info("move ended", migration=row.id, vm=row.vm_name, state=ended.state.value, sentence=ended.sentence)

    async def _change(
        self, row: Migration, state: MigrationState, *, sentence: str = "", **values: int | None
    ) -> Migration:
        return await asyncio.to_thread(
            self._store.change_migration, row.id, state=state, now=now_text(), sentence=sentence, **values
        )

    def _hypervisor(self, host: str) -> Hypervisor:
        return self._inventory.hypervisor(host)


def _migration_uri(address: str) -> str:
    return f"tcp://[{address}]" if ":" in address and not address.startswith("[") else f"tcp://{address}"
