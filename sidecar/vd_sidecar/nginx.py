# Copyright (C) The ngx_vd_module authors
"""Talking to nginx: an attempt is a POST to the uri that the record names.

Whatever answers at nginx's address is believed only if it speaks of this very
attempt; all else is a refusal, and as bounded as it is untrusted.
"""

from __future__ import annotations

import asyncio
import io
import json
from errno import ECONNRESET, EPIPE
from typing import Any, Callable, Mapping, Optional, Union
from urllib.parse import urlsplit

import aiohttp
import structlog
from attrs import frozen
from yarl import URL

from . import __version__, journal
from .model import DELIVERED, FAILED, PENDING, Answer, Content
from .store import wall_clock
from .text import line

UNIX = "unix:"
CONNECT_SECONDS = 5.0
ANSWER_BYTES = 65536  # nginx's own has less than a kilobyte
ANSWER_SECONDS = 10.0  # from its header to its end: it is sent as one
LARGE = 65536  # bytes of a body
QUOTED = 160  # characters of what is no answer

# The statuses with which nginx says in which state a delivery is.

CODES = {DELIVERED: (200,), PENDING: (202,), FAILED: (502, 503)}
REASONS = (
    "connect",
    "resolve",
    "tls",
    "timeout",
    "closed",
    "protocol",
    "status",
    "internal",
)

log = structlog.get_logger()


class NotSent(Exception):
    """nginx did not take the request: no attempt was made."""


class Refused(NotSent):
    """What answered made no attempt; the text says what was heard, and from whom."""


class Lost(Exception):
    """The answer did not arrive: the attempt may have been made, or be under way.

    The text says what was seen instead, and where.
    """


class _Odd(Exception):
    """An answer that is not of this attempt; the text says why."""


@frozen
class _Where:
    base: str
    socket: Optional[str]


class Nginx:
    """A client of one nginx; to be used and closed within one event loop."""

    def __init__(self, address: str) -> None:
        """``address``: http://host:port or unix:/path."""
        where = _where(address)
        self._address = address.rstrip("/")
        self._base = where.base
        self._session = aiohttp.ClientSession(
            connector=_connector(where.socket),
            headers={"User-Agent": f"vd-sidecar/{__version__}"},
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type"),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def attempt(
        self,
        uri: str,
        content: Content,
        *,
        id: str,
        output: Optional[str],
        attempt: Optional[int],
        content_type: Optional[str],
        timeout: float,
        case: Optional[str] = None,
    ) -> Answer:
        """Have nginx deliver ``content``; what it answered.

        Without ``attempt`` the request is as an app's, and ``output`` is nginx's to
        say; ``timeout`` in seconds.  Raises ``NotSent`` if nginx is away, ``Refused``
        if what it says is not of this attempt, and ``Lost`` if there is no telling.
        """
        headers = {"Idempotency-Key": id}
        if content_type is not None:
            headers["Content-Type"] = content_type
        if content.host:
            headers["Host"] = content.host
        if attempt is not None:
            headers["VD-Attempt"] = str(attempt)
        if attempt is not None and output is not None:
            headers["VD-Output"] = output
        if content.kept is not None:
            headers["VD-Kept"] = content.kept
        elif case is not None and case.isascii() and case.isprintable():
            headers["X-Case-Id"] = case  # of a record that has no "kept"

        at = f"nginx at {self._address}, {line(uri, QUOTED)}"
        if content.host:
            at += f" (Host: {line(content.host, QUOTED)})"
        try:
            async with self._session.post(
                URL(self._base + uri, encoded=True),
                data=_sent(content.body),
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(timeout, connect=CONNECT_SECONDS),
            ) as response:
                text = await _read(response)
                return _answer(response, text, id, output, attempt or 1)
        except _Odd as error:
            raise Refused(f"{at}, {error}") from None
        except aiohttp.ClientResponseError as error:
            raise Refused(f"{at}, sent no HTTP: {line(error.message)}") from None
        except ValueError as error:
            raise Refused(f"{at}: no request can be made: {line(str(error))}") from None
        except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError) as error:
            raise NotSent(str(error)) from None
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise Lost(f"{at}, {_seen(error, timeout)}") from None


