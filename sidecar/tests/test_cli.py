# Copyright (C) The ngx_vd_module authors
"""The commands as operators give them, and every line that they get."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator, Mapping, NamedTuple, Optional

import click
import pytest
from attrs import evolve
from click.testing import CliRunner

from journal_writer import Segment, failed
from postgres import Postgres
from processes import PATIENCE, REPOSITORY
from sidecar import PROGRAM, toml
from stored import BODY, NOON, change, delivered, given_up, one, record, stored, take
from vd_sidecar import cli, service
from vd_sidecar.config import Config
from vd_sidecar.model import CANCELLED, DELIVERED, FAILED, PENDING
from vd_sidecar.options import Moment
from vd_sidecar.store import Store, reads
from vd_sidecar.store.reads import Filter

FORGED = "\x1b]0;owned\x07\u202egnp\n\r=1+1\x9b31m"
NAMES = (
    "id output label case state created updated attempts due status reason "
    "ticket_id ticket_error"
).split()


class Ran(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Cli:
    """``vd-sidecar`` with a configuration file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._environment = {**os.environ, "VD_SIDECAR_CONFIG": str(file)}

    def __call__(self, *words: str, **environment: str) -> Ran:
        """In this process, which is quicker."""
        runner = CliRunner(mix_stderr=False)
        env: Mapping[str, Optional[str]] = {**self._environment, **environment}
        ran = runner.invoke(cli.main, words, env=env, prog_name="vd-sidecar")
        if ran.exception is not None and not isinstance(ran.exception, SystemExit):
            raise ran.exception
        return Ran(ran.exit_code, ran.stdout, ran.stderr)

    def program(self, *words: str, path: Path = PROGRAM, **environment: str) -> Ran:
        ran = subprocess.run(
            [path, *words],
            env={**self._environment, **environment},
            capture_output=True,
            timeout=PATIENCE,
        )
        assert b"Traceback" not in ran.stderr
        return Ran(ran.returncode, ran.stdout.decode(), ran.stderr.decode())

    def on_terminal(self, *words: str, columns: int = 80, answer: str = "") -> str:
        """What a terminal of this width gets; ``answer`` is typed there."""
        line = shlex.join([str(PROGRAM), *words])
        command = ["sh", "-c", f"stty cols {columns} rows 24 -opost; exec {line}"]
        leader, follower = pty.openpty()
        process = subprocess.Popen(
            command,
            env=self._environment,
            stdin=follower,
            stdout=follower,
            stderr=follower,
        )
        os.close(follower)
        os.write(leader, answer.encode())
        text = b""
        try:
            while data := os.read(leader, 65536):
                text += data
        except OSError:  # that is how its end is told
            pass
        os.close(leader)
        process.wait(10)
        return text.decode()


@pytest.fixture
def config(config: Config, store_url: str) -> Config:
    return evolve(config, store=store_url)


@pytest.fixture
def store(config: Config) -> Iterator[Store]:
    with stored(
        config,
        *given_up("lost", time=NOON, case="C-1"),
        delivered("done", time=NOON + 1000, case="C-2", ticket_id="VD-77"),
        record("waits", "29", time=NOON + 2000, reason="timeout", status=None),
    ) as store:
        yield store


@pytest.fixture
def run(config: Config, store: Store, directory: Path) -> Cli:
    return Cli(configured(config, directory))


def configured(config: Config, directory: Path, **more: object) -> Path:
    file = directory / "vd.toml"
    keys = ("journal", "store", "nginx", "edge")
    settings = {key: getattr(config, key) for key in keys}
    file.write_text(toml({**settings, **more}))
    return file


def rows(text: str) -> list[list[str]]:
    return [re.split(r"  +", line) for line in text.splitlines()]


