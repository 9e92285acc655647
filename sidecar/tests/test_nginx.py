# Copyright (C) The ngx_vd_module authors
"""What an attempt sends to nginx, and which answers are believed.

The server here is no nginx: it answers whatever a stranger may, byte for byte.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Awaitable, Callable, Mapping, Optional

import pytest

from vd_sidecar import nginx as client
from vd_sidecar.model import Answer, Content
from vd_sidecar.nginx import Lost, Nginx, NotSent, Refused

GOOD: Mapping[str, Any] = {
    "id": "a",
    "output": "28",
    "state": "delivered",
    "attempt": 2,
    "status": 200,
    "ticket_id": "VD-1",
    "ticket_error": None,
    "reason": None,
    "journaled": True,
}
FAILED = {**GOOD, "state": "failed", "status": 503, "ticket_id": None}
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def http(body: bytes, status: str = "200 OK", head: str = "") -> bytes:
    length = f"Content-Length: {len(body)}\r\n"
    return f"HTTP/1.1 {status}\r\n{head}{length}\r\n".encode() + body


def said(keys: object, status: str = "200 OK") -> bytes:
    return http(json.dumps(keys).encode(), status)


def changed(**keys: object) -> bytes:
    """The good answer but for these keys; ... leaves one out."""
    new = {**GOOD, **keys}
    return said({key: value for key, value in new.items() if value is not ...})


class Stranger:
    """Answers one request after the other with ``answer``, or as ``talk`` does."""

    def __init__(self, answer: bytes = b"", talk: Optional[Talk] = None) -> None:
        self._answer = answer
        self._talk = talk
        self.requests: list[bytes] = []

    async def serve(self, reader: Any, writer: Any) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            self.requests.append(head + await reader.readexactly(length))
            if self._talk is not None:
                await self._talk(reader, writer)
            else:
                writer.write(self._answer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def attempt(
    stranger: Stranger, content: Content = Content(b"{}"), **given: Any
) -> Answer:
    async def run() -> Answer:
        server = await asyncio.start_server(stranger.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        nginx = Nginx(f"http://127.0.0.1:{port}/")
        values: dict[str, Any] = {
            "id": "a",
            "output": "28",
            "attempt": 2,
            "content_type": "text/x",
        }
        values |= {"timeout": 30.0, **given}
        try:
            return await nginx.attempt("/outputs/28", content, **values)
        finally:
            await nginx.close()
            server.close()

    return asyncio.run(run())


def refused(answer: bytes = b"", talk: Optional[Talk] = None, **given: Any) -> str:
    with pytest.raises(Refused) as caught:
        attempt(Stranger(answer, talk), **given)
    text = str(caught.value)
    assert text.startswith("nginx at http://127.0.0.1:")
    assert "/outputs/28" in text and "\n" not in text and len(text) < 700
    return text


def headers(request: bytes) -> dict[str, str]:
    lines = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in map(split, lines)}


def split(line: str) -> tuple[str, str, str]:
    return line.partition(":")


# ---- what is sent ----


def test_an_attempt_is_the_first_one_again() -> None:
    stranger = Stranger(said(GOOD))
    body = b"\x00\xff" * 100_000
    attempt(stranger, Content(body, "vd.example.com:8080", "AAt4LXRlbmFudA"), case="C")
    (request,) = stranger.requests
    sent = headers(request)
    assert sent.pop("user-agent").startswith("vd-sidecar/")
    assert sent == {
        "host": "vd.example.com:8080",
        "idempotency-key": "a",
        "content-type": "text/x",
        "vd-attempt": "2",
        "vd-output": "28",
        "vd-kept": "AAt4LXRlbmFudA",
        "content-length": "200000",
        **{key: sent[key] for key in ("accept", "accept-encoding") if key in sent},
    }
    assert request.partition(b"\r\n\r\n")[2] == body


@pytest.mark.parametrize(
    "case, sent",
    [("C-1", "C-1"), ("C-\u00e9", None), ("C\r\nX: y", None), (None, None)],
)
def test_a_record_without_kept_values_has_its_case_sent(
    case: Optional[str], sent: Optional[str]
) -> None:
    stranger = Stranger(said(GOOD))
    attempt(stranger, case=case)
    assert headers(stranger.requests[0]).get("x-case-id") == sent
    assert "vd-kept" not in headers(stranger.requests[0])


def test_kept_values_may_be_none_at_all() -> None:
    stranger = Stranger(said(GOOD))
    attempt(stranger, Content(b"{}", None, ""), case="C")
    sent = headers(stranger.requests[0])
    assert sent["vd-kept"] == "" and "x-case-id" not in sent


def test_a_callback_is_as_an_apps() -> None:
    stranger = Stranger(changed(attempt=1, output="callback"))
    assert attempt(stranger, attempt=None, output=None).state == "delivered"
    sent = headers(stranger.requests[0])
    assert "vd-attempt" not in sent and "vd-output" not in sent


# ---- what is believed ----


@pytest.mark.parametrize(
    "state, status", [("delivered", 200), ("pending", 202), ("failed", 502)]
)
def test_an_answer_of_this_attempt(state: str, status: int) -> None:
    keys = {**GOOD, "state": state, "reason": "status", "status": 418}
    answer = attempt(Stranger(said(keys, f"{status} Whatever")))
    assert (answer.state, answer.reason, answer.status) == (state, "status", 418)
    assert (answer.ticket_id, answer.journaled) == ("VD-1", True)


def test_keys_of_a_later_version_do_no_harm() -> None:
    assert attempt(Stranger(changed(more={"a": []}))).ticket_id == "VD-1"


def test_what_the_store_cannot_have_is_replaced() -> None:
    answer = attempt(Stranger(changed(ticket_id="\ud800\0" + "x" * 5000)))
    assert answer.ticket_id is not None
    assert answer.ticket_id.startswith("?\ufffdxxx") and len(answer.ticket_id) == 512


WRONG: tuple[dict[str, object], ...] = (
    {"id": "b"},
    {"id": ...},
    {"id": None},
    {"id": ["a"]},
    {"output": "29"},
    {"output": 28},
    {"output": ...},
    {"attempt": 1},
    {"attempt": "2"},
    {"attempt": 2.0},
    {"attempt": True},
    {"attempt": ...},
    {"state": "lost"},
    {"state": "failed"},  # with 200
    {"state": "pending"},
    {"state": None},
    {"state": ["delivered"]},
    {"state": {}},
    {"state": ...},
    {"status": "queued"},
    {"status": 200.5},
    {"status": True},
    {"status": 0},
    {"status": 10**30},
    {"status": ...},
    {"reason": "because"},
    {"reason": 5},
    {"reason": ...},
    {"ticket_id": 12345},
    {"ticket_id": ["VD-1"]},
    {"ticket_id": ...},
    {"ticket_error": False},
    {"ticket_error": ...},
    {"journaled": "yes"},
    {"journaled": 1},
    {"journaled": None},
    {"journaled": ...},
)


@pytest.mark.parametrize("keys", WRONG, ids=str)
def test_an_answer_that_is_wrong_in_one_key(keys: dict[str, object]) -> None:
    (name,) = keys
    text = refused(changed(**keys))
    assert "answered 200 OK, not of this attempt" in text
    assert repr(name) in text or "state" in text


PAGE = b"<html>\r\n<head><title>404 Not Found</title></head>\r\n</html>\r\n"


@pytest.mark.parametrize(
    "status",
    "400 401 403 404 405 408 409 413 414 421 429 431 500 501 502 503 504 507 204 "
    "200 202 301 302 303 307 308".split(),
)
@pytest.mark.parametrize(
    "body", [PAGE, b'{"error":"another output"}', b"", b"\xff\xfe"]
)
def test_a_status_and_a_page_are_no_outcome(status: str, body: bytes) -> None:
    body = b"" if status == "204" else body
    text = refused(http(body, f"{status} Whatever"))
    assert f"answered {status} Whatever" in text
    if body == PAGE:
        assert text.endswith("<html> <head><title>404 Not Found</title></head> </html>")
    if not body:
        assert text.endswith("with nothing in it")


@pytest.mark.parametrize("status", [201, 203, 404, 409, 500, 308])
def test_a_good_answer_has_a_status_of_its_own(status: int) -> None:
    assert f"answered {status} X" in refused(said(GOOD, f"{status} X"))


def test_a_redirect_is_told_and_not_followed() -> None:
    answer = http(PAGE, "308 Permanent Redirect", "Location: http://127.0.0.1:1/x\r\n")
    text = refused(answer)
    assert text.endswith("answered 308 Permanent Redirect, to http://127.0.0.1:1/x")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 60_000,
        b'{"a":' * 12_000,
        b'{"state":"failed","status":"queued"}',
        b"null",
        b"[]",
        b'"delivered"',
        b"9" * 10_000,
        b'{"id":' + b"9" * 10_000 + b"}",
        b"NaN",
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\x00}\x00",
        b"\x00" * 100,
        json.dumps(GOOD).encode()[:-1],
        json.dumps(GOOD).encode() + b"x",
        b"a\r\nb\x1b[2J\xe2\x80\xae" * 1000,
    ],
    ids=lambda body: repr(body[:20]),
)
def test_whatever_else_is_no_outcome(body: bytes) -> None:
    text = refused(http(body))
    assert "answered 200 OK" in text and "\x1b" not in text and "\u202e" not in text


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"220 mail.example.com ESMTP\r\n",
        b"\x16\x03\x01\x02\x00",
        b"HTTP/1.1 999999 No\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
    ids=lambda answer: repr(answer[:20]),
)
def test_what_is_not_http(answer: bytes) -> None:
    assert "sent no HTTP" in refused(answer)


async def _endless(reader: Any, writer: Any) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n{")
    while True:
        writer.write(b" " * 65536)
        await writer.drain()


async def _dripping(reader: Any, writer: Any) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


def test_an_answer_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.3)
    assert "with more than 65536 bytes" in refused(talk=_endless)
    assert "without an end" in refused(talk=_dripping)
    monkeypatch.setattr(client, "ANSWER_SECONDS", 30.0)
    assert "without an end" in refused(talk=_dripping, timeout=0.3)


def test_what_cannot_be_sent_is_no_attempt() -> None:
    stranger = Stranger(said(GOOD))
    wrong: tuple[dict[str, Any], ...]
    wrong = ({"content_type": "a\r\nVD-Attempt: 7"}, {"id": "a\r\nb"})
    for given in wrong:
        with pytest.raises(Refused) as caught:
            attempt(stranger, **given)
        assert "no request can be made" in str(caught.value)
    assert stranger.requests == []


# ---- no answer ----


async def _silent(reader: Any, writer: Any) -> None:
    await reader.read()


async def _gone(reader: Any, writer: Any) -> None:
    writer.close()


async def _cut(reader: Any, writer: Any) -> None:
    writer.write(said(GOOD)[:-5])
    await writer.drain()


@pytest.mark.parametrize(
    "talk, text",
    [
        (_silent, "gave no answer within 0.5 s"),
        (_gone, "closed the connection without an answer"),
        (_cut, "broke off its answer"),
    ],
)
def test_a_lost_answer_is_not_taken_for_a_refusal(talk: Talk, text: str) -> None:
    """But it is said whose it is, should the journal not know of it either."""
    stranger = Stranger(talk=talk)
    with pytest.raises(Lost) as caught:
        attempt(stranger, timeout=0.5)
    assert str(caught.value).startswith("nginx at http://127.0.0.1:")
    assert str(caught.value).endswith(text)


def test_nobody_is_there() -> None:
    async def run() -> None:
        nginx = Nginx("http://127.0.0.1:1")
        try:
            await nginx.attempt(
                "/outputs/28",
                Content(b"{}"),
                id="a",
                output="28",
                attempt=1,
                content_type=None,
                timeout=5.0,
            )
        finally:
            await nginx.close()

    with pytest.raises(NotSent) as caught:
        asyncio.run(run())
    assert not isinstance(caught.value, Refused)
