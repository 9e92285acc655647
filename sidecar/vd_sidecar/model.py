# Copyright (C) The ngx_vd_module authors
"""What the parts of the sidecar pass to each other.

Times are Unix milliseconds (``int``), spans are seconds (``float``); text never
holds NUL or lone surrogates, which PostgreSQL cannot keep.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from attrs import frozen

DELIVERED = "delivered"
PENDING = "pending"
FAILED = "failed"
CANCELLED = "cancelled"
STATES = (DELIVERED, PENDING, FAILED, CANCELLED)

MAX_ATTEMPT = 1000  # as far as VD-Attempt goes
ACCEPTED = "accepted"  # an outcome of records only: taken, not attempted yet

# Reasons that are the sidecar's own, in no record.

BODY_MISSING = "body_missing"
REFUSED = "refused"  # by nginx, for as long as retry.refused_for


class Record(NamedTuple):
    """One line of the journal: an attempt, or a case that was only accepted."""

    time: int
    id: str
    output: str
    label: str
    case: Optional[str]
    uri: str
    attempt: int
    outcome: str
    reason: Optional[str]
    status: Optional[int]
    upstream: Optional[str]
    duration_ms: Optional[int]
    ticket_id: Optional[str]
    ticket_error: Optional[str]
    response: Optional[str]
    retry_after: Optional[int]  # seconds, as the receiver asked
    content_type: Optional[str]
    body: Optional[bytes]
    crc: int
    host: Optional[str] = None  # what the app's request was sent to
    kept: Optional[str] = None  # the value of VD-Kept, opaque
    digest: Optional[str] = None  # of the body: SHA-256 in hex digits


class Delivery(NamedTuple):
    """A case output on its way to one output, as the store knows it."""

    seq: int
    id: str
    output: str
    label: str
    case: Optional[str]
    uri: str
    state: str
    created: int  # time of its first record
    updated: int  # time of its last attempt
    attempts: int  # the highest attempt number that has an outcome
    base: int  # the attempt number after which its present round began
    due: Optional[int]  # when it may be attempted next; None if it is not to be
    owner: Optional[str]  # the edge that attempts it now; then due ends its lease
    claimed: Optional[int]  # the attempt number under way there
    fence: int  # grows with each claim
    status: Optional[int]  # of the last attempt, as are reason and ticket_error
    reason: Optional[str]
    ticket_id: Optional[str]
    ticket_error: Optional[str]
    content_type: Optional[str]
    alert: Optional[int]  # the last alert that names it
    forgotten: bool  # an operator had its content erased
    digest: Optional[str] = None  # of its case, as far as that is known
    refusals: int = 0  # by nginx, since it last made an attempt
    refused: Optional[int] = None  # when the first of them came
    refusal: Optional[str] = None  # the last of them: what was heard, from whom
    noted: int = 0  # when the store was last told of it, whatever time that was of


@frozen
class Claim:
    """A delivery that this edge may attempt until its lease ends."""

    seq: int
    id: str
    output: str
    case: Optional[str]
    uri: str
    attempt: int
    fence: int
    was_due: int
    until: int
    content_type: Optional[str]
    size: Optional[int]  # of its body, in bytes; None: it is not known here


@frozen
class Content:
    """What an attempt sends, as the app sent it."""

    body: bytes
    host: Optional[str] = None
    kept: Optional[str] = None


@frozen
class Conflict:
    """A content that came under a delivery's id and is not the delivery's."""

    delivery: int
    digest: str
    time: int  # when it came first
    delivered: bool  # whether the receiver has taken it too
    ticket_id: Optional[str]
    content_type: Optional[str]
    body: Optional[bytes]  # None: it was never journaled
    alert: Optional[int] = None


@frozen
class Answer:
    """What nginx answered to an attempt."""

    state: str
    status: Optional[int]
    reason: Optional[str]
    ticket_id: Optional[str]
    ticket_error: Optional[str]
    journaled: bool
    time: int


@frozen
class Exchange:
    """One attempt of a delivery, or its acceptance, as ``show`` lists it."""

    time: int
    attempt: int
    outcome: str
    reason: Optional[str]
    status: Optional[int]
    upstream: Optional[str]
    duration_ms: Optional[int]
    ticket_id: Optional[str]
    ticket_error: Optional[str]
    response: Optional[str]


@frozen
class Alert:
    """What a human must hear of: one a window and output, or one of the journal."""

    seq: int
    key: str  # a UUID, the same for each try to send it
    kind: str  # "failed", "refused", "conflict": of deliveries; "journal": of lines
    output: str  # "" if it is of the journal
    label: str
    edge: str  # where it was raised
    opened: int
    count: int  # deliveries, or lines, that it is about


@frozen
class Reject:
    """A line of the journal that was set aside."""

    seq: int
    segment: str
    offset: int
    why: str
    line: bytes
