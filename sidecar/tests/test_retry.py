# Copyright (C) The ngx_vd_module authors
"""Attempts: when they are made, how many at once, and what becomes of them.

All with a real nginx, a real receiver and the program itself.
"""

from __future__ import annotations

import os
import socket
import statistics
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Iterator

import pytest
from attrs import evolve

from conftest import StartEdge
from edge import ATTEMPT, Edge, started, temporary_store
from journal_writer import Segment, failed
from processes import port_of, reserve_port, wait_for
from receiver import Answer, Receiver
from rig import Output, make_journal
from vd_sidecar import acts
from vd_sidecar.clock import steady
from vd_sidecar.config import Config
from vd_sidecar.retry import Retry, _Held
from vd_sidecar.store import Store

OUTPUTS = (
    Output("28", timeout=ATTEMPT),
    Output("29", ack="journal", timeout=ATTEMPT),
    Output("hopeless", timeout=ATTEMPT),
    Output("patient", timeout=ATTEMPT),
    Output("persistent", timeout=ATTEMPT),
    Output("once", timeout=ATTEMPT),
)
OWN: dict[str, dict[str, dict[str, object]]] = {
    "hopeless": {"retry": {"give_up_on": [410]}},
    "patient": {"retry": {"honor_retry_after": True}},
    "persistent": {"retry": {"attempts": 5, "backoff": ["50ms"]}},
    "once": {"retry": {"attempts": 1}},
}
PATIENT = {"timeout": "10s"}
DELAY = 3.0  # seconds, of the median, on a machine that has other things to do


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def edge(request: pytest.FixtureRequest) -> Iterator[Edge]:
    """One that all tests may use that leave it as it was, with ids of their own."""
    postgres = None
    if request.param == "postgresql":
        postgres = request.getfixturevalue("postgres")
    with ExitStack() as stack:
        url = stack.enter_context(temporary_store(request.param, postgres))
        receiver = Receiver()
        stack.callback(receiver.remove)
        yield started(stack, receiver, url, *OUTPUTS, outputs=OWN)


# ---- when and how often ----


def test_an_accepted_case_is_attempted_at_once(edge: Edge) -> None:
    answered = {}
    for number in range(30):
        id = f"accepted-{number}"
        edge.accept("29", id)
        answered[id] = time.time()
        time.sleep(0.07)  # so that it comes at any moment between two looks
    edge.view.wait("delivered", *answered)
    began = {each.id: each.start for each in edge.receiver.requests("29")}
    delays = sorted(began[id] - answered[id] for id in answered)
    median = statistics.median(delays)
    print(f"accepted to attempt: median {median:.3f} s, worst {delays[-1]:.3f} s")
    assert median < DELAY


def test_a_case_is_delivered_at_its_third_attempt(edge: Edge) -> None:
    edge.receiver.script(503, 500, id="third")
    answer = edge.nginx.post("28", b'{"a": "\xc3\xa4"}', key="third", case="C-3")
    assert (answer.status, answer.json["state"]) == (202, "pending")
    delivery = edge.view.wait("delivered", "third")
    requests = edge.receiver.requests(id="third")
    assert [each.status for each in requests] == [503, 500, 200]
    assert {each.body for each in requests} == {b'{"a": "\xc3\xa4"}'}
    assert {each.headers["content-type"] for each in requests} == {"application/json"}
    first, second, third = requests
    assert second.start - first.end >= 0.1 and third.start - second.end >= 0.2
    assert (delivery.attempts, delivery.due, delivery.owner) == (3, None, None)
    assert (delivery.status, delivery.reason, delivery.case) == (200, None, "C-3")
    assert delivery.ticket_id is not None
    exchanges = edge.view.exchanges("third")
    assert [(each.attempt, each.outcome, each.status) for each in exchanges] == [
        (1, "failed", 503),
        (2, "failed", 500),
        (3, "delivered", 200),
    ]


def test_a_case_is_given_up_after_its_attempts(edge: Edge) -> None:
    edge.fail("28", "hard", 500, 404)
    delivery = edge.view.wait("failed", "hard")
    assert [each.status for each in edge.receiver.requests(id="hard")] == [
        503,
        500,
        404,
    ]
    assert (delivery.attempts, delivery.status, delivery.reason) == (3, 404, "status")
    assert delivery.due is None
    assert delivery.alert in [each.seq for each in edge.view.alerts("28")]


