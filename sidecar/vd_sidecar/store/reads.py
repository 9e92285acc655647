# Copyright (C) The ngx_vd_module authors
"""Queries that only read, for those who look at deliveries: people and monitors."""

from __future__ import annotations

from typing import Any, Collection, Iterator, Optional, Sequence, cast

from attrs import evolve, frozen
from sqlalchemy import and_, case, false, func, literal, literal_column, or_, select
from sqlalchemy import tuple_
from sqlalchemy.engine import Connection
from sqlalchemy.sql.elements import ColumnElement

from ..model import DELIVERED, PENDING, Delivery
from . import Store, deliveries, schema, search

CHUNK = 1000  # deliveries that are read in one transaction

After = tuple[int, int]  # created and number of the last delivery that was seen

_deliveries = schema.deliveries
_acts = schema.acts
_columns = tuple(_deliveries.columns)


@frozen
class Filter:
    """Which deliveries are meant: all conditions hold; what is empty is no condition.

    ``since`` and ``until`` (Unix ms) bound the time of the first record, the
    latter not included.  ``search`` is the id, the case or the ticket id, or a part
    of it (its beginning, of an id that nginx made); capitals do not matter in ASCII.
    ``named`` is exactly one of these three.  The others are exact, too.
    """

    outputs: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    since: Optional[int] = None
    until: Optional[int] = None
    reason: Optional[str] = None
    case: Optional[str] = None
    ticket_id: Optional[str] = None
    search: Optional[str] = None
    named: Optional[str] = None
    without_ticket: bool = False


@frozen
class Tally:
    """How many deliveries of an output are in each state."""

    output: str
    label: str
    delivered: int
    pending: int
    failed: int
    cancelled: int


@frozen
class Backlog:
    """What of an output's pending deliveries is to be done now."""

    output: str
    label: str
    due: int  # attempts that are due, those whose lease ran out included
    under_way: int
    oldest: Optional[int]  # ms, for how long the oldest of ``due`` has been due


@frozen
class Act:
    """What an operator did with a delivery."""

    time: int
    who: str
    act: str


def find(
    connection: Connection,
    filter: Filter,
    limit: int,
    after: Optional[After] = None,
    oldest_first: bool = False,
) -> list[Delivery]:
    """At most ``limit`` deliveries, newest first unless ``oldest_first``; those behind
    ``after`` if given.

    What is searched for comes in the order in which the store heard of it.
    """
    conditions, order = _meant(connection, filter)
    query = select(*_columns).where(*conditions)
    if after is not None:
        place: Any = tuple_(*order) if len(order) > 1 else order[0]
        seen: Any = literal(after[1])
        if len(order) > 1:
            seen = tuple_(literal(after[0]), seen)
        query = query.where(place > seen if oldest_first else place < seen)
    if not oldest_first:
        order = [column.desc() for column in order]
    rows = connection.execute(query.order_by(*order).limit(limit))
    return [deliveries.delivery(row) for row in rows]


def key(delivery: Delivery) -> After:
    """Where ``find`` goes on behind ``delivery``."""
    return (delivery.created, delivery.seq)


def chunks(
    store: Store, filter: Filter, size: int = CHUNK
) -> Iterator[Sequence[Delivery]]:
    """All that ``filter`` means, newest first, in lists of at most ``size``.

    Each is read in a transaction of its own, so that none lasts long: every
    delivery comes once, as it is when it is read; what is new meanwhile does not.
    """
    after = None
    while True:
        with store.reading() as connection:
            found = find(connection, filter, size, after)
        if found:
            yield found
        if len(found) < size:
            return
        after = key(found[-1])


def count(connection: Connection, filter: Filter, most: Optional[int] = None) -> int:
    """How many deliveries ``filter`` means; ``most`` if there are more than that."""
    conditions, _ = _meant(connection, filter)
    found = select(_deliveries.c.seq).where(*conditions).limit(most)
    counted = connection.execute(select(func.count()).select_from(found.subquery()))
    return int(counted.scalar_one())


def among(
    connection: Connection, seqs: Collection[int], filter: Filter
) -> list[Delivery]:
    """Those of ``seqs`` that ``filter`` means, in the order of their numbers."""
    rows = connection.execute(
        select(*_columns)
        .where(_deliveries.c.seq.in_(seqs), *_conditions(connection, filter))
        .order_by(_deliveries.c.seq)
    )
    return [deliveries.delivery(row) for row in rows]


def by_id(connection: Connection, id: str) -> list[Delivery]:
    """The deliveries with this id, one an output."""
    if not _storable(id):
        return []
    found = deliveries.by_ids(connection, [id])
    return [found[each] for each in sorted(found)]


