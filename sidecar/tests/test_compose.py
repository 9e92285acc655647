# Copyright (C) The ngx_vd_module authors
"""compose.py and text.py: what people get to read, and what nobody can slip in."""

from __future__ import annotations

import asyncio
import email.policy
import json
import re
import shlex
import subprocess
import unicodedata
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path
from typing import Any, Optional, Union

import attrs
import pytest
from hypothesis import example, given, settings, strategies as st
from structlog.testing import capture_logs

from slack_server import _fault
from smtp_server import SmtpServer
from vd_sidecar.compose import alert_mail, alert_slack, backup_mail
from vd_sidecar.config import Backup, Smtp
from vd_sidecar.mail import SMTP_POLICY, send
from vd_sidecar.model import Alert, Delivery, Exchange, Reject
from vd_sidecar.options import REASONS
from vd_sidecar.text import MAX_TEXT, clean, clip, line, readable

NOW = 1770097877123  # 2026-02-03 05:51:17 UTC
SMTP = Smtp(sender="vd@edge.example")
TO = ["ops@example.com", "archive@example.com"]
CASES = Path(__file__).parents[2] / "demo" / "cases"

DELIVERY = Delivery(
    seq=1,
    id="0190f0c2-7d3a-7c1e-9a51-000000000001",
    output="28",
    label="Security Incident - Critical Alert",
    case="C-2026-000123",
    uri="/outputs/28",
    state="failed",
    created=NOW - 600000,
    updated=NOW - 100000,
    attempts=3,
    base=0,
    due=None,
    owner=None,
    claimed=None,
    fence=3,
    status=503,
    reason="status",
    ticket_id=None,
    ticket_error=None,
    content_type="application/json",
    alert=1,
    forgotten=False,
)
ALERT = Alert(
    seq=1,
    key="0190f0c2-7d3a-7c1e-9a51-0123456789ab",
    kind="failed",
    output="28",
    label="Security Incident - Critical Alert",
    edge="edge-1:/var/spool/vd",
    opened=NOW,
    count=1,
)
EXCHANGE = Exchange(
    time=NOW - 600000,
    attempt=1,
    outcome="failed",
    reason="status",
    status=503,
    upstream="127.0.0.1:443",
    duration_ms=12,
    ticket_id=None,
    ticket_error=None,
    response="<html>\r\n<title>503</title>",
)
REJECT = Reject(seq=1, segment="0190-aa", offset=4711, why="not JSON", line=b"{")

INJECTIONS = [
    "x\r\nBcc: evil@example.com",
    "x\r\n\r\nbody",
    "x\rBcc: evil@example.com",
    "=?utf-8?q?=0D=0ABcc:_evil@example.com?=",
    "ü =?utf-8?b?DQpCY2M6IGV2aWxAZXhhbXBsZS5jb20=?= ü",
    "=?utf-8?q?a?= =?utf-8?q?=0A?=",
    "= ?utf-8?q?=0A?=",
    "x\x0bBcc: y",
    "x\x1cBcc: y",
    "x\x85Bcc: y",
    "x\u2028Bcc: y",
    "x\u2029\u202egnp.exe",
    "\u2066x\u2069",
    "\ud800",
    "\x00",
    ", <evil@example.com>",
    '"><!channel>',
    "../../etc/passwd",
    "x" * 2000,
    "ß" * 2000,
    "",
    " ",
]
texts = st.one_of(
    st.text(max_size=100),
    st.sampled_from(INJECTIONS),
    st.text(st.sampled_from('=?utf-8qb_0AD \r\n\x85ü<>&@,:;"\\')),
)
optional_texts = st.one_of(st.none(), texts)


def alert(about: int, **changes: Any) -> tuple[Alert, list[Delivery]]:
    """An alert of ``about`` deliveries, and these."""
    deliveries = [
        DELIVERY._replace(
            id=f"id-{n}", case=f"C-{n}", created=DELIVERY.created + 1000 * n
        )
        for n in range(about)
    ]
    return attrs.evolve(ALERT, **{"count": about, **changes}), deliveries


