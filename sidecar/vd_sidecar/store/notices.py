# Copyright (C) The ngx_vd_module authors
"""Queries: alerts, and the notices by which people and the app hear of things.

A notice is written in the transaction of what it tells, and sent later, as
often as it takes: nothing that must be heard waits in memory.
"""

from __future__ import annotations

import uuid
from typing import Any, Optional, Sequence

from attrs import frozen
from sqlalchemy import func, insert, select, update
from sqlalchemy.engine import Connection

from ..model import Alert, Delivery
from . import deliveries, schema
from .rows import next_number

ALERT_MAIL = "alert-mail"
ALERT_SLACK = "alert-slack"
BACKUP = "backup"
CALLBACK = "callback"

# Kinds of alerts.

FAILED = "failed"  # deliveries given up
REFUSED = "refused"  # deliveries of which nginx made no attempt
CONFLICT = "conflict"  # deliveries under whose id another content came
JOURNAL = "journal"  # lines set aside

# What is given up at about the same time is one alert's.

GATHER_MS = 5000

_alerts = schema.alerts
_notices = schema.notices
_alert_columns = tuple(
    _alerts.c[name]
    for name in ("seq", "key", "kind", "output", "label", "edge", "opened", "count")
)


@frozen
class Notice:
    """Something to be sent, or that was."""

    seq: int
    key: str  # a UUID, the same for each try to send it
    kind: str
    output: str
    delivery: Optional[int]
    alert: Optional[int]
    payload: Optional[str]
    created: int
    due: Optional[int]  # None: sent, or it cannot be
    tries: int
    sent: Optional[int]
    error: Optional[str]  # of the last try


@frozen
class Whose:
    """Notices of these outputs; if ``but``, of all outputs but these."""

    outputs: Sequence[str]
    but: bool

    def others(self) -> Whose:
        return Whose(self.outputs, not self.but)

    def condition(self) -> Any:
        column = _notices.c.output
        if self.but:
            return column.not_in(self.outputs)
        return column.in_(self.outputs)


ALL = Whose((), but=True)


def open_alert(
    connection: Connection,
    *,
    kind: str,
    output: str,
    label: str,
    edge: str,
    count: int,
    now: int,
    window: float,
    channels: Sequence[str],
) -> int:
    """The alert that ``count`` more things belong to: one an output and window.

    The first one is sent after a short while, those that follow it at the end
    of its ``window`` (seconds).  Returns its number.
    """
    last = connection.execute(
        select(*_alerts.columns)
        .where(_alerts.c.output == output, _alerts.c.kind == kind)
        .order_by(_alerts.c.seq.desc())
        .limit(1)
    ).one_or_none()

    span = round(window * 1000)

    # later than that only by a clock that was wrong

    latest = now + span + GATHER_MS

    if last is not None and not last.closed and now < last.due <= latest:
        connection.execute(
            update(_alerts)
            .where(_alerts.c.seq == last.seq)
            .values(count=_alerts.c.count + count)
        )
        # it may be of an edge, or a configuration, that had other channels or none

        kinds = select(_notices.c.kind).where(_notices.c.alert == last.seq)
        told = set(connection.execute(kinds).scalars())
        add(
            connection,
            [
                pending(channel, output, now, due=last.due, alert=last.seq)
                for channel in channels
                if channel not in told
            ],
        )
        return int(last.seq)

    due = now + min(span, GATHER_MS)
    if last is not None:
        due = max(due, min(last.due + span, latest))

    seq = next_number(connection, _alerts.c.seq)
    connection.execute(
        insert(_alerts).values(
            seq=seq,
            key=str(uuid.uuid4()),
            kind=kind,
            output=output,
            label=label,
            edge=edge,
            opened=now,
            due=due,
            closed=False,
            count=count,
        )
    )
    add(
        connection,
        [pending(channel, output, now, due=due, alert=seq) for channel in channels],
    )
    return seq


def pending(
    kind: str,
    output: str,
    now: int,
    *,
    due: Optional[int] = None,
    delivery: Optional[int] = None,
    alert: Optional[int] = None,
    payload: Optional[str] = None,
) -> Notice:
    """A notice that has not been sent, nor numbered."""
    return Notice(
        seq=0,
        key=str(uuid.uuid4()),
        kind=kind,
        output=output,
        delivery=delivery,
        alert=alert,
        payload=payload,
        created=now,
        due=now if due is None else due,
        tries=0,
        sent=None,
        error=None,
    )


