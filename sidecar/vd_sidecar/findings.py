# Copyright (C) The ngx_vd_module authors
"""What ``vd-sidecar check`` says: one finding for each thing it has looked at."""

from __future__ import annotations

import os
import pwd

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


def owner() -> str:
    """Whom a remedy makes the owner of a file: us, or for root the package's user."""
    return me() if os.geteuid() != 0 else "vd"
