# Copyright (C) The ngx_vd_module authors
"""Checks of what lies on disk: the journal, SQLite's file, secrets, templates.

Nothing is changed, created or waited for; workers of nginx and a sidecar may be
at work on the same files meanwhile.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import Optional
from urllib.parse import urlsplit

from attrs import frozen

from . import journal as journals
from .compose import OURS, template_trouble
from .findings import Finding, error, make_journal, me, mend_journal, ok, owner
from .findings import warning
from .journal import BadLine, Busy, Header, Segment
from .model import Record
from .values import is_loopback

LOW_BYTES = 2_000_000_000  # as the README's alert on vd_journal_free_bytes
LOW_SHARE = 0.1
LOW_INODES = 1000
SAMPLE_SEGMENTS = 16
SAMPLE_BYTES = 262144

_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\w*|9p|ceph|afs|lustre|gfs2|ocfs2|glusterfs"
    r"|fuse\.(sshfs|glusterfs|s3fs|ceph.*|rclone|davfs.*)|davfs.*"
)
_MEMORY = ("tmpfs", "ramfs")
_OCTAL = re.compile(r"\\([0-7]{3})")


@frozen
class Journal:
    """What was found in the journal's directory."""

    findings: list[Finding]
    busy: bool = False  # a sidecar is at work on it
    writers: tuple[int, ...] = ()  # process ids of the workers that write there
    records: tuple[Record, ...] = ()  # some of the newest


def check_journal(directory: str) -> Journal:
    """The directory, its segments, who writes them and who reads them."""
    remedy = make_journal(directory)
    try:
        status = os.stat(directory)
    except FileNotFoundError:
        text = f"{directory} does not exist"
        return Journal([error("journal", text, f"{remedy}; name it in vd_journal")])
    except OSError as problem:
        return Journal([_unreachable("journal", directory, problem)])

    if not stat.S_ISDIR(status.st_mode):
        text = f"{directory} is no directory"
        return Journal([error("journal", text, "name the directory of vd_journal")])
    if not _may(directory, os.R_OK | os.W_OK | os.X_OK):
        text = (
            f"{directory} ({_rights(status)}) is not readable and writable by {me()}; "
            "what was read is deleted there"
        )
        return Journal([error("journal", text, remedy)])

    found = _check_sharing(directory, status)
    found += check_file_system("journal", directory)
    found += check_space("journal", directory)
    busy = _is_busy(directory)
    if busy:
        text = f"a sidecar is at work on {directory}"
        found.append(warning("journal", text, "before you start another, stop that"))

    segments = journals.segments(directory)
    found += _check_segments(segments)
    pids = sorted({pid for segment in segments if (pid := _writer(segment.path))})
    workers = [pid for pid in pids if _is_nginx(pid)]
    found += _check_writers(directory, pids, workers)
    return Journal(found, busy, tuple(workers), tuple(_sample(segments)))


def _check_sharing(directory: str, status: os.stat_result) -> list[Finding]:
    """Whether segments get a group of ours, and none but us and the workers."""
    found = []
    ours = {os.getegid(), *os.getgroups()}

    if status.st_mode & stat.S_ISGID:
        if status.st_gid not in ours and os.geteuid() != 0:
            text = (
                f"new segments in {directory} get its group {status.st_gid}, "
                f"which {me()} is not in, and cannot be read"
            )
            found.append(error("journal", text, mend_journal(directory)))
    elif status.st_uid != os.geteuid():
        text = f"{directory} does not give its group to new segments (setgid)"
        found.append(warning("journal", text, make_journal(directory)))

    if status.st_mode & stat.S_IRWXO:
        text = f"{directory} ({_rights(status)}) is open to every user; cases are there"
        found.append(warning("journal", text, f"chmod o= {directory}"))

    return found or [ok("journal", f"{directory} can be read and cleared")]


def _is_busy(directory: str) -> bool:
    try:
        os.close(journals.lock_directory(directory))
    except Busy:
        return True
    return False


def _check_segments(segments: list[Segment]) -> list[Finding]:
    closed = [segment.path for segment in segments if not _readable(segment.path)]
    if not closed:
        return []
    text = f"{len(closed)} segments are not readable by {me()}, such as {closed[0]}"
    return [error("journal", text, mend_journal(os.path.dirname(closed[0])))]