def test_what_was_accepted_has_as_many_attempts(edge: Edge) -> None:
    edge.receiver.script(503, 503, 503, id="accepted")
    edge.accept("29", "accepted")
    assert edge.view.wait("failed", "accepted").attempts == 3
    assert len(edge.receiver.requests(id="accepted")) == 3


def test_a_status_may_be_hopeless(edge: Edge) -> None:
    edge.fail("hopeless", "gone", 410)
    edge.fail("28", "again", 410)
    delivery = edge.view.wait("failed", "gone")
    assert (delivery.attempts, delivery.status) == (2, 410)
    assert delivery.alert in [each.seq for each in edge.view.alerts("hopeless")]
    assert edge.view.wait("delivered", "again").attempts == 3
    assert len(edge.receiver.requests(id="gone")) == 2


def test_a_receiver_may_ask_for_patience(edge: Edge) -> None:
    edge.fail("patient", "wait", Answer(429, retry_after=1))
    edge.fail("patient", "weeks", Answer(429, retry_after=10_000_000))
    edge.fail("28", "hurry", Answer(429, retry_after=3600))
    edge.view.wait("delivered", "wait", "hurry")
    _, second, third = edge.receiver.requests(id="wait")
    assert third.start - second.end >= 1.0

    weeks = edge.view.wait_attempts("weeks", 2)
    last = edge.view.exchanges("weeks")[-1].time
    assert weeks.due is not None and last <= weeks.noted, "it rests from then on"
    assert 3500 < (weeks.due - weeks.noted) / 1000 <= 3600


def test_an_output_has_its_own_settings(edge: Edge) -> None:
    edge.fail("persistent", "stubborn", 503, 503, 503)
    edge.fail("once", "single")
    assert edge.view.wait("delivered", "stubborn").attempts == 5
    assert edge.view.wait("failed", "single").attempts == 1
    assert len(edge.receiver.requests(id="single")) == 1


def test_a_timeout_is_a_failure(edge: Edge) -> None:
    edge.fail("28", "slow", Answer(hang=True))
    delivery = edge.view.wait("delivered", "slow")
    reasons = [each.reason for each in edge.view.exchanges("slow")]
    assert (delivery.attempts, reasons) == (3, ["status", "timeout", None])


# ---- the app again ----


def test_a_case_that_the_app_repeats_in_time_is_left_alone(edge: Edge) -> None:
    edge.fail("patient", "twice", Answer(429, retry_after=3600))
    edge.view.wait_attempts("twice", 2)
    assert edge.nginx.post("patient", key="twice").status == 200
    delivery = edge.view.wait("delivered", "twice")
    assert delivery.due is None and delivery.ticket_id is not None


@pytest.mark.parametrize("output", ["28", "29"])
def test_a_case_that_was_given_up_begins_anew(edge: Edge, output: str) -> None:
    id = f"anew-{output}"
    edge.receiver.script(*[503] * 5, id=id)
    assert edge.nginx.post(output, key=id).status == 202
    edge.view.wait("failed", id)
    assert edge.nginx.post(output, b'{"second": 1}', key=id).status == 202
    delivery = edge.view.wait("delivered", id)
    assert (delivery.base, delivery.attempts) == (3, 6)
    requests = edge.receiver.requests(id=id)
    assert [each.status for each in requests] == [503] * 5 + [200]
    assert requests[-1].body == b'{"second": 1}'


def test_a_case_that_is_given_up_again_is_told_again(edge: Edge) -> None:
    edge.receiver.script(*[503] * 6, id="twice-given-up")
    for attempts in (3, 6):
        assert edge.nginx.post("28", key="twice-given-up").status == 202
        edge.view.wait_attempts("twice-given-up", attempts)
        edge.view.wait("failed", "twice-given-up")
    lines = edge.sidecar.log().splitlines()
    told = [line for line in lines if '"given up"' in line and "twice-given" in line]
    assert len(told) == 2


def test_a_case_whose_body_is_nowhere_is_given_up(edge: Edge) -> None:
    edge.receiver.script(503, id="bodyless")
    assert edge.nginx.post("28", key="bodyless", attempt=2).status == 202
    delivery = edge.view.wait("failed", "bodyless")
    assert (delivery.attempts, delivery.reason) == (2, "body_missing")
    assert delivery.alert in [each.seq for each in edge.view.alerts("28")]
    assert len(edge.receiver.requests(id="bodyless")) == 1


