# Copyright (C) The ngx_vd_module authors
"""Where a person's data can be, and how long: the README's table, line by line."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any, Callable, Iterator, TypeVar

import pytest
from attrs import evolve
from sqlalchemy import select

from edge import RETRY
from conftest import StartEdge
from journal_writer import Segment, delivered, failed
from receiver import Receiver
from served import Served
from stores import KINDS, START, Clock, dump, open_store
from test_ingest import take as ingest
from vd_sidecar import acts, retention
from vd_sidecar.config import Backup, Callback, Config, Retention
from vd_sidecar.store import Store, schema

DAY = 86_400_000
SECRET = "Maxine Mustermann"
BODY = f'{{"caller": "{SECRET}"}}'.encode()
T = TypeVar("T")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Store]:
    """Both kinds go by ``clock``: PostgreSQL's own cannot be set."""
    one = open_store(request, clock)
    setattr(one, "now", lambda connection: clock())
    yield one
    one.close()


async def in_writer(function: Callable[[], T]) -> T:
    return function()


def expire(store: Store, config: Config) -> None:
    asyncio.run(retention.step(store, config.retention, in_writer))


def fill(store: Store, config: Config, journal: Path, time: int) -> None:
    with Segment(journal) as segment:
        more: dict[str, Any] = {"time": time, "response": SECRET, "case": SECRET}
        segment.write(
            failed("failed", body=BODY, **more),
            failed("failed", attempt=2, **more),
            failed("failed", attempt=3, **more),
            delivered("delivered", **more),
            failed("pending", body=BODY, **more),
        )
        segment.raw(b'{"v":1,"id":"failed","caller":"%s"}\n' % SECRET.encode())
        segment.raw(b'{"v":1,"broken":"%s\n' % SECRET.encode())
        segment.records += 2
    ingest(store, config)


def holding(store: Store) -> set[str]:
    """The tables and columns in which the name is."""
    found = set()
    with store.reading() as connection:
        for table in schema.metadata.tables.values():
            for row in dump(connection, table):
                for name, value in row.items():
                    text = (
                        bytes(value)
                        if isinstance(value, (bytes, memoryview))
                        else (str(value).encode())
                    )
                    if SECRET.encode() in text:
                        found.add(f"{table.name}.{name}")
    return found


@pytest.fixture
def full(config: Config) -> Config:
    return evolve(
        config,
        backup=Backup(email=("a@example.com",), when="failed"),
        callback=Callback("/callback"),
    )


EVERYWHERE = {
    "bodies.body",
    "deliveries.case",
    "exchanges.response",
    "notices.payload",
    "rejects.line",
}


def test_bodies_replies_and_lines_expire(
    store: Store, full: Config, journal: Path, clock: Clock
) -> None:
    """After retention.bodies; of what was never kept with a body, too."""
    fill(store, full, journal, START - 1000)
    assert holding(store) == EVERYWHERE
    clock.now = START + 29 * DAY
    expire(store, full)
    assert holding(store) == EVERYWHERE

    clock.now = START + 31 * DAY
    expire(store, full)
    assert "rejects.line" not in holding(store)
    with store.reading() as connection:
        exchanges = dump(connection, schema.exchanges)
        rows = dump(connection, schema.deliveries)
        bodies = dump(connection, schema.bodies)
    pending = next(row["seq"] for row in rows if row["state"] == "pending")
    assert [each["delivery"] for each in bodies] == [pending]
    assert {e["delivery"] for e in exchanges if e["response"]} == {pending}

    clock.now = START + 366 * DAY
    expire(store, full)
    with store.reading() as connection:
        assert [row["id"] for row in dump(connection, schema.deliveries)] == ["pending"]
    assert holding(store) == EVERYWHERE - {"rejects.line", "notices.payload"}


def test_forget_leaves_nothing_of_it(store: Store, full: Config, journal: Path) -> None:
    fill(store, full, journal, START - 1000)
    with store.reading() as connection:
        seqs = list(connection.execute(select(schema.deliveries.c.seq)).scalars())
    acts.perform(store, full, acts.FORGET, seqs, "test")
    assert holding(store) == {"rejects.line"}  # that without an id, until it expires
    with store.reading() as connection:
        lines = [bytes(row["line"]) for row in dump(connection, schema.rejects)]
    assert lines == [b"", b'{"v":1,"broken":"%s' % SECRET.encode()]

    acts.scrub(store)
    if store.sqlite:
        path = Path(store.url.database or "")
        with sqlite3.connect(path) as connection_:
            connection_.execute("UPDATE rejects SET line = ''")
        connection_.close()
        acts.scrub(store)
        for each in path.parent.glob(path.name + "*"):
            assert SECRET.encode() not in each.read_bytes(), each


def test_forget_by_filter_names_the_segments(config: Config, journal: Path) -> None:
    """As forget by id does."""
    keep = evolve(config, retention=Retention(segments=3600.0))
    with Segment(journal) as other:
        other.write(failed("innocent", output="30"))
    with Segment(journal) as segment:
        segment.write(failed("a"), failed("b"))
    with Served(keep) as served:
        ingest(served.store, keep)
        asked: Any
        for asked in ({"filter": {"output": "28"}}, {"ids": ["a"]}):
            answer = served.post("/api/deliveries/forget", asked)
            assert answer.status == 200
            paths = [each["path"] for each in answer.json["segments"]]
            assert paths == [str(segment.path)]


def test_its_log_names_no_case(sqlite_edge: StartEdge, receiver: Receiver) -> None:
    edge = sqlite_edge("28", retry={**RETRY, "attempts": 1})
    receiver.script(503, id="logged")
    edge.nginx.post("28", {"caller": SECRET}, key="logged", case="Mustermann-1")
    edge.view.wait("failed", "logged")
    assert edge.sidecar.stop() == 0
    assert "given up" in edge.sidecar.log()
    assert "Mustermann" not in edge.sidecar.log()
