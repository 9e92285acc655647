# Copyright (C) The ngx_vd_module authors
"""The same id with another content, or the same again: what becomes of each.

Nothing that an app sent is replaced or dropped in silence.
"""

from __future__ import annotations

from typing import Any, Iterator, Optional

import pytest

from conftest import StartEdge
from processes import wait_for
from receiver import Receiver
from stored import NOON, delivered, given_up, one, record, take
from stores import KINDS, Clock, dump, open_store
from vd_sidecar import acts, compose, detail
from vd_sidecar.config import Config, Smtp
from vd_sidecar.journal import digest
from vd_sidecar.model import Conflict, Delivery, Record
from vd_sidecar.retry import Retry, _Answered
from vd_sidecar.store import Store, deliveries, notices, schema

A, B, C = b'{"a": 1}', b'{"b": 2}', b'{"c": 3}'
MINUTE = 60_000
LATER = NOON + 10 * MINUTE
RECEIVED = {"failed": False, "accepted": False, "delivered": True}


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    store = open_store(request, Clock(LATER + MINUTE))
    yield store
    store.close()


def sent(body: bytes, outcome: str = "failed", **fields: Any) -> Record:
    """A first attempt of ``body``, as nginx journals it."""
    known = {"digest": digest(body), "outcome": outcome, **fields}
    if outcome == "delivered":
        return delivered("id", body=None, **{"ticket_id": ticket(body), **known})
    return record("id", body=body, **known)


def ticket(body: bytes) -> str:
    return f"T-{digest(body)[:8]}"


def contents(store: Store) -> tuple[Delivery, Optional[bytes], list[Conflict]]:
    """The delivery, its own content, and the others."""
    with store.reading() as connection:
        (found,) = deliveries.by_ids(connection, ["id"]).values()
        body = deliveries.body(connection, found.seq)
        return found, body, deliveries.conflicts(connection, [found.seq])


def alerts(store: Store, kind: str = "conflict") -> int:
    with store.reading() as connection:
        found = dump(connection, schema.alerts)
    return sum(each["count"] for each in found if each["kind"] == kind)


def shown(store: Store, config: Config) -> str:
    with store.reading() as connection:
        known = detail.read(connection, one(store, "id"), LATER)
    return "\n".join(detail.lines(known, config, True, None))


# ---- another content ----


@pytest.mark.parametrize("outcome", RECEIVED)
def test_after_it_was_delivered(store: Store, config: Config, outcome: str) -> None:
    take(store, config, [sent(A, "delivered")])
    take(store, config, [sent(B, outcome, time=LATER)])
    found, body, (other,) = contents(store)
    assert (found.state, found.digest, found.ticket_id) == (
        "delivered",
        digest(A),
        ticket(A),
    )
    assert found.attempts == 1
    assert body is None  # the page has none, rather than another's
    assert (other.digest, other.time) == (digest(B), LATER)
    assert other.delivered == RECEIVED[outcome]
    assert other.ticket_id == (ticket(B) if RECEIVED[outcome] else None)
    assert other.body == (None if RECEIVED[outcome] else B)
    assert alerts(store) == 1
    text = shown(store, config)
    assert f"{digest(A)[:16]} which was delivered" in text
    fate = "delivered too" if RECEIVED[outcome] else "not delivered"
    assert f"{digest(B)[:16]} {fate}" in text
    assert ('"b": 2' in text) == (not RECEIVED[outcome])


def test_a_ticket_of_the_other_is_not_its_own(store: Store, config: Config) -> None:
    take(store, config, [sent(A, "delivered", ticket_id=None, ticket_error="missing")])
    take(store, config, [sent(B, "delivered", time=LATER)])
    found, _, (other,) = contents(store)
    assert (found.ticket_id, found.digest) == (None, digest(A))
    assert (other.ticket_id, other.digest) == (ticket(B), digest(B))


