"""Databases that are migrated already, for tests of what stands above the schema: migrating is most of an opening."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path
from uuid import uuid4

import psycopg

from netmgr.store import Store
from netmgr.store.schema import metadata

__all__ = ["emptied_postgresql", "migrated_sqlite"]


def migrated_sqlite(directory: Path) -> str:
    """The URL of *directory*'s store: the one that is there, or a new, empty one with an identity of its own."""
    path = directory / "netmgr.db"
    if not path.exists():
        path.write_bytes(_template())
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("UPDATE meta SET value = ? WHERE key = 'store_id'", (str(uuid4()),))
    return f"sqlite:///{path}"


def emptied_postgresql(url: str) -> str:
    """*url*, whose database a Store has been opened on before, without a row in it."""
    tables = ", ".join(f'"{name}"' for name in metadata.tables if name not in ("meta", "alembic_version"))
    with psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True) as connection:
        connection.execute(f"TRUNCATE {tables}".encode())
    return url


@cache
def _template() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "template.db"
        Store.open(f"sqlite:///{path}").close()
        return path.read_bytes()
