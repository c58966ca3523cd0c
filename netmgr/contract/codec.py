"""Between the frozen types and the messages of the wire, by field name.

One rule for all types: a dataclass and its message have the same field names. UUIDs travel as text, an absent one as
the empty string, enums by value, tuples as repeated fields, nested dataclasses as nested messages. A message that does
not fit its type (a malformed UUID, an unknown enum value) raises `ContractError`, which names message and field, so
that a receiver can refuse it whole.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache, lru_cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from google.protobuf.message import Message

from netmgr.contract import types as t
from netmgr.contract.proto import objects_pb2, sync_pb2

__all__ = [
    "MESSAGES",
    "ContractError",
    "decode",
    "decode_body",
    "decode_object",
    "decode_ref",
    "encode",
    "encode_object",
    "encode_ref",
    "ref_of_message",
]

T = TypeVar("T")

MESSAGES: dict[type, type[Message]] = {
    t.TransportZone: objects_pb2.TransportZone,
    t.TrafficClasses: objects_pb2.TrafficClasses,
    t.OpaqueSwitch: objects_pb2.OpaqueSwitch,
    t.OpaqueNetwork: objects_pb2.OpaqueNetwork,
    t.NestedMac: objects_pb2.NestedMac,
    t.LogicalPort: objects_pb2.LogicalPort,
    t.Location: objects_pb2.Location,
    t.LearnedAddress: objects_pb2.LearnedAddress,
    t.LearnedMac: objects_pb2.LearnedMac,
    t.Learned: objects_pb2.Learned,
    t.Withdrawal: objects_pb2.Withdrawal,
    t.SecurityRule: objects_pb2.SecurityRule,
    t.SecurityGroup: objects_pb2.SecurityGroup,
    t.VtepAssignment: objects_pb2.VtepAssignment,
    t.TunnelPeer: objects_pb2.TunnelPeer,
    t.HostConfig: objects_pb2.HostConfig,
    t.Pnic: objects_pb2.Pnic,
    t.PeerStatus: objects_pb2.PeerStatus,
    t.SwitchStatus: objects_pb2.SwitchStatus,
    t.NetworkStatus: objects_pb2.NetworkStatus,
    t.VifStatus: objects_pb2.VifStatus,
    t.Ref: objects_pb2.ObjectRef,
    t.HostReport: sync_pb2.HostReport,
    t.Repair: sync_pb2.Repair,
    t.Claim: sync_pb2.Claim,
    t.Ticket: sync_pb2.Ticket,
    t.Tickets: sync_pb2.Tickets,
    t.TraceFrame: sync_pb2.TraceFrame,
    t.TraceQuestion: sync_pb2.TraceQuestion,
    t.TraceStep: sync_pb2.TraceStep,
    t.TraceEnd: sync_pb2.TraceEnd,
    t.TraceAnswer: sync_pb2.TraceAnswer,
}


class ContractError(ValueError):
    """A message that its type does not admit; the sentence names message, field and what was found."""


def encode(value: Any) -> Any:
    """The message of the frozen *value*."""
    message = MESSAGES[type(value)]()
    for name in _names(type(value)):  # type: ignore[arg-type]
        item = getattr(value, name)
        if not item and not is_dataclass(item):
            continue  # what is not set means the same
        if isinstance(item, tuple):
            getattr(message, name).extend(_encode_scalar(x) for x in item)
        elif is_dataclass(item):
            getattr(message, name).CopyFrom(encode(item))
        else:
            setattr(message, name, _encode_scalar(item))
    return message


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def decode(kind: type[T], message: Message) -> T:
    """The frozen value of type *kind* that *message* carries.

    Raises:
        ContractError: a field does not fit its type.
    """
    fields_by_number, always = _reading(kind)  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    name: str = ""
    raw: Any = None
    try:
        for field, raw in message.ListFields():  # those that are set: few, of ten thousand ports
            found = fields_by_number.get(field.number)
            if found is not None:
                name, convert = found
                values[name] = convert(raw)
        for name, convert in always:
            if name not in values:
                raw = getattr(message, name)
                values[name] = convert(raw)
    except (ValueError, TypeError) as error:
        raise ContractError(f"{kind.__name__}.{name}: {raw!r} does not fit: {error}") from None
    return kind(**values)


_BODIES: dict[type, str] = {
    t.TransportZone: "zone",
    t.OpaqueSwitch: "switch",
    t.OpaqueNetwork: "network",
    t.Withdrawal: "withdrawal",
    t.SecurityGroup: "security_group",
    t.LogicalPort: "port",
    t.Location: "location",
    t.Learned: "learned",
    t.HostConfig: "host",
}
_TYPES = {name: kind for kind, name in _BODIES.items()}


def encode_object(item: t.Object) -> objects_pb2.Object:
    """The message of one pushed object."""
    message = objects_pb2.Object(version=item.version)
    getattr(message, _BODIES[type(item.body)]).CopyFrom(encode(item.body))
    return message


def decode_object(message: objects_pb2.Object) -> t.Object:
    """The pushed object that *message* carries.

    Raises:
        ContractError: no body that this version knows, or a field that does not fit.
    """
    return t.Object(version=message.version, body=decode_body(message))


def decode_body(message: objects_pb2.Object) -> t.Constructs:
    """What `decode_object` makes of *message*, without its version."""
    name = message.WhichOneof("body")
    if name is None:
        raise ContractError("Object: no body that this version knows; upgrade this side")
    return decode(_TYPES[name], getattr(message, name))


def ref_of_message(message: objects_pb2.Object) -> t.Ref | None:
    """What *message* is about, also when it can't be decoded; None when its kind is unknown or its UUID malformed."""
    name = message.WhichOneof("body")
    if name is None:
        return None
    body = getattr(message, name)
    field = next((one for one in ("uuid", "port_uuid") if one in body.DESCRIPTOR.fields_by_name), "")
    try:
        return t.Ref(kind=t.Kind(name), uuid=_uuid(getattr(body, field)), version=message.version)
    except ValueError:
        return None


