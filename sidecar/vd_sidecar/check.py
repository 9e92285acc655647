# Copyright (C) The ngx_vd_module authors
"""What an operator can get wrong, found before it matters; ``vd-sidecar check``.

The configuration has been loaded by then. Nothing is delivered, sent or changed,
and it may run beside a sidecar and nginx that are at work.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from pathlib import Path
from typing import Collection, Iterable, Mapping, Optional

from attrs import frozen
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from .check_files import (
    Journal,
    check_journal,
    check_secret,
    check_slack,
    check_sqlite,
    check_templates,
)
from .check_net import Place, check_nginx, check_postgresql, check_web
from .check_unit import check_unit
from .compose import OURS
from .config import Config, Output, Smtp
from .findings import ERROR, OK, WARNING, Finding, error, ok, warning
from .mail import MailError, probe
from .model import DELIVERED, Record
from .store import Store, reads
from .values import is_loopback

__all__ = ["ERROR", "OK", "WARNING", "Finding", "run"]

VD_TIMEOUT = 30.0  # the default of nginx's vd_timeout, in seconds
TIME_ERROR = 5  # what adjtimex(2) returns if the clock is not synchronized


async def run(config: Config) -> list[Finding]:
    """All findings, good and bad, in the order of the configuration's sections."""
    journal, store, unit, clock, rest = await asyncio.gather(
        asyncio.to_thread(check_journal, config.journal),
        asyncio.to_thread(_check_store, config.store),
        asyncio.to_thread(check_unit, _written(config)),
        asyncio.to_thread(_check_clock),
        asyncio.to_thread(_check_settings, config),
    )
    usable = not any(finding.level == ERROR for finding in store)
    kept = await asyncio.to_thread(_kept, config.store if usable else None)
    nginx, smtp, web = await asyncio.gather(
        check_nginx(
            config.nginx,
            _locations(config, journal.records, kept.waiting),
            journal.writers,
        ),
        _check_smtp(config.smtp),
        asyncio.to_thread(check_web, config.web.listen, journal.busy),
    )
    return [
        *_check_user(),
        *clock,
        *journal.findings,
        *store,
        *unit,
        *nginx,
        *web,
        *smtp,
        *rest,
        *_check_outputs(config, kept.outputs | {r.output for r in journal.records}),
        *_check_bodies(config, journal),
    ]


def _written(config: Config) -> dict[str, str]:
    """The directories that the service writes to."""
    url = make_url(config.store)
    if url.drivername != "sqlite":
        return {"journal": config.journal}
    return {"journal": config.journal, "store": os.path.dirname(url.database or "")}


def _check_user() -> list[Finding]:
    if os.geteuid() != 0:
        return []
    text = "runs as root, who may do anything: what is said of permissions is void"
    remedy = "as the service does: runuser -u vd -- vd-sidecar check --config FILE"
    return [warning("user", text, remedy)]


def _check_clock() -> list[Finding]:
    timex = ctypes.create_string_buffer(1024)  # all zero: asks, sets nothing
    if ctypes.CDLL(None).adjtimex(timex) != TIME_ERROR:
        return []
    text = "the clock is not synchronized; receivers refuse signatures of another time"
    return [warning("clock", text, "install chrony, or: timedatectl set-ntp true")]


def _check_store(store: str) -> list[Finding]:
    url = make_url(store)
    if url.drivername == "sqlite":
        path = url.database or ""
        found = check_sqlite(path)
        made = os.path.exists(path)
    else:
        found = check_postgresql(store)
        made = True
    if made and not any(finding.level == ERROR for finding in found):
        found += _check_schema(store)
    return found


def _check_schema(store: str) -> list[Finding]:
    """Whether the tables are this program's; revisions are numbers in order."""
    opened = Store(store)
    try:
        there, ours = opened.revisions()
    except SQLAlchemyError as problem:
        text = " ".join(str(getattr(problem, "orig", None) or problem).split())
        remedy = "see whether the database is damaged or locked"
        return [error("store", f"cannot be read: {text}", remedy)]
    finally:
        opened.close()

    if there is None:
        return [ok("store", "has no tables yet; the first start makes them")]
    if there == ours:
        return [ok("store", f"its tables are of revision {there}, as they must be")]
    if ours is None or there > ours:
        text = f"its tables are of revision {there}, this program knows {ours}"
        return [error("store", text, "run the newer vd-sidecar on this machine too")]
    text = f"its tables are of revision {there}; the next start brings them to {ours}"
    remedy = "make a backup of the store first; then start all sidecars anew"
    return [warning("store", text, remedy)]


@frozen
class _Kept:
    """What the store knows, as far as it can be asked."""

    outputs: frozenset[str] = frozenset()
    waiting: Mapping[Place, int] = {}  # for each, how many deliveries


def _kept(url: Optional[str]) -> _Kept:
    """``url``: of a store that can be used, or None."""
    sqlite = url is not None and make_url(url).drivername == "sqlite"
    if url is None or (sqlite and not os.path.exists(make_url(url).database or "")):
        return _Kept()
    opened = Store(url)
    try:
        with opened.reading() as connection:
            outputs = frozenset(each.output for each in reads.tallies(connection))
            return _Kept(outputs, reads.waiting(connection))
    except SQLAlchemyError:
        return _Kept()  # what is wrong with it has been said
    finally:
        opened.close()


