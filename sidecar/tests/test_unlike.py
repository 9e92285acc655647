# Copyright (C) The ngx_vd_module authors
"""Edges of one store that are configured otherwise, or whose records come in any order."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Callable, Iterator, TypeVar

import pytest
from attrs import evolve

from stored import NOON, delivered, given_up, one, record, take
from stores import KINDS, dump, open_store
from vd_sidecar import machine
from vd_sidecar.config import Callback, Config
from vd_sidecar.ingest import Ingest
from vd_sidecar.nginx import Refused
from vd_sidecar.retry import Retry
from vd_sidecar.store import Store, deliveries, schema

T = TypeVar("T")


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    two = open_store(request)
    yield two
    two.close()


def notices(store: Store) -> list[tuple[str, int]]:
    with store.reading() as connection:
        return [(n["kind"], n["due"]) for n in dump(connection, schema.notices)]


def test_an_alert_without_channels_swallows_no_other(
    store: Store, config: Config
) -> None:
    """Nor one by Slack what others hear of by mail."""
    loud = evolve(config, edge="b", alerts=evolve(config.alerts, email=("ops@a.de",)))
    slack = evolve(config.alerts, slack_webhook_file="/etc/vd/slack")
    take(store, config, given_up("one"))
    assert notices(store) == []
    take(store, loud, given_up("two"))
    take(store, loud, given_up("three"))
    take(store, evolve(config, edge="c", alerts=slack), given_up("four"))
    with store.reading() as connection:
        (alert,) = dump(connection, schema.alerts)
    assert alert["count"] == 4
    due = alert["due"]
    assert notices(store) == [("alert-mail", due), ("alert-slack", due)]


def test_the_lease_of_an_edge_that_waits_longer(store: Store, config: Config) -> None:
    take(store, config, [record("id")])
    with store.writing() as connection:
        now = store.now(connection)
        lease = machine.lease(evolve(config.retry, timeout=600.0))
        (claim,) = deliveries.claim(
            connection, "28", "b", now=now, scanned=now, lease=lease, limit=1
        )
    retry = Retry(store, config, None, None, None)  # type: ignore[arg-type]
    with store.writing() as connection:
        retry._correct(connection, store.now(connection))
    assert one(store, "id").due == claim.until


@pytest.mark.parametrize("first", [0, 1])
def test_what_the_app_has_not_heard_in_any_order(
    store: Store, config: Config, first: int
) -> None:
    """After a store went back, the edge that delivered may read its journal first."""
    config = evolve(config, callback=Callback("/callback"))
    told = [record("id"), delivered("id", attempt=2, time=NOON + 60_000)]
    take(store, config, [told[first]])
    take(store, config, [told[1 - first]])
    assert one(store, "id").state == "delivered"
    assert [kind for kind, _ in notices(store)] == ["callback"]


def test_a_look_that_takes_too_long(
    store: Store, config: Config, journal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease may be another's when it is over."""
    config = evolve(config, retry=evolve(config.retry, timeout=0.2))
    monkeypatch.setattr(machine, "JOURNAL_SECONDS", 0.1)
    take(store, config, [record("id")])
    made = []

    class Nginx:
        async def attempt(self, uri: str, content: Any, **about: Any) -> None:
            made.append(time.monotonic())
            raise Refused("as a test does")

    async def in_writer(function: Callable[[], T]) -> T:
        return function()

    async def work() -> float:
        ingest = Ingest(store, config)
        ingest.step()
        retry = Retry(store, config, ingest, Nginx(), in_writer)  # type: ignore
        quick = retry._ready

        def slow(claims: Any) -> Any:
            found = quick(claims)
            time.sleep(0.6)
            return found

        retry._ready = slow  # type: ignore
        began = time.monotonic()
        await retry.step()
        await asyncio.sleep(1.0)
        await retry.stop(0.1)
        return began

    asyncio.run(work())
    assert made == []
    assert one(store, "id").owner is None
