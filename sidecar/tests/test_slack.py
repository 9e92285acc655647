# Copyright (C) The ngx_vd_module authors
"""slack.py against a server in place of Slack."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Iterator, Optional

import aiohttp
import pytest

from processes import PATIENCE
from slack_server import PATH, Reply, SlackServer
from smtp_server import authority
from vd_sidecar.slack import SlackError, post

PAYLOAD = {"text": "Grüße <&>"}


@pytest.fixture
def slack() -> Iterator[SlackServer]:
    with SlackServer() as server:
        yield server


@pytest.fixture
def file(slack: SlackServer, tmp_path: Path) -> Path:
    path = tmp_path / "slack-url"
    path.write_text(f"  {slack.url}\n\n")
    return path


def run(file: Path, timeout: float = PATIENCE) -> None:
    async def once() -> None:
        async with aiohttp.ClientSession() as session:
            await post(session, str(file), PAYLOAD, timeout=timeout)

    asyncio.run(once())


def fails(file: Path, timeout: float = PATIENCE) -> SlackError:
    """The error of a post, which names the file and nothing that is secret."""
    with pytest.raises(SlackError) as caught:
        run(file, timeout)
    error = caught.value
    assert str(file) in str(error) and "\n" not in str(error)
    assert "s3cr3t" not in repr(error)
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    return error


def test_a_payload_arrives(slack: SlackServer, file: Path) -> None:
    run(file)
    assert slack.payloads == [PAYLOAD]


def test_the_url_is_read_each_time(slack: SlackServer, file: Path) -> None:
    run(file)
    file.write_text(slack.url.replace("s3cr3t", "s3cr3t2"))
    error = fails(file)
    assert "HTTP 404 no_service" in str(error) and not error.permanent
    file.write_text(slack.url)
    run(file)
    assert len(slack.payloads) == 2


@pytest.mark.parametrize(
    "status, header, permanent, retry_after",
    [
        (429, "30", False, 30.0),
        (429, "99999999", False, 3600.0),
        (429, "soon", False, None),
        (429, "-1", False, None),
        (429, "²", False, None),
        (429, None, False, None),
        (503, "7", False, 7.0),
        (500, None, False, None),
        (400, None, True, None),
        (413, None, True, None),
        (403, None, False, None),
        (410, None, False, None),
    ],
)
def test_refused(
    slack: SlackServer,
    file: Path,
    status: int,
    header: Optional[str],
    permanent: bool,
    retry_after: Optional[float],
) -> None:
    headers = {"Retry-After": header} if header is not None else {}
    slack.replies = [Reply(status, "no,\r\nnot \x1b[31mnow", headers)]
    error = fails(file)
    assert f"HTTP {status} no, not \ufffd[31mnow" in str(error)
    assert error.permanent is permanent
    assert error.retry_after == retry_after
    assert not slack.payloads


def test_an_answer_that_echoes_the_url(slack: SlackServer, file: Path) -> None:
    for text in (f"no hook at {slack.url}", f"no hook at {PATH}"):
        slack.replies = [Reply(500, text)]
        assert "HTTP 500 no hook at" in str(fails(file))


def test_redirects_are_not_followed(slack: SlackServer, file: Path) -> None:
    slack.replies = [Reply(307, "", {"Location": slack.url + "?again"})]
    error = fails(file)
    assert "HTTP 307" in str(error) and not error.permanent
    assert slack.requests == 1


def test_an_endless_answer_is_not_read(slack: SlackServer, file: Path) -> None:
    slack.replies = [Reply(500, "x" * 3_000_000)]
    assert len(str(fails(file))) < 500


def test_slow(slack: SlackServer, file: Path) -> None:
    slack.replies = [Reply(delay=2 * PATIENCE)]
    error = fails(file, timeout=0.5)
    assert "timed out after 0.5 s" in str(error) and not error.permanent


def test_nobody_there(slack: SlackServer, file: Path) -> None:
    with socket.socket() as bound:  # bound, and not listening
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        file.write_text(f"http://127.0.0.1:{port}/s3cr3t")
        error = fails(file)
    assert "cannot connect: " in str(error) and "refused" in str(error)
    assert not error.permanent
    file.write_text("https://no.invalid/s3cr3t")
    error = fails(file)
    assert "cannot connect: " in str(error)
    assert "None" not in str(error) and "Unknown error" not in str(error)


def test_https(tmp_path: Path) -> None:
    with SlackServer(tls=True) as slack:
        file = tmp_path / "slack-url"
        file.write_text(slack.url)
        assert "CERTIFICATE_VERIFY_FAILED" in str(fails(file))

        async def trusting() -> None:
            context = ssl.create_default_context()
            authority().configure_trust(context)
            connector = aiohttp.TCPConnector(ssl=context)
            async with aiohttp.ClientSession(connector=connector) as session:
                await post(session, str(file), PAYLOAD)

        asyncio.run(trusting())
        assert slack.payloads == [PAYLOAD]


@pytest.mark.parametrize(
    "url, why",
    [
        ("http://hooks.slack.com/s3cr3t", "must begin with https://"),
        ("http://127.0.0.1.example.com/s3cr3t", "must begin with https://"),
        ("ftp://localhost/s3cr3t", "must begin with https://"),
        ("hooks.slack.com/s3cr3t", "must hold a URL"),
        ("https://", "must hold a URL"),
        ("https://[s3cr3t", "must hold a URL"),
        ("https://localhost/s3cr3t https://localhost/s3cr3t", "must hold a URL"),
        ("https://localhost/s3cr3t\nhttps://localhost/s3cr3t", "must hold a URL"),
        ("http://127.0.0.1:99999/s3cr3t", ""),
        ("", "must hold a URL"),
    ],
)
def test_what_is_no_url(file: Path, url: str, why: str) -> None:
    file.write_text(url)
    error = fails(file)
    assert why in str(error) and not error.permanent


def test_a_file_that_cannot_be_read(file: Path) -> None:
    file.write_bytes(b"\xff s3cr3t")
    assert "cannot read it: not text" in str(fails(file))
    file.unlink()
    assert "cannot read it: No such file" in str(fails(file))
