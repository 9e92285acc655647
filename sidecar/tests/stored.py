# Copyright (C) The ngx_vd_module authors
"""Deliveries in a store, without a journal and nginx."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from typing import Any, Iterable, Iterator, Optional


from vd_sidecar.batch import Batch
from vd_sidecar.config import Config
from vd_sidecar.model import Delivery, Record
from vd_sidecar.store import Store, deliveries, reads
from vd_sidecar.store.reads import Filter

NOON = 1_700_000_000_000  # Unix ms: 2023-11-14 22:13:20 UTC
BODY = b'{"subject": "Drucker streikt"}'

_crc = itertools.count(1)


def record(id: str, output: str = "28", **fields: Any) -> Record:
    """An attempt that got 503, the first with its body, unless ``fields`` differ."""
    failed = fields.get("outcome", "failed") == "failed"
    first = fields.get("attempt", 1) == 1
    defaults: dict[str, Any] = {
        "time": NOON,
        "label": f"Output {output}",
        "case": None,
        "uri": f"/outputs/{output}",
        "attempt": 1,
        "outcome": "failed",
        "reason": "status" if failed else None,
        "status": 503 if failed else 200,
        "upstream": "127.0.0.1:443",
        "duration_ms": 12,
        "ticket_id": None,
        "ticket_error": None,
        "response": '{"error": "maintenance"}' if failed else None,
        "retry_after": None,
        "content_type": "application/json",
        "body": BODY if failed and first else None,
        "crc": next(_crc),
    }
    return Record(id=id, output=output, **{**defaults, **fields})


def delivered(id: str, output: str = "28", **fields: Any) -> Record:
    """An attempt that got the ticket id ``VD-1``, unless ``fields`` differ."""
    more = {"outcome": "delivered", "ticket_id": "VD-1", **fields}
    return record(id, output, **more)


def given_up(
    id: str, output: str = "28", attempts: int = 3, **fields: Any
) -> list[Record]:
    """The records of so many attempts in vain, a minute from each other."""
    time = fields.pop("time", NOON)
    return [
        record(id, output, attempt=n, time=time + (n - 1) * 60_000, **fields)
        for n in range(1, attempts + 1)
    ]


@contextmanager
def stored(config: Config, *records: Record) -> Iterator[Store]:
    """The store of ``config``, with its tables and what ``records`` tell."""
    store = Store(config.store)
    try:
        store.migrate()
        take(store, config, records)
        yield store
    finally:
        store.close()


def take(store: Store, config: Config, records: Iterable[Record]) -> None:
    found = list(records)
    with store.writing() as connection:
        batch = Batch(connection, config, store.now(connection))
        batch.load({each.id for each in found})
        for each in found:
            batch.take(each)
        batch.write()


def change(store: Store, id: str, **values: Any) -> None:
    """Set columns of all deliveries with this id, whatever follows from it."""
    with store.writing() as connection:
        found = deliveries.by_ids(connection, [id]).values()
        deliveries.save(connection, [each._replace(**values) for each in found])


def one(store: Store, id: str, output: Optional[str] = None) -> Delivery:
    """The delivery with this id; there must be one, of ``output`` if given."""
    with store.reading() as connection:
        found = reads.by_id(connection, id)
    (only,) = [each for each in found if output in (None, each.output)]
    return only


def ids(store: Store, filter: Filter, limit: int = 100) -> list[str]:
    """What ``find`` finds."""
    with store.reading() as connection:
        return [each.id for each in reads.find(connection, filter, limit)]
