"""What a switch has accepted of one flow it accepts of another of the same form: what belongs to it, what does not."""

from __future__ import annotations

import pytest

from hostagent.flow import Flow, Match, Meter, Output, Raw, RawMatch, SetField, match
from hostagent.realize.openflow_forms import form_of


def flow(*, actions=(), table=1, **conditions) -> Flow:
    return Flow(table=table, priority=1, cookie=1, match=match(**conditions), actions=actions)


def form(one: Flow, *, delete: bool = False):
    return form_of(one, delete=delete)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (flow(in_port=1, eth_src=2), flow(in_port=7, eth_src=9)),
        (flow(eth_type=0x0800, nw_src=1), flow(eth_type=0x0800, nw_src=2)),
        (flow(actions=(SetField("reg0", 1), Output(3))), flow(actions=(SetField("reg0", 2), Output(4)))),
    ],
)
def test_addresses_registers_and_ordinary_ports_are_no_part_of_the_form(one, other):
    assert form(one) == form(other) != None  # noqa: E711


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (flow(table=1), flow(table=2)),
        (flow(eth_type=0x0800), flow(eth_type=0x0806)),
        (flow(in_port=1), flow(in_port=0xFFFFFFFE)),
        (flow(vlan_tci=0), flow(vlan_tci=0x1005)),
        (flow(actions=(Output(1),)), flow(actions=(Output(0xFFFFFFF8),))),
        (flow(actions=(SetField("reg0", 1),)), flow(actions=(SetField("reg1", 1),))),
        (flow(actions=(SetField("arp_op", 1),)), flow(actions=(SetField("arp_op", 2),))),
    ],
)
def test_what_others_depend_on_is_part_of_the_form(one, other):
    assert form(one) != form(other)


def test_to_delete_is_another_form_than_to_add():
    assert form(flow()) != form(flow(), delete=True)


@pytest.mark.parametrize(
    "one",
    [
        flow(actions=(Meter(1),)),
        flow(actions=(Raw("action", b""),)),
        Flow(table=1, priority=1, cookie=1, match=(RawMatch(1, b""),)),
        Flow(table=1, priority=1, cookie=1, match=(Match("eth_src", 3, 1),)),
    ],
)
def test_what_may_be_refused_for_itself_has_no_form(one):
    assert form(one) is None
