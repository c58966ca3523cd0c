"""What only this host knows and keeps: endpoints that it made, ports to be retired, phases that a timer ends, zones.

Four tables in the agent's database, beside what the manager pushed (`state`). An *endpoint* is a VIF without a virtual
machine, made by `hostagent port attach`: the record is written before the device is made and removed after it is gone,
so that whatever ends the agent in between, the next start knows what to make or to take away. A *retirement* is
a port that the manager is to delete, because it went with its endpoint. A *relay* is a port whose
phase lasts until a moment (see `migration`); it lets a host that has just given a port away go on relaying although its
agent was restarted. A *zone* of the connection tracker belongs to a port with stateful groups (`ct_zones`): the agent's
next life must know it, for the connections in it. Tables are made where they are missing: an older database needs no
conversion.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from uuid import UUID

from hostagent.model import Phase

__all__ = [
    "Endpoint",
    "EndpointKind",
    "Records",
    "Relay",
    "VifRecord",
    "read_ct_zones",
    "read_last_word",
    "read_seen",
    "read_vifs",
    "vif_row",
]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS endpoints (
    vif_uuid TEXT PRIMARY KEY, port_uuid TEXT NOT NULL, network_uuid TEXT NOT NULL, kind TEXT NOT NULL,
    device TEXT NOT NULL, netns TEXT NOT NULL, ifname TEXT NOT NULL, mac TEXT NOT NULL, addresses TEXT NOT NULL,
    name TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS retirements (port_uuid TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS relays (
    port_uuid TEXT PRIMARY KEY, phase TEXT NOT NULL, vtep TEXT NOT NULL, until_unix REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ct_zones (port_uuid TEXT PRIMARY KEY, zone INTEGER NOT NULL UNIQUE) WITHOUT ROWID;
"""


class EndpointKind(StrEnum):
    NETNS = "netns"  # one end of a veth in a network namespace
    INTERNAL = "internal"  # a kernel interface of the host itself
    PNIC = "pnic"  # a physical NIC with a physical host behind it


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A VIF that this host makes. `device` is the OVS port; `ifname` is its name where it is used."""

    vif_uuid: UUID
    port_uuid: UUID
    network_uuid: UUID
    kind: EndpointKind
    device: str
    netns: str = ""  # path of the network namespace; empty for the host's own
    ifname: str
    mac: str
    addresses: tuple[str, ...] = ()  # CIDRs
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """A port whose guest has left, and whose frames are sent on for a while."""

    port_uuid: UUID
    phase: Phase
    vtep: str
    until_unix: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VifRecord:
    """One line of the VIF mapping table: VIF → logical port → OVS port, as last known on this host.

    No port: a guest that was let in dark, on a network whose ports are made for it."""

    vif_uuid: UUID
    port_uuid: UUID | None
    network_uuid: UUID
    mac: str = ""
    vm_uuid: UUID | None = None
    vm_name: str = ""
    ovs_port: str = ""


class Records:
    """The tables, held in memory too; each change is on disk when the call returns."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        db.executescript(_SCHEMA)
        self.endpoints: dict[UUID, Endpoint] = {}
        self.relays: dict[UUID, Relay] = {}
        self.retirements = {UUID(port) for (port,) in db.execute("SELECT port_uuid FROM retirements")}
        self.ct_zones = read_ct_zones(db)
        names = ", ".join(_COLUMNS)
        for row in db.execute(f"SELECT {names} FROM endpoints"):
            endpoint = _endpoint(dict(zip(_COLUMNS, row, strict=True)))
            self.endpoints[endpoint.vif_uuid] = endpoint
        for port, phase, vtep, until in db.execute("SELECT * FROM relays"):
            self.relays[UUID(port)] = Relay(port_uuid=UUID(port), phase=Phase(phase), vtep=vtep, until_unix=until)

    def put_endpoint(self, endpoint: Endpoint) -> None:
        """Write one endpoint, new or changed."""
        values = {**asdict(endpoint), "addresses": ",".join(endpoint.addresses)}
        marks = ", ".join("?" for _ in _COLUMNS)
        with self._db:
            self._db.execute(f"REPLACE INTO endpoints VALUES ({marks})", [str(values[name]) for name in _COLUMNS])
        self.endpoints[endpoint.vif_uuid] = endpoint

    def drop_endpoint(self, vif_uuid: UUID) -> None:
        if self.endpoints.pop(vif_uuid, None) is not None:
            with self._db:
                self._db.execute("DELETE FROM endpoints WHERE vif_uuid = ?", (str(vif_uuid),))

    def put_retirement(self, port_uuid: UUID) -> None:
        """Write down that the port is to be deleted."""
        self.retirements.add(port_uuid)
        with self._db:
            self._db.execute("REPLACE INTO retirements VALUES (?)", (str(port_uuid),))

    def drop_retirement(self, port_uuid: UUID) -> None:
        if port_uuid in self.retirements:
            self.retirements.discard(port_uuid)
            with self._db:
                self._db.execute("DELETE FROM retirements WHERE port_uuid = ?", (str(port_uuid),))

    def put_ct_zone(self, port_uuid: UUID, zone: int) -> None:
        """Write down which zone of the connection tracker is the port's."""
        with self._db:
            self._db.execute("REPLACE INTO ct_zones VALUES (?, ?)", (str(port_uuid), zone))
        self.ct_zones[port_uuid] = zone

    def drop_ct_zone(self, port_uuid: UUID) -> None:
        if port_uuid in self.ct_zones:
            with self._db:
                self._db.execute("DELETE FROM ct_zones WHERE port_uuid = ?", (str(port_uuid),))
            del self.ct_zones[port_uuid]

    def put_relay(self, relay: Relay) -> None:
        """Write one relay; a later one of the same port replaces it."""
        self.relays[relay.port_uuid] = relay
        with self._db:
            self._db.execute(
                "REPLACE INTO relays VALUES (?, ?, ?, ?)",
                (str(relay.port_uuid), relay.phase.value, relay.vtep, relay.until_unix),
            )

    def drop_relay(self, port_uuid: UUID) -> None:
        if self.relays.pop(port_uuid, None) is not None:
            with self._db:
                self._db.execute("DELETE FROM relays WHERE port_uuid = ?", (str(port_uuid),))


