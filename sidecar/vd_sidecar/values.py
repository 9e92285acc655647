# Copyright (C) The ngx_vd_module authors
"""Readers of single values: what a key of the configuration may hold.

Each takes what TOML gave and returns what the program works with, or raises
``Expected``. What may be, or hold, a secret is never shown in an error.
"""

from __future__ import annotations

import ipaddress
import math
import re
from typing import Any

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from .tables import Expected, Read

_SPAN = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|[smhdw]?)", re.ASCII)
_UNITS = {"ms": 0.001, "": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DAY = 86400.0
_EVER = 36500 * _DAY

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9.])?")
_MAIL = re.compile(
    r"(?=.{3,254}\Z)[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}"
    r"@[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
)
_BASE = re.compile(r"(/[A-Za-z0-9._~-]+){0,20}/?")
_LOCATION = re.compile(r"/[!\"$-~]{0,1023}")


def integer(least: int, most: int) -> Read:
    def read(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise Expected(f"an integer from {least} to {most}")
        return value

    return read


def fraction(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise Expected("a number from 0 to 1")
    return float(value)


def flag(value: Any) -> bool:
    if type(value) is not bool:
        raise Expected("true or false, without quotes")
    return value


def span(least: str, most: str) -> Read:
    low, high = _seconds(least), _seconds(most)
    text = f'a time from "{least}" to "{most}", in ms, s, m, h, d or w'

    def read(value: Any) -> float:
        seconds = _seconds(value)
        if not low <= seconds <= high:
            raise Expected(text)
        return seconds

    return read


def _seconds(value: Any) -> float:
    """NaN if it is no time; a number without a unit is in seconds, as in nginx."""
    if type(value) is int or type(value) is float:
        return float(value) if 0 <= value <= _EVER else math.nan
    match = _SPAN.fullmatch(value) if isinstance(value, str) else None
    return float(match[1]) * _UNITS[match[2]] if match else math.nan


def text(value: Any) -> str:
    if (
        not isinstance(value, str)
        or not value.isprintable()
        or not 0 < len(value) < 1024
    ):
        raise Expected("text in quotes, in one line")
    return value


def path(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or value[:1] != "/":
        raise Expected("a path that begins with a slash")
    return value


def secret_path(value: Any) -> str:
    try:
        return path(value)
    except Expected:
        text = "the path, from / on, of a file that holds the secret alone"
        raise Expected(text, hidden=True) from None


def choice(*words: str) -> Read:
    def read(value: Any) -> str:
        if value not in words:
            raise Expected(" or ".join(f'"{word}"' for word in words))
        return str(value)

    return read


def many(each: Read, example: str, least: int = 0) -> Read:
    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or not least <= len(value) <= 100:
            raise Expected(f"a list of {least} to 100, such as {example}")
        values = []
        for index, item in enumerate(value):
            try:
                values.append(each(item))
            except Expected as error:
                raise Expected(error.text, item, f"[{index}]") from None
        return tuple(values)

    return read


def address(value: Any) -> str:
    if not isinstance(value, str) or not _MAIL.fullmatch(value):
        raise Expected('a bare e-mail address in ASCII, such as "ops@example.com"')
    return value


def location(value: Any) -> str:
    if not isinstance(value, str) or not _LOCATION.fullmatch(value):
        raise Expected('the path of a location, such as "/callback", in ASCII')
    return value


def base(value: Any) -> str:
    """Without the slash at its end; "/" is "", no path at all."""
    if not isinstance(value, str) or not _BASE.fullmatch(value):
        raise Expected('the path that the proxy takes away, such as "/vd"')
    return value.rstrip("/")


def host(value: Any) -> str:
    if not isinstance(value, str) or not _is_host(value):
        raise Expected('a host name or an address, such as "mail.example.com"')
    return value


def _is_host(text: str) -> bool:
    if ":" not in text:
        return _NAME.fullmatch(text) is not None
    try:
        return "%" not in text and bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether only this machine gets there."""
    return host in ("localhost", "::1") or host.startswith("127.")


def split_address(address: str) -> tuple[str, int]:
    """Host (IPv6 without its brackets) and port of ``HOST:PORT``.

    Raises ``ValueError`` if it is not of that form; names are not resolved.
    """
    match = re.fullmatch(
        r"(?:\[([^][]*:[^][]*)\]|([^][:]+)):(\d{1,5})", address, re.ASCII
    )
    if match is None:
        raise ValueError(f"{address!r} is not HOST:PORT")
    host, port = match[1] or match[2], int(match[3])
    if not _is_host(host) or not 1 <= port <= 65535:
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host, port


def listen(value: Any) -> str:
    try:
        split_address(text(value))
    except (Expected, ValueError):
        raise Expected('HOST:PORT, such as "127.0.0.1:8089" or "[::1]:8089"') from None
    return str(value)


def nginx(value: Any) -> str:
    text = value if isinstance(value, str) and value.isprintable() else ""
    if re.fullmatch(r"unix:/[^:]+", text):
        return text
    if text.startswith("http://"):
        base = text[len("http://") :].removesuffix("/")
        for address in (base, base + ":80"):
            try:
                split_address(address)
            except ValueError:
                continue
            return f"http://{base}"
    raise Expected(
        '"http://HOST:PORT" or "unix:/PATH", nothing behind it', hidden="@" in text
    )


def store(value: Any) -> str:
    forms = "sqlite:////PATH (four slashes) or postgresql://USER@HOST/DATABASE"
    try:
        url = make_url(text(value))
    except (Expected, ArgumentError, ValueError):
        raise Expected(forms, hidden=True) from None

    secret = any("password" in key.lower() for key in url.query)
    if url.password is not None or secret:
        raise Expected(
            "without a password: put it into a file in the form of ~/.pgpass, "
            "and the file behind: ?passfile=/etc/vd/pgpass",
            hidden=True,
        )
    if url.drivername == "sqlite":
        options = "?" in value  # make_url drops those that have no "="
        if (url.database or "").startswith("/") and not options and not url.host:
            return str(value)
        raise Expected("sqlite:////PATH: four slashes, no options", hidden=True)
    if url.drivername != "postgresql":
        raise Expected(forms, hidden=True)
    return str(value)
