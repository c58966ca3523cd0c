"""NICs on port groups, pure: what of a running NIC must follow, and where a VM with one may go."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID
from xml.etree import ElementTree as ET

import pytest

from vmctl.model import Code, Refusal, Vif, Vm, VmState
from vmctl.switches.eligible import switch_refusals
from vmctl.switches.model import HostState, HostSwitch, PortGroup, Rate, Switch, SwitchHost, Uplink
from vmctl.switches.nics import FollowGroup, RunningDomain, plan_nics, users

LAN = PortGroup(name="lan", vlan=20, inbound=Rate(average_kib_s=100))
OFFICE = Switch(
    uuid=UUID(int=1),
    name="office",
    uplink=Uplink.BRIDGE,
    hosts=(SwitchHost(host="h1", device="br-lan"), SwitchHost(host="h2", device="br-lan")),
    groups=(LAN,),
)
CAGE = Switch(
    uuid=UUID(int=2), name="cage", hosts=(SwitchHost(host="h1"), SwitchHost(host="h2")), groups=(PortGroup(name="in"),)
)
PORT = UUID(int=3)
NIC = f"""<interface type='bridge'><mac address='02:00:00:00:00:01'/>
  <source network='{{network}}' portgroup='{{group}}' portid='{PORT}' bridge='x'/>{{more}}
  <virtualport type='openvswitch'><parameters interfaceid='{UUID(int=4)}'/></virtualport>
  <target dev='vnet4'/><model type='virtio'/><mtu size='1400'/></interface>"""
KEPT = "<bandwidth><inbound average='100' peak='100'/></bandwidth>"  # to Open vSwitch only the peak is a limit
SET = f"<vlan><tag id='20'/></vlan>{KEPT}"


def domain(more: str = SET, *, network: str = "office", group: str = "lan") -> RunningDomain:
    nic = NIC.format(network=network, group=group, more=more)
    return RunningDomain(uuid=UUID(int=5), name="web", xml=f"<domain><devices>{nic}</devices></domain>")


def follow(running: RunningDomain, switch: Switch = OFFICE, ports: frozenset[UUID] = frozenset()) -> list[FollowGroup]:
    return list(plan_nics(switches=(switch,), domains=(running,), ports=ports))


def test_nic_that_is_as_its_port_group_says_is_left_alone() -> None:
    assert follow(domain()) == []


def test_nic_of_another_network_or_without_port_group_is_left_alone() -> None:
    assert follow(domain("", network="blue")) == []
    assert follow(domain("", group="")) == []


@pytest.mark.parametrize("found", ["<vlan><tag id='30'/></vlan>", ""])
def test_vlan_is_named_in_the_nic_itself(found: str) -> None:
    """Taken from the port group alone, libvirt 9.0 would remove the tag."""
    (step,) = follow(domain(found + KEPT))
    (xml,) = step.updates
    nic = ET.fromstring(xml)
    tag, parameters = nic.find("vlan/tag"), nic.find("virtualport/parameters")
    assert tag is not None
    assert tag.get("id") == "20"
    assert parameters is not None
    assert parameters.get("interfaceid") == str(UUID(int=4))
    assert nic.find("bandwidth/inbound") is not None  # as it was
    assert nic.find("target") is None
    assert not step.tune
    assert "VLAN 20 wanted" in step.sentence


def test_vlan_that_is_not_wanted_goes() -> None:
    plain = replace(OFFICE, groups=(replace(LAN, vlan=None),))
    (step,) = follow(domain(), plain)
    assert "<vlan>" not in step.updates[0]


AVERAGE = "<bandwidth><inbound average='100'/></bandwidth>"
MORE = "<bandwidth><inbound average='100' peak='100'/><outbound average='5'/></bandwidth>"


@pytest.mark.parametrize("found", ["", AVERAGE, MORE])
def test_limits_are_tuned_whole(found: str) -> None:
    (step,) = follow(domain("<vlan><tag id='20'/></vlan>" + found))
    assert (step.updates, step.tune, step.device) == ((), True, "vnet4")
    assert (step.inbound, step.outbound) == (Rate(average_kib_s=100, peak_kib_s=100), None)


def test_average_is_a_limit_by_itself_where_the_kernel_keeps_it() -> None:
    cage = replace(CAGE, groups=(PortGroup(name="in", inbound=Rate(average_kib_s=100)),))
    assert follow(domain(AVERAGE, network="cage", group="in"), cage, frozenset({PORT})) == []


def test_nic_of_an_isolated_switch_whose_port_is_forgotten_comes_back_over_the_bridge() -> None:
    lost = domain("", network="cage", group="in")
    assert follow(lost, CAGE, frozenset({PORT})) == []
    (step,) = follow(lost, CAGE)
    first, second = (ET.fromstring(xml) for xml in step.updates)
    source = first.find("source")
    assert source is not None
    assert (first.get("type"), source.get("bridge")) == ("bridge", "tsw-0000000000")
    assert second.get("type") == "network"


def test_port_of_a_switch_with_an_uplink_may_be_forgotten() -> None:
    assert follow(domain(), OFFICE, frozenset()) == []


def test_users_are_told_by_network() -> None:
    assert users((domain(), domain("", network="cage", group="in"))) == {"office": {"web"}, "cage": {"web"}}


# --- where it may go ----------------------------------------------------------------------------------------------

VM = Vm(
    uuid=UUID(int=5),
    name="web",
    host="h1",
    state=VmState.RUNNING,
    vifs=(
        Vif(network_name="office", network_uuid=OFFICE.uuid, portgroup="lan"),
        Vif(network_name="blue", network_uuid=UUID(int=9), opaque=True),
    ),
)
ON_CAGE = replace(VM, vifs=(Vif(network_name="cage", network_uuid=CAGE.uuid, portgroup="in"),))


def refused(
    vm: Vm, host: str, state: HostState | None = HostState.REALIZED, *, move: bool = True
) -> tuple[Refusal, ...]:
    states = {s.uuid: HostSwitch(host=host, state=state, sentence="it is so") for s in (OFFICE, CAGE)} if state else {}
    return switch_refusals(vm, host, switches=(OFFICE, CAGE), states=states, move=move)


def test_host_with_the_switch_realized_is_eligible() -> None:
    assert refused(VM, "h2") == ()


def test_host_without_the_switch_is_refused_with_what_to_do() -> None:
    (refusal,) = refused(VM, "h3")
    assert (refusal.code, refusal.network_uuid) == (Code.SWITCH_ABSENT, OFFICE.uuid)
    assert refusal.sentence == (
        "switch office (port group lan), which web has a NIC on, is not on h3; put it there "
        "(vmctl switch set office --hosts h1,h2,h3) or choose one of h2"
    )


@pytest.mark.parametrize("state", [HostState.PENDING, HostState.CONFLICT, HostState.UNREAD, None])
def test_switch_that_is_not_realized_counts_as_absent_with_the_reason(state: HostState | None) -> None:
    (refusal,) = refused(VM, "h2", state)
    assert refusal.code is Code.SWITCH_ABSENT
    assert ("it is so" if state else "has not looked there yet") in refusal.sentence


def test_running_vm_does_not_leave_its_neighbours_on_an_isolated_switch_but_one_that_is_off_may_start_elsewhere() -> (
    None
):
    (refusal,) = refused(ON_CAGE, "h2")
    assert refusal.code is Code.SWITCH_ISOLATED
    assert refused(ON_CAGE, "h2", move=False) == ()
