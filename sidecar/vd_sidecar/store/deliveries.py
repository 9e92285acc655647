# Copyright (C) The ngx_vd_module authors
"""Queries: deliveries, what was exchanged for them, and what is due.

Those that write are called within ``Store.writing()``.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Collection, Iterable, Mapping, Optional, Sequence

from attrs import asdict
from sqlalchemy import and_, bindparam, case, delete, func, insert, or_, select
from sqlalchemy import update
from sqlalchemy.engine import Connection, Row

from ..model import (
    MAX_ATTEMPT,
    PENDING,
    STATES,
    Claim,
    Conflict,
    Content,
    Delivery,
    Exchange,
    Record,
)
from . import schema, search
from .rows import insert_many, next_number, upsert

Key = tuple[str, str]  # id, output
RecordKey = tuple[int, int, int]  # delivery, time, crc

SMALL = 65536  # bytes, of bodies that are read together

_deliveries = schema.deliveries
_exchanges = schema.exchanges

_names = tuple(column.name for column in _deliveries.columns)
_exchange_names = tuple(column.name for column in _exchanges.columns)[1:]
_exchange_values = attrgetter(*_exchange_names)

# what a delivery keeps for life is not among what an update writes

_fixed = ("seq", "id", "output", "created")
_mutable = tuple(name for name in _names if name not in _fixed)
_mutable_values = attrgetter(*_mutable)


def delivery(row: Row[Any]) -> Delivery:
    """Of a row whose columns are those of the table, in order."""
    return Delivery._make(row)


def by_ids(connection: Connection, ids: Collection[str]) -> dict[Key, Delivery]:
    """The deliveries that have one of ``ids``, whatever their output."""
    rows = connection.execute(
        select(*_deliveries.columns).where(_deliveries.c.id.in_(ids))
    )
    return {(row.id, row.output): delivery(row) for row in rows}


def by_seqs(connection: Connection, seqs: Collection[int]) -> list[Delivery]:
    """Those of ``seqs`` that exist, in order."""
    rows = connection.execute(
        select(*_deliveries.columns)
        .where(_deliveries.c.seq.in_(seqs))
        .order_by(_deliveries.c.seq)
    )
    return [delivery(row) for row in rows]


def first_free(connection: Connection) -> int:
    """The number of the next new delivery."""
    return next_number(connection, _deliveries.c.seq)


def known_records(connection: Connection, seqs: Collection[int]) -> set[RecordKey]:
    """Which records of these deliveries were taken before."""
    if not seqs:
        return set()
    rows = connection.execute(
        select(_exchanges.c.delivery, _exchanges.c.time, _exchanges.c.crc).where(
            _exchanges.c.delivery.in_(seqs)
        )
    )
    return {(row.delivery, row.time, row.crc) for row in rows}


def add(connection: Connection, new: Sequence[Delivery]) -> None:
    insert_many(connection, _deliveries, new)
    search.add(connection, new)


def save(connection: Connection, changed: Sequence[Delivery]) -> None:
    if changed:
        statement = (
            update(_deliveries)
            .where(_deliveries.c.seq == bindparam("_seq"))
            .values({name: bindparam(f"_{name}") for name in _mutable})
        )
        parameters = [f"_{name}" for name in _mutable]
        connection.execute(
            statement,
            [
                dict(zip(parameters, _mutable_values(each)), _seq=each.seq)
                for each in changed
            ],
        )


def add_exchanges(
    connection: Connection, records: Sequence[tuple[int, Record]]
) -> None:
    """What each (number of a delivery, record) tells of an exchange."""
    insert_many(
        connection,
        _exchanges,
        [(seq, *_exchange_values(record)) for seq, record in records],
    )


def put_bodies(
    connection: Connection, contents: Mapping[int, Optional[Content]]
) -> None:
    """The last content of a delivery is the one that is sent; None: it is gone."""
    table = schema.bodies
    if contents:
        connection.execute(delete(table).where(table.c.delivery.in_(contents)))
        insert_many(
            connection,
            table,
            [
                (seq, each.body, each.host, each.kept)
                for seq, each in contents.items()
                if each is not None
            ],
        )


def body(connection: Connection, seq: int) -> Optional[bytes]:
    found: Optional[bytes] = connection.execute(
        select(schema.bodies.c.body).where(schema.bodies.c.delivery == seq)
    ).scalar_one_or_none()
    return found


def content(connection: Connection, seq: int) -> Optional[Content]:
    """The whole of what attempts send; None if it is not known."""
    table = schema.bodies
    row = connection.execute(
        select(table.c.body, table.c.host, table.c.kept).where(table.c.delivery == seq)
    ).one_or_none()
    return None if row is None else Content(*row)


def conflicts(connection: Connection, seqs: Collection[int]) -> list[Conflict]:
    """Other contents of these deliveries, oldest first."""
    table = schema.conflicts
    rows = connection.execute(
        select(*table.columns)
        .where(table.c.delivery.in_(seqs))
        .order_by(table.c.delivery, table.c.time)
    )
    return [Conflict(*row) for row in rows]


def put_conflicts(
    connection: Connection, found: Iterable[Conflict], gone: Iterable[tuple[int, str]]
) -> None:
    """``gone``: numbers and digests of what is the delivery's own content now."""
    table = schema.conflicts
    for seq, digest in gone:
        connection.execute(
            delete(table).where(table.c.delivery == seq, table.c.digest == digest)
        )
    upsert(connection, table, ["delivery", "digest"], [asdict(each) for each in found])


