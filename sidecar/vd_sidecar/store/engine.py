# Copyright (C) The ngx_vd_module authors
"""Opening a store, and the one rule of writing to it: one writer at a time.

What SQLite does by itself, ``BEGIN IMMEDIATE``, a locked row does elsewhere: each
write transaction sees what all before it wrote, on every edge.  They are
short, and nothing is waited for inside.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import alembic.command
import alembic.config
import alembic.runtime.migration
import alembic.script
import sqlalchemy
from sqlalchemy import event, func, select
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.pool import QueuePool

from . import schema

BUSY_SECONDS = 30
STUCK_SECONDS = 10  # in the midst of a transaction, before its lock is taken away

MIGRATIONS = Path(__file__).with_name("migrations")

Clock = Callable[[], int]


def wall_clock() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def reason(error: Exception) -> str:
    """What the database said, without the rows that it may quote: they are cases."""
    return str(getattr(error, "orig", None) or error).partition("\n")[0]


class Store:
    """A database of deliveries; threads may share it."""

    def __init__(self, url: str, clock: Clock = wall_clock) -> None:
        """Nothing is opened before the first use.

        ``clock`` is for SQLite, where a store has one machine's time; PostgreSQL
        has its own, the same for all edges.
        """
        self.url = make_url(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self._clock = clock
        self.opened = False  # its tables are as this program knows them
        self.engine = _engine(url, self.sqlite)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is the only one to write, committed at the end."""
        with self.engine.connect() as connection:
            if self.sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.execute(_lock(BUSY_SECONDS)).one()
            yield connection
            try:
                connection.commit()
            except BaseException:
                # a transaction that may still be open goes into no pool

                connection.invalidate()
                raise

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the store throughout."""
        with self.engine.connect() as connection:
            if self.sqlite:
                connection.exec_driver_sql("BEGIN")
            else:
                connection.exec_driver_sql(
                    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
                )
            yield connection

    def now(self, connection: Connection) -> int:
        """Unix milliseconds by the clock that all edges of the store share."""
        if self.sqlite:
            return self._clock()
        seconds = connection.execute(
            select(func.extract("epoch", func.clock_timestamp()))
        ).scalar_one()
        return int(float(seconds) * 1000)

    def migrate(self) -> None:
        """Bring the schema up to this program's, as often as it is called.

        Raises ``alembic.util.CommandError`` if a newer program made the store.
        """
        with self.engine.connect() as connection:
            if not self.sqlite:
                connection.execute(select(func.pg_advisory_xact_lock(0x7664)))
                if sqlalchemy.inspect(connection).has_table(schema.writer.name):
                    connection.execute(select(schema.writer.c.id).with_for_update())
            alembic.command.upgrade(_alembic(connection), "head")
            connection.commit()
        self.opened = True

    def revisions(self) -> tuple[str | None, str | None]:
        """The schema's revision in the store, and the one of this program."""
        script = alembic.script.ScriptDirectory.from_config(_alembic(None))
        with self.engine.connect() as connection:
            context = alembic.runtime.migration.MigrationContext.configure(connection)
            return context.get_current_revision(), script.get_current_head()

    def close(self) -> None:
        self.engine.dispose()


def _lock(seconds: int) -> Any:
    """What makes a transaction the only one to write, none of whose statements may
    take longer."""
    timeout = func.set_config("statement_timeout", f"{seconds}s", True)
    return select(schema.writer.c.id, timeout).with_for_update()


def _alembic(connection: Connection | None) -> alembic.config.Config:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _engine(url: str, sqlite: bool) -> Engine:
    options: dict[str, Any] = {
        "poolclass": QueuePool,
        "pool_pre_ping": not sqlite,
        "hide_parameters": True,  # they are cases
    }

    if sqlalchemy.__version__.startswith("1."):
        options["future"] = True

    if sqlite:
        options["connect_args"] = {
            "check_same_thread": False,
            "timeout": BUSY_SECONDS,
        }
    else:
        from .postgresql import Cursor

        options["connect_args"] = {
            "cursor_factory": Cursor,
            "connect_timeout": 10,
            "application_name": "vd-sidecar",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": BUSY_SECONDS * 1000,
            "options": f"-c lock_timeout={BUSY_SECONDS}s"
            f" -c idle_in_transaction_session_timeout={STUCK_SECONDS}s",
        }

    engine = sqlalchemy.create_engine(url, **options)
    if sqlite:
        event.listen(engine, "checkout", _check_sqlite)
        event.listen(engine, "do_connect", _create_sqlite)
        event.listen(engine, "connect", _set_up_sqlite)
    return engine


def _create_sqlite(dialect: object, record: object, args: Any, options: object) -> None:
    # cases are not for all to read; the files beside it get the same mode.  One
    # that is there is not even opened: closing it would drop SQLite's locks

    try:
        os.close(os.open(args[0], os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
    except OSError:  # it is there; or SQLite cannot open it either, and says so
        pass


def _check_sqlite(connection: Any, record: Any, proxy: object) -> None:
    # a file that was put in place of ours is the store; ours, that nobody finds any
    # more, would take whatever we write

    if record.info.get("file") != _file(record.info.get("path")):
        raise InvalidatePoolError("another file was put in place of the store")


def _file(path: Optional[str]) -> Optional[tuple[int, int]]:
    try:
        stat = os.stat(path or "")
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _set_up_sqlite(connection: Any, record: Any) -> None:
    path = connection.execute("PRAGMA database_list").fetchone()[2]
    record.info.update(path=path, file=_file(path))

    # transactions begin where we say so

    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    connection.execute("PRAGMA cache_size = -32768")
