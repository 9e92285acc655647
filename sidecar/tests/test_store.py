# Copyright (C) The ngx_vd_module authors
"""The store's queries, its rule of one writer, and its schema."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import alembic.autogenerate
import alembic.command
import alembic.runtime.migration
from alembic.util.exc import CommandError
import pytest
from attrs import evolve
from sqlalchemy import insert, inspect, select, text as sql
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from processes import PATIENCE
from stores import KINDS, Clock, dump, open_store
from vd_sidecar import machine
from vd_sidecar.batch import Batch
from vd_sidecar.config import Config, Retry
from vd_sidecar.journal import digest
from vd_sidecar.model import STATES, Content, Delivery, Record
from vd_sidecar.store import Store, deliveries, engine, notices, schema, segments
from vd_sidecar.store.rows import next_number, upsert

NOW = 1_790_000_000_000
SIDECAR = Path(__file__).resolve().parents[1]


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    one = open_store(request, Clock(NOW))
    yield one
    one.close()


def record(id: str, output: str = "28", **keys: Any) -> Record:
    values: dict[str, Any] = dict(
        time=NOW,
        id=id,
        output=output,
        label="Incident",
        case=None,
        uri="/outputs/28",
        attempt=1,
        outcome="failed",
        reason="status",
        status=503,
        upstream=None,
        duration_ms=1,
        ticket_id=None,
        ticket_error=None,
        response=None,
        retry_after=None,
        content_type=None,
        body=b"{}",
        crc=1,
    )
    return Record(**{**values, **keys})


def put(connection: Connection, *records: Record, due: int = NOW) -> list[Delivery]:
    """New deliveries, pending since ``due``, and their bodies."""
    first = deliveries.first_free(connection)
    new = []
    for seq, each in enumerate(records, first):
        after = machine.apply(
            None, each, Retry(), seq=seq, edge="A", now=NOW, spread=0.0
        )
        new.append(after._replace(due=due))
    deliveries.add(connection, new)
    deliveries.put_bodies(
        connection,
        {
            one.seq: Content(each.body, each.host, each.kept)
            for one, each in zip(new, records)
            if each.body
        },
    )
    counts: dict[str, dict[str, int]] = {}
    for each in records:
        states = counts.setdefault(each.output, {})
        states["pending"] = states.get("pending", 0) + 1
    deliveries.tally(connection, counts, {output: "L" for output in counts})
    return new


def claim(
    connection: Connection,
    now: int,
    *,
    output: str = "28",
    edge: str = "A",
    scanned: Optional[int] = None,
    limit: int = 10,
    exclude: Any = (),
) -> list[str]:
    return [
        each.id
        for each in claims(
            connection,
            now,
            output=output,
            edge=edge,
            scanned=scanned,
            limit=limit,
            exclude=exclude,
        )
    ]


def claims(connection: Connection, now: int, **keys: Any) -> list[Any]:
    keys.setdefault("output", "28")
    keys.setdefault("edge", "A")
    keys.setdefault("limit", 10)
    if keys.get("scanned") is None:
        keys["scanned"] = now
    output, edge = keys.pop("output"), keys.pop("edge")
    return deliveries.claim(connection, output, edge, now=now, lease=60.0, **keys)


def get(connection: Connection, seq: int) -> Delivery:
    return deliveries.by_seqs(connection, [seq])[0]


# The schema


def test_the_schema_is_what_the_program_takes_it_for(store: Store) -> None:
    with store.engine.connect() as connection:
        context = alembic.runtime.migration.MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "include_name": lambda name, kind, parents: name is None
                or not name.startswith("deliveries_search"),
            },
        )
        found = alembic.autogenerate.compare_metadata(context, schema.metadata)
    assert found == []


def test_indexes_have_their_conditions(store: Store) -> None:
    if store.sqlite:
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'index'"
    else:
        query = "SELECT indexname, indexdef FROM pg_indexes"
    with store.engine.connect() as connection:
        found = dict(iter(connection.exec_driver_sql(query)))
    for table in schema.metadata.tables.values():
        for index in table.indexes:
            partial = bool(index.dialect_options["postgresql"]["where"] is not None)
            assert (" WHERE " in found[str(index.name)]) == partial, index.name
            assert (" UNIQUE " in found[str(index.name)]) == bool(index.unique)


def test_migrating_again_changes_nothing(store: Store) -> None:
    with store.writing() as connection:
        put(connection, record("a"))
    store.migrate()
    store.migrate()
    assert store.revisions()[0] == store.revisions()[1]
    with store.reading() as connection:
        assert len(deliveries.by_ids(connection, ["a"])) == 1


def test_a_store_of_the_version_before_is_brought_up_to_date(store_url: str) -> None:
    """In place, with all that it holds."""
    store = Store(store_url)
    with store.engine.connect() as connection:
        alembic.command.upgrade(engine._alembic(connection), "0001")
        connection.commit()
    assert store.revisions()[0] == "0001"
    old = (
        "INSERT INTO deliveries (seq, id, output, label, uri, state, created, updated,"
        " attempts, base, fence, forgotten, due) VALUES (1, 'a', '28', 'L', '/o',"
        f" 'pending', {NOW}, {NOW}, 1, 0, 0, false, {NOW})"
    )
    body = "INSERT INTO bodies (delivery, body) VALUES (1, :body)"
    with store.writing() as connection:
        connection.exec_driver_sql(old)
        connection.execute(sql(body), {"body": b"{}"})
    store.migrate()
    with store.writing() as connection:
        (one,) = deliveries.by_ids(connection, ["a"]).values()
        assert (one.digest, one.refusals, one.refused) == (None, 0, None)
        assert deliveries.content(connection, 1) == Content(b"{}")
        batch = Batch(connection, Config("/j", "", "", "A"), NOW)
        batch.load({"a"})
        batch.take(record("a", crc=2, body=b"[]", digest=digest(b"[]")))
        batch.write()
        (after,) = deliveries.by_ids(connection, ["a"]).values()
        assert after.digest == digest(b"{}")  # the case is compared with what is kept
        (other,) = deliveries.conflicts(connection, [1])
        assert (other.digest, other.body) == (digest(b"[]"), b"[]")
    store.close()


def test_migrating_from_several_processes_at_once(store_url: str) -> None:
    script = (
        "import sys; from vd_sidecar.store import Store; Store(sys.argv[1]).migrate()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, store_url],
            cwd=SIDECAR,
            stderr=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors.decode()

    store = Store(store_url)
    assert store.revisions()[0] == store.revisions()[1]
    with store.reading() as connection:
        assert len(connection.execute(select(schema.writer)).all()) == 1
    store.close()


def test_a_migration_that_fails_leaves_nothing(store_url: str) -> None:
    """The last table is in the way: all that came before it goes again."""
    store = Store(store_url)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE writer (id INTEGER)")
    with pytest.raises(SQLAlchemyError):
        store.migrate()
    with store.engine.begin() as connection:
        assert inspect(connection).get_table_names() == ["writer"]
        connection.exec_driver_sql("DROP TABLE writer")
    store.migrate()
    assert store.revisions()[0] == store.revisions()[1]
    store.close()


def test_the_store_of_a_newer_program(store_url: str) -> None:
    store = Store(store_url)
    store.migrate()
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(CommandError):
        store.migrate()
    store.close()


def test_an_empty_store_has_no_revision(store_url: str) -> None:
    store = Store(store_url)
    assert store.revisions()[0] is None
    store.close()


def test_a_sqlite_store_is_not_for_all_to_read(sqlite_url: str) -> None:
    store = Store(sqlite_url)
    store.migrate()
    path = Path(sqlite_url.partition("///")[2])
    for each in path.parent.glob("vd.db*"):
        assert stat.S_IMODE(each.stat().st_mode) & 0o027 == 0
    store.close()


# One writer


def test_writers_wait_for_each_other(store: Store) -> None:
    inside: list[int] = []
    most = 0

    def write(number: int) -> None:
        nonlocal most
        for _ in range(5):
            with store.writing() as connection:
                inside.append(number)
                most = max(most, len(inside))
                seq = next_number(connection, schema.acts.c.seq)
                time.sleep(0.002)
                connection.execute(
                    insert(schema.acts),
                    [dict(seq=seq, time=0, who="w", act="x", delivery=number)],
                )
                inside.remove(number)

    threads = [threading.Thread(target=write, args=(each,)) for each in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    with store.reading() as connection:
        assert next_number(connection, schema.acts.c.seq) == 21


def test_a_writer_that_fails_leaves_nothing_and_no_lock(store: Store) -> None:
    with pytest.raises(ZeroDivisionError):
        with store.writing() as connection:
            put(connection, record("a"))
            raise ZeroDivisionError
    with store.writing() as connection:
        assert deliveries.by_ids(connection, ["a"]) == {}


def test_a_writer_that_is_stuck_stands_in_nobodys_way(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that sleeps in the midst of it, or whose machine does."""
    awake = Store(postgres_url)
    awake.migrate()
    with monkeypatch.context() as patch:
        patch.setattr(engine, "STUCK_SECONDS", 1)
        stuck = Store(postgres_url)
    with pytest.raises(SQLAlchemyError):
        with stuck.writing() as connection:
            with awake.writing() as other:
                put(other, record("b"))
            put(connection, record("a"))
    with stuck.reading() as connection:
        found = deliveries.by_ids(connection, ["a", "b"])
    assert {id for id, _ in found} == {"b"}
    stuck.close()
    awake.close()


