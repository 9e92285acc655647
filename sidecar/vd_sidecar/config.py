# Copyright (C) The ngx_vd_module authors
"""The configuration: one TOML file, checked as a whole before anything starts."""

from __future__ import annotations

import re
import socket
from typing import Mapping, Optional

from attrs import evolve, field, frozen

from . import values
from .journal import known_edge
from .tables import ConfigError, Keys, Read, Tables, dotted
from .values import split_address

__all__ = ["Config", "ConfigError", "load", "split_address"]


@frozen
class Retry:
    attempts: int = 3
    backoff: tuple[float, ...] = (60.0, 120.0, 300.0)
    jitter: float = 0.1
    concurrency: int = 32
    per_output: int = 8
    timeout: float = 60.0
    give_up_on: tuple[int, ...] = ()
    honor_retry_after: bool = False
    refused_for: float = 86400.0


@frozen
class Web:
    listen: str = "127.0.0.1:8089"
    hosts: tuple[str, ...] = ()  # names by which browsers may know it
    base: str = ""  # the path that a proxy takes away, "/vd"


@frozen
class Smtp:
    host: str = "localhost"
    port: int = 25
    security: str = "none"
    user: Optional[str] = None
    password_file: Optional[str] = None
    sender: str = ""  # the key "from"
    timeout: float = 30.0


@frozen
class Alerts:
    email: tuple[str, ...] = ()
    slack_webhook_file: Optional[str] = None
    window: float = 300.0
    language: str = "en"  # "de"


@frozen
class Backup:
    email: tuple[str, ...] = ()
    when: str = "never"  # "failed", "always"
    language: str = "en"  # "de"
    templates: Optional[str] = None  # a directory that replaces ours, file by file


@frozen
class Callback:
    location: Optional[str] = None


@frozen
class Retention:
    bodies: float = 30 * 86400.0
    deliveries: float = 365 * 86400.0
    segments: float = 3600.0  # for a store that goes back in time


@frozen
class Output:
    """What holds for one output: the whole's settings and its own over them."""

    retry: Retry = Retry()
    alerts: Alerts = Alerts()
    backup: Backup = Backup()


@frozen
class Config:
    journal: str
    store: str
    nginx: str
    edge: str
    retry: Retry = Retry()
    web: Web = Web()
    smtp: Optional[Smtp] = None
    alerts: Alerts = Alerts()
    backup: Backup = Backup()
    callback: Callback = Callback()
    retention: Retention = Retention()
    outputs: Mapping[str, Output] = {}
    _others: Output = field(init=False, repr=False, eq=False)

    @_others.default
    def _of_others(self) -> Output:
        return Output(self.retry, self.alerts, self.backup)

    def output(self, id: str) -> Output:
        """The settings of one output, whether or not the file names it."""
        return self.outputs.get(id) or self._others


_OUTPUT = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PORTS = {"none": 25, "starttls": 587, "tls": 465}
_TOP = {
    "journal": values.path,
    "store": values.store,
    "nginx": values.nginx,
    "edge": values.text,
}
_RETRY = {
    "attempts": values.integer(1, 1000),  # as many as VD-Attempt can count
    "backoff": values.many(values.span("1ms", "365d"), '["1m", "2m", "5m"]', least=1),
    "jitter": values.fraction,
    "concurrency": values.integer(1, 1000),
    "per_output": values.integer(1, 1000),
    "timeout": values.span("1s", "1h"),
    "give_up_on": values.many(values.integer(100, 599), "[400, 410]"),
    "honor_retry_after": values.flag,
    "refused_for": values.span("1ms", "365d"),
}
_WEB = {
    "listen": values.listen,
    "hosts": values.many(values.host, '["vd.example.com"]'),
    "base": values.base,
}
_SMTP = {
    "host": values.host,
    "port": values.integer(1, 65535),
    "security": values.choice("starttls", "tls", "none"),
    "user": values.text,
    "password_file": values.secret_path,
    "from": values.address,
    "timeout": values.span("1s", "10m"),
}
_ALERTS = {
    "email": values.many(values.address, '["ops@example.com"]'),
    "slack_webhook_file": values.secret_path,
    "window": values.span("1ms", "30d"),
    "language": values.choice("en", "de"),
}
_BACKUP = {
    "email": values.many(values.address, '["archive@example.com"]'),
    "when": values.choice("never", "failed", "always"),
    "language": values.choice("en", "de"),
    "templates": values.path,
}
_CALLBACK = {"location": values.location}
_RETENTION = {
    "bodies": values.span("0", "36500d"),
    "deliveries": values.span("0", "36500d"),
    "segments": values.span("0", "36500d"),
}
_SECTIONS: dict[Keys, Mapping[str, Read]] = {
    (): _TOP,
    ("retry",): _RETRY,
    ("web",): _WEB,
    ("smtp",): _SMTP,
    ("alerts",): _ALERTS,
    ("backup",): _BACKUP,
    ("callback",): _CALLBACK,
    ("retention",): _RETENTION,
}
_RETRY_OF_ONE = {key: read for key, read in _RETRY.items() if key != "concurrency"}
_REQUIRED = {
    "journal": 'the directory of vd_journal, such as journal = "/var/spool/vd"',
    "store": 'where deliveries are kept: store = "sqlite:////var/lib/vd/vd.db"',
}


