# Copyright (C) The ngx_vd_module authors
"""The journal's directory, its segments and their lines.

The format is the README's "The journal": whole lines, each record with a
checksum of what stands before it, one writer a segment that holds its lock.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import json
import os
import re
import zlib
from datetime import datetime
from stat import S_ISREG
from typing import Any, Iterator, Optional, Union

from attrs import frozen

from .model import ACCEPTED, DELIVERED, FAILED, Record

VERSION = 1
EDGE = "edge"  # a file beside the segments

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_NAME = re.compile(rf"({_UUID})\.jsonl")
_UNBORN = re.compile(rf"\.{_UUID}")
_CRC = b',"crc":"'
_TAIL = len(_CRC) + len('01234567"}')
_decode = json.JSONDecoder().raw_decode
_OUTCOMES = (DELIVERED, FAILED, ACCEPTED)

# What is looked up has an index, and what an index of PostgreSQL takes is bounded.

_LONGEST = 512

# What becomes a header of an attempt, as it stands in a record.

_HOST = re.compile(r"[^\x00-\x20\x7f]{1,8192}")
_KEPT = re.compile(r"[A-Za-z0-9_-]{0,8192}")
_DIGEST = re.compile(r"[0-9a-f]{64}")

_END_OF_TIME = 253402300800000  # the year 10000


class BadLine(Exception):
    """A line that is no line of a journal; the text says why."""


class Busy(Exception):
    """Another process works on this journal already."""


@frozen
class Header:
    """The first line of a segment."""

    segment: str
    pid: int


@frozen
class End:
    """The last line of a segment that was closed in order."""

    segment: str
    records: int


@frozen
class Segment:
    """A file of the journal, as it was found."""

    uuid: str
    path: str
    size: int
    changed: float  # Unix seconds


def lock_directory(directory: str) -> int:
    """Make this process the only one that reads ``directory`` and deletes there.

    Returns a descriptor that the caller keeps for as long; ``Busy`` if another
    process has it, ``OSError`` if it cannot be opened.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if isinstance(error, BlockingIOError):
            raise Busy(f"another process works on the journal {directory}") from None
        raise
    return fd


def known_edge(directory: str) -> Optional[str]:
    """The name that ``remember_edge`` noted; None if there is none to be read."""
    try:
        with open(os.path.join(directory, EDGE), encoding="utf-8") as file:
            name = file.read(1024).strip()
    except (OSError, UnicodeDecodeError):
        return None
    return name if name.isprintable() and name else None


def remember_edge(directory: str, edge: str) -> None:
    """Note what this journal's edge is called, for good: a host's name may change.

    Raises OSError if that cannot be written; nothing is done if it is noted already.
    """
    path = os.path.join(directory, EDGE)
    if known_edge(directory) is None:
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.write(edge + "\n")
        os.replace(path + ".new", path)


def segments(directory: str) -> list[Segment]:
    """The segments in ``directory``, oldest first (a UUIDv7 begins with its time)."""
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            name = _NAME.fullmatch(entry.name)
            if name is None:
                continue
            try:
                stat = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if not S_ISREG(stat.st_mode):
                continue
            found.append(Segment(name[1], entry.path, stat.st_size, stat.st_mtime))
    found.sort(key=lambda segment: segment.uuid)
    return found


def unborn(directory: str, before: float) -> Iterator[str]:
    """Paths of what dead workers left before a segment had its name.

    ``before``, in Unix seconds: younger ones may still become segments.
    """
    with os.scandir(directory) as entries:
        for entry in entries:
            if not _UNBORN.fullmatch(entry.name):
                continue
            try:
                stat = entry.stat(follow_symlinks=False)
                if not S_ISREG(stat.st_mode) or stat.st_mtime >= before:
                    continue
                if writer_gone(entry.path):
                    yield entry.path
            except OSError:
                continue


def writer_gone(path: str) -> bool:
    """Whether no worker writes this segment any more: its lock is free."""
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def read_lines(path: str, offset: int, limit: int) -> list[bytes]:
    """Whole lines from ``offset`` on, without their newlines.

    About ``limit`` bytes, but at least one line if a whole one is there.
    """
    with open(path, "rb", buffering=0) as file:
        data = os.pread(file.fileno(), limit, offset)
        end = data.rfind(b"\n")
        if end >= 0:
            return data[:end].split(b"\n")

        # a long line is read piece by piece, and no other with it

        pieces = []
        while len(data) == limit:
            pieces.append(data)
            offset += limit
            data = os.pread(file.fileno(), limit, offset)
            end = data.find(b"\n")
            if end >= 0:
                return [b"".join([*pieces, data[:end]])]
        return []


def parse(line: bytes) -> Union[Record, Header, End]:
    """What a line of the journal says; ``BadLine`` if it is damaged or unknown."""
    crc = _checked(line)
    try:
        text = line.decode()
        keys, end = _decode(text)
    except (ValueError, RecursionError) as error:
        raise BadLine(f"no JSON: {error}") from None

    if not isinstance(keys, dict) or end != len(text):
        raise BadLine("no JSON object")
    if keys.get("v") != VERSION:
        raise BadLine(f"unknown version {keys.get('v')!r:.40}")

    try:
        if crc is not None:
            return _record(keys, crc, unsafe="\\u" in text)
        if "segment" in keys:
            return Header(_text(keys["segment"], 64), _integer(keys["pid"]))
        if "end" in keys:
            return End(_text(keys["end"], 64), _integer(keys["records"]))
    except KeyError as error:
        raise BadLine(f"no key {error}") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise BadLine(str(error)) from None

    raise BadLine("no checksum")


