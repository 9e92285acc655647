# Copyright (C) The ngx_vd_module authors
"""``vd-sidecar export``: any number of deliveries, in little memory."""

from __future__ import annotations

import csv
import os
import stat
import sys
import tempfile
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Callable, Iterator, Optional, Union

import click

from . import render
from .model import Delivery
from .options import Failed
from .store import Store, reads
from .store.reads import Filter

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

Advance = Callable[[int], None]


def write(
    store: Store, filter: Filter, path: Optional[str], as_json: bool, bom: bool = False
) -> None:
    """Write what ``filter`` means to the file ``path``, or the standard output.

    ``bom``: a mark in front by which Excel knows that CSV is in UTF-8.
    """
    apart = sys.stderr.isatty() and not sys.stdout.isatty()
    with _destination(path) as file, progress(store, filter, apart) as advance:
        if bom:
            file.write(render.BOM)
        put = _json_writer(file) if as_json else _csv_writer(file)
        for found in reads.chunks(store, filter):
            for each in found:
                put(each)
            advance(len(found))


@contextmanager
def progress(store: Store, filter: Filter, shown: bool) -> Iterator[Advance]:
    """A bar on the standard error, if it is to be shown, of what ``filter`` means."""
    if not shown:
        yield lambda count: None
        return
    with store.reading() as connection:
        length = reads.count(connection, filter)
    bar: ProgressBar[int]
    with click.progressbar(length=length, file=sys.stderr, show_pos=True) as bar:
        yield bar.update


def _json_writer(file: IO[str]) -> Callable[[Delivery], None]:
    def put(each: Delivery) -> None:
        file.write(render.as_json(render.fields(each), indent=None) + "\n")

    return put


def _csv_writer(file: IO[str]) -> Callable[[Delivery], None]:
    terminal = file.isatty()
    rows = csv.writer(file)  # as in RFC 4180: lines end in CR LF
    rows.writerow(render.FIELDS)

    def put(each: Delivery) -> None:
        rows.writerow(
            [render.cell(value, terminal) for value in render.fields(each).values()]
        )

    return put


@contextmanager
def _destination(path: Optional[str]) -> Iterator[IO[str]]:
    """Where to write; a file takes the place of an older one when it is whole."""
    if path is None or path == "-":
        with _open(sys.stdout.fileno(), closefd=False) as file:
            yield file
        return
    path = os.path.realpath(path)
    try:
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            with _open(path) as file:
                yield file
            return
        with _temporary(path) as file:
            yield file
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror}") from None


def _open(file: Union[str, int], closefd: bool = True) -> IO[str]:
    return open(file, "w", encoding="utf-8", newline="", closefd=closefd)


@contextmanager
def _temporary(path: str) -> Iterator[IO[str]]:
    directory, name = os.path.split(path)
    number, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=directory)
    try:
        with _open(number) as file:
            yield file
            file.flush()
            os.fchmod(number, 0o640)
            os.fsync(number)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