def exchanges(connection: Connection, seq: int) -> list[Exchange]:
    """In the order in which they happened."""
    shown = (_exchanges.c[name] for name in _exchange_names if name != "crc")
    rows = connection.execute(
        select(*shown)
        .where(_exchanges.c.delivery == seq)
        .order_by(_exchanges.c.time, _exchanges.c.attempt)
    )
    return [Exchange(*row) for row in rows]


def tally(
    connection: Connection,
    changes: Mapping[str, Mapping[str, int]],
    labels: Mapping[str, str],
) -> None:
    """Add to how many deliveries of an output are in each state."""
    table = schema.tallies
    known = set(connection.execute(select(table.c.output)).scalars())
    new = [output for output in changes if output not in known]

    if new:
        zeros: dict[str, Any] = {state: 0 for state in STATES}
        connection.execute(
            insert(table),
            [zeros | {"output": output, "label": labels[output]} for output in new],
        )
    for output, states in changes.items():
        values: dict[str, Any] = {
            state: table.c[state] + count for state, count in states.items()
        }
        connection.execute(
            update(table)
            .where(table.c.output == output)
            .values(label=labels[output], **values)
        )


def due_outputs(connection: Connection, now: int, scanned: int) -> list[str]:
    """Outputs with a delivery that ``claim`` would give."""
    first = (
        select(_deliveries.c.seq)
        .where(_claimable(schema.tallies.c.output, now, scanned))
        .limit(1)
        .correlate(schema.tallies)
        .scalar_subquery()
    )
    return list(
        connection.execute(
            select(schema.tallies.c.output).where(
                schema.tallies.c.pending > 0, first.is_not(None)
            )
        ).scalars()
    )


def claim(
    connection: Connection,
    output: str,
    edge: str,
    *,
    now: int,
    scanned: int,
    lease: float,
    limit: int,
    exclude: Collection[int] = (),
) -> list[Claim]:
    """Give the deliveries that are due longest to ``edge``, for ``lease`` seconds.

    ``scanned``: the time up to which this edge's journal was read; a lease that
    ran out after it may have been kept, so the journal has the word first.
    ``exclude``: what this edge attempts even now, whatever the clock says.
    """
    until = now + round(lease * 1000)
    rows = connection.execute(
        select(
            _deliveries.c.seq,
            _deliveries.c.id,
            _deliveries.c.case,
            _deliveries.c.uri,
            _deliveries.c.attempts,
            _deliveries.c.fence,
            _deliveries.c.due,
            _deliveries.c.content_type,
            func.length(schema.bodies.c.body).label("size"),
        )
        .select_from(_deliveries.outerjoin(schema.bodies, _joined))
        .where(_claimable(output, now, scanned), _deliveries.c.seq.not_in(exclude))
        .order_by(_deliveries.c.due)
        .limit(limit)
    ).all()

    claims = [
        Claim(
            seq=row.seq,
            id=row.id,
            output=output,
            case=row.case,
            uri=row.uri,
            attempt=min(row.attempts + 1, MAX_ATTEMPT),
            fence=row.fence + 1,
            was_due=row.due,
            until=until,
            content_type=row.content_type,
            size=row.size,
        )
        for row in rows
    ]
    if claims:
        connection.execute(
            update(_deliveries)
            .where(_deliveries.c.seq.in_([each.seq for each in claims]))
            .values(
                owner=edge,
                due=until,
                claimed=case(
                    (_deliveries.c.attempts < MAX_ATTEMPT, _deliveries.c.attempts + 1),
                    else_=MAX_ATTEMPT,
                ),
                fence=_deliveries.c.fence + 1,
            )
        )
    return claims


