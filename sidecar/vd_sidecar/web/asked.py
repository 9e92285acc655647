# Copyright (C) The ngx_vd_module authors
"""What a request asks for: conditions, numbers, and JSON that is checked.

A name that is not known is an error: a condition with a slip in it would mean
more deliveries than were meant.
"""

from __future__ import annotations

import json
import re
from typing import Any, Callable, Collection, Mapping, Optional, Sequence

import click
from aiohttp import web
from attrs import frozen
from multidict import MultiMapping

from ..model import STATES
from ..options import REASONS, Moment
from ..store.filters import storable
from ..store.lists import COLUMNS, CREATED, MAY_LACK, Value
from ..store.reads import NEWEST, Filter, Place, Sort
from .guard import Refused

MAX_IDS = 1000
MAX_TEXT = 512  # characters of a condition

_CURSOR = re.compile(
    r"(-?[0-9]{1,16})\.([0-9]{1,18})(?:\.([^\0\ud800-\udfff]{0,512}))?", re.DOTALL
)
_moment = Moment()

Asked = Mapping[str, object]


@frozen
class ToDo:
    """Which deliveries an act is for: those of ``ids``, or those of ``filter``."""

    ids: tuple[str, ...]
    outputs: tuple[str, ...]  # of the deliveries of ``ids``, if not empty
    filter: Optional[Filter]
    after: Optional[Place]
    dry_run: bool


def filter_of(asked: Asked) -> Filter:
    """The conditions in a query, or in the JSON of an act.  Raises ``Refused``."""
    unknown = sorted(set(asked) - set(_CONDITIONS))
    if unknown:
        names = ", ".join(_CONDITIONS)
        raise Refused(f"{unknown[0]!r} is no condition; these are: {names}")
    return Filter(
        **{
            _CONDITIONS[name][0]: _CONDITIONS[name][1](name, value)
            for name, value in asked.items()
        }
    )


def query(given: MultiMapping[str], others: Collection[str]) -> dict[str, object]:
    """The conditions of a URL, without the parameters ``others``."""
    asked: dict[str, object] = {}
    for name in dict.fromkeys(given):
        values = given.getall(name)
        if name in others:
            continue
        if name not in _REPEATED and len(values) > 1:
            raise Refused(f'"{name}" is there twice')
        asked[name] = values if name in _REPEATED else values[0]
    return asked


def number(given: MultiMapping[str], name: str, default: int, most: int) -> int:
    text = given.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,7}", text) or not 1 <= int(text) <= most:
        raise Refused(f'"{name}" must be a number from 1 to {most}')
    return int(text)


def flag(name: str, value: object) -> bool:
    """``true`` or ``false``, as text or as JSON has them."""
    if value not in ("true", "false") and type(value) is not bool:
        raise Refused(f'"{name}" must be true or false')
    return value in (True, "true")


def sort(text: Optional[str]) -> Sort:
    """By the column of that name; the greatest first if a minus is in front of it."""
    if text is None:
        return NEWEST
    column = text.removeprefix("-")
    if column not in COLUMNS:
        raise Refused(
            f'"sort" must be one of {", ".join(COLUMNS)}; "-" before it turns it around'
        )
    return Sort(column, descending=text.startswith("-"))


def as_sort(sort: Sort) -> str:
    return "-" * sort.descending + sort.column


def cursor(text: Optional[str], sort: Sort = NEWEST) -> Optional[Place]:
    """The place that ``as_cursor`` named, in a list of that order."""
    if text is None:
        return None
    match = _CURSOR.fullmatch(text)
    value: Value = match[3] if match is not None else None
    lacks = sort.column == CREATED or value is None and sort.column in MAY_LACK
    if match is None or (value is None) is not lacks:
        raise Refused('"cursor" must be the "next" of an earlier answer, sorted alike')
    if sort.column == "attempts":
        if not re.fullmatch("[0-9]{1,9}", str(value)):
            raise Refused('"cursor" must be the "next" of an earlier answer')
        value = int(str(value))
    return Place(int(match[1]), int(match[2]), value)


