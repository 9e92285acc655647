# Copyright (C) The ngx_vd_module authors
"""A store that goes back in time: a replica takes over, a backup is put back.

What was acknowledged since is in the journal, and is read again from there; what the
journal knows to be delivered is not attempted again.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Iterator, Optional

import alembic.command
import pytest
from attrs import evolve
from sqlalchemy.exc import OperationalError

import vd_sidecar.ingest
from conftest import MakeSidecar
from edge import Edge, View, started
from journal_writer import Segment, accepted, delivered, failed
from postgres import Postgres
from processes import wait_for
from receiver import Receiver
from stores import KINDS, dump, open_store
from test_ingest import consistent, drain, known, rows
from test_outages import LOCATIONS, Load, check_load
from vd_sidecar import acts
from vd_sidecar.config import Config, Retention
from vd_sidecar.ingest import Ingest
from vd_sidecar.store import Store, deliveries, edges, schema
from vd_sidecar.store.engine import _alembic

HOUR = Retention(segments=3600.0)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as one:
        yield one


# ---- the whole, with nginx ----


def back_up(path: Path) -> Path:
    """A consistent copy of a SQLite store that is in use."""
    copy = path.with_suffix(".copy")
    source, target = sqlite3.connect(path), sqlite3.connect(copy)
    source.backup(target)
    source.close()
    target.close()
    return copy


def put_back(path: Path, copy: Path) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    os.replace(copy, path)


def go_on(load: Load, edge: Edge) -> None:
    """So long that segments end, retries are made, and cases are given up."""
    load.wait(60)
    seen = len(edge.receiver.requests())
    wait_for(lambda: len(edge.receiver.requests()) > seen + 20, "retries")


@pytest.mark.parametrize("how", ["under it", "while it is stopped"])
def test_sqlite(
    stack: ExitStack, receiver: Receiver, sqlite_url: str, directory: Path, how: str
) -> None:
    path = directory / "vd.db"
    edge = started(stack, receiver, sqlite_url, *LOCATIONS, segment="8k")
    load = Load(edge)
    load.start()
    try:
        go_on(load, edge)
        copy = back_up(path)
        go_on(load, edge)
        if how == "under it":
            edge.sidecar.pause()
            put_back(path, copy)
            edge.sidecar.resume()
            wait_for(lambda: "gone back in time" in edge.sidecar.log(), "it to notice")
        else:
            edge.sidecar.stop()
            put_back(path, copy)
            edge.sidecar.start()
        go_on(load, edge)
    finally:
        load.stopping = True
        load.join()
    check_load(edge, load)


def test_postgresql(stack: ExitStack, receiver: Receiver) -> None:
    """As an asynchronous replica that takes over, ten seconds behind."""
    postgres = Postgres()
    stack.callback(postgres.remove)
    url = postgres.create_database()
    edge = started(stack, receiver, url, *LOCATIONS, segment="8k")
    load = Load(edge)
    load.start()
    try:
        go_on(load, edge)
        postgres.back_up()
        went = time.monotonic()
        go_on(load, edge)
        load.wait(max(0, round((10 - (time.monotonic() - went)) / 0.05)))
        postgres.put_back()
        load.wait(20)
        postgres.start()
        wait_for(lambda: "gone back in time" in edge.sidecar.log(), "it to notice")
        go_on(load, edge)
        health = edge.sidecar.get("/healthz").json
        assert health["checks"]["store"]["status"] == "warning"
        assert "gone back in time" in health["checks"]["store"]["text"]
    finally:
        load.stopping = True
        load.join()
    check_load(edge, load)


# ---- each part by itself ----


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    one = open_store(request)
    yield one
    one.close()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vd_sidecar.ingest, "LOCK_SECONDS", -1.0)
    monkeypatch.setattr(vd_sidecar.ingest, "LOOK_SECONDS", -1.0)


class Past:
    """What a store holds now, to be put back."""

    def __init__(self, store: Store) -> None:
        self._store = store
        if store.sqlite:
            self._copy = back_up(Path(store.url.database or ""))
            return
        tables = [
            each
            for each in schema.metadata.tables.values()
            if each is not schema.writer
        ]
        with store.reading() as connection:
            self._rows = {table: dump(connection, table) for table in tables}

    def put_back(self) -> None:
        if self._store.sqlite:
            put_back(Path(self._store.url.database or ""), self._copy)
            return
        with self._store.writing() as connection:
            for table, found in self._rows.items():
                connection.execute(table.delete())
                if found:
                    connection.execute(table.insert(), found)


def may_claim(store: Store, ingest: Ingest) -> bool:
    with store.reading() as connection:
        return ingest.may_claim(connection, store.now(connection))


def test_a_segment_whose_position_went_back(
    store: Store, config: Config, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction that would go on from there sees it by itself."""
    monkeypatch.setattr(vd_sidecar.ingest, "LOOK_SECONDS", 3600.0)
    ingest = Ingest(store, evolve(config, retention=HOUR))
    with Segment(journal) as segment:
        segment.write(failed("a"), accepted("b"))
        drain(ingest)
        past = Past(store)
        segment.write(delivered("a", attempt=2), failed("c"))
        drain(ingest)
        past.put_back()
        assert set(known(store)) == {"a", "b"}
        segment.write(failed("d"))
        drain(ingest)
    assert set(known(store)) == {"a", "b", "c", "d"}
    assert known(store)["a"].state == "delivered"
    assert ingest.went_back is not None
    consistent(store)


