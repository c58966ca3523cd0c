"""What users may write, and the sentence when it does not fit.

One model a kind for what is created (`…Spec`) and one for what is set (`…Patch`, every field optional). They fix names
and types, no more: meaning is the matter of `rules`. Unknown fields and wrong types are refused with the path to them,
and with the nearest known name, so that a typing error shows itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from netmgr.contract.types import Allowance
from netmgr.model import NetmgrError

__all__ = [
    "GroupPatch",
    "GroupSpec",
    "HostPatch",
    "NestedSpec",
    "NetworkPatch",
    "NetworkSpec",
    "PortPatch",
    "PortSpec",
    "RuleSpec",
    "SwitchPatch",
    "SwitchSpec",
    "TraceSpec",
    "WithdrawalSpec",
    "ZonePatch",
    "ZoneSpec",
    "parse",
    "sentence_of",
]

M = TypeVar("M", bound=BaseModel)


def _uuid_text(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise ValueError(f"{text!r} is no UUID") from None


UuidText = Annotated[str, AfterValidator(_uuid_text)]
NameList = Annotated[list[str], Field(max_length=1000)]
AllowList = Annotated[list[Literal["dhcp-server", "nested", "router"]], Field(max_length=len(Allowance))]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ZoneSpec(_Model):
    """A transport zone: a set of hosts that networks may span."""

    name: str = Field(description="Unique among zones; 1 to 63 of A-Z a-z 0-9 . _ -")
    kind: Literal["overlay", "vlan"] = "overlay"


class ZonePatch(_Model):
    """What may be set on a zone."""

    name: str | None = None
    kind: Literal["overlay", "vlan"] | None = Field(default=None, description="Can't be changed.")


class TrafficClassesSpec(_Model):
    """Shares of a PNIC that classes of traffic are sure of, in percent; none at all: nothing is shaped."""

    tenant_percent: int = Field(default=0, description="Guests' traffic: tunnels, and frames of VLAN networks.")
    control_percent: int = Field(default=0, description="Manager and agents, ARP, neighbour discovery, LACP.")
    management_percent: int = Field(default=0, description="The rest: migrations, storage, people.")
    link_mbps: int = Field(default=0, description="Mbit/s that a PNIC has to share; 0: its own speed.")


class SwitchSpec(_Model):
    """An opaque switch: one bridge on every host of its zones."""

    name: str
    zones: NameList = Field(description="Names or UUIDs of its transport zones; a zone is on at most one switch.")
    pnic_globs: NameList = Field(
        default_factory=lambda: ["*"], description="On a host, the offered PNICs whose names match carry the switch."
    )
    mtu: int = Field(default=1600, description="Largest underlay packet in bytes, 1280 to 9216.")
    vtep_pool: str = Field(
        default="",
        description="CIDR that VTEP addresses of hosts are taken from, IPv4 or IPv6. Zones of kind vlan need none.",
    )
    teaming: Literal["single", "active-backup", "balance", "lacp"] = "single"
    traffic_classes: TrafficClassesSpec = Field(
        default_factory=lambda: TrafficClassesSpec(), description="How PNICs are shared; not given, nothing is shaped."
    )


class SwitchPatch(_Model):
    """What may be set on a switch."""

    name: str | None = None
    zones: NameList | None = None
    pnic_globs: NameList | None = None
    mtu: int | None = None
    vtep_pool: str | None = None
    teaming: Literal["single", "active-backup", "balance", "lacp"] | None = None
    traffic_classes: TrafficClassesSpec | None = Field(default=None, description="Replaced whole; {} ends shaping.")


class NetworkSpec(_Model):
    """An opaque network: a virtual layer 2 on a transport zone."""

    name: str
    zone: str = Field(description="Name or UUID of the transport zone it spans.")
    type: Literal["vxlan", "geneve", "nvgre", "vlan"] | None = Field(
        default=None, description="What its zone carries: vlan in a zone of kind vlan, else a tunnel; default vxlan."
    )
    segment_id: int | None = Field(
        default=None, description="VNI or VSID, 1 to 16777215, or VLAN, 1 to 4094; chosen when not given."
    )
    attach_mode: Literal["auto", "manual"] = Field(
        default="auto", description="Whether a port is made for an unknown VIF that plugs in."
    )
    mtu: int | None = Field(default=None, description="Largest guest packet; default and most: what the switch leaves.")
    subnets: NameList = Field(default_factory=list, description="CIDRs in use on it.")


class NetworkPatch(_Model):
    """What may be set on a network. Type, zone and segment id can't be changed."""

    name: str | None = None
    zone: str | None = Field(default=None, description="Can't be changed.")
    type: Literal["vxlan", "geneve", "nvgre", "vlan"] | None = Field(default=None, description="Can't be changed.")
    segment_id: int | None = Field(default=None, description="Can't be changed.")
    attach_mode: Literal["auto", "manual"] | None = None
    mtu: int | None = None
    subnets: NameList | None = None


