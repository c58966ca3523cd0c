"""Values of the manager that do not cross its border, and `World`, the whole of what it knows at one revision.

`World` is what every rule reads: validation, allocation, arbitration and span are pure functions of it. The store keeps
one up to date by applying the change log, so a rule never asks the database a question of its own. Only the store
writes to it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

from netmgr.contract.types import (
    HostReport,
    Kind,
    Learned,
    Location,
    LogicalPort,
    OpaqueNetwork,
    OpaqueSwitch,
    SecurityRule,
    TransportZone,
    VtepAssignment,
    Withdrawal,
)
from netmgr.free_numbers import FreeNumbers

__all__ = [
    "FREED_SEGMENT",
    "PORT_HISTORY",
    "TOKEN",
    "Change",
    "FreedSegment",
    "GroupRecord",
    "HostLive",
    "HostRecord",
    "JoinToken",
    "NetmgrError",
    "PortHistory",
    "Row",
    "World",
    "all_ips",
    "kind_of_row",
    "location_mac",
    "port_path",
    "unique_keys",
    "uuid_of_row",
]

# Kinds of rows that are never pushed to hosts; all others are a `Kind`.
TOKEN = "token"
FREED_SEGMENT = "freed_segment"
PORT_HISTORY = "port_history"


class NetmgrError(Exception):
    """A request that is refused; the message is the sentence for the user.

    `status` is the HTTP status that says whose fault it is: 400 bad definition, 403 not allowed, 404 unknown,
    409 in conflict with what is there, 503 not now.
    """

    def __init__(self, sentence: str, *, status: int = 400) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRecord:
    """An enrolled host. Name and zones are the operator's; VTEPs are assigned; the rest is the host's own word."""

    uuid: UUID
    name: str
    zone_uuids: tuple[UUID, ...] = ()
    vteps: tuple[VtepAssignment, ...] = ()
    pnics: tuple[str, ...] = ()
    view_address: str = ""
    boot_id: str = ""
    past_boot_ids: tuple[str, ...] = ()  # newest last, at most 16; a boot found here is a cloned identity
    certificate_sha256: str = ""  # of its DER form, lower-case hex
    public_key_sha256: str = ""  # of its SubjectPublicKeyInfo; who has this key may repeat a join whose answer was lost
    joined_at: str = ""  # RFC 3339, UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecord:
    """A security group. Its members follow from the ports, so they are not written here; `members_at` is the revision
    at which they last changed, and makes that a change of the group, which has a version and is pushed."""

    uuid: UUID
    name: str
    stateful: bool = True
    rules: tuple[SecurityRule, ...] = ()
    members_at: int = 0

    def refers_to(self) -> set[UUID]:
        """Groups whose members its rules speak of."""
        return {rule.remote_group for rule in self.rules if rule.remote_group is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """A one-use right to enrol. Only the hash of its secret is stored."""

    uuid: UUID
    secret_sha256: str
    expires_at: str  # RFC 3339, UTC
    host_name: str = ""  # empty: the host's own choice
    zone_uuids: tuple[UUID, ...] = ()
    used_by: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FreedSegment:
    """A segment id in quarantine: its network is gone, but hosts that have not said so may still carry it.

    The version of this row is the revision of the removal; `rules.freed_segments_to_release` says when it ends.
    """

    uuid: UUID  # of the removed network
    network_name: str
    switch_uuid: UUID
    segment_id: int
    host_uuids: tuple[UUID, ...] = ()  # hosts in the network's zone when it was removed


@dataclass(frozen=True, slots=True, kw_only=True)
class PortHistory:
    """What claims have told of a port. It says whose the port is when a guest comes that can't show its VIF."""

    port_uuid: UUID
    made_by: UUID | None = None  # host whose claim made the port; None: an operator or a CMS made it
    vm_uuid: UUID | None = None  # VM that it was last granted to


Row = (
    TransportZone
    | OpaqueSwitch
    | OpaqueNetwork
    | Withdrawal
    | GroupRecord
    | LogicalPort
    | Location
    | Learned
    | HostRecord
    | JoinToken
    | FreedSegment
    | PortHistory
)

_ROW_KINDS: dict[type, str] = {
    TransportZone: Kind.ZONE,
    OpaqueSwitch: Kind.SWITCH,
    OpaqueNetwork: Kind.NETWORK,
    Withdrawal: Kind.WITHDRAWAL,
    GroupRecord: Kind.SECURITY_GROUP,
    LogicalPort: Kind.PORT,
    Location: Kind.LOCATION,
    Learned: Kind.LEARNED,
    HostRecord: Kind.HOST,
    JoinToken: TOKEN,
    FreedSegment: FREED_SEGMENT,
    PortHistory: PORT_HISTORY,
}


