# Copyright (C) The ngx_vd_module authors
"""The overview: how each output is doing, and what wants a human."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Iterable, Optional, Sequence

from aiohttp import web
from attrs import frozen
from sqlalchemy.engine import Connection

from ..clock import steady
from ..model import FAILED, PENDING
from ..store import rates
from ..store.rates import HALF_HOUR, MINUTE, Rate
from ..store.stats import OutputStats, Stats
from .guard import Refused
from .health import OVERDUE_SECONDS, STALL_SECONDS, UNDELIVERED_SECONDS, closed
from .pages_view import Renderer, Viewer, address, html
from .reading import Reads, Snapshot

if TYPE_CHECKING:
    from ..service import Service

FAILING_MS = 15 * MINUTE  # in which more attempts failed than were delivered
FAILING_LEAST = 3


@frozen
class Range:
    """A span of time that is looked at: ``bars`` of ``width`` ms."""

    width: int
    bars: int
    source: int  # the span of the rates it is read from


RANGES = {
    "hour": Range(MINUTE, 60, MINUTE),
    "day": Range(HALF_HOUR, 48, HALF_HOUR),
    "week": Range(6 * HALF_HOUR, 56, HALF_HOUR),
}
WIDTH, HEIGHT = 720, 120  # of the chart, without its scale


@frozen
class Bar:
    """In the chart's units; ``title`` says what it stands for."""

    x: float
    width: float
    delivered: float
    failed: float
    title: str


@frozen
class Chart:
    bars: tuple[Bar, ...]
    marks: tuple[tuple[float, str], ...]
    most: int
    delivered: int
    failed: int


@frozen
class Row:
    """An output."""

    stats: OutputStats
    success: Optional[float]
    median: Optional[float]
    p95: Optional[float]
    last: Optional[int]
    failing: bool


@frozen
class Warned:
    """What a banner says, and where to look."""

    text: str
    link: Optional[str] = None
    command: Optional[str] = None  # that mends it


class OverviewPage:
    def __init__(
        self, service: "Service", snapshot: Snapshot, reads: Reads, renderer: Renderer
    ) -> None:
        self._service = service
        self._snapshot = snapshot
        self._reads = reads
        self._render = renderer

    async def show(self, request: web.Request, viewer: Viewer) -> web.Response:
        name = request.query.get("range", "hour")
        if name not in RANGES:
            raise Refused(f'"range" must be one of {", ".join(RANGES)}')
        stats = await self._snapshot.get()

        def read(connection: Connection) -> str:
            range_ = RANGES[name]
            now = self._service.store.now(connection)
            first = now - now % range_.width - (range_.bars - 1) * range_.width
            found = rates.read(connection, range_.source, first, range_.width)
            recent = rates.read(connection, MINUTE, now - FAILING_MS, 60 * MINUTE)
            last = rates.last_delivered(connection)
            rows = _rows(stats, found, recent, last)
            return self._render(
                "overview.html",
                viewer,
                page="overview",
                range=name,
                ranges=tuple(RANGES),
                chart=_chart(found, range_, first, viewer),
                size=(WIDTH, HEIGHT),
                rows=rows,
                total=[sum(r.stats.states[s] for r in rows) for s in _states(stats)],
                warned=self._warned(rows, stats, recent, viewer),
                lag=self._lag() * 1000,
                unread=self._service.ingest.unread,
            )

        return html(await self._reads(read))

    def _lag(self) -> float:
        """Seconds; all records that are older are in the store."""
        ingest = self._service.ingest
        lag = steady() - ingest.scanned
        if ingest.oldest is not None:
            lag = max(lag, time.time() - ingest.oldest)
        return max(lag, 0.0)

    def _warned(
        self,
        rows: Sequence[Row],
        stats: Stats,
        recent: Iterable[Rate],
        viewer: Viewer,
    ) -> list[Warned]:
        found = []
        counts = _sums(recent)
        for row in rows:
            output = row.stats.output
            if row.failing:
                delivered, failed = counts[output]
                text = viewer.t(
                    "failing",
                    output=_name(row.stats),
                    delivered=viewer.number(delivered),
                    failed=viewer.number(failed),
                )
                found.append(Warned(text, _failing(row.stats)))
            if row.stats.overdue > OVERDUE_SECONDS * 1000:
                text = viewer.t(
                    "overdue",
                    output=_name(row.stats),
                    span=viewer.span(row.stats.overdue),
                )
                pairs = [("output", output), ("state", PENDING)]
                found.append(Warned(text, address("/deliveries", pairs)))
        stalled = steady() - self._service.ingested
        if stalled > STALL_SECONDS:
            text = viewer.t("journal_stalled", span=viewer.span(stalled * 1000))
            found.append(Warned(text))
        shut = closed(self._service.ingest)
        if shut is not None:
            text = viewer.t(
                f"journal_not_{shut.verb}", shut.count, path=shut.path, why=shut.why
            )
            found.append(Warned(text, command=shut.remedy))
        waits = max((each.overdue for each in stats.notices), default=0)
        if waits > UNDELIVERED_SECONDS * 1000:
            text = viewer.t("notices_stalled", span=viewer.span(waits))
            found.append(Warned(text))
        return found


