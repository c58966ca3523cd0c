"""Alembic's entry: runs migrations on the connection, and in the transaction, that `vmctl.store` gives.

The version table has a name of its own: the network manager's store may be in the same database.
"""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"], transactional_ddl=True, version_table="vmctl_version"
)
with context.begin_transaction():
    context.run_migrations()
