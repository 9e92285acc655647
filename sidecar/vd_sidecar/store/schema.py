# Copyright (C) The ngx_vd_module authors
"""The tables, the same on SQLite and PostgreSQL.

Times are Unix milliseconds.  Numbers of rows are given out by the program, under
the one writer's lock, so that a batch knows them before it is written.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)

metadata = MetaData()

_number = BigInteger().with_variant(Integer(), "sqlite")

# Its only row is locked by whoever writes, where the store itself has no such lock.

writer = Table(
    "writer",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("seq", _number, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False),
    Column("output", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("case", Text),
    Column("uri", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("base", Integer, nullable=False),
    Column("due", BigInteger),
    Column("owner", Text),
    Column("claimed", Integer),
    Column("fence", BigInteger, nullable=False),
    Column("status", BigInteger),
    Column("reason", Text),
    Column("ticket_id", Text),
    Column("ticket_error", Text),
    Column("content_type", Text),
    Column("alert", _number),
    Column("forgotten", Boolean, nullable=False),
    Column("digest", Text),
    Column("refusals", Integer, nullable=False, server_default="0"),
    Column("refused", BigInteger),
    Column("refusal", Text),
    Column("noted", BigInteger, nullable=False, server_default="0"),
    Index("deliveries_id", "id", "output", unique=True),
    Index("deliveries_created", "created", "seq"),
    Index("deliveries_case", "case"),
    Index(
        "deliveries_ticket_id",
        "ticket_id",
        sqlite_where=text("ticket_id IS NOT NULL"),
        postgresql_where=text("ticket_id IS NOT NULL"),
    ),
    Index(
        "deliveries_alert",
        "alert",
        sqlite_where=text("alert IS NOT NULL"),
        postgresql_where=text("alert IS NOT NULL"),
    ),
    Index(
        "deliveries_due",
        "output",
        "due",
        sqlite_where=text("state = 'pending'"),
        postgresql_where=text("state = 'pending'"),
    ),
    Index("deliveries_output", "output", "created", "seq"),
    Index(
        "deliveries_open",
        "created",
        "seq",
        "state",
        "output",
        "reason",
        "attempts",
        sqlite_where=text("state <> 'delivered'"),
        postgresql_where=text("state <> 'delivered'"),
    ),
    Index(
        "deliveries_attempts",
        "attempts",
        "created",
        "seq",
        "state",
        "output",
        sqlite_where=text("attempts > 1"),
        postgresql_where=text("attempts > 1"),
    ),
    Index(
        "deliveries_no_ticket",
        "created",
        "seq",
        "output",
        "state",
        sqlite_where=text("ticket_id IS NULL"),
        postgresql_where=text("ticket_id IS NULL"),
    ),
    Index(
        "deliveries_refused",
        "output",
        "refused",
        sqlite_where=text("state = 'pending' AND refused IS NOT NULL"),
        postgresql_where=text("state = 'pending' AND refused IS NOT NULL"),
    ),
)

# Every record that was taken; a record is known by its time and checksum.

exchanges = Table(
    "exchanges",
    metadata,
    Column("delivery", _number, primary_key=True, autoincrement=False),
    Column("time", BigInteger, primary_key=True, autoincrement=False),
    Column("crc", BigInteger, primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reason", Text),
    Column("status", BigInteger),
    Column("upstream", Text),
    Column("duration_ms", BigInteger),
    Column("ticket_id", Text),
    Column("ticket_error", Text),
    Column("response", Text),
    Index(
        "exchanges_response",
        "delivery",
        sqlite_where=text("response IS NOT NULL"),
        postgresql_where=text("response IS NOT NULL"),
    ),
    sqlite_with_rowid=False,
)

# What attempts send, as the app sent it; all of it goes when the body does.

bodies = Table(
    "bodies",
    metadata,
    Column("delivery", _number, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
    Column("host", Text),
    Column("kept", Text),
)

# Other contents that came under the id of a delivery, or that it had before.

conflicts = Table(
    "conflicts",
    metadata,
    Column("delivery", _number, primary_key=True, autoincrement=False),
    Column("digest", Text, primary_key=True),
    Column("time", BigInteger, nullable=False),
    Column("delivered", Boolean, nullable=False),
    Column("ticket_id", Text),
    Column("content_type", Text),
    Column("body", LargeBinary),
    Column("alert", _number),
    Index("conflicts_alert", "alert"),
)

# How many deliveries of an output are in each state.

tallies = Table(
    "tallies",
    metadata,
    Column("output", Text, primary_key=True),
    Column("label", Text, nullable=False),
    Column("delivered", BigInteger, nullable=False),
    Column("pending", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("cancelled", BigInteger, nullable=False),
)

# How attempts went: of an output, those that ended within a span (ms) from its start;
# d0 to d15 count them by how long they took, see rates.py.

rates = Table(
    "rates",
    metadata,
    Column("span", BigInteger, primary_key=True, autoincrement=False),
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    Column("output", Text, primary_key=True),
    Column("delivered", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("last_delivered", BigInteger),
    Column("last_failed", BigInteger),
    *(Column(f"d{n}", BigInteger, nullable=False) for n in range(16)),
)

segments = Table(
    "segments",
    metadata,
    Column("segment", Text, primary_key=True),
    Column("edge", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("records", BigInteger, nullable=False),
    Column("done", BigInteger),
)

# Where each edge left the store: see edges.py.

edges = Table(
    "edges",
    metadata,
    Column("edge", Text, primary_key=True),
    Column("mark", BigInteger, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("behind", BigInteger),
)

alerts = Table(
    "alerts",
    metadata,
    Column("seq", _number, primary_key=True, autoincrement=False),
    Column("key", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("output", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("edge", Text, nullable=False),
    Column("opened", BigInteger, nullable=False),
    Column("due", BigInteger, nullable=False),
    Column("closed", Boolean, nullable=False),
    Column("count", BigInteger, nullable=False),
    Index("alerts_output", "output", "kind", "seq"),
)

rejects = Table(
    "rejects",
    metadata,
    Column("seq", _number, primary_key=True, autoincrement=False),
    Column("alert", _number, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("segment", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("why", Text, nullable=False),
    Column("line", LargeBinary, nullable=False),
    Index("rejects_alert", "alert"),
    Index("rejects_segment", "segment"),
)

# What is to be sent: mails, Slack messages, callbacks.

notices = Table(
    "notices",
    metadata,
    Column("seq", _number, primary_key=True, autoincrement=False),
    Column("key", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("output", Text, nullable=False),
    Column("delivery", _number),
    Column("alert", _number),
    Column("payload", Text),
    Column("created", BigInteger, nullable=False),
    Column("due", BigInteger),
    Column("tries", Integer, nullable=False),
    Column("sent", BigInteger),
    Column("error", Text),
    Index("notices_delivery", "delivery"),
    Index("notices_alert", "alert"),
    Index(
        "notices_due",
        "kind",
        "due",
        sqlite_where=text("due IS NOT NULL"),
        postgresql_where=text("due IS NOT NULL"),
    ),
)

# What operators did.

acts = Table(
    "acts",
    metadata,
    Column("seq", _number, primary_key=True, autoincrement=False),
    Column("time", BigInteger, nullable=False),
    Column("who", Text, nullable=False),
    Column("act", Text, nullable=False),
    Column("delivery", _number, nullable=False),
    Index("acts_delivery", "delivery"),
)
