# Copyright (C) The ngx_vd_module authors
"""Processes, ports and directories of tests, of which nothing is left behind.

Not even if the tests are killed: ``undertaker.py`` knows of them.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Callable, Mapping, Optional, Sequence

REPOSITORY = Path(__file__).resolve().parents[2]

# Seconds, for whatever should take a moment; a busy machine may take many.  Nothing
# that goes well waits for its end.
PATIENCE = 120.0


class Failed(Exception):
    """Something that a test needs does not work."""


class Undertaker:
    """Started with the first word to it; it outlives these tests if it must."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: Optional[subprocess.Popen[bytes]] = None

    def tell(self, *words: object) -> None:
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, str(Path(__file__).with_name("undertaker.py"))],
                    stdin=subprocess.PIPE,
                    start_new_session=True,
                )
            assert self._process.stdin is not None
            self._process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
            self._process.stdin.flush()


undertaker = Undertaker()


def wait_for(
    ready: Callable[[], object], what: str, patience: float = PATIENCE
) -> None:
    """Returns once ``ready()`` is true; raises ``Failed`` after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while not ready():
        if time.monotonic() > deadline:
            raise Failed(f"waited {patience:.0f} seconds for {what}")
        time.sleep(0.005)


def make_directory(name: str) -> Path:
    """A fresh directory that other users may enter, such as nginx's workers.

    Its path is short enough for unix sockets.  The caller removes it.
    """
    path = Path(tempfile.mkdtemp(prefix=f"vd-{name}-"))
    path.chmod(0o755)
    undertaker.tell("+", "directory", path)
    return path


def remove_directory(path: Path) -> None:
    """Removes it with all that is in it, whoever made that."""
    shutil.rmtree(path, ignore_errors=True)
    undertaker.tell("-", "directory", path)


def reserve_port() -> socket.socket:
    """A free loopback port that nobody else gets while this socket is open.

    It never listens: a server with SO_REUSEADDR may, and until one does,
    connections are refused.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


def port_of(reserved: socket.socket) -> int:
    number = reserved.getsockname()[1]
    assert isinstance(number, int)
    return number


def spawn(
    command: Sequence[object],
    log: Path,
    *,
    user: Optional[str] = None,
    group: Optional[str] = None,
    on_death: int = signal.SIGKILL,
    environment: Optional[Mapping[str, str]] = None,
) -> subprocess.Popen[bytes]:
    """Starts a program whose output goes to the end of ``log``.

    ``user``: as whom, if the tests are root's; else it is ignored.  ``on_death``:
    the signal that it gets if the tests die without having waited for its end,
    which ``end()`` and ``kill_family()`` do.
    """
    wrapper = []
    if user is not None and os.geteuid() == 0:
        wrapper = [
            "setpriv",
            f"--reuid={user}",
            f"--regid={group or user}",
            "--clear-groups",
        ]
    # nginx takes a variable NGINX for a list of inherited sockets.
    inherited = {k: v for k, v in os.environ.items() if k != "NGINX"}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*wrapper, *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**inherited, **(environment or {})},
            start_new_session=True,
            cwd="/",
        )
    undertaker.tell("+", "process", process.pid, int(on_death))
    return process


def end(process: subprocess.Popen[bytes], signal_number: int = signal.SIGTERM) -> int:
    """Asks it to end, kills its group if it does not; its exit status."""
    process.send_signal(signal_number)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    return reap(process)


def reap(process: subprocess.Popen[bytes]) -> int:
    """Waits for its end; its exit status."""
    status = process.wait()
    undertaker.tell("-", "process", process.pid)
    return status


def kill_family(process: subprocess.Popen[bytes]) -> None:
    """Kills it and its children, all at one moment as far as they can tell."""
    # It must not bear a child that nobody knows of.
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: states(process.pid) <= {"T", "Z", "X"}, "the parent to stop")
    family = children(process.pid)
    process.kill()
    for pid in family:
        kill(pid)
    reap(process)
    wait_for(lambda: not any(map(is_alive, family)), f"the end of {family}")


def kill(pid: int, signal_number: int = signal.SIGKILL) -> None:
    """None of our business if it is gone already."""
    try:
        os.kill(pid, signal_number)
    except ProcessLookupError:
        pass


def states(pid: int) -> set[str]:
    """Of its threads, letters as ps has them; none when it is gone."""
    found: set[str] = set()
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for task in tasks:
        try:
            text = Path(f"/proc/{pid}/task/{task}/stat").read_text()
            found.add(text.rpartition(")")[2].split()[0])
        except OSError:
            pass  # gone meanwhile
    return found


def is_alive(pid: int) -> bool:
    """A zombie is not; one with a thread amid a sync is, and holds its files."""
    return not states(pid) <= {"Z", "X"}


def children(pid: int) -> list[int]:
    """Those of its main thread; none when it is gone."""
    try:
        return [
            int(child)
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:
        return []
