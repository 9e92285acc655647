# Copyright (C) The ngx_vd_module authors
"""Each part of the service by itself: what stops one for a while ends nothing.

And what systemd hears: that it is ready before the store is there, that it lives
while the store is away, and that it does not when its writer is stuck.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any, Awaitable, Callable, Iterator

import pytest
from attrs import evolve
from sqlalchemy.exc import IntegrityError, OperationalError
from structlog.testing import capture_logs

import vd_sidecar.service
from conftest import MakeSidecar, StartEdge
from postgres import Postgres
from processes import port_of, reserve_port, wait_for
from receiver import Receiver
from served import Answer, ask
from vd_sidecar import retention
from vd_sidecar.clock import steady
from vd_sidecar.config import Config
from vd_sidecar.ingest import Ingest
from vd_sidecar.notify import Notify
from vd_sidecar.retry import Retry
from vd_sidecar.service import Service

ERRORS = (
    ValueError("bad value"),
    KeyError("key"),
    TypeError("type"),
    OSError(28, "No space left on device"),
    UnicodeEncodeError("ascii", "\u00e4", 0, 1, "ordinal not in range"),
    OperationalError("SELECT 1", {}, Exception("the disk is full")),
    IntegrityError("INSERT", {}, Exception("not unique")),
    RecursionError("deep"),
    AssertionError(),
    MemoryError(),
    asyncio.TimeoutError(),
)
PARTS: dict[str, tuple[Any, str]] = {
    "ingest": (Ingest, "step"),
    "retry": (Retry, "step"),
    "retention": (retention, "step"),
    "backup": (Notify, "_claim"),
    "alert-mail": (Notify, "_claim"),
    "alert-slack": (Notify, "_claim"),
    "callback": (Notify, "_claim"),
}


@pytest.fixture
def address() -> Iterator[str]:
    reserved = reserve_port()
    yield f"127.0.0.1:{port_of(reserved)}"
    reserved.close()


def serve(config: Config, look: Callable[[Service], Awaitable[None]]) -> None:
    """Run the service in this process, and end it in order when ``look`` has."""

    async def run() -> None:
        service = Service(config)
        task = asyncio.create_task(service.run(lambda: config, lambda: None))
        try:
            await asyncio.wait_for(service._opened.wait(), 60)
            await look(service)
            assert not task.done()
        finally:
            service._stopping.set()
            await task

    asyncio.run(run())


async def until(ready: Callable[[], object]) -> None:
    end = steady() + 60
    while not ready():
        assert steady() < end
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("part", PARTS)
def test_no_part_ends_the_whole(
    config: Config,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    error: Exception,
) -> None:
    """It is said once, and by /healthz; the others go on, and so does it later."""
    owner, name = PARTS[part]
    honest = getattr(owner, name)
    broken = [True]
    tries = [0]

    def step(*arguments: Any) -> Any:
        if broken[0] and (name != "_claim" or arguments[1] == part):
            tries[0] += 1
            raise error
        return honest(*arguments)

    monkeypatch.setattr(owner, name, step)
    monkeypatch.setattr(vd_sidecar.service, "TROUBLE_SECONDS", (0.02,))
    monkeypatch.setattr(vd_sidecar.service, "RETENTION_SECONDS", 0.05)
    host, port = address.split(":")
    full = evolve(config, web=evolve(config.web, listen=address))

    async def look(service: Service) -> None:
        await until(lambda: tries[0] >= 3)
        answer: Answer = await asyncio.to_thread(ask, int(port), "/healthz")
        check = answer.json["checks"]["parts"]
        assert (answer.status, check["status"]) == (503, "error")
        what = "the store" if hasattr(error, "orig") else part
        assert check["text"].startswith(f"cannot go on: {what}: ")
        if not isinstance(error, OSError) and not hasattr(error, "orig"):
            assert type(error).__name__ in check["text"]
        broken[0] = False
        await until(lambda: not service.troubles.now)
        answer = await asyncio.to_thread(ask, int(port), "/healthz")
        assert (answer.status, answer.json["status"]) == (200, "ok")

    with capture_logs() as logs:
        serve(full, look)
    said = [each for each in logs if each["event"].startswith("cannot go on")]
    assert len(said) == 1 and tries[0] >= 3
    assert [each["event"] for each in logs][-1] == "stopping"


# ---- what systemd hears ----


class Systemd:
    """The socket that a unit of Type=notify writes to."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        os.chmod(self.path, 0o666)
        self._heard: list[str] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        # at once: who writes to a socket that is full waits

        while word := self._socket.recv(4096):
            self._heard.append(word.decode())

    def heard(self) -> list[str]:
        return list(self._heard)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.sendto(b"", str(self.path))
        self._thread.join()
        self._socket.close()


