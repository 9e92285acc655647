# Copyright (C) The ngx_vd_module authors
"""Finding deliveries by a part of their case, ticket id or id.

An index of all sequences of three characters: SQLite's FTS5 (triggers see to it
when a delivery is changed or deleted, by whomever), PostgreSQL's pg_trgm where it
may be used.  Ids that nginx made are random: these are found by their
beginning, and are not in the index, which they would make three times as large.

FTS5 finds the newest first.  So that PostgreSQL does, too, its index also knows in
which block of numbers a delivery is, and block after block is searched.
"""

from __future__ import annotations

import re
from typing import Any, Optional, Sequence, cast

from sqlalchemy import BigInteger, Text, column, func, literal, literal_column
from sqlalchemy import cast as cast_to
from sqlalchemy import or_, select, table, text, true
from sqlalchemy.engine import Connection
from sqlalchemy.sql.elements import ColumnElement

from ..model import Delivery
from . import schema

LEAST = 3  # characters of what the index can find
FEW = 2000  # matches that are looked at one by one
STEP = 200  # of the index's pages, written at once to rid it of what was taken out
HAND = 10_000  # deliveries that are compared one by one, without a look elsewhere
SOME = 40_000  # those that are, if what is quicker did not find enough
_BLOCK = 14  # binary digits of the place in one

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
    "USING fts5(words, content='', columnsize=0, tokenize='trigram')",
    'CREATE TRIGGER deliveries_search_change AFTER UPDATE OF "case", ticket_id '
    'ON deliveries WHEN old."case" IS NOT new."case" '
    f"OR old.ticket_id IS NOT new.ticket_id BEGIN {_FORGET} {_ADD} END",
    "CREATE TRIGGER deliveries_search_delete AFTER DELETE ON deliveries "
    f"BEGIN {_FORGET} END",
)
_MERGE = "INSERT INTO deliveries_search (deliveries_search, rank) VALUES ('merge', ?)"
_INSERT = "INSERT INTO deliveries_search (rowid, words) VALUES (?, ?)"
_GIN = f"USING gin (({_OWN}) gin_trgm_ops, (seq >> {_BLOCK}))"
POSTGRESQL = (
    "CREATE EXTENSION IF NOT EXISTS pg_trgm",
    "CREATE EXTENSION IF NOT EXISTS btree_gin",
    f"CREATE INDEX deliveries_search ON deliveries {_GIN}",
    "CREATE INDEX deliveries_search_open ON deliveries "
    f"{_GIN} WHERE state <> 'delivered'",
)
POSTGRESQL_ID = "CREATE INDEX deliveries_search_id ON deliveries (id text_pattern_ops)"

_MADE = re.compile(_MADE_BY_NGINX.replace("_", "."), re.DOTALL)
_BEGINNING = re.compile(r"[0-9a-f]{6,8}|[0-9a-f]{8}-[0-9a-f-]{0,27}")
_PLAN = text(
    f"EXPLAIN (FORMAT JSON) SELECT seq FROM deliveries WHERE ({_OWN}) ILIKE :pattern"
)
_seq = schema.deliveries.c.seq
_id = schema.deliveries.c.id
_words: ColumnElement[str] = literal_column(f"({_OWN})", Text)
_index = table("deliveries_search", column("deliveries_search"), column("rowid"))

# Deliveries are looked up by what the index found, never the other way round.

_row = _index.c.rowid.op("+")(0)

Conditions = Sequence[ColumnElement[bool]]
Numbers = tuple[int, int]  # of deliveries: the lowest and the highest


def bounds(connection: Connection, column: Any) -> Any:
    """The least and the greatest value of a column that has an index.

    SQLite looks up only one of them at a time: for both, it would read all.
    """
    least = select(func.min(column)).scalar_subquery()
    greatest = select(func.max(column)).scalar_subquery()
    return connection.execute(select(least, greatest)).one()


def add(connection: Connection, new: Sequence[Delivery]) -> None:
    """Put new deliveries into the index, where it does not see to that by itself.

    Not by a trigger: with one, SQLite would write the index out for each row.
    """
    if new and connection.dialect.name == "sqlite":
        rows = [(each.seq, words(each)) for each in new]
        connection.exec_driver_sql(_INSERT, rows)


def let_go(connection: Connection, begin: bool) -> bool:
    """A step on the way to an index without what was taken out of SQLite's, which
    only notes that it was; False if there is no more to do."""
    changes = select(func.total_changes())
    before = connection.execute(changes).scalar_one()
    connection.exec_driver_sql(_MERGE, (-STEP if begin else STEP,))
    return bool(connection.execute(changes).scalar_one() - before > 1)


def words(delivery: Delivery) -> str:
    """What is in the index, the same as ``_WORDS``."""
    id = "" if _MADE.fullmatch(delivery.id) else delivery.id
    return f"{delivery.case or ''}\n{delivery.ticket_id or ''}\n{id}"


