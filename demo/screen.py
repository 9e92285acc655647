# Copyright (C) The ngx_vd_module authors

"""What a person sees of the demo."""

import io
import os
import re
import shutil
import sys
import textwrap

from checks import Answer

BOLD, DIM, RED, GREEN = "1", "2", "31;1", "32"

WHY = {
    "connect": "no connection to the receiver",
    "resolve": "the receiver's name has no address",
    "tls": "the TLS handshake or the receiver's certificate failed",
    "timeout": "the receiver took too long",
    "closed": "the connection closed before a complete response",
    "protocol": "what came back is not HTTP/1.x",
    "internal": "nginx could not do it, see its error log",
}


class Screen:
    """Paragraphs for a terminal of 80 to 100 columns; colour on a tty only."""

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        self.width = min(max(shutil.get_terminal_size().columns, 80), 100)
        self.colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.colour else text

    def heading(self, title: str, text: str = "") -> None:
        print(f"\n{self.paint(BOLD, title)}\n{'=' * len(title)}")
        if text:
            print(textwrap.fill(text, self.width))

    def row(self, name: str, text: str, code: str = "") -> None:
        """A name in the margin, and beside it a text that is wrapped."""
        for part in wrap(text, self.width - 16):
            painted = self.paint(code, part) if code else part
            print(f"    {self.paint(DIM, f'{name:<11}')} {painted}", flush=True)
            name = ""


def wrap(line: str, room: int) -> list[str]:
    """Breaks at spaces, and JSON also before a key."""
    parts = re.sub(r',(?="\w+":)', ",\0", line).split("\0")
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) <= room:
            lines[-1] += part
        else:
            lines.append(part)
    return [short for line in lines for short in textwrap.wrap(line, room) or [""]]


def why(answer: Answer) -> str:
    if answer["error"]:
        return str(answer["error"])
    if answer["reason"] == "status":
        return f"status: the receiver answered {answer['status']}"
    return f"{answer['reason']}: {WHY.get(answer['reason'], 'not a known reason')}"


def advice(answer: Answer) -> str:
    if answer.code < 500:
        return "must mend the request: sent again as it is, it is refused again"
    again = (
        f"keeps the case and POSTs it again later, with Idempotency-Key: "
        f"{answer['id']} and VD-Attempt: {(answer['attempt'] or 0) + 1}"
    )
    if answer["status"] in (401, 403):
        return f"tells the operator to compare the secrets, {again}"
    return again
