# Copyright (C) The ngx_vd_module authors
"""What a record, an answer or an operator's word does to a delivery."""

from __future__ import annotations

import itertools
from typing import Any, Iterable, Optional, Sequence

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from profiles import examples
from vd_sidecar import machine
from vd_sidecar.config import Retry
from vd_sidecar.model import MAX_ATTEMPT, Answer, Claim, Delivery, Record

NOW = 1_790_000_000_000
RETRY = Retry(attempts=3, backoff=(60.0, 120.0, 300.0), jitter=0.0)


def record(outcome: str = "failed", **keys: Any) -> Record:
    failed = outcome == "failed"
    values: dict[str, Any] = dict(
        time=NOW,
        id="a",
        output="28",
        label="Incident",
        case="C-1",
        uri="/outputs/28",
        attempt=1,
        outcome=outcome,
        reason="status" if failed else None,
        status={"failed": 503, "delivered": 200}.get(outcome),
        upstream=None,
        duration_ms=1,
        ticket_id="VD-1" if outcome == "delivered" else None,
        ticket_error=None,
        response=None,
        retry_after=None,
        content_type="application/json",
        body=b"{}",
        crc=1,
    )
    return Record(**{**values, **keys})


def apply(
    before: Optional[Delivery],
    *records: Record,
    retry: Retry = RETRY,
    now: int = NOW,
    edge: str = "A",
    spread: float = 0.0,
) -> Delivery:
    assert records
    after = before
    for each in records:
        after = machine.apply(
            after, each, retry, seq=7, edge=edge, now=now, spread=spread
        )
    assert after is not None
    return after


def claimed(delivery: Delivery, edge: str = "A", now: int = NOW) -> Delivery:
    """As the store does it."""
    return delivery._replace(
        owner=edge,
        claimed=delivery.attempts + 1,
        fence=delivery.fence + 1,
        due=now + 120_000,
    )


def failures(count: int, **keys: Any) -> list[Record]:
    return [
        record(attempt=number, time=NOW + number, crc=number, **keys)
        for number in range(1, count + 1)
    ]


GIVEN_UP = apply(None, *failures(3), now=NOW + 10)


# Waiting


@examples(100)
@given(
    failures=st.integers(1, 1000),
    backoff=st.lists(st.floats(0.001, 1e6), min_size=1, max_size=5),
    jitter=st.floats(0, 1),
    spread=st.floats(0, 1),
)
def test_jitter_only_adds_and_the_last_step_repeats(
    failures: int, backoff: Sequence[float], jitter: float, spread: float
) -> None:
    retry = Retry(backoff=tuple(backoff), jitter=jitter)
    step = backoff[failures - 1] if failures <= len(backoff) else backoff[-1]
    seconds = machine.wait(failures, retry, spread)
    assert step <= seconds <= step * (1 + jitter) * (1 + 1e-9)
    assert seconds <= machine.longest_wait(retry) * (1 + 1e-9)
    assert machine.wait(failures, retry, 0.0) == step


def test_a_longer_backoff_in_front_is_seen_by_longest_wait() -> None:
    assert machine.longest_wait(Retry(backoff=(900.0, 1.0), jitter=0.5)) == 1350.0
    asked = Retry(backoff=(1.0,), jitter=0.0, honor_retry_after=True)
    assert machine.longest_wait(asked) == 3600.0


def test_a_lease_outlives_an_attempt() -> None:
    assert machine.lease(Retry(timeout=30.0)) == 65.0


def test_each_failure_waits_longer() -> None:
    retry = evolve(RETRY, attempts=6)
    delivery = None
    waits = []
    for each in failures(5):
        delivery = apply(delivery, each, retry=retry, now=NOW + 10_000)
        assert delivery.due is not None
        waits.append(delivery.due - each.time)
    assert waits == [60_000, 120_000, 300_000, 300_000, 300_000]


def test_jitter_reaches_what_is_due() -> None:
    retry = evolve(RETRY, jitter=0.5)
    assert apply(None, record(), retry=retry, spread=0.0).due == NOW + 60_000
    assert apply(None, record(), retry=retry, spread=1.0).due == NOW + 90_000


