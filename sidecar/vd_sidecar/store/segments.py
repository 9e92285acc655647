# Copyright (C) The ngx_vd_module authors
"""Queries: how far the segments of the journal were taken, and what was set aside."""

from __future__ import annotations

from typing import Any, Collection, Iterable, Optional, Sequence

from attrs import asdict, frozen
from sqlalchemy import delete, insert, select
from sqlalchemy.engine import Connection

from ..model import Reject
from . import schema
from .rows import next_number, upsert

_table = schema.segments


@frozen
class Position:
    """How far a segment was taken."""

    segment: str
    edge: str
    position: int  # bytes
    records: int  # lines that were records, those set aside included
    done: Optional[int]  # when the last of it was taken


def positions(connection: Connection, edge: str) -> dict[str, Position]:
    """Of the segments that ``edge`` knows, or whichever edge took to the end."""
    rows = connection.execute(
        select(*_table.columns).where((_table.c.edge == edge) | (_table.c.done > 0))
    )
    return {row.segment: Position(*row) for row in rows}


def save_positions(connection: Connection, moved: Iterable[Position]) -> None:
    upsert(connection, _table, ["segment"], [asdict(each) for each in moved])


def forget_segments(connection: Connection, before: int) -> int:
    """Drop what is known of segments that were done long ago."""
    gone = connection.execute(delete(_table).where(_table.c.done < before))
    return int(gone.rowcount)


def set_aside(
    connection: Connection, alert: int, now: int, lines: Sequence[Reject]
) -> None:
    """Keep lines that could not be taken; their own numbers do not count."""
    first = next_number(connection, schema.rejects.c.seq)
    connection.execute(
        insert(schema.rejects),
        [
            {
                "seq": first + index,
                "alert": alert,
                "time": now,
                "segment": each.segment,
                "position": each.offset,
                "why": each.why,
                "line": each.line,
            }
            for index, each in enumerate(lines)
        ],
    )


def delete_rejects(connection: Connection, before: int) -> int:
    """Delete lines that were set aside before ``before``: they may be whole cases."""
    table = schema.rejects
    gone = connection.execute(delete(table).where(table.c.time < before))
    return int(gone.rowcount)


def known_rejects(
    connection: Connection, within: Collection[str]
) -> set[tuple[str, int]]:
    """Segment and offset of the lines of these segments that were set aside."""
    table = schema.rejects
    rows = connection.execute(
        select(table.c.segment, table.c.position).where(table.c.segment.in_(within))
    )
    return {(row.segment, row.position) for row in rows}


def rejects(
    connection: Connection, alert: Optional[int] = None, limit: int = 100
) -> list[Reject]:
    """Lines that were set aside, newest first; of one alert only if it is given."""
    table = schema.rejects
    query: Any = select(
        table.c.seq, table.c.segment, table.c.position, table.c.why, table.c.line
    )
    if alert is not None:
        query = query.where(table.c.alert == alert)
    rows = connection.execute(query.order_by(table.c.seq.desc()).limit(limit))
    return [Reject(*row) for row in rows]
