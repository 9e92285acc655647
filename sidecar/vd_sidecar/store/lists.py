# Copyright (C) The ngx_vd_module authors
"""Lists of deliveries in any order, a page at a time, however many there are.

What is sorted by a column of few values is read value after value, each newest
first; by a text, along its index.  That no list has to be sorted as a whole is
what makes it quick, and spares the ingest an index for each column.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Iterator, Optional, Sequence, Union

from attrs import evolve, frozen
from sqlalchemy import func, literal, literal_column, select, tuple_
from sqlalchemy.engine import Connection

from ..model import DELIVERED, STATES, Delivery
from . import deliveries, schema, search
from .filters import Filter, conditions, storable, unindexed

CREATED = "created"
TEXTS = ("case", "ticket_id")
GROUPS = ("output", "state", "attempts", "reason")
COLUMNS = (CREATED, *TEXTS, *GROUPS)
MAY_LACK = (*TEXTS, "reason")  # a value
AHEAD = 5000  # deliveries that are looked at along an index, at first
MANY = 250_000  # deliveries that are sorted by hand, if it has to be

Value = Union[None, int, str]
Part = Callable[[int], list[Delivery]]  # what it has, up to a limit

_columns = schema.deliveries.c

# By no index: along it, all that there are would be walked through.

_TIME: Any = _columns.created.op("+")(0)
_NUMBER: Any = _columns.seq.op("+")(0)


@frozen
class Sort:
    """By one of COLUMNS; what lacks a value comes last, whichever way.

    Deliveries with the same value come newest first.  Only those with the same case
    or ticket id, which are few, are turned around with their values.
    """

    column: str = CREATED
    descending: bool = True


@frozen
class Place:
    """Of a delivery in a list; it stays there, whatever becomes of the delivery."""

    created: int
    seq: int
    value: Value = None  # of the column by which it is sorted, if not CREATED


NEWEST = Sort()


def place(delivery: Delivery, sort: Sort = NEWEST) -> Place:
    value = None if sort.column == CREATED else getattr(delivery, sort.column)
    return Place(delivery.created, delivery.seq, value)


@frozen
class Meant:
    """What a list shows of what a store has."""

    connection: Connection
    filter: Filter
    few: Optional[search.Conditions] = None  # of what is searched for, if it is found
    lead: Optional[str] = None  # the column whose index SQLite is to use

    def only(self, **changes: Any) -> Meant:
        """Of all that is meant, what has these values."""
        return evolve(self, filter=evolve(self.filter, **changes))

    @property
    def term(self) -> Optional[str]:
        """What is searched for."""
        text = self.filter.search
        return text if text and storable(text) else None

    @property
    def others(self) -> list[Any]:
        """All conditions but that of the search."""
        others = evolve(self.filter, search=None)
        return conditions(self.connection, others, self.lead)

    @property
    def sqlite(self) -> bool:
        return str(self.connection.dialect.name) == "sqlite"


def meant(connection: Connection, filter: Filter) -> Meant:
    found = Meant(connection, filter)
    if found.term is None:
        return found
    if found.sqlite and _are_some(found, search.HAND):
        return evolve(found, few=[search.holds(connection, found.term)])
    common = search.is_common(connection, found.term)
    numbers = _numbers(found) if common or _by_index(found) else None
    few = None
    if numbers is not None or not common:
        few = search.few(connection, found.term, numbers)
    lead = None if few is None else "seq"
    return evolve(found, few=few, lead=lead)


def _numbers(meant: Meant) -> Optional[search.Numbers]:
    """Those of the time that is meant, unless it is most of the time that there is:
    the newer, the greater, but for what an edge was late to tell."""
    created, filter = _columns.created, meant.filter
    if filter.since is None and filter.until is None:
        return None
    first, last = search.bounds(meant.connection, created)
    if first is None:
        return None
    since = first if filter.since is None else max(filter.since, first)
    until = last if filter.until is None else min(filter.until, last)
    if until - since > (last - first) / 2:
        return None
    number: Any = _columns.seq.op("+")(0)  # by the index of times
    bounds = select(func.min(number), func.max(number))
    bounds = bounds.where(created >= since, created <= until)
    lowest, highest = meant.connection.execute(bounds).one()
    return (0, 0) if lowest is None else (int(lowest), int(highest))


def parts(
    meant: Meant, sort: Sort, after: Optional[Place], back: bool
) -> Iterator[Part]:
    """A list, from its first part on that may have something behind ``after``."""
    if sort.column == CREATED:
        yield partial(_by_time, meant, after, sort.descending is not back)
    elif sort.column in TEXTS:
        yield from _by_text(meant, sort, after, back)
    else:
        for value in _values(meant, sort, after, back):
            begun = after if after is not None and value == after.value else None
            yield partial(_by_time, _with(meant, sort.column, value), begun, not back)


def matching(meant: Meant) -> Sequence[Any]:
    """The conditions of all that is meant, in no order."""
    if meant.term is None:
        return conditions(meant.connection, meant.filter)
    if meant.few is not None:
        return [*meant.others, *meant.few]
    if _by_index(meant) and not search.are_some(meant.connection, meant.others):
        return [*meant.others, *search.walked(meant.term)]
    return [*meant.others, search.holds(meant.connection, meant.term)]


def _by_time(
    meant: Meant, after: Optional[Place], descending: bool, limit: int
) -> list[Delivery]:
    """By the case's time, then by its number: as the store heard of it.

    Most often the part of a list that is looked at has enough of what is searched
    for.  If it has not, all that is found is sorted by hand.
    """
    number: Any = _columns.seq
    first = None if meant.filter.without_case else _columns.created
    if meant.term is None:
        found = conditions(meant.connection, meant.filter)
        return _listed(meant, found, first, number, after, descending, limit)

    held = search.holds(meant.connection, meant.term)
    some = meant.few is None and _are_some(meant)
    if meant.few is None and not some and first is not None:
        rest = conditions(meant.connection, evolve(meant.filter, search=None))
        last = _time_ahead(meant, rest, after, descending)
        found = [*rest, held]
        if last is not None:
            found.append(first > last if descending else first < last)
        listed = _listed(meant, found, first, number, after, descending, limit)
        if last is None or len(listed) == limit:
            return listed
        nearest = _nearest_time(meant, descending)
        if nearest is not None:
            begun = first <= nearest if descending else first >= nearest
            last = _time_ahead(meant, [*rest, begun], after, descending)
            found = [*rest, begun, held]
            if last is not None:
                found.append(first > last if descending else first < last)
            listed = _listed(meant, found, first, number, after, descending, limit)
            if last is None or len(listed) == limit:
                return listed

    if meant.few is not None:
        found = [*meant.others, *meant.few]
    elif _by_index(meant) and not some:
        found = [*meant.others, *search.walked(meant.term)]
    else:
        found = [*meant.others, held]
    by_hand = None if first is None else _TIME
    return _listed(meant, found, by_hand, _NUMBER, after, descending, limit)


def _nearest_time(meant: Meant, descending: bool) -> Optional[int]:
    """A time that nothing which is searched for is before, in a list's order: of all
    that the store knew when it heard of the last, or first, of it."""
    seq = search.nearest(meant.connection, meant.term or "", descending)
    if seq is None:
        return None
    time: Any = _columns.created
    known = _NUMBER <= seq if descending else _NUMBER >= seq
    query = select(time).where(known)
    query = query.order_by(time.desc() if descending else time).limit(1)
    found = meant.connection.execute(query).scalar_one_or_none()
    return None if found is None else int(found)


def _time_ahead(
    meant: Meant, rest: Sequence[Any], after: Optional[Place], descending: bool
) -> Optional[int]:
    """The time that so many deliveries have before it, if there is one."""
    time: Any = _columns.created
    query = select(time).where(*rest)
    if after is not None:
        seen = after.created
        query = query.where(time <= seen if descending else time >= seen)
    query = query.order_by(time.desc() if descending else time)
    found = meant.connection.execute(query.offset(AHEAD).limit(1)).scalar_one_or_none()
    return None if found is None else int(found)


def _are_some(meant: Meant, most: Optional[int] = None) -> bool:
    return search.are_some(meant.connection, meant.others, most)


def _by_index(meant: Meant) -> bool:
    return meant.sqlite and len(meant.term or "") >= search.LEAST


def _by_text(
    meant: Meant, sort: Sort, after: Optional[Place], back: bool
) -> Iterator[Part]:
    lacks = after is not None and after.value is None
    with_one = None if lacks else after
    without_one = after if lacks else None
    all_lack = sort.column == "ticket_id" and meant.filter.without_ticket
    lacking = meant.only(**{f"without_{sort.column.removesuffix('_id')}": True})
    texts = partial(_texts, meant, sort.column, with_one, sort.descending is not back)
    rest = partial(_by_time, lacking, without_one, not back)
    found = [] if all_lack or lacks and not back else [texts]
    if lacks or after is None or not back:
        found.append(rest)
    yield from reversed(found) if back else found


def _texts(
    meant: Meant, column: str, after: Optional[Place], descending: bool, limit: int
) -> list[Delivery]:
    """Those that have such a text, by it.

    Most often a part of its index is enough.  If it is not, they are sorted by hand,
    unless they are too many: then it is all of the index.
    """
    if column == "ticket_id" and meant.filter.not_delivered and meant.few is None:
        meant = _with_ticket(meant)
    elif not _are_few(meant):
        last = _text_ahead(meant, column, after, descending)
        found = _along(meant, column, after, descending, limit, last)
        if last is None or len(found) == limit:
            return found
    by_hand = _by_hand(meant, column)
    if by_hand is None:
        return _along(meant, column, after, descending, limit, None)
    text = _columns[column].concat("")  # by no index
    number = _columns.seq
    return _listed(meant, by_hand, text, number, after, descending, limit, narrow=True)


def _with_ticket(meant: Meant) -> Meant:
    """Of those not delivered, the few that have a ticket id all the same."""
    if not _are_some(meant):
        return meant
    number = _columns.seq
    some = select(number).where(*meant.others)
    without = select(number).where(*meant.only(without_ticket=True).others)
    query = some.except_(without).limit(search.FEW + 1)
    found = list(meant.connection.execute(query).scalars())
    if len(found) > search.FEW:
        return meant
    few: list[Any] = [number.in_(found)]
    if meant.term is not None:
        few.append(search.holds(meant.connection, meant.term))
    return evolve(meant, few=few, lead="seq")


def _are_few(meant: Meant) -> bool:
    if meant.few is not None:
        return True
    return search.are_some(meant.connection, meant.others, search.HAND)


def _text_ahead(
    meant: Meant, column: str, after: Optional[Place], descending: bool
) -> Optional[str]:
    """The text that so many deliveries with a text have before it, if there is one."""
    text = _columns[column]
    query = select(text).where(text.is_not(None))
    if after is not None:
        query = query.where(text <= after.value if descending else text >= after.value)
    query = query.order_by(text.desc() if descending else text)
    found = meant.connection.execute(query.offset(AHEAD).limit(1)).scalar_one_or_none()
    return None if found is None else str(found)


def _along(
    meant: Meant,
    column: str,
    after: Optional[Place],
    descending: bool,
    limit: int,
    last: Optional[str],
) -> list[Delivery]:
    """Those that are found along the index, before they have the text ``last``."""
    text = _columns[column]
    rest = evolve(meant.filter, search=None)
    found = [*conditions(meant.connection, rest, column), text.is_not(None)]
    if meant.term is not None:
        found.append(search.holds(meant.connection, meant.term))
    if last is not None:
        found.append(text > last if descending else text < last)
    return _listed(meant, found, text, _columns.seq, after, descending, limit)


def _by_hand(meant: Meant, column: str) -> Optional[list[Any]]:
    """The conditions of those with a text, by none of its index; None if there are
    too many of them."""
    text = unindexed(column) if meant.sqlite else _columns[column]
    others = [*meant.others, text.is_not(None)]
    if meant.few is not None:
        return [*others, *meant.few]
    if meant.term is None:
        return others if _are_some(meant, MANY) else None
    if _by_index(meant):
        walked = search.walked(meant.term)
        if search.are_some(meant.connection, walked):
            return [*others, *walked]
    some = not meant.sqlite or _are_some(meant)
    held = search.holds(meant.connection, meant.term)
    return [*others, held] if some else None


def _listed(
    meant: Meant,
    found: Sequence[Any],
    first: Any,
    number: Any,
    after: Optional[Place],
    descending: bool,
    limit: int,
    narrow: bool = False,
) -> list[Delivery]:
    """Those that meet ``found``, by ``first`` if it is not None, then by ``number``.

    ``narrow``: where many are sorted, their numbers alone are.
    """
    query = select(*((_columns.seq,) if narrow else _columns)).where(*found)
    keys = [number] if first is None else [first, number]
    if after is not None:
        seen: Any = literal(after.seq)
        at: Any = number
        if first is not None:
            by_time = first is _columns.created or first is _TIME
            value = after.created if by_time else after.value
            at, seen = tuple_(first, number), tuple_(literal(value), seen)
        query = query.where(at < seen if descending else at > seen)
    order = [key.desc() for key in keys] if descending else keys
    query = query.order_by(*order).limit(limit)
    if not narrow:
        return _read(meant, query)
    seqs = list(meant.connection.execute(query).scalars())
    known = {each.seq: each for each in deliveries.by_seqs(meant.connection, seqs)}
    return [known[seq] for seq in seqs]


def _read(meant: Meant, query: Any) -> list[Delivery]:
    return [deliveries.delivery(row) for row in meant.connection.execute(query)]


def _with(meant: Meant, column: str, value: Value) -> Meant:
    if column == "output":
        return meant.only(outputs=(value,))
    if column == "state":
        return meant.only(states=(value,))
    if value is None:
        return meant.only(without_reason=True)
    return meant.only(**{column: value})


def _values(
    meant: Meant, sort: Sort, after: Optional[Place], back: bool
) -> Iterator[Value]:
    """Those of a column in the order of a list, from that of ``after`` on."""
    start = None if after is None else after.value
    if sort.column == "attempts":
        yield from _attempts(meant, start, sort.descending is not back)
        return

    lacking: list[Value] = []
    if sort.column == "reason":
        known = _reasons(meant)
        lacking = [None] if meant.filter.reason is None else []
    else:
        known = _tallied(meant, sort.column)
    values = [*sorted(known, reverse=sort.descending), *lacking]

    def behind(value: Value) -> bool:
        if value is None or start is None:
            return value is None
        return str(value) < str(start) if sort.descending else str(value) > str(start)

    for value in reversed(values) if back else values:
        if after is None or value == start or behind(value) is not back:
            yield value


def _tallied(meant: Meant, column: str) -> set[str]:
    """The outputs or states of which there are deliveries."""
    filter = meant.filter
    rows = meant.connection.execute(select(*schema.tallies.columns)).mappings()
    found = {
        (row["output"], state)
        for row in rows
        for state in filter.states or STATES
        if row[state] and (not filter.outputs or row["output"] in filter.outputs)
    }
    return {output if column == "output" else state for output, state in found}


def _reasons(meant: Meant) -> set[str]:
    """Those that there may be, as far as an index tells."""
    states = set(meant.filter.states or STATES) - {DELIVERED}
    if not states:
        return set()
    filter = meant.filter
    some = Filter(
        outputs=filter.outputs,
        states=tuple(sorted(states)),
        since=filter.since,
        until=filter.until,
        reason=filter.reason,
    )
    reason = _columns.reason
    query = select(reason).distinct().where(*conditions(meant.connection, some))
    found = meant.connection.execute(query.where(reason.is_not(None)))
    return set(found.scalars())


def _attempts(meant: Meant, start: Value, descending: bool) -> Iterator[Value]:
    """One number after the other: of those over 1 there is an index."""
    first = None if start is None else int(start)
    usual: list[int] = [
        each
        for each in ((1, 0) if descending else (0, 1))
        if first is None or (each <= first if descending else each >= first)
    ]
    if not descending:
        yield from usual
    if first is None or first > 1 or not descending:
        value = first if first is not None and first > 1 else None
        if value is None:
            value = _next_attempts(meant, None, descending)
        while value is not None:
            yield value
            value = _next_attempts(meant, value, descending)
    if descending:
        yield from usual


def _next_attempts(meant: Meant, than: Optional[int], descending: bool) -> Any:
    number = _columns.attempts
    query = select((func.max if descending else func.min)(number))
    query = query.where(literal_column("deliveries.attempts > 1"))
    if than is not None:
        query = query.where(number < than if descending else number > than)
    return meant.connection.execute(query).scalar_one()
