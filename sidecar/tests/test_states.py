# Copyright (C) The ngx_vd_module authors
"""Whatever happens, in whatever order: each delivery is in its one right state.

Two edges with a journal each work on one store; apps come and come back, attempts
end in every way, records come late or twice, processes die, clocks jump, operators
act.  After each step the store is compared with a model that knows no tables.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence, TypeVar

import pytest
from attrs import define, evolve, field
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import event

from profiles import LONG, examples
from stores import START, Clock, dump, empty
from vd_sidecar import acts, machine
from vd_sidecar.batch import Batch
from vd_sidecar.config import Alerts, Backup, Callback, Config
from vd_sidecar.config import Retry as Rules
from vd_sidecar.journal import digest
from vd_sidecar.model import Answer, Claim, Record
from vd_sidecar.retry import Retry, _Answered
from vd_sidecar.store import Store, deliveries, notices, schema, segments
from vd_sidecar.store.segments import Position

LIMIT = 2
WINDOW = 300.0
RULES = Rules(
    attempts=LIMIT, backoff=(10.0, 60.0), jitter=0.0, timeout=30.0, refused_for=200.0
)
LEASE = machine.lease(RULES)
EDGES = ("A", "B")
Key = tuple[str, str]
T = TypeVar("T")


EITHER = (0, 1)
OUTPUTS = ("28", "28", "28", "29")
OUTCOMES = ("failed", "failed", "accepted", "delivered")
SPANS = (0.001, 1, 5, 9, 11, 30, 59, 61, 300, 4000)
BACK = (1, 30, 100, 3600, 100_000)
SKEWS = (0, -3600, 3600, -2, 2)
SIZES = (1, 2, 99, 99, 99)
SOME = (True, False, False)
KINDS = ("alert-mail", "backup", "callback")
CRASHES = (None,) * 10 + tuple(range(10))
ACTS = (acts.RETRY, acts.RETRY, acts.CANCEL, acts.FORGET)
ANY = tuple(range(12))
CONTENTS = (b"{}", b"[]", b"0")
CONTENT_OF: Mapping[Optional[str], bytes] = {
    None: b"",
    **{digest(each): each for each in CONTENTS},
}

Choices = Mapping[str, Sequence[Any]]
WRITE: Choices = {"crash": CRASHES}

# How often each rule is followed on a random walk, and with what.

WALK: Mapping[str, tuple[int, Choices]] = {
    "time_passes": (4, {"seconds": SPANS}),
    "something_gets_due": (14, {"number": (0, 0, 1, 2)}),
    "clock_is_set_back": (1, {"seconds": BACK}),
    "clock_of_an_edge_differs": (1, {"edge": EITHER, "seconds": SKEWS}),
    "app_sends": (
        12,
        {
            "edge": EITHER,
            "later": (0, 0, 0, 1),
            "output": OUTPUTS,
            "outcome": OUTCOMES[:3] * 5 + OUTCOMES[3:],
            "ticket": SOME,
            "other": (0,) * 8 + (1, 2),
        },
    ),
    "record_comes_twice": (3, {"edge": EITHER, "number": ANY, "other": SOME}),
    "ingest": (24, {"edge": EITHER, "most": SIZES, **WRITE}),
    "claim": (
        18,
        {
            "edge": EITHER,
            "output": OUTPUTS,
            "limit": (1, 2, 3),
            "begin": (True, True, False),
            **WRITE,
        },
    ),
    "attempt_begins": (3, {"number": ANY}),
    "attempt_ends_in_the_journal": (
        12,
        {"number": ANY, "delivered": SOME[1:] * 4 + SOME[:1]},
    ),
    "attempt_ends_without_a_record": (
        7,
        {"number": ANY, "delivered": SOME[1:] * 4 + SOME[:1], **WRITE},
    ),
    "nginx_refuses": (4, {"number": ANY, **WRITE}),
    "there_is_nothing_to_send": (3, {"number": ANY, **WRITE}),
    "claim_is_given_back": (5, {"number": ANY, **WRITE}),
    "sidecar_is_killed": (1, {"edge": EITHER}),
    "claims_are_written_off": (2, {"edge": EITHER}),
    "clock_is_corrected": (2, WRITE),
    "notices_are_sent": (3, {"kind": KINDS, "ok": SOME}),
    "operator_acts": (5, {"number": ANY, "act": ACTS, **WRITE}),
}


class Crash(BaseException):
    """The process is gone."""


class ClockedStore(Store):
    """One whose time is the test's, on PostgreSQL too."""

    def now(self, connection: object) -> int:
        return self._clock()