def test_nothing_was_twice_at_once_nor_miscounted(edge: Edge) -> None:
    """After all the tests above."""
    assert edge.receiver.stats().twice_at_once == []
    assert edge.view.tallies() == edge.view.counted()
    states = edge.view.counted()
    ended = sum(each.count for each in edge.view.alerts())
    assert ended >= sum(each.get("failed", 0) for each in states.values())


# ---- how many at once ----


def test_limits_hold_and_are_reached(start_edge: StartEdge, receiver: Receiver) -> None:
    receiver.always(Answer(delay=0.5))
    edge = start_edge(
        *(Output(id, ack="journal", timeout=ATTEMPT) for id in "abc"),
        retry={"concurrency": 6, "per_output": 4},
        outputs={"c": {"retry": {"per_output": 1}}},
    )
    ids = [f"{output}-{number}" for number in range(20) for output in "abc"]
    for id in ids:
        edge.accept(id[0], id)
    wait_for(lambda: receiver.stats().in_flight == 6, "all places to be taken")
    receiver.always(Answer(delay=0.05))
    edge.view.wait("delivered", *ids)
    stats = receiver.stats()
    assert 3 <= max(stats.max_by_output.values()) <= 4 and stats.max_by_output["c"] == 1
    assert stats.max_in_flight == 6
    assert (stats.requests, stats.twice_at_once) == (60, [])


def test_more_is_claimed_where_attempts_are_quick(config: Config) -> None:
    """So that an output is never idle for the store, nor holds what others could do."""
    retry = Retry(None, config, None, None, None)  # type: ignore[arg-type]
    for begun, room in ((0, 64), (200, 200), (10_000, 256), (30, 64)):
        retry._begun["28"] = begun
        retry._take_pace(steady() + 3600)
        retry._begun_since = steady()
        assert retry._room("28", 0.5) == room
    some = [_Held(None, 0.0)] * 33  # type: ignore[arg-type]
    retry._waiting["28"].extend(some)
    assert retry._room("28", 0.5) == 0
    assert retry._room("28", 0.25) == 31
    retry._waiting["28"].extend(some)
    assert retry._room("28", 0.25) == 0


def test_what_is_cancelled_and_retried_amid_an_attempt_waits_for_its_end(
    receiver: Receiver, postgres_url: str, config: Config
) -> None:
    """No edge makes the next attempt while another is still at the last one."""
    output = Output("29", ack="journal", timeout="4s")
    with ExitStack() as stack:
        one, _ = (
            started(stack, receiver, postgres_url, output, edge=name, retry=PATIENT)
            for name in "ab"
        )
        receiver.script(Answer(hang=True), id="regret")
        one.accept("29", "regret")
        wait_for(lambda: receiver.stats().in_flight, "the attempt")

        store = Store(postgres_url)
        stack.callback(store.close)
        seqs = [one.view.get("regret").seq]
        for act in (acts.CANCEL, acts.RETRY):
            acts.perform(store, evolve(config, store=postgres_url), act, seqs, "alice")
        delivery = one.view.wait("delivered", "regret")

    assert [each.status for each in receiver.requests(id="regret")] == [None, 200]
    assert receiver.stats().twice_at_once == []
    assert (delivery.attempts, delivery.base) == (2, 0)


def test_dead_outputs_starve_no_other(
    start_edge: StartEdge, receiver: Receiver
) -> None:
    """Not even when there are so many that they could take all places."""
    dead = ("d1", "d2", "d3")
    for output in dead:
        receiver.always(Answer(hang=True), output=output)
    edge = start_edge(
        *(Output(id, ack="journal", timeout="4s") for id in (*dead, "alive")),
        retry={"concurrency": 6, "per_output": 4, "attempts": 1, "timeout": "20s"},
    )
    for number in range(20):
        for output in dead:
            edge.accept(output, f"{output}-{number}")
    wait_for(lambda: receiver.stats().in_flight == 6, "all places to be taken")
    edge.accept("alive", *(f"alive-{number}" for number in range(20)))
    edge.view.wait("delivered", *(f"alive-{number}" for number in range(20)))
    counts = edge.view.counted()
    assert sum(counts[output].get("pending", 0) for output in dead) > 24
    stats = receiver.stats()
    assert stats.max_in_flight == 6 and max(stats.max_by_output.values()) <= 4


