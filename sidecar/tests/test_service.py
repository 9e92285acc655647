# Copyright (C) The ngx_vd_module authors
"""The program as a whole: how it starts, ends and begins anew, and what it tells.

All with a real nginx, a real receiver and the program itself.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

from conftest import StartEdge
from edge import ATTEMPT, RETRY, Edge
from processes import wait_for
from receiver import Answer, Receiver, Request
from rig import SECRET, Output
from sidecar import Sidecar

ACCEPTING = Output("29", ack="journal", timeout=ATTEMPT)


def segments(edge: Edge) -> list[Path]:
    return sorted(edge.nginx.journal.glob("*.jsonl"))


# ---- the end, and a new beginning ----


def test_it_ends_in_order(start_edge: StartEdge, receiver: Receiver) -> None:
    """What is under way is finished, what waits is given back, and goes on later."""
    edge = start_edge(ACCEPTING, retry={"per_output": 2})
    receiver.always(Answer(delay=0.8))
    ids = [f"ends-{number}" for number in range(12)]
    edge.accept("29", *ids)
    wait_for(lambda: receiver.stats().in_flight == 2, "attempts under way")
    assert edge.sidecar.stop() == 0

    stats = receiver.stats()
    assert (stats.in_flight, set(stats.statuses)) == (0, {200})
    known = {each.id: each for each in edge.view.all()}
    assert edge.view.states()["delivered"] == stats.requests
    for each in known.values():
        if each.state == "pending":
            assert (each.owner, each.claimed, each.attempts) == (None, None, 0)
            assert each.due is not None and each.due <= each.created

    receiver.always(Answer())
    edge.sidecar.start()
    edge.view.wait("delivered", *ids)
    assert receiver.stats().requests == len(ids)
    assert edge.view.tallies() == edge.view.counted() == {"29": {"delivered": 12}}


def test_it_ends_in_order_while_nginx_is_away(
    start_edge: StartEdge, receiver: Receiver
) -> None:
    edge = start_edge("28")
    edge.fail("28", "away")
    edge.nginx.stop()
    wait_for(lambda: "takes no attempts" in edge.sidecar.log(), "it to notice")
    assert edge.sidecar.stop() == 0
    delivery = edge.view.get("away")
    assert (delivery.state, delivery.attempts) == ("pending", 1)
    assert delivery.owner is None


def test_due_times_outlive_it(sqlite_edge: StartEdge, receiver: Receiver) -> None:
    edge = sqlite_edge("28", retry={"backoff": ["20s"]})
    edge.fail("28", "patient")
    before = edge.view.wait_attempts("patient", 1)
    edge.sidecar.stop()
    edge.sidecar.start()
    edge.sidecar.kill()
    assert edge.view.get("patient") == before
    edge.sidecar.start()
    edge.view.wait("delivered", "patient")
    first, second = receiver.requests(id="patient")
    assert before.due is not None
    assert second.start >= before.due / 1000 and second.start - first.end >= 20.0


def test_a_crash_amid_attempts_loses_none(
    sqlite_edge: StartEdge, receiver: Receiver
) -> None:
    """nginx finishes them; the journal tells, so that none is made twice."""
    edge = sqlite_edge(ACCEPTING)
    receiver.always(Answer(delay=1.2))
    ids = [f"crash-{number}" for number in range(12)]
    edge.accept_at_once("29", *ids)
    wait_for(lambda: receiver.stats().in_flight == 8, "attempts under way")
    edge.sidecar.kill()
    edge.sidecar.start()
    edge.view.wait("delivered", *ids)
    stats = receiver.stats()
    assert (stats.requests, stats.twice_at_once) == (len(ids), [])
    assert edge.view.tallies() == edge.view.counted()


def test_it_sleeps_longer_than_its_leases(
    sqlite_edge: StartEdge, receiver: Receiver
) -> None:
    edge = sqlite_edge(
        Output("29", ack="journal", timeout="4s"), retry={"timeout": "1s"}
    )
    receiver.always(Answer(delay=0.6))
    ids = [f"sleep-{number}" for number in range(20)]
    edge.accept_at_once("29", *ids)
    wait_for(lambda: receiver.stats().in_flight == 8, "attempts under way")
    edge.sidecar.pause()
    wait_for(lambda: all(past(each.due) for each in edge.view.all()), "leases' ends")
    receiver.always(Answer())
    edge.sidecar.resume()
    edge.view.wait("delivered", *ids)
    stats = receiver.stats()
    assert (stats.requests, stats.twice_at_once) == (len(ids), [])


def past(due: object) -> bool:
    return not isinstance(due, int) or due / 1000 < time.time()


def test_a_journal_has_one_sidecar(sqlite_edge: StartEdge, receiver: Receiver) -> None:
    edge = sqlite_edge("28")
    other = Sidecar(journal=str(edge.nginx.journal), nginx=edge.nginx.unix)
    try:
        other.start(wait=False)
        wait_for(lambda: not other.running, "the second to end")
        assert other.stop() != 0
        assert "another process works on the journal" in other.log()
        assert str(edge.nginx.journal) in other.log()
        assert "Traceback" not in other.log()
    finally:
        other.remove()
    edge.fail("28", "undisturbed")
    edge.view.wait("delivered", "undisturbed")


# ---- the journal ----


def test_segments_that_were_read_are_deleted(
    start_edge: StartEdge, receiver: Receiver
) -> None:
    edge = start_edge("28", segment="4k", workers=1, retention={"segments": "0"})
    ids = [f"segment-{number}" for number in range(20)]
    for id in ids:
        edge.fail("28", id)
    edge.view.wait("delivered", *ids)
    wait_for(lambda: len(segments(edge)) <= 1, "all but the one that is written to")
    edge.nginx.stop()
    wait_for(lambda: not segments(edge), "the last one")
    assert edge.view.tallies() == edge.view.counted() == {"28": {"delivered": 20}}


def test_segments_are_kept_for_an_hour(
    sqlite_edge: StartEdge, receiver: Receiver
) -> None:
    edge = sqlite_edge("28")
    edge.fail("28", "kept")
    edge.view.wait("delivered", "kept")
    edge.nginx.stop()
    kept = segments(edge)
    assert edge.sidecar.stop() == 0
    edge.sidecar.start()
    edge.sidecar.stop()
    assert kept and segments(edge) == kept
    assert len(edge.view.exchanges("kept")) == 2 == receiver.stats().requests


def test_records_of_a_killed_worker_are_taken(
    start_edge: StartEdge, receiver: Receiver
) -> None:
    edge = start_edge("28", ACCEPTING, retention={"segments": "0"})
    edge.sidecar.stop()
    ids = [f"orphan-{number}" for number in range(6)]
    for id in ids[:3]:
        edge.fail("28", id)
    edge.accept("29", *ids[3:])
    edge.nginx.kill_workers()
    written = segments(edge)
    assert written
    edge.sidecar.start()
    edge.view.wait("delivered", *ids)
    wait_for(lambda: not {*written} & {*segments(edge)}, "the end of their segments")


# ---- the app hears of it ----


def outcomes(receiver: Receiver) -> list[dict[str, Any]]:
    """What the app was told, in order; it took all of it."""
    requests = receiver.requests("callback")
    found = [each.json for each in requests if each.status == 200]
    assert all(isinstance(each, dict) for each in found)
    return found  # type: ignore[return-value]


def wait_until_told(edge: Edge, count: int) -> None:
    """Until so many callbacks were written, and all are with nginx."""

    def told() -> bool:
        found = edge.view.notices("callback")
        return len(found) >= count and all(each.sent for each in found)

    wait_for(told, f"{count} callbacks")


def is_signed(request: Request) -> bool:
    id, timestamp = (request.headers[f"webhook-{name}"] for name in ("id", "timestamp"))
    signed = f"{id}.{timestamp}.".encode() + request.body
    digest = hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()
    expected = f"v1,{base64.b64encode(digest).decode()}"
    return request.headers["webhook-signature"] == expected


def test_the_app_hears_of_late_outcomes_alone(
    start_edge: StartEdge, receiver: Receiver
) -> None:
    edge = start_edge("28", ACCEPTING, callback={"location": "/callback"})
    assert edge.nginx.post("28", key="at-once").status == 200
    edge.fail("28", "late")
    edge.fail("28", "never", 500, 404)
    edge.accept("29", "accepted")
    edge.view.wait("delivered", "at-once", "late", "accepted")
    edge.view.wait("failed", "never")
    wait_until_told(edge, 3)
    receiver.wait_for(1 + 2 + 3 + 1 + 3)

    told = {each["id"]: each for each in outcomes(receiver)}
    assert len(edge.view.notices("callback")) == len(outcomes(receiver)) == 3
    assert set(told) == {"late", "never", "accepted"}
    late, never = edge.view.get("late"), edge.view.get("never")
    assert told["late"] | {"time": None} == {
        "type": "delivery.delivered",
        "time": None,
        "id": "late",
        "output": "28",
        "label": "Security Incident",
        "case": None,
        "state": "delivered",
        "attempts": 2,
        "status": 200,
        "ticket_id": late.ticket_id,
        "ticket_error": None,
        "reason": None,
    }
    assert late.ticket_id is not None
    failed = told["never"]
    assert (failed["type"], failed["state"]) == ("delivery.failed", "failed")
    assert (failed["attempts"], failed["status"]) == (never.attempts, 404)
    assert all(map(is_signed, receiver.requests("callback")))


def test_a_callback_is_a_delivery_but_has_none_itself(
    start_edge: StartEdge, receiver: Receiver
) -> None:
    receiver.script(503, 503, 503, output="callback")
    edge = start_edge("28", callback={"location": "/callback"})
    edge.fail("28", "first")
    edge.view.wait("delivered", "first")
    wait_until_told(edge, 1)
    (notice,) = edge.view.notices("callback")
    callback = f"callback-{notice.key}"
    edge.view.wait("failed", callback)
    assert [each.status for each in receiver.requests("callback")] == [503] * 3
    assert len(edge.view.alerts("callback")) == 1

    edge.fail("28", "second")
    edge.view.wait("delivered", "second")
    wait_until_told(edge, 2)
    assert len(edge.view.notices("callback")) == 2
    wait_for(lambda: len(outcomes(receiver)) == 1, "the second callback")
    assert outcomes(receiver)[0]["id"] == "second"


def test_a_callback_waits_for_nginx(sqlite_edge: StartEdge, receiver: Receiver) -> None:
    """And for the app, as long as that takes: here a new start of the sidecar."""
    edge = sqlite_edge("28", callback={"location": "/callback"}, retry={"attempts": 1})
    edge.nginx.configure([Output("28", timeout=ATTEMPT)])
    edge.fail("28", "told-late")
    edge.nginx.kill()
    edge.view.wait("failed", "told-late")
    wait_for(lambda: all(each.error for each in edge.view.notices("callback")), "a try")
    edge.sidecar.kill()
    edge.nginx.start()
    edge.sidecar.start()
    wait_until_told(edge, 1)
    wait_for(lambda: len(outcomes(receiver)) == 1, "the callback")
    (notice,) = edge.view.notices("callback")
    assert notice.tries >= 2
    assert receiver.requests("callback")[0].id == f"callback-{notice.key}"


# ---- settings ----


def test_what_is_set_for_one_output_is_set_for_no_other(
    sqlite_edge: StartEdge, receiver: Receiver
) -> None:
    edge = sqlite_edge(
        "28",
        "30",
        outputs={"30": {"retry": {"attempts": 2, "backoff": ["1s"]}}},
        retry={**RETRY, "backoff": ["50ms"]},
    )
    for output in ("28", "30"):
        edge.fail(output, f"own-{output}", 503)
    assert edge.view.wait("delivered", "own-28").attempts == 3
    assert edge.view.wait("failed", "own-30").attempts == 2
    first, second = receiver.requests("30")
    assert second.start - first.end >= 1.0


def test_what_a_login_page_took_is_sent_again(
    start_edge: StartEdge, receiver: Receiver
) -> None:
    """With the same id, the same bytes and the next number, to the receiver at last."""
    edge = start_edge("28")
    page = Answer(200, body=b"<html>Please log in</html>")
    edge.fail("28", "taken", page)
    edge.view.wait("delivered", "taken")
    ran = edge.sidecar.cli("retry", "--delivered", "--output", "28", "--yes")
    assert ran.stdout == "1 delivery sent again (1 of output 28)\n"
    edge.view.wait_attempts("taken", 3)
    delivery = edge.view.wait("delivered", "taken")
    assert delivery.ticket_id is not None and delivery.attempts == 3
    requests = receiver.requests(id="taken")
    assert len(requests) == 3
    assert len({(each.id, each.body) for each in requests}) == 1
    assert edge.view.tallies() == edge.view.counted()


def test_an_output_that_is_nowhere_is_told(
    sqlite_edge: StartEdge, receiver: Receiver
) -> None:
    edge = sqlite_edge("28", outputs={"28": {}, "99": {"retry": {"attempts": 2}}})
    edge.fail("28", "one")
    edge.view.wait("delivered", "one")
    assert "was ever delivered" not in edge.sidecar.log(), "nothing was known yet"
    edge.sidecar.stop()
    edge.sidecar.start()
    words = "nothing was ever delivered to an output"
    wait_for(lambda: words in edge.sidecar.log(), "its warning")
    (line,) = [json.loads(x) for x in edge.sidecar.log().splitlines() if words in x]
    assert (line["level"], line["output"]) == ("warning", "99")


def test_its_log_is_json_and_holds_no_case(
    sqlite_edge: StartEdge, receiver: Receiver
) -> None:
    edge = sqlite_edge("28")
    receiver.script(503, 503, 503, id="logged")
    edge.nginx.post("28", {"secret": "Kundennummer 4711"}, key="logged", case="C-9")
    edge.view.wait("failed", "logged")
    assert edge.sidecar.stop() == 0
    lines = [json.loads(line) for line in edge.sidecar.log().splitlines()]
    events = [line["event"] for line in lines]
    assert events.count("started") == events.count("given up") == 1
    assert "4711" not in edge.sidecar.log()
