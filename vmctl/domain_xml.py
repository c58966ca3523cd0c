"""Domain XML: written from a spec, read from libvirt, pinned before a move. Pure.

Each VIF has a UUID of its own in the domain (`<virtualport type='openvswitch'>` with `interfaceid`): without one the
destination of a live migration would invent another, and the network would not know the VIF again. VIF UUIDs and MACs
that nobody chose are derived from the VM's UUID and the NIC's place, so the same request gives the same domain.

A guest on a switch whose datapath runs in user space must not leave checksums and segmentation to it: virtio's offloads
are off there (`offloads=False`), or TCP fails while ping works.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid5
from xml.etree import ElementTree as ET

from vmctl.model import Disk, Vif, VmctlError, VmSpec

__all__ = ["DomainFacts", "Nic", "build", "default_mac", "default_vif", "fix_vifs", "network_names", "read", "uuid_in"]

_MARK = "urn:vmctl:1"
_ALIAS = "ua-"
ET.register_namespace("vmctl", _MARK)
ET.register_namespace("opaque", "urn:opaque-networks:1")
ET.register_namespace("qemu", "http://libvirt.org/schemas/domain/qemu/1.0")
ET.register_namespace("libosinfo", "http://libosinfo.org/xmlns/libvirt/domain/1.0")

_HOST_OFFLOADS = ("csum", "gso", "tso4", "tso6", "ecn", "ufo")
_GUEST_OFFLOADS = ("csum", "tso4", "tso6", "ecn", "ufo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A VIF with everything decided. `network` is the libvirt network's name."""

    vif_uuid: UUID
    mac: str
    network: str
    network_uuid: UUID
    offloads: bool = True
    portgroup: str = ""  # of a traditional switch; empty on an opaque network
    openvswitch: bool = True  # its network is on an Open vSwitch bridge; else the VIF's UUID is in the NIC's alias
    mtu: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainFacts:
    """What a domain's XML says. A VIF's network UUID is what we noted when we made it; libvirt knows it by name."""

    uuid: UUID
    name: str
    memory_mib: int
    vcpus: int
    vifs: tuple[Vif, ...]
    ours: bool


def default_vif(vm_uuid: UUID, index: int) -> UUID:
    """UUID of the VM's NIC number *index*, where nobody chose one."""
    return uuid5(vm_uuid, f"vif-{index}")


def default_mac(vif_uuid: UUID) -> str:
    """A locally administered unicast MAC with 40 bits of the VIF's UUID."""
    return ":".join(f"{byte:02x}" for byte in (0x02, *vif_uuid.bytes[:5]))


def build(spec: VmSpec, *, uuid: UUID, nics: Sequence[Nic], domain_type: str) -> str:
    """Domain XML of *spec*, marked as ours; of its own XML, where it brings one, with *nics* added.

    Raises:
        VmctlError: the spec's XML is no domain, or one of another name or UUID.
    """
    domain = _given(spec, uuid) if spec.xml else _fresh(spec, uuid, domain_type)
    metadata = domain.find("metadata")
    if metadata is None:
        metadata = ET.SubElement(domain, "metadata")
    mark = metadata.find(f"{{{_MARK}}}vm")
    if mark is None:
        mark = ET.SubElement(metadata, f"{{{_MARK}}}vm")
    for nic in nics:  # the network's UUID stays known here when the host's libvirt has lost the network
        noted = ET.SubElement(mark, f"{{{_MARK}}}vif", uuid=str(nic.vif_uuid), network=str(nic.network_uuid))
        if nic.portgroup:
            noted.set("portgroup", nic.portgroup)
    devices = domain.find("devices")
    if devices is None:
        devices = ET.SubElement(domain, "devices")
    devices.extend(_interface(nic) for nic in nics)
    return _text(domain)


