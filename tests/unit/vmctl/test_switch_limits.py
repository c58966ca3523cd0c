"""Which rate limits are refused before anybody relies on them, and what a host is asked for that."""

from dataclasses import replace
from uuid import UUID
from xml.etree import ElementTree as ET

import pytest

from vmctl.switches.limits import Way, needs_trial, refusal, trial_name, trial_xml, unpoliced, ways
from vmctl.switches.model import PortGroup, Rate, Switch, SwitchHost, Uplink
from vmctl.switches.network_xml import read_network

RATE = Rate(average_kib_s=1000)
IN, OUT = PortGroup(name="in", inbound=RATE), PortGroup(name="out", outbound=RATE)
H1, H2 = SwitchHost(host="h1"), SwitchHost(host="h2")
CAGE = Switch(uuid=UUID(int=1), name="cage", hosts=(H1, H2))
OFFICE = replace(CAGE, name="office", uplink=Uplink.BRIDGE)
MANAGER = UUID(int=0xABCDEF << 104)


def test_limit_of_what_a_guest_sends_is_none_in_user_space() -> None:
    said = unpoliced(replace(OFFICE, groups=(IN, OUT)), userspace=True)
    assert said.startswith("port group office/out: the bridge of office forwards in user space")
    assert unpoliced(replace(OFFICE, groups=(IN, OUT)), userspace=False) == ""
    assert unpoliced(replace(OFFICE, groups=(IN,)), userspace=True) == ""
    assert unpoliced(replace(CAGE, groups=(OUT,)), userspace=True) == "", "the kernel's own bridge"


def test_hosts_are_tried_for_what_is_new_on_them() -> None:
    one, both = replace(CAGE, groups=(IN,)), replace(CAGE, groups=(IN, OUT))
    assert ways(both) == (Way.RECEIVE, Way.SEND)
    assert needs_trial(old=None, new=one) == {"h1": (Way.RECEIVE,), "h2": (Way.RECEIVE,)}
    assert needs_trial(old=one, new=both) == {"h1": (Way.SEND,), "h2": (Way.SEND,)}
    assert needs_trial(old=replace(one, hosts=(H1,)), new=one) == {"h2": (Way.RECEIVE,)}
    assert needs_trial(old=both, new=one) == {}
    assert needs_trial(old=None, new=CAGE) == {}
    assert needs_trial(old=None, new=replace(both, uplink=Uplink.NIC)) != {}


def test_open_vswitch_keeps_limits_itself_and_is_not_tried() -> None:
    assert needs_trial(old=None, new=replace(OFFICE, groups=(IN, OUT))) == {}


@pytest.mark.parametrize("wanted", [(Way.RECEIVE,), (Way.SEND,), (Way.RECEIVE, Way.SEND)])
def test_trial_wants_these_limits_and_is_removed_as_one_of_ours_when_it_is_left_behind(wanted: tuple[Way, ...]) -> None:
    xml = trial_xml(wanted, manager=MANAGER)
    assert [each.tag for each in ET.fromstring(xml).iterfind("bandwidth/*")] == [way.value for way in wanted]
    assert read_network(xml).manager == MANAGER
    assert len(trial_name(MANAGER)) <= 15, "it is a bridge's name too"


def test_host_that_cannot_is_named_with_what_to_do() -> None:
    said = refusal(CAGE, host="h2", way=Way.SEND, reason="its kernel lacks act_police")
    assert said.startswith("h2 cannot limit what a guest sends on switch cage: its kernel lacks act_police; load")
    assert "leave --limit-out out" in said
