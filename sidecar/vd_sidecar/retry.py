# Copyright (C) The ngx_vd_module authors
"""Attempts of what is due: claimed under a lease, made by nginx, settled by the journal.

An answer says that an attempt is over; what came of it is taken from the
journal, as with any attempt.  Only an attempt that nginx could not journal is
settled by its answer.  When an answer is lost, its place stays taken until the
journal tells, or the lease ends: then it counts as nginx's refusal.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Awaitable, Callable, Coroutine, Iterable, Optional
from typing import Protocol, TypeVar

import structlog
from attrs import evolve, frozen
from sqlalchemy.engine import Connection

from . import machine
from .batch import Batch
from .clock import steady
from .config import Config
from .ingest import Ingest
from .model import BODY_MISSING, DELIVERED, FAILED
from .model import Answer, Claim, Content, Delivery
from .nginx import Lost, Nginx, NotSent, Refused
from .store import Store, deliveries, edges, notices, reason

NOTICE_SECONDS = 3600.0  # for which a notice is put off at most
POLL_SECONDS = 0.25
AHEAD = 8  # how many times per_output are claimed, so that none waits for the disk
AHEAD_SECONDS = 0.5  # or as many as begin within this, where they are quick
AHEAD_MOST = 256  # and no more then: who knows how large their bodies are
LOW = 0.5  # the share of them that is missing when it is time to claim
SOME = 0.25  # the share that other outputs then miss at least, to be served too
JOURNAL_SECONDS = 2.0  # after that a journaled answer's record is elsewhere
REST_SECONDS = (1.0, 2.0, 5.0, 10.0)  # while nginx is away
CORRECT_SECONDS = 60.0
BODIES_BYTES = 32 << 20  # of all attempts under way; a larger one goes alone

log = structlog.get_logger()
T = TypeVar("T")


class InWriter(Protocol):
    def __call__(self, function: Callable[[], T]) -> Awaitable[T]:
        """Run a function in the thread that writes to the store."""


@frozen
class _Held:
    """A claim, and when it was made."""

    claim: Claim
    since: float


@frozen
class _Answered:
    """What is to be settled by its answer, if the journal does not tell before."""

    claim: Claim
    answer: Optional[Answer]  # None: there was no attempt
    since: float
    refusal: Optional[str] = None  # None, too: there is nothing to send
    lost: bool = False  # ``since`` its lease ended, for all that was heard


class Retry:
    """Makes the attempts of one edge."""

    def __init__(
        self,
        store: Store,
        config: Config,
        ingest: Ingest,
        nginx: Nginx,
        in_writer: InWriter,
    ) -> None:
        self._store = store
        self._config = config
        self._ingest = ingest
        self._nginx = nginx
        self._in_writer = in_writer

        self._waiting: dict[str, deque[_Held]] = defaultdict(deque)
        self._running: Counter[str] = Counter()
        self._begun: Counter[str] = Counter()  # attempts, since then
        self._begun_since = steady()
        self._pace: Counter[str] = Counter()  # attempts within AHEAD_SECONDS
        self._bytes = 0  # of the bodies of attempts under way
        self._beginning: list[_Held] = []  # they have places, but no bodies
        self._looking = False
        self._looker = ThreadPoolExecutor(1, "looker")  # one has one heap to fill
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._mine: set[int] = set()  # under lease, and not settled yet
        self._answered: dict[int, _Answered] = {}
        self._lost: dict[int, _Held] = {}
        self._returned: list[Claim] = []

        self._wake = asyncio.Event()
        self._failures = 0  # in a row, to reach nginx
        self._rest_until = 0.0
        self._corrected = -CORRECT_SECONDS
        self.answers = 0  # of nginx, to attempts
        self.outcomes: Counter[str] = Counter()  # of attempts, as far as was heard

    @property
    def in_flight(self) -> int:
        """Attempts under way, those included whose answer was lost."""
        return self._running.total()

    @property
    def claims(self) -> int:
        """Deliveries under lease that are not settled yet."""
        return len(self._mine)

    def wake(self) -> None:
        """Something may be due."""
        self._wake.set()

    def settled(self, seqs: Iterable[int]) -> None:
        """The journal told what came of these."""
        for seq in seqs:
            self._mine.discard(seq)
            self._answered.pop(seq, None)
            held = self._lost.pop(seq, None)
            if held is not None:
                self._free(held.claim.output)

    async def step(self) -> None:
        """Settle, claim, start; then wait until there is more to do, a moment at most.

        Raises SQLAlchemy's errors if the store is away: what was claimed stays
        claimed, and the next step goes on.
        """
        self._wake.clear()
        self._end_lost()
        await self._settle_by_answer()
        await self._give_back()

        began = steady()
        self._take_pace(began)
        if not self._resting():
            for claim in await self._in_writer(self._claim):
                self._mine.add(claim.seq)
                self._waiting[claim.output].append(_Held(claim, began))
            self._start()

        try:
            await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)
        except asyncio.TimeoutError:
            pass

    async def stop(self, grace: float) -> None:
        """Give back what has not begun; what has may end within ``grace`` seconds."""
        self._stopping = True
        for queue in self._waiting.values():
            self._returned += [held.claim for held in queue]
            queue.clear()
        await self._give_back()

        if self._tasks:
            log.info("finishing the attempts under way", attempts=len(self._tasks))
            await asyncio.wait(self._tasks, timeout=grace)
        for task in self._tasks:
            task.cancel()
        self._looker.shutdown(wait=False)

        await self._settle_by_answer()
        await self._give_back()

    def _claim(self) -> list[Claim]:
        """Claims for the outputs that have room; runs in the writer's thread."""
        unread = round((steady() - self._ingest.scanned) * 1000)

        with self._store.reading() as connection:
            now = self._store.now(connection)
            due = deliveries.due_outputs(connection, now, now - unread)

        correct = steady() - self._corrected >= CORRECT_SECONDS

        if not any(self._room(output, LOW) for output in due) and not correct:
            return []

        claims: list[Claim] = []
        with self._store.writing() as connection:
            now = self._store.now(connection)
            if not self._ingest.may_claim(connection, now):
                return []
            if correct:
                self._correct(connection, now)
            for output in due:
                if limit := self._room(output, SOME):
                    claims += deliveries.claim(
                        connection,
                        output,
                        self._config.edge,
                        now=now,
                        scanned=now - unread,
                        lease=machine.lease(self._config.output(output).retry),
                        limit=limit,
                        exclude=self._mine.copy(),
                    )
        return claims

    def _correct(self, connection: Connection, now: int) -> None:
        """A clock that was set back must not leave what is due waiting for it."""
        for output in deliveries.outputs(connection):
            retry = self._config.output(output).retry
            count = deliveries.bring_forward(
                connection,
                output,
                now,
                longest=machine.longest_wait(retry),
                lease=machine.lease(retry),
                edge=self._config.edge,
                others=machine.lease(evolve(retry, timeout=machine.TIMEOUT_MAX)),
            )
            if count:
                log.warning(
                    "due later than possible, brought forward: was the clock set back?",
                    output=output,
                    deliveries=count,
                )
        alerts = [each.alerts for each in self._config.outputs.values()]
        window = max(each.window for each in [self._config.alerts, *alerts])
        if notices.bring_forward(connection, now, max(window, NOTICE_SECONDS) + 60.0):
            log.warning("notices were due later than possible, brought forward")
        self._corrected = steady()

    def _resting(self) -> bool:
        return steady() < self._rest_until

    def _take_pace(self, now: float) -> None:
        if now - self._begun_since >= AHEAD_SECONDS:
            self._pace, self._begun = self._begun, Counter()
            self._begun_since = now

    def _most(self, output: str) -> int:
        """How many to hold that wait for their attempt."""
        least = self._config.output(output).retry.per_output * AHEAD
        return max(least, min(self._pace[output], AHEAD_MOST))

    def _room(self, output: str, share: float) -> int:
        """How many more to hold; 0 if less than ``share`` of them are missing."""
        most = self._most(output)
        missing = most - len(self._waiting.get(output, ()))
        return missing if missing >= most * share else 0

    def _start(self) -> None:
        """Start what waits as far as the limits allow, the idlest output first."""
        while not self._resting() and not self._stopping:
            if self.in_flight >= self._config.retry.concurrency:
                return
            able = [
                output
                for output, queue in self._waiting.items()
                if queue
                and self._running[output] < self._config.output(output).retry.per_output
            ]
            if not able:
                return
            output = min(able, key=self._running.__getitem__)
            queue = self._waiting[output]
            held = queue[0]

            if held.claim.seq not in self._mine:
                queue.popleft()
                continue  # it was settled while it waited

            if steady() - held.since > self._config.output(output).retry.timeout / 2:
                queue.popleft()
                self._returned.append(held.claim)
                continue

            # what is too large for now has its turn before what is small

            size = held.claim.size or 0
            if self._bytes and self._bytes + size > BODIES_BYTES:
                return

            queue.popleft()
            self._bytes += size
            self._running[output] += 1
            self._begun[output] += 1
            self._beginning.append(held)
            if not self._looking:
                self._looking = True
                self._spawn(self._begin())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _free(self, output: str) -> None:
        """An attempt's place is free: there may be another for it."""
        self._running[output] -= 1
        self._start()
        if self._room(output, LOW):
            self._wake.set()

    async def _begin(self) -> None:
        """Begin what has a place, unless it was cancelled, forgotten or lost meanwhile.

        All that came during one look at the store share the next.
        """
        loop = asyncio.get_running_loop()
        try:
            while self._beginning:
                several, self._beginning = self._beginning, []
                claims = [held.claim for held in several]
                try:
                    contents = await loop.run_in_executor(
                        self._looker, self._ready, claims
                    )
                except Exception as error:  # whatever it is, it costs no place
                    log.error("cannot look at what is due", error=reason(error))
                    contents = {}
                    self._rest_until = steady() + REST_SECONDS[0]
                for held in several:
                    if held.claim.seq in contents and self._may_begin(held):
                        content = contents.pop(held.claim.seq)  # no second one here
                        self._spawn(self._attempt(held, content))
                        del content
                    else:
                        self._returned.append(held.claim)
                        self._end(held.claim)
        finally:
            self._looking = False

    def _may_begin(self, held: _Held) -> bool:
        """Whether its attempt ends within its lease, however long the look has taken."""
        timeout = self._config.output(held.claim.output).retry.timeout
        return not self._stopping and steady() - held.since <= timeout

    def _ready(self, claims: list[Claim]) -> dict[int, Optional[Content]]:
        with self._store.reading() as connection:
            return deliveries.ready(connection, claims, self._config.edge)

    def _end(self, claim: Claim, lost: bool = False) -> None:
        """Free what an attempt has taken, but its place if its end is not known."""
        self._bytes -= claim.size or 0
        if lost:
            self._start()
        else:
            self._free(claim.output)

    async def _attempt(self, held: _Held, content: Optional[Content]) -> None:
        """Make an attempt, and free its place whatever comes of it."""
        claim = held.claim
        lost = False
        try:
            lost = await self._make(held, content)
        except Exception as error:
            log.exception("an attempt went wrong", delivery=claim.id)
            heard = f"the sidecar itself failed: {type(error).__name__}, see its log"
            self._answered[claim.seq] = _Answered(claim, None, steady(), heard)
        finally:
            self._end(claim, lost)

    async def _make(self, held: _Held, content: Optional[Content]) -> bool:
        """Have nginx make the attempt; True if the answer was lost."""
        claim = held.claim
        about = log.bind(delivery=claim.id, output=claim.output, attempt=claim.attempt)

        if content is None:
            about.error("it cannot be attempted: its body was never journaled")
            self._answered[claim.seq] = _Answered(claim, None, steady())
            return False

        try:
            answer = await self._nginx.attempt(
                claim.uri,
                content,
                id=claim.id,
                output=claim.output,
                attempt=claim.attempt,
                content_type=claim.content_type,
                case=claim.case,
                timeout=self._config.output(claim.output).retry.timeout,
            )
        except Refused as error:
            self.outcomes["refused"] += 1
            about.warning("nginx made no attempt", heard=str(error))
            self._answered[claim.seq] = _Answered(claim, None, steady(), str(error))
        except NotSent as error:
            self.outcomes["not_sent"] += 1
            self._rest(str(error))
            self._returned.append(claim)
        except Lost as error:
            self.outcomes["lost"] += 1
            heard = str(error)
            about.warning("the answer was lost, the journal will tell", heard=heard)
            if claim.seq in self._mine:
                heard += "; the journal does not tell of an attempt"
                ends = held.since + machine.lease(
                    self._config.output(claim.output).retry
                )
                self._answered[claim.seq] = _Answered(claim, None, ends, heard, True)
                self._lost[claim.seq] = held
                return True
        else:
            self._failures = 0
            self.answers += 1
            self.outcomes[DELIVERED if answer.state == DELIVERED else FAILED] += 1
            about.info(
                "attempted",
                state=answer.state,
                status=answer.status,
                reason=answer.reason,
                ticket_id=answer.ticket_id,
            )
            if claim.seq in self._mine:
                self._answered[claim.seq] = _Answered(claim, answer, steady())
        return False

    def _rest(self, error: str) -> None:
        """Make no attempts for a while."""
        seconds = REST_SECONDS[min(self._failures, len(REST_SECONDS) - 1)]
        if not self._resting():
            log.error(
                "nginx takes no attempts, resting",
                nginx=self._config.nginx,
                error=error,
                seconds=seconds,
            )
            self._failures += 1
        self._rest_until = steady() + seconds

    def _end_lost(self) -> None:
        """Free the places of attempts that are over by now, whatever came of them."""
        for seq, held in list(self._lost.items()):
            retry = self._config.output(held.claim.output).retry
            if steady() - held.since > machine.lease(retry):
                del self._lost[seq]
                self._free(held.claim.output)

    async def _settle_by_answer(self) -> None:
        now = steady()
        ready = [each for each in self._answered.values() if self._untold(each, now)]
        if not ready:
            return
        await self._in_writer(lambda: self._settle(ready))
        for each in ready:
            self._answered.pop(each.claim.seq, None)
            self._mine.discard(each.claim.seq)

    def _untold(self, answered: _Answered, now: float) -> bool:
        """Whether the journal has nothing to say of an attempt."""
        if answered.lost:
            return now > answered.since and self._ingest.scanned > answered.since
        if answered.answer is None or not answered.answer.journaled:
            return True
        return (
            now - answered.since > JOURNAL_SECONDS
            and self._ingest.scanned > answered.since + JOURNAL_SECONDS
        )

    def _settle(self, answers: list[_Answered]) -> None:
        with self._store.writing() as connection:
            now = self._store.now(connection)
            batch = Batch(connection, self._config, now)
            batch.load({each.claim.id for each in answers})
            for each in answers:
                until = None if each.lost else now
                delivery = deliveries.held(connection, each.claim, until)
                if delivery is not None:
                    self._settle_one(batch, each, delivery, now)
            batch.write()
            edges.count(connection)

    def _settle_one(
        self, batch: Batch, answered: _Answered, delivery: Delivery, now: int
    ) -> None:
        about = log.bind(delivery=delivery.id, output=delivery.output)

        if answered.refusal is not None:
            retry = self._config.output(delivery.output).retry
            after = machine.refused(delivery, answered.refusal, retry, now)
            batch.change(delivery, after)
            return
        if answered.answer is None:
            batch.change(delivery, machine.given_up(delivery, BODY_MISSING, now))
            return
        if answered.answer.journaled:
            about.error(
                "nginx journaled an attempt elsewhere: is its vd_journal this one?",
                journal=self._config.journal,
            )
        else:
            about.warning("an attempt was not journaled, its answer counts")
        batch.take(machine.answered(answered.claim, answered.answer, delivery))

    async def _give_back(self) -> None:
        if not self._returned:
            return
        claims = self._returned[:]
        await self._in_writer(lambda: self._return(claims))
        del self._returned[: len(claims)]
        self._mine.difference_update(claim.seq for claim in claims)

    def _return(self, claims: list[Claim]) -> None:
        with self._store.writing() as connection:
            deliveries.give_back(connection, claims)
