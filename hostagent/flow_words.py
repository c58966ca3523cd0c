"""Flows of one network in the words of the pipeline: names of tables, registers, ports and networks. Pure.

`ovs-ofctl` shows what the switch has: table 200, reg12=0x2de. Here the same flow says LOCATE, mac=02:de:…(web2). The
meaning of a register depends on the table where it is written or matched (`docs/pipeline.md`, Registers); what has no
name here, or is of somebody else, keeps the switch's own words, so that nothing is hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from hostagent.flow import (
    FIELDS,
    Action,
    Ct,
    Flow,
    Goto,
    Match,
    Move,
    Output,
    PopVlan,
    PushVlan,
    RawMatch,
    Resubmit,
    SetField,
    action_text,
    match_text,
    value_text,
)
from hostagent.pipeline.drops import Counted, reason_of
from hostagent.pipeline.policy import BLOCKED, OUTBOUND, REVERSED
from hostagent.pipeline.tables import (
    ADDRESS4,
    ADDRESS6,
    ALLOWED,
    ANSWERS_TO_EGRESS,
    ANSWERS_TO_INGRESS,
    DIRECTION,
    EGRESS_RULES,
    GROUP_KEY,
    INGRESS_RULES,
    REASON,
    REMOTE_KEY,
    SOMEBODY,
    STATEFUL,
    SWITCH_COOKIE,
    TAP,
    Denied,
    Origin,
    Table,
)

__all__ = ["Names", "flow_views", "table_name"]

_WIDE: Final = (
    (("reg4", "reg5", "reg6", "reg7"), "xxreg1"),
    (("reg8", "reg9", "reg10", "reg11"), "xxreg2"),
    (("reg12", "reg13"), "xreg6"),
    (("reg14", "reg15"), "xreg7"),
)
"""Registers that matches split and actions join."""

_ROLES: Final = {
    "reg0": "origin",
    "reg1": "holder",
    "xxreg1": "holder",
    "reg2": "incoming",
    "xreg6": "mac",
    "xreg7": "owner",
    "metadata": "network",
}
_TAGGED, _VLAN = 0x1000, 0xFFF
"""The bits of a tag that are the VLAN."""

_ASKS_FOR_ADDRESS: Final = (Table.GUARD, Table.CLAIMS, Table.ANSWER, Table.REPLY, Table.ADVERTISE, Table.BINDING)
_STATES: Final = {1: "new", 2: "established", 4: "related", 8: "reply", 16: "invalid"}  # all of them are tracked
_MARKS: Final = {BLOCKED: "blocked", REVERSED: "reversed", OUTBOUND: "outbound"}
_DIRECTIONS: Final = {
    EGRESS_RULES: "egress",
    INGRESS_RULES: "ingress",
    ANSWERS_TO_EGRESS: "answers-to-egress",
    ANSWERS_TO_INGRESS: "answers-to-ingress",
}
_ASKS_GROUPS: Final = (Table.GROUP, Table.MEMBER, Table.RULE)
_JUDGES: Final = frozenset(
    {
        *_ASKS_GROUPS,
        Table.EGRESS,
        Table.EGRESS_TRACKED,
        Table.EGRESS_VERDICT,
        Table.INGRESS,
        Table.INGRESS_TRACKED,
        Table.INGRESS_VERDICT,
    }
)
_ROLES_OF_JUDGES: Final = {
    DIRECTION: "direction",
    ALLOWED: "allowed",
    STATEFUL: "stateful",
    GROUP_KEY: "group",
    REMOTE_KEY: "remote",
    ADDRESS4: "address",
    ADDRESS6: "address",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Who is behind numbers and addresses on one bridge."""

    networks: Mapping[int, str] = field(default_factory=dict)  # by key (`names.network_key`)
    groups: Mapping[int, str] = field(default_factory=dict)  # by key (`policy.group_key`)
    ofports: Mapping[int, str] = field(default_factory=dict)  # interface, and whose it is
    macs: Mapping[str, str] = field(default_factory=dict)  # port
    addresses: Mapping[str, str] = field(default_factory=dict)  # host of a VTEP, port of an IP address


