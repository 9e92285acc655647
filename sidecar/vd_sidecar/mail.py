# Copyright (C) The ngx_vd_module authors
"""Handing mails to an SMTP server, and trying whether it would take them."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from contextlib import asynccontextmanager
from email.header import Header
from email.headerregistry import AddressHeader
from email.message import EmailMessage
from email.policy import EmailPolicy
from functools import lru_cache
from typing import Any, AsyncIterator, Optional, Sequence

from aiosmtplib import (
    SMTP,
    SMTPException,
    SMTPRecipientRefused,
    SMTPResponseException,
    SMTPTimeoutError,
)

from .config import Smtp
from .text import line

# A subject of ours fits; with the usual 78 a long one would begin on a second line,
# behind an empty first one.

MAX_LINE = 200


class _Policy(EmailPolicy):
    """Writes what is not ASCII in encoded words of 75 characters at most (RFC 2047,
    2), which Python makes as long as a line may be."""

    def fold(self, name: str, value: Any) -> str:
        if str(value).isascii():
            folded: str = super().fold(name, value)
            return folded
        header = Header(str(value), "utf-8", maxlinelen=75, header_name=name)
        return f"{name}: {header.encode(linesep=self.linesep)}{self.linesep}"

    def fold_binary(self, name: str, value: Any) -> bytes:
        return self.fold(name, value).encode("ascii", "surrogateescape")


SMTP_POLICY = _Policy(linesep="\r\n", max_line_length=MAX_LINE)

QUIT_TIMEOUT = 2.0  # seconds; the mail is the server's by then


class MailError(Exception):
    """A mail that was not taken, by all or by some; the text is for a log.

    ``permanent``: this mail will never be taken, whoever tries.  What an operator
    can put right (login, certificate, sender, relaying) is not permanent.
    ``too_large``: a shorter one might be.
    ``retry_after``: seconds, if the server said when; SMTP has no word for it.
    ``remaining``: the recipients that a next try should be for; those of the mail
    who are not in it have it, or will never take it.
    """

    def __init__(
        self,
        text: str,
        permanent: bool = False,
        retry_after: Optional[float] = None,
        remaining: Sequence[str] = (),
        too_large: bool = False,
    ) -> None:
        super().__init__(text)
        self.permanent = permanent
        self.too_large = too_large
        self.retry_after = retry_after
        self.remaining = tuple(remaining)


async def send(
    message: EmailMessage,
    smtp: Smtp,
    recipients: Optional[Sequence[str]] = None,
    *,
    tls: Optional[ssl.SSLContext] = None,
) -> Sequence[str]:
    """Hand ``message`` over for ``recipients``, by default all that it is to.

    Returns when the server has taken it, within ``smtp.timeout`` seconds: what to
    log of recipients that it refused for good while it took the mail for others.
    Raises MailError when nobody's was taken, and also when some are refused for
    now (greylisting): a next try for its ``remaining`` sends to them alone, one for
    all sends some a second copy, with the same Message-ID.  A recipient is lost in
    neither case.  The password file is read each time.  ``tls`` stands for the
    system's certificates.
    """
    to = list(recipients) if recipients is not None else _addresses(message, "To")
    (sender,) = _addresses(message, "From")
    data = await asyncio.to_thread(message.as_bytes, policy=SMTP_POLICY)
    async with _session(smtp, tls, to) as session:
        client = session.client
        size = [f"SIZE={len(data)}"] if client.supports_extension("size") else []
        session.stage = f"MAIL FROM <{sender}>"
        await client.mail(sender, options=size)
        refused = await _recipients(session, to)
        if len(refused) == len(to):
            permanent = all(_is_final(refusal) for refusal in refused)
            too_large = all(_is_too_large(refusal) for refusal in refused)
            raise session.error(_answers(refused), permanent, too_large)
        session.stage = "DATA"
        await client.data(data)

        later = [r for r in refused if _is_too_large(r) or not _is_final(r)]
        if later:
            session.remaining = [refusal.recipient for refusal in later]
            session.stage = "RCPT TO"
            too_large = all(_is_too_large(refusal) for refusal in later)
            text = f"taken for others, but {_answers(refused)}"
            raise session.error(text, too_large=too_large)
        return [session.describe("RCPT TO", _answers([item])) for item in refused]


async def probe(smtp: Smtp, *, tls: Optional[ssl.SSLContext] = None) -> str:
    """What the server says to a session as ``send`` opens it, without a mail.

    A text for the operator, such as "mail.example.com:587: TLSv1.3, logged in as
    vd".  Raises MailError.
    """
    async with _session(smtp, tls, ()) as session:
        client = session.client
        transport = client.transport
        cipher = transport.get_extra_info("cipher") if transport else None
        said = [cipher[1] if cipher else "no TLS"]
        if smtp.user is not None:
            said.append(f"logged in as {smtp.user}")
        return session.describe(", ".join(said))


class _Session:
    """A connection, where it stands, and what may be said of it."""

    def __init__(self, smtp: Smtp, client: SMTP, remaining: Sequence[str]) -> None:
        self.smtp = smtp
        self.client = client
        self.remaining = remaining
        self.stage = "connect"
        self.secrets: list[str] = []

    def describe(self, *what: str) -> str:
        """``host:port: what: ...`` on one line; a server may echo a password."""
        text = ": ".join(what)
        for secret in self.secrets:
            text = text.replace(secret, "***")
        host = f"[{self.smtp.host}]" if ":" in self.smtp.host else self.smtp.host
        return f"{host}:{self.smtp.port}: {line(text, 500)}"

    def error(
        self, what: str, permanent: bool = False, too_large: bool = False
    ) -> MailError:
        text = self.describe(self.stage, what)
        return MailError(text, permanent, None, self.remaining, too_large)


@asynccontextmanager
async def _session(
    smtp: Smtp, tls: Optional[ssl.SSLContext], remaining: Sequence[str]
) -> AsyncIterator[_Session]:
    """A session that is logged in; what fails in it is a MailError, and ``timeout``
    is for all of it.  Causes are not chained: a server's words are in them."""
    client = SMTP(
        hostname=smtp.host,
        port=smtp.port,
        timeout=smtp.timeout,
        use_tls=smtp.security == "tls",
        start_tls=False,
    )
    session = _Session(smtp, client, remaining)
    try:
        async with asyncio.timeout(smtp.timeout):
            await _open(session, tls)
            yield session
        await _quit(client)
    except MailError:
        await _quit(client)
        raise
    except (TimeoutError, SMTPTimeoutError):
        text = f"timed out after {smtp.timeout:g} s"
        raise session.error(text) from None
    except SMTPResponseException as exc:
        too_large = _is_too_large(exc)  # MAIL FROM says it too
        permanent = too_large or (session.stage == "DATA" and _is_final(exc))
        text = f"{exc.code} {exc.message}"
        raise session.error(text, permanent, too_large) from None
    except (SMTPException, OSError, ValueError) as exc:
        raise session.error(str(exc.__cause__ or exc)) from None
    finally:
        client.close()


