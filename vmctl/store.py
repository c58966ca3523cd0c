"""vmctl's durable state: hosts and the VMs it has defined; the way to the database for all that is kept.

SQLite by default (WAL, synchronous=FULL: what is acknowledged is on disk), PostgreSQL by URL. The store holds what
libvirt and the hosts cannot tell: which hosts there are, what an administrator wants of a VM, and, in `vmctl.journal`,
which moves were begun. Where a VM is, is libvirt's to say; a row's `host` is only its home. One vmctl uses a store at a
time. Opening it brings an older one to this version's schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from vmctl.holding import SERVER_OPTIONS, Holding
from vmctl.model import Host, VmctlError, VmRecord, VmState
from vmctl.tables import hosts, vms
from vmctl.upgrade import upgrade

__all__ = ["Store"]


class Store:
    """Rows in, frozen values out. Calls block for a disk write; the daemon makes them from a thread."""

    def __init__(self, url: str, *, sole: bool = False) -> None:
        """Opens the store at *url*, making its tables if it is new.

        With *sole* a PostgreSQL database is ours alone from now on; a file is, by the lock of the directory it is in.

        Raises:
            VmctlError: it cannot be opened, was written by a newer vmctl, or another vmctl serves from it.
        """
        try:
            parsed = sa.make_url(url)
        except ArgumentError:
            raise VmctlError(
                f"store {url!r} is no database URL; use sqlite:////PATH or postgresql+psycopg://USER@HOST/DATABASE"
            ) from None
        backend = parsed.get_backend_name()
        if backend not in ("sqlite", "postgresql"):
            raise VmctlError(f"store {backend}: that kind of database is not supported; use sqlite or postgresql")
        self._url = parsed.render_as_string(hide_password=True)
        self._holding: Holding | None = None
        if backend == "postgresql":
            options = {"connect_timeout": 5, "options": f"-c synchronous_commit=on {SERVER_OPTIONS}"}
            parsed = parsed.set(drivername="postgresql+psycopg")
            self._engine = sa.create_engine(parsed, pool_pre_ping=True, connect_args=options)
            self._holding = Holding(self._engine, shown=self._url) if sole else None
        else:
            if not parsed.database or parsed.database == ":memory:":
                raise VmctlError("store: a database in memory would be lost; use sqlite:////PATH")
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._engine = sa.create_engine(parsed)
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _make_durable)
        with self.begin() as connection:
            upgrade(connection, shown=self._url)

    def close(self) -> None:
        """Releases the connections."""
        if self._holding is not None:
            self._holding.close()
        self._engine.dispose()

    # --- hosts ----------------------------------------------------------------------------------------------------

    def hosts(self) -> tuple[Host, ...]:
        """All hosts, by name."""
        with self.begin() as connection:
            rows = connection.execute(sa.select(hosts).order_by(hosts.c.name)).mappings()
            return tuple(Host(**{**row, "uuid": UUID(row["uuid"]) if row["uuid"] else None}) for row in rows)

    def add_host(self, host: Host) -> None:
        """Adds *host*; refused when its name or its UUID is taken."""
        values = asdict(host) | {"uuid": str(host.uuid) if host.uuid else None}
        try:
            with self.begin() as connection:
                connection.execute(hosts.insert().values(**values))
        except IntegrityError:
            other = next((h for h in self.hosts() if h.name == host.name or (h.uuid and h.uuid == host.uuid)), host)
            what = (
                f"a host of name {host.name}" if other.name == host.name else f"host {other.name} with UUID {host.uuid}"
            )
            raise VmctlError(f"there is {what} already; remove it first, or choose another name", status=409) from None

    def remove_host(self, name: str) -> None:
        """Forgets the host; one that is not there is no error."""
        with self.begin() as connection:
            connection.execute(hosts.delete().where(hosts.c.name == name))

    # --- VMs ------------------------------------------------------------------------------------------------------

    def vms(self) -> tuple[VmRecord, ...]:
        """All VMs that vmctl has defined, by name."""
        with self.begin() as connection:
            rows = connection.execute(sa.select(vms).order_by(vms.c.name)).mappings()
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
            with self.begin() as connection:
                connection.execute(vms.delete().where(vms.c.uuid == values["uuid"]))
                connection.execute(vms.insert().values(**values))
        except IntegrityError:
            raise VmctlError(f"there is a VM of name {record.name} already; choose another name", status=409) from None

    def remove_vm(self, uuid: UUID) -> None:
        """Forgets the VM; one that is not there is no error."""
        with self.begin() as connection:
            connection.execute(vms.delete().where(vms.c.uuid == str(uuid)))

    # --- the database ---------------------------------------------------------------------------------------------

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A transaction, committed at the end; `IntegrityError` goes through, all else is a `VmctlError`."""
        try:
            if self._holding is not None:
                self._holding.check()
            with self._engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            reason = " ".join(str(getattr(error, "orig", None) or error).split())
            where = f"vmctl's store {self._url}"
            if "is full" in reason or "No space left" in reason:
                said = f"{where} is full; nothing was changed: free space on its disk and try again"
            else:
                said = f"{where} fails: {reason}; nothing was changed"
            raise VmctlError(said, status=503) from error


def _make_durable(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()
