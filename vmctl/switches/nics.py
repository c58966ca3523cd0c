"""NICs of running VMs on our port groups: what libvirt must do so that each follows its port group. Pure.

libvirt applies a port group to a NIC when it is plugged. So a change of a port group, or a NIC that was plugged while
the port group had been changed locally, leaves a NIC that differs: it is changed in place, the guest sees nothing. The
port group is the truth; a VLAN or a limit that somebody gave to the NIC itself is put back.

libvirt 9.0 has ways that must be kept to. A NIC's VLAN changes only if its XML names the VLAN itself: taken from the
port group alone, the tag is *removed*. Limits are cleared before they are set, else what is left out stays. When the
network of an isolated switch is stopped its bridge goes and the taps hang in the air; they come back into the new
bridge by way of a NIC of type `bridge`, for libvirt does nothing where the bridge's name stays the same. Such a NIC is
known by its port, which the stopped network has forgotten.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID
from xml.etree import ElementTree as ET

from vmctl.switches.model import PortGroup, Rate, Switch, Uplink
from vmctl.switches.network_xml import bridge_name, kept_group

__all__ = ["FollowGroup", "RunningDomain", "plan_nics", "users"]

_BOUND = ("address", "alias", "driver", "mac", "model", "mtu", "virtualport")  # what of a NIC must not change


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningDomain:
    """A domain with its live XML, where NICs show what they are plugged into."""

    uuid: UUID
    name: str
    xml: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowGroup:
    """Bring one NIC up to date: give it each XML of *updates* in turn, then, with *tune*, these limits alone."""

    domain: UUID
    device: str
    updates: tuple[str, ...] = ()
    tune: bool = False
    inbound: Rate | None = None
    outbound: Rate | None = None
    network: UUID
    sentence: str


def plan_nics(
    *, switches: Sequence[Switch], domains: Sequence[RunningDomain], ports: Collection[UUID]
) -> tuple[FollowGroup, ...]:
    """What differs, NIC by NIC; *ports* are those that the host's networks of ours know."""
    by_name = {switch.name: switch for switch in switches}
    steps = []
    for domain in domains:
        for nic in ET.fromstring(domain.xml).iterfind("devices/interface"):
            source = nic.find("source")
            switch = by_name.get(source.get("network", "")) if source is not None else None
            group = switch.group(source.get("portgroup", "")) if switch is not None and source is not None else None
            if switch is None or group is None:
                continue  # of another network, or plugged without a port group, which has nothing to follow
            step = _follow(domain, nic, switch, kept_group(switch, group), ports)
            if step is not None:
                steps.append(step)
    return tuple(steps)


def users(domains: Sequence[RunningDomain]) -> dict[str, set[str]]:
    """Names of the domains that have a NIC on each libvirt network."""
    found: dict[str, set[str]] = {}
    for domain in domains:
        for source in ET.fromstring(domain.xml).iterfind("devices/interface/source"):
            if name := source.get("network", ""):
                found.setdefault(name, set()).add(domain.name)
    return found


def _follow(
    domain: RunningDomain, nic: ET.Element, switch: Switch, group: PortGroup, ports: Collection[UUID]
) -> FollowGroup | None:
    said, updates = [], []
    mac, target, source = nic.find("mac"), nic.find("target"), nic.find("source")
    if mac is None or target is None or source is None:
        return None
    tag = nic.find("vlan/tag")
    vlan = int(tag.get("id", "0")) if tag is not None else None
    if vlan != group.vlan:
        said.append(f"VLAN {group.vlan or 'none'} wanted, {vlan or 'none'} found")
        updates.append(_text(_plugged(nic, switch, group)))
    port = source.get("portid", "")
    if switch.uplink is Uplink.ISOLATED and port and UUID(port) not in ports:
        said.append("it had lost the switch's bridge")
        updates += [_text(_on_bridge(nic, bridge_name(switch.uuid))), _text(_plugged(nic, switch, group))]
    rates = _rate(nic.find("bandwidth/inbound")), _rate(nic.find("bandwidth/outbound"))
    tune = rates != (group.inbound, group.outbound)
    if tune:
        said.append(f"limits {_said(group.inbound, group.outbound)} wanted, {_said(*rates)} found")
    if not said:
        return None
    return FollowGroup(
        domain=domain.uuid,
        device=target.get("dev", ""),
        updates=tuple(updates),
        tune=tune,
        inbound=group.inbound,
        outbound=group.outbound,
        network=switch.uuid,
        sentence=f"NIC {mac.get('address')} of {domain.name} on {switch.name}/{group.name}: {'; '.join(said)}",
    )


def _plugged(nic: ET.Element, switch: Switch, group: PortGroup) -> ET.Element:
    element = _bound(nic, "network")
    ET.SubElement(element, "source", network=switch.name, portgroup=group.name)
    if group.vlan is not None:
        ET.SubElement(ET.SubElement(element, "vlan"), "tag", id=str(group.vlan))
    bandwidth = nic.find("bandwidth")
    if bandwidth is not None:  # as it is: libvirt would set, by halves, what only tuning sets whole
        element.append(copy.deepcopy(bandwidth))
    return element


def _on_bridge(nic: ET.Element, bridge: str) -> ET.Element:
    element = _bound(nic, "bridge")
    ET.SubElement(element, "source", bridge=bridge)
    return element


def _bound(nic: ET.Element, type: str) -> ET.Element:
    element = ET.Element("interface", type=type)
    element.extend(copy.deepcopy(child) for child in nic if child.tag in _BOUND)
    return element


def _rate(element: ET.Element | None) -> Rate | None:
    if element is None:
        return None
    average, peak, burst = (int(element.get(key, "0")) for key in ("average", "peak", "burst"))
    return Rate(average_kib_s=average, peak_kib_s=peak, burst_kib=burst)


def _said(inbound: Rate | None, outbound: Rate | None) -> str:
    each = []
    for name, rate in (("in", inbound), ("out", outbound)):
        if rate is not None:
            more = f" (peak {rate.peak_kib_s}, burst {rate.burst_kib})" if rate.peak_kib_s or rate.burst_kib else ""
            each.append(f"{name} {rate.average_kib_s}{more}")
    return f"{', '.join(each)} KiB/s" if each else "none"


def _text(element: ET.Element) -> str:
    return ET.tostring(element, encoding="unicode")
