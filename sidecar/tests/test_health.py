# Copyright (C) The ngx_vd_module authors
"""/healthz: what is an error, what a warning, and that probes cost nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import pytest
from attrs import evolve
from sqlalchemy import event

from conftest import MakeSidecar
from journal_writer import Segment, failed
from postgres import Postgres
from processes import PATIENCE, children, wait_for
from rig import WORKERS
from served import Answer, Served
from smtp_server import Loop
from stored import change, one, record, take
from vd_sidecar.clock import steady
from vd_sidecar.config import Alerts, Config
from vd_sidecar.store import Store, deliveries, wall_clock
from vd_sidecar.web.health import check_journal, check_notices, check_retries
from vd_sidecar.web import health, reading
from vd_sidecar.web.reading import Away, Reads
from vd_sidecar.store.stats import NoticeStats, OutputStats, Stats

MINUTE = 60_000


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each probe looks for itself."""
    monkeypatch.setattr(reading, "FRESH_SECONDS", 0.0)


def levels(answer: Answer) -> dict[str, str]:
    return {name: check["status"] for name, check in answer.json["checks"].items()}


ALL = ("journal", "parts", "store", "retries", "refusals", "notices")
WELL = dict.fromkeys(ALL, "ok")


@pytest.mark.parametrize(
    "seconds, level", [(0.1, "ok"), (29.9, "ok"), (30.1, "error"), (3600, "error")]
)
def test_journal_that_is_not_read(seconds: float, level: str) -> None:
    assert check_journal(seconds).level == level


def stats(overdue: int = 0, unsent: int = 0) -> Stats:
    """The first of two outputs, or kinds, is always well."""
    return Stats(
        (OutputStats("1", "", {}, 0, 0), OutputStats("2", "", {}, 1, overdue)),
        (NoticeStats("backup", 0, 0), NoticeStats("callback", 1, unsent)),
    )


@pytest.mark.parametrize(
    "overdue, idle, level",
    [
        (0, 1e6, "ok"),
        (2 * MINUTE - 1, 1e6, "ok"),
        (2 * MINUTE, 119, "warning"),
        (2 * MINUTE, 121, "error"),
        (60 * MINUTE, 1, "warning"),
    ],
)
def test_overdue_retries(overdue: int, idle: float, level: str) -> None:
    check = check_retries(stats(overdue), idle)
    assert check.level == level
    assert level == "ok" or "output 2 " in check.text


def test_no_output_yet() -> None:
    assert check_retries(Stats((), ()), 1e6).level == "ok"


@pytest.mark.parametrize(
    "unsent, level", [(0, "ok"), (15 * MINUTE - 1, "ok"), (15 * MINUTE, "warning")]
)
def test_unsent_notices_are_no_error(unsent: int, level: str) -> None:
    check = check_notices(stats(unsent=unsent))
    assert check.level == level
    assert level == "ok" or "callback" in check.text


def test_running_sidecar_is_well(make_sidecar: MakeSidecar) -> None:
    sidecar = make_sidecar()
    sidecar.start()
    answer = sidecar.get("/healthz")
    assert answer.status == 200
    assert answer.json["status"] == "ok"
    assert {n: c["status"] for n, c in answer.json["checks"].items()} == WELL


def test_headers(config: Config) -> None:
    with Served(config) as served:
        head = served.ask("/healthz", "HEAD")
        assert (head.status, head.text) == (200, "")
        assert head.headers["Cache-Control"] == "no-store"
        assert served.ask("/healthz", "POST").status == 405


def test_stalled_journal_is_503(config: Config) -> None:
    with Served(config) as served:
        assert served.ask("/healthz").status == 200
        served.service.ingested -= 31
        answer = served.ask("/healthz")
        assert answer.status == 503
        assert answer.json["status"] == "error"
        assert levels(answer) == {**WELL, "journal": "error"}


def shut(journal: Path) -> Path:
    """A whole segment that only its owner may read, who is not us."""
    with Segment(journal) as segment:
        segment.write(failed("closed"))
    segment.path.chmod(0o400)
    if os.geteuid() == 0:
        shutil.chown(segment.path, WORKERS, WORKERS)
    return segment.path


def test_segments_that_nobody_lets_it_read(
    make_sidecar: MakeSidecar, journal: Path
) -> None:
    """503, and the command that mends it; again and again in the log; then it goes on."""
    path = shut(journal)
    journal.chmod(0o2777)
    user = "nobody" if os.geteuid() == 0 else None
    sidecar = make_sidecar(user=user, retention={"segments": "0"})
    if os.geteuid() != 0:
        path.chmod(0)
    sidecar.start()

    def refused() -> bool:
        checks = sidecar.get("/healthz").json["checks"]
        return bool(checks["journal"]["status"] == "error")

    wait_for(refused, "the error")
    answer = sidecar.get("/healthz")
    assert answer.status == 503
    text = answer.json["checks"]["journal"]["text"]
    assert "1 segments cannot be read" in text and str(path) in text
    assert "chgrp " in text and f"{journal}/*.jsonl" in text
    (line,) = [
        json.loads(each)
        for each in sidecar.log().splitlines()
        if "segments cannot be read" in each
    ]
    assert (line["count"], line["path"]) == (1, str(path))
    assert line["error"] == "Permission denied" and "-m 2770" in line["remedy"]

    path.chmod(0o444)
    wait_for(lambda: sidecar.get("/healthz").status == 200, "its recovery")
    wait_for(lambda: not path.exists(), "the segment to be taken and deleted")


