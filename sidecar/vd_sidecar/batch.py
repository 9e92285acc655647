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

from attrs import evolve
from sqlalchemy.engine import Connection

from . import journal, machine
from .config import Config
from .model import ACCEPTED, CANCELLED, DELIVERED, FAILED, PENDING
from .model import Conflict, Content, Delivery, Record, Reject
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
        self._contents: dict[int, Optional[Content]] = {}
        self._conflicts: dict[tuple[int, str], Conflict] = {}
        self._resolved: set[tuple[int, str]] = set()
        self._refused: list[Delivery] = []
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

        if before is not None and before.digest is None and record.digest is not None:
            before = self._digested(before)

        after = machine.apply(
            before,
            record,
            self._config.output(record.output).retry,
            seq=seq,
            edge=self._config.edge,
            now=self._now,
            spread=random.random(),
            again=self._is_another(before, record),
        )
        if before is None:
            self._before[key] = None
            self._next += 1

        self._known.add((seq, record.time, record.crc))

        if after.forgotten:
            record = record._replace(body=None, response=None, ticket_id=None)

        if before is not None and machine.differs(before, record):
            self._conflict(before, after, record)
        elif record.body is not None:
            self._contents[seq] = _content(record)

        self._records.append((seq, record))
        self.change(before, after)
        return True

    def _is_another(self, before: Optional[Delivery], record: Record) -> bool:
        """Whether it is not the first record of its kind, though by its time it may be.

        A clock that was set back must not make it one that is only read late.  Where
        a case was only accepted, attempts are the sidecar's, and no word of the app's.
        """
        if before is None or record.attempt != 1 or record.time > before.updated:
            return False
        if before.state not in (FAILED, CANCELLED):
            return False
        known = [
            (each.attempt, each.outcome)
            for each in deliveries.exchanges(self._connection, before.seq)
        ]
        known += [
            (r.attempt, r.outcome) for seq, r in self._records if seq == before.seq
        ]
        first = [outcome for attempt, outcome in known if attempt == 1]
        if ACCEPTED in first:
            return record.outcome == ACCEPTED
        return bool(first) and record.outcome != ACCEPTED

    def _digested(self, delivery: Delivery) -> Delivery:
        """With the digest of its case, which a record of an older nginx had not."""
        if delivery.forgotten:
            return delivery
        content = self._content_of(delivery.seq)
        if content is None:
            return delivery
        after = delivery._replace(digest=journal.digest(content.body))
        self.change(delivery, after)
        return after

    def _content_of(self, seq: int) -> Optional[Content]:
        if seq not in self._contents:
            self._contents[seq] = deliveries.content(self._connection, seq)
        return self._contents[seq]

    def _conflict(self, before: Delivery, after: Delivery, record: Record) -> None:
        """Keep both contents: one is the delivery's, the other beside it."""
        assert before.digest is not None and record.digest is not None
        seq = after.seq

        if after.digest == record.digest:
            first = self._content_of(seq)
            self._contents[seq] = None if record.body is None else _content(record)
            self._resolved.add((seq, record.digest))
            self._conflicts.pop((seq, record.digest), None)
            other = Conflict(
                delivery=seq,
                digest=before.digest,
                time=before.created,
                delivered=before.state == DELIVERED,
                ticket_id=before.ticket_id,
                content_type=before.content_type,
                body=None if first is None else first.body,
            )
        else:
            other = Conflict(
                delivery=seq,
                digest=record.digest,
                time=record.time,
                delivered=record.outcome == DELIVERED,
                ticket_id=record.ticket_id,
                content_type=record.content_type,
                body=record.body,
            )
        self._resolved.discard((seq, other.digest))
        key = (seq, other.digest)
        known = self._conflicts.get(key)
        self._conflicts[key] = other if known is None else _merged(known, other)

    def change(self, before: Optional[Delivery], after: Delivery) -> None:
        """``before``, which was loaded, is now ``after``."""
        if after is before:
            return
        key = (after.id, after.output)
        self._before.setdefault(key, before)
        self._after[key] = after

        if before is not None and before.owner is not None and after.owner is None:
            self.settled.add(after.seq)
        first = before is not None and not before.refusals and after.refusals
        if first and after.state == PENDING:
            self._refused.append(after)
        if machine.ended(before, after):
            self._ended.append((before, after))

    def write(self) -> list[Delivery]:
        """Write it all; returns the deliveries that changed, or are new."""
        self._tell()
        self._put_conflicts()

        changed = [
            after._replace(noted=self._now)
            for key, after in self._after.items()
            if after is not self._before[key]
        ]
        new = [each for each in changed if self._before[(each.id, each.output)] is None]
        old = [each for each in changed if self._before[(each.id, each.output)]]

        deliveries.add(self._connection, new)
        deliveries.save(self._connection, old)
        deliveries.add_exchanges(self._connection, self._records)
        deliveries.put_bodies(self._connection, self._contents)
        rates.add(self._connection, self._records, self._now)
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

        refused: dict[str, dict[Key, Delivery]] = defaultdict(dict)

        for each in self._refused:
            if (each.id, each.output) not in failed[each.output]:
                refused[each.output][each.id, each.output] = each

        for kind, found in ((notices.REFUSED, refused), (notices.FAILED, failed)):
            for output, named in found.items():
                if named:
                    seq = self._alert(kind, output, named.values())
                    for key in named:
                        self._after[key] = self._after[key]._replace(alert=seq)

        notices.add(self._connection, new)

    def _put_conflicts(self) -> None:
        """Write other contents, with an alert of those that are new."""
        if not self._conflicts and not self._resolved:
            return
        seqs = {seq for seq, _ in self._conflicts}
        for known in deliveries.conflicts(self._connection, seqs):
            key = (known.delivery, known.digest)
            if key in self._conflicts and key not in self._resolved:
                self._conflicts[key] = _merged(known, self._conflicts[key])

        new: dict[str, dict[int, Delivery]] = defaultdict(dict)
        for delivery in self._after.values():
            new[delivery.output][delivery.seq] = delivery

        for output, named in new.items():
            keys = [
                key
                for key, each in self._conflicts.items()
                if key[0] in named and each.alert is None
            ]
            if keys:
                of = {seq: named[seq] for seq, _ in keys}
                seq = self._alert(notices.CONFLICT, output, of.values())
                for key in keys:
                    self._conflicts[key] = evolve(self._conflicts[key], alert=seq)

        deliveries.put_conflicts(
            self._connection, self._conflicts.values(), self._resolved
        )

    def _alert(self, kind: str, output: str, named: Collection[Delivery]) -> int:
        alerts = self._config.output(output).alerts
        return notices.open_alert(
            self._connection,
            kind=kind,
            output=output,
            label=next(iter(named)).label,
            edge=self._config.edge,
            count=len(named),
            now=self._now,
            window=alerts.window,
            channels=_channels(alerts.email, alerts.slack_webhook_file),
        )

    def _app_waits(self, before: Optional[Delivery], after: Delivery) -> bool:
        """Whether the app's last answer was 202: it does not know of this end."""
        if self._config.callback.location is None:
            return False
        if before is not None or after.state == FAILED:
            return True
        return after.attempts > 1  # records of several edges may come in any order

    def _backed_up(self, after: Delivery) -> bool:
        backup = self._config.output(after.output).backup
        if not backup.email or after.forgotten or after.state == CANCELLED:
            return False
        return backup.when == "always" or (
            backup.when == "failed" and after.state == FAILED
        )


def _content(record: Record) -> Content:
    assert record.body is not None
    return Content(record.body, record.host, record.kept)


def _merged(known: Conflict, again: Conflict) -> Conflict:
    """What is known of a content that came before."""
    return evolve(
        known,
        delivered=known.delivered or again.delivered,
        ticket_id=known.ticket_id or again.ticket_id,
        body=again.body if known.body is None else known.body,
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
        kind=notices.JOURNAL,
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
