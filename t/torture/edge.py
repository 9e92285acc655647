# Copyright (C) The ngx_vd_module authors

"""nginx with the module, in a directory of its own, and ways to kill it."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 60.0  # seconds, for whatever should take a moment
EXPECTED = re.compile(r"exited on signal 9\b")

CONFIG = """\
load_module "{module}";
{user}
worker_processes 2;
pid nginx.pid;
error_log error.log crit;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path temp/body;
    proxy_temp_path temp/proxy;
    fastcgi_temp_path temp/fastcgi;
    uwsgi_temp_path temp/uwsgi;
    scgi_temp_path temp/scgi;
    keepalive_requests 1000000;
    vd_zone torture 1m;
    upstream receiver {{
        server 127.0.0.1:{receiver_port};
        keepalive 32;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=512;
        add_header X-Worker $pid always;
        vd_secret_file secret;
        vd_validate off;
        vd_timeout 5s;
        vd_journal "{journal}" sync={sync} segment={segment};
        location /delivery {{ vd_pass http://receiver; vd_output 28; }}
        location /journal {{
            vd_pass http://receiver;
            vd_output 29;
            vd_ack journal;
        }}
        location /status {{ vd_status; }}
    }}
}}
"""


class Failed(Exception):
    """It cannot go on."""


class Edge:
    def __init__(
        self,
        nginx: Path,
        module: Path,
        prefix: Path,
        journal: Path,
        receiver_port: int,
        sync: bool,
        segment: str,
    ) -> None:
        self.port = free_port()
        self.killed: set[int] = set()  # whose segments may lack their end
        self._log_seen = 0
        self._prefix = prefix
        self._command = [str(nginx), "-p", f"{prefix}/", "-c", "nginx.conf"]
        self._command += ["-e", "error.log"]
        (prefix / "temp").mkdir()
        (prefix / "secret").write_text("the secret of the torture\n")
        (prefix / "secret").chmod(0o600)
        config = CONFIG.format(
            module=module,
            user="user root;" if os.geteuid() == 0 else "",
            port=self.port,
            receiver_port=receiver_port,
            journal=journal,
            sync="on" if sync else "off",
            segment=segment,
        )
        (prefix / "nginx.conf").write_text(config)

    def start(self) -> None:
        # nginx takes a variable NGINX for a list of inherited sockets.
        environment = {k: v for k, v in os.environ.items() if k != "NGINX"}
        ran = subprocess.run(
            self._command, env=environment, capture_output=True, text=True
        )
        if ran.returncode != 0:
            raise Failed(f"nginx does not start:\n{ran.stderr}")
        wait_for(lambda: len(self.workers()) == 2, "nginx's workers")

    def master(self) -> int | None:
        try:
            pid = int((self._prefix / "nginx.pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if is_alive(pid) else None

    def workers(self) -> list[int]:
        master = self.master()
        return [pid for pid in children(master) if is_worker(pid)] if master else []

    def kill_workers(self, *pids: int) -> None:
        for pid in pids:
            self.killed.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # it may have been killed before

    def kill_all(self) -> int:
        """How many workers died with their master."""
        master = self.master()
        if master is None:
            return 0
        # It must not bear a worker that nobody knows of.
        os.kill(master, signal.SIGSTOP)
        wait_until_stopped(master)
        workers = children(master)
        os.kill(master, signal.SIGKILL)
        wait_until_gone(master)
        (self._prefix / "nginx.pid").unlink()
        self.kill_workers(*workers)
        wait_until_gone(*workers)
        return len(workers)

    def quit(self) -> None:
        master = self.master()
        if master is None:
            raise Failed(f"nginx is gone:\n{self.complaints()}")
        os.kill(master, signal.SIGQUIT)
        wait_until_gone(master)

    def complaints(self) -> str:
        """What was logged that is not our doing, since it was last asked for."""
        text = (self._prefix / "error.log").read_text(errors="replace")
        lines = text[self._log_seen :].splitlines()
        self._log_seen = len(text)
        return "\n".join(line for line in lines if not EXPECTED.search(line))


def free_port() -> int:
    """Below what the system takes for outgoing connections, such as our own."""
    for port in random.sample(range(10_000, 32_000), 100):
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Failed("no free port found")


def states(pid: int) -> set[str]:
    """Of its threads, letters as ps has them; none when it is gone."""
    found = set()
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            found.add(path.read_text().rpartition(")")[2].split()[0])
        except OSError:
            pass  # gone meanwhile
    return found


def is_alive(pid: int) -> bool:
    """A zombie is not; one with a thread amid a sync is, and holds its files."""
    return not states(pid) <= {"Z", "X"}


def children(pid: int) -> list[int]:
    try:
        return list(
            map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        )
    except OSError:
        return []


def is_worker(pid: int) -> bool:
    """Not when it is the master's copy yet, nor when it is gone."""
    try:
        return b"worker process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def wait_until_stopped(pid: int) -> None:
    wait_for(lambda: states(pid) == {"T"}, f"{pid} to stop")


def wait_until_gone(*pids: int) -> None:
    wait_for(lambda: not any(map(is_alive, pids)), f"the end of {pids}")


def wait_for(ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > deadline:
            raise Failed(f"waited {PATIENCE:.0f} seconds for {what}")
        time.sleep(0.002)