def add(connection: Connection, new: Sequence[Notice]) -> None:
    """Number ``new`` notices and write them."""
    if not new:
        return
    first = next_number(connection, _notices.c.seq)
    names = [column.name for column in _notices.columns]
    connection.execute(
        insert(_notices),
        [
            {name: getattr(each, name) for name in names} | {"seq": first + index}
            for index, each in enumerate(new)
        ],
    )


def claim_notices(
    connection: Connection,
    kind: str,
    *,
    now: int,
    lease: float,
    limit: int,
    whose: Whose = ALL,
) -> list[Notice]:
    """Take notices that are due, for ``lease`` seconds; their alerts are closed."""
    rows = connection.execute(
        select(*_notices.columns)
        .where(_notices.c.kind == kind, _notices.c.due <= now, whose.condition())
        .order_by(_notices.c.due)
        .limit(limit)
    )
    taken = [Notice(*row) for row in rows]
    if taken:
        connection.execute(
            update(_notices)
            .where(_notices.c.seq.in_([each.seq for each in taken]))
            .values(due=now + round(lease * 1000), tries=_notices.c.tries + 1)
        )
        alerts = [each.alert for each in taken if each.alert is not None]
        if alerts:
            connection.execute(
                update(_alerts).where(_alerts.c.seq.in_(alerts)).values(closed=True)
            )
    return taken


def callback_id(key: str) -> str:
    """The id of the delivery by which nginx takes the callback of this ``key``."""
    return f"callback-{key}"


def any_due(connection: Connection, kind: str, now: int, whose: Whose = ALL) -> bool:
    """Whether ``claim_notices`` has work, without a lock."""
    return count_due(connection, kind, now, whose, most=1) > 0


def count_due(
    connection: Connection, kind: str, now: int, whose: Whose, most: int = 500
) -> int:
    """How many are due, ``most`` at most."""
    due = (
        select(_notices.c.seq)
        .where(_notices.c.kind == kind, _notices.c.due <= now, whose.condition())
        .limit(most)
        .subquery()
    )
    return int(connection.execute(select(func.count()).select_from(due)).scalar_one())


def sent(connection: Connection, seq: int, now: int, remark: Optional[str]) -> None:
    """It was sent; ``remark`` may say what was wrong nevertheless."""
    connection.execute(
        update(_notices)
        .where(_notices.c.seq == seq)
        .values(due=None, sent=now, error=remark)
    )


def postpone(
    connection: Connection, seq: int, due: int, error: str, payload: Optional[str]
) -> None:
    """It could not be sent; it is tried again at ``due``, with ``payload``."""
    connection.execute(
        update(_notices)
        .where(_notices.c.seq == seq, _notices.c.sent.is_(None))
        .values(due=due, error=error, payload=payload)
    )


def bring_forward(connection: Connection, now: int, longest: float) -> int:
    """Correct what is due later than possible, which only a wrong clock explains.

    ``longest``: seconds for which one may wait; returns how many were corrected.
    """
    latest = now + round(longest * 1000)
    corrected = connection.execute(
        update(_notices).where(_notices.c.due > latest).values(due=latest)
    )
    return int(corrected.rowcount)


def alert(connection: Connection, seq: int) -> Alert:
    return Alert(
        *connection.execute(select(*_alert_columns).where(_alerts.c.seq == seq)).one()
    )


def alert_deliveries(connection: Connection, seq: int, limit: int) -> list[Delivery]:
    """The first ``limit`` deliveries that an alert is about."""
    conflicts = schema.conflicts
    of_conflicts = select(conflicts.c.delivery).where(conflicts.c.alert == seq)
    rows = connection.execute(
        select(*schema.deliveries.columns)
        .where(
            (schema.deliveries.c.alert == seq)
            | schema.deliveries.c.seq.in_(of_conflicts)
        )
        .order_by(schema.deliveries.c.seq)
        .limit(limit)
    )
    return [deliveries.delivery(row) for row in rows]


def of_delivery(connection: Connection, delivery: Delivery) -> list[Notice]:
    """What was, or is to be, told of a delivery."""
    condition: Any = _notices.c.delivery == delivery.seq
    conflicts = schema.conflicts
    alerts: Any = select(conflicts.c.alert).where(conflicts.c.delivery == delivery.seq)
    condition = condition | _notices.c.alert.in_(alerts)
    if delivery.alert is not None:
        condition = condition | (_notices.c.alert == delivery.alert)
    rows = connection.execute(
        select(*_notices.columns).where(condition).order_by(_notices.c.seq)
    )
    return [Notice(*row) for row in rows]
