# Copyright (C) The ngx_vd_module authors
"""Talking to nginx: an attempt is a POST to the uri that the record names."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Mapping, Optional
from urllib.parse import urlsplit

import aiohttp
import structlog
from attrs import frozen
from yarl import URL

from . import __version__
from .model import DELIVERED, FAILED, PENDING, Answer
from .store import wall_clock

UNIX = "unix:"
CONNECT_SECONDS = 5.0
REFUSED = "internal"  # the reason of an attempt that nginx itself would not make


log = structlog.get_logger()


class NotSent(Exception):
    """nginx did not take the request: no attempt was made."""


class Refused(NotSent):
    """nginx takes no request at this uri; at others it may."""


class Lost(Exception):
    """The answer did not arrive: the attempt may have been made, or be under way."""


@frozen
class _Where:
    base: str
    socket: Optional[str]


class Nginx:
    """A client of one nginx; to be used and closed within one event loop."""

    def __init__(self, address: str) -> None:
        """``address``: http://host:port or unix:/path."""
        where = _where(address)
        self._base = where.base
        self._session = aiohttp.ClientSession(
            connector=_connector(where.socket),
            headers={"User-Agent": f"vd-sidecar/{__version__}"},
            skip_auto_headers=("Accept", "Accept-Encoding"),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def attempt(
        self,
        uri: str,
        body: bytes,
        *,
        id: str,
        attempt: Optional[int],
        content_type: Optional[str],
        timeout: float,
        case: Optional[str] = None,
    ) -> Answer:
        """Have nginx deliver ``body``; what it answered.

        Without ``attempt`` the request is as an app's; ``timeout`` in seconds.
        Raises ``NotSent`` if nginx is away or overloaded, and ``Lost`` if there is
        no telling.
        """
        headers = {"Idempotency-Key": id}
        if content_type:
            headers["Content-Type"] = content_type
        if attempt is not None:
            headers["VD-Attempt"] = str(attempt)
        if case is not None and case.isascii() and case.isprintable():
            headers["X-Case-Id"] = case
        try:
            async with self._session.post(
                URL(self._base + uri, encoded=True),
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(timeout, connect=CONNECT_SECONDS),
            ) as response:
                text = await response.read()
        except ValueError as error:
            log.error("no HTTP request can be made of it", delivery=id, error=error)
            return _refused()
        except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError) as error:
            raise NotSent(str(error)) from None
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise Lost(str(error) or type(error).__name__) from None

        return _answer(response.status, text)


def _where(address: str) -> _Where:
    if address.startswith(UNIX):
        return _Where("http://localhost", address[len(UNIX) :])
    url = urlsplit(address)
    return _Where(f"{url.scheme}://{url.netloc}", None)


def _connector(socket: Optional[str]) -> aiohttp.BaseConnector:
    if socket is not None:
        return aiohttp.UnixConnector(socket, limit=0)
    return aiohttp.TCPConnector(limit=0)


def _answer(code: int, text: bytes) -> Answer:
    keys = _keys(text)

    if keys.get("state") in (DELIVERED, PENDING, FAILED):
        return Answer(
            state=keys["state"],
            status=keys.get("status"),
            reason=keys.get("reason"),
            ticket_id=keys.get("ticket_id"),
            ticket_error=keys.get("ticket_error"),
            journaled=keys.get("journaled") is True,
            time=wall_clock(),
        )
    if 400 <= code < 500 and code not in (408, 429):
        # there is no such location any more, or its limits are others: this
        # will not mend itself, so someone must hear of it

        return _refused()
    raise Refused(f"nginx answered {code}")


def _refused() -> Answer:
    return Answer(
        state=FAILED,
        status=None,
        reason=REFUSED,
        ticket_id=None,
        ticket_error=None,
        journaled=False,
        time=wall_clock(),
    )


def _keys(text: bytes) -> Mapping[str, Any]:
    try:
        keys = json.loads(text)
    except ValueError:
        return {}
    return keys if isinstance(keys, dict) else {}
