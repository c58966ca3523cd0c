"""Builds Worlds row by row, for tests of pure rules."""

from __future__ import annotations

from typing import TypeVar
from uuid import uuid4

from netmgr.contract.types import OpaqueNetwork, OpaqueSwitch, TransportZone
from netmgr.model import Change, HostRecord, Row, World, kind_of_row, uuid_of_row

__all__ = ["Builder"]

R = TypeVar("R", bound=Row)


class Builder:
    """A World under construction; rows by short names."""

    def __init__(self) -> None:
        self.world = World()

    def put(self, row: R) -> R:
        self.world.apply(
            Change(revision=self.world.revision + 1, kind=kind_of_row(row), uuid=uuid_of_row(row), row=row)
        )
        return row

    def remove(self, row: Row) -> None:
        self.world.apply(
            Change(revision=self.world.revision + 1, kind=kind_of_row(row), uuid=uuid_of_row(row), row=None)
        )

    def zone(self, name: str) -> TransportZone:
        return self.put(TransportZone(uuid=uuid4(), name=name))

    def switch(self, name: str, *zones: TransportZone, pool: str = "10.200.0.0/24", mtu: int = 1600) -> OpaqueSwitch:
        return self.put(
            OpaqueSwitch(uuid=uuid4(), name=name, zone_uuids=tuple(z.uuid for z in zones), vtep_pool=pool, mtu=mtu)
        )

    def host(self, name: str, *zones: TransportZone, pnics: tuple[str, ...] = ("eth0",)) -> HostRecord:
        return self.put(HostRecord(uuid=uuid4(), name=name, zone_uuids=tuple(z.uuid for z in zones), pnics=pnics))

    def network(
        self, name: str, zone: TransportZone, switch: OpaqueSwitch, *, segment_id: int = 5000, mtu: int = 1450
    ) -> OpaqueNetwork:
        return self.put(
            OpaqueNetwork(
                uuid=uuid4(),
                name=name,
                zone_uuid=zone.uuid,
                switch_uuid=switch.uuid,
                segment_id=segment_id,
                mtu=mtu,
            )
        )
