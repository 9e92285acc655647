# Copyright (C) The ngx_vd_module authors
"""What operators do with deliveries: retry, cancel, forget.

On the command line or a page, beside sidecars that are at work on the same store.
Every act is noted with who did it.
"""

from __future__ import annotations

import mmap
import re
import time
from typing import Callable, Collection, Iterator, Optional, Union

from attrs import evolve, frozen
from sqlalchemy.engine import Connection

from . import journal, machine
from .batch import Batch
from .config import Config, Retention
from .model import CANCELLED, DELIVERED, MAX_ATTEMPT, PENDING, Delivery
from .store import Store, audit, deliveries, notices, reads, segments
from .store.reads import Filter
from .store.segments import Position

CHUNK = 500  # deliveries that are changed in one transaction
REST_SECONDS = 0.1
SCRUB_SECONDS = 2

# What an act makes of a delivery, or why it does nothing with it; whether its
# case is in the store; the time.

Decide = Callable[[Delivery, bool, Retention, int], Union[Delivery, str]]


# How an id stands in its records, and in those of the callbacks that tell of it.

_NAMED = ((b'"id":"', b'"'), (b'\\"id\\": \\"', b'\\"'))


@frozen
class Act:
    name: str
    done: str  # "N deliveries ..."
    decide: Decide


@frozen
class Result:
    """What an act did with a delivery, or would do."""

    before: Delivery
    after: Delivery
    refused: Optional[str]  # why it did nothing


@frozen
class Leftover:
    """A segment of the journal that still holds what was forgotten."""

    path: str
    goes: str  # when it is deleted


def retry(
    delivery: Delivery, has_body: bool, keep: Retention, now: int
) -> Union[Delivery, str]:
    if delivery.state == DELIVERED:
        return "it was delivered, the receiver would get it twice"
    if delivery.attempts >= MAX_ATTEMPT:
        return f"it has had {MAX_ATTEMPT} attempts, as many as can be counted"
    if not has_body:
        return "its case is gone: " + no_body(delivery, keep, now)
    return machine.retried(delivery, now)


def cancel(
    delivery: Delivery, has_body: bool, keep: Retention, now: int
) -> Union[Delivery, str]:
    if delivery.state == DELIVERED:
        return "it was delivered, nothing can be taken back"
    if delivery.state == CANCELLED:
        return delivery
    return machine.cancelled(delivery)


def forget(
    delivery: Delivery, has_body: bool, keep: Retention, now: int
) -> Union[Delivery, str]:
    after = machine.cancelled(delivery) if delivery.state == PENDING else delivery
    return evolve(after, case=None, ticket_id=None, content_type=None, forgotten=True)


RETRY = Act("retry", "retried", retry)
CANCEL = Act("cancel", "cancelled", cancel)
FORGET = Act("forget", "forgotten", forget)


def no_body(delivery: Delivery, keep: Retention, now: int) -> str:
    """Why the case of a delivery is not in the store."""
    if delivery.forgotten:
        return "it was forgotten, by an operator"
    if delivery.state != PENDING and delivery.updated < now - keep.bodies * 1000:
        return f"cases are kept for {keep.bodies / 86400:g} days (retention.bodies)"
    if delivery.state == DELIVERED:
        return "nginx journals the cases that it delivered with bodies=all only"
    return "the record that held it was never read"


def perform(
    store: Store,
    config: Config,
    act: Act,
    seqs: Collection[int],
    who: str,
    *,
    only: Filter = Filter(),
    dry_run: bool = False,
) -> list[Result]:
    """Do ``act`` with deliveries, all in one transaction: not many more than CHUNK.

    Those that ``only`` does not mean any more, and those that do not exist, have no
    result.  Callbacks with what is forgotten are forgotten too, and in the results.
    """
    with store.reading() if dry_run else store.writing() as connection:
        now = store.now(connection)
        chosen = reads.among(connection, seqs, only)
        if act is FORGET:
            chosen += _callbacks(connection, chosen)

        bodies = reads.body_sizes(connection, [each.seq for each in chosen])
        results = []
        for each in chosen:
            after = act.decide(each, each.seq in bodies, config.retention, now)
            if isinstance(after, str):
                results.append(Result(each, each, after))
            else:
                results.append(Result(each, after, None))
        if not dry_run:
            done = [each for each in results if each.after is not each.before]
            _write(connection, config, act, done, who, now)
    return results


