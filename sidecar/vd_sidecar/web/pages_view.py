# Copyright (C) The ngx_vd_module authors
"""How pages look to the one who asks: language, zone, and what is on every page."""

from __future__ import annotations

import hashlib
import re
import zoneinfo
from datetime import datetime, timezone, tzinfo
from functools import lru_cache
from pathlib import Path
from typing import Mapping, Optional, Sequence
from urllib.parse import quote, unquote, urlencode
from zoneinfo import ZoneInfo

import jinja2
from aiohttp import web
from attrs import frozen
from markupsafe import Markup

from ..acts import RESEND, RETRY, Act, Refusal
from ..batch import rfc3339
from ..model import CANCELLED, DELIVERED, FAILED, PENDING, STATES, Delivery
from ..render import last
from ..tables import printable
from ..text import clean
from . import pages_text

HERE = Path(__file__).parent
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
SHAPES = {DELIVERED: "ok", PENDING: "wait", FAILED: "bad", CANCELLED: "off"}

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Vary": "Accept-Language, Cookie",
}
_ADDRESS = re.compile(r'\b(?:href|src|action|data-from)="(?=/)')
_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


@frozen
class Asset:
    body: bytes
    type: str
    url: str


def _assets() -> Mapping[str, Asset]:
    found = {}
    for path in sorted((HERE / "static").iterdir()):
        if path.suffix in TYPES:
            body = path.read_bytes()
            version = hashlib.sha256(body).hexdigest()[:12]
            url = f"/static/{path.name}?v={version}"
            found[path.name] = Asset(body, TYPES[path.suffix], url)
    return found


class Viewer:
    """Who asks: how texts, numbers and times are for them."""

    def __init__(self, request: web.Request, now: int) -> None:
        self.language = pages_text.language_of(
            request.headers.get("Accept-Language", "")
        )
        name = unquote(request.cookies.get("tz", ""))
        self.zone = _zone(name)
        self.zone_name = "UTC" if self.zone is timezone.utc else name
        self.now = now

    def t(self, key: str, count: int = 0, **values: object) -> str:
        return pages_text.text(self.language, key, count, **values)

    def number(self, value: int) -> str:
        return pages_text.number(self.language, value)

    def percent(self, share: float) -> str:
        # what is not all must not look as if it were

        text = f"{int(share * 1000) / 10:.1f}".removesuffix(".0")
        return (text.replace(".", ",") if self.language == "de" else text) + " %"

    def time(self, ms: Optional[int], short: bool = False) -> Markup:
        """In the viewer's zone; the other one, UTC, is its title."""
        if ms is None:
            return Markup("–")
        moment = self._moment(ms)
        shown = f"{moment:%Y-%m-%d %H:%M:%S}{_which(moment)}"
        if short and self.day(ms) == self.day(self.now):
            shown = shown[11:]
        return Markup('<time datetime="{}" title="{}">{}</time>').format(
            rfc3339(ms), rfc3339(ms).replace("T", " ").replace("Z", " UTC"), shown
        )

    def clock(self, ms: int, date: bool) -> str:
        return self._moment(ms).strftime("%Y-%m-%d %H:%M" if date else "%H:%M")

    def day(self, ms: int) -> str:
        return self._moment(ms).strftime("%Y-%m-%d")

    def twice(self, ms: Optional[int]) -> Optional[tuple[str, str, int]]:
        """Of a time that is in an hour that comes twice: how it is shown, and how
        the other one is, and that one."""
        if ms is None or not _which(moment := self._moment(ms)):
            return None
        other = moment.replace(fold=1 - moment.fold)
        shown = [f"{each:%Y-%m-%d %H:%M}{_which(each)}" for each in (moment, other)]
        return shown[0], shown[1], round(other.timestamp() * 1000)

    def field(self, ms: Optional[int]) -> str:
        """As a field of the type datetime-local has it."""
        return "" if ms is None else self._moment(ms).strftime("%Y-%m-%dT%H:%M")

    def span(self, ms: float) -> str:
        """A time that passes, in its two greatest units."""
        seconds = max(round(ms / 1000), 0)
        parts: list[str] = []
        for unit, size in _UNITS:
            count, seconds = divmod(seconds, size)
            if count or (unit == "s" and not parts):
                parts.append(f"{count} {_unit(unit, self.language)}")
        return " ".join(parts[:2])

    def duration(self, ms: Optional[float]) -> str:
        if ms is None:
            return "–"
        if ms < 1000:
            return f"{ms:.0f} ms"
        text = f"{ms / 1000:.1f} s"
        return text.replace(".", ",") if self.language == "de" else text

    def why(self, status: Optional[int], reason: Optional[str]) -> str:
        """What was wrong with an attempt."""
        if reason is None:
            return ""
        if reason == "status":
            return last(status, reason)
        key = f"reason_{reason}"
        word = self.t(key) if key in pages_text.TEXTS else reason
        return f"{status} {word}" if status else word

    def refusal(self, act: Act, refusal: Refusal) -> str:
        """Why an act does nothing with a delivery."""
        key = f"refusal_{act.name}_{refusal.code}"
        if act is RESEND and key not in pages_text.TEXTS:
            key = f"refusal_{RETRY.name}_{refusal.code}"
        return self.t(key, 0, **refusal.values)

    def _moment(self, ms: int) -> datetime:
        moment = datetime.fromtimestamp(ms / 1000, timezone.utc)
        try:
            return moment.astimezone(self.zone)
        except (OverflowError, ValueError):
            return moment


