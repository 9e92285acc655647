# Copyright (C) The ngx_vd_module authors
"""PostgreSQL's own way to take many rows, which costs a quarter of INSERT's."""

from __future__ import annotations

from io import StringIO
from typing import Any, Iterable

from psycopg2.extensions import cursor
from psycopg2.extras import execute_batch

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


class Cursor(cursor):
    """One that copies the rows which it is to execute a "COPY … FROM STDIN" with.

    So SQLAlchemy may have it done, as any other statement, and knows its errors.
    """

    def execute(self, query: Any, row: Any = None) -> None:
        if _copies(query):
            self._copy(query, [row])
        else:
            super().execute(query, row)

    def executemany(self, query: Any, rows: Iterable[Any]) -> None:
        if _copies(query):
            self._copy(query, rows)
        else:
            execute_batch(self, query, rows)

    def _copy(self, query: str, rows: Iterable[Any]) -> None:
        self.copy_expert(query, StringIO("".join(map(_line, rows))))


def _copies(query: object) -> bool:
    return isinstance(query, str) and query.startswith("COPY ")


def _line(row: Iterable[object]) -> str:
    return "\t".join(map(_field, row)) + "\n"


def _field(value: object) -> str:
    """As COPY's text format has it."""
    if value is None:
        return "\\N"
    if isinstance(value, str):
        return value.translate(_ESCAPES)
    if isinstance(value, bytes):
        return "\\\\x" + value.hex()
    return str(value)