def _locations(
    config: Config, records: Iterable[Record], waiting: Mapping[Place, int]
) -> dict[Place, int]:
    """Where the sidecar would POST to, and how many deliveries wait for each.

    A record without the case has no host: another of its location may have one.
    """
    asked = [(each.uri, each.host) for each in records]
    hosted = {uri for uri, host in asked if host is not None}
    places: dict[Place, int] = {
        (uri, host): 0 for uri, host in asked if host is not None or uri not in hosted
    }
    if config.callback.location is not None:
        places[config.callback.location, None] = 0
    return {**places, **waiting}


def _check_outputs(config: Config, known: Collection[str]) -> list[Finding]:
    unknown = sorted(set(config.outputs) - set(known))
    if not unknown or not known:
        return []
    text = (
        f"no delivery of output {', '.join(unknown)} is known; outputs with some: "
        f"{', '.join(sorted(known))}"
    )
    remedy = "correct the id, unless nothing has been delivered to it yet"
    return [warning("outputs", text, remedy)]


async def _check_smtp(smtp: Smtp | None) -> list[Finding]:
    if smtp is None:
        return []
    found: list[Finding] = []
    if smtp.password_file is not None:
        password, found = check_secret("smtp", smtp.password_file)
        if not password:
            return found
    if smtp.user is not None and smtp.security == "none" and not is_loopback(smtp.host):
        text = f"the password goes to {smtp.host} unencrypted"
        found.append(warning("smtp", text, 'security = "starttls", or "tls"'))
    try:
        return [*found, ok("smtp", await probe(smtp))]
    except MailError as problem:
        remedy = "see host, port and security: starttls is at 587, tls at 465"
        return [*found, error("smtp", str(problem), remedy)]


def _check_settings(config: Config) -> list[Finding]:
    """What the settings say by themselves, and the files that they name."""
    whole = Output(config.retry, config.alerts, config.backup)
    outputs = [whole, *config.outputs.values()]
    return [
        *_check_alerts(config, outputs),
        *_check_backup(outputs),
        *_check_retry(outputs),
        *_check_retention(config),
    ]


def _check_alerts(config: Config, outputs: list[Output]) -> list[Finding]:
    files = sorted({o.alerts.slack_webhook_file or "" for o in outputs} - {""})
    found = [finding for path in files for finding in check_slack(path)]

    silent = [id for id, o in config.outputs.items() if not _heard(o)]
    if not _heard(config.output("")):
        silent.insert(0, "any other" if config.outputs else "any")
    if silent:
        text = f"nobody hears of a delivery given up, for output {', '.join(silent)}"
        remedy = 'set [alerts] email = ["…"] or slack_webhook_file = "…"'
        found.append(warning("alerts", text, remedy))
    return found


def _heard(output: Output) -> bool:
    return bool(output.alerts.email or output.alerts.slack_webhook_file)


def _check_backup(outputs: list[Output]) -> list[Finding]:
    known = {entry.name for entry in Path(OURS).iterdir()}
    paths = sorted({o.backup.templates or "" for o in outputs} - {""})
    found = [finding for path in paths for finding in check_templates(path, known)]

    if any(o.backup.email and o.backup.when == "never" for o in outputs):
        text = 'has an e-mail address, but when = "never"'
        found.append(warning("backup", text, 'set when = "failed", or "always"'))
    return found


def _check_bodies(config: Config, journal: Journal) -> list[Finding]:
    """A backup of what was delivered at once needs the cases in the journal."""
    outputs = [config.output(""), *config.outputs.values()]
    if not any(o.backup.when == "always" for o in outputs):
        return []

    firsts = [r for r in journal.records if r.attempt == 1 and r.outcome == DELIVERED]
    bare = {r.output for r in firsts if r.body is None}
    missed = sorted(id for id in bare if config.output(id).backup.when == "always")
    remedy = f"vd_journal {config.journal} bodies=all; in nginx"
    if missed:
        text = f'when = "always", but the journal lacks cases of {", ".join(missed)}'
        return [error("backup", text, remedy)]
    return [ok("backup", f'when = "always" needs: {remedy}')]


def _check_retry(outputs: list[Output]) -> list[Finding]:
    short = min(o.retry.timeout for o in outputs)
    if short > VD_TIMEOUT:
        return []
    text = (
        f"timeout is {short:g} s: nginx may take vd_timeout, {VD_TIMEOUT:g} s unless "
        "set, and what is cut off is attempted again"
    )
    return [warning("retry", text, "make timeout longer than vd_timeout")]


def _check_retention(config: Config) -> list[Finding]:
    keep = config.retention
    found = []
    if keep.bodies > keep.deliveries:
        text = "bodies are kept no longer than their deliveries"
        found.append(warning("retention", text, "make deliveries as long as bodies"))
    if keep.deliveries < 86400:
        text = f"a delivery is forgotten after {keep.deliveries:g} s"
        found.append(warning("retention", text, 'make deliveries "1d" at least'))
    return found