class HostPatch(_Model):
    """What may be set on an enrolled host; everything else is the host's own word."""

    name: str | None = None
    zones: NameList | None = Field(default=None, description="Names or UUIDs of its transport zones, all of them.")


class TraceSpec(_Model):
    """A frame to follow; nothing is sent."""

    source: str = Field(description="Port or VIF that sends it: a UUID, a name, NETWORK/PORT.")
    destination: str = Field(description="Port or VIF that shall get it, or an address of a port on the same network.")
    protocol: Literal["tcp", "udp", "icmp", "arp"] = "icmp"
    source_port: int = Field(default=49152, ge=0, le=65535, description="Of TCP and UDP.")
    destination_port: int | None = Field(default=None, ge=0, le=65535, description="TCP and UDP need it.")
    source_mac: str | None = Field(default=None, description="Another MAC than the port's, to see it refused.")
    source_ip: str | None = Field(default=None, description="Another address than the port's first.")


class WithdrawalSpec(_Model):
    """From whom to hide a network, and why."""

    host: str | None = Field(default=None, description="Name or UUID of the host; without it, all hosts.")
    reason: str = Field(description="Why, in one line; people who are refused will read it.")


class RuleSpec(_Model):
    """What a security group allows: packets that match all of it."""

    direction: Literal["ingress", "egress"] = Field(description="ingress: to the port; egress: from it.")
    ethertype: Literal["ipv4", "ipv6"] | None = Field(
        default=None, description="When not given: that of remote_cidr or of icmpv6, else ipv4."
    )
    protocol: str = Field(default="any", description="any, tcp, udp, icmp, icmpv6, or a number from 0 to 255.")
    port_min: int | None = Field(default=None, description="Lowest destination port, of tcp and udp; none: any.")
    port_max: int | None = Field(default=None, description="Highest one; none: port_min.")
    icmp_type: int | None = Field(default=None, description="Of icmp and icmpv6; none: any.")
    icmp_code: int | None = None
    remote_cidr: str | None = Field(default=None, description="The other end has an address of this CIDR.")
    remote_group: str | None = Field(default=None, description="The other end is a member of this group: name or UUID.")


RuleList = Annotated[list[RuleSpec], Field(max_length=1000)]


class GroupSpec(_Model):
    """A security group: a set of ports, and what they may send and receive."""

    name: str
    stateful: bool = Field(default=True, description="Whether answers to what is allowed are allowed too.")
    rules: RuleList = Field(default_factory=list, description="What is allowed; a group without rules allows nothing.")


class GroupPatch(_Model):
    """What may be set on a security group. Rules are replaced whole."""

    name: str | None = None
    stateful: bool | None = None
    rules: RuleList | None = None


class NestedSpec(_Model):
    """A further MAC behind a port's VIF."""

    mac: str = Field(description="Unicast MAC, nobody else's on the network.")
    ips: NameList = Field(default_factory=list, description="Addresses it may use; none: any.")


NestedList = Annotated[list[NestedSpec], Field(max_length=1000)]


