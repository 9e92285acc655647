# Copyright (C) The ngx_vd_module authors
"""What operators do with deliveries, and what must be left of it, or not."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator, Optional

import pytest
from attrs import evolve
from sqlalchemy import select

from journal_writer import Segment, accepted, failed
from stored import (
    BODY,
    NOON,
    change,
    delivered,
    given_up,
    one,
    record,
    stored,
    take,
)
from vd_sidecar import acts, batch
from vd_sidecar.acts import CANCEL, FORGET, RESEND, RETRY, Act, Refusal, Result
from vd_sidecar.config import Callback, Config, Retention
from vd_sidecar.ingest import Ingest
from vd_sidecar.model import CANCELLED, DELIVERED, FAILED, PENDING, Reject
from vd_sidecar.store import Store, deliveries, notices, reads, schema
from vd_sidecar.store.reads import Filter, Tally

SECRET = "geheim"


@pytest.fixture
def config(config: Config, store_url: str) -> Config:
    return evolve(config, store=store_url, callback=Callback("/callback"))


@pytest.fixture
def store(config: Config) -> Iterator[Store]:
    with stored(
        config,
        record("waits"),
        delivered("done"),
        *given_up("lost"),
        *given_up("lost", "29"),
    ) as store:
        yield store


def do(
    store: Store,
    config: Config,
    act: Act,
    id: str,
    only: Filter = Filter(),
    dry_run: bool = False,
) -> list[Result]:
    with store.reading() as connection:
        seqs = [each.seq for each in reads.by_id(connection, id)]
    return acts.perform(store, config, act, seqs, "alice", only=only, dry_run=dry_run)


def refusal(results: list[Result]) -> Optional[Refusal]:
    (only,) = results
    assert only.refused is None or only.after is only.before
    return only.refused


def everything(store: Store) -> dict[str, list[Any]]:
    """All rows of all tables."""
    with store.reading() as connection:
        return {
            table.name: sorted(
                map(tuple, connection.execute(select(*table.columns))), key=repr
            )
            for table in schema.metadata.tables.values()
        }


def tally(store: Store, output: str = "28") -> Tally:
    with store.reading() as connection:
        return next(e for e in reads.tallies(connection) if e.output == output)


def noted(store: Store, id: str) -> list[str]:
    with store.reading() as connection:
        seqs = [each.seq for each in reads.by_id(connection, id)]
        return [f"{e.act} {e.who}" for s in seqs for e in reads.acts(connection, s)]


def told(store: Store, id: str) -> list[dict[str, Any]]:
    with store.reading() as connection:
        found = notices.of_delivery(connection, one(store, id))
    return [json.loads(e.payload or "") for e in found if e.kind == notices.CALLBACK]


def test_retry_begins_a_new_round(store: Store, config: Config) -> None:
    results = do(store, config, RETRY, "lost", Filter(outputs=("28",)))

    assert [(each.before.state, each.after.state) for each in results] == [
        (FAILED, PENDING)
    ]
    after = one(store, "lost", "28")
    assert after.state == PENDING
    assert after.attempts - after.base == 0
    assert after.due is not None
    with store.reading() as connection:
        assert abs(after.due - store.now(connection)) < 10_000
    assert one(store, "lost", "29").state == FAILED
    assert tally(store) == Tally("28", "Output 28", 1, 2, 0, 0)
    assert noted(store, "lost") == ["retry alice"]

    take(store, config, [record("lost", attempt=4, time=NOON + 999_000)])
    assert one(store, "lost", "28").state == PENDING


def test_retry_of_what_waits_is_now(store: Store, config: Config) -> None:
    change(store, "waits", due=NOON * 2)
    assert refusal(do(store, config, RETRY, "waits")) is None
    due = one(store, "waits").due
    assert due is not None and due < NOON * 1.5


def test_retry_leaves_a_lease(store: Store, config: Config) -> None:
    change(store, "waits", owner="edge-2", claimed=2, due=NOON * 2)
    assert refusal(do(store, config, RETRY, "waits")) is None
    after = one(store, "waits")
    assert (after.owner, after.claimed, after.due) == ("edge-2", 2, NOON * 2)
    assert after.base == after.attempts == 1


@pytest.mark.parametrize(
    "act, id, values, why",
    [
        (RETRY, "done", {}, "delivered: the receiver would get it twice"),
        (RETRY, "waits", {"attempts": 1000}, "attempts: 1000 attempts"),
        (CANCEL, "done", {}, "delivered: nothing can be taken back"),
    ],
)
def test_refused(
    store: Store, config: Config, act: Act, id: str, values: Any, why: str
) -> None:
    change(store, id, **values)
    before = everything(store)
    found = refusal(do(store, config, act, id))
    code, _, words = why.partition(": ")
    assert found is not None and found.code == code
    assert words in str(found)
    assert everything(store) == before


@pytest.mark.parametrize(
    "values, why",
    [
        ({"forgotten": True}, "an operator"),
        ({"updated": NOON, "noted": NOON}, "for 30 days (retention.bodies)"),
        ({"updated": NOON}, "never read"),
        ({"updated": NOON * 2}, "never read"),
    ],
)
def test_retry_without_the_case(
    store: Store, config: Config, values: Any, why: str
) -> None:
    take(store, config, given_up("bare", body=None))
    change(store, "bare", **values)
    assert why in str(refusal(do(store, config, RETRY, "bare")))
    assert one(store, "bare").state == FAILED


def test_what_was_delivered_is_sent_again(store: Store, config: Config) -> None:
    change(store, "done", updated=NOON * 2)
    found = refusal(do(store, config, RESEND, "done"))
    assert found is not None and found.code == "not_journaled"
    assert one(store, "done").state == DELIVERED

    take(store, config, [delivered("page", body=BODY, ticket_id="VD-wrong")])
    assert refusal(do(store, config, RETRY, "page")) is not None
    before = tally(store)
    assert refusal(do(store, config, RESEND, "page")) is None
    after = one(store, "page")
    assert (after.state, after.attempts, after.base) == (PENDING, 1, 1)
    assert after.due is not None and after.ticket_id == "VD-wrong"
    assert tally(store) == evolve(
        before, delivered=before.delivered - 1, pending=before.pending + 1
    )
    assert noted(store, "page") == ["resend alice"]
    take(store, config, [delivered("page", attempt=2, ticket_id="VD-right")])
    after = one(store, "page")
    assert (after.state, after.ticket_id) == (DELIVERED, "VD-right")
    assert tally(store) == before


def test_what_waits_is_no_second_time_due(store: Store, config: Config) -> None:
    """Sent again while an attempt is under way: that one is waited for."""
    change(store, "waits", owner="edge-2", claimed=2, due=NOON * 2)
    assert refusal(do(store, config, RESEND, "waits")) is None
    after = one(store, "waits")
    assert (after.owner, after.claimed, after.due) == ("edge-2", 2, NOON * 2)


def test_cancel(store: Store, config: Config) -> None:
    assert refusal(do(store, config, CANCEL, "waits")) is None
    after = one(store, "waits")
    assert (after.state, after.due, after.owner) == (CANCELLED, None, None)
    assert tally(store) == Tally("28", "Output 28", 1, 0, 1, 1)
    assert [each["state"] for each in told(store, "waits")] == ["cancelled"]
    assert noted(store, "waits") == ["cancel alice"]

    before = everything(store)
    assert refusal(do(store, config, CANCEL, "waits")) is None
    assert everything(store) == before

    assert refusal(do(store, config, RETRY, "waits")) is None
    assert one(store, "waits").state == PENDING


def test_cancel_what_was_given_up(store: Store, config: Config) -> None:
    results = do(store, config, CANCEL, "lost")
    assert [each.after.state for each in results] == [CANCELLED, CANCELLED]
    assert tally(store, "29").cancelled == 1


def test_forget_leaves_no_content(store: Store, config: Config) -> None:
    secret: dict[str, Any] = {
        "case": f"{SECRET}-1",
        "body": b'{"x": "%b"}' % SECRET.encode(),
        "content_type": f"text/{SECRET}",
        "response": f"reply {SECRET}",
    }
    take(store, config, given_up("secret", **secret))
    ended = delivered(
        "secret", attempt=4, time=NOON + 500_000, ticket_id=f"{SECRET}-2", **secret
    )
    take(store, config, [ended])
    with store.reading() as connection:
        (callback,) = [
            each
            for each in notices.of_delivery(connection, one(store, "secret"))
            if each.kind == notices.CALLBACK and SECRET in str(each.payload)
        ][-1:]
    told_ = record(
        f"callback-{callback.key}",
        "callback",
        uri="/callback",
        body=str(callback.payload).encode(),
    )
    take(store, config, [told_])
    lines = [
        failed("secret", case=SECRET),
        failed("callback-9", body=str(callback.payload).encode()),
        failed("other"),
    ]
    with store.writing() as connection:
        rejects = [Reject(0, "s", 0, "odd", each) for each in lines]
        batch.set_aside(connection, config, NOON, rejects)
    assert repr(everything(store)).count(SECRET) > 10

    results = do(store, config, FORGET, "secret")

    assert [each.before.id for each in results] == ["secret", told_.id]
    rest = everything(store)
    assert SECRET not in repr(rest)
    assert BODY in [row[1] for row in rest["bodies"]]
    assert lines[2] in [row[-1] for row in rest["rejects"]]

    after = one(store, "secret")
    assert after.state == DELIVERED and after.forgotten
    with store.reading() as connection:
        exchanges = deliveries.exchanges(connection, after.seq)
    assert [each.attempt for each in exchanges] == [1, 2, 3, 4]
    assert noted(store, "secret") == ["forget alice"]
    assert one(store, told_.id).state == CANCELLED

    # nor does it come back

    late = delivered("secret", attempt=5, ticket_id=SECRET, time=NOON * 2, **secret)
    take(store, config, [late])
    assert SECRET not in repr(everything(store))


def test_forget_ends_what_waits(store: Store, config: Config) -> None:
    change(store, "waits", case=SECRET)
    do(store, config, FORGET, "waits")
    assert one(store, "waits").state == CANCELLED
    assert tally(store).cancelled == 1
    (outcome,) = told(store, "waits")
    assert (outcome["id"], outcome["state"], outcome["case"]) == (
        "waits",
        "cancelled",
        None,
    )
    assert "an operator" in str(refusal(do(store, config, RETRY, "waits")))


@pytest.mark.parametrize("act", [RETRY, CANCEL, FORGET])
def test_a_dry_run_changes_nothing(store: Store, config: Config, act: Act) -> None:
    before = everything(store)
    results = do(store, config, act, "lost", dry_run=True)
    assert [each.refused for each in results] == [None, None]
    assert everything(store) == before


def test_all_that_a_filter_means(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acts, "CHUNK", 3)
    many = [each for n in range(10) for each in given_up(f"many-{n}", "30")]
    take(store, config, many)
    filter = Filter(outputs=("30",), states=(FAILED,))

    dry = list(acts.perform_all(store, config, RETRY, filter, "bob", dry_run=True))
    assert sum(map(len, dry)) == 10
    assert tally(store, "30").failed == 10

    sizes = [
        len(each) for each in acts.perform_all(store, config, RETRY, filter, "bob")
    ]
    assert sizes == [3, 3, 3, 1]
    assert tally(store, "30") == Tally("30", "Output 30", 0, 10, 0, 0)
    assert tally(store).failed == 1
    assert noted(store, "many-7") == ["retry bob"]


def test_what_changed_meanwhile_is_left(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the act: what is no longer meant is not touched."""
    original = reads.chunks

    def chunks(*arguments: Any) -> Iterator[Any]:
        for found in original(*arguments):
            take(store, config, [delivered("lost", attempt=4, time=NOON * 2)])
            yield found

    monkeypatch.setattr(reads, "chunks", chunks)
    filter = Filter(states=(FAILED,))
    (results,) = acts.perform_all(store, config, RETRY, filter, "bob")
    assert [each.before.output for each in results] == ["29"]
    assert one(store, "lost", "28").state == DELIVERED


