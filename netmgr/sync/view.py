"""The manager's OpaqueView: all hosts as this replica knows them. List and Watch; nothing here writes.

What the operator decided comes from the world, how it fares on a host from that host's latest report. A host that is
not connected has no say: its constructs are *unavailable*, with the reason. A network that the host has not confirmed
yet is unavailable on it, whatever the host's last report was; one it has confirmed and does not complain of is as well
as its switch. A network that is withdrawn from a host stays in its view, in *maintenance* at best, with the sentence
who withdrew it and why: whoever wants to place a VM there can say why not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from uuid import UUID

import grpc

from netmgr.contract import codec
from netmgr.contract.codec import ContractError
from netmgr.contract.proto import opaque_view_pb2 as pb
from netmgr.contract.proto import opaque_view_pb2_grpc
from netmgr.contract.types import Kind, OpaqueNetwork, OpaqueSwitch, Status, switch_facts, why_withdrawn
from netmgr.identity import Peer
from netmgr.model import HostLive, HostRecord, World
from netmgr.sync.admission import Refused, peer_of_call, record_of, uuid_of
from netmgr.sync.fleet import Fleet
from netmgr.sync.hub import Hub

__all__ = ["ManagerView", "host_view"]

_WATCH_PAUSE_S = 0.1  # a watcher gets at most ten views a second

Health = tuple[Status, int, tuple[str, ...]]
Context = grpc.aio.ServicerContext[pb.ViewRequest, pb.View]


class ManagerView(opaque_view_pb2_grpc.OpaqueViewServicer):
    """The service; any certificate of the CA may read, a host's only while it is enrolled."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def List(self, request: pb.ViewRequest, context: Context) -> pb.View:
        try:
            return self._view(request, context)
        except Refused as refused:
            await context.abort(refused.code, refused.sentence)

    async def Watch(self, request: pb.ViewRequest, context: Context) -> AsyncIterator[pb.View]:
        seen: pb.View | None = None
        try:
            while True:
                news = (self._hub.news(), self._hub.fleet.news())
                view = self._view(request, context)
                if seen is None or _without_ages(view) != seen:
                    yield view
                    seen = _without_ages(view)
                await _first_of((*news, self._hub.stopping))
                if self._hub.stopping.is_set():
                    raise Refused(grpc.StatusCode.UNAVAILABLE, "the manager is stopping; connect again")
                await asyncio.sleep(_WATCH_PAUSE_S)
        except Refused as refused:
            await context.abort(refused.code, refused.sentence)

    def _view(self, request: pb.ViewRequest, context: Context) -> pb.View:
        world, fleet = self._hub.world, self._hub.fleet
        _check_reader(world, peer_of_call(context.auth_context()))
        records = _records(world, request)
        now_s = time.time()
        return pb.View(
            source="manager",
            hosts=[host_view(world, fleet, r, now_s=now_s, started_s=self._hub.started_s) for r in records],
        )


async def _first_of(events: Iterable[asyncio.Event]) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def host_view(world: World, fleet: Fleet, record: HostRecord, *, now_s: float, started_s: float) -> pb.HostView:
    """One host with all its constructs. The age of a host never seen counts from the manager's start, *started_s*."""
    live = fleet.live(record.uuid) or HostLive(host_uuid=record.uuid, since=started_s)
    zones = set(record.zone_uuids)
    switches = [s for s in world.switches.values() if not zones.isdisjoint(s.zone_uuids)]
    networks = [n for n in world.networks.values() if n.zone_uuid in zones]
    return pb.HostView(
        host_uuid=str(record.uuid),
        host_name=record.name,
        in_sync=fleet.in_sync(record.uuid),
        manager_connected=live.connected,
        sync_age_s=0.0 if live.connected else max(0.0, now_s - live.since),
        zones=[codec.encode(world.zones[z]) for z in record.zone_uuids if z in world.zones],
        switches=[_switch_info(world, record, live, s) for s in sorted(switches, key=lambda s: s.name)],
        networks=[_network_info(world, record, live, n) for n in sorted(networks, key=lambda n: n.name)],
        vifs=[codec.encode(v) for v in live.report.vifs],
    )


