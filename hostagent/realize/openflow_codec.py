"""Flows to OpenFlow 1.5 bytes and back: matches (OXM), actions, instructions, flow-mods, flow descriptions.

OpenFlow 1.5 because its dump returns what was sent: masked set-field and copy-field exist, so nothing comes back as
another action than the one that went in. Nicira extensions of Open vSwitch carry registers, tunnel addresses, resubmit
and ct. Layouts: OpenFlow 1.5.1, and `nicira-ext.h`, `ofp-actions.c` of Open vSwitch. Pure: bytes in, values out.

What has no value in `hostagent.flow` survives decoding as raw bytes, so that a flow of a stranger can be named and
deleted strictly.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from hostagent.flow import (
    ETH_TYPE_MPLS,
    ETH_TYPE_VLAN,
    FIELDS,
    Action,
    Controller,
    Ct,
    Field,
    Flow,
    Goto,
    Match,
    Meter,
    Move,
    Output,
    PopMpls,
    PopVlan,
    PushMpls,
    PushVlan,
    Raw,
    RawMatch,
    Resubmit,
    SetField,
    WriteMetadata,
    canonical,
)

__all__ = [
    "ADD",
    "DELETE_STRICT",
    "decode_counted",
    "decode_match",
    "decode_stats",
    "dump_key",
    "encode_flow_mod",
    "encode_match",
    "encode_packet_out",
]

ADD: Final = 0
DELETE_STRICT: Final = 4

_CONTROLLER: Final = 0xFFFFFFFD
_NO_BUFFER: Final = 0xFFFFFFFF
_ANY: Final = 0xFFFFFFFF
_NX_VENDOR: Final = 0x2320
_FLOW_MOD: Final = struct.Struct("!QQBBHHHIIIHH")
_FLOW_DESC: Final = struct.Struct("!H2xBxHHHHHQ")
_PACKETS, _BYTES = 0x8002 << 7 | 4, 0x8002 << 7 | 5  # class and number of OXS fields
_EXTRAS: Final = ("idle_timeout", "hard_timeout", "flags", "importance")


def encode_flow_mod(command: int, flow: Flow) -> bytes:
    """Body of a flow-mod that adds *flow*, or deletes exactly its table, priority and match."""
    extra = dict(flow.extra) if command == ADD else {}
    head = _FLOW_MOD.pack(
        flow.cookie if command == ADD else 0,
        0,
        flow.table,
        command,
        extra.get("idle_timeout", 0),
        extra.get("hard_timeout", 0),
        flow.priority,
        _ANY,
        _ANY,
        _ANY,
        extra.get("flags", 0),
        extra.get("importance", 0),
    )
    return head + encode_match(flow.match) + (_encode_instructions(flow.actions) if command == ADD else b"")


def encode_packet_out(actions: tuple[Action, ...], frame: bytes, *, in_port: int = _CONTROLLER) -> bytes:
    """Body of a packet-out: do *actions* with *frame*, as one that came in by *in_port*, or from the controller."""
    applied = b"".join(map(_encode_action, actions))
    head = struct.pack("!IH2x", _NO_BUFFER, len(applied))
    return head + encode_match((Match("in_port", in_port),)) + applied + frame


def decode_stats(
    body: bytes, known: dict[bytes, Flow] | None = None, same: Mapping[Flow, Flow] | None = None
) -> Iterator[Flow]:
    """The flows in the body of one OFPMP_FLOW_DESC reply.

    *known* maps digests of encodings to flows that were decoded before; it is read and extended, and makes a second
    dump cheap. *same* are flows to give, by themselves, in the stead of those that equal them: one of each is enough.
    """
    return (flow for flow, _, _ in _decode_descriptions(body, {} if known is None else known, same or {}))


def decode_counted(body: bytes, known: dict[bytes, Flow] | None = None) -> Iterator[tuple[Flow, int, int]]:
    """As `decode_stats`, each flow with the packets and bytes that it has met."""
    for flow, at, end in _decode_descriptions(body, {} if known is None else known, {}):
        counters = {_PACKETS: 0, _BYTES: 0}
        while at < end:
            header = int.from_bytes(body[at : at + 4], "big")
            length = header & 0xFF
            counters[header >> 9] = int.from_bytes(body[at + 4 : at + 4 + length], "big")
            at += 4 + length
        yield flow, counters[_PACKETS], counters[_BYTES]


def _decode_descriptions(
    body: bytes, memo: dict[bytes, Flow], same: Mapping[Flow, Flow]
) -> Iterator[tuple[Flow, int, int]]:
    """Each flow, and where its statistics (OXS) begin and end."""
    at = 0
    while at < len(body):
        length, table, priority, idle, hard, flags, importance, cookie = _FLOW_DESC.unpack_from(body, at)
        match_at = at + _FLOW_DESC.size
        match_length = int.from_bytes(body[match_at + 2 : match_at + 4], "big")
        stats_at = match_at + _pad8(match_length)
        stats_length = int.from_bytes(body[stats_at + 2 : stats_at + 4], "big")
        instructions_at = stats_at + _pad8(stats_length)
        key = _digest(body[at + 4 : stats_at] + body[instructions_at : at + length])  # all but the counters
        flow = memo.get(key)
        if flow is None:
            numbers = (idle, hard, flags, importance)
            named = zip(_EXTRAS, numbers, strict=True)
            extra = tuple((name, value) for name, value in named if value) if any(numbers) else ()
            flow = Flow(
                table=table,
                priority=priority,
                cookie=cookie,
                match=decode_match(body[match_at + 4 : match_at + match_length]),
                actions=_decode_instructions(body[instructions_at : at + length]),
                extra=extra,
            )
            flow = memo[key] = same.get(flow, flow)
        yield flow, stats_at + 4, stats_at + stats_length
        at += length


def _digest(description: bytes) -> bytes:
    """It takes a third of the room, and no two descriptions have one."""
    return blake2b(description, digest_size=16).digest()


def dump_key(flow: Flow) -> bytes | None:
    """The digest under which `decode_stats` will look for *flow*; None where it is not said how the switch writes it.

    Of flows that match on registers and the network alone it is: they are nearly all of a bridge with ten thousand
    remote ports. Open vSwitch (nx_put_raw) writes registers in pairs, then the metadata. Should it write another way,
    the flow is decoded as any other.
    """
    described = _as_dumped(flow.match)
    if described is None or flow.extra:
        return None
    length = 4 + len(described)
    head = _DESCRIBED.pack(flow.table, flow.priority, 0, 0, 0, 0, flow.cookie) + struct.pack("!HH", 1, length)
    return _digest(head + described + b"\0" * (_pad8(length) - length) + _encode_instructions(flow.actions))


def _as_dumped(items: tuple[Match | RawMatch, ...]) -> bytes | None:
    """Of canonical conditions: metadata first, then registers in their order."""
    registers = metadata = b""
    pair, value, mask = -1, 0, 0
    for item in items:
        if isinstance(item, RawMatch):
            return None
        number = _REGISTERS.get(item.field)
        if number is not None:
            if number >> 1 != pair:
                if pair >= 0:
                    registers += _encode_pair(pair, value, mask)
                pair, value, mask = number >> 1, 0, 0
            shift = 0 if number & 1 else 32
            value |= item.value << shift
            mask |= (0xFFFFFFFF if item.mask is None else item.mask) << shift
        elif item.field == "metadata":
            metadata = _encode_oxm(item)
        else:
            return None
    return (registers + _encode_pair(pair, value, mask) if pair >= 0 else b"") + metadata


def _encode_pair(pair: int, value: int, mask: int) -> bytes:
    return _encode_field(_PAIRS[pair], value, None if mask == _WHOLE_PAIR else mask)


_DESCRIBED: Final = struct.Struct("!BxHHHHHQ")  # of `_FLOW_DESC`, what comes after its length
_REGISTERS: Final = {f"reg{number}": number for number in range(16)}
_PAIRS: Final = tuple(f"xreg{number}" for number in range(8))
_WHOLE_PAIR: Final = (1 << 64) - 1


# --- matches ------------------------------------------------------------------------------------------------------


def encode_match(items: tuple[Match | RawMatch, ...]) -> bytes:
    """An `ofp_match`, padded."""
    data = b"".join(map(_encode_oxm, items))
    length = 4 + len(data)
    return struct.pack("!HH", 1, length) + data + b"\0" * (_pad8(length) - length)


def decode_match(data: bytes) -> tuple[Match | RawMatch, ...]:
    """Conditions of the OXM fields in *data*: canonical, those without a name last and in their order."""
    named: list[Match] = []
    raw: list[RawMatch] = []
    at = 0
    while at < len(data):
        end = at + 4 + data[at + 3]
        known = _decode_oxm(data[at:end])
        if isinstance(known, Match):
            named.append(known)
        else:
            raw.append(known)
        at = end
    return (*canonical(named), *raw) if raw else canonical(named)


@lru_cache(maxsize=1024)  # a flow's network, and much of its MAC, are those of the flow before it
def _decode_oxm(data: bytes) -> Match | RawMatch:
    """The condition in one OXM field."""
    header = int.from_bytes(data[:4], "big")
    length = header & 0xFF
    # experimenter class: four more bytes name it; kept within the value
    masked = bool(header & 0x100) and header >> 16 != 0xFFFF
    half = length // 2 if masked else length
    value = data[4 : 4 + half]
    mask = data[4 + half : 4 + length] if masked else b""
    name = _NAMES.get((header >> 16, header >> 9 & 0x7F, half))
    if name is None:
        return RawMatch(header & ~0x100 if masked else header, value, mask)
    return Match(name, int.from_bytes(value, "big"), int.from_bytes(mask, "big") if masked else None)


def _encode_oxm(item: Match | RawMatch) -> bytes:
    if isinstance(item, RawMatch):
        header = item.header | (0x100 if item.mask else 0)
        return header.to_bytes(4, "big") + item.value + item.mask
    return _encode_field(item.field, item.value, item.mask)


def _encode_field(name: str, value: int, mask: int | None) -> bytes:
    plain, masked, width = _HEADERS[name]
    if mask is None:
        return plain + value.to_bytes(width, "big")
    return masked + value.to_bytes(width, "big") + mask.to_bytes(width, "big")


def _headers(field: Field) -> tuple[bytes, bytes, int]:
    width = field.bits // 8
    return (
        struct.pack("!HBB", field.oxm_class, field.number << 1, width),
        struct.pack("!HBB", field.oxm_class, field.number << 1 | 1, 2 * width),
        width,
    )


_HEADERS: Final = {name: _headers(field) for name, field in FIELDS.items()}
_NAMES: Final = {(field.oxm_class, field.number, field.bits // 8): name for name, field in FIELDS.items()}
# Other headers of the same fields: OpenFlow's own number where we send Nicira's, and the other way round.
_NAMES.update({(0x0001, 16, 8): "tun_id"})


# --- actions and instructions -------------------------------------------------------------------------------------


def _encode_instructions(actions: tuple[Action, ...]) -> bytes:
    if len(actions) == 1 and type(one := actions[0]) is SetField and one.mask is None:  # ten thousand of a network
        head, tail = _SETTING[one.field]
        return head + one.value.to_bytes(_HEADERS[one.field][2], "big") + tail
    return _encode_several(actions)


@lru_cache(maxsize=4096)
def _encode_several(actions: tuple[Action, ...]) -> bytes:
    applied = b""
    after = b""
    for action in actions:
        match action:
            case Goto(table):
                after += struct.pack("!HHB3x", 1, 8, table)
            case WriteMetadata(value, mask):
                after += struct.pack("!HH4xQQ", 2, 24, value, (1 << 64) - 1 if mask is None else mask)
            case Raw("instruction", data):
                after += data
            case _:
                applied += _encode_action(action)
    if applied:
        applied = struct.pack("!HH4x", 4, 8 + len(applied)) + applied
    return applied + after


def _setting(name: str) -> tuple[bytes, bytes]:
    """What is before and after the value of a field, where to set it is all that is done."""
    plain, _, width = _HEADERS[name]
    length = _pad8(8 + width)
    head = struct.pack("!HH4xHH", 4, 8 + length, 25, length) + plain
    return head, b"\0" * (length - 8 - width)


def _encode_action(action: Action) -> bytes:
    match action:
        case Output(port):
            return struct.pack("!HHIH6x", 0, 16, port, 0)
        case Controller(max_len):
            return struct.pack("!HHIH6x", 0, 16, _CONTROLLER, max_len)
        case SetField(name, value, mask):
            field = _encode_field(name, value, mask)
            length = _pad8(4 + len(field))
            return struct.pack("!HH", 25, length) + field + b"\0" * (length - 4 - len(field))
        case Move(src, dst, bits):
            return struct.pack("!HHHHH2x", 28, 24, bits, 0, 0) + _HEADERS[src][0] + _HEADERS[dst][0] + b"\0" * 4
        case PushVlan():
            return struct.pack("!HHH2x", 17, 8, ETH_TYPE_VLAN)
        case PopVlan():
            return struct.pack("!HH4x", 18, 8)
        case PushMpls():
            return struct.pack("!HHH2x", 19, 8, ETH_TYPE_MPLS)
        case PopMpls(eth_type):
            return struct.pack("!HHH2x", 20, 8, eth_type)
        case Resubmit(table):
            return struct.pack("!HHIHHB3x", 0xFFFF, 16, _NX_VENDOR, 14, 0xFFF8, table)
        case Ct():
            return _encode_ct(action)
        case Meter(meter):
            return struct.pack("!HHI", 29, 8, meter)
        case Raw(_, data):
            return data
        case Goto() | WriteMetadata():
            raise AssertionError("an instruction is no action")


def _encode_ct(action: Ct) -> bytes:
    if isinstance(action.zone, str):
        source, zone = int.from_bytes(_HEADERS[action.zone][0], "big"), FIELDS[action.zone].bits - 1
    else:
        source, zone = 0, action.zone
    inner = b"" if action.mark is None else _encode_action(SetField("ct_mark", *action.mark))
    head = struct.pack("!HHIHHI", 0xFFFF, 24 + len(inner), _NX_VENDOR, 35, int(action.commit), source)
    return head + struct.pack("!HB3xH", zone, action.table, 0) + inner


def _decode_ct(data: bytes) -> Ct | None:
    """The action, if it is of a form that `Ct` has."""
    flags, source, zone, table, alg = struct.unpack_from("!HIHB3xH", data, 10)
    field = _field_of(source.to_bytes(4, "big")) if source else None
    whole = field is None or zone == FIELDS[field].bits - 1
    inner = [_decode_action(number, part) for number, part in _records(data[24:])]
    if flags > 1 or alg or (source and field is None) or not whole or len(inner) > 1:
        return None
    mark = inner[0] if inner else None
    if mark is not None and not (isinstance(mark, SetField) and mark.field == "ct_mark"):
        return None
    bits = None if mark is None else (mark.value, 0xFFFFFFFF if mark.mask is None else mark.mask)
    return Ct(field if field is not None else zone, bool(flags), table, bits)


@lru_cache(maxsize=4096)
def _decode_instructions(data: bytes) -> tuple[Action, ...]:
    result: list[Action] = []
    for kind, part in _records(data):
        if kind == 4:
            result.extend(_decode_action(number, action) for number, action in _records(part[8:]))
        elif kind == 1:
            result.append(Goto(part[4]))
        elif kind == 2:
            value, mask = struct.unpack_from("!QQ", part, 8)
            result.append(WriteMetadata(value, None if mask == (1 << 64) - 1 else mask))
        else:
            result.append(Raw("instruction", part))
    return tuple(result)


def _decode_action(number: int, data: bytes) -> Action:
    action: Action | None = None
    if number == 0:
        port, max_len = struct.unpack_from("!IH", data, 4)
        action = Controller(max_len) if port == _CONTROLLER else Output(port)
    elif number == 17:
        action = PushVlan() if data[4:6] == ETH_TYPE_VLAN.to_bytes(2, "big") else None
    elif number == 18:
        action = PopVlan()
    elif number == 19:
        action = PushMpls() if data[4:6] == ETH_TYPE_MPLS.to_bytes(2, "big") else None
    elif number == 20:
        action = PopMpls(int.from_bytes(data[4:6], "big"))
    elif number == 25:
        header = int.from_bytes(data[4:8], "big")
        end = 8 + (header & 0xFF)
        items = [*_oxm_named(data[4:end])]
        action = SetField(*items[0]) if items else None
    elif number == 28:
        bits, src_at, dst_at = struct.unpack_from("!HHH", data, 4)
        src, dst = _field_of(data[12:16]), _field_of(data[16:20])
        action = Move(src, dst, bits) if src and dst and not src_at and not dst_at else None
    elif number == 29:
        action = Meter(int.from_bytes(data[4:8], "big"))
    elif number == 0xFFFF and len(data) >= 10 and data[4:8] == _NX_VENDOR.to_bytes(4, "big"):
        subtype = int.from_bytes(data[8:10], "big")
        if subtype == 14 and data[10:12] == b"\xff\xf8":
            action = Resubmit(data[12])
        elif subtype == 35 and len(data) >= 24:
            action = _decode_ct(data)
    # exact or not at all: what would be sent back differently is kept as it is
    return action if action is not None else Raw("action", data)


def _oxm_named(data: bytes) -> Iterator[Match]:
    header = int.from_bytes(data[:4], "big")
    masked = bool(header & 0x100)
    width = (header & 0xFF) // (2 if masked else 1)
    name = _NAMES.get((header >> 16, header >> 9 & 0x7F, width))
    if name is not None and header >> 16 != 0xFFFF:
        value = int.from_bytes(data[4 : 4 + width], "big")
        mask = int.from_bytes(data[4 + width : 4 + 2 * width], "big") if masked else None
        yield Match(name, value, mask)


def _field_of(header: bytes) -> str | None:
    number = int.from_bytes(header, "big")
    return _NAMES.get((number >> 16, number >> 9 & 0x7F, number & 0xFF))


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("!HH", data, at)
        if length < 8:
            raise ValueError(f"a record of {length} bytes in {data.hex()}")
        yield kind, data[at : at + length]
        at += length


def _pad8(length: int) -> int:
    return (length + 7) // 8 * 8


_SETTING: Final = {name: _setting(name) for name in FIELDS}