def test_list(run: Cli) -> None:
    ran = run("list")
    assert ran.status == 0 and ran.err == ""
    titles, *found = rows(ran.out)
    assert titles[:5] == ["CREATED (UTC)", "OUTPUT", "ID", "STATE", "TICKET ID"]
    assert [row[1:7] for row in found] == [
        ["29", "waits", "pending", "-", "timeout", "-"],
        ["28", "done", "delivered", "VD-77", "200", "C-2"],
        ["28", "lost", "failed", "-", "503", "C-1"],
    ]
    assert found[2][0] == "2023-11-14 22:13:20"


@pytest.mark.parametrize("state, next_", [(PENDING, "now"), (CANCELLED, "-")])
def test_list_of_what_is_under_way(
    run: Cli, store: Store, state: str, next_: str
) -> None:
    change(store, "waits", state=state, owner="edge-1", claimed=2)
    assert rows(run("list").out)[1][8] == next_


def test_list_as_json(run: Cli) -> None:
    found = run("list", "--json").json
    assert [each["id"] for each in found] == ["waits", "done", "lost"]
    assert list(found[0]) == NAMES
    assert found[1]["created"] == "2023-11-14T22:13:21.000Z"
    assert (found[1]["due"], found[1]["ticket_id"]) == (None, "VD-77")
    assert found[0]["due"].startswith("2023-11-14T22:14:2")
    assert run("list", "--json", "--case", "nobody").json == []


@pytest.mark.parametrize(
    "words, found",
    [
        ("--output 29", "waits"),
        ("--output 28 --output 29", "waits done lost"),
        ("--state failed --state pending", "waits lost"),
        ("--since 2023-11-14T22:13:21Z", "waits done"),
        ("--since 2023-11-15T00:13:21+02:00 --until 2023-11-14T22:13:22", "done"),
        ("--until 2023-11-15", "waits done lost"),
        ("--until 2023-11-14", ""),
        ("--until 2h --since 36500d", "waits done lost"),
        ("--reason timeout", "waits"),
        ("--case C-1", "lost"),
        ("--ticket-id VD-77", "done"),
        ("--search vd-7", "done"),
        ("--limit 2", "waits done"),
    ],
)
def test_list_with_conditions(run: Cli, words: str, found: str) -> None:
    listed = run("list", "--json", *words.split())
    assert [each["id"] for each in listed.json] == found.split()


def test_list_says_that_there_are_more(run: Cli) -> None:
    assert "newest 2 are shown" in run("list", "--limit", "2").err
    assert run("list", "--limit", "3").err == ""
    nothing = run("list", "--case", "nobody")
    assert nothing == Ran(0, "", "No delivery is like that.\n")


@pytest.mark.parametrize(
    "words, text",
    [
        ("--output 92", "no delivery of output 92; outputs with some: 28, 29"),
        ("--since 5", "'5' is no time"),
        ("--since yesterday", "90m, 2h or 30d before now, a date"),
        ("--since 2026-13-01", "is no time"),
        ("--state lost", "is not one of 'delivered', 'pending'"),
        ("--reason bad", "is not one of 'connect'"),
        ("--limit 0", "x>=1"),
        ("--frobnicate", "No such option"),
    ],
)
def test_slips(run: Cli, words: str, text: str) -> None:
    ran = run("list", *words.split())
    assert ran.out == "" and ran.status == (1 if "92" in words else 2)
    assert text.replace("x>=1", "1<=x<=") in ran.err


def test_spans_are_before_now() -> None:
    context = click.Context(cli.main)
    for text, seconds in (("90m", 5400), ("2h ago", 7200), (" 30d", 2_592_000)):
        ago = time.time() * 1000 - Moment().convert(text, None, context)
        assert abs(ago - seconds * 1000) < 5000