@pytest.mark.parametrize(
    "asked, seconds",
    [(None, 60), (0, 60), (-5, 60), (59, 60), (61, 61), (3600, 3600), (604800, 3600)],
)
def test_what_the_receiver_asks_for(asked: Optional[int], seconds: int) -> None:
    retry = evolve(RETRY, honor_retry_after=True)
    delivery = apply(None, record(retry_after=asked), retry=retry)
    assert delivery.due == NOW + seconds * 1000
    assert apply(None, record(retry_after=asked)).due == NOW + 60_000


def test_a_record_from_the_future_waits_from_now_on() -> None:
    delivery = apply(None, record(time=NOW + 10**10))
    assert delivery.due == NOW + 60_000


def test_a_record_from_the_past_is_due_at_once() -> None:
    delivery = apply(None, record(time=NOW - 10**10))
    assert delivery.due is not None and delivery.due < NOW


def test_an_accepted_case_is_due_at_once() -> None:
    for time in (NOW, NOW - 5, NOW + 10**10):
        delivery = apply(None, record("accepted", time=time))
        assert (delivery.state, delivery.attempts) == ("pending", 0)
        assert delivery.due == min(time, NOW)


# Giving up


def test_given_up_after_the_last_attempt() -> None:
    states = [apply(None, *failures(count)).state for count in (1, 2, 3)]
    assert states == ["pending", "pending", "failed"]
    assert (GIVEN_UP.due, GIVEN_UP.attempts, GIVEN_UP.status) == (None, 3, 503)


def test_one_attempt_in_all() -> None:
    delivery = apply(None, record(), retry=evolve(RETRY, attempts=1))
    assert delivery.state == "failed"


def test_statuses_not_worth_a_retry() -> None:
    retry = evolve(RETRY, give_up_on=(400, 410))
    assert apply(None, record(status=410), retry=retry).state == "failed"
    assert apply(None, record(status=503), retry=retry).state == "pending"
    assert apply(None, record(status=None, reason="connect"), retry=retry).state == (
        "pending"
    )


def test_attempts_end_where_their_header_does() -> None:
    retry = evolve(RETRY, attempts=1000)
    before = apply(None, record())._replace(attempts=998, base=998)
    last = claimed(apply(before, record(attempt=999), retry=retry))
    assert last.state == "pending" and last.claimed == 1000
    assert apply(last, record(attempt=1000), retry=retry).state == "failed"


def test_no_round_begins_beyond_the_last_attempt() -> None:
    spent = GIVEN_UP._replace(attempts=MAX_ATTEMPT)
    delivery = machine.retried(spent, NOW)
    assert delivery.state != "pending" or delivery.attempts < MAX_ATTEMPT


def test_who_comes_back_after_the_last_attempt_is_heard_each_time() -> None:
    before = GIVEN_UP._replace(attempts=MAX_ATTEMPT)
    for number in range(1, 4):
        again = record(time=NOW + 1000 * number, crc=number)
        after = apply(before, again, now=NOW + 1000 * number)
        assert after.state == "pending" or machine.ended(before, after)
        assert after.attempts <= MAX_ATTEMPT
        before = after


# Delivered


@pytest.mark.parametrize("state", ["pending", "failed", "cancelled"])
def test_delivered_ends_every_state(state: str) -> None:
    due = NOW if state == "pending" else None
    before = GIVEN_UP._replace(state=state, due=due)
    after = apply(before, record("delivered", attempt=4, time=NOW + 9), now=NOW + 10)
    assert (after.state, after.due, after.reason) == ("delivered", None, None)
    assert (after.ticket_id, after.status, after.attempts) == ("VD-1", 200, 4)
    assert after.updated == NOW + 9


