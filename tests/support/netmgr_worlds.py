"""Small worlds for tests: two zones, a switch and a network each, three hosts."""

from dataclasses import replace
from uuid import UUID, uuid5

from netmgr.contract.types import (
    AttachMode,
    Location,
    LogicalPort,
    OpaqueNetwork,
    OpaqueSwitch,
    TransportZone,
    VtepAssignment,
)
from netmgr.model import Change, HostRecord, Row, World, kind_of_row, uuid_of_row


def uid(name: str) -> UUID:
    """The same UUID for the same name."""
    return uuid5(UUID(int=0), name)


ZONE_A = TransportZone(uuid=uid("zone-a"), name="zone-a")
ZONE_B = TransportZone(uuid=uid("zone-b"), name="zone-b")
SWITCH_A = OpaqueSwitch(uuid=uid("sw-a"), name="sw-a", zone_uuids=(ZONE_A.uuid,), vtep_pool="10.1.0.0/24")
SWITCH_B = OpaqueSwitch(uuid=uid("sw-b"), name="sw-b", zone_uuids=(ZONE_B.uuid,), vtep_pool="10.2.0.0/24")
NET_A = OpaqueNetwork(
    uuid=uid("net-a"), name="net-a", zone_uuid=ZONE_A.uuid, switch_uuid=SWITCH_A.uuid, segment_id=5001
)
NET_B = OpaqueNetwork(
    uuid=uid("net-b"),
    name="net-b",
    zone_uuid=ZONE_B.uuid,
    switch_uuid=SWITCH_B.uuid,
    segment_id=5002,
    attach_mode=AttachMode.MANUAL,
)


def host(name: str, number: int, *zones: TransportZone) -> HostRecord:
    switches = {ZONE_A.uuid: SWITCH_A, ZONE_B.uuid: SWITCH_B}
    vteps = tuple(
        VtepAssignment(
            switch_uuid=switches[z.uuid].uuid,
            address=f"{switches[z.uuid].vtep_pool.removesuffix('0/24')}{number}/24",
        )
        for z in zones
    )
    return HostRecord(uuid=uid(name), name=name, zone_uuids=tuple(z.uuid for z in zones), vteps=vteps, pnics=("eth0",))


H1 = host("h1", 1, ZONE_A)
H2 = host("h2", 2, ZONE_A)
H3 = host("h3", 3, ZONE_B)
H4 = host("h4", 4, ZONE_A, ZONE_B)
VIF = uid("vif-1")
PORT = LogicalPort(uuid=uid("port-1"), name="vm1", network_uuid=NET_A.uuid, vif_uuid=VIF, mac="52:54:00:00:00:01")

BASE: tuple[Row, ...] = (ZONE_A, ZONE_B, SWITCH_A, SWITCH_B, H1, H2, H3, H4, NET_A, NET_B)


def world_of(*rows: Row) -> World:
    """A world with the base rows and *rows*, one revision each."""
    world = World()
    put(world, *BASE, *rows)
    return world


def put(world: World, *rows: Row) -> None:
    """One transaction a row."""
    for row in rows:
        world.apply(Change(revision=world.revision + 1, kind=kind_of_row(row), uuid=uuid_of_row(row), row=row))


def drop(world: World, row: Row) -> None:
    """A transaction that deletes *row*."""
    world.apply(Change(revision=world.revision + 1, kind=kind_of_row(row), uuid=uuid_of_row(row), row=None))


def held(at: HostRecord | None = None, *, incoming: HostRecord | None = None, **more: object) -> Location:
    """The location of PORT: held at one host, coming to another."""
    location = Location(port_uuid=PORT.uuid, network_uuid=NET_A.uuid, mac=PORT.mac, version=7)
    if at is not None:
        location = replace(location, holder_host=at.uuid, holder_vtep=vtep(at))
    if incoming is not None:
        location = replace(location, incoming_host=incoming.uuid, incoming_vtep=vtep(incoming))
    return replace(location, **more)  # type: ignore[arg-type]


def vtep(record: HostRecord) -> str:
    return record.vteps[0].address.split("/")[0]
