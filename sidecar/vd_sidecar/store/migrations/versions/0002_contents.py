# Copyright (C) The ngx_vd_module authors
"""What attempts repeat of the app's request, other contents, and refusals."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    for column in (
        sa.Column("digest", sa.Text()),
        sa.Column("refusals", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("refused", sa.BigInteger()),
        sa.Column("refusal", sa.Text()),
    ):
        op.add_column("deliveries", column)
    for name in ("host", "kept"):
        op.add_column("bodies", sa.Column(name, sa.Text()))
    op.create_index(
        "deliveries_refused",
        "deliveries",
        ["output", "refused"],
        sqlite_where=sa.text("state = 'pending' AND refused IS NOT NULL"),
        postgresql_where=sa.text("state = 'pending' AND refused IS NOT NULL"),
    )
    op.create_table(
        "conflicts",
        sa.Column("delivery", number, autoincrement=False, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("delivered", sa.Boolean(), nullable=False),
        sa.Column("ticket_id", sa.Text(), nullable=True),
        sa.Column("content_type", sa.Text(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("alert", number, nullable=True),
        sa.PrimaryKeyConstraint("delivery", "digest"),
    )
    op.create_index("conflicts_alert", "conflicts", ["alert"])
