# Copyright (C) The ngx_vd_module authors
"""Posting to a Slack incoming webhook, whose URL is a secret."""

from __future__ import annotations

import asyncio
import ipaddress
import os
from typing import Mapping, Optional
from urllib.parse import urlsplit

import aiohttp

from .text import line

TIMEOUT = 15.0  # seconds, for the whole exchange
MAX_RETRY_AFTER = 3600.0  # seconds
MAX_ANSWER = 1024  # bytes


class SlackError(Exception):
    """A payload that was not taken; the text, without the URL, is for a log.

    ``permanent``: Slack will never take this payload.  What an operator can put
    right (the file, a webhook that was revoked) is not permanent.
    ``retry_after``: seconds to wait at least, where Slack said so.
    """

    def __init__(
        self, text: str, permanent: bool = False, retry_after: Optional[float] = None
    ) -> None:
        super().__init__(text)
        self.permanent = permanent
        self.retry_after = retry_after


async def post(
    session: aiohttp.ClientSession,
    url_file: str,
    payload: Mapping[str, object],
    *,
    timeout: float = TIMEOUT,
) -> None:
    """Post ``payload`` as JSON to the URL in ``url_file``, which is read each time.

    https only, save to this machine; redirects are not followed.  Returns when
    Slack has taken it, raises SlackError otherwise.  No cause is chained to it,
    since aiohttp's texts may hold the URL.
    """
    url = _read(url_file)
    try:
        async with session.post(
            url,
            json=payload,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=timeout),
        ) as response:
            answer = await response.content.read(MAX_ANSWER)
            status, headers = response.status, response.headers
    except asyncio.TimeoutError:
        raise _error(url_file, f"timed out after {timeout:g} s") from None
    except aiohttp.ClientSSLError as exc:  # before its base, of which it lacks parts
        raise _error(url_file, f"TLS: {exc}") from None
    except aiohttp.ClientConnectorError as exc:
        code = exc.os_error.errno or 0
        why = os.strerror(code) if code > 0 else exc.os_error.strerror
        raise _error(url_file, f"cannot connect: {why}") from None
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        raise _error(url_file, type(exc).__name__) from None
    if 200 <= status < 300:
        return

    text = answer.decode("utf-8", "replace")
    for secret in (url, urlsplit(url).path.strip("/")):
        text = text.replace(secret, "***") if secret else text
    raise SlackError(
        f"Slack webhook of {url_file}: HTTP {status} {line(text, 200)}".rstrip(),
        permanent=status in (400, 413),  # invalid_payload, too large
        retry_after=_seconds(headers.get("Retry-After")),
    )


def _read(url_file: str) -> str:
    """The URL in the file, checked.  Raises SlackError, without it in the text."""
    try:
        with open(url_file, encoding="utf-8") as file:
            url = file.read().strip()
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "not text"
        raise _error(url_file, f"cannot read it: {why}") from None
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or len(url.split()) != 1:
        raise _error(url_file, "it must hold a URL and nothing else")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_local(host)):
        raise _error(url_file, "its URL must begin with https://")
    return url


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _seconds(text: Optional[str]) -> Optional[float]:
    """Retry-After in seconds; Slack sends no dates."""
    if text is None or not text.isascii() or not text.isdigit():
        return None
    return min(float(text), MAX_RETRY_AFTER)


def _error(url_file: str, what: str) -> SlackError:
    return SlackError(line(f"Slack webhook of {url_file}: {what}", 500))
