"""Zones, switches, networks, hosts, ports: list, create, show, set, delete."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import Iterable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Query, Response

from netmgr import service
from netmgr.api.context import Context, Timeout, Wait
from netmgr.api.waiting import realization_view
from netmgr.contract.types import Kind
from netmgr.model import World
from netmgr.service import views
from netmgr.service.lookup import find_host, find_network, find_port, find_switch, find_zone
from netmgr.service.realization import realization_of, targets_of
from netmgr.service.specs import (
    HostPatch,
    NetworkPatch,
    NetworkSpec,
    PortPatch,
    PortSpec,
    SwitchPatch,
    SwitchSpec,
    UuidText,
    ZonePatch,
    ZoneSpec,
)

__all__ = ["router"]

View = dict[str, Any]
Force = Annotated[bool, Query(description="Also while a host holds the port for a running VM, which is cut off then.")]


def router(context: Context) -> APIRouter:
    """The routes of all resources; `{…}` in a path is a UUID or a name."""
    routes = APIRouter()
    _add_zones(routes, context)
    _add_switches(routes, context)
    _add_networks(routes, context)
    _add_hosts(routes, context)
    _add_ports(routes, context)
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
        key = (Kind.SWITCH, uuid)
        found = await context.waited({}, keys=[key], timeout_s=timeout_s) if wait else {}
        return {**await to_thread(show, uuid), **found}

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
        key = (Kind.NETWORK, uuid)
        found = await context.waited({}, keys=[key], timeout_s=timeout_s) if wait else {}
        return {**await to_thread(show, uuid), **found}

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

    @routes.patch("/networks/{network}", tags=["networks"])
    async def set_network(network: str, patch: NetworkPatch, wait: Wait = None, timeout_s: Timeout = 10) -> View:
        changed = await to_thread(service.set_network, store, network, patch)
        return await answer(changed.uuid, wait, timeout_s)

    @routes.delete("/networks/{network}", status_code=204, tags=["networks"])
    def delete_network(network: str) -> Response:
        service.delete_network(store, network)
        return Response(status_code=204)


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
        keys = [(Kind.HOST, changed.uuid)]
        found = await context.waited({}, keys=keys, timeout_s=timeout_s) if wait else {}
        return {**await to_thread(show_host, str(changed.uuid)), **found}

    @routes.delete("/hosts/{host}", status_code=204, tags=["hosts"])
    def delete_host(host: str) -> Response:
        """The host is enrolled no more: its certificate opens nothing. Refused while it holds ports of running VMs."""
        service.delete_host(store, host)
        return Response(status_code=204)


def _add_ports(routes: APIRouter, context: Context) -> None:
    store = context.store

    def show(uuid: UUID) -> View:
        with store.read() as world:
            return views.port_view(world, world.ports[uuid], context.fleet.lives())

    @routes.get("/ports", tags=["ports"])
    def list_ports(
        network: Annotated[str | None, Query(description="Of this network only.")] = None,
    ) -> list[View]:
        lives = context.fleet.lives()
        with store.read() as world:
            of = find_network(world, network).uuid if network is not None else None
            uuids = world.ports if of is None else world.ports_by_network.get(of, set())
            return [views.port_view(world, port, lives) for port in _by_name(world.ports[uuid] for uuid in uuids)]

    @routes.post("/ports", status_code=201, tags=["ports"])
    def create_port(spec: PortSpec) -> View:
        return show(service.create_port(store, spec).uuid)

    @routes.get("/ports/{port}", tags=["ports"])
    def show_port(port: str) -> View:
        """A name is enough where it is unique, else `NETWORK:PORT`."""
        with store.read() as world:
            return views.port_view(world, find_port(world, port), context.fleet.lives())

    @routes.patch("/ports/{port}", tags=["ports"])
    def set_port(port: str, patch: PortPatch) -> View:
        return show(service.set_port(store, port, patch).uuid)

    @routes.delete("/ports/{port}", status_code=204, tags=["ports"])
    def delete_port(port: str, force: Force = False) -> Response:
        service.delete_port(store, port, force=force)
        return Response(status_code=204)

    @routes.post("/ports/{port}/attach", tags=["ports"])
    def attach_port(port: str, vif_uuid: Annotated[UuidText, Body(embed=True)]) -> View:
        return show(service.attach_port(store, port, vif_uuid=vif_uuid).uuid)

    @routes.post("/ports/{port}/detach", tags=["ports"])
    def detach_port(port: str, force: Force = False) -> View:
        return show(service.detach_port(store, port, force=force).uuid)


def _by_name(rows: Iterable[Any]) -> list[Any]:
    return sorted(rows, key=lambda row: row.name)
