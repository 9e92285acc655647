# Copyright (C) The ngx_vd_module authors
"""From real files into the store: each record once, and nothing lost."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import string
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Optional

import psycopg2
import pytest
from attrs import evolve
from sqlalchemy import event, select
from sqlalchemy.exc import DatabaseError as SQLAlchemyDatabaseError
from sqlalchemy.exc import InternalError, OperationalError, SQLAlchemyError
from structlog.testing import capture_logs

import vd_sidecar.batch
import vd_sidecar.ingest
import vd_sidecar.journal
from journal_writer import (
    Segment,
    accepted,
    checked,
    delivered,
    failed,
    fill,
    many,
    now,
    records,
    timestamp,
    uuid7,
)
from postgres import Postgres
from processes import Failed
from stores import KINDS, dump, open_store
from vd_sidecar import acts
from vd_sidecar.config import Alerts, Config, Output, Retention, Retry
from vd_sidecar.ingest import Ingest, Progress
from vd_sidecar.model import Delivery, Reject
from vd_sidecar.store import Store, deliveries, schema, segments

ALERTS = Alerts(email=("ops@example.com",))


class Crash(BaseException):
    """The process is gone."""


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    one = open_store(request)
    yield one
    one.close()


@pytest.fixture
def settings(config: Config) -> Config:
    return evolve(config, alerts=ALERTS)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent segment's lock is tried in each step."""
    monkeypatch.setattr(vd_sidecar.ingest, "LOCK_SECONDS", -1.0)


def drain(ingest: Ingest, most: int = 100) -> list[Progress]:
    """Steps until there is no more to do."""
    steps = []
    for _ in range(most):
        progress = ingest.step()
        steps.append(progress)
        if not progress.more and not progress.records:
            return steps
    raise Failed(f"there is more to do after {most} steps")


def take(store: Store, config: Config) -> Ingest:
    """All that the journal holds, as a process that has just started does."""
    ingest = Ingest(store, config)
    drain(ingest)
    return ingest


def known(store: Store) -> dict[str, Delivery]:
    with store.reading() as connection:
        rows = connection.execute(select(*schema.deliveries.columns))
        found = [deliveries.delivery(row) for row in rows]
    for each in found:
        if each.output == "28":
            assert sum(1 for other in found if other.id == each.id) == 1
    return {each.id: each for each in found}


def rows(store: Store, table: Any) -> list[dict[str, Any]]:
    with store.reading() as connection:
        return dump(connection, table)


def rejected(store: Store) -> list[Reject]:
    with store.reading() as connection:
        return segments.rejects(connection)


def consistent(store: Store) -> None:
    """What must hold whatever was taken."""
    found = rows(store, schema.deliveries)
    counts: dict[str, dict[str, int]] = {}
    for each in found:
        states = counts.setdefault(each["output"], {})
        states[each["state"]] = states.get(each["state"], 0) + 1
        assert (each["due"] is not None) == (each["state"] == "pending")
    for row in rows(store, schema.tallies):
        for state in ("delivered", "pending", "failed", "cancelled"):
            assert row[state] == counts.get(row["output"], {}).get(state, 0)
    assert set(counts) == {row["output"] for row in rows(store, schema.tallies)}
    numbers = {each["seq"] for each in found}
    assert {each["delivery"] for each in rows(store, schema.exchanges)} == numbers
    assert {each["delivery"] for each in rows(store, schema.bodies)} <= numbers


# Whole lines


def test_a_journal_is_taken_and_deleted(
    store: Store, settings: Config, journal: Path
) -> None:
    with Segment(journal) as segment:
        segment.write(failed("a", body=b"x"), delivered("b"), accepted("c"))
    ingest = Ingest(store, settings)
    [first, *_] = drain(ingest)

    assert (first.records, first.more, first.settled) == (3, False, set())
    assert {each.id for each in first.changed} == {"a", "b", "c"}
    states = {id: each.state for id, each in known(store).items()}
    assert states == {"a": "pending", "b": "delivered", "c": "pending"}
    assert list(journal.iterdir()) == []
    assert (ingest.records, ingest.rejects, ingest.unread) == (3, 0, 0)
    with store.reading() as connection:
        assert deliveries.body(connection, known(store)["a"].seq) == b"x"
    consistent(store)


def test_an_empty_journal(store: Store, settings: Config) -> None:
    assert Ingest(store, settings).step() == Progress(0, False, [], set())


def test_a_half_line_is_taken_when_it_is_whole(
    store: Store, settings: Config, journal: Path
) -> None:
    text = failed("a")
    ingest = Ingest(store, settings)
    with Segment(journal) as segment:
        drain(ingest)
        for at in range(0, len(text), 40):
            segment.raw(text[at : at + 40])
            taken = ingest.step().records
            assert taken == (at + 40 >= len(text))
        segment.records += 1
    drain(ingest)
    assert set(known(store)) == {"a"}
    assert rejected(store) == []
    assert list(journal.iterdir()) == []