# ---- what goes wrong on the way to nginx, and back ----


class Cutter:
    """Between the sidecar and nginx; it cuts connections on whose end one waits.

    ``cut`` requests that come next reach nginx, but their answers do not come back:
    the connection is closed once the receiver has the case.
    """

    def __init__(self, receiver: Receiver) -> None:
        self.nginx = 0  # its port
        self.cut = 0
        self._receiver = receiver
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.nginx))
            for pump in (self._forth, self._back):
                threading.Thread(
                    target=pump, args=(client, server), daemon=True
                ).start()

    def _forth(self, client: socket.socket, server: socket.socket) -> None:
        while data := receive(client):
            server.sendall(data)
            if self.cut:
                self.cut -= 1
                threading.Thread(target=self._cut, args=(client,), daemon=True).start()
        shut(server)

    def _cut(self, client: socket.socket) -> None:
        wait_for(lambda: self._receiver.stats().in_flight, "the attempt")
        shut(client)

    def _back(self, client: socket.socket, server: socket.socket) -> None:
        while data := receive(server):
            try:
                client.sendall(data)
            except OSError:
                break
        shut(client)

    def close(self) -> None:
        shut(self._listener)
        self._listener.close()


def receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except OSError:
        return b""


def shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


@pytest.fixture
def cutter(receiver: Receiver) -> Iterator[Cutter]:
    one = Cutter(receiver)
    yield one
    one.close()


@pytest.mark.parametrize("status", [200, 503])
def test_the_journal_knows_what_became_of_a_lost_answer(
    start_edge: StartEdge, receiver: Receiver, cutter: Cutter, status: int
) -> None:
    outputs = (Output("29", ack="journal", timeout="3s"),)
    edge = start_edge(*outputs, nginx=cutter.url, retry={"timeout": "5s"})
    cutter.nginx = edge.nginx.port
    receiver.script(Answer(status, delay=0.5), id="lost")
    cutter.cut = 1
    edge.accept("29", "lost")
    delivery = edge.view.wait("delivered", "lost")
    assert "the answer was lost" in edge.sidecar.log()
    statuses = [each.status for each in receiver.requests(id="lost")]
    if status == 200:
        assert statuses == [200] and delivery.attempts == 1
    else:
        # long before its lease has ended, and not counted twice
        assert statuses == [503, 200] and delivery.attempts == 2
        first, second = receiver.requests(id="lost")
        assert second.start - first.end < 10.0
    assert receiver.stats().twice_at_once == []


def test_the_place_of_a_lost_answer_stays_taken(
    sqlite_edge: StartEdge, receiver: Receiver, cutter: Cutter
) -> None:
    edge = sqlite_edge(
        Output("29", ack="journal", timeout="3s"),
        nginx=cutter.url,
        retry={"timeout": "5s", "per_output": 1},
    )
    cutter.nginx = edge.nginx.port
    receiver.always(Answer(delay=0.4))
    cutter.cut = 1
    ids = [f"place-{number}" for number in range(4)]
    edge.accept("29", *ids)
    edge.view.wait("delivered", *ids)
    stats = receiver.stats()
    assert (stats.requests, stats.max_in_flight) == (4, 1)


def test_an_attempt_that_died_with_nginx_is_made_again(
    sqlite_edge: StartEdge, receiver: Receiver
) -> None:
    edge = sqlite_edge(Output("29", ack="journal"), retry={"timeout": "1s"})
    receiver.script(Answer(hang=True), id="died")
    edge.accept("29", "died")
    wait_for(lambda: receiver.stats().in_flight, "the attempt")
    edge.nginx.kill()
    edge.nginx.start()
    wait_for(lambda: edge.view.get("died").refusals, "the end of its lease")
    edge.sidecar.cli_json("retry", "died")
    delivery = edge.view.wait("delivered", "died")
    assert delivery.attempts == 1  # of the other nobody knows
    assert [each.status for each in receiver.requests(id="died")] == [None, 200]


