"""What one host's libvirt must do so that it shows the switches as vmctl wants them. Pure.

A network is ours by the UUID of one of our switches, or by our mark with our own identity; the first survives an edit
that removes the mark. What carries the network manager's mark is never ours, nor is what has only the name of a
switch: that is a conflict, said and left alone. A network that is ours by its mark and belongs to no switch here any
more is removed, unless VMs on the host still have NICs on it.

Only what differs is touched. Port groups are changed in the running network without stopping it; for all else it is
stopped and started, which taps on an uplink survive. Once applied, planning again yields no steps.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from vmctl.switches.model import Switch
from vmctl.switches.network_xml import differences, flatten, group_xml, kept_group, network_xml, read_network

__all__ = ["Autostart", "ChangeGroup", "Conflict", "Define", "Plan", "Realized", "Remove", "Restart", "Start", "plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Realized:
    """A libvirt network as read. An XML is empty where there is none: not running, or not defined for good."""

    uuid: UUID
    name: str
    live_xml: str = ""
    kept_xml: str = ""
    autostart: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Define:
    uuid: UUID
    xml: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    uuid: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    uuid: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Autostart:
    uuid: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeGroup:
    """A port group of the running network: `add`, `modify` or `delete`."""

    uuid: UUID
    verb: str
    name: str
    xml: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """Undefine the network, stopping it first."""

    uuid: UUID


Step = Define | Start | Restart | Autostart | ChangeGroup | Remove


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Why a switch cannot be realized, or a network not be removed, now."""

    uuid: UUID
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Steps in a safe order, what stands in the way, and by switch what was found otherwise than wanted."""

    steps: tuple[Step, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    found: Mapping[UUID, tuple[str, ...]]


def plan(
    *,
    host: str,
    switches: Sequence[Switch],
    realized: Sequence[Realized],
    manager: UUID,
    users: Mapping[str, Collection[str]],
) -> Plan:
    """Steps for *host*; *switches* are all of them, *users* the VMs on the host by name of the libvirt network."""
    steps: list[Step] = []
    conflicts: list[Conflict] = []
    found: dict[UUID, tuple[str, ...]] = {}
    wanted = {switch.uuid: switch for switch in switches if switch.host(host) is not None}
    by_uuid = {network.uuid: network for network in realized}
    # removals come first: a switch may have taken the name of one that was deleted
    for network in realized:
        if network.uuid in wanted or not _is_ours(network, manager):
            continue
        if vms := sorted(users.get(network.name, ())):
            sentence = f"network {network.name} on {host} is of no switch any more, and {', '.join(vms)} still use it"
            conflicts.append(Conflict(uuid=network.uuid, sentence=f"{sentence}; stop them or move their NICs"))
        else:
            steps.append(Remove(uuid=network.uuid))
    for switch in wanted.values():
        if problem := _in_the_way(switch, host, realized, manager, users):
            conflicts.append(Conflict(uuid=switch.uuid, sentence=problem))
            continue
        mine, said = _bring(switch, by_uuid.get(switch.uuid), network_xml(switch, host=host, manager=manager))
        steps += mine
        found[switch.uuid] = said
    return Plan(steps=tuple(steps), conflicts=tuple(conflicts), found=found)


def _is_ours(network: Realized, manager: UUID) -> bool:
    facts = read_network(network.kept_xml or network.live_xml)
    return facts.manager == manager and not facts.opaque


def _in_the_way(
    switch: Switch, host: str, realized: Sequence[Realized], manager: UUID, users: Mapping[str, Collection[str]]
) -> str:
    for network in realized:
        facts = read_network(network.kept_xml or network.live_xml)
        if network.uuid == switch.uuid and facts.opaque:
            return (
                f"network {network.name} on {host} has the UUID of switch {switch.name} and is opaque: it belongs to "
                "the network manager and is left alone"
            )
        if network.name != switch.name or network.uuid == switch.uuid:
            continue
        if facts.opaque:
            return (
                f"{host} has an opaque network {network.name}, which belongs to the network manager and is left alone"
            )
        if facts.manager == manager and not users.get(network.name):
            continue  # one of ours that goes, and makes room
        return (
            f"{host} has a libvirt network {network.name} ({network.uuid}) that is not of this switch; "
            f"remove it (virsh net-undefine {network.name}) or give the switch another name"
        )
    return ""


def _bring(switch: Switch, network: Realized | None, xml: str) -> tuple[list[Step], tuple[str, ...]]:
    uuid = switch.uuid
    steps: list[Step]
    if network is None:
        return [Define(uuid=uuid, xml=xml), Start(uuid=uuid), Autostart(uuid=uuid)], ("it is not there",)
    if network.name != switch.name:  # libvirt renames no network in place
        steps = [Remove(uuid=uuid), Define(uuid=uuid, xml=xml), Start(uuid=uuid), Autostart(uuid=uuid)]
        return steps, (f"it is called {network.name}",)
    wanted = flatten(xml)
    kept = differences(wanted=wanted, found=flatten(network.kept_xml)) if network.kept_xml else ()
    live = differences(wanted=wanted, found=flatten(network.live_xml)) if network.live_xml else ()
    steps, said = [], list[str]()
    if kept or not network.kept_xml:
        steps.append(Define(uuid=uuid, xml=xml))
        said += kept or ("it is not defined for good",)
    if not network.live_xml:
        steps.append(Start(uuid=uuid))
        said.append("it is stopped")
    elif live:
        steps += _change_running(switch, network, xml)
        said += (phrase for phrase in live if phrase not in said)
    if not network.autostart:
        steps.append(Autostart(uuid=uuid))
        said.append("it would not start with the host")
    return steps, tuple(said)


def _change_running(switch: Switch, network: Realized, xml: str) -> list[Step]:
    wanted, found = _by_part(flatten(xml)), _by_part(flatten(network.live_xml))
    if wanted.pop("", None) != found.pop("", None):
        return [Restart(uuid=switch.uuid)]
    steps: list[Step] = []
    for part in sorted(set(found) - set(wanted)):
        name = part.removeprefix("portgroup ")
        steps.append(ChangeGroup(uuid=switch.uuid, verb="delete", name=name, xml=f"<portgroup name='{name}'/>"))
    for group in switch.groups:
        part = f"portgroup {group.name}"
        if wanted[part] != found.get(part):
            verb = "modify" if part in found else "add"
            steps.append(
                ChangeGroup(uuid=switch.uuid, verb=verb, name=group.name, xml=group_xml(kept_group(switch, group)))
            )
    return steps


def _by_part(flat: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What is said of each port group, and under "" of the network as a whole."""
    parts: dict[str, dict[str, str]] = {"": {}}
    for path, value in flat.items():
        first = path.strip("/").split("/")[0]
        parts.setdefault(first if first.startswith("portgroup ") else "", {})[path] = value
    return parts
