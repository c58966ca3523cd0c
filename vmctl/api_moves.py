"""The part of the API that takes long: moves, tasks, events.

Events are JSON lines. With `follow` the answer does not end: each event is a line as it happens, and an empty line
every `BEAT_S` shows that the daemon lives. A follower that was cut off goes on with `after=` its last number.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from vmctl.model import Event, Migration, MoveKind, Task
from vmctl.schemas import MigrateIn, MigrationOut, RefusalsOut, TaskOut
from vmctl.service import Service

__all__ = ["add_moves"]

BEAT_S = 15.0


def add_moves(router: APIRouter, service: Service) -> None:
    """Adds the paths of moves, tasks and events."""
    _moves(router, service)
    _tasks(router, service)
    _events(router, service)


def _moves(router: APIRouter, service: Service) -> None:
    @router.post("/vms/{vm}/migrate", operation_id="migrate_vm", status_code=202)
    async def migrate_vm(vm: str, body: MigrateIn) -> MigrationOut:
        return _move(service, await service.migrate(vm, body.host, cold=body.cold, policy=body.policy()))

    @router.get("/vms/{vm}/move-refusals", operation_id="may_move")
    async def may_move(vm: str, host: str, cold: bool = False) -> RefusalsOut:
        found = await service.find(vm)
        kind = MoveKind.LIVE if found.state.active and not cold else MoveKind.COLD
        refused = await service.move_refusals(found, host, kind=kind)
        sentence = (
            "; ".join(r.sentence for r in refused) or f"{found.name} would move {kind} from {found.host} to {host}"
        )
        return RefusalsOut(eligible=not refused, sentence=sentence, refusals=refused)

    @router.get("/vms/{vm}/history", operation_id="vm_history")
    async def vm_history(vm: str) -> list[Migration]:
        found = await service.find(vm)
        return list(await service.migrations(vm_uuid=found.uuid))

    @router.get("/migrations", operation_id="list_migrations")
    async def list_migrations() -> list[MigrationOut]:
        return [_move(service, row) for row in await service.migrations()]

    @router.get("/migrations/{id}", operation_id="show_migration")
    async def show_migration(id: int) -> MigrationOut:
        return _move(service, await service.migration(id))

    @router.post("/migrations/{id}/cancel", operation_id="cancel_migration", status_code=202)
    async def cancel_migration(id: int) -> MigrationOut:
        await service.mover.cancel(id)
        return _move(service, await service.migration(id))


def _tasks(router: APIRouter, service: Service) -> None:
    async def whole(task: Task) -> TaskOut:
        if task.migration_id is None:
            steps = await asyncio.to_thread(service.journal.events, kind="task", ref=task.id)
            return TaskOut(task=task, steps=steps)
        steps = await asyncio.to_thread(service.journal.events, kind="migration", ref=task.migration_id)
        return TaskOut(task=task, move=_move(service, await service.migration(task.migration_id)), steps=steps)

    @router.get("/tasks", operation_id="list_tasks")
    async def list_tasks() -> list[Task]:
        return list(await asyncio.to_thread(service.journal.tasks))

    @router.get("/tasks/{id}", operation_id="show_task")
    async def show_task(id: int) -> TaskOut:
        return await whole(await asyncio.to_thread(service.journal.task, id))


def _events(router: APIRouter, service: Service) -> None:
    @router.get(
        "/events",
        operation_id="events",
        response_class=StreamingResponse,
        responses={200: {"content": {"application/x-ndjson": {}}, "description": "One event a line, as JSON."}},
    )
    async def events(after: int = 0, follow: bool = False) -> StreamingResponse:
        if follow:
            return StreamingResponse(_beating(service.tasks.follow(after=after)), media_type="application/x-ndjson")
        found = await asyncio.to_thread(service.journal.events, after=after)
        return StreamingResponse(iter([_line(event) for event in found]), media_type="application/x-ndjson")


async def _beating(events: AsyncIterator[Event]) -> AsyncIterator[str]:
    waiting = asyncio.ensure_future(anext(events))
    try:
        while True:
            done, _ = await asyncio.wait((waiting,), timeout=BEAT_S)
            if not done:
                yield "\n"
                continue
            try:
                yield _line(waiting.result())
            except StopAsyncIteration:
                return
            waiting = asyncio.ensure_future(anext(events))
    finally:
        waiting.cancel()


def _line(event: Event) -> str:
    return json.dumps(asdict(event), ensure_ascii=False) + "\n"


def _move(service: Service, row: Migration) -> MigrationOut:
    return MigrationOut(
        migration=row,
        progress=service.mover.progress(row.id),
        over=service.mover.over(row),
        waits=service.mover.waits(row),
    )
