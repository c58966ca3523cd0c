"""MACs and addresses of all networks: who has them, where they are, and how they are known."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from netmgr.api.context import Context
from netmgr.service.lookup import find_host, find_network
from netmgr.service.mac_views import mac_views

__all__ = ["router"]


def router(context: Context) -> APIRouter:
    """The route of this module."""
    routes = APIRouter()

    @routes.get("/macs", tags=["ports"])
    def list_macs(
        network: Annotated[str | None, Query(description="Of this network only.")] = None,
        host: Annotated[str | None, Query(description="Held by this host only.")] = None,
    ) -> list[dict[str, Any]]:
        """Each MAC with its addresses, defined or learned, its port, and its holder with the VTEP."""
        with context.store.read() as world:
            on = find_network(world, network).uuid if network is not None else None
            at = find_host(world, host).uuid if host is not None else None
            return mac_views(world, network=on, host=at)

    return routes
