# Copyright (C) The ngx_vd_module authors
"""What is found in the store, and in which order."""

from __future__ import annotations

import random
from contextlib import ExitStack
from functools import total_ordering
from typing import Any, Iterator, Optional

import pytest
from attrs import evolve, frozen
from sqlalchemy.engine import Connection

from processes import make_directory, remove_directory
from stored import NOON, delivered, given_up, ids, one, record, stored, take
from stores import KINDS
from vd_sidecar import machine
from vd_sidecar.config import Config
from vd_sidecar.model import Delivery, Record
from vd_sidecar.store import Store, audit, deliveries, lists, reads, search
from vd_sidecar.store import segments
from vd_sidecar.store.lists import COLUMNS
from vd_sidecar.store.reads import Act, Filter, Place, Sort, Tally
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
        (Filter(search="VD"), "DONE-4 done-2"),
        (Filter(search="-5"), "pending-5"),
        (Filter(search="e"), "pending-5 DONE-4 failed-3 done-2 pending-1"),
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
            after = reads.place(page[-1])
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


SORTED = [
    Filter(),
    Filter(outputs=("28", "30"), since=NOON + 10),
    Filter(states=("pending", "failed")),
    Filter(states=("delivered",)),
    Filter(reason="timeout"),
    Filter(without_ticket=True),
    Filter(search="C-"),
    Filter(search="VD-", outputs=("28", "29", "30")),
    Filter(search="nowhere"),
    Filter(search="vd-", since=NOON + 10, until=NOON + 20),
]
ROWS = 30