def as_cursor(place: Place) -> str:
    text = f"{place.created}.{place.seq}"
    return text if place.value is None else f"{text}.{place.value}"


async def to_do(request: web.Request) -> ToDo:
    """What the JSON of an act asks for.  Raises ``Refused``."""
    if request.content_type != "application/json":
        raise Refused("the content type must be application/json", 415)
    try:
        asked = json.loads(await request.read())
    except (ValueError, RecursionError):
        raise Refused("the body is not JSON") from None

    names = ("ids", "output", "filter", "cursor", "dry_run")
    if not isinstance(asked, dict) or set(asked) - set(names):
        raise Refused(f"the body must be an object with some of {', '.join(names)}")
    if ("ids" in asked) == ("filter" in asked):
        raise Refused('give either "ids" or "filter"')
    if "filter" in asked and "output" in asked:
        raise Refused('"output" goes with "ids"; it is a condition of "filter" too')
    if "ids" in asked and "cursor" in asked:
        raise Refused('"cursor" goes with "filter"')

    after = asked.get("cursor")
    return ToDo(
        ids=_ids(asked["ids"]) if "ids" in asked else (),
        outputs=_texts("output", asked.get("output", [])),
        filter=_filter(asked["filter"]) if "filter" in asked else None,
        after=cursor(None if after is None else _text("cursor", after)),
        dry_run=flag("dry_run", asked.get("dry_run", False)),
    )


def _filter(value: object) -> Filter:
    if not isinstance(value, dict) or not value:
        raise Refused('"filter" must be an object with at least one condition')
    return filter_of(value)


def _ids(value: object) -> tuple[str, ...]:
    ids = _texts("ids", value, MAX_IDS)
    if isinstance(value, str) or not ids:
        raise Refused(f'"ids" must be a list of 1 to {MAX_IDS} ids')
    return ids


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
        raise Refused(f'"{name}" must be text of 1 to {MAX_TEXT} characters')
    if not storable(value):
        raise Refused(f'"{name}" must be text without NUL and halves of characters')
    return value


def _texts(name: str, value: object, most: int = 100) -> tuple[str, ...]:
    values: Sequence[object] = [value] if isinstance(value, str) else _list(value)
    if len(values) > most:
        raise Refused(f'"{name}" may be {most} at most')
    return tuple(_text(name, each) for each in values)


def _list(value: object) -> Sequence[object]:
    if not isinstance(value, list):
        raise Refused("text, or a list of texts, was expected")
    return value


def _words(words: Sequence[str]) -> Callable[[str, object], tuple[str, ...]]:
    def read(name: str, value: object) -> tuple[str, ...]:
        values = _texts(name, value)
        if set(values) - set(words):
            raise Refused(f'"{name}" must be of {", ".join(words)}')
        return values

    return read


def _word(words: Sequence[str]) -> Callable[[str, object], str]:
    def read(name: str, value: object) -> str:
        if value not in words:
            raise Refused(f'"{name}" must be one of {", ".join(words)}')
        return str(value)

    return read


def _time(name: str, value: object) -> int:
    try:
        return _moment.convert(_text(name, value), None, None)
    except click.UsageError as error:
        raise Refused(f'"{name}": {error.message}') from None


_CONDITIONS: Mapping[str, tuple[str, Callable[[str, object], Any]]] = {
    "output": ("outputs", _texts),
    "state": ("states", _words(STATES)),
    "reason": ("reason", _word(REASONS)),
    "since": ("since", _time),
    "until": ("until", _time),
    "case": ("case", _text),
    "ticket_id": ("ticket_id", _text),
    "search": ("search", _text),
    "without_ticket": ("without_ticket", flag),
}
_REPEATED = ("output", "state")
