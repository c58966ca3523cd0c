"""Zones, switches, networks, hosts: list, create, show, set, delete; what is withdrawn from whom."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import Iterable
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from netmgr import service
from netmgr.api.context import Context, Timeout, Wait
from netmgr.api.tls import SCOPE_KEY
from netmgr.api.waiting import realization_view
from netmgr.contract.types import Kind
from netmgr.model import World
from netmgr.service import views
from netmgr.service.lookup import find_host, find_network, find_switch, find_zone
from netmgr.service.port_views import binding_views, places_of
from netmgr.service.realization import realization_of, targets_of
from netmgr.service.specs import (
    HostPatch,
    NetworkPatch,
    NetworkSpec,
    SwitchPatch,
    SwitchSpec,
    WithdrawalSpec,
    ZonePatch,
    ZoneSpec,
)

__all__ = ["router"]

View = dict[str, Any]


def router(context: Context) -> APIRouter:
    """The routes of all resources; `{…}` in a path is a UUID or a name."""
    routes = APIRouter()
    _add_zones(routes, context)
    _add_switches(routes, context)
    _add_networks(routes, context)
    _add_hosts(routes, context)
    _add_withdrawals(routes, context)
    return routes


def _add_zones(routes: APIRouter, context: Context) -> None:
    store = context.store

    def show(world: World, uuid: UUID) -> View:
        return views.zone_view(world, world.zones[uuid])

    @routes.get("/zones", tags=["zones"])
    def list_zones() -> list[View]:
        with store.read() as world:
            return [show(world, zone.uuid) for zone in _by_name(world.zones.values())]

    @routes.post("/zones", status_code=201, tags=["zones"])
    def create_zone(spec: ZoneSpec) -> View:
        zone = service.create_zone(store, spec)
        with store.read() as world:
            return show(world, zone.uuid)

    @routes.get("/zones/{zone}", tags=["zones"])
    def show_zone(zone: str) -> View:
        with store.read() as world:
            return show(world, find_zone(world, zone).uuid)

    @routes.patch("/zones/{zone}", tags=["zones"])
    def set_zone(zone: str, patch: ZonePatch) -> View:
        changed = service.set_zone(store, zone, patch)
        with store.read() as world:
            return show(world, changed.uuid)

    @routes.delete("/zones/{zone}", status_code=204, tags=["zones"])
    def delete_zone(zone: str) -> Response:
        service.delete_zone(store, zone)
        return Response(status_code=204)


def _add_switches(routes: APIRouter, context: Context) -> None:
    store = context.store

    def show(uuid: UUID) -> View:
        with store.read() as world:
            return views.switch_view(world, world.switches[uuid], context.fleet.lives())

    async def answer(uuid: UUID, wait: str | None, timeout_s: float) -> View:
        return await context.answer(partial(show, uuid), key=(Kind.SWITCH, uuid), wait=wait, timeout_s=timeout_s)

    @routes.get("/switches", tags=["switches"])
    def list_switches() -> list[View]:
        lives = context.fleet.lives()
        with store.read() as world:
            return [views.switch_view(world, switch, lives) for switch in _by_name(world.switches.values())]

    @routes.post("/switches", status_code=201, tags=["switches"])
    async def create_switch(spec: SwitchSpec, wait: Wait = None, timeout_s: Timeout = 10) -> View:
        switch = await to_thread(service.create_switch, store, spec)
        return await answer(switch.uuid, wait, timeout_s)

    @routes.get("/switches/{switch}", tags=["switches"])
    def show_switch(switch: str) -> View:
        with store.read() as world:
            return views.switch_view(world, find_switch(world, switch), context.fleet.lives())

    @routes.patch("/switches/{switch}", tags=["switches"])
    async def set_switch(switch: str, patch: SwitchPatch, wait: Wait = None, timeout_s: Timeout = 10) -> View:
        changed = await to_thread(service.set_switch, store, switch, patch)
        return await answer(changed.uuid, wait, timeout_s)

    @routes.delete("/switches/{switch}", status_code=204, tags=["switches"])
    def delete_switch(switch: str) -> Response:
        service.delete_switch(store, switch)
        return Response(status_code=204)


def _add_networks(routes: APIRouter, context: Context) -> None:
    store = context.store

    def show(uuid: UUID) -> View:
        with store.read() as world:
            return views.network_view(world, world.networks[uuid], context.fleet.lives())

    async def answer(uuid: UUID, wait: str | None, timeout_s: float) -> View:
        return await context.answer(partial(show, uuid), key=(Kind.NETWORK, uuid), wait=wait, timeout_s=timeout_s)

    @routes.get("/networks", tags=["networks"])
    def list_networks() -> list[View]:
        lives = context.fleet.lives()
        with store.read() as world:
            return [views.network_view(world, network, lives) for network in _by_name(world.networks.values())]

    @routes.post("/networks", status_code=201, tags=["networks"])
    async def create_network(spec: NetworkSpec, wait: Wait = None, timeout_s: Timeout = 10) -> View:
        network = await to_thread(service.create_network, store, spec, acked=context.acked())
        return await answer(network.uuid, wait, timeout_s)

    @routes.get("/networks/{network}", tags=["networks"])
    def show_network(network: str) -> View:
        with store.read() as world:
            return views.network_view(world, find_network(world, network), context.fleet.lives())

    @routes.get("/networks/{network}/realization", tags=["networks"])
    async def show_realization(network: str, wait: Wait = None, timeout_s: Timeout = 10) -> View:
        """For each host that must carry the network: realized, waiting, rejected (with the reason) or disconnected."""
        with store.read() as world:
            row = find_network(world, network)
            key = (Kind.NETWORK, row.uuid)
            found = realization_of(world, targets_of(world, keys=[key]), context.fleet.lives())
        view = {"uuid": str(row.uuid), "name": row.name}
        if wait:
            return await context.waited(view, keys=[key], timeout_s=timeout_s)
        return {**view, "realization": realization_view(found)}

    @routes.get("/networks/{network}/span", tags=["networks"])
    def show_span(network: str) -> View:
        """The hosts of its zone, with how the network fares on each; and the ports with VIFs, with where each is."""
        lives = context.fleet.lives()
        with store.read() as world:
            row = find_network(world, network)
            return {
                "uuid": str(row.uuid),
                "name": row.name,
                "span": views.span_views(world, row, lives),
                "bindings": binding_views(world, row, places_of(lives)),
            }

    @routes.patch("/networks/{network}", tags=["networks"])
    async def set_network(network: str, patch: NetworkPatch, wait: Wait = None, timeout_s: Timeout = 10) -> View:
        changed = await to_thread(service.set_network, store, network, patch)
        return await answer(changed.uuid, wait, timeout_s)

    @routes.delete("/networks/{network}", status_code=204, tags=["networks"])
    def delete_network(network: str) -> Response:
        service.delete_network(store, network)
        return Response(status_code=204)


def _add_withdrawals(routes: APIRouter, context: Context) -> None:
    store = context.store

    def show(uuid: UUID) -> View:
        with store.read() as world:
            return views.network_view(world, world.networks[uuid], context.fleet.lives())

    @routes.post("/networks/{network}/withdraw", tags=["networks"])
    async def withdraw(
        network: str, spec: WithdrawalSpec, request: Request, wait: Wait = None, timeout_s: Timeout = 10
    ) -> View:
        """Hide the network from a host or all: what runs there goes on, no VM is started or moved there any more."""
        by = request.scope["extensions"][SCOPE_KEY].name
        made = await to_thread(service.withdraw_network, store, network, spec, by=by)
        key = (Kind.WITHDRAWAL, made.uuid)
        return await context.answer(partial(show, made.network_uuid), key=key, wait=wait, timeout_s=timeout_s)

    @routes.post("/networks/{network}/restore", tags=["networks"])
    def restore(
        network: str, host: Annotated[str | None, Query(description="Only on this host; else everywhere.")] = None
    ) -> View:
        """End withdrawals of the network."""
        return show(service.restore_network(store, network, host=host).uuid)


def _add_hosts(routes: APIRouter, context: Context) -> None:
    store = context.store

    @routes.get("/hosts", tags=["hosts"])
    def list_hosts() -> list[View]:
        lives = context.fleet.lives()
        with store.read() as world:
            return [views.host_view(world, host, lives) for host in _by_name(world.hosts.values())]

    @routes.get("/hosts/{host}", tags=["hosts"])
    def show_host(host: str) -> View:
        with store.read() as world:
            return views.host_view(world, find_host(world, host), context.fleet.lives())

    @routes.patch("/hosts/{host}", tags=["hosts"])
    async def set_host(host: str, patch: HostPatch, wait: Wait = None, timeout_s: Timeout = 10) -> View:
        changed = await to_thread(service.set_host, store, host, patch)
        key = (Kind.HOST, changed.uuid)
        return await context.answer(partial(show_host, str(changed.uuid)), key=key, wait=wait, timeout_s=timeout_s)

    @routes.delete("/hosts/{host}", status_code=204, tags=["hosts"])
    def delete_host(host: str) -> Response:
        """The host is enrolled no more: its certificate opens nothing. Refused while it holds ports of running VMs."""
        service.delete_host(store, host)
        return Response(status_code=204)


def _by_name(rows: Iterable[Any]) -> list[Any]:
    return sorted(rows, key=lambda row: row.name)