def read(xml: str) -> DomainFacts:
    """What the domain *xml* of libvirt says."""
    domain = ET.fromstring(xml)
    memory = domain.find("memory")
    noted = {e.get("uuid"): e for e in domain.iterfind(f"metadata/{{{_MARK}}}vm/{{{_MARK}}}vif")}
    return DomainFacts(
        uuid=UUID(domain.findtext("uuid", "")),
        name=domain.findtext("name", ""),
        memory_mib=_mib(memory) if memory is not None else 0,
        vcpus=int(domain.findtext("vcpu", "1")),
        vifs=tuple(_vif(element, noted) for element in domain.iterfind("devices/interface")),
        ours=domain.find(f"metadata/{{{_MARK}}}vm") is not None,
    )


def network_names(xml: str) -> tuple[str, ...]:
    """Names of the libvirt networks that the domain *xml* has NICs on, one for each NIC.

    Raises:
        VmctlError: it is no domain XML.
    """
    return tuple(name for nic in _parse(xml).iterfind("devices/interface") if (name := _source_network(nic)))


def uuid_in(xml: str) -> UUID | None:
    """The UUID that the domain *xml* asks for, None where it asks for none, or is empty.

    Raises:
        VmctlError: it is no domain XML, or its UUID is none.
    """
    text = _parse(xml).findtext("uuid") if xml else None
    try:
        return UUID(text) if text else None
    except ValueError:
        raise VmctlError(f"the XML's UUID {text} is none") from None


def fix_vifs(xml: str, vifs: Sequence[Vif], *, userspace: Collection[str] = ()) -> str:
    """The domain *xml* with the UUID and MAC of *vifs* written into its NICs on libvirt networks, by place.

    What a NIC states already stays, and so does everything else. NICs on the networks of *userspace* (names) lose
    virtio's offloads, unless they have a `<driver>` of their own. NICs beyond *vifs* stay as they are.
    """
    domain = _parse(xml)
    for element, vif in zip(domain.iterfind("devices/interface"), vifs, strict=False):
        network = _source_network(element)
        if not network:
            continue
        if vif.uuid is not None and _interface_id(element) is None:
            port = element.find("virtualport")
            if port is None:
                port = ET.SubElement(element, "virtualport", type="openvswitch")
            parameters = port.find("parameters")
            if parameters is None:
                parameters = ET.SubElement(port, "parameters")
            parameters.set("interfaceid", str(vif.uuid))
        if vif.mac and element.find("mac") is None:
            ET.SubElement(element, "mac", address=vif.mac)
        if network in userspace and element.find("driver") is None:
            element.append(_no_offloads())
    return _text(domain)


def _given(spec: VmSpec, uuid: UUID) -> ET.Element:
    domain = _parse(spec.xml)
    named = domain.findtext("name")
    if named is not None and named != spec.name:
        raise VmctlError(f"the XML defines {named}, and {spec.name} was asked for; give them one name")
    if named is None:
        domain.insert(0, _leaf("name", spec.name))
    if domain.findtext("uuid") is None:
        domain.insert(1, _leaf("uuid", str(uuid)))
    elif domain.findtext("uuid") != str(uuid):
        raise VmctlError(f"the XML of {spec.name} carries UUID {domain.findtext('uuid')}, not {uuid}")
    return domain


