# Copyright (C) The ngx_vd_module authors
"""What operators do with deliveries: retry, cancel, forget.

On the command line or a page, beside sidecars that are at work on the same store.
Every act is noted with who did it.
"""

from __future__ import annotations

import mmap
import re
import time
from collections import Counter
from typing import Callable, Collection, Iterable, Iterator, Mapping, Optional, Union

from attrs import field, frozen, mutable
from sqlalchemy.engine import Connection

from . import journal, machine
from .batch import Batch
from .config import Config, Retention
from .model import CANCELLED, DELIVERED, MAX_ATTEMPT, PENDING, Delivery
from .store import Store, audit, deliveries, edges, notices, reads, search, segments
from .store.reads import Filter
from .store.segments import Position

CHUNK = 500  # deliveries that are changed in one transaction
REST_SECONDS = 0.1
SCRUB_SECONDS = 2
NAMED = 20  # deliveries that are refused, when not each one is named
LOGGED = 100  # deliveries that the log names, of those of one act


@frozen
class Refusal:
    """Why nothing is done with a delivery: a code for programs, a text for people."""

    code: str
    text: str
    values: Mapping[str, object] = {}  # what the text names

    def __str__(self) -> str:
        return self.text.format_map(self.values)


# What an act makes of a delivery, or why it does nothing with it; whether its
# case is in the store; the time.

Decide = Callable[[Delivery, bool, Retention, int], Union[Delivery, Refusal]]

# How an id stands in its records, and in those of the callbacks that tell of it.

_NAMED = ((b'"id":"', b'"'), (b'\\"id\\": \\"', b'\\"'))

_MARKS = [
    re.compile(re.escape(a) + rb"([A-Za-z0-9_-]{1,128})" + re.escape(b))
    for a, b in _NAMED
]


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
    refused: Optional[Refusal]  # why it did nothing


@frozen
class Leftover:
    """A segment of the journal that still holds what was forgotten."""

    path: str
    goes: str  # when it is deleted


@mutable
class Done:
    """What an act did, or would do, gathered."""

    act: Act
    dry_run: bool
    each: bool  # whether each delivery is named, or only some that were refused
    outputs: Counter[str] = field(factory=Counter)  # of each output, how many
    refused: int = 0
    named: list[Result] = field(factory=list)
    logged: list[str] = field(factory=list)  # ids of the first that it did
    not_found: list[str] = field(factory=list)
    left: Optional[tuple[list[Leftover], list[str]]] = None  # by a forget
    ids: set[str] = field(factory=set)  # of what was forgotten, to be searched for

    def add(self, results: Iterable[Result]) -> None:
        for each in results:
            if each.refused is None:
                self.outputs[each.before.output] += 1
                if len(self.logged) < LOGGED:
                    self.logged.append(each.before.id)
                if self.act is FORGET:
                    self.ids.add(each.before.id)
            else:
                self.refused += 1
            if self.each or (each.refused is not None and len(self.named) < NAMED):
                self.named.append(each)

    def fields(self) -> dict[str, object]:
        """For JSON, with the same names wherever it is asked for."""
        fields: dict[str, object] = {
            "act": self.act.name,
            "dry_run": self.dry_run,
            "done": self.outputs.total(),
            "refused": self.refused,
            "outputs": dict(self.outputs),
            "deliveries": [
                {
                    "id": each.before.id,
                    "output": each.before.output,
                    "before": each.before.state,
                    "state": each.after.state,
                    "refused": None if each.refused is None else str(each.refused),
                    "code": None if each.refused is None else each.refused.code,
                }
                for each in self.named
            ],
            "not_found": self.not_found,
        }
        if self.left is not None:
            segments, edges = self.left
            fields["segments"] = [{"path": s.path, "goes": s.goes} for s in segments]
            fields["other_edges"] = edges
        return fields


