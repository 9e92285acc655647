# Copyright (C) The ngx_vd_module authors
"""What the sidecar tells people: alerts by mail and Slack, and backup mails.

Pure but for reading templates.  Labels, cases, ticket ids, replies and the case
itself come from outside: every text passes ``clean`` or ``line`` before it gets
into a header, a body or a payload.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from functools import lru_cache
from pathlib import Path
from typing import Iterator, Mapping, Optional, Sequence, Union

import attrs
import structlog
from jinja2 import FileSystemLoader, StrictUndefined, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .config import Backup, Smtp
from .model import Alert, Delivery, Exchange, Reject
from .text import clean, clip, line, readable, utc, when

MAX_SUBJECT = 250  # characters
MAX_NAMED = 50  # deliveries or lines that an alert names in a mail
MAX_NAMED_SLACK = 10
MAX_IDS = 10  # on one command line

# Slack: 150 characters in a header, 3,000 in a text object, and in practice
# about 13,000 in all blocks (undocumented; more is msg_blocks_too_long).
SLACK_HEADER = 150
SLACK_SECTION = 2900
SLACK_SECTIONS = 3

OURS = str(Path(__file__).parent / "templates")
LANGUAGES = ("en", "de")

log = structlog.get_logger(__name__)

_DOT_ATOM = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def alert_mail(
    alert: Alert,
    about: Sequence[Union[Delivery, Reject]],
    recipients: Sequence[str],
    smtp: Smtp,
    *,
    now: int,
    language: str = "en",
    templates: Optional[str] = None,
) -> EmailMessage:
    """The mail of an alert to all ``recipients``.

    ``about``: the deliveries given up, or the lines set aside, that it is about,
    oldest first; at most 50 are named.  It may hold fewer than ``alert.count``.
    ``now`` (Unix ms) is the mail's date.  Its Message-ID follows from the alert's
    key.  ``recipients`` and ``smtp.sender`` are bare ASCII addresses, as the
    configuration has them: ValueError otherwise.
    """
    subject, text = _alert(alert, about, MAX_NAMED, language, templates)
    id = f"{_atom(alert.key)}.alert-{_atom(alert.kind)}"
    return _message(subject, text, recipients, smtp, id, now)


def alert_slack(
    alert: Alert,
    about: Sequence[Union[Delivery, Reject]],
    *,
    language: str = "en",
    templates: Optional[str] = None,
) -> dict[str, object]:
    """The payload of an alert for a Slack incoming webhook.

    As ``alert_mail``, with fewer names.  Nothing in it can mention, link or
    format: only plain text objects, &, < and > escaped as Slack asks for.
    """
    subject, text = _alert(alert, about, MAX_NAMED_SLACK, language, templates)
    blocks: list[dict[str, object]] = [
        {"type": "header", "text": _plain(_escape(subject, SLACK_HEADER))}
    ]
    for part in _sections(text):
        blocks.append({"type": "section", "text": _plain(part)})
    return {
        "text": _escape(subject, SLACK_SECTION),  # for notifications
        "mrkdwn": False,
        "parse": "none",
        "link_names": False,
        "unfurl_links": False,
        "unfurl_media": False,
        "blocks": blocks,
    }


def backup_mail(
    delivery: Delivery,
    body: Optional[bytes],
    exchanges: Sequence[Exchange],
    recipients: Sequence[str],
    backup: Backup,
    smtp: Smtp,
    *,
    now: int,
    attach: bool = True,
) -> EmailMessage:
    """The backup mail of a delivery: its case to read, and attached as it was.

    ``body`` None: the case is not known any more, and the mail says so.  Without
    ``attach``, for a server to which it was too large, it has the size and the
    command that shows it.  ``now`` (Unix ms) is the mail's date.  The Message-ID follows from the delivery's id,
    output, state and attempts, so that a mailbox can drop what was sent twice but
    keeps both "failed" and a later "delivered".  Addresses as for ``alert_mail``.
    """
    output = f"--output {shlex.quote(delivery.output)} --body-only"
    show = _command(f"show {output}", [delivery.id])
    context = {
        "delivery": _fields(delivery),
        "exchanges": [_fields(exchange) for exchange in exchanges],
        "case": None if body is None else readable(body, backup.language, attach),
        "file": _file_name(delivery.id) if body is not None and attach else None,
        "size": len(body or b""),
        "show": show,
    }
    subject, text = _render("backup", backup.language, context, backup.templates)
    if not attach and show not in text:  # a template that does not know of it
        text += f"\n{len(body or b'')} bytes: {show}\n"
    kind = f"{_atom(delivery.state)}-{delivery.attempts}"
    id = f"{_atom(delivery.id, dots=False)}.{_atom(delivery.output)}.{kind}"
    message = _message(subject, text, recipients, smtp, id, now)
    message["VD-Delivery"] = _header(delivery.id)
    message["VD-Output"] = _header(delivery.output)
    message["VD-State"] = _header(delivery.state)
    if body is not None and attach:
        message.add_attachment(
            body,
            maintype="application",
            subtype="json",
            filename=_file_name(delivery.id),
        )
    return message


# Alerts


def _alert(
    alert: Alert,
    about: Sequence[Union[Delivery, Reject]],
    limit: int,
    language: str,
    templates: Optional[str],
) -> tuple[str, str]:
    """Subject and text of an alert that names at most ``limit`` of its causes."""
    named = about[:limit]
    deliveries = [item for item in about if isinstance(item, Delivery)]
    context = {
        "alert": _fields(alert),
        "named": [_fields(item) for item in named],
        "more": max(alert.count, len(about)) - len(named),
        "commands": _commands(alert, deliveries) if deliveries else None,
    }
    return _render("alert-" + alert.kind, language, context, templates)


def _commands(alert: Alert, deliveries: Sequence[Delivery]) -> dict[str, object]:
    """The command lines to look at deliveries and to retry them, shell-quoted.

    Of this output alone: other outputs may have deliveries with the same ids.
    """
    ids = list(dict.fromkeys(delivery.id for delivery in deliveries))
    since = utc(min(delivery.created for delivery in deliveries))
    output = shlex.quote(line(alert.output))
    return {
        "show": _command(f"show --output {output}", ids[:1]),
        "show_body": _command(f"show --output {output} --body", ids[:1]),
        "retry": (
            _command(f"retry --output {output}", ids) if len(ids) <= MAX_IDS else None
        ),
        "retry_since": f"vd-sidecar retry --output {output}"
        f" --since {since:%Y-%m-%dT%H:%M:%SZ} --state failed",
    }


def _command(verb: str, ids: Sequence[str]) -> str:
    """A command on deliveries.  An id may begin like an option: then after --."""
    dashes = " --" if any(id.startswith("-") for id in ids) else ""
    separator = " " if len(ids) == 1 else " \\\n        "
    words = "".join(separator + shlex.quote(line(id)) for id in ids)
    return f"vd-sidecar {verb}{dashes}{words}"


def _sections(text: str) -> Iterator[str]:
    """``text`` escaped, in parts that Slack takes, broken between lines."""
    parts: list[str] = [""]
    for row in text.strip().split("\n"):
        row = _escape(row, SLACK_SECTION - 1)
        if len(parts[-1]) + len(row) + 1 > SLACK_SECTION:
            if len(parts) == SLACK_SECTIONS:
                parts[-1] += "…"
                break
            parts.append("")
        parts[-1] += row + "\n"
    return (part for part in parts if part.strip())


def _escape(text: str, limit: int) -> str:
    """``text`` escaped for Slack; at most ``limit`` characters, no half entity."""
    short = clip(text, limit)
    while True:
        escaped = short.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        if len(escaped) <= limit:
            return escaped
        short = clip(short, len(short) - 1 - (len(escaped) - limit) // 5)


def _plain(text: str) -> dict[str, object]:
    return {"type": "plain_text", "text": text, "emoji": False}


# Messages


def _message(
    subject: str,
    text: str,
    recipients: Sequence[str],
    smtp: Smtp,
    id: str,
    now: int,
) -> EmailMessage:
    if not recipients:
        raise ValueError("no recipients")
    sender = _address(smtp.sender)
    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    message["To"] = [_address(recipient) for recipient in recipients]
    message["Subject"] = _header(subject)
    message["Date"] = utc(now)
    message["Message-ID"] = f"<{id}@{sender.domain}>"
    message["Auto-Submitted"] = "auto-generated"
    # Quoted-printable whatever the text: lines of any length, any server.
    message.set_content(clean(text), cte="quoted-printable")
    return message


def _address(text: str) -> Address:
    try:
        return Address(addr_spec=text)
    except (HeaderParseError, IndexError) as exc:  # as ValueError, for callers
        raise ValueError(f"not an e-mail address: {line(text)!r}") from exc


def _header(text: str) -> str:
    """``text`` fit for a header.  ``=?`` is taken apart: Python reads an encoded
    word in it, and before 3.11.10 writes one that holds CR LF out as such."""
    return line(text, MAX_SUBJECT).replace("=?", "= ?")


def _atom(text: str, dots: bool = True) -> str:
    """``text`` if it may stand in a Message-ID, else a digest of it."""
    if len(text) <= 128 and _DOT_ATOM.fullmatch(text) and (dots or "." not in text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return "x-" + digest[:40]


def _file_name(id: str) -> str:
    return (re.sub("[^A-Za-z0-9_-]", "_", id)[:128] or "case") + ".json"


def _fields(item: Union[Alert, Delivery, Exchange, Reject]) -> dict[str, object]:
    """The fields of a model object for a template, each text safe on one line."""
    fields = item._asdict() if isinstance(item, Delivery) else attrs.asdict(item)
    return {
        key: line(value, 300) if isinstance(value, str) else value
        for key, value in fields.items()
    }


# Templates


@lru_cache(maxsize=8)
def _environment(directory: Optional[str], age: int) -> ImmutableSandboxedEnvironment:
    """Our templates, each replaced by the file of its name in ``directory``.

    A file that changes is noticed by Jinja, one that is new or gone by ``age``.
    """
    directories = [directory, OURS] if directory else [OURS]
    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(directories),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["when"] = when
    return environment


def _render(
    name: str, language: str, context: Mapping[str, object], directory: Optional[str]
) -> tuple[str, str]:
    """Subject and text from the template ``name.language.txt``.

    One of the operator's that fails is logged, and ours is taken: the mail goes.
    """
    file = f"{name}.{language if language in LANGUAGES else 'en'}.txt"
    if directory is not None:
        try:
            return _rendered(directory, file, context)
        except Exception as exc:  # a template can raise whatever Python can
            why = f"{type(exc).__name__}: {line(str(exc))}"
            log.error("template failed", directory=directory, file=file, why=why)
    return _rendered(None, file, context)


def template_trouble(path: str) -> Optional[str]:
    """What is wrong with a template, as far as it can be told without a mail."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        _environment(None, 0).parse(text)
    except TemplateSyntaxError as error:
        return f"line {error.lineno}: {line(error.message or 'it does not parse')}"
    except UnicodeDecodeError:
        return "it is not UTF-8"
    if not Path(path).name.startswith("words.") and "Subject:" not in text:
        return 'it has no line "Subject: ..."'
    return None


def _rendered(
    directory: Optional[str], file: str, context: Mapping[str, object]
) -> tuple[str, str]:
    age = os.stat(directory or OURS).st_mtime_ns
    text = _environment(directory, age).get_template(file).render(context)
    subject, _, rest = text.partition("\n")
    if not subject.startswith("Subject:") or not subject[8:].strip():
        raise ValueError('the first line is not "Subject: ..."')
    return subject[8:].strip(), rest.strip("\n") + "\n"