def test_nginx_may_be_away(start_edge: StartEdge, receiver: Receiver) -> None:
    edge = start_edge("28", retry={"backoff": ["4s"]})
    ids = [f"away-{number}" for number in range(3)]
    for id in ids:
        edge.fail("28", id)
    edge.nginx.stop()
    wait_for(lambda: "takes no attempts" in edge.sidecar.log(), "the sidecar to notice")
    wait_for(
        lambda: all(each.owner is None for each in edge.view.all()), "leases' return"
    )
    for delivery in edge.view.all():
        first = edge.view.exchanges(delivery.id)[0].time
        assert (delivery.state, delivery.attempts) == ("pending", 1)
        assert delivery.due is not None and 4000 <= delivery.due - first < 5000
    edge.nginx.start()
    edge.view.wait("delivered", *ids)
    assert {each.attempts for each in edge.view.all()} == {2}
    assert receiver.stats().requests == 6


@pytest.mark.parametrize("status", [200, 503])
def test_an_attempt_without_a_record_is_settled_by_its_answer(
    start_edge: StartEdge, receiver: Receiver, status: int
) -> None:
    edge = start_edge(
        "28", segment="4k", workers=1, retry={"backoff": ["4s"], "attempts": 2}
    )
    full = b'"%b"' % (b"x" * 5000)  # one record, and the segment is
    receiver.script(503, status, id="unwritten")
    assert edge.nginx.post("28", full, key="unwritten").status == 202
    mode = edge.nginx.journal.stat().st_mode
    edge.nginx.journal.chmod(0o550)
    try:
        state = "delivered" if status == 200 else "failed"
        delivery = edge.view.wait(state, "unwritten")
    finally:
        edge.nginx.journal.chmod(mode)
    assert (delivery.attempts, delivery.status) == (2, status)
    assert (delivery.ticket_id is not None) == (status == 200)
    assert "an attempt was not journaled" in edge.sidecar.log()
    assert len(receiver.requests(id="unwritten")) == 2
    assert [each.attempt for each in edge.view.exchanges("unwritten")] == [1, 2]


@pytest.mark.parametrize("timeout", ["1s", "10s"])
def test_a_journal_elsewhere_is_noticed(
    sqlite_edge: StartEdge, receiver: Receiver, directory: Path, timeout: str
) -> None:
    """However short the lease is."""
    elsewhere = make_journal(directory / "elsewhere")
    output = Output("28", more=f"vd_journal {elsewhere};", timeout=ATTEMPT)
    edge = sqlite_edge(output, retry={"timeout": timeout, "attempts": 2})
    receiver.script(Answer(503, delay=0.2), id="elsewhere")
    with Segment(edge.nginx.journal) as segment:
        segment.write(failed("elsewhere"))
    delivery = edge.view.wait("failed", "elsewhere")
    assert (delivery.attempts, delivery.reason, delivery.status) == (2, "status", 503)
    assert "journaled an attempt elsewhere" in edge.sidecar.log()
    assert receiver.stats().requests == 1


def test_a_case_of_an_app_has_no_say_in_the_headers(edge: Edge) -> None:
    """One that cannot be sent as it is, is sent without, or is no attempt."""
    with Segment(edge.nginx.journal) as segment:
        segment.write(
            failed("folded", content_type="text/plain\r\nVD-Attempt: 7"),
            failed("odd-case", case="C\r\nIdempotency-Key: other"),
        )
    edge.view.wait("delivered", "odd-case")
    wait_for(lambda: edge.view.get("folded").refusal, "the end of it")
    assert "no request can be made" in str(edge.view.get("folded").refusal)
    ids = {each.id for each in edge.receiver.requests()}
    assert "other" not in ids


def test_ports_and_sockets_are_equal(
    sqlite_edge: StartEdge, receiver: Receiver
) -> None:
    reserved = reserve_port()
    try:
        nobody = f"http://127.0.0.1:{port_of(reserved)}"
        edge = sqlite_edge("28", nginx=nobody)
        edge.fail("28", "port")
        wait_for(lambda: "takes no attempts" in edge.sidecar.log(), "it to notice")
        assert edge.sidecar.stop() == 0
        edge.sidecar.configure(
            journal=str(edge.nginx.journal),
            store=edge.sidecar.store,
            nginx=edge.nginx.url,
        )
        edge.sidecar.start()
        edge.view.wait("delivered", "port")
    finally:
        os.close(reserved.detach())