def test_show(run: Cli) -> None:
    ran = run("show", "lost")
    assert ran.status == 0 and ran.err == ""
    text = ran.out
    assert "  output      28 (Output 28)\n".replace("      ", "     ") in text
    assert "it was given up after 3 attempts" in text
    assert "vd-sidecar retry --output 28 lost\n" in text
    assert text.count('    | {"error": "maintenance"}\n') == 3
    assert re.search(r"2023-11-14 22:15:20\.000 +3  failed +503 +12  127\.0", text)
    assert "subject" not in text and "(--body shows it)" in text
    assert (
        '  {\n    "subject": "Drucker streikt"\n  }\n'
        in run("show", "lost", "--body").out
    )


def test_show_as_json(run: Cli, store: Store, config: Config) -> None:
    (found,) = run("show", "lost", "--json", "--body").json
    assert list(found)[: len(NAMES)] == NAMES
    assert [each["attempt"] for each in found["exchanges"]] == [1, 2, 3]
    assert found["exchanges"][0]["response"] == '{"error": "maintenance"}'
    assert found["body"] == BODY.decode() and found["body_bytes"] == len(BODY)
    assert "body" not in run("show", "lost", "--json").json[0]

    take(store, config, [record("binary", body=b"\xff\0")])
    (found,) = run("show", "binary", "--json", "--body").json
    assert found["body_b64"] == "/wA="


def test_show_unknown(run: Cli) -> None:
    for words in (["nope"], ["lost", "--output", "29"], ["n\u202ex"], ["\udcff"]):
        ran = run("show", *words)
        assert ran.status == 1 and ran.out == ""
        assert "there is no such delivery" in ran.err
        assert ran.err.strip().isprintable()


def test_show_several_outputs(run: Cli, store: Store, config: Config) -> None:
    take(store, config, [record("lost", "30", body=b"[1]")])
    assert run("show", "lost").out.count("Delivery lost\n") == 2
    assert [e["output"] for e in run("show", "lost", "--json").json] == ["28", "30"]

    ran = run("show", "lost", "--body-only")
    assert (ran.status, ran.out) == (2, "")
    assert "--output: 28, 30" in ran.err
    assert run("show", "lost", "--body-only", "--output", "30").out == "[1]"


def test_body_byte_for_byte(run: Cli, store: Store, config: Config) -> None:
    body = b'{"a": 1.10, "a":\r\n\t"\\u00e4"}\xff\0'
    take(store, config, [record("odd", body=body)])
    ran = subprocess.run(
        [PROGRAM, "show", "odd", "--body-only", "--config", run.file],
        capture_output=True,
    )
    assert ran.stdout == body
    assert "not plain text" in run.on_terminal("show", "odd", "--body-only")

    take(store, config, [delivered("fresh", time=round(time.time() * 1000))])
    change(store, "done", noted=NOON)
    for id, why in (("fresh", "bodies=all"), ("done", "retention.bodies")):
        gone = run("show", id, "--body-only")
        assert (gone.status, gone.out) == (1, "")
        assert why in gone.err


@pytest.mark.parametrize(
    "values, text",
    [
        ({"due": NOON}, "has been due for"),
        ({"due": 2 * NOON}, "attempt 2, 2 of 3 in this round, at 2077"),
        ({"owner": "edge-9", "claimed": 2}, "attempt 2 is under way at edge-9"),
        ({"state": CANCELLED, "due": None}, "vd-sidecar retry --output 29 waits"),
        ({"state": FAILED, "due": None, "attempts": 1000}, "as many as can be counted"),
        ({"state": FAILED, "due": None, "attempts": 1}, "after 1 attempt;"),
    ],
)
def test_what_happens_next(
    run: Cli, store: Store, values: Mapping[str, Any], text: str
) -> None:
    change(store, "waits", **values)
    assert text in run("show", "waits").out
    assert text in run("show", "waits", "--json").json[0]["next"]


def test_retry(run: Cli, store: Store) -> None:
    ran = run("retry", "lost", SUDO_USER="ali\x1bce")
    assert ran == Ran(0, "lost (output 28): retried (was failed)\n", "")
    assert one(store, "lost").state == PENDING
    assert re.search(r"UTC  retry by ali\\x1bce\n", run("show", "lost").out)
    assert run("show", "lost", "--json").json[0]["acts"][0]["act"] == "retry"