def _fresh(spec: VmSpec, uuid: UUID, domain_type: str) -> ET.Element:
    domain = ET.Element("domain", type=domain_type)
    domain.append(_leaf("name", spec.name))
    domain.append(_leaf("uuid", str(uuid)))
    ET.SubElement(domain, "metadata")
    domain.append(_leaf("memory", str(spec.memory_mib), unit="MiB"))
    domain.append(_leaf("vcpu", str(spec.vcpus)))
    system = ET.SubElement(domain, "os")
    system.append(_leaf("type", "hvm", arch="x86_64", machine="q35"))
    for tag, value in (("kernel", spec.kernel), ("initrd", spec.initrd), ("cmdline", spec.cmdline)):
        if value:
            system.append(_leaf(tag, value))
    if not spec.kernel:
        ET.SubElement(system, "boot", dev="hd")
    features = ET.SubElement(domain, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    if domain_type == "kvm":
        ET.SubElement(domain, "cpu", mode="host-model")
    devices = ET.SubElement(domain, "devices")
    devices.extend(_disk(disk, index) for index, disk in enumerate(spec.disks))
    ET.SubElement(devices, "controller", type="usb", model="none")
    ET.SubElement(devices, "serial", type="pty")
    ET.SubElement(devices, "console", type="pty")
    return domain


def _disk(disk: Disk, index: int) -> ET.Element:
    element = ET.Element("disk", type="file", device="disk")
    # no page cache of the host between guest and shared storage: libvirt refuses to move a guest that has one
    ET.SubElement(element, "driver", name="qemu", type=disk.format, cache="none")
    ET.SubElement(element, "source", file=disk.path)
    ET.SubElement(element, "target", dev=f"vd{chr(ord('a') + index)}", bus="virtio")
    return element


def _interface(nic: Nic) -> ET.Element:
    element = ET.Element("interface", type="network")
    ET.SubElement(element, "mac", address=nic.mac)
    source = ET.SubElement(element, "source", network=nic.network)
    if nic.portgroup:
        source.set("portgroup", nic.portgroup)
    if nic.openvswitch:
        port = ET.SubElement(element, "virtualport", type="openvswitch")
        ET.SubElement(port, "parameters", interfaceid=str(nic.vif_uuid))
    else:
        ET.SubElement(element, "alias", name=f"{_ALIAS}{nic.vif_uuid}")
    ET.SubElement(element, "model", type="virtio")
    if nic.mtu is not None:
        ET.SubElement(element, "mtu", size=str(nic.mtu))
    if not nic.offloads:
        element.append(_no_offloads())
    return element


def _no_offloads() -> ET.Element:
    driver = ET.Element("driver")
    ET.SubElement(driver, "host", dict.fromkeys(_HOST_OFFLOADS, "off"))
    ET.SubElement(driver, "guest", dict.fromkeys(_GUEST_OFFLOADS, "off"))
    return driver


def _vif(element: ET.Element, noted: Mapping[str | None, ET.Element]) -> Vif:
    identity = _interface_id(element)
    note = noted.get(identity)
    source = element.find("source")
    mac = element.find("mac")
    target = element.find("target")
    return Vif(
        uuid=UUID(identity) if identity else None,
        mac=mac.get("address", "").lower() if mac is not None else "",
        network_name=_source_network(element),
        network_uuid=UUID(note.get("network", "")) if note is not None else None,
        opaque=note is not None and note.get("portgroup") is None,
        portgroup=source.get("portgroup", "") if source is not None else "",
        tap=target.get("dev", "") if target is not None else "",
    )


def _interface_id(element: ET.Element) -> str | None:
    parameters = element.find("virtualport/parameters")
    if parameters is not None:
        return parameters.get("interfaceid")
    alias = element.find("alias")  # libvirt keeps only those that begin like this
    name = alias.get("name", "") if alias is not None else ""
    return name.removeprefix(_ALIAS) if name.startswith(_ALIAS) and _is_uuid(name.removeprefix(_ALIAS)) else None


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def _source_network(element: ET.Element) -> str:
    source = element.find("source")  # while the domain runs its type may be what the network stands for, a bridge
    return source.get("network", "") if source is not None else ""


def _mib(memory: ET.Element) -> int:
    scale = {"b": 1, "bytes": 1, "KB": 1000, "k": 1024, "KiB": 1024, "MB": 10**6, "M": 1024**2, "MiB": 1024**2,
             "GB": 10**9, "G": 1024**3, "GiB": 1024**3}  # fmt: skip
    return int(memory.text or "0") * scale.get(memory.get("unit", "KiB"), 1024) // 1024**2


def _parse(xml: str) -> ET.Element:
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise VmctlError("domain XML with a document type or entities is refused; write it plainly")
    try:
        domain = ET.fromstring(xml)
    except ET.ParseError as error:
        raise VmctlError(f"this is no XML: {error}") from None
    if domain.tag != "domain":
        raise VmctlError(f"this XML describes a <{domain.tag}>, and a <domain> is wanted")
    return domain


def _leaf(tag: str, text: str, **attributes: str) -> ET.Element:
    element = ET.Element(tag, attributes)
    element.text = text
    return element


def _text(domain: ET.Element) -> str:
    ET.indent(domain)
    return ET.tostring(domain, encoding="unicode") + "\n"