@define
class Case:
    """What the model knows of a delivery, from what was taken and done."""

    state: str = "pending"
    attempts: int = 0
    round: int = 0  # attempts before it began
    told: int = START  # when it was heard of last
    lease: Optional[Claim] = None
    holder: str = ""
    ticket: Optional[str] = None
    forgotten: bool = False
    body: bool = False
    fences: int = 0
    content: bytes = b""  # which is its own; b"" if that is not known
    others: set[bytes] = field(factory=set)  # that came under its id as well
    firsts: set[bool] = field(factory=set)  # attempts 1 known: was one only accepted?
    ends: list[str] = field(factory=list)  # that the app is to be told
    given_up: int = 0
    refused: Optional[int] = None  # since when nginx makes no attempt
    refusals: int = 0
    alerted: bool = False
    backups: int = 0  # notices of that, of those that were not erased

    def replace(self, content: bytes, body: bool) -> None:
        self.others.add(self.content)
        self.others.discard(content)
        self.content, self.body = content, body

    def release(self) -> None:
        self.lease = None
        self.holder = ""

    def end(self, state: str) -> None:
        self.state = state
        if state != "cancelled":  # an attempt under way goes on
            self.release()
        self.ends.append(state)
        self.given_up += state == "failed"
        self.backups += state == "failed"
        self.alerted |= state == "failed"

    def fail(self, attempt: int) -> None:
        self.release()
        self.attempts = max(self.attempts, attempt)
        if self.state == "cancelled":
            return
        self.refused, self.refusals = None, 0
        if self.attempts - self.round >= LIMIT:
            self.end("failed")
        else:
            self.state = "pending"


@define
class Edge:
    """A journal, and the sidecar that reads it."""

    name: str
    config: Config
    journal: list[Record] = field(factory=list)
    taken: int = 0
    scanned: int = 0
    mine: list[Claim] = field(factory=list)  # which the sidecar knows to be its own
    skew: int = 0


@define
class Flight:
    """An attempt that nginx makes, whatever becomes of the sidecar."""

    edge: Edge
    claim: Claim
    content: bytes


def pick(some: Sequence[T], number: int) -> T:
    return some[number % len(some)]


