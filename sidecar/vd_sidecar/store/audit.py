# Copyright (C) The ngx_vd_module authors
"""Queries: who did what with a delivery, and what must not be kept any more."""

from __future__ import annotations

from typing import Any, Collection

from sqlalchemy import func, insert, literal, update
from sqlalchemy.engine import Connection

from . import schema
from .rows import next_number


def record(
    connection: Connection, act: str, who: str, now: int, seqs: Collection[int]
) -> None:
    """Note that ``who`` did ``act`` with each of these deliveries."""
    if not seqs:
        return
    first = next_number(connection, schema.acts.c.seq)
    connection.execute(
        insert(schema.acts),
        [
            {"seq": first + index, "time": now, "who": who, "act": act, "delivery": seq}
            for index, seq in enumerate(seqs)
        ],
    )


def erase_rejects(connection: Connection, mark: bytes) -> int:
    """Empty the lines of the journal that were set aside and hold ``mark``."""
    line = schema.rejects.c.line
    holds: Any = (
        func.instr(line, mark)
        if connection.dialect.name == "sqlite"
        else func.position(literal(mark).op("IN")(line))
    )
    statement = (
        update(schema.rejects)
        .where(holds > 0)
        .values(line=b"", why="forgotten, by an operator")
    )
    return int(connection.execute(statement).rowcount)