def kind_of_row(row: Row) -> str:
    """The kind under which the store and the change log file *row*."""
    return _ROW_KINDS[type(row)]


def uuid_of_row(row: Row) -> UUID:
    """The identity of *row*; a location, what was learned and a history go by their port's."""
    return row.port_uuid if isinstance(row, Location | Learned | PortHistory) else row.uuid


def unique_keys(row: Row) -> Iterator[Hashable]:
    """Everything that no second row may have too, as keys of `World.unique`."""
    if isinstance(row, TransportZone | OpaqueSwitch | HostRecord | OpaqueNetwork | GroupRecord):
        yield "name", kind_of_row(row), row.name
    if isinstance(row, OpaqueNetwork):
        yield "segment", row.switch_uuid, row.segment_id
    elif isinstance(row, FreedSegment):
        yield "freed", row.switch_uuid, row.segment_id
    elif isinstance(row, LogicalPort):
        yield "name", Kind.PORT, row.network_uuid, row.name
        if row.vif_uuid is not None:
            yield "vif", row.vif_uuid
        if row.parent_port is not None:
            yield "tag", row.parent_port, row.tag
        if row.shadow_of is None:  # a shadow has the MAC and the addresses of its primary
            for mac in (row.mac, *(one.mac for one in row.nested)):
                yield "mac", row.network_uuid, mac
            for ip in all_ips(row):
                yield "ip", row.network_uuid, ip
    elif isinstance(row, Learned):
        for one in row.addresses:
            if not one.refused:
                yield "learned", row.network_uuid, one.address
        for seen in row.macs:
            if not seen.refused:
                yield "learned-mac", row.network_uuid, seen.mac
    elif isinstance(row, Withdrawal):
        yield "withdrawal", row.network_uuid, row.host_uuid


def all_ips(port: LogicalPort) -> tuple[str, ...]:
    """Every address that is defined for *port*: of its own MAC, and of those behind its VIF."""
    return (*port.ips, *(ip for one in port.nested for ip in one.ips))


def port_path(world: World, port: LogicalPort) -> str:
    """NETWORK/PORT, which no other port has."""
    return f"{world.networks[port.network_uuid].name}/{port.name}"


