# Copyright (C) The ngx_vd_module authors
"""Notices: taken by who can send them, put off whatever is wrong, never lost."""

from __future__ import annotations

import asyncio
import threading
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Callable, Iterator, TypeVar

import pytest
from attrs import evolve
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

import vd_sidecar.notify
from edge import Notice
from smtp_server import SmtpServer
from stored import given_up, record, take
from stores import KINDS, dump, open_store
from vd_sidecar import compose, mail
from vd_sidecar.config import Alerts, Backup, Callback, Config, Output, Smtp
from vd_sidecar.nginx import Nginx
from vd_sidecar.notify import Notify
from vd_sidecar.store import Store, schema

BACKUP = Backup(email=("archive@example.com",), when="failed")
ALERTS = Alerts(email=("ops@example.com",), window=0.001)
T = TypeVar("T")


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    one = open_store(request)
    yield one
    one.close()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vd_sidecar.notify, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(vd_sidecar.notify, "LEFT_SECONDS", 0.0)


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    with SmtpServer() as one:
        yield one


def smtp(server: SmtpServer) -> Smtp:
    return Smtp(host="127.0.0.1", port=server.port, sender="vd@edge.example")


async def in_writer(function: Callable[[], T]) -> T:
    return function()


def step(store: Store, config: Config, kind: str = "backup", steps: int = 1) -> Notify:
    async def run() -> Notify:
        nginx = Nginx(config.nginx)
        notify = Notify(store, config, nginx, in_writer)
        try:
            for _ in range(steps):
                await notify.step(kind)
        finally:
            await nginx.close()
        return notify

    return asyncio.run(run())


def notices(store: Store, kind: str = "backup") -> list[Notice]:
    with store.reading() as connection:
        found = dump(connection, schema.notices)
    names = [field.name for field in Notice.__attrs_attrs__]  # type: ignore[attr-defined]
    return [
        Notice(*(row[name] for name in names)) for row in found if row["kind"] == kind
    ]


def fill(
    store: Store, config: Config, *ids: str, output: str = "28", **more: Any
) -> None:
    for id in ids:
        take(store, config, given_up(id, output, **more))


# ---- whose they are ----


def test_an_edge_without_a_mail_server_takes_none(
    store: Store, config: Config, server: SmtpServer
) -> None:
    full = evolve(config, smtp=smtp(server), backup=BACKUP)
    fill(store, full, *(f"id-{number}" for number in range(6)))
    with capture_logs() as logs:
        notify = step(store, config, steps=5)
    assert [each for each in notices(store) if each.sent or each.tries] == []
    assert notify.left["backup"] == 6
    assert "wait for an edge that can send them" in logs[0]["event"]
    step(store, full, steps=5)
    assert len(server.mails) == 6
    assert all(each.sent and each.error is None for each in notices(store))


ABLE: list[tuple[str, dict[str, Any], bool]] = [
    ("backup", {}, False),
    ("backup", {"backup": BACKUP}, False),
    ("backup", {"smtp": ...}, False),
    ("backup", {"smtp": ..., "backup": BACKUP}, True),
    ("backup", {"smtp": ..., "outputs": {"28": Output(backup=BACKUP)}}, True),
    ("backup", {"smtp": ..., "outputs": {"29": Output(backup=BACKUP)}}, False),
    ("backup", {"smtp": ..., "backup": BACKUP, "outputs": {"28": Output()}}, False),
    ("backup", {"smtp": ..., "backup": BACKUP, "outputs": {"29": Output()}}, True),
    ("alert-mail", {"smtp": ...}, False),
    ("alert-mail", {"alerts": ALERTS}, False),
    ("alert-mail", {"smtp": ..., "alerts": ALERTS}, True),
    ("alert-slack", {"smtp": ..., "alerts": ALERTS}, False),
    ("callback", {}, False),
]


@pytest.mark.parametrize("kind, settings, able", ABLE)
def test_who_can_send(
    config: Config, server: SmtpServer, kind: str, settings: dict[str, Any], able: bool
) -> None:
    """The same is said of every notice, by one that has all kinds of them."""
    store = Store(config.store)
    store.migrate()
    slack = evolve(ALERTS, slack_webhook_file="/nowhere")
    full = evolve(
        config,
        smtp=smtp(server),
        alerts=slack,
        backup=BACKUP,
        callback=Callback("/callback"),
    )
    fill(store, full, "one")
    with store.writing() as connection:
        connection.execute(schema.notices.update().values(due=0))
    if "smtp" in settings:
        settings = {**settings, "smtp": smtp(server)}
    step(store, evolve(config, **settings), kind)
    [notice] = notices(store, kind)
    assert bool(notice.tries) is able and bool(notice.sent) is able
    store.close()


# ---- whatever is wrong ----

ERRORS = [
    ValueError("no recipients"),
    KeyError("key"),
    OSError(5, "Input/output error"),
    UnicodeEncodeError("ascii", "\u00e4", 0, 1, "ordinal not in range"),
    RecursionError("deep"),
    AssertionError(),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["backup_mail", "send"])
