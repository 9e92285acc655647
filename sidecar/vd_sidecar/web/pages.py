# Copyright (C) The ngx_vd_module authors
"""The pages: what people look at, and where they act, without JavaScript too."""

from __future__ import annotations

import csv
import io
import shlex
import json
from typing import TYPE_CHECKING, Awaitable, Callable, Optional

import structlog
from aiohttp import web
from attrs import frozen
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from .. import detail, render
from ..batch import rfc3339
from ..detail import Detail
from ..model import DELIVERED, PENDING, Delivery
from ..options import REASONS
from ..store import reads, wall_clock
from ..store.lists import COLUMNS
from ..store.reads import Filter, Place, Sort, Tally
from ..text import readable
from . import asked, pages_asked, pages_case
from .acting import chosen
from .guard import Refused
from .live import Live
from .pages_act import ActPages
from .pages_asked import View
from .pages_overview import OverviewPage
from .pages_view import HEADERS, Renderer, Viewer, address, html
from .reading import Away, Reads, Snapshot, in_daemon, reason

if TYPE_CHECKING:
    from ..service import Service

AT_ONCE = 4  # reads
SECONDS = 5.0
ROWS = 50  # of a list
NEIGHBOURS = 8
CSV_ROWS = 1000  # in one piece

Page = Callable[[web.Request, Viewer], Awaitable[web.StreamResponse]]

log = structlog.get_logger()


@frozen
class Listed:
    """What a list shows, and where its neighbours begin."""

    found: list[Delivery]
    newer: Optional[Place]
    older: Optional[Place]
    tallies: list[Tally]