def location_mac(port: LogicalPort) -> str:
    """The MAC that the location of *port* tells peers: none for a shadow, which nobody may take for its owner."""
    return port.mac if port.shadow_of is None else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One entry of the change log. `row` is None for a deletion. All changes of a transaction share its revision."""

    revision: int
    kind: Kind | str  # a Kind, TOKEN, FREED_SEGMENT or PORT_HISTORY
    uuid: UUID
    row: Row | None


@dataclass(slots=True, kw_only=True)
class World:
    """All rows at one revision, with the revision at which each last changed in `versions`."""

    revision: int = 0
    zones: dict[UUID, TransportZone] = field(default_factory=dict)
    switches: dict[UUID, OpaqueSwitch] = field(default_factory=dict)
    networks: dict[UUID, OpaqueNetwork] = field(default_factory=dict)
    withdrawals: dict[UUID, Withdrawal] = field(default_factory=dict)
    groups: dict[UUID, GroupRecord] = field(default_factory=dict)
    ports: dict[UUID, LogicalPort] = field(default_factory=dict)
    locations: dict[UUID, Location] = field(default_factory=dict)  # by port UUID
    learned: dict[UUID, Learned] = field(default_factory=dict)  # by port UUID
    hosts: dict[UUID, HostRecord] = field(default_factory=dict)
    tokens: dict[UUID, JoinToken] = field(default_factory=dict)
    freed_segments: dict[UUID, FreedSegment] = field(default_factory=dict)
    port_histories: dict[UUID, PortHistory] = field(default_factory=dict)  # by port UUID
    versions: dict[tuple[str, UUID], int] = field(default_factory=dict)
    # indexes, kept by apply()
    ports_by_network: dict[UUID, set[UUID]] = field(default_factory=dict)
    port_by_vif: dict[UUID, UUID] = field(default_factory=dict)
    shadows_of: dict[UUID, set[UUID]] = field(default_factory=dict)  # by their primary
    subports_of: dict[UUID, set[UUID]] = field(default_factory=dict)  # by their parent
    ports_by_group: dict[UUID, set[UUID]] = field(default_factory=dict)
    groups_referring: dict[UUID, set[UUID]] = field(default_factory=dict)  # by the group that their rules speak of
    networks_by_switch: dict[UUID, set[UUID]] = field(default_factory=dict)
    withdrawals_by_network: dict[UUID, set[UUID]] = field(default_factory=dict)
    free_segments: dict[UUID, FreeNumbers] = field(default_factory=dict)  # by switch that has given any away
    hosts_by_switch: dict[UUID, list[UUID]] = field(default_factory=dict)  # those with a VTEP on it, sorted
    neighbours_at: dict[UUID, int] = field(default_factory=dict)  # by host: when its neighbours last changed
    unique: dict[Hashable, UUID] = field(default_factory=dict)  # by unique_keys()

    def apply(self, change: Change) -> None:
        """Take one committed change; changes come in the order of the log."""
        table: dict[UUID, Row] = self._table(change.kind)
        before = table.get(change.uuid)
        if before is not None:
            for key in unique_keys(before):
                if self.unique.get(key) == change.uuid:
                    del self.unique[key]
        if isinstance(before, LogicalPort):
            self.ports_by_network.get(before.network_uuid, set()).discard(before.uuid)
            if before.vif_uuid is not None and self.port_by_vif.get(before.vif_uuid) == before.uuid:
                del self.port_by_vif[before.vif_uuid]
            if before.shadow_of is not None:
                self.shadows_of[before.shadow_of].discard(before.uuid)
                if not self.shadows_of[before.shadow_of]:
                    del self.shadows_of[before.shadow_of]
            if before.parent_port is not None:
                self.subports_of[before.parent_port].discard(before.uuid)
                if not self.subports_of[before.parent_port]:
                    del self.subports_of[before.parent_port]
            for group in before.security_groups:
                self.ports_by_group[group].discard(before.uuid)
        elif isinstance(before, GroupRecord):
            for group in before.refers_to():
                self.groups_referring[group].discard(before.uuid)
        elif isinstance(before, OpaqueNetwork):
            _unfile(self.networks_by_switch, before.switch_uuid, before.uuid)
        elif isinstance(before, Withdrawal):
            _unfile(self.withdrawals_by_network, before.network_uuid, before.uuid)
        news = _seen_by_neighbours(before) != _seen_by_neighbours(change.row)
        if isinstance(before, HostRecord):
            if news:
                self._note_neighbours(before, change.revision)
            for assignment in before.vteps:
                self.hosts_by_switch[assignment.switch_uuid].remove(before.uuid)
        if change.row is None:
            table.pop(change.uuid, None)
            self.versions.pop((change.kind, change.uuid), None)
        else:
            table[change.uuid] = change.row
            self.versions[change.kind, change.uuid] = change.revision
            self.unique.update((key, change.uuid) for key in unique_keys(change.row))
            if isinstance(change.row, LogicalPort):
                self.ports_by_network.setdefault(change.row.network_uuid, set()).add(change.row.uuid)
                if change.row.vif_uuid is not None:
                    self.port_by_vif[change.row.vif_uuid] = change.row.uuid
                if change.row.shadow_of is not None:
                    self.shadows_of.setdefault(change.row.shadow_of, set()).add(change.row.uuid)
                if change.row.parent_port is not None:
                    self.subports_of.setdefault(change.row.parent_port, set()).add(change.row.uuid)
                for group in change.row.security_groups:
                    self.ports_by_group.setdefault(group, set()).add(change.row.uuid)
            elif isinstance(change.row, HostRecord):
                for assignment in change.row.vteps:
                    insort(self.hosts_by_switch.setdefault(assignment.switch_uuid, []), change.row.uuid)
                if news:
                    self._note_neighbours(change.row, change.revision)
            elif isinstance(change.row, GroupRecord):
                for group in change.row.refers_to():
                    self.groups_referring.setdefault(group, set()).add(change.row.uuid)
            elif isinstance(change.row, OpaqueNetwork):
                self.networks_by_switch.setdefault(change.row.switch_uuid, set()).add(change.row.uuid)
            elif isinstance(change.row, Withdrawal):
                self.withdrawals_by_network.setdefault(change.row.network_uuid, set()).add(change.row.uuid)
        for row in (before, change.row):
            if isinstance(row, OpaqueNetwork | FreedSegment):
                self._note_segment(row.switch_uuid, row.segment_id)
        self.revision = max(self.revision, change.revision)

    def neighbours(self, switch_uuid: UUID, host_uuid: UUID) -> list[UUID]:
        """The two hosts before and the two after a host in the ring of a switch's hosts, sorted; fewer if there are."""
        members = self.hosts_by_switch.get(switch_uuid, [])
        at = bisect_left(members, host_uuid)
        after = at + (at < len(members) and members[at] == host_uuid)
        places = (at - 2, at - 1, after, after + 1) if members else ()
        return sorted({members[place % len(members)] for place in places} - {host_uuid})

    def _note_neighbours(self, host: HostRecord, revision: int) -> None:
        for assignment in host.vteps:
            for other in self.neighbours(assignment.switch_uuid, host.uuid):
                self.neighbours_at[other] = max(self.neighbours_at.get(other, 0), revision)

    def _note_segment(self, switch_uuid: UUID, segment_id: int) -> None:
        """Whether a network has the segment id, or a quarantine keeps it, may have changed."""
        free = self.free_segments.setdefault(switch_uuid, FreeNumbers())
        if any((use, switch_uuid, segment_id) in self.unique for use in ("segment", "freed")):
            free.take(segment_id)
        else:
            free.give_back(segment_id)
            if free.all_free:
                del self.free_segments[switch_uuid]

    def switch_of_zone(self, zone_uuid: UUID) -> OpaqueSwitch | None:
        """The switch that carries a zone; a zone is on at most one."""
        return next((s for s in self.switches.values() if zone_uuid in s.zone_uuids), None)

    def withdrawal_from(self, network_uuid: UUID, host_uuid: UUID) -> Withdrawal | None:
        """What hides a network from a host: the withdrawal from this host, or else that from all."""
        for whom in (host_uuid, None):
            uuid = self.unique.get(("withdrawal", network_uuid, whom))
            if uuid is not None:
                return self.withdrawals[uuid]
        return None

    def withdrawals_of(self, network_uuid: UUID) -> list[Withdrawal]:
        """All withdrawals of a network: that from all hosts first, then by host."""
        found = [self.withdrawals[uuid] for uuid in self.withdrawals_by_network.get(network_uuid, ())]
        return sorted(found, key=lambda w: (w.host_uuid is not None, str(w.host_uuid)))

    def rows(self, kind: str) -> dict[UUID, Row]:
        """All rows of a kind by UUID; read only."""
        return self._table(kind)

    def _table(self, kind: str) -> dict[UUID, Row]:
        tables: dict[str, dict[UUID, Row]] = {
            Kind.ZONE: self.zones,  # type: ignore[dict-item]
            Kind.SWITCH: self.switches,  # type: ignore[dict-item]
            Kind.NETWORK: self.networks,  # type: ignore[dict-item]
            Kind.WITHDRAWAL: self.withdrawals,  # type: ignore[dict-item]
            Kind.SECURITY_GROUP: self.groups,  # type: ignore[dict-item]
            Kind.PORT: self.ports,  # type: ignore[dict-item]
            Kind.LOCATION: self.locations,  # type: ignore[dict-item]
            Kind.LEARNED: self.learned,  # type: ignore[dict-item]
            Kind.HOST: self.hosts,  # type: ignore[dict-item]
            TOKEN: self.tokens,  # type: ignore[dict-item]
            FREED_SEGMENT: self.freed_segments,  # type: ignore[dict-item]
            PORT_HISTORY: self.port_histories,  # type: ignore[dict-item]
        }
        return tables[kind]


@dataclass(slots=True, kw_only=True)
class HostLive:
    """What one replica knows of a host from its stream; in memory only, replaced by the next word of the host."""

    host_uuid: UUID
    connected: bool = False
    since: float = 0.0  # Unix seconds of the last change of `connected`
    acked_revision: int = 0
    wanted_revision: int = 0  # newest revision sent to it
    rejected: dict[tuple[str, UUID], str] = field(default_factory=dict)  # by the host: (kind, uuid) -> sentence
    withheld: dict[tuple[str, UUID], str] = field(default_factory=dict)  # by the manager: it could not read them
    report: HostReport = field(default_factory=HostReport)
    agent_version: str = ""

    @property
    def rejections(self) -> dict[tuple[str, UUID], str]:
        """What is not realized on the host and will not be as things are, each with the sentence why."""
        return {**self.rejected, **self.withheld} if self.withheld else self.rejected


def _unfile(index: dict[UUID, set[UUID]], under: UUID, uuid: UUID) -> None:
    index[under].discard(uuid)
    if not index[under]:
        del index[under]


def _seen_by_neighbours(row: Row | None) -> object:
    """What of a host its neighbours are told."""
    return (row.name, row.vteps) if isinstance(row, HostRecord) else None
