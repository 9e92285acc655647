# Copyright (C) The ngx_vd_module authors
"""Odd texts where a text is asked for, hosts with capitals, names that stay."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
from pathlib import Path
from typing import Any, Iterator
from urllib.parse import quote

import pytest
from attrs import evolve

from conftest import StartEdge
from receiver import Receiver
from served import Served
from sidecar import PROGRAM
from stored import given_up, take
from vd_sidecar import journal as journals
from vd_sidecar.config import Config, ConfigError, load

ODD = {
    "half a character": "\ud800",
    "NUL": "a\0b",
    "long": "x" * 512,
    "turned": "\u202eabc",
    "wildcards": "%_\\",
    "quotes": "'\"; --",
    "emoji": "\U0001f600",
    "control": "a\x1b[31m\r\n",
    "cursor": "1.2.\ud800",
}


@pytest.fixture
def served(config: Config) -> Iterator[Served]:
    with Served(config) as one:
        take(one.store, config, given_up("known"))
        yield one


@pytest.mark.parametrize("name", ODD)
def test_odd_texts_are_answered(served: Served, name: str) -> None:
    """By 2xx or 4xx, wherever a text is asked for; a fault would be a 500."""
    text = ODD[name]
    coded = quote(text, safe="", errors="surrogatepass")
    asked = [
        f"/api/deliveries/{coded}",
        f"/api/deliveries/{coded}?output={coded}",
        f"/deliveries/{coded}",
        f"/?sort={coded}",
        f"/{coded}",
    ]
    for key in ("search", "case", "ticket_id", "output", "state", "cursor", "since"):
        asked += [f"/api/deliveries?{key}={coded}", f"/deliveries?{key}={coded}"]
        asked += [f"/?{key}={coded}", f"/api/deliveries?{coded}={key}"]
    for path in asked:
        status = served.ask(path).status
        assert status < 500, path
    for act in ("retry", "cancel", "forget"):
        bodies: list[dict[str, Any]] = [
            {"ids": [text]},
            {"ids": ["known", text], "output": text},
            {"filter": {"search": text}},
            {"filter": {"output": [text]}},
            {"filter": {"case": text}, "cursor": text},
            {"filter": {text: text}},
            {text: text},
        ]
        for body in bodies:
            answer = served.post(f"/api/deliveries/{act}", {**body, "dry_run": True})
            assert answer.status < 500, (act, body, answer.text)


@pytest.mark.parametrize("raw", [b"\xed\xa0\x80", b"\xff", b"%_", b"-x", b"'\""])
@pytest.mark.parametrize("command", ["show", "list --search", "cancel", "forget --yes"])
def test_odd_arguments(
    config: Config, directory: Path, raw: bytes, command: str
) -> None:
    file = directory / "vd.toml"
    file.write_text(f'journal = "{config.journal}"\nstore = "{config.store}"\n')
    from vd_sidecar.store import Store

    store = Store(config.store)
    store.migrate()
    store.close()
    verb, *options = command.split()
    line: list[bytes] = [os.fsencode(PROGRAM), verb.encode(), b"--config"]
    line += [os.fsencode(file), *(each.encode() for each in options)]
    line += [raw] if options == ["--search"] else [b"--", raw]
    ran = subprocess.run(line, capture_output=True, timeout=120)
    assert ran.returncode in (0, 1, 2) and b"Traceback" not in ran.stderr


def test_hosts_with_capitals(config: Config) -> None:
    full = evolve(config, web=evolve(config.web, hosts=("VD.Example.com",)))
    with Served(full) as served:
        for host in ("vd.example.com", "VD.EXAMPLE.COM", "Vd.Example.Com:8089"):
            connection = http.client.HTTPConnection("127.0.0.1", served.port)
            connection.request("GET", "/api/deliveries", headers={"Host": host})
            assert connection.getresponse().status == 200, host
            connection.close()
        connection = http.client.HTTPConnection("127.0.0.1", served.port)
        connection.request("GET", "/api/deliveries", headers={"Host": "evil.example"})
        assert connection.getresponse().status == 421
        connection.close()


@pytest.mark.parametrize(
    "store", ["sqlite:////db/q?x.db", "sqlite:////db/q?", "sqlite:////db/q?mode=ro"]
)
def test_a_store_with_a_question_mark(tmp_path: Path, store: str) -> None:
    file = tmp_path / "vd.toml"
    file.write_text(f'journal = "/j"\nstore = "{store}"\n')
    with pytest.raises(ConfigError, match="sqlite"):
        load(str(file))


def test_an_edge_keeps_its_name(
    journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host is called otherwise after a move, the edge is not."""
    file = tmp_path / "vd.toml"
    file.write_text(f'journal = "{journal}"\nstore = "sqlite:////s"\n')
    monkeypatch.setattr(socket, "gethostname", lambda: "old")
    first = load(str(file)).edge
    assert first == f"old:{journal}"  # as it was called by versions before
    journals.remember_edge(str(journal), first)
    monkeypatch.setattr(socket, "gethostname", lambda: "new")
    assert load(str(file)).edge == first
    journals.remember_edge(str(journal), "other")
    assert load(str(file)).edge == first
    file.write_text(file.read_text() + 'edge = "mine"\n')
    assert load(str(file)).edge == "mine"
    (journal / "edge").write_bytes(b"\xff\0")
    assert journals.known_edge(str(journal)) is None


def test_the_service_notes_it(sqlite_edge: StartEdge, receiver: Receiver) -> None:
    edge = sqlite_edge("28")
    noted = (edge.nginx.journal / "edge").read_text().strip()
    assert noted.endswith(f":{edge.nginx.journal}")
    edge.fail("28", "taken")
    edge.view.wait("delivered", "taken")
