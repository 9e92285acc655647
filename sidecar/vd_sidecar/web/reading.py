# Copyright (C) The ngx_vd_module authors
"""Reading the store for those who look, without being in anybody's way.

Neither the event loop nor the end of the process waits for a read, whatever the
store does; and a read that takes too long is ended, so that none piles up.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import Callable, Iterator, Optional, TypeVar

from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from ..clock import steady
from ..store import Store, stats
from ..store.stats import Stats
from ..troubles import store_trouble

FRESH_SECONDS = 1.0
SNAPSHOT_SECONDS = 2.0
MARGIN_SECONDS = 0.5  # by which a store that is well ends a read before we give up
STEPS = 10_000  # of SQLite's machine, between two looks at the clock

T = TypeVar("T")


class Away(Exception):
    """The store does not answer, or not in time."""


class Reads:
    """At most ``at_once`` reads of a store, each of at most ``seconds``."""

    def __init__(self, store: Store, at_once: int, seconds: float) -> None:
        self._store = store
        self._seconds = seconds
        self._places = asyncio.Semaphore(at_once)

    async def __call__(self, function: Callable[[Connection], T]) -> T:
        """What ``function`` returns, which is run in a thread.  Raises ``Away``."""
        if not self._store.opened:
            raise Away("it has not been opened yet")
        limit = self._seconds + MARGIN_SECONDS
        try:
            await asyncio.wait_for(self._places.acquire(), limit)
        except asyncio.TimeoutError:
            raise Away("reads that take too long are in the way") from None

        future = in_daemon(lambda: self._read(function))
        future.add_done_callback(lambda _: self._places.release())

        done, _ = await asyncio.wait([future], timeout=limit)
        if not done:
            future.add_done_callback(asyncio.Future.exception)  # nobody else looks
            raise Away(f"no answer within {limit:g} s")
        try:
            return future.result()
        except SQLAlchemyError as error:
            raise Away(store_trouble(self._store, error)) from None

    def _read(self, function: Callable[[Connection], T]) -> T:
        deadline = steady() + self._seconds
        with self._store.reading() as connection:
            with _until(connection, deadline):
                return function(connection)


class Snapshot:
    """What the store holds in sum, asked for at most once a second."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reads = Reads(store, at_once=1, seconds=SNAPSHOT_SECONDS)
        self._task: Optional[asyncio.Task[Stats]] = None
        self._began = 0.0

    async def get(self) -> Stats:
        """Not older than ``FRESH_SECONDS``.  Raises ``Away``, as soon as it can."""
        stale = steady() - self._began >= FRESH_SECONDS
        if self._task is None or (self._task.done() and stale):
            self._began = steady()
            self._task = asyncio.create_task(self._reads(self._read))
        return await asyncio.shield(self._task)

    def _read(self, connection: Connection) -> Stats:
        return stats.read(connection, self._store.now(connection))


def reason(error: SQLAlchemyError) -> str:
    """What the database said, in one line."""
    text = str(getattr(error, "orig", None) or error).strip()
    return text.partition("\n")[0] or type(error).__name__


def in_daemon(function: Callable[[], T]) -> asyncio.Future[T]:
    """Run ``function`` in a thread that dies with the process, done or not."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: Optional[T], error: Optional[BaseException]) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = function()
        except Exception as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            pass  # the loop is closed, there is nobody to tell

    threading.Thread(target=run, name="reader", daemon=True).start()
    return future


@contextmanager
def _until(connection: Connection, deadline: float) -> Iterator[None]:
    """Have the database itself end what is not done by ``deadline``."""
    if connection.dialect.name != "sqlite":
        left = max(1, round((deadline - steady()) * 1000))
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {left}")
        yield
        return

    raw = connection.connection.dbapi_connection
    assert raw is not None
    raw.set_progress_handler(lambda: steady() > deadline, STEPS)
    try:
        yield
    finally:
        raw.set_progress_handler(None, 0)
