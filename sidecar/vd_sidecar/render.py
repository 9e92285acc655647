# Copyright (C) The ngx_vd_module authors
"""What the commands print: tables for people, JSON and CSV for programs.

Cases, ticket ids and replies come from outside.  On a terminal nothing of them
acts: controls and what turns the order of text are escaped.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Iterator, Optional, Sequence

from attrs import frozen

from .batch import rfc3339
from .findings import ERROR, OK, WARNING, Finding
from .model import PENDING, Delivery
from .tables import printable
from .text import utc

FIELDS = (
    "id",
    "output",
    "label",
    "case",
    "state",
    "created",
    "updated",
    "attempts",
    "due",
    "status",
    "reason",
    "ticket_id",
    "ticket_error",
)
BOM = "\ufeff"
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
NONE = "-"
GAP = "  "
PADDED = 40  # cells; a longer value has its line to itself
NARROW = 100  # columns of a terminal, below which times are short

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[][{},:]|[^][{},:"\s]+')
_LEVELS = {OK: "ok     ", WARNING: "warning", ERROR: "error  "}


@frozen
class Column:
    """``least``: how narrow it may get, 0 if it may be left out; None if not at all.
    ``most``: how wide, if the table is too wide."""

    title: str
    least: Optional[int] = None
    right: bool = False
    most: int = 1000


_LIST = (
    Column("CREATED (UTC)"),
    Column("OUTPUT", 8),
    Column("ID"),
    Column("STATE"),
    Column("TICKET ID", 12, most=32),
    Column("LAST", 0),
    Column("CASE", 0, most=24),
    Column("TRIES", 0, right=True),
    Column("NEXT (UTC)", 0),
    Column("LABEL", 0),
)
_NARROW_LIST = (Column("(UTC)"), Column("OUT", 3), *_LIST[2:])
_SECOND = "%Y-%m-%d %H:%M:%S"
_MINUTE = "%m-%d %H:%M"


def fields(delivery: Delivery) -> dict[str, object]:
    """A delivery with the journal's names; times as in RFC 3339.

    ``due`` is null while an attempt is under way.
    """
    under_way = delivery.owner is not None
    return {
        **{name: getattr(delivery, name) for name in FIELDS},
        "created": rfc3339(delivery.created),
        "updated": rfc3339(delivery.updated),
        "due": moment(None if under_way else delivery.due),
    }


def moment(time: Optional[int]) -> Optional[str]:
    return None if time is None else rfc3339(time)


def as_json(value: object, indent: Optional[int] = 2) -> str:
    """JSON in which what a terminal might act upon is escaped, and readable else."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return re.sub(r"[^\n -~]", _escaped, text)


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    return char if char.isprintable() else json.dumps(char)[1:-1]


def cell(value: object, terminal: bool = False) -> str:
    """A value as a cell of a CSV file that no spreadsheet takes for a formula."""
    text = "" if value is None else str(value)
    if terminal:
        text = printable(text)
    return "'" + text if text.startswith(FORMULA) else text


def listing(found: Sequence[Delivery], width: Optional[int]) -> Iterator[str]:
    """The lines of a table of deliveries, at most ``width`` cells wide if it can be."""
    if width is None or width >= NARROW:
        yield from table(_LIST, [_row(each, _SECOND) for each in found], width)
    else:
        yield from table(_NARROW_LIST, [_row(each, _MINUTE) for each in found], width)


def _row(each: Delivery, time: str) -> list[str]:
    next_ = NONE
    if each.state == PENDING and each.owner is not None:
        next_ = "now"
    elif each.state == PENDING and each.due is not None:
        next_ = f"{utc(each.due):%m-%d %H:%M:%S}"
    return [
        utc(each.created).strftime(time),
        each.output,
        each.id,
        each.state,
        each.ticket_id or NONE,
        last(each.status, each.reason),
        each.case or NONE,
        str(each.attempts),
        next_,
        each.label,
    ]


