# Copyright (C) The ngx_vd_module authors
"""What operators have done by a page or a program, beside all else that is written.

The service's writer does it, a chunk at a time, so that the journal is taken and
attempts are settled in between.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Callable, Iterator, Optional, Sequence, TypeVar

import structlog
from attrs import evolve, mutable
from sqlalchemy.exc import SQLAlchemyError

from ..acts import CANCEL, CHUNK, FORGET, RESEND, RETRY, Act, Done, Result
from ..acts import leftovers, perform, scrub
from ..model import DELIVERED, FAILED, PENDING, Delivery
from ..store import reads
from ..store.reads import Filter, Place
from .asked import ToDo, as_cursor
from .reading import Away, Reads, in_daemon, reason

if TYPE_CHECKING:
    from ..service import Service

MOST = 20 * CHUNK  # deliveries that one request is for

# Which deliveries are meant, if a filter names no state.

STATES_OF = {
    RETRY.name: (FAILED,),
    RESEND.name: (DELIVERED,),
    CANCEL.name: (PENDING,),
}

log = structlog.get_logger()
T = TypeVar("T")


@mutable
class DoneHere(Done):
    """By one request, which is for so many deliveries and no more."""

    next: Optional[Place] = None  # where to go on: there may be more
    scrubbed: bool = True  # of what is forgotten, the store's log too

    def fields(self) -> dict[str, object]:
        place = None if self.next is None else as_cursor(self.next)
        return {**super().fields(), "next": place}


class Acting:
    """Does one request after the other."""

    def __init__(self, service: "Service", reads_: Reads) -> None:
        self._service = service
        self._reads = reads_
        self._lock = asyncio.Lock()

    async def act(self, act: Act, todo: ToDo, who: str) -> DoneHere:
        """Do ``act``; ``who`` is noted.  Raises ``Away``; what was done stays done."""
        done = DoneHere(act, todo.dry_run, each=todo.filter is None)
        with logged(done, who):
            async with self._lock:
                if todo.filter is None:
                    await self._on_ids(todo, who, done)
                else:
                    await self._on_all(todo.filter, todo.after, who, done)
        if not todo.dry_run:
            await self.follow(done)
        if act is FORGET:
            done.left = await self._in_thread(
                lambda: leftovers(self._service.store, self._service.config, done.ids)
            )
        return done

    async def follow(self, done: DoneHere) -> None:
        """What is to be done at once when an act is."""
        if done.act in (RETRY, RESEND):
            self._service.retry.wake()
        if done.act is FORGET:
            done.scrubbed = await self._in_thread(lambda: scrub(self._service.store))

    async def _on_ids(self, todo: ToDo, who: str, done: DoneHere) -> None:
        seqs: dict[int, None] = {}
        for id in dict.fromkeys(todo.ids):
            found = await self._reads(lambda connection: reads.by_id(connection, id))
            found = chosen(found, todo.outputs)
            seqs.update((each.seq, None) for each in found)
            if not found:
                done.not_found.append(id)

        order = list(seqs)
        for start in range(0, len(order), CHUNK):
            await self._perform(order[start : start + CHUNK], Filter(), who, done)

    async def _on_all(
        self, filter: Filter, after: Optional[Place], who: str, done: DoneHere
    ) -> None:
        """Newest first; those that the filter does not mean any more are left out."""
        if not filter.states:
            filter = evolve(filter, states=STATES_OF.get(done.act.name, ()))

        for _ in range(MOST // CHUNK):
            found = await self._reads(
                lambda connection: reads.find(connection, filter, CHUNK, after)
            )
            await self._perform([each.seq for each in found], filter, who, done)
            if len(found) < CHUNK:
                return
            after = reads.place(found[-1])
        done.next = after

    async def _perform(
        self, seqs: Sequence[int], only: Filter, who: str, done: DoneHere
    ) -> None:
        store, config = self._service.store, self._service.config

        def work() -> list[Result]:
            return perform(
                store, config, done.act, seqs, who, only=only, dry_run=done.dry_run
            )

        if done.dry_run:
            done.add(await self._in_thread(work))
        else:
            done.add(await self._service.in_writer(work))

    async def _in_thread(self, function: Callable[[], T]) -> T:
        try:
            return await in_daemon(function)
        except SQLAlchemyError as error:
            raise Away(reason(error)) from None


@contextmanager
def logged(done: DoneHere, who: str) -> Iterator[None]:
    """Tell the log what was done, also if the store went away in between.

    A store that goes back in time knows of it no more.
    """
    try:
        yield
    finally:
        if not done.dry_run:
            log.info(
                "an operator acted",
                act=done.act.name,
                who=who,
                done=done.outputs.total(),
                refused=done.refused,
                deliveries=" ".join(done.logged),
            )


def chosen(found: Sequence[Delivery], outputs: Sequence[str]) -> list[Delivery]:
    return [each for each in found if not outputs or each.output in outputs]
