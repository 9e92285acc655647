# Copyright (C) The ngx_vd_module authors
"""The program itself, as a test needs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from typing import Any, Mapping, Optional

from processes import (
    PATIENCE,
    REPOSITORY,
    Failed,
    end,
    make_directory,
    port_of,
    remove_directory,
    reserve_port,
    spawn,
    wait_for,
)
from rig import WORKERS, Reply, request

PROGRAM = REPOSITORY / "sidecar" / "vd-sidecar"


class Sidecar:
    """``vd-sidecar`` with a configuration of its own, from here to ``remove()``.

    ``settings`` are those of the TOML file, its tables dictionaries:
    ``Sidecar(journal=…, nginx=nginx.url, retry={"backoff": ["100ms"]})``.  Not given:
    ``store`` is SQLite in its directory, ``web`` is on a free port.  ``user``: as
    whom to run it, in the group of nginx's workers, if the tests are root's.
    """

    def __init__(self, user: Optional[str] = None, **settings: object) -> None:
        self.directory = make_directory("sidecar")
        self._reserved = reserve_port()
        self._log = self.directory / "log"
        self._user = user
        self._process: Optional[subprocess.Popen[bytes]] = None
        self.config = self.directory / "vd.toml"
        self.port = port_of(self._reserved)
        self.store = str(settings.get("store", f"sqlite:///{self.directory}/vd.db"))
        self.configure(**settings)
        if user is not None and os.geteuid() == 0:
            shutil.chown(self.directory, user)

    def configure(self, **settings: object) -> None:
        """Takes effect with the next ``start()``; what is not given is as at first."""
        web = {"listen": f"127.0.0.1:{self.port}"}
        self.config.write_text(toml({"store": self.store, "web": web, **settings}))

    def start(self, wait: bool = True) -> None:
        """Returns once it has opened its store; ``wait=False``: at once."""
        command = [sys.executable, PROGRAM, "run", "--as-root"]
        command += ["--config", self.config]
        self._process = spawn(command, self._log, user=self._user, group=WORKERS)
        if wait:
            wait_for(self._is_up, "the sidecar")

    def _is_up(self) -> bool:
        if not self.running:
            raise Failed(f"the sidecar does not run:\n{self.log()}")
        try:
            health = self.get("/healthz").json
        except OSError:
            return False
        return bool(health["checks"]["store"]["status"] != "error")

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise Failed("the sidecar was not started")
        return self._process.pid

    def stop(self) -> int:
        """In order, by SIGTERM; its exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """A crash."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> int:
        if self._process is None:
            raise Failed("the sidecar was not started")
        status = end(self._process, number)
        self._process = None
        return status

    def pause(self) -> None:
        """As if the machine slept: leases may end meanwhile."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def cli(self, command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Runs ``vd-sidecar COMMAND --config FILE ARGUMENT...`` to its end."""
        return subprocess.run(
            [PROGRAM, command, "--config", self.config, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def cli_json(self, command: str, *arguments: object) -> Any:
        """What it prints with ``--json``; raises ``Failed`` unless it succeeds."""
        ran = self.cli(command, *arguments, "--json")
        if ran.returncode != 0:
            raise Failed(f"{ran.args} failed:\n{ran.stderr}")
        return json.loads(ran.stdout)

    def get(self, path: str) -> Reply:
        """Of its web pages; raises OSError if it does not answer."""
        return request(self.port, "GET", path)

    def metric(self, name: str) -> Optional[float]:
        """By name and labels as ``/metrics`` writes them; None if it is not there."""
        found = re.search(
            rf"^{re.escape(name)} (\S+)$", self.get("/metrics").text, re.M
        )
        return float(found[1]) if found else None

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def remove(self) -> None:
        if self._process is not None:
            self.kill()
        self._reserved.close()
        remove_directory(self.directory)


def toml(table: Mapping[str, object], name: str = "") -> str:
    """TOML of nested dictionaries: tables, and of strings, numbers, lists of them."""
    plain = {k: v for k, v in table.items() if not isinstance(v, Mapping)}
    # JSON's strings, numbers and lists are TOML's too.
    lines = [f"{quoted(k)} = {quoted(v)}" for k, v in plain.items()]
    for key, inner in table.items():
        if isinstance(inner, Mapping):
            full = f"{name}.{quoted(key)}" if name else quoted(key)
            lines += ["", f"[{full}]", toml(inner, full)]
    return "\n".join(lines) + "\n"


def quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
