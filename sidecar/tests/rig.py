# Copyright (C) The ngx_vd_module authors
"""nginx with the module, as a test needs it."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional, Sequence, Union

from journal_writer import BODY
from processes import (
    PATIENCE,
    REPOSITORY,
    Failed,
    children,
    end,
    kill,
    kill_family,
    make_directory,
    port_of,
    remove_directory,
    reserve_port,
    spawn,
    wait_for,
)

NGINX = os.environ.get("NGINX_BINARY", "/usr/sbin/nginx")
MODULE = REPOSITORY / "build" / "ngx_http_vd_module.so"
SECRET = "the secret of the sidecar"
WORKERS = "www-data"  # user and group of nginx's workers, if the tests are root's
SERIOUS = re.compile(r"\[(emerg|alert|crit)\]")
EXPECTED = re.compile(r"exited on signal 9\b")

CONFIGURATION = """\
{user}load_module "{module}";
daemon off;
worker_processes {workers};
worker_rlimit_nofile 8192;
pid nginx.pid;
error_log error.log notice;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path temp/body;
    proxy_temp_path temp/proxy;
    fastcgi_temp_path temp/fastcgi;
    uwsgi_temp_path temp/uwsgi;
    scgi_temp_path temp/scgi;
    client_max_body_size 16m;
    keepalive_requests 1000000;
    vd_zone vd 1m;
    upstream receiver {{
        server {receiver};
        keepalive 64;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=512;
        listen "unix:{socket}";
        server_name 127.0.0.1 localhost;
        vd_secret_file secret;
        vd_journal "{journal}" {parameters};
        location = /status {{ vd_status; }}
        location = /callback {{
            vd_pass http://receiver/callback;
            vd_output callback Callback;
        }}
{locations}
    }}
    {more}
}}
"""
LOCATION = """\
        location = /outputs/{id} {{
            vd_pass {url};
            vd_output {output} "{label}";
            vd_ack {ack};
            vd_timeout {timeout};
            {more}
        }}"""


class Reply(NamedTuple):
    """An HTTP answer; ``json`` is None if it is something else."""

    status: int
    text: str
    json: Any


class Output(NamedTuple):
    """A location ``/outputs/ID``; ``url`` None is the receiver's path ``/ID``."""

    id: str
    label: str = "Security Incident"
    ack: str = "delivery"  # "journal"
    timeout: str = "30s"
    url: Optional[str] = None
    more: str = ""  # any directives
    output: Optional[str] = None  # to whom it delivers, if not to the output ID

    def location(self) -> str:
        url = self.url or f"http://receiver/{self.id}"
        output = self.output or self.id
        return LOCATION.format(**{**self._asdict(), "url": url, "output": output})


