# Copyright (C) The ngx_vd_module authors
"""``vd-sidecar run``: all parts of the sidecar in one process.

One event loop; one thread that writes to the store, so that the loop waits for
no disk; each part in a task of its own, which a trouble of the store or the
journal, or a fault of its own, stops for a while, and never for good.  Pages and
health are there before the store is.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Awaitable, Callable, Optional, TypeVar

import sdnotify
import structlog
from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

from . import __version__, journal, retention, web
from .clock import steady
from .config import Config, ConfigError
from .ingest import Ingest, Progress
from .model import FAILED, PENDING
from .nginx import Nginx
from .notify import Notify
from .retry import Retry
from .store import Store, reads, reason, wall_clock
from .troubles import Troubles, start_trouble

POLL_SECONDS = 0.1
TROUBLE_SECONDS = (0.5, 1.0, 2.0, 5.0)
GRACE_SECONDS = 25.0
CLOSE_SECONDS = 2.0  # for who is being answered
STUCK_SECONDS = 300.0  # in one transaction, whatever the store does
RETENTION_SECONDS = 600.0
WATCHDOG_SECONDS = 5.0

log = structlog.get_logger()
T = TypeVar("T")


class Service:
    """The parts, and what they tell each other."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.store = Store(config.store)
        self.ingest = Ingest(self.store, config)
        self.ingested = steady()  # when the journal was last read
        self._writer = ThreadPoolExecutor(1, "writer")
        self._stopping = asyncio.Event()
        self._opened = asyncio.Event()  # the store, or it never will be
        self._busy: Optional[float] = None  # since when the writer is
        self._next: Optional[Config] = None
        self.troubles = Troubles(self.store)
        self._systemd = sdnotify.SystemdNotifier()

    async def run(
        self, load: Callable[[], Config], ready: Callable[[], None]
    ) -> Optional[Config]:
        """Until SIGTERM or SIGINT, or SIGHUP: then the configuration to go on with.

        ``ready`` is called once the configuration is seen to be of use.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload, load)

        self.nginx = Nginx(self.config.nginx)
        self.retry = Retry(
            self.store, self.config, self.ingest, self.nginx, self.in_writer
        )
        self.notify = Notify(self.store, self.config, self.nginx, self.in_writer)
        try:
            site = await web.start(self)
        except OSError:
            await self.nginx.close()
            raise
        self._systemd.notify("READY=1")
        ready()

        parts: dict[str, Callable[[], Awaitable[object]]] = {
            "ingest": self._ingest_step,
            "retry": self.retry.step,
            "retention": self._retention_step,
            "outputs": self._outputs_step,
            **{kind: partial(self.notify.step, kind) for kind in self.notify.kinds},
        }
        tasks = {
            name: asyncio.create_task(self._part(name, step))
            for name, step in parts.items()
        }
        tasks["watchdog"] = asyncio.create_task(self._watch())
        tasks["store"] = asyncio.create_task(self._open())

        stopping = asyncio.create_task(self._stopping.wait())
        while not stopping.done() and not _failed(tasks["store"]):
            await asyncio.wait(
                [stopping, *(each for each in tasks.values() if not each.done())],
                return_when=asyncio.FIRST_COMPLETED,
            )
        closing = asyncio.create_task(site.cleanup())
        await asyncio.wait([closing], timeout=CLOSE_SECONDS)
        await self._stop(tasks)
        closing.cancel()

        for task in tasks.values():
            if not task.cancelled():
                task.result()
        return self._next

    def _reload(self, load: Callable[[], Config]) -> None:
        """End in order, to begin anew with what the file says now, if it can be used."""
        try:
            self._next = load()
        except ConfigError as error:
            log.error("the configuration stays as it was", problems=error.problems)
        else:
            log.info("begins anew with the configuration as it is now")
            self._stopping.set()

    async def in_writer(self, function: Callable[[], T]) -> T:
        """What ``function`` returns, run in the thread that writes to the store."""

        def work() -> T:
            self._busy = steady()
            try:
                return function()
            finally:
                self._busy = None

        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._writer, work)

    async def _open(self) -> None:
        """Wait for the store; a schema that is too new is an error that is raised."""
        failures = 0
        try:
            while not self._stopping.is_set():
                try:
                    await self.in_writer(self.store.migrate)
                    self.troubles.over("store")
                    log.info("started", version=__version__, edge=self.config.edge)
                    return
                except CommandError:
                    raise
                except Exception as error:
                    await self._trouble("store", error, failures)
                    failures += 1
        finally:
            self._opened.set()

    async def _part(self, name: str, step: Callable[[], Awaitable[object]]) -> None:
        """Repeat ``step``; while it fails, for whatever reason, less and less often."""
        failures = 0
        await self._opened.wait()
        while not self._stopping.is_set():
            try:
                await step()
                self.troubles.over(name)
                failures = 0
            except Exception as error:
                await self._trouble(name, error, failures)
                failures += 1
                if name in ("ingest", "retry") and isinstance(error, SQLAlchemyError):
                    await self._bring_up()

    async def _bring_up(self) -> None:
        """If a store of an older program was put back under this one."""

        def work() -> None:
            known, ours = self.store.revisions()
            if known != ours and (known is not None or self.store.sqlite):
                log.warning("an older store was put back: it is brought up to date")
                self.store.migrate()

        try:
            await self.in_writer(work)
            self.troubles.over("schema")
        except SQLAlchemyError:
            pass  # it is away, as was told
        except Exception as error:  # it is of a newer program
            self.troubles.tell("schema", error)

    async def _trouble(self, part: str, error: Exception, failures: int) -> None:
        seconds = TROUBLE_SECONDS[min(failures, len(TROUBLE_SECONDS) - 1)]
        self.troubles.tell(part, error)
        await self._pause(seconds)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except asyncio.TimeoutError:
            pass

    async def _ingest_step(self) -> None:
        progress = await self.in_writer(self.ingest.step)
        self.ingested = steady()
        self._tell(progress)
        if not progress.more:
            await self._pause(POLL_SECONDS)

    def _tell(self, progress: Progress) -> None:
        self.retry.settled(progress.settled)
        now = wall_clock()

        for each in progress.changed:
            if each.state == PENDING and each.due is not None and each.due <= now:
                self.retry.wake()
            elif each.state == FAILED:
                log.error(
                    "given up",
                    delivery=each.id,
                    output=each.output,
                    attempts=each.attempts,
                    status=each.status,
                    reason=each.reason,
                )

    async def _retention_step(self) -> None:
        await retention.step(self.store, self.config.retention, self.in_writer)
        await self._pause(RETENTION_SECONDS)

    async def _outputs_step(self) -> None:
        """Once: an output that is configured, and nowhere, may be a slip."""

        def read() -> set[str]:
            with self.store.reading() as connection:
                return {each.output for each in reads.tallies(connection)}

        known = await self.in_writer(read)
        for id in sorted(set(self.config.outputs) - known) if known else ():
            log.warning("nothing was ever delivered to an output", output=id)
        await self._stopping.wait()

    async def _watch(self) -> None:
        """Tell systemd that all is well, as long as this loop and the writer live.

        Not that the store does: to be started anew would not mend it.
        """
        while not self._stopping.is_set():
            if not self._is_stuck():
                self._systemd.notify("WATCHDOG=1")
            await self._pause(WATCHDOG_SECONDS)

    def _is_stuck(self) -> bool:
        busy = self._busy
        if busy is None or not self._opened.is_set():
            return False  # to bring a large store up to date takes as long as it does
        return steady() - busy > STUCK_SECONDS

    async def _stop(self, tasks: dict[str, asyncio.Task[None]]) -> None:
        """End all parts within the grace, and let go of what others can go on with."""
        log.info("stopping")
        if self._next is None:
            self._systemd.notify("STOPPING=1")
        else:
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._systemd.notify(f"RELOADING=1\nMONOTONIC_USEC={now}")
        self._stopping.set()
        end = steady() + GRACE_SECONDS
        try:
            # it must not claim any more when it gives back

            await asyncio.wait([tasks["retry"]], timeout=end - steady())
            await self.retry.stop(end - steady())
            await asyncio.wait(tasks.values(), timeout=max(1.0, end - steady()))
            if self.store.opened:
                await self.in_writer(self.ingest.step)
        except Exception as error:
            log.error("stopped with work left in the journal", error=reason(error))

        for task in tasks.values():
            task.cancel()
        await self.nginx.close()
        self._writer.shutdown()
        self.store.close()


def _failed(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


def run(load: Callable[[], Config]) -> None:
    """Run the sidecar until it is told to stop.

    ``load`` reads the configuration, now and with each SIGHUP; it raises
    ``ConfigError``.  Raises ``journal.Busy`` if the journal has a sidecar already,
    ``OSError`` if the journal is not there, and ``alembic.util.CommandError`` if a
    newer program made the store.
    """
    config: Optional[Config] = load()
    if os.geteuid() == 0:
        log.warning("runs as root, which it needs for nothing: have it run as vd")

    # what lives as long as the process need not be looked at again

    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)

    used: list[Config] = []  # those that could be
    while config is not None:
        tried = config
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is a loop
        try:
            config = _serve(tried, load, used)
        except (OSError, journal.Busy) as error:
            if not used or used[-1] is tried:
                raise
            why = str(error)
            if isinstance(error, OSError):
                why = start_trouble(tried, error)
            log.error("the configuration stays as it was", problems=[why])
            config, used[:] = used[-1], []


def _serve(
    config: Config, load: Callable[[], Config], used: list[Config]
) -> Optional[Config]:
    """What to go on with after ``config``, which is put into ``used`` if it can be."""
    lock = journal.lock_directory(config.journal)
    try:
        journal.remember_edge(config.journal, config.edge)
    except OSError as error:
        log.warning("the edge's name cannot be kept: set it", error=str(error))
    try:
        return asyncio.run(_run(config, load, partial(used.append, config)))
    finally:
        os.close(lock)


async def _run(
    config: Config, load: Callable[[], Config], ready: Callable[[], None]
) -> Optional[Config]:
    return await Service(config).run(load, ready)
