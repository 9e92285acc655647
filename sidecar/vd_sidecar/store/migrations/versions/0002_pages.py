# Copyright (C) The ngx_vd_module authors
"""What the pages need to answer quickly: indexes, search, rates of attempts."""

import sqlalchemy as sa
import structlog
from alembic import op

from vd_sidecar.store import search

revision = "0002"
down_revision = "0001"

log = structlog.get_logger()


def upgrade() -> None:
    op.create_table(
        "rates",
        sa.Column("span", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("start", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("output", sa.Text(), nullable=False),
        sa.Column("delivered", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("last_delivered", sa.BigInteger(), nullable=True),
        sa.Column("last_failed", sa.BigInteger(), nullable=True),
        *(sa.Column(f"d{n}", sa.BigInteger(), nullable=False) for n in range(16)),
        sa.PrimaryKeyConstraint("span", "start", "output"),
    )
    op.drop_index("deliveries_ticket_id", "deliveries")
    op.create_index(
        "deliveries_ticket_id",
        "deliveries",
        ["ticket_id"],
        sqlite_where=sa.text("ticket_id IS NOT NULL"),
        postgresql_where=sa.text("ticket_id IS NOT NULL"),
    )
    op.create_index("deliveries_output", "deliveries", ["output", "created", "seq"])
    op.create_index(
        "deliveries_open",
        "deliveries",
        ["created", "seq", "state", "output", "reason"],
        sqlite_where=sa.text("state <> 'delivered'"),
        postgresql_where=sa.text("state <> 'delivered'"),
    )
    op.create_index(
        "deliveries_no_ticket",
        "deliveries",
        ["created", "seq", "output", "state"],
        sqlite_where=sa.text("ticket_id IS NULL"),
        postgresql_where=sa.text("ticket_id IS NULL"),
    )

    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        for statement in search.SQLITE:
            op.execute(statement)
        return
    op.execute(search.POSTGRESQL_ID)
    try:
        # a role may lack the right; the rest of the migration stays

        with connection.begin_nested():
            for statement in search.POSTGRESQL:
                connection.exec_driver_sql(statement.replace("%", "%%"))
    except sa.exc.DBAPIError as error:
        log.warning(
            "search will be slow: there is no pg_trgm; a superuser may make it",
            error=str(error.orig).strip().partition("\n")[0],
            statements="; ".join(search.POSTGRESQL),
        )