def test_no_statement_of_a_writer_lasts_for_ever(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What COPY sends may stop in the midst of it, too."""
    monkeypatch.setattr(engine, "BUSY_SECONDS", 1)
    store = Store(postgres_url)
    store.migrate()
    with pytest.raises(SQLAlchemyError, match="statement timeout"):
        with store.writing() as connection:
            connection.exec_driver_sql("SELECT pg_sleep(5)")
    with store.reading() as connection:
        connection.exec_driver_sql("SELECT pg_sleep(1.2)")
    store.close()


def test_a_reader_sees_one_state_throughout(store: Store) -> None:
    with store.reading() as reading:
        assert deliveries.by_ids(reading, ["a"]) == {}
        with store.writing() as writing:
            put(writing, record("a"))
        assert deliveries.by_ids(reading, ["a"]) == {}
    with store.reading() as reading:
        assert len(deliveries.by_ids(reading, ["a"])) == 1


def test_a_reader_writes_nothing(store: Store) -> None:
    """PostgreSQL refuses it, SQLite drops it: nothing commits."""
    try:
        with store.reading() as connection:
            put(connection, record("a"))
    except SQLAlchemyError:
        assert not store.sqlite
    with store.reading() as connection:
        assert deliveries.by_ids(connection, ["a"]) == {}


def test_the_time_is_in_milliseconds(store_url: str) -> None:
    store = Store(store_url)
    store.migrate()
    with store.writing() as connection:
        first = store.now(connection)
        assert abs(first - time.time() * 1000) < 2000
        time.sleep(0.03)
        assert 20 <= store.now(connection) - first < 2000  # not the transaction's
    store.close()


# Rows


def test_numbers_begin_with_one(store: Store) -> None:
    with store.writing() as connection:
        assert deliveries.first_free(connection) == 1
        put(connection, record("a"), record("b"))
        assert deliveries.first_free(connection) == 3


def test_upsert(store: Store) -> None:
    with store.writing() as connection:
        rows = [{"delivery": 1, "body": b"a"}, {"delivery": 2, "body": b"b"}]
        upsert(connection, schema.bodies, ["delivery"], rows)
        upsert(connection, schema.bodies, ["delivery"], [{"delivery": 2, "body": b"c"}])
        upsert(connection, schema.bodies, ["delivery"], [])
        assert deliveries.body(connection, 1) == b"a"
        assert deliveries.body(connection, 2) == b"c"
        assert deliveries.body(connection, 3) is None


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    "text",
    ["", "\\N", "\\.", "\\", "a\tb\nc\rd", "\\t", "\"'%s%(x)s;--", "\x01\x7f\u2028"],
)
def test_no_character_means_more_than_itself(
    store: Store, text: str, count: int
) -> None:
    body = text.encode() + bytes(range(256))
    ids = [f"{number}" for number in range(count)]
    with store.writing() as connection:
        put(connection, *(record(id, label=text, case=text, body=body) for id in ids))
        found = deliveries.by_ids(connection, ids).values()
        assert [(each.label, each.case) for each in found] == [(text, text)] * count
        for each in found:
            assert deliveries.body(connection, each.seq) == body


def test_a_delivery_is_read_as_it_was_written(store: Store) -> None:
    with store.writing() as connection:
        new = put(connection, record("a", case="C-1 \u00e4\u20ac\U0001f600"))[0]
        assert get(connection, new.seq) == new
        changed = new._replace(
            state="failed",
            due=None,
            attempts=1000,
            base=3,
            owner="B",
            claimed=4,
            fence=2**40,
            status=2**53 - 1,
            updated=NOW + 1,
            ticket_id="VD-1",
            alert=7,
            forgotten=True,
        )
        deliveries.save(connection, [changed])
        assert get(connection, new.seq) == changed


def test_many_at_once(store: Store) -> None:
    with store.writing() as connection:
        new = put(connection, *(record(f"id-{number}") for number in range(5000)))
        ids = [each.id for each in new]
        assert len(deliveries.by_ids(connection, ids)) == 5000
        deliveries.save(connection, [each._replace(attempts=2) for each in new])
        assert {
            each.attempts
            for each in deliveries.by_seqs(connection, [each.seq for each in new])
        } == {2}
        known = deliveries.known_records(connection, [each.seq for each in new])
        assert known == set()


def test_the_same_id_at_another_output_is_another_delivery(store: Store) -> None:
    with store.writing() as connection:
        put(connection, record("a", "28"), record("a", "29"))
        assert set(deliveries.by_ids(connection, ["a"])) == {("a", "28"), ("a", "29")}
        with pytest.raises(SQLAlchemyError):
            put(connection, record("a", "28"))


def test_tallies(store: Store) -> None:
    def read(connection: Connection) -> dict[str, Any]:
        table = schema.tallies
        return {
            row.output: tuple(getattr(row, state) for state in STATES) + (row.label,)
            for row in connection.execute(select(*table.columns))
        }

    with store.writing() as connection:
        deliveries.tally(connection, {"28": {"pending": 3}}, {"28": "x"})
        deliveries.tally(
            connection,
            {"28": {"pending": -1, "failed": 1}, "29": {"delivered": 2}},
            {"28": "y", "29": "z"},
        )
        assert read(connection) == {"28": (0, 2, 1, 0, "y"), "29": (2, 0, 0, 0, "z")}
        assert sorted(deliveries.outputs(connection)) == ["28", "29"]


# Claims


def test_what_is_to_be_sent_is_read_when_it_is(store: Store) -> None:
    """Of claims that still have a say: all but those that something happened to."""
    large = bytes(range(256)) * 1000
    with store.writing() as connection:
        put(connection, record("a", body=b"\0", host="h.example:80", kept="AAt4"))
        put(connection, record("b", body=None))
        put(connection, record("c", body=large, kept=""))
        put(connection, *(record(id) for id in ("cancelled", "elsewhere", "older")))
        mine = claims(connection, NOW)
        by_id = {each.id: each for each in mine}
        changes: dict[str, dict[str, Any]] = {
            "cancelled": {"state": "cancelled"},
            "elsewhere": {"owner": "B"},
            "older": {"fence": 2},
        }
        for id, change in changes.items():
            one = get(connection, by_id[id].seq)
            deliveries.save(connection, [one._replace(**change)])
    with store.reading() as connection:
        found = deliveries.ready(connection, mine, "A")
    assert {seq: found[seq] for seq in found} == {
        by_id["a"].seq: Content(b"\0", "h.example:80", "AAt4"),
        by_id["b"].seq: None,
        by_id["c"].seq: Content(large, None, ""),
    }


def test_what_is_due_longest_comes_first(store: Store) -> None:
    with store.writing() as connection:
        for id, due in (("c", NOW), ("a", NOW - 5), ("d", NOW + 1), ("b", NOW - 2)):
            put(connection, record(id), due=due)
        assert claim(connection, NOW, limit=2) == ["a", "b"]
        assert claim(connection, NOW) == ["c"]
        assert claim(connection, NOW) == []
        assert claim(connection, NOW + 1) == ["d"]


def test_a_claim_has_all_that_an_attempt_needs(store: Store) -> None:
    with store.writing() as connection:
        put(connection, record("a", case="C-1", content_type="text/plain", body=b"\0"))
        put(connection, record("b", body=None))
        one, two = claims(connection, NOW)
        assert (one.id, one.case, one.content_type, one.size, one.uri) == (
            "a",
            "C-1",
            "text/plain",
            1,
            "/outputs/28",
        )
        assert (one.attempt, one.fence, one.was_due, one.until) == (
            2,
            1,
            NOW,
            NOW + 60_000,
        )
        assert two.size is None
        after = get(connection, one.seq)
        assert (after.owner, after.claimed, after.fence, after.due) == (
            "A",
            2,
            1,
            NOW + 60_000,
        )


def test_a_lease_that_ran_out_is_the_journals_first(store: Store) -> None:
    with store.writing() as connection:
        put(connection, record("a"))
        [first] = claims(connection, NOW, edge="A")
        end = first.until
        assert claim(connection, end - 1, edge="B") == []
        assert claim(connection, end, edge="B", scanned=end - 1) == []
        assert deliveries.due_outputs(connection, end, end - 1) == []
        assert deliveries.due_outputs(connection, end, end) == ["28"]
        [second] = claims(connection, end, edge="B", exclude=[99])
        assert second.fence == 2

        # the first holder has no say any more

        assert deliveries.held(connection, first, NOW) is None
        deliveries.give_back(connection, [first])
        assert get(connection, first.seq).owner == "B"
        assert deliveries.held(connection, second, end) is not None


def test_a_lease_that_ran_out_settles_nothing(store: Store) -> None:
    with store.writing() as connection:
        put(connection, record("a"))
        [lease] = claims(connection, NOW)
        assert deliveries.held(connection, lease, lease.until - 1) is not None
        assert deliveries.held(connection, lease, lease.until) is None


def test_what_is_excluded_is_not_claimed(store: Store) -> None:
    with store.writing() as connection:
        new = put(connection, record("a"), record("b"))
        assert claim(connection, NOW, exclude={new[0].seq}) == ["b"]


def test_only_what_is_pending_is_claimed(store: Store) -> None:
    with store.writing() as connection:
        for state in STATES:
            [new] = put(connection, record(state))
            deliveries.save(connection, [new._replace(state=state)])
        assert claim(connection, NOW) == ["pending"]
        assert claim(connection, NOW, output="29") == []


def test_given_back_is_due_when_it_was(store: Store) -> None:
    with store.writing() as connection:
        [new] = put(connection, record("a"), due=NOW - 77)
        [lease] = claims(connection, NOW)
        deliveries.give_back(connection, [lease])
        after = get(connection, new.seq)
        assert (after.owner, after.claimed, after.due) == (None, None, NOW - 77)
        assert after.fence == 1
        deliveries.give_back(connection, [lease], due=NOW + 5)
        assert get(connection, new.seq).due == NOW - 77

        [lease] = claims(connection, NOW)
        deliveries.give_back(connection, [lease], due=NOW + 5)
        assert get(connection, new.seq).due == NOW + 5


def test_two_edges_share_what_is_due(store: Store) -> None:
    count = 200
    with store.writing() as connection:
        put(connection, *(record(f"id-{number}") for number in range(count)))
    taken: list[str] = []

    def work(edge: str) -> None:
        while True:
            with store.writing() as connection:
                found = claim(connection, NOW, edge=edge, limit=7)
            if not found:
                return
            taken.extend(found)

    threads = [threading.Thread(target=work, args=(edge,)) for edge in "ABC"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(f"id-{number}" for number in range(count))


def test_outputs_with_something_due(store: Store) -> None:
    with store.writing() as connection:
        put(connection, record("a", "28"), due=NOW)
        put(connection, record("b", "29"), due=NOW + 1)
        assert deliveries.due_outputs(connection, NOW - 1, NOW) == []
        assert deliveries.due_outputs(connection, NOW, NOW) == ["28"]
        assert sorted(deliveries.due_outputs(connection, NOW + 1, NOW)) == ["28", "29"]
        claim(connection, NOW)


def test_a_clock_that_was_set_back(store: Store) -> None:
    with store.writing() as connection:
        far, near, lease, other = put(
            connection,
            record("far"),
            record("near"),
            record("lease"),
            record("other", "29"),
        )
        hour = 3_600_000
        deliveries.save(
            connection,
            [
                far._replace(due=NOW + hour),
                near._replace(due=NOW + 300_000),
                lease._replace(due=NOW + hour, owner="A", claimed=2),
                other._replace(due=NOW + hour),
            ],
        )
        count = deliveries.bring_forward(connection, "28", NOW, longest=300, lease=60)
        assert count == 2
        assert [
            get(connection, each.seq).due for each in (far, near, lease, other)
        ] == [
            NOW + 300_000,
            NOW + 300_000,
            NOW + 60_000,
            NOW + hour,
        ]


def plan(store: Store, query: Callable[[Connection], object]) -> str:
    """How the store would run the statements of ``query``."""
    from sqlalchemy import event

    statements: list[tuple[str, Any]] = []

    def remember(
        connection: object, cursor: object, statement: str, parameters: Any, *_: object
    ) -> None:
        statements.append((statement, parameters))

    event.listen(store.engine, "before_cursor_execute", remember)
    try:
        with store.writing() as connection:
            query(connection)
    finally:
        event.remove(store.engine, "before_cursor_execute", remember)

    text = []
    how = "EXPLAIN QUERY PLAN " if store.sqlite else "EXPLAIN "
    with store.engine.connect() as connection:
        for statement, parameters in statements:
            if statement.startswith("SELECT") and "FROM deliveries" in statement:
                rows = connection.exec_driver_sql(how + statement, parameters)
                text += [str(row) for row in rows]
    assert text
    return "\n".join(text)


def test_claims_need_no_look_at_what_is_not_due(store: Store) -> None:
    """The partial index is taken, and the rows come from it in order."""
    with store.writing() as connection:
        put(connection, *(record(f"id-{n}", str(n % 50)) for n in range(5000)))
    if not store.sqlite:
        with store.engine.begin() as connection:
            connection.exec_driver_sql("ANALYZE")
    text = plan(store, lambda c: claim(c, NOW, output="7", limit=5))
    assert "deliveries_due" in text, text
    text = plan(store, lambda c: claim(c, NOW + 60_000, output="8", limit=5))
    assert "TEMP B-TREE" not in text, text


# Content


def test_erased(store: Store) -> None:
    with store.writing() as connection:
        one, two = put(connection, record("a"), record("b"))
        deliveries.add_exchanges(
            connection,
            [
                (one.seq, record("a", response="r", ticket_id="VD-1")),
                (two.seq, record("b", response="r", ticket_id="VD-2")),
            ],
        )
        notices.add(
            connection,
            [
                notices.pending("callback", "28", NOW, delivery=each.seq, payload="p")
                for each in (one, two)
            ],
        )
        deliveries.erase(connection, [one.seq])
        assert deliveries.body(connection, one.seq) is None
        assert deliveries.body(connection, two.seq) == b"{}"
        [exchange] = deliveries.exchanges(connection, one.seq)
        assert (exchange.response, exchange.ticket_id) == (None, None)
        [exchange] = deliveries.exchanges(connection, two.seq)
        assert (exchange.response, exchange.ticket_id) == ("r", "VD-2")
        left = notices.claim_notices(connection, "callback", now=NOW, lease=1, limit=9)
        assert [each.delivery for each in left] == [two.seq]


def test_a_record_is_known_by_its_time_and_checksum(store: Store) -> None:
    with store.writing() as connection:
        [new] = put(connection, record("a"))
        deliveries.add_exchanges(connection, [(new.seq, record("a", crc=2**32 - 1))])
        known = deliveries.known_records(connection, [new.seq])
        assert known == {(new.seq, NOW, 2**32 - 1)}


# Segments


def test_positions(store: Store) -> None:
    with store.writing() as connection:
        mine = segments.Position("s1", "A", 10, 1, None)
        done = segments.Position("s2", "B", 20, 2, NOW)
        other = segments.Position("s3", "B", 30, 3, None)
        segments.save_positions(connection, [mine, done, other])
        assert segments.positions(connection, "A") == {"s1": mine, "s2": done}
        further = evolve(mine, position=2**40, done=NOW + 1)
        segments.save_positions(connection, [further])
        assert segments.positions(connection, "A")["s1"] == further
        assert segments.forget_segments(connection, NOW + 1) == 1
        assert set(segments.positions(connection, "B")) == {"s1", "s3"}


# Alerts


def alert(connection: Connection, now: int, **keys: Any) -> int:
    values: dict[str, Any] = dict(
        kind="failed",
        output="28",
        label="L",
        edge="A",
        count=1,
        now=now,
        window=300.0,
        channels=["alert-mail", "alert-slack"],
    )
    return notices.open_alert(connection, **{**values, **keys})


def due_of(connection: Connection, seq: int) -> int:
    table = schema.alerts
    due = connection.execute(select(table.c.due).where(table.c.seq == seq)).scalar_one()
    return int(due)


def test_what_fails_together_is_one_alert(store: Store) -> None:
    with store.writing() as connection:
        first = alert(connection, NOW)
        assert alert(connection, NOW + 1, count=5) == first
        assert alert(connection, NOW, output="29") != first
        assert alert(connection, NOW, kind="journal") != first
        assert notices.alert(connection, first).count == 6
        assert due_of(connection, first) == NOW + notices.GATHER_MS

        both = [
            notices.claim_notices(connection, kind, now=NOW + 5000, lease=9, limit=99)
            for kind in ("alert-mail", "alert-slack")
        ]
        assert [[each.alert for each in kind].count(first) for kind in both] == [1, 1]


def test_an_alert_that_is_being_sent_takes_no_more(store: Store) -> None:
    with store.writing() as connection:
        first = alert(connection, NOW)
        later = NOW + notices.GATHER_MS
        notices.claim_notices(connection, "alert-mail", now=later, lease=9, limit=9)
        second = alert(connection, later)
        assert second != first
        assert due_of(connection, second) == later + 300_000
        assert alert(connection, later + 299_999) == second


def test_an_alert_that_was_taken_is_closed_whatever_the_clock_says(
    store: Store,
) -> None:
    """Otherwise what is added to it would be told to nobody."""
    with store.writing() as connection:
        first = alert(connection, NOW)
        later = NOW + notices.GATHER_MS
        notices.claim_notices(connection, "alert-mail", now=later, lease=9, limit=9)
        assert alert(connection, later - 1) != first


def test_one_alert_a_window(store: Store) -> None:
    """A failure every five seconds for half an hour, told as soon as it is due."""
    with store.writing() as connection:
        sent = []
        for now in range(NOW, NOW + 1_800_000, 5000):
            found = notices.claim_notices(
                connection, "alert-mail", now=now, lease=1, limit=9
            )
            for each in found:
                sent.append(now)
                notices.sent(connection, each.seq, now, None)
            alert(connection, now, channels=["alert-mail"])
        assert 6 <= len(sent) <= 7
        assert min(b - a for a, b in zip(sent, sent[1:])) >= 300_000


def test_an_alert_after_long_silence_does_not_wait(store: Store) -> None:
    with store.writing() as connection:
        alert(connection, NOW)
        later = NOW + 10**9
        assert due_of(connection, alert(connection, later)) == later + 5000


def test_an_alert_of_a_wrong_clock_holds_up_no_other(store: Store) -> None:
    with store.writing() as connection:
        alert(connection, NOW + 10**10)
        seq = alert(connection, NOW)
        assert due_of(connection, seq) <= NOW + 305_000
        assert alert(connection, NOW + 1) == seq


def test_a_short_window(store: Store) -> None:
    with store.writing() as connection:
        first = alert(connection, NOW, window=0.001)
        assert due_of(connection, first) == NOW + 1
        assert alert(connection, NOW + 1, window=0.001) != first


def test_an_alert_that_nobody_gets_is_there_all_the_same(store: Store) -> None:
    with store.writing() as connection:
        seq = alert(connection, NOW, channels=[])
        assert notices.alert(connection, seq).count == 1


# Notices


def test_a_notice_is_sent_once_and_tried_until_then(store: Store) -> None:
    def taken(connection: Connection, now: int) -> list[Any]:
        return notices.claim_notices(connection, "backup", now=now, lease=10.0, limit=5)

    with store.writing() as connection:
        notices.add(connection, [notices.pending("backup", "28", NOW, delivery=1)])
        assert taken(connection, NOW - 1) == []
        assert not notices.any_due(connection, "backup", NOW - 1)
        assert notices.any_due(connection, "backup", NOW)
        [one] = taken(connection, NOW)
        assert taken(connection, NOW) == []
        [again] = taken(connection, NOW + 10_000)
        assert (again.key, again.tries) == (one.key, 1)
        notices.sent(connection, one.seq, NOW, None)
        assert taken(connection, NOW + 10**9) == []


# Retention


def test_what_is_pending_outlives_all(store: Store) -> None:
    with store.writing() as connection:
        pending, failed = put(connection, record("a"), record("b"))
        deliveries.save(connection, [failed._replace(state="failed", due=None)])
        deliveries.tally(connection, {"28": {"pending": -1, "failed": 1}}, {"28": "L"})
        assert deliveries.delete_bodies(connection, NOW + 1, 10) == 1
        assert deliveries.body(connection, pending.seq) == b"{}"
        assert deliveries.delete_old(connection, NOW + 1, 10) == 1
        assert set(deliveries.by_ids(connection, ["a", "b"])) == {("a", "28")}
        [row] = dump(connection, schema.tallies)
        assert (row["pending"], row["failed"]) == (1, 0)


def test_sqlite_survives_a_reader_that_stays(sqlite_url: str) -> None:
    store = Store(sqlite_url)
    store.migrate()
    other = sqlite3.connect(sqlite_url.partition("///")[2], isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM deliveries").fetchall()
    with store.writing() as connection:
        put(connection, record("a"))
    other.close()
    store.close()