def text_of(message: EmailMessage) -> str:
    part: Any = message.get_body(("plain",))
    return str(part.get_content()).replace("\r\n", "\n")


def backup(
    delivery: Delivery = DELIVERY,
    body: Optional[bytes] = b"{}",
    language: str = "en",
    templates: Optional[str] = None,
    exchanges: tuple[Exchange, ...] = (EXCHANGE,),
) -> EmailMessage:
    settings = Backup(language=language, templates=templates)
    return backup_mail(delivery, body, exchanges, TO, settings, SMTP, now=NOW)


def on_the_wire(message: EmailMessage) -> EmailMessage:
    """The message as a reader has it, after a look at its bytes."""
    data = message.as_bytes()
    assert data.isascii()
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", data)
    assert max(map(len, data.split(b"\r\n"))) <= 998
    head = data.partition(b"\r\n\r\n")[0].split(b"\r\n")
    names = [row.partition(b":")[0].decode() for row in head if row[:1] not in b" \t"]
    assert len(names) == len(set(names)) == len(message.keys())
    assert set(names) <= {
        "From",
        "To",
        "Subject",
        "Date",
        "Message-ID",
        "Auto-Submitted",
        "VD-Delivery",
        "VD-Output",
        "VD-State",
        "MIME-Version",
        "Content-Type",
        "Content-Transfer-Encoding",
    }
    parsed = BytesParser(EmailMessage, policy=email.policy.default).parsebytes(data)
    assert isinstance(parsed, EmailMessage)
    assert not parsed.defects
    for name in ("Subject", "Message-ID"):  # folded at their very beginning
        parsed.replace_header(name, str(parsed[name]).strip())
    recipients = [address.addr_spec for address in parsed["To"].addresses]
    assert recipients == TO
    assert parsed["From"] == "vd@edge.example"
    assert re.fullmatch(
        r"<[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*@edge\.example>", parsed["Message-ID"]
    )
    assert parsed["Auto-Submitted"] == "auto-generated"
    subject = str(parsed["Subject"])
    assert 0 < len(subject) <= 500
    for character in subject + text_of(parsed).replace("\n", ""):
        assert unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")
        assert character not in "\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069"
    return parsed


# What nobody can slip in


@settings(deadline=None, max_examples=300)
@given(texts, texts, texts, optional_texts, optional_texts, optional_texts, st.binary())
@example("a" * 128, "b" * 64, "=?utf-8?q?=0D=0ABcc:x?=", "\r\nBcc: x", "x", "y", b"\0")
def test_backup_of_anything(
    id: str,
    output: str,
    label: str,
    case: Optional[str],
    ticket_id: Optional[str],
    response: Optional[str],
    body: bytes,
) -> None:
    delivery = DELIVERY._replace(
        id=id, output=output, label=label, case=case, ticket_id=ticket_id
    )
    exchange = attrs.evolve(EXCHANGE, response=response, reason=case, upstream=label)
    for language in ("en", "de"):
        message = backup(delivery, body, language, exchanges=(exchange,))
        parsed: Any = on_the_wire(message)
        (attached,) = parsed.iter_attachments()
        assert attached.get_content() == body
        assert attached.get_content_type() == "application/json"
        name = attached.get_filename()
        assert name is not None and re.fullmatch(r"[A-Za-z0-9_-]+\.json", name)


@settings(deadline=None, max_examples=200)
@given(texts, texts, texts, texts, optional_texts, optional_texts)
def test_alert_of_anything(
    key: str,
    output: str,
    label: str,
    id: str,
    case: Optional[str],
    reason: Optional[str],
) -> None:
    raised = attrs.evolve(ALERT, key=key, output=output, label=label, edge=label)
    delivery = DELIVERY._replace(id=id, case=case, reason=reason)
    reject = attrs.evolve(REJECT, segment=id, why=label)
    journal = attrs.evolve(raised, kind="journal")
    for language in ("en", "de"):
        pairs: list[tuple[Alert, list[Union[Delivery, Reject]]]] = [
            (raised, [delivery]),
            (journal, [reject]),
        ]
        for item, about in pairs:
            message = alert_mail(item, about, TO, SMTP, now=NOW, language=language)
            on_the_wire(message)
            payload = alert_slack(item, about, language=language)
            assert _fault(payload) is None
            said = json.dumps(payload)
            assert "<" not in said and ">" not in said
            assert not re.search("&(?!(amp|lt|gt);)", said)


