# Copyright (C) The ngx_vd_module authors
"""What an operator hears when the service cannot start, or not go on: the way out."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from conftest import MakeSidecar
from edge import started
from postgres import Postgres
from processes import wait_for
from receiver import Receiver
from sidecar import Sidecar
from vd_sidecar import troubles
from vd_sidecar.store import Store
from vd_sidecar.troubles import Troubles

NOBODY = "nobody" if os.geteuid() == 0 else None


def errors(sidecar: Sidecar) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in sidecar.log().splitlines()]
    return [line for line in lines if line["level"] == "error"]


def refused(sidecar: Sidecar) -> str:
    """The last word of one that does not start."""
    sidecar.start(wait=False)
    wait_for(lambda: not sidecar.running, "its end")
    assert sidecar.stop() == 1
    assert "Traceback" not in sidecar.log() and "Unclosed" not in sidecar.log()
    return sidecar.log().splitlines()[-1]


def test_a_journal_that_is_closed(make_sidecar: MakeSidecar, journal: Path) -> None:
    journal.chmod(0o2700 if NOBODY else 0)
    told = refused(make_sidecar(user=NOBODY))
    assert f"the journal {journal}: Permission denied" in told
    assert re.search(r"install -d -o www-data -g \S+ -m 2770 ", told)
    assert "vd-sidecar check" in told


def test_an_address_that_is_taken(make_sidecar: MakeSidecar) -> None:
    sidecar = make_sidecar()
    with socket.create_server(("127.0.0.1", sidecar.port), reuse_port=True):
        told = refused(sidecar)
    assert f"web.listen = 127.0.0.1:{sidecar.port}: Address already in use" in told
    assert "vd-sidecar check" in told


def test_a_store_that_is_another_user_s(make_sidecar: MakeSidecar) -> None:
    """As ``vd-sidecar run``, once started by root, leaves one."""
    sidecar = make_sidecar(user=NOBODY)
    file = sidecar.directory / "vd.db"
    file.touch(mode=0o600)
    if not NOBODY:
        file.chmod(0)
    sidecar.start(wait=False)
    wait_for(lambda: "trying again" in sidecar.log(), "its complaint")
    (line,) = errors(sidecar)
    assert line["part"] == "the store"
    assert f"{file} is not writable by {NOBODY or ''}" in line["error"]
    assert re.search(rf"chown \S+: {re.escape(str(file))}\*$", line["error"])
    if NOBODY:
        shutil.chown(file, NOBODY)
    file.chmod(0o600)
    wait_for(lambda: "goes on again" in sidecar.log(), "its recovery")


@pytest.mark.parametrize("mode, words", [(0o500, "is not writable"), (None, "install")])
def test_a_directory_of_the_store_that_is_closed(
    make_sidecar: MakeSidecar, directory: Path, mode: int, words: str
) -> None:
    place = directory / "store"
    if mode is not None:
        place.mkdir()
        place.chmod(mode)
    sidecar = make_sidecar(user=NOBODY, store=f"sqlite:///{place}/vd.db")
    sidecar.start(wait=False)
    wait_for(lambda: "trying again" in sidecar.log(), "its complaint")
    (line,) = errors(sidecar)
    assert str(place) in line["error"] and words in line["error"]


def test_a_store_that_is_away_is_one_line(
    receiver: Receiver, postgres: Postgres, postgres_url: str
) -> None:
    with ExitStack() as stack:
        edge = started(stack, receiver, postgres_url, "28")
        edge.fail("28", "before")
        edge.view.wait("delivered", "before")
        postgres.stop()
        try:
            wait_for(lambda: errors(edge.sidecar), "its complaint")
            edge.fail("28", "meanwhile")
            time.sleep(4)  # some six parts would each have said it four times
            (line,) = errors(edge.sidecar)
        finally:
            postgres.start()
        assert (line["event"], line["part"]) == (
            "cannot go on, trying again",
            "the store",
        )
        edge.view.wait("delivered", "meanwhile")
        wait_for(lambda: "goes on again" in edge.sidecar.log(), "the word of its end")
        assert edge.sidecar.log().count("goes on again") == 1
        assert len(errors(edge.sidecar)) == 1


def test_it_is_said_again_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(troubles, "steady", lambda: now)
    store = Store("sqlite:////var/empty/none/vd.db")
    away = OperationalError("SELECT 1", {}, Exception("unable to open database file"))
    told = Troubles(store)
    with capture_logs() as logs:
        for step in range(130):
            for part in ("ingest", "retry"):
                told.tell(part, away)
            told.tell("retention", OSError(28, "No space left on device"))
            now += 1
    assert [each["part"] for each in logs] == ["the store", "retention"] * 3
    assert "/var/empty/none" in logs[0]["error"]
    with capture_logs() as logs:
        told.over("ingest")
        told.over("mail")
        assert logs == []
        told.over("retry")
        assert (logs[0]["part"], logs[0]["seconds"]) == ("the store", 130.0)
        told.tell("ingest", away)
        assert logs[1]["event"] == "cannot go on, trying again"
    store.close()


def test_a_trouble_that_becomes_another_is_over(sqlite_url: str) -> None:
    """Or /healthz would tell of it for ever."""
    troubles = Troubles(Store(sqlite_url))
    troubles.tell("ingest", OperationalError("", {}, Exception("locked")))
    troubles.tell("ingest", OSError(13, "Permission denied", "/var/spool/vd"))
    assert list(troubles.now) == ["ingest"]
    troubles.over("ingest")
    assert troubles.now == {}
