# Copyright (C) The ngx_vd_module authors
"""Records and rows of a clock that was wrong: each place that uses their time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Iterator

import pytest
from attrs import evolve
from sqlalchemy import func, select, update

import vd_sidecar.ingest
from journal_writer import Segment, accepted, failed, now
from receiver import Receiver
from conftest import StartEdge
from stored import one, record, take
from stores import KINDS, open_store
from test_ingest import drain, known
from vd_sidecar import machine
from vd_sidecar.config import Config, Retry
from vd_sidecar.ingest import Ingest
from vd_sidecar.store import Store, deliveries, rates, schema

DAY = 86_400_000
AHEAD, BEHIND = 400 * DAY, -400 * DAY


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    two = open_store(request)
    yield two
    two.close()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vd_sidecar.ingest, "LOCK_SECONDS", -1.0)


def spans(store: Store) -> dict[int, int]:
    """How many attempts are counted of each span."""
    table = schema.rates
    query = select(table.c.span, func.sum(table.c.failed)).group_by(table.c.span)
    with store.reading() as connection:
        return {span: int(count) for span, count in connection.execute(query)}


def test_a_clock_ahead_leaves_the_rates_as_they_are(
    store: Store, config: Config
) -> None:
    take(store, config, [record(f"r-{n}", time=now() - 60_000) for n in range(5)])
    take(store, config, [record("ahead", time=now() + AHEAD)])
    take(store, config, [record("after", time=now())])
    assert spans(store) == {span: 7 for span in rates.KEPT}
    with store.reading() as connection:
        latest = connection.execute(select(func.max(schema.rates.c.last_failed)))
        assert latest.scalar_one() <= now() + 1000


def test_a_clock_behind_counts_as_long_ago(store: Store, config: Config) -> None:
    take(
        store, config, [record("now", time=now()), record("then", time=now() + BEHIND)]
    )
    assert set(spans(store).values()) == {1}


@pytest.mark.parametrize("kind", ["accepted", "failed"])
@pytest.mark.parametrize("shift", [AHEAD, -3_600_000, BEHIND])
def test_the_app_s_repeat_of_what_was_given_up(
    store: Store, config: Config, journal: Path, kind: str, shift: int
) -> None:
    """It heard 202, so the case is attempted again, whatever the clock said."""
    config = evolve(config, retry=Retry(attempts=2))
    ingest = Ingest(store, config)
    first = accepted if kind == "accepted" else failed
    with Segment(journal) as segment:
        segment.write(first("a"))
        segment.write(failed("a", time=now() + 1), failed("a", attempt=2))
        drain(ingest)
        assert known(store)["a"].state == "failed"
        segment.write(first("a", time=now() + shift))
        drain(ingest)
    again = known(store)["a"]
    assert (again.state, again.base) == ("pending", 2)
    assert again.due is not None and again.due <= now() + 61_000 * 1.1


def test_a_first_record_that_is_read_late_is_no_repeat(
    store: Store, config: Config, journal: Path
) -> None:
    ingest = Ingest(store, evolve(config, retry=Retry(attempts=3)))
    with Segment(journal) as segment:
        segment.write(failed("a", attempt=2), failed("a", attempt=3))
        drain(ingest)
        assert known(store)["a"].state == "failed"
        segment.write(failed("a", time=now() - 1000))
        drain(ingest)
    assert known(store)["a"].state == "failed"


@pytest.mark.parametrize("shift", [AHEAD, 0, -3_600_000, BEHIND])
def test_an_attempt_s_rest_is_counted_from_its_end(shift: int) -> None:
    """Else an edge whose clock is behind uses up all attempts within a moment."""
    held = machine.begin(record("a", outcome="accepted"), 1, now())
    held = held._replace(owner="e", claimed=1, due=now() + 100_000, fence=1)
    time_ = now()
    after = machine.apply(
        held,
        record("a", time=time_ + shift),
        Retry(jitter=0.0),
        seq=1,
        edge="e",
        now=time_,
        spread=0.0,
    )
    assert after.due == time_ + 60_000


def test_a_pending_case_of_long_ago_is_kept(store: Store, config: Config) -> None:
    take(store, config, [record("old", time=now() + BEHIND)])
    with store.writing() as connection:
        assert deliveries.delete_bodies(connection, now() - 30 * DAY, 100) == 0
        assert deliveries.delete_replies(connection, now() - 30 * DAY, 100) == 0
        assert deliveries.delete_old(connection, now() - 365 * DAY, 100) == 0
    assert one(store, "old").state == "pending"


def test_what_ended_long_ago_is_kept_from_when_it_was_read(
    store: Store, config: Config
) -> None:
    """A clock was behind, or a journal was away for long; the app heard of it now."""
    long_ago = now() + BEHIND
    config = evolve(config, retry=Retry(attempts=1))
    gone = record("failed", time=long_ago, response="{}")
    good = record("done", outcome="delivered", time=long_ago, response="{}")
    take(store, config, [gone, good])

    def delete(after: int) -> list[int]:
        moment = now() + after
        with store.writing() as connection:
            return [
                deliveries.delete_bodies(connection, moment - 30 * DAY, 100),
                deliveries.delete_replies(connection, moment - 30 * DAY, 100),
                deliveries.delete_old(connection, moment - 365 * DAY, 100),
            ]

    assert delete(29 * DAY) == [0, 0, 0]
    assert delete(31 * DAY) == [1, 1, 0]
    assert delete(366 * DAY) == [0, 0, 2]


def test_a_notice_that_was_put_off_by_a_clock_ahead(
    sqlite_edge: StartEdge, receiver: Receiver
) -> None:
    smtp = {"host": "127.0.0.1", "port": 1, "security": "none", "from": "a@b.example"}
    backup = {"email": ["c@example.com"], "when": "failed"}
    edge = sqlite_edge("28", smtp=smtp, backup=backup, retry={"attempts": 1})
    edge.fail("28", "late")
    edge.view.wait("failed", "late")
    edge.sidecar.stop()
    store = Store(edge.sidecar.store)
    with store.writing() as connection:
        ahead = now() + AHEAD
        connection.execute(update(schema.notices).values(due=ahead))
    store.close()
    edge.sidecar.start()
    end = time.monotonic() + 60
    while (edge.view.notices("backup")[0].due or 0) > now() + 2 * 3_600_000:
        assert time.monotonic() < end
        time.sleep(0.1)
