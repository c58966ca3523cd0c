"""Brings a store to this version's schema, in one transaction: killed half-way, it is as before."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from vmctl.model import VmctlError

__all__ = ["upgrade"]

VERSION_TABLE = "vmctl_version"
_BEFORE_MIGRATIONS = "vmctl_schema"  # a table of the versions that made all tables themselves, as 0001 does


def upgrade(connection: sa.Connection, *, shown: str) -> None:
    """Runs the migrations that are missing; *shown* is how sentences call the store.

    Raises:
        VmctlError: a newer vmctl has used it; it is left alone.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # its driver begins no transaction before CREATE and ALTER
    tables = sa.inspect(connection).get_table_names()
    if VERSION_TABLE not in tables and _BEFORE_MIGRATIONS in tables:
        found = connection.exec_driver_sql(f"SELECT max(version) FROM {_BEFORE_MIGRATIONS}").scalar()
        if found != 1:
            raise _newer(shown, str(found), scripts)
        command.stamp(config, "0001")
    current = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
        raise _newer(shown, current, scripts)
    if current != scripts.get_current_head():
        command.upgrade(config, "head")


def _newer(shown: str, found: str, scripts: ScriptDirectory) -> VmctlError:
    return VmctlError(
        f"the store {shown} has schema {found}, and this vmctl knows schemas up to {scripts.get_current_head()}: a "
        "newer vmctl has used it; upgrade this one",
        status=503,
    )
