"""OpaqueView of this host: read-only, over mutual TLS with the host's own certificate.

What is served is a `View` that the agent makes from what it wants and what it has read back; a watcher gets a whole one
at once and another after each change. Any certificate of the same CA may look.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import Any

import grpc
import structlog

from hostagent.identity import Identity
from hostagent.model import Desired
from netmgr.contract.codec import encode
from netmgr.contract.proto import opaque_view_pb2 as pb
from netmgr.contract.proto import opaque_view_pb2_grpc
from netmgr.contract.types import AttachMode, HostReport, Status, switch_facts

__all__ = ["ViewServer", "host_view"]

log = structlog.get_logger(__name__)
_WATCH_PAUSE_S = 0.05  # changes that come together are told together
_OPTIONS = (("grpc.so_reuseport", 0), ("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_timeout_ms", 5_000))


def host_view(
    *,
    desired: Desired,
    report: HostReport,
    in_sync: bool,
    manager_connected: bool,
    sync_age_s: float,
    load_mbps: Mapping[str, int] = MappingProxyType({}),
) -> pb.HostView:
    """The message for one host; *desired* must hold the host's own configuration."""
    assert desired.host is not None
    switch_status = {status.switch_uuid: status for status in report.switches}
    network_status = {status.network_uuid: status for status in report.networks}
    view = pb.HostView(
        host_uuid=str(desired.host.uuid),
        host_name=desired.host.name,
        in_sync=in_sync,
        manager_connected=manager_connected,
        sync_age_s=sync_age_s,
        zones=[encode(zone) for zone in _by_name(desired.zones.values())],
        vifs=[encode(vif) for vif in report.vifs],
    )
    for switch in _by_name(desired.switches.values()):
        status = switch_status.get(switch.uuid)
        info = view.switches.add(
            key=str(switch.uuid),
            name=switch.name,
            pnic=status.pnics if status else (),
            pnic_zone=[str(uuid) for uuid in switch.zone_uuids],
            status=status.status.value if status else Status.DOWN.value,
            vtep=status.vteps if status else (),
            health=status.health if status else 0,
            reasons=status.reasons if status else ("not yet read on this host",),
            opaque=True,
        )
        if status:
            info.extra_config.update(switch_facts(report, status, desired.networks))
    for network in _by_name(desired.networks.values()):
        sick = network_status.get(network.uuid)
        unread = network.switch_uuid not in switch_status
        shown = view.networks.add(
            opaque_network_id=str(network.uuid),
            opaque_network_name=network.name,
            opaque_network_type=network.type.value,
            pnic_zone=[str(network.zone_uuid)],
            capability=["attach-auto" if network.attach_mode is AttachMode.AUTO else "attach-manual"],
            status=sick.status.value if sick else Status.DOWN.value if unread else Status.UP.value,
            health=sick.health if sick else 0 if unread else 100,
            reasons=sick.reasons if sick else ("not yet read on this host",) if unread else (),
            switch_key=str(network.switch_uuid),
            opaque=True,
        )
        shown.extra_config["mtu"] = str(network.mtu)
        shown.extra_config["libvirt_network"] = network.name
    return view


class ViewServer:
    """Serves what *view* returns; call `changed` when it would return something else."""

    def __init__(self, *, identity: Identity, port: int, view: Callable[[], pb.HostView | None]) -> None:
        self._identity = identity
        self._port = port
        self._view = view
        self._watchers: set[asyncio.Event] = set()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """Begin to serve on all addresses; the port."""
        server = grpc.aio.server(options=_OPTIONS)
        opaque_view_pb2_grpc.add_OpaqueViewServicer_to_server(_Servicer(self), server)  # type: ignore[no-untyped-call]
        credentials = grpc.ssl_server_credentials(
            [(self._identity.key_pem, self._identity.cert_pem)],
            root_certificates=self._identity.ca_pem,
            require_client_auth=True,
        )
        port = server.add_secure_port(f"[::]:{self._port}", credentials)
        await server.start()
        self._server = server
        return port

    async def close(self) -> None:
        if self._server is not None:
            await self._server.stop(0.5)

    def changed(self) -> None:
        """Tell the watchers."""
        for watcher in self._watchers:
            watcher.set()

    def answer(self, request: pb.ViewRequest) -> pb.View:
        """The view as the request limits it; no host until the manager has told this host who it is."""
        view = self._view()
        asked = set(request.host_uuids)
        wanted = view is not None and (not asked or view.host_uuid in asked)
        return pb.View(source="host", hosts=[view] if wanted and view is not None else [])

    async def watch(self, request: pb.ViewRequest) -> AsyncIterator[pb.View]:
        event = asyncio.Event()
        self._watchers.add(event)
        try:
            while True:
                event.clear()
                yield self.answer(request)
                await event.wait()
                await asyncio.sleep(_WATCH_PAUSE_S)
        finally:
            self._watchers.discard(event)


class _Servicer(opaque_view_pb2_grpc.OpaqueViewServicer):
    def __init__(self, server: ViewServer) -> None:
        self._server = server

    async def List(self, request: pb.ViewRequest, context: Any) -> pb.View:
        return self._server.answer(request)

    async def Watch(self, request: pb.ViewRequest, context: Any) -> AsyncIterator[pb.View]:
        async for view in self._server.watch(request):
            yield view


def _by_name(values: Any) -> list[Any]:
    return sorted(values, key=lambda value: value.name)
