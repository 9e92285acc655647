# Copyright (C) The ngx_vd_module authors
"""Whether the tests' own tools do what they promise."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import tomllib
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import RFC_4122, UUID

import psycopg2
import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st

from conftest import MakeSidecar, StartNginx
from journal_writer import (
    EPOCH,
    Fields,
    Segment,
    accepted,
    delivered,
    failed,
    fill,
    line,
    many,
    records,
    uuid7,
)
from postgres import Postgres
from processes import is_alive, wait_for
from receiver import Answer, Receiver
from rig import Output, request


def lines(journal: Path) -> list[bytes]:
    """The records' lines of all segments."""
    found = [path.read_bytes().splitlines(keepends=True) for path in segments(journal)]
    return [text for one in found for text in one if b'"crc":' in text]


def segments(journal: Path) -> list[Path]:
    return sorted(journal.glob("*.jsonl"))


def is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# ---- nginx and the receiver ----


def test_a_case_is_delivered_and_recorded(
    start_nginx: StartNginx, receiver: Receiver, journal: Path
) -> None:
    nginx = start_nginx("28")
    reply = nginx.post("28", {"subject": "Drucker"}, key="one", case="C-1")
    assert (reply.status, reply.json["ticket_id"]) == (200, "VD-1")
    (request,) = receiver.requests(output="28", id="one")
    assert request.json == {"subject": "Drucker"}
    assert request.headers["content-type"] == "application/json"
    (record,) = records(journal)
    assert (record["id"], record["case"], record["ticket_id"]) == ("one", "C-1", "VD-1")
    assert nginx.status()["outputs"][0]["attempts"]["delivered"] in (0, 1)
    nginx.stop()
    assert b'"end":' in segments(journal)[0].read_bytes()
    assert nginx.complaints() == []


def test_an_altered_record_is_noticed(journal: Path) -> None:
    with Segment(journal) as segment:
        segment.write(failed("one").replace(b"503", b"504"))
    with pytest.raises(ValueError, match="504"):
        records(journal)


BODIES = [
    b'{"a": "\\u0000\x7f \xc3\xa4\xf0\x9f\x98\x80 \\\\ \\" /"}',
    b"[1]",
    b"\n{}\t",
]


@pytest.mark.parametrize("body", BODIES)
def test_lines_are_those_of_nginx(
    start_nginx: StartNginx, receiver: Receiver, journal: Path, body: bytes
) -> None:
    """Written with the same fields, a line is the same byte for byte."""
    label = 'Störung "ä" \\\\ 1'
    outputs = [
        Output("28", label=label.replace('"', '\\"'), more="vd_validate off;"),
        Output("29", ack="journal"),
    ]
    nginx = start_nginx(*outputs, workers=1)
    receiver.script(
        Answer(503, retry_after=7, body=b"caf\xe9 \x00\x1f\x08\x0c\xf0\x9f\x98"),
        Answer(close=True),
        200,
        output="28",
    )
    for key in ("failed", "closed", "delivered"):
        nginx.post("28", body, key=key, case='a"\\\tb\x7f')
    receiver.script(500, id="binary")
    nginx.post("28", b"\xff\x00" + body, key="binary")
    nginx.post("29", body, key="accepted")
    nginx.stop()
    written = lines(journal)
    read = records(journal)
    assert len(written) == 5
    for text, record in zip(written, read):
        sent = b"\xff\x00" + body if record["id"] == "binary" else body
        assert remade(record, sent) == text


def remade(record: Fields, body: bytes) -> bytes:
    """The record, written once more from what was read."""
    fields: dict[str, Any] = {k: v for k, v in record.items() if k not in ("v", "crc")}
    moment = datetime.fromisoformat(str(record["time"]))
    fields["time"] = (moment - EPOCH) // timedelta(milliseconds=1)
    if "body" in fields or "body_b64" in fields:
        fields.pop("body_b64", None)
        fields["body"] = body
    return line(**fields)


def test_nginx_lives_through_kills_and_reloads(start_nginx: StartNginx) -> None:
    nginx = start_nginx("28", segment="4k")
    before = nginx.workers()
    nginx.kill_workers()
    assert not set(before) & set(nginx.workers())
    nginx.configure(["28", "30"])
    nginx.reload()
    assert nginx.post("30").status == 200
    nginx.kill()
    with pytest.raises(OSError):
        nginx.post("28")
    nginx.start()
    assert nginx.post("28").status == 200
    assert len([path for path in segments(nginx.journal) if is_locked(path)]) == 1
    assert nginx.complaints() == []


