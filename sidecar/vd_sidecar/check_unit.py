# Copyright (C) The ngx_vd_module authors
"""Whether the unit lets the service write where the configuration wants it to.

systemd's own files are read, as ``systemctl`` would, which needs a running systemd.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Iterator, Optional

from .findings import Finding, error

UNIT = "vd-sidecar.service"
ROOTS = (  # what comes first counts
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # or others, to it

Settings = dict[str, list[str]]


def check_unit(paths: dict[str, str]) -> list[Finding]:
    """``paths``: the directories that the service writes to, by their keys."""
    settings = _settings()
    if settings is None or settings.get("ProtectSystem", [])[-1:] != ["strict"]:
        return []
    return [
        finding
        for key, path in paths.items()
        for finding in _check(key, os.path.realpath(path), settings)
    ]


def _check(key: str, path: str, settings: Settings) -> Iterator[Finding]:
    hidden = [each for each in HIDDEN if _within(path, each)]
    if hidden:
        text = f"{path} is in {hidden[0]}, which {UNIT} hides from the service"
        yield error(key, text, "take another, such as /var/spool/vd or /var/lib/vd")
        return
    writable = [
        each.lstrip("-+")
        for line in settings["ReadWritePaths"]
        for each in _words(line)
    ]
    for line in settings["StateDirectory"]:
        writable += [f"/var/lib/{each}" for each in _words(line)]
    if any(_within(path, os.path.realpath(each)) for each in writable):
        return
    text = f"{path} is read-only for the service: {UNIT} does not name it"
    yield error(key, text, drop_in(key, path))


def drop_in(key: str, path: str) -> str:
    """The command that lets the service write there too."""
    directory = f"/etc/systemd/system/{UNIT}.d"
    lines = shlex.quote(f"[Service]\\nReadWritePaths={path}\\n")
    return (
        f"mkdir -p {directory} && printf {lines} > {directory}/{key}.conf "
        "&& systemctl daemon-reload && systemctl restart vd-sidecar"
    )


def _settings() -> Optional[Settings]:
    """What the unit and its drop-ins set, None if there is no unit."""
    units = [Path(root, UNIT) for root in ROOTS if os.path.isfile(f"{root}/{UNIT}")]
    if not units:
        return None
    drop_ins: dict[str, Path] = {}
    for root in ROOTS:
        for path in Path(root, f"{UNIT}.d").glob("*.conf"):
            drop_ins.setdefault(path.name, path)
    found: Settings = {
        name: [] for name in ("ProtectSystem", "ReadWritePaths", "StateDirectory")
    }
    for path in (units[0], *(drop_ins[name] for name in sorted(drop_ins))):
        _read(path, found)
    return found


def _read(path: Path, found: Settings) -> None:
    """An empty value takes back what was set before it."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return
    for line in text.replace("\\\n", " ").splitlines():
        name, _, value = line.partition("=")
        if name.strip() in found:
            values = found[name.strip()]
            if value.strip():
                values.append(value.strip())
            else:
                values.clear()


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def _within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")