@pytest.mark.parametrize("text", INJECTIONS, ids=range(len(INJECTIONS)))
def test_the_server_gets_one_mail_for_those_named(text: str) -> None:
    delivery = DELIVERY._replace(label=text, case=text, ticket_id=text, id=text)
    with SmtpServer() as server:
        smtp = attrs.evolve(SMTP, host="localhost", port=server.port)
        message = backup(delivery, b"." + text.encode("utf-8", "replace"))
        asyncio.run(send(message, smtp))
        (taken,) = server.mails
        assert taken.recipients == tuple(TO)
        assert taken.data == message.as_bytes(policy=SMTP_POLICY)
        assert b"\r\nBcc" not in taken.data
        assert [part.get_content_type() for part in taken.message.iter_parts()] == [
            "text/plain",
            "application/json",
        ]


def test_the_name_of_the_file_is_only_a_name() -> None:
    attached: Any = list(
        backup(DELIVERY._replace(id="../a b\\c\n.d")).iter_attachments()
    )
    assert [part.get_filename() for part in attached] == ["___a_b_c__d.json"]


def test_an_encoded_word_is_only_text() -> None:
    case = "=?utf-8?q?=0D=0ABcc:_evil@example.com?="
    message = backup(DELIVERY._replace(case=case))
    assert "=?" not in message.as_bytes().decode().partition("\r\nDate")[0]
    assert "Case = ?utf-8?q?=0D=0ABcc:_evil@example.com?= for" in message["Subject"]


def test_a_case_cannot_pretend_to_be_the_mail() -> None:
    """Whatever its text, a case stays right of the mail's own lines."""
    lie = "x\n\nState: delivered\n\n\nTHE ATTEMPTS\n\nall is well"
    body = json.dumps({"summary": lie, "list": [lie, {lie: lie}]}).encode()
    for content in (body, lie.encode()):
        text = text_of(backup(body=content))
        assert len(re.findall("^State:", text, re.M)) == 1
        assert len(re.findall("^THE ATTEMPTS", text, re.M)) == 1


@pytest.mark.parametrize("address", ["", "a", "a@b, c@d", "a@b\r\nBcc: c@d", "A <a@b>"])
def test_an_address_that_is_none(address: str) -> None:
    raised, about = alert(1)
    with pytest.raises(ValueError):
        alert_mail(raised, about, [address], SMTP, now=NOW)
    with pytest.raises(ValueError):
        alert_mail(raised, about, TO, Smtp(sender=address), now=NOW)
    with pytest.raises(ValueError):
        alert_mail(raised, about, [], SMTP, now=NOW)


# What they say


def test_an_alert_says_what_to_know_and_to_do() -> None:
    raised, about = alert(2)
    about[1] = about[1]._replace(reason="timeout", status=None, case=None)
    message = on_the_wire(alert_mail(raised, about, TO, SMTP, now=NOW))
    label = "Security Incident - Critical Alert (output 28)"
    assert message["Subject"] == f"Given up: 2 deliveries to {label}"
    assert message["Date"].datetime.timestamp() == NOW // 1000
    text = text_of(message)
    for part in (
        f"2 deliveries to {label} were given up.",
        "Raised on edge-1:/var/spool/vd, 2026-02-03 05:51:17 UTC.",
        "1. Case C-0\n   Delivery:  id-0\n   Cause:     HTTP 503 from the receiver\n"
        "   Attempts:  3, the last 2026-02-03 05:49:37 UTC\n"
        "   Since:     2026-02-03 05:41:17 UTC\n",
        "2. Case (unknown)\n   Delivery:  id-1\n   Cause:     no answer of the receiver in time "
        "(timeout)\n",
        "    vd-sidecar show --output 28 id-0\n",
        "    vd-sidecar retry --output 28 \\\n        id-0 \\\n        id-1\n",
        "    vd-sidecar retry --output 28 --since 2026-02-03T05:41:17Z --state failed\n",
    ):
        assert part in text
    assert "more" not in text