def test_nginx_listens_on_a_unix_socket(start_nginx: StartNginx) -> None:
    nginx = start_nginx()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(nginx.socket))
        connection.sendall(b"GET /status HTTP/1.0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_callback_has_its_place(start_nginx: StartNginx, receiver: Receiver) -> None:
    nginx = start_nginx()
    reply = request(nginx.port, "POST", "/callback", b"{}")
    assert (reply.status, reply.json["output"]) == (200, "callback")
    assert [got.output for got in receiver.requests()] == ["callback"]


# ---- the receiver ----


def test_answers_are_as_told(start_nginx: StartNginx, receiver: Receiver) -> None:
    nginx = start_nginx("28", Output("29", timeout="2s"))
    receiver.script(500, Answer(close=True), id="one")
    receiver.script(404, output="28")
    receiver.always(Answer(hang=True), output="29")
    answers = [nginx.post("28", key=key).json for key in ("one", "one", "one", "two")]
    assert [answer["reason"] for answer in answers] == ["status", "closed"] + [
        "status",
        None,
    ]
    assert [answer["status"] for answer in answers] == [500, None, 404, 200]
    assert nginx.post("29", key="three").json["reason"] == "timeout"
    receiver.always(Answer(delay=0.2), output="29")
    assert nginx.post("29", key="three").json["state"] == "delivered"
    receiver.wait_for(6)
    (hung, delayed) = receiver.requests(id="three")
    assert hung.status is None and hung.end - hung.start > 0.25
    assert delayed.status == 200 and delayed.end - delayed.start > 0.15
    statuses = receiver.stats().statuses
    assert statuses == {500: 1, None: 2, 404: 1, 200: 2}
    assert receiver.stats().twice_at_once == []


def test_an_outage_ends(start_nginx: StartNginx, receiver: Receiver) -> None:
    nginx = start_nginx()
    receiver.refuse()
    assert nginx.post("28").json["reason"] == "connect"
    receiver.listen()
    assert nginx.post("28").json["state"] == "delivered"


def test_a_delivery_that_comes_again_has_its_ticket(
    start_nginx: StartNginx, receiver: Receiver
) -> None:
    nginx = start_nginx()
    tickets = [nginx.post("28", key=key).json["ticket_id"] for key in ("a", "b", "a")]
    assert tickets == ["VD-1", "VD-2", "VD-1"]
    assert receiver.stats().twice_at_once == []


def test_what_is_attempted_twice_at_once_is_noticed(
    start_nginx: StartNginx, receiver: Receiver
) -> None:
    nginx = start_nginx()
    receiver.always(Answer(delay=1.0))
    with ThreadPoolExecutor(3) as pool:
        for key in ("one", "one", "two"):
            pool.submit(nginx.post, "28", key=key)
    stats = receiver.stats()
    assert stats.twice_at_once == [("28", "one")]
    assert stats.max_in_flight == 3 and stats.max_by_output == {"28": 3}
    assert stats.in_flight == 0
    receiver.forget()
    assert receiver.stats().twice_at_once == [] and receiver.requests() == []


def test_a_client_that_is_gone_is_not_in_flight(receiver: Receiver) -> None:
    """Even if its end and the next attempt arrive in the same moment."""
    receiver.always(Answer(hang=True))
    post = b"POST /28 HTTP/1.1\r\nwebhook-id: one\r\nContent-Length: 0\r\n\r\n"
    for turn in range(1, 51):
        first = socket.create_connection(("127.0.0.1", receiver.port))
        first.sendall(post)
        wait_for(lambda: receiver.stats().in_flight == 1, "the request")
        with socket.create_connection(("127.0.0.1", receiver.port)) as second:
            first.close()
            second.sendall(post)
        receiver.wait_for(2 * turn)
    assert receiver.stats().twice_at_once == []


# ---- the journal's writer ----


def test_a_segment_is_locked_while_it_is_written(journal: Path) -> None:
    with Segment(journal) as segment:
        assert is_locked(segment.path)
        segment.write(accepted("one"), failed("two"))
    assert not is_locked(segment.path)
    assert segment.path.stat().st_mode & 0o777 == 0o640
    end = f'{{"v":1,"end":"{segment.uuid}","records":2}}\n'
    assert segment.path.read_bytes().endswith(end.encode())


def test_a_segment_may_end_in_anything(journal: Path) -> None:
    segment = Segment(journal)
    segment.write(delivered("one"))
    whole = segment.size
    segment.raw(failed("two")[:100])
    text = segment.crash().read_bytes()
    assert not is_locked(segment.path)
    assert len(text) == whole + 100 and not text.endswith(b"\n")


def test_a_segment_is_cut_back(journal: Path) -> None:
    with Segment(journal) as segment:
        whole = segment.size
        segment.raw(failed("torn")[:30])
        segment.cut(whole)
        segment.write(failed("next"))
    assert [record["id"] for record in records(journal)] == ["next"]


def test_many_lines_are_those_of_line(journal: Path) -> None:
    one = [failed(f"load-{number}", time=1) for number in range(7, 2507)]
    assert list(many(2500, failed("load-ID", time=1), start=7)) == one
    paths = fill(journal, one, size=400_000)
    assert len(paths) > 1
    assert sum(map(len, lines(journal))) == sum(map(len, one))


@given(st.text(), st.binary(), st.integers(0, 2**41))
def test_a_line_holds_what_it_was_given(case: str, body: bytes, time: int) -> None:
    text = line("one", case=case, body=body, time=time)
    record = json.loads(text)
    assert record["case"] == case
    assert remade(record, body) == text
    found = record.get("body", "").encode() or b64decode(record.get("body_b64", ""))
    assert found == body


def test_ids_of_segments_are_in_order() -> None:
    ids = [uuid7(time) for time in (1, 2, 1 << 40)]
    assert ids == sorted(ids)
    assert all(UUID(id).version == 7 and UUID(id).variant == RFC_4122 for id in ids)


# ---- PostgreSQL ----


def test_databases_are_separate(postgres: Postgres, postgres_url: str) -> None:
    other = postgres.create_database()
    for url in (postgres_url, other):
        with psycopg2.connect(url) as connection, connection.cursor() as cursor:
            cursor.execute('CREATE TABLE one (x text COLLATE "C")')
            cursor.execute("SHOW server_encoding")
            assert cursor.fetchone() == ("UTF8",)
        connection.close()
    postgres.drop_database(other)
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(other)


def test_postgres_comes_back_after_a_crash(
    postgres: Postgres, postgres_url: str
) -> None:
    connection = psycopg2.connect(postgres_url)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept (x int)")
    postgres.kill()
    with pytest.raises(psycopg2.OperationalError):
        connection.cursor().execute("SELECT 1")
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(postgres_url)
    postgres.start()
    connection = psycopg2.connect(postgres_url)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM kept")
        assert cursor.fetchone() == (0,)
    connection.close()


def test_a_stopped_server_is_started_for_the_next_test(postgres: Postgres) -> None:
    postgres.stop()
    assert not postgres.running
    postgres.drop_database(postgres.create_database())
    assert postgres.running
    postgres.stop()  # the next one has to cope


def test_stores_are_empty_and_writable(store_url: str) -> None:
    engine = sqlalchemy.create_engine(store_url)
    with engine.begin() as connection:
        assert sqlalchemy.inspect(connection).get_table_names() == []
        connection.execute(sqlalchemy.text("CREATE TABLE one (x int)"))
    engine.dispose()


# ---- the end ----

KILLED = """
import os, signal, sys
from pathlib import Path
from postgres import Postgres
from processes import children
from receiver import Receiver
from rig import Nginx

postgres, receiver = Postgres(), Receiver()
postgres.start()
nginx = Nginx(receiver.port)
nginx.start()
for pid in children(os.getpid()):
    print(pid, *children(pid))
print(nginx.socket.parent)
print(Path(postgres.log_file).parent, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_of_tests_that_were_killed() -> None:
    program = [sys.executable, "-c", KILLED]
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    ran = subprocess.run(program, env=here, stdout=subprocess.PIPE, text=True)
    assert ran.returncode == -signal.SIGKILL
    words = ran.stdout.split()
    pids = [int(word) for word in words if word.isdigit()]
    paths = [Path(word) for word in words if not word.isdigit()]
    assert len(pids) > 8 and len(paths) == 2
    wait_for(lambda: not any(map(is_alive, pids)), "the end of all processes")
    wait_for(lambda: not any(map(Path.exists, paths)), "their directories to go")


# ---- the sidecar's configuration ----


def test_settings_are_toml(make_sidecar: MakeSidecar, journal: Path) -> None:
    outputs = {"a.b": {"retry": {"backoff": ["1s", 'ü"\n']}}}
    sidecar = make_sidecar(smtp={"from": "a@b", "port": 25, "x": True}, outputs=outputs)
    written = tomllib.loads(sidecar.config.read_text())
    assert written == {
        "store": f"sqlite:///{sidecar.directory}/vd.db",
        "journal": str(journal),
        "web": {"listen": f"127.0.0.1:{sidecar.port}"},
        "smtp": {"from": "a@b", "port": 25, "x": True},
        "outputs": outputs,
    }


# ---- the sidecar ----


def test_the_sidecar_comes_and_goes(
    start_nginx: StartNginx, receiver: Receiver, make_sidecar: MakeSidecar
) -> None:
    """Also as another user, who reaches the journal, the store, and nginx."""
    nginx = start_nginx(Output("29", ack="journal"))
    sidecar = make_sidecar(user="nobody", nginx=nginx.unix)
    sidecar.start()
    nginx.post("29", key="one")
    receiver.wait_for(1)
    sidecar.kill()
    with pytest.raises(OSError):
        sidecar.get("/healthz")
    sidecar.start()
    nginx.post("29", key="two")
    receiver.wait_for(2)
    assert sidecar.stop() == 0
    listed = sidecar.cli_json("list")
    assert {delivery["id"] for delivery in listed} == {"one", "two"}
