# Copyright (C) The ngx_vd_module authors
"""Which deliveries are meant, and how to ask the store for them.

SQLite takes the first index that fits, whatever is in it.  So a column whose index is
not the one to use stands behind a ``+``, which means nothing else to it.
"""

from __future__ import annotations

from typing import Any, Optional, cast

from attrs import frozen
from sqlalchemy import false, literal_column
from sqlalchemy.engine import Connection
from sqlalchemy.sql.elements import ColumnElement

from ..model import DELIVERED
from . import schema, search

_columns = schema.deliveries.c


@frozen
class Filter:
    """Which deliveries are meant: all conditions hold; what is empty is no condition.

    ``since`` and ``until`` (Unix ms) bound the time of the first record, the
    latter not included.  ``search`` is the id, the case or the ticket id, or a part
    of it (its beginning, of an id that nginx made); capitals do not matter in ASCII.
    The others are exact.
    """

    outputs: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    since: Optional[int] = None
    until: Optional[int] = None
    reason: Optional[str] = None
    case: Optional[str] = None
    ticket_id: Optional[str] = None
    search: Optional[str] = None
    attempts: Optional[int] = None
    without_ticket: bool = False
    without_case: bool = False
    without_reason: bool = False

    @property
    def not_delivered(self) -> bool:
        """Whether all that is meant is in the index deliveries_open."""
        named = bool(self.states) and DELIVERED not in self.states
        return named or self.reason is not None or self.attempts == 0


def conditions(
    connection: Connection, filter: Filter, lead: Optional[str] = None
) -> list[ColumnElement[bool]]:
    """``lead``: the column whose index SQLite is to use, if it is not to choose."""
    texts = (filter.reason, filter.case, filter.ticket_id, filter.search)
    if not all(map(storable, filter.outputs + filter.states)) or not all(
        text is None or storable(text) for text in texts
    ):
        return [cast("ColumnElement[bool]", false())]

    def column(name: str, known: bool = True) -> Any:
        if lead in (None, name) and known or connection.dialect.name != "sqlite":
            return _columns[name]
        return unindexed(name)

    found: list[Any] = []
    retried = (filter.attempts or 0) > 1 and not filter.not_delivered
    if filter.not_delivered:
        # as the index has it, word for word

        sign = "" if column("state") is _columns.state else "+"
        found.append(literal_column(f"{sign}deliveries.state <> 'delivered'"))
    if filter.without_ticket:
        found.append(column("ticket_id").is_(None))
    if filter.without_case:
        found.append(column("case").is_(None))
    if filter.without_reason:
        found.append(column("reason").is_(None))
    if filter.attempts is not None:
        found.append(column("attempts", retried) == filter.attempts)
        if retried:
            found.append(literal_column("deliveries.attempts > 1"))
    if filter.outputs:
        better = filter.not_delivered or filter.without_ticket or retried
        alone = len(filter.outputs) == 1 and not better
        found.append(column("output", alone).in_(filter.outputs))
    if filter.states:
        found.append(column("state").in_(filter.states))
    if filter.since is not None:
        found.append(column("created") >= filter.since)
    if filter.until is not None:
        found.append(column("created") < filter.until)
    for name, text in (
        ("reason", filter.reason),
        ("case", filter.case),
        ("ticket_id", filter.ticket_id),
    ):
        if text is not None:
            found.append(column(name) == text)
    if filter.search:
        found.append(search.holds(connection, filter.search))
    return found


def unindexed(name: str) -> Any:
    """A column of deliveries, for SQLite, of which it has no index."""
    return literal_column(f'+deliveries."{name}"', _columns[name].type)


def storable(text: str) -> bool:
    """Whether the store may have such a text; it never holds NUL or surrogates."""
    try:
        return "\0" not in text and bool(text.encode() or True)
    except UnicodeEncodeError:
        return False
