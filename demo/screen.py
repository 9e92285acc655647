# Copyright (C) The ngx_vd_module authors

"""What a person sees of the demo, and whether all of it was so."""

import io
import os
import re
import reprlib
import shutil
import sys
import textwrap

BOLD, DIM, RED, GREEN = "1", "2", "31;1", "32"


class Screen:
    """Text for a terminal of 80 to 100 columns; colour on a tty only.

    ``faults`` counts what ``check`` found to be not as it was said.
    """

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        self.width = min(max(shutil.get_terminal_size().columns, 80), 100)
        self.colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self.faults = 0
        self._chapters = 0
        self._gap = False

    def paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.colour and code and text else text

    def line(self, text: str = "", code: str = "") -> None:
        """A line, or a gap of one empty line."""
        if text or not self._gap:
            print(self.paint(code, text), flush=True)
        self._gap = not text

    def chapter(self, title: str, text: str) -> None:
        self._chapters += 1
        self.heading(f"{self._chapters}. {title}")
        self.paragraph(text)

    def heading(self, title: str) -> None:
        self.line()
        self.line(title, BOLD)

    def paragraph(self, text: str) -> None:
        self.line(textwrap.indent(textwrap.fill(text, self.width - 3), "   "))
        self.line()

    def check(
        self, got: object, want: object, text: str, at: float | None = None
    ) -> None:
        """Says ``text``, at so many seconds, and whether it is true: got == want."""
        holds = got == want
        moment = "" if at is None else f"{f'+{at:.2f} s':>8}  "
        rows = textwrap.wrap(moment + text, self.width - 5)
        mark = self.paint(GREEN, "✓") if holds else self.paint(RED, "✗")
        self.line(f"   {mark} {rows[0]}")
        for row in rows[1:]:
            self.line(" " * (5 + len(moment)) + row)
        if not holds:
            self.faults += 1
            self.line(f"     it is      {reprlib.repr(got)}", RED)
            self.line(f"     and not    {reprlib.repr(want)}", RED)

    def quote(self, text: str, most: int = 1000) -> None:
        """Text of others, at most so many lines of it."""
        lines = text.rstrip("\n").split("\n")
        bar = self.paint(DIM, "│")
        self.line()
        for line in lines[:most]:
            self.line(f"     {bar} {line}".rstrip())
        if len(lines) > most:
            self.line(f"     {bar} {self.paint(DIM, f'… {len(lines) - most} more')}")
        self.line()

    def json(self, text: str) -> None:
        """A line of JSON, broken before keys."""
        self.quote("\n".join(broken(text, self.width - 7)))

    def row(self, name: str, text: str) -> None:
        self.line(f"   {self.paint(DIM, f'{name:<14}')} {text}")


def broken(line: str, room: int) -> list[str]:
    lines = [""]
    for part in re.sub(r',(?="\w+":)', ",\0", line).split("\0"):
        if lines[-1] and len(lines[-1]) + len(part) > room:
            lines.append(" ")
        lines[-1] += part
    return lines