def holds(connection: Connection, term: str) -> ColumnElement[bool]:
    """The condition of a delivery that has ``term``, whatever it takes to find it."""
    pattern = f"%{_literally(term)}%"
    if connection.dialect.name == "sqlite" or term.lower() == term.upper():
        found = _words.like(pattern, escape="\\")  # capitals do not matter to it
    else:
        found = _words.ilike(pattern, escape="\\")
    if not _BEGINNING.fullmatch(term.lower()):
        return cast("ColumnElement[bool]", found)
    begins = _id.like(_literally(term.lower()) + "%", escape="\\")
    return cast("ColumnElement[bool]", or_(found, begins))


def are_some(
    connection: Connection, conditions: Conditions, most: Optional[int] = None
) -> bool:
    """Whether so few deliveries meet the conditions that each can be looked at."""
    most = SOME if most is None else most
    if not conditions:
        return False
    some = select(_seq).where(*conditions).limit(most + 1).subquery()
    count = connection.execute(select(func.count()).select_from(some)).scalar_one()
    return int(count) <= most


def few(
    connection: Connection, term: str, numbers: Optional[Numbers] = None
) -> Optional[Conditions]:
    """The condition of what has ``term``, if an index finds only a few; of those with
    such numbers, if they are given."""
    if len(term) < LEAST:
        return None
    if connection.dialect.name != "sqlite":
        return _few_of_words(connection, term, numbers)
    rowid = _index.c.rowid
    query = select(rowid).where(_match(term))
    newest_first = True
    if numbers is not None:
        # FTS5 looks for one more before it stops at a bound: towards the nearer end

        lowest, highest = bounds(connection, _seq)
        newest_first = numbers[0] - (lowest or 0) < (highest or 0) - numbers[1]
        query = query.where(rowid.between(*numbers))
    query = query.order_by(rowid.desc() if newest_first else rowid)
    found = list(connection.execute(query.limit(FEW + 1)).scalars())
    if len(found) > FEW:
        return None
    return [or_(_seq.in_(found), *_begins(term))]


def _few_of_words(
    connection: Connection, term: str, numbers: Optional[Numbers]
) -> Optional[Conditions]:
    held = holds(connection, term)
    if numbers is None:
        # planned for all of them: for the first ones alone, all would be read

        seqs = select(_seq).where(held).cte("held").prefix_with("MATERIALIZED")
        query = select(seqs.c.seq).limit(FEW + 1)
    else:
        blocks = by_blocks(connection, [held], FEW + 1, None, True, numbers)
        query = select(blocks.subquery().c.seq)
    found = list(connection.execute(query).scalars())
    return None if len(found) > FEW else [_seq.in_(found)]


def walked(term: str) -> Conditions:
    """The conditions of what SQLite's index finds."""
    return [_match(term), _seq == _row]


def nearest(connection: Connection, term: str, last: bool) -> Optional[int]:
    """The greatest, or least, number of what has ``term``, where an index tells it."""
    if len(term) < LEAST or _BEGINNING.fullmatch(term.lower()):
        return None
    query: Any
    if connection.dialect.name == "sqlite":
        rowid = _index.c.rowid
        query = select(rowid).where(_match(term)).limit(1)
        query = query.order_by(rowid.desc() if last else rowid)
    elif is_common(connection, term):
        held = [holds(connection, term)]
        query = select(by_blocks(connection, held, 1, None, last).subquery().c.seq)
    else:
        return None
    found = connection.execute(query).scalar_one_or_none()
    return None if found is None else int(found)


def is_common(connection: Connection, term: str) -> bool:
    """Whether PostgreSQL takes ``term`` for one that very many have, and has the index
    for ``by_blocks``, which is slow for a term that only a few have."""
    short = len(term) < LEAST or _BEGINNING.fullmatch(term.lower())
    if short or connection.dialect.name == "sqlite":
        return False
    index = connection.execute(select(func.to_regclass("deliveries_search")))
    if index.scalar_one() is None:
        return False
    pattern = {"pattern": f"%{_literally(term)}%"}
    (plan,) = connection.execute(_PLAN, pattern).scalar_one()
    return bool(plan["Plan"]["Plan Rows"] > HAND)


def by_blocks(
    connection: Connection,
    conditions: Conditions,
    limit: int,
    after: Optional[int],
    descending: bool,
    numbers: Optional[Numbers] = None,
) -> Any:
    """The query for deliveries that meet ``conditions``, by their numbers; all have
    one of ``numbers``, if that is known."""
    lowest, highest = numbers or bounds(connection, _seq)
    first, last = (highest, lowest) if descending else (lowest, highest)
    if after is not None:
        first = after
        conditions = [*conditions, _seq < after if descending else _seq > after]

    # of the type that the index has: no other is looked up in it

    ends = (cast_to((seq or 0) >> _BLOCK, BigInteger) for seq in (first, last))
    series = func.generate_series(*ends, -1 if descending else 1)
    block: Any = series.table_valued("number").render_derived(name="block")
    number = _seq.op("+")(0)  # by no index: it would be taken to walk through all
    found = (
        select(*schema.deliveries.columns)
        .where(
            literal_column(f"(deliveries.seq >> {_BLOCK})") == block.c.number,
            *conditions,
        )
        .order_by(number.desc() if descending else number)
        .limit(limit)
        .lateral("found")
    )
    # one block after the other: no more of them than it takes

    return select(*found.c).select_from(block).join(found, true()).limit(limit)


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
