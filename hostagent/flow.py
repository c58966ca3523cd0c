"""The value of one OpenFlow flow: structured, hashable, canonical.

Two flows that make a switch do the same thing in the same place compare equal, whoever wrote them: `match` is sorted by
`FIELDS` (which also puts prerequisites first, as the switch demands) and holds no field twice; wide registers are split
into 32-bit ones in matches; a mask of all ones is `None`, a mask of zero is no match at all. So the set compiled from
what is wanted and the set dumped from the switch can be subtracted from each other. `str()` is `ovs-ofctl` syntax,
which the tests use as oracle.

A flow of somebody else may hold what has no value here; it is kept as `RawMatch`, `Raw` bytes and `extra`, enough to
show it, tell it from ours and delete it strictly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, NamedTuple

__all__ = [
    "ETH_TYPE_MPLS",
    "ETH_TYPE_VLAN",
    "FIELDS",
    "IN_PORT",
    "LOCAL",
    "NORMAL",
    "Action",
    "Controller",
    "Ct",
    "Drop",
    "Field",
    "Flow",
    "Goto",
    "Match",
    "Meter",
    "Move",
    "Output",
    "PopMpls",
    "PopVlan",
    "PushMpls",
    "PushVlan",
    "Raw",
    "RawMatch",
    "Resubmit",
    "SetField",
    "WriteMetadata",
    "action_text",
    "canonical",
    "mac_to_int",
    "match",
    "match_text",
    "value_text",
]

IN_PORT: Final = 0xFFFFFFF8
"""Output to the port the packet came from, which plain output never does."""

LOCAL: Final = 0xFFFFFFFE

NORMAL: Final = 0xFFFFFFFA
"""Output as a plain learning switch would."""

ETH_TYPE_VLAN: Final = 0x8100
"""IEEE 802.1Q's tag; `PushVlan` writes it."""

ETH_TYPE_MPLS: Final = 0x8847
"""MPLS unicast; `PushMpls` writes it."""

_PORT_NAMES: Final = {IN_PORT: "IN_PORT", LOCAL: "LOCAL", NORMAL: "NORMAL", 0xFFFFFFFD: "CONTROLLER"}


class Field(NamedTuple):
    """Where a field of the packet lives: its OXM class and number, its width in bits, and how it is written."""

    oxm_class: int
    number: int
    bits: int
    text: str  # "hex", "dec", "mac", "ip4", "ip6", "port", "frag"


_FRAGMENTS: Final = {(1, 1): "yes", (0, 3): "no", (1, 3): "first", (3, 3): "later", (0, 2): "not_later"}

_BASIC, _NXM0, _NXM1, _REGS64, _ERIC = 0x8000, 0x0000, 0x0001, 0x8001, 0x1000

