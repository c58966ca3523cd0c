"""Security groups: list, create, show, set, delete; rules one by one."""

from __future__ import annotations

from asyncio import to_thread
from functools import partial
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Response

from netmgr import service
from netmgr.api.context import Context, Timeout, Wait
from netmgr.contract.types import Kind
from netmgr.service.group_views import group_view
from netmgr.service.lookup import find_group
from netmgr.service.specs import GroupPatch, GroupSpec, RuleSpec

__all__ = ["router"]

View = dict[str, Any]


def router(context: Context) -> APIRouter:
    """The routes of this module; a group in a path is a UUID or a name."""
    routes = APIRouter()
    store = context.store

    def show(uuid: UUID) -> View:
        with store.read() as world:
            return group_view(world, world.groups[uuid])

    async def answer(uuid: UUID, wait: str | None, timeout_s: float) -> View:
        key = (Kind.SECURITY_GROUP, uuid)
        return await context.answer(partial(show, uuid), key=key, wait=wait, timeout_s=timeout_s)

    @routes.get("/groups", tags=["groups"])
    def list_groups() -> list[View]:
        with store.read() as world:
            return [group_view(world, group) for group in sorted(world.groups.values(), key=lambda group: group.name)]

    @routes.post("/groups", status_code=201, tags=["groups"])
    async def create_group(spec: GroupSpec, wait: Wait = None, timeout_s: Timeout = 10) -> View:
        return await answer((await to_thread(service.create_group, store, spec)).uuid, wait, timeout_s)

    @routes.get("/groups/{group}", tags=["groups"])
    def show_group(group: str) -> View:
        """Its rules, its ports, and the addresses that count as its members."""
        with store.read() as world:
            return group_view(world, find_group(world, group))

    @routes.patch("/groups/{group}", tags=["groups"])
    async def set_group(group: str, patch: GroupPatch, wait: Wait = None, timeout_s: Timeout = 10) -> View:
        return await answer((await to_thread(service.set_group, store, group, patch)).uuid, wait, timeout_s)

    @routes.delete("/groups/{group}", status_code=204, tags=["groups"])
    def delete_group(group: str) -> Response:
        """Refused while a port has it or a rule of another group refers to it."""
        service.delete_group(store, group)
        return Response(status_code=204)

    @routes.post("/groups/{group}/rules", tags=["groups"])
    async def add_rule(group: str, spec: RuleSpec, wait: Wait = None, timeout_s: Timeout = 10) -> View:
        """A rule that is there already changes nothing."""
        return await answer((await to_thread(service.add_rule, store, group, spec)).uuid, wait, timeout_s)

    @routes.post("/groups/{group}/rules/remove", tags=["groups"])
    async def remove_rule(group: str, spec: RuleSpec, wait: Wait = None, timeout_s: Timeout = 10) -> View:
        """The rule with exactly these fields; open connections that only it allowed end too."""
        return await answer((await to_thread(service.remove_rule, store, group, spec)).uuid, wait, timeout_s)

    return routes
