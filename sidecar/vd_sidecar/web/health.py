# Copyright (C) The ngx_vd_module authors
"""``/healthz``: whether the sidecar does its work, for probes and people."""

from __future__ import annotations

import os
import time
from math import inf
from typing import TYPE_CHECKING, Mapping, Optional, Union

from aiohttp import web
from attrs import frozen

from .. import __version__
from ..clock import steady
from ..findings import ERROR, OK, WARNING, mend_journal
from ..ingest import Ingest
from ..store.stats import NoticeStats, OutputStats, Stats
from .reading import Away, Snapshot

if TYPE_CHECKING:
    from ..service import Service

STALL_SECONDS = 30.0
OVERDUE_SECONDS = 120.0
UNDELIVERED_SECONDS = 900.0
WENT_BACK_SECONDS = 86400.0  # for as long it is told
LEVELS = (OK, WARNING, ERROR)


@frozen
class Check:
    """``seconds``: for how long it has been so, where that can be told."""

    name: str
    level: str  # of LEVELS
    text: str
    seconds: Optional[float] = None


class Health:
    """Judges a service; what it remembers is when nginx last answered an attempt."""

    def __init__(self, service: "Service", snapshot: Snapshot) -> None:
        self._service = service
        self._snapshot = snapshot
        self._answers = 0
        self._answered: Optional[float] = None

    async def handle(self, request: web.Request) -> web.Response:
        """200 unless a check is an error, then 503; warnings are for alerts."""
        checks = await self.checks()
        worst = max((check.level for check in checks), key=LEVELS.index)
        return web.json_response(
            {
                "status": worst,
                "version": __version__,
                "checks": {check.name: _json(check) for check in checks},
            },
            status=503 if worst == ERROR else 200,
        )

    async def checks(self) -> list[Check]:
        ingest = self._service.ingest
        stalled = steady() - self._service.ingested
        checks = [
            check_journal(stalled, closed(ingest)),
            check_parts(self._service.troubles.now),
        ]
        try:
            stats = await self._snapshot.get()
        except Away as error:
            return [*checks, Check("store", ERROR, f"the store is away: {error}")]
        return [
            *checks,
            check_store(self._service.ingest.went_back),
            check_retries(stats, self._idle()),
            check_refusals(stats),
            check_notices(stats, self._service.notify.left),
        ]

    def _idle(self) -> float:
        """Seconds since nginx answered an attempt, as far as anybody looked.

        Infinite if it never did: then nothing says that a backlog shrinks.
        """
        answers = self._service.retry.answers
        if answers != self._answers:
            self._answers = answers
            self._answered = steady()
        return inf if self._answered is None else steady() - self._answered


@frozen
class Closed:
    """Segments that the sidecar may not use as it has to."""

    verb: str  # "read" or "deleted"
    count: int
    path: str  # of one of them
    why: str

    @property
    def remedy(self) -> str:
        return mend_journal(os.path.dirname(self.path))


def closed(ingest: Ingest) -> Optional[Closed]:
    """Those that cannot be read, which is worse, or deleted."""
    for verb, found in (
        ("read", ingest.unreadable),
        ("deleted", ingest.undeletable),
    ):
        if found:
            path, why = next(iter(found.items()))
            return Closed(verb, len(found), path, why)
    return None


def check_journal(seconds: float, closed: Optional[Closed] = None) -> Check:
    """``seconds``: since the journal was last read, to its end or not."""
    if closed is not None:
        text = (
            f"{closed.count} segments cannot be {closed.verb}, such as {closed.path}: "
            f"{closed.why}; as root: {closed.remedy}"
        )
        return Check("journal", ERROR, text, seconds)
    if seconds < STALL_SECONDS:
        return Check("journal", OK, "the journal is being read", seconds)
    text = f"the journal has not been read for {seconds:.0f} s"
    return Check("journal", ERROR, text, seconds)


def check_parts(troubles: Mapping[str, str]) -> Check:
    """``troubles``: what cannot go on, and why."""
    if not troubles:
        return Check("parts", OK, "all parts are at work")
    text = "; ".join(f"{what}: {why}" for what, why in troubles.items())
    return Check("parts", ERROR, f"cannot go on: {text}")


def check_store(went_back: Optional[float]) -> Check:
    """``went_back``: when the store did, Unix seconds."""
    seconds = inf if went_back is None else time.time() - went_back
    if not 0 <= seconds < WENT_BACK_SECONDS:
        return Check("store", OK, "the store answers")
    text = (
        f"the store has gone back in time, {seconds:.0f} s ago: what the journal holds"
        " was read again, what operators did is lost"
    )
    return Check("store", WARNING, text, seconds)


def check_retries(stats: Stats, idle: float) -> Check:
    """``idle``: seconds without an answer; with one, a backlog is being worked off."""
    worst = max(stats.outputs, key=_overdue, default=None)
    seconds = worst.overdue / 1000 if worst else 0.0
    if worst is None or seconds < OVERDUE_SECONDS:
        return Check("retries", OK, "no retry is overdue", seconds)

    text = f"the oldest retry of output {worst.output} is overdue by {seconds:.0f} s"
    if idle < OVERDUE_SECONDS:
        return Check("retries", WARNING, text + ", but attempts are made", seconds)
    return Check("retries", ERROR, text + ", and no attempts are made", seconds)


def check_refusals(stats: Stats) -> Check:
    """Whether nginx makes the attempts that it is asked for."""
    worst = max(stats.outputs, key=lambda each: each.refused_for, default=None)
    if worst is None or not worst.refused:
        return Check("refusals", OK, "nginx refuses no attempt")
    seconds = worst.refused_for / 1000
    text = (
        f"nginx makes no attempt of {worst.refused} deliveries of output "
        f"{worst.output}: vd-sidecar show, or the page, has what it says"
    )
    return Check("refusals", WARNING, text, seconds)


def check_notices(stats: Stats, left: Mapping[str, int] = {}) -> Check:
    """Never an error: it is the mail server, Slack or the app that is not well.

    ``left``: of each kind, how many wait for another edge than this one.
    """
    worst = max(stats.notices, key=_overdue, default=None)
    seconds = worst.overdue / 1000 if worst else 0.0
    if worst is None or seconds < UNDELIVERED_SECONDS:
        return Check("notices", OK, "alerts, mails and callbacks are sent", seconds)
    text = f"the oldest {worst.kind} has waited for {seconds:.0f} s"
    if left.get(worst.kind):
        text += "; some wait for an edge whose configuration says whereto to send them"
    return Check("notices", WARNING, text, seconds)


def _overdue(waiting: Union[OutputStats, NoticeStats]) -> int:
    return waiting.overdue


def _json(check: Check) -> dict[str, object]:
    seconds = None if check.seconds is None else round(check.seconds, 3)
    return {"status": check.level, "text": check.text, "seconds": seconds}
