"""Traditional switches, pure: their XML, and what a host must do. The golden networks are as libvirt 9.0 takes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from vmctl.model import VmctlError
from vmctl.switches.model import PortGroup, Rate, Switch, SwitchHost, Uplink, check_switch
from vmctl.switches.network_xml import differences, flatten, network_xml, read_network
from vmctl.switches.plan import Autostart, ChangeGroup, Define, Plan, Realized, Remove, Restart, Start, Step, plan

CASES = Path(__file__).parents[2] / "cases" / "vmctl" / "switches"
MANAGER, OTHER = UUID(int=0xCAFE), UUID(int=0xBEEF)
RATE = Rate(average_kib_s=1000, peak_kib_s=2000, burst_kib=512)
OFFICE = Switch(
    uuid=UUID(int=0x0FF1CE),
    name="office",
    uplink=Uplink.BRIDGE,
    hosts=(SwitchHost(host="h1", device="br-lan"), SwitchHost(host="h2", device="br0")),
    groups=(
        PortGroup(name="lan", vlan=20, inbound=RATE, outbound=Rate(average_kib_s=500)),
        PortGroup(name="bare", mtu=1400),
    ),
)
CAGE = Switch(uuid=UUID(int=0xCA6E), name="cage", hosts=(SwitchHost(host="h1"),), groups=(PortGroup(name="in"),))
METAL = replace(OFFICE, uuid=UUID(int=7), name="metal", uplink=Uplink.NIC, groups=(PortGroup(name="lan"),))
OPAQUE = (
    "<network><name>{name}</name><uuid>{uuid}</uuid><metadata><o:network xmlns:o='urn:opaque-networks:1' "
    "owner='hostagent'/></metadata><forward mode='bridge'/><bridge name='osw-0123456789'/></network>"
)
FOREIGN = "<network><name>{name}</name><uuid>{uuid}</uuid><bridge name='virbr7'/></network>"


def xml_of(switch: Switch, host: str = "h1", manager: UUID = MANAGER) -> str:
    return network_xml(switch, host=host, manager=manager)


def realized(switch: Switch, **changes: object) -> Realized:
    xml = xml_of(switch)
    return replace(Realized(uuid=switch.uuid, name=switch.name, live_xml=xml, kept_xml=xml), **changes)  # type: ignore[arg-type]


def foreign(xml: str, *, name: str, uuid: UUID) -> Realized:
    text = xml.format(name=name, uuid=uuid)
    return Realized(uuid=uuid, name=name, live_xml=text, kept_xml=text)


def planned(
    *networks: Realized, switches: tuple[Switch, ...] = (OFFICE,), users: dict[str, set[str]] | None = None
) -> Plan:
    return plan(host="h1", switches=switches, realized=networks, manager=MANAGER, users=users or {})


@pytest.mark.parametrize("switch", [OFFICE, CAGE, METAL], ids=lambda s: s.uplink.value)
def test_network_is_the_golden_one(switch: Switch) -> None:
    assert xml_of(switch) == (CASES / f"{switch.uplink}.xml").read_text()


def test_uplink_is_each_hosts_own() -> None:
    assert '<bridge name="br0"' in xml_of(OFFICE, "h2")


def test_what_libvirt_adds_by_itself_is_no_difference() -> None:
    shown = xml_of(CAGE).replace("<network>", "<network connections='2'><mac address='52:54:00:00:00:01'/>")
    assert planned(realized(CAGE, live_xml=shown, kept_xml=shown), switches=(CAGE,)).steps == ()


def test_absent_network_is_defined_started_and_starts_with_the_host() -> None:
    found = planned()
    uuid = OFFICE.uuid
    assert found.steps == (Define(uuid=uuid, xml=xml_of(OFFICE)), Start(uuid=uuid), Autostart(uuid=uuid))
    assert found.found == {uuid: ("it is not there",)}


def test_realized_switch_wants_nothing() -> None:
    found = planned(realized(OFFICE))
    assert (found.steps, found.conflicts, found.found) == ((), (), {OFFICE.uuid: ()})


EDITED = xml_of(OFFICE).replace('id="20"', 'id="99"')
WITH_ADDRESS = xml_of(OFFICE).replace("</network>", "<ip address='10.0.0.1' netmask='255.0.0.0'/></network>")
LESS = xml_of(replace(OFFICE, groups=OFFICE.groups[:1]))
MORE = xml_of(replace(OFFICE, groups=(*OFFICE.groups, PortGroup(name="spy"))))
UNMARKED = xml_of(OFFICE).replace("urn:vmctl:1", "urn:nobody:1")


@pytest.mark.parametrize(
    ("changes", "kinds", "said"),
    [
        ({"kept_xml": EDITED}, [Define], "tag 20: wanted and absent"),
        ({"kept_xml": UNMARKED}, [Define], "metadata, {urn:vmctl:1}switch: wanted and absent"),
        ({"kept_xml": ""}, [Define], "not defined for good"),
        ({"live_xml": ""}, [Start], "it is stopped"),
        ({"live_xml": EDITED}, [ChangeGroup], "tag 99: not wanted"),
        ({"live_xml": LESS}, [ChangeGroup], "portgroup bare: wanted and absent"),
        ({"live_xml": MORE}, [ChangeGroup], "portgroup spy: not wanted"),
        ({"live_xml": WITH_ADDRESS}, [Restart], "ip, address: 10.0.0.1 found, nothing wanted"),
        ({"live_xml": WITH_ADDRESS, "kept_xml": WITH_ADDRESS}, [Define, Restart], "netmask"),
        ({"autostart": False}, [Autostart], "would not start with the host"),
        ({"name": "renamed"}, [Remove, Define, Start, Autostart], "it is called renamed"),
    ],
)
def test_local_change_is_named_and_only_what_differs_is_touched(
    changes: dict[str, object], kinds: list[type[Step]], said: str
) -> None:
    found = planned(realized(OFFICE, **changes))
    assert [type(step) for step in found.steps] == kinds
    assert said in "; ".join(found.found[OFFICE.uuid])


def test_port_groups_of_a_running_network_are_changed_in_place() -> None:
    (step,) = planned(realized(OFFICE, live_xml=EDITED)).steps
    assert isinstance(step, ChangeGroup)
    assert (step.verb, step.name) == ("modify", "lan")
    assert [s.verb for s in planned(realized(OFFICE, live_xml=LESS)).steps if isinstance(s, ChangeGroup)] == ["add"]
    assert [s.verb for s in planned(realized(OFFICE, live_xml=MORE)).steps if isinstance(s, ChangeGroup)] == ["delete"]


def test_networks_of_others_are_left_alone() -> None:
    others = (
        foreign(FOREIGN, name="default", uuid=UUID(int=1)),
        foreign(OPAQUE, name="blue", uuid=UUID(int=2)),
        realized(CAGE, live_xml=xml_of(CAGE, manager=OTHER), kept_xml=xml_of(CAGE, manager=OTHER)),  # of another vmctl
    )
    found = planned(realized(OFFICE), *others)
    assert (found.steps, found.conflicts) == ((), ())


@pytest.mark.parametrize("xml", [FOREIGN, OPAQUE])
def test_network_of_others_with_the_switchs_name_is_a_conflict_and_stays(xml: str) -> None:
    found = planned(foreign(xml, name="office", uuid=UUID(int=3)))
    assert found.steps == ()
    (conflict,) = found.conflicts
    assert "h1 has a" in conflict.sentence
    assert ("opaque" in conflict.sentence) == (xml is OPAQUE)


def test_opaque_network_is_never_ours_whatever_uuid_or_mark_it_carries() -> None:
    same = foreign(OPAQUE, name="office", uuid=OFFICE.uuid)
    both = OPAQUE.format(name="x", uuid=UUID(int=4)).replace(
        "</metadata>", f"<v:switch xmlns:v='urn:vmctl:1' manager='{MANAGER}'/></metadata>"
    )
    marked = Realized(uuid=UUID(int=4), name="x", live_xml=both, kept_xml=both)
    found = planned(same, marked)
    assert found.steps == ()
    assert "belongs to the network manager" in found.conflicts[0].sentence
    assert read_network(both).opaque


def test_network_of_a_deleted_switch_goes_once_no_vm_uses_it_and_first() -> None:
    assert planned(realized(CAGE)).steps[0] == Remove(uuid=CAGE.uuid)
    held = planned(realized(CAGE), realized(OFFICE), users={"cage": {"web"}})
    assert held.steps == ()
    assert "web still use it" in held.conflicts[0].sentence
    successor = replace(OFFICE, name="cage")  # of the same name: it waits, too
    assert planned(realized(CAGE), switches=(successor,)).steps[:2] == (
        Remove(uuid=CAGE.uuid),
        Define(uuid=OFFICE.uuid, xml=xml_of(successor)),
    )
    assert planned(realized(CAGE), switches=(successor,), users={"cage": {"web"}}).steps == ()


def test_switch_that_left_the_host_goes_from_it() -> None:
    elsewhere = replace(OFFICE, hosts=OFFICE.hosts[1:])
    assert planned(realized(OFFICE), switches=(elsewhere,)).steps == (Remove(uuid=OFFICE.uuid),)


def test_differences_name_path_wanted_and_found() -> None:
    said = differences(wanted=flatten(xml_of(OFFICE)), found=flatten(xml_of(OFFICE).replace("1000", "9")))
    assert said == ("portgroup lan, bandwidth, inbound, average: 1000 wanted, 9 found",)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "a/b"}, "a name has 1 to 63 letters"),
        ({"hosts": ()}, "has no host"),
        ({"hosts": (SwitchHost(host="h1"),)}, "the name of a bridge on h1 is wanted, and none is given"),
        ({"hosts": (SwitchHost(host="h1", device="osw-0123456789"),)}, "made by software"),
        ({"hosts": OFFICE.hosts[:1] * 2}, "host h1 is there twice"),
        ({"groups": OFFICE.groups[:1] * 2}, "port group lan is there twice"),
        ({"groups": (PortGroup(name="lan", vlan=4095),)}, "VLAN 4095 is none; 1 to 4094 are"),
        ({"groups": (PortGroup(name="lan", vlan=0),)}, "VLAN 0 is none"),
        ({"groups": (PortGroup(name="lan", mtu=67),)}, "MTU 67 is none"),
        ({"groups": (PortGroup(name="lan", inbound=Rate(average_kib_s=9, peak_kib_s=8)),)}, "peak 8 KiB/s is below"),
        ({"groups": (PortGroup(name="lan", inbound=Rate(average_kib_s=0)),)}, "an average of 1 KiB/s at least"),
        ({"uplink": Uplink.ISOLATED}, "is isolated and takes no uplink"),
        ({"uplink": Uplink.NIC}, "tags frames on Open vSwitch bridges only, and office is on NICs"),
    ],
)
def test_what_cannot_be_realized_is_refused_with_the_field(change: dict[str, object], sentence: str) -> None:
    check_switch(OFFICE)
    with pytest.raises(VmctlError, match=sentence):
        check_switch(replace(OFFICE, **change))  # type: ignore[arg-type]