def rule_of(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The rule of this name, for hypothesis, with what the walk has too."""
    _, choices = WALK[name]
    given: dict[str, Any] = {
        key: st.sampled_from(values) for key, values in choices.items()
    }
    decorate: Callable[[Callable[..., None]], Callable[..., None]] = rule(**given)
    return decorate


class World(RuleBasedStateMachine):
    store: Store
    clock: Clock

    def __init__(self) -> None:
        super().__init__()
        config = Config(
            journal="/nowhere",
            store="",
            nginx="",
            edge="",
            retry=RULES,
            alerts=Alerts(email=("ops@example.com",), window=WINDOW),
            backup=Backup(email=("archive@example.com",), when="failed"),
            callback=Callback(location="/callback"),
        )
        self.edges = [Edge(name, evolve(config, edge=name)) for name in EDGES]
        self.cases: dict[Key, Case] = {}
        self.known: set[tuple[Key, int, int]] = set()
        self.heard: set[Key] = set()  # for which an app has a 202 that was taken
        self.flights: list[Flight] = []
        self.numbers = 0
        self.sent = 0
        self.given_up: Counter[str] = Counter()  # as alerts count them
        self.refused: Counter[str] = Counter()  # as alerts count them
        self.set_back = False
        self.operated: set[Key] = set()

    @initialize(sent=st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=4))
    def apps_have_sent(self, sent: Sequence[str]) -> None:
        for number, outcome in enumerate(sent):
            edge = self.edges[number % 2]
            self.write(edge, "id-0", "28", 1, outcome, content=CONTENTS[0])
        for number in EITHER:
            self.ingest(number, 99, None)

    # What happens outside

    @rule_of("time_passes")
    def time_passes(self, seconds: float) -> None:
        self.clock.now += round(seconds * 1000)

    @precondition(lambda self: bool(self.cases))
    @rule_of("something_gets_due")
    def something_gets_due(self, number: int) -> None:
        """A delivery, or the end of a lease."""
        with self.store.reading() as connection:
            rows = dump(connection, schema.deliveries)
        dues = sorted({row["due"] for row in rows if row["due"] is not None})
        dues = [due for due in dues if due > self.clock.now]
        if dues:
            self.clock.now = pick(dues, number)

    @rule_of("clock_is_set_back")
    def clock_is_set_back(self, seconds: int) -> None:
        self.clock.now -= seconds * 1000
        self.set_back = True
        for edge in self.edges:  # by a clock that only goes forward
            edge.scanned = min(edge.scanned, self.clock.now)

    @rule_of("clock_of_an_edge_differs")
    def clock_of_an_edge_differs(self, edge: int, seconds: int) -> None:
        self.edges[edge].skew = seconds * 1000

    @rule_of("app_sends")
    def app_sends(
        self,
        edge: int,
        later: int,
        output: str,
        outcome: str,
        ticket: bool,
        other: int,
    ) -> None:
        """Each id a few times; what was delivered soon makes room for another."""
        self.sent += 1
        id = f"id-{self.sent // 8 + later}"
        content = CONTENTS[other]
        self.write(self.edges[edge], id, output, 1, outcome, ticket, content)

    @rule_of("record_comes_twice")
    def record_comes_twice(self, edge: int, number: int, other: bool) -> None:
        journal = self.edges[edge].journal
        if journal:
            target = self.edges[edge ^ other].journal
            target.append(journal[number % len(journal)])

    def write(
        self,
        edge: Edge,
        id: str,
        output: str,
        attempt: int,
        outcome: str,
        ticket: bool = False,
        content: bytes = b"",
    ) -> None:
        """``content``: of an attempt that is the first."""
        self.numbers += 1
        good = outcome == "delivered"
        edge.journal.append(
            Record(
                time=self.clock.now + edge.skew,
                id=id,
                output=output,
                label="L",
                case=f"C-{id}",
                uri=f"/outputs/{output}",
                attempt=attempt,
                outcome=outcome,
                reason="status" if outcome == "failed" else None,
                status={"delivered": 200, "failed": 503}.get(outcome),
                upstream=None,
                duration_ms=1,
                ticket_id=f"VD-{self.numbers}" if good and ticket else None,
                ticket_error=None,
                response="{}",
                retry_after=None,
                content_type=None,
                body=content if content and not good else None,
                crc=self.numbers,
                digest=digest(content) if content else None,
            )
        )

    # What the sidecars do

    def held(self) -> list[tuple[Edge, Claim]]:
        return [(edge, claim) for edge in self.edges for claim in edge.mine]

    def do(self, function: Callable[[], None], crash: Optional[int]) -> bool:
        """Run what writes to the store; False if it died before it was committed."""
        left = crash

        def count(*arguments: object) -> None:
            nonlocal left
            if left is not None:
                left -= 1
                if left < 0:
                    raise Crash

        event.listen(self.store.engine, "before_cursor_execute", count)
        try:
            function()
        except Crash:
            return False
        finally:
            event.remove(self.store.engine, "before_cursor_execute", count)
        return True

    @rule_of("ingest")
    def ingest(self, edge: int, most: int, crash: Optional[int]) -> None:
        one = self.edges[edge]
        batch = one.journal[one.taken : one.taken + most]
        began = self.clock.now
        settled: set[int] = set()
        count = one.taken + len(batch)

        def write() -> None:
            with self.store.writing() as connection:
                changes = Batch(connection, one.config, self.clock.now)
                changes.load({each.id for each in batch})
                for each in batch:
                    changes.take(each)
                changes.write()
                place = Position(f"s-{one.name}", one.name, count, count, None)
                segments.save_positions(connection, [place])
            settled.update(changes.settled)

        if not self.do(write, crash):
            return
        one.taken = count
        if one.taken == len(one.journal):
            one.scanned = began
        one.mine = [each for each in one.mine if each.seq not in settled]
        given_up: Counter[Key] = Counter()
        for each in batch:
            self.learn(one, each, given_up)
        self.count_given_up(given_up)

    def learn(self, edge: Edge, record: Record, given_up: Counter[Key]) -> None:
        """The same, as the README promises it."""
        key = (record.id, record.output)
        mark = (key, record.time, record.crc)
        if mark in self.known:
            return
        self.known.add(mark)

        new = key not in self.cases
        case = self.cases.setdefault(key, Case(told=-(10**15)))
        before = case.given_up
        told, when = case.told, min(record.time, self.clock.now)
        first = record.attempt == 1
        content = CONTENT_OF[record.digest]
        other = bool(content and case.content and content != case.content)
        settles = (
            case.holder == edge.name
            and case.lease is not None
            and case.lease.attempt == record.attempt
        )
        if not case.content and not case.forgotten:
            case.content = content

        if record.outcome != "delivered" and first:
            self.heard.add(key)

        # another of its kind is another request, whatever the clock said, and counts
        # where no operator has ended what was before; of what was accepted the sidecar
        # makes all attempts

        kind = record.outcome == "accepted"
        repeated = kind in case.firsts and (kind or True not in case.firsts)
        ours = case.state == "failed" and not case.forgotten
        again = record.time > told or (repeated and ours)
        anew = case.state == "delivered" and case.forgotten and record.body is not None
        if first:
            case.firsts.add(kind)

        if record.outcome == "delivered" and case.state == "delivered" and other:
            case.others.add(content)
        elif record.outcome == "delivered":
            if other:
                case.replace(content, False)
            if case.state != "delivered":
                case.refused, case.refusals = None, 0
            case.attempts = max(case.attempts, record.attempt)
            if case.state != "delivered":
                case.state = "delivered"
                case.release()
                if not new or record.attempt > 1:
                    case.ends.append("delivered")
                case.told = max(told, when)
            elif case.ticket is None and record.ticket_id:
                case.told = max(told, when)
            if case.ticket is None and not case.forgotten:
                case.ticket = record.ticket_id
        elif (
            (case.state in ("failed", "cancelled") or anew and record.time > told)
            and first
            and again
            and not (case.holder and (other or settles))
        ):
            if other:
                case.replace(content, True)
            case.content = content or case.content
            case.body = case.body or record.body is not None
            case.forgotten = case.forgotten and record.body is None
            case.round = case.attempts
            case.told = max(told, when)
            case.state = "pending"
            case.refused, case.refusals = None, 0
            if record.outcome == "failed" and not case.holder:
                case.fail(case.attempts + 1)
        elif other:
            case.others.add(content)
        elif record.outcome == "accepted":
            if new:
                case.told = when
        elif settles or (
            case.state == "pending"
            and case.lease is None
            and record.attempt > case.attempts
        ):
            if case.state == "pending":
                case.told = max(told, when)
            case.fail(record.attempt)
        else:
            case.attempts = max(case.attempts, record.attempt)

        if not other and not case.forgotten:
            case.body |= record.body is not None
        given_up[key] += case.given_up - before

    def count_given_up(self, given_up: Counter[Key]) -> None:
        for (_, output), count in given_up.items():
            self.given_up[output] += count > 0  # together, they are one

    @rule_of("claim")
    def claim(
        self, edge: int, output: str, limit: int, begin: bool, crash: Optional[int]
    ) -> None:
        one = self.edges[edge]
        if one.taken == len(one.journal):
            one.scanned = self.clock.now
        claims: list[Claim] = []

        def write() -> None:
            with self.store.writing() as connection:
                claims.extend(
                    deliveries.claim(
                        connection,
                        output,
                        one.name,
                        now=self.clock.now,
                        scanned=one.scanned,
                        lease=LEASE,
                        limit=limit,
                        exclude={each.seq for each in one.mine},
                    )
                )

        if not self.do(write, crash):
            return
        for each in claims:
            case = self.cases[each.id, each.output]
            assert case.state == "pending"
            if case.lease is not None:
                assert case.lease.until <= self.clock.now, "two valid leases"
                assert case.lease.until <= one.scanned, "the journal may know more"
            assert each.fence > case.fences, "a fence that was there before"
            assert each.attempt == case.attempts + 1
            assert (each.size is not None) == case.body
            assert each.was_due <= self.clock.now
            case.lease, case.holder, case.fences = each, one.name, each.fence
            one.mine.append(each)
            if begin and each.size is not None:
                self.flights.append(Flight(one, each, case.content))

    @precondition(lambda self: bool(self.held()))
    @rule_of("attempt_begins")
    def attempt_begins(self, number: int) -> None:
        edge, claim = pick(self.held(), number)
        flying = any(each.claim is claim for each in self.flights)
        if claim.size is not None and not flying:
            case = self.cases[claim.id, claim.output]
            self.flights.append(Flight(edge, claim, case.content))

    @precondition(lambda self: bool(self.flights))
    @rule_of("attempt_ends_in_the_journal")
    def attempt_ends_in_the_journal(self, number: int, delivered: bool) -> None:
        flight = pick(self.flights, number)
        self.flights.remove(flight)
        claim = flight.claim
        outcome = "delivered" if delivered else "failed"
        content = flight.content if claim.attempt == 1 else b""
        self.write(
            flight.edge, claim.id, claim.output, claim.attempt, outcome, True, content
        )

    @precondition(lambda self: bool(self.flights))
    @rule_of("attempt_ends_without_a_record")
    def attempt_ends_without_a_record(
        self, number: int, delivered: bool, crash: Optional[int]
    ) -> None:
        flight = pick(self.flights, number)
        edge, claim = flight.edge, flight.claim
        self.flights.remove(flight)
        if claim not in edge.mine:
            return  # nobody hears the answer
        answer = Answer(
            state="delivered" if delivered else "failed",
            status=200 if delivered else 503,
            reason=None if delivered else "status",
            ticket_id=None,
            ticket_error="missing" if delivered else None,
            journaled=False,
            time=self.clock.now + edge.skew,
        )
        self.settle(edge, claim, answer, crash)

    @precondition(lambda self: bool(self.held()))
    @rule_of("nginx_refuses")
    def nginx_refuses(self, number: int, crash: Optional[int]) -> None:
        """Its answer is no delivery's, or another's; or there was none in time."""
        edge, claim = pick(self.held(), number)
        lost = claim.until <= min(self.clock.now, edge.scanned)
        retry = Retry(self.store, edge.config, None, None, None)  # type: ignore[arg-type]
        done = [_Answered(claim, None, 0.0, "404", lost)]
        if not self.do(lambda: retry._settle(done), crash):
            return
        edge.mine.remove(claim)
        case = self.cases[claim.id, claim.output]
        if case.lease is not claim or (claim.until <= self.clock.now and not lost):
            return
        now, before = self.clock.now, case.given_up
        case.release()
        case.refused = now if case.refused is None else min(case.refused, now)
        case.refusals += 1
        if case.state == "pending":
            if case.refusals > 1 and now - case.refused >= 200_000:
                case.told = now
                case.end("failed")
            elif case.refusals == 1:
                case.alerted = True
                self.refused[claim.output] += 1
        key = (claim.id, claim.output)
        self.count_given_up(Counter({key: case.given_up - before}))

    @precondition(
        lambda self: bool([None for _, claim in self.held() if claim.size is None])
    )
    @rule_of("there_is_nothing_to_send")
    def there_is_nothing_to_send(self, number: int, crash: Optional[int]) -> None:
        pairs = [each for each in self.held() if each[1].size is None]
        edge, claim = pick(pairs, number)
        self.settle(edge, claim, None, crash)

    def settle(
        self, edge: Edge, claim: Claim, answer: Optional[Answer], crash: Optional[int]
    ) -> None:
        retry = Retry(self.store, edge.config, None, None, None)  # type: ignore[arg-type]
        done = [_Answered(claim, answer, 0.0)]
        if not self.do(lambda: retry._settle(done), crash):
            return
        edge.mine.remove(claim)

        case = self.cases[claim.id, claim.output]
        valid = case.lease is claim and claim.until > self.clock_of(claim)
        if not valid:
            return
        before = case.given_up
        if answer is not None and claim.attempt == 1:
            case.firsts.add(False)
        heard = self.clock.now if answer is None else min(answer.time, self.clock.now)
        if answer is None and case.state == "cancelled":
            case.release()
        elif answer is None:
            case.told = heard
            case.end("failed")
        elif answer.state == "delivered":
            case.refused, case.refusals = None, 0
            case.told = max(case.told, heard)
            case.attempts = max(case.attempts, claim.attempt)
            case.end("delivered")
        else:
            if case.state == "pending":
                case.told = max(case.told, heard)
            case.fail(claim.attempt)
        key = (claim.id, claim.output)
        self.count_given_up(Counter({key: case.given_up - before}))

    def clock_of(self, claim: Claim) -> int:
        return self.clock.now

    @precondition(lambda self: bool(self.held()))
    @rule_of("claim_is_given_back")
    def claim_is_given_back(self, number: int, crash: Optional[int]) -> None:
        edge, claim = pick(self.held(), number)
        retry = Retry(self.store, edge.config, None, None, None)  # type: ignore[arg-type]
        if not self.do(lambda: retry._return([claim]), crash):
            return
        edge.mine.remove(claim)
        case = self.cases[claim.id, claim.output]
        if case.lease is claim:
            case.release()

    @rule_of("sidecar_is_killed")
    def sidecar_is_killed(self, edge: int) -> None:
        """Its claims are nobody's; nginx goes on."""
        self.edges[edge].mine.clear()
        self.edges[edge].scanned = 0

    @rule_of("claims_are_written_off")
    def claims_are_written_off(self, edge: int) -> None:
        one = self.edges[edge]
        one.mine = [each for each in one.mine if each.until > self.clock.now]

    @rule_of("clock_is_corrected")
    def clock_is_corrected(self, crash: Optional[int]) -> None:
        """What is due later than possible comes forward, leases included."""

        def write() -> None:
            with self.store.writing() as connection:
                for output in deliveries.outputs(connection):
                    deliveries.bring_forward(
                        connection,
                        output,
                        self.clock.now,
                        longest=machine.longest_wait(RULES),
                        lease=LEASE,
                    )

        if not self.do(write, crash):
            return
        latest = self.clock.now + round(LEASE * 1000)
        for case in self.cases.values():
            if case.state != "pending":
                continue
            if case.lease is not None and case.lease.until > latest:
                shorter = evolve(case.lease, until=latest)
                for edge in self.edges:
                    edge.mine = [
                        shorter if each is case.lease else each for each in edge.mine
                    ]
                for flight in self.flights:
                    if flight.claim is case.lease:
                        flight.claim = shorter
                case.lease = shorter

    @rule_of("notices_are_sent")
    def notices_are_sent(self, kind: str, ok: bool) -> None:
        with self.store.writing() as connection:
            now = self.clock.now
            for each in notices.claim_notices(
                connection, kind, now=now, lease=120.0, limit=3
            ):
                assert each.sent is None
                if ok:
                    notices.sent(connection, each.seq, now, None)

    # What operators do

    @precondition(lambda self: bool(self.cases))
    @rule_of("operator_acts")
    def operator_acts(self, number: int, act: acts.Act, crash: Optional[int]) -> None:
        key = pick(sorted(self.cases), number)
        case = self.cases[key]
        with self.store.reading() as connection:
            seq = deliveries.by_ids(connection, [key[0]])[key].seq
        config = self.edges[0].config

        def write() -> None:
            acts.perform(self.store, config, act, [seq], "operator")

        if not self.do(write, crash):
            return
        if act is acts.RETRY and case.state != "delivered" and case.body:
            if case.state != "pending":
                case.refused, case.refusals = None, 0
            case.round = case.attempts
            case.state = "pending"
        elif act is acts.CANCEL and case.state not in ("delivered", "cancelled"):
            case.end("cancelled")
            case.told = max(case.told, self.clock.now)
            self.operated.add(key)
        elif act is acts.FORGET:
            case.ends, case.backups = [], 0
            if case.state == "pending":
                case.end("cancelled")
            case.told = max(case.told, self.clock.now)
            case.forgotten, case.body, case.ticket = True, False, None
            case.content, case.others = b"", set()
            self.operated.add(key)

    # What must hold

    @invariant()
    def the_store_is_as_the_model(self) -> None:
        with self.store.reading() as connection:
            found = {
                (row["id"], row["output"]): row
                for row in dump(connection, schema.deliveries)
            }
            tallies = dump(connection, schema.tallies)
            alerts = dump(connection, schema.alerts)
            sendings = dump(connection, schema.notices)
            bodies = {row["delivery"] for row in dump(connection, schema.bodies)}
            others = dump(connection, schema.conflicts)
            exchanges = dump(connection, schema.exchanges)
            positions = dump(connection, schema.segments)

        assert set(found) == set(self.cases)
        for key, case in self.cases.items():
            self.check(found[key], case, bodies)
            assert CONTENT_OF[found[key]["digest"]] == case.content
            mine = [each for each in others if each["delivery"] == found[key]["seq"]]
            assert {CONTENT_OF[each["digest"]] for each in mine} == case.others
            assert all(each["alert"] is not None for each in mine)
        self.check_tallies(tallies)
        self.check_alerts(alerts, sendings)
        self.check_told(found, sendings)
        self.check_positions(positions)

        seqs = {row["seq"]: key for key, row in found.items()}
        marks = [(seqs[e["delivery"]], e["time"], e["crc"]) for e in exchanges]
        assert {each for each in marks if each[2] >= 0} == self.known

        for key in self.heard:
            row = found[key]
            if row["state"] == "failed":
                assert row["alert"] is not None
            assert row["state"] != "cancelled" or key in self.operated

    def check(self, row: Any, case: Case, bodies: set[object]) -> None:
        assert row["state"] == case.state, (row, case)
        assert (row["attempts"], row["base"]) == (case.attempts, case.round), (
            row,
            case,
        )
        assert row["updated"] == case.told, (row, case)
        assert (row["refused"], row["refusals"]) == (case.refused, case.refusals)
        assert row["forgotten"] == case.forgotten
        assert row["ticket_id"] == case.ticket, (row, case)
        assert (row["seq"] in bodies) == case.body
        assert row["fence"] == case.fences
        waits = case.state == "pending" or case.lease is not None
        assert (row["due"] is not None) == waits, row
        assert (row["owner"] or "") == case.holder, (row, case)
        if case.lease is None:
            assert row["claimed"] is None
        else:
            assert case.state in ("pending", "cancelled")
            assert (row["claimed"], row["due"]) == (
                case.lease.attempt,
                case.lease.until,
            ), (row, case)
        assert (row["alert"] is not None) == case.alerted

    def check_tallies(self, tallies: list[dict[str, Any]]) -> None:
        counts = Counter(
            (output, case.state) for (_, output), case in self.cases.items()
        )
        assert {row["output"] for row in tallies} == {key[1] for key in self.cases}
        for row in tallies:
            for state in ("delivered", "pending", "failed", "cancelled"):
                assert row[state] == counts[row["output"], state], row

    def check_alerts(
        self, alerts: list[dict[str, Any]], sendings: list[dict[str, Any]]
    ) -> None:
        sums: Counter[tuple[str, str]] = Counter()
        last: dict[tuple[str, str], int] = {}
        for row in alerts:
            output = row["output"], row["kind"]
            sums[output] += row["count"]
            if output in last and not self.set_back:
                assert row["due"] - last[output] >= WINDOW * 1000, alerts
            last[output] = row["due"]
            assert row["opened"] < row["due"] <= row["opened"] + WINDOW * 1000 + 5000
        refused = {o: sums[o, "refused"] for o, _ in sums if sums[o, "refused"]}
        assert refused == +self.refused
        failed = {(o, "failed"): count for o, count in self.given_up.items() if count}
        assert failed == {key: n for key, n in sums.items() if key[1] == "failed"}
        mails = [each["alert"] for each in sendings if each["kind"] == "alert-mail"]
        assert sorted(mails) == [row["seq"] for row in alerts]

    def check_told(
        self, found: dict[Key, dict[str, Any]], sendings: list[dict[str, Any]]
    ) -> None:
        told: Counter[tuple[int, str]] = Counter(
            (each["delivery"], each["kind"])
            for each in sendings
            if each["delivery"] is not None
        )
        for key, case in self.cases.items():
            if case.forgotten:
                continue  # as are the notices of it
            seq = found[key]["seq"]
            assert told[seq, "callback"] == len(case.ends), (case, sendings)
            assert told[seq, "backup"] == case.backups

    def check_positions(self, positions: list[dict[str, Any]]) -> None:
        taken = {f"s-{edge.name}": edge.taken for edge in self.edges}
        for row in positions:
            assert row["position"] == taken.pop(row["segment"])
        assert not any(taken.values())

    def teardown(self) -> None:
        """In the end, everything that was accepted has come to an end of its own."""
        for _ in range(60):
            for edge in (0, 1):
                self.ingest(edge, 10_000, None)
                self.claims_are_written_off(edge)
                for output in ("28", "29"):
                    self.claim(edge, output, 100, False, None)
                for claim in list(self.edges[edge].mine):
                    if claim.size is None:
                        self.settle(self.edges[edge], claim, None, None)
                    else:
                        self.write(
                            self.edges[edge],
                            claim.id,
                            claim.output,
                            claim.attempt,
                            "failed",
                        )
                self.ingest(edge, 10_000, None)
            self.clock_is_corrected(None)
            if not any(case.state == "pending" for case in self.cases.values()):
                break
            self.clock.now += 70_000
        self.the_store_is_as_the_model()
        assert not any(case.state == "pending" for case in self.cases.values())


def walk(world: World, seed: int, steps: int) -> None:
    """As hypothesis does it, but further; it says what it did if it stumbles."""
    random = Random(seed)
    names = list(WALK)
    weights = [weight for weight, _ in WALK.values()]
    rules = world.rules()  # type: ignore[no-untyped-call]
    preconditions = {each.function.__name__: each.preconditions for each in rules}
    done = []
    try:
        for name in random.choices(names, weights, k=steps):
            if all(holds(world) for holds in preconditions[name]):
                choices = WALK[name][1]
                drawn = {key: random.choice(values) for key, values in choices.items()}
                done.append((name, drawn))
                getattr(world, name)(**drawn)
                world.the_store_is_as_the_model()
        done.append(("teardown", {}))
        world.teardown()
    except BaseException:
        for each in done:
            print(*each)
        print("seed", seed)
        raise


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory that is in memory where there is such a thing."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    path = Path(tempfile.mkdtemp(prefix="vd-states-", dir=place))
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, memory: Path) -> Iterator[type[World]]:
    """A class of worlds whose store is empty when they begin."""
    clock = Clock()
    if request.param == "sqlite":
        url = f"sqlite:///{memory}/vd.db"
    else:
        url = request.getfixturevalue("postgres_url")
    store = ClockedStore(url, clock)
    store.migrate()

    class Its(World):
        def __init__(self) -> None:
            super().__init__()
            self.store, self.clock = store, clock
            clock.now = START
            empty(store)

    yield Its
    store.close()


def test_all_that_hypothesis_finds(world: type[World]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        world, settings=examples(25, stateful_step_count=30)
    )


def test_two_answers_in_one_millisecond(world: type[World]) -> None:
    """A clock was set back, or differs: the second was taken for the first again."""
    one = world()
    one.write(one.edges[0], "id-0", "28", 1, "failed", content=CONTENTS[0])
    one.ingest(0, 1, None)
    for _ in range(2):
        one.operator_acts(0, acts.RETRY, None)
        one.claim(0, "28", 1, True, None)
        one.attempt_ends_without_a_record(0, False, None)
        one.the_store_is_as_the_model()


def test_random_walks(world: type[World], request: pytest.FixtureRequest) -> None:
    first = SystemRandom().randrange(2**32) if LONG else 0
    count = 12 if "sqlite" in request.node.name else 4
    for seed in range(first, first + (50 * count if LONG else count)):
        walk(world(), seed, 200)