def test_delivered_stays_delivered() -> None:
    delivery = apply(None, record("delivered"))
    for each in (
        record(attempt=2, time=NOW + 1),
        record(attempt=1, time=NOW + 2),
        record("accepted", time=NOW + 3),
        record("delivered", ticket_id=None, time=NOW + 4),
        record("delivered", ticket_id="VD-2", time=NOW + 5),
    ):
        delivery = apply(delivery, each)
        assert (delivery.state, delivery.ticket_id) == ("delivered", "VD-1")
        assert delivery.due is None


def test_a_ticket_id_may_come_later() -> None:
    first = record("delivered", ticket_id=None, ticket_error="missing")
    delivery = apply(None, first, record("delivered", attempt=2, time=NOW + 1))
    assert (delivery.ticket_id, delivery.ticket_error) == ("VD-1", None)


def test_what_was_forgotten_gets_no_ticket_id_back() -> None:
    before = GIVEN_UP._replace(forgotten=True)
    after = apply(before, record("delivered", attempt=4))
    assert (after.state, after.ticket_id) == ("delivered", None)


def test_another_edge_may_deliver_what_is_claimed() -> None:
    before = claimed(apply(None, record()), "A")
    after = apply(before, record("delivered"), edge="B")
    assert (after.state, after.owner, after.claimed) == ("delivered", None, None)


# Leases


def test_only_the_claimed_attempt_settles_a_lease() -> None:
    lease = claimed(apply(None, record()), "A")
    assert lease.claimed == 2

    for each, edge in (
        (record(attempt=1, time=NOW + 5), "A"),
        (record(attempt=2, time=NOW + 5), "B"),
        (record(attempt=3, time=NOW + 5), "A"),
        (record("accepted", time=NOW + 5), "A"),
    ):
        after = apply(lease, each, edge=edge)
        assert (after.owner, after.due) == ("A", lease.due), each
        assert after.attempts >= lease.attempts

    after = apply(lease, record(attempt=2, time=NOW + 5), edge="A", now=NOW + 5)
    assert (after.owner, after.claimed, after.attempts) == (None, None, 2)
    assert after.due == NOW + 5 + 120_000


def test_an_attempt_is_counted_once() -> None:
    before = apply(None, record())
    for each in (record(crc=9), record(attempt=1, time=NOW + 77, crc=8)):
        assert apply(before, each) is before


def test_a_late_failure_counts_for_what_has_ended() -> None:
    cancelled = GIVEN_UP._replace(state="cancelled", attempts=1)
    after = apply(cancelled, record(attempt=2, time=NOW + 1))
    assert (after.state, after.attempts, after.due) == ("cancelled", 2, None)


def test_nothing_new_is_the_same_object() -> None:
    delivered = apply(None, record("delivered"))
    assert apply(delivered, record(time=NOW + 1)) is delivered
    assert apply(GIVEN_UP, record(attempt=2)) is GIVEN_UP
    pending = apply(None, record())
    assert apply(pending, record("accepted")) is pending


@examples(100)
@given(st.permutations(range(5)))
def test_the_order_does_not_matter_once_it_was_delivered(order: Iterable[int]) -> None:
    records = [
        record("accepted", time=NOW, crc=1),
        record(attempt=1, time=NOW + 1, crc=2),
        record(attempt=2, time=NOW + 2, crc=3),
        record(attempt=3, time=NOW + 3, crc=4),
        record("delivered", attempt=4, time=NOW + 4, crc=5),
    ]
    delivery = apply(None, *(records[index] for index in order), now=NOW + 10)
    assert (delivery.state, delivery.ticket_id, delivery.due) == (
        "delivered",
        "VD-1",
        None,
    )
    assert delivery.attempts == 4
    assert delivery.updated == NOW + 4


def test_the_order_of_failures_does_not_matter_for_the_end() -> None:
    for order in itertools.permutations(failures(3)):
        delivery = apply(None, *order, now=NOW + 10)
        assert (delivery.state, delivery.attempts) == ("failed", 3), order


# The app comes back


def test_the_app_comes_back_with_what_was_given_up() -> None:
    later = GIVEN_UP.updated + 1
    after = apply(GIVEN_UP, record(time=later), now=later)
    assert (after.state, after.base, after.attempts) == ("pending", 3, 4)
    assert after.due == later + 60_000

    after = apply(GIVEN_UP, record("accepted", time=later), now=later)
    assert (after.state, after.base, after.attempts) == ("pending", 3, 3)
    assert after.due == later


