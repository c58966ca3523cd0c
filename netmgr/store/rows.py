"""Rows as plain values, and back, by field name.

One form serves the tables' columns and the change log's JSON: UUIDs and enums are text, tuples are lists, nested values
are objects. A field that is missing takes its default, one that is unknown is ignored, so that a log entry written
before a field was added stays readable, and a replica one version behind can read what a newer one wrote.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from netmgr.contract.types import (
    Kind,
    Learned,
    Location,
    LogicalPort,
    OpaqueNetwork,
    OpaqueSwitch,
    TransportZone,
    Withdrawal,
)
from netmgr.model import (
    FREED_SEGMENT,
    PORT_HISTORY,
    TOKEN,
    FreedSegment,
    GroupRecord,
    HostRecord,
    JoinToken,
    PortHistory,
    Row,
)

__all__ = ["ROW_TYPES", "plain", "row_of"]

T = TypeVar("T")

# In the order in which rows refer to each other, so that inserting in this order never refers ahead.
ROW_TYPES: dict[str, type[Row]] = {
    Kind.ZONE: TransportZone,
    Kind.SWITCH: OpaqueSwitch,
    Kind.HOST: HostRecord,
    Kind.NETWORK: OpaqueNetwork,
    Kind.WITHDRAWAL: Withdrawal,
    Kind.SECURITY_GROUP: GroupRecord,
    Kind.PORT: LogicalPort,
    Kind.LOCATION: Location,
    Kind.LEARNED: Learned,
    TOKEN: JoinToken,
    FREED_SEGMENT: FreedSegment,
    PORT_HISTORY: PortHistory,
}


def plain(value: Any) -> dict[str, Any]:
    """The fields of a frozen value as JSON-able values."""
    kind: Any = type(value)
    return {name: _plain(getattr(value, name)) for name in _names(kind)}


def row_of(kind: str, values: dict[str, Any]) -> Row:
    """The row of *kind* that `plain` made *values* from."""
    return _build(ROW_TYPES[kind], values)


def _plain(item: Any) -> Any:
    if isinstance(item, UUID):
        return str(item)
    if isinstance(item, Enum):
        return item.value
    if isinstance(item, tuple):
        return [_plain(x) for x in item]
    if is_dataclass(item):
        return plain(item)
    return item


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _build(kind: type[T], values: dict[str, Any]) -> T:
    key: Any = kind
    return kind(**{name: convert(values[name]) for name, convert in _converters(key) if name in values})


@cache
def _converters(kind: Any) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    hints = get_type_hints(kind)
    return tuple((field.name, _converter(hints[field.name])) for field in fields(kind))


def _converter(hint: Any) -> Callable[[Any], Any]:
    origin = get_origin(hint)
    if origin is tuple:
        inner = _converter(get_args(hint)[0])
        return lambda raw: tuple(inner(x) for x in raw)
    if origin in (types.UnionType, Union):
        inner = _converter(next(x for x in get_args(hint) if x is not type(None)))
        return lambda raw: None if raw is None else inner(raw)
    if hint is UUID or (isinstance(hint, type) and issubclass(hint, Enum)):
        return hint
    if is_dataclass(hint):
        return lambda raw: _build(hint, raw)  # type: ignore[arg-type]
    return lambda raw: raw
