# Copyright (C) The ngx_vd_module authors
"""What a record, an answer or an operator's word does to a delivery.

Pure: no clock, no store, no chance.  What happens here happens the same in
whatever order several edges tell it, as far as it can: a case that was
delivered stays delivered, and an attempt is counted once.
"""

from __future__ import annotations

from typing import Optional

from .config import Retry
from .model import (
    ACCEPTED,
    CANCELLED,
    DELIVERED,
    FAILED,
    MAX_ATTEMPT,
    PENDING,
    REFUSED,
    Answer,
    Claim,
    Delivery,
    Record,
)

RETRY_AFTER_MAX = 3600.0
REFUSED_SECONDS = (60.0, 120.0, 300.0, 900.0)  # the last repeats
TIMEOUT_MAX = 3600.0  # of any edge's configuration
JOURNAL_SECONDS = 5.0  # from the end of an attempt until its record was read


def wait(failures: int, retry: Retry, spread: float) -> float:
    """Seconds from the ``failures``-th failure in a row to the next attempt.

    ``spread`` from 0 to 1 chooses within the jitter, which only ever adds: a
    receiver gets at least the rest that was configured.
    """
    step = retry.backoff[min(failures, len(retry.backoff)) - 1]
    return step * (1.0 + retry.jitter * spread)


def longest_wait(retry: Retry) -> float:
    """No delivery is due later than this from now, if clocks are right."""
    longest = max(max(retry.backoff), REFUSED_SECONDS[-1]) * (1.0 + retry.jitter)
    return max(longest, RETRY_AFTER_MAX) if retry.honor_retry_after else longest


def lease(retry: Retry) -> float:
    """How long a claim lasts, in seconds.

    An attempt begins within half its timeout, and ends within another whole; what
    is left is for the journal to tell of it.
    """
    return 2.0 * retry.timeout + JOURNAL_SECONDS


def begin(record: Record, seq: int, now: int) -> Delivery:
    """The delivery of which ``record`` is the first that is known.

    It is done with if that was delivered, and else due at once: what a failure
    means is for ``apply`` to say.
    """
    done = record.outcome == DELIVERED
    time = min(record.time, now)
    return Delivery(
        seq=seq,
        id=record.id,
        output=record.output,
        label=record.label,
        case=record.case,
        uri=record.uri,
        state=DELIVERED if done else PENDING,
        created=time,
        updated=time,
        attempts=record.attempt if done else 0,
        base=0,
        due=None if done else time,
        owner=None,
        claimed=None,
        fence=0,
        status=record.status if done else None,
        reason=None,
        ticket_id=record.ticket_id,
        ticket_error=record.ticket_error if done else None,
        content_type=record.content_type,
        alert=None,
        forgotten=False,
        digest=record.digest,
    )


def differs(delivery: Delivery, record: Record) -> bool:
    """Whether ``record`` came under the same id with another content: a conflict."""
    return (
        record.digest is not None
        and delivery.digest is not None
        and record.digest != delivery.digest
    )


def apply(
    before: Optional[Delivery],
    record: Record,
    retry: Retry,
    *,
    seq: int,
    edge: str,
    now: int,
    spread: float,
    again: bool = False,
) -> Delivery:
    """The delivery after ``record``, which the journal of ``edge`` holds.

    The same object is returned if nothing changed.  ``seq`` numbers a delivery
    that was not known before; ``again``: there was another record of its kind, so that
    the app sent it once more, whatever the clock said then.  Its digest is that of ``record`` from then on if that
    other content takes its place: what was delivered does, and what the app sends
    after an end, as long as no attempt of the first may be under way.
    """
    delivery = before or begin(record, seq, now)
    other = differs(delivery, record)

    if delivery.digest is None and record.digest is not None:
        if not delivery.forgotten:
            delivery = delivery._replace(digest=record.digest)

    if record.outcome == DELIVERED:
        if before is None or (other and delivery.state == DELIVERED):
            return delivery
        return _delivered(delivery, record, now)

    if _came_back(delivery, record, edge, other, again):
        return _reopened(delivery, record, retry, now, spread)

    if record.outcome == ACCEPTED or other:
        return delivery

    if delivery.owner is not None and not _settles(delivery, record, edge):
        return _counted(delivery, record)

    if delivery.state != PENDING:
        return _counted(_settled(delivery), record)

    if delivery.owner is None and before and record.attempt <= before.attempts:
        return delivery

    return _failed(delivery, record, retry, now, spread)