def _switch_info(world: World, record: HostRecord, live: HostLive, switch: OpaqueSwitch) -> pb.OpaqueSwitchInfo:
    reported = next((s for s in live.report.switches if s.switch_uuid == switch.uuid), None)
    status, health, reasons = _switch_health(record, live, switch.uuid)
    assigned = [v.address.split("/")[0] for v in record.vteps if v.switch_uuid == switch.uuid]
    return pb.OpaqueSwitchInfo(
        key=str(switch.uuid),
        name=switch.name,
        pnic=reported.pnics if reported else (),
        pnic_zone=[str(z) for z in switch.zone_uuids],
        status=status,
        vtep=reported.vteps if reported else assigned,
        extra_config=switch_facts(live.report, reported, world.networks) if reported else {},
        health=health,
        reasons=reasons,
        opaque=True,
    )


def _network_info(world: World, record: HostRecord, live: HostLive, network: OpaqueNetwork) -> pb.OpaqueNetworkInfo:
    status, health, reasons = _hidden(world, record, network, _network_health(world, record, live, network))
    return pb.OpaqueNetworkInfo(
        opaque_network_id=str(network.uuid),
        opaque_network_name=network.name,
        opaque_network_type=network.type,
        pnic_zone=[str(network.zone_uuid)],
        capability=[f"attach-{network.attach_mode}"],
        extra_config={"mtu": str(network.mtu), "libvirt_network": network.name},
        status=status,
        health=health,
        reasons=reasons,
        switch_key=str(network.switch_uuid),
        opaque=True,
    )


def _hidden(world: World, record: HostRecord, network: OpaqueNetwork, found: Health) -> Health:
    """*found*, and what a withdrawal makes of it. The host may have said the same already, or not heard of it yet."""
    withdrawal = world.withdrawal_from(network.uuid, record.uuid)
    if withdrawal is None:
        return found
    status, health, reasons = found
    why = why_withdrawn(withdrawal, network=network.name, host=record.name)
    worse = status in (Status.DOWN, Status.UNAVAILABLE)
    return status if worse else Status.MAINTENANCE, health, (why, *(reason for reason in reasons if reason != why))


def _network_health(world: World, record: HostRecord, live: HostLive, network: OpaqueNetwork) -> Health:
    if not live.connected:
        return _away(record)
    rejection = live.rejections.get((Kind.NETWORK, network.uuid))
    if rejection is not None:
        return Status.DOWN, 0, (rejection,)
    version = world.versions[Kind.NETWORK, network.uuid]
    if live.acked_revision < version:
        found = f"it has confirmed revision {live.acked_revision}, the network is of {version}"
        return Status.UNAVAILABLE, 0, (f"host {record.name} has not realized network {network.name} yet: {found}",)
    reported = next((n for n in live.report.networks if n.network_uuid == network.uuid), None)
    if reported is not None:
        return reported.status, reported.health, reported.reasons
    return _switch_health(record, live, network.switch_uuid)


def _switch_health(record: HostRecord, live: HostLive, switch_uuid: UUID) -> Health:
    if not live.connected:
        return _away(record)
    rejection = live.rejections.get((Kind.SWITCH, switch_uuid))
    if rejection is not None:
        return Status.DOWN, 0, (rejection,)
    reported = next((s for s in live.report.switches if s.switch_uuid == switch_uuid), None)
    if reported is None:
        return Status.UNAVAILABLE, 0, (f"host {record.name} has not reported the status of switch {switch_uuid} yet",)
    return reported.status, reported.health, reported.reasons


def _away(record: HostRecord) -> Health:
    return Status.UNAVAILABLE, 0, (f"host {record.name} is not connected to the manager",)


def _records(world: World, request: pb.ViewRequest) -> list[HostRecord]:
    if not request.host_uuids:
        return sorted(world.hosts.values(), key=lambda record: record.name)
    records = []
    for text in request.host_uuids:
        try:
            record = world.hosts.get(uuid_of(text, "ViewRequest.host_uuids"))
        except ContractError as error:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from None
        if record is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"host {text} is not enrolled here")
        records.append(record)
    return records


def _check_reader(world: World, peer: Peer) -> None:
    if peer.role == "host":
        record_of(world, peer)


def _without_ages(view: pb.View) -> pb.View:
    copy = pb.View()
    copy.CopyFrom(view)
    for host in copy.hosts:
        host.ClearField("sync_age_s")
    return copy
