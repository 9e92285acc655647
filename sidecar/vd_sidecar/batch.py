# Copyright (C) The ngx_vd_module authors
"""All that one transaction does to deliveries, and what follows from it.

Records, answers and operators change deliveries here and nowhere else, so that
an end is never without its alert, backup mail and callback, nor a state
without its tally.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from datetime import datetime, timezone
from typing import Collection, Iterable, Optional

from sqlalchemy.engine import Connection

from . import machine
from .config import Config
from .model import CANCELLED, FAILED, Delivery, Record, Reject
from .store import deliveries, notices, rates, segments
from .store.deliveries import Key


class Batch:
    """Changes that are gathered and then written together."""

    def __init__(self, connection: Connection, config: Config, now: int) -> None:
        self._connection = connection
        self._config = config
        self._now = now
        self._before: dict[Key, Optional[Delivery]] = {}
        self._after: dict[Key, Delivery] = {}
        self._known: set[deliveries.RecordKey] = set()
        self._records: list[tuple[int, Record]] = []
        self._bodies: dict[int, bytes] = {}
        self._ended: list[tuple[Optional[Delivery], Delivery]] = []
        self._next = 0
        self.settled: set[int] = set()  # numbers whose lease ended here

    def load(self, ids: Collection[str]) -> None:
        """Read what is known of these deliveries; before anything is taken."""
        found = deliveries.by_ids(self._connection, ids)
        self._before.update(found)
        self._after.update(found)
        self._known |= deliveries.known_records(
            self._connection, [each.seq for each in found.values()]
        )
        self._next = deliveries.first_free(self._connection)

    def take(self, record: Record) -> bool:
        """Apply a record; False if it was taken before."""
        key = (record.id, record.output)
        before = self._after.get(key)
        seq = before.seq if before else self._next

        if (seq, record.time, record.crc) in self._known:
            return False

        after = machine.apply(
            before,
            record,
            self._config.output(record.output).retry,
            seq=seq,
            edge=self._config.edge,
            now=self._now,
            spread=random.random(),
        )
        if before is None:
            self._before[key] = None
            self._next += 1

        self._known.add((seq, record.time, record.crc))

        if after.forgotten:
            record = record._replace(body=None, response=None, ticket_id=None)
        if record.body is not None:
            self._bodies[seq] = record.body

        self._records.append((seq, record))
        self.change(before, after)
        return True

    def change(self, before: Optional[Delivery], after: Delivery) -> None:
        """``before``, which was loaded, is now ``after``."""
        if after is before:
            return
        key = (after.id, after.output)
        self._before.setdefault(key, before)
        self._after[key] = after

        if before is not None and before.owner is not None and after.owner is None:
            self.settled.add(after.seq)
        if machine.ended(before, after):
            self._ended.append((before, after))

    def write(self) -> list[Delivery]:
        """Write it all; returns the deliveries that changed, or are new."""
        self._tell()

        changed = [
            after
            for key, after in self._after.items()
            if after is not self._before[key]
        ]
        new = [each for each in changed if self._before[(each.id, each.output)] is None]
        old = [each for each in changed if self._before[(each.id, each.output)]]

        deliveries.add(self._connection, new)
        deliveries.save(self._connection, old)
        deliveries.add_exchanges(self._connection, self._records)
        deliveries.put_bodies(self._connection, self._bodies)
        rates.add(self._connection, self._records)
        self._tally(changed)
        return changed

    def _tally(self, changed: Iterable[Delivery]) -> None:
        counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        labels = {}

        for after in changed:
            before = self._before[(after.id, after.output)]
            if before is not None and before.state == after.state:
                continue
            labels[after.output] = after.label
            counts[after.output][after.state] += 1
            if before is not None:
                counts[after.output][before.state] -= 1

        if counts:
            deliveries.tally(self._connection, counts, labels)

    def _tell(self) -> None:
        """Write the notices of what ended."""
        new = []
        failed: dict[str, dict[Key, Delivery]] = defaultdict(dict)

        for before, after in self._ended:
            if after.state == FAILED:
                failed[after.output][after.id, after.output] = after
            if after.uri == self._config.callback.location:
                continue
            if self._app_waits(before, after):
                new.append(
                    notices.pending(
                        notices.CALLBACK,
                        after.output,
                        self._now,
                        delivery=after.seq,
                        payload=outcome(after),
                    )
                )
            if self._backed_up(after):
                new.append(
                    notices.pending(
                        notices.BACKUP, after.output, self._now, delivery=after.seq
                    )
                )

        for output, given_up in failed.items():
            seq = self._alert(output, given_up.values())
            for key in given_up:
                self._after[key] = self._after[key]._replace(alert=seq)

        notices.add(self._connection, new)

    def _alert(self, output: str, given_up: Collection[Delivery]) -> int:
        alerts = self._config.output(output).alerts
        return notices.open_alert(
            self._connection,
            kind="failed",
            output=output,
            label=next(iter(given_up)).label,
            edge=self._config.edge,
            count=len(given_up),
            now=self._now,
            window=alerts.window,
            channels=_channels(alerts.email, alerts.slack_webhook_file),
        )

    def _app_waits(self, before: Optional[Delivery], after: Delivery) -> bool:
        """Whether the app's last answer was 202: it does not know of this end."""
        if self._config.callback.location is None:
            return False
        return after.state == FAILED or before is not None

    def _backed_up(self, after: Delivery) -> bool:
        backup = self._config.output(after.output).backup
        if not backup.email or after.forgotten or after.state == CANCELLED:
            return False
        return backup.when == "always" or (
            backup.when == "failed" and after.state == FAILED
        )


def set_aside(
    connection: Connection, config: Config, now: int, lines: list[Reject]
) -> None:
    """Keep lines that cannot be taken, with an alert; those already kept excepted."""
    known = segments.known_rejects(connection, {each.segment for each in lines})
    lines = [each for each in lines if (each.segment, each.offset) not in known]
    if not lines:
        return

    alert = notices.open_alert(
        connection,
        kind="journal",
        output="",
        label="",
        edge=config.edge,
        count=len(lines),
        now=now,
        window=config.alerts.window,
        channels=_channels(config.alerts.email, config.alerts.slack_webhook_file),
    )
    segments.set_aside(connection, alert, now, lines)


def outcome(delivery: Delivery) -> str:
    """The JSON by which the app hears how a delivery ended."""
    return json.dumps(
        {
            "type": f"delivery.{delivery.state}",
            "time": rfc3339(delivery.updated),
            "id": delivery.id,
            "output": delivery.output,
            "label": delivery.label,
            "case": delivery.case,
            "state": delivery.state,
            "attempts": delivery.attempts,
            "status": delivery.status,
            "ticket_id": delivery.ticket_id,
            "ticket_error": delivery.ticket_error,
            "reason": delivery.reason,
        },
        ensure_ascii=False,
    )


def rfc3339(time: int) -> str:
    """As the journal writes times: UTC with milliseconds."""
    moment = datetime.fromtimestamp(time / 1000, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _channels(email: Collection[str], slack: Optional[str]) -> list[str]:
    channels = []
    if email:
        channels.append(notices.ALERT_MAIL)
    if slack:
        channels.append(notices.ALERT_SLACK)
    return channels