def test_retry_says_what_it_did_not(run: Cli, store: Store) -> None:
    ran = run("retry", "done", "nope", "lost", "waits")
    assert ran.status == 1
    assert ran.out.splitlines() == [
        "lost (output 28): retried (was failed)",
        "done (output 28): not retried: "
        "it was delivered, the receiver would get it twice",
        "waits (output 29): retried",
    ]
    assert ran.err == "nope: there is no such delivery in the store\n"
    assert one(store, "lost").state == PENDING

    found = run("retry", "done", "nope", "--json")
    assert found.status == 1
    assert (found.json["done"], found.json["refused"]) == (0, 1)
    assert found.json["deliveries"][0]["refused"].startswith("it was delivered")
    assert found.json["not_found"] == ["nope: there is no such delivery in the store"]


@pytest.mark.parametrize(
    "words",
    ["", "lost --all", "lost --since 2h", "lost --state failed", "--state delivered"],
)
def test_retry_is_not_for_everything_by_a_slip(
    run: Cli, store: Store, words: str
) -> None:
    ran = run("retry", *words.split())
    assert (ran.status, ran.out) == (2, "")
    assert one(store, "lost").state == FAILED


def test_retry_with_conditions(run: Cli, store: Store, config: Config) -> None:
    for n in range(3):
        take(store, config, given_up(f"more-{n}", "29", time=NOON + 90_000))
    take(store, config, given_up("bare", "29", body=None))
    change(store, "bare", noted=NOON)

    words = ["retry", "--output", "29"]
    dry = run(*words, "--dry-run")
    assert dry.out.splitlines() == [
        "bare (output 29): not retried: its case is gone: "
        "cases are kept for 30 days (retention.bodies)",
        "3 deliveries would be retried (3 of output 29), 1 not",
    ]
    assert one(store, "more-0").state == FAILED

    assert "1 delivery would be" in run("retry", "--case", "C-1", "--dry-run").out
    since = ["--since", "2023-11-14T22:14:00Z"]
    assert "3 deliveries would be" in run("retry", *since, "--dry-run").out

    ran = run(*words)
    assert ran.status == 1
    assert "3 deliveries retried (3 of output 29), 1 not\n" in ran.out
    assert one(store, "lost").state == FAILED

    ran = run("retry", "--all", "--json")
    assert ran.json["outputs"] == {"28": 1}
    assert one(store, "lost").state == PENDING
    assert run("retry", "--state", "cancelled").out == "No delivery is like that.\n"


@pytest.mark.parametrize(
    "words, id, before, after, question",
    [
        ("retry --all", "lost", FAILED, PENDING, "Attempt 1 delivery again?"),
        ("forget lost", "lost", False, True, "Erase the content of 1 delivery?"),
        ("retry --delivered page", "page", DELIVERED, PENDING, "Send 1 delivery again"),
        (
            "retry --delivered --case C-4",
            "page",
            DELIVERED,
            PENDING,
            "Send 1 delivery again",
        ),
    ],
)
def test_it_asks_first_at_a_terminal(
    run: Cli,
    store: Store,
    config: Config,
    words: str,
    id: str,
    before: object,
    after: object,
    question: str,
) -> None:
    take(store, config, [delivered("page", time=NOON, case="C-4", body=BODY)])

    def now() -> object:
        found = one(store, id)
        return found.forgotten if words.startswith("forget") else found.state

    for answer in ("n\n", "\n", "\x04"):
        said = run.on_terminal(*words.split(), answer=answer)
        assert question in said and "[y/N]" in said
        assert now() == before
    assert question not in run.on_terminal(*words.split(), "--dry-run")
    assert now() == before
    assert question in run.on_terminal(*words.split(), answer="y\n")
    assert now() == after