def test_one_notice_that_cannot_be_sent(
    store: Store,
    config: Config,
    server: SmtpServer,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    error: Exception,
) -> None:
    """It is put off, the others go, and the next step finds it waiting."""
    full = evolve(config, smtp=smtp(server), backup=BACKUP)
    fill(store, full, "bad", "good-1", "good-2")
    module: Any = compose if where == "backup_mail" else mail
    honest = getattr(module, where)

    def broken(first: Any, *arguments: Any, **more: Any) -> Any:
        id = first["VD-Delivery"] if where == "send" else first.id
        if id == "bad":
            raise error
        return honest(first, *arguments, **more)

    monkeypatch.setattr(module, where, broken)
    with capture_logs() as logs:
        notify = step(store, full, steps=3)
    bad, *good = notices(store)
    assert (
        bad.sent is None and bad.tries == 1 and type(error).__name__ in str(bad.error)
    )
    assert all(each.sent for each in good) and len(server.mails) == 2
    assert notify.failed["backup"] == 1
    assert len([each for each in logs if "exc_info" in each]) == 1


def test_the_store_goes_away_amid_a_sending(
    store: Store, config: Config, server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step fails for it; what others were sent meanwhile is noted."""
    full = evolve(config, smtp=smtp(server), backup=BACKUP)
    fill(store, full, "away", "fine")
    honest = Notify._compose_backup
    away = OperationalError("SELECT 1", {}, Exception("gone"))

    def compose_backup(self: Notify, notice: Any, attach: bool) -> Any:
        if notice.delivery == 1:
            raise away
        return honest(self, notice, attach)

    monkeypatch.setattr(Notify, "_compose_backup", compose_backup)
    with pytest.raises(OperationalError):
        step(store, full)
    one, two = notices(store)
    assert one.sent is None and one.due is not None and two.sent is not None


# ---- what is too large ----


def test_a_case_that_is_too_large_to_be_mailed(
    store: Store, config: Config, server: SmtpServer
) -> None:
    full = evolve(config, smtp=smtp(server), backup=BACKUP)
    body = b'{"subject": "Drucker", "picture": "' + b"x" * 200_000 + b'"}'
    take(store, full, [record("large", body=body)])
    take(store, full, given_up("large")[1:])
    for answer in ("552 5.3.4 too large", "523 too large", "550 5.2.3 too long"):
        server.mails.clear()
        server.answers["END"] = answer
        server.large = 150_000
        with store.writing() as connection:
            connection.execute(schema.notices.update().values(due=0, sent=None))
        step(store, full)
        (taken,) = server.mails
        assert not list(taken.message.iter_attachments())
        text = taken.message.get_content().replace("\r\n", "\n")
        assert f"{len(body)} bytes, is too large for the mail server" in text
        assert "vd-sidecar show --output 28 --body-only large\n" in text
        assert "Subject: Drucker" in text
        [notice] = notices(store)
        assert notice.sent and "sent without the case" in str(notice.error)
        assert answer[:3] in str(notice.error)


def test_a_template_of_the_operator_s_need_not_know_of_it(config: Config) -> None:
    directory = Path(config.journal)
    (directory / "backup.en.txt").write_text("Subject: x\n\nThe case.\n")
    store = Store(config.store)
    store.migrate()
    fill(store, evolve(config, backup=BACKUP), "large")
    from test_compose import DELIVERY

    backup = evolve(BACKUP, templates=str(directory))
    message = compose.backup_mail(
        DELIVERY,
        b"{}",
        [],
        BACKUP.email,
        backup,
        Smtp(sender="a@b.example"),
        now=0,
        attach=False,
    )
    assert f"2 bytes: vd-sidecar show --output 28 --body-only {DELIVERY.id}" in (
        message.get_content()
    )
    store.close()


def test_mails_are_made_beside_the_loop(
    store: Store, config: Config, server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A case of megabytes takes tenths of seconds to be made a mail of."""
    threads: dict[str, list[threading.Thread]] = {}

    def watch(owner: Any, name: str) -> None:
        honest = getattr(owner, name)

        def watched(*arguments: Any, **more: Any) -> Any:
            threads.setdefault(name, []).append(threading.current_thread())
            return honest(*arguments, **more)

        monkeypatch.setattr(owner, name, watched)

    for owner, name in (
        (compose, "backup_mail"),
        (compose, "alert_mail"),
        (EmailMessage, "as_bytes"),
    ):
        watch(owner, name)
    full = evolve(config, smtp=smtp(server), backup=BACKUP, alerts=ALERTS)
    fill(store, full, "one")
    with store.writing() as connection:
        connection.execute(schema.notices.update().values(due=0))
    for kind in ("backup", "alert-mail"):
        step(store, full, kind)
    assert len(server.mails) == 2 and len(threads) == 3
    found = [each for all_ in threads.values() for each in all_]
    assert threading.main_thread() not in found
