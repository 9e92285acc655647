# Copyright (C) The ngx_vd_module authors
"""The log: one event a line on the standard error, JSON or for a human's eyes.

Whatever a value holds, it cannot end its line nor act upon a terminal. The
standard library's loggers (aiohttp, sqlalchemy, alembic) write the same lines.
"""

from __future__ import annotations

import io
import json as jsonlib
import logging
import re
import sys
from datetime import datetime, timezone
from typing import Any, MutableMapping, Optional, TextIO

import structlog
from structlog.typing import EventDict, Processor

from .tables import printable

LEVELS = ("debug", "info", "warning", "error")

_encode = jsonlib.JSONEncoder(default=str).encode
_PLAIN = re.compile(r"[^\s\"=]+")
_COLORS = {"warning": "\033[33m", "error": "\033[31m", "critical": "\033[31m"}
_QUIET = ("sqlalchemy", "alembic", "aiohttp.access", "asyncio")


def setup(json: Optional[bool] = None, level: str = "info") -> None:
    """Send all logs of the process to the standard error; may be called again.

    ``json``: None takes JSON unless the standard error is a terminal. ``level``:
    the least of ``LEVELS`` that is written, ``ValueError`` if it is none of them.
    Libraries that tell of each statement do so at "debug" only.
    """
    if level not in LEVELS:
        raise ValueError(f"the log level must be one of {', '.join(LEVELS)}")
    least = getattr(logging, level.upper())
    if json is None:
        json = not sys.stderr.isatty()

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _add_time,
        structlog.processors.format_exc_info,
    ]
    last: list[Processor] = [_in_order, _as_json if json else _as_text]

    handler = _replace_handler(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=last,
        )
    )
    lines = _Lines(handler)
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    logging.getLogger().setLevel(least)
    for name in _QUIET:
        logging.getLogger(name).setLevel("DEBUG" if level == "debug" else "WARNING")
    logging.captureWarnings(True)


class _Lossy(io.FileIO):
    """Loses what cannot be written."""

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left:
                left = left[super().write(left) :]
        except OSError:
            pass
        return size


def unbuffer() -> None:
    """Make the standard error a stream on which nothing fails, nor waits.

    Python's own keeps what it could not write, and then ends with status 120,
    however well its work was done.
    """
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = io.TextIOWrapper(
            _Lossy(sys.stderr.fileno(), "w", closefd=False),
            encoding=sys.stderr.encoding,
            errors="backslashreplace",  # an encoding may lack a letter
            write_through=True,
        )


class _Lines:
    """Writes what is a line already, at a fraction of what a log record costs."""

    def __init__(self, handler: logging.StreamHandler[TextIO]) -> None:
        self._handler = handler

    def write(self, line: str) -> None:
        self._handler.acquire()
        try:
            self._handler.stream.write(line + "\n")
            self._handler.flush()
        except (OSError, ValueError):
            pass  # nothing stops because it cannot be logged
        finally:
            self._handler.release()

    debug = info = warning = error = critical = write


def _replace_handler(formatter: logging.Formatter) -> logging.StreamHandler[TextIO]:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    return handler


def _add_time(logger: object, name: str, event: EventDict) -> EventDict:
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    event["time"] = now.replace("+00:00", "Z")
    return event


def _in_order(logger: object, name: str, event: EventDict) -> EventDict:
    """Time, level and event first, then the fields as they were given."""
    ordered = {key: event.pop(key, None) for key in ("time", "level", "event")}
    return {
        **ordered,
        **{key: event[key] for key in event if not key.startswith("_")},
    }


def _as_json(logger: object, name: str, event: MutableMapping[str, Any]) -> str:
    # in ASCII: no line separator, control or lone surrogate is left as it is
    return _encode(event)


def _as_text(logger: object, name: str, event: MutableMapping[str, Any]) -> str:
    fields = dict(event)
    time, level = fields.pop("time"), fields.pop("level")
    text = printable(str(fields.pop("event")))
    trace = fields.pop("exception", None)

    color = _COLORS.get(level, "") if sys.stderr.isatty() else ""
    end = "\033[0m" if color else ""
    line = f"{time} {color}{level:<7}{end} {text}"
    line += "".join(f" {printable(key)}={_value(fields[key])}" for key in fields)
    if trace:
        # a line each, marked as none of the log's own
        line += "".join("\n  | " + printable(part) for part in trace.splitlines())
    return line


def _value(value: object) -> str:
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value.isprintable():
            return value
        return printable(jsonlib.dumps(value, ensure_ascii=False))
    return printable(jsonlib.dumps(value, ensure_ascii=False, default=str))
