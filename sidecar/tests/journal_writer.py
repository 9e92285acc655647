# Copyright (C) The ngx_vd_module authors
"""The journal as nginx writes it, byte for byte, and as it is after a crash.

``line(...)`` is one record.  ``Segment`` is a file that is being written, with its
writer's lock.  ``fill(...)`` makes many records in little time.  ``records(...)``
reads them back, without the sidecar's help.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import time as clock
import zlib
from datetime import datetime, timedelta, timezone
from itertools import islice
from pathlib import Path
from typing import Iterable, Iterator, Mapping, Optional, Union

Value = Union[str, int, None]
Fields = Mapping[str, Value]

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
CONTENT_TYPE = "application/json"
BODY = b'{"subject": "Drucker streikt"}'
SEGMENT_SIZE = 64 << 20
BATCH = 1000  # lines of fill() that are written at once

# Escapes what C0 holds, quotes and backslashes, and nothing else: so does nginx.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def now() -> int:
    return clock.time_ns() // 1_000_000


def timestamp(time: int) -> str:
    """RFC 3339 of Unix milliseconds."""
    text = (EPOCH + timedelta(milliseconds=time)).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def uuid7(time: Optional[int] = None) -> str:
    """Of this time (Unix ms), or of now."""
    random = int.from_bytes(os.urandom(10), "big")
    number = (now() if time is None else time) << 80 | random
    number = number & ~(0xF << 76) | 7 << 76
    number = number & ~(0x3 << 62) | 2 << 62
    text = f"{number:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def line(
    id: str,
    output: str = "28",
    *,
    time: Optional[int] = None,
    label: str = "Security Incident",
    case: Optional[str] = None,
    uri: Optional[str] = None,
    attempt: int = 1,
    outcome: str = "failed",
    reason: Optional[str] = None,
    status: Optional[int] = None,
    upstream: Optional[str] = None,
    duration_ms: Optional[int] = None,
    ticket_id: Optional[str] = None,
    ticket_error: Optional[str] = None,
    response: Optional[str] = None,
    retry_after: Optional[int] = None,
    content_type: str = CONTENT_TYPE,
    host: Optional[str] = None,
    kept: Optional[str] = None,
    digest: Optional[str] = None,
    body: Optional[bytes] = None,
    extra: Fields = {},
) -> bytes:
    """A record, its line feed included.

    Nothing is made up but the time (Unix ms, now) and the URI (that of ``rig.Nginx``
    for the output); ``retry_after`` and what follows ``content_type`` are left out if not
    given.  ``extra``: keys that a later version might have, in front of the checksum.
    """
    record: dict[str, Value] = {
        "v": 1,
        "time": timestamp(now() if time is None else time),
        "id": id,
        "output": output,
        "label": label,
        "case": case,
        "uri": f"/outputs/{output}" if uri is None else uri,
        "attempt": attempt,
        "outcome": outcome,
        "reason": reason,
        "status": status,
        "upstream": upstream,
        "duration_ms": duration_ms,
        "ticket_id": ticket_id,
        "ticket_error": ticket_error,
        "response": response,
    }
    if retry_after is not None:
        record["retry_after"] = retry_after
    record["content_type"] = content_type
    for key, value in (("host", host), ("kept", kept), ("digest", digest)):
        if value is not None:
            record[key] = value
    if body is not None:
        record.update(_content(body))
    return checked({**record, **extra})


def accepted(id: str, output: str = "28", body: bytes = BODY, **fields: Value) -> bytes:
    """The record of a case that nginx took without an attempt (``vd_ack journal``)."""
    return _with(fields, id, output, body, outcome="accepted")


def failed(id: str, output: str = "28", body: bytes = BODY, **fields: Value) -> bytes:
    """The record of an attempt that got 503; the first has the body."""
    defaults: Fields = {
        "reason": "status",
        "status": 503,
        "upstream": "127.0.0.1:443",
        "duration_ms": 12,
        "response": '{"error": "maintenance"}',
    }
    first = fields.get("attempt", 1) == 1
    return _with({**defaults, **fields}, id, output, body if first else None)


def delivered(id: str, output: str = "28", **fields: Value) -> bytes:
    """The record of an attempt that got a ticket id, ``VD-1`` if none is given."""
    ticket = fields.get("ticket_id", "VD-1")
    defaults: Fields = {
        "ticket_id": ticket,
        "status": 200,
        "upstream": "127.0.0.1:443",
        "duration_ms": 12,
        "response": f'{{"success": true, "ticket_id": "{ticket}"}}',
    }
    return _with({**defaults, **fields}, id, output, None, outcome="delivered")


def _with(
    fields: Fields, id: str, output: str, body: Optional[bytes], **more: Value
) -> bytes:
    return line(id, output, body=body, **{**more, **fields})  # type: ignore[arg-type]


def _content(body: bytes) -> Fields:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_b64": base64.b64encode(body).decode()}


def checked(record: Fields) -> bytes:
    """Any object as a line with a checksum that is right."""
    return sealed(_encode(dict(record)).encode()[:-1])


def sealed(text: bytes) -> bytes:
    """Bytes, without a brace at their end, as a line with a checksum that is right."""
    return b'%b,"crc":"%08x"}\n' % (text, zlib.crc32(text))


class Segment:
    """A segment that is written to: its header is there, and the writer's lock.

    It is left by ``end()`` or ``crash()``; until then no reader may take it for
    done.  Each ``write()`` is in the file when it returns.
    """

    def __init__(
        self,
        directory: Path,
        *,
        uuid: Optional[str] = None,
        pid: int = 1234,
        time: Optional[int] = None,
        header: bool = True,
    ) -> None:
        self.uuid = uuid or uuid7(time)
        self.path = directory / f"{self.uuid}.jsonl"
        self.records = 0
        hidden = directory / f".{self.uuid}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.open(hidden, flags, 0o640)
        os.fchmod(self._file, 0o640)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        if header:
            opened = timestamp(now() if time is None else time)
            self.raw(_line(v=1, segment=self.uuid, pid=pid, opened=opened))
        hidden.rename(self.path)

    def write(self, *lines: bytes) -> None:
        """Records, which ``end()`` counts."""
        self.raw(b"".join(lines))
        self.records += len(lines)

    def raw(self, text: bytes) -> None:
        """Anything: half a line, what is no record, NUL bytes."""
        view = memoryview(text)
        while view:
            view = view[os.write(self._file, view) :]

    def cut(self, size: int) -> None:
        """Back to this many bytes, as after a failed write; the next follows there."""
        os.ftruncate(self._file, size)
        os.lseek(self._file, size, os.SEEK_SET)

    @property
    def size(self) -> int:
        return os.fstat(self._file).st_size

    def end(self, records: Optional[int] = None) -> Path:
        """Closes it in order; ``records`` if the count is to be wrong."""
        count = self.records if records is None else records
        self.raw(_line(v=1, end=self.uuid, records=count))
        return self.crash()

    def crash(self) -> Path:
        """The writer is gone, whatever the segment ends in."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        return self.path

    def __enter__(self) -> Segment:
        return self

    def __exit__(self, *exception: object) -> None:
        """In order, unless ``end()`` or ``crash()`` was called or the test failed."""
        if self._file >= 0 and exception[0] is None:
            self.end()
        self.crash()


