"""Golden cases of `plan`: a folder with desired.yml, observed.yml and steps.yml.

Values are written by the field names of their types. A UUID is written as a name of the test's choosing. `observed.yml`
may begin from a host on which something was settled before (`settled: {desired: …, pnics: [eth1]}`); what else it says
is added to that, or takes the place of what has the same name. Steps are text, one line each, flows by table and
number.
"""

from __future__ import annotations

import types
import typing
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import yaml

from hostagent.model import Bridge, ChangeFlows, Desired, LibvirtNetwork, Link, Observed, PutBridge, PutPort, Step
from hostagent.pipeline.tables import Table
from netmgr.contract.types import HostConfig, Location, LogicalPort, OpaqueNetwork, OpaqueSwitch
from tests.support.hostagent_worlds import bare, named, settled

_SECTIONS = {"switches": OpaqueSwitch, "networks": OpaqueNetwork, "ports": LogicalPort}


def read_case(folder: Path) -> tuple[Desired, Observed, list[str]]:
    """What is wanted, what was read, and the steps that must follow."""
    wanted = _desired(_load(folder / "desired.yml"))
    steps: list[str] = _load(folder / "steps.yml")
    return wanted, _observed(_load(folder / "observed.yml")), steps


def text_of(step: Step) -> str:
    """One step as a line of steps.yml."""
    kind = type(step).__name__
    match step:
        case ChangeFlows():
            counts = [
                f"{sign}{count} {Table(table).name}"
                for sign, flows in (("-", step.delete), ("+", step.add))
                for table, count in sorted(Counter(flow.table for flow in flows).items())
            ]
            return f"{kind} {step.bridge}: {', '.join(counts)}"
        case PutBridge():
            return f"{kind} {step.name}: {step.datapath_type}, {step.fail_mode}, {_pairs(step.external_ids)}"
        case PutPort():
            parts = [
                f"{one.name} {one.type or 'device'} {_pairs(one.options)} {one.mtu_request or ''}".strip()
                for one in step.interfaces
            ]
            carried = [f"trunks {' '.join(map(str, step.trunks))}"] if step.trunks else []
            carried += [] if step.tag is None else [f"tag {step.tag}"]
            words = ", ".join([step.bond_mode or "plain", *carried, "; ".join(parts)])
            return f"{kind} {step.bridge} {step.name}: {words}"
        case _:
            return f"{kind} " + " ".join(
                str(value) for one in fields(step) if (value := getattr(step, one.name)) is not None
            )


def _pairs(values: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(values.items()))


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text()) or {}


def _desired(data: dict[str, Any]) -> Desired:
    sections = {
        name: {one.uuid: one for one in (_value(kind, item) for item in data.get(name, []))}
        for name, kind in _SECTIONS.items()
    }
    places = [_value(Location, item) for item in data.get("locations", [])]
    return Desired(
        host=_value(HostConfig, data["host"]),
        **sections,
        locations={one.port_uuid: one for one in places},
        offered_pnics=tuple(data.get("offered_pnics", ["eth1"])),
        datapath=data.get("datapath", "netdev"),
    )


def _observed(data: dict[str, Any]) -> Observed:
    start = Observed()
    if "settled" in data:
        start = settled(_desired(data["settled"]["desired"]), bare(*data["settled"].get("pnics", ["eth1"])))
    merged = {}
    for name, kind in (("bridges", Bridge), ("links", Link), ("libvirt_networks", LibvirtNetwork)):
        there = {one.name: one for one in getattr(start, name)}
        there.update({item["name"]: _value(kind, item) for item in data.get(name, [])})
        for gone in data.get(f"without_{name}", []):
            del there[gone]
        merged[name] = tuple(there.values())
    observed = replace(start, **merged)
    for bridge, port in (line.split() for line in data.get("without_ports", [])):
        observed = replace(
            observed,
            bridges=tuple(
                replace(one, ports=tuple(p for p in one.ports if p.name != port)) if one.name == bridge else one
                for one in observed.bridges
            ),
        )
    return observed


def _value(kind: Any, data: Any) -> Any:
    origin = get_origin(kind)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        unknown = set(data) - set(hints)
        assert not unknown, f"{kind.__name__} has no field {unknown}"
        return kind(**{name: _value(hints[name], item) for name, item in data.items()})
    if origin is tuple:
        return tuple(_value(get_args(kind)[0], item) for item in data)
    if origin in (Union, types.UnionType):
        return None if data is None else _value(next(a for a in get_args(kind) if a is not type(None)), data)
    if kind is UUID:
        return named(data)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(data)
    return dict(data) if origin in (dict, Mapping, typing.Mapping) else data
