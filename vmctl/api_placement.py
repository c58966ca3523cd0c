"""The part of the API that decides where VMs run: places, rules, needs, settings, maintenance, balancing.

What moves VMs answers with its plan before anything moves; with `dry_run`, or as a GET, nothing moves at all.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from vmctl.convoy import Leg, Run
from vmctl.placement.model import Choice, Needs, Plan, Policy, Purpose, RuleKind, Settings
from vmctl.placement_store import Rule
from vmctl.placer import AT_A_TIME
from vmctl.placing import choices
from vmctl.schemas import Name
from vmctl.service import Service

__all__ = ["add_placement"]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RuleIn(_In):
    """A rule to make, with the names or UUIDs of its VMs."""

    name: Name
    kind: RuleKind
    vms: Annotated[list[str], Field(max_length=1000)] = []


class MembersIn(_In):
    """VMs to add to a rule and to take out of it."""

    add: Annotated[list[str], Field(max_length=1000)] = []
    remove: Annotated[list[str], Field(max_length=1000)] = []


class NeedsIn(_In):
    """What a VM needs beyond its domain."""

    disk_mib: Annotated[int, Field(ge=0, le=2**40)] = 0
    bandwidth_mbps: Annotated[int, Field(ge=0, le=10**7)] = 0


class MaintenanceIn(_In):
    dry_run: bool = False


class BalanceIn(_In):
    """A pass of balancing; without a policy that of the settings. Nothing moves unless `apply`."""

    policy: Policy | None = None
    apply: bool = False


@dataclass(frozen=True, kw_only=True)
class PlacesOut:
    """Every host for one VM, best first; `best` is empty where all refuse."""

    vm: str
    purpose: Purpose
    best: str
    hosts: tuple[Choice, ...]


@dataclass(frozen=True, kw_only=True)
class RuleOut:
    name: str
    kind: RuleKind
    vms: tuple[str, ...]  # names; the UUID of one that nobody knows any more


@dataclass(frozen=True, kw_only=True)
class RunOut:
    """A plan and, where it is carried out, how that goes: `over` once nothing more is done."""

    plan: Plan
    legs: tuple[Leg, ...] = ()
    over: bool = True
    sentence: str = ""
    task: int | None = None


@dataclass(frozen=True, kw_only=True)
class MaintenanceOut:
    """`since` is empty where the host takes VMs."""

    host: str
    since: str
    evacuating: bool
    run: RunOut


@dataclass(frozen=True, kw_only=True)
class BalanceOut:
    auto: bool
    policy: Policy
    run: RunOut | None


_CHOICES = TypeAdapter(tuple[Choice, ...])
_PLACES = TypeAdapter(PlacesOut)


def add_placement(router: APIRouter, service: Service) -> None:
    """Adds the paths of placement."""
    _places(router, service)
    _rules(router, service)
    _maintenance(router, service)
    _balance(router, service)


def _places(router: APIRouter, service: Service) -> None:
    @router.get("/vms/{vm}/places", operation_id="places_of_vm", response_model=PlacesOut)
    async def places_of_vm(vm: str) -> Response:
        found = await service.find(vm)
        request = service.placer.request(found)
        hosts = await choices(service.placer, request, switches=service.switches.refusals)
        best = next((choice.host for choice in hosts if choice.score is not None), "")
        return await _written(PlacesOut(vm=found.name, purpose=request.purpose, best=best, hosts=hosts))

    @router.get("/vms/{vm}/needs", operation_id="show_needs")
    async def show_needs(vm: str) -> Needs:
        return service.placer.needs((await service.find(vm)).uuid)

    @router.put("/vms/{vm}/needs", operation_id="set_needs")
    async def set_needs(vm: str, body: NeedsIn) -> Needs:
        uuid = (await service.find(vm)).uuid
        await service.placer.set_needs(uuid, disk_mib=body.disk_mib, bandwidth_mbps=body.bandwidth_mbps)
        return service.placer.needs(uuid)

    @router.get("/placement/settings", operation_id="show_settings")
    async def show_settings() -> Settings:
        return service.placer.settings

    @router.patch("/placement/settings", operation_id="change_settings")
    async def change_settings(body: dict[str, Any]) -> Settings:
        return await service.placer.change_settings(body)


async def _written(places: PlacesOut) -> Response:
    """*places* as JSON, written some hosts at a time, so that others get their turn."""
    parts = []
    for first in range(0, len(places.hosts), AT_A_TIME):
        parts.append(_CHOICES.dump_json(places.hosts[first : first + AT_A_TIME])[1:-1])
        await asyncio.sleep(0)
    frame = _PLACES.dump_json(replace(places, hosts=()))
    assert frame.endswith(b"[]}")
    return Response(frame[:-2] + b",".join(parts) + b"]}", media_type="application/json")


def _rules(router: APIRouter, service: Service) -> None:
    async def shown(*rules: Rule) -> list[RuleOut]:
        names = {vm.uuid: vm.name for vm in await service.vms()} if any(rule.vms for rule in rules) else {}
        return [
            RuleOut(name=rule.name, kind=rule.kind, vms=tuple(sorted(names.get(vm, str(vm)) for vm in rule.vms)))
            for rule in rules
        ]

    async def uuids(keys: list[str]) -> tuple[UUID, ...]:
        return tuple([(await service.find(key)).uuid for key in keys])

    @router.get("/rules", operation_id="list_rules")
    async def list_rules() -> list[RuleOut]:
        return await shown(*await service.placer.rules())

    @router.post("/rules", operation_id="add_rule", status_code=201)
    async def add_rule(body: RuleIn) -> RuleOut:
        rule = Rule(name=body.name, kind=body.kind, vms=tuple(dict.fromkeys(await uuids(body.vms))))
        return (await shown(await service.placer.add_rule(rule)))[0]

    @router.patch("/rules/{name}", operation_id="change_rule")
    async def change_rule(name: str, body: MembersIn) -> RuleOut:
        changed = await service.placer.change_rule(name, add=await uuids(body.add), remove=await uuids(body.remove))
        return (await shown(changed))[0]

    @router.delete("/rules/{name}", operation_id="remove_rule", status_code=204)
    async def remove_rule(name: str) -> None:
        await service.placer.remove_rule(name)


def _maintenance(router: APIRouter, service: Service) -> None:
    def state(host: str, run: RunOut) -> MaintenanceOut:
        known = service.placer.maintenance(host)
        return MaintenanceOut(
            host=host, since=known.since if known else "", evacuating=bool(known and known.evacuating), run=run
        )

    @router.get("/hosts/{name}/maintenance", operation_id="show_maintenance")
    async def show_maintenance(name: str) -> MaintenanceOut:
        service.inventory.host(name)
        run = service.maintainer.run(name)
        return state(name, _run(run) if run is not None else RunOut(plan=service.maintainer.plan(name)))

    @router.post("/hosts/{name}/maintenance", operation_id="begin_maintenance", status_code=202)
    async def begin_maintenance(name: str, body: MaintenanceIn) -> MaintenanceOut:
        service.inventory.host(name)
        if body.dry_run:
            return state(name, RunOut(plan=service.maintainer.plan(name)))
        return state(name, _run(await service.maintainer.enter(name)))

    @router.delete("/hosts/{name}/maintenance", operation_id="end_maintenance", status_code=204)
    async def end_maintenance(name: str) -> None:
        service.inventory.host(name)
        await service.maintainer.leave(name)


def _balance(router: APIRouter, service: Service) -> None:
    def state(run: RunOut | None) -> BalanceOut:
        settings = service.placer.settings
        return BalanceOut(auto=settings.balance_auto, policy=settings.policy, run=run)

    @router.get("/balance", operation_id="show_balance")
    async def show_balance() -> BalanceOut:
        last = service.balancer.last
        return state(_run(last) if last is not None else None)

    @router.post("/balance", operation_id="balance", status_code=202)
    async def balance(body: BalanceIn) -> BalanceOut:
        if body.apply:
            return state(_run(await service.balancer.apply(body.policy)))
        return state(RunOut(plan=await service.balancer.plan(body.policy)))


def _run(run: Run) -> RunOut:
    return RunOut(plan=run.plan, legs=tuple(run.legs), over=run.over, sentence=run.sentence, task=run.task)