def _checked(line: bytes) -> Optional[int]:
    """The line's checksum; None if it has none; ``BadLine`` if it is wrong."""
    at = len(line) - _TAIL
    if at < 0 or line[at : at + len(_CRC)] != _CRC or not line.endswith(b'"}'):
        return None
    written = line[at + len(_CRC) : -2]
    crc = zlib.crc32(memoryview(line)[:at])
    if written != b"%08x" % crc:
        raise BadLine(f"the checksum is wrong: {crc:08x} expected")
    return crc


def _record(keys: dict[str, Any], crc: int, unsafe: bool) -> Record:
    body = _body(keys)
    if unsafe:
        keys = {key: _storable(value) for key, value in keys.items()}

    attempt = _integer(keys["attempt"])
    outcome = keys["outcome"]

    if outcome not in _OUTCOMES:
        raise ValueError(f"unknown outcome {outcome!r:.40}")
    if not 1 <= attempt <= 1000:
        raise ValueError(f"attempt {attempt} is not between 1 and 1000")

    return Record(
        time=milliseconds(keys["time"]),
        id=_text(keys["id"], 128),
        output=_text(keys["output"], 64),
        label=_maybe_text(keys["label"]) or "",
        case=_cut(_maybe_text(keys["case"])),
        uri=_uri(keys["uri"]),
        attempt=attempt,
        outcome=outcome,
        reason=_maybe_text(keys["reason"]),
        status=_maybe_integer(keys["status"]),
        upstream=_maybe_text(keys["upstream"]),
        duration_ms=_maybe_integer(keys["duration_ms"]),
        ticket_id=_cut(_maybe_text(keys["ticket_id"])),
        ticket_error=_maybe_text(keys["ticket_error"]),
        response=_maybe_text(keys["response"]),
        retry_after=_maybe_integer(keys.get("retry_after")),
        content_type=_maybe_text(keys["content_type"]),
        body=body,
        crc=crc,
        host=_matching(_HOST, keys.get("host")),
        kept=_matching(_KEPT, keys.get("kept")),
        digest=_digest(keys, body),
    )


def _body(keys: dict[str, Any]) -> Optional[bytes]:
    if "body" in keys:
        return _any_text(keys["body"]).encode("utf-8", "surrogatepass")
    if "body_b64" in keys:
        try:
            return base64.b64decode(_any_text(keys["body_b64"]), validate=True)
        except binascii.Error as error:
            raise ValueError(f"body_b64: {error}") from None
    return None


def digest(body: bytes) -> str:
    """As a record has it."""
    return hashlib.sha256(body).hexdigest()


def _digest(keys: dict[str, Any], body: Optional[bytes]) -> Optional[str]:
    """What an older nginx did not write is made up for where the body is there."""
    written = _matching(_DIGEST, keys.get("digest"))
    return digest(body) if written is None and body is not None else written


def _matching(pattern: re.Pattern[str], value: object) -> Optional[str]:
    if value is None:
        return None
    text = _any_text(value)
    if not pattern.fullmatch(text):
        raise ValueError(f"{text!r:.40} is not as {pattern.pattern}")
    return text


def milliseconds(time: str) -> int:
    """Unix milliseconds of an RFC 3339 time; ``ValueError`` if it has no zone."""
    moment = datetime.fromisoformat(_any_text(time))
    if moment.tzinfo is None:
        raise ValueError(f"the time {time!r:.40} has no zone")
    unix = round(moment.timestamp() * 1000)
    if not 0 <= unix < _END_OF_TIME:
        raise ValueError(f"the time {time!r:.40} is out of range")
    return unix


def _storable(value: object) -> object:
    if not isinstance(value, str):
        return value
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _any_text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no string")
    return value


def _text(value: object, longest: int) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no string")
    if not 1 <= len(value) <= longest:
        raise ValueError(f"{value!r:.40} is not 1 to {longest} characters")
    return value


def _uri(value: object) -> str:
    # anything else, behind nginx's address, could be another host's

    uri = _text(value, 65536)
    if not uri.startswith("/"):
        raise ValueError(f"the uri {uri!r:.40} does not begin with a slash")
    return uri


def short(text: Optional[str]) -> Optional[str]:
    """A text that has an index, made such as the store can have."""
    return None if text is None else _cut(str(_storable(text)))


def _cut(text: Optional[str]) -> Optional[str]:
    if text is None or len(text) <= _LONGEST:
        return text
    return text[: _LONGEST - 1] + "\u2026"


def _maybe_text(value: object) -> Optional[str]:
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"{value!r:.40} is no string")


def _integer(value: object) -> int:
    # the store keeps 64 bits

    if type(value) is not int or not -(2**53) < value < 2**53:
        raise TypeError(f"{value!r:.40} is no integer")
    return value


def _maybe_integer(value: object) -> Optional[int]:
    if value is None:
        return None
    return _integer(value)
