# Copyright (C) The ngx_vd_module authors
"""When the store was told of a delivery, by which it is kept."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    noted = sa.Column("noted", sa.BigInteger(), nullable=False, server_default="0")
    op.add_column("deliveries", noted)
