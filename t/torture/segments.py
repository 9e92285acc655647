# Copyright (C) The ngx_vd_module authors

"""The journal as its reader sees it, and what must never be seen there."""

import base64
import fcntl
import hashlib
import json
import os
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CRC = re.compile(rb'^(.*),"crc":"([0-9a-f]{8})"}$', re.DOTALL)
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
NAME = re.compile(rf"^({UUID})\.jsonl$")
HIDDEN = re.compile(rf"^\.{UUID}$")


@dataclass(frozen=True)
class Record:
    """What is kept of a record: enough to hold an answer against it."""

    id: str
    pid: int  # of the segment's writer
    attempt: int
    outcome: str
    status: int | None
    ticket_id: str | None
    body: bytes | None  # its digest


@dataclass
class Segment:
    """One file, read once its lock is free."""

    name: str
    pid: int | None = None  # None: without a first line
    ended: bool = False  # with its last line
    records: list[Record] = field(default_factory=list)
    whole: int = 0  # records before the first thing that is none
    damage: list[str] = field(default_factory=list)  # lines that are no records
    cut: bytes = b""  # what follows the last whole line


def digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()


def is_locked(path: Path) -> bool:
    """Whether somebody still writes there."""
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def list_segments(directory: Path) -> list[Path]:
    """All but those that have no name of their own yet."""
    paths = [path for path in directory.iterdir() if not HIDDEN.match(path.name)]
    return sorted(path for path in paths if path.is_file())


def read_segment(path: Path) -> Segment:
    """Takes whole lines only; tells of what else there is."""
    segment = Segment(path.name)
    matched = NAME.match(path.name)
    uuid = matched[1] if matched else ""
    *lines, segment.cut = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines):
        if segment.ended:
            segment.damage.append(f"line {number + 1} follows the last one")
        elif not take_line(segment, uuid, number, line):
            shown = line if len(line) < 200 else line[:100] + b"..." + line[-100:]
            segment.damage.append(f"line {number + 1} is no record: {shown!r}")
        if not segment.damage:
            segment.whole = len(segment.records)
    return segment


def take_line(segment: Segment, uuid: str, number: int, line: bytes) -> bool:
    """False if it is not what it should be."""
    try:
        fields = json.loads(line)
    except ValueError:
        return False
    if not isinstance(fields, dict) or fields.get("v") != 1:
        return False
    if number == 0:
        segment.pid = fields.get("pid")
        return list(fields) == ["v", "segment", "pid", "opened"] and (
            fields["segment"] == uuid
        )
    if "end" in fields:
        segment.ended = True
        counted = {"v": 1, "end": uuid, "records": len(segment.records)}
        return bool(fields == counted)
    matched = CRC.match(line)
    if matched is None or zlib.crc32(matched[1]) != int(matched[2], 16):
        return False
    segment.records.append(take_record(segment.pid or 0, fields))
    return True


def take_record(pid: int, fields: dict[str, Any]) -> Record:
    body = None
    if "body" in fields:
        body = digest(fields["body"].encode())
    elif "body_b64" in fields:
        body = digest(base64.b64decode(fields["body_b64"], validate=True))
    return Record(
        fields["id"],
        pid,
        fields["attempt"],
        fields["outcome"],
        fields["status"],
        fields["ticket_id"],
        body,
    )