FIELDS: Final[dict[str, Field]] = {
    "in_port": Field(_BASIC, 0, 32, "port"),
    "metadata": Field(_BASIC, 2, 64, "hex"),
    "tun_id": Field(_BASIC, 38, 64, "hex"),
    "tun_src": Field(_NXM1, 31, 32, "ip4"),
    "tun_dst": Field(_NXM1, 32, 32, "ip4"),
    "tun_ipv6_src": Field(_NXM1, 109, 128, "ip6"),
    "tun_ipv6_dst": Field(_NXM1, 110, 128, "ip6"),
    **{f"reg{i}": Field(_NXM1, i, 32, "hex") for i in range(16)},
    "eth_dst": Field(_BASIC, 3, 48, "mac"),
    "eth_src": Field(_BASIC, 4, 48, "mac"),
    "eth_type": Field(_BASIC, 5, 16, "hex"),
    "vlan_tci": Field(_BASIC, 6, 16, "hex"),
    "ct_state": Field(_NXM1, 105, 32, "hex"),
    "ct_zone": Field(_NXM1, 106, 16, "hex"),
    "ct_mark": Field(_NXM1, 107, 32, "hex"),
    "ct_label": Field(_NXM1, 108, 128, "hex"),
    "ip_frag": Field(_NXM1, 26, 8, "frag"),
    "nw_proto": Field(_BASIC, 10, 8, "dec"),
    "nw_src": Field(_BASIC, 11, 32, "ip4"),
    "nw_dst": Field(_BASIC, 12, 32, "ip4"),
    "ipv6_src": Field(_BASIC, 26, 128, "ip6"),
    "ipv6_dst": Field(_BASIC, 27, 128, "ip6"),
    "tcp_src": Field(_BASIC, 13, 16, "dec"),
    "tcp_dst": Field(_BASIC, 14, 16, "dec"),
    "tcp_flags": Field(_BASIC, 42, 16, "hex"),
    "udp_src": Field(_BASIC, 15, 16, "dec"),
    "udp_dst": Field(_BASIC, 16, 16, "dec"),
    "icmp_type": Field(_BASIC, 19, 8, "dec"),
    "icmp_code": Field(_BASIC, 20, 8, "dec"),
    "icmpv6_type": Field(_BASIC, 29, 8, "dec"),
    "icmpv6_code": Field(_BASIC, 30, 8, "dec"),
    "arp_op": Field(_BASIC, 21, 16, "dec"),
    "arp_spa": Field(_BASIC, 22, 32, "ip4"),
    "arp_tpa": Field(_BASIC, 23, 32, "ip4"),
    "arp_sha": Field(_BASIC, 24, 48, "mac"),
    "arp_tha": Field(_BASIC, 25, 48, "mac"),
    "nd_target": Field(_BASIC, 31, 128, "ip6"),
    "nd_sll": Field(_BASIC, 32, 48, "mac"),
    "nd_tll": Field(_BASIC, 33, 48, "mac"),
    "nd_reserved": Field(_ERIC, 1, 32, "hex"),  # flags of an advertisement: router, solicited, override
    "nd_options_type": Field(_ERIC, 2, 8, "dec"),
    # registers joined: in actions only, a match on them is split
    **{f"xreg{i}": Field(_REGS64, i, 64, "hex") for i in range(8)},
    **{f"xxreg{i}": Field(_NXM1, 111 + i, 128, "hex") for i in range(4)},
}
"""Fields by the name that ovs-ofctl gives them, prerequisites before what needs them (vlan_tci: OXM's VLAN_VID)."""

_NARROW: Final = {"vlan_tci": 0x1FFF, "ip_frag": 3}
"""Full masks of fields with fewer bits than bytes hold: vlan_tci means OXM's 13-bit VLAN_VID."""

_RANK: Final = {name: rank for rank, name in enumerate(FIELDS)}


class Match(NamedTuple):
    """One condition; `mask` None means all bits."""

    field: str
    value: int
    mask: int | None = None


@dataclass(frozen=True, slots=True)
class RawMatch:
    """A condition that has no name here: its OXM header (without the mask bit), value and mask as bytes."""

    header: int
    value: bytes
    mask: bytes = b""


@dataclass(frozen=True, slots=True)
class Output:
    """Send the packet out of this port."""

    port: int


@dataclass(frozen=True, slots=True)
class Controller:
    """Copy the first `max_len` bytes of the packet to the controller."""

    max_len: int


@dataclass(frozen=True, slots=True)
class SetField:
    """Set a field, or the bits of it that the mask has."""

    field: str
    value: int
    mask: int | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """Copy `bits` bits from the start of one field to the start of another."""

    src: str
    dst: str
    bits: int


@dataclass(frozen=True, slots=True)
class PushVlan:
    """Put an 802.1Q tag in front; its VLAN is set by `SetField("vlan_tci", 0x1000 | vlan)` after it."""


@dataclass(frozen=True, slots=True)
class PopVlan:
    """Take the outermost VLAN tag off."""


@dataclass(frozen=True, slots=True)
class PushMpls:
    """Put an MPLS label in front (RFC 3032)."""


@dataclass(frozen=True, slots=True)
class PopMpls:
    """Take the outermost MPLS label off; behind the last one is a packet of `eth_type`, which the switch recirculates
    before it looks it up again."""

    eth_type: int = 0x0800


@dataclass(frozen=True, slots=True)
class Resubmit:
    """Look the packet up in `table`, act, and come back."""

    table: int


@dataclass(frozen=True, slots=True)
class Ct:
    """Send the packet through the connection tracker, then on at `table`; 255 means no recirculation.

    `zone` is a number, or the name of a field of 16 bits that holds it. A commit may set the bits `mark[1]` of the
    connection's mark to `mark[0]`.
    """

    zone: int | str
    commit: bool = False
    table: int = 255
    mark: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Meter:
    """Pass the packet through meter `number` of the bridge, which may drop it."""

    number: int


@dataclass(frozen=True, slots=True)
class WriteMetadata:
    """Instruction: set metadata, after the actions and before the next table."""

    value: int
    mask: int | None = None