def _states(stats: Stats) -> list[str]:
    return list(stats.outputs[0].states) if stats.outputs else []


def _failing(stats: OutputStats) -> str:
    """The address of what failed: given up, to be retried, or delivered by now."""
    pairs = [("output", stats.output)]
    states = [("state", each) for each in (FAILED, PENDING) if stats.states[each]]
    return address("/deliveries", pairs, states or [("sort", "-attempts")])


def _name(stats: OutputStats) -> str:
    return f"{stats.output} ({stats.label})" if stats.label else stats.output


def _sums(found: Iterable[Rate]) -> dict[str, tuple[int, int]]:
    sums: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for each in found:
        delivered, failed = sums[each.output]
        sums[each.output] = (delivered + each.delivered, failed + each.failed)
    return sums


def _rows(
    stats: Stats, found: Sequence[Rate], recent: Sequence[Rate], last: dict[str, int]
) -> list[Row]:
    sums = _sums(found)
    now = _sums(recent)
    durations: dict[str, list[int]] = {}
    for each in found:
        known = durations.get(each.output, [0] * len(each.durations))
        durations[each.output] = [a + b for a, b in zip(known, each.durations)]

    rows = []
    for output in stats.outputs:
        delivered, failed = sums[output.output]
        good, bad = now[output.output]
        took = durations.get(output.output, [])
        rows.append(
            Row(
                stats=output,
                success=(
                    delivered / (delivered + failed) if delivered + failed else None
                ),
                median=rates.quantile(took, 0.5),
                p95=rates.quantile(took, 0.95),
                last=last.get(output.output),
                failing=bad >= FAILING_LEAST and bad > good,
            )
        )
    return rows


def _chart(found: Sequence[Rate], range_: Range, first: int, viewer: Viewer) -> Chart:
    counts = {first + n * range_.width: [0, 0] for n in range(range_.bars)}
    for each in found:
        if each.start in counts:
            counts[each.start][0] += each.delivered
            counts[each.start][1] += each.failed
    most = max(sum(pair) for pair in counts.values())
    scale = HEIGHT / most if most else 0.0
    step = WIDTH / range_.bars
    dated = range_.width > 30 * MINUTE

    bars = []
    marks = []
    for index, (start, (delivered, failed)) in enumerate(counts.items()):
        if index % (range_.bars // 6) == 0:
            text = viewer.day(start)[5:] if dated else viewer.clock(start, False)
            marks.append((round(index * step, 1), text))
        if not delivered and not failed:
            continue
        title = viewer.t(
            "chart_bar",
            time=viewer.clock(start, dated),
            delivered=viewer.number(delivered),
            failed=viewer.number(failed),
        )
        bar = Bar(
            x=round(index * step + 1, 1),
            width=round(step - 2, 1),
            delivered=round(delivered * scale, 1),
            failed=round(max(failed * scale, 2.0) if failed else 0.0, 1),
            title=title,
        )
        bars.append(bar)
    return Chart(
        bars=tuple(bars),
        marks=tuple(marks),
        most=most,
        delivered=sum(each.delivered for each in found),
        failed=sum(each.failed for each in found),
    )