@pytest.fixture(params=KINDS, scope="module")
def varied(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Deliveries with every kind of value, many of them the same, some missing."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            directory = make_directory("varied")
            stack.callback(remove_directory, directory)
            url = f"sqlite:///{directory}/vd.db"
        else:
            postgres = request.getfixturevalue("postgres")
            url = postgres.create_database()
            stack.callback(postgres.drop_database, url)
        config = Config("/nowhere", url, "http://127.0.0.1:1", edge="edge-1")
        yield stack.enter_context(stored(config, *_varied(random.Random(5))))


def _varied(chance: random.Random) -> Iterator[Record]:
    for number in range(ROWS):
        common: dict[str, Any] = {
            "output": chance.choice(("28", "29", "30", "Ä")),
            "case": chance.choice((None, "C-1", "C-2", "c-1", "Ä", "", f"C-{number}")),
        }
        reason = chance.choice(("timeout", "connect", "status", "tls"))
        time = NOON + number * 30 // ROWS + chance.randrange(6)
        failed = chance.randrange(5)
        for attempt in range(1, failed + 1):
            yield record(
                f"v-{number}",
                attempt=attempt,
                time=time,
                reason=reason,
                ticket_id=chance.choice((None, None, "VD-1", f"VD-{number}")),
                **common,
            )
        if failed == 0 and number % 7 == 0:
            yield record(f"v-{number}", outcome="accepted", time=time, **common)
        elif failed < 3:
            ticket = chance.choice((None, "VD-1", "VD-2", f"VD-{number}"))
            yield delivered(
                f"v-{number}",
                attempt=failed + 1,
                time=time,
                ticket_id=ticket,
                **common,
            )


def position(delivery: Delivery, sort: Sort) -> tuple[Any, ...]:
    """What comes first."""
    age = (delivery.created, delivery.seq)
    newest = Turned(age)
    if sort.column == "created":
        return (newest if sort.descending else age,)
    value = getattr(delivery, sort.column)
    if value is None:
        return (1, -delivery.seq) if sort.column == "case" else (1, newest)
    if sort.column in ("case", "ticket_id"):
        both = (value, delivery.seq)
        return (0, Turned(both) if sort.descending else both)
    return (0, Turned(value) if sort.descending else value, newest)


@total_ordering
@frozen
class Turned:
    value: Any

    def __lt__(self, other: Turned) -> bool:
        return bool(self.value > other.value)


@pytest.mark.parametrize(
    "ahead, some, hand, few",
    [(3, 0, 0, 0), (0, 40_000, 0, 2), (5000, 40_000, 40_000, 1000)],
)
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("descending", [False, True])
def test_every_sort_gives_each_once_in_order(
    varied: Store,
    monkeypatch: pytest.MonkeyPatch,
    column: str,
    descending: bool,
    ahead: int,
    some: int,
    hand: int,
    few: int,
) -> None:
    """Page after page and back again, whichever way they are found."""
    sort = Sort(column, descending)
    with varied.reading() as connection:
        everything = reads.find(connection, Filter(), 1000)
        assert len(everything) == ROWS
        monkeypatch.setattr(lists, "AHEAD", ahead)
        monkeypatch.setattr(lists, "MANY", some)
        monkeypatch.setattr(search, "SOME", some)
        monkeypatch.setattr(search, "HAND", hand)
        monkeypatch.setattr(search, "FEW", few)
        for filter in SORTED:
            others = reads.find(connection, evolve(filter, search=None), 1000)
            expected = sorted(
                (each for each in others if _has(each, filter.search or "")),
                key=lambda each: position(each, sort),
            )
            assert _pages(connection, filter, sort, None, back=False) == expected
            back = _pages(connection, filter, sort, None, back=True)
            assert back == expected[::-1]


@pytest.mark.parametrize("few", [0, 2, 8])
@pytest.mark.parametrize("ahead, some", [(3, 0), (0, 40_000)])
def test_a_search_within_a_time(
    varied: Store, monkeypatch: pytest.MonkeyPatch, ahead: int, some: int, few: int
) -> None:
    """Also what is older than others that the store heard of before."""
    monkeypatch.setattr(lists, "AHEAD", ahead)
    monkeypatch.setattr(search, "SOME", some)
    monkeypatch.setattr(search, "HAND", 0)
    monkeypatch.setattr(search, "FEW", few)
    spans = [(since, since + n) for since in range(-1, 40, 3) for n in (-1, 1, 8)]
    with varied.reading() as connection:
        everything = reads.find(connection, Filter(), 1000)
        for since, until in [*spans, (-5, 0), (30, None), (None, 5)]:
            filter = Filter(
                since=None if since is None else NOON + since,
                until=None if until is None else NOON + until,
                search="VD-",
            )
            found = reads.find(connection, filter, 1000)
            assert {each.seq for each in found} == {
                each.seq
                for each in everything
                if _has(each, "vd-")
                and (since is None or each.created >= NOON + since)
                and (until is None or each.created < NOON + until)
            }


def _has(delivery: Delivery, term: str) -> bool:
    return term.lower() in search.words(delivery).lower()


@pytest.mark.parametrize("outputs", [(), ("28",)])
def test_a_search_goes_on_from_block_to_block(
    store: Store, monkeypatch: pytest.MonkeyPatch, outputs: tuple[str, ...]
) -> None:
    """Of numbers, by which PostgreSQL's index tells the new from the old."""
    monkeypatch.setattr(search, "SOME", 0)
    monkeypatch.setattr(search, "FEW", 0)
    monkeypatch.setattr(search, "HAND", 0)  # even what one has is common
    many = [
        machine.begin(delivered(f"b{n}", str(28 + n % 2), case="Block"), seq, NOON)
        for n, seq in enumerate([*range(100, 130), *range(9000, 300_000, 9000)])
    ]
    with store.writing() as connection:
        deliveries.add(connection, many)
    expected = [
        each for each in reversed(many) if not outputs or each.output in outputs
    ]
    with store.reading() as connection:
        filter = Filter(search="block", outputs=outputs)
        assert _pages(connection, filter, Sort(), None, back=False) == expected
        back = _pages(connection, filter, Sort(), None, back=True)
        assert back == expected[::-1]


def _pages(
    connection: Connection,
    filter: Filter,
    sort: Sort,
    after: Optional[Place],
    back: bool,
) -> list[Delivery]:
    seen: list[Delivery] = []
    while page := reads.find(connection, filter, 7, after, sort, back):
        seen += page
        after = reads.place(page[-1], sort)
        assert len(seen) < 200
    return seen


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
