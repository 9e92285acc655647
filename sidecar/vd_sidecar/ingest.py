# Copyright (C) The ngx_vd_module authors
"""From the journal into the store: each record once, and nothing lost.

A step reads a bounded number of whole lines, and commits what they say together
with how far they were read.  A crash between two steps is no event at all.

A store may go back in time: a replica takes over that had not heard of the last
seconds, a backup is put back.  Then its mark is not the one that was written last,
and the journal is read again, from where the store knows it.
"""

from __future__ import annotations

import os
import time
from typing import Mapping, Optional, Union

import structlog
from attrs import evolve, field, frozen, mutable
from sqlalchemy.engine import Connection
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
)

from . import journal
from .batch import Batch, set_aside
from .clock import steady
from .config import Config
from .findings import mend_journal
from .journal import End, Header, Segment
from .model import Delivery, Record, Reject
from .store import Store, edges, reason, segments, wall_clock
from .store.segments import Position

LINES = 5000  # a batch that has so many, or so many bytes, takes no further chunk
BYTES = 4 << 20
CHUNK = 1 << 18  # bytes
LOCK_SECONDS = 1.0  # how often a silent segment's lock is tried
SWEEP_SECONDS = 60.0
COMPLAIN_SECONDS = 60.0
LOOK_SECONDS = 1.0  # how often a journal that is silent has the store's mark looked at
HOLD_SECONDS = 60.0  # for other edges, which read their journals again

log = structlog.get_logger()


@frozen
class Progress:
    """What a step did."""

    records: int
    more: bool  # whether there may be more to read at once
    changed: list[Delivery]
    settled: set[int]  # deliveries whose lease ended


class _WentBack(Exception):
    """The store is not as it was left."""


OF_THE_LINE = (DataError, IntegrityError, NotSupportedError, ProgrammingError)
PROGRAM_LIMIT = "54"  # a class of PostgreSQL's errors, to psycopg2 "operational"

Line = Union[Record, Header, End, str]  # a str says why it is set aside
Item = tuple[str, int, bytes, Line]  # segment, offset, the line, what it says


@mutable
class _Batch:
    """Lines that were read and are to be committed."""

    items: list[Item] = field(factory=list)
    positions: dict[str, Position] = field(factory=dict)
    bytes: int = 0
    ends: set[str] = field(factory=set)  # segments that were read as far as they go

    @property
    def full(self) -> bool:
        """Whether something may be left unread."""
        return len(self.items) >= LINES or self.bytes >= BYTES