def test_an_old_first_attempt_reopens_nothing() -> None:
    for time in (NOW - 5, GIVEN_UP.updated):
        assert apply(GIVEN_UP, record(time=time)).state == "failed"
        assert apply(GIVEN_UP, record("accepted", time=time)).state == "failed"
    later = record(attempt=2, time=NOW + 99)
    assert apply(GIVEN_UP, later).state == "failed"


def test_the_app_comes_back_where_one_attempt_is_all() -> None:
    retry = evolve(RETRY, attempts=1)
    before = apply(None, record(), retry=retry)
    for number in range(1, 4):
        after = apply(before, record(time=NOW + number, crc=number), retry=retry)
        assert (after.state, after.attempts) == ("failed", number + 1)
        assert machine.ended(before, after)
        before = after


def test_the_app_comes_back_after_a_clock_was_ahead() -> None:
    ahead = [each._replace(time=each.time + 10**10) for each in failures(3)]
    given_up = apply(None, *ahead)
    assert given_up.state == "failed"

    later = NOW + 60_000
    after = apply(given_up, record("accepted", time=later), now=later)
    assert after.state == "pending"


def test_what_was_heard_last_is_never_unheard() -> None:
    """The clock was set back between the record and its being taken."""
    later = record("accepted", time=GIVEN_UP.updated + 5)
    after = apply(GIVEN_UP, later, now=GIVEN_UP.updated - 10**6)
    assert (after.state, after.updated) == ("pending", GIVEN_UP.updated)


@pytest.mark.parametrize("attempts", [0, 1, 2])
def test_a_new_round_has_as_many_attempts_as_the_first(attempts: int) -> None:
    """Also after a give-up without an attempt, after which the app came back twice."""
    delivery = apply(None, record("accepted"), *failures(attempts), now=NOW + 10)
    for number in range(1, 3):
        delivery = machine.given_up(delivery, "body_missing", NOW + 1000 * number)
        again = record("accepted", time=NOW + 1000 * number + 1)
        delivery = apply(delivery, again, now=NOW + 1000 * number + 1)
    made = 0
    while delivery.state == "pending":
        made += 1
        later = NOW + 9000 + made
        again = record(attempt=delivery.attempts + 1, time=later)
        delivery = apply(delivery, again, now=later)
    assert made == RETRY.attempts


def test_the_app_comes_back_to_another_location() -> None:
    later = GIVEN_UP.updated + 1
    after = apply(GIVEN_UP, record(time=later, uri="/new/28"), now=later)
    assert after.uri == "/new/28"


# Operators


def test_an_operator_retries() -> None:
    after = machine.retried(GIVEN_UP, NOW + 5)
    assert (after.state, after.due, after.base) == ("pending", NOW + 5, 3)

    again = claimed(after)
    assert again.claimed == 4
    after = apply(again, record(attempt=4, time=NOW + 6), now=NOW + 6)
    assert (after.state, after.due) == ("pending", NOW + 6 + 60_000)


def test_an_operator_does_not_break_a_lease() -> None:
    lease = claimed(apply(None, *failures(2)))
    after = machine.retried(lease, NOW)
    assert (after.owner, after.due, after.claimed) == ("A", lease.due, lease.claimed)
    after = apply(after, record(attempt=3, time=NOW + 9))
    assert (after.state, after.attempts) == ("pending", 3)


def test_an_operator_cancels() -> None:
    for before in (apply(None, record()), GIVEN_UP):
        after = machine.cancelled(before, NOW)
        assert after.state == "cancelled"
        assert (after.due, after.owner, after.claimed) == (None, None, None)
        assert machine.ended(before, after)
        late = record(attempt=after.attempts + 1, time=NOW + 99)
        assert apply(after, late).state == "cancelled"


