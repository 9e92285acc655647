# Copyright (C) The ngx_vd_module authors
"""A real SMTP server (aiosmtpd) that does as it is told, and keeps its mails.

It runs in a thread of its own, on a free port of 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import email.policy
import ssl
import threading
from email.message import EmailMessage
from email.parser import BytesParser
from functools import lru_cache
from types import TracebackType
from typing import Any, Awaitable, Callable, Coroutine, NamedTuple, Optional, Self
from typing import TypeVar

import trustme
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from processes import PATIENCE

HOST = "localhost"  # as the certificate has it

T = TypeVar("T")


class Loop:
    """An event loop in a thread, to run coroutines in from without."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    def close(self) -> None:
        self.run(self._cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    async def _cancel(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class LoopServer:
    """``with`` one, it listens; in an event loop in a thread of its own."""

    _server: asyncio.AbstractServer

    def __enter__(self) -> Self:
        self._loop = Loop()
        self._loop.run(self._listen())
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._loop.run(self._end())
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()  # in its own thread: it is not safe from another

    async def _listen(self) -> None:
        """Set ``_server``."""
        raise NotImplementedError


@lru_cache
def authority() -> trustme.CA:
    """The tests' own certification authority; keys take long to make."""
    return trustme.CA()


@lru_cache
def server_tls(*names: str) -> ssl.SSLContext:
    """What a server named ``names`` needs, with a certificate of ``authority()``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(*names).configure_cert(context)
    return context


class Mail(NamedTuple):
    """One that was taken: its envelope, and its bytes as they were on the wire."""

    sender: str
    recipients: tuple[str, ...]
    data: bytes
    tls: bool
    user: Optional[str]

    @property
    def message(self) -> EmailMessage:
        parsed = BytesParser(EmailMessage, policy=email.policy.default).parsebytes(
            self.data
        )
        assert isinstance(parsed, EmailMessage)
        return parsed


class SmtpServer(LoopServer):
    """``with SmtpServer(...) as server:``, then ``server.port`` and ``server.mails``.

    ``security``: "none", "starttls" (offered) or "tls".  With ``user`` and
    ``password`` it wants a login.  ``answers`` maps a stage to what is answered
    there instead: CONNECT, EHLO, STARTTLS, AUTH, MAIL, RCPT (or a recipient's
    address), DATA, END (of the data), QUIT.  ``delays``: seconds to wait at a stage
    before.  END is answered to mails of more than ``large`` bytes.  All may be changed
    at any time.  ``commands`` has all verbs heard.
    """

    def __init__(
        self,
        security: str = "none",
        user: Optional[str] = None,
        password: Optional[str] = None,
        names: tuple[str, ...] = (HOST, "127.0.0.1"),
        size_limit: int = 32 << 20,
        port: int = 0,
    ) -> None:
        self.security = security
        self.user = user
        self.password = password
        self.size_limit = size_limit
        self.port = port
        self.answers: dict[str, str] = {}
        self.delays: dict[str, float] = {}
        self.large = 0
        self.mails: list[Mail] = []
        self.commands: list[str] = []
        self.authority = authority()
        self.tls = server_tls(*names)

    def trust(self) -> ssl.SSLContext:
        """What a client needs that trusts this server's authority, and no other."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.authority.configure_trust(context)
        return context

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = server = await loop.create_server(
            lambda: _Protocol(self, loop),
            "127.0.0.1",
            self.port,
            ssl=self.tls if self.security == "tls" else None,
        )
        self.port = server.sockets[0].getsockname()[1]


class _Protocol(SMTP):
    def __init__(self, told: SmtpServer, loop: asyncio.AbstractEventLoop) -> None:
        self.told = told
        self.greeted = False
        super().__init__(
            _Taker(told),
            hostname=HOST,
            enable_SMTPUTF8=True,  # for answers that are not ASCII
            loop=loop,
            tls_context=told.tls if told.security == "starttls" else None,
            require_starttls=told.security == "starttls",
            data_size_limit=told.size_limit,
            auth_required=told.user is not None,
            auth_require_tls=False,
            authenticator=self._check,
        )
        for verb, method in self._smtp_methods.items():
            self._smtp_methods[verb] = self._told(verb, method)

    def _told(
        self, verb: str, method: Callable[[str], Awaitable[None]]
    ) -> Callable[[str], Awaitable[None]]:
        async def command(argument: str) -> None:
            self.told.commands.append(verb)
            await asyncio.sleep(self.told.delays.get(verb, 0))
            answer = self.told.answers.get(verb)
            if verb == "RCPT":
                address = argument.partition("<")[2].partition(">")[0]
                answer = self.told.answers.get(address, answer)
            if answer is None:
                await method(argument)
            else:
                await self.push(answer)

        return command

    async def push(self, status: Any) -> None:
        if not self.greeted:
            self.greeted = True
            await asyncio.sleep(self.told.delays.get("CONNECT", 0))
            status = self.told.answers.get("CONNECT", status)
        await super().push(status)

    def _check(
        self, server: SMTP, session: Any, envelope: Any, mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        given = (data.login.decode(), data.password.decode())
        if given == (self.told.user, self.told.password):
            return AuthResult(success=True, auth_data=given[0])
        return AuthResult(success=False, handled=False)


class _Taker:
    """What aiosmtpd hands a mail to."""

    def __init__(self, told: SmtpServer) -> None:
        self.told = told

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:
        await asyncio.sleep(self.told.delays.get("END", 0))
        if "END" in self.told.answers and len(envelope.content) > self.told.large:
            return self.told.answers["END"]
        self.told.mails.append(
            Mail(
                envelope.mail_from,
                tuple(envelope.rcpt_tos),
                envelope.original_content,
                session.ssl is not None or self.told.security == "tls",
                session.auth_data,
            )
        )
        return "250 2.0.0 taken"