def test_an_alert_in_german() -> None:
    raised, about = alert(1)
    message = alert_mail(raised, about, TO, SMTP, now=NOW, language="de")
    assert message["Subject"] == (
        "Aufgegeben: 1 Zustellung an Security Incident - Critical Alert (Ausgabe 28)"
    )
    assert "Eine Zustellung an" in text_of(message)
    assert "   Ursache:     HTTP 503 vom Empfänger\n" in text_of(message)


@pytest.mark.parametrize(
    "about, count, named, more", [(50, 50, 50, 0), (51, 51, 50, 1), (50, 900, 50, 850)]
)
def test_an_alert_names_fifty(about: int, count: int, named: int, more: int) -> None:
    raised, deliveries = alert(about, count=count)
    text = text_of(alert_mail(raised, deliveries, TO, SMTP, now=NOW))
    assert text.count("Delivery:") == named
    assert re.findall(r"^and (\d+) more$", text, re.M) == ([str(more)] if more else [])
    assert "\\\n" not in text and "retry --output 28 --since" in text


def test_an_alert_whose_deliveries_are_gone() -> None:
    raised, _ = alert(3)
    text = text_of(alert_mail(raised, [], TO, SMTP, now=NOW))
    assert "and 3 more" in text and "vd-sidecar" not in text