def flow_views(counted: Iterable[Counted], names: Names, *, key: int, table: str = "") -> list[dict[str, Any]]:
    """The flows of the network with *key*, in the order in which a frame meets tables, the first to match first.

    *table* picks one by name or number. Each has `table`, `number`, `priority`, `match` and `actions` as lists of
    words, `packets` and `bytes`.
    """
    wanted = table.upper()
    found = tuple(counted)
    mine = [one for one in found if _concerns(one.flow, key)]
    mine += _of_groups(found, (one.flow for one in mine))
    ordered = sorted(mine, key=lambda one: (one.flow.table, -one.flow.priority, str(one.flow)))
    return [
        {
            "table": table_name(one.flow.table),
            "number": one.flow.table,
            "priority": one.flow.priority,
            "match": list(_conditions(one.flow, names)),
            "actions": list(_effects(one.flow, names)),
            "packets": one.packets,
            "bytes": one.bytes,
        }
        for one in ordered
        if not wanted or wanted in (table_name(one.flow.table), str(one.flow.table))
    ]


def table_name(number: int) -> str:
    """The pipeline's name of a table; its number where it has none."""
    return Table(number).name if number in Table._value2member_map_ else str(number)


def _concerns(flow: Flow, key: int) -> bool:
    return flow.cookie == key or (
        flow.cookie != SWITCH_COOKIE and any(isinstance(m, Match) and m[:2] == ("metadata", key) for m in flow.match)
    )


def _of_groups(counted: Iterable[Counted], flows: Iterable[Flow]) -> Iterator[Counted]:
    """Flows of the security groups that *flows* ask, and of the members that rules of these speak of."""
    asked = _keys_set(GROUP_KEY, flows)
    rules = [one for one in counted if _key_matched(GROUP_KEY, one.flow) in asked]
    yield from rules
    spoken_of = _keys_set(REMOTE_KEY, (one.flow for one in rules))
    yield from (
        one for one in counted if one.flow.table == Table.MEMBER and _key_matched(REMOTE_KEY, one.flow) in spoken_of
    )


def _keys_set(name: str, flows: Iterable[Flow]) -> set[int | None]:
    return {one.value for flow in flows for one in flow.actions if isinstance(one, SetField) and one.field == name}


def _key_matched(name: str, flow: Flow) -> int | None:
    if flow.table not in _ASKS_GROUPS or flow.cookie != SWITCH_COOKIE:
        return None
    return next((m.value for m in _joined(flow.match) if isinstance(m, Match) and m.field == name), None)


# --- matches ------------------------------------------------------------------------------------------------------


def _conditions(flow: Flow, names: Names) -> Iterator[str]:
    for item in _joined(flow.match):
        if isinstance(item, RawMatch):
            yield match_text(item)
        elif item.field == "in_port":
            yield f"in_port={names.ofports.get(item.value, item.value)}"
        elif item.field == "reg0" and item.mask == item.value:
            yield f"origin={_origin(item.value)}"
        elif item.field == "ct_state":
            yield f"tracked={_bits(_STATES, item)}"
        elif item.field == "ct_mark":
            yield f"mark={_bits(_MARKS, item)}"
        elif item.field == "vlan_tci" and item.value == 0 and item.mask is None:
            yield "untagged"
        elif item.field == "vlan_tci" and item.mask in (None, _TAGGED | _VLAN):
            yield f"vlan={item.value & _VLAN}"
        elif item.mask is None:
            role = _role(item.field, flow.table)
            yield f"{role}={_value(role, item.field, item.value, names, flow.table)}"
        else:
            yield match_text(item)


def _bits(names: Mapping[int, str], item: Match) -> str:
    """Each bit that is asked for by name: + it is there, - it is not."""
    asked = item.value if item.mask is None else item.mask
    return "".join(("+" if item.value & bit else "-") + name for bit, name in names.items() if asked & bit)