def retry(
    delivery: Delivery, has_body: bool, keep: Retention, now: int
) -> Union[Delivery, Refusal]:
    if delivery.state == DELIVERED:
        return Refusal("delivered", "it was delivered, the receiver would get it twice")
    return resend(delivery, has_body, keep, now)


def resend(
    delivery: Delivery, has_body: bool, keep: Retention, now: int
) -> Union[Delivery, Refusal]:
    """Also what was delivered, to the wrong thing; with the same id."""
    if delivery.attempts >= MAX_ATTEMPT:
        text = "it has had {most} attempts, as many as can be counted"
        return Refusal("attempts", text, {"most": MAX_ATTEMPT})
    if not has_body:
        why = _gone(delivery, keep, now)
        return Refusal(why.code, f"its case is gone: {why.text}", why.values)
    return machine.sent_again(delivery, now)


def cancel(
    delivery: Delivery, has_body: bool, keep: Retention, now: int
) -> Union[Delivery, Refusal]:
    if delivery.state == DELIVERED:
        return Refusal("delivered", "it was delivered, nothing can be taken back")
    if delivery.state == CANCELLED:
        return delivery
    return machine.cancelled(delivery, now)


def forget(
    delivery: Delivery, has_body: bool, keep: Retention, now: int
) -> Union[Delivery, Refusal]:
    after = delivery
    if delivery.state == PENDING:
        after = machine.cancelled(delivery, now)
    return after._replace(
        case=None,
        ticket_id=None,
        content_type=None,
        digest=None,
        refusal=None,
        forgotten=True,
        updated=max(after.updated, now),  # a record from before tells of the old one
    )


RETRY = Act("retry", "retried", retry)
RESEND = Act("resend", "sent again", resend)
CANCEL = Act("cancel", "cancelled", cancel)
FORGET = Act("forget", "forgotten", forget)


def no_body(delivery: Delivery, keep: Retention, now: int) -> str:
    """Why the case of a delivery is not in the store."""
    return str(_gone(delivery, keep, now))


def _gone(delivery: Delivery, keep: Retention, now: int) -> Refusal:
    if delivery.forgotten:
        return Refusal("forgotten", "it was forgotten, by an operator")
    kept = max(delivery.updated, delivery.noted)
    if delivery.state != PENDING and kept < now - keep.bodies * 1000:
        text = "cases are kept for {days} days (retention.bodies)"
        return Refusal("expired", text, {"days": f"{keep.bodies / 86400:g}"})
    if delivery.state == DELIVERED:
        text = "nginx journals the cases that it delivered with bodies=all only"
        return Refusal("not_journaled", text)
    return Refusal("unread", "the record that held it was never read")


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
            if isinstance(after, Refusal):
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
    """Rid SQLite's index of searches, and its log of changes, of what was erased.

    Others may write between its steps.  False if somebody reads or writes for too
    long, so that the log is as it was: then a later one does it.
    """
    if not store.sqlite:
        return True
    more, begin = True, True
    while more:
        began = time.monotonic()
        with store.writing() as connection:
            more = search.let_go(connection, begin)
        begin = False
        time.sleep(min(time.monotonic() - began, REST_SECONDS))
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
    names = {id.encode() for id in ids}
    for segment in journal.segments(config.journal):
        try:
            if ids and _holds(segment.path, names):
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
    edges.count(connection)


def _callbacks(connection: Connection, told: list[Delivery]) -> list[Delivery]:
    """The callbacks that nginx took, which name the case and ticket id."""
    ids = {
        notices.callback_id(notice.key)
        for delivery in told
        for notice in notices.of_delivery(connection, delivery)
        if notice.kind == notices.CALLBACK
    }
    known = {each.seq for each in told}
    found = deliveries.by_ids(connection, ids) if ids else {}
    return [each for each in found.values() if each.seq not in known]


def _holds(path: str, names: Collection[bytes]) -> bool:
    with open(path, "rb") as file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # it is empty
            return False
        with content:
            return any(
                found[1] in names for mark in _MARKS for found in mark.finditer(content)
            )


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
