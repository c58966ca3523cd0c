"""What the agent knows when it starts: SQLite on the host's disk.

Theory of operation. Everything the manager pushed is kept (`kept_objects`), with the store it came from; so an agent
that starts without a manager realizes its last word, and one that reconnects says what it has and is sent the
difference. Beside it: the VIF mapping table, notes of migrations that libvirt announced, and for every port the highest
version of its location ever seen, which outlives the object: a manager restored from a backup can't revive a claim that
was fenced since (rule 13).

Writes are durable (WAL, `synchronous=FULL`) and made in one transaction a batch: at once, or beside the loop
(`write_beside`), where memory is ahead of the disk for a moment. All values are held in memory, reads never touch the
disk. A database that can't be read is moved aside with a sentence and an empty one begun: the manager sends everything
again, and what is realized stays until it has.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
from google.protobuf.message import DecodeError

from hostagent import kept_objects
from hostagent.indexed import Indexed
from hostagent.journal import Journal, Statement
from hostagent.records import Records, VifRecord, read_ct_zones, read_last_word, read_seen, read_vifs, vif_row
from netmgr.contract.codec import ContractError
from netmgr.contract.types import (
    Constructs,
    HostConfig,
    Kind,
    Learned,
    Location,
    LogicalPort,
    Object,
    OpaqueNetwork,
    OpaqueSwitch,
    Ref,
    SecurityGroup,
    TransportZone,
    Withdrawal,
    identity_of,
    kind_of,
    ref_of,
)

__all__ = ["State", "StateError", "VifRecord"]

log = structlog.get_logger(__name__)

_SCHEMA_VERSION = 2
_SCHEMA = f"""
{kept_objects.TABLE}
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE seen (port_uuid TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE vifs (
    vif_uuid TEXT PRIMARY KEY, port_uuid TEXT NOT NULL, network_uuid TEXT NOT NULL, mac TEXT NOT NULL,
    vm_uuid TEXT NOT NULL, vm_name TEXT NOT NULL, ovs_port TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE notes (vm_uuid TEXT PRIMARY KEY, at_unix REAL NOT NULL) WITHOUT ROWID;
"""
_TABLES = {
    Kind.ZONE: "zones",
    Kind.SWITCH: "switches",
    Kind.NETWORK: "networks",
    Kind.WITHDRAWAL: "withdrawals",
    Kind.SECURITY_GROUP: "groups",
    Kind.PORT: "ports",
    Kind.LOCATION: "locations",
    Kind.LEARNED: "learned",
}
_SMALL = frozenset(_TABLES) - {Kind.PORT, Kind.LOCATION, Kind.LEARNED}
_DROP_VIF = "DELETE FROM vifs WHERE vif_uuid = ?"


class StateError(Exception):
    """What should be kept could not be written; nothing of it is remembered."""


class State:
    """The agent's memory. Use from one thread; open a second one with `read_only` to look at it from outside."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        self.store_id = ""
        self.revision = 0  # of the last whole Update, realized or not
        self.told: frozenset[UUID] | None = None  # networks whose ports it was of; None before any that said so
        self.host: HostConfig | None = None
        # Those that are small are copied before they are changed: who has one has it as it was.
        self.zones: Mapping[UUID, TransportZone] = {}
        self.switches: Mapping[UUID, OpaqueSwitch] = {}
        self.networks: Mapping[UUID, OpaqueNetwork] = {}
        self.withdrawals: Mapping[UUID, Withdrawal] = {}
        self.groups: Mapping[UUID, SecurityGroup] = {}
        self.ports: Indexed[LogicalPort] = Indexed()
        self.locations: Indexed[Location] = Indexed()
        self.learned: Indexed[Learned] = Indexed()  # by port
        self.port_by_vif: dict[UUID, UUID] = {}
        self.subports: dict[UUID, set[UUID]] = {}  # by their parent
        self.parents: dict[UUID, UUID] = {}  # of sub-ports
        self.vifs: dict[UUID, VifRecord] = {}
        self.notes: dict[UUID, float] = {}
        self._versions: dict[Kind, dict[UUID, int]] = {kind: {} for kind in Kind}
        self.refused_locations: dict[UUID, str] = {}
        """By port: why the location last sent was refused; gone with the next good one."""
        self._seen: dict[UUID, int] = {}  # where it is not the version of the location that is held
        self.ct_zones: dict[UUID, int]
        """By port: its zone of the connection tracker, as `records` keeps it."""
        self.records: Records
        """Endpoints and relays; only where the database may be written."""
        self._statements: list[Statement] = []  # of the batch that is being taken
        self._copied: set[Kind] = set()  # tables that are the batch's own
        self._losses = 0
        self._turned = asyncio.Event()
        self._db = self._open(read_only)
        self._journal = Journal(path, self._db)

    def close(self) -> None:
        self._journal.close()
        self._db.close()

    # --- when it is on the disk ------------------------------------------------------------------------------------

    def write_beside(self, *, saved: Callable[[], None], lost: Callable[[str], None]) -> None:
        """From now on don't make the running loop wait for the disk. *saved* is called after each commit; *lost* with
        the sentence, after the disk refused and memory was made what the disk holds."""

        def on_saved() -> None:
            self._turn()
            saved()

        def on_lost(error: sqlite3.Error) -> None:
            self._losses += 1
            self._reload()
            self._turn()
            lost(self._sentence(error))

        self._journal.begin(saved=on_saved, lost=on_lost)

    @property
    def mark(self) -> int:
        """Where memory is: compare with `mark_saved`."""
        return self._journal.given

    @property
    def mark_saved(self) -> int:
        """Where the disk is."""
        return self._journal.done

    async def saved(self) -> None:
        """Return when all that is in memory now is on the disk.

        Raises:
            StateError: the disk refused; some of it is neither there nor in memory any more.
        """
        mark, losses = self.mark, self._losses
        while self.mark_saved < mark and self._losses == losses:
            await self._turned.wait()
        if self._losses != losses:
            raise StateError(f"{self._path} can't be written; free disk space or repair the disk")

    def _turn(self) -> None:
        self._turned.set()
        self._turned = asyncio.Event()

    def _reload(self) -> None:
        self._forget_all()
        self._load(self._db)

    def _sentence(self, error: sqlite3.Error) -> str:
        return f"{self._path} can't be written ({error}); free disk space or repair the disk"

    # --- what the manager pushed -----------------------------------------------------------------------------------

    def have(self) -> tuple[Ref, ...]:
        """Everything held."""
        return tuple(
            Ref(kind=kind, uuid=uuid, version=version)
            for kind, versions in self.held()
            for uuid, version in versions.items()
        )

    def held(self) -> Iterable[tuple[Kind, Mapping[UUID, int]]]:
        """The versions of everything held, by kind."""
        return self._versions.items()

    def take(
        self,
        upserts: Iterable[Object],
        removals: Iterable[Ref] = (),
        *,
        revision: int | None = None,
        told: frozenset[UUID] | None = None,
    ) -> tuple[Ref, ...]:
        """Keep *upserts*, drop *removals*, in one durable transaction; references that really changed. *told* are the
        networks whose ports are all here by now.

        A location older than the newest ever seen for its port is refused, and left out of the answer.

        Raises:
            StateError: the disk refused; then memory is again what the disk holds. Not after `write_beside`.
        """
        changed: list[Ref] = []
        self._statements, self._copied = [], set()
        for ref in removals:
            if self._drop(ref.kind, ref.uuid):
                changed.append(Ref(kind=ref.kind, uuid=ref.uuid))
        for item in upserts:
            if self._keep(item):
                changed.append(ref_of(item))
        if revision is not None:
            self._write("REPLACE INTO meta VALUES (?, ?)", ("revision", str(revision)))
        if told is not None and told != self.told:
            self._write("REPLACE INTO meta VALUES (?, ?)", ("told", " ".join(map(str, told))))
            self.told = told
        try:
            self._journal.write(self._statements)
        except sqlite3.Error as error:
            self._reload()
            raise StateError(self._sentence(error)) from None
        if revision is not None:
            self.revision = revision
        return tuple(changed)

    def take_answer(self, items: Iterable[Object]) -> tuple[Ref, ...]:
        """Keep what the answer to a claim brought; references that really changed.

        An answer may be overtaken by a push that was made after it: what is held in a newer version stays. Only a push
        may go back, because a restored store's word is the store's word.

        Raises:
            StateError: the disk refused.
        """
        return self.take([item for item in items if item.version >= self._held_version(ref_of(item))])

    def keep_only(self, refs: Iterable[Ref]) -> tuple[Ref, ...]:
        """Drop every object that *refs* do not name: the end of a first difference from another store."""
        wanted = {(ref.kind, ref.uuid) for ref in refs}
        surplus = [Ref(kind=ref.kind, uuid=ref.uuid) for ref in self.have() if (ref.kind, ref.uuid) not in wanted]
        return self.take((), surplus)

    def set_store(self, store_id: str) -> None:
        """Remember which store the objects come from."""
        with self._db:
            self._db.execute("REPLACE INTO meta VALUES ('store_id', ?)", (store_id,))
        self.store_id = store_id

    def newest_location(self, port_uuid: UUID) -> int:
        """The highest version of this port's location ever seen; 0 for none."""
        held = self.locations.get(port_uuid)
        return max(self._seen.get(port_uuid, 0), held.version if held is not None else 0)

    def hidden(self) -> dict[UUID, Withdrawal]:
        """By network: what hides it from this host; of two, the one that names this host."""
        ordered = sorted(self.withdrawals.values(), key=lambda item: item.host_uuid is not None)
        return {item.network_uuid: item for item in ordered}

    # --- what the host itself knows --------------------------------------------------------------------------------

    def put_vif(self, record: VifRecord) -> None:
        """Write one line of the mapping table; see `put_vifs`."""
        self.put_vifs([record])

    def put_vifs(self, records: Iterable[VifRecord]) -> None:
        """Write lines of the mapping table, in one transaction. They take the place of those that other VIFs have of
        the same ports.

        Raises:
            StateError: the disk refused; then the table is as before. Not after `write_beside`.
        """
        news = {record.vif_uuid: record for record in records if self.vifs.get(record.vif_uuid) != record}
        if not news:
            return
        ports = {record.port_uuid for record in news.values()} - {None}
        before = [vif for vif, record in self.vifs.items() if record.port_uuid in ports and vif not in news]
        rows: list[Statement] = [(_DROP_VIF, (str(vif),)) for vif in before]
        rows += [("REPLACE INTO vifs VALUES (?, ?, ?, ?, ?, ?, ?)", vif_row(record)) for record in news.values()]
        try:
            self._journal.write(rows)
        except sqlite3.Error as error:
            raise StateError(self._sentence(error)) from None
        for vif in before:
            del self.vifs[vif]
        self.vifs.update(news)

    def remember_ovs_ports(self, seen: Mapping[UUID, str]) -> None:
        """Note under which OVS port each VIF of the mapping table was seen last."""
        known = ((self.vifs[vif], name) for vif, name in seen.items() if vif in self.vifs)
        self.put_vifs(replace(record, ovs_port=name) for record, name in known if record.ovs_port != name)

    def forget_vifs(self, *, but: Collection[UUID]) -> None:
        """Drop lines of the mapping table that lead nowhere: their port was never made, is deleted, or lives elsewhere
        and is not pushed to this host any more. *but*: VIFs that are here or about to be."""
        stale = [vif for vif, record in self.vifs.items() if record.port_uuid not in self.ports and vif not in but]
        for vif in stale:
            del self.vifs[vif]
        self._journal.write([(_DROP_VIF, (str(vif),)) for vif in stale])

    def note_migration(self, vm_uuid: UUID, *, at_unix: float) -> None:
        """libvirt said that this VM is migrating in."""
        self.notes[vm_uuid] = at_unix
        with self._db:
            self._db.execute("REPLACE INTO notes VALUES (?, ?)", (str(vm_uuid), at_unix))

    def forget_migration(self, vm_uuid: UUID) -> None:
        """The VM has arrived, or will not: what libvirt announced is over."""
        if self.notes.pop(vm_uuid, None) is not None:
            with self._db:
                self._db.execute("DELETE FROM notes WHERE vm_uuid = ?", (str(vm_uuid),))

    def forget_migrations(self, *, before_unix: float) -> None:
        """Drop notes older than this moment."""
        stale = [vm for vm, at in self.notes.items() if at < before_unix]
        if not stale:
            return
        for vm in stale:
            del self.notes[vm]
        with self._db:
            self._db.execute("DELETE FROM notes WHERE at_unix < ?", (before_unix,))

    # --- inside ----------------------------------------------------------------------------------------------------

    def _keep(self, item: Object) -> bool:
        ref = ref_of(item)
        body = item.body
        if isinstance(body, Location):
            newest = self.newest_location(ref.uuid)
            if body.version < newest:
                sentence = (
                    f"port {ref.uuid}: location version {body.version} is older than {newest}, which this host has"
                    " seen; was the manager's store restored from a backup?"
                )
                log.warning("location refused", reason=sentence)
                self.refused_locations[ref.uuid] = sentence
                self._acknowledge_version(ref, item.version)
                return False
            self.refused_locations.pop(ref.uuid, None)
            if body.version > newest:
                self._seen.pop(ref.uuid, None)
                self._write("REPLACE INTO seen VALUES (?, ?)", (str(ref.uuid), body.version))
        same = self._versions[ref.kind].get(ref.uuid) == item.version and self._table(ref.kind).get(ref.uuid) == body
        if not same:
            self._write("REPLACE INTO objects VALUES (?, ?, ?)", kept_objects.row(item))
            self._remember(item)
        return not same

    def _acknowledge_version(self, ref: Ref, version: int) -> None:
        """The manager's row is at *version*, and ours keeps its body: the next difference is taken against that row."""
        body = self._table(ref.kind).get(ref.uuid)
        if body is None or self._versions[ref.kind].get(ref.uuid) == version:
            return
        self._write("REPLACE INTO objects VALUES (?, ?, ?)", kept_objects.row(Object(version=version, body=body)))
        self._versions[ref.kind][ref.uuid] = version

    def _held_version(self, ref: Ref) -> int:
        return self._versions[ref.kind].get(ref.uuid, 0)

    def _remember(self, item: Object) -> None:
        ref = ref_of(item)
        self._unindex(ref.kind, ref.uuid)
        self._versions[ref.kind][ref.uuid] = item.version
        self._for_change(ref.kind)[ref.uuid] = item.body
        if isinstance(item.body, HostConfig):
            self.host = item.body
        elif isinstance(item.body, LogicalPort):
            self._index(item.body)

    def _index(self, port: LogicalPort) -> None:
        if port.vif_uuid is not None:
            self.port_by_vif[port.vif_uuid] = port.uuid
        if port.parent_port is not None:
            self.subports.setdefault(port.parent_port, set()).add(port.uuid)
            self.parents[port.uuid] = port.parent_port

    def _drop(self, kind: Kind, uuid: UUID) -> bool:
        if self._versions[kind].pop(uuid, None) is None:
            return False
        self._unindex(kind, uuid)
        if kind is Kind.LOCATION:
            self._seen[uuid] = self.newest_location(uuid)
        del self._for_change(kind)[uuid]
        if kind is Kind.HOST:
            self.host = None
        if kind is Kind.LOCATION:
            self.refused_locations.pop(uuid, None)
        self._write("DELETE FROM objects WHERE kind = ? AND uuid = ?", (kind.value, str(uuid)))
        return True

    def _unindex(self, kind: Kind, uuid: UUID) -> None:
        if kind is Kind.PORT:
            before = self.ports.get(uuid)
            if before is not None and before.vif_uuid is not None and self.port_by_vif.get(before.vif_uuid) == uuid:
                del self.port_by_vif[before.vif_uuid]
            if before is not None and before.parent_port is not None:
                self.subports.get(before.parent_port, set()).discard(uuid)
                self.parents.pop(uuid, None)

    def _table(self, kind: Kind) -> Mapping[UUID, Constructs]:
        return self._hosts if kind is Kind.HOST else getattr(self, _TABLES[kind])

    def _for_change(self, kind: Kind) -> dict[UUID, Any]:
        """The table, for a batch that has begun by emptying `_copied`."""
        if kind in _SMALL and kind not in self._copied:
            self._copied.add(kind)
            setattr(self, _TABLES[kind], {**self._table(kind)})
        return self._table(kind)  # type: ignore[return-value]

    def _write(self, sql: str, values: Sequence[Any]) -> None:
        self._statements.append((sql, values))

    def _open(self, read_only: bool) -> sqlite3.Connection:
        self._hosts: dict[UUID, Constructs] = {}
        if read_only:
            db = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)
            self._load(db)
            self.ct_zones = read_ct_zones(db)
            return db
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            return self._open_file()
        except (sqlite3.DatabaseError, ContractError, DecodeError, ValueError) as error:
            aside = self._path.with_name(f"{self._path.name}.damaged-{int(time.time())}")
            for suffix in ("", "-wal", "-shm"):
                part = Path(f"{self._path}{suffix}")
                if part.exists():
                    part.rename(f"{aside}{suffix}")
            log.error(
                "state database unreadable: moved aside, beginning empty; the manager sends everything again",
                path=str(self._path),
                moved_to=str(aside),
                error=str(error),
            )
            State._forget_all(self)
            return self._open_file()

    def _open_file(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=5)
        try:
            self._path.chmod(0o600)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")
            elif version == 1:
                with db:
                    db.execute("BEGIN")
                    kept_objects.from_messages(db)
                    db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            elif version != _SCHEMA_VERSION:
                raise sqlite3.DatabaseError(f"made by another version of the agent (schema {version})")
            self._load(db)
            self.records = Records(db)
            self.ct_zones = self.records.ct_zones
        except BaseException:
            db.close()
            raise
        return db

    def _load(self, db: sqlite3.Connection) -> None:
        self._copied = set()
        self.store_id, self.revision, self.told = read_last_word(db)
        texts: dict[str, int] = {}
        tables: dict[Kind, dict[UUID, Any]] = {kind: {} for kind in Kind}
        for text, version, body in kept_objects.read(db):
            of, uuid = kind_of(body), identity_of(body)
            if isinstance(body, Location):
                texts[text] = body.version
            tables[of][uuid] = body
            self._versions[of][uuid] = version
        for of, rows in tables.items():
            table = self._for_change(of)
            table.fill(rows) if isinstance(table, Indexed) else table.update(rows)
        self.host = next(iter(tables[Kind.HOST].values()), None)
        for port in self.ports.values():
            self._index(port)
        self._seen.update(read_seen(db, texts))
        self.vifs.update(read_vifs(db))
        self.notes.update((UUID(vm), at) for vm, at in db.execute("SELECT * FROM notes"))

    def _forget_all(self) -> None:
        self.store_id, self.revision, self.host, self.told = "", 0, None, None
        self.zones, self.switches, self.networks, self.withdrawals, self.groups = {}, {}, {}, {}, {}
        self.ports.clear()
        self.locations.clear()
        self.learned.clear()
        indexes = (self.port_by_vif, self.subports, self.parents, self.vifs, self.notes, self._seen, self._hosts)
        for index in indexes:
            index.clear()
        for versions in self._versions.values():
            versions.clear()