def ready(
    connection: Connection, claims: Sequence[Claim], edge: str
) -> dict[int, Optional[Content]]:
    """Of the claims that ``edge`` may still act upon, what is to be sent.

    None where that is not known.  A claim is not there if its delivery was cancelled,
    forgotten or settled, or went to somebody else meanwhile.
    """
    said = {each.seq: (each.id, each.output, each.fence) for each in claims}
    bodies = schema.bodies.c
    size = func.length(bodies.body)
    rows = connection.execute(
        select(
            _deliveries.c.seq,
            _deliveries.c.id,
            _deliveries.c.output,
            _deliveries.c.fence,
            size.label("size"),
            case((size <= SMALL, bodies.body)).label("body"),
            bodies.host,
            bodies.kept,
        )
        .select_from(_deliveries.outerjoin(schema.bodies, _joined))
        .where(
            _deliveries.c.seq.in_(said),
            _deliveries.c.state == PENDING,
            _deliveries.c.owner == edge,
        )
    )
    found: dict[int, Optional[Content]] = {}
    large = []
    for row in rows:
        if (row.id, row.output, row.fence) != said[row.seq]:
            continue
        if row.size is not None and row.size > SMALL:
            large.append(row.seq)
        elif row.size is None:
            found[row.seq] = None
        else:
            found[row.seq] = Content(row.body, row.host, row.kept)

    # one by one, for a driver that has several copies of what it reads

    found.update((seq, content(connection, seq)) for seq in large)
    return found


def give_back(
    connection: Connection, claims: Iterable[Claim], due: Optional[int] = None
) -> None:
    """End leases without an attempt; due again when they were, or at ``due``."""
    for each in claims:
        connection.execute(
            update(_deliveries)
            .where(*holds(each))
            .values(
                owner=None,
                claimed=None,
                due=case((_deliveries.c.state == PENDING, due or each.was_due)),
            )
        )


def holds(claim: Claim) -> tuple[Any, ...]:
    """The condition under which a claim still has a say.

    Of the delivery, not of its number alone: a store that went back in time gives
    numbers out again.
    """
    return (
        _deliveries.c.seq == claim.seq,
        _deliveries.c.id == claim.id,
        _deliveries.c.output == claim.output,
        _deliveries.c.fence == claim.fence,
        _deliveries.c.owner.is_not(None),
    )


def held(
    connection: Connection, claim: Claim, now: Optional[int]
) -> Optional[Delivery]:
    """The delivery of a claim, unless it was settled, or claimed again since.

    Nor if its lease ran out by ``now``, where that is given.
    """
    query = select(*_deliveries.columns).where(*holds(claim))
    if now is not None:
        query = query.where(_deliveries.c.due > now)
    row = connection.execute(query).one_or_none()
    return None if row is None else delivery(row)


def bring_forward(
    connection: Connection,
    output: str,
    now: int,
    longest: float,
    lease: float,
    edge: Optional[str] = None,
    others: float = 0.0,
) -> int:
    """Correct what is due later than possible, which only a wrong clock explains.

    ``longest`` wait and ``lease`` in seconds; returns how many were corrected.  Leases
    of other edges than ``edge``, which may be configured otherwise, may have ``others``
    seconds.
    """
    owner = _deliveries.c.owner
    count = 0
    for condition, span in (
        (owner.is_(None), longest),
        (owner.is_not(None) if edge is None else owner == edge, lease),
        (owner != edge, max(lease, others)),
    ):
        latest = now + round(span * 1000)
        count += connection.execute(
            update(_deliveries)
            .where(
                _deliveries.c.output == output,
                _deliveries.c.state == PENDING,
                _deliveries.c.due > latest,
                condition,
            )
            .values(due=latest)
        ).rowcount
    return count


def outputs(connection: Connection) -> list[str]:
    """The ids of all outputs that ever had a delivery."""
    return list(connection.execute(select(schema.tallies.c.output)).scalars())