def answered(claim: Claim, answer: Answer, delivery: Delivery) -> Record:
    """The record that the journal would hold of an attempt, from its answer."""
    return Record(
        time=answer.time,
        id=delivery.id,
        output=delivery.output,
        label=delivery.label,
        case=delivery.case,
        uri=delivery.uri,
        attempt=claim.attempt,
        outcome=DELIVERED if answer.state == DELIVERED else FAILED,
        reason=answer.reason,
        status=answer.status,
        upstream=None,
        duration_ms=None,
        ticket_id=answer.ticket_id,
        ticket_error=answer.ticket_error,
        response=None,
        retry_after=None,
        content_type=None,
        body=None,
        crc=-claim.fence,  # no other answer has it, whatever the clock says
    )


def given_up(delivery: Delivery, reason: str, now: int) -> Delivery:
    """The delivery when it cannot be attempted at all."""
    after = _settled(delivery)
    if after.state != PENDING:
        return after
    return after._replace(state=FAILED, due=None, reason=reason, updated=now)


def refused(delivery: Delivery, heard: str, retry: Retry, now: int) -> Delivery:
    """The delivery when nginx made no attempt, but said ``heard`` instead.

    It waits by itself, longer each time, and uses up no attempt; after
    ``retry.refused_for`` it is given up.
    """
    since = now if delivery.refused is None else min(delivery.refused, now)
    after = _settled(delivery)._replace(
        refusals=delivery.refusals + 1, refused=since, refusal=heard
    )
    if after.state != PENDING:
        return after
    if delivery.refusals and now - since >= retry.refused_for * 1000:
        return after._replace(
            state=FAILED, due=None, status=None, reason=REFUSED, updated=now
        )
    seconds = REFUSED_SECONDS[min(delivery.refusals, len(REFUSED_SECONDS) - 1)]
    return after._replace(due=now + round(seconds * 1000))


def retried(delivery: Delivery, now: int) -> Delivery:
    """The delivery when an operator wants it attempted now, in a new round.

    An attempt that is under way keeps its lease, also if the delivery was cancelled
    meanwhile: none is made twice at once.  What was delivered stays as it is, as
    does what has no attempts left.
    """
    if delivery.state == DELIVERED or delivery.attempts >= MAX_ATTEMPT:
        return delivery
    if delivery.state != PENDING:
        delivery = _heard(delivery)
    if delivery.owner is not None:
        return delivery._replace(state=PENDING, base=delivery.attempts)
    return delivery._replace(state=PENDING, base=delivery.attempts, due=now)


def sent_again(delivery: Delivery, now: int) -> Delivery:
    """As ``retried``, also if it was delivered: to what was not the receiver.

    The ticket id stays until another attempt is delivered.
    """
    if delivery.state != DELIVERED:
        return retried(delivery, now)
    return retried(delivery._replace(state=PENDING), now)


def cancelled(delivery: Delivery, now: int) -> Delivery:
    """The delivery when an operator wants no more attempts.

    One that is under way keeps its lease, and may still turn it into a delivered
    one.  What was delivered stays as it is.
    """
    if delivery.state == DELIVERED:
        return delivery
    due = delivery.due if delivery.owner is not None else None
    updated = max(delivery.updated, now)
    return delivery._replace(state=CANCELLED, due=due, updated=updated)


def ended(before: Optional[Delivery], after: Delivery) -> bool:
    """Whether ``after`` is an end that ``before`` was not: someone must hear."""
    if after.state == PENDING:
        return False
    if before is None or before.state != after.state:
        return True
    if after.state != FAILED:
        return False

    # a new round that ended at once, as opposed to a late record of the last one

    return before.base != after.base or (
        before.attempts < after.attempts and before.updated < after.updated
    )