class Ingest:
    """Takes the records of one journal directory; used by one thread."""

    def __init__(self, store: Store, config: Config) -> None:
        self._store = store
        self._config = config
        self._positions: Optional[dict[str, Position]] = None
        self._unseen: Optional[set[str]] = None  # not read to the end since then
        self._mark = edges.ASKED
        self._next = edges.ASKED  # what a commit would have made of it
        self._number = 0  # of the last batch of all edges that was seen
        self._looked = 0.0
        self._tried: dict[str, float] = {}
        self._complained: dict[str, float] = {}
        self.unreadable: dict[str, str] = {}  # paths of segments, and why
        self.undeletable: dict[str, str] = {}
        self._swept = 0.0
        self.scanned = steady()  # when a look began that left nothing unread
        self.unread = 0  # bytes
        self.segments = 0  # files in the directory
        self.records = 0
        self.rejects = 0
        self.oldest: Optional[float] = None  # when the oldest unread was written
        self.went_back: Optional[float] = None  # when the store did

    @property
    def caught_up(self) -> bool:
        """Whether all was taken that the journal held when the store was opened.

        Or when it went back in time: until then it may take for pending what was
        delivered.
        """
        return self._unseen is not None and not self._unseen

    def may_claim(self, connection: Connection, now: int) -> bool:
        """Whether nothing is known to be missing in the store, of any edge."""
        left = edges.look(connection, self._config.edge)
        since = now - HOLD_SECONDS * 1000  # one that is gone is not waited for
        return (
            self.caught_up
            and self._is_ours(left)
            and not any(since < each <= now for each in left.behind)
        )

    def step(self) -> Progress:
        """Take what the journal holds, up to a limit.

        Raises ``OSError`` if the directory cannot be read, and
        SQLAlchemy's errors if the store is away; then nothing was taken, and the
        next step begins where this one did.
        """
        began = steady()
        if self._positions is None or not self._look():
            self._load()

        found = journal.segments(self._config.journal)
        self.segments = len(found)
        if self._unseen is None:
            self._unseen = {each.uuid for each in found}
        batch = self._read(found)
        try:
            progress = self._commit(batch)
        except _WentBack:
            self._load()
            return Progress(0, True, [], set())
        self._catch_up(found, batch)
        self._clean(found)

        if not progress.more:
            self.scanned = began
        return progress

    def _is_ours(self, left: edges.Left) -> bool:
        """Whether the store holds all that it was seen to hold."""
        ours = left.mark == self._mark and left.number >= self._number
        if ours:
            self._number = left.number
        return ours

    def _look(self) -> bool:
        """The same, now and then."""
        if steady() - self._looked < LOOK_SECONDS:
            return True
        with self._store.reading() as connection:
            left = edges.look(connection, self._config.edge)
        self._looked = steady()
        return self._is_ours(left)

    def _load(self) -> None:
        """Learn from the store how far the journal was taken."""
        edge = self._config.edge
        mark = edges.new_mark()
        first = self._positions is None

        with self._store.writing() as connection:
            now = self._store.now(connection)
            left = edges.look(connection, edge)
            asked = left.mark == edges.ASKED
            lost = not first and not asked and not self._is_doubtful(left)
            if lost:
                edges.ask(connection, now)
            positions = segments.positions(connection, edge)
            behind = now if lost or asked else None
            edges.begin(connection, edge, mark, left.number + 1, behind)

        if lost or asked:
            self.went_back = time.time()
            log.error(
                "the store has gone back in time, or another sidecar has this edge's"
                " name: the journal is read again",
                edge=edge,
                asked_by_another=asked,
            )
        self._positions = positions
        self._mark = self._next = mark
        self._number = left.number + 1
        self._looked = steady()
        self._unseen = None

    def _is_doubtful(self, left: edges.Left) -> bool:
        """Whether it is as a commit may have left it whose answer was lost."""
        return left.mark in (self._mark, self._next) and left.number >= self._number

    def _catch_up(self, found: list[Segment], batch: _Batch) -> None:
        """Note what was read to its end by now, or is not there any more."""
        if not self._unseen:
            return
        self._unseen &= {each.uuid for each in found}
        self._unseen -= batch.ends
        if not self._unseen:
            with self._store.writing() as connection:
                edges.catch_up(connection, self._config.edge)

    def _read(self, found: list[Segment]) -> _Batch:
        batch = _Batch()
        unreadable: dict[str, str] = {}
        self.unread = 0
        self.oldest = None

        for segment in found:
            if self._position(segment).done is not None:
                batch.ends.add(segment.uuid)
                continue
            try:
                self._read_on(segment, batch)
            except OSError as error:  # it stops no other segment
                unreadable[segment.path] = error.strerror or str(error)
                batch.ends.add(segment.uuid)
        self.unreadable = unreadable
        self._complain("segments cannot be read", unreadable)
        return batch

    def _read_on(self, segment: Segment, batch: _Batch) -> None:
        """Add what is new in ``segment`` to ``batch``, if it has room."""
        known = position = self._position(segment)
        ended = False

        if segment.size > position.position:
            self._behind(segment, segment.size - position.position)
            if batch.full:
                return
            position, ended = self._read_segment(segment, position, batch)
        else:
            batch.ends.add(segment.uuid)

        if ended or self._abandoned(segment, position):
            position = evolve(position, done=wall_clock())
        if position != known:
            batch.positions[segment.uuid] = position

    def _complain(self, event: str, closed: Mapping[str, str]) -> None:
        """At once, and then once a minute for as long as it is so."""
        now = time.monotonic()
        if not closed:
            self._complained.pop(event, None)
            return
        if now - self._complained.get(event, -COMPLAIN_SECONDS) < COMPLAIN_SECONDS:
            return
        self._complained[event] = now
        path, why = next(iter(closed.items()))
        log.error(
            event,
            count=len(closed),
            path=path,
            error=why,
            remedy=mend_journal(self._config.journal),
        )

    def _read_segment(
        self, segment: Segment, position: Position, batch: _Batch
    ) -> tuple[Position, bool]:
        """Add the segment's next lines to ``batch``; whether its end was seen."""
        offset = position.position
        records = position.records
        ended = False

        while True:
            lines = journal.read_lines(segment.path, offset, CHUNK)
            if not lines:
                batch.ends.add(segment.uuid)
                break
            for line in lines:
                parsed = _parse(line, segment.uuid, offset)
                records += isinstance(parsed, (Record, str))

                if isinstance(parsed, End):
                    ended = True
                    if parsed.records != records:
                        parsed = f"{parsed.records} records by its end, {records} read"

                batch.items.append((segment.uuid, offset, line, parsed))
                batch.bytes += len(line)
                offset += len(line) + 1

                if ended:
                    break
            if ended:
                batch.ends.add(segment.uuid)
            if ended or batch.full:
                break

        return evolve(position, position=offset, records=records), ended

    def _position(self, segment: Segment) -> Position:
        assert self._positions is not None
        known = self._positions.get(segment.uuid)
        return known or Position(segment.uuid, self._config.edge, 0, 0, None)

    def _behind(self, segment: Segment, size: int) -> None:
        self.unread += size
        if self.oldest is None or segment.changed < self.oldest:
            self.oldest = segment.changed

    def _abandoned(self, segment: Segment, position: Position) -> bool:
        """Whether the writer is gone and all whole lines were taken.

        The lock is tried before the last look at the size, so that nothing can
        come after it.
        """
        now = time.monotonic()
        if now - self._tried.get(segment.uuid, 0.0) < LOCK_SECONDS:
            return False
        self._tried[segment.uuid] = now

        if not journal.writer_gone(segment.path):
            return False
        if journal.read_lines(segment.path, position.position, CHUNK):
            return False

        rest = os.stat(segment.path).st_size - position.position
        if rest > 0:
            log.warning(
                "half a line at the end of a segment whose writer is gone",
                segment=segment.uuid,
                bytes=rest,
            )
        return True

    def _commit(self, batch: _Batch) -> Progress:
        if not batch.positions:
            return Progress(0, False, [], set())
        try:
            progress = self._take(batch)
        except _WentBack:
            raise
        except Exception as error:
            if _away(error):
                raise
            log.error(
                "a batch cannot be stored, looking for the lines that are to blame",
                error=reason(error),
            )
            progress = self._take_parts(batch)

        assert self._positions is not None
        self._positions.update(batch.positions)
        self.records += progress.records
        return progress

    def _take(self, batch: _Batch) -> Progress:
        """Commit a batch as a whole."""
        records = [item[3] for item in batch.items if isinstance(item[3], Record)]
        rejects = [_reject(item) for item in batch.items if isinstance(item[3], str)]

        self._next = edges.new_mark()
        with self._store.writing() as connection:
            left = edges.look(connection, self._config.edge)
            if not self._is_ours(left):
                raise _WentBack
            number = left.number + 1
            edges.leave(connection, self._config.edge, self._next, number)
            now = self._store.now(connection)
            changes = Batch(connection, self._config, now)
            if records:
                changes.load({record.id for record in records})
            taken = sum(changes.take(record) for record in records)
            changed = changes.write()
            if rejects:
                set_aside(connection, self._config, now, rejects)
            segments.save_positions(connection, batch.positions.values())

        self._mark, self._number = self._next, number
        self._looked = steady()
        self._log_rejects(rejects)
        return Progress(taken, batch.full, changed, changes.settled)

    def _take_parts(self, batch: _Batch) -> Progress:
        """Commit the lines that can be stored, and set aside those that cannot.

        The positions come last: a line that is taken twice changes nothing.
        """
        self._take(_Batch())  # or it is not the lines that it will not have
        progress = self._take_halves(batch.items)
        self._take(_Batch(positions=batch.positions))
        return evolve(progress, more=True)

    def _take_halves(self, items: list[Item]) -> Progress:
        try:
            return self._take(_Batch(items=items))
        except _WentBack:
            raise
        except Exception as error:
            if _away(error):
                raise
            if len(items) > 1:
                middle = len(items) // 2
                one, two = map(self._take_halves, (items[:middle], items[middle:]))
                return Progress(
                    one.records + two.records,
                    True,
                    one.changed + two.changed,
                    one.settled | two.settled,
                )
            [(segment, offset, line, _)] = items
            why = f"cannot be stored: {reason(error)}"[:500]
            return self._take(_Batch(items=[(segment, offset, line, why)]))

    def _log_rejects(self, rejects: list[Reject]) -> None:
        self.rejects += len(rejects)
        for each in rejects:
            log.error(
                "a line of the journal was set aside",
                segment=each.segment,
                offset=each.offset,
                why=each.why,
            )

    def _clean(self, found: list[Segment]) -> None:
        """Delete segments that were taken to the end, and what was never one."""
        assert self._positions is not None
        keep = self._config.retention.segments
        now = time.time()
        undeletable: dict[str, str] = {}

        for segment in found:
            position = self._position(segment)
            if position.done is None:
                continue
            done = position.done / 1000
            if done > now:
                # by a clock that was wrong: it would be kept until then

                done = now
                position = evolve(position, done=int(now * 1000))
                self._positions[segment.uuid] = position
            if done + keep <= now:
                try:
                    _unlink(segment.path)
                except OSError as error:
                    undeletable[segment.path] = error.strerror or str(error)
                    continue
                self._tried.pop(segment.uuid, None)
        self.undeletable = undeletable
        self._complain("segments cannot be deleted", undeletable)

        if time.monotonic() - self._swept > SWEEP_SECONDS:
            self._swept = time.monotonic()
            for path in journal.unborn(self._config.journal, now - SWEEP_SECONDS):
                log.info("deleted what a dead worker left", path=path)
                _unlink(path)


def _away(error: Exception) -> bool:
    """Whether the store is away, full or broken, as opposed to: it will not have this."""
    if not isinstance(error, DBAPIError) or isinstance(error, OF_THE_LINE):
        return False
    return (getattr(error.orig, "pgcode", None) or "")[:2] != PROGRAM_LIMIT


def _parse(line: bytes, segment: str, offset: int) -> Union[Record, Header, End, str]:
    """What a line says, or why it is set aside."""
    try:
        parsed = journal.parse(line)
    except journal.BadLine as error:
        return str(error)
    if not isinstance(parsed, Record) and parsed.segment != segment:
        return f"a line of another segment, {parsed.segment}"
    if isinstance(parsed, Header) and offset != 0:
        return "a first line that is not the first"
    return parsed


def _reject(item: Item) -> Reject:
    segment, offset, line, why = item
    return Reject(0, segment, offset, str(why), line)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
