"""From what the service knows to the answers of the API."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from netmgr.contract.types import Status
from vmctl.model import Candidate, Host, HostView, NetworkView, Refusal, Unread, Vif, Vm
from vmctl.schemas import HostOut, NetworkOut, RefusalsOut, VifOut, VmOut
from vmctl.service import Service

__all__ = ["host", "networks", "refusals", "vm"]

MOVES_SHOWN = 5
_WORST = (Status.UP, Status.WARNING, Status.MAINTENANCE, Status.DOWN, Status.UNAVAILABLE)


def host(service: Service, which: Host) -> HostOut:
    """A host with its newest word."""
    view = service.views.latest(which.name)
    known = view if isinstance(view, HostView) else None
    return HostOut(
        host=which,
        libvirt=service.inventory.problem(which.name),
        view=view.reason if isinstance(view, Unread) else "",
        in_sync=known.in_sync if known else None,
        manager_connected=known.manager_connected if known else None,
        zones=known.zones if known else (),
        switches=known.switches if known else (),
        networks=known.networks if known else (),
        vms=tuple(vm.name for vm in service.inventory.vms() if vm.host == which.name),
        maintenance=resting.since if (resting := service.placer.maintenance(which.name)) else "",
    )


def networks(fleet: Sequence[Candidate]) -> list[NetworkOut]:
    """Every network that a host carries, by name, with the worst status any of them tells."""
    views = [view for view in fleet if isinstance(view, HostView)]
    zones = {zone.uuid: zone.name for view in views for zone in view.zones}
    carried: dict[UUID, list[tuple[HostView, NetworkView]]] = {}
    for view in views:
        for network in view.networks:
            carried.setdefault(network.uuid, []).append((view, network))
    found = [
        NetworkOut(
            uuid=uuid,
            name=each[0][1].name,
            type=each[0][1].type,
            zones=tuple(sorted({zones.get(z, str(z)) for _, n in each for z in n.zone_uuids})),
            hosts=tuple(sorted(v.host for v, _ in each)),
            status=max((n.status for _, n in each), key=_WORST.index).value,
            reasons=tuple(f"{v.host}: {reason}" for v, n in each for reason in n.reasons),
        )
        for uuid, each in carried.items()
    ]
    return sorted(found, key=lambda network: network.name)


async def vm(service: Service, which: Vm) -> VmOut:
    """A VM with what was asked for and how its VIFs fare."""
    record = await service.record(which.uuid)
    view = service.views.latest(which.host)
    fleet = [v for v in service.views.fleet() if isinstance(v, HostView)]
    return VmOut(
        vm=which,
        vifs=tuple(_vif(vif, view, fleet) for vif in which.vifs),
        ips=record.ips if record else (),
        wanted=record.wanted.value if record else "",
        home=record.host if record else which.host,
        moves=(await service.migrations(vm_uuid=which.uuid))[:MOVES_SHOWN],
    )


def refusals(which: Vm, host_name: str, found: tuple[Refusal, ...]) -> RefusalsOut:
    """The answer of why-not, yes or no."""
    verb = "move to" if which.state.active else "start on"
    sentence = "; ".join(r.sentence for r in found) if found else f"{which.name} may {verb} {host_name}"
    return RefusalsOut(eligible=not found, sentence=sentence, refusals=found)


def _vif(vif: Vif, view: Candidate, fleet: Sequence[HostView]) -> VifOut:
    told = next((v for v in view.vifs if v.uuid == vif.uuid), None) if isinstance(view, HostView) else None
    network = next((n for v in fleet if vif.network_uuid and (n := v.network(vif.network_uuid))), None)
    return VifOut(
        uuid=vif.uuid,
        mac=vif.mac,
        network=network.name if network else vif.network_name,
        network_uuid=vif.network_uuid,
        opaque=vif.opaque,
        portgroup=vif.portgroup,
        state=told.state.value if told else "",
        reason=told.reason if told else "",
    )
