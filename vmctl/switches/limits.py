"""Which rate limits can be kept where, told before an administrator relies on them. Pure.

A limit is libvirt's to set, and who keeps it depends on the uplink. On an Open vSwitch bridge that is Open vSwitch:
what a guest receives is queued on its tap in any datapath, what it sends is policed by the kernel datapath alone, and
in user space nobody would notice that it is not. On an isolated switch or a NIC it is the kernel's `sch_sfq` (receive)
and `act_police` (send), and not every kernel has them. Only the host can tell, and libvirt has no question for it: so a
network that wants such limits itself is started for a moment (`trial_xml`). libvirt runs the same `tc` commands for it
as for a NIC, and undoes what it did when one fails. The network bears vmctl's mark and belongs to no switch, so one
that a crash leaves behind is removed like any other of that kind.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from uuid import UUID
from xml.etree import ElementTree as ET

from vmctl.switches.model import PortGroup, Rate, Switch, Uplink
from vmctl.switches.network_xml import OWNER

__all__ = ["Way", "needs_trial", "refusal", "trial_name", "trial_xml", "unpoliced", "ways"]


class Way(StrEnum):
    RECEIVE = "inbound"
    SEND = "outbound"


_MODULE = {Way.RECEIVE: "sch_sfq", Way.SEND: "act_police"}
_OPTION = {Way.RECEIVE: "--limit-in", Way.SEND: "--limit-out"}
_WORDS = {Way.RECEIVE: "what a guest receives", Way.SEND: "what a guest sends"}
_RATE = str(1024)  # KiB/s; any will do


def ways(switch: Switch) -> tuple[Way, ...]:
    """The ways in which port groups of *switch* limit traffic."""
    return tuple(way for way in Way if any(_rate(group, way) for group in switch.groups))


def unpoliced(switch: Switch, *, userspace: bool) -> str:
    """Why a limit of *switch* would be none although libvirt takes it, empty when it would be kept."""
    if switch.uplink is not Uplink.BRIDGE or not userspace:
        return ""
    for group in switch.groups:
        if group.outbound is not None:
            return (
                f"port group {switch.name}/{group.name}: the bridge of {switch.name} forwards in user space, where "
                "Open vSwitch does not police what a guest sends; leave --limit-out out and limit what the others "
                f"receive (--limit-in), or say so if it does not (vmctl switch set {switch.name} --datapath kernel)"
            )
    return ""


def needs_trial(*, old: Switch | None, new: Switch) -> dict[str, tuple[Way, ...]]:
    """The hosts that must show that they can keep the limits of *new*, with the ways that *old* does not have there."""
    if new.uplink is Uplink.BRIDGE:
        return {}
    found = {}
    for host in new.hosts:
        known = ways(old) if old is not None and old.host(host.host) is not None else ()
        if wanted := tuple(way for way in ways(new) if way not in known):
            found[host.host] = wanted
    return found


def trial_name(manager: UUID) -> str:
    """Name of the network, and of its bridge, that is started to see what a host can do."""
    return f"tsw-{manager.hex[:10]}t"


def trial_xml(wanted: Collection[Way], *, manager: UUID) -> str:
    """A network that can be started only where libvirt can limit traffic in these ways."""
    root = ET.Element("network")
    ET.SubElement(root, "name").text = trial_name(manager)
    ET.SubElement(ET.SubElement(root, "metadata"), OWNER, manager=str(manager))
    ET.SubElement(root, "bridge", name=trial_name(manager), stp="off", delay="0")
    bandwidth = ET.SubElement(root, "bandwidth")
    for way in Way:
        if way in wanted:
            ET.SubElement(bandwidth, way.value, average=_RATE)
    return ET.tostring(root, encoding="unicode")


def refusal(switch: Switch, *, host: str, way: Way, reason: str) -> str:
    """The sentence of a host that cannot limit traffic that way; *reason* is libvirt's."""
    return (
        f"{host} cannot limit {_WORDS[way]} on switch {switch.name}: {reason}; load {_MODULE[way]} there, leave "
        f"{_OPTION[way]} out, or take a switch on an Open vSwitch bridge (--bridge), which needs no NIC in it"
    )


def _rate(group: PortGroup, way: Way) -> Rate | None:
    return group.inbound if way is Way.RECEIVE else group.outbound
