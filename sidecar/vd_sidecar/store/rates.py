# Copyright (C) The ngx_vd_module authors
"""How attempts went, counted as they are taken, so that nobody need count later."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Iterable, Optional, Sequence

from attrs import frozen
from sqlalchemy import case, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from ..model import ACCEPTED, DELIVERED, Record
from . import schema

MINUTE = 60_000
HALF_HOUR = 30 * MINUTE
DAY = 48 * HALF_HOUR

# For how long, by span.

KEPT = {MINUTE: 3 * 60 * MINUTE, HALF_HOUR: 9 * DAY, DAY: 366 * DAY}

# Upper bounds of d0, d1, ... in ms; the last one has none.

BOUNDS: tuple[int, ...] = (10, 20, 50, 100, 200, 350, 500, 750)
BOUNDS += (1000, 2000, 3500, 5000, 10_000, 20_000, 30_000)
_DURATIONS = tuple(f"d{n}" for n in range(len(BOUNDS) + 1))
_COUNTS = ("delivered", "failed", *_DURATIONS)
_LAST = ("last_delivered", "last_failed")

_rates = schema.rates


@frozen
class Rate:
    """Of one output, the attempts that ended from ``start`` (Unix ms) on."""

    output: str
    start: int
    delivered: int
    failed: int
    durations: tuple[int, ...]  # how many in each of ``BOUNDS``, and over the last
    last_delivered: Optional[int]
    last_failed: Optional[int]


def add(
    connection: Connection, records: Iterable[tuple[int, Record]], now: int
) -> None:
    """Count each (number of a delivery, record), which is new.

    None is later than ``now``: one from a clock that is ahead would be the newest for
    a long time, and have the others dropped.
    """
    minutes: dict[tuple[int, str], dict[str, Any]] = {}
    for _, record in records:
        if record.outcome == ACCEPTED:
            continue
        time = min(record.time, now)
        key = (time // MINUTE, record.output)
        row = minutes.get(key)
        if row is None:
            row = minutes[key] = _empty()
        _count(row, record, time)

    rows: dict[tuple[int, int, str], dict[str, Any]] = {}
    for (minute, output), counted in minutes.items():
        time = minute * MINUTE
        for span in KEPT:
            place = (span, time - time % span, output)
            if place not in rows:
                rows[place] = _empty() | dict(zip(_KEY, place))
            _merge(rows[place], counted)
    if not rows:
        return

    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement = insert(_rates)
    new = statement.excluded
    values: dict[str, Any] = {name: _rates.c[name] + new[name] for name in _COUNTS}
    for name in _LAST:
        old = func.coalesce(_rates.c[name], 0)
        later = func.coalesce(new[name], 0) > old
        values[name] = case((later, new[name]), else_=_rates.c[name])
    connection.execute(
        statement.on_conflict_do_update(index_elements=list(_KEY), set_=values),
        list(rows.values()),
    )
    _drop_old(connection, now)


_KEY = ("span", "start", "output")


def _empty() -> dict[str, Any]:
    return {**dict.fromkeys(_COUNTS, 0), **dict.fromkeys(_LAST)}


def _merge(row: dict[str, Any], other: dict[str, Any]) -> None:
    for name in _COUNTS:
        row[name] += other[name]
    for name in _LAST:
        row[name] = max(row[name] or 0, other[name] or 0) or None


def _count(row: dict[str, Any], record: Record, time: int) -> None:
    outcome = "delivered" if record.outcome == DELIVERED else "failed"
    row[outcome] += 1
    last = "last_" + outcome
    row[last] = max(row[last] or 0, time)
    if record.duration_ms is not None:
        row[_DURATIONS[bisect_left(BOUNDS, record.duration_ms)]] += 1


def _drop_old(connection: Connection, now: int) -> None:
    for span, kept in KEPT.items():
        connection.execute(
            delete(_rates).where(_rates.c.span == span, _rates.c.start < now - kept)
        )


def read(connection: Connection, span: int, since: int, width: int) -> list[Rate]:
    """In steps of ``width`` ms, which is a multiple of ``span``, from ``since`` on.

    Steps without attempts are left out; those of an output are in order.
    """
    step = _rates.c.start - _rates.c.start % width
    rows = connection.execute(
        select(
            _rates.c.output,
            step,
            *(func.sum(_rates.c[name]) for name in _COUNTS),
            *(func.max(_rates.c[name]) for name in _LAST),
        )
        .where(_rates.c.span == span, _rates.c.start >= since)
        .group_by(_rates.c.output, step)
        .order_by(_rates.c.output, step)
    )
    return [
        Rate(output, start, int(delivered), int(failed), tuple(map(int, rest)), *last)
        for output, start, delivered, failed, *rest, one, two in rows
        for last in [(one, two)]
    ]


def quantile(durations: Sequence[int], share: float) -> Optional[float]:
    """The duration (ms) that ``share`` of the attempts did not exceed, about."""
    total = sum(durations)
    if not total:
        return None
    left = share * total
    lower = 0.0
    for count, upper in zip(durations, BOUNDS):
        if count and left <= count:
            return lower + (upper - lower) * left / count
        left -= count
        lower = float(upper)
    return lower


def last_delivered(connection: Connection) -> dict[str, int]:
    """When each output last took something, as far as it is remembered."""
    rows = connection.execute(
        select(_rates.c.output, func.max(_rates.c.last_delivered))
        .where(_rates.c.span == DAY)
        .group_by(_rates.c.output)
    )
    return {output: time for output, time in rows if time is not None}
