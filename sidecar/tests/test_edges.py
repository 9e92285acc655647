# Copyright (C) The ngx_vd_module authors
"""Two edges, each with its nginx and its journal, on one PostgreSQL.

Either may die at any moment: the other goes on, and no case is lost, forgotten or
sent twice at once.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Iterator, Sequence

import pytest

from edge import ATTEMPT, Alert, Edge, View, started
from processes import kill, wait_for
from receiver import Answer, Receiver
from rig import Output
from slack_server import SlackServer
from vd_sidecar.model import Delivery

SECONDS = 18.0
DELIVERIES = 400
WINDOW = 2.0  # seconds, of alerts
LOCATIONS = (
    Output("28", timeout=ATTEMPT),
    Output("29", ack="journal", timeout=ATTEMPT),
    Output("30", timeout=ATTEMPT),
)
PATIENT: dict[str, object] = {"30": {"retry": {"backoff": ["5s", "100ms"]}}}

# What receivers answer at first, before they take a case.

MOODS: tuple[tuple[Answer, ...], ...] = (
    (),
    (),
    (Answer(503),),
    (Answer(delay=0.3),),
    (Answer(500), Answer(503, delay=0.2)),
    (Answer(close=True), Answer(429)),
    (Answer(hang=True),),
    (Answer(503), Answer(503), Answer(500)),
    (Answer(404, delay=0.1), Answer(close=True), Answer(410)),
)


@pytest.fixture
def slack() -> Iterator[SlackServer]:
    with SlackServer() as server:
        yield server


@pytest.fixture
def edges(
    receiver: Receiver, postgres_url: str, slack: SlackServer, directory: Path
) -> Iterator[list[Edge]]:
    webhook = directory / "webhook"
    webhook.write_text(slack.url)
    webhook.chmod(0o600)
    with ExitStack() as stack:
        yield [
            started(
                stack,
                receiver,
                postgres_url,
                *LOCATIONS,
                edge=name,
                segment="16k",
                outputs=PATIENT,
                alerts={
                    "slack_webhook_file": str(webhook),
                    "window": f"{WINDOW * 1000:.0f}ms",
                },
            )
            for name in "ab"
        ]


class App:
    """Sends cases to either edge, each once, and remembers what it was told."""

    def __init__(self, receiver: Receiver, edges: list[Edge], seed: int) -> None:
        self._receiver = receiver
        self._edges = edges
        self._random = random.Random(seed)
        self._thread = threading.Thread(target=self._run)
        self.sent: list[str] = []
        self.told: dict[str, int] = {}  # HTTP statuses of answers

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        for number in range(DELIVERIES):
            id = f"load-{number}"
            answers = self._random.choice(MOODS)
            self._receiver.script(*answers, id=id)
            self.sent.append(id)
            nginx = self._random.choice(self._edges).nginx
            output = "29" if answers[:1] == (Answer(hang=True),) else None
            try:
                answer = nginx.post(output or self._random.choice(("28", "29")), key=id)
            except OSError:
                pass  # its worker died
            else:
                self.told[id] = answer.status
            time.sleep(SECONDS / DELIVERIES / 2)


def trouble(edges: list[Edge], chance: random.Random) -> Counter[str]:
    """Kills what it can for ``SECONDS``; what died is started again."""
    kills: Counter[str] = Counter()
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        time.sleep(chance.uniform(0.2, 1.2))
        edge = chance.choice(edges)
        what = chance.choice(("sidecar", "sidecar", "worker"))
        if what == "sidecar":
            edge.sidecar.kill()
            time.sleep(chance.uniform(0, 1))
            edge.sidecar.start(wait=chance.random() < 0.5)
        else:
            kill(chance.choice(edge.nginx.workers() or [0]))
        kills[what] += 1
    for edge in edges:
        assert edge.sidecar.running, edge.sidecar.log()
    return kills


def test_either_edge_may_die_at_any_moment(
    edges: list[Edge], receiver: Receiver, slack: SlackServer
) -> None:
    seed = random.randrange(1 << 32)
    app = App(receiver, edges, seed)
    app.start()
    kills = trouble(edges, random.Random(seed))
    app.join()
    print(f"seed {seed}, kills {dict(kills)}, answers {Counter(app.told.values())}")
    view = edges[0].view
    wait_for(lambda: "pending" not in view.states(), "the end of all")
    assert set(app.told.values()) == {200, 202}

    known = {each.id: each for each in view.all()}
    statuses = defaultdict(list)
    for request in receiver.requests():
        statuses[request.id].append(request.status)
    for id in app.told:
        assert id in known, f"{id} is lost"
    for id, delivery in known.items():
        delivered = 200 in statuses[id]
        assert delivery.state == ("delivered" if delivered else "failed"), id
        assert delivered or (delivery.attempts, len(statuses[id])) >= (3, 3), id
        assert (delivery.owner, delivery.due) == (None, None), id
    assert receiver.stats().twice_at_once == []
    assert view.tallies() == view.counted()
    check_alerts(view.alerts(), list(known.values()))
    check_notices(view, slack)


def check_alerts(alerts: Sequence[Alert], known: Sequence[Delivery]) -> None:
    """One row for each output and window, which counts what it names."""
    given_up = [each for each in known if each.state == "failed"]
    counts = Counter(each.alert for each in given_up)
    # who died amid an attempt never answered, and there are alerts of that, too
    assert {each.kind for each in alerts} <= {"failed", "refused"}
    alerts = [each for each in alerts if each.kind == "failed"]
    assert {each.seq: each.count for each in alerts} == dict(counts)
    for output in {each.output for each in given_up}:
        dues = [each.due for each in alerts if each.output == output]
        assert all(b - a >= WINDOW * 1000 for a, b in zip(dues, dues[1:]))
        times = [each.updated for each in given_up if each.output == output]
        assert len(dues) <= (max(times) - min(times)) / 1000 / WINDOW + 2


def check_notices(view: View, slack: SlackServer) -> None:
    """One an alert; what was being posted when the sidecar died is late, not lost."""
    wait_for(lambda: all(each.tries for each in view.notices("alert-slack")), "tries")
    notices = view.notices("alert-slack")
    assert len(notices) == len(view.alerts())
    assert all(each.sent or each.due for each in notices)
    assert len(slack.payloads) >= sum(each.sent is not None for each in notices) > 0


def test_one_edge_takes_over_from_the_other(
    edges: list[Edge], receiver: Receiver
) -> None:
    """What waits for its next attempt, and what was under way."""
    one, other = edges
    receiver.always(Answer(hang=True), output="29")
    one.accept("29", "under-way")
    ids = [f"left-{number}" for number in range(10)]
    for id in ids:
        one.fail("30", id)
    for id in ("under-way", *ids):
        one.view.wait("pending", id)
    wait_for(lambda: receiver.stats().max_by_output.get("29"), "its attempt")
    one.sidecar.kill()
    one.nginx.kill()
    receiver.always(Answer(), output="29")
    other.view.wait("delivered", "under-way", *ids)
    assert receiver.stats().twice_at_once == []


def test_leases_keep_edges_from_each_other(
    edges: list[Edge], receiver: Receiver
) -> None:
    """Both are awake, and all is due for both at once."""
    receiver.always(Answer(delay=0.05))
    ids = [f"shared-{number}" for number in range(150)]
    for number, id in enumerate(ids):
        edges[number % 2].accept("29", id)
    edges[0].view.wait("delivered", *ids)
    stats = receiver.stats()
    assert (stats.requests, stats.twice_at_once) == (150, [])
    assert stats.max_by_output["29"] <= 16
    assert edges[0].view.tallies() == edges[0].view.counted()


def test_an_edge_that_slept_repeats_nothing(
    edges: list[Edge], receiver: Receiver
) -> None:
    """Its leases ended, and the other made its attempts, which it never hears of."""
    one, other = edges
    receiver.always(Answer(delay=0.8))
    ids = [f"slept-{number}" for number in range(24)]
    one.accept("29", *ids)
    wait_for(lambda: len(one.view.all()) == len(ids), "its journal")
    wait_for(lambda: receiver.stats().in_flight >= 8, "attempts under way")
    one.sidecar.pause()  # perhaps in the midst of a transaction
    receiver.always(Answer())
    other.view.wait("delivered", *ids, patience=60.0)
    before = receiver.stats().requests
    assert before >= len(ids)

    one.sidecar.resume()
    one.accept("29", "awake")
    one.view.wait("delivered", "awake")
    assert receiver.stats().requests == before + 1
    assert receiver.stats().twice_at_once == []
    assert other.view.tallies() == other.view.counted() == {"29": {"delivered": 25}}