def body_sizes(connection: Connection, seqs: Collection[int]) -> dict[int, int]:
    """Of those deliveries whose case is in the store, how many bytes it has."""
    table = schema.bodies
    rows = connection.execute(
        select(table.c.delivery, func.length(table.c.body)).where(
            table.c.delivery.in_(seqs)
        )
    )
    return {seq: size for seq, size in rows}


def acts(connection: Connection, seq: int) -> list[Act]:
    """What operators did with a delivery, in that order."""
    rows = connection.execute(
        select(_acts.c.time, _acts.c.who, _acts.c.act)
        .where(_acts.c.delivery == seq)
        .order_by(_acts.c.seq)
    )
    return [Act(*row) for row in rows]


def tallies(connection: Connection) -> list[Tally]:
    """Of all outputs that ever had a delivery, by their ids."""
    table = schema.tallies
    rows = connection.execute(
        select(
            table.c.output,
            table.c.label,
            table.c.delivered,
            table.c.pending,
            table.c.failed,
            table.c.cancelled,
        ).order_by(table.c.output)
    )
    return [Tally(*row) for row in rows]


def backlogs(connection: Connection, now: int) -> list[Backlog]:
    """Of all outputs that ever had a delivery, by their ids; ``now`` in Unix ms."""
    columns = _deliveries.c
    free = columns.due <= now
    leased = and_(columns.owner.is_not(None), columns.due > now)
    rows = connection.execute(
        select(
            columns.output,
            func.sum(case((free, 1), else_=0)),
            func.sum(case((leased, 1), else_=0)),
            func.min(case((free, columns.due))),
        )
        .where(columns.state == PENDING)
        .group_by(columns.output)
    )
    found = {output: rest for output, *rest in rows}
    result = []
    for tally in tallies(connection):
        due, under_way, oldest = found.get(tally.output, (0, 0, None))
        age = None if oldest is None else now - oldest
        result.append(Backlog(tally.output, tally.label, int(due), int(under_way), age))
    return result


def edges(connection: Connection) -> list[str]:
    """Which edges have journals in this store, as far as segments are remembered."""
    column = schema.segments.c.edge
    return list(
        connection.execute(select(column).distinct().order_by(column)).scalars()
    )


def _meant(connection: Connection, filter: Filter) -> tuple[list[Any], list[Any]]:
    """The conditions of ``filter``, and the columns by which to sort."""
    if not filter.search or not _storable(filter.search):
        return _conditions(connection, filter), [
            _deliveries.c.created,
            _deliveries.c.seq,
        ]
    others = _conditions(connection, evolve(filter, search=None))
    found, number = search.indexed(connection, filter.search, others)
    return [*others, *found], [number]


def _conditions(connection: Connection, filter: Filter) -> list[ColumnElement[bool]]:
    columns = _deliveries.c
    texts = (filter.reason, filter.case, filter.ticket_id, filter.search, filter.named)
    if not all(map(_storable, filter.outputs + filter.states)) or not all(
        text is None or _storable(text) for text in texts
    ):
        return [cast("ColumnElement[bool]", false())]

    conditions: list[Any] = []
    not_delivered = bool(filter.states) and DELIVERED not in filter.states
    if not_delivered or filter.reason is not None:
        # as the index deliveries_open has it

        conditions.append(literal_column("deliveries.state <> 'delivered'"))
    if filter.without_ticket:
        conditions.append(columns.ticket_id.is_(None))
    if filter.outputs:
        # SQLite would take its index, though another one is better

        alone = not conditions and len(filter.outputs) == 1
        known = alone or connection.dialect.name != "sqlite"
        output: Any = columns.output if known else columns.output.concat("")
        conditions.append(output.in_(filter.outputs))
    if filter.states:
        conditions.append(columns.state.in_(filter.states))
    if filter.since is not None:
        conditions.append(columns.created >= filter.since)
    if filter.until is not None:
        conditions.append(columns.created < filter.until)
    for column, text in (
        (columns.reason, filter.reason),
        (columns.case, filter.case),
        (columns.ticket_id, filter.ticket_id),
    ):
        if text is not None:
            conditions.append(column == text)
    if filter.named is not None:
        named = (columns.id, columns.case, columns.ticket_id)
        conditions.append(or_(*(each == filter.named for each in named)))
    if filter.search:
        conditions.append(search.holds(connection, filter.search))
    return conditions


def _storable(text: str) -> bool:
    """Whether the store may have such a text; it never holds NUL or surrogates."""
    try:
        return "\0" not in text and bool(text.encode() or True)
    except UnicodeEncodeError:
        return False
