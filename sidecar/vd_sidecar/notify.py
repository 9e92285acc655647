# Copyright (C) The ngx_vd_module authors
"""Sends what people and the app must hear: at least once, however long it takes.

Notices wait in the store.  One that could not be sent is tried again, less and
less often; each kind goes its own way, so that a dead mail server holds up no
callback.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from email.message import EmailMessage
from functools import partial
from typing import Awaitable, Callable, Optional, Sequence, Union

import aiohttp
import structlog
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from . import compose, mail, slack
from .clock import steady
from .config import Config, Smtp
from .mail import MailError
from .model import FAILED, Alert, Content, Delivery, Reject
from .nginx import Lost, Nginx, NotSent
from .retry import NOTICE_SECONDS, InWriter
from .slack import SlackError
from .store import Store, deliveries, notices, segments
from .store.notices import Notice, Whose

POLL_SECONDS = 0.5
LEASE_SECONDS = 120.0  # longer than any sending takes
AT_ONCE = 4
NAMED = compose.MAX_NAMED
BACKOFF_SECONDS = (5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
LEFT_SECONDS = 60.0  # for which notices that are not ours may wait in silence
HOPELESS_SECONDS = NOTICE_SECONDS  # refused for good, until someone mends it

log = structlog.get_logger()


class NotTaken(Exception):
    """A notice that could not be sent.

    ``after``: seconds to wait at least; ``remaining``: recipients it is still for.
    """

    def __init__(
        self, text: str, after: Optional[float] = None, remaining: Sequence[str] = ()
    ) -> None:
        super().__init__(text)
        self.after = after
        self.remaining = tuple(remaining)


class Notify:
    """Sends the notices of all kinds; one task for each."""

    def __init__(
        self, store: Store, config: Config, nginx: Nginx, in_writer: InWriter
    ) -> None:
        self._store = store
        self._config = config
        self._nginx = nginx
        self._in_writer = in_writer
        self._send: dict[str, Callable[[Notice], Awaitable[Optional[str]]]] = {
            notices.ALERT_MAIL: self._alert_mail,
            notices.ALERT_SLACK: self._alert_slack,
            notices.BACKUP: self._backup,
            notices.CALLBACK: self._callback,
        }
        self.kinds = tuple(self._send)
        self.left: dict[str, int] = {}  # of each kind, what waits for another edge
        self._counted: dict[str, float] = {}
        self.sent: Counter[str] = Counter()  # by kind, as is what failed
        self.failed: Counter[str] = Counter()

    async def step(self, kind: str) -> None:
        """Send what is due of ``kind``; wait for a little if there is nothing.

        Raises SQLAlchemy's errors if the store is away.
        """
        taken = await self._in_writer(partial(self._claim, kind))
        if not taken:
            await asyncio.sleep(POLL_SECONDS)
            return
        began = steady()
        attempts = (self._attempt(notice, began) for notice in taken)
        ends = await asyncio.gather(*attempts, return_exceptions=True)
        for end in ends:
            if end is not None:
                raise end

    def _can_send(self, kind: str, output: str) -> bool:
        """Whether the configuration says whereto, and by what."""
        if kind == notices.CALLBACK:
            return self._config.callback.location is not None
        of = self._config.output(output)
        if kind == notices.ALERT_SLACK:
            return of.alerts.slack_webhook_file is not None
        email = of.backup.email if kind == notices.BACKUP else of.alerts.email
        return self._config.smtp is not None and bool(email)

    def _mine(self, kind: str) -> Whose:
        """The outputs whose notices this edge can send; the others are for others."""
        rest = self._can_send(kind, "")
        named = self._config.outputs
        return Whose([o for o in named if self._can_send(kind, o) != rest], rest)

    def _claim(self, kind: str) -> list[Notice]:
        mine = self._mine(kind)
        with self._store.reading() as connection:
            now = self._store.now(connection)
            self._count_left(connection, kind, now, mine)
            if not notices.any_due(connection, kind, now, mine):
                return []
        with self._store.writing() as connection:
            return notices.claim_notices(
                connection,
                kind,
                now=self._store.now(connection),
                lease=LEASE_SECONDS,
                limit=AT_ONCE,
                whose=mine,
            )

    def _count_left(
        self, connection: Connection, kind: str, now: int, mine: Whose
    ) -> None:
        """Now and then: what is not ours, and nobody else has sent for some time."""
        if steady() - self._counted.get(kind, -LEFT_SECONDS) < LEFT_SECONDS:
            return
        self._counted[kind] = steady()
        before = now - round(LEFT_SECONDS * 1000)
        left = notices.count_due(connection, kind, before, mine.others())
        if left:
            log.warning(
                "notices wait for an edge that can send them: the configuration of"
                " this one does not say whereto, or has no [smtp]",
                kind=kind,
                waiting=left,
            )
        self.left[kind] = left

    async def _attempt(self, notice: Notice, began: float) -> None:
        """Send it or put it off, whatever is wrong with it."""
        about = log.bind(notice=notice.key, kind=notice.kind, output=notice.output)
        try:
            remark = await asyncio.wait_for(
                self._send[notice.kind](notice), LEASE_SECONDS - (steady() - began) - 5
            )
        except SQLAlchemyError:
            raise  # its lease ends, and it is tried again
        except (NotTaken, asyncio.TimeoutError) as error:
            await self._put_off(notice, error)
        except Exception as error:
            about.exception("a notice cannot be sent: this is a fault of the sidecar")
            await self._put_off(notice, NotTaken(f"{type(error).__name__}: {error}"))
        else:
            self.sent[notice.kind] += 1
            about.info("sent", remark=remark)
            await self._in_writer(partial(self._sent, notice, remark))

    async def _put_off(self, notice: Notice, error: Exception) -> None:
        self.failed[notice.kind] += 1
        await self._in_writer(partial(self._postpone, notice, error))

    def _sent(self, notice: Notice, remark: Optional[str]) -> None:
        with self._store.writing() as connection:
            notices.sent(connection, notice.seq, self._store.now(connection), remark)

    def _postpone(self, notice: Notice, error: Exception) -> None:
        text = str(error) or "timed out"
        seconds = BACKOFF_SECONDS[min(notice.tries, len(BACKOFF_SECONDS) - 1)]
        remaining: Sequence[str] = ()

        if isinstance(error, NotTaken):
            seconds = max(seconds, error.after or 0.0)
            remaining = error.remaining

        log.error(
            "not sent",
            notice=notice.key,
            kind=notice.kind,
            output=notice.output,
            error=text,
            again_in_seconds=seconds,
        )
        with self._store.writing() as connection:
            due = self._store.now(connection) + round(seconds * 1000)
            payload = "\n".join(remaining) or notice.payload
            notices.postpone(connection, notice.seq, due, text, payload)

    async def _alert_mail(self, notice: Notice) -> Optional[str]:
        alert, about, now = await asyncio.to_thread(self._read_alert, notice)
        alerts = self._config.output(notice.output).alerts
        compose_ = partial(
            compose.alert_mail,
            alert,
            about,
            alerts.email,
            self._smtp,
            now=now,
            language=alerts.language,
            templates=self._config.backup.templates,
        )
        try:
            return await self._mail(await asyncio.to_thread(compose_), notice.payload)
        except MailError as error:
            raise _not_taken(error) from None

    async def _alert_slack(self, notice: Notice) -> Optional[str]:
        alert, about, _ = await asyncio.to_thread(self._read_alert, notice)
        alerts = self._config.output(notice.output).alerts
        url_file = alerts.slack_webhook_file
        assert url_file is not None
        payload = await asyncio.to_thread(
            compose.alert_slack,
            alert,
            about,
            language=alerts.language,
            templates=self._config.backup.templates,
        )
        try:
            async with aiohttp.ClientSession() as session:
                await slack.post(session, url_file, payload)
        except SlackError as error:
            after = HOPELESS_SECONDS if error.permanent else error.retry_after
            raise NotTaken(str(error), after) from None
        return None

    async def _backup(self, notice: Notice) -> Optional[str]:
        message = await asyncio.to_thread(self._compose_backup, notice, True)
        if message is None:
            return "the case was forgotten meanwhile"
        try:
            return await self._mail(message, notice.payload)
        except MailError as error:
            if not error.too_large:
                raise _not_taken(error) from None
            why, left = str(error), "\n".join(error.remaining)

        message = await asyncio.to_thread(self._compose_backup, notice, False)
        if message is None:
            return "the case was forgotten meanwhile"
        try:
            remark = await self._mail(message, left)
        except MailError as error:
            raise _not_taken(error) from None
        return "; ".join(filter(None, (f"sent without the case: {why}", remark)))

    @property
    def _smtp(self) -> Smtp:
        assert self._config.smtp is not None
        return self._config.smtp

    async def _mail(self, message: EmailMessage, left: Optional[str]) -> Optional[str]:
        """Send it, after a try that only some took: to those who are ``left``."""
        recipients = left.split("\n") if left else None
        return "; ".join(await mail.send(message, self._smtp, recipients)) or None

    async def _callback(self, notice: Notice) -> Optional[str]:
        location = self._config.callback.location
        assert location is not None
        try:
            answer = await self._nginx.attempt(
                location,
                Content((notice.payload or "").encode()),
                id=notices.callback_id(notice.key),
                output=None,
                attempt=None,
                content_type="application/json",
                timeout=self._config.retry.timeout,
            )
        except (NotSent, Lost) as error:
            raise NotTaken(str(error)) from None

        # once it is in the journal, it is a delivery like any other

        if answer.state == FAILED:
            raise NotTaken(f"nginx could not take it: {answer.reason}")
        return None

    def _read_alert(
        self, notice: Notice
    ) -> tuple[Alert, Sequence[Union[Delivery, Reject]], int]:
        assert notice.alert is not None
        about: Sequence[Union[Delivery, Reject]]
        with self._store.reading() as connection:
            alert = notices.alert(connection, notice.alert)
            if alert.kind == notices.JOURNAL:
                about = segments.rejects(connection, alert.seq, NAMED)
            else:
                about = notices.alert_deliveries(connection, alert.seq, NAMED)
            return alert, about, self._store.now(connection)

    def _compose_backup(self, notice: Notice, attach: bool) -> Optional[EmailMessage]:
        """None if the case was forgotten meanwhile."""
        assert notice.delivery is not None
        with self._store.reading() as connection:
            found = deliveries.by_seqs(connection, [notice.delivery])
            if not found or found[0].forgotten:
                return None
            backup = self._config.output(notice.output).backup
            return compose.backup_mail(
                found[0],
                deliveries.body(connection, notice.delivery),
                deliveries.exchanges(connection, notice.delivery),
                backup.email,
                backup,
                self._smtp,
                now=self._store.now(connection),
                attach=attach,
            )


def _not_taken(error: MailError) -> NotTaken:
    after = HOPELESS_SECONDS if error.permanent else error.retry_after
    return NotTaken(str(error), after, error.remaining)