def test_a_torn_line_at_the_end_of_a_dead_segment(
    store: Store, settings: Config, journal: Path
) -> None:
    segment = Segment(journal)
    segment.write(failed("a"))
    segment.raw(failed("b")[:-1])
    ingest = take(store, settings)
    assert segment.path.exists()
    segment.crash()
    drain(ingest)
    assert set(known(store)) == {"a"}
    assert rejected(store) == []
    assert not segment.path.exists()


def test_the_last_line_is_read_after_the_lock_was_seen_free(
    store: Store, settings: Config, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer writes and dies between the look at its file and at its lock."""
    segment = Segment(journal)
    segment.write(failed("a"))
    ingest = take(store, settings)
    honest = vd_sidecar.journal.writer_gone

    def late(path: str) -> bool:
        monkeypatch.setattr(vd_sidecar.journal, "writer_gone", honest)
        segment.write(failed("b"))
        segment.crash()
        return honest(path)

    monkeypatch.setattr(vd_sidecar.journal, "writer_gone", late)
    ingest.step()
    assert segment.path.exists()
    drain(ingest)
    assert set(known(store)) == {"a", "b"}
    assert not segment.path.exists()


def test_a_segment_without_anything(
    store: Store, settings: Config, journal: Path
) -> None:
    segment = Segment(journal, header=False)
    ingest = take(store, settings)
    assert segment.path.exists()
    segment.crash()
    drain(ingest)
    assert not segment.path.exists()


def test_a_writer_in_another_process(
    store: Store, settings: Config, journal: Path
) -> None:
    script = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path; from journal_writer import *\n"
        "s = Segment(Path(sys.argv[1])); s.write(failed('a')); print(flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, journal, Path(__file__).parent],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        ingest = take(store, settings)
        assert set(known(store)) == {"a"}
        assert len(list(journal.iterdir())) == 1
        process.kill()
        process.wait()
    drain(ingest)
    assert list(journal.iterdir()) == []


def test_an_ended_segment_need_not_be_unlocked(
    store: Store, settings: Config, journal: Path
) -> None:
    segment = Segment(journal)
    segment.write(failed("a"))
    segment.raw(f'{{"v":1,"end":"{segment.uuid}","records":1}}\n'.encode())
    take(store, settings)
    assert not segment.path.exists()
    segment.crash()


# Once


def test_the_same_record_twice(store: Store, settings: Config, journal: Path) -> None:
    text = failed("a")
    with Segment(journal) as segment:
        segment.write(text, text)
    with Segment(journal) as segment:
        segment.write(text)
    ingest = take(store, settings)
    with Segment(journal) as segment:
        segment.write(text)
    drain(ingest)
    assert ingest.records == 1
    assert known(store)["a"].attempts == 1
    assert len(rows(store, schema.exchanges)) == 1
    consistent(store)


def test_the_app_repeats(store: Store, settings: Config, journal: Path) -> None:
    with Segment(journal) as segment:
        began = now()
        segment.write(*(failed("a", time=began - number) for number in range(5)))
    take(store, settings)
    after = known(store)["a"]
    assert (after.state, after.attempts) == ("pending", 1)
    assert len(rows(store, schema.exchanges)) == 5


def test_records_of_one_delivery_in_the_segments_of_two_workers(
    store: Store, settings: Config, journal: Path
) -> None:
    ingest = Ingest(store, settings)
    with Segment(journal) as one, Segment(journal) as two:
        one.write(failed("a"))
        drain(ingest)
        two.write(failed("a", attempt=2), failed("b"))
        drain(ingest)
        one.write(failed("a", attempt=3), delivered("b", attempt=2))
        drain(ingest)
    drain(ingest)
    states = {id: (each.state, each.attempts) for id, each in known(store).items()}
    assert states == {"a": ("failed", 3), "b": ("delivered", 2)}
    assert len(rows(store, schema.alerts)) == 1
    consistent(store)


def test_the_same_id_at_two_outputs(
    store: Store, settings: Config, journal: Path
) -> None:
    with Segment(journal) as segment:
        segment.write(failed("a", "1"), delivered("a", "2"), failed("a", "1", time=1))
    take(store, settings)
    found = {each["output"]: each["state"] for each in rows(store, schema.deliveries)}
    assert found == {"1": "pending", "2": "delivered"}
    consistent(store)


@contextmanager
def crash_at(store: Store, statement: int) -> Iterator[list[int]]:
    """The process dies before this statement, the commit included, is run."""
    left = [statement]

    def count(*arguments: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Crash

    honest = store.engine.dialect.do_commit

    def commit(connection: Any) -> None:
        count()
        honest(connection)

    event.listen(store.engine, "before_cursor_execute", count)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store.engine.dialect, "do_commit", commit)
            yield left
    finally:
        event.remove(store.engine, "before_cursor_execute", count)


def test_a_crash_at_every_statement(
    store: Store, settings: Config, journal: Path
) -> None:
    """A round is some new segments, and a crash at the next statement of a step."""
    config = evolve(
        settings,
        retry=Retry(attempts=2),
        backup=evolve(settings.backup, email=("a@example.com",), when="failed"),
        callback=evolve(settings.callback, location="/callback"),
    )
    rounds = 0
    while True:
        with Segment(journal) as segment:
            segment.write(
                failed(f"failed-{rounds}"),
                failed(f"failed-{rounds}", attempt=2),
                delivered(f"delivered-{rounds}", output="29"),
            )
            segment.raw(b"bad\n")
            segment.records += 1
            segment.write(accepted(f"accepted-{rounds}"))
        with Segment(journal) as segment:
            if rounds:
                segment.write(failed(f"late-{rounds - 1}", attempt=2))
            segment.write(failed(f"late-{rounds}"))

        rounds += 1
        with crash_at(store, rounds - 1) as left:
            try:
                take(store, config)
            except Crash:
                store.engine.dispose()
        if left[0] >= 0:
            break
        assert rounds < 100
    assert rounds > 10

    take(store, config)
    found = known(store)
    assert len(found) == 4 * rounds
    for number in range(rounds):
        last = number == rounds - 1
        assert found[f"failed-{number}"].state == "failed"
        assert found[f"delivered-{number}"].state == "delivered"
        assert found[f"accepted-{number}"].state == "pending"
        assert found[f"late-{number}"].state == ("pending" if last else "failed")

    assert len(rejected(store)) == rounds
    assert len({(each.segment, each.offset) for each in rejected(store)}) == rounds
    assert list(journal.iterdir()) == []

    ends = 2 * rounds - 1
    assert sum(each["count"] for each in rows(store, schema.alerts)) == ends + rounds
    kinds = [each["kind"] for each in rows(store, schema.notices)]
    assert (kinds.count("backup"), kinds.count("callback")) == (ends, ends)
    assert len(rows(store, schema.exchanges)) == 6 * rounds - 1
    consistent(store)


def test_a_crash_after_the_commit(
    store: Store, settings: Config, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Segment(journal) as segment:
        segment.write(failed("a"), failed("b"))

    def crash(*arguments: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Ingest, "_clean", crash)
        with pytest.raises(Crash):
            take(store, settings)
    assert segment.path.exists()
    ingest = take(store, settings)
    assert ingest.records == 0
    assert set(known(store)) == {"a", "b"}
    assert not segment.path.exists()


def test_a_step_that_fails_is_tried_again_by_the_same_process(
    store: Store, settings: Config, journal: Path
) -> None:
    ingest = Ingest(store, settings)
    for number in range(1, 30):
        with Segment(journal) as segment:
            segment.write(failed(f"a-{number}"), failed(f"b-{number}", attempt=3))
        with crash_at(store, number) as left:
            try:
                drain(ingest)
            except Crash:
                pass
        drain(ingest)
        if left[0] >= 0:
            break
    assert number > 5
    assert len(known(store)) == 2 * number
    assert len(rows(store, schema.exchanges)) == 2 * number
    consistent(store)


# Bad lines


def test_a_bad_line_stops_nobody(store: Store, settings: Config, journal: Path) -> None:
    bad = [
        b"\0" * 512,
        b"\xff\xfe",
        failed("x")[:-2] + b"X",
        b"",
        b'{"v":2,"segment":"x","pid":1}',
        b'{"v":1,"segment":"\\ud800\\u0000","pid":1}',
        b"[" * 100_000,
    ]
    with Segment(journal) as segment:
        for number, text in enumerate(bad):
            segment.write(failed(f"a-{number}"), text + b"\n")
        segment.write(failed("last"))
    ingest = take(store, settings)

    assert len(known(store)) == len(bad) + 1
    found = rejected(store)
    assert sorted(each.line for each in found) == sorted(bad)
    assert all(each.why and each.segment == segment.uuid for each in found)
    [alert] = rows(store, schema.alerts)
    assert (alert["kind"], alert["count"], alert["output"]) == ("journal", len(bad), "")
    [notice] = rows(store, schema.notices)
    assert (notice["kind"], notice["alert"]) == ("alert-mail", alert["seq"])
    assert ingest.rejects == len(bad)
    assert not segment.path.exists()
    consistent(store)


def test_offsets_of_bad_lines(store: Store, settings: Config, journal: Path) -> None:
    with Segment(journal) as segment:
        at = segment.size
        segment.write(b"bad\n", failed("a"))
        end = segment.size
        segment.write(b"worse\n")
    take(store, settings)
    assert {(each.offset, each.line) for each in rejected(store)} == {
        (at, b"bad"),
        (end, b"worse"),
    }


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_end_that_counts_wrong(
    store: Store, settings: Config, journal: Path, count: int
) -> None:
    segment = Segment(journal)
    segment.write(failed("a"), failed("b"))
    segment.end(records=count)
    take(store, settings)
    assert set(known(store)) == {"a", "b"}
    [reject] = rejected(store)
    assert str(count) in reject.why
    assert len(rows(store, schema.alerts)) == 1
    assert not segment.path.exists()


def test_a_damaged_line_counts_in_the_end(
    store: Store, settings: Config, journal: Path
) -> None:
    with Segment(journal) as segment:
        segment.write(failed("a"), b"X" + failed("b")[1:])
    take(store, settings)
    assert len(rejected(store)) == 1


def test_a_segment_of_another_name(
    store: Store, settings: Config, journal: Path
) -> None:
    with Segment(journal) as segment:
        segment.write(failed("a"))
    segment.path.rename(journal / f"{uuid7()}.jsonl")
    take(store, settings)
    assert set(known(store)) == {"a"}
    assert len(rejected(store)) == 2
    assert all("another segment" in each.why for each in rejected(store))


def test_an_end_of_another_segment_ends_nothing(
    store: Store, settings: Config, journal: Path
) -> None:
    with Segment(journal) as segment:
        segment.raw(f'{{"v":1,"end":"{uuid7()}","records":0}}\n'.encode())
        segment.records += 1
        segment.write(failed("a"))
    take(store, settings)
    assert set(known(store)) == {"a"}


def test_a_first_line_that_is_not_the_first(
    store: Store, settings: Config, journal: Path
) -> None:
    with Segment(journal) as segment:
        header = f'{{"v":1,"segment":"{segment.uuid}","pid":1,"opened":"x"}}\n'
        segment.write(header.encode(), failed("a"))
    take(store, settings)
    assert set(known(store)) == {"a"}
    assert len(rejected(store)) == 1


# What the store will not have


def incompressible(length: int) -> str:
    chosen = random.Random(1).choices(string.ascii_letters + string.digits, k=length)
    return "".join(chosen)


def test_a_very_long_case_or_ticket_id(
    store: Store, settings: Config, journal: Path
) -> None:
    """PostgreSQL indexes no more than 2,700 bytes; any client may send 8,000."""
    with Segment(journal) as segment:
        segment.write(failed("a"), failed("b", case=incompressible(8000)))
        segment.write(delivered("c", ticket_id=incompressible(4096)), failed("d"))
        segment.write(failed("e" * 128, output="o" * 64, case="\U0001f600" * 2000))
    with Segment(journal) as segment:
        segment.write(failed("z"))
    take(store, settings)
    assert set(known(store)) == {"a", "b", "c", "d", "e" * 128, "z"}
    assert known(store)["c"].state == "delivered"
    assert list(journal.iterdir()) == []


def test_a_record_that_the_store_refuses(
    store: Store, settings: Config, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its line is set aside, and all that stood around it is taken."""
    honest = deliveries.add

    def add(connection: Any, new: Any) -> None:
        for each in new:
            if each.id == "poison":
                connection.exec_driver_sql("INSERT INTO deliveries (seq) VALUES (NULL)")
        honest(connection, new)

    monkeypatch.setattr(deliveries, "add", add)
    with Segment(journal) as segment:
        segment.write(failed("a"), failed("poison"), failed("b"))
        segment.write(failed("a", attempt=2), b"bad\n")
    with Segment(journal) as segment:
        segment.write(failed("c"), failed("poison", time=1))
    ingest = take(store, settings)

    assert set(known(store)) == {"a", "b", "c"}
    assert known(store)["a"].attempts == 2
    assert sorted(b"poison" in each.line for each in rejected(store)) == [0, 1, 1]
    assert list(journal.iterdir()) == []
    assert ingest.records == 4
    consistent(store)


@pytest.mark.parametrize("error", [ValueError, TypeError, OverflowError])
def test_a_record_that_the_program_cannot_tell_of(
    store: Store,
    settings: Config,
    journal: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
) -> None:
    honest = vd_sidecar.batch.outcome

    def outcome(delivery: Delivery) -> str:
        if delivery.id == "poison":
            raise error("no")
        return honest(delivery)

    monkeypatch.setattr(vd_sidecar.batch, "outcome", outcome)
    config = evolve(
        settings,
        retry=Retry(attempts=1),
        callback=evolve(settings.callback, location="/callback"),
    )
    with Segment(journal) as segment:
        segment.write(failed("a"), failed("poison"), failed("b"))
    take(store, config)
    assert set(known(store)) == {"a", "b"}
    assert len(rejected(store)) == 1
    consistent(store)


def test_no_content_in_the_log(
    store: Store,
    settings: Config,
    journal: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def add(connection: Any, new: Any) -> None:
        if new:
            row = {"seq": None, "id": "a", "uri": "geheim"}
            connection.execute(schema.deliveries.insert(), [row])

    monkeypatch.setattr(deliveries, "add", add)
    with Segment(journal) as segment:
        segment.write(failed("a", case="geheim"))
    take(store, settings)
    assert len(rejected(store)) == 1
    assert "geheim" not in rejected(store)[0].why
    printed = capfd.readouterr()
    assert "geheim" not in printed.out + printed.err


# Segments


def test_a_segment_that_is_cut_back_below_what_was_taken(
    store: Store, settings: Config, journal: Path
) -> None:
    segment = Segment(journal)
    segment.write(failed("a"))
    size = segment.size
    segment.write(failed("b"), failed("c"))
    ingest = take(store, settings)
    segment.cut(size)
    drain(ingest)
    assert segment.path.exists()
    segment.crash()
    with Segment(journal) as other:
        other.write(failed("b", time=now() + 1))
    drain(ingest)
    assert list(journal.iterdir()) == []
    assert set(known(store)) == {"a", "b", "c"}
    assert known(store)["b"].attempts == 1


def test_finished_segments_may_be_kept(
    store: Store, settings: Config, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = evolve(settings, retention=Retention(segments=3600.0))
    with Segment(journal) as segment:
        segment.write(failed("a"))
    ingest = take(store, config)
    drain(ingest)
    assert segment.path.exists()
    assert take(store, config).records == 0
    assert segment.path.exists()

    later = time.time() + 3601
    monkeypatch.setattr(time, "time", lambda: later)
    drain(ingest)
    assert not segment.path.exists()
    assert len(rows(store, schema.exchanges)) == 1


def test_hidden_leftovers(
    store: Store, settings: Config, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, young = journal / f".{uuid7()}", journal / f".{uuid7()}"
    old.touch()
    young.touch()
    past = time.time() - 3600
    os.utime(old, (past, past))
    take(store, settings)
    assert not old.exists() and young.exists()


def test_a_segment_that_cannot_be_read_stops_nobody(
    store: Store, settings: Config, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Segment(journal, time=now() - 1000) as bad:
        bad.write(failed("bad"))
    with Segment(journal) as good:
        good.write(failed("good"))
    honest = vd_sidecar.journal.read_lines

    def read_lines(path: str, offset: int, limit: int) -> list[bytes]:
        if path == str(bad.path):
            raise PermissionError(13, "Permission denied", path)
        return honest(path, offset, limit)

    with monkeypatch.context() as patch:
        patch.setattr(vd_sidecar.journal, "read_lines", read_lines)
        ingest = take(store, settings)
        assert set(known(store)) == {"good"}
        assert bad.path.exists() and not good.path.exists()
    drain(ingest)
    assert set(known(store)) == {"good", "bad"}
    assert not bad.path.exists()


def test_a_segment_that_cannot_be_deleted(
    store: Store, settings: Config, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost of what was taken, and nothing is taken again."""

    def unlink(path: str) -> None:
        raise PermissionError(1, "Operation not permitted", path)

    with Segment(journal) as segment:
        segment.write(failed("a"))
    ingest = Ingest(store, settings)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        assert [step.records for step in drain(ingest)] == [1, 0]
        with Segment(journal) as other:
            other.write(failed("b"))
        assert [step.records for step in drain(ingest)] == [1, 0]
    assert segment.path.exists() and other.path.exists()
    drain(ingest)
    assert list(journal.iterdir()) == []
    assert ingest.records == 2


def test_what_is_no_segment_is_left_alone(
    store: Store, settings: Config, journal: Path
) -> None:
    (journal / "notes.txt").touch()
    (journal / f"{uuid7()}.jsonl").mkdir()
    os.mkfifo(journal / f"{uuid7()}.jsonl")
    os.symlink("/nowhere", journal / f"{uuid7()}.jsonl")
    with Segment(journal) as segment:
        segment.write(failed("a"))
    take(store, settings)
    assert set(known(store)) == {"a"}
    assert len(list(journal.iterdir())) == 4


def test_a_segment_that_somebody_deleted(
    store: Store, settings: Config, journal: Path
) -> None:
    ingest = Ingest(store, settings)
    segment = Segment(journal)
    segment.write(failed("a"))
    drain(ingest)
    segment.path.unlink()
    segment.crash()
    drain(ingest)
    assert set(known(store)) == {"a"}


def test_another_edge_knows_its_own_segments(
    store: Store, settings: Config, journal: Path, directory: Path
) -> None:
    (directory / "other").mkdir()
    other = evolve(settings, journal=str(directory / "other"), edge="edge-2")
    one, two = Ingest(store, settings), Ingest(store, other)
    with Segment(journal) as here, Segment(directory / "other") as there:
        here.write(failed("a"))
        there.write(failed("a", attempt=2), failed("b"))
        drain(one)
        drain(two)
        here.write(failed("a", attempt=3))
        drain(one)
        assert one.records == 2 and two.records == 2
    take(store, settings)
    take(store, other)
    assert known(store)["a"].state == "failed"
    assert {each["edge"] for each in rows(store, schema.segments)} == {
        "edge-1",
        "edge-2",
    }


# Amounts


def test_more_records_than_a_batch_takes(
    store: Store, settings: Config, journal: Path
) -> None:
    count = 3 * vd_sidecar.ingest.LINES
    fill(journal, many(count, failed("load-ID")), size=1_000_000)
    assert len(list(journal.iterdir())) > 1
    ingest = Ingest(store, settings)
    steps = drain(ingest)
    a_read = vd_sidecar.ingest.CHUNK // len(failed("load-ID"))
    assert max(step.records for step in steps) <= vd_sidecar.ingest.LINES + a_read
    assert [step.more for step in steps] == [True, True, False, False]
    assert len(known(store)) == count
    assert list(journal.iterdir()) == []
    consistent(store)


@pytest.mark.parametrize("size", [100, 3000, 70_000])
def test_more_is_said_as_long_as_there_is_more(
    store: Store,
    settings: Config,
    journal: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
) -> None:
    """Otherwise a lease might be given away whose outcome is still unread."""
    monkeypatch.setattr(vd_sidecar.ingest, "BYTES", 60_000)
    monkeypatch.setattr(vd_sidecar.ingest, "LINES", 50)
    monkeypatch.setattr(vd_sidecar.ingest, "CHUNK", 10_000)
    ids = set()
    for segment_number in range(3):
        with Segment(journal) as segment:
            for number in range(60 if size < 5000 else 3):
                ids.add(f"{segment_number}-{number}")
                segment.write(failed(f"{segment_number}-{number}", body=b"x" * size))

    ingest = Ingest(store, settings)
    began = ingest.scanned
    while True:
        progress = ingest.step()
        unread = sum(1 for each in records(journal) if each["id"] not in known(store))
        assert progress.more or not unread
        assert progress.more == (ingest.scanned == began)
        if not progress.more:
            break
    assert set(known(store)) == ids


def test_a_half_line_is_no_more(
    store: Store, settings: Config, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vd_sidecar.ingest, "CHUNK", 5000)
    with Segment(journal) as segment:
        segment.write(failed("a"))
        segment.raw(failed("b")[:-5])
        ingest = Ingest(store, settings)
        assert not ingest.step().more
        assert not ingest.step().more


def test_a_line_that_is_bigger_than_a_batch(
    store: Store, settings: Config, journal: Path
) -> None:
    big = b"x" * (2 * vd_sidecar.ingest.BYTES + 12345)
    with Segment(journal) as segment:
        segment.write(failed("a"), failed("big", body=big), failed("b"))
        segment.write(failed("big-2", body=big[:5_000_000]), failed("c"))
    take(store, settings)
    assert set(known(store)) == {"a", "big", "b", "big-2", "c"}
    with store.reading() as connection:
        assert deliveries.body(connection, known(store)["big"].seq) == big


def test_what_is_unread_is_told(store: Store, settings: Config, journal: Path) -> None:
    segment = Segment(journal)
    segment.write(failed("a"))
    ingest = Ingest(store, settings)
    ingest.step()
    assert ingest.unread == segment.size
    ingest.step()
    assert (ingest.unread, ingest.oldest) == (0, None)
    segment.write(failed("b"))
    ingest.step()
    assert 0 < ingest.unread < segment.size
    assert ingest.oldest is not None and abs(ingest.oldest - time.time()) < 60
    segment.crash()


def test_what_cannot_be_read_is_complained_of_again_and_again(
    store: Store, settings: Config, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Segment(journal) as segment:
        segment.write(failed("a"))

    def closed(path: str, *rest: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    ingest = Ingest(store, settings)
    with monkeypatch.context() as patched, capture_logs() as logs:
        patched.setattr(vd_sidecar.journal, "read_lines", closed)
        ingest.step()
        ingest.step()
        assert [each["event"] for each in logs] == ["segments cannot be read"]
        patched.setattr(vd_sidecar.ingest, "COMPLAIN_SECONDS", 0.0)
        ingest.step()
        assert len(logs) == 2 and logs[0] == logs[1]
    assert logs[0]["path"] == str(segment.path) and logs[0]["count"] == 1
    assert "chgrp " in logs[0]["remedy"] and f"{journal}/*.jsonl" in logs[0]["remedy"]
    assert ingest.unreadable == {str(segment.path): "Permission denied"}

    with monkeypatch.context() as patched, capture_logs() as logs:
        patched.setattr(vd_sidecar.ingest, "_unlink", closed)
        drain(ingest)
        assert [each["event"] for each in logs] == ["segments cannot be deleted"]
        assert ingest.unreadable == {}
        assert ingest.undeletable == {str(segment.path): "Permission denied"}
    ingest.step()
    assert ingest.undeletable == {} and not segment.path.exists()


# What follows


def test_a_settled_lease_is_told(store: Store, settings: Config, journal: Path) -> None:
    ingest = Ingest(store, settings)
    with Segment(journal) as segment:
        segment.write(accepted("a"), accepted("b"), accepted("c"))
        drain(ingest)
        with store.writing() as connection:
            time_ = store.now(connection) + 10
            claims = deliveries.claim(
                connection,
                "28",
                settings.edge,
                now=time_,
                scanned=time_,
                lease=60.0,
                limit=10,
            )
        assert len(claims) == 3
        segment.write(failed("a"), delivered("b"), failed("c", attempt=2))
        settled = set().union(*(step.settled for step in drain(ingest)))
        found = known(store)
        assert settled == {found["a"].seq, found["b"].seq}
        assert found["c"].owner == settings.edge


def test_a_late_record_brings_nothing_forgotten_back(
    store: Store, settings: Config, journal: Path
) -> None:
    ingest = Ingest(store, settings)
    with Segment(journal) as segment:
        segment.write(failed("a", case="C-1"))
        drain(ingest)
        before = now()
        acts.perform(store, settings, acts.FORGET, [known(store)["a"].seq], "test")
        segment.write(
            failed("a", case="C-1", body=b"geheim", time=before),
            delivered("a", case="C-1", ticket_id="geheim", attempt=2),
        )
    drain(ingest)
    after = known(store)["a"]
    assert (after.forgotten, after.case, after.ticket_id) == (True, None, None)
    for table in (schema.bodies, schema.exchanges, schema.deliveries, schema.notices):
        for row in rows(store, table):
            assert not any("geheim" in str(value) for value in row.values()), row
    assert rows(store, schema.bodies) == []
    assert {row["response"] for row in rows(store, schema.exchanges)} == {None}


def test_each_output_has_its_own_rules(
    store: Store, settings: Config, journal: Path
) -> None:
    config = evolve(
        settings,
        outputs={"28": Output(retry=Retry(attempts=1), alerts=Alerts())},
    )
    with Segment(journal) as segment:
        segment.write(failed("a", "28"), failed("b", "29"))
    take(store, config)
    states = {id: each.state for id, each in known(store).items()}
    assert states == {"a": "failed", "b": "pending"}
    assert len(rows(store, schema.alerts)) == 1
    assert rows(store, schema.notices) == []


def test_a_give_up_is_told_with_its_case(
    store: Store, settings: Config, journal: Path
) -> None:
    config = evolve(
        settings,
        retry=Retry(attempts=1),
        callback=evolve(settings.callback, location="/callback"),
    )
    with Segment(journal) as segment:
        segment.write(*(failed(f"a-{number}", case="C-1") for number in range(3)))
    take(store, config)
    [alert] = rows(store, schema.alerts)
    assert alert["count"] == 3
    assert {each.alert for each in known(store).values()} == {alert["seq"]}
    payloads = [
        json.loads(str(each["payload"]))
        for each in rows(store, schema.notices)
        if each["kind"] == "callback"
    ]
    assert sorted(each["id"] for each in payloads) == ["a-0", "a-1", "a-2"]
    assert {(each["state"], each["case"]) for each in payloads} == {("failed", "C-1")}


# Outages


def test_the_store_is_away_for_a_while(
    postgres: Postgres, postgres_url: str, settings: Config, journal: Path
) -> None:
    store = Store(postgres_url)
    store.migrate()
    ingest = Ingest(store, settings)
    with Segment(journal) as segment:
        segment.write(failed("a"))
        drain(ingest)

        for end in (postgres.stop, postgres.kill):
            end()
            segment.write(failed(f"b-{end.__name__}"), b"bad\n")
            for _ in range(2):
                with pytest.raises(SQLAlchemyError):
                    drain(ingest)
            assert ingest.rejects == (0 if end == postgres.stop else 1)
            postgres.start()
            drain(ingest)

    drain(ingest)
    assert set(known(store)) == {"a", "b-stop", "b-kill"}
    assert len(rejected(store)) == 2
    assert ingest.records == 3
    consistent(store)
    store.close()


def test_the_store_goes_away_while_it_writes(
    postgres: Postgres, postgres_url: str, settings: Config, journal: Path
) -> None:
    store = Store(postgres_url)
    store.migrate()
    ingest = Ingest(store, settings)
    statements = 0

    def interrupt(*arguments: object) -> None:
        nonlocal statements
        statements += 1
        if statements == 9:
            postgres.kill()

    fill(journal, many(500, failed("load-ID")))
    event.listen(store.engine, "before_cursor_execute", interrupt)
    with pytest.raises(SQLAlchemyError):
        drain(ingest)
    event.remove(store.engine, "before_cursor_execute", interrupt)
    assert not postgres.running
    assert ingest.records == 0
    postgres.start()
    drain(ingest)
    assert (ingest.records, ingest.rejects) == (500, 0)
    assert len(known(store)) == 500
    consistent(store)
    store.close()


def test_a_commit_that_fails(
    store: Store, settings: Config, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was taken, and the connection is as good as before."""
    error = sqlite3.OperationalError if store.sqlite else psycopg2.OperationalError

    def commit(connection: Any) -> None:
        raise error("disk I/O error")

    with Segment(journal) as segment:
        segment.write(failed("a"))
    ingest = Ingest(store, settings)
    with monkeypatch.context() as patch:
        patch.setattr(store.engine.dialect, "do_commit", commit)
        for _ in range(3):
            with pytest.raises(SQLAlchemyError, match="disk I/O error"):
                drain(ingest)
    drain(ingest)
    assert (ingest.records, ingest.rejects) == (1, 0)
    consistent(store)


def test_a_full_disk_sets_nothing_aside(
    settings: Config, journal: Path, sqlite_url: str
) -> None:
    store = Store(sqlite_url)
    store.migrate()
    ingest = Ingest(store, settings)
    with Segment(journal) as segment:
        segment.write(failed("a", body=b"x" * 500_000))

    limits: list[Optional[int]] = []

    def limit(connection: Any, *_: object) -> None:
        most = limits[-1] if limits else None
        connection.execute(f"PRAGMA max_page_count = {most or 1_000_000}")

    event.listen(store.engine, "checkout", limit)
    limits.append(50)
    with pytest.raises(SQLAlchemyError):
        drain(ingest)
    limits.append(None)
    drain(ingest)
    assert (ingest.records, ingest.rejects) == (1, 0)
    assert not segment.path.exists()
    store.close()


def test_a_locked_store_is_waited_for(
    sqlite_url: str, settings: Config, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vd_sidecar.store.engine.BUSY_SECONDS", 0.05)
    store, other = Store(sqlite_url), Store(sqlite_url)
    store.migrate()
    ingest = Ingest(store, settings)
    with Segment(journal) as segment:
        segment.write(failed("a"))
    with other.writing():
        with pytest.raises(SQLAlchemyError):
            drain(ingest)
    drain(ingest)
    assert (ingest.records, ingest.rejects) == (1, 0)
    store.close()
    other.close()


def test_a_journal_that_is_gone(store: Store, settings: Config, journal: Path) -> None:
    ingest = take(store, settings)
    journal.rmdir()
    with pytest.raises(OSError):
        ingest.step()
    journal.mkdir()
    with Segment(journal) as segment:
        segment.write(failed("a"))
    drain(ingest)
    assert set(known(store)) == {"a"}


def test_times_that_no_clock_shows(
    store: Store, settings: Config, journal: Path
) -> None:
    """Whatever is stored can be shown, in each list and callback."""
    config = evolve(settings, retry=Retry(attempts=1))
    with Segment(journal) as segment:
        for number, moment in enumerate(
            ("9999-12-31T23:59:59.999-23:59", "0001-01-01T00:00:00+23:59")
        ):
            fields = json.loads(failed(f"a-{number}"))
            del fields["crc"]
            segment.write(checked({**fields, "time": moment}))
        segment.write(failed("b", time=0), failed("c", time=2**41))
    take(store, config)
    for each in known(store).values():
        assert vd_sidecar.batch.rfc3339(each.created) <= timestamp(now() + 1000)
        assert vd_sidecar.batch.rfc3339(each.updated) <= timestamp(now() + 1000)
    for row in rows(store, schema.exchanges):
        vd_sidecar.batch.rfc3339(row["time"])


@pytest.mark.parametrize("bad", [0, 1234, 4999])
def test_one_line_that_cannot_be_stored_costs_few_commits(
    store: Store,
    settings: Config,
    journal: Path,
    monkeypatch: pytest.MonkeyPatch,
    bad: int,
) -> None:
    """It is found by halving, not by 5,000 transactions."""
    with Segment(journal) as segment:
        segment.write(*(failed(f"n-{number}") for number in range(5000)))
    honest = vd_sidecar.batch.Batch.take

    def take_(self: Any, record: Any) -> bool:
        if record.id == f"n-{bad}":
            raise KeyError("a fault of ours")
        return honest(self, record)

    monkeypatch.setattr(vd_sidecar.batch.Batch, "take", take_)
    monkeypatch.setattr(vd_sidecar.ingest, "BYTES", 1 << 30)
    commits = [0]
    commit = store.engine.dialect.do_commit

    def counted(connection: Any) -> None:
        commits[0] += 1
        commit(connection)

    monkeypatch.setattr(store.engine.dialect, "do_commit", counted)
    take(store, settings)
    assert len(rows(store, schema.deliveries)) == 4999
    [reject] = rejected(store)
    assert f"n-{bad}".encode() in reject.line
    assert commits[0] < 40


def test_a_store_that_is_broken_sets_nothing_aside(
    store: Store, settings: Config, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not the lines that it will not have."""
    with Segment(journal) as segment:
        segment.write(failed("a"), failed("b"))
    ingest = Ingest(store, settings)
    ingest.step()
    errors: list[Exception] = [
        SQLAlchemyDatabaseError("INSERT", {}, Exception("disk image is malformed")),
        InternalError("INSERT", {}, Exception("could not read block 5")),
        OperationalError("INSERT", {}, Exception("database or disk is full")),
    ]
    with Segment(journal) as segment:
        segment.write(failed("c"), failed("d"))
    for error in errors:

        def write(self: Any) -> Any:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(vd_sidecar.batch.Batch, "write", write)
            with pytest.raises(type(error)):
                ingest.step()
        assert rejected(store) == []
    drain(ingest)
    assert {"c", "d"} <= set(known(store)) and rejected(store) == []
