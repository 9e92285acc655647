# Copyright (C) The ngx_vd_module authors
"""All that is known of one delivery, as ``vd-sidecar show`` tells it."""

from __future__ import annotations

import base64
from typing import Iterator, Optional, Sequence

from attrs import asdict, frozen
from sqlalchemy.engine import Connection

from .acts import no_body
from .batch import rfc3339
from .config import Config
from .model import MAX_ATTEMPT, CANCELLED, DELIVERED, FAILED, PENDING
from .model import Conflict, Delivery, Exchange
from .render import NONE, Column, block, fields, last, moment, pretty, span, table
from .store import deliveries, notices, reads
from .store.notices import Notice
from .store.reads import Act
from .tables import printable
from .text import utc

_EXCHANGES = (
    Column("TIME (UTC)"),
    Column("ATTEMPT", right=True),
    Column("OUTCOME"),
    Column("LAST"),
    Column("MS", right=True),
    Column("UPSTREAM"),
    Column("TICKET ID"),
)


@frozen
class Detail:
    """One delivery at one time, which is ``now``."""

    delivery: Delivery
    exchanges: Sequence[Exchange]
    notices: Sequence[Notice]
    acts: Sequence[Act]
    conflicts: Sequence[Conflict]
    body: Optional[bytes]
    now: int

    @property
    def repeated(self) -> Optional[int]:
        """When the app last sent the same again after it was delivered."""
        others = {each.time for each in self.conflicts}
        times = [each.time for each in self.exchanges if each.outcome == DELIVERED]
        again = [
            each.time
            for each in self.exchanges
            if each.attempt == 1 and times and each.time > min(times)
        ]
        return max((time for time in again if time not in others), default=None)


def read(connection: Connection, delivery: Delivery, now: int) -> Detail:
    return Detail(
        delivery=delivery,
        exchanges=deliveries.exchanges(connection, delivery.seq),
        notices=notices.of_delivery(connection, delivery),
        acts=reads.acts(connection, delivery.seq),
        conflicts=deliveries.conflicts(connection, [delivery.seq]),
        body=deliveries.body(connection, delivery.seq),
        now=now,
    )


def as_fields(detail: Detail, config: Config, with_body: bool) -> dict[str, object]:
    """For JSON: the list's names, and what is known beyond them."""
    delivery = detail.delivery
    body = detail.body
    result: dict[str, object] = {
        **fields(delivery),
        "uri": delivery.uri,
        "content_type": delivery.content_type,
        "forgotten": delivery.forgotten,
        "digest": delivery.digest,
        "refusals": delivery.refusals,
        "refused_since": moment(delivery.refused),
        "refusal": delivery.refusal,
        "under_way_at": delivery.owner,
        "next": happens(detail, config),
        "body_bytes": None if body is None else len(body),
        "exchanges": [_exchange(each) for each in detail.exchanges],
        "notices": [_notice(each) for each in detail.notices],
        "acts": [{**asdict(each), "time": rfc3339(each.time)} for each in detail.acts],
        "conflicts": [_conflict(each, with_body) for each in detail.conflicts],
    }
    return {**result, **_body(body, with_body)}


def _body(body: Optional[bytes], shown: bool) -> dict[str, object]:
    if body is None or not shown:
        return {}
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_b64": base64.b64encode(body).decode()}


def _conflict(each: Conflict, with_body: bool) -> dict[str, object]:
    return {
        "time": rfc3339(each.time),
        "digest": each.digest,
        "delivered": each.delivered,
        "ticket_id": each.ticket_id,
        "content_type": each.content_type,
        "body_bytes": None if each.body is None else len(each.body),
        **_body(each.body, with_body),
    }


def _exchange(each: Exchange) -> dict[str, object]:
    return {**asdict(each), "time": rfc3339(each.time)}


def _notice(each: Notice) -> dict[str, object]:
    return {
        "kind": each.kind,
        "created": rfc3339(each.created),
        "sent": moment(each.sent),
        "due": moment(each.due),
        "tries": each.tries,
        "error": each.error,
    }


def happens(detail: Detail, config: Config) -> str:
    """What happens next, and when."""
    delivery = detail.delivery
    if delivery.state == DELIVERED:
        again = detail.repeated
        if again is None:
            return "nothing: it was delivered"
        return f"nothing: it was delivered; the app sent it again at {_second(again)}"
    if delivery.state in (FAILED, CANCELLED):
        return _ended(detail, config)

    if delivery.owner is not None:
        return (
            f"attempt {delivery.claimed} is under way at {delivery.owner}, "
            f"which has until {_second(delivery.due)}"
        )
    if detail.body is None:
        return "it will be given up: " + _no_case(detail, config)

    due = delivery.due if delivery.due is not None else detail.now
    number = delivery.attempts + 1
    most = config.output(delivery.output).retry.attempts
    what = f"attempt {number}, {number - delivery.base} of {most} in this round,"

    if due > detail.now:
        return f"{what} at {_second(due)}, in {span(due - detail.now)}"
    late = f"{what} has been due for {span(detail.now - due)}"
    if detail.now - due < 5000:
        return late
    return f"{late}: see the log of vd-sidecar run, and of nginx"


