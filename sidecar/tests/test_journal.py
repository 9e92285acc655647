# Copyright (C) The ngx_vd_module authors
"""Reading the journal: its lines, whole or damaged, and its directory."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

import journal_writer
from journal_writer import accepted, checked, delivered, failed, line, sealed, uuid7
from profiles import examples
from vd_sidecar import journal
from vd_sidecar.journal import BadLine, End, Header
from vd_sidecar.model import Record

TIME = 1_790_000_000_123


def parsed(text: bytes) -> Record:
    assert text.endswith(b"\n")
    record = journal.parse(text[:-1])
    assert isinstance(record, Record)
    return record


def refused(text: bytes) -> str:
    with pytest.raises(BadLine) as caught:
        journal.parse(text.rstrip(b"\n"))
    assert str(caught.value)
    return str(caught.value)


def changed(**keys: object) -> bytes:
    """A record that is right but for these keys; ... leaves one out."""
    fields = json.loads(failed("a", time=TIME))
    del fields["crc"]
    fields.update(keys)
    return checked({key: value for key, value in fields.items() if value is not ...})


# Records


def test_every_key_arrives() -> None:
    record = parsed(
        line(
            "id-1",
            "28",
            time=TIME,
            label="Vorfall – kritisch",
            case="C-2026-1",
            uri="/outputs/28?a=b",
            attempt=2,
            outcome="failed",
            reason="status",
            status=503,
            upstream="127.0.0.1:443",
            duration_ms=12,
            ticket_error="missing",
            response="später",
            retry_after=120,
            content_type="application/json; charset=utf-8",
            host="vd.example.com:8080",
            kept="AAt4LXRlbmFudA_-",
            digest="0" * 64,
            body=b'{"a": "\xc3\xa4"}',
        )
    )
    assert record.crc != 0
    assert record == Record(
        time=TIME,
        id="id-1",
        output="28",
        label="Vorfall – kritisch",
        case="C-2026-1",
        uri="/outputs/28?a=b",
        attempt=2,
        outcome="failed",
        reason="status",
        status=503,
        upstream="127.0.0.1:443",
        duration_ms=12,
        ticket_id=None,
        ticket_error="missing",
        response="später",
        retry_after=120,
        content_type="application/json; charset=utf-8",
        body=b'{"a": "\xc3\xa4"}',
        crc=record.crc,
        host="vd.example.com:8080",
        kept="AAt4LXRlbmFudA_-",
        digest="0" * 64,
    )


def test_a_record_of_an_older_nginx_is_compared_by_its_body() -> None:
    first, again, other = (
        parsed(failed("a", body=body)) for body in (b"{}", b"{}", b"[]")
    )
    assert first.digest == again.digest != other.digest
    assert (first.host, first.kept) == (None, None)
    assert first.digest == parsed(failed("a", digest=first.digest)).digest
    assert parsed(failed("a", attempt=2)).digest is None


@examples(100)
@given(st.binary(max_size=300))
def test_every_body_arrives(body: bytes) -> None:
    assert parsed(failed("a", body=body)).body == body


@examples(100)
@given(st.text(st.characters(blacklist_categories=()), max_size=50))
def test_every_text_becomes_one_that_can_be_stored(text: str) -> None:
    """json.dumps escapes surrogates; nginx writes none, and another might."""
    fields = json.loads(failed("a"))
    del fields["crc"]
    fields.update(case=text, response=text, label=text, ticket_id=text, body=text)
    record = parsed(sealed(json.dumps(fields).encode()[:-1]))

    for value in (record.case, record.response, record.label, record.ticket_id):
        assert value is not None
        assert "\0" not in value
        value.encode()
    assert record.body is not None
    assert record.body.decode("utf-8", "surrogatepass") == json.loads(json.dumps(text))


def test_a_body_of_surrogates_does_not_become_another_record() -> None:
    text = checked({})  # the checksum of another line, within a string
    record = parsed(failed("a", body=text))
    assert record.body == text


def test_unknown_keys_do_no_harm() -> None:
    assert parsed(line("a", extra={"tenant": "x", "segment": "y", "end": 1})).id == "a"


def test_the_body_is_not_kept_for_later_attempts() -> None:
    assert parsed(failed("a", attempt=2)).body is None
    assert parsed(delivered("a")).body is None
    assert parsed(accepted("a", body=b"")).body == b""


def test_first_and_last_lines() -> None:
    uuid = uuid7()
    header = f'{{"v":1,"segment":"{uuid}","pid":7,"opened":"x"}}'.encode()
    assert journal.parse(header) == Header(uuid, 7)
    end = f'{{"v":1,"end":"{uuid}","records":9}}'.encode()
    assert journal.parse(end) == End(uuid, 9)


@pytest.mark.parametrize(
    "text",
    [
        b'{"v":1,"segment":"x"}',
        b'{"v":1,"segment":7,"pid":1}',
        b'{"v":1,"segment":"","pid":1}',
        b'{"v":1,"segment":"x","pid":"1"}',
        b'{"v":1,"end":"x"}',
        b'{"v":1,"end":"x","records":1.0}',
        b'{"v":1,"end":"x","records":true}',
        b'{"v":1,"end":null,"records":1}',
        b'{"v":1}',
        b'{"v":2,"segment":"x","pid":1}',
        b'{"segment":"x","pid":1}',
    ],
)
def test_first_and_last_lines_that_are_none(text: bytes) -> None:
    refused(text)


# Damage


@examples(100)
@given(data=st.data())
def test_a_flipped_byte_is_never_another_record(data: st.DataObject) -> None:
    text = data.draw(
        st.sampled_from(
            [
                failed("a", time=TIME, case="C-1", body=b"\xff\0" * 5)[:-1],
                failed("a", time=TIME, retry_after=3)[:-1],
                accepted("a", time=TIME)[:-1],
                delivered("a", time=TIME)[:-1],
            ]
        )
    )
    at = data.draw(st.integers(0, len(text) - 1))
    flip = data.draw(st.integers(1, 255))
    damaged = text[:at] + bytes([text[at] ^ flip]) + text[at + 1 :]

    for part in damaged.split(b"\n"):
        refused(part)


def test_each_flipped_bit_is_seen() -> None:
    text = failed("a", time=TIME, case="C-1")[:-1]
    for at in range(len(text)):
        for bit in range(8):
            flipped = bytes([text[at] ^ 1 << bit])
            for part in (text[:at] + flipped + text[at + 1 :]).split(b"\n"):
                refused(part)


@examples(100)
@given(st.integers(0, 2000), st.integers(0, 2000))
def test_a_part_of_a_record_is_no_record(start: int, end: int) -> None:
    text = failed("a", time=TIME)[:-1]
    part = text[start % len(text) : end % (len(text) + 1)]
    if part != text:
        refused(part)


def test_two_records_in_one_line_are_none() -> None:
    one, two = failed("a")[:-1], failed("b")[:-1]
    refused(one + two)
    refused(one + b"\0" + two)
    refused(one + b" ")
    refused(b"\0" * 512 + one)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0" * 4096,
        b"\xff\xfe",
        b"{",
        b"[]",
        b"null",
        b"1",
        b'"x"',
        b"{}",
        b"NaN",
        b"[" * 200_000,
        b'{"v":1,"a":' * 100_000,
        b"9" * 10_000,
        b'{"v":' + b"9" * 10_000 + b"}",
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_no_line(text: bytes) -> None:
    refused(text)
    refused(sealed(text))
    refused(sealed(text[:-1]))


@pytest.mark.parametrize(
    "keys",
    [
        {"v": 0},
        {"v": 2},
        {"v": "1"},
        {"v": None},
        {"v": ...},
        {"time": "2026-11-22T12:51:19.886"},
        {"time": "yesterday"},
        {"time": 5},
        {"time": None},
        {"time": "9999-12-31T23:59:59.999-23:59"},
        {"time": "0001-01-01T00:00:00+23:59"},
        {"id": ""},
        {"id": "a" * 129},
        {"id": 5},
        {"id": None},
        {"output": ""},
        {"output": "o" * 65},
        {"output": ["28"]},
        {"label": 5},
        {"case": 5},
        {"uri": ""},
        {"uri": None},
        {"uri": "@example.com/"},
        {"attempt": 0},
        {"attempt": 1001},
        {"attempt": -1},
        {"attempt": 1.0},
        {"attempt": True},
        {"attempt": "1"},
        {"attempt": None},
        {"attempt": 10**30},
        {"outcome": "lost"},
        {"outcome": None},
        {"outcome": ["failed"]},
        {"outcome": {}},
        {"status": "503"},
        {"status": 503.0},
        {"status": 2**63},
        {"status": -(2**63)},
        {"status": True},
        {"duration_ms": 10**400},
        {"duration_ms": float("nan")},
        {"retry_after": "soon"},
        {"retry_after": float("inf")},
        {"reason": 1},
        {"upstream": {}},
        {"ticket_id": 12345},
        {"ticket_error": False},
        {"response": []},
        {"content_type": 1},
        {"host": ""},
        {"host": "a\r\nVD-Attempt: 7"},
        {"host": ["a"]},
        {"kept": "a b"},
        {"kept": "a\n"},
        {"kept": 1},
        {"kept": "a" * 8193},
        {"digest": ""},
        {"digest": "0" * 63},
        {"digest": "G" * 64},
        {"digest": 0},
        {"body": 1},
        {"body": None},
        {"body": ..., "body_b64": "?"},
        {"body": ..., "body_b64": "YQ"},
        {"body": ..., "body_b64": "YQ==\n"},
        {"body": ..., "body_b64": "ä"},
        {"body": ..., "body_b64": None},
    ],
    ids=str,
)
def test_a_record_that_says_what_none_may(keys: dict[str, object]) -> None:
    refused(changed(**keys))


@pytest.mark.parametrize(
    "key",
    "time id output label case uri attempt outcome reason status upstream duration_ms "
    "ticket_id ticket_error response content_type".split(),
)
def test_a_key_that_is_missing(key: str) -> None:
    assert key in refused(changed(**{key: ...}))


def test_times() -> None:
    assert journal.milliseconds("1970-01-01T00:00:00.001Z") == 1
    assert journal.milliseconds("2026-11-22T13:51:19.886+01:00") == (
        journal.milliseconds("2026-11-22T12:51:19.886Z")
    )


@examples(100)
@given(st.integers(0, 4_102_444_800_000))
def test_every_millisecond_arrives(time: int) -> None:
    assert journal.milliseconds(journal_writer.timestamp(time)) == time


@examples(100)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=100)))
def test_anything_is_taken_or_refused(text: Union[bytes, str]) -> None:
    text = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    for each in (text, sealed(text)):
        try:
            journal.parse(each)
        except BadLine:
            pass


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(blacklist_categories=()), max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@examples(100)
@given(data=st.data())
def test_a_record_is_stored_as_it_is_typed(data: st.DataObject) -> None:
    """Whatever stands under a key: refused, or of the type that the model names."""
    fields = json.loads(failed("a", time=TIME))
    del fields["crc"]
    key = data.draw(st.sampled_from(sorted(fields) + ["body_b64", "retry_after"]))
    fields[key] = data.draw(json_values)
    try:
        record = parsed(sealed(json.dumps(fields).encode()[:-1]))
    except BadLine:
        return
    for name in ("id", "output", "uri", "outcome", "label"):
        assert isinstance(getattr(record, name), str)
    for name in ("time", "attempt", "status", "duration_ms", "retry_after"):
        value = getattr(record, name)
        assert value is None or (type(value) is int and abs(value) < 2**63)


# Lines of a file


def test_lines_of_every_size_at_every_limit(directory: Path) -> None:
    path = directory / "x"
    lines = [b"", b"a", b"bb", b"", b"c" * 100, b"d" * 7, b""]
    text = b"\n".join(lines) + b"\n"
    path.write_bytes(text + b"half")

    for limit in range(1, len(text) + 20):
        offset, found = 0, []
        while part := journal.read_lines(str(path), offset, limit):
            found += part
            offset += sum(len(each) + 1 for each in part)
            assert sum(len(each) + 1 for each in part) <= 4 * max(limit, 101)
        assert (found, offset) == (lines, len(text)), limit


def test_a_half_line_is_none(directory: Path) -> None:
    path = directory / "x"
    path.write_bytes(b"x" * 1000)
    for limit in (1, 7, 999, 1000, 1001, 10_000):
        assert journal.read_lines(str(path), 0, limit) == []
        assert journal.read_lines(str(path), 1000, limit) == []
        assert journal.read_lines(str(path), 5000, limit) == []
    path.write_bytes(b"x" * 1000 + b"\n")
    for limit in (1, 7, 999, 1000, 1001, 10_000):
        assert journal.read_lines(str(path), 0, limit) == [b"x" * 1000]


# The directory


def test_segments_oldest_first_and_nothing_else(directory: Path) -> None:
    uuids = [uuid7(TIME + 1000 * number) for number in (3, 1, 2)]
    for uuid in uuids:
        (directory / f"{uuid}.jsonl").write_bytes(b"x" * 5)
    for name in (
        f".{uuids[0]}",
        f"{uuids[0]}.jsonl.bak",
        f"{uuids[0].upper()}.jsonl",
        f"{uuids[0][:-1]}.jsonl",
        f"x{uuids[0]}.jsonl",
        f"{uuids[0]}.jsonl\n",
        "segment.jsonl",
    ):
        (directory / name).touch()
    (directory / f"{uuid7(TIME)}.jsonl").mkdir()
    os.mkfifo(directory / f"{uuid7(TIME)}.jsonl")
    os.symlink("/etc/passwd", directory / f"{uuid7(TIME)}.jsonl")

    found = journal.segments(str(directory))
    assert [each.uuid for each in found] == sorted(uuids)
    assert {each.size for each in found} == {5}
    assert all(each.path == f"{directory}/{each.uuid}.jsonl" for each in found)
    assert all(abs(each.changed - time.time()) < 60 for each in found)


def test_a_directory_that_is_not_there(directory: Path) -> None:
    with pytest.raises(OSError):
        journal.segments(str(directory / "gone"))
    with pytest.raises(OSError):
        journal.lock_directory(str(directory / "gone"))
    (directory / "file").touch()
    with pytest.raises(OSError):
        journal.lock_directory(str(directory / "file"))


def test_one_reader_a_directory(directory: Path) -> None:
    first = journal.lock_directory(str(directory))
    with pytest.raises(journal.Busy):
        journal.lock_directory(str(directory))
    os.close(first)
    os.close(journal.lock_directory(str(directory)))


def test_a_reader_that_was_killed_leaves_no_lock(directory: Path) -> None:
    script = "import fcntl, os, sys; f = os.open(sys.argv[1], os.O_RDONLY);"
    script += "fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(journal.Busy):
            journal.lock_directory(str(directory))
        process.kill()
        process.wait()
    os.close(journal.lock_directory(str(directory)))


def test_a_writer_is_there_as_long_as_its_lock(directory: Path) -> None:
    segment = journal_writer.Segment(directory)
    assert not journal.writer_gone(str(segment.path))
    segment.crash()
    assert journal.writer_gone(str(segment.path))


def test_looking_at_a_lock_leaves_none(directory: Path) -> None:
    segment = journal_writer.Segment(directory)
    segment.crash()
    assert journal.writer_gone(str(segment.path))
    with open(segment.path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_was_never_a_segment(directory: Path) -> None:
    old, young, locked = (directory / f".{uuid7()}" for _ in range(3))
    past = time.time() - 100
    for path in (old, young, locked, directory / ".other"):
        path.touch()
        if path is not young:
            os.utime(path, (past, past))
    with open(locked) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = list(journal.unborn(str(directory), time.time() - 60))
        assert found == [str(old)]
    found = list(journal.unborn(str(directory), time.time() - 60))
    assert sorted(found) == sorted([str(old), str(locked)])
