# Copyright (C) The ngx_vd_module authors
"""mail.py against a real SMTP server."""

from __future__ import annotations

import asyncio
import email.policy
import re
import socket
import ssl
import time
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import SMTP as POLICY
from pathlib import Path
from typing import Optional

import attrs
import pytest

from processes import PATIENCE
from smtp_server import SmtpServer
from vd_sidecar.config import Smtp
from vd_sidecar.mail import SMTP_POLICY, MailError, probe, send

PASSWORD = "päss word/7"


def mail(*recipients: str) -> EmailMessage:
    message = EmailMessage(policy=POLICY)
    message["From"] = "vd@edge.example"
    message["To"] = ", ".join(recipients or ("ops@example.com",))
    message["Subject"] = "Grüße"
    message.set_content("one\n.\n..two\nFrom me\n", cte="quoted-printable")
    return message


def settings(server: SmtpServer, timeout: float = PATIENCE) -> Smtp:
    return Smtp(
        host="localhost",
        port=server.port,
        security=server.security,
        sender="vd@edge.example",
        timeout=timeout,
    )


def login(server: SmtpServer, directory: Path, password: str = PASSWORD) -> Smtp:
    file = directory / "password"
    file.write_text(password + "\n")
    return Smtp(
        host="localhost",
        port=server.port,
        security=server.security,
        user="vd",
        password_file=str(file),
        sender="vd@edge.example",
        timeout=PATIENCE,
    )


def fails(
    server: SmtpServer,
    smtp: Smtp,
    message: Optional[EmailMessage] = None,
    tls: Optional[ssl.SSLContext] = None,
) -> MailError:
    with pytest.raises(MailError) as caught:
        asyncio.run(send(message or mail(), smtp, tls=tls or server.trust()))
    assert f"localhost:{smtp.port}: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.retry_after is None
    return caught.value


@pytest.mark.parametrize("security", ["none", "starttls", "tls"])
def test_a_mail_arrives_as_it_was_written(security: str) -> None:
    with SmtpServer(security) as server:
        message = mail("ops@example.com", "on-call@example.com")
        refused = asyncio.run(send(message, settings(server), tls=server.trust()))
        assert refused == []
        (taken,) = server.mails
        assert taken.data == message.as_bytes(policy=SMTP_POLICY)
        assert taken.sender == "vd@edge.example"
        assert taken.recipients == ("ops@example.com", "on-call@example.com")
        assert taken.tls == (security != "none")
        assert taken.message.get_content() == "one\r\n.\r\n..two\r\nFrom me\r\n"
        assert server.commands[-1] == "QUIT"