@dataclass(frozen=True, slots=True)
class Goto:
    """Instruction: carry on at `table`; always last."""

    table: int


@dataclass(frozen=True, slots=True)
class Raw:
    """An action or instruction that has no value here."""

    kind: str  # "action" or "instruction"
    data: bytes


Action = (
    Output
    | Controller
    | SetField
    | Move
    | PushVlan
    | PopVlan
    | PushMpls
    | PopMpls
    | Resubmit
    | Ct
    | Meter
    | WriteMetadata
    | Goto
    | Raw
)

Drop: Final[tuple[Action, ...]] = ()
"""No actions: the packet ends here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One flow. Build `match` with `match()`, or pass what `canonical()` returns."""

    table: int
    priority: int
    cookie: int
    match: tuple[Match | RawMatch, ...] = ()
    actions: tuple[Action, ...] = ()
    extra: tuple[tuple[str, int], ...] = ()  # timeouts, flags, importance that are not zero: none of ours has any
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        # Sets of 100,000 flows are built and subtracted; a flow is hashed many times and never changes. Its place is
        # enough: two flows in one place are rare, and `FlowSet` finds what a flow replaces by it.
        object.__setattr__(self, "_hash", hash((self.table, self.priority, self.match)))

    def __hash__(self) -> int:
        return self._hash

    def key(self) -> tuple[int, int, tuple[Match | RawMatch, ...]]:
        """What makes it one and the same place in the switch: adding a flow of the same key replaces this one."""
        return (self.table, self.priority, self.match)

    def __str__(self) -> str:
        """`ovs-ofctl` syntax."""
        head = [f"cookie={self.cookie:#x}", f"table={self.table}", f"priority={self.priority}"]
        head += [f"{name}={value}" for name, value in self.extra]
        head += [match_text(item) for item in self.match]
        return f"{','.join(head)} actions={','.join(map(action_text, self.actions)) or 'drop'}"


def match(**conditions: int | str | tuple[int, int]) -> tuple[Match, ...]:
    """Canonical conditions from `field=value`.

    A value is an integer, a pair (value, mask), or text: a MAC, an address, or a prefix of addresses. Fields of
    neighbour discovery need the ICMPv6 code beside them (see `hostagent.pipeline.icmpv6`).
    """
    assert "icmpv6_code" in conditions or not any(name.startswith("nd_") for name in conditions), conditions
    items = []
    for name, given in conditions.items():
        if isinstance(given, int):
            items.append(Match(name, given))
        elif isinstance(given, tuple):
            items.append(Match(name, *given))
        elif FIELDS[name].text == "mac":
            items.append(Match(name, mac_to_int(given)))
        else:
            prefix = ip_network(given)
            items.append(Match(name, int(prefix.network_address), int(prefix.netmask)))
    return canonical(items)


def canonical(items: Iterable[Match]) -> tuple[Match, ...]:
    """*items* sorted, wide registers split, full masks dropped, empty masks left out."""
    result: list[Match] = []
    for item in items:
        if item.field[0] == "x":
            result.extend(_split(item))
        elif item.mask is None:
            result.append(item)
        elif item.mask:
            result.append(_narrowed(item.field, item.value, item.mask))
    if len(result) > 1:
        result.sort(key=_rank)
    return tuple(result)


def _rank(item: Match) -> int:
    return _RANK[item.field]


def _narrowed(name: str, value: int, mask: int) -> Match:
    ones = (1 << FIELDS[name].bits) - 1
    if mask == ones or (name in _NARROW and mask == _NARROW[name]):
        return Match(name, value)
    return Match(name, value & mask, mask)


def mac_to_int(mac: str) -> int:
    """A MAC, with colons, as a number."""
    return int(mac.replace(":", ""), 16)


def _split(item: Match) -> Iterable[Match]:
    shifts, names = _PARTS[item.field]
    for name, shift in zip(names, shifts, strict=True):
        mask = None if item.mask is None else item.mask >> shift & 0xFFFFFFFF
        if mask is None:
            yield Match(name, item.value >> shift & 0xFFFFFFFF)
        elif mask:
            yield _narrowed(name, item.value >> shift & 0xFFFFFFFF, mask)


