"""A new tap in OVSDB's own words."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from hostagent.realize.ovsdb_taps import NewTap, tap_told

BRIDGES = {"b": "osw-1"}
TOLD: dict[str, Any] = {
    "Port": {"p": {"insert": {"name": "tap0", "interfaces": ["uuid", "i"]}}},
    "Interface": {"i": {"insert": {"name": "tap0", "external_ids": ["map", [["iface-id", "v"], ["vm-id", "w"]]]}}},
    "Bridge": {"b": {"modify": {"ports": ["uuid", "p"]}}},
}


def told(change: Callable[[dict[str, Any]], Any] = lambda updates: None) -> NewTap | None:
    updates = copy.deepcopy(TOLD)
    change(updates)
    return tap_told(updates, bridge_of=BRIDGES.get)


def test_a_tap_is_told_with_its_bridge_and_whose_it_is() -> None:
    assert told() == NewTap("osw-1", "tap0", 0, {"iface-id": "v", "vm-id": "w"})


def test_what_waits_for_the_plug_beside_it_changes_nothing() -> None:
    assert told(lambda of: of.update(Open_vSwitch={"o": {"modify": {"next_cfg": 7}}})) == told()


def test_a_tap_that_the_switch_has_looked_at_is_told_with_its_number() -> None:
    found = told(lambda of: of["Interface"]["i"]["insert"].update(ofport=7, mtu=1500))
    assert found is not None
    assert found.ofport == 7


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda of: of["Interface"]["i"]["insert"].update(ofport=-1), id="refused"),
        pytest.param(lambda of: of["Interface"]["i"]["insert"].update(error="no such device"), id="in error"),
        pytest.param(lambda of: of["Interface"]["i"]["insert"].pop("external_ids"), id="nobody's"),
        pytest.param(lambda of: of["Interface"].update(j=of["Interface"]["i"]), id="two interfaces"),
        pytest.param(lambda of: of["Interface"].update(j={"delete": None}), id="another goes"),
        pytest.param(lambda of: of["Interface"].update(i={"modify": {"name": "tap0"}}), id="not new"),
        pytest.param(lambda of: of["Port"]["p"]["insert"].update(interfaces=["uuid", "j"]), id="of another port"),
        pytest.param(
            lambda of: of["Port"]["p"]["insert"].update(interfaces=["set", [["uuid", "i"], ["uuid", "j"]]]), id="a bond"
        ),
        pytest.param(lambda of: of["Bridge"]["b"]["modify"].update(ports=["uuid", "q"]), id="in no bridge"),
        pytest.param(lambda of: of["Bridge"]["b"]["modify"].update(name="osw-2"), id="the bridge changes, too"),
        pytest.param(lambda of: of.update(Bridge={"c": of["Bridge"]["b"]}), id="a bridge that is not known"),
        pytest.param(lambda of: of.pop("Bridge"), id="without a bridge"),
        pytest.param(lambda of: of.update(QoS={}), id="something else beside it"),
    ],
)
def test_whatever_is_more_or_less_than_one_new_tap_is_not_told(change: Callable[[dict[str, Any]], Any]) -> None:
    assert told(change) is None
    assert told() is not None


@pytest.mark.parametrize("updates", [None, [], {}, {"Interface": 1, "Port": 2, "Bridge": 3}])
def test_what_has_another_form_is_not_told(updates: Any) -> None:
    assert tap_told(updates, bridge_of=BRIDGES.get) is None
