"""What a change costs the manager does not grow with what is there already: rows are counted, not seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any
from uuid import uuid4

import pytest

from netmgr.contract.types import NetworkType, TransportZone, ZoneKind
from netmgr.model import World
from netmgr.service import edits
from netmgr.service.specs import NetworkSpec
from netmgr.service.views import network_view
from netmgr.store import Transaction
from tests.support.netmgr_builder import Builder


class Counted(dict[Any, Any]):
    """A table that counts the rows that are looked at."""

    looks: Counter[str]
    name: str

    def __getitem__(self, key: Any) -> Any:
        self.looks[self.name] += 1
        return super().__getitem__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        self.looks[self.name] += 1
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.looks[self.name] += 1
        return super().__contains__(key)

    def __iter__(self) -> Iterator[Any]:
        for key in super().__iter__():
            self.looks[self.name] += 1
            yield key

    def values(self) -> Iterator[Any]:  # type: ignore[override]
        return (super(Counted, self).__getitem__(key) for key in self)

    def items(self) -> Iterator[Any]:  # type: ignore[override]
        return ((key, super(Counted, self).__getitem__(key)) for key in self)


def counted(world: World) -> Counter[str]:
    """Have the tables of *world* counted."""
    looks: Counter[str] = Counter()
    for field in fields(world):
        table = getattr(world, field.name)
        if isinstance(table, dict):
            one = Counted(table)
            one.looks, one.name = looks, field.name
            setattr(world, field.name, one)
    return looks


def looks_of_creation(networks: int, kind: ZoneKind) -> Counter[str]:
    build = Builder()
    zone = build.put(TransportZone(uuid=uuid4(), name="a", kind=kind))
    switch = build.switch("s", zone, pool="" if kind is ZoneKind.VLAN else "10.0.0.0/24")
    build.host("h1", zone)
    type_ = NetworkType.VLAN if kind is ZoneKind.VLAN else NetworkType.VXLAN
    first = 5000 if type_.tunneled else 2
    for number in range(networks):
        made = build.network(f"n{number}", zone, switch, segment_id=first + number)
        build.put(replace(made, type=type_))
    looks = counted(build.world)
    transaction = Transaction(build.world)
    made = edits.add_network(transaction, NetworkSpec(name="new", zone="a"), acked={})
    assert made.segment_id == first + networks
    assert transaction.changed
    network_view(build.world, made, {})
    return looks


@pytest.mark.parametrize("kind", list(ZoneKind))
def test_a_creation_looks_at_as_many_rows_among_a_thousand_networks_as_among_three(kind: ZoneKind) -> None:
    few = looks_of_creation(3, kind)
    assert few["unique"] > 0
    assert looks_of_creation(1000, kind) == few
