# Copyright (C) The ngx_vd_module authors
"""``/metrics``: what Prometheus is told, in its text format.

Labels come from the configuration, from the outputs that ever had a delivery,
and from closed sets; every series is there from the start.  While the store is
away, what only it knows is absent rather than old.
"""

from __future__ import annotations

import platform
import time
from typing import TYPE_CHECKING, Iterable, Iterator, Mapping, Optional

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .. import __version__
from ..clock import steady
from ..model import DELIVERED, FAILED, STATES
from ..store.stats import KINDS, MOST, OutputStats, Stats
from .reading import Away, Snapshot

if TYPE_CHECKING:
    from ..service import Service

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "vd_sidecar_"
OUTCOMES = (DELIVERED, FAILED, "refused", "lost", "not_sent")

Samples = Iterable[tuple[tuple[str, ...], float]]  # values of the labels, the value


class Metrics:
    """The metrics of a service."""

    def __init__(self, service: "Service", snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._families = _Families(service)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self._families)
        ProcessCollector(registry=self._registry)

    async def handle(self, request: web.Request) -> web.Response:
        """200, whether or not the store answers."""
        try:
            stats = await self._snapshot.get()
        except Away:
            stats = None
        self._families.stats = stats
        text = generate_latest(self._registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})


class _Families(Collector):
    """Makes the metrics anew for each scrape, so that none has a time of creation."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self.stats: Optional[Stats] = None

    def collect(self) -> Iterator[Metric]:
        yield _gauge(
            "build_info",
            "Always 1; the versions of the sidecar and of Python.",
            [((__version__, platform.python_version()), 1)],
            ("version", "python"),
        )
        yield _gauge(
            "store_up", "Whether the store answers.", [((), self.stats is not None)]
        )
        yield from self._journal()
        yield from self._attempts()
        yield from self._sent()
        if self.stats is not None:
            yield from self._outputs(self.stats)
            yield from self._waiting(self.stats)

    def _journal(self) -> Iterator[Metric]:
        ingest = self._service.ingest
        now = time.time()
        lag = steady() - ingest.scanned
        if ingest.oldest is not None:
            lag = max(lag, now - ingest.oldest)

        yield _gauge(
            "journal_lag_bytes",
            "What nginx had written and the store did not have, at the last look.",
            [((), ingest.unread)],
        )
        yield _gauge(
            "journal_lag_seconds",
            "All records that are older than this are in the store.",
            [((), max(lag, 0.0))],
        )
        yield _gauge(
            "journal_last_read_timestamp_seconds",
            "Unix time at which the journal was last read and stored.",
            [((), now - (steady() - self._service.ingested))],
        )
        yield _gauge(
            "journal_segments",
            "Files in the journal's directory.",
            [((), ingest.segments)],
        )
        yield _counter(
            "journal_records_total",
            "Records that were taken from the journal.",
            [((), ingest.records)],
        )
        yield _counter(
            "journal_rejects_total",
            "Lines of the journal that were set aside, as they cannot be taken.",
            [((), ingest.rejects)],
        )

    def _attempts(self) -> Iterator[Metric]:
        retry = self._service.retry
        yield _counter(
            "attempts_total",
            "Attempts that were made through nginx: delivered, failed, "
            "refused (nginx made none), lost (no answer was heard), "
            "not_sent (nginx did not take them).",
            _each(OUTCOMES, retry.outcomes),
            ("outcome",),
        )
        yield _gauge("in_flight", "Attempts under way.", [((), retry.in_flight)])
        yield _gauge(
            "claims",
            "Deliveries that are this sidecar's to attempt, under way or waiting.",
            [((), retry.claims)],
        )

    def _sent(self) -> Iterator[Metric]:
        notify = self._service.notify
        yield _counter(
            "notices_sent_total",
            "Alerts, mails and callbacks that were sent.",
            _each(KINDS, notify.sent),
            ("kind",),
        )
        yield _counter(
            "notices_failed_total",
            "Tries to send one that were in vain; each is tried again.",
            _each(KINDS, notify.failed),
            ("kind",),
        )

    def _outputs(self, stats: Stats) -> Iterator[Metric]:
        outputs = [*stats.outputs, *self._unused(stats)]
        yield _gauge(
            "output_info",
            "Always 1; the label of each output.",
            [((each.output, each.label), 1) for each in outputs],
            ("output", "label"),
        )
        yield _gauge(
            "deliveries",
            "Deliveries in the store.",
            [
                ((each.output, state), each.states[state])
                for each in outputs
                for state in STATES
            ],
            ("output", "state"),
        )
        yield _gauge(
            "due",
            f"Deliveries to be attempted now, not under way; counted up to {MOST}.",
            [((each.output,), each.due) for each in outputs],
            ("output",),
        )
        yield _gauge(
            "oldest_due_age_seconds",
            "For how long the oldest of those has been due, 0 if there is none.",
            [((each.output,), each.overdue / 1000) for each in outputs],
            ("output",),
        )

    def _unused(self, stats: Stats) -> Iterator[OutputStats]:
        """Outputs that are configured and had no delivery yet."""
        known = {each.output for each in stats.outputs}
        for output in sorted(set(self._service.config.outputs) - known):
            yield OutputStats(output, "", dict.fromkeys(STATES, 0), 0, 0)

    def _waiting(self, stats: Stats) -> Iterator[Metric]:
        yield _gauge(
            "notices_waiting",
            "Alerts, mails and callbacks that are due, or were tried in vain; "
            f"counted up to {MOST}.",
            [((each.kind,), each.waiting) for each in stats.notices],
            ("kind",),
        )
        yield _gauge(
            "notices_oldest_age_seconds",
            "For how long the oldest of those should have been sent, "
            "0 if there is none.",
            [((each.kind,), each.overdue / 1000) for each in stats.notices],
            ("kind",),
        )


def _each(keys: Iterable[str], counts: Mapping[str, int]) -> Samples:
    return [((key,), counts.get(key, 0)) for key in keys]


def _gauge(
    name: str, help: str, samples: Samples, labels: tuple[str, ...] = ()
) -> Metric:
    return _filled(GaugeMetricFamily(PREFIX + name, help, labels=labels), samples)


def _counter(
    name: str, help: str, samples: Samples, labels: tuple[str, ...] = ()
) -> Metric:
    return _filled(CounterMetricFamily(PREFIX + name, help, labels=labels), samples)


def _filled(
    family: "GaugeMetricFamily | CounterMetricFamily", samples: Samples
) -> Metric:
    for values, value in samples:
        family.add_metric(values, float(value))
    return family
