# Copyright (C) The ngx_vd_module authors
"""Queries that only read, for those who look at deliveries: people and monitors."""

from __future__ import annotations

from typing import Collection, Iterator, Optional, Sequence

from attrs import frozen
from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from ..model import PENDING, Delivery
from . import Store, deliveries, filters, lists, schema
from .filters import Filter as Filter
from .lists import NEWEST as NEWEST, Place as Place, Sort as Sort, place as place

CHUNK = 1000  # deliveries that are read in one transaction

_deliveries = schema.deliveries
_acts = schema.acts
_columns = tuple(_deliveries.columns)


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
class Act:
    """What an operator did with a delivery."""

    time: int
    who: str
    act: str


def find(
    connection: Connection,
    filter: Filter,
    limit: int,
    after: Optional[Place] = None,
    sort: Sort = NEWEST,
    back: bool = False,
) -> list[Delivery]:
    """At most ``limit`` deliveries in the order of ``sort``; those behind ``after`` if
    given, or, if ``back``, those before it, the nearest first."""
    found: list[Delivery] = []
    for part in lists.parts(lists.meant(connection, filter), sort, after, back):
        found += part(limit - len(found))
        if len(found) == limit:
            break
    return found


def chunks(
    store: Store, filter: Filter, size: int = CHUNK
) -> Iterator[Sequence[Delivery]]:
    """All that ``filter`` means, newest first, in lists of at most ``size``.

    Each is read in a transaction of its own, so that none lasts long: every
    delivery comes once, as it is when it is read; what is new meanwhile does not.
    """
    after: Optional[Place] = None
    while True:
        with store.reading() as connection:
            found = find(connection, filter, size, after)
        if found:
            yield found
        if len(found) < size:
            return
        after = place(found[-1])


def count(connection: Connection, filter: Filter, most: Optional[int] = None) -> int:
    """How many deliveries ``filter`` means; ``most`` if there are more than that."""
    conditions = lists.matching(lists.meant(connection, filter))
    found = select(_deliveries.c.seq).where(*conditions).limit(most)
    counted = connection.execute(select(func.count()).select_from(found.subquery()))
    return int(counted.scalar_one())


def among(
    connection: Connection, seqs: Collection[int], filter: Filter
) -> list[Delivery]:
    """Those of ``seqs`` that ``filter`` means, in the order of their numbers."""
    rows = connection.execute(
        select(*_columns)
        .where(_deliveries.c.seq.in_(seqs), *filters.conditions(connection, filter))
        .order_by(_deliveries.c.seq)
    )
    return [deliveries.delivery(row) for row in rows]


def by_id(connection: Connection, id: str) -> list[Delivery]:
    """The deliveries with this id, one an output."""
    if not filters.storable(id):
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


def waiting(
    connection: Connection, most: int = 50
) -> dict[tuple[str, Optional[str]], int]:
    """For which uris, and hosts, the most deliveries wait, and how many."""
    place, count = (_deliveries.c.uri, schema.bodies.c.host), func.count()
    query = select(*place, count).where(_deliveries.c.state == PENDING)
    query = query.outerjoin_from(
        _deliveries, schema.bodies, schema.bodies.c.delivery == _deliveries.c.seq
    )
    query = query.group_by(*place).order_by(count.desc(), *place).limit(most)
    rows = connection.execute(query)
    return {(row[0], row[1]): int(row[2]) for row in rows}


def edges(connection: Connection) -> list[str]:
    """Which edges have journals in this store, as far as segments are remembered."""
    column = schema.segments.c.edge
    return list(
        connection.execute(select(column).distinct().order_by(column)).scalars()
    )