def read_ct_zones(db: sqlite3.Connection) -> dict[UUID, int]:
    """Zones by port; of an older database, which has no such table, none."""
    try:
        return {UUID(port): zone for port, zone in db.execute("SELECT port_uuid, zone FROM ct_zones")}
    except sqlite3.OperationalError:
        return {}


_COLUMNS = tuple(field.name for field in fields(Endpoint))


def _endpoint(row: dict[str, str]) -> Endpoint:
    return Endpoint(
        vif_uuid=UUID(row["vif_uuid"]),
        port_uuid=UUID(row["port_uuid"]),
        network_uuid=UUID(row["network_uuid"]),
        kind=EndpointKind(row["kind"]),
        device=row["device"],
        netns=row["netns"],
        ifname=row["ifname"],
        mac=row["mac"],
        addresses=tuple(address for address in row["addresses"].split(",") if address),
        name=row["name"],
    )


def read_vifs(db: sqlite3.Connection) -> dict[UUID, VifRecord]:
    """The VIF mapping table, of which `state` keeps the lines."""
    return {
        UUID(vif): VifRecord(
            vif_uuid=UUID(vif),
            port_uuid=UUID(port) if port else None,
            network_uuid=UUID(network),
            mac=mac,
            vm_uuid=UUID(vm) if vm else None,
            vm_name=vm_name,
            ovs_port=ovs_port,
        )
        for vif, port, network, mac, vm, vm_name, ovs_port in db.execute("SELECT * FROM vifs")
    }


def read_last_word(db: sqlite3.Connection) -> tuple[str, int, frozenset[UUID] | None]:
    """Of the manager's last word, which `state` keeps: the store, the revision, and the networks whose ports it was of;
    None where it was taken by a version of the agent that did not note them."""
    meta = dict(db.execute("SELECT key, value FROM meta"))
    told = frozenset(map(UUID, meta["told"].split())) if "told" in meta else None
    return meta.get("store_id", ""), int(meta.get("revision", "0")), told


def read_seen(db: sqlite3.Connection, held: Mapping[str, int]) -> dict[UUID, int]:
    """By port: the newest version of its location that was seen, where it is newer than what is *held*: little, of ten
    thousand ports."""
    seen = db.execute("SELECT * FROM seen")
    return {UUID(port): version for port, version in seen if version > held.get(port, 0)}


def vif_row(record: VifRecord) -> tuple[str, ...]:
    """As the table has it."""
    return (
        str(record.vif_uuid),
        str(record.port_uuid or ""),
        str(record.network_uuid),
        record.mac,
        str(record.vm_uuid or ""),
        record.vm_name,
        record.ovs_port,
    )