def _ended(detail: Detail, config: Config) -> str:
    delivery = detail.delivery
    if delivery.state == FAILED:
        what = f"nothing: it was given up after {_times(delivery.attempts)}"
    else:
        what = "nothing: an operator cancelled it"
    if delivery.attempts >= MAX_ATTEMPT:
        return f"{what}, as many as can be counted"
    if detail.body is None:
        return f"{what}, and {_no_case(detail, config)}"
    id = f"-- {delivery.id}" if delivery.id.startswith("-") else delivery.id
    return f"{what}; to go on: vd-sidecar retry --output {delivery.output} {id}"


def _times(attempts: int) -> str:
    return "1 attempt" if attempts == 1 else f"{attempts} attempts"


def _no_case(detail: Detail, config: Config) -> str:
    return "its case is gone: " + no_body(detail.delivery, config.retention, detail.now)


def lines(
    detail: Detail, config: Config, with_body: bool, width: Optional[int]
) -> Iterator[str]:
    """For people; whatever came from outside cannot act upon the terminal."""
    delivery = detail.delivery
    label = f" ({delivery.label})" if delivery.label else ""
    ticket = delivery.ticket_id or NONE
    if delivery.ticket_error:
        ticket += f" ({delivery.ticket_error})"

    yield f"Delivery {printable(delivery.id)}"
    for name, text in (
        ("output", delivery.output + label),
        ("state", delivery.state),
        ("ticket id", ticket),
        ("case", delivery.case or NONE),
        ("last try", last(delivery.status, delivery.reason)),
        ("created", _second(delivery.created)),
        ("updated", _second(delivery.updated)),
        ("location", delivery.uri),
        ("case body", _body_line(detail, config, with_body)),
        ("next", happens(detail, config)),
    ):
        yield f"  {name:<10} {printable(text)}"

    if delivery.refusal is not None:
        yield f"  {'refused':<10} {printable(refused(delivery))}"
    yield from _conflict_lines(detail, with_body)
    yield from _exchange_lines(detail.exchanges, width)
    if detail.notices:
        yield "Told"
        for notice in detail.notices:
            yield "  " + printable(_notice_line(notice, detail.now))
    if detail.acts:
        yield "Operators"
        for act in detail.acts:
            yield f"  {_second(act.time)}  {act.act} by {printable(act.who)}"
    if with_body and detail.body is not None:
        yield "Case"
        yield from block(_readable(detail.body), "  ")


def refused(delivery: Delivery) -> str:
    """What nginx said instead of making an attempt, as often as it did."""
    count = "once" if delivery.refusals == 1 else f"{delivery.refusals} times"
    since = f"{count} since {_second(delivery.refused)}, no attempt was made: "
    return f"{since}{delivery.refusal}"


def _conflict_lines(detail: Detail, with_body: bool) -> Iterator[str]:
    if not detail.conflicts:
        return
    delivery = detail.delivery
    own = {DELIVERED: "which was delivered", PENDING: "which is attempted"}
    yield "Contents under this id: more than one came, which is a conflict"
    yield f"  {_digest(delivery.digest)} {own.get(delivery.state, 'the last one')}"
    for each in detail.conflicts:
        size = "not kept" if each.body is None else f"{len(each.body):,} bytes"
        fate = "delivered too" if each.delivered else "not delivered"
        ticket = f", ticket id {each.ticket_id}" if each.ticket_id else ""
        text = f"{_digest(each.digest)} {fate}{ticket}, {size}, {_second(each.time)}"
        yield f"  {printable(text)}"
        if with_body and each.body is not None:
            yield from block(_readable(each.body), "    | ")


def _digest(digest: Optional[str]) -> str:
    return f"SHA-256 {(digest or NONE)[:16]}"


def _body_line(detail: Detail, config: Config, shown: bool) -> str:
    if detail.body is None:
        return "gone: " + no_body(detail.delivery, config.retention, detail.now)
    text = f"{len(detail.body):,} bytes"
    if detail.delivery.content_type:
        text += f", {detail.delivery.content_type}"
    return text if shown else f"{text} (--body shows it)"


def _exchange_lines(
    exchanges: Sequence[Exchange], width: Optional[int]
) -> Iterator[str]:
    yield "Attempts"
    rows = [
        [
            f"{utc(each.time):%Y-%m-%d %H:%M:%S}.{each.time % 1000:03d}",
            str(each.attempt),
            each.outcome,
            last(each.status, each.reason),
            NONE if each.duration_ms is None else str(each.duration_ms),
            each.upstream or NONE,
            each.ticket_id or (each.ticket_error and f"({each.ticket_error})") or NONE,
        ]
        for each in exchanges
    ]
    titles, *attempts = table(_EXCHANGES, rows, width)
    yield "  " + titles
    for line, each in zip(attempts, exchanges):
        yield "  " + line
        if each.response:
            yield from block(each.response.rstrip(), "    | ")


def _notice_line(notice: Notice, now: int) -> str:
    if notice.sent is not None:
        state = f"sent at {_second(notice.sent)}"
    elif notice.due is None:
        state = "not sent"
    else:
        word = "due since" if notice.due <= now else "waits until"
        state = f"{word} {_second(notice.due)}"
        if notice.error:
            state += f" after {notice.tries} in vain"
    return f"{notice.kind}: {state}" + (f" ({notice.error})" if notice.error else "")


def _readable(body: bytes) -> str:
    text = pretty(body)
    return body.decode("utf-8", "backslashreplace") if text is None else text


def _second(time: Optional[int]) -> str:
    return NONE if time is None else f"{utc(time):%Y-%m-%d %H:%M:%S} UTC"
