"""Ports: list, create, show, set, delete; attach and detach VIFs; let a shadow take over. VIFs, as hosts see them."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Query, Response

from netmgr import service
from netmgr.api.context import Context
from netmgr.contract.types import VifState
from netmgr.service.lookup import find_host, find_network, find_port
from netmgr.service.port_views import places_of, port_view, vif_views
from netmgr.service.specs import PortPatch, PortSpec, UuidText

__all__ = ["router"]

View = dict[str, Any]
Force = Annotated[bool, Query(description="Also while a host holds the port for a running VM, which is cut off then.")]


def router(context: Context) -> APIRouter:
    """The routes of this module; a port in a path is a UUID, a name where it is unique, or `NETWORK:PORT`."""
    routes = APIRouter()
    _add_resource(routes, context)
    _add_verbs(routes, context)
    return routes


def _add_resource(routes: APIRouter, context: Context) -> None:
    store = context.store

    @routes.get("/ports", tags=["ports"])
    def list_ports(
        network: Annotated[str | None, Query(description="Of this network only.")] = None,
        parked: Annotated[bool | None, Query(description="Those whose guest is stopped, or the others.")] = None,
    ) -> list[View]:
        places = places_of(context.fleet.lives())
        with store.read() as world:
            of = find_network(world, network).uuid if network is not None else None
            uuids = world.ports if of is None else world.ports_by_network.get(of, set())
            ports = sorted((world.ports[uuid] for uuid in uuids), key=lambda port: port.name)
            views = [port_view(world, port, places) for port in ports]
        return [view for view in views if parked is None or view["parked"] is parked]

    @routes.get("/vifs", tags=["ports"])
    def list_vifs(
        state: Annotated[VifState | None, Query(description="In this state only.")] = None,
        host: Annotated[str | None, Query(description="On this host only.")] = None,
    ) -> list[View]:
        """All VIFs that are plugged on connected hosts; one without a port waits, dark, for its port to be attached."""
        lives = context.fleet.lives()
        with store.read() as world:
            if host is not None:
                one = find_host(world, host).uuid
                lives = {uuid: live for uuid, live in lives.items() if uuid == one}
            return [view for view in vif_views(world, lives) if state is None or view["state"] == state]

    @routes.post("/ports", status_code=201, tags=["ports"])
    def create_port(spec: PortSpec) -> View:
        """With `vif_uuid`, attached at once; with `shadow_of`, dark until failover."""
        return _show(context, service.create_port(store, spec).uuid)

    @routes.get("/ports/{port}", tags=["ports"])
    def show_port(port: str) -> View:
        """Where it is, how its VIF fares there, and where else that VIF is plugged (`conflicts`)."""
        with store.read() as world:
            return port_view(world, find_port(world, port), places_of(context.fleet.lives()))

    @routes.patch("/ports/{port}", tags=["ports"])
    def set_port(port: str, patch: PortPatch) -> View:
        """Shadows follow."""
        return _show(context, service.set_port(store, port, patch).uuid)

    @routes.delete("/ports/{port}", status_code=204, tags=["ports"])
    def delete_port(port: str, force: Force = False) -> Response:
        service.delete_port(store, port, force=force)
        return Response(status_code=204)


def _add_verbs(routes: APIRouter, context: Context) -> None:
    store = context.store

    @routes.post("/ports/{port}/attach", tags=["ports"])
    def attach_port(port: str, vif_uuid: Annotated[UuidText, Body(embed=True)]) -> View:
        """A host that has the VIF plugged already, dark, is told to claim it."""
        return _show(context, service.attach_port(store, port, vif_uuid=vif_uuid).uuid)

    @routes.post("/ports/{port}/detach", tags=["ports"])
    def detach_port(port: str, force: Force = False) -> View:
        """Where the VIF is plugged, it turns dark at once."""
        return _show(context, service.detach_port(store, port, force=force).uuid)

    @routes.post("/ports/{port}/failover", tags=["ports"])
    def failover_port(
        port: str,
        force: Annotated[bool, Query(description="Also when no host holds the shadow for a VM.")] = False,
    ) -> View:
        """A shadow and its primary change roles in one transaction; the path names either. The port that is lit now."""
        return _show(context, service.failover_port(store, port, force=force).uuid)


def _show(context: Context, uuid: UUID) -> View:
    with context.store.read() as world:
        return port_view(world, world.ports[uuid], places_of(context.fleet.lives()))
