"""Which MACs an uplink bridge must forget."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hostagent.model import Desired, Observed, Phase
from hostagent.strays import Stray, believed, strays
from netmgr.contract.types import NestedMac, NetworkType, Teaming
from tests.support.hostagent_worlds import bare, desired, location, named, network, port, settled, switch

PNICS = ("eth1", "eth2")
ONE = port("one", 1)
SHOWN = """ port  VLAN  MAC                Age
LOCAL     0  5a:ff:73:3b:7c:47   37
    2     0  ba:c4:4d:0c:e3:45   36
    3   100  02:00:00:00:00:01    2
    3   100  02:00:00:00:00:02  static
"""


def world(
    holder: str | None,
    *,
    incoming: str | None = None,
    phase: Phase = Phase.STEADY,
    teaming: Teaming = Teaming.BALANCE,
    kind: NetworkType = NetworkType.VLAN,
) -> Desired:
    wanted = desired(
        switches=[switch(pnics=("eth*",), teaming=teaming)],
        networks=[network(segment=100, kind=kind)],
        ports=[ONE],
        locations=[location(ONE, holder, incoming=incoming)],
        pnics=PNICS,
    )
    return replace(wanted, phases={ONE.uuid: phase} if phase is not Phase.STEADY else {})


def found(wanted: Desired) -> frozenset[Stray]:
    there: Observed = settled(replace(wanted, ports={}, locations={}, phases={}), bare(*PNICS))
    return strays(wanted, there)


@pytest.mark.parametrize(
    ("wanted", "stray"),
    [
        (world("h1"), False),
        (world("h1", incoming="h2"), False),
        (world("h1", incoming="h2", phase=Phase.REDIRECTING), True),
        (world("h2", phase=Phase.RELAYING), True),
        (world("h2"), True),
        (world("h2", incoming="h1", phase=Phase.INCOMING), True),
        (world("h2", incoming="h1", phase=Phase.ACTIVATED), False),
        (world(None), False),
        (world("h2", teaming=Teaming.ACTIVE_BACKUP), False),
        (world("h2", teaming=Teaming.LACP), False),
        (world("h2", kind=NetworkType.VXLAN), False),
    ],
)
def test_a_mac_is_to_be_forgotten_where_its_guest_is_not(wanted: Desired, stray: bool) -> None:
    macs = [(one.port, one.vlan, one.mac) for one in found(wanted)]
    assert macs == ([(f"trunk-{named('s1').hex[:8]}", 100, ONE.mac)] if stray else [])


def test_macs_behind_a_port_go_with_it() -> None:
    wanted = world("h2")
    behind = replace(ONE, nested=(NestedMac(mac="02:00:00:00:00:99"),))
    assert {one.mac for one in found(replace(wanted, ports={ONE.uuid: behind}))} == {ONE.mac, "02:00:00:00:00:99"}


def test_what_a_bridge_believes_is_read_without_its_own_address_and_what_was_set() -> None:
    assert believed(SHOWN) == {(2, 0, "ba:c4:4d:0c:e3:45"), (3, 100, "02:00:00:00:00:01")}