@pytest.mark.usefixtures("eager")
def test_retries_in_a_store(
    config: Config, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = wall_clock()
    config = evolve(config, store=store_url)
    with Served(config) as served:
        store = served.store
        take(store, config, [record("old", time=now), record("late", time=now)])
        change(store, "old", due=now - 10 * MINUTE)
        answer = served.ask("/healthz")
        assert answer.status == 503, "nothing says that attempts are made"
        assert levels(answer) == {**WELL, "retries": "error"}
        assert answer.json["checks"]["retries"]["seconds"] == pytest.approx(600, abs=60)

        served.service.retry.answers += 1
        answer = served.ask("/healthz")
        assert answer.status == 200, "a backlog is being worked off"
        assert levels(answer) == {**WELL, "retries": "warning"}

        later(monkeypatch, 130)
        served.service.ingested += 130
        answer = served.ask("/healthz")
        assert answer.status == 503
        assert levels(answer) == {**WELL, "retries": "error"}

        served.service.retry.answers += 1
        assert levels(served.ask("/healthz")) == {**WELL, "retries": "warning"}

        with store.writing() as connection:
            assert deliveries.claim(
                connection, "28", "edge-2", now=now, scanned=0, lease=60, limit=1
            )
        assert levels(served.ask("/healthz")) == WELL, "another edge attempts it"

        change(store, "old", due=now - 3 * MINUTE)
        assert (
            levels(served.ask("/healthz"))["retries"] == "warning"
        ), "its lease ran out"

        change(store, "old", state="failed", due=None, owner=None)
        assert levels(served.ask("/healthz")) == WELL
        assert one(store, "late").due is not None


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """As /healthz sees it."""
    monkeypatch.setattr(health, "steady", lambda: steady() + seconds)


@pytest.mark.usefixtures("eager")
def test_notices_in_a_store(config: Config, store_url: str) -> None:
    config = evolve(config, store=store_url, alerts=Alerts(email=("ops@example.com",)))
    with Served(config) as served:
        store = served.store
        given_up = [
            record("a", attempt=n, time=wall_clock() - MINUTE) for n in (1, 2, 3)
        ]
        take(store, config, given_up)
        assert levels(served.ask("/healthz")) == WELL, "it is gathered for a moment"

        with store.writing() as connection:
            connection.exec_driver_sql("UPDATE notices SET tries = 3")
            connection.exec_driver_sql("UPDATE alerts SET due = due - 1200000")
        answer = served.ask("/healthz")
        assert answer.status == 200
        assert levels(answer) == {**WELL, "notices": "warning"}
        assert "alert-mail" in answer.json["checks"]["notices"]["text"]
        seconds = answer.json["checks"]["notices"]["seconds"]
        assert seconds == pytest.approx(1200, abs=60)


@contextmanager
def frozen(server: Postgres) -> Iterator[None]:
    """It takes connections, as the kernel does that for it, and never answers."""
    directory = Path(server.url("").rpartition("host=")[2].replace("%2F", "/"))
    master = int((directory / "data/postmaster.pid").read_text().split()[0])
    family = [master, *children(master)]
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in family:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.usefixtures("eager")
def test_store_that_hangs(config: Config) -> None:
    server = Postgres()
    try:
        url = server.create_database()
        with Served(evolve(config, store=url)) as served:
            assert served.ask("/healthz").status == 200
            with frozen(server):
                for _ in range(3):
                    answer = served.ask("/healthz")
                    assert answer.status == 503
                    assert levels(answer) == {
                        "journal": "ok",
                        "parts": "ok",
                        "store": "error",
                    }
                assert served.ask("/api/openapi.json").status == 200
            wait_for(lambda: levels(served.ask("/healthz")) == WELL, "its return")
    finally:
        server.remove()


@pytest.mark.usefixtures("eager")
def test_store_that_is_away(config: Config) -> None:
    server = Postgres()
    try:
        url = server.create_database()
        with Served(evolve(config, store=url)) as served:
            assert served.ask("/healthz").status == 200
            server.stop()
            answer = served.ask("/healthz")
            assert answer.status == 503
            assert "\n" not in answer.json["checks"]["store"]["text"]
            server.start()
            assert levels(served.ask("/healthz")) == WELL
    finally:
        server.remove()


def test_one_query_a_second(config: Config) -> None:
    asked: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if "tallies" in statement:
            asked.append(statement)

    with Served(config) as served:
        event.listen(served.store.engine, "before_cursor_execute", note)
        began = time.monotonic()

        def probe() -> bool:
            probes = [
                threading.Thread(target=served.ask, args=(path,))
                for path in ("/healthz", "/metrics", "/healthz", "/api/outputs")
            ]
            for each in probes:
                each.start()
            for each in probes:
                each.join()
            return len(asked) > 2

        wait_for(probe, "the third query")
        assert len(asked) <= 1 + time.monotonic() - began


def test_read_that_takes_too_long_is_ended(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the database itself, and its connection is whole after it."""
    store = Store(store_url)
    forever = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
        " SELECT count(*) FROM n"
    )
    loop = Loop()

    async def read(statement: str) -> Any:
        reads = Reads(store, at_once=1, seconds=0.3)
        return await reads(lambda each: each.exec_driver_sql(statement).scalar_one())

    monkeypatch.setattr(reading, "MARGIN_SECONDS", PATIENCE)
    try:
        store.migrate()
        with pytest.raises(Away, match="interrupted|statement timeout"):
            loop.run(read(forever))
        assert store.engine.pool.checkedout() == 0
        assert loop.run(read("SELECT 1")) == 1
    finally:
        loop.close()
        store.close()
