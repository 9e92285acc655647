# Copyright (C) The ngx_vd_module authors
"""Fixtures: stores, journals, and configurations that go with them."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Iterator, Optional, Protocol

import profiles
import pytest
from hypothesis import settings

from edge import Edge, started
from processes import REPOSITORY, make_directory, remove_directory
from postgres import Postgres
from receiver import Receiver
from rig import Nginx, Output, make_journal
from sidecar import Sidecar
from vd_sidecar.config import Config, Retention

# Its memory of failed examples is for no commit.
os.environ.setdefault(
    "HYPOTHESIS_STORAGE_DIRECTORY", str(REPOSITORY / "build" / "hypothesis")
)


def pytest_configure() -> None:
    """What ends with SIGTERM cleans up as what ends with Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.umask(0o022)  # whose tests these are, modes are as they say
    for name in ("COLUMNS", "LINES", "SUDO_USER"):  # where they run, too
        os.environ.pop(name, None)
    settings.load_profile(profiles.ORDINARY)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A fresh directory.

    Other than those of tmp_path, users that are not root may enter it too: nginx's
    workers, PostgreSQL, a sidecar of a user of its own.
    """
    path = make_directory("test")
    yield path
    remove_directory(path)


@pytest.fixture
def journal(directory: Path) -> Path:
    """An empty journal directory, which nginx's workers can write too."""
    return make_journal(directory / "journal")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The session's server; a test may stop, kill and start it."""
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """The URL of a database of the test's own, empty."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture
def sqlite_url(directory: Path) -> str:
    """The URL of a SQLite store of the test's own, which does not exist yet."""
    return f"sqlite:///{directory}/vd.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of a store of the test's own, empty; the test runs with each kind."""
    names = {"sqlite": "sqlite_url", "postgresql": "postgres_url"}
    url = request.getfixturevalue(names[request.param])
    assert isinstance(url, str)
    return url


@pytest.fixture
def config(directory: Path, journal: Path) -> Config:
    """What a test changes to its needs: ``attrs.evolve(config, store=store_url)``.

    The test's own journal, a SQLite store, and an nginx where nobody listens.
    Segments that were read are deleted at once.
    """
    return Config(
        journal=str(journal),
        store=f"sqlite:///{directory}/vd.db",
        nginx="http://127.0.0.1:1",
        edge="edge-1",
        retention=Retention(segments=0.0),
    )


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of the test's own."""
    one = Receiver()
    try:
        yield one
    finally:
        one.remove()


class StartNginx(Protocol):
    """``rig.Nginx`` with the test's receiver and journal, started."""

    def __call__(self, *outputs: Output | str, **options: Any) -> Nginx:
        """One more, with its locations."""


@pytest.fixture
def start_nginx(receiver: Receiver, journal: Path) -> Iterator[StartNginx]:
    """``start_nginx("28", Output("29", ack="journal"), segment="4k")``.

    Started, with the test's receiver and, unless another is given, its journal.
    """
    with ExitStack() as stack:

        def start(*outputs: Output | str, **options: Any) -> Nginx:
            options.setdefault("journal", journal)
            nginx = Nginx(receiver.port, outputs or ("28",), **options)
            stack.callback(nginx.remove)
            nginx.start()
            return nginx

        yield start


class MakeSidecar(Protocol):
    def __call__(self, user: Optional[str] = None, **settings: object) -> Sidecar:
        """Of this user, with these settings."""


@pytest.fixture
def make_sidecar(journal: Path) -> Iterator[MakeSidecar]:
    """``make_sidecar(nginx=nginx.url, store=store_url)``: not yet started.

    It reads, unless another is given, the test's journal.
    """
    with ExitStack() as stack:

        def make(user: Optional[str] = None, **settings: object) -> Sidecar:
            settings.setdefault("journal", str(journal))
            sidecar = Sidecar(user, **settings)
            stack.callback(sidecar.remove)
            return sidecar

        yield make


class StartEdge(Protocol):
    def __call__(self, *locations: Output | str, **options: Any) -> Edge:
        """One more, with its locations."""


@pytest.fixture
def start_edge(receiver: Receiver, store_url: str) -> Iterator[StartEdge]:
    """``start_edge("28", retry={...})``: an ``Edge`` of the test's own, started.

    On each kind of store, with the test's receiver.
    """
    with ExitStack() as stack:
        yield lambda *locations, **options: started(
            stack, receiver, store_url, *locations, **options
        )


@pytest.fixture
def sqlite_edge(receiver: Receiver, sqlite_url: str) -> Iterator[StartEdge]:
    """The same, for what has nothing to do with the store."""
    with ExitStack() as stack:
        yield lambda *locations, **options: started(
            stack, receiver, sqlite_url, *locations, **options
        )
