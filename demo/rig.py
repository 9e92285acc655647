# Copyright (C) The ngx_vd_module authors

"""What the demo runs: nginx with the module, the sidecar, and those around them."""

import base64
import grp
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

HERE = Path(__file__).resolve().parent
MODULE = HERE.parent / "build" / "ngx_http_vd_module.so"
SIDECAR = HERE.parent / "sidecar" / "vd-sidecar"
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 15.0  # seconds, for whatever should take a moment
BACKOFF = (1, 2)  # seconds after the first and the second failure
OPS, ARCHIVE = "ops@example.com", "archive@example.com"


T = TypeVar("T")


class Failed(Exception):
    """The demo cannot go on."""


def wait_for(find: Callable[[], T], what: str) -> T:
    """What ``find()`` returns once that is true."""
    deadline = time.monotonic() + PATIENCE
    while not (found := find()):
        if time.monotonic() > deadline:
            raise Failed(f"waited {PATIENCE:.0f} seconds for {what}")
        time.sleep(0.01)
    return found


@dataclass(frozen=True)
class Output:
    """One of the customer's, and how its receiver is set up."""

    id: str
    label: str
    form: str
    scheme: str
    secrets: tuple[str, ...]  # file names; all sign
    ack: str = "delivery"


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
        Output(
            "30",
            "Application Support - Standard",
            "signature",
            "stripe",
            ("30",),
            "journal",
        ),
    )
}


