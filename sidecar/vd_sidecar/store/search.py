# Copyright (C) The ngx_vd_module authors
"""Finding deliveries by a part of their case, ticket id or id.

An index of all sequences of three characters: SQLite's FTS5 (triggers see to it
when a delivery is changed or deleted, by whomever), PostgreSQL's pg_trgm where it
may be used.  Ids that nginx made are random: these are found by their
beginning, and are not in the index, which they would make three times as large.
"""

from __future__ import annotations

import re
from typing import Sequence, cast

from sqlalchemy import Text, column, literal, literal_column, or_, select, table
from sqlalchemy.engine import Connection
from sqlalchemy.sql.elements import ColumnElement

from ..model import Delivery
from . import schema

LEAST = 3  # characters of what the index can find
FEW = 1000  # matches that are looked at one by one
SOME = 40_000  # deliveries that are compared one by one

_MADE_BY_NGINX = "________-____-7___-____-____________"
_WORDS = (
    "coalesce({0}\"case\", '') || '\n' || coalesce({0}ticket_id, '') || '\n' || "
    f"CASE WHEN {{0}}id LIKE '{_MADE_BY_NGINX}' THEN '' ELSE {{0}}id END"
)
_OLD, _NEW, _OWN = (_WORDS.format(row) for row in ("old.", "new.", ""))
_FORGET = (
    "INSERT INTO deliveries_search (deliveries_search, rowid, words) "
    f"VALUES ('delete', old.seq, {_OLD});"
)
_ADD = f"INSERT INTO deliveries_search (rowid, words) VALUES (new.seq, {_NEW});"

SQLITE = (
    "CREATE VIRTUAL TABLE deliveries_search "
    "USING fts5(words, content='', tokenize='trigram')",
    'CREATE TRIGGER deliveries_search_change AFTER UPDATE OF "case", ticket_id '
    'ON deliveries WHEN old."case" IS NOT new."case" '
    f"OR old.ticket_id IS NOT new.ticket_id BEGIN {_FORGET} {_ADD} END",
    "CREATE TRIGGER deliveries_search_delete AFTER DELETE ON deliveries "
    f"BEGIN {_FORGET} END",
    f"INSERT INTO deliveries_search (rowid, words) SELECT seq, {_OWN} FROM deliveries",
)
_INSERT = "INSERT INTO deliveries_search (rowid, words) VALUES (?, ?)"
POSTGRESQL = (
    "CREATE EXTENSION IF NOT EXISTS pg_trgm",
    f"CREATE INDEX deliveries_search ON deliveries USING gin (({_OWN}) gin_trgm_ops)",
)
POSTGRESQL_ID = "CREATE INDEX deliveries_search_id ON deliveries (id text_pattern_ops)"

_MADE = re.compile(_MADE_BY_NGINX.replace("_", "."), re.DOTALL)
_BEGINNING = re.compile(r"[0-9a-f]{6,8}|[0-9a-f]{8}-[0-9a-f-]{0,27}")
_seq = schema.deliveries.c.seq
_id = schema.deliveries.c.id
_words: ColumnElement[str] = literal_column(f"({_OWN})", Text)
_index = table("deliveries_search", column("deliveries_search"), column("rowid"))

# Deliveries are looked up by what the index found, never the other way round.

# Sorted by what no index has: the others find them, not a walk through all.

_by_hand = _seq.op("+")(0)
_row = _index.c.rowid.op("+")(0)

Conditions = Sequence[ColumnElement[bool]]


def add(connection: Connection, new: Sequence[Delivery]) -> None:
    """Put new deliveries into the index, where it does not see to that by itself.

    Not by a trigger: with one, SQLite would write the index out for each row.
    """
    if new and connection.dialect.name == "sqlite":
        rows = [(each.seq, words(each)) for each in new]
        connection.exec_driver_sql(_INSERT, rows)


def words(delivery: Delivery) -> str:
    """What is in the index, the same as ``_WORDS``."""
    id = "" if _MADE.fullmatch(delivery.id) else delivery.id
    return f"{delivery.case or ''}\n{delivery.ticket_id or ''}\n{id}"


def holds(connection: Connection, term: str) -> ColumnElement[bool]:
    """The condition of a delivery that has ``term``, whatever it takes to find it."""
    pattern = f"%{_literally(term)}%"
    if connection.dialect.name == "sqlite":
        found = _words.like(pattern, escape="\\")  # capitals do not matter to it
    else:
        found = _words.ilike(pattern, escape="\\")
    if not _BEGINNING.fullmatch(term.lower()):
        return cast("ColumnElement[bool]", found)
    begins = _id.like(_literally(term.lower()) + "%", escape="\\")
    return cast("ColumnElement[bool]", or_(found, begins))


def indexed(
    connection: Connection, term: str, others: Conditions
) -> tuple[Conditions, ColumnElement[int]]:
    """Conditions that find what has ``term`` and meets ``others``, and the number
    by which to sort it."""
    if len(term) >= LEAST and connection.dialect.name == "sqlite":
        return _by_fts(connection, term, others)
    return [holds(connection, term)], _by_hand if _are_some(
        connection, others
    ) else _seq


def _are_some(connection: Connection, others: Conditions) -> bool:
    """Whether so few deliveries meet ``others`` that each can be looked at."""
    if not others:
        return False
    some = select(_seq).where(*others).limit(SOME + 1)
    return len(connection.execute(some).all()) <= SOME


def _by_fts(
    connection: Connection, term: str, others: Conditions
) -> tuple[Conditions, ColumnElement[int]]:
    rowid = _index.c.rowid
    newest = select(rowid).where(_match(term)).order_by(rowid.desc()).limit(FEW + 1)
    found = list(connection.execute(newest).scalars())
    if len(found) <= FEW:
        return [or_(_seq.in_(found), *_begins(term))], _seq
    if _are_some(connection, others):
        return [holds(connection, term)], _by_hand
    return [_match(term), _seq == _row], rowid


def _begins(term: str) -> Conditions:
    """The condition of an id that nginx made and that begins like this."""
    first = term.lower()
    if not _BEGINNING.fullmatch(first):
        return []
    ids = select(_seq).where(_id >= first, _id < first + "\x7f")
    return [_seq.in_(ids)]


def _match(term: str) -> ColumnElement[bool]:
    phrase = '"' + term.replace('"', '""') + '"'
    return cast(
        "ColumnElement[bool]", _index.c.deliveries_search.op("MATCH")(literal(phrase))
    )


def _literally(term: str) -> str:
    for char in "\\%_":
        term = term.replace(char, "\\" + char)
    return term