def _parts(name: str, width: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    first = int(name.lstrip("xreg")) * width
    return tuple(range(32 * (width - 1), -1, -32)), tuple(f"reg{first + index}" for index in range(width))


_PARTS: Final = {name: _parts(name, field.bits // 32) for name, field in FIELDS.items() if name[0] == "x"}
"""Of joined registers: by how many bits each part is to be shifted, and its name."""


# --- text ---------------------------------------------------------------------------------------------------------


def match_text(item: Match | RawMatch) -> str:
    """One condition in `ovs-ofctl` syntax."""
    if isinstance(item, RawMatch):
        return f"oxm_{item.header:08x}={item.value.hex()}" + (f"/{item.mask.hex()}" if item.mask else "")
    if item.field == "vlan_tci":
        return f"vlan_tci={item.value:#06x}/{0x1FFF if item.mask is None else item.mask:#06x}"
    if item.field == "ip_frag":  # ovs-ofctl takes names only
        bits = (item.value, 3 if item.mask is None else item.mask & 3)
        return f"ip_frag={_FRAGMENTS.get(bits, f'{bits[0]:#x}/{bits[1]:#x}')}"
    text = f"{item.field}={value_text(item.field, item.value)}"
    if item.mask is None:
        return text
    return f"{text}/{_mask_text(item.field, item.mask)}"


def _mask_text(name: str, mask: int) -> str:
    """Prefix lengths where they say it all: ovs-ofctl misreads some IPv6 masks that are written out."""
    field = FIELDS[name]
    zeros = (mask ^ ((1 << field.bits) - 1)).bit_length()
    if field.text in ("ip4", "ip6") and mask == (1 << field.bits) - (1 << zeros):
        return str(field.bits - zeros)
    return value_text(name, mask, is_mask=True)


def value_text(name: str, value: int, *, is_mask: bool = False) -> str:
    """A value of the field *name* as it is written: an address, a MAC, a number."""
    kind = FIELDS[name].text
    if kind == "mac":
        return ":".join(f"{value:012x}"[i : i + 2] for i in range(0, 12, 2))
    if kind == "ip4":
        return str(IPv4Address(value))
    if kind == "ip6":
        return str(IPv6Address(value))
    if kind == "port":
        return _PORT_NAMES.get(value, str(value))
    return f"{value:#x}" if kind == "hex" or is_mask else str(value)


def action_text(action: Action) -> str:
    """One action in `ovs-ofctl` syntax."""
    match action:
        case Output(port):
            return _PORT_NAMES.get(port) or f"output:{port}"
        case Controller(max_len):
            return f"CONTROLLER:{max_len}"
        case SetField("vlan_tci", value, None):
            return f"set_field:{value}->vlan_vid"
        case SetField(name, value, mask):
            text = value_text(name, value)
            if mask is not None:
                text += f"/{value_text(name, mask, is_mask=True)}"
            return f"set_field:{text}->{name}"
        case Move(src, dst, bits):
            return f"move:{_subfield(src, bits)}->{_subfield(dst, bits)}"
        case PushVlan():
            return f"push_vlan:{ETH_TYPE_VLAN:#06x}"
        case PopVlan():
            return "pop_vlan"
        case PushMpls():
            return f"push_mpls:{ETH_TYPE_MPLS:#06x}"
        case PopMpls(eth_type):
            return f"pop_mpls:{eth_type:#06x}"
        case Resubmit(table):
            return f"resubmit(,{table})"
        case Ct():
            return _ct_text(action)
        case Meter(number):
            return f"meter:{number}"
        case WriteMetadata(value, mask):
            return f"write_metadata:{value:#x}" + (f"/{mask:#x}" if mask is not None else "")
        case Goto(table):
            return f"goto_table:{table}"
        case Raw(kind, data):
            return f"{kind}_{data.hex()}"


def _ct_text(action: Ct) -> str:
    parts = (["commit"] if action.commit else []) + ([f"table={action.table}"] if action.table != 255 else [])
    parts.append(f"zone={action.zone}" + ("[]" if isinstance(action.zone, str) else ""))
    if action.mark is not None:
        parts.append(f"exec({action_text(SetField('ct_mark', *action.mark))})")
    return f"ct({','.join(parts)})"


def _subfield(name: str, bits: int) -> str:
    return f"{name}[0..{bits - 1}]"


def address_of(text: str) -> int:
    """An address as a number."""
    parts = text.split(".")
    if len(parts) == 4 and all(part in _OCTETS for part in parts):  # ten thousand at a start
        first, second, third, fourth = (_OCTETS[part] for part in parts)
        return first << 24 | second << 16 | third << 8 | fourth
    return int(ip_address(text))


_OCTETS: Final = {str(number): number for number in range(256)}
