# Copyright (C) The ngx_vd_module authors

"""What the benchmarks run: nginx as the edge, and nginx as the receiver."""

import grp
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
CASE = HERE / "case.json"
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 10.0  # seconds, for whatever should take a moment

NGINX_CONF = """\
# Written by bench/run.

{user}{modules}
daemon off;
worker_processes 1;
worker_rlimit_nofile {files};
pid {name}.pid;
error_log {name}.log error;

events {{
    worker_connections {connections};
}}

http {{
    access_log off;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;

    client_body_temp_path {name}.tmp/body;
    proxy_temp_path {name}.tmp/proxy;
    fastcgi_temp_path {name}.tmp/fastcgi;
    uwsgi_temp_path {name}.tmp/uwsgi;
    scgi_temp_path {name}.tmp/scgi;

{http}
}}
"""


class Failed(Exception):
    """The benchmark cannot go on."""


class Site:
    """A directory with all that belongs to one run, and its processes."""

    def __init__(self, nginx: Path, open_files: int, directory: Path) -> None:
        self.nginx = nginx
        self.open_files = open_files
        self.prefix = Path(tempfile.mkdtemp(prefix="vd-bench-", dir=directory))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        reserved = [reserve_port() for _ in range(3)]
        self._reserved = reserved
        self.port, self.receiver_port, self.receiver_tls_port = (
            socket.getsockname()[1] for socket in reserved
        )
        self.modules_dir = modules_dir(nginx)

    def start(self, name: str, modules: list[Path], http: str) -> int:
        """Starts an nginx and returns its worker's process id."""
        (self.prefix / f"{name}.tmp").mkdir(exist_ok=True)
        config = self.prefix / f"{name}.conf"
        config.write_text(
            NGINX_CONF.format(
                name=name,
                user=worker_user(),
                modules="".join(f'load_module "{module}";\n' for module in modules),
                files=self.open_files,
                # With few left, nginx closes clients that it has not read from.
                connections=self.open_files * 5 // 4,
                http=http,
            )
        )
        command = [str(self.nginx), "-p", f"{self.prefix}/", "-c", str(config)]
        # nginx takes a variable NGINX for a list of inherited sockets.
        environment = {k: v for k, v in os.environ.items() if k != "NGINX"}
        with (self.prefix / f"{name}.err").open("wb") as errors:
            process = self.processes[name] = subprocess.Popen(
                [*command, "-e", str(self.prefix / f"{name}.log")],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        try:
            wait_for(
                lambda: process.poll() is not None or children.read_text() != "",
                f"{name}'s worker",
            )
            return int(children.read_text().split()[0])
        except (OSError, IndexError, Failed) as error:
            errors_seen = (self.prefix / f"{name}.err").read_text()
            raise Failed(f"{name} did not start:\n{errors_seen}") from error

    def stop(self, name: str) -> None:
        process = self.processes[name]
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        del self.processes[name]

    def errors(self, name: str) -> str:
        """The last that an nginx complained of."""
        lines = (self.prefix / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-3:])

    def remove(self) -> None:
        for name in list(self.processes):
            self.stop(name)
        for reserved in self._reserved:
            reserved.close()
        shutil.rmtree(self.prefix)


@contextmanager
def site(nginx: Path, open_files: int, directory: Path) -> Iterator[Site]:
    """Ends and removes everything afterwards, whatever happens."""
    made = Site(nginx, open_files, directory)
    try:
        yield made
    finally:
        for number in INTERRUPTS:
            signal.signal(number, signal.SIG_IGN)
        made.remove()


def wait_for(ready: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not ready():
        if time.monotonic() > deadline:
            raise Failed(f"waited {patience:.0f} seconds for {what}")
        time.sleep(0.02)


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


def modules_dir(nginx: Path) -> Path:
    """Where this nginx has its own modules."""
    built = subprocess.run([nginx, "-V"], capture_output=True, text=True).stderr
    found = re.search(r"--modules-path=(\S+)", built)
    return Path(found[1] if found else "/usr/lib/nginx/modules")


def cpu_seconds(pid: int) -> float:
    """What all threads of a process have spent on a processor, to the nanosecond.

    None of them may have ended in between: its share would be gone.
    """
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def memory_bytes(pid: int) -> dict[str, int]:
    """A process's "rss" and "pss"."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = dict(re.findall(r"^(Rss|Pss): +(\d+) kB$", rollup, re.M))
    return {name.lower(): int(size) * 1024 for name, size in found.items()}
