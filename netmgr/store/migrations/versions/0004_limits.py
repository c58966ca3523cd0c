"""Limits of ports; shares of PNICs."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("port", sa.Column("egress_kbps", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("port", sa.Column("ingress_kbps", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("switch", sa.Column("traffic_classes", sa.JSON, nullable=False, server_default="{}"))
