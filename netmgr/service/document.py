"""The declarative document: what the user wants, by name, in one YAML or JSON file.

    zones:    [{name, kind}]
    switches: [{name, zones, pnic_globs, mtu, vtep_pool, teaming, traffic_classes}]
    networks: [{name, zone, type, segment_id, attach_mode, mtu, subnets}]
    hosts:    [{name, zones}]            # enrolled hosts only
    groups:   [{name, stateful, rules: [{direction, ethertype, protocol, port_min, port_max, remote_cidr, …}]}]
    ports:    [{name, network, vif_uuid, mac, ips, admin_up, security_groups, allow,
               nested: [{mac, ips}], egress_kbps, ingress_kbps,
               shadow_of, parent, tag}]

Input is hostile until parsed: at most 1 MiB, no aliases and no anchors (a few bytes of them can mean gigabytes), depth
at most 20, no key twice, plain data types only. What is left out of an existing object is left as it is; what is left
out of a new one gets its default.
"""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from netmgr.model import NetmgrError
from netmgr.service.specs import GroupSpec, NameList, NetworkSpec, PortSpec, SwitchSpec, ZoneSpec, parse

__all__ = ["BYTES_MAX", "Document", "HostEntry", "load_document"]

BYTES_MAX = 1024 * 1024
DEPTH_MAX = 20
_KINDS = ("zones", "switches", "networks", "hosts", "groups", "ports")


class HostEntry(BaseModel):
    """An enrolled host and the zones it shall be in."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    zones: NameList


class Document(BaseModel):
    """The whole file. A kind that is absent is not the file's matter; `--prune` leaves it alone."""

    model_config = ConfigDict(extra="forbid", strict=True)

    zones: list[ZoneSpec] | None = Field(default=None)
    switches: list[SwitchSpec] | None = Field(default=None)
    networks: list[NetworkSpec] | None = Field(default=None)
    hosts: list[HostEntry] | None = Field(default=None)
    groups: list[GroupSpec] | None = Field(default=None)
    ports: list[PortSpec] | None = Field(default=None)


def load_document(raw: bytes) -> Document:
    """The document that *raw* (YAML, so JSON too) holds.

    Raises:
        NetmgrError: 413 when it is too big, 400 for anything else, with the line or the path.
    """
    if len(raw) > BYTES_MAX:
        raise NetmgrError(f"file: {len(raw)} bytes, at most {BYTES_MAX} are taken; split it", status=413)
    values = _load_yaml(raw)
    if not isinstance(values, dict):
        raise NetmgrError(f"file: wanted a mapping of {', '.join(_KINDS)} at the top, got {type(values).__name__}")
    models: dict[str, type[BaseModel]] = {
        "zones": ZoneSpec,
        "switches": SwitchSpec,
        "networks": NetworkSpec,
        "hosts": HostEntry,
        "groups": GroupSpec,
        "ports": PortSpec,
    }
    for kind, model in models.items():  # entry by entry first: the sentence then knows the fields of the entry
        entries = values.get(kind)
        if isinstance(entries, list):
            _check_names(kind, [parse(model, entry, where=f"{kind}[{i}]") for i, entry in enumerate(entries)])
    return parse(Document, values, where="file")


def _check_names(kind: str, entries: list[Any]) -> None:
    seen = set()
    for index, entry in enumerate(entries):
        name = (entry.network, entry.name) if isinstance(entry, PortSpec) else entry.name
        if name in seen:
            raise NetmgrError(f"{kind}[{index}].name: {entry.name!r} is there twice; names are unique")
        seen.add(name)


# libyaml reads 1 MiB in half a second, the pure Python twin takes ten.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):  # type: ignore[misc]
    """Safe, and strict about what YAML would let pass."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _value in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise NetmgrError(f"file, {_line(key_node.start_mark)}: key {key!r} is no text; put it in quotes")
            if key in seen:
                raise NetmgrError(f"file, {_line(key_node.start_mark)}: key {key!r} is there twice")
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def _load_yaml(raw: bytes) -> object:
    try:
        text = raw.decode("utf-8")
        _check_events(text)
        return yaml.load(text, Loader=_Loader)
    except UnicodeDecodeError as error:
        raise NetmgrError(f"file: not UTF-8 text at byte {error.start}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        raise NetmgrError(f"file{', ' + _line(mark) if mark else ''}: not YAML: {problem}") from None
    except ValueError as error:
        raise NetmgrError(f"file: not YAML: {error}") from None


def _check_events(text: str) -> None:
    """No alias, no anchor, no great depth: looked for before anything is built."""
    depth = 0
    for event in yaml.parse(text, Loader=_SafeLoader):
        if getattr(event, "anchor", None) is not None:  # an alias event has it too
            raise NetmgrError(f"file, {_line(event.start_mark)}: aliases and anchors are not taken; write it out")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH_MAX:
                raise NetmgrError(f"file, {_line(event.start_mark)}: nested deeper than {DEPTH_MAX} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _line(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"
