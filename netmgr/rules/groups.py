"""Security groups: what a rule may say, who is a member, who uses a group. Silence, or `NetmgrError` with the sentence.

A port with groups may send and receive what a rule of one of them allows, and nothing else; a port without may do
anything. The members of a group are the addresses of the ports that have it. `members_of` is the one place that says
which addresses those are: the defined ones. A port without any is matched by no rule that names its group, and is told
of (`unmatched_sentences`).
"""

from __future__ import annotations

from ipaddress import ip_network
from uuid import UUID

from netmgr.contract.groups import why_unmatched
from netmgr.contract.types import Ethertype, LogicalPort, SecurityRule
from netmgr.model import GroupRecord, NetmgrError, World, all_ips, port_path
from netmgr.rules.desired import check_name
from netmgr.rules.usage import NAMES_SHOWN_MAX, named

__all__ = [
    "RULES_MAX",
    "check_group",
    "check_group_removal",
    "check_port_groups",
    "groups_altered",
    "members_of",
    "rule_text",
    "unmatched_members",
    "unmatched_sentences",
]

RULES_MAX = 500
_PORT_MAX = 65535
_WITH_PORTS = ("tcp", "udp")
_WITH_TYPES = {"icmp": Ethertype.IPV4, "icmpv6": Ethertype.IPV6}
_VERSIONS = {Ethertype.IPV4: 4, Ethertype.IPV6: 6}


def members_of(world: World, group_uuid: UUID) -> tuple[str, ...]:
    """Addresses of the group's members, sorted; those of a shadow are its primary's."""
    ports = (world.ports[uuid] for uuid in world.ports_by_group.get(group_uuid, ()))
    return tuple(sorted({address for port in ports for address in _addresses_of(port)}))


def unmatched_sentences(world: World, port: LogicalPort) -> list[str]:
    """One for each group of *port* that rules name and that does not have it among its members, since no address is
    defined for it; sorted."""
    return [] if _addresses_of(port) else sorted(_unmatched(world, port, uuid) for uuid in _named(world, port))


def unmatched_members(world: World, group_uuid: UUID) -> list[str]:
    """The same of all ports of one group: the first few, and how many more."""
    ports = [world.ports[uuid] for uuid in world.ports_by_group.get(group_uuid, ())]
    unmatched = (port for port in ports if group_uuid in _named(world, port) and not _addresses_of(port))
    found = sorted(unmatched, key=lambda port: port_path(world, port))
    more = len(found) - NAMES_SHOWN_MAX
    shown = [_unmatched(world, port, group_uuid) for port in found[:NAMES_SHOWN_MAX]]
    return shown + ([f"{more} more ports of the group have no defined addresses either"] if more > 0 else [])


def groups_altered(before: LogicalPort | None, after: LogicalPort | None) -> set[UUID]:
    """Groups whose members may be others when a port that was *before* is *after*."""
    was = {(group, ip) for group in before.security_groups for ip in _addresses_of(before)} if before else set()
    now = {(group, ip) for group in after.security_groups for ip in _addresses_of(after)} if after else set()
    return {group for group, _ip in was ^ now}


def check_group(world: World, group: GroupRecord) -> None:
    """A group's rules can be met by a packet and speak of groups that exist; all ports of it can still have it."""
    what = f"group {group.name}"
    check_name(world, group, what=what)
    if len(group.rules) > RULES_MAX:
        raise NetmgrError(f"{what}: has {len(group.rules)} rules, at most {RULES_MAX} are taken; split the group")
    for rule in group.rules:
        _check_rule(world, group, rule, f"{what}: rule {rule_text(rule, _names(world, group))!r}")
    for uuid in sorted(world.ports_by_group.get(group.uuid, ())):
        others = (world.groups[other] for other in world.ports[uuid].security_groups if other != group.uuid)
        _check_one_kind(_port_name(world, world.ports[uuid]), [group, *others])


def check_port_groups(world: World, port: LogicalPort) -> None:
    """The port's groups are all stateful, or none of them is."""
    what = _port_name(world, port)
    if len(set(port.security_groups)) != len(port.security_groups):
        raise NetmgrError(f"{what}: names a security group twice")
    _check_one_kind(what, [world.groups[uuid] for uuid in port.security_groups])


def check_group_removal(world: World, group: GroupRecord) -> None:
    """No port has the group, and no rule of another refers to it."""
    ports = [_port_name(world, world.ports[uuid]) for uuid in world.ports_by_group.get(group.uuid, ())]
    rules = [
        f"a rule of group {world.groups[uuid].name}"
        for uuid in world.groups_referring.get(group.uuid, ())
        if uuid != group.uuid
    ]
    if ports or rules:
        raise NetmgrError(
            f"group {group.name} is in use by {named([*ports, *rules])}; take it off those first", status=409
        )


