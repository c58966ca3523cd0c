"""Domain XML: golden documents, and what survives a way through them."""

from pathlib import Path
from uuid import UUID
from xml.etree import ElementTree as ET

import pytest

from vmctl.domain_xml import Nic, build, default_mac, default_vif, fix_vifs, network_names, read
from vmctl.model import Disk, Vif, VmctlError, VmSpec

CASES = Path(__file__).parents[2] / "cases" / "vmctl"
VM = UUID("0d6a7a3c-3c55-4b7b-8f0e-2a4f7f6d9c11")
BLUE = UUID("5f7f6d9c-1111-4b7b-8f0e-000000000b1e")
VIF = UUID("11111111-2222-4333-8444-555555555555")
NIC = Nic(vif_uuid=VIF, mac="02:11:11:11:11:22", network="blue", network_uuid=BLUE, offloads=False)
GUEST = VmSpec(name="vm1", memory_mib=128, kernel="/boot/vmlinuz", initrd="/boot/initrd", cmdline="console=ttyS0 a<b")
BOTH = (
    NIC,
    Nic(
        vif_uuid=UUID(int=1),
        mac="02:00:00:00:00:01",
        network="office",
        network_uuid=UUID(int=2),
        portgroup="lan",
        mtu=1400,
    ),
    Nic(
        vif_uuid=UUID(int=3),
        mac="02:00:00:00:00:02",
        network="cage",
        network_uuid=UUID(int=4),
        portgroup="in",
        openvswitch=False,
    ),
)
SERVER = VmSpec(name="web", memory_mib=2048, vcpus=4, disks=(Disk(path="/images/web.qcow2"),))


@pytest.mark.parametrize(
    ("case", "spec", "nics", "domain_type"),
    [
        ("guest-without-kvm", GUEST, (NIC,), "qemu"),
        ("guest-on-both-kinds", GUEST, BOTH, "qemu"),
        (
            "server-with-disk-and-kvm",
            SERVER,
            (Nic(vif_uuid=VIF, mac=NIC.mac, network="blue", network_uuid=BLUE),),
            "kvm",
        ),
    ],
)
def test_spec_gives_the_golden_domain(case: str, spec: VmSpec, nics: tuple[Nic, ...], domain_type: str) -> None:
    assert build(spec, uuid=VM, nics=nics, domain_type=domain_type) == (CASES / f"{case}.xml").read_text()


def test_what_was_built_reads_back() -> None:
    facts = read(build(GUEST, uuid=VM, nics=(NIC,), domain_type="qemu"))
    assert (facts.uuid, facts.name, facts.memory_mib, facts.vcpus, facts.ours) == (VM, "vm1", 128, 1, True)
    assert facts.vifs == (Vif(uuid=VIF, mac=NIC.mac, network_name="blue", network_uuid=BLUE, opaque=True),)


def test_nics_of_both_kinds_read_back_with_network_and_port_group() -> None:
    first, office, cage = read(build(GUEST, uuid=VM, nics=BOTH, domain_type="qemu")).vifs
    assert (first.opaque, first.portgroup) == (True, "")
    assert office == Vif(
        uuid=UUID(int=1), mac="02:00:00:00:00:01", network_name="office", network_uuid=UUID(int=2), portgroup="lan"
    )
    assert (cage.uuid, cage.network_uuid, cage.opaque, cage.portgroup) == (UUID(int=3), UUID(int=4), False, "in")


def test_nic_that_carries_its_vif_in_its_alias_is_not_pinned_to_open_vswitch() -> None:
    xml = build(GUEST, uuid=VM, nics=BOTH[2:], domain_type="qemu")
    assert "virtualport" not in fix_vifs(xml, (Vif(uuid=UUID(int=9)),))


def test_nic_identities_follow_from_the_vm_and_its_place() -> None:
    vif = default_vif(VM, 0)
    assert vif == default_vif(VM, 0) != default_vif(VM, 1)
    first = int(default_mac(vif).split(":")[0], 16)
    assert first & 1 == 0, "a guest's MAC is no group address"
    assert first & 2 == 2, "it is locally administered"


FOREIGN = """<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>other</name><uuid>22222222-2222-4222-8222-222222222222</uuid><memory unit='KiB'>1048576</memory><vcpu>2</vcpu>
  <devices>
    <interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/></interface>
    <interface type='network'><mac address='52:54:00:00:00:02'/><source network='blue' bridge='osw-1'/>
      <target dev='vnet0'/><model type='virtio'/></interface>
  </devices>
  <qemu:commandline><qemu:arg value='-S'/></qemu:commandline>
</domain>"""


def test_domain_of_others_is_pinned_where_it_is_silent_and_kept_where_it_speaks() -> None:
    fixed = fix_vifs(FOREIGN, (Vif(uuid=UUID(int=7)), Vif(uuid=VIF, mac="02:00:00:00:00:99")))
    bridge, network = read(fixed).vifs
    assert bridge == Vif(mac="52:54:00:00:00:01"), "no libvirt network: none of our business"
    assert network.uuid == VIF
    assert network.mac == "52:54:00:00:00:02", "what it states stays"
    assert network.tap == "vnet0"
    assert "qemu:commandline" in fixed
    again = fix_vifs(fixed, (Vif(), Vif(uuid=UUID(int=8))))
    assert read(again).vifs[1].uuid == VIF, "a VIF UUID once given is never replaced"
    assert again == fixed


def test_offloads_are_turned_off_only_on_userspace_networks() -> None:
    assert "tso4" not in fix_vifs(FOREIGN, (Vif(), Vif()))
    fixed = ET.fromstring(fix_vifs(FOREIGN, (Vif(), Vif()), userspace={"blue"}))
    (host,) = fixed.findall("devices/interface/driver/host")
    assert host.get("csum") == "off"


def test_given_xml_gets_mark_uuid_and_further_nics() -> None:
    given = FOREIGN.replace("<uuid>22222222-2222-4222-8222-222222222222</uuid>", "")
    facts = read(build(VmSpec(name="other", xml=given), uuid=VM, nics=(NIC,), domain_type="qemu"))
    assert facts.ours
    assert facts.uuid == VM
    assert [vif.network_name for vif in facts.vifs] == ["", "blue", "blue"]
    assert network_names(given) == ("blue",)


@pytest.mark.parametrize(
    ("xml", "said"),
    [
        ("<network/>", "<network>"),
        ("<domain", "no XML"),
        ("<!DOCTYPE x [<!ENTITY e 'x'>]><domain/>", "refused"),
        ("<domain><name>else</name></domain>", "defines else"),
        ("<domain><name>vm</name><uuid>22222222-2222-4222-8222-222222222222</uuid></domain>", "carries UUID 2222"),
    ],
)
def test_xml_that_does_not_fit_is_refused(xml: str, said: str) -> None:
    with pytest.raises(VmctlError, match=said):
        build(VmSpec(name="vm", xml=xml), uuid=VM, nics=(), domain_type="qemu")


def test_nic_of_a_running_domain_is_known_by_its_network_and_not_by_the_bridge_behind_it() -> None:
    running = FOREIGN.replace("<interface type='network'>", "<interface type='bridge'>")
    assert [vif.network_name for vif in read(running).vifs] == ["", "blue"]
    assert read(fix_vifs(running, (Vif(), Vif(uuid=VIF)))).vifs[1].uuid == VIF