def test_a_lease_outlives_the_cancel() -> None:
    """Else another edge could make the next attempt while one is under way."""
    lease = claimed(apply(None, record()))
    cancelled = machine.cancelled(lease, NOW)
    assert machine.ended(lease, cancelled)
    again = machine.retried(cancelled, NOW + 1)
    for each, state in ((cancelled, "cancelled"), (again, "pending")):
        assert (each.state, each.owner) == (state, "A")
        assert (each.due, each.claimed) == (lease.due, lease.claimed)
    after = apply(again, record(attempt=2, time=NOW + 9))
    assert (after.state, after.owner, after.attempts) == ("pending", None, 2)


def test_a_lease_of_what_was_cancelled_ends() -> None:
    cancelled = machine.cancelled(claimed(apply(None, record())), NOW)
    made = record(attempt=2, time=NOW + 9)
    elsewhere = apply(cancelled, made, edge="B")
    assert (elsewhere.owner, elsewhere.due) == ("A", cancelled.due)
    for after, attempts in (
        (apply(cancelled, made), 2),
        (machine.given_up(cancelled, "body_missing", NOW), 1),
    ):
        assert (after.state, after.attempts) == ("cancelled", attempts)
        assert (after.due, after.owner, after.claimed) == (None, None, None)
        assert not machine.ended(cancelled, after)
    delivered = apply(cancelled, record("delivered", attempt=2, time=NOW + 9))
    assert (delivered.state, delivered.owner) == ("delivered", None)


def test_no_operator_undoes_a_delivery() -> None:
    delivered = apply(None, record("delivered"))
    assert machine.retried(delivered, NOW).state == "delivered"
    assert machine.cancelled(delivered, NOW).state == "delivered"


def test_given_up_without_an_attempt() -> None:
    lease = claimed(apply(None, record("accepted")))
    after = machine.given_up(lease, "body_missing", NOW + 3)
    assert (after.state, after.reason, after.updated) == (
        "failed",
        "body_missing",
        NOW + 3,
    )
    assert (after.due, after.owner, after.claimed) == (None, None, None)
    assert after.attempts == 0


# Ends


def test_ends() -> None:
    pending = apply(None, record())
    delivered = apply(None, record("delivered"))
    cancelled = machine.cancelled(pending, NOW)
    reopened = machine.retried(GIVEN_UP, NOW)

    assert machine.ended(None, delivered)
    assert machine.ended(None, GIVEN_UP)
    assert machine.ended(pending, GIVEN_UP)
    assert machine.ended(GIVEN_UP, delivered)
    assert machine.ended(cancelled, delivered)
    assert machine.ended(reopened, apply(reopened, *failures(6)))
    assert not machine.ended(None, pending)
    assert not machine.ended(GIVEN_UP, reopened)
    assert not machine.ended(GIVEN_UP, GIVEN_UP._replace(updated=NOW + 77))
    assert not machine.ended(delivered, delivered._replace(ticket_id="VD-9"))


# Answers


@pytest.mark.parametrize(
    "state, outcome",
    [("delivered", "delivered"), ("failed", "failed"), ("pending", "failed")],
)
def test_an_answer_is_as_good_as_a_record(state: str, outcome: str) -> None:
    lease = claimed(apply(None, record()))
    claim = Claim(
        seq=7,
        id="a",
        output="28",
        case="C-1",
        uri="/outputs/28",
        attempt=2,
        fence=1,
        was_due=NOW,
        until=NOW + 120_000,
        content_type=None,
        size=2,
    )
    answer = Answer(
        state=state,
        status=200 if state == "delivered" else 503,
        reason=None if state == "delivered" else "status",
        ticket_id="VD-1" if state == "delivered" else None,
        ticket_error=None,
        journaled=False,
        time=NOW + 4,
    )
    made = machine.answered(claim, answer, lease)
    assert (made.outcome, made.attempt, made.body) == (outcome, 2, None)
    after = apply(lease, made, now=NOW + 4)
    assert after.state == ("delivered" if outcome == "delivered" else "pending")
    assert (after.owner, after.attempts, after.updated) == (None, 2, NOW + 4)
