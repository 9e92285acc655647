# Copyright (C) The ngx_vd_module authors
"""The log: a line an event, whoever logs it and whatever is in it."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import subprocess
import sys
import warnings
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from profiles import examples
from vd_sidecar import log

FORGED = 'x\n{"level":"error"}\r\x1b[2J\x85\u2028\udc80'


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The process logs afterwards as it did before."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was written; a line ends with a line feed only."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "" or err.endswith("\n")
    return err.split("\n")[:-1]


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(capsys)]


def test_the_keys_and_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup(json=True)
    before = datetime.now(timezone.utc)
    logger = structlog.get_logger().bind(edge="edge-1")
    logger.warning("delivery failed", delivery="d", output="28", attempt=2, due=None)

    (event,) = events(capsys)
    time = event.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
    assert abs((datetime.fromisoformat(time) - before).total_seconds()) < 5
    assert list(event.items()) == [
        ("level", "warning"),
        ("event", "delivery failed"),
        ("edge", "edge-1"),
        ("delivery", "d"),
        ("output", "28"),
        ("attempt", 2),
        ("due", None),
    ]


def test_the_time_is_first(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup(json=True)
    structlog.get_logger().info("x", a=1)
    assert list(events(capsys)[0]) == ["time", "level", "event", "a"]


@pytest.mark.parametrize("as_json", [True, False])
def test_nothing_forges_a_line(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    log.setup(json=as_json)
    structlog.get_logger().info(FORGED, case=FORGED, seen=[FORGED], more=Path("a\nb"))
    logging.getLogger("aiohttp.server").error("bad request: %s", FORGED)

    written = lines(capsys)
    assert len(written) == 2
    assert all(line.isprintable() for line in written)


@pytest.mark.parametrize("as_json", [True, False])
@examples(100)
@given(text=st.text(st.characters()))
def test_no_text_forges_a_line(
    capsys: pytest.CaptureFixture[str], as_json: bool, text: str
) -> None:
    log.setup(json=as_json)
    structlog.get_logger().info(text, case=text)

    (line,) = lines(capsys)
    assert line.isprintable()
    if as_json:
        event = json.loads(line)
        assert event["case"] == event["event"] == text


def test_an_exception_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup(json=True)
    try:
        raise ValueError("what\nnot")
    except ValueError:
        structlog.get_logger().exception("it broke", output="28")
        logging.getLogger("alembic").exception("it broke")

    ours, theirs = events(capsys)
    assert ours["exception"].endswith("ValueError: what\nnot")
    assert theirs["exception"].startswith("Traceback ")
    assert ours["output"] == "28" and theirs["logger"] == "alembic"


def test_an_exception_is_indented_for_humans(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.setup(json=False)
    try:
        raise ValueError("what\n2026-01-01T00:00:00.000Z error not")
    except ValueError:
        structlog.get_logger().exception("it broke")

    first, *rest = lines(capsys)
    assert first.endswith("error   it broke")
    assert len(rest) > 3 and all(line.startswith("  | ") for line in rest)


def test_for_humans(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup(json=False)
    structlog.get_logger().info("taken", output="28", case="Störung 1", n={"a": 1})
    (line,) = lines(capsys)
    time, rest = line.split(" ", 1)
    assert rest == 'info    taken output=28 case="Störung 1" n={"a": 1}'


def test_other_loggers_write_the_same_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup(json=True)
    structlog.contextvars.bind_contextvars(edge="edge-1")
    logging.getLogger("aiohttp.server").error("no %s", "luck")
    warnings.warn("careful")

    error, warning = events(capsys)
    del error["time"]
    assert error == {
        "level": "error",
        "event": "no luck",
        "logger": "aiohttp.server",
        "edge": "edge-1",
    }
    assert warning["logger"] == "py.warnings" and "careful" in warning["event"]


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("debug", ["ours debug", "theirs info", "ours info", "ours error"]),
        ("info", ["ours info", "ours error"]),
        ("warning", ["ours error"]),
    ],
)
def test_levels(
    capsys: pytest.CaptureFixture[str], level: str, said: list[str]
) -> None:
    log.setup(json=True, level=level)
    structlog.get_logger().debug("ours debug")
    logging.getLogger("sqlalchemy.engine").info("theirs info")
    structlog.get_logger().info("ours info")
    structlog.get_logger().error("ours error")
    assert [event["event"] for event in events(capsys)] == said


def test_an_unknown_level() -> None:
    with pytest.raises(ValueError, match="one of debug, info, warning, error"):
        log.setup(level="verbose")


def test_setting_up_again_replaces(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup(json=False)
    log.setup(json=True)
    structlog.get_logger().info("once")
    assert [event["event"] for event in events(capsys)] == ["once"]


PROGRAM = """
import structlog
from vd_sidecar import log
log.setup()
structlog.get_logger().error("it is", output="28")
"""


FULL = """
log.unbuffer()
log.setup()
structlog.get_logger().warning("still it is")
logging.getLogger("aiohttp").error("so are others")
print("and whatever else", file=sys.stderr)
"""


def written_to(stderr: int, program: str = PROGRAM) -> None:
    environment: dict[str, str] = {}  # PYTHONUNBUFFERED would hide what waits
    subprocess.run(
        [sys.executable, "-c", program],
        stderr=stderr,
        check=True,
        env=environment,
        cwd=Path(log.__file__).parents[1],
    )


def test_a_terminal_gets_no_json() -> None:
    ours, theirs = pty.openpty()
    try:
        written_to(theirs)
        text = os.read(ours, 4096).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert text.endswith("\x1b[31merror  \x1b[0m it is output=28\r\n")


def test_anything_else_gets_json() -> None:
    ours, theirs = os.pipe()
    try:
        written_to(theirs)
        assert json.loads(os.read(ours, 4096))["output"] == "28"
    finally:
        os.close(ours)
        os.close(theirs)


def test_what_cannot_be_written_stops_nothing() -> None:
    with open("/dev/full", "w") as full:
        written_to(full.fileno(), f"import logging, sys\n{PROGRAM}{FULL}")
