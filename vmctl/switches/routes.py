"""Switches and port groups in the REST API."""

from __future__ import annotations

from fastapi import APIRouter

from vmctl.switches.model import Switch
from vmctl.switches.schemas import GroupIn, GroupOut, GroupSetIn, SwitchIn, SwitchOut, SwitchSetIn
from vmctl.switches.service import Switches

__all__ = ["add_switches"]


def add_switches(router: APIRouter, switches: Switches) -> None:
    """Adds the paths to *router*."""

    async def shown(switch: Switch) -> SwitchOut:
        return SwitchOut(
            switch=switch,
            hosts=switches.states(switch),
            groups=_groups(switch, switches),
            drifts=await switches.drifts(switch),
        )

    @router.get("/switches", operation_id="list_switches")
    async def list_switches() -> list[SwitchOut]:
        return [await shown(switch) for switch in switches.keeper.switches()]

    @router.post("/switches", operation_id="create_switch", status_code=201)
    async def create_switch(body: SwitchIn) -> SwitchOut:
        return await shown(await switches.create(body.value()))

    @router.get("/switches/{key}", operation_id="show_switch")
    async def show_switch(key: str) -> SwitchOut:
        return await shown(switches.find(key))

    @router.patch("/switches/{key}", operation_id="set_switch")
    async def set_switch(key: str, body: SwitchSetIn) -> SwitchOut:
        return await shown(await switches.change(key, hosts=body.hosts_value(), datapath=body.datapath))

    @router.delete("/switches/{key}", operation_id="delete_switch", status_code=204)
    async def delete_switch(key: str) -> None:
        await switches.delete(key)

    @router.get("/portgroups", operation_id="list_portgroups")
    async def list_portgroups() -> list[GroupOut]:
        return [group for switch in switches.keeper.switches() for group in _groups(switch, switches)]

    @router.post("/switches/{key}/portgroups", operation_id="create_portgroup", status_code=201)
    async def create_portgroup(key: str, body: GroupIn) -> SwitchOut:
        return await shown(await switches.add_group(key, body.value()))

    @router.patch("/switches/{key}/portgroups/{name}", operation_id="set_portgroup")
    async def set_portgroup(key: str, name: str, body: GroupSetIn) -> SwitchOut:
        group = switches.group(switches.find(key), name)
        return await shown(await switches.change_group(key, body.applied(group)))

    @router.delete("/switches/{key}/portgroups/{name}", operation_id="delete_portgroup", status_code=204)
    async def delete_portgroup(key: str, name: str) -> None:
        await switches.delete_group(key, name)


def _groups(switch: Switch, switches: Switches) -> tuple[GroupOut, ...]:
    users = switches.users(switch)
    return tuple(
        GroupOut(switch=switch.name, group=group, vms=tuple(sorted({vm.name for vm, g in users if g == group.name})))
        for group in switch.groups
    )