@pytest.mark.parametrize("first", ["failed", "accepted"])
@pytest.mark.parametrize("outcome", ["failed", "accepted"])
def test_while_the_first_is_pending(
    store: Store, config: Config, first: str, outcome: str
) -> None:
    take(store, config, [sent(A, first)])
    before, _, _ = contents(store)
    take(store, config, [sent(B, outcome, time=LATER)])
    found, body, (other,) = contents(store)
    assert found == before and found.state == "pending"
    assert (body, other.body, other.delivered) == (A, B, False)
    assert alerts(store) == 1


def test_while_an_attempt_of_the_first_is_under_way(
    store: Store, config: Config
) -> None:
    """Its outcome is not that of the other, which has the same number."""
    take(store, config, [sent(A, "accepted")])
    (claim,) = claimed(store, config)
    take(store, config, [sent(B, time=LATER)])
    assert contents(store)[0].owner == config.edge
    take(store, config, [sent(A, "delivered", time=LATER + 1)])
    found, _, (other,) = contents(store)
    assert (found.state, found.digest, found.owner) == ("delivered", digest(A), None)
    assert (other.digest, other.delivered) == (digest(B), False)


def test_another_is_delivered_while_the_first_is_pending(
    store: Store, config: Config
) -> None:
    take(store, config, [sent(A, case="C-A")])
    take(store, config, [sent(B, "delivered", time=LATER, case="C-B")])
    found, body, (other,) = contents(store)
    assert (found.state, found.digest, found.case) == ("delivered", digest(B), "C-B")
    assert body is None  # what is there was the first's
    assert (other.digest, other.body, other.delivered) == (digest(A), A, False)
    assert alerts(store) == 1


@pytest.mark.parametrize("outcome", ["failed", "accepted"])
@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_after_an_end_the_other_takes_its_place(
    store: Store, config: Config, end: str, outcome: str
) -> None:
    """The app heard 202: it is attempted, in a round of its own."""
    time = ended(store, config, end)
    later = {"time": time, "case": "C-B", "content_type": "text/b"}
    take(store, config, [sent(B, outcome, kept="Qg", host="b", **later)])
    found, _, (other,) = contents(store)
    assert (found.state, found.digest) == ("pending", digest(B))
    assert (found.case, found.content_type) == ("C-B", "text/b")
    assert found.attempts - found.base == (outcome == "failed")
    assert (other.digest, other.body, other.delivered) == (digest(A), A, False)
    with store.reading() as connection:
        content = deliveries.content(connection, found.seq)
    assert content is not None
    assert (content.body, content.host, content.kept) == (B, "b", "Qg")
    assert alerts(store) == 1


def test_not_as_long_as_the_first_may_be_on_the_wire(
    store: Store, config: Config
) -> None:
    """Its outcome would be taken for the other's."""
    take(store, config, [sent(A)])
    claimed(store, config)
    act(store, config, acts.CANCEL)
    take(store, config, [sent(B, time=one(store, "id").updated + 1)])
    found, body, (other,) = contents(store)
    assert (found.state, found.digest, body) == ("cancelled", digest(A), A)
    assert (other.digest, other.body) == (digest(B), B)
    take(store, config, [delivered("id", attempt=2, time=found.updated + 2)])
    assert contents(store)[0].digest == digest(A)


def test_each_content_is_told_once(store: Store, config: Config) -> None:
    take(store, config, [sent(A, "delivered")])
    for minute in range(3):
        take(store, config, [sent(B, time=LATER + minute)])
    take(store, config, [sent(C, time=LATER)])
    take(store, config, [sent(B, "delivered", time=LATER + 9)])
    _, _, others = contents(store)
    assert {each.digest: each.delivered for each in others} == {
        digest(B): True,
        digest(C): False,
    }
    assert {each.time for each in others} == {LATER}
    assert alerts(store) == 2


