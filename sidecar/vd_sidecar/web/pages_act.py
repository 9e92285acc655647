# Copyright (C) The ngx_vd_module authors
"""Acting on a page: first what would be done, then, confirmed, it is done."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING, Optional, Sequence

from aiohttp import web
from attrs import evolve, frozen
from multidict import MultiDict, MultiMapping
from sqlalchemy.engine import Connection

from ..acts import CANCEL, CHUNK, FORGET, RESEND, RETRY, Act, Result, leftovers
from ..acts import perform
from ..batch import rfc3339
from ..model import Delivery
from ..store import deliveries, reads
from ..store.reads import Filter
from . import pages_asked
from .acting import MOST, STATES_OF, Acting, DoneHere, logged
from .api import who
from .asked import ToDo, as_cursor, sort
from .guard import Refused
from .pages_asked import Pairs
from .pages_view import Renderer, Viewer, address, html, path_of
from .reading import Reads, in_daemon

if TYPE_CHECKING:
    from ..service import Service

ACTS = {act.name: act for act in (RETRY, RESEND, CANCEL, FORGET)}
SHOWN = 20  # deliveries of a preview
PICKED = 1000
TOLD = 200  # results that are kept for the page that tells them
LIFETIME_MS = 3_600_000  # of a token, twice


@frozen
class Asked:
    """An act, and the deliveries that it is for: those picked, or a filter's."""

    act: Act
    picked: tuple[int, ...]
    view: pages_asked.View
    filter: Optional[Filter]  # None if some are picked

    @property
    def pairs(self) -> Pairs:
        """As an address, or hidden fields, have it."""
        picked = [("pick", str(seq)) for seq in self.picked]
        if self.filter is None:
            picked.append(("scope", "picked"))
        after = self.view.after
        cursor = () if after is None else (("cursor", as_cursor(after)),)
        order = self.view.order
        return (("act", self.act.name), *picked, *self.view.pairs, *order, *cursor)


class ActPages:
    def __init__(self, service: "Service", reads_: Reads, renderer: Renderer) -> None:
        self._service = service
        self._reads = reads_
        self._render = renderer
        self._acting = Acting(service, reads_)
        self._secret = secrets.token_bytes(32)
        self._told: OrderedDict[str, tuple[Asked, DoneHere]] = OrderedDict()

    async def preview(
        self, request: web.Request, viewer: Viewer, stale: bool = False
    ) -> web.Response:
        """What an act would do; whoever confirms it means what is shown here."""
        told = request.query.get("done")
        if told is not None:
            return self._done(told, viewer)
        given = MultiDict(request.query)
        pairs = pages_asked.tidy(given, viewer)
        return await self._preview(
            request, viewer, MultiDict(pairs) if pairs is not None else given, stale
        )

    async def _preview(
        self,
        request: web.Request,
        viewer: Viewer,
        given: MultiMapping[str],
        stale: bool,
    ) -> web.Response:
        asked = _asked(given)
        forbidden = asked.act is FORGET and asked.filter == Filter()
        shown: list[Delivery] = []
        done = DoneHere(asked.act, True, each=False)
        if not forbidden:
            asked = _as_of_now(asked, viewer.now)
            done = await self._act(asked, viewer, "", dry_run=True)
            shown = await self._reads(lambda connection: _some(connection, asked))
        name = who(request)
        return html(
            self._render(
                "act.html",
                viewer,
                page="act",
                asked=asked,
                done=done,
                count=done.outputs.total(),
                shown=shown,
                back=_back(asked, shown),
                states=_implied(asked),
                forbidden=forbidden,
                stale=stale,
                most=MOST,
                who=name,
                token=self._token(name, viewer.now),
            )
        )

    async def perform(self, request: web.Request, viewer: Viewer) -> web.Response:
        """Do what a preview showed; then a page that tells what was done."""
        if request.content_type != "application/x-www-form-urlencoded":
            raise Refused("the form has another type", 415)
        form = MultiDict((k, str(v)) for k, v in (await request.post()).items())
        token = form.pop("token", "")
        name = who(request)
        if not self._fresh(str(token), name, viewer.now):
            return await self._preview(request, viewer, form, stale=True)

        asked = _asked(form)
        if asked.act is FORGET and asked.filter == Filter():
            raise Refused("not everything can be forgotten at once")
        done = await self._act(asked, viewer, name, dry_run=False)
        key = secrets.token_urlsafe(9)
        self._told[key] = (asked, done)
        while len(self._told) > TOLD:
            self._told.popitem(last=False)
        raise web.HTTPSeeOther(self._where(asked, done, key))

    def told(self, key: str, viewer: Viewer) -> Optional[str]:
        """What the page that an act leads to says of it."""
        if key not in self._told:
            return None
        asked, done = self._told[key]
        count = done.outputs.total()
        if count:
            return viewer.t(f"done_{asked.act.name}", count)
        return viewer.t("preview_none")

    def _done(self, key: str, viewer: Viewer) -> web.Response:
        if key not in self._told:
            raise web.HTTPSeeOther("/deliveries")
        asked, done = self._told[key]
        more = None
        if done.next is not None:
            rest = evolve(asked, view=evolve(asked.view, after=done.next))
            more = address("/act", rest.pairs)
        return html(
            self._render(
                "done.html",
                viewer,
                page="act",
                act=asked.act,
                done=done,
                text=self.told(key, viewer),
                more=more,
            )
        )

    def _where(self, asked: Asked, done: DoneHere, key: str) -> str:
        one = len(asked.picked) == 1 and len(done.named) == 1 and not done.refused
        if one and done.left is None:
            path = path_of(done.named[0].before)
            return address(path, [("done", key)])
        return address("/act", [("done", key)])

    async def _act(
        self, asked: Asked, viewer: Viewer, who: str, dry_run: bool
    ) -> DoneHere:
        if asked.filter is not None:
            todo = ToDo((), (), asked.filter, asked.view.after, dry_run)
            return await self._acting.act(asked.act, todo, who)

        done = DoneHere(asked.act, dry_run, each=True)
        store, config = self._service.store, self._service.config
        with logged(done, who):
            for start in range(0, len(asked.picked), CHUNK):
                chunk = asked.picked[start : start + CHUNK]

                def work(seqs: Sequence[int] = chunk) -> list[Result]:
                    return perform(store, config, asked.act, seqs, who, dry_run=dry_run)

                if dry_run:
                    done.add(await in_daemon(work))
                else:
                    done.add(await self._service.in_writer(work))
        if not dry_run:
            await self._acting.follow(done)
        if not dry_run and asked.act is FORGET:
            done.left = await in_daemon(lambda: leftovers(store, config, done.ids))
        return done

    def _token(self, name: str, now: int, back: int = 0) -> str:
        """Who has it got it from us, for themselves, an hour or two ago at most."""
        text = f"{now // LIFETIME_MS - back} {name}"
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()

    def _fresh(self, token: str, name: str, now: int) -> bool:
        return any(
            hmac.compare_digest(token.encode(), self._token(name, now, back).encode())
            for back in (0, 1)
        )