def rule_text(rule: SecurityRule, names: dict[UUID, str]) -> str:
    """A rule as people read it: `ingress ipv4 tcp 80-88 from 10.0.0.0/8`."""
    words = [rule.direction.value, rule.ethertype.value, rule.protocol]
    if rule.port_max:
        words.append(str(rule.port_min) if rule.port_min == rule.port_max else f"{rule.port_min}-{rule.port_max}")
    if rule.icmp_type >= 0:
        words.append(f"type {rule.icmp_type}" + (f" code {rule.icmp_code}" if rule.icmp_code >= 0 else ""))
    words.append("from" if rule.direction == "ingress" else "to")
    if rule.remote_group is not None:
        words.append(f"group {names.get(rule.remote_group, str(rule.remote_group))}")
    else:
        words.append(rule.remote_cidr or "any")
    return " ".join(words)


def _addresses_of(port: LogicalPort) -> tuple[str, ...]:
    return all_ips(port)


def _named(world: World, port: LogicalPort) -> list[UUID]:
    """The groups of *port* that are the other end of some rule."""
    return [uuid for uuid in port.security_groups if world.groups_referring.get(uuid)]


def _unmatched(world: World, port: LogicalPort, group_uuid: UUID) -> str:
    naming = [world.groups[uuid].name for uuid in world.groups_referring[group_uuid]]
    return why_unmatched(
        port=port_path(world, port),
        group=world.groups[group_uuid].name,
        rules_of=f"group{'s' * (len(naming) > 1)} {named(naming)}",
        define_on=port_path(world, world.ports[port.shadow_of or port.uuid]),
    )


def _names(world: World, group: GroupRecord) -> dict[UUID, str]:
    found = {uuid: world.groups[uuid].name for uuid in group.refers_to() if uuid in world.groups}
    return found | {group.uuid: group.name}


def _check_rule(world: World, group: GroupRecord, rule: SecurityRule, what: str) -> None:
    if rule.protocol not in ("any", *_WITH_PORTS, *_WITH_TYPES) and not _is_number(rule.protocol):
        raise NetmgrError(
            f"{what}: protocol must be any, tcp, udp, icmp, icmpv6 or a number from 0 to 255, got {rule.protocol!r}"
        )
    if (rule.port_min or rule.port_max) and rule.protocol not in _WITH_PORTS:
        raise NetmgrError(f"{what}: only tcp and udp have ports, not {rule.protocol}; leave them out")
    if (rule.port_min or rule.port_max) and not 1 <= rule.port_min <= rule.port_max <= _PORT_MAX:
        raise NetmgrError(
            f"{what}: ports must be 1 to {_PORT_MAX}, the lower one first, got {rule.port_min} to {rule.port_max}"
        )
    _check_icmp(rule, what)
    if rule.remote_cidr and rule.remote_group is not None:
        raise NetmgrError(f"{what}: names both a CIDR and a group as the other end; make two rules")
    if rule.remote_cidr:
        _check_cidr(rule, what)
    if rule.remote_group not in (None, group.uuid) and rule.remote_group not in world.groups:
        raise NetmgrError(f"{what}: there is no group {rule.remote_group}; create it first", status=404)


def _check_icmp(rule: SecurityRule, what: str) -> None:
    family = _WITH_TYPES.get(rule.protocol)
    if family is not None and family is not rule.ethertype:
        raise NetmgrError(f"{what}: {rule.protocol} is a protocol of {family}, not of {rule.ethertype}")
    if family is None and (rule.icmp_type, rule.icmp_code) != (-1, -1):
        raise NetmgrError(f"{what}: only icmp and icmpv6 have a type and a code, not {rule.protocol}; leave them out")
    if not (-1 <= rule.icmp_type <= 255 and -1 <= rule.icmp_code <= 255):
        raise NetmgrError(f"{what}: icmp type and code must be 0 to 255, got {rule.icmp_type} and {rule.icmp_code}")
    if rule.icmp_code >= 0 and rule.icmp_type < 0:
        raise NetmgrError(f"{what}: an icmp code means nothing without a type; give the type too")


def _check_cidr(rule: SecurityRule, what: str) -> None:
    try:
        network = ip_network(rule.remote_cidr, strict=False)
    except ValueError:
        raise NetmgrError(f"{what}: {rule.remote_cidr!r} is no CIDR like 10.0.0.0/24 or 2001:db8::/64") from None
    if str(network) != rule.remote_cidr:
        raise NetmgrError(f"{what}: {rule.remote_cidr} has host bits or an unusual form; write {network}")
    if network.version != _VERSIONS[rule.ethertype]:
        raise NetmgrError(f"{what}: {rule.remote_cidr} is not of {rule.ethertype}; say the other ethertype")


def _check_one_kind(what: str, groups: list[GroupRecord]) -> None:
    stateful = [group.name for group in groups if group.stateful]
    if stateful and len(stateful) < len(groups):
        others = [group.name for group in groups if not group.stateful]
        raise NetmgrError(
            f"{what}: can't have stateful groups ({named(stateful)}) and stateless ones ({named(others)}) at once: "
            "whether answers need a rule would be unclear; use one kind",
            status=409,
        )


def _port_name(world: World, port: LogicalPort) -> str:
    return f"port {port.name} of network {world.networks[port.network_uuid].name}"


def _is_number(text: str) -> bool:
    """True for 0 to 255, written in the one way there is, so that a rule has one form."""
    return text.isascii() and text.isdigit() and str(int(text)) == text and int(text) <= 255