def test_others_write_meanwhile(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a sidecar does, that is at work on the same store: it is left time for it."""
    monkeypatch.setattr(acts, "CHUNK", 20)
    rests: list[float] = []
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=rests.append)
    monkeypatch.setattr(acts, "time", clock)
    take(store, config, [e for n in range(200) for e in given_up(f"m-{n}", "30")])
    other = Store(config.store)
    done = 0
    filter = Filter(outputs=("30",))
    for results in acts.perform_all(store, config, RETRY, filter, "bob"):
        take(other, config, [record(f"new-{done}", "31")])
        done += len(results)
    other.close()
    assert done == 200
    assert tally(store, "30").pending == 200
    assert tally(store, "31").pending == 10
    assert len(rests) == 10 and min(rests) > 0


def test_where_it_still_is(store: Store, config: Config, journal: Path) -> None:
    config = evolve(config, retention=Retention(segments=3600.0))
    ids = ["lost", "waits"]
    with Segment(journal) as ended:
        ended.write(failed("lost", case="x"))
    with Segment(journal) as innocent:
        innocent.write(failed("lost-not"), failed("other", body=b'{"ref": "lost"}'))
    ingest = Ingest(store, config)
    while ingest.step().more:
        pass
    payload = json.dumps({"id": "waits", "case": "x"}).encode()
    unread = Segment(journal)
    unread.write(accepted("callback-1", "callback", body=payload))
    crashed = unread.crash()
    Segment(journal).crash().write_bytes(b"")
    with Segment(journal) as growing:
        growing.write(failed("waits"))
        found, others = acts.leftovers(store, config, ids)
        goes = {each.path: each.goes for each in found}

    assert set(goes) == {str(ended.path), str(crashed), str(growing.path)}
    seconds = int(goes[str(ended.path)].split()[1])
    assert 3500 < seconds <= 3600
    assert "read it to its end, 3600 s later" in goes[str(crashed)]
    assert "nginx -s reload" in goes[str(growing.path)]
    assert others == []

    elsewhere = evolve(config, edge="edge-9")
    assert acts.leftovers(store, elsewhere, ids)[1] == [config.edge]
    assert acts.leftovers(store, config, []) == ([], [])


def test_a_journal_that_is_not_there(store: Store, config: Config) -> None:
    with pytest.raises(OSError):
        acts.leftovers(store, evolve(config, journal="/nowhere"), ["lost"])
