# Copyright (C) The ngx_vd_module authors
"""What the sidecar needs is away for a while: the store, the mail server, Slack.

Then things are late, and none is lost.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Iterator

import pytest

from edge import ATTEMPT, Edge, Notice, started
from postgres import Postgres
from processes import port_of, reserve_port, wait_for
from receiver import Receiver
from rig import Output
from slack_server import Reply, SlackServer
from smtp_server import Mail, SmtpServer

LOCATIONS = (
    Output("28", timeout=ATTEMPT),
    Output("29", ack="journal", timeout=ATTEMPT),
)


@pytest.fixture
def webhook(directory: Path) -> Path:
    """A file for the address of a Slack webhook."""
    path = directory / "webhook"
    path.touch(mode=0o600)
    return path


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as one:
        yield one


# ---- the store ----


class Load(threading.Thread):
    """Cases without a pause, until it is told to stop; many fail at first."""

    def __init__(self, edge: Edge) -> None:
        super().__init__()
        self._edge = edge
        self.ids: list[str] = []
        self.hopeless: set[str] = set()
        self.stopping = False

    def run(self) -> None:
        while not self.stopping:
            number = len(self.ids)
            id = f"outage-{number}"
            failures = (0, 1, 0, 2, 3)[number % 5]
            self._edge.receiver.script(*[503] * failures, id=id)
            answer = self._edge.nginx.post(("28", "29")[number // 5 % 2], key=id)
            assert answer.status in (200, 202)
            self.ids.append(id)
            if failures == 3:
                self.hopeless.add(id)
            time.sleep(0.02)

    def wait(self, more: int = 20) -> None:
        """Until it has sent so many more."""
        until = len(self.ids) + more
        wait_for(lambda: len(self.ids) >= until, f"case {until}")


def check_load(edge: Edge, load: Load) -> None:
    """All that it sent has ended, and as it should."""
    hopeless = sorted(load.hopeless)
    delivered = [id for id in load.ids if id not in load.hopeless]
    edge.view.wait("delivered", *delivered)
    edge.view.wait("failed", *hopeless)
    attempts = {id: (0, 1, 0, 2, 3)[n % 5] + 1 for n, id in enumerate(load.ids)}
    for each in edge.view.all():
        assert each.attempts == min(attempts[each.id], 3), each
    requests = Counter(each.id for each in edge.receiver.requests())
    assert requests == {id: min(count, 3) for id, count in attempts.items()}
    assert edge.receiver.stats().twice_at_once == []
    assert edge.view.tallies() == edge.view.counted()
    assert sum(each.count for each in edge.view.alerts()) == len(hopeless)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_postgresql_is_away(
    stack: ExitStack,
    receiver: Receiver,
    postgres: Postgres,
    postgres_url: str,
    how: str,
) -> None:
    edge = started(stack, receiver, postgres_url, *LOCATIONS)
    load = Load(edge)
    load.start()
    try:
        for _ in range(2):
            load.wait()
            noticed = edge.sidecar.log().count("trying again")
            getattr(postgres, how)()
            load.wait()
            wait_for(
                lambda: edge.sidecar.log().count("trying again") > noticed,
                "it to notice",
            )
            assert edge.sidecar.running
            postgres.start()
        load.wait()
    finally:
        load.stopping = True
        load.join()
    check_load(edge, load)


def test_postgresql_comes_later_than_the_sidecar(
    stack: ExitStack, receiver: Receiver, postgres: Postgres, postgres_url: str
) -> None:
    edge = Edge(receiver, postgres_url, LOCATIONS)
    stack.callback(edge.remove)
    postgres.stop()
    edge.nginx.start()
    edge.accept("29", "early")
    edge.sidecar.start(wait=False)
    wait_for(lambda: "trying again" in edge.sidecar.log(), "it to notice")
    assert edge.sidecar.running and receiver.stats().requests == 0
    postgres.start()
    wait_for(lambda: '"started"' in edge.sidecar.log(), "it to go on")
    edge.view.wait("delivered", "early")


def test_it_ends_in_order_without_a_store(
    stack: ExitStack, receiver: Receiver, postgres: Postgres, postgres_url: str
) -> None:
    """Neither a store that is away nor one that was never there keeps it."""
    edge = started(stack, receiver, postgres_url, *LOCATIONS)
    edge.accept("29", "before")
    edge.view.wait("delivered", "before")
    postgres.stop()
    edge.accept("29", "meanwhile")
    wait_for(lambda: "trying again" in edge.sidecar.log(), "it to notice")
    assert edge.sidecar.stop() == 0
    tries = edge.sidecar.log().count("trying again")
    edge.sidecar.start(wait=False)
    wait_for(lambda: edge.sidecar.log().count("trying again") > tries, "it to try")
    assert edge.sidecar.stop() == 0
    postgres.start()
    edge.sidecar.start()
    edge.view.wait("delivered", "meanwhile")


# ---- who is to be told ----


def settings(smtp: int, webhook: Path) -> dict[str, Any]:
    return {
        "smtp": {
            "host": "127.0.0.1",
            "port": smtp,
            "security": "none",
            "from": "vd@example.com",
            "timeout": "2s",
        },
        "alerts": {
            "email": ["ops@example.com"],
            "slack_webhook_file": str(webhook),
            "window": "1ms",
        },
        "backup": {"email": ["archive@example.com"], "when": "failed"},
        "retry": {"attempts": 1},
    }


def test_those_who_are_told_are_away(
    stack: ExitStack, receiver: Receiver, sqlite_url: str, webhook: Path
) -> None:
    """Nobody listens, Slack wants to be asked later, and the sidecar dies, too."""
    reserved = reserve_port()
    stack.callback(reserved.close)
    slack = stack.enter_context(SlackServer())
    slack.replies.append(Reply(429, "ratelimited", {"Retry-After": "1"}))
    webhook.write_text(slack.url)
    told = settings(port_of(reserved), webhook)
    edge = started(stack, receiver, sqlite_url, *LOCATIONS, **told)
    ids = [f"told-{number}" for number in range(3)]
    for id in ids:
        edge.fail("28", id)
    edge.view.wait("failed", *ids)
    wait_for(lambda: failed_once(edge), "a first try of all")

    edge.sidecar.kill()
    server = stack.enter_context(SmtpServer(port=port_of(reserved)))
    edge.sidecar.start()
    wait_for(lambda: all(each.sent for each in notices(edge)), "all to be told")

    assert all(id in mails_to(server, "ops@") for id in ids)
    backups = {mail.message["Message-ID"] for mail in server.mails if is_backup(mail)}
    assert len(backups) == len(ids)
    assert all(id in str(slack.payloads) for id in ids)
    alerts = edge.view.alerts("28")
    assert sum(each.count for each in alerts) == len(ids)
    assert len(edge.view.notices("alert-mail")) == len(alerts)
    assert len(edge.view.notices("alert-slack")) == len(alerts)


def notices(edge: Edge) -> list[Notice]:
    kinds = ("alert-mail", "alert-slack", "backup")
    return [each for kind in kinds for each in edge.view.notices(kind)]


def failed_once(edge: Edge) -> bool:
    """All were tried, all wait for another time, and that is not now."""
    waiting = [each for each in notices(edge) if each.sent is None]
    soon, late = ((time.time() + seconds) * 1000 for seconds in (1, 60))
    return len(waiting) >= 4 and all(
        each.error and each.due and soon < each.due < late for each in waiting
    )


def is_backup(mail: Mail) -> bool:
    return mail.recipients == ("archive@example.com",)


def mails_to(server: SmtpServer, who: str) -> str:
    """The text of all mails to ``who``."""
    found = [mail for mail in server.mails if mail.recipients[0].startswith(who)]
    bodies: list[Any] = [mail.message.get_body(("plain",)) for mail in found]
    return "".join(body.get_content() for body in bodies)
