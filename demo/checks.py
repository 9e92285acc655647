# Copyright (C) The ngx_vd_module authors

"""What the demo sends, what comes back, and what must."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rig import OUTPUTS, Output

ANSWER_KEYS = [
    "id",
    "output",
    "state",
    "attempt",
    "status",
    "ticket_id",
    "ticket_error",
    "reason",
    "journaled",
]
UUID7 = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


@dataclass(frozen=True)
class Case:
    id: str
    subject: str
    output: Output
    body: bytes

    @classmethod
    def read(cls, path: Path) -> "Case":
        """A sample, named OUTPUT-WHATEVER.json."""
        body = path.read_bytes()
        document = json.loads(body)
        output = OUTPUTS[path.name.partition("-")[0]]
        return cls(document["case_id"], document["subject"], output, body)


@dataclass(frozen=True)
class Expected:
    """How a POST must end; `seen` is the receiver's verdict on each request."""

    code: int
    seen: tuple[str, ...]
    status: int | None = None
    reason: str | None = None
    wrong_at: int | None = None  # the byte of the body that is refused


@dataclass(frozen=True)
class Answer:
    code: int
    text: str
    seconds: float
    pairs: list[tuple[str, Any]]

    def __getitem__(self, key: str) -> Any:
        return dict(self.pairs).get(key)


def check_answer(
    case: Case,
    headers: dict[str, str],
    answer: Answer,
    expected: Expected,
    seen: list[dict[str, Any]],
) -> Iterator[str]:
    if answer.code != expected.code:
        yield f"HTTP status {answer.code} instead of {expected.code}"
        return
    if expected.code == 400:
        yield from check_error(answer, expected.wrong_at)
        return

    keys = [key for key, _ in answer.pairs]
    if keys != ANSWER_KEYS:
        yield f"keys {keys} instead of {ANSWER_KEYS}"
    if not re.fullmatch(headers.get("Idempotency-Key", UUID7), str(answer["id"])):
        yield f"the id {answer['id']} is neither the app's nor a UUIDv7"

    delivered = expected.code == 200
    ticket = seen[-1]["answer"].get("ticket_id") if delivered and seen else None
    wanted = {
        "output": case.output.id,
        "state": "delivered" if delivered else "failed",
        "attempt": int(headers.get("VD-Attempt", "1")),
        "status": expected.status,
        "ticket_id": ticket,
        "ticket_error": "missing" if delivered and ticket is None else None,
        "reason": expected.reason,
        "journaled": False,
    }
    for key, value in wanted.items():
        if json.dumps(answer[key]) != json.dumps(value):
            yield f'"{key}" is {json.dumps(answer[key])} instead of {json.dumps(value)}'
    if delivered and (case.output.form == "ticket") != (ticket is not None):
        yield f"output {case.output.id} should not answer with ticket id {ticket}"


def check_error(answer: Answer, wrong_at: int | None) -> Iterator[str]:
    if [key for key, _ in answer.pairs] != ["error"]:
        yield 'the only key should be "error"'
    elif str(wrong_at) not in re.findall(r"\d+", str(answer["error"])):
        yield f"the error does not say where: at byte {wrong_at}"


def check_seen(
    case: Case, answer: Answer, expected: Expected, seen: list[dict[str, Any]]
) -> Iterator[str]:
    """The receiver's log: the verdicts, and that each byte arrived."""
    verdicts = tuple(line["verdict"] for line in seen)
    if verdicts != expected.seen:
        yield f"the receiver saw {verdicts} instead of {expected.seen}"
    for line in seen:
        if line["sha256"] != hashlib.sha256(case.body).hexdigest():
            yield f"the body changed on its way: {line['bytes']} bytes arrived"
        if line["id"] != answer["id"]:
            yield f"the receiver saw the id {line['id']}"
        if line["path"] != f"/hooks/{case.output.id}":
            yield f"the receiver was asked for {line['path']}"


def check_logged(
    case: Case, path: str, answer: Answer, logged: list[dict[str, Any]]
) -> Iterator[str]:
    """The access log says what the answer said."""
    if len(logged) != 1:
        yield f"{len(logged)} lines in the access log"
        return
    wanted = {
        "uri": path,
        "case": case.id,
        "outcome": answer["state"],
        "output": case.output.id,
    }
    for key in ("id", "attempt", "reason", "status", "ticket_id", "ticket_error"):
        wanted[key] = answer[key]
    if answer["error"]:
        wanted = {"uri": path}
    for key, value in wanted.items():
        text = "" if value is None else str(value)
        if logged[0].get(key) != text:
            yield f'the access log has "{key}": {logged[0].get(key)!r}, not {text!r}'