def _came_back(
    delivery: Delivery, record: Record, edge: str, other: bool, again: bool
) -> bool:
    """Whether the app came back with a case that had ended: it heard 202.

    Not with another content while an attempt may be under way, which would be taken
    for its own.  What an operator has ended is opened by what came after that alone:
    a record from before may be read later.
    """
    if delivery.state == DELIVERED and delivery.forgotten:
        # nobody knows any more whether it is the same case, so that it is a new one
        return (
            record.attempt == 1
            and record.body is not None
            and record.time > delivery.updated
        )
    if delivery.state not in (FAILED, CANCELLED):
        return False
    if delivery.owner is not None and (other or _settles(delivery, record, edge)):
        return False
    given_up = delivery.state == FAILED and not delivery.forgotten
    return record.attempt == 1 and (
        record.time > delivery.updated or (again and given_up)
    )


def _heard(delivery: Delivery) -> Delivery:
    """The delivery without what nginx refused before it made an attempt."""
    return delivery._replace(refusals=0, refused=None, refusal=None)


def _settles(delivery: Delivery, record: Record, edge: str) -> bool:
    return delivery.owner == edge and delivery.claimed == record.attempt


def _settled(delivery: Delivery) -> Delivery:
    if delivery.owner is None:
        return delivery
    return delivery._replace(owner=None, claimed=None, due=None)


def _counted(delivery: Delivery, record: Record) -> Delivery:
    if record.outcome == ACCEPTED or record.attempt <= delivery.attempts:
        return delivery
    return delivery._replace(attempts=record.attempt)


def _delivered(delivery: Delivery, record: Record, now: int) -> Delivery:
    if delivery.state == DELIVERED and (delivery.ticket_id or not record.ticket_id):
        return _counted(delivery, record)

    if differs(delivery, record):
        delivery = _replaced(delivery, record)

    return _heard(_settled(delivery))._replace(
        state=DELIVERED,
        due=None,
        attempts=max(delivery.attempts, record.attempt),
        updated=max(delivery.updated, min(record.time, now)),
        status=record.status,
        reason=None,
        ticket_id=None if delivery.forgotten else record.ticket_id,
        ticket_error=record.ticket_error,
    )


def _reopened(
    delivery: Delivery, record: Record, retry: Retry, now: int, spread: float
) -> Delivery:
    # a new round, also where all attempts that can be numbered are spent

    spent = delivery.attempts >= MAX_ATTEMPT
    base = delivery.base + 1 if spent else delivery.attempts
    round_ = _heard(_replaced(delivery, record))._replace(
        state=PENDING, base=base, uri=record.uri
    )

    # an attempt that is under way keeps its lease, none is made beside it

    if record.outcome == ACCEPTED or delivery.owner is not None:
        time = min(record.time, now)
        return round_._replace(
            due=time if delivery.owner is None else delivery.due,
            updated=max(delivery.updated, time),
        )

    # the app's own attempt is the first of the new round

    again = record._replace(attempt=min(delivery.attempts + 1, MAX_ATTEMPT))
    return _failed(round_, again, retry, now, spread)


def _replaced(delivery: Delivery, record: Record) -> Delivery:
    """The delivery with the content of ``record``, as far as that tells of it.

    What an operator had erased was another: the app sends it anew.
    """
    if record.digest is None:
        return delivery
    return delivery._replace(
        case=record.case,
        content_type=record.content_type,
        digest=record.digest,
        forgotten=delivery.forgotten and record.body is None,
    )


def _failed(
    delivery: Delivery, record: Record, retry: Retry, now: int, spread: float
) -> Delivery:
    after = _heard(_settled(delivery))._replace(
        attempts=max(delivery.attempts, record.attempt),
        updated=max(delivery.updated, min(record.time, now)),
        status=record.status,
        reason=record.reason,
        ticket_error=None,
    )
    failures = after.attempts - after.base

    if (
        failures >= retry.attempts
        or record.status in retry.give_up_on
        or after.attempts >= MAX_ATTEMPT
    ):
        return after._replace(state=FAILED, due=None)

    seconds = wait(max(failures, 1), retry, spread)

    if retry.honor_retry_after and record.retry_after is not None:
        seconds = max(seconds, min(float(record.retry_after), RETRY_AFTER_MAX))

    # a record from the future would wait for ever; of what was under lease until now
    # a clock that is behind must not use up all attempts at once

    since = min(record.time, now) if delivery.owner is None else now
    return after._replace(due=since + round(seconds * 1000))