class Pages:
    """The pages of a service."""

    def __init__(self, service: "Service", snapshot: Snapshot) -> None:
        self._service = service
        self._reads = Reads(service.store, AT_ONCE, SECONDS)
        self._render = Renderer(service.config.web.base)
        self._base = service.config.web.base
        self._live = Live(service, snapshot)
        self._overview = OverviewPage(service, snapshot, self._reads, self._render)
        self._acts = ActPages(service, self._reads, self._render)

    def add_to(self, app: web.Application) -> None:
        routes: dict[str, Page] = {
            "/": self._overview.show,
            "/deliveries": self._list,
            "/deliveries.csv": self._csv,
            "/deliveries/{output}/{id}": self._show,
            "/deliveries/{output}/{id}/case": self._case,
            "/act": self._acts.preview,
        }
        for path, page in routes.items():
            app.router.add_get(path, self._page(page))
        app.router.add_post("/act", self._page(self._acts.perform))
        app.router.add_get("/events", self._live.handle)
        app.router.add_get("/static/{name}", self._static)
        app.router.add_get("/favicon.ico", self._icon)
        app.on_shutdown.append(self._live.close)

    def _page(
        self, page: Page
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """A handler: errors are pages too."""

        async def handle(request: web.Request) -> web.StreamResponse:
            viewer = Viewer(request, wall_clock())
            try:
                return await page(request, viewer)
            except web.HTTPRedirection as there:
                there.headers["Location"] = self._base + there.headers["Location"]
                raise
            except Refused as error:
                key = "error_gone" if error.status == 404 else "error_asked"
                text = viewer.t(key, why=str(error))
                status = error.status
            except Away as error:
                text, status = viewer.t("error_away", why=str(error)), 503
            except SQLAlchemyError as error:
                text, status = viewer.t("error_away", why=reason(error)), 503
            return html(self._render("error.html", viewer, text=text), status)

        return handle

    async def _list(self, request: web.Request, viewer: Viewer) -> web.Response:
        pairs = pages_asked.tidy(request.query, viewer)
        if pairs is not None:
            raise web.HTTPFound(address("/deliveries", pairs))
        view = pages_asked.view(request.query)

        def read(connection: Connection) -> str:
            listed = _listed(connection, view)
            conditions = view.pairs + view.order
            return self._render(
                "list.html",
                viewer,
                page="deliveries",
                view=view,
                listed=listed,
                reasons=REASONS,
                top=address("/deliveries", conditions),
                newer=_turned("before", listed.newer, conditions),
                older=_turned("cursor", listed.older, conditions),
                csv=address("/deliveries.csv", conditions),
                sort=asked.as_sort(view.sort),
                sorts=_sorts(view),
                orders=pages_asked.ORDERS,
                states=_states(view, listed.tallies),
                token=None,
                twice=_twice(view, viewer),
            )

        return html(await self._reads(read))

    async def _show(self, request: web.Request, viewer: Viewer) -> web.Response:
        output, id = request.match_info["output"], request.match_info["id"]
        config = self._service.config

        def read(connection: Connection) -> Optional[str]:
            found = chosen(reads.by_id(connection, id), [output])
            if not found:
                return None
            viewer.now = self._service.store.now(connection)
            known = detail.read(connection, found[0], viewer.now)
            neighbours = _neighbours(connection, found[0])
            return self._render(
                "detail.html",
                viewer,
                page="detail",
                d=found[0],
                detail=known,
                next=_next(known, viewer, config.output(output).retry.attempts),
                case=None if known.body is None else pages_case.read(known.body),
                conflicts=[
                    (each, None if each.body is None else readable(each.body))
                    for each in known.conflicts
                ],
                neighbours=neighbours[:NEIGHBOURS],
                curl=_curl(config.web.listen, found[0]),
                done=self._acts.told(request.query.get("done", ""), viewer),
            )

        text = await self._reads(read)
        if text is None:
            raise Refused("", 404)
        return html(text)

    async def _case(self, request: web.Request, viewer: Viewer) -> web.Response:
        """The case byte for byte, to be kept, never to be shown by the browser."""
        output, id = request.match_info["output"], request.match_info["id"]

        def read(connection: Connection) -> Optional[bytes]:
            found = chosen(reads.by_id(connection, id), [output])
            if not found:
                return None
            return detail.read(connection, found[0], viewer.now).body

        body = await self._reads(read)
        if body is None:
            raise Refused("", 404)
        headers = {**HEADERS, "Content-Disposition": 'attachment; filename="case.json"'}
        return web.Response(
            body=body, content_type="application/octet-stream", headers=headers
        )

    async def _csv(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """All that is filtered, read and sent a piece at a time."""
        view = pages_asked.view(request.query)
        after: Optional[Place] = None
        response = web.StreamResponse(
            headers={
                **HEADERS,
                "Content-Type": "text/csv; charset=utf-8",
                "Content-Disposition": 'attachment; filename="deliveries.csv"',
            }
        )

        def read(connection: Connection) -> list[Delivery]:
            return reads.find(connection, view.filter, CSV_ROWS, after, view.sort)

        found = await self._reads(read)
        await response.prepare(request)
        await response.write(render.BOM.encode() + _csv([render.FIELDS]))
        while found:
            rows = [
                [render.cell(value) for value in render.fields(each).values()]
                for each in found
            ]
            await response.write(await in_daemon(lambda: _csv(rows)))
            after = reads.place(found[-1], view.sort)
            if len(found) < CSV_ROWS:
                break
            found = await self._reads(read)
        await response.write_eof()
        return response

    async def _static(self, request: web.Request) -> web.Response:
        asset = self._render.assets.get(request.match_info["name"])
        if asset is None:
            raise web.HTTPNotFound
        forever = {"Cache-Control": "public, max-age=31536000, immutable"}
        return web.Response(body=asset.body, content_type=asset.type, headers=forever)

    async def _icon(self, request: web.Request) -> web.Response:
        raise web.HTTPFound(self._render.assets["icon.svg"].url)


def _listed(connection: Connection, view: View) -> Listed:
    """One page; one delivery more than it has tells whether there is another."""
    back = view.before is not None
    place = view.before if back else view.after
    found = reads.find(connection, view.filter, ROWS + 1, place, view.sort, back)
    more = len(found) > ROWS
    del found[ROWS:]
    if back:
        found.reverse()

    # whoever comes from somewhere can go back there

    newer = (more if back else view.after is not None) and bool(found)
    older = (True if back else more) and bool(found)
    return Listed(
        found=found,
        newer=reads.place(found[0], view.sort) if newer else None,
        older=reads.place(found[-1], view.sort) if older else None,
        tallies=reads.tallies(connection),
    )


def _turned(
    name: str, place: Optional[Place], conditions: pages_asked.Pairs
) -> Optional[str]:
    if place is None:
        return None
    return address("/deliveries", conditions, [(name, asked.as_cursor(place))])


def _twice(view: View, viewer: Viewer) -> list[tuple[str, str, str]]:
    """Of the times that come twice: each, the other one, and that one's address."""
    found = []
    for name, time in (("since", view.filter.since), ("until", view.filter.until)):
        twice = viewer.twice(time)
        if twice is not None:
            pairs = (*view.without(name), (name, rfc3339(twice[2])))
            url = address("/deliveries", pairs, view.order)
            found.append((*twice[:2], url))
    return found


def _states(view: View, tallies: list[Tally]) -> list[tuple[str, str, bool, int]]:
    """For each state, and all: its name, address, whether it is on, how many."""
    outputs = view.filter.outputs
    rest = view.without("state")
    plain = not view.without("state", "output")
    result = []
    for state in ("", "delivered", "pending", "failed", "cancelled"):
        names = [state] if state else ["delivered", "pending", "failed", "cancelled"]
        count = sum(
            getattr(tally, name)
            for tally in tallies
            for name in names
            if not outputs or tally.output in outputs
        )
        pairs = rest + ((("state", state),) if state else ())
        on = view.filter.states == ((state,) if state else ())
        url = address("/deliveries", pairs, view.order)
        result.append((state, url, on, count if plain else -1))
    return result


def _sorts(view: View) -> dict[str, tuple[str, str]]:
    """For each column: what a click on its head leads to, and how it is sorted."""
    found = {}
    for column in COLUMNS:
        by_it = view.sort.column == column
        down = column in pages_asked.DOWN_FIRST
        descending = not view.sort.descending if by_it else down
        order = pages_asked.order(Sort(column, descending))
        now = "descending" if view.sort.descending else "ascending"
        found[column] = address("/deliveries", view.pairs, order), now * by_it
    return found


def _neighbours(connection: Connection, delivery: Delivery) -> list[Delivery]:
    """The newest others of the same case."""
    if not delivery.case:
        return []
    same = reads.find(connection, Filter(case=delivery.case), NEIGHBOURS + 1)
    return [each for each in same if each.seq != delivery.seq]


def _next(known: Detail, viewer: Viewer, most: int) -> tuple[str, Optional[int]]:
    """What happens next, and at which time, if that is known."""
    each = known.delivery
    if each.state == DELIVERED:
        return viewer.t("next_delivered"), None
    if each.state != PENDING:
        return viewer.t(f"next_{each.state}", each.attempts), None
    if each.owner is not None:
        number = each.claimed or each.attempts + 1
        return viewer.t("next_under_way", number=number, edge=each.owner), None
    if known.body is None:
        return viewer.t("next_no_case"), None

    due = known.now if each.due is None else each.due
    number = each.attempts + 1
    values = {"number": number, "step": number - each.base, "most": most}
    if due > known.now:
        return viewer.t("next_due", **values, span=viewer.span(due - known.now)), due
    return viewer.t("next_late", **values, span=viewer.span(known.now - due)), None


def _curl(listen: str, delivery: Delivery) -> str:
    """The command that asks the sidecar for a retry."""
    body = json.dumps({"ids": [delivery.id], "output": [delivery.output]})
    url = f"http://{listen}/api/deliveries/retry"
    return (
        f"curl -X POST -H 'Content-Type: application/json' -d {shlex.quote(body)} {url}"
    )


def _csv(rows: object) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)  # type: ignore[arg-type]
    return text.getvalue().encode()