def test_it_does_not_ask_where_nobody_is(
    run: Cli, store: Store, config: Config
) -> None:
    """Nor with --yes; what was delivered is sent again with --yes alone."""
    take(store, config, [delivered("page", case="C-4", body=BODY)])
    ran = run("retry", "--delivered", "page")
    assert (ran.status, ran.out) == (2, "") and "--yes" in ran.err
    assert one(store, "page").state == DELIVERED
    assert run("retry", "page").status == 1
    ran = run("retry", "--delivered", "page", "--yes")
    assert ran == Ran(0, "page (output 28): sent again (was delivered)\n", "")
    assert one(store, "page").state == PENDING
    assert run("retry", "--delivered", "--state", "failed").status == 2
    assert run("retry", "--delivered", "--all").status == 2
    ran = run("retry", "--delivered", "--output", "28", "--dry-run")
    assert "done" in ran.out and "its case is gone" in ran.out
    assert run("retry", "--all", "--yes").status == 0
    assert "[y/N]" not in run.on_terminal("forget", "lost", "--yes")
    assert one(store, "lost").forgotten


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["list", "--state", "failed"], 0),
        (["list", "--state", "nowhere"], 2),
        (["list", "--config", "/nonexistent"], 2),
        (["show", "nobody"], 1),
        (["run", "--config", "/nonexistent"], 2),
    ],
)
def test_a_standard_error_that_is_full_is_no_failure(
    run: Cli, store: Store, words: list[str], status: int
) -> None:
    environment = {**run._environment, "PYTHONUNBUFFERED": ""}
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [PROGRAM, *words],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=full,
        )
    assert ran.returncode == status


def test_one_long_value_widens_no_other_line(
    run: Cli, store: Store, config: Config
) -> None:
    """In a pipe, where nothing is cut."""
    long = {"case": "C" * 400, "ticket_id": "VD-" + "9" * 100, "label": "L" * 200}
    take(store, config, [delivered("long" * 30, "o" * 60, **long)])
    lines = run("list").out.splitlines()
    (wide,) = [line for line in lines if "longlong" in line]
    for value in ("long" * 30, "o" * 60, *long.values()):
        assert value in wide
    assert all(len(line) < 250 for line in lines if line is not wide)
    assert {line.index("  ") for line in lines[1:]} == {19}


def test_cancel(run: Cli, store: Store) -> None:
    assert run("cancel", "waits", "--dry-run").out == (
        "waits (output 29): would be cancelled\n"
    )
    assert one(store, "waits").state == PENDING
    assert run("cancel", "waits") == Ran(0, "waits (output 29): cancelled\n", "")
    assert one(store, "waits").state == CANCELLED
    again = run("cancel", "waits")
    assert again == Ran(0, "waits (output 29): cancelled (it is cancelled)\n", "")
    assert run("cancel", "done").status == 1
    assert run("cancel").status == 2


def test_forget(run: Cli, store: Store, config: Config, journal: Path) -> None:
    with Segment(journal) as segment:
        segment.write(failed("lost", case="C-1"))
        dry = run("forget", "lost", "--dry-run").out.splitlines()
        assert dry[0] == "lost (output 28): would be forgotten (it is failed)"
        assert f"would still be in {segment.path}, deleted when nginx" in dry[1]
        assert one(store, "lost").case == "C-1"

        ran = run("forget", "lost")
    assert ran.status == 0
    assert f"It is still in {segment.path}, deleted when" in ran.out
    assert one(store, "lost").case is None
    shown = run("show", "lost", "--body").out
    assert "maintenance" not in shown and "C-1" not in shown
    assert "case body   gone: it was forgotten, by an operator".replace(
        "   ", "  "
    ) in (shown)
    found = run("forget", "lost", "--json").json
    assert found["segments"][0]["path"] == str(segment.path)

    shutil.rmtree(journal)
    ran = run("forget", "lost")
    assert ran.status == 1
    assert "the journal cannot be searched" in ran.err