def _joined(items: Iterable[Match | RawMatch]) -> Iterator[Match | RawMatch]:
    """*items* with split registers put together again, where all parts are there and whole."""
    rest = list(items)
    for parts, whole in _WIDE:
        found = [m for m in rest if isinstance(m, Match) and m.field in parts and m.mask is None]
        if len(found) == len(parts):
            value = 0
            for part in found:  # canonical order: the first holds the highest bits
                value = value << 32 | part.value
            at = rest.index(found[0])
            rest = [m for m in rest if m not in found]
            rest.insert(at, Match(whole, value))
    yield from rest


# --- actions ------------------------------------------------------------------------------------------------------


def _effects(flow: Flow, names: Names) -> Iterator[str]:
    if not flow.actions:
        yield f"drop ({reason_of(flow)})" if reason_of(flow) else "drop"
    for action in flow.actions:
        yield _effect(action, names, flow.table)


def _effect(action: Action, names: Names, table: int) -> str:
    match action:
        case Goto(to):
            return f"goto {table_name(to)}"
        case Resubmit(to):
            return f"ask {table_name(to)}"
        case Output(port) if port in names.ofports:
            return f"output {names.ofports[port]}"
        case Ct(zone, False, to):
            return f"track in zone {zone}, goto {table_name(to)}"
        case Ct(zone, True, 255, mark):
            words = f" with mark {_bits(_MARKS, Match('ct_mark', *mark))}" if mark is not None else ""
            return f"remember the connection{words}"
        case Move(src, dst, _):
            return f"{_role(dst, table)}:={_role(src, table)}"
        case PushVlan():
            return "tag"
        case PopVlan():
            return "untag"
        case SetField("vlan_tci", value, None):
            return f"vlan:={value & _VLAN}"
        case SetField(name, value, None):
            role = _role(name, table)
            return f"{role}:={_value(role, name, value, names, table)}"
        case _:
            return action_text(action)


# --- words --------------------------------------------------------------------------------------------------------


def _role(name: str, table: int) -> str:
    """What a field is for in *table*; its own name where that says it all."""
    if name == TAP:
        return "tap"
    if table in _JUDGES and name in _ROLES_OF_JUDGES and not (name == REASON and table not in _ASKS_GROUPS):
        return _ROLES_OF_JUDGES[name]
    if name == "reg3":
        if table == Table.REPLICATE or table == Table.FLOOD:
            return "part"
        return "address" if table in _ASKS_FOR_ADDRESS else "reason"
    if name == "xxreg2":
        return "address" if table in _ASKS_FOR_ADDRESS else "incoming"
    return _ROLES.get(name, name)


def _value(role: str, name: str, value: int, names: Names, table: int) -> str:
    if role == "network":
        return names.networks.get(value, f"{value:#x}")
    if role == "origin":
        return _origin(value)
    if role == "tap":
        return names.ofports.get(value, str(value))
    if role == "owner" and value == SOMEBODY:
        return "somebody"
    if role == "direction":
        return _DIRECTIONS.get(value, str(value))
    if role in ("group", "remote"):
        return names.groups.get(value, f"{value:#x}") if value else "any"
    if role in ("allowed", "stateful"):
        return "yes" if value else "no"
    if role == "reason":
        return Denied(value).name if value in Denied._value2member_map_ else str(value)
    if role in ("mac", "owner") or FIELDS[name].text == "mac":
        text = value_text("eth_src", value) if value >> 48 == 0 else f"{value:#x}"
        return "none" if role == "owner" and not value else _called(text, names.macs)
    if role in ("holder", "incoming", "address"):
        if not value:
            return "none"
        return _called(str(IPv6Address(value) if name.startswith("xx") else IPv4Address(value)), names.addresses)
    return _called(value_text(name, value), names.addresses)


def _called(text: str, names: Mapping[str, str]) -> str:
    return f"{text}({names[text]})" if text in names else text


def _origin(value: int) -> str:
    return "+".join(bit.name for bit in Origin if value & bit) or "none"