def test_contents_that_take_turns(store: Store, config: Config) -> None:
    time = NOON
    for number, body in enumerate((A, B, A, C)):
        time += 10 * MINUTE
        take(store, config, [sent(body, time=time, crc=time)])
        take(store, config, given_up("id", time=time + 1)[1:])
        with store.writing() as connection:
            deliveries.save(
                connection, [one(store, "id")._replace(state="failed", due=None)]
            )
        found, own, others = contents(store)
        assert (found.digest, own) == (digest(body), body)
        assert {each.body for each in others} == {A, B, C} & {
            *(A, B, A, C)[: number + 1]
        } - {body}


def test_in_one_batch(store: Store, config: Config) -> None:
    take(store, config, [sent(A), sent(B, time=LATER), sent(C, time=LATER + 1)])
    found, body, others = contents(store)
    assert (found.state, body, [each.body for each in others]) == ("pending", A, [B, C])
    assert alerts(store) == 1  # of one delivery


# ---- the same content again ----


@pytest.mark.parametrize("outcome", RECEIVED)
def test_the_same_after_it_was_delivered(
    store: Store, config: Config, outcome: str
) -> None:
    """There is nothing to do, and it can be seen that the app repeated it."""
    take(store, config, [sent(A, "delivered")])
    assert "sent it again" not in shown(store, config)
    take(store, config, [sent(A, outcome, time=LATER)])
    found, _, others = contents(store)
    assert (found.state, found.due, others) == ("delivered", None, [])
    assert alerts(store) == 0
    assert "the app sent it again at 2023-11-14 22:23:20" in shown(store, config)


@pytest.mark.parametrize("outcome", ["failed", "accepted"])
@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_the_same_after_an_end_begins_anew(
    store: Store, config: Config, end: str, outcome: str
) -> None:
    time = ended(store, config, end)
    before = one(store, "id")
    take(store, config, [sent(A, outcome, time=time)])
    found, body, others = contents(store)
    assert (found.state, body, others) == ("pending", A, [])
    assert found.base == before.attempts
    assert found.due is not None and alerts(store) == 0


def test_what_was_sent_before_the_cancel_begins_nothing(
    store: Store, config: Config
) -> None:
    """However late its record is read."""
    ended(store, config, "cancelled")
    take(store, config, [sent(A, "accepted", time=NOON + MINUTE)])
    assert contents(store)[0].state == "cancelled"


def test_what_was_delivered_and_forgotten_may_be_sent_anew(
    store: Store, config: Config
) -> None:
    """Nobody knows any more whether it is the same case."""
    take(store, config, [sent(A, "delivered")])
    acts.perform(store, config, acts.FORGET, [one(store, "id").seq], "test")
    take(store, config, [sent(B, time=NOON + 1)])
    found, body, _ = contents(store)
    assert (found.state, found.forgotten, body) == ("delivered", True, None)
    take(store, config, [sent(B, time=one(store, "id").updated + 1)])
    found, body, _ = contents(store)
    assert (found.state, found.forgotten, body) == ("pending", False, B)


def test_the_sidecar_s_first_attempt_is_no_repeat(store: Store, config: Config) -> None:
    """Another edge's may be read after the end, when that edge comes back."""
    take(store, config, [sent(A, "accepted"), *given_up("id", digest=digest(A))])
    ended = one(store, "id")
    assert ended.state == "failed"
    take(store, config, [sent(A, time=ended.updated - 1, upstream="b")])
    assert one(store, "id").state == "failed"
    take(store, config, [sent(A, "accepted", time=ended.updated - 1)])
    assert one(store, "id").state == "pending"


def test_what_was_forgotten_may_be_sent_anew(store: Store, config: Config) -> None:
    take(store, config, [sent(A), sent(B, time=NOON + 1)])
    act(store, config, acts.FORGET)
    found, body, others = contents(store)
    assert (found.digest, body, others) == (None, None, [])
    take(store, config, [sent(C, time=found.updated + 1)])
    found, body, others = contents(store)
    assert (found.state, found.forgotten, body) == ("pending", False, C)
    assert others == [] and alerts(store) == 1  # of before


# ---- how long, and who hears ----