def test_forget_leaves_nothing_in_sqlite_files(config: Config, directory: Path) -> None:
    """While others have the store open."""
    config = evolve(config, store=f"sqlite:///{directory}/vd.db")
    run = Cli(configured(config, directory))
    secret = "geheimnisvoll"
    told: dict[str, Any] = {"case": secret, "body": secret.encode()}

    def on_disk() -> bool:
        files = directory.glob("vd.db*")
        return any(secret.encode() in path.read_bytes() for path in files)

    with stored(config, *given_up("secret", response=secret, **told)) as store:
        assert on_disk()
        with store.reading() as reader:
            reads.count(reader, Filter())
            ran = run("forget", "secret")
            assert ran.status == 0 and "its log may hold it" in ran.err
            assert on_disk()
        assert run("forget", "secret").err == ""
        assert not on_disk()


def test_export(run: Cli, store: Store, config: Config) -> None:
    evil = {"ticket_id": "=HYPERLINK(1)", "case": '@a,"b"\r\nc', "label": "-1"}
    take(store, config, [delivered("evil", "30", **evil)])
    ran = subprocess.run(
        [PROGRAM, "export", "--csv", "--config", run.file], capture_output=True
    )
    assert ran.returncode == 0 and ran.stderr == b""
    assert ran.stdout.count(b"\r\n") == 1 + 4 + 1
    found = list(csv.DictReader(io.StringIO(ran.stdout.decode(), newline="")))
    assert list(found[0]) == NAMES
    assert [row["id"] for row in found] == ["waits", "done", "evil", "lost"]
    assert found[2]["ticket_id"] == "'=HYPERLINK(1)"
    assert found[2]["case"] == '\'@a,"b"\r\nc'
    assert found[2]["label"] == "'-1"
    assert found[1]["reason"] == ""

    lines = run.program("export", "--json", "--output", "30").out.splitlines()
    assert [json.loads(line)["ticket_id"] for line in lines] == ["=HYPERLINK(1)"]
    assert json.loads(lines[0]) == run("list", "--json", "--output", "30").json[0]

    nothing = run.program("export", "--state", "cancelled")
    assert nothing == Ran(0, ",".join(NAMES) + "\r\n", "")
    assert run("export", "--csv", "--json").status == 2
    assert run("export", "--bom", "--json").status == 2


def test_export_into_a_file(run: Cli, directory: Path) -> None:
    target = directory / "out" / "x.csv"
    ran = run.program("export", "--output-file", str(target))
    assert ran.status == 1 and "No such file" in ran.err

    target.parent.mkdir()
    target.write_text("old")
    assert run.program("export", "--output-file", str(target)) == Ran(0, "", "")
    assert target.read_text().count("\n") == 4
    assert [path.name for path in target.parent.iterdir()] == ["x.csv"]
    assert target.stat().st_mode & 0o777 == 0o640

    full = run.program("export", "--output-file", "/dev/full")
    assert full.status == 1 and "No space left" in full.err


def test_export_to_who_does_not_listen(run: Cli, store: Store, config: Config) -> None:
    take(store, config, [record(f"m-{n}", time=NOON - n) for n in range(3000)])
    line = f"{PROGRAM} export --config {run.file} | head -1"
    ran = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert ran.stdout.startswith("id,") and ran.stderr == ""


@pytest.mark.parametrize(
    "words", ["list", "list --json", "show evil --body", "show evil --json", "export"]
)
def test_nothing_steers_the_terminal(
    run: Cli, store: Store, config: Config, words: str
) -> None:
    evil = record("evil", case=FORGED, response=FORGED, body=FORGED.encode())
    take(store, config, [evil])
    text = run.on_terminal(*words.split(), columns=200)
    assert "evil" in text
    for char in "\x1b\x07\u202e\x9b":
        assert char not in text
    assert text.replace("\r", "").replace("\n", "").isprintable()


