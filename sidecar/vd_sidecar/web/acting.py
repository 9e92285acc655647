# Copyright (C) The ngx_vd_module authors
"""What operators have done by a page or a program, beside all else that is written.

The service's writer does it, a chunk at a time, so that the journal is taken and
attempts are settled in between.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Callable, Iterable, Optional, Sequence, TypeVar

from attrs import evolve, field, mutable
from sqlalchemy.exc import SQLAlchemyError

from ..acts import CANCEL, CHUNK, FORGET, RETRY, Act, Leftover, Result
from ..acts import leftovers, perform
from ..model import FAILED, PENDING, Delivery
from ..store import reads
from ..store.reads import After, Filter
from .asked import ToDo, as_cursor
from .reading import Away, Reads, in_daemon, reason

if TYPE_CHECKING:
    from ..service import Service

MOST = 20 * CHUNK  # deliveries that one request is for
NAMED = 20  # deliveries that are refused, when not each one is named

# Which deliveries are meant, if a filter names no state.

STATES_OF = {RETRY.name: (FAILED,), CANCEL.name: (PENDING,)}

T = TypeVar("T")


@mutable
class Done:
    """What an act did, or would do."""

    act: Act
    dry_run: bool
    each: bool  # whether each delivery is named, or only some that were refused
    outputs: Counter[str] = field(factory=Counter)  # of each output, how many
    refused: int = 0
    named: list[Result] = field(factory=list)
    not_found: list[str] = field(factory=list)  # ids
    next: Optional[After] = None  # where to go on: there may be more
    left: Optional[tuple[list[Leftover], list[str]]] = None

    def add(self, results: Iterable[Result]) -> None:
        for each in results:
            if each.refused is None:
                self.outputs[each.before.output] += 1
            else:
                self.refused += 1
            if self.each or (each.refused is not None and len(self.named) < NAMED):
                self.named.append(each)

    def fields(self) -> dict[str, object]:
        """For JSON, with the names of ``vd-sidecar retry --json``."""
        fields: dict[str, object] = {
            "act": self.act.name,
            "dry_run": self.dry_run,
            "done": self.outputs.total(),
            "refused": self.refused,
            "outputs": dict(self.outputs),
            "deliveries": [
                {
                    "id": each.before.id,
                    "output": each.before.output,
                    "before": each.before.state,
                    "state": each.after.state,
                    "refused": each.refused,
                }
                for each in self.named
            ],
            "not_found": self.not_found,
            "next": None if self.next is None else as_cursor(self.next),
        }
        if self.left is not None:
            segments, edges = self.left
            fields["segments"] = [{"path": s.path, "goes": s.goes} for s in segments]
            fields["other_edges"] = edges
        return fields


class Acting:
    """Does one request after the other."""

    def __init__(self, service: "Service", reads_: Reads) -> None:
        self._service = service
        self._reads = reads_
        self._lock = asyncio.Lock()

    async def act(self, act: Act, todo: ToDo, who: str) -> Done:
        """Do ``act``; ``who`` is noted.  Raises ``Away``; what was done stays done."""
        done = Done(act, todo.dry_run, each=todo.filter is None)
        async with self._lock:
            if todo.filter is None:
                await self._on_ids(todo, who, done)
            else:
                await self._on_all(todo.filter, todo.after, who, done)
        if act is RETRY and not todo.dry_run:
            self._service.retry.wake()
        return done

    async def _on_ids(self, todo: ToDo, who: str, done: Done) -> None:
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
        if done.act is FORGET:
            ids = {each.before.id for each in done.named}
            done.left = await self._in_thread(
                lambda: leftovers(self._service.store, self._service.config, ids)
            )

    async def _on_all(
        self, filter: Filter, after: Optional[After], who: str, done: Done
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
            after = reads.key(found[-1])
        done.next = after

    async def _perform(
        self, seqs: Sequence[int], only: Filter, who: str, done: Done
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


def chosen(found: Sequence[Delivery], outputs: Sequence[str]) -> list[Delivery]:
    return [each for each in found if not outputs or each.output in outputs]
