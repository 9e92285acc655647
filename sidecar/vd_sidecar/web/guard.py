# Copyright (C) The ngx_vd_module authors
"""What holds for every request: who may ask for a change, and how errors look."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Awaitable, Callable, Collection, Protocol
from urllib.parse import urlsplit

import structlog
from aiohttp import web
from sqlalchemy.exc import SQLAlchemyError

from .reading import Away, reason

MAX_BODY = 1 << 20  # bytes
SAFE = ("GET", "HEAD")
API = "/api/"

FOR_PROGRAMS = ("/healthz", "/metrics")  # numbers alone, by whatever name

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = structlog.get_logger()


class Middleware(Protocol):
    async def __call__(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        """What stands between aiohttp and a handler."""


class Refused(Exception):
    """A request that cannot be answered; the text is for who asked."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


def guard(hosts: Collection[str]) -> Middleware:
    """Refuse what another site has a browser ask; turn errors into answers.

    ``hosts``: the names by which browsers may know us, besides addresses; capitals do
    not matter in them.
    """
    hosts = {name.lower() for name in hosts}

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await _guarded(request, handler, hosts)

    return middleware


async def _guarded(
    request: web.Request, handler: Handler, hosts: Collection[str]
) -> web.StreamResponse:
    try:
        if request.path not in FOR_PROGRAMS and not _known(request, hosts):
            raise Refused(
                f'the page is not known as "{request.host}": '
                "add the name to hosts in [web] of the configuration",
                421,
            )
        if request.method not in SAFE and not same_site(request):
            raise Refused("another site's page may not ask for this", 403)
        return await handler(request)
    except Refused as error:
        return _error(error.status, str(error))
    except Away as error:
        return _error(503, f"the store is away: {error}")
    except SQLAlchemyError as error:
        return _error(503, f"the store is away: {reason(error)}")
    except web.HTTPException as error:
        if error.status < 400 or not request.path.startswith(API):
            raise
        response = _error(error.status, error.reason)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except Exception:
        log.exception("a request failed", method=request.method, path=request.path)
        return _error(500, "this is a fault of the sidecar; see its log")


def same_site(request: web.Request) -> bool:
    """Whether a request comes from our own pages, or from no browser at all.

    A browser that does not say so itself (Sec-Fetch-Site, of the Fetch Metadata
    specification) sends an Origin with whatever could change something.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("Origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.lower() == request.host.lower()
    except ValueError:
        return False


def _known(request: web.Request, hosts: Collection[str]) -> bool:
    """Whether a browser came by a name of ours.

    Any site may give its own name our address, and read us in its visitors'
    browsers (DNS rebinding); it cannot so by an address, or by our names.
    """
    try:
        name = urlsplit("//" + request.host).hostname or ""
    except ValueError:
        return False
    return name in hosts or name == "localhost" or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


async def prepare(request: web.Request, response: web.StreamResponse) -> None:
    """The headers of every answer."""
    response.headers["Server"] = "vd-sidecar"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