def _check_writers(
    directory: str, pids: list[int], workers: list[int]
) -> list[Finding]:
    """Whether a living nginx writes here: its worker's pid is in the first line."""
    if workers:
        names = ", ".join(str(pid) for pid in workers)
        return [ok("journal", f"is written by nginx (process {names})")]
    if pids:
        names = ", ".join(str(pid) for pid in pids)
        return [ok("journal", f"is written by process {names}")]
    text = (
        f"no nginx writes to {directory} now: it has delivered nothing since its "
        "start, or its vd_journal names another directory"
    )
    remedy = f"compare: nginx -T | grep vd_journal, with {directory}"
    return [warning("journal", text, remedy)]


def _writer(path: str) -> Optional[int]:
    """The process that writes this segment now, if any."""
    try:
        if journals.writer_gone(path):
            return None
        line = journals.parse(journals.read_lines(path, 0, 4096)[0])
    except (OSError, BadLine, IndexError):
        return None
    return line.pid if isinstance(line, Header) else None


def _is_nginx(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read(6) == b"nginx:"
    except OSError:
        return False


def _sample(segments: list[Segment]) -> list[Record]:
    """Some of the newest records."""
    records = []
    for segment in segments[-SAMPLE_SEGMENTS:]:
        offset = max(0, segment.size - SAMPLE_BYTES)
        try:
            lines = journals.read_lines(segment.path, offset, SAMPLE_BYTES)
        except OSError:
            continue
        for line in lines:
            try:
                record = journals.parse(line)
            except BadLine:  # the first may be half a line
                continue
            if isinstance(record, Record):
                records.append(record)
    return records


def check_sqlite(path: str) -> list[Finding]:
    """The file of an SQLite store, which need not exist, and its directory."""
    directory = os.path.dirname(path)
    remedy = f"install -d -o {owner()} -g {owner()} -m 750 {directory}"
    try:
        os.stat(directory)
    except FileNotFoundError:
        return [error("store", f"{directory} does not exist", remedy)]
    except OSError as problem:
        return [_unreachable("store", directory, problem)]

    if not _may(directory, os.W_OK | os.X_OK):
        text = f"{directory} is not writable by {me()}; SQLite makes files there"
        return [error("store", text, f"chown {owner()} {directory}")]

    found = check_file_system("store", directory) + check_space("store", directory)
    if not os.path.lexists(path):
        text = f"{path} does not exist yet; the first start makes it"
        return [ok("store", text), *found]
    return _check_database(path) + found


def _check_database(path: str) -> list[Finding]:
    try:
        with open(path, "rb") as file:
            magic = file.read(16)
    except OSError as problem:
        return [_unreachable("store", path, problem)]

    if not stat.S_ISREG(os.stat(path).st_mode) or magic not in (b"", _SQLITE):
        return [error("store", f"{path} is no SQLite database", "name another file")]

    found = []
    for name in (path, f"{path}-wal", f"{path}-shm"):
        try:
            status = os.stat(name)
        except FileNotFoundError:
            continue
        if not _may(name, os.R_OK | os.W_OK):
            text = f"{name} ({_rights(status)}) is not writable by {me()}"
            found.append(error("store", text, f"chown {owner()} {name}"))
        if status.st_mode & stat.S_IRWXO:
            text = f"{name} ({_rights(status)}) is open to every user; cases are there"
            found.append(warning("store", text, f"chmod 640 {name}"))
    return found or [ok("store", f"{path} can be written")]


_SQLITE = b"SQLite format 3\0"


def check_secret(subject: str, path: str) -> tuple[str, list[Finding]]:
    """The secret in a file, "" if there is none, and what is wrong with the file."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            secret = file.read(4096).decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        return "", [error(subject, f"{path} is not text", "put the secret alone there")]
    except OSError as problem:
        return "", [_unreachable(subject, path, problem)]

    if not secret or not secret.isprintable():
        text = f"{path} does not hold one line of text"
        return "", [error(subject, text, "put the secret there, and nothing else")]
    if status.st_mode & stat.S_IRWXO:
        text = f"{path} ({_rights(status)}) is open to every user"
        return secret, [warning(subject, text, f"chmod 640 {path}")]
    return secret, []


def check_slack(path: str) -> list[Finding]:
    """The file with the address of Slack's webhook, which is never shown."""
    url, found = check_secret("alerts", path)
    if not url:
        return found
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        good = parts.scheme == "https" and host != ""
        good = good or parts.scheme == "http" and is_loopback(host)
    except ValueError:
        good = False
    if not good:
        remedy = (
            "put the address of an incoming webhook there: https://hooks.slack.com/…"
        )
        found.append(error("alerts", f"{path} holds no https address", remedy))
    return found or [ok("alerts", f"{path} holds the address of a webhook")]


def check_templates(path: str, known: set[str]) -> list[Finding]:
    """A directory whose files replace those of ``known`` that have the same name."""
    try:
        names = set(os.listdir(path))
    except OSError as problem:
        return [_unreachable("backup", path, problem)]

    found = [
        error("backup", f"{path}/{name} is not readable by {me()}", "chmod a+r it")
        for name in sorted(names & known)
        if not _readable(os.path.join(path, name))
    ]
    for name in sorted(names & known) if not found else ():
        trouble = template_trouble(os.path.join(path, name))
        if trouble is not None:
            text = f"{path}/{name}: {trouble}; ours is taken in its place"
            found.append(error("backup", text, f"compare it with {OURS}/{name}"))
    if not names & known:
        text = f"{path} has no template that replaces one of ours"
        found.append(warning("backup", text, f"name it as one of {sorted(known)}"))
    return found or [ok("backup", f"{path} replaces {sorted(names & known)}")]


def check_passfile(path: str) -> list[Finding]:
    """PostgreSQL's file of passwords, which libpq passes over if others read it."""
    try:
        status = os.stat(path)
    except OSError as problem:
        return [_unreachable("store", path, problem)]
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        text = f"{path} ({_rights(status)}) is ignored, as others may read it"
        return [error("store", text, f"chown {owner()} {path} && chmod 600 {path}")]
    if not _readable(path):
        text = f"{path} is not readable by {me()}"
        return [error("store", text, f"chown {owner()} {path}")]
    return []


def check_file_system(subject: str, path: str) -> list[Finding]:
    """Locks and syncs need a local file system, and one that outlives the power."""
    kind = file_system(path)
    if _NETWORK.fullmatch(kind):
        text = f"{path} is on a network file system ({kind}): locks and syncs may fail"
        return [error(subject, text, "move it to a local disk")]
    if kind in _MEMORY:
        text = f"{path} is in memory ({kind}), and gone with the power"
        return [warning(subject, text, "move it to a disk")]
    return []


def file_system(path: str) -> str:
    """The type of the file system of ``path``, "" if it cannot be found."""
    path = os.path.realpath(path)
    best, kind = "", ""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            lines = file.readlines()
    except OSError:
        return ""
    for line in lines:
        fields = line.split()
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # the later one lies on top
            best, kind = point, fields[fields.index("-") + 1]
    return kind


def check_space(subject: str, path: str) -> list[Finding]:
    """Free bytes and files."""
    disk = os.statvfs(path)
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    remedy = "clear it, enlarge it, or shorten [retention]"
    if free < LOW_BYTES and free < LOW_SHARE * size:
        text = f"{path} has only {free // 1_000_000} MB left"
        return [warning(subject, text, remedy)]
    if disk.f_files and disk.f_favail < LOW_INODES:
        text = f"{path} has room for only {disk.f_favail} more files (inodes)"
        return [warning(subject, text, remedy)]
    return []


def _may(path: str, mode: int) -> bool:
    return os.access(path, mode, effective_ids=True)


def _readable(path: str) -> bool:
    """Whether it can be opened; what is gone by now is nobody's problem."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _rights(status: os.stat_result) -> str:
    return f"{status.st_uid}:{status.st_gid} {stat.S_IMODE(status.st_mode):04o}"


def _unreachable(subject: str, path: str, problem: OSError) -> Finding:
    text = f"{path} cannot be used by {me()}: {problem.strerror}"
    if problem.errno == errno.ENOENT:
        return error(subject, text, "make it, or name another")
    if problem.errno in (errno.EACCES, errno.EPERM):
        remedy = f"let {me()} read it, and enter each directory above it"
        return error(subject, text, remedy)
    return error(subject, text, "name another")
