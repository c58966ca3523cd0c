"""`POST /trace`: what becomes of a frame, host by host."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter

from netmgr.api.context import Context
from netmgr.api.tracing import follow
from netmgr.contract.types import TraceAnswer, TraceQuestion
from netmgr.service.port_views import places_of
from netmgr.service.specs import TraceSpec
from netmgr.service.tracing import plan, trace_view

__all__ = ["router"]

_ANSWER_S_MAX = 5.0  # of one host


def router(context: Context) -> APIRouter:
    """The routes of this module."""
    routes = APIRouter()

    @routes.post("/trace", tags=["trace"])
    async def trace(spec: TraceSpec) -> dict[str, Any]:
        """Nothing is sent. `result`: delivered, dropped or unknown; `sentence`: where and why; `path`: the tree."""

        async def ask(host: UUID, question: TraceQuestion) -> TraceAnswer:
            return await context.hosts.ask(host, question, timeout_s=_ANSWER_S_MAX)

        places = places_of(context.fleet.lives())
        with context.store.read() as world:
            planned = plan(world, spec, places)
        first = await follow(planned, ask)
        with context.store.read() as world:
            return trace_view(world, planned, first, places)

    return routes
