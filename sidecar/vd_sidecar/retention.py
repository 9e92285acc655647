# Copyright (C) The ngx_vd_module authors
"""Deletes what need not, and by law often must not, be kept any longer."""

from __future__ import annotations

import structlog

from .config import Retention
from .retry import InWriter
from .store import Store, deliveries, segments

DAY = 86400.0
ROWS = 500  # in one transaction, so that nobody waits for long

log = structlog.get_logger()


async def step(store: Store, retention: Retention, in_writer: InWriter) -> None:
    """Delete all that is due, a little at a time."""
    bodies = gone = 0

    def delete_bodies() -> int:
        with store.writing() as connection:
            before = store.now(connection) - round(retention.bodies * 1000)
            return deliveries.delete_bodies(connection, before, ROWS)

    def delete_replies() -> int:
        with store.writing() as connection:
            before = store.now(connection) - round(retention.bodies * 1000)
            return deliveries.delete_replies(connection, before, ROWS)

    def delete_rejects() -> int:
        with store.writing() as connection:
            before = store.now(connection) - round(retention.bodies * 1000)
            return segments.delete_rejects(connection, before)

    def delete_deliveries() -> int:
        with store.writing() as connection:
            before = store.now(connection) - round(retention.deliveries * 1000)
            return deliveries.delete_old(connection, before, ROWS)

    while count := await in_writer(delete_bodies):
        bodies += count
    while await in_writer(delete_replies):
        pass
    await in_writer(delete_rejects)
    while count := await in_writer(delete_deliveries):
        gone += count

    def forget_segments() -> int:
        # one whose file is still there would be taken once more

        longest = max(retention.segments, retention.deliveries) + DAY
        with store.writing() as connection:
            before = store.now(connection) - round(longest * 1000)
            return segments.forget_segments(connection, before)

    await in_writer(forget_segments)

    if bodies or gone:
        log.info("deleted after retention", bodies=bodies, deliveries=gone)
