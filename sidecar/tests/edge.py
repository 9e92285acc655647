# Copyright (C) The ngx_vd_module authors
"""A whole edge: nginx, its journal and its sidecar; and what a store holds."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack, contextmanager
from typing import Any, Iterator, Mapping, Optional, Sequence, Union

from attrs import fields, frozen
from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from postgres import Postgres
from processes import PATIENCE, make_directory, remove_directory, wait_for
from receiver import Answer, Receiver
from rig import Nginx, Output
from sidecar import Sidecar
from vd_sidecar.model import ACCEPTED, Delivery, Exchange
from vd_sidecar.store import Store, deliveries, schema

# nginx gives up an attempt before the sidecar does, as it should; neither does so
# because the machine is busy.
ATTEMPT = "4s"
RETRY: Mapping[str, object] = {
    "attempts": 3,
    "backoff": ["100ms", "200ms"],
    "jitter": 0,
    "timeout": "5s",
}
Rows = Sequence[Any]
Tallies = dict[str, dict[str, int]]  # of outputs, states; none that is 0


@frozen
class Alert:
    """A row of alerts."""

    seq: int
    kind: str
    output: str
    due: int
    count: int


@frozen
class Notice:
    """A row of notices."""

    key: str
    kind: str
    delivery: Optional[int]
    due: Optional[int]
    tries: int
    sent: Optional[int]
    error: Optional[str]


class View:
    """What a store holds; it only reads, and each call sees one state."""

    def __init__(self, url: str) -> None:
        self._store = Store(url)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._store.reading() as connection:
            yield connection

    def all(self) -> list[Delivery]:
        with self._reading() as connection:
            table = schema.deliveries
            rows = connection.execute(select(*table.columns).order_by(table.c.seq))
            return [deliveries.delivery(row) for row in rows]

    def find(self, id: str) -> Optional[Delivery]:
        """None if it is not known; ids are those of one output in tests."""
        with self._reading() as connection:
            found = list(deliveries.by_ids(connection, [id]).values())
        assert len(found) < 2, found
        return found[0] if found else None

    def get(self, id: str) -> Delivery:
        found = self.find(id)
        assert found is not None, f"{id} is not in the store"
        return found

    def wait(self, state: str, *ids: str, patience: float = PATIENCE) -> Delivery:
        """Until all of ``ids`` are in ``state``; the last of them."""

        def reached() -> bool:
            with self._reading() as connection:
                found = deliveries.by_ids(connection, ids)
            return [each.state for each in found.values()] == [state] * len(ids)

        wait_for(reached, f"{state}: {', '.join(ids)[:200]}", patience)
        return self.get(ids[-1])

    def wait_attempts(self, id: str, count: int) -> Delivery:
        """Until the outcomes of so many attempts are known."""

        def known() -> bool:
            found = self.find(id)
            return found is not None and found.attempts >= count

        wait_for(known, f"the outcome of attempt {count} of {id}")
        return self.get(id)

    def exchanges(self, id: str) -> list[Exchange]:
        delivery = self.get(id)
        with self._reading() as connection:
            return deliveries.exchanges(connection, delivery.seq)

    def attempts(self) -> dict[str, int]:
        """Of how many attempts of each delivery there is a record."""
        table, exchanges = schema.deliveries, schema.exchanges
        query = (
            select(table.c.id, func.count())
            .join(exchanges, exchanges.c.delivery == table.c.seq)
            .where(exchanges.c.outcome != ACCEPTED)
            .group_by(table.c.id)
        )
        with self._reading() as connection:
            return {id: count for id, count in connection.execute(query)}

    def tallies(self) -> Tallies:
        """As the sidecar counts them."""
        with self._reading() as connection:
            result: Any = connection.execute(select(*schema.tallies.columns))
            rows: Rows = result.mappings().all()
        states = ("delivered", "pending", "failed", "cancelled")
        return {
            row["output"]: {state: row[state] for state in states if row[state]}
            for row in rows
        }

    def counted(self) -> Tallies:
        """As they are."""
        columns = (schema.deliveries.c.output, schema.deliveries.c.state)
        with self._reading() as connection:
            rows = connection.execute(
                select(*columns, func.count()).group_by(*columns)
            ).all()
        found: Tallies = defaultdict(dict)
        for output, state, count in rows:
            found[output][state] = count
        return dict(found)

    def states(self) -> dict[str, int]:
        """How many deliveries are in each state that there is."""
        column = schema.deliveries.c.state
        with self._reading() as connection:
            rows = connection.execute(select(column, func.count()).group_by(column))
            return {state: count for state, count in rows}

    def alerts(self, output: Optional[str] = None) -> list[Alert]:
        """In order; of one output if it is given."""
        table = schema.alerts
        columns = (table.c[name] for name in _names(Alert))
        with self._reading() as connection:
            rows: Rows = connection.execute(
                select(*columns).order_by(table.c.seq)
            ).all()
        return [Alert(*row) for row in rows if output in (None, row.output)]

    def notices(self, kind: str, delivery: Optional[int] = None) -> list[Notice]:
        """In order; of one delivery if it is given."""
        table = schema.notices
        query = select(*(table.c[name] for name in _names(Notice)))
        with self._reading() as connection:
            rows = connection.execute(
                query.where(table.c.kind == kind).order_by(table.c.seq)
            ).all()
        found = [Notice(*row) for row in rows]
        return [each for each in found if delivery in (None, each.delivery)]

    def close(self) -> None:
        self._store.close()


def _names(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


class Edge:
    """nginx, its journal and its sidecar; neither is started.

    Two of them on one ``store`` need names: ``edge="a"``.  ``retry`` is what is not
    as in ``RETRY``, the other ``settings`` are those of ``Sidecar``; ``nginx`` is
    where the sidecar finds it, if that is not its own socket.
    """

    def __init__(
        self,
        receiver: Receiver,
        store: str,
        locations: Sequence[Union[Output, str]] = ("28",),
        *,
        segment: str = "64m",
        workers: int = 2,
        retry: Mapping[str, object] = {},
        **settings: object,
    ) -> None:
        self.receiver = receiver
        full = [
            Output(each, timeout=ATTEMPT) if isinstance(each, str) else each
            for each in locations
        ]
        self.nginx = Nginx(receiver.port, full, segment=segment, workers=workers)
        settings.setdefault("nginx", self.nginx.unix)
        self.sidecar = Sidecar(
            None,
            journal=str(self.nginx.journal),
            store=store,
            retry={**RETRY, **retry},
            **settings,
        )
        self.view = View(store)

    def start(self) -> None:
        self.nginx.start()
        self.sidecar.start()

    def accept(self, output: str, *ids: str) -> None:
        """Has nginx take cases; the output's ``vd_ack`` is ``journal``."""
        for id in ids:
            assert self.nginx.post(output, key=id).status == 202

    def accept_at_once(self, output: str, *ids: str) -> None:
        """As ``accept()``, and the sidecar learns of all of them in one moment."""
        self.sidecar.pause()
        self.accept(output, *ids)
        self.sidecar.resume()

    def fail(self, output: str, id: str, *answers: Union[Answer, int]) -> None:
        """Has nginx make a first attempt that fails; ``answers`` are to the next."""
        self.receiver.script(503, *answers, id=id)
        assert self.nginx.post(output, key=id).status == 202

    def remove(self) -> None:
        self.view.close()
        self.sidecar.remove()
        self.nginx.remove()


def started(
    stack: ExitStack,
    receiver: Receiver,
    store: str,
    *locations: Union[Output, str],
    **options: Any,
) -> Edge:
    """An ``Edge`` that runs until ``stack`` is left."""
    edge = Edge(receiver, store, locations or ("28",), **options)
    stack.callback(edge.remove)
    edge.start()
    return edge


@contextmanager
def temporary_store(kind: str, postgres: Optional[Postgres] = None) -> Iterator[str]:
    """The URL of an empty store; ``kind`` is sqlite or postgresql, which needs one."""
    if kind == "sqlite":
        directory = make_directory("store")
        try:
            yield f"sqlite:///{directory}/vd.db"
        finally:
            remove_directory(directory)
    else:
        assert postgres is not None
        url = postgres.create_database()
        try:
            yield url
        finally:
            postgres.drop_database(url)
