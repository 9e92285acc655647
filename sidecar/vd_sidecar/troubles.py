# Copyright (C) The ngx_vd_module authors
"""What keeps the service from its work, and the way out of it, said once."""

from __future__ import annotations

import errno
import os
import shlex
from typing import Optional

import structlog
from attrs import frozen
from sqlalchemy.exc import SQLAlchemyError

from .clock import steady
from .config import Config
from .findings import make_journal, me, owner
from .store import Store, reason

AGAIN_SECONDS = 60.0
CLOSER = "vd-sidecar check looks at it closely"

log = structlog.get_logger()


def store_trouble(store: Store, error: Exception) -> str:
    """What the database said; of a file that we may not use, its name and the way out."""
    text = reason(error)
    if not store.sqlite:
        return text
    path = store.url.database or ""
    return f"{text}: {_closed(path) or path}"


def _closed(path: str) -> Optional[str]:
    """Of SQLite's files and their directory, the first that we may not write."""
    directory = os.path.dirname(path)
    quoted = shlex.quote(directory)
    if not os.path.isdir(directory):
        make = f"install -d -o {owner()} -g {owner()} -m 750 {quoted}"
        return f"{directory} does not exist, or is closed to {me()}: {make}"
    if not _may(directory, os.W_OK | os.X_OK):
        return f"{directory} is not writable by {me()}: chown {owner()}: {quoted}"
    for each in (path, f"{path}-wal", f"{path}-shm"):
        if os.path.exists(each) and not _may(each, os.R_OK | os.W_OK):
            mend = f"chown {owner()}: {shlex.quote(path)}*"
            return f"{each} is not writable by {me()}: {mend}"
    return None


def _may(path: str, mode: int) -> bool:
    return os.access(path, mode, effective_ids=True)


def start_trouble(config: Config, error: OSError) -> str:
    """Why the service cannot start, and what to do."""
    if error.filename == config.journal:
        text = f"the journal {config.journal}: {error.strerror}"
        return f"{text}; as root: {make_journal(config.journal)}; {CLOSER}"
    if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES):
        text = f"web.listen = {config.web.listen}: {os.strerror(error.errno)}"
        return f"{text}; ss -ltnp shows who listens; {CLOSER}"
    return f"{error}; {CLOSER}"


@frozen
class _Told:
    at: float  # when it was told last
    since: float


class Troubles:
    """Of all parts: one line when it begins, one a minute, one when it is over.

    All that have trouble with the store have the same.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._told: dict[str, _Told] = {}
        self._parts: dict[str, str] = {}  # those that have one, and with what
        self.now: dict[str, str] = {}  # what has one, and which

    def tell(self, part: str, error: Exception) -> None:
        """``part`` cannot go on now."""
        fault = None
        if isinstance(error, SQLAlchemyError):
            what, text = "the store", store_trouble(self._store, error)
        elif isinstance(error, OSError):
            what, text = part, str(error)
        else:
            what, text = part, f"{type(error).__name__}: {error}"
            fault = error  # of ours: with its trace
        if self._parts.get(part, what) != what:
            self.over(part)  # what it had; this is another
        self._parts[part] = what
        self.now[what] = text
        now = steady()
        known = self._told.get(what)
        if known is not None and now - known.at < AGAIN_SECONDS:
            return
        since = now if known is None else known.since
        self._told[what] = _Told(now, since)
        log.error("cannot go on, trying again", part=what, error=text, exc_info=fault)

    def over(self, part: str) -> None:
        """``part`` went on."""
        what = self._parts.pop(part, None)
        if what is None or what in self._parts.values():
            return
        known = self._told.pop(what)
        del self.now[what]
        log.info("goes on again", part=what, seconds=round(steady() - known.since, 1))
