# Copyright (C) The ngx_vd_module authors
"""A real PostgreSQL, Debian's newest, in a directory of its own."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Optional
from urllib.parse import quote

import psycopg2

from processes import (
    Failed,
    end,
    kill_family,
    make_directory,
    reap,
    remove_directory,
    spawn,
    wait_for,
)

DEBIAN = Path("/usr/lib/postgresql")
SETTINGS = {
    "listen_addresses": "",
    "port": "5432",  # a part of the socket's name only
    "max_connections": "200",
    "shared_buffers": "32MB",
    "unix_socket_permissions": "0777",
    "log_min_messages": "warning",
}
CARELESS = {"fsync": "off", "full_page_writes": "off"}


class Postgres:
    """A server that listens on a unix socket in its own temporary directory.

    ``start()``, ``stop()`` (clients are cut off, nothing is lost) and ``kill()``
    (a crash) may be called in any order, for outages; the data stay.  With
    ``fsync=False`` a commit does not wait for the disk: quick, and still safe
    from ``kill()``.  ``remove()`` ends it for good.  Superuser ``postgres``, no
    password.
    """

    def __init__(self, fsync: bool = False) -> None:
        self._bin = newest()
        self._directory = make_directory("postgres")
        self._data = self._directory / "data"
        self._backup = self._directory / "backup"
        self.log_file = self._directory / "log"
        self._user = unprivileged()
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._numbers = itertools.count(1)
        settings = {
            **SETTINGS,
            **({} if fsync else CARELESS),
            "unix_socket_directories": str(self._directory),
        }
        self._options = [f"--{name}={value}" for name, value in settings.items()]
        if self._user is not None:
            shutil.chown(self._directory, self._user)
        try:
            self._initialize()
        except BaseException:
            self.remove()
            raise

    def _initialize(self) -> None:
        options = ["--auth=trust", "--username=postgres", "--no-sync"]
        command = [self._bin / "initdb", *options, "--locale=C", "--encoding=UTF8"]
        process = spawn([*command, self._data], self.log_file, user=self._user)
        if reap(process) != 0:
            raise Failed(f"initdb failed:\n{self.log()}")

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Returns once it takes connections; nothing is done if it does already."""
        if self.running:
            return
        command = [self._bin / "postgres", "-D", self._data, *self._options]
        self._process = spawn(
            command, self.log_file, user=self._user, on_death=signal.SIGQUIT
        )
        wait_for(self._answers, "PostgreSQL")

    def _answers(self) -> bool:
        if not self.running:
            raise Failed(f"PostgreSQL does not start:\n{self.log()}")
        try:
            psycopg2.connect(self.url("postgres")).close()
        except psycopg2.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """As an administrator does: its clients lose their connections."""
        if self._process is not None:
            end(self._process, signal.SIGINT)
            self._process = None

    def kill(self) -> None:
        """As the kernel does, out of memory: it and all that serve a client."""
        if self._process is not None:
            kill_family(self._process)
            self._process = None

    def back_up(self) -> None:
        """Keep a copy of all data; for that it is stopped and started."""
        self.stop()
        self._copy(self._data, self._backup)
        self.start()

    def put_back(self) -> None:
        """Stop it, and put the copy of ``back_up()`` in place of its data."""
        self.stop()
        remove_directory(self._data)
        self._copy(self._backup, self._data)

    def _copy(self, old: Path, new: Path) -> None:
        ran = subprocess.run(["cp", "-a", "--reflink=auto", old, new])
        if ran.returncode != 0:
            raise Failed(f"{old} cannot be copied")

    def create_database(self) -> str:
        """The URL of a new, empty database (UTF-8, locale C); it starts the server."""
        self.start()
        name = f"vd_{next(self._numbers)}"
        self._run(
            f"CREATE DATABASE {name} TEMPLATE template0"
            " ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
        )
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Also if somebody is still connected to it; it starts the server."""
        self.start()
        name = url.partition("@/")[2].partition("?")[0]
        self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def url(self, database: str) -> str:
        """For SQLAlchemy, and for ``psycopg2.connect`` and psql just as well."""
        host = quote(str(self._directory), safe="")
        return f"postgresql://postgres@/{database}?host={host}"

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def remove(self) -> None:
        """Ends it without ceremony and deletes all of it."""
        self.kill()
        remove_directory(self._directory)

    def _run(self, statement: str) -> None:
        connection = psycopg2.connect(self.url("postgres"))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()


def newest() -> Path:
    """Where the programs of the newest version are that is installed."""
    found = [path for path in DEBIAN.glob("*/bin") if (path / "initdb").exists()]
    if not found:
        raise Failed(f"there is no PostgreSQL in {DEBIAN}")
    return max(found, key=lambda path: float(path.parent.name))


def unprivileged() -> Optional[str]:
    """Whom to run it as: it refuses to be root's.  None: as ourselves."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
