# Copyright (C) The ngx_vd_module authors
"""The first schema."""

import sqlalchemy as sa
import structlog
from alembic import op

from vd_sidecar.store import search

revision = "0001"
down_revision = None

log = structlog.get_logger()
number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "acts",
        sa.Column("seq", number, autoincrement=False, nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("act", sa.Text(), nullable=False),
        sa.Column("delivery", number, nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("acts_delivery", "acts", ["delivery"], unique=False)
    op.create_table(
        "alerts",
        sa.Column("seq", number, autoincrement=False, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("output", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("edge", sa.Text(), nullable=False),
        sa.Column("opened", sa.BigInteger(), nullable=False),
        sa.Column("due", sa.BigInteger(), nullable=False),
        sa.Column("closed", sa.Boolean(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("key"),
    )
    op.create_index("alerts_output", "alerts", ["output", "kind", "seq"], unique=False)
    op.create_table(
        "bodies",
        sa.Column("delivery", number, autoincrement=False, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("delivery"),
    )
    op.create_table(
        "deliveries",
        sa.Column("seq", number, autoincrement=False, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("output", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("case", sa.Text(), nullable=True),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("updated", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("base", sa.Integer(), nullable=False),
        sa.Column("due", sa.BigInteger(), nullable=True),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("claimed", sa.Integer(), nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("ticket_id", sa.Text(), nullable=True),
        sa.Column("ticket_error", sa.Text(), nullable=True),
        sa.Column("content_type", sa.Text(), nullable=True),
        sa.Column("alert", number, nullable=True),
        sa.Column("forgotten", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index(
        "deliveries_alert",
        "deliveries",
        ["alert"],
        unique=False,
        sqlite_where=sa.text("alert IS NOT NULL"),
        postgresql_where=sa.text("alert IS NOT NULL"),
    )
    op.create_index("deliveries_case", "deliveries", ["case"], unique=False)
    op.create_index(
        "deliveries_created", "deliveries", ["created", "seq"], unique=False
    )
    op.create_index(
        "deliveries_due",
        "deliveries",
        ["output", "due"],
        unique=False,
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index("deliveries_id", "deliveries", ["id", "output"], unique=True)
    op.create_index(
        "deliveries_ticket_id",
        "deliveries",
        ["ticket_id"],
        sqlite_where=sa.text("ticket_id IS NOT NULL"),
        postgresql_where=sa.text("ticket_id IS NOT NULL"),
    )
    op.create_index("deliveries_output", "deliveries", ["output", "created", "seq"])
    op.create_index(
        "deliveries_attempts",
        "deliveries",
        ["attempts", "created", "seq", "state", "output"],
        sqlite_where=sa.text("attempts > 1"),
        postgresql_where=sa.text("attempts > 1"),
    )
    op.create_index(
        "deliveries_open",
        "deliveries",
        ["created", "seq", "state", "output", "reason", "attempts"],
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
    op.create_table(
        "exchanges",
        sa.Column("delivery", number, autoincrement=False, nullable=False),
        sa.Column("time", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("crc", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("status", sa.BigInteger(), nullable=True),
        sa.Column("upstream", sa.Text(), nullable=True),
        sa.Column("duration_ms", sa.BigInteger(), nullable=True),
        sa.Column("ticket_id", sa.Text(), nullable=True),
        sa.Column("ticket_error", sa.Text(), nullable=True),
        sa.Column("response", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("delivery", "time", "crc"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "notices",
        sa.Column("seq", number, autoincrement=False, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("output", sa.Text(), nullable=False),
        sa.Column("delivery", number, nullable=True),
        sa.Column("alert", number, nullable=True),
        sa.Column("payload", sa.Text(), nullable=True),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("due", sa.BigInteger(), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("sent", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("key"),
    )
    op.create_index("notices_alert", "notices", ["alert"], unique=False)
    op.create_index("notices_delivery", "notices", ["delivery"], unique=False)
    op.create_index(
        "notices_due",
        "notices",
        ["kind", "due"],
        unique=False,
        sqlite_where=sa.text("due IS NOT NULL"),
        postgresql_where=sa.text("due IS NOT NULL"),
    )
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
    op.create_table(
        "rejects",
        sa.Column("seq", number, autoincrement=False, nullable=False),
        sa.Column("alert", number, nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("segment", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("line", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("rejects_alert", "rejects", ["alert"], unique=False)
    op.create_index("rejects_segment", "rejects", ["segment"], unique=False)
    op.create_table(
        "segments",
        sa.Column("segment", sa.Text(), nullable=False),
        sa.Column("edge", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("segment"),
    )
    op.create_table(
        "tallies",
        sa.Column("output", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("delivered", sa.BigInteger(), nullable=False),
        sa.Column("pending", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("cancelled", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("output"),
    )
    op.create_table(
        "writer",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.execute("INSERT INTO writer (id) VALUES (1)")

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
            "search will be slow: it needs extensions that a superuser may make",
            error=str(error.orig).strip().partition("\n")[0],
            statements="; ".join(search.POSTGRESQL),
        )