@pytest.fixture
def systemd(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    one = Systemd(directory)
    monkeypatch.setenv("NOTIFY_SOCKET", str(one.path))
    yield one
    one.close()


def test_it_is_ready_and_lives_without_a_store(
    make_sidecar: MakeSidecar, systemd: Systemd, postgres_url: str, postgres: Postgres
) -> None:
    postgres.stop()
    try:
        sidecar = make_sidecar(store=postgres_url)
        sidecar.start(wait=False)
        wait_for(lambda: "READY=1" in systemd.heard(), "its word that it is ready")
        answer = sidecar.get("/healthz")
        assert answer.status == 503
        store = answer.json["checks"]["store"]
        assert store["text"] == "the store is away: it has not been opened yet"
        page = sidecar.get("/")
        assert page.status == 503 and "has not been opened yet" in page.text
        assert sidecar.get("/api/deliveries").status == 503
        wait_for(lambda: systemd.heard().count("WATCHDOG=1") >= 3, "signs of life")
        check = sidecar.get("/healthz").json["checks"]["parts"]["text"]
        assert check.startswith("cannot go on: the store: ")
    finally:
        postgres.start()
    wait_for(lambda: sidecar.get("/healthz").status == 200, "the store")
    assert sidecar.stop() == 0
    assert systemd.heard()[-1] == "STOPPING=1"


def test_it_lives_while_the_store_is_away(
    config: Config, address: str, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For whatever time: here all that is asked of it fails."""
    monkeypatch.setattr(vd_sidecar.service, "WATCHDOG_SECONDS", 0.05)
    full = evolve(config, web=evolve(config.web, listen=address))
    away = OperationalError("BEGIN", {}, Exception("database or disk is full"))

    def fail(*arguments: object) -> None:
        raise away

    async def look(service: Service) -> None:
        monkeypatch.setattr(service.store, "writing", fail)
        monkeypatch.setattr(service.store, "reading", fail)
        service.ingested -= 1000.0
        before = len(systemd.heard())
        await until(lambda: len(systemd.heard()) >= before + 5)
        monkeypatch.undo()

    serve(full, look)


def test_a_writer_that_is_stuck_is_no_life(
    config: Config, address: str, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vd_sidecar.service, "WATCHDOG_SECONDS", 0.02)
    monkeypatch.setattr(vd_sidecar.service, "STUCK_SECONDS", 0.5)
    full = evolve(config, web=evolve(config.web, listen=address))

    async def look(service: Service) -> None:
        stuck = asyncio.create_task(service.in_writer(lambda: time.sleep(2.0)))
        await asyncio.sleep(1.0)
        before = len(systemd.heard())
        await asyncio.sleep(0.5)
        assert len(systemd.heard()) == before
        await stuck
        await until(lambda: len(systemd.heard()) > before)

    serve(full, look)


# ---- a changed configuration ----


def test_sighup(sqlite_edge: StartEdge, receiver: Receiver, systemd: Systemd) -> None:
    """What is wrong is told and changes nothing; what is right holds from then on."""
    edge = sqlite_edge("28", retry={"backoff": ["1h"]})
    pid = edge.sidecar.pid
    edge.fail("28", "before")
    edge.view.wait_attempts("before", 1)
    good = edge.sidecar.config.read_text()

    edge.sidecar.config.write_text(good + "\nnonsense = 1\n")
    os.kill(pid, signal.SIGHUP)
    wait_for(lambda: "stays as it was" in edge.sidecar.log(), "its refusal")
    line = [json.loads(each) for each in edge.sidecar.log().splitlines()][-1]
    assert "nonsense" in str(line["problems"])
    assert edge.sidecar.get("/healthz").status == 200

    edge.sidecar.config.write_text(good.replace('"1h"', '"100ms"'))
    os.kill(pid, signal.SIGHUP)
    wait_for(lambda: edge.sidecar.log().count('"started"') == 2, "its new beginning")
    assert edge.sidecar.pid == pid and edge.sidecar.running
    edge.fail("28", "after")
    edge.view.wait("delivered", "after")
    heard = systemd.heard()
    assert [each.partition("=")[0] for each in heard if "WATCHDOG" not in each] == [
        "READY",
        "RELOADING",
        "READY",
    ]
    assert edge.sidecar.stop() == 0


@pytest.mark.parametrize("what", ["listen", "journal"])
def test_sighup_with_what_cannot_be_used(
    make_sidecar: MakeSidecar, directory: Path, what: str
) -> None:
    """It is read without a fault, and yet the service could not start with it."""
    sidecar = make_sidecar()
    sidecar.start()
    pid, good = sidecar.pid, sidecar.config.read_text()
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        if what == "listen":
            bad = re.sub(r'(?m)^"listen" = .*', f'"listen" = "{taken}"', good)
        else:
            bad = re.sub(
                r'(?m)^"journal" = .*', f'"journal" = "{directory}/none"', good
            )
        assert bad != good
        sidecar.config.write_text(bad)
        os.kill(pid, signal.SIGHUP)
        wait_for(lambda: "stays as it was" in sidecar.log(), "its refusal")
    wait_for(lambda: sidecar.log().count('"started"') == 2, "its new beginning")
    assert (taken if what == "listen" else f"{directory}/none") in sidecar.log()
    assert sidecar.get("/healthz").status == 200
    assert sidecar.pid == pid and sidecar.stop() == 0


def test_sighup_amid_the_start(make_sidecar: MakeSidecar, directory: Path) -> None:
    """It is there for nobody's death, whenever it comes."""
    sidecar = make_sidecar(store=f"sqlite:///{directory}/none/vd.db")
    sidecar.start(wait=False)
    wait_for(lambda: "cannot go on" in sidecar.log(), "its complaint")
    (directory / "none").mkdir()
    for _ in range(3):
        os.kill(sidecar.pid, signal.SIGHUP)
    wait_for(lambda: '"started"' in sidecar.log(), "its beginning")
    assert sidecar.stop() == 0
