# Copyright (C) The ngx_vd_module authors
"""Acts on the command line: on which deliveries, and what is said of them."""

from __future__ import annotations

import sys
from typing import Iterator, Sequence

import click

from . import export, render
from .acts import CHUNK, FORGET, Act, Done, Leftover, Result
from .acts import perform, perform_all
from .config import Config
from .model import PENDING, Delivery
from .options import NOT_DONE, Failed, who
from .store import Store, reads
from .store.reads import Filter
from .tables import printable


class Report:
    """What an act did, told at its end; ``each``: with a line for each delivery."""

    def __init__(
        self, act: Act, dry_run: bool, as_json: bool, each: bool = True
    ) -> None:
        self.done = Done(act, dry_run, each)
        self._as_json = as_json
        self.left: tuple[list[Leftover], list[str]] = ([], [])
        self.unread = ""
        self.remark = ""

    @property
    def ids(self) -> set[str]:
        return {each.before.id for each in self.done.named}

    def end(self) -> None:
        """Print it, and exit with its status."""
        if self.done.act is FORGET:
            self.done.left = self.left
        if self._as_json:
            click.echo(render.as_json(self.done.fields()))
        else:
            for line in self._lines():
                click.echo(line)
        for text in (self.remark, self.unread, *self.done.not_found):
            if text:
                click.echo(text, err=True)
        failed = self.done.refused or self.done.not_found or self.unread
        sys.exit(NOT_DONE if failed else 0)

    def _lines(self) -> Iterator[str]:
        for each in self.done.named:
            name = _name(each.before)
            if each.refused is not None:
                yield f"{name}: not {self.done.act.done}: {printable(str(each.refused))}"
            else:
                yield f"{name}: {self._word()}{_change(each)}"
        if not self.done.each:
            yield from self._counts()
        yield from self._left_lines()

    def _word(self) -> str:
        return (
            f"would be {self.done.act.done}"
            if self.done.dry_run
            else self.done.act.done
        )

    def _counts(self) -> Iterator[str]:
        if self.done.refused > len(self.done.named):
            yield f"and {self.done.refused - len(self.done.named):,} more"
        if not self.done.outputs and not self.done.refused:
            yield "No delivery is like that."
            return
        total = self.done.outputs.total()
        parts = ", ".join(
            f"{n:,} of output {o}" for o, n in sorted(self.done.outputs.items())
        )
        line = f"{many(total)} {self._word()}"
        line += f" ({parts})" if parts else ""
        yield line + (f", {self.done.refused:,} not" if self.done.refused else "")

    def _left_lines(self) -> Iterator[str]:
        segments, others = self.left
        verb = "would still be" if self.done.dry_run else "is still"
        for each in segments:
            yield f"It {verb} in {printable(each.path)}, deleted {each.goes}."
        if others:
            names = printable(", ".join(others))
            yield f"Journals of other edges were not searched, do it there: {names}"


def act_on(
    store: Store,
    config: Config,
    act: Act,
    ids: Sequence[str],
    outputs: Sequence[str],
    report: Report,
) -> None:
    """Do ``act`` with the deliveries that have these ids, of ``outputs`` if any."""
    seqs: dict[int, None] = {}
    with store.reading() as connection:
        for id in dict.fromkeys(ids):
            found = chosen(reads.by_id(connection, id), outputs)
            seqs.update((each.seq, None) for each in found)
            if not found:
                report.done.not_found.append(unknown(id, outputs))
    order = list(seqs)
    for start in range(0, len(order), CHUNK):
        chunk = order[start : start + CHUNK]
        dry_run = report.done.dry_run
        report.done.add(perform(store, config, act, chunk, who(), dry_run=dry_run))


def act_on_all(
    store: Store, config: Config, act: Act, filter: Filter, report: Report
) -> None:
    """Do ``act`` with all that ``filter`` means; what was done stays if it breaks."""
    dry_run = report.done.dry_run
    with export.progress(store, filter, sys.stderr.isatty()) as advance:
        for results in perform_all(store, config, act, filter, who(), dry_run=dry_run):
            report.done.add(results)
            advance(len(results))


def counted(store: Store, filter: Filter) -> int:
    with store.reading() as connection:
        return reads.count(connection, filter)


def chosen(found: Sequence[Delivery], outputs: Sequence[str]) -> list[Delivery]:
    return [each for each in found if not outputs or each.output in outputs]


def unknown(id: str, outputs: Sequence[str]) -> str:
    of = f" of output {', '.join(outputs)}" if outputs else ""
    return printable(f"{id}: there is no such delivery{of} in the store")


def note_unknown(store: Store, filter: Filter) -> None:
    """``Failed`` if an output is named that never had a delivery: a slip."""
    if not filter.outputs:
        return
    with store.reading() as connection:
        known = [each.output for each in reads.tallies(connection)]
    missing = [each for each in filter.outputs if each not in known]
    if missing:
        names = ", ".join(known) or "none yet"
        text = f"no delivery of output {', '.join(missing)}; outputs with some: {names}"
        raise Failed(printable(text), NOT_DONE)


def _name(delivery: Delivery) -> str:
    return printable(f"{delivery.id} (output {delivery.output})")


def _change(result: Result) -> str:
    before, after = result.before, result.after
    if before.state == PENDING and before.owner is not None:
        return f", while attempt {before.claimed} is under way"
    if before.state == after.state and before.state != PENDING:
        return f" (it is {after.state})"
    return f" (was {before.state})" if before.state != PENDING else ""


def many(count: int) -> str:
    return "1 delivery" if count == 1 else f"{count:,} deliveries"
