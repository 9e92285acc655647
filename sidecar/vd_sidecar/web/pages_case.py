# Copyright (C) The ngx_vd_module authors
"""A case as people read it on a page: JSON as a tree that folds."""

from __future__ import annotations

import json
from typing import Iterator, Optional, Union

from attrs import frozen

from ..text import clean

MOST_BYTES = 200_000
MOST_NODES = 3000
MOST_DEPTH = 40
OPEN_DEPTH = 2  # as far as it is unfolded at first


@frozen
class Leaf:
    """``kind``: string, number, word (true, false, null)."""

    name: Optional[str]
    kind: str
    text: str


@frozen
class Branch:
    name: Optional[str]
    brackets: str
    items: tuple["Node", ...]
    unfolded: bool


Node = Union[Leaf, Branch]


@frozen
class Case:
    """``tree`` None: it is no JSON, or too much for a tree; then ``text`` is shown."""

    tree: Optional[Node]
    text: str
    cut: bool
    size: int


class _TooMuch(Exception):
    pass


class _Number(str):
    pass


def read(body: bytes) -> Case:
    """Numbers are as written, doubled keys are all there; bounded, whatever comes."""
    size = len(body)
    if size <= MOST_BYTES:
        try:
            value: object = json.loads(
                body.decode("utf-8-sig"),
                object_pairs_hook=tuple,
                parse_int=_Number,
                parse_float=_Number,
                parse_constant=_Number,
            )
            return Case(_node(None, value, 0, iter(range(MOST_NODES))), "", False, size)
        except (ValueError, RecursionError, _TooMuch):
            pass
    text = body[:MOST_BYTES].decode("utf-8", "replace")
    return Case(None, clean(text), size > MOST_BYTES, size)


def _node(name: Optional[str], value: object, depth: int, left: Iterator[int]) -> Node:
    if next(left, None) is None or depth > MOST_DEPTH:
        raise _TooMuch
    shown = None if name is None else _quoted(name)
    if isinstance(value, tuple):
        items = tuple(_node(key, item, depth + 1, left) for key, item in value)
        return Branch(shown, "{}", items, depth < OPEN_DEPTH)
    if isinstance(value, list):
        items = tuple(_node(None, item, depth + 1, left) for item in value)
        return Branch(shown, "[]", items, depth < OPEN_DEPTH)
    if isinstance(value, _Number):
        return Leaf(shown, "number", str(value))
    if isinstance(value, str):
        return Leaf(shown, "string", _quoted(value))
    return Leaf(shown, "word", json.dumps(value))


def _quoted(text: str) -> str:
    """As JSON has it; what cannot be seen is escaped too."""
    return clean(json.dumps(text, ensure_ascii=False))