def _which(moment: datetime) -> str:
    """The offset, if without it the time could be another: when clocks are set back."""
    offset = moment.utcoffset()
    if moment.replace(fold=1 - moment.fold).utcoffset() == offset:
        return ""
    text = moment.strftime("%z")
    return f" {text[:3]}:{text[3:5]}"


def _unit(unit: str, language: str) -> str:
    return {"d": "T", "min": "min"}.get(unit, unit) if language == "de" else unit


@lru_cache(maxsize=100)
def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name) if name and len(name) < 64 else timezone.utc
    except (ValueError, OSError, KeyError):
        return _zone(_renamed().get(name, ""))


@lru_cache(maxsize=None)
def _renamed() -> dict[str, str]:
    """Old names of zones, as browsers say them; Debian 13 has no files for these."""
    for directory in zoneinfo.TZPATH:
        rules = Path(directory, "tzdata.zi")
        if rules.exists():
            links = re.findall(r"(?m)^L (\S+) (\S+)$", rules.read_text())
            return {old: new for new, old in links}
    return {}


def path_of(delivery: Delivery) -> str:
    """Of the page about a delivery."""
    return f"/deliveries/{quote(delivery.output, '')}/{quote(delivery.id, '')}"


def address(path: str, *parts: Sequence[tuple[str, str]]) -> str:
    """A URL of ours with these parameters."""
    query = urlencode([pair for part in parts for pair in part])
    return f"{path}?{query}" if query else path


class Renderer:
    """Makes pages; everything that is not ours is escaped by Jinja."""

    def __init__(self, base: str) -> None:
        """``base``: what a proxy takes away from our addresses."""
        self._base = base
        self.assets = _assets()
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(
            STATES=STATES,
            SHAPES=SHAPES,
            path_of=path_of,
            assets=self.assets,
            base=base,
        )
        self._templates.filters.update(seen=seen)

    def __call__(self, name: str, viewer: Viewer, **values: object) -> str:
        text = self._templates.get_template(name).render(v=viewer, t=viewer.t, **values)
        if not self._base:
            return text

        # in a text from outside no quote is left as it was

        return _ADDRESS.sub(rf"\g<0>{self._base}", text)


def seen(text: object) -> str:
    """A text from outside of which all can be seen."""
    return printable(clean(str(text)).replace("\n", " "))


def html(text: str, status: int = 200) -> web.Response:
    return web.Response(
        text=text, status=status, content_type="text/html", headers=HEADERS
    )