def test_commands_are_quoted_for_the_shell() -> None:
    evil = ["-rf", "a;id", "$(id)", "a b", "'"]
    raised, about = alert(len(evil), output="x;id")
    about = [item._replace(id=id) for item, id in zip(about, evil)]
    text = text_of(alert_mail(raised, about, TO, SMTP, now=NOW))
    blocks = re.findall(r"^    vd-sidecar[^\n]*(?:\n        [^\n]*)*", text, re.M)
    heard = [
        subprocess.run(
            ["/bin/sh", "-c", 'vd_sidecar() { printf "%s\\n" "$@"; }\n' + command],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
        for command in (block.replace("vd-sidecar", "vd_sidecar") for block in blocks)
    ]
    assert heard == [
        ["show", "--output", "x;id", "--", "-rf"],
        ["retry", "--output", "x;id", "--", *evil],
        ["retry", "--output", "x;id", "--since", "2026-02-03T05:41:17Z"]
        + ["--state", "failed"],
    ]


@pytest.mark.parametrize("language", ["en", "de"])
def test_the_command_for_a_conflict_can_be_typed(language: str) -> None:
    raised, about = alert(1, kind="conflict")
    about = [about[0]._replace(id="--all")]
    text = text_of(alert_mail(raised, about, TO, SMTP, now=NOW, language=language))
    assert "    vd-sidecar show --output 28 --body -- --all\n" in text


def test_an_alert_of_the_journal() -> None:
    raised, _ = alert(2, kind="journal", output="", label="")
    message = on_the_wire(
        alert_mail(raised, [REJECT, attrs.evolve(REJECT, offset=9)], TO, SMTP, now=NOW)
    )
    assert message["Subject"] == (
        "Journal: 2 lines were set aside on edge-1:/var/spool/vd"
    )
    text = text_of(message)
    assert "1. Segment 0190-aa\n   Offset:  4711\n   Why:     not JSON\n" in text
    assert "vd-sidecar" not in text


def test_slack_has_no_more_than_it_takes() -> None:
    raised, about = alert(900)
    about = [
        item._replace(case="&" * 300, id="<" * 128, reason=">" * 300) for item in about
    ]
    payload = alert_slack(attrs.evolve(raised, label="<&>" * 200), about)
    assert _fault(payload) is None
    assert len(json.dumps(payload)) < 16000


def test_slack_can_be_pinged_by_nobody() -> None:
    raised, about = alert(1, label="<!channel> @here &lt;!channel&gt;")
    about = [about[0]._replace(case="<@U123> <https://evil.example|ok> *b* :x:")]
    payload: Any = alert_slack(raised, about)
    said = json.dumps(payload)
    assert "<" not in said
    assert "&lt;!channel&gt; @here &amp;lt;!channel&amp;gt;" in payload["text"]
    assert payload["mrkdwn"] is False and payload["parse"] == "none"
    for block in payload["blocks"]:
        assert block["text"]["type"] == "plain_text"
        assert block["text"]["emoji"] is False
    body = "".join(block["text"]["text"] for block in payload["blocks"])
    assert "&lt;@U123&gt; &lt;https://evil.example|ok&gt; *b* :x:" in body
    assert "    vd-sidecar show --output 28 id-0\n" in body


@pytest.mark.parametrize(
    "language, subject, parts",
    [
        (
            "en",
            "Case C-2026-000123 for Security Incident - Critical Alert: not delivered",
            [
                "State:     not delivered, given up (3 attempts)\n",
                "Ticket ID: –\n",
                "  The original is attached: 0190f0c2-7d3a-7c1e-9a51-000000000001.json",
                "  2026-02-03 05:41:17 UTC   1. HTTP 503 from the receiver, 12 ms\n"
                "      Reply: <html> <title>503</title>\n",
            ],
        ),
        (
            "de",
            "Fall C-2026-000123 für Security Incident - Critical Alert: "
            "nicht zugestellt",
            [
                "Zustand:    nicht zugestellt, aufgegeben (3 Versuche)\n",
                "Ticket-ID:  –\n",
                "  Das Original liegt bei: 0190f0c2-7d3a-7c1e-9a51-000000000001.json",
                "      Antwort: <html> <title>503</title>\n",
            ],
        ),
    ],
)
def test_a_backup(language: str, subject: str, parts: list[str]) -> None:
    body = (CASES / "28-phishing.json").read_bytes()
    message: Any = on_the_wire(backup(body=body, language=language))
    assert message["Subject"] == subject
    assert message["VD-Delivery"] == DELIVERY.id
    assert message["VD-Output"] == "28" and message["VD-State"] == "failed"
    text = text_of(message)
    for part in [
        *parts,
        "  Case ID: C-2026-000124\n",
        "  Caller:\n      Name: Łukasz Wójcik\n",
        "      Callback number: +49 69 90009 268\n",
        "  Affected systems:\n      - Postfach wojcik@stadtwerke.example\n      - VPN\n",
        "      - At: 00:00:31\n        Speaker: caller\n"
        "        Text: … Beim VPN. Das ist dasselbe.\n",
    ]:
        assert part in text
    (attached,) = message.iter_attachments()
    assert attached.get_content() == body


@pytest.mark.parametrize("path", sorted(CASES.glob("*.json")), ids=str)
def test_every_value_of_a_case_can_be_read(path: Path) -> None:
    body = path.read_bytes()
    flat = " ".join(text_of(backup(body=body)).split())

    def values(value: Any) -> None:
        if isinstance(value, dict):
            for item in value.values():
                values(item)
        elif isinstance(value, list):
            for item in value:
                values(item)
        else:
            assert " ".join(str(value).split()) in flat

    values(json.loads(body))


def test_a_backup_that_was_delivered_and_one_without_its_case() -> None:
    delivered = DELIVERY._replace(
        state="delivered", status=200, reason=None, ticket_id="VD-12345"
    )
    text = text_of(backup(delivered))
    assert "State:     delivered (3 attempts)\n" in text
    assert "Ticket ID: VD-12345\n" in text
    gone = backup(delivered, None)
    assert "  It is not kept any more.\n" in text_of(gone)
    assert not list(gone.iter_attachments())
    odd = delivered._replace(ticket_id=None, ticket_error="not_json")
    assert "Ticket ID: – (not_json)\n" in text_of(backup(odd))


def test_message_ids_follow_from_the_delivery() -> None:
    first = backup()["Message-ID"]
    assert first == f"<{DELIVERY.id}.28.failed-3@edge.example>"
    again = backup_mail(
        DELIVERY, None, [], ["other@example.com"], Backup(), SMTP, now=NOW + 9
    )
    assert again["Message-ID"] == first
    changes: list[dict[str, Any]] = [
        {"id": "other"},
        {"output": "29"},
        {"state": "delivered"},
        {"attempts": 6},
        {"id": "a b"},
        {"id": "a c"},
        {"id": "a.28", "output": "28"},
        {"id": "a", "output": "28.28"},
        {"output": ".28"},
    ]
    others = [backup(DELIVERY._replace(**change))["Message-ID"] for change in changes]
    assert len({first, *others}) == len(others) + 1
    raised, about = alert(1)
    one = alert_mail(raised, about, TO, SMTP, now=NOW)
    two = alert_mail(raised, [], TO, SMTP, now=NOW + 9, language="de")
    assert one["Message-ID"] == two["Message-ID"]


# Templates of the operator's


def test_a_template_is_replaced_file_by_file(tmp_path: Path) -> None:
    template = '{% from "words.en.txt" import states %}\n'
    template += "Subject: Mine {{ delivery.case }}\n\n{{ states[delivery.state] }}\n"
    (tmp_path / "backup.en.txt").write_text(template)
    message = backup(templates=str(tmp_path))
    assert message["Subject"] == "Mine C-2026-000123"
    assert text_of(message) == "not delivered\n"
    assert backup(language="de", templates=str(tmp_path))["Subject"][:5] == "Fall "

    (tmp_path / "words.en.txt").write_text('{% set states = {"failed": "kaputt"} %}')
    assert text_of(backup(templates=str(tmp_path))) == "kaputt\n"


@pytest.mark.parametrize(
    "template",
    [
        "Subject: {{ delivery.case",
        "Subject: a {{ nothing }}",
        "Subject: {{ delivery.nothing }}",
        "Subject: {{ 1 / 0 }}",
        "Subject: {% include 'missing' %}",
        "Subject: {{ ''.__class__.__mro__ }}",
        "Subject: {{ exchanges.append(1) }}",
        "Subject: {{ range(10 ** 9) }}",
        "Subject:",
        "no subject",
        "",
        "Subject: \xff",
    ],
)
def test_a_broken_template_stops_no_mail(tmp_path: Path, template: str) -> None:
    (tmp_path / "backup.en.txt").write_text(template, "latin-1")
    with capture_logs() as logs:
        message = backup(templates=str(tmp_path))
    assert message["Subject"] == backup()["Subject"]
    assert text_of(message) == text_of(backup())
    (logged,) = logs
    assert logged["log_level"] == "error"
    assert logged["file"] == "backup.en.txt"
    assert logged["directory"] == str(tmp_path)


def test_a_template_cannot_inject_either(tmp_path: Path) -> None:
    template = 'Subject: a{{ "\\rBcc: x" }}\u2028b\n\n{{ "\\u202e" }}x\n'
    (tmp_path / "backup.en.txt").write_text(template)
    message = on_the_wire(backup(templates=str(tmp_path)))
    assert message["Subject"] == "a Bcc: x b"


# Text


def test_readable() -> None:
    case = {
        "case_id": 7,
        "callerName": "x",
        "vpn": True,
        "fax": False,
        "none": None,
        "empty": [],
        "void": {},
        "blank": " ",
        "SW-KÄ_01": 1.50,
        "_": "u",
        "two": "a\n\nb",
        "long": "word " * 30,
        "url": "https://example.com/" + "x" * 200,
        "rows": [[1, 2], [], {"a": {"b": "c"}}],
    }
    assert readable(json.dumps(case, ensure_ascii=False).encode(), "de") == (
        "Case ID: 7\n"
        "Caller Name: x\n"
        "Vpn: ja\n"
        "Fax: nein\n"
        "None: –\n"
        "Empty: –\n"
        "Void: –\n"
        "Blank: –\n"
        "SW-KÄ_01: 1.5\n"
        "_: u\n"
        "Two:\n    a\n\n    b\n"
        "Long:\n"
        + ("    " + "word " * 14).rstrip()
        + "\n"
        + ("    " + "word " * 14).rstrip()
        + "\n    word word\n"
        "Url:\n    https://example.com/" + "x" * 200 + "\n"
        "Rows:\n"
        "    - - 1\n      - 2\n"
        "    - –\n"
        "\n"
        "    - A:\n          B: c"
    )


@pytest.mark.parametrize(
    "body, text",
    [
        (b"", "–"),
        (b"null", "–"),
        (b"true", "yes"),
        (b'"x"', "x"),
        (b'\xef\xbb\xbf{"a": 1}', "A: 1"),
        (b'{"a": 1, "a": 2}', "A: 1\nA: 2"),
        (b'{"a": 1.10, "b": 1e999, "c": NaN}', "A: 1.10\nB: 1e999\nC: NaN"),
        (b"1" * 5000, "1" * 5000),
        (b'{"a": 1', '{"a": 1'),
        (b"one\r\ntwo\x00\xff\x1b[31m", "one\ntwo\ufffd\ufffd\ufffd[31m"),
        (b'{"a": "\\ud800\\u0000\\u202e"}', "A: \ufffd\ufffd\ufffd"),
        (b"[" * 100000, "[" * 19999 + "…"),
    ],
)
def test_readable_of_what_comes(body: bytes, text: str) -> None:
    assert readable(body) == text


@pytest.mark.parametrize(
    "body", [b"[" * 900 + b"]" * 900, b'{"a":' * 900 + b"1" + b"}" * 900]
)
def test_readable_is_bounded_in_depth(body: bytes) -> None:
    text = readable(body)
    assert text.endswith("…") and len(text) < 5000


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(["x" * 100] * 10000).encode(),
        json.dumps({"key": "x y " * 2_000_000}).encode(),
        json.dumps({"k" * 1_000_000: 1}).encode(),
        b"\n" * 5_000_000,
    ],
)
def test_readable_is_bounded_in_size(body: bytes) -> None:
    assert len(readable(body)) <= MAX_TEXT + 100