@pytest.mark.parametrize("columns", [80, 100, 132, 200])
def test_a_table_fits_the_terminal(
    run: Cli, store: Store, config: Config, columns: int
) -> None:
    id = "0193b2f0-7f6c-7cc1-9d3c-6f1b2a3c4d5e"
    fields = {"case": "日本語" * 9, "ticket_id": "VD-" + "1" * 40, "label": "L" * 60}
    take(store, config, [delivered(id, **fields)])
    lines = run.on_terminal("list", columns=columns).splitlines()
    assert len(lines) == 5
    for line in lines:
        wide = sum("\u3000" < char < "\uffff" for char in line)
        assert len(line) + wide <= columns
    (row,) = [line for line in lines if id in line]
    assert "VD-11111111" in row
    assert ("日" in row) == (columns > 100)


def test_configuration_may_be_named_anywhere(run: Cli, directory: Path) -> None:
    file, other = str(run.file), str(directory / "other.toml")
    none = {"VD_SIDECAR_CONFIG": ""}
    for words in (["--config", file, "list"], ["list", "--config", file]):
        assert run(*words, **none).status == 0
    assert run("--config", other, "list", "--config", file, **none).status == 0
    assert run("list", VD_SIDECAR_CONFIG=file).status == 0

    ran = run("list", **none)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("/etc/vd/vd-sidecar.toml: cannot be read")
    Path(other).write_text('jurnal = "/x"\n')
    ran = run("list", "--config", other)
    assert ran.status == 2
    assert ran.err.splitlines()[0].startswith(f"{other}: ")
    assert f'{other}:1: unknown key "jurnal", did you mean "journal"?' in ran.err


def test_check(run: Cli) -> None:
    ran = run.program("check")
    assert ran.status == 1  # nobody listens where nginx should
    assert "error    nginx: " in ran.out and "-> " in ran.out
    found = json.loads(run.program("check", "--json").out)
    assert {"level", "subject", "text", "remedy"} == set(found[0])