def _line(**fields: Value) -> bytes:
    return _encode(fields).encode() + b"\n"


def fill(
    directory: Path, lines: Iterable[bytes], size: int = SEGMENT_SIZE
) -> list[Path]:
    """Writes segments of about this size, all of them ended; their paths."""
    paths = []
    rest = iter(lines)
    batch = list(islice(rest, BATCH))
    while batch:
        with Segment(directory) as segment:
            while batch and segment.size < size:
                segment.write(*batch)
                batch = list(islice(rest, BATCH))
        paths.append(segment.path)
    return paths


def many(
    count: int, template: bytes, start: int = 0, marker: bytes = b"ID"
) -> Iterator[bytes]:
    """``count`` copies of a record, each with its number in place of ``marker``.

    Much quicker than ``count`` times ``line()``:
    ``fill(journal, many(1_000_000, failed("load-ID")))`` has the ids load-0 and on.
    """
    text, _, _ = template.rpartition(b',"crc":')
    before, found, after = text.partition(marker)
    if not found:
        raise ValueError(f"{marker!r} is not in the record")
    crc = zlib.crc32
    started = crc(before)
    for number in range(start, start + count):
        rest = b"%d%b" % (number, after)
        yield b'%b%b,"crc":"%08x"}\n' % (before, rest, crc(rest, started))


def records(directory: Path) -> list[dict[str, Value]]:
    """Of all segments, in their order; raises ValueError if a line is not right."""
    found = []
    for path in sorted(directory.glob("*.jsonl")):
        for text in path.read_bytes().splitlines(keepends=True)[1:]:
            if text.startswith(b'{"v":1,"end":'):
                continue
            if sealed(text.rpartition(b',"crc":')[0]) != text:
                raise ValueError(f"{path.name}: {text!r}")
            found.append(json.loads(text))
    return found