def perform_all(
    store: Store,
    config: Config,
    act: Act,
    filter: Filter,
    who: str,
    *,
    dry_run: bool = False,
) -> Iterator[list[Result]]:
    """Do ``act`` with all that ``filter`` means, newest first, a chunk at a time.

    Between two chunks others may write: none waits for all of it.
    """
    for found in reads.chunks(store, filter, CHUNK):
        began = time.monotonic()
        seqs = [each.seq for each in found]
        yield perform(store, config, act, seqs, who, only=filter, dry_run=dry_run)
        if not dry_run:
            time.sleep(min(time.monotonic() - began, REST_SECONDS))


def scrub(store: Store) -> bool:
    """Empty SQLite's log of changes, which still holds what was erased.

    False if somebody reads or writes for too long: then a later one does it.
    """
    if not store.sqlite:
        return True
    with store.engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {SCRUB_SECONDS * 1000}")
        answer = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
        connection.invalidate()  # with its own busy_timeout
    return not answer[0]


def leftovers(
    store: Store, config: Config, ids: Collection[str]
) -> tuple[list[Leftover], list[str]]:
    """Where else one of ``ids`` is: segments of this edge, and the other edges.

    The names of those whose journals are not here to be searched.  Raises OSError
    if this edge's journal cannot be read.
    """
    with store.reading() as connection:
        known = segments.positions(connection, config.edge)
        others = [each for each in reads.edges(connection) if each != config.edge]

    found = []
    names = b"|".join(re.escape(id.encode()) for id in ids)
    marks = [
        re.compile(re.escape(a) + b"(?:%b)" % names + re.escape(b)) for a, b in _NAMED
    ]
    for segment in journal.segments(config.journal):
        try:
            if ids and _holds(segment.path, marks):
                position = known.get(segment.uuid)
                goes = _goes(segment.path, position, config.retention)
                found.append(Leftover(segment.path, goes))
        except FileNotFoundError:
            continue
    return found, others


def _write(
    connection: Connection,
    config: Config,
    act: Act,
    done: list[Result],
    who: str,
    now: int,
) -> None:
    seqs = [each.before.seq for each in done]
    ids = {each.before.id for each in done}

    if act is FORGET:
        # before the batch, whose notices, without any content, are to be sent

        deliveries.erase(connection, seqs)
        for id in ids:
            for a, b in _NAMED:
                audit.erase_rejects(connection, a + id.encode() + b)

    batch = Batch(connection, config, now)
    batch.load(ids)
    for each in done:
        batch.change(each.before, each.after)
    batch.write()
    audit.record(connection, act.name, who, now, seqs)


def _callbacks(connection: Connection, told: list[Delivery]) -> list[Delivery]:
    """The callbacks that nginx took, which name the case and ticket id."""
    ids = {
        f"callback-{notice.key}"
        for delivery in told
        for notice in notices.of_delivery(connection, delivery)
        if notice.kind == notices.CALLBACK
    }
    known = {each.seq for each in told}
    found = deliveries.by_ids(connection, ids) if ids else {}
    return [each for each in found.values() if each.seq not in known]


def _holds(path: str, marks: list[re.Pattern[bytes]]) -> bool:
    with open(path, "rb") as file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # it is empty
            return False
        with content:
            return any(mark.search(content) for mark in marks)


def _goes(path: str, position: Optional[Position], keep: Retention) -> str:
    later = f", {keep.segments:g} s later (retention.segments)" if keep.segments else ""
    if position is not None and position.done is not None:
        seconds = position.done / 1000 + keep.segments - time.time()
        return f"in {max(seconds, 0):.0f} s, by the sidecar"
    if journal.writer_gone(path):
        return f"when the sidecar has read it to its end{later}"
    return (
        "when nginx has begun another (nginx -s reload does it) "
        f"and the sidecar has read it{later}"
    )
