# Copyright (C) The ngx_vd_module authors
"""Stores for tests that need many of them: empty, with the schema in place."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Optional

from sqlalchemy import select
from sqlalchemy.engine import Connection
from sqlalchemy.schema import Table

import pytest

from postgres import Postgres
from vd_sidecar.store import Store, schema

KINDS = ("sqlite", "postgresql")
START = 1_790_000_000_000


class Clock:
    """Of a SQLite store; PostgreSQL has its own."""

    def __init__(self, now: int = START) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def open_store(request: pytest.FixtureRequest, clock: Optional[Clock] = None) -> Store:
    """For a fixture with ``params=KINDS``; the caller closes it.

    All tests share one database of PostgreSQL, which is emptied: to create one
    takes longer than most tests.
    """
    options = () if clock is None else (clock,)
    if request.param == "sqlite":
        store = Store(request.getfixturevalue("sqlite_url"), *options)
        store.migrate()
    else:
        store = Store(_migrated(request.getfixturevalue("postgres")), *options)
        store.opened = True
        empty(store)
    return store


@lru_cache(maxsize=1)
def _migrated(postgres: Postgres) -> str:
    url = postgres.create_database()
    store = Store(url)
    store.migrate()
    store.close()
    return url


def empty(store: Store) -> None:
    """Delete every row, but for the writers' lock."""
    with store.writing() as connection:
        for table in schema.metadata.tables.values():
            if table is not schema.writer:
                connection.execute(table.delete())


def dump(connection: Connection, table: Table) -> list[dict[str, Any]]:
    """All rows of a table, as mappings, in the order of its key."""
    rows = connection.execute(select(*table.columns).order_by(*table.primary_key))
    return [dict(row._mapping) for row in rows]
