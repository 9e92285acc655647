# Copyright (C) The ngx_vd_module authors
"""A server in place of Slack's incoming webhooks, in a thread of its own.

It refuses what Slack refuses: see ``_fault``.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple, Optional

from aiohttp import web

from smtp_server import LoopServer, server_tls

PATH = "/services/T00000000/B00000000/s3cr3tTokenOfTheWebhook"


class Reply(NamedTuple):
    """What a post is answered, ``delay`` seconds later."""

    status: int = 200
    text: str = "ok"
    headers: dict[str, str] = {}
    delay: float = 0.0


class SlackServer(LoopServer):
    """``with SlackServer() as slack:``, with ``tls`` for https; then ``slack.url`` and ``slack.payloads``.

    ``replies`` are given in order, one a post; after them "ok".  ``payloads`` are
    those that were answered 200; ``requests`` counts all, on whatever path.
    """

    def __init__(self, tls: bool = False) -> None:
        self._tls = server_tls("localhost") if tls else None
        self.replies: list[Reply] = []
        self.payloads: list[dict[str, Any]] = []
        self.requests = 0

    async def _listen(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._take)
        runner = web.AppRunner(app)
        await runner.setup()
        assert runner.server is not None
        loop = asyncio.get_running_loop()
        # Not a site of aiohttp's: its end waits for requests that are delayed.
        self._server = server = await loop.create_server(
            runner.server, "127.0.0.1", 0, ssl=self._tls
        )
        self.port: int = server.sockets[0].getsockname()[1]
        origin = "https://localhost" if self._tls else "http://127.0.0.1"
        self.url = f"{origin}:{self.port}{PATH}"

    async def _take(self, request: web.Request) -> web.Response:
        self.requests += 1
        body = await request.read()
        reply = self.replies.pop(0) if self.replies else Reply()
        await asyncio.sleep(reply.delay)
        if request.path != PATH or request.method != "POST":
            return web.Response(status=404, text="no_service")
        if reply.status == 200:
            payload = json.loads(body)
            fault = _fault(payload)
            if fault:
                return web.Response(status=400, text=fault)
            self.payloads.append(payload)
        return web.Response(status=reply.status, text=reply.text, headers=reply.headers)


def _fault(payload: Any) -> Optional[str]:
    """What Slack would say against it (Block Kit reference), None if nothing."""
    if not isinstance(payload, dict) or not payload.get("text"):
        return "no_text"
    blocks = payload.get("blocks", [])
    if len(blocks) > 50 or sum(len(block["text"]["text"]) for block in blocks) > 13000:
        return "invalid_blocks"
    for block in blocks:
        most = {"header": 150, "section": 3000}[block["type"]]
        if not 1 <= len(block["text"]["text"]) <= most:
            return "invalid_blocks"
    return None