def load(path: str) -> Config:
    """The configuration in the file at ``path``, its defaults filled in.

    Raises ``ConfigError``, which names all problems at once, each with file, line
    and key. Only what the file says is looked at: no other file but the one in the
    journal by which an edge without a name keeps that of its first start; no network.
    """
    tables = Tables(path, _SECTIONS)
    parts = tuple(keys[0] for keys in _SECTIONS if keys) + ("outputs",)
    top = tables.read((), _TOP, _REQUIRED, parts)
    whole = Output(
        Retry(**tables.read(("retry",), _RETRY)),
        Alerts(**tables.read(("alerts",), _ALERTS)),
        Backup(**tables.read(("backup",), _BACKUP)),
    )
    smtp = _read_smtp(tables)
    outputs = {id: _read_output(tables, id, whole) for id in tables.table(("outputs",))}

    _check_mail(tables, (), whole, smtp)
    for id, output in outputs.items():
        _check_mail(tables, ("outputs", id), output, smtp)

    web = Web(**tables.read(("web",), _WEB))
    callback = Callback(**tables.read(("callback",), _CALLBACK))
    retention = Retention(**tables.read(("retention",), _RETENTION))
    tables.finish()

    journal = top["journal"]
    return Config(
        journal=journal,
        store=top["store"],
        nginx=top.get("nginx", "http://127.0.0.1:8088"),
        edge=top.get("edge") or known_edge(journal) or _new_edge(journal),
        retry=whole.retry,
        web=web,
        smtp=smtp,
        alerts=whole.alerts,
        backup=whole.backup,
        callback=callback,
        retention=retention,
        outputs=outputs,
    )


def _new_edge(journal: str) -> str:
    return f"{socket.gethostname()}:{journal}"


def _read_smtp(tables: Tables) -> Optional[Smtp]:
    if "smtp" not in tables.table(()):
        return None
    required = {"from": 'the sender of all mail, such as from = "vd@example.com"'}
    said = tables.read(("smtp",), _SMTP, required)

    if ("user" in said) != ("password_file" in said):
        tables.problem(
            ("smtp",), '"smtp.user" and "smtp.password_file" need each other'
        )

    security = said.setdefault("security", "starttls")
    said.setdefault("port", _PORTS[security])
    return Smtp(sender=said.pop("from", ""), **said)


def _read_output(tables: Tables, id: str, whole: Output) -> Output:
    keys: Keys = ("outputs", id)
    if not _OUTPUT.fullmatch(id):
        text = f"{dotted((id,))} is no id of an output: 1 to 64 of A-Za-z0-9._-"
        tables.problem(keys, text)

    table = tables.table(keys)
    inner = [key for key in table if isinstance(table[key], dict)]
    if "." not in id and inner and not {"retry", "alerts", "backup"} & set(table):
        hint = f'an id with a dot is in quotes: [outputs."{id}.{inner[0]}"]'
        tables.problem(keys, hint)
        return whole

    tables.read(keys, {}, tables=("retry", "alerts", "backup"))
    return Output(
        evolve(whole.retry, **tables.read(keys + ("retry",), _RETRY_OF_ONE)),
        evolve(whole.alerts, **tables.read(keys + ("alerts",), _ALERTS)),
        evolve(whole.backup, **tables.read(keys + ("backup",), _BACKUP)),
    )


def _check_mail(
    tables: Tables, keys: Keys, output: Output, smtp: Optional[Smtp]
) -> None:
    """What must hold between sections, for the whole or for one output."""
    for name in ("alerts", "backup"):
        place = keys + (name, "email")
        if smtp is None and tables.table(keys + (name,)).get("email"):
            text = f'"{dotted(place)}" needs an [smtp] section to send mail by'
            tables.problem(place, text)

    said = tables.table(keys + ("backup",))
    asked = output.backup.when != "never" and ("when" in said or "email" in said)
    if asked and not output.backup.email and not said.get("email"):
        place = keys + ("backup", "email")
        tables.problem(place, f'"{dotted(place)}" must name who gets the mail')
