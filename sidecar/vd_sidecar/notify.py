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

from . import compose, mail, slack
from .clock import steady
from .config import Config
from .mail import MailError
from .model import FAILED, Alert, Delivery, Reject
from .nginx import Lost, Nginx, NotSent
from .retry import InWriter
from .slack import SlackError
from .store import Store, deliveries, notices, segments
from .store.notices import Notice

POLL_SECONDS = 0.5
LEASE_SECONDS = 120.0  # longer than any sending takes
AT_ONCE = 4
NAMED = compose.MAX_NAMED
BACKOFF_SECONDS = (5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
HOPELESS_SECONDS = 3600.0  # refused for good, until someone mends it

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
        await asyncio.gather(*(self._attempt(notice, began) for notice in taken))

    def _claim(self, kind: str) -> list[Notice]:
        with self._store.reading() as connection:
            if not notices.any_due(connection, kind, self._store.now(connection)):
                return []
        with self._store.writing() as connection:
            return notices.claim_notices(
                connection,
                kind,
                now=self._store.now(connection),
                lease=LEASE_SECONDS,
                limit=AT_ONCE,
            )

    async def _attempt(self, notice: Notice, began: float) -> None:
        about = log.bind(notice=notice.key, kind=notice.kind, output=notice.output)
        try:
            remark = await asyncio.wait_for(
                self._send[notice.kind](notice), LEASE_SECONDS - (steady() - began) - 5
            )
        except (NotTaken, asyncio.TimeoutError) as error:
            self.failed[notice.kind] += 1
            await self._in_writer(partial(self._postpone, notice, error))
        else:
            self.sent[notice.kind] += 1
            about.info("sent", remark=remark)
            await self._in_writer(partial(self._sent, notice, remark))

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
        if self._config.smtp is None or not alerts.email:
            raise NotTaken("no smtp or recipients are configured any more")
        message = compose.alert_mail(
            alert,
            about,
            alerts.email,
            self._config.smtp,
            now=now,
            language=alerts.language,
            templates=self._config.backup.templates,
        )
        return await self._mail(message, notice)

    async def _alert_slack(self, notice: Notice) -> Optional[str]:
        alert, about, _ = await asyncio.to_thread(self._read_alert, notice)
        alerts = self._config.output(notice.output).alerts
        url_file = alerts.slack_webhook_file
        if url_file is None:
            raise NotTaken("no slack_webhook_file is configured any more")

        payload = compose.alert_slack(
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
        backup = self._config.output(notice.output).backup
        message = await asyncio.to_thread(self._compose_backup, notice)
        if message is None:
            return "the case was forgotten meanwhile"
        if self._config.smtp is None or not backup.email:
            raise NotTaken("no smtp or recipients are configured any more")
        return await self._mail(message, notice)

    async def _mail(self, message: EmailMessage, notice: Notice) -> Optional[str]:
        """Send it, after a try that only some took: to the others."""
        assert self._config.smtp is not None
        left = notice.payload.split("\n") if notice.payload else None
        try:
            refused = await mail.send(message, self._config.smtp, left)
        except MailError as error:
            after = HOPELESS_SECONDS if error.permanent else error.retry_after
            raise NotTaken(str(error), after, error.remaining) from None
        return "; ".join(refused) or None

    async def _callback(self, notice: Notice) -> Optional[str]:
        location = self._config.callback.location
        if location is None:
            raise NotTaken("no callback location is configured any more")
        try:
            answer = await self._nginx.attempt(
                location,
                (notice.payload or "").encode(),
                id=notices.callback_id(notice.key),
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
            if alert.kind == "failed":
                about = notices.alert_deliveries(connection, alert.seq, NAMED)
            else:
                about = segments.rejects(connection, alert.seq, NAMED)
            return alert, about, self._store.now(connection)

    def _compose_backup(self, notice: Notice) -> Optional[EmailMessage]:
        assert notice.delivery is not None
        with self._store.reading() as connection:
            found = deliveries.by_seqs(connection, [notice.delivery])
            if not found or found[0].forgotten or self._config.smtp is None:
                return None
            backup = self._config.output(notice.output).backup
            return compose.backup_mail(
                found[0],
                deliveries.body(connection, notice.delivery),
                deliveries.exchanges(connection, notice.delivery),
                backup.email,
                backup,
                self._config.smtp,
                now=self._store.now(connection),
            )
