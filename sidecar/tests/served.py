# Copyright (C) The ngx_vd_module authors
"""What the sidecar serves, without the parts of it that work by themselves.

Nothing is ingested, attempted or sent: a test says what the store holds, and
what the parts would say of themselves.
"""

from __future__ import annotations

import http.client
import json
from types import TracebackType
from typing import Any, Mapping, NamedTuple, Optional

from attrs import evolve

from processes import PATIENCE, port_of, reserve_port
from smtp_server import Loop
from vd_sidecar import web
from vd_sidecar.config import Config
from vd_sidecar.nginx import Nginx
from vd_sidecar.notify import Notify
from vd_sidecar.retry import Retry
from vd_sidecar.service import Service


class Answer(NamedTuple):
    """An HTTP answer; ``json`` is None if it is something else."""

    status: int
    headers: http.client.HTTPMessage
    text: str
    json: Any


class Served:
    """``with Served(config) as served:``; ``served.service`` is there to be changed."""

    def __init__(self, config: Config) -> None:
        self._reserved = reserve_port()
        self.port = port_of(self._reserved)
        listen = f"127.0.0.1:{self.port}"
        served = evolve(config.web, listen=listen)
        self.service = Service(evolve(config, web=served))
        self.store = self.service.store

    def __enter__(self) -> Served:
        self.store.migrate()
        self._loop = Loop()
        self._runner = self._loop.run(self._start())
        return self

    async def _start(self) -> Any:
        service = self.service
        service.nginx = Nginx(service.config.nginx)
        service.retry = Retry(
            service.store,
            service.config,
            service.ingest,
            service.nginx,
            service.in_writer,
        )
        service.notify = Notify(
            service.store, service.config, service.nginx, service.in_writer
        )
        return await web.start(service)

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._loop.run(self._runner.cleanup())
        self._loop.run(self.service.nginx.close())
        self._loop.close()
        self.store.close()
        self._reserved.close()

    def ask(
        self,
        path: str,
        method: str = "GET",
        body: Optional[bytes] = None,
        headers: Mapping[str, str] = {},
    ) -> Answer:
        """One request on a connection of its own."""
        return ask(self.port, path, method, body, headers)

    def post(self, path: str, asked: object, **headers: str) -> Answer:
        """JSON; ``X_Remote_User`` is the header X-Remote-User."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named.setdefault("Content-Type", "application/json")
        return self.ask(path, "POST", json.dumps(asked).encode(), named)


def ask(
    port: int,
    path: str,
    method: str = "GET",
    body: Optional[bytes] = None,
    headers: Mapping[str, str] = {},
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        text = answer.read().decode()
        is_json = answer.headers.get_content_type() == "application/json"
        value = json.loads(text) if is_json and text else None
        return Answer(answer.status, answer.headers, text, value)
    finally:
        connection.close()