class PortSpec(_Model):
    """A logical port: a network's attachment point for one VIF."""

    name: str
    network: str = Field(description="Name or UUID of its network.")
    vif_uuid: UuidText | None = Field(default=None, description="VIF attached to it.")
    mac: str | None = Field(default=None, description="Unicast MAC; made of the port's UUID when not given.")
    ips: NameList = Field(default_factory=list, description="Addresses it may use; none: any.")
    admin_up: bool = Field(default=True, description="False keeps it dark.")
    security_groups: NameList = Field(
        default_factory=list, description="Names or UUIDs of its security groups; none: everything is allowed."
    )
    allow: AllowList = Field(
        default_factory=list,
        description="What its guest may say that no other may: `dhcp-server`, `router` (advertisements, redirects), "
        "`nested` (frames of further MACs, which are learned).",
    )
    nested: NestedList = Field(default_factory=list, description="Further MACs behind its VIF; they move with it.")
    egress_kbps: int = Field(default=0, description="Most that its VIF may send, in kbit/s; 0 for no limit.")
    ingress_kbps: int = Field(default=0, description="Most that is delivered to its VIF, in kbit/s; 0 for no limit.")
    parent: str | None = Field(
        default=None,
        description="Port whose VIF carries its frames, tagged: a UUID, a name, NETWORK/PORT. It is a sub-port then, "
        "and where its parent is.",
    )
    tag: int = Field(default=0, description="VLAN id of its frames on the parent's VIF, 1 to 4094.")
    shadow_of: str | None = Field(
        default=None,
        description="Name or UUID of the port that it is to be a shadow of; it then mirrors that one's MAC, addresses, "
        "groups, allow, nested, limits and admin_up, and stays dark until failover.",
    )


class PortPatch(_Model):
    """What may be set on a port. VIFs are attached and detached."""

    name: str | None = None
    network: str | None = Field(default=None, description="Can't be changed.")
    vif_uuid: UuidText | None = Field(default=None, description="Attached when the port has none.")
    mac: str | None = None
    ips: NameList | None = None
    admin_up: bool | None = None
    security_groups: NameList | None = None
    allow: AllowList | None = None
    nested: NestedList | None = None
    egress_kbps: int | None = Field(default=None, description="0 takes the limit off.")
    ingress_kbps: int | None = Field(default=None, description="0 takes the limit off.")
    parent: str | None = Field(default=None, description="Can't be changed.")
    tag: int | None = Field(default=None, description="Of a sub-port.")
    shadow_of: str | None = Field(default=None, description="Can't be changed, but by failover.")


def parse(model: type[M], values: object, *, where: str) -> M:
    """*values* as a *model*; *where* begins the path in the sentence.

    Raises:
        NetmgrError: 400, all that is wrong in one sentence each.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise NetmgrError(sentence_of(error.errors(), known=model.model_fields, where=where)) from None


def sentence_of(errors: Iterable[Mapping[str, Any]], *, known: Iterable[str], where: str) -> str:
    """Pydantic's errors as sentences: path, what was wanted, what was found, the nearest known name."""
    return "; ".join(dict.fromkeys(_sentence(error, tuple(known), where) for error in errors))


def _sentence(error: Mapping[str, Any], known: tuple[str, ...], where: str) -> str:
    path = where + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error["loc"])
    path = path.lstrip(".")
    kind, found = error["type"], error.get("input")
    if kind == "extra_forbidden":
        wrong = str(error["loc"][-1])
        nearest = difflib.get_close_matches(wrong, known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(sorted(known))}"
        return f"{path}: unknown field; {hint}"
    if kind == "missing":
        return f"{path}: is missing"
    if kind == "value_error":
        return f"{path}: {error['ctx']['error']}"
    wanted = error["msg"].removeprefix("Input should be ")
    return f"{path}: wanted {wanted}, got {_shown(found)}"


def _shown(found: object) -> str:
    text = repr(found)
    return f"{type(found).__name__} {text if len(text) <= 60 else text[:57] + '…'}"
