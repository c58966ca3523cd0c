"""vmctl's durable state: hosts, the VMs it has defined, and the journal of moves.

SQLite by default (WAL, synchronous=FULL: what is acknowledged is on disk), PostgreSQL by URL. The store holds what
libvirt and the hosts cannot tell: which hosts there are, what an administrator wants of a VM, and which moves were
begun. Where a VM is, is libvirt's to say; a row's `host` is only its home. One vmctl uses a store at a time.

Two moves of one VM at once are refused by a partial unique index, not by a look before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from vmctl.model import Code, Host, Migration, MigrationState, Refusal, VmctlError, VmRecord, VmState

__all__ = ["Store"]

SCHEMA_VERSION = 1

_metadata = sa.MetaData()
_schema = sa.Table("vmctl_schema", _metadata, sa.Column("version", sa.Integer, primary_key=True))
_hosts = sa.Table(
    "hosts",
    _metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("uuid", sa.Text, unique=True),
    sa.Column("libvirt_uri", sa.Text, nullable=False),
    sa.Column("peer_uri", sa.Text, nullable=False),
    sa.Column("migration_address", sa.Text, nullable=False),
    sa.Column("agent_address", sa.Text, nullable=False),
)
_vms = sa.Table(
    "vms",
    _metadata,
    sa.Column("uuid", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("xml", sa.Text, nullable=False),
    sa.Column("wanted", sa.Text, nullable=False),
    sa.Column("ips", sa.Text, nullable=False),
)
_migrations = sa.Table(
    "migrations",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("vm_uuid", sa.Text, nullable=False, index=True),
    sa.Column("vm_name", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("destination", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("sentence", sa.Text, nullable=False),
    sa.Column("started_at", sa.Text, nullable=False),
    sa.Column("changed_at", sa.Text, nullable=False),
    sa.Column("total_ms", sa.Integer),
    sa.Column("downtime_ms", sa.Integer),
    sa.Column("transferred_mib", sa.Integer),
    sqlite_autoincrement=True,
)
_open = _migrations.c.state.not_in([MigrationState.DONE.value, MigrationState.FAILED.value])
sa.Index("one_open_move_a_vm", _migrations.c.vm_uuid, unique=True, sqlite_where=_open, postgresql_where=_open)


class Store:
    """Rows in, frozen values out. Calls block for a disk write; the daemon makes them from a thread."""

    def __init__(self, url: str) -> None:
        """Opens the store at *url*, making its tables if it is new.

        Raises:
            VmctlError: it cannot be opened, or was written by a newer vmctl.
        """
        self._url = url
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._engine = sa.create_engine(url)
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _make_durable)
        with self._begin() as connection:
            _metadata.create_all(connection)
            version = connection.execute(sa.select(sa.func.max(_schema.c.version))).scalar()
            if version is None:
                connection.execute(_schema.insert().values(version=SCHEMA_VERSION))
            elif version > SCHEMA_VERSION:
                raise VmctlError(
                    f"the store {url} has schema {version}, and this vmctl knows {SCHEMA_VERSION}; upgrade vmctl",
                    status=503,
                )

    def close(self) -> None:
        """Releases the connections."""
        self._engine.dispose()

    # --- hosts ----------------------------------------------------------------------------------------------------

    def hosts(self) -> tuple[Host, ...]:
        """All hosts, by name."""
        with self._begin() as connection:
            rows = connection.execute(sa.select(_hosts).order_by(_hosts.c.name)).mappings()
            return tuple(Host(**{**row, "uuid": UUID(row["uuid"]) if row["uuid"] else None}) for row in rows)

    def add_host(self, host: Host) -> None:
        """Adds *host*; refused when its name or its UUID is taken."""
        values = asdict(host) | {"uuid": str(host.uuid) if host.uuid else None}
        try:
            with self._begin() as connection:
                connection.execute(_hosts.insert().values(**values))
        except IntegrityError:
            other = next((h for h in self.hosts() if h.name == host.name or (h.uuid and h.uuid == host.uuid)), host)
            what = (
                f"a host of name {host.name}" if other.name == host.name else f"host {other.name} with UUID {host.uuid}"
            )
            raise VmctlError(f"there is {what} already; remove it first, or choose another name", status=409) from None

    def remove_host(self, name: str) -> None:
        """Forgets the host; one that is not there is no error."""
        with self._begin() as connection:
            connection.execute(_hosts.delete().where(_hosts.c.name == name))

    # --- VMs ------------------------------------------------------------------------------------------------------

    def vms(self) -> tuple[VmRecord, ...]:
        """All VMs that vmctl has defined, by name."""
        with self._begin() as connection:
            rows = connection.execute(sa.select(_vms).order_by(_vms.c.name)).mappings()
            return tuple(
                VmRecord(
                    uuid=UUID(row["uuid"]),
                    name=row["name"],
                    host=row["host"],
                    xml=row["xml"],
                    wanted=VmState(row["wanted"]),
                    ips=tuple(json.loads(row["ips"])),
                )
                for row in rows
            )

    def put_vm(self, record: VmRecord) -> None:
        """Adds the VM, or replaces the row of the same UUID; refused when another VM has the name."""
        values = asdict(record) | {"uuid": str(record.uuid), "ips": json.dumps(record.ips)}
        try:
            with self._begin() as connection:
                connection.execute(_vms.delete().where(_vms.c.uuid == values["uuid"]))
                connection.execute(_vms.insert().values(**values))
        except IntegrityError:
            raise VmctlError(f"there is a VM of name {record.name} already; choose another name", status=409) from None

    def remove_vm(self, uuid: UUID) -> None:
        """Forgets the VM; one that is not there is no error."""
        with self._begin() as connection:
            connection.execute(_vms.delete().where(_vms.c.uuid == str(uuid)))

    # --- journal --------------------------------------------------------------------------------------------------

    def plan_migration(self, *, vm_uuid: UUID, vm_name: str, source: str, destination: str, now: str) -> Migration:
        """A new row, planned; refused while the VM has an open one."""
        values = {
            "vm_uuid": str(vm_uuid), "vm_name": vm_name, "source": source, "destination": destination,
            "state": MigrationState.PLANNED.value, "sentence": "", "started_at": now, "changed_at": now,
        }  # fmt: skip
        try:
            with self._begin() as connection:
                key = connection.execute(_migrations.insert().values(**values)).inserted_primary_key
                assert key is not None
        except IntegrityError:
            other = next((m for m in self.migrations() if m.vm_uuid == vm_uuid and not m.state.final), None)
            where = f"to {other.destination} (migration {other.id})" if other else "elsewhere"
            sentence = (
                f"{vm_name} is on its way {where} already; wait for it, or stop it: vmctl migrate {vm_name} --cancel"
            )
            refusal = Refusal(host=destination, code=Code.MOVING, sentence=sentence)
            raise VmctlError(sentence, status=409, refusals=(refusal,)) from None
        return self.migration(int(key[0]))

    def change_migration(self, id: int, *, state: MigrationState, now: str, **values: Any) -> Migration:
        """The row after its change; *values* are columns of it."""
        with self._begin() as connection:
            connection.execute(
                _migrations.update().where(_migrations.c.id == id).values(state=state.value, changed_at=now, **values)
            )
        return self.migration(id)

    def migration(self, id: int) -> Migration:
        """One row of the journal.

        Raises:
            VmctlError: there is none of that number.
        """
        with self._begin() as connection:
            row = connection.execute(sa.select(_migrations).where(_migrations.c.id == id)).mappings().first()
        if row is None:
            raise VmctlError(f"there is no migration {id}; see `vmctl migrate --list`", status=404)
        return _migration(row)

    def migrations(self, *, limit: int = 1000) -> tuple[Migration, ...]:
        """The journal, newest first."""
        with self._begin() as connection:
            rows = connection.execute(sa.select(_migrations).order_by(_migrations.c.id.desc()).limit(limit)).mappings()
            return tuple(_migration(row) for row in rows)

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error)
            raise VmctlError(f"vmctl's store {self._url} fails: {reason}; nothing was changed", status=503) from error


def _migration(row: Any) -> Migration:
    values = {field.name: row[field.name] for field in fields(Migration)}
    return Migration(**values | {"vm_uuid": UUID(row["vm_uuid"]), "state": MigrationState(row["state"])})


def _make_durable(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()
