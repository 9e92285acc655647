# Copyright (C) The ngx_vd_module authors
"""What ``vd-sidecar check`` says: one finding for each thing it has looked at."""

from __future__ import annotations

import grp
import os
import pwd
import shlex

from attrs import frozen

OK = "ok"
WARNING = "warning"
ERROR = "error"


@frozen
class Finding:
    """``remedy``, the way out, is empty if there is nothing to do."""

    level: str
    subject: str  # a section or key of the configuration, or a word such as "clock"
    text: str
    remedy: str = ""


def ok(subject: str, text: str) -> Finding:
    return Finding(OK, subject, text)


def warning(subject: str, text: str, remedy: str) -> Finding:
    return Finding(WARNING, subject, text, remedy)


def error(subject: str, text: str, remedy: str) -> Finding:
    return Finding(ERROR, subject, text, remedy)


def me() -> str:
    """The name of the user that this process runs as."""
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group() -> str:
    """What ``owner`` is, of the group by which the journal is read."""
    if os.geteuid() == 0:
        return "vd"
    gid = os.getegid()
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def make_journal(directory: str) -> str:
    """The command that makes the journal's directory, or mends its rights."""
    path = shlex.quote(directory)
    return f"install -d -o www-data -g {group()} -m 2770 {path}"


def mend_journal(directory: str) -> str:
    """The same, and mends those of the segments that are there."""
    files = shlex.quote(directory) + "/*.jsonl"
    return f"{make_journal(directory)} && chgrp {group()} {files} && chmod 640 {files}"


def owner() -> str:
    """Whom a remedy makes the owner of a file: us, or for root the package's user."""
    return me() if os.geteuid() != 0 else "vd"
