# Copyright (C) The ngx_vd_module authors
"""Telling pages that are open that something changed (server-sent events).

What changed they ask for themselves: a page that lost its connection has missed
nothing once it has asked again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Optional

from aiohttp import web
from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from ..store import schema
from .reading import Away, Snapshot, Reads

if TYPE_CHECKING:
    from ..service import Service

LOOK_SECONDS = 0.7
SILENCE_SECONDS = 15.0  # after which something is sent, so that proxies keep it open
MOST = 200  # pages at once

Version = tuple[object, ...]


class Live:
    """One look at the store for all pages, and none while no page is open."""

    def __init__(self, service: "Service", snapshot: Snapshot) -> None:
        self._service = service
        self._snapshot = snapshot
        self._reads = Reads(service.store, at_once=1, seconds=2.0)
        self._changed = asyncio.Condition()
        self._version: Optional[Version] = None
        self._away = False  # the store
        self._number = 0
        self._open = 0
        self._task: Optional[asyncio.Task[None]] = None
        self._closing = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The stream: an event for each change, the first one at once; or, while the
        store is away, one that says so."""
        if self._open >= MOST:
            raise web.HTTPServiceUnavailable(headers={"Retry-After": "30"})
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        )
        self._open += 1
        try:
            await response.prepare(request)
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._watch())
            await self._tell(response)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the page is closed
        finally:
            self._open -= 1
        return response

    async def close(self, app: web.Application) -> None:
        """End all streams; the process ends."""
        self._closing = True
        if self._task is not None:
            self._task.cancel()
        async with self._changed:
            self._changed.notify_all()

    async def _tell(self, response: web.StreamResponse) -> None:
        told = None
        await response.write(b"retry: 1000\n\n")
        while not self._closing:
            if told != self._number:
                told = self._number
                event = b"away" if self._away else b"change"
                await response.write(b"event: %b\ndata: %d\n\n" % (event, told))
            try:
                async with self._changed:
                    if told == self._number:
                        await asyncio.wait_for(self._changed.wait(), SILENCE_SECONDS)
            except asyncio.TimeoutError:
                await response.write(b": still here\n\n")

    async def _watch(self) -> None:
        while self._open and not self._closing:
            away = False
            version = self._version
            try:
                version = await self._look()
            except Away:
                away = True
            if version != self._version or away is not self._away:
                self._version, self._away = version, away
                self._number += 1
                async with self._changed:
                    self._changed.notify_all()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> Version:
        """What is another one when anything was done, by whomever."""
        here = (self._service.ingest.records, self._service.retry.claims)

        def read(connection: Connection) -> Version:
            table = schema.tallies
            tallies = connection.execute(select(*table.columns)).all()
            act = connection.execute(select(func.max(schema.acts.c.seq))).scalar_one()
            return (act, *sorted(map(tuple, tallies)))

        return (*here, *await self._reads(read))
