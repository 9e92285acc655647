# Copyright (C) The ngx_vd_module authors
"""Text from outside, made safe and readable for people."""

from __future__ import annotations

import json
import re
import textwrap
from datetime import datetime, timezone
from itertools import chain
from typing import Iterator, Mapping

MAX_STRING = 20_000  # characters of one value of a case
MAX_TEXT = 200_000  # characters of a case
MAX_DEPTH = 20  # of objects and lists in each other
WIDTH = 76

# What str.splitlines() breaks at, in one: mail headers and clients agree with it.
_BREAKS = re.compile("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
# Controls, lone surrogates, and what is not seen or turns the order of what is
# (joiners stay: emoji and several scripts need them).
_UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1b\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z][a-z])")
_ID_WORD = re.compile(r"\bid\b", re.IGNORECASE)


def clean(text: str) -> str:
    """``text`` with ``\\n`` as its only line break and nothing invisible in it:
    controls and bidirectional overrides become U+FFFD."""
    return _UNSEEN.sub("\ufffd", _BREAKS.sub("\n", text))


def clip(text: str, limit: int) -> str:
    """``text``, or its beginning and an ellipsis, in at most ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def line(text: str, limit: int = 200) -> str:
    """``text`` cleaned, on one line, in at most ``limit`` characters."""
    return clip(" ".join(clean(text).split()), limit)


def utc(ms: int) -> datetime:
    """A time (Unix ms) in UTC."""
    return datetime.fromtimestamp(ms / 1000, timezone.utc)


def when(ms: int) -> str:
    """A time (Unix ms) as people read it, in UTC."""
    return utc(ms).strftime("%Y-%m-%d %H:%M:%S UTC")


def readable(body: bytes, language: str = "en", attached: bool = True) -> str:
    """A case as people read it: ``Key: value`` lines, what is nested indented.

    What is not JSON is given as text.  Numbers are as written, doubled keys are
    all shown.  Bounded in size and depth, whatever comes in; says where it cut.
    """
    german = language == "de"
    words = {True: "ja" if german else "yes", False: "nein" if german else "no"}
    if attached:
        rest = "[… der Rest steht im Anhang]" if german else "[… the rest is attached]"
    else:
        rest = "[…]"
    text = body.decode("utf-8-sig", "replace")
    try:
        case: object = json.loads(
            text,
            object_pairs_hook=tuple,
            parse_int=str,
            parse_float=str,
            parse_constant=str,
        )
    except (ValueError, RecursionError):
        case = text
    rows: list[str] = []
    size = 0
    for row in _rows(case, words, WIDTH, 0):
        size += len(row) + 1
        if size > MAX_TEXT:
            rows.append(rest)
            break
        rows.append(row)
    return "\n".join(rows)


def _rows(
    value: object, words: Mapping[bool, str], width: int, depth: int
) -> Iterator[str]:
    """The lines of a value; objects are tuples of pairs here, lists are lists."""
    if depth > MAX_DEPTH:
        yield "…"
    elif isinstance(value, tuple) and value:
        for key, item in value:
            yield from _field(_title(key), item, words, width, depth)
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            if index and isinstance(item, tuple):
                yield ""
            rows = _rows(item, words, width - 2, depth + 1)
            yield "- " + next(rows)
            for row in rows:
                yield ("  " + row).rstrip()
    else:
        yield from _wrap(_scalar(value, words), width)


def _field(
    title: str, value: object, words: Mapping[bool, str], width: int, depth: int
) -> Iterator[str]:
    """``Title: value`` where that fits on a line, else the value indented below."""
    rows = _rows(value, words, width - 4, depth + 1)
    first = next(rows)
    second = next(rows, None)
    nested = isinstance(value, (tuple, list)) and bool(value)
    if second is None and not nested and len(title) + 2 + len(first) <= width:
        yield f"{title}: {first}"
        return
    yield title + ":"
    for row in chain([first], [] if second is None else [second], rows):
        yield ("    " + row).rstrip()


def _title(key: str) -> str:
    """``customer_name`` as "Customer name"; what is no identifier stays."""
    if not _KEY.fullmatch(key):
        return line(key, 120) or "–"
    words = _HUMP.sub(" ", key).replace("_", " ").split()
    text = _ID_WORD.sub("ID", " ".join(words)) or key
    return clip(text[:1].upper() + text[1:], 120)


def _scalar(value: object, words: Mapping[bool, str]) -> str:
    if isinstance(value, bool):
        return words[value]
    return value if isinstance(value, str) else "–"


def _wrap(text: str, width: int) -> list[str]:
    """The lines of a text, at least one; a long word, such as a URL, stays whole."""
    rows: list[str] = []
    for paragraph in clip(clean(text).strip(), MAX_STRING).split("\n"):
        rows += textwrap.wrap(
            paragraph,
            max(width, 40),
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
    return rows if any(rows) else ["–"]
