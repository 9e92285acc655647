# Copyright (C) The ngx_vd_module authors
"""What the address of a page asks for; forms send more than an address should have."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Optional

from attrs import frozen
from multidict import MultiMapping

from ..batch import rfc3339
from ..store.lists import COLUMNS, CREATED
from ..store.reads import NEWEST, Filter, Place, Sort
from . import asked
from .guard import Refused
from .pages_view import Viewer

Pairs = tuple[tuple[str, str], ...]

OTHERS = ("sort", "cursor", "before")
DOWN_FIRST = (CREATED, "attempts")  # of which the greatest are asked for first
ORDERS = tuple(
    asked.as_sort(Sort(column, down))
    for column in COLUMNS
    for down in ((True, False) if column in DOWN_FIRST else (False, True))
)
_TIMES = {"from": "since", "to": "until"}


@frozen
class View:
    """A list as an address describes it."""

    filter: Filter
    pairs: Pairs  # its conditions, as in the address
    sort: Sort
    after: Optional[Place]
    before: Optional[Place]

    @property
    def order(self) -> Pairs:
        return order(self.sort)

    def value(self, name: str) -> str:
        return next((value for key, value in self.pairs if key == name), "")

    def without(self, *names: str) -> Pairs:
        return tuple(pair for pair in self.pairs if pair[0] not in names)


def order(sort: Sort) -> Pairs:
    return () if sort == NEWEST else (("sort", asked.as_sort(sort)),)


def tidy(given: MultiMapping[str], viewer: Viewer) -> Optional[Pairs]:
    """What the address should be, if a form made it: without what is empty, and
    with times that mean the same to everybody.  None if it is in order."""
    pairs: list[tuple[str, str]] = []
    for name, value in given.items():
        if name in _TIMES:
            # an exact time wins over "the last 24 hours", and over what is exactly it

            known = dict(pairs).get(_TIMES[name])
            if known is not None and name == "to" and _shown(known, viewer) == value:
                continue
            if value or name == "to":
                pairs = [pair for pair in pairs if pair[0] != _TIMES[name]]
            if value:
                pairs.append((_TIMES[name], rfc3339(_local(name, value, viewer))))
        elif value.strip() and (name, value) != ("sort", asked.as_sort(NEWEST)):
            pairs.append((name, value.strip() if name == "search" else value))
    return None if pairs == list(given.items()) else tuple(pairs)


def _shown(value: str, viewer: Viewer) -> str:
    """A time of an address, as the form's field has it."""
    try:
        return viewer.field(asked.filter_of({"until": value}).until)
    except Refused:
        return ""


def _local(name: str, value: str, viewer: Viewer) -> int:
    """Of an hour that comes twice, all of it: from the first to the second one."""
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=viewer.zone, fold=int(name == "to"))
        return round(moment.astimezone(timezone.utc).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise Refused(f'"{name}" is no time') from None


def view(given: MultiMapping[str], others: tuple[str, ...] = ()) -> View:
    """What an address in order asks for.  Raises ``Refused``."""
    others = OTHERS + others
    sort = asked.sort(given.get("sort"))
    return View(
        filter=asked.filter_of(asked.query(given, others)),
        pairs=tuple(pair for pair in given.items() if pair[0] not in others),
        sort=sort,
        after=asked.cursor(given.get("cursor"), sort),
        before=asked.cursor(given.get("before"), sort),
    )
