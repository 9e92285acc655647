# Copyright (C) The ngx_vd_module authors
"""Queries: where each edge left the store, by which it sees that this went back in time.

With each batch an edge leaves a mark that no other transaction wrote, and the number
of batches that the store has taken from all edges.  If it finds another mark, or a
lower number than it saw, the store forgot something: a replica took over that had
not heard of it yet, or a backup was put back.  All edges are then asked to read their
journals again, for each may have lost as much.
"""

from __future__ import annotations

import secrets
from typing import Optional

from attrs import frozen
from sqlalchemy import func, select, update
from sqlalchemy.engine import Connection

from . import schema
from .rows import upsert

ASKED = 0  # in place of a mark: read your journal again

_table = schema.edges


@frozen
class Left:
    """How the store was left."""

    mark: Optional[int]  # by this edge; None if the store never heard of it
    number: int  # of the last batch, of all edges
    behind: tuple[int, ...]  # since when edges read their journals again


def new_mark() -> int:
    return 1 + secrets.randbelow(2**62)


def look(connection: Connection, edge: str) -> Left:
    rows = connection.execute(select(*_table.columns)).all()
    return Left(
        next((row.mark for row in rows if row.edge == edge), None),
        max((row.number for row in rows), default=0),
        tuple(row.behind for row in rows if row.behind is not None),
    )


def leave(connection: Connection, edge: str, mark: int, number: int) -> None:
    """Note a batch of an edge that the store has heard of."""
    connection.execute(
        update(_table).where(_table.c.edge == edge).values(mark=mark, number=number)
    )


def count(connection: Connection) -> None:
    """Note a change that is in no journal, such as an operator's: if it is lost, so is
    this number."""
    highest = select(func.max(_table.c.number)).scalar_subquery()
    connection.execute(update(_table).values(number=highest + 1))


def begin(
    connection: Connection, edge: str, mark: int, number: int, behind: Optional[int]
) -> None:
    """The same of any edge, and since when it reads its journal again."""
    row = {"edge": edge, "mark": mark, "number": number, "behind": behind}
    upsert(connection, _table, ["edge"], [row])


def ask(connection: Connection, now: int) -> None:
    """Have all edges read their journals again."""
    connection.execute(update(_table).values(mark=ASKED, behind=now))


def catch_up(connection: Connection, edge: str) -> None:
    """An edge has read its journal again."""
    connection.execute(update(_table).where(_table.c.edge == edge).values(behind=None))
