# Copyright (C) The ngx_vd_module authors
"""A TOML file whose tables are read key by key, and all that is wrong with it.

Not cattrs: it converts where a typo should be told (``int("3")``, ``bool("off")``),
and Debian 12's says only in prose at which key it stopped.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from typing import Any, Callable, Iterator, Mapping, NoReturn, Optional

Keys = tuple[str, ...]
Read = Callable[[Any], Any]  # a value of the file -> one of the configuration

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)")


class ConfigError(Exception):
    """The file cannot be used; one line a problem, ``FILE:LINE: what and how``."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Expected(Exception):
    """A value is not what it must be; raised by a ``Read``.

    ``text`` goes behind "must be". ``value`` is shown as what is there instead,
    unless the reader hides it: it may hold a secret.
    """

    def __init__(
        self, text: str, value: object = None, index: str = "", hidden: bool = False
    ) -> None:
        super().__init__(text)
        self.text = text
        self.value = value
        self.index = index
        self.hidden = hidden


class Tables:
    """One file, read in parts; the problems are gathered until ``finish``."""

    def __init__(self, path: str, sections: Mapping[Keys, Mapping[str, Read]]) -> None:
        """Parse the file; ``sections`` tells where a misplaced key belongs.

        Raises ``ConfigError`` if it cannot be read or is no TOML.
        """
        self.path = path
        self._sections = sections
        self._problems: list[tuple[int, str]] = []
        text = self._text()
        self._data = self._parse(text)
        self._lines = _locate(text)

    def table(self, keys: Keys) -> dict[str, Any]:
        """The table at ``keys``, empty if there is none."""
        value = self._data
        for length, key in enumerate(keys, 1):
            inner = value.get(key, {})
            if not isinstance(inner, dict):
                if length == len(keys):
                    self.problem(
                        keys, f'"{dotted(keys)}" must be a table: [{dotted(keys)}]'
                    )
                return {}
            value = inner
        return value

    def read(
        self,
        keys: Keys,
        readers: Mapping[str, Read],
        required: Mapping[str, str] = {},
        tables: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        """The values of the table at ``keys`` that are there and in order.

        ``required``: keys that must be there, and what to write. ``tables``: keys
        that are read by themselves. Any other key is a problem.
        """
        values = {}
        for key, value in self.table(keys).items():
            if key in readers:
                try:
                    values[key] = readers[key](value)
                except Expected as error:
                    self._unexpected(keys + (key,), value, error)
            elif key not in tables:
                self._unknown(keys, key, [*readers, *tables])

        for key in required:
            if key not in self.table(keys):
                name = dotted(keys + (key,))
                self.problem(keys, f'"{name}" is missing: {required[key]}')
        return values

    def problem(self, keys: Keys, text: str) -> None:
        """Note what is wrong at ``keys``, or at the nearest that the file has."""
        while keys and keys not in self._lines:
            keys = keys[:-1]
        self._note(self._lines.get(keys, 0), text)

    def finish(self) -> None:
        """Raise ``ConfigError`` with all problems, in the file's order, if any."""
        if self._problems:
            raise ConfigError([text for _, text in sorted(self._problems)])

    def _note(self, line: int, text: str) -> None:
        place = f"{self.path}:{line}: " if line else f"{self.path}: "
        problem = (line, printable(place + text))
        if problem not in self._problems:
            self._problems.append(problem)

    def _fail(self, line: int, text: str) -> NoReturn:
        self._note(line, text)
        raise ConfigError([text for _, text in self._problems]) from None

    def _text(self) -> str:
        try:
            with open(self.path, "rb") as file:
                data = file.read()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            self._fail(0, f"cannot be read: {reason}")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            self._fail(line, "is not UTF-8: save it as that")

    def _parse(self, text: str) -> dict[str, Any]:
        try:
            return tomllib.loads(text)
        except RecursionError:
            self._fail(0, "is not TOML: brackets are nested too deep")
        except ValueError as error:
            place = _PLACE.search(str(error))
            what = _PLACE.sub("", str(error))
            if place is None:
                self._fail(0, f"is not TOML: {what}")
            if place[1] is None:
                self._fail(text.count("\n") + 1, f"is not TOML: {what} (at the end)")
            if what in _ADVICE:
                what += f"; {_ADVICE[what]}"
            self._fail(int(place[1]), f"is not TOML, column {place[2]}: {what}")

    def _unexpected(self, keys: Keys, value: object, error: Expected) -> None:
        text = f'"{dotted(keys)}{error.index}" must be {error.text}'
        if not error.hidden:
            text += f", not {_shown(value if error.value is None else error.value)}"
        self.problem(keys, text)

    def _unknown(self, keys: Keys, key: str, known: list[str]) -> None:
        text = f'unknown key "{dotted(keys + (key,))}"'
        homes = [home for home, readers in self._sections.items() if key in readers]
        similar = difflib.get_close_matches(key, known, 1)

        if len(homes) == 1 and homes[0]:
            text += f", it belongs into [{dotted(homes[0])}]"
        elif homes == [()]:
            text += ", it belongs to the top of the file, before any [section]"
        elif similar:
            text += f', did you mean "{similar[0]}"?'
        else:
            text += f", the keys here are {', '.join(known)}"
        self.problem(keys + (key,), text)


_ADVICE = {
    "Invalid value": 'text, and times such as "1m", must be in quotes',
    "Expected newline or end of document after a statement": (
        'text, and times such as "1m", must be in quotes'
    ),
    "Cannot overwrite a value": "the key is there twice",
}


def dotted(keys: Keys) -> str:
    """The key as the file could have it."""
    return ".".join(key if _BARE.fullmatch(key) else json.dumps(key) for key in keys)


def printable(text: str) -> str:
    """``text`` in one line, with nothing in it that a terminal acts upon."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except TypeError:  # a date, or a time, which JSON has not
        text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _locate(text: str) -> dict[Keys, int]:
    """The line, from 1, at which each key of a valid file is first set.

    Statement by statement: one ends with the line up to which it is TOML.
    """
    lines: dict[Keys, int] = {}
    table: Keys = ()
    statement = ""
    start = 1

    for number, line in enumerate(text.split("\n"), 1):
        statement += line + "\n"
        parsed = _statement(statement)
        if parsed is None:
            continue
        if line.lstrip(" \t").startswith("[") and start == number:
            table = max(_paths(parsed, ()), key=len)
            parsed = {}
            for length in range(1, len(table) + 1):
                lines.setdefault(table[:length], start)
        for keys in _paths(parsed, table):
            lines.setdefault(keys, start)
        statement = ""
        start = number + 1

    return lines


def _statement(text: str) -> Optional[dict[str, Any]]:
    try:
        return tomllib.loads(text)
    except ValueError:
        return None


def _paths(value: dict[str, Any], above: Keys) -> Iterator[Keys]:
    for key, inner in value.items():
        yield above + (key,)
        if isinstance(inner, dict):
            yield from _paths(inner, above + (key,))
