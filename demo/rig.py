# Copyright (C) The ngx_vd_module authors

"""What the demo runs: a ticket system, and an nginx with the module."""

import base64
import grp
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODULE = HERE.parent / "build" / "ngx_http_vd_module.so"
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 10  # seconds, for whatever should take a moment


@dataclass(frozen=True)
class Output:
    """One of the customer's, and how its receiver is set up."""

    id: str
    label: str
    form: str
    scheme: str
    secrets: tuple[str, ...]  # file names; all sign


OUTPUTS = {
    output.id: output
    for output in (
        Output(
            "28",
            "Security Incident - Critical Alert",
            "ticket",
            "standard",
            ("28.new", "28.old"),
        ),
        Output(
            "29",
            "Infrastructure Support - High Priority",
            "workflow",
            "github",
            ("29",),
        ),
        Output("30", "Application Support - Standard", "signature", "stripe", ("30",)),
    )
}


class Failed(Exception):
    """The demo cannot go on."""


class Site:
    """A directory with all that belongs to one run, and its processes."""

    def __init__(self, nginx: Path, module: Path) -> None:
        self.nginx = nginx
        self.module = module
        self.prefix = Path(tempfile.mkdtemp(prefix="vd-demo-"))
        self.config = self.prefix / "nginx.conf"
        self.access_log = self.prefix / "access.log"
        self.error_log = self.prefix / "error.log"
        self.receiver_log = self.prefix / "receiver.log"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._reserved = [reserve_port(), reserve_port()]
        self.port, self.receiver_port = (
            reserved.getsockname()[1] for reserved in self._reserved
        )
        for log in (self.access_log, self.error_log, self.receiver_log):
            log.touch()
        self.write_secrets()
        self.config.write_text(self.configuration(), encoding="utf-8")

    def write_secrets(self) -> None:
        directory = self.prefix / "secrets"
        directory.mkdir(mode=0o700)
        names = [name for output in OUTPUTS.values() for name in output.secrets]
        for name in [*names, "wrong"]:
            (directory / name).touch(mode=0o600)
            key = base64.b64encode(secrets.token_bytes(32)).decode()
            (directory / name).write_text(f"whsec_{key}\n")

    def configuration(self) -> str:
        locations = [location(output, output.id) for output in OUTPUTS.values()]
        wrong = location(OUTPUTS["28"], "28-wrong-secret", ("wrong",))
        return CONFIGURATION.format(
            user=worker_user(),
            module=quoted(str(self.module)),
            port=self.port,
            receiver_port=self.receiver_port,
            log_format=LOG_FORMAT,
            locations="\n".join([*locations, wrong]),
        )

    def start_receiver(self) -> None:
        port_file = self.prefix / "receiver.port"
        port_file.unlink(missing_ok=True)
        arguments = [f"--port={self.receiver_port}", f"--port-file={port_file}"]
        for output in OUTPUTS.values():
            arguments.append(f"--output={output.id}:{output.form}:{output.scheme}")
        # Of two secrets it knows the old one only, as in the middle of a rotation.
        for output in OUTPUTS.values():
            path = self.prefix / "secrets" / output.secrets[-1]
            arguments.append(f"--secret-file={output.id}:{path}")
        command = [sys.executable, str(HERE / "receiver"), *arguments]
        self.start("receiver", command, self.receiver_log, port_file.exists)

    def start_nginx(self) -> None:
        arguments = ["-p", f"{self.prefix}/", "-c", str(self.config)]
        command = [str(self.nginx), *arguments, "-e", str(self.error_log)]
        self.start("nginx", command, self.prefix / "nginx.out", self.nginx_listens)

    def nginx_listens(self) -> bool:
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", self.port)) == 0

    def start(
        self, name: str, command: list[str], log: Path, ready: Callable[[], bool]
    ) -> None:
        # nginx takes a variable NGINX for a list of inherited sockets.  A session
        # of its own: Ctrl-C is for this program, which then ends the others.
        environment = {k: v for k, v in os.environ.items() if k != "NGINX"}
        errors = self.prefix / f"{name}.err"
        with log.open("ab") as stdout, errors.open("ab") as stderr:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=environment,
                start_new_session=True,
            )
        self.processes[name] = process
        deadline = time.monotonic() + PATIENCE
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{name} did not start:\n{errors.read_text()}")
            time.sleep(0.02)

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def remove(self) -> None:
        for name in list(self.processes):
            self.stop(name)
        shutil.rmtree(self.prefix)


def reserve_port() -> socket.socket:
    """A free loopback port that nobody else gets while this socket is open.

    It never listens: a server with SO_REUSEADDR may, and until one does,
    connections are refused.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


def worker_user() -> str:
    """Root's workers would else be of a user that cannot enter the directory."""
    if os.getuid() != 0:
        return ""
    user, group = pwd.getpwuid(0).pw_name, grp.getgrgid(os.getgid()).gr_name
    return f"user {user} {group};\n"


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


LOG_FORMAT = """\
    log_format vd escape=json
        '{"time":"$time_iso8601","id":"$vd_id","output":"$vd_output",'
        '"case":"$vd_case","uri":"$uri","attempt":"$vd_attempt",'
        '"outcome":"$vd_outcome","reason":"$vd_reason","status":"$vd_status",'
        '"upstream":"$upstream_addr","duration_ms":"$vd_duration",'
        '"ticket_id":"$vd_ticket_id","ticket_error":"$vd_ticket_error"}';"""

CONFIGURATION = """\
# Written by demo/run.

{user}load_module {module};

daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log notice;

events {{
    worker_connections 256;
}}

http {{
{log_format}

    access_log access.log vd;

    client_body_temp_path body.tmp;
    proxy_temp_path proxy.tmp;
    fastcgi_temp_path fastcgi.tmp;
    uwsgi_temp_path uwsgi.tmp;
    scgi_temp_path scgi.tmp;

    upstream receiver {{
        server 127.0.0.1:{receiver_port};
        keepalive 8;
    }}

    # vd_case is left at its default, the header X-Case-Id.

    server {{
        listen 127.0.0.1:{port};

{locations}    }}
}}
"""


def location(output: Output, name: str, secrets: tuple[str, ...] = ()) -> str:
    files = [f"vd_secret_file secrets/{file};" for file in secrets or output.secrets]
    directives = [
        f"vd_pass http://receiver/hooks/{output.id};",
        f"vd_output {output.id} {quoted(output.label)};",
        *files,
        f"vd_signature {output.scheme};",
        "vd_ticket_id ticket_id;",
    ]
    lines = "".join(f"    {directive}\n" for directive in directives)
    return textwrap.indent(f"location = /outputs/{name} {{\n{lines}}}\n", " " * 8)


@contextmanager
def running(nginx: Path, module: Path, keep: bool) -> Iterator[Site]:
    """Ends and removes everything afterwards, unless it came through and is kept."""
    site = Site(nginx.resolve(), module.resolve())
    kept = False
    try:
        site.start_receiver()
        site.start_nginx()
        yield site
        kept = keep
    finally:
        for number in INTERRUPTS:
            signal.signal(number, signal.SIG_IGN)
        if not kept:
            site.remove()
