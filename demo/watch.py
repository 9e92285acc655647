# Copyright (C) The ngx_vd_module authors

"""What the demo sends, and what it sees arrive: each thing with its time."""

import email.policy
import hashlib
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.parser import BytesParser
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from rig import OUTPUTS, PATIENCE, Failed, Output, Site, wait_for


@dataclass(frozen=True)
class Case:
    """A sample, from a file of demo/cases that is named OUTPUT-WHATEVER.json."""

    path: Path
    id: str
    subject: str
    output: Output
    body: bytes

    @classmethod
    def read(cls, path: Path) -> "Case":
        body = path.read_bytes()
        document = json.loads(body)
        output = OUTPUTS[path.name.partition("-")[0]]
        return cls(path, document["case_id"], document["subject"], output, body)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


@dataclass(frozen=True)
class Answer:
    """What the app was told, after so many milliseconds."""

    code: int
    text: str
    ms: float
    keys: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.keys.get("id"))

    @property
    def began(self) -> float:
        """When nginx got the case (Unix time): its UUIDv7 begins with that."""
        return (uuid.UUID(self.id).int >> 80) / 1000

    @property
    def verdict(self) -> tuple[int, object]:
        return self.code, self.keys.get("state")


@dataclass(frozen=True)
class Seen:
    """A request that the receiver got, and what it made of it."""

    at: float
    verdict: str
    status: int
    sha256: str
    reply: dict[str, Any]

    @property
    def ticket(self) -> str | None:
        return self.reply.get("ticket_id")


@dataclass(frozen=True)
class Message:
    """What arrived in an inbox."""

    at: float
    path: Path
    content: bytes

    @classmethod
    def read(cls, path: Path) -> "Message":
        return cls(path.stat().st_mtime, path, path.read_bytes())

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def mail(self) -> EmailMessage:
        parsed = BytesParser(EmailMessage, policy=email.policy.default).parsebytes(
            self.content
        )
        assert isinstance(parsed, EmailMessage)
        return parsed

    @property
    def text(self) -> str:
        """Of a mail, what is to be read."""
        return str(content(self.mail.get_body(("plain",))))

    @property
    def attachments(self) -> list[Any]:
        return [content(part) for part in self.mail.iter_attachments()]


class Watch:
    """All that leaves nginx and the sidecar, at its other end."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def requests(self, id: str) -> list[Seen]:
        """Those of one delivery that the receiver got so far."""
        text = self._site.receiver_log.read_text()
        whole = text[: text.rfind("\n") + 1].splitlines()
        lines = [json.loads(line) for line in whole if line.startswith("{")]
        return [seen(line) for line in lines if line["id"] == id]

    def request(self, id: str, number: int) -> Seen:
        """The ``number``-th of a delivery; waits for it."""
        return wait_for(
            lambda: self.requests(id)[number - 1 :],
            f"attempt {number} of {id} at the receiver",
        )[0]

    def outcome(self, id: str, state: str) -> Message:
        """That a delivery ended so, as the app heard of it; waits for it."""

        def is_it(each: Message) -> bool:
            return (each.json["id"], each.json["state"]) == (id, state)

        return self._message("app", is_it)

    def slack(self, id: str) -> Message:
        """A message in Slack that names a delivery; waits for it."""
        return self._message("slack", lambda each: id in each.content.decode())

    def mail(self, recipient: str, id: str) -> Message:
        """A mail to someone that names a delivery; waits for it."""

        def is_it(each: Message) -> bool:
            return str(each.mail["To"]) == recipient and id in each.text

        return self._message("mail", is_it)

    def _message(self, box: str, is_it: Callable[[Message], bool]) -> Message:
        def found() -> list[Message]:
            every = map(Message.read, (self._site.inboxes / box).glob("[0-9]*"))
            return list(filter(is_it, every))

        return wait_for(found, f"a message in {self._site.inboxes / box}")[0]

    def plan(self, **failure: Any) -> None:
        """Has the receiver fail."""
        status, text = request(
            self._site.receiver_port, "POST", "/control", json.dumps(failure)
        )
        if status != 200:
            raise Failed(f"the receiver does not fail on demand: {text}")


def seen(line: dict[str, Any]) -> Seen:
    return Seen(
        datetime.fromisoformat(line["time"]).timestamp(),
        line["verdict"],
        line["status"],
        line["sha256"],
        line["answer"],
    )


def content(part: object) -> Any:
    """Of a part of a mail, decoded: text, or bytes."""
    assert isinstance(part, EmailMessage)
    return part.get_content()


def request(
    port: int, method: str, path: str, body: str | None = None
) -> tuple[int, str]:
    """Status and text of an HTTP answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()
