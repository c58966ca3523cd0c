"""The manager's metrics, as Prometheus reads them."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

from prometheus_client.parser import text_string_to_metric_families

from netmgr.contract.types import Learned, LearnedAddress, LearnedMac, LearnedSource
from netmgr.model import World
from netmgr.sync.metrics import metrics_text
from tests.support.netmgr_worlds import PORT, held, world_of


def samples(world: World) -> dict[str, dict[tuple[str, ...], float]]:
    """By name: values by labels. Families without samples are there too."""
    hub = SimpleNamespace(world=world, fleet=SimpleNamespace(lives=dict), counts=Counter[str]())
    text = metrics_text(cast(Any, hub)).decode()
    return {
        family.name: {tuple(one.labels.values()): one.value for one in family.samples}
        for family in text_string_to_metric_families(text)
    }


def test_what_guests_use_is_counted_by_network_theirs_and_not_theirs() -> None:
    refused = "it is another's"
    row = Learned(
        port_uuid=PORT.uuid,
        network_uuid=PORT.network_uuid,
        addresses=(
            LearnedAddress(address="10.0.0.5", source=LearnedSource.ARP),
            LearnedAddress(address="10.0.0.6", source=LearnedSource.ND),
            LearnedAddress(address="10.0.0.7", source=LearnedSource.ARP, refused=refused),
        ),
        macs=(LearnedMac(mac="02:00:00:00:00:07", refused=refused),),
    )
    found = samples(world_of(PORT, held(), row))
    assert found["netmgr_learned_addresses"] == {("net-a",): 2}
    assert found["netmgr_refused_addresses"] == {("net-a",): 1}
    assert found["netmgr_learned_macs"] == {("net-a",): 0}
    assert found["netmgr_refused_macs"] == {("net-a",): 1}
    assert found["netmgr_address_conflicts"] == {(): 2}


def test_a_manager_that_has_learned_nothing_says_so_once_and_not_for_each_network() -> None:
    found = samples(world_of(PORT, held()))
    assert found["netmgr_address_conflicts"] == {(): 0}
    assert found["netmgr_learned_addresses"] == {}
