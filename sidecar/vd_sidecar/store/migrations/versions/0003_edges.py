# Copyright (C) The ngx_vd_module authors
"""Where each edge left the store, and which replies are still there."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "edges",
        sa.Column("edge", sa.Text(), nullable=False),
        sa.Column("mark", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("behind", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("edge"),
    )
    op.create_index(
        "exchanges_response",
        "exchanges",
        ["delivery"],
        sqlite_where=sa.text("response IS NOT NULL"),
        postgresql_where=sa.text("response IS NOT NULL"),
    )
