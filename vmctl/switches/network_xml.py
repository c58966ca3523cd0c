"""A traditional switch as a libvirt network: written, read back, compared. Pure.

The network has the switch's UUID and name, a `<portgroup>` for each port group, and a mark of ownership in its
metadata with the identity of the vmctl (`manager`) that made it. Comparing is not a matter of text: both XMLs are
flattened to path and value, without what libvirt adds by itself (a MAC for its own bridge, counts of connections), so
an element more counts as much as one changed. libvirt admits no `<mtu>` beside `<forward mode='bridge'/>`: the MTU of
a port group goes into the domain's NIC instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from uuid import UUID
from xml.etree import ElementTree as ET

from vmctl.switches.model import PortGroup, Rate, Switch, Uplink

__all__ = [
    "OWNER",
    "Facts",
    "bridge_name",
    "differences",
    "flatten",
    "group_xml",
    "kept_group",
    "network_xml",
    "read_network",
]

_MARK = "urn:vmctl:1"
_OPAQUE = "urn:opaque-networks:1"
OWNER = f"{{{_MARK}}}switch"  # element of a network's metadata; its attribute `manager` says whose it is
ET.register_namespace("vmctl", _MARK)

_KEYS = {"portgroup": "name", "interface": "dev", "tag": "id"}  # what tells elements of one kind apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Whose a libvirt network is. `manager` is None where it does not carry vmctl's mark."""

    opaque: bool
    manager: UUID | None


def bridge_name(uuid: UUID) -> str:
    """Name of the Linux bridge of an isolated switch."""
    return f"tsw-{uuid.hex[:10]}"


def network_xml(switch: Switch, *, host: str, manager: UUID) -> str:
    """The libvirt network that *switch* is on *host*, one of its hosts."""
    found = switch.host(host)
    assert found is not None
    root = ET.Element("network")
    ET.SubElement(root, "name").text = switch.name
    ET.SubElement(root, "uuid").text = str(switch.uuid)
    ET.SubElement(ET.SubElement(root, "metadata"), OWNER, manager=str(manager))
    if switch.uplink is Uplink.ISOLATED:
        ET.SubElement(root, "bridge", name=bridge_name(switch.uuid), stp="off", delay="0")
    elif switch.uplink is Uplink.BRIDGE:
        ET.SubElement(root, "forward", mode="bridge")
        ET.SubElement(root, "bridge", name=found.device)
        ET.SubElement(root, "virtualport", type="openvswitch")
    else:
        forward = ET.SubElement(root, "forward", dev=found.device, mode="bridge")
        ET.SubElement(forward, "interface", dev=found.device)
    root.extend(_group(kept_group(switch, group)) for group in switch.groups)
    return _text(root)


def kept_group(switch: Switch, group: PortGroup) -> PortGroup:
    """*group* as libvirt must be told it, so that its limits are kept on this switch.

    libvirt hands an average to Open vSwitch as the rate that a guest is sure of, and a peak as the one that it may
    reach: an average alone would limit nothing.
    """
    rate = group.inbound
    if switch.uplink is not Uplink.BRIDGE or rate is None or rate.peak_kib_s:
        return group
    return replace(group, inbound=replace(rate, peak_kib_s=rate.average_kib_s))


def group_xml(group: PortGroup) -> str:
    """The `<portgroup>` of *group*, which comes from `kept_group`, alone."""
    return _text(_group(group))


def read_network(xml: str) -> Facts:
    """Whose the network *xml* of libvirt is."""
    root = ET.fromstring(xml)
    mark = root.find(f"metadata/{OWNER}")
    manager = None
    if mark is not None:
        try:
            manager = UUID(mark.get("manager", ""))
        except ValueError:
            manager = None
    return Facts(opaque=_OPAQUE in xml or _on_opaque_bridge(root), manager=manager)


def flatten(xml: str) -> dict[str, str]:
    """Path and value of everything that *xml* says, without what libvirt adds by itself."""
    found: dict[str, str] = {}
    _flatten(ET.fromstring(xml), "", found)
    return found


def differences(*, wanted: Mapping[str, str], found: Mapping[str, str]) -> tuple[str, ...]:
    """What *found* says otherwise, one phrase each: `portgroup lan, vlan, tag 20: wanted and absent`."""
    said = []
    for path in sorted(set(wanted) | set(found)):
        if wanted.get(path) == found.get(path):
            continue
        label = path.strip("/").replace("/", ", ").replace("@", "")
        if path not in found:
            said.append(f"{label}: {wanted[path] or 'wanted'} and absent" if not wanted[path] else f"{label}: "
                        f"{wanted[path]} wanted, nothing found")  # fmt: skip
        elif path not in wanted:
            said.append(f"{label}: {found[path]} found, nothing wanted" if found[path] else f"{label}: not wanted")
        else:
            said.append(f"{label}: {wanted[path]} wanted, {found[path]} found")
    return tuple(said)


def _group(group: PortGroup) -> ET.Element:
    element = ET.Element("portgroup", name=group.name)
    if group.vlan is not None:
        ET.SubElement(ET.SubElement(element, "vlan"), "tag", id=str(group.vlan))
    if group.inbound is not None or group.outbound is not None:
        element.append(_bandwidth(group.inbound, group.outbound))
    return element


def _bandwidth(inbound: Rate | None, outbound: Rate | None) -> ET.Element:
    element = ET.Element("bandwidth")
    for tag, rate in (("inbound", inbound), ("outbound", outbound)):
        if rate is None:
            continue
        limits = {"average": rate.average_kib_s, "peak": rate.peak_kib_s, "burst": rate.burst_kib}
        ET.SubElement(element, tag, {key: str(value) for key, value in limits.items() if value})
    return element


def _flatten(element: ET.Element, path: str, found: dict[str, str]) -> None:
    for child in _told(element):
        tag = child.tag
        key = _KEYS.get(tag)
        label = f"{path}/{tag} {child.get(key, '')}" if key else f"{path}/{tag}"
        while label in found:
            label += " again"
        found[label] = (child.text or "").strip()
        for name, value in child.attrib.items():
            if name not in ("connections", key):
                found[f"{label}/@{name}"] = value
        _flatten(child, label, found)


def _told(element: ET.Element) -> Iterable[ET.Element]:
    """The children of *element* but for what libvirt adds."""
    return (child for child in element if not (element.tag == "network" and child.tag == "mac"))


def _on_opaque_bridge(root: ET.Element) -> bool:
    bridge = root.find("bridge")
    return bridge is not None and bridge.get("name", "").startswith("osw-")


def _text(root: ET.Element) -> str:
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"
