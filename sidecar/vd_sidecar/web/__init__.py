# Copyright (C) The ngx_vd_module authors
"""What the sidecar serves: its pages, its API, its health and its metrics.

Reads of the store run in threads of their own, writes in the service's writer;
the event loop waits for neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from ..values import split_address
from .api import Api
from .guard import MAX_BODY, guard, prepare
from .health import Health
from .metrics import Metrics
from .pages import Pages
from .reading import Snapshot

if TYPE_CHECKING:
    from ..service import Service


async def start(service: "Service") -> web.AppRunner:
    """Listen at ``web.listen``; the caller cleans the runner up.

    ``service.retry`` and ``service.notify`` are there already.  Raises OSError
    if nobody may listen there.
    """
    runner = web.AppRunner(application(service), access_log=None, handle_signals=False)
    await runner.setup()
    host, port = split_address(service.config.web.listen)
    await web.TCPSite(runner, host, port).start()
    return runner


def application(service: "Service") -> web.Application:
    """All that is served."""
    snapshot = Snapshot(service.store)
    health = Health(service, snapshot)
    metrics = Metrics(service, snapshot)

    app = web.Application(
        middlewares=[guard(service.config.web.hosts)], client_max_size=MAX_BODY
    )
    app.on_response_prepare.append(prepare)
    app.router.add_get("/healthz", health.handle)
    app.router.add_get("/metrics", metrics.handle)
    app.router.add_routes(Api(service, snapshot).routes())
    Pages(service, snapshot).add_to(app)
    return app