def test_others_go_when_the_delivery_s_own_does(store: Store, config: Config) -> None:
    take(store, config, [sent(A, "delivered"), sent(B, time=NOON + 1)])
    with store.writing() as connection:
        deliveries.delete_bodies(connection, NOON, 100)
    assert contents(store)[2][0].body == B
    with store.writing() as connection:
        later = store.now(connection) + 1
        deliveries.delete_bodies(connection, later, 100)
    assert contents(store)[2][0].body is None
    with store.writing() as connection:
        deliveries.delete_old(connection, later, 100)
        assert dump(connection, schema.conflicts) == []


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("kind", ["conflict", "refused", "failed"])
def test_the_alert_says_it(
    store: Store, config: Config, kind: str, language: str
) -> None:
    take(store, config, [sent(A, case="C-1"), sent(B, time=NOON + 1)])
    for _ in range(2 if kind == "failed" else 1):
        (claim,) = claimed(store, config)
        heard = "nginx at http://x:1, /outputs/28, answered 404 Not Found"
        retry = Retry(store, config, None, None, None)  # type: ignore[arg-type]
        retry._settle([_Answered(claim, None, 0.0, heard)])
        with store.writing() as connection:
            old = one(store, "id")._replace(refused=1, due=NOON)
            deliveries.save(connection, [old])
    with store.reading() as connection:
        (seq,) = (
            each["seq"]
            for each in dump(connection, schema.alerts)
            if each["kind"] == kind
        )
        alert = notices.alert(connection, seq)
        about = notices.alert_deliveries(connection, seq, 10)
    smtp = Smtp(sender="vd@example.com")
    mail = compose.alert_mail(
        alert, about, ["o@example.com"], smtp, now=LATER, language=language
    )
    text = mail.get_content()
    assert "C-1" in text and "vd-sidecar show --output 28" in text
    if kind == "conflict":
        assert digest(A)[:16] in text
    else:
        assert heard in text


# ---- all of it ----


def test_an_app_that_uses_a_key_twice(
    start_edge: StartEdge, receiver: Receiver
) -> None:
    edge = start_edge("28", retry={"backoff": ["1h"]})
    assert edge.nginx.post("28", A, key="twice").status == 200
    receiver.script(503, id="twice")
    assert edge.nginx.post("28", B, key="twice").status == 202
    receiver.script(503, id="pending")
    assert edge.nginx.post("28", A, key="pending").status == 202
    receiver.script(503, id="pending")
    assert edge.nginx.post("28", B, key="pending").status == 202
    wait_for(lambda: len(edge.view.alerts("28")) == 1, "the alert")
    wait_for(lambda: edge.view.alerts("28")[0].count == 2, "both of it")

    (told,) = edge.sidecar.cli_json("show", "twice", "--body")
    (other,) = told["conflicts"]
    assert (told["state"], told["digest"]) == ("delivered", digest(A))
    assert (other["body"], other["delivered"]) == (B.decode(), False)
    (told,) = edge.sidecar.cli_json("show", "pending", "--body")
    assert (told["state"], told["body"]) == ("pending", A.decode())
    page = edge.sidecar.get("/deliveries/28/twice").text
    assert "Conflict of contents" in page and digest(B)[:16] in page
    edge.sidecar.cli_json("retry", "pending")
    edge.view.wait("delivered", "pending")
    assert receiver.requests(id="pending")[-1].body == A


def claimed(store: Store, config: Config) -> Any:
    with store.writing() as connection:
        return deliveries.claim(
            connection,
            "28",
            config.edge,
            now=store.now(connection),
            scanned=0,
            lease=3600.0,
            limit=1,
        )


def act(store: Store, config: Config, what: acts.Act) -> None:
    acts.perform(store, config, what, [one(store, "id").seq], "somebody")


def ended(store: Store, config: Config, end: str) -> int:
    """A delivery of A that was given up or cancelled; a time after that."""
    take(store, config, [sent(A)])
    if end == "failed":
        take(store, config, given_up("id", time=NOON + 1)[1:])
    else:
        act(store, config, acts.CANCEL)
    found = one(store, "id")
    assert found.state == end
    return found.updated + 1