def _asked(given: MultiMapping[str]) -> Asked:
    act = ACTS.get(given.get("act", ""))
    if act is None:
        raise Refused(f'"act" must be one of {", ".join(ACTS)}')
    picks: list[str] = given.getall("pick", [])
    if len(picks) > PICKED or not all(p.isascii() and p.isdigit() for p in picks):
        raise Refused(f'"pick" must be numbers of deliveries, {PICKED} at most')
    if any(len(pick) > 18 for pick in picks):
        raise Refused('"pick" must be numbers of deliveries')
    view = pages_asked.view(_newest(given), ("act", "pick", "scope"))
    view = evolve(view, sort=sort(given.get("sort")))
    if picks and given.get("scope") != "all":
        return Asked(act, tuple(dict.fromkeys(map(int, picks))), view, None)
    if given.get("scope") == "picked":
        return Asked(act, (), view, None)
    filter = view.filter
    if not filter.states:
        filter = evolve(filter, states=STATES_OF.get(act.name, ()))
    return Asked(act, (), view, filter)


def _newest(given: MultiMapping[str]) -> MultiMapping[str]:
    """Acts are done to the newest first, however the list behind them is sorted."""
    return MultiDict((name, value) for name, value in given.items() if name != "sort")


def _as_of_now(asked: Asked, now: int) -> Asked:
    """What comes after the preview is not meant."""
    if asked.filter is None or asked.filter.until is not None:
        return asked
    pairs = (*asked.view.pairs, ("until", rfc3339(now + 1)))
    view = evolve(asked.view, pairs=pairs)
    return evolve(asked, view=view, filter=evolve(asked.filter, until=now + 1))


def _implied(asked: Asked) -> tuple[str, ...]:
    """The states that nobody named."""
    if asked.filter is None or asked.view.filter.states:
        return ()
    return asked.filter.states


def _some(connection: Connection, asked: Asked) -> list[Delivery]:
    if asked.filter is None:
        return deliveries.by_seqs(connection, asked.picked[:SHOWN])
    return reads.find(connection, asked.filter, SHOWN, asked.view.after)


def _back(asked: Asked, shown: list[Delivery]) -> str:
    if len(asked.picked) == 1 and len(shown) == 1:
        return path_of(shown[0])
    return address("/deliveries", asked.view.without("until"), asked.view.order)