def _seen(error: Exception, timeout: float) -> str:
    """What became of the answer."""
    if isinstance(error, asyncio.TimeoutError):
        return f"gave no answer within {timeout:g} s"
    shut = isinstance(error, OSError) and error.errno in (EPIPE, ECONNRESET)
    if shut or isinstance(error, aiohttp.ServerDisconnectedError):
        return "closed the connection without an answer"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "broke off its answer"
    return f"gave no answer: {line(str(error) or type(error).__name__, QUOTED)}"


def _where(address: str) -> _Where:
    if address.startswith(UNIX):
        return _Where("http://localhost", address[len(UNIX) :])
    url = urlsplit(address)
    return _Where(f"{url.scheme}://{url.netloc}", None)


def _connector(socket: Optional[str]) -> aiohttp.BaseConnector:
    if socket is not None:
        return aiohttp.UnixConnector(socket, limit=0)
    return aiohttp.TCPConnector(limit=0)


def _sent(body: bytes) -> Union[bytes, io.BytesIO]:
    """What is large is copied piece by piece, as the connection takes it."""
    return body if len(body) <= LARGE else io.BytesIO(body)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body of an answer, or as much of it as is worth reading.

    One that does not end is cut, and its connection closed with it.
    """
    text = bytearray()
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            while chunk := await response.content.read(ANSWER_BYTES):
                text += chunk
                if len(text) > ANSWER_BYTES:
                    long = f"with more than {ANSWER_BYTES} bytes"
                    raise _Odd(f"answered {_status(response)} {long}")
    except asyncio.TimeoutError:
        raise _Odd(f"answered {_status(response)} without an end") from None
    return bytes(text)


def _answer(
    response: aiohttp.ClientResponse,
    text: bytes,
    id: str,
    output: Optional[str],
    attempt: int,
) -> Answer:
    """The answer in ``text``; ``_Odd`` unless it is of this attempt in every key."""
    keys = _keys(text)
    try:
        if keys is None:
            raise ValueError("")
        _same(keys, "id", id)
        _same(keys, "attempt", attempt)
        if output is not None:
            _same(keys, "output", output)

        state = _checked(keys, "state", lambda value: value in CODES, str)
        if response.status not in CODES[state]:
            raise ValueError(f"state {state!r}")

        return Answer(
            state=state,
            status=_checked(
                keys, "status", lambda value: value in range(100, 1000), int
            ),
            reason=_checked(keys, "reason", lambda value: value in REASONS, str),
            ticket_id=journal.short(_checked(keys, "ticket_id", _any, str)),
            ticket_error=journal.short(_checked(keys, "ticket_error", _any, str)),
            journaled=_checked(keys, "journaled", _any, bool),
            time=wall_clock(),
        )
    except ValueError as error:
        said = f", not of this attempt ({error})" if str(error) else ""
        raise _Odd(f"answered {_status(response)}{said}{_quoted(response, text)}")


# What may be null.

_NULLABLE = ("status", "reason", "ticket_id", "ticket_error")


def _checked(
    keys: Mapping[str, Any], name: str, good: Callable[[Any], bool], kind: type
) -> Any:
    """The value of a key; ``ValueError`` if it is none that nginx would write."""
    if name not in keys:
        raise ValueError(f"no {name!r}")
    value = keys[name]
    if value is None and name in _NULLABLE:
        return None
    if type(value) is not kind or not good(value):
        raise ValueError(f"{name!r} is {_short(value)}")
    return value


def _same(keys: Mapping[str, Any], name: str, expected: object) -> None:
    value = keys.get(name)
    if type(value) is not type(expected) or value != expected:
        raise ValueError(f"{name!r} is {_short(value)}")


def _any(value: object) -> bool:
    return True


def _keys(text: bytes) -> Optional[Mapping[str, Any]]:
    try:
        keys = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return keys if isinstance(keys, dict) else None


def _status(response: aiohttp.ClientResponse) -> str:
    return line(f"{response.status} {response.reason or ''}", QUOTED)


def _quoted(response: aiohttp.ClientResponse, text: bytes) -> str:
    """What people need to know whose answer it is."""
    location = response.headers.get("Location")
    if location is not None:
        return f", to {line(location, QUOTED)}"
    said = line(text[: 4 * QUOTED].decode("utf-8", "replace"), QUOTED)
    return f": {said}" if said else ", with nothing in it"


def _short(value: object) -> str:
    """As JSON, but no more of it than a line; the value may be anything."""
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else line(json.dumps(value), 80)