def encode_ref(ref: t.Ref) -> objects_pb2.ObjectRef:
    """The message of one reference."""
    # By hand: a Hello may have tens of thousands.
    return objects_pb2.ObjectRef(kind=ref.kind.value, uuid=str(ref.uuid), version=ref.version)


def decode_ref(message: objects_pb2.ObjectRef) -> t.Ref:
    """The reference that *message* carries; `ContractError` if it does not fit."""
    try:  # by hand, as above
        return t.Ref(kind=t.Kind(message.kind), uuid=_uuid(message.uuid), version=message.version)
    except ValueError:
        return decode(t.Ref, message)  # says what does not fit


def _encode_scalar(item: Any) -> Any:
    if isinstance(item, UUID):
        return str(item)
    if isinstance(item, Enum):
        return item.value
    if is_dataclass(item):
        return encode(item)
    return item


_Converter = Callable[[Any], Any]


@cache
def _reading(kind: type) -> tuple[Mapping[int, tuple[str, _Converter]], tuple[tuple[str, _Converter], ...]]:
    """How to read a message of *kind*: by number of the field its name and what to make of it; and the fields that are
    to be read even when they are not set, because absence means something else to the type."""
    hints = get_type_hints(kind)
    converters = [(field, _converter(hints[field.name])) for field in fields(kind)]
    descriptor, empty = MESSAGES[kind].DESCRIPTOR, MESSAGES[kind]()
    numbers = {field.name: descriptor.fields_by_name[field.name].number for field, _ in converters}
    always = tuple(
        (field.name, convert)
        for field, convert in converters
        if field.default is MISSING or not _stands_for_absence(field.default, convert, getattr(empty, field.name))
    )
    return {numbers[field.name]: (field.name, convert) for field, convert in converters}, always


def _stands_for_absence(default: Any, convert: _Converter, raw: Any) -> bool:
    try:
        return bool(convert(raw) == default)
    except (ValueError, TypeError):
        return False


def _converter(hint: Any) -> Callable[[Any], Any]:
    origin = get_origin(hint)
    if origin is tuple:
        inner = _converter(get_args(hint)[0])
        return lambda raw: tuple(map(inner, raw))
    if origin in (types.UnionType, Union):
        inner = _converter(next(x for x in get_args(hint) if x is not type(None)))
        return lambda raw: None if raw == "" else inner(raw)
    if hint is UUID:
        return _uuid
    if hint is str:
        return _text
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint
    if is_dataclass(hint):
        return lambda raw: decode(hint, raw)  # type: ignore[arg-type]
    return lambda raw: raw


@lru_cache(maxsize=1024)  # most objects name a network, a host, a switch that the one before them has named
def _uuid(raw: str) -> UUID:
    if _UUID.fullmatch(raw) is None:
        raise ValueError("not a UUID in canonical form")
    return UUID(raw)


_text = sys.intern
"""Text is one object where it is equal: a port and its location have a MAC in common, many ports a VTEP."""

_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