def test_readable_says_where_it_was_cut() -> None:
    body = json.dumps(["x" * 100] * 10000).encode()
    assert readable(body).endswith("\n[… the rest is attached]")
    assert readable(body, "de").endswith("\n[… der Rest steht im Anhang]")


@given(st.text(), st.integers(1, 50))
def test_line_and_clip(text: str, limit: int) -> None:
    assert len(clip(text, limit)) <= limit
    assert len(line(text, limit)) <= limit
    assert len(line(text).splitlines()) <= 1
    assert clean(clean(text)) == clean(text)
    assert shlex.split(shlex.quote(line(text))) == [line(text)]


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("reason", REASONS)
def test_every_cause_says_of_whom_it_is(reason: str, language: str) -> None:
    """The last word of a mail that asks somebody to act is no riddle."""
    status = 503 if reason == "status" else None
    given_up = DELIVERY._replace(state="failed", reason=reason, status=status)
    mail = alert_mail(ALERT, [given_up], TO, SMTP, now=NOW, language=language)
    (cause,) = re.findall(
        r"(?:Cause|Ursache): +(.*(?:\n(?!   \w+:).*)?)", text_of(mail)
    )
    whom = {"en": "receiver|nginx|store", "de": "Empfänger|nginx|Speicher"}
    assert re.search(whom[language], cause), cause
    assert cause.partition(" (")[0] != reason
