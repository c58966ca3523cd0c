"""All moves: begins, cancels, waits for and, after a restart, takes up again what is open in the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from vmctl.domains import JobStats
from vmctl.inventory import Inventory
from vmctl.journal import Journal
from vmctl.linkbook import LinkBook
from vmctl.model import Host, Migration, MigrationState, MoveKind, MovePolicy, Refusal, Vm, VmctlError
from vmctl.moving import Move, Order, Tools
from vmctl.readiness import CAN_WAIT
from vmctl.tasks import now_text
from vmctl.views import Views

__all__ = ["Mover"]

RETRY_S = 2.0

log = structlog.get_logger("vmctl.mover")


class Mover:
    """Made and used in the event loop's thread."""

    def __init__(self, *, journal: Journal, inventory: Inventory, views: Views) -> None:
        self._journal = journal
        self._tools = Tools(journal=journal, inventory=inventory, views=views, book=LinkBook())
        self._moves: dict[int, tuple[Move, asyncio.Task[None]]] = {}

    def progress(self, id: int) -> JobStats | None:
        """How far the move is, None when no memory is copied."""
        known = self._moves.get(id)
        return known[0].progress if known else None

    def over(self, row: Migration) -> bool:
        """True when there is nothing to wait for: it has ended, or only cleaning is left that takes long."""
        known = self._moves.get(row.id)
        return row.state.final or (known is not None and known[0].lingers)

    def waits(self, row: Migration) -> str:
        """What the move waits for, empty when it goes on."""
        known = self._moves.get(row.id)
        return known[0].waits if known else ""

    async def begin(
        self,
        vm: Vm,
        destination: Host,
        *,
        kind: MoveKind,
        policy: MovePolicy,
        check: Callable[[], Awaitable[tuple[Refusal, ...]]],
        parent_id: int | None = None,
    ) -> Migration:
        """The journal's row, planned; the move goes on by itself.

        Raises:
            VmctlError: refused, with *check*'s refusals, before anything has moved.
        """
        row = await asyncio.to_thread(
            self._journal.plan,
            vm_uuid=vm.uuid,
            vm_name=vm.name,
            source=vm.host,
            destination=destination.name,
            now=now_text(),
            kind=kind,
            policy=policy,
            parent_id=parent_id,
        )
        try:
            refused = await check()
            if any(refusal.code not in CAN_WAIT for refusal in refused):
                sentence = "; ".join(refusal.sentence for refusal in refused)
                raise VmctlError(sentence, status=409, refusals=refused)
        except VmctlError as error:
            await self._close(row, error.sentence)
            raise
        except asyncio.CancelledError:
            await self._close(row, "vmctl was stopped before anything had moved")
            raise
        self._spawn(row, Order(vm=vm, check=check))
        return row

    async def cancel(self, id: int) -> None:
        """Stops the move, if it can still be stopped; returns when it has ended, or after a few seconds."""
        row = await asyncio.to_thread(self._journal.migration, id)
        if row.state.settled:
            raise VmctlError(f"migration {id} of {row.vm_name} has ended already: {row.sentence}", status=409)
        known = self._moves.get(id)
        if known is None:
            raise VmctlError(f"migration {id} of {row.vm_name} is only beginning; try again", status=503)
        known[0].stop("it was cancelled")
        await asyncio.wait((known[1],), timeout=5.0)

    async def wait(self, id: int) -> Migration:
        """The row once the move is over (see `over`)."""
        known = self._moves.get(id)
        while known is not None and not known[1].done() and not known[0].lingers:
            await asyncio.wait((known[1],), timeout=0.5)
        return await asyncio.to_thread(self._journal.migration, id)

    async def recover(self) -> None:
        """Takes up every open row of the journal."""
        await asyncio.to_thread(self._journal.end_tasks_of_old, now=now_text())
        for row in await asyncio.to_thread(self._journal.open_migrations):
            self._spawn(row, None)

    async def close(self) -> None:
        """Lets go of what is under way: libvirt ends it, the next start reads how."""
        tasks = [task for _, task in self._moves.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _close(self, row: Migration, sentence: str) -> None:
        try:
            await asyncio.to_thread(
                self._journal.change, row.id, state=MigrationState.FAILED, now=now_text(), sentence=sentence
            )
        except VmctlError as error:
            log.warning("row stays open", migration=row.id, reason=error.sentence)
            self._spawn(row, None)  # it is written once the store takes it

    def _spawn(self, row: Migration, order: Order | None) -> None:
        move = Move(row, self._tools, order)
        task = asyncio.create_task(self._follow(move))
        self._moves[row.id] = (move, task)
        task.add_done_callback(lambda _: self._moves.pop(row.id, None))

    async def _follow(self, move: Move) -> None:
        while True:
            try:
                await move.run()
                return
            except Exception:
                log.exception("move not settled", migration=move.row.id, vm=move.row.vm_name)
            await asyncio.sleep(RETRY_S)
            move.forget_order()