class Nginx:
    """nginx with the module, in a directory of its own, from here to ``remove()``.

    ``receiver``: the port that its outputs deliver to.  ``journal``: a directory made
    by ``make_journal()``, or its own.  ``segment``: the size after which a worker
    begins a new one, at least 4k.  Where to POST: ``url``, or ``unix``.
    """

    def __init__(
        self,
        receiver: int,
        outputs: Sequence[Union[Output, str]] = ("28",),
        *,
        journal: Optional[Path] = None,
        sync: bool = True,
        bodies: str = "failed",
        segment: str = "64m",
        workers: int = 2,
    ) -> None:
        self._prefix = make_directory("nginx")
        self._reserved = reserve_port()
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._log_seen = 0
        self._receiver = receiver
        self._count = workers
        self._parameters = (
            f"sync={'on' if sync else 'off'} bodies={bodies} segment={segment}"
        )
        self.port = port_of(self._reserved)
        self.url = f"http://127.0.0.1:{self.port}"
        self.socket = self._prefix / "nginx.sock"
        self.unix = f"unix:{self.socket}"
        self.journal = journal or make_journal(self._prefix / "journal")
        (self._prefix / "temp").mkdir()
        (self._prefix / "secret").touch(mode=0o600)
        (self._prefix / "secret").write_text(f"{SECRET}\n")
        self.configure(outputs)

    def configure(self, outputs: Sequence[Union[Output, str]], more: str = "") -> None:
        """Takes effect with ``start()`` or ``reload()``; an id is an ``Output(id)``.

        ``more``: any directives beside the ``server{}``.
        """
        full = [Output(each) if isinstance(each, str) else each for each in outputs]
        text = CONFIGURATION.format(
            user=f"user {WORKERS};\n" if os.geteuid() == 0 else "",
            module=MODULE,
            workers=self._count,
            receiver=f"127.0.0.1:{self._receiver}",
            port=self.port,
            socket=self.socket,
            journal=self.journal,
            parameters=self._parameters,
            locations="\n".join(output.location() for output in full),
            more=more,
        )
        (self._prefix / "nginx.conf").write_text(text)

    def start(self) -> None:
        """Returns once its workers are there."""
        self.socket.unlink(missing_ok=True)  # what a killed one left
        arguments = ["-p", f"{self._prefix}/", "-c", "nginx.conf", "-e", "error.log"]
        log = self._prefix / "error.log"
        self._process = spawn([NGINX, *arguments], log, on_death=signal.SIGTERM)
        wait_for(self._is_up, "nginx's workers")

    def _is_up(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise Failed(f"nginx does not run:\n{self.log()}")
        return len(self.workers()) == self._count

    def stop(self) -> None:
        """In order: attempts under way are finished, segments ended."""
        if self._process is not None:
            end(self._process, signal.SIGQUIT)
            self._process = None

    def kill(self) -> None:
        """A crash of all of it at once."""
        if self._process is not None:
            kill_family(self._process)
            self._process = None

    def reload(self) -> None:
        """Returns once only new workers take requests; old ones finish their attempts."""
        old = self.workers()
        self._master().send_signal(signal.SIGHUP)
        self._wait_for_others(old)

    def kill_workers(self) -> None:
        """A crash of all workers; returns once there are others."""
        old = self.workers()
        for pid in old:
            kill(pid)
        self._wait_for_others(old)

    def _wait_for_others(self, old: list[int]) -> None:
        wait_for(
            lambda: self._is_up() and not {*old} & {*self.workers()},
            "nginx's new workers",
        )

    def _master(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise Failed("nginx was not started")
        return self._process

    def workers(self) -> list[int]:
        """Their process ids, of those that take requests."""
        return [pid for pid in children(self._master().pid) if is_worker(pid)]

    def post(
        self,
        output: str,
        body: Union[bytes, object] = BODY,
        key: Optional[str] = None,
        attempt: Optional[int] = None,
        case: Optional[str] = None,
        timeout: float = PATIENCE,
    ) -> Reply:
        """POSTs a case; ``body`` as it is if it is bytes, else as JSON.

        ``key`` is the delivery's id, ``attempt`` is for who plays the sidecar.
        """
        given = {"Idempotency-Key": key, "VD-Attempt": attempt, "X-Case-Id": case}
        headers = {k: str(v) for k, v in given.items() if v is not None}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
        path = f"/outputs/{output}"
        return request(self.port, "POST", path, content, headers, timeout)

    def status(self) -> Any:
        """The counters, as ``vd_status`` has them in JSON."""
        return request(self.port, "GET", "/status?format=json").json

    def log(self) -> str:
        return (self._prefix / "error.log").read_text(errors="replace")

    def complaints(self) -> list[str]:
        """What was serious in the log and not our doing, since it was last asked."""
        text = self.log()
        new, self._log_seen = text[self._log_seen :], len(text)
        serious = filter(SERIOUS.search, new.splitlines())
        return [line for line in serious if not EXPECTED.search(line)]

    def remove(self) -> None:
        self.kill()
        self._reserved.close()
        remove_directory(self._prefix)


def make_journal(path: Path) -> Path:
    """A journal directory as the package makes it: the workers', their group's."""
    path.mkdir()
    if os.geteuid() == 0:
        shutil.chown(path, WORKERS, WORKERS)
    path.chmod(0o2770)
    return path


def is_worker(pid: int) -> bool:
    """Not when it is the master's copy yet, nor shutting down, nor gone."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"worker process" in title and b"shutting down" not in title


def request(
    port: int,
    method: str,
    path: str,
    body: Optional[bytes] = None,
    headers: Mapping[str, str] = {},
    timeout: float = PATIENCE,
) -> Reply:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        is_json = answer.headers.get_content_type() == "application/json"
        return Reply(answer.status, text, json.loads(text) if is_json else None)
    except http.client.HTTPException as problem:
        raise ConnectionError(repr(problem)) from problem
    finally:
        connection.close()
