# Copyright (C) The ngx_vd_module authors
"""``/api``: deliveries as JSON, and what can be done with them.

The names are the journal's and those of ``vd-sidecar list --json`` and ``show
--json``; /api/openapi.json describes it all.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Optional

from aiohttp import web
from sqlalchemy.engine import Connection

from .. import detail, render
from ..acts import CANCEL, FORGET, RESEND, RETRY, Act
from ..store import reads
from ..tables import printable
from . import asked, openapi
from .acting import Acting, chosen
from .asked import as_cursor
from .guard import Refused
from .reading import Reads, Snapshot

if TYPE_CHECKING:
    from ..service import Service

AT_ONCE = 4  # reads; each has a connection of the store's
SECONDS = 10.0
LIMIT = 100  # deliveries of a list, unless asked for otherwise
MOST = 1000
USER = "X-Remote-User"


class Api:
    """The API of a service."""

    def __init__(self, service: "Service", snapshot: Snapshot) -> None:
        self._service = service
        self._snapshot = snapshot
        self._reads = Reads(service.store, AT_ONCE, SECONDS)
        self._acting = Acting(service, self._reads)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/deliveries", self._list),
            web.get("/api/deliveries/{id}", self._show),
            *(
                web.post(f"/api/deliveries/{act.name}", partial(self._act, act))
                for act in (RETRY, RESEND, CANCEL, FORGET)
            ),
            web.get("/api/outputs", self._outputs),
            web.get("/api/openapi.json", self._openapi),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        limit = asked.number(request.query, "limit", LIMIT, MOST)
        sort = asked.sort(request.query.get("sort"))
        after = asked.cursor(request.query.get("cursor"), sort)
        others = ("limit", "cursor", "sort")
        filter = asked.filter_of(asked.query(request.query, others))

        def read(connection: Connection) -> str:
            found = reads.find(connection, filter, limit + 1, after, sort)
            more = len(found) > limit
            del found[limit:]
            return _dump(
                {
                    "deliveries": [render.fields(each) for each in found],
                    "next": as_cursor(reads.place(found[-1], sort)) if more else None,
                }
            )

        return _json(await self._reads(read))

    async def _show(self, request: web.Request) -> web.Response:
        id = request.match_info["id"]
        rest = asked.query(request.query, ("body", "output"))
        if rest:
            raise Refused(f"{next(iter(rest))!r} is no parameter here")
        outputs: list[str] = request.query.getall("output", [])
        with_body = asked.flag("body", request.query.get("body", False))
        config = self._service.config

        def read(connection: Connection) -> Optional[str]:
            found = chosen(reads.by_id(connection, id), outputs)
            now = self._service.store.now(connection)
            details = [detail.read(connection, each, now) for each in found]
            all_ = [detail.as_fields(each, config, with_body) for each in details]
            return _dump({"id": id, "deliveries": all_}) if all_ else None

        text = await self._reads(read)
        if text is None:
            raise Refused("there is no such delivery", 404)
        return _json(text)

    async def _outputs(self, request: web.Request) -> web.Response:
        stats = await self._snapshot.get()
        known = [
            {
                "output": each.output,
                "label": each.label,
                **each.states,
                "due": each.due,
                "oldest_due_age_seconds": each.overdue / 1000,
            }
            for each in stats.outputs
        ]
        return _json(_dump({"outputs": known}))

    async def _openapi(self, request: web.Request) -> web.Response:
        return _json(_dump(openapi.document()))

    async def _act(self, act: Act, request: web.Request) -> web.Response:
        todo = await asked.to_do(request)
        done = await self._acting.act(act, todo, who(request))
        return _json(_dump(done.fields()))


def who(request: web.Request) -> str:
    """Whom an act is noted as: the user that a proxy names, or the address."""
    return printable(request.headers.get(USER) or request.remote or "unknown")[:64]


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _json(text: str) -> web.Response:
    return web.Response(text=text, content_type="application/json")
