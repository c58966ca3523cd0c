"""Names and the ownership mark."""

from __future__ import annotations

from uuid import UUID

import pytest

from hostagent.names import (
    bond_port,
    exit_port,
    is_ours,
    is_tap_of,
    network_key,
    switch_bridge,
    tunnel_port,
    uplink_bridge,
)
from netmgr.contract.types import NetworkType

SWITCH = UUID("0123456789abcdef0123456789abcdef")


def test_names_are_functions_of_identities():
    assert switch_bridge(SWITCH) == "osw-0123456789"
    assert tunnel_port(NetworkType.VXLAN, SWITCH) == "vxlan-01234567"
    assert tunnel_port(NetworkType.GENEVE, SWITCH) == "genev-01234567"
    assert tunnel_port(NetworkType.NVGRE, SWITCH) == "nvgre-01234567"


def test_an_uplink_is_named_by_its_set_of_pnics_in_any_order():
    assert uplink_bridge(["eth2", "eth1"]) == uplink_bridge(("eth1", "eth2"))
    assert uplink_bridge(["eth1"]) != uplink_bridge(["eth2"])


@pytest.mark.parametrize(
    "name",
    [
        switch_bridge(SWITCH),
        uplink_bridge(["a"]),
        bond_port(["a", "b"]),
        *(exit_port(t, SWITCH) for t in NetworkType),
    ],
)
def test_names_fit_the_kernel(name):
    assert len(name) <= 15


def test_only_the_whole_mark_makes_a_thing_ours():
    assert is_ours({"opaque-owner": "hostagent", "iface-id": "x"})
    assert not is_ours({"opaque-owner": "somebody"})
    assert not is_ours({"opaque-switch": str(SWITCH)})


def test_a_network_goes_by_the_first_half_of_its_uuid():
    assert network_key(SWITCH) == 0x0123456789ABCDEF


def test_a_tap_has_its_guests_mac_but_for_the_first_byte():
    assert is_tap_of("52:54:00:00:00:01", tap="fe:54:00:00:00:01")
    assert not is_tap_of("52:54:00:00:00:01", tap="52:54:00:00:00:01")
    assert not is_tap_of("52:54:00:00:00:01", tap="fe:54:00:00:00:02")
    assert not is_tap_of("", tap="fe")
