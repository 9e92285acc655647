# Copyright (C) The ngx_vd_module authors
"""What is found in the store, and in which order."""

from __future__ import annotations

from typing import Iterator

import pytest
from attrs import evolve

from stored import NOON, change, delivered, given_up, ids, one, record, stored, take
from vd_sidecar.config import Config
from vd_sidecar.model import Record
from vd_sidecar.store import Store, audit, reads, segments
from vd_sidecar.store.reads import Act, Backlog, Filter, Tally
from vd_sidecar.store.segments import Position


@pytest.fixture
def config(config: Config, store_url: str) -> Config:
    return evolve(config, store=store_url)


@pytest.fixture
def store(config: Config) -> Iterator[Store]:
    with stored(
        config,
        record("pending-1", time=NOON + 1, case="C-1", reason="timeout", status=None),
        delivered("done-2", time=NOON + 2, case="C-2", ticket_id="VD-2_00%"),
        *given_up("failed-3", "29", time=NOON + 3, case="c-1"),
        delivered("DONE-4", "29", time=NOON + 4, ticket_id="VD-2x00!"),
        record("pending-5", time=NOON + 5, case="back\\slash"),
    ) as store:
        yield store


@pytest.mark.parametrize(
    "filter, found",
    [
        (Filter(), "pending-5 DONE-4 failed-3 done-2 pending-1"),
        (Filter(outputs=("29",)), "DONE-4 failed-3"),
        (
            Filter(outputs=("29", "28", "7")),
            "pending-5 DONE-4 failed-3 done-2 pending-1",
        ),
        (Filter(states=("failed", "pending")), "pending-5 failed-3 pending-1"),
        (Filter(since=NOON + 4), "pending-5 DONE-4"),
        (Filter(until=NOON + 3), "done-2 pending-1"),
        (Filter(since=NOON + 2, until=NOON + 3), "done-2"),
        (Filter(reason="timeout"), "pending-1"),
        (Filter(case="C-1"), "pending-1"),
        (Filter(case=""), ""),
        (Filter(ticket_id="VD-2_00%"), "done-2"),
        (Filter(search="done-2"), "done-2"),
        (Filter(search="done"), "DONE-4 done-2"),
        (Filter(search="c-1"), "failed-3 pending-1"),
        (Filter(search="VD-2"), "DONE-4 done-2"),
        (Filter(search="2_0"), "done-2"),
        (Filter(search="0%"), "done-2"),
        (Filter(search="k\\s"), "pending-5"),
        (Filter(search="'; --"), ""),
        (Filter(search="a\0b"), ""),
        (Filter(search="\udcff"), ""),
        (Filter(outputs=("\udcff",)), ""),
        (Filter(search=""), "pending-5 DONE-4 failed-3 done-2 pending-1"),
        (Filter(outputs=("29",), search="c-1", states=("failed",)), "failed-3"),
        (Filter(outputs=("28",), states=("failed",)), ""),
    ],
)
def test_find(store: Store, filter: Filter, found: str) -> None:
    assert ids(store, filter) == found.split()
    with store.reading() as connection:
        assert reads.count(connection, filter) == len(found.split())


def test_find_goes_on_behind_the_last(store: Store, config: Config) -> None:
    """Also between those of the same millisecond."""
    take(store, config, [record(f"same-{n}", time=NOON + 9) for n in range(5)])
    everything = ids(store, Filter())
    assert everything[:5] == ["same-4", "same-3", "same-2", "same-1", "same-0"]

    seen: list[str] = []
    after = None
    with store.reading() as connection:
        while page := reads.find(connection, Filter(), 3, after):
            seen += [each.id for each in page]
            after = reads.key(page[-1])
    assert seen == everything


def test_chunks_are_whole_whatever_comes_meanwhile(
    store: Store, config: Config
) -> None:
    everything = ids(store, Filter())
    seen = []
    for number, chunk in enumerate(reads.chunks(store, Filter(), 2)):
        seen += [each.id for each in chunk]
        assert len(chunk) <= 2
        take(store, config, [record(f"new-{number}", time=NOON + 100)])
    assert seen == everything


@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_chunks_of_any_size(store: Store, config: Config, size: int) -> None:
    """Also if one ends between those of the same millisecond."""
    take(store, config, [record(f"same-{n}", time=NOON + 5) for n in range(3)])
    chunks = list(reads.chunks(store, Filter(), size))
    assert [e.id for chunk in chunks for e in chunk] == ids(store, Filter())
    assert all(chunks)


def test_count_stops(store: Store) -> None:
    with store.reading() as connection:
        assert reads.count(connection, Filter(), 3) == 3
        assert reads.count(connection, Filter(), 9) == 5


def test_among(store: Store) -> None:
    seqs = [one(store, id).seq for id in ("DONE-4", "pending-1", "done-2")]
    with store.reading() as connection:
        found = reads.among(connection, [*seqs, 999], Filter(states=("delivered",)))
        assert [each.id for each in found] == ["done-2", "DONE-4"]
        assert reads.among(connection, [], Filter()) == []


def test_one_id_at_two_outputs(store: Store, config: Config) -> None:
    take(store, config, [record("both", "29"), record("both", "28")])
    with store.reading() as connection:
        found = [each.output for each in reads.by_id(connection, "both")]
        assert found == ["28", "29"]
        assert reads.by_id(connection, "\udcff") == []
        assert reads.by_id(connection, "\0") == []


def test_body_sizes(store: Store, config: Config) -> None:
    take(store, config, [record("binary", body=b"\0\xff\xc3\xa4" * 25)])
    with store.reading() as connection:
        seqs = [one(store, "binary").seq, one(store, "done-2").seq]
        assert reads.body_sizes(connection, seqs) == {seqs[0]: 100}


def test_tallies(store: Store) -> None:
    with store.reading() as connection:
        assert reads.tallies(connection) == [
            Tally("28", "Output 28", delivered=1, pending=2, failed=0, cancelled=0),
            Tally("29", "Output 29", delivered=1, pending=0, failed=1, cancelled=0),
        ]


def test_backlogs(store: Store, config: Config) -> None:
    waiting: list[Record] = [record(f"wait-{n}") for n in range(5)]
    take(store, config, waiting)
    now = NOON + 3_600_000
    for id in ("pending-1", "pending-5", "wait-0"):
        change(store, id, due=now + 1)
    change(store, "wait-1", due=now - 5000)
    change(store, "wait-2", due=now)
    change(store, "wait-3", due=now + 9, owner="edge-2", claimed=2)
    change(store, "wait-4", due=now - 9000, owner="edge-2", claimed=2)
    with store.reading() as connection:
        assert reads.backlogs(connection, now) == [
            Backlog("28", "Output 28", due=3, under_way=1, oldest=9000),
            Backlog("29", "Output 29", due=0, under_way=0, oldest=None),
        ]


def test_acts_and_edges(store: Store) -> None:
    with store.writing() as connection:
        audit.record(connection, "retry", "alice", 5, [2, 3])
        audit.record(connection, "cancel", "bob", 4, [2])
        audit.record(connection, "cancel", "bob", 4, [])
        places = [Position(f"s{n}", f"edge-{n % 2}", 1, 1, None) for n in range(4)]
        segments.save_positions(connection, places)
    with store.reading() as connection:
        assert reads.acts(connection, 2) == [
            Act(5, "alice", "retry"),
            Act(4, "bob", "cancel"),
        ]
        assert reads.edges(connection) == ["edge-0", "edge-1"]