async def _open(session: _Session, tls: Optional[ssl.SSLContext]) -> None:
    smtp, client = session.smtp, session.client
    name = await asyncio.to_thread(_own_name)
    if smtp.security != "none":
        client.tls_context = tls or await asyncio.to_thread(ssl.create_default_context)
    await client.connect(local_hostname=name)
    session.stage = "EHLO"
    await client.ehlo()
    if smtp.security == "starttls":
        session.stage = "STARTTLS"
        await client.starttls()
        # What came before the handshake is nobody's word (RFC 3207); the library
        # would take it for the answers to what follows.
        if getattr(client.protocol, "_buffer", b""):
            raise SMTPException("answers were injected before the TLS handshake")
        session.stage = "EHLO"
        await client.ehlo()
    if smtp.user is not None:
        session.stage = "login"
        password = await asyncio.to_thread(_password, smtp)
        session.secrets = _forms(smtp.user, password)
        await client.login(smtp.user, password)


async def _recipients(
    session: _Session, to: Sequence[str]
) -> list[SMTPRecipientRefused]:
    """Name the recipients to the server; those that it refuses."""
    session.stage = "RCPT TO"
    refused = []
    for recipient in to:
        try:
            await session.client.rcpt(recipient)
        except SMTPRecipientRefused as exc:
            refused.append(exc)
            if exc.code == 421:  # it closes the connection
                raise
    return refused


async def _quit(client: SMTP) -> None:
    """Part in peace; nothing that fails here matters any more."""
    try:
        await asyncio.wait_for(client.quit(), QUIT_TIMEOUT)
    except (SMTPException, OSError, asyncio.TimeoutError):
        pass


def _is_final(exc: SMTPResponseException) -> bool:
    """Whether a refusal is of the mail or the recipient, for good (RFC 3463): 530
    and 5.7.x are of who we are, which an operator can change."""
    return (
        500 <= exc.code < 600 and exc.code != 530 and not exc.message.startswith("5.7.")
    )


def _is_too_large(exc: SMTPResponseException) -> bool:
    """RFC 1870 and RFC 3463; some say 523.  A mailbox that is full (x.2.2) is no
    matter of this mail's size."""
    if exc.code in (523, 552):
        return not exc.message.startswith("5.2.2")
    return exc.message.startswith(("5.3.4", "5.2.3"))


def _answers(refused: Sequence[SMTPRecipientRefused]) -> str:
    return "; ".join(f"<{exc.recipient}> {exc.code} {exc.message}" for exc in refused)


def _addresses(message: EmailMessage, name: str) -> list[str]:
    header = message[name]
    assert isinstance(header, AddressHeader)
    return [address.addr_spec for address in header.addresses]


def _password(smtp: Smtp) -> str:
    if smtp.password_file is None:
        return ""
    with open(smtp.password_file, encoding="utf-8") as file:
        return file.read().rstrip("\r\n")


def _forms(user: str, password: str) -> list[str]:
    """The password as it is sent, which no text may hold (RFC 4616, LOGIN)."""
    plain = f"\0{user}\0{password}".encode()
    forms = [
        password,
        *(base64.b64encode(b).decode() for b in (plain, password.encode())),
    ]
    return [form for form in forms if form]


@lru_cache(maxsize=1)
def _own_name() -> str:
    """The name for EHLO; looked up once, since a resolver may be slow."""
    name = socket.getfqdn()
    return name if name.isascii() and name else "localhost"
