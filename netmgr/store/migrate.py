"""Brings a database to this version's schema, under the write lock, so that several replicas may start at once."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, select

from netmgr.model import NetmgrError
from netmgr.store.engine import begin_write
from netmgr.store.schema import meta

__all__ = ["migrate"]


def migrate(connection: Connection) -> str:
    """Run the migrations that are missing; returns the store's id, which is made with the database.

    Raises:
        NetmgrError: the database has a schema that this version does not know.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    with begin_write(connection):
        current = MigrationContext.configure(connection).get_current_revision()
        if current is not None and current not in known:
            raise NetmgrError(
                f"the store has schema {current}, and this version knows schemas up to {scripts.get_current_head()}: "
                "a newer netmgr has used it; upgrade this one",
                status=503,
            )
        if current != scripts.get_current_head():
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        store_id = connection.execute(select(meta.c.value).where(meta.c.key == "store_id")).scalar()
        if store_id is None:
            store_id = str(uuid4())
            connection.execute(insert(meta).values(key="store_id", value=store_id))
        return str(store_id)