class Site:
    """A directory with all that belongs to one run, and its processes."""

    def __init__(self, nginx: Path, module: Path) -> None:
        self.nginx = nginx
        self.module = module
        self.prefix = Path(tempfile.mkdtemp(prefix="vd-demo-"))
        self.config = self.prefix / "nginx.conf"
        self.error_log = self.prefix / "error.log"
        self.receiver_log = self.prefix / "receiver.log"
        self.journal = self.prefix / "journal"
        self.sidecar_config = self.prefix / "vd-sidecar.toml"
        self.sidecar_log = self.prefix / "sidecar.log"
        self.inboxes = self.prefix / "inboxes"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._reserved = [reserve_port() for _ in range(5)]
        self.port, self.receiver_port, self.smtp_port, self.http_port, self.web_port = (
            reserved.getsockname()[1] for reserved in self._reserved
        )
        self.url = f"http://127.0.0.1:{self.port}"
        self.page = f"http://127.0.0.1:{self.web_port}/"

        self.journal.mkdir(mode=0o750)
        self.receiver_log.touch()
        self._write_secrets()
        self.config.write_text(self._configuration(), encoding="utf-8")
        self.sidecar_config.write_text(self._settings(), encoding="utf-8")

    def _write_secrets(self) -> None:
        names = [name for output in OUTPUTS.values() for name in output.secrets]
        for name in [*names, "wrong", "callback"]:
            key = base64.b64encode(secrets.token_bytes(32)).decode()
            self._write_secret(name, f"whsec_{key}\n")
        self._write_secret("slack", f"http://127.0.0.1:{self.http_port}/slack\n")

    def _write_secret(self, name: str, text: str) -> None:
        path = self.prefix / "secrets" / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(text)

    def _configuration(self) -> str:
        locations = [
            *(location(output) for output in OUTPUTS.values()),
            location(OUTPUTS["28"], "28-wrong-secret", "wrong"),
        ]
        return CONFIGURATION.format(
            user=worker_user(),
            module=quoted(str(self.module)),
            port=self.port,
            receiver_port=self.receiver_port,
            app_port=self.http_port,
            locations="\n".join(locations),
        )

    def _settings(self) -> str:
        return SETTINGS.format(
            journal=quoted(str(self.journal)),
            store=quoted(f"sqlite:///{self.prefix}/vd.db"),
            nginx=self.url,
            backoff=json.dumps([f"{seconds}s" for seconds in BACKOFF]),
            web_port=self.web_port,
            smtp_port=self.smtp_port,
            ops=OPS,
            archive=ARCHIVE,
            slack=quoted(f"{self.prefix}/secrets/slack"),
        )

    def start(self) -> None:
        self._start_receiver()
        self._start(
            "inboxes",
            [
                HERE / "inboxes",
                f"--smtp-port={self.smtp_port}",
                f"--http-port={self.http_port}",
                f"--secret-file={self.prefix}/secrets/callback",
                self.inboxes,
            ],
            self.http_port,
        )
        options = ["-p", f"{self.prefix}/", "-c", "nginx.conf", "-e", "error.log"]
        self._start("nginx", [self.nginx, *options], self.port)
        options = ["run", "--as-root", "--config", str(self.sidecar_config)]
        self._start("sidecar", [SIDECAR, *options], self.web_port)

    def _start_receiver(self) -> None:
        arguments = [f"--port={self.receiver_port}"]
        for output in OUTPUTS.values():
            arguments.append(f"--output={output.id}:{output.form}:{output.scheme}")
        # Of two secrets it knows the old one only, as in the middle of a rotation.
        for output in OUTPUTS.values():
            path = self.prefix / "secrets" / output.secrets[-1]
            arguments.append(f"--secret-file={output.id}:{path}")
        self._start("receiver", [HERE / "receiver", *arguments], self.receiver_port)

    def _start(self, name: str, command: Sequence[Path | str], port: int) -> None:
        """Returns once it listens; what it says goes to NAME.log."""
        # Whatever becomes of the demo, it does not outlive it.
        wrapper = ["setpriv", "--pdeathsig=TERM"]
        with (self.prefix / f"{name}.log").open("ab") as log, uninterrupted():
            process = subprocess.Popen(
                [*wrapper, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                # Ctrl-C is for the demo, which then ends the others.
                start_new_session=True,
            )
            self._processes[name] = process

        def is_up() -> bool:
            if process.poll() is not None:
                raise Failed(f"{name} does not run: exit status {process.returncode}")
            with socket.socket() as connection:
                return connection.connect_ex(("127.0.0.1", port)) == 0

        wait_for(is_up, f"{name} to start")

    def sidecar(self, *arguments: str) -> str:
        """What a command of the sidecar prints."""
        ran = subprocess.run(
            [SIDECAR, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self._environment(),
        )
        if ran.returncode != 0:
            raise Failed(f"vd-sidecar {' '.join(arguments)}: {ran.stderr.strip()}")
        return ran.stdout

    def sidecar_at_terminal(self, width: int, *arguments: str) -> str:
        """The same, made to fit a terminal of that width, where there are any."""
        try:
            ours, theirs = os.openpty()
        except OSError:
            return self.sidecar(*arguments)
        with os.fdopen(ours, "rb", 0) as terminal:
            process = subprocess.Popen(
                [SIDECAR, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                env={**self._environment(), "COLUMNS": str(width)},
            )
            os.close(theirs)
            printed = b"".join(iter(lambda: read_some(terminal), b""))
        if process.wait() != 0:
            raise Failed(f"vd-sidecar {' '.join(arguments)}: {printed.decode()}")
        return printed.decode().replace("\r\n", "\n")

    def _environment(self) -> dict[str, str]:
        return {**environment(), "VD_SIDECAR_CONFIG": str(self.sidecar_config)}

    def logs(self) -> str:
        """The ends of what the parts said, for who has to find out what went wrong."""
        ends = []
        for path in sorted(self.prefix.glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()[-5:]
            ends += [f"{path.name}: {line[:200]}" for line in lines]
        return "\n".join(ends)

    def remove(self) -> None:
        """Ends all processes, the last one first, and removes the directory."""
        for number in INTERRUPTS:
            signal.signal(number, signal.SIG_IGN)
        for process in reversed(self._processes.values()):
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        shutil.rmtree(self.prefix)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Interrupts wait for its end: nothing is begun that nobody knows of."""
    held: list[int] = []
    usual = {
        number: signal.signal(number, lambda number, _: held.append(number))
        for number in INTERRUPTS
    }
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
    for each in held:
        signal.raise_signal(each)


def environment() -> dict[str, str]:
    """nginx takes a variable NGINX for a list of inherited sockets; the source tree
    is kept free of bytecode."""
    kept = {key: value for key, value in os.environ.items() if key != "NGINX"}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1"}


def read_some(terminal: BinaryIO) -> bytes:
    try:
        return terminal.read(4096)
    except OSError:  # Linux says so when the other end has closed it
        return b""


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
    """As nginx and TOML write strings."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


CONFIGURATION = """\
# Written by demo/run.

{user}load_module {module};

daemon off;
worker_processes 2;
pid nginx.pid;
error_log error.log notice;

events {{
    worker_connections 256;
}}

http {{
    access_log access.log;

    client_body_temp_path body.tmp;
    proxy_temp_path proxy.tmp;
    fastcgi_temp_path fastcgi.tmp;
    uwsgi_temp_path uwsgi.tmp;
    scgi_temp_path scgi.tmp;

    vd_zone vd 1m;

    upstream receiver {{
        server 127.0.0.1:{receiver_port};
        keepalive 8;
    }}

    server {{
        listen 127.0.0.1:{port};

        vd_journal journal;

{locations}
        # The sidecar tells the app how cases ended that were answered with 202.
        location = /callback {{
            vd_pass http://127.0.0.1:{app_port}/app;
            vd_output callback "Outcomes for the app";
            vd_secret_file secrets/callback;
        }}

        location = /status {{
            vd_status;
            access_log off;
        }}
    }}
}}
"""

SETTINGS = """\
# Written by demo/run.

journal = {journal}
store = {store}
nginx = "{nginx}"
edge = "demo"

[retry]
attempts = 3
backoff = {backoff}  # where it is not a demo: minutes

[web]
listen = "127.0.0.1:{web_port}"

[smtp]
host = "127.0.0.1"
port = {smtp_port}
security = "none"
from = "vd@example.com"

[alerts]
email = ["{ops}"]
slack_webhook_file = {slack}
window = "1s"  # where it is not a demo: minutes

[backup]
email = ["{archive}"]
when = "failed"

[callback]
location = "/callback"
"""


def location(output: Output, name: str = "", wrong_secret: str = "") -> str:
    """One with a wrong secret has no journal: what fails is left to the app."""
    files = [wrong_secret] if wrong_secret else output.secrets
    directives = [
        f"vd_pass http://receiver/hooks/{output.id};",
        f"vd_output {output.id} {quoted(output.label)};",
        *(f"vd_secret_file secrets/{file};" for file in files),
        f"vd_signature {output.scheme};",
        "vd_journal off;" if wrong_secret else f"vd_ack {output.ack};",
    ]
    lines = "".join(f"    {directive}\n" for directive in directives)
    text = f"location = /outputs/{name or output.id} {{\n{lines}}}\n"
    return textwrap.indent(text, " " * 8)


@contextmanager
def running(nginx: Path, module: Path) -> Iterator[Site]:
    """Ends and removes everything afterwards."""
    with ExitStack() as stack:
        with uninterrupted():
            site = Site(nginx.resolve(), module.resolve())
            stack.callback(site.remove)
        try:
            site.start()
            yield site
        except Failed as error:
            raise Failed(f"{error}\n\n{site.logs()}") from None