@pytest.mark.parametrize("security", ["none", "starttls", "tls"])
def test_login(security: str, tmp_path: Path) -> None:
    with SmtpServer(security, "vd", PASSWORD) as server:
        asyncio.run(send(mail(), login(server, tmp_path), tls=server.trust()))
        assert [taken.user for taken in server.mails] == ["vd"]


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_certificates_are_verified_by_the_systems_store(
    security: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SmtpServer(security, "vd", PASSWORD) as server:
        smtp = login(server, tmp_path)
        with pytest.raises(MailError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            asyncio.run(send(mail(), smtp))
        assert not caught.value.permanent
        assert "AUTH" not in server.commands and not server.mails

        server.authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        asyncio.run(send(mail(), smtp))
        assert len(server.mails) == 1


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_the_certificate_must_be_of_the_host(security: str) -> None:
    with SmtpServer(security, names=("mail.example.com",)) as server:
        error = fails(server, settings(server))
        assert "CERTIFICATE_VERIFY_FAILED" in str(error) and not server.mails


def test_no_starttls_no_mail_and_no_password(tmp_path: Path) -> None:
    with SmtpServer("none", "vd", PASSWORD) as server:
        smtp = attrs.evolve(login(server, tmp_path), security="starttls")
        error = fails(server, smtp)
        assert "STARTTLS: " in str(error) and not error.permanent
        assert "AUTH" not in server.commands and "MAIL" not in server.commands


def test_injected_answers_before_tls_are_noticed() -> None:
    """A response injection: what a third party adds behind the 220, in the clear."""

    async def run() -> None:
        context = SmtpServer("starttls")

        async def talk(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            writer.write(b"220 localhost\r\n")
            await reader.readline()
            writer.write(b"250-localhost\r\n250 STARTTLS\r\n")
            await reader.readline()
            writer.write(b"220 go\r\n250 injected\r\n")
            await writer.drain()
            loop = asyncio.get_running_loop()
            protocol = writer.transport.get_protocol()
            await loop.start_tls(
                writer.transport, protocol, context.tls, server_side=True
            )
            await reader.read()

        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        smtp = Smtp(host="localhost", port=port, security="starttls", sender="a@b")
        with pytest.raises(MailError, match="STARTTLS: .*injected before"):
            await send(mail(), smtp, tls=context.trust())
        server.close()

    asyncio.run(run())


def test_the_password_is_read_at_each_sending(tmp_path: Path) -> None:
    with SmtpServer("none", "vd", "old") as server:
        smtp = login(server, tmp_path, "old")
        asyncio.run(send(mail(), smtp))
        server.password = "new"
        assert "login: 535" in str(fails(server, smtp))
        (tmp_path / "password").write_text("new\r\n")
        asyncio.run(send(mail(), smtp))
        assert len(server.mails) == 2


def test_a_password_that_the_server_echoes_is_not_told(tmp_path: Path) -> None:
    echoes = [
        PASSWORD,
        "cMOkc3Mgd29yZC83",  # LOGIN
        "AHZkAHDDpHNzIHdvcmQvNw==",  # PLAIN
    ]
    with SmtpServer("none", "vd", "other") as server:
        smtp = login(server, tmp_path)
        for echo in echoes:
            server.answers["AUTH"] = f"535 5.7.8 no such login: {echo}!"
            error = fails(server, smtp)
            assert "login: 535 5.7.8 no such login: ***!" in str(error)
            assert echo not in repr(error)
            assert error.__cause__ is None and error.__suppress_context__


def test_a_password_file_that_cannot_be_read(tmp_path: Path) -> None:
    with SmtpServer("none", "vd", PASSWORD) as server:
        smtp = login(server, tmp_path)
        (tmp_path / "password").unlink()
        error = fails(server, smtp)
        assert "login: " in str(error) and str(tmp_path / "password") in str(error)
        assert not error.permanent


@pytest.mark.parametrize(
    "stage, answer, text, permanent",
    [
        ("CONNECT", "554 5.3.2 go away", "connect: ", False),
        ("CONNECT", "421 4.3.2 busy", "connect: ", False),
        ("EHLO", "550 5.7.1 not you", "EHLO: 550 5.7.1 not you", False),
        ("MAIL", "530 5.7.0 log in first", "MAIL FROM <vd@edge.example>: 530", False),
        ("MAIL", "553 5.1.8 bad sender", "MAIL FROM <vd@edge.example>: 553", False),
        ("MAIL", "552 5.3.4 too large", "MAIL FROM <vd@edge.example>: 552", True),
        ("RCPT", "550 5.1.1 unknown", "RCPT TO: <ops@example.com> 550 5.1.1", True),
        ("RCPT", "554 5.7.1 no relaying", "RCPT TO: <ops@example.com> 554", False),
        ("RCPT", "450 4.2.0 greylisted", "RCPT TO: <ops@example.com> 450", False),
        ("RCPT", "421 4.3.0 closing", "RCPT TO: 421", False),
        ("DATA", "451 4.3.0 later", "DATA: 451 4.3.0 later", False),
        ("DATA", "554 5.5.1 no", "DATA: 554 5.5.1 no", True),
        ("END", "552 5.3.4 too large", "DATA: 552 5.3.4 too large", True),
        ("END", "554 5.6.0 never", "DATA: 554 5.6.0 never", True),
        ("END", "554 5.7.1 looks like spam", "DATA: 554 5.7.1", False),
        ("END", "452 4.3.1 disk full", "DATA: 452 4.3.1 disk full", False),
    ],
)
def test_refused_at(stage: str, answer: str, text: str, permanent: bool) -> None:
    with SmtpServer() as server:
        server.answers[stage] = answer
        error = fails(server, settings(server))
        assert text in str(error)
        assert error.permanent is permanent
        assert error.remaining == ("ops@example.com",)
        assert not server.mails


def test_too_large_for_the_server_is_known_before_it_is_sent() -> None:
    with SmtpServer(size_limit=100) as server:
        error = fails(server, settings(server))
        assert "552" in str(error) and error.permanent
        assert "DATA" not in server.commands


@pytest.mark.parametrize(
    "stage, answer, too_large",
    [
        ("MAIL", "552 5.3.4 too large", True),
        ("MAIL", "552 message size exceeds the limit", True),
        ("MAIL", "523 too long", True),
        ("RCPT", "552 5.2.3 too long for this mailbox", True),
        ("RCPT", "552 5.2.2 mailbox full", False),
        ("RCPT", "550 5.1.1 unknown", False),
        ("END", "552 5.3.4 too large", True),
        ("END", "523 the mail is too large", True),
        ("END", "554 5.3.4 message too big", True),
        ("END", "552 5.2.2 mailbox full", False),
        ("END", "554 5.6.0 never", False),
    ],
)
def test_what_is_too_large(stage: str, answer: str, too_large: bool) -> None:
    with SmtpServer() as server:
        server.answers[stage] = answer
        assert fails(server, settings(server)).too_large is too_large


def test_too_large_for_one_of_them() -> None:
    """Who has it is not sent it again; the other is left for a shorter one."""
    with SmtpServer() as server:
        server.answers["b@example.com"] = "552 5.2.3 too long"
        message = mail("a@example.com", "b@example.com")
        with pytest.raises(MailError) as raised:
            asyncio.run(send(message, settings(server)))
        assert len(server.mails) == 1
    assert raised.value.too_large and raised.value.remaining == ("b@example.com",)


@pytest.mark.parametrize(
    "subject",
    [
        "Fall 4711 für Störung: nicht zugestellt",
        "ä" * 249,
        "\U0001f600" * 120,
        "東京 " * 80,
        ("long words in front " * 4 + "ü ") * 3,
        "Zürich" + "x" * 240,
        "x" * 240 + "é",
    ],
)
def test_encoded_words_are_short(subject: str) -> None:
    """RFC 2047, 2: 75 characters each, 76 a line, and nothing is lost of them."""
    message = mail()
    del message["Subject"]
    message["Subject"] = subject
    with SmtpServer() as server:
        asyncio.run(send(message, settings(server)))
        (taken,) = server.mails
    head = taken.data.partition(b"\r\n\r\n")[0]
    words = re.findall(rb"=\?[^ ?]+\?[bq]\?[^ ?]*\?=", head)
    assert words and max(map(len, words)) <= 75
    lines = head.split(b"\r\n")
    assert max(len(line) for line in lines if b"=?" in line) <= 76
    assert all(line.strip() for line in lines)
    parsed = BytesParser(EmailMessage, policy=email.policy.default).parsebytes(
        taken.data
    )
    assert str(parsed["Subject"]).split() == subject.split()


def test_one_refused_for_good_loses_no_other() -> None:
    with SmtpServer() as server:
        server.answers["gone@example.com"] = "550 5.1.1 unknown"
        message = mail("a@example.com", "gone@example.com", "b@example.com")
        refused = asyncio.run(send(message, settings(server)))
        (text,) = refused
        assert "RCPT TO: <gone@example.com> 550 5.1.1 unknown" in text
        (taken,) = server.mails
        assert taken.recipients == ("a@example.com", "b@example.com")


def test_one_refused_for_now_remains() -> None:
    with SmtpServer() as server:
        server.answers["gone@example.com"] = "550 5.1.1 unknown"
        server.answers["grey@example.com"] = "450 4.2.0 greylisted"
        message = mail("a@example.com", "gone@example.com", "grey@example.com")
        error = fails(server, settings(server), message)
        assert "<grey@example.com> 450 4.2.0 greylisted" in str(error)
        assert not error.permanent
        assert error.remaining == ("grey@example.com",)

        del server.answers["grey@example.com"]
        asyncio.run(send(message, settings(server), error.remaining))
        assert [taken.recipients for taken in server.mails] == [
            ("a@example.com",),
            ("grey@example.com",),
        ]


def test_all_refused_is_for_good_only_if_each_is() -> None:
    with SmtpServer() as server:
        server.answers["gone@example.com"] = "550 5.1.1 unknown"
        server.answers["grey@example.com"] = "450 4.2.0 greylisted"
        message = mail("gone@example.com", "grey@example.com")
        assert not fails(server, settings(server), message).permanent
        server.answers["grey@example.com"] = "550 5.1.1 unknown too"
        assert fails(server, settings(server), message).permanent
        assert "DATA" not in server.commands
        assert server.commands[-1] == "QUIT"


@pytest.mark.parametrize(
    "stage", ["CONNECT", "EHLO", "STARTTLS", "MAIL", "RCPT", "DATA", "END"]
)
def test_the_timeout_is_for_the_whole(stage: str) -> None:
    with SmtpServer("starttls") as server:
        server.delays[stage] = 2 * PATIENCE
        start = time.monotonic()
        error = fails(server, settings(server, timeout=0.5))
        assert time.monotonic() - start > 0.4
        assert "timed out after 0.5 s" in str(error)
        assert not error.permanent and error.remaining


def test_many_short_delays_count_as_one() -> None:
    with SmtpServer() as server:
        server.delays = dict.fromkeys(["EHLO", "MAIL", "RCPT", "DATA", "END"], 0.4)
        assert "timed out" in str(fails(server, settings(server, timeout=1.0)))


@pytest.mark.parametrize("slow", [False, True])
def test_what_follows_the_mail_does_not_matter(slow: bool) -> None:
    with SmtpServer() as server:
        server.answers["QUIT"] = "500 what?"
        server.delays["QUIT"] = 2 * PATIENCE if slow else 0.0
        start = time.monotonic()
        asyncio.run(send(mail(), settings(server)))
        assert time.monotonic() - start < PATIENCE
        assert len(server.mails) == 1


def test_a_cancelled_sending_hangs_up() -> None:
    async def run(server: SmtpServer) -> None:
        task = asyncio.create_task(send(mail(), settings(server)))
        while "MAIL" not in server.commands and not task.done():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with SmtpServer() as server:
        server.delays["MAIL"] = 2 * PATIENCE
        start = time.monotonic()
        asyncio.run(run(server))
        assert time.monotonic() - start < PATIENCE


def test_nobody_there() -> None:
    with socket.socket() as bound:  # bound, and not listening
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        smtp = Smtp(host="localhost", port=port, sender="vd@edge.example")
        with pytest.raises(MailError, match=f"localhost:{port}: connect: ") as caught:
            asyncio.run(send(mail(), smtp))
        assert not caught.value.permanent
    with pytest.raises(MailError, match=r"^no\.invalid:25: connect: "):
        asyncio.run(send(mail(), Smtp(host="no.invalid", sender="vd@edge.example")))


@pytest.mark.parametrize("said", [b"", b"220 hi\r\n", b"HTTP/1.1 400 Bad\r\n\r\n"])
def test_no_smtp_server(said: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        smtp = Smtp(host="127.0.0.1", port=port, sender="vd@edge.example")
        with pytest.raises(MailError, match=f"127.0.0.1:{port}: ") as caught:
            await send(mail(), smtp)
        assert not caught.value.permanent
        server.close()

    asyncio.run(run())


def test_probe(tmp_path: Path) -> None:
    with SmtpServer("starttls", "vd", PASSWORD) as server:
        said = asyncio.run(probe(login(server, tmp_path), tls=server.trust()))
        assert said == f"localhost:{server.port}: TLSv1.3, logged in as vd"
        assert server.commands == ["EHLO", "STARTTLS", "EHLO", "AUTH", "QUIT"]
        smtp = login(server, tmp_path, "wrong")
        with pytest.raises(MailError, match="login: 535"):
            asyncio.run(probe(smtp, tls=server.trust()))
    with SmtpServer() as server:
        said = asyncio.run(probe(settings(server)))
        assert said == f"localhost:{server.port}: no TLS"
        assert not server.mails
