# Copyright (C) The ngx_vd_module authors
"""The queries behind health and metrics: cheap, however much the store holds."""

from __future__ import annotations

from typing import Any, Optional

from attrs import frozen
from sqlalchemy import bindparam, func, literal, select, union_all
from sqlalchemy.engine import Connection

from ..model import PENDING, STATES
from . import notices, schema

MOST = 500  # as far as what waits is counted, for each output and kind
KINDS = (notices.ALERT_MAIL, notices.ALERT_SLACK, notices.BACKUP, notices.CALLBACK)

_deliveries = schema.deliveries
_notices = schema.notices
_alerts = schema.alerts
_tallies = schema.tallies


@frozen
class OutputStats:
    """Of one output; spans are milliseconds."""

    output: str
    label: str
    states: dict[str, int]  # deliveries by state
    due: int  # of those pending: to be attempted now, and not under way; MOST at most
    overdue: int  # for how long the oldest of them has been due; 0 if there is none
    refused: int = 0  # of those pending: nginx makes no attempt of them; MOST at most
    refused_for: int = 0  # for how long it has refused the oldest of them


@frozen
class NoticeStats:
    """Of one kind; of more than MOST that wait, those whose turn comes first."""

    kind: str
    waiting: int  # due, or tried in vain; MOST at most
    overdue: int  # ms, for how long the oldest of them should have been sent


@frozen
class Stats:
    outputs: tuple[OutputStats, ...]  # that ever had a delivery, by their ids
    notices: tuple[NoticeStats, ...]  # all kinds


def read(connection: Connection, now: int) -> Stats:
    """As the store is at ``now``, Unix ms by its own clock."""
    return Stats(_read_outputs(connection, now), _read_notices(connection, now))


def _read_outputs(connection: Connection, now: int) -> tuple[OutputStats, ...]:
    return tuple(
        OutputStats(
            output,
            label,
            dict(zip(STATES, states)),
            due,
            _since(first, now),
            refused,
            _since(since, now),
        )
        for output, label, *states, due, first, refused, since in connection.execute(
            _outputs, {"now": now}
        )
    )


def _read_notices(connection: Connection, now: int) -> tuple[NoticeStats, ...]:
    found = {
        kind: (count, first)
        for kind, count, first in connection.execute(_waiting, {"now": now})
    }
    return tuple(
        NoticeStats(kind, count, _since(first, now))
        for kind in KINDS
        for count, first in [found.get(kind, (0, None))]
    )


def _since(first: Optional[int], now: int) -> int:
    return 0 if first is None else max(0, now - first)


def _query_outputs() -> Any:
    # what is under way is due only when its lease ends, so that one index tells
    # it all

    due: Any = select(_deliveries.c.due).where(
        _deliveries.c.output == _tallies.c.output,
        _deliveries.c.state == PENDING,
        _deliveries.c.due <= bindparam("now"),
    )
    due = due.correlate(_tallies)
    counted = due.limit(MOST).subquery()

    refused: Any = select(_deliveries.c.refused).where(
        _deliveries.c.output == _tallies.c.output,
        _deliveries.c.state == PENDING,
        _deliveries.c.refused.is_not(None),
    )
    refused = refused.correlate(_tallies)
    refusals = refused.limit(MOST).subquery()

    return select(
        _tallies.c.output,
        _tallies.c.label,
        *(_tallies.c[state] for state in STATES),
        select(func.count()).select_from(counted).scalar_subquery(),
        due.order_by(_deliveries.c.due).limit(1).scalar_subquery(),
        select(func.count()).select_from(refusals).scalar_subquery(),
        refused.order_by(_deliveries.c.refused).limit(1).scalar_subquery(),
    ).order_by(_tallies.c.output)


def _query_notices() -> Any:
    """An alert's notices wait first for its window to end, and then for us."""
    each = [
        select(literal(kind).label("kind"), _notices.c.created, _notices.c.alert)
        .where(
            _notices.c.kind == kind,
            _notices.c.due.is_not(None),
            (_notices.c.tries > 0) | (_notices.c.due <= bindparam("now")),
        )
        .order_by(_notices.c.due)
        .limit(MOST)
        .subquery()
        for kind in KINDS
    ]
    waiting: Any = union_all(*(select(query) for query in each)).subquery()
    began = func.coalesce(_alerts.c.due, waiting.c.created)
    return (
        select(waiting.c.kind, func.count(), func.min(began))
        .select_from(waiting.outerjoin(_alerts, _alerts.c.seq == waiting.c.alert))
        .group_by(waiting.c.kind)
    )


_outputs = _query_outputs()
_waiting = _query_notices()