def test_segments_of_which_nothing_is_known_any_more(
    store: Store, config: Config, journal: Path
) -> None:
    """They were read to the end, and nothing is written any more."""
    ingest = Ingest(store, evolve(config, retention=HOUR))
    drain(ingest)
    past = Past(store)
    for id in "abc":
        with Segment(journal) as segment:
            segment.write(failed(id))
    drain(ingest)
    assert len(rows(store, schema.segments)) == 3
    past.put_back()
    assert known(store) == {} and rows(store, schema.segments) == []
    drain(ingest)
    assert set(known(store)) == {"a", "b", "c"}
    consistent(store)


def test_an_empty_store(store: Store, config: Config, journal: Path) -> None:
    """A backup from before the first start."""
    past = Past(store)
    ingest = Ingest(store, evolve(config, retention=HOUR))
    with Segment(journal) as segment:
        segment.write(failed("a"))
    drain(ingest)
    past.put_back()
    drain(ingest)
    assert set(known(store)) == {"a"}


def test_nothing_is_claimed_until_the_journal_was_read_again(
    store: Store, config: Config, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is due in the store was delivered, as the rest of the journal tells."""
    ingest = Ingest(store, evolve(config, retention=HOUR))
    assert not may_claim(store, ingest)
    many = [failed(f"a-{number}") for number in range(50)]
    more = [delivered(f"a-{number}", attempt=2) for number in range(50)]
    with Segment(journal) as segment:
        segment.write(*many)
        drain(ingest)
        past = Past(store)
        segment.write(*more)
        drain(ingest)
        assert may_claim(store, ingest)
        past.put_back()
        assert not may_claim(store, ingest), "before it could notice"

        monkeypatch.setattr(vd_sidecar.ingest, "LINES", 10)
        monkeypatch.setattr(vd_sidecar.ingest, "CHUNK", 1000)
        allowed = []
        for _ in range(100):
            ingest.step()
            states = [each.state for each in known(store).values()]
            allowed.append((may_claim(store, ingest), states.count("pending")))
            if allowed[-1][0]:
                break
    assert len(allowed) > 5
    assert [pending for yes, pending in allowed if yes] == [0]


def test_other_edges_are_asked_and_waited_for(
    store: Store, config: Config, journal: Path, directory: Path
) -> None:
    (directory / "other").mkdir()
    keep = evolve(config, retention=HOUR)
    other = evolve(keep, journal=str(directory / "other"), edge="edge-2")
    one, two = Ingest(store, keep), Ingest(store, other)
    with Segment(journal) as here, Segment(directory / "other") as there:
        here.write(failed("a"))
        for each in (one, two, one, two):
            drain(each)
        past = Past(store)
        there.write(delivered("a", attempt=2))
        drain(two)
        assert may_claim(store, one) and may_claim(store, two)
        past.put_back()

        drain(one)
        assert known(store)["a"].state == "pending"
        assert not may_claim(store, one), "the other has not read its journal again"
        drain(two)
        assert known(store)["a"].state == "delivered"
        for each in (one, two, one, two):
            assert may_claim(store, each)
            drain(each)
        assert one.went_back is not None and two.went_back is not None


def test_an_edge_that_is_gone_is_not_waited_for(
    store: Store, config: Config, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Ingest(store, config)
    drain(one)
    past = Past(store)
    with store.writing() as connection:
        edges.begin(connection, "gone", 7, 0, None)
    past = Past(store)
    with Segment(journal) as segment:
        segment.write(failed("a"))
        drain(one)
    past.put_back()
    drain(one)
    assert not may_claim(store, one)
    monkeypatch.setattr(vd_sidecar.ingest, "HOLD_SECONDS", 0.01)
    time.sleep(0.02)
    assert may_claim(store, one)


def test_a_commit_of_which_nobody_knows_is_no_journey_in_time(
    store: Store, config: Config, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to a commit was lost, it was made all the same."""
    ingest = Ingest(store, config)
    drain(ingest)
    with Segment(journal) as segment:
        segment.write(failed("a"))
    honest = store.engine.dialect.do_commit

    def commit(connection: Any) -> None:
        honest(connection)
        raise OperationalError("COMMIT", {}, Exception("connection lost"))

    with monkeypatch.context() as patch:
        patch.setattr(store.engine.dialect, "do_commit", commit)
        with pytest.raises(OperationalError):
            ingest.step()
    drain(ingest)
    assert set(known(store)) == {"a"} and ingest.went_back is None
    assert len(rows(store, schema.exchanges)) == 1


def test_a_claim_is_of_its_delivery_not_of_a_number(
    store: Store, config: Config, journal: Path
) -> None:
    """Numbers are given out again by a store that went back."""
    ingest = Ingest(store, evolve(config, retention=HOUR))
    drain(ingest)
    past = Past(store)

    def claim() -> Any:
        with store.writing() as connection:
            now = store.now(connection)
            return deliveries.claim(
                connection, "28", "edge-1", now=now, scanned=now, lease=60.0, limit=5
            )

    with Segment(journal) as segment:
        segment.write(accepted("lost"))
    drain(ingest)
    [old] = claim()
    segment.path.unlink()
    past.put_back()
    with Segment(journal) as segment:
        segment.write(accepted("new"))
    drain(ingest)
    [new] = claim()
    assert (new.seq, new.fence) == (old.seq, old.fence)
    with store.reading() as connection:
        now = store.now(connection)
        assert deliveries.held(connection, old, now) is None
        assert deliveries.held(connection, new, now) is not None


def test_a_clock_that_was_ahead_keeps_no_segment_for_ever(
    store: Store, config: Config, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = evolve(config, retention=HOUR)
    ahead = time.time() + 400 * 86400
    with monkeypatch.context() as patch:
        patch.setattr(vd_sidecar.ingest, "wall_clock", lambda: int(ahead * 1000))
        with Segment(journal) as segment:
            segment.write(failed("a"))
        ingest = Ingest(store, keep)
        drain(ingest)
    assert segment.path.exists()
    later = time.time() + 3700
    monkeypatch.setattr(time, "time", lambda: later)
    drain(ingest)
    assert not segment.path.exists()


@pytest.mark.parametrize("act", [acts.CANCEL, acts.FORGET], ids=["cancel", "forget"])
def test_an_act_that_was_lost_is_noticed(
    store: Store, config: Config, journal: Path, act: acts.Act
) -> None:
    """It is in no journal: somebody must do it again, and hear of that."""
    ingest = Ingest(store, evolve(config, retention=HOUR))
    with Segment(journal) as segment:
        segment.write(accepted("a"))
        drain(ingest)
        past = Past(store)
        acts.perform(store, config, act, [known(store)["a"].seq], "me")
        drain(ingest)
        assert known(store)["a"].state == "cancelled" and ingest.went_back is None
        past.put_back()
        drain(ingest)
    assert known(store)["a"].state == "pending"
    assert ingest.went_back is not None


@pytest.mark.parametrize("revision", ["0001", "0003", None])
def test_a_store_of_an_older_program_under_this_one(
    make_sidecar: MakeSidecar,
    sqlite_url: str,
    journal: Path,
    directory: Path,
    revision: Optional[str],
) -> None:
    """A backup from before an upgrade, or none: the file is gone."""
    path, copy = directory / "vd.db", directory / "old.db"
    old = Store(f"sqlite:///{copy}")
    with old.engine.connect() as connection:
        if revision is not None:
            alembic.command.upgrade(_alembic(connection), revision)
            connection.commit()
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    old.close()
    sidecar = make_sidecar(
        journal=str(journal), store=sqlite_url, nginx="http://127.0.0.1:1"
    )
    sidecar.start()
    with Segment(journal) as segment:
        segment.write(failed("a"))
        with ExitStack() as stack:
            view = View(sqlite_url)
            stack.callback(view.close)
            view.wait("pending", "a")
        put_back(path, copy)
        segment.write(failed("b"))
        wait_for(lambda: "goes on again" in sidecar.log(), "its schema")
        with ExitStack() as stack:
            view = View(sqlite_url)
            stack.callback(view.close)
            view.wait("pending", "a", "b")

    def well() -> bool:
        checks = sidecar.get("/healthz").json["checks"]
        return bool(checks["parts"]["status"] == "ok")

    wait_for(well, "all parts to go on")