def test_run_is_not_for_root(run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it makes, the service could not open."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(service, "run", lambda config: 0)
    ran = run("run")
    assert (ran.status, ran.out) == (2, "")
    assert "as root" in ran.err and "sudo -u vd" in ran.err and "--as-root" in ran.err
    assert run("run", "--as-root").status == 0
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run("run").status == 0


COMMANDS = (["list"], ["show", "x"], ["retry", "x"], ["cancel", "x"], ["forget", "x"])


@pytest.mark.parametrize("words", [*COMMANDS, ["retry", "--all"], ["export"]])
def test_no_store(config: Config, directory: Path, words: list[str]) -> None:
    """It must not be made by a look at it either."""
    run = Cli(configured(config, directory))
    ran = run(*words)
    assert (ran.status, ran.out) == (3, "")
    assert "vd-sidecar run makes" in ran.err and ran.err.count("\n") == 1
    assert not list(directory.glob("*.db*"))


def test_store_of_another_version(run: Cli, store: Store) -> None:
    for revision, text in (("9999", "a newer vd-sidecar"), ("0000", "an older")):
        with store.writing() as connection:
            connection.exec_driver_sql(
                f"UPDATE alembic_version SET version_num = '{revision}'"
            )
        ran = run("list")
        assert ran.status == 3 and text in ran.err


def test_sqlite_that_is_broken(config: Config, directory: Path) -> None:
    url = f"sqlite:///{directory}/vd.db"
    run = Cli(configured(evolve(config, store=url), directory))
    (directory / "vd.db").write_text("This is no database, but long enough" * 99)
    ran = run.program("list")
    assert ran.status == 3
    assert "file is not a database; vd-sidecar check" in ran.err


def test_sqlite_in_use(
    config: Config, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vd_sidecar.store.engine.BUSY_SECONDS", 0.2)
    config = evolve(config, store=f"sqlite:///{directory}/vd.db")
    run = Cli(configured(config, directory))
    with stored(config, record("waits")):
        other = sqlite3.connect(directory / "vd.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert run("list").status == 0
        ran = run("cancel", "waits")
        other.close()
    assert (ran.status, ran.out) == (3, "")
    assert "locked; someone writes to it for long; try again\n" in ran.err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_sqlite_of_another_user(config: Config, directory: Path) -> None:
    config = evolve(config, store=f"sqlite:///{directory}/vd.db")
    with stored(config, record("waits")):
        pass
    file = configured(config, directory)
    file.chmod(0o644)
    ran = subprocess.run(
        ["runuser", "-u", "nobody", "--", PROGRAM, "list", "--config", file],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 3 and ran.stdout == ""
    assert "nobody may not write" in ran.stderr
    assert "sudo -u root vd-sidecar" in ran.stderr and ran.stderr.count("\n") == 1


def test_postgresql_away(config: Config, directory: Path, postgres: Postgres) -> None:
    url = postgres.create_database()
    run = Cli(configured(evolve(config, store=url), directory))
    try:
        postgres.stop()
        ran = run.program("retry", "--all")
    finally:
        postgres.start()
    assert (ran.status, ran.out) == (3, "")
    assert "No such file or directory" in ran.err
    assert "vd-sidecar check looks at it closely" in ran.err
    assert ran.err.count("\n") == 1


def test_installed_elsewhere(run: Cli, directory: Path) -> None:
    """As the package has it: bin and share/vd; also by a link to it."""
    prefix = directory / "usr"
    (prefix / "bin").mkdir(parents=True)
    program = Path(shutil.copy(PROGRAM, prefix / "bin"))
    modules = prefix / "share" / "vd" / "vd_sidecar"
    shutil.copytree(REPOSITORY / "sidecar" / "vd_sidecar", modules)
    (modules / "__init__.py").write_text('__version__ = "9.8.7"\n')
    link = directory / "link"
    link.symlink_to(program)
    for path in (program, link):
        assert run.program("--version", path=path).out == "vd-sidecar, version 9.8.7\n"
        assert run.program("list", path=path).status == 0


def test_an_encoding_without_the_letters(
    run: Cli, store: Store, config: Config
) -> None:
    take(store, config, [record("umlaut", case="✓ done")])
    ran = run.program("list", PYTHONIOENCODING="latin-1")
    assert ran.status == 0
    assert "\\u2713 done" in ran.out


def test_help_names_what_there_is(run: Cli) -> None:
    text = run("--help").out
    for name, command in cli.main.commands.items():
        assert f"\n  {name} " in text
        assert "Example" in run(name, "-h").out
        for line in (command.help or "").splitlines():
            if line.strip().startswith("vd-sidecar "):
                parses(line.strip())


def parses(line: str) -> None:
    """Whether an example has options and arguments that there are."""
    line = line.partition("|")[0].partition(">")[0]
    _, name, *words = shlex.split(line)
    command = cli.main.commands[name]
    with click.Context(cli.main).scope():
        command.make_context(name, words, parent=click.Context(cli.main))


def test_run_tells_what_is_in_its_way(
    run: Cli, config: Config, directory: Path
) -> None:
    shutil.rmtree(config.journal)
    ran = run.program("run", "--as-root")
    assert ran.status == 1
    told = ran.err.splitlines()[-1]
    assert told.startswith(f"cannot run: the journal {config.journal}: No such file")
    assert "install -d -o www-data -g " in told and "vd-sidecar check" in told
    assert sys.executable


def test_a_spreadsheet_is_told_that_it_is_utf_8(
    run: Cli, store: Store, config: Config, directory: Path
) -> None:
    take(store, config, [record("umlaut", case="Störung")])
    path = directory / "x.csv"
    for option, begins in (
        ("--bom", b"\xef\xbb\xbfid,output"),
        ("--csv", b"id,output"),
    ):
        assert run("export", option, "--output-file", str(path)).status == 0
        assert path.read_bytes().startswith(begins)
        assert "Störung".encode() in path.read_bytes()