def erase(connection: Connection, seqs: Collection[int]) -> None:
    """Delete the content of deliveries: bodies, replies and notices."""
    for table in (schema.bodies, schema.conflicts):
        connection.execute(delete(table).where(table.c.delivery.in_(seqs)))
    connection.execute(
        update(_exchanges)
        .where(_exchanges.c.delivery.in_(seqs))
        .values(response=None, ticket_id=None)
    )
    connection.execute(
        delete(schema.notices).where(schema.notices.c.delivery.in_(seqs))
    )


_joined = schema.bodies.c.delivery == _deliveries.c.seq


def _claimable(output: Any, now: int, scanned: int) -> Any:
    return and_(
        _deliveries.c.output == output,
        _deliveries.c.state == PENDING,
        _deliveries.c.due <= now,
        or_(_deliveries.c.owner.is_(None), _deliveries.c.due <= scanned),
    )


def _ended(before: int) -> Any:
    """What ended, and was known to have, before ``before``.

    A record may be read long after its time, or that be of a clock that was behind.
    """
    return and_(
        _deliveries.c.updated < before,
        _deliveries.c.noted < before,
        _deliveries.c.state != PENDING,
    )


def delete_bodies(connection: Connection, before: int, limit: int) -> int:
    """Delete content of deliveries that ended before ``before``; of how many."""
    newest = connection.execute(
        select(_deliveries.c.seq)
        .where(_deliveries.c.created < before)
        .order_by(_deliveries.c.created.desc(), _deliveries.c.seq.desc())
        .limit(1)
    ).scalar_one_or_none()

    if newest is None:
        return 0

    # numbers grow with time, so that what has no body any more is not looked at

    seqs = (
        connection.execute(
            select(schema.bodies.c.delivery)
            .select_from(schema.bodies.join(_deliveries, _joined))
            .where(schema.bodies.c.delivery <= newest, _ended(before))
            .order_by(schema.bodies.c.delivery)
            .limit(limit)
        )
        .scalars()
        .all()
    )
    if seqs:
        connection.execute(
            delete(schema.bodies).where(schema.bodies.c.delivery.in_(seqs))
        )
        connection.execute(
            update(_exchanges)
            .where(_exchanges.c.delivery.in_(seqs))
            .values(response=None)
        )
    ended = select(_deliveries.c.seq).where(_ended(before))
    connection.execute(
        update(schema.conflicts)
        .where(
            schema.conflicts.c.body.is_not(None),
            schema.conflicts.c.delivery.in_(ended),
        )
        .values(body=None)
    )
    return len(seqs)


def delete_replies(connection: Connection, before: int, limit: int) -> int:
    """The same of replies to what has no body any more, or never had; of how many."""
    with_reply = (
        select(_exchanges.c.delivery)
        .where(_exchanges.c.response.is_not(None))
        .distinct()
        .subquery()
    )
    seqs = list(
        connection.execute(
            select(_deliveries.c.seq)
            .join(with_reply, with_reply.c.delivery == _deliveries.c.seq)
            .where(_ended(before))
            .order_by(_deliveries.c.seq)
            .limit(limit)
        ).scalars()
    )
    if seqs:
        connection.execute(
            update(_exchanges)
            .where(_exchanges.c.delivery.in_(seqs))
            .values(response=None)
        )
    return len(seqs)


def delete_old(connection: Connection, before: int, limit: int) -> int:
    """Delete deliveries that ended before ``before``, and all of them; how many."""
    rows = connection.execute(
        select(*_deliveries.columns)
        .where(_deliveries.c.created < before, _ended(before))
        .order_by(_deliveries.c.created, _deliveries.c.seq)
        .limit(limit)
    )
    old = [delivery(row) for row in rows]
    if not old:
        return 0

    seqs = [each.seq for each in old]
    for table in (
        schema.exchanges,
        schema.bodies,
        schema.conflicts,
        schema.notices,
        schema.acts,
    ):
        connection.execute(delete(table).where(table.c.delivery.in_(seqs)))
    connection.execute(delete(_deliveries).where(_deliveries.c.seq.in_(seqs)))

    counts: dict[str, dict[str, int]] = {}
    for each in old:
        states = counts.setdefault(each.output, {})
        states[each.state] = states.get(each.state, 0) - 1
    tally(connection, counts, {each.output: each.label for each in old})
    return len(old)