def last(status: Optional[int], reason: Optional[str]) -> str:
    """How an attempt went, in a word."""
    if status is None:
        return reason or NONE
    return str(status) if reason in (None, "status") else f"{status} {reason}"


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: Optional[int]
) -> Iterator[str]:
    """Aligned lines, the titles first; the last columns give way if it is too wide.

    Where there is no width nothing is cut: a long value pushes the rest of its own
    line aside, and no other.
    """
    shown = [[printable(text) for text in row] for row in rows]
    widths = [
        max([len(column.title), *(cells(row[index]) for row in shown)])
        for index, column in enumerate(columns)
    ]
    if width is not None:
        _narrow(columns, widths, width)
    else:
        widths = [min(size, each.most, PADDED) for size, each in zip(widths, columns)]

    for row in [[column.title for column in columns], *shown]:
        line = GAP.join(
            _fit(text, size, column.right, width is not None)
            for text, size, column in zip(row, widths, columns)
            if size
        )
        yield line.rstrip()


def _narrow(columns: Sequence[Column], widths: list[int], width: int) -> None:
    """Clip or leave out the last columns that may be, then clip the others."""
    if _total(widths) > width:
        widths[:] = [min(size, each.most) for size, each in zip(widths, columns)]
    for index in reversed(range(len(columns))):
        if _total(widths) > width and columns[index].least == 0:
            over = _total(widths) - width
            least = len(columns[index].title) + 3
            rest = widths[index] - over
            widths[index] = rest if rest >= least else 0
    for index in reversed(range(len(columns))):
        least_ = columns[index].least
        over = _total(widths) - width
        if over > 0 and least_:
            widths[index] = max(widths[index] - over, min(least_, widths[index]))


def _total(widths: Sequence[int]) -> int:
    shown = [size for size in widths if size]
    return sum(shown) + len(GAP) * (len(shown) - 1)


def _fit(text: str, size: int, right: bool = False, cut: bool = True) -> str:
    if cut and cells(text) > size:
        while cells(text) > size - 1:
            text = text[:-1]
        text += "…"
    space = " " * (size - cells(text))
    return space + text if right else text + space


def cells(text: str) -> int:
    """How many cells of a terminal a text takes."""
    if text.isascii():
        return len(text)
    drawn = [char for char in text if not unicodedata.combining(char)]
    return len(drawn) + sum(unicodedata.east_asian_width(c) in "WF" for c in drawn)


def block(text: str, indent: str) -> Iterator[str]:
    """The lines of a text from outside, each indented."""
    for line in text.replace("\r\n", "\n").split("\n"):
        yield indent + printable(line)


def pretty(body: bytes) -> Optional[str]:
    """JSON with a line for each value, all else as it was written: digits, doubled
    keys, escapes.  None if it is not JSON."""
    try:
        text = body.decode("utf-8-sig")
        json.loads(text)
    except (ValueError, RecursionError):
        return None

    parts: list[str] = []
    depth = 0
    tokens = _TOKEN.findall(text)
    for index, token in enumerate(tokens):
        before = tokens[index - 1] if index else ""
        if token in ("]", "}"):
            depth -= 1
            parts.append(token if before in ("[", "{") else _newline(depth) + token)
            continue
        if before in ("[", "{", ","):
            parts.append(_newline(depth))
        parts.append(token + " " if token == ":" else token)
        if token in ("[", "{"):
            depth += 1
    return "".join(parts)


def _newline(depth: int) -> str:
    return "\n" + "  " * depth


def span(ms: int) -> str:
    """A time that passes, in its two greatest units."""
    seconds = max(ms, 0) // 1000
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def finding(each: Finding) -> Iterator[str]:
    """The lines of what ``check`` found."""
    yield f"{_LEVELS[each.level]}  {each.subject}: {printable(each.text)}"
    if each.remedy:
        yield f"{' ' * 9}-> {printable(each.remedy)}"
