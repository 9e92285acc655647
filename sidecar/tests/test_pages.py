# Copyright (C) The ngx_vd_module authors
"""The pages, without a browser: what they say, what they refuse, what they leak."""

from __future__ import annotations

import asyncio
import csv
import html
import io
import re
import shutil
import zoneinfo
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, AsyncIterator, Awaitable, Callable, Iterator, Optional
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from zoneinfo import ZoneInfo

import pytest
from aiohttp import ClientSession, CookieJar, web
from aiohttp.test_utils import TestServer
from attrs import evolve
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from structlog.testing import capture_logs

from postgres import Postgres
from processes import PATIENCE
from stored import NOON, change, delivered, given_up, one, record, stored, take
from stores import KINDS, open_store
from vd_sidecar.acts import FORGET, perform
from vd_sidecar.batch import rfc3339
from vd_sidecar.clock import steady
from vd_sidecar.config import Config
from vd_sidecar.model import CANCELLED, DELIVERED, FAILED, PENDING, Record
from vd_sidecar.store import Store, deliveries, rates, reads, search, wall_clock
from vd_sidecar.store.reads import Filter
from vd_sidecar.web import application, openapi, pages_case, pages_text
from vd_sidecar.web.live import Live
from vd_sidecar.web.reading import Away

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202e\x1b[31m"
EN = {"Accept-Language": "en"}
SAFE = {"Sec-Fetch-Site": "same-origin"}
OLD_ZONES = {
    "America/Buenos_Aires": "America/Argentina/Buenos_Aires",
    "Asia/Calcutta": "Asia/Kolkata",
    "Asia/Saigon": "Asia/Ho_Chi_Minh",
    "Europe/Kiev": "Europe/Kyiv",
}

WEB = Path(pages_text.__file__).parent
ACTS = (WEB.parent / "acts.py").read_text()


class Retry:
    """As much of it as the pages use."""

    claims = 0
    answers = 0
    woken = 0

    def wake(self) -> None:
        self.woken += 1


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    store = open_store(request)
    yield store
    store.close()


class Site:
    """The pages of a store, and somebody who looks at them."""

    def __init__(self, store: Store, config: Config) -> None:
        self.store = store
        self.config = config
        self.retry = Retry()
        ingest = SimpleNamespace(
            records=0,
            unread=0,
            scanned=steady(),
            oldest=None,
            unreadable={},
            undeletable={},
        )
        self.ingest = ingest
        self.service: Any = SimpleNamespace(
            store=store,
            config=config,
            retry=self.retry,
            ingest=ingest,
            ingested=steady(),
            in_writer=self._in_writer,
        )
        self.url = ""
        self.session: Any = None

    async def _in_writer(self, function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, function)

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        answer = await self.ask("GET", path, headers)
        return answer.status, answer.text

    async def ask(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        form: Optional[list[tuple[str, str]]] = None,
    ) -> SimpleNamespace:
        async with self.session.request(
            method,
            self.url + path,
            headers={**EN, **headers},
            data=form,
            allow_redirects=False,
        ) as answer:
            text = await answer.text()
            return SimpleNamespace(
                status=answer.status, text=text, headers=answer.headers
            )

    async def confirm(self, path: str, **headers: str) -> SimpleNamespace:
        """Look at a preview and press its button."""
        _, text = await self.get(path, **headers)
        form = hidden(text)
        return await self.ask("POST", "/act", {**SAFE, **headers}, form)


def viewer_time(zone: str) -> str:
    """NOON, as somebody there reads it."""
    moment = datetime.fromtimestamp(NOON / 1000, ZoneInfo(zone))
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def hidden(text: str) -> list[tuple[str, str]]:
    found = re.findall(r'<input type="hidden" name="(.*?)" value="(.*?)">', text)
    return [(html.unescape(name), html.unescape(value)) for name, value in found]


def rows(text: str) -> list[str]:
    """The deliveries that a list shows, by the ends of their addresses."""
    body = text.partition("<tbody>")[2].partition("</tbody>")[0]
    return re.findall(r'class="case"><a href="/deliveries/[^/]*/(.*?)"', body)


def run(store: Store, config: Config, test: Callable[[Site], Awaitable[None]]) -> Site:
    site = Site(store, config)

    async def main() -> None:
        async with serving(site):
            await test(site)

    asyncio.run(main())
    return site


@asynccontextmanager
async def serving(site: Site) -> AsyncIterator[None]:
    app: web.Application = application(site.service)
    server = TestServer(app)
    await server.start_server()
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as session:
        site.session = session
        site.url = str(server.make_url("")).rstrip("/")
        try:
            yield
        finally:
            await server.close()


def some(store: Store, config: Config) -> None:
    take(
        store,
        config,
        [
            *given_up("lost", case="C-1", time=NOON),
            record("waits", "29", case="C-2", time=NOON + 1),
            delivered("done", case="C-1", time=NOON + 2, ticket_id="VD-77"),
            delivered("bare", "29", case="C-3", time=NOON + 3, ticket_id=None),
        ],
    )


@pytest.mark.parametrize(
    "query, found",
    [
        ("", "bare done waits lost"),
        ("sort=created", "lost waits done bare"),
        ("output=29", "bare waits"),
        ("state=failed", "lost"),
        ("state=failed&state=pending", "waits lost"),
        ("output=29&state=pending", "waits"),
        ("reason=status", "waits lost"),
        ("without_ticket=true", "bare waits lost"),
        ("search=VD-77", "done"),
        ("search=vd-7", "done"),
        ("search=C-1", "done lost"),
        ("search=ait", "waits"),
        ("search=77", "done"),
        ("search=V", "done"),
        ("case=C-1", "done lost"),
        ("search=%25%25%25", ""),
        ("search=" + "%22%20OR%20%22", ""),
        (f"since={rfc3339(NOON + 2)}", "bare done"),
        (f"until={rfc3339(NOON + 1)}", "lost"),
    ],
)
def test_a_list_holds_what_its_address_says(
    store: Store, config: Config, query: str, found: str
) -> None:
    some(store, config)

    async def test(site: Site) -> None:
        status, text = await site.get(f"/deliveries?{query}")
        assert status == 200
        assert rows(text) == found.split()

    run(store, config, test)


@pytest.mark.parametrize(
    "sort, found",
    [
        ("case", "lost done waits bare"),
        ("-case", "bare waits done lost"),
        ("output", "done lost bare waits"),
        ("-output", "bare waits done lost"),
        ("state", "bare done lost waits"),
        ("-state", "waits lost bare done"),
        ("attempts", "bare done waits lost"),
        ("-attempts", "lost bare done waits"),
        ("ticket_id", "done bare waits lost"),
        ("-ticket_id", "done bare waits lost"),
        ("reason", "waits lost bare done"),
        ("-reason", "waits lost bare done"),
        ("created", "lost waits done bare"),
    ],
)
def test_a_list_is_sorted_as_its_address_says(
    store: Store, config: Config, sort: str, found: str
) -> None:
    some(store, config)

    async def test(site: Site) -> None:
        _, text = await site.get(f"/deliveries?sort={sort}")
        assert rows(text) == found.split()
        way = "descending" if sort.startswith("-") else "ascending"
        assert re.findall('aria-sort="(.*?)"', text) == [way]

        head = re.search(r'<th [^>]*aria-sort[^>]*><a href="(.*?)"', text)
        assert head
        _, text = await site.get(html.unescape(head[1]))
        other = {"descending": "ascending", "ascending": "descending"}[way]
        assert re.findall('aria-sort="(.*?)"', text) == [other]

        _, text = await site.get(f"/deliveries.csv?output=29&sort={sort}")
        ids = [row[0] for row in csv.reader(io.StringIO(text))][1:]
        assert ids == [id for id in found.split() if id in ("waits", "bare")]

    run(store, config, test)


@pytest.mark.parametrize("sort", ["state", "-case", "attempts", "reason", "-ticket_id"])
def test_sorted_pages_miss_nothing_that_stays(
    store: Store, config: Config, sort: str
) -> None:
    """Whatever becomes of others, that of the last one on a page included."""
    deliveries = [
        record(f"d{n}", str(n % 3), case=f"C-{n % 7}" if n % 4 else None, time=NOON + n)
        for n in range(130)
    ]
    take(store, config, deliveries)

    async def test(site: Site) -> None:
        seen: list[str] = []
        gone: set[str] = set()
        path: Optional[str] = f"/deliveries?sort={sort}"
        while path:
            _, text = await site.get(path)
            seen += rows(text)
            match = re.search(r'rel="next" href="(.*?)"', text)
            path = html.unescape(match[1]) if match else None
            for id in (rows(text)[-1], rows(text)[3]):
                gone.add(id)
                later = NOON + 60_000
                ended = delivered(id, one(store, id).output, attempt=2, time=later)
                take(store, config, [ended])
        rest = [id for id in seen if id not in gone]
        assert len(rest) == len(set(rest))
        assert {f"d{n}" for n in range(130)} - gone == set(rest)

    run(store, config, test)


@pytest.mark.parametrize(
    "query",
    [
        "sort=nothing",
        "sort=--case",
        "sort=",
        "sort=state&cursor=5.5",
        "sort=-attempts&cursor=5.5.many",
        "cursor=5.5.x",
        "sort=case&cursor=5.5.a%00",
        "sort=case&cursor=5.5." + "x" * 513,
    ],
)
def test_orders_that_there_are_not(store: Store, config: Config, query: str) -> None:
    async def test(site: Site) -> None:
        assert (await site.get(f"/api/deliveries?{query}"))[0] == 400

    run(store, config, test)


def test_a_sort_goes_through_an_act_and_back(store: Store, config: Config) -> None:
    some(store, config)
    seq = one(store, "waits").seq

    async def test(site: Site) -> None:
        conditions = "output=29&sort=-case"
        for scope in (f"pick={seq}&pick={seq + 1}&scope=picked", ""):
            _, text = await site.get(f"/act?act=cancel&{scope}&{conditions}")
            assert f'href="/deliveries?{html.escape(conditions)}"' in text
            assert ("sort", "-case") in hidden(text)

    run(store, config, test)


def test_pages_are_stable_while_deliveries_come_in(
    store: Store, config: Config
) -> None:
    take(store, config, [delivered(f"d{n}", time=NOON + n) for n in range(120)])

    async def test(site: Site) -> None:
        seen: list[str] = []
        path: Optional[str] = "/deliveries"
        pages = []
        while path:
            _, text = await site.get(path)
            pages.append((path, rows(text)))
            seen += rows(text)
            number = len(pages)
            new = [delivered(f"n{number}-{i}", time=NOON + 1000 + i) for i in range(9)]
            take(store, config, new)
            match = re.search(r'rel="next" href="(.*?)"', text)
            path = html.unescape(match[1]) if match else None
        assert seen == [f"d{n}" for n in reversed(range(120))]

        _, text = await site.get(pages[2][0])
        match = re.search(r'rel="prev" href="(.*?)"', text)
        assert match
        _, text = await site.get(html.unescape(match[1]))
        assert rows(text) == pages[1][1]

    run(store, config, test)


def test_what_comes_from_outside_is_text(store: Store, config: Config) -> None:
    take(
        store,
        config,
        [
            record(
                "h",
                label=HOSTILE,
                case=HOSTILE,
                response=HOSTILE,
                upstream=HOSTILE,
                body=('{"a<b>": "</script><script>alert(3)</script>"}').encode(),
            )
        ],
    )
    change(store, "h", ticket_id=HOSTILE, reason="<b>why", content_type="<i>type")

    async def test(site: Site) -> None:
        query = urlencode({"search": HOSTILE})
        typed = f"/deliveries?{query}"
        for path in (
            "/",
            "/deliveries",
            typed,
            f"/deliveries?output={query}",
            "/deliveries/28/h",
            "/act?act=retry&state=pending",
            f"/deliveries?{urlencode({HOSTILE: 1})}",
            f"/act?{urlencode({'act': HOSTILE})}",
        ):
            _, text = await site.get(path, **{"X-Remote-User": "<u>me"})
            tags = set(re.findall(r"<(script|img|b>why|i>type|u>|b>\")", text))
            assert tags <= {"script"}, path
            assert text.count("<script") == 1, path
            if path != typed:
                assert "\u202e" not in text and "\x1b" not in text, path

    run(store, config, test)


def test_every_page_has_its_guards(store: Store, config: Config) -> None:
    some(store, config)

    async def test(site: Site) -> None:
        for path in (
            "/",
            "/deliveries",
            "/deliveries/28/lost",
            "/deliveries/28/lost/case",
            "/deliveries/28/nothing",
            "/deliveries.csv",
            "/act?act=retry",
            "/deliveries?nonsense=1",
        ):
            answer = await site.ask("GET", path, {})
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy, path
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert answer.headers["Cache-Control"] == "no-store"
            assert not re.search(r"<[^>]* (style|on\w+)=", answer.text), path
            assert not re.search(r'(src|href)="(https?:)?//', answer.text), path

    run(store, config, test)


def test_assets_are_small_and_kept(store: Store, config: Config) -> None:
    async def test(site: Site) -> None:
        _, text = await site.get("/")
        urls = re.findall(r'(?:href|src)="(/static/.*?)"', text)
        assert len(urls) == 3
        for url in urls:
            answer = await site.ask("GET", url, {})
            assert answer.status == 200
            assert "immutable" in answer.headers["Cache-Control"]
        assert (await site.get("/static/..%2fpages.py"))[0] == 404

    run(store, config, test)
    assert (WEB / "static" / "app.css").stat().st_size < 15_000
    assert (WEB / "static" / "app.js").stat().st_size < 10_000


def test_one_delivery_tells_all(store: Store, config: Config) -> None:
    some(store, config)

    async def test(site: Site) -> None:
        status, text = await site.get("/deliveries/28/lost")
        assert status == 200
        for word in ("C-1", "lost", "503", "maintenance", "127.0.0.1:443", "12 ms"):
            assert word in text
        assert "given up after 3 attempts" in text
        assert text.count("Failed") >= 4
        assert '<span class="string">&#34;Drucker streikt&#34;' in text
        assert '"/deliveries/28/done"' in text
        assert "VD-77" in text
        assert "curl -X POST" in text
        assert (await site.get("/deliveries/29/lost"))[0] == 404
        answer = await site.ask("GET", "/deliveries/28/lost/case", {})
        assert answer.text == '{"subject": "Drucker streikt"}'
        assert "attachment" in answer.headers["Content-Disposition"]

    run(store, config, test)


def test_an_act_is_shown_confirmed_and_noted(store: Store, config: Config) -> None:
    some(store, config)

    async def test(site: Site) -> None:
        seq = one(store, "lost").seq
        answer = await site.confirm(
            f"/act?act=retry&pick={seq}", **{"X-Remote-User": "jana"}
        )
        assert answer.status == 303
        assert answer.headers["Location"].startswith("/deliveries/28/lost?done=")
        _, text = await site.get(answer.headers["Location"])
        assert "1 delivery is retried" in text
        assert "Retried" in text and "jana" in text

    site = run(store, config, test)
    assert one(store, "lost").state == PENDING
    assert site.retry.woken == 1
    with store.reading() as connection:
        acts = reads.acts(connection, one(store, "lost").seq)
    assert [(act.who, act.act) for act in acts] == [("jana", "retry")]


def test_an_act_on_all_that_is_found(store: Store, config: Config) -> None:
    take(
        store, config, [r for n in range(30) for r in given_up(f"f{n}", time=NOON + n)]
    )
    some(store, config)

    async def test(site: Site) -> None:
        _, text = await site.get("/act?act=cancel&state=failed&output=28")
        assert "Cancel 31 deliveries?" in text
        assert "Output <b>28:</b>31" in text
        assert len(rows(text)) == 20

        # what comes after the preview was not meant

        form = hidden(text)
        assert any(name == "until" for name, _ in form)
        answer = await site.ask("POST", "/act", SAFE, form)
        assert answer.status == 303
        _, text = await site.get(answer.headers["Location"])
        assert "31 deliveries were cancelled" in text

    run(store, config, test)
    with store.reading() as connection:
        assert reads.count(connection, Filter(states=(CANCELLED,))) == 31
        assert reads.count(connection, Filter(states=(PENDING,))) == 1


@pytest.mark.parametrize("act", ["retry", "cancel", "forget"])
def test_the_log_says_who_did_what_with_which(
    store: Store, config: Config, act: str
) -> None:
    """A store that goes back in time has lost what operators did."""
    many = [r for n in range(120) for r in given_up(f"f{n:03}", "30", time=NOON + n)]
    take(store, config, many)
    some(store, config)
    seq = one(store, "lost").seq

    async def test(site: Site) -> None:
        jana = {"X-Remote-User": "jana"}
        await site.get(f"/act?act={act}&pick={seq}", **jana)
        await site.confirm(f"/act?act={act}&pick={seq}", **jana)
        await site.confirm(f"/act?act={act}&output=30&state=failed", **jana)

    with capture_logs() as logs:
        run(store, config, test)
    one_, all_ = (each for each in logs if each["event"] == "an operator acted")
    assert one_ == {
        "event": "an operator acted",
        "log_level": "info",
        "act": act,
        "who": "jana",
        "done": 1,
        "refused": 0,
        "deliveries": "lost",
    }
    assert (all_["act"], all_["who"], all_["done"]) == (act, "jana", 120)
    named = [f"f{n:03}" for n in range(100)]
    assert all_["deliveries"].split() == named  # no more than a line can hold


def test_nothing_is_picked_is_not_all(store: Store, config: Config) -> None:
    some(store, config)

    async def test(site: Site) -> None:
        _, text = await site.get("/act?act=retry&scope=picked&state=failed")
        assert "There is nothing to do here" in text

    run(store, config, test)


def test_not_everything_is_forgotten_at_once(store: Store, config: Config) -> None:
    some(store, config)

    async def test(site: Site) -> None:
        _, text = await site.get("/act?act=forget")
        assert "Filter first" in text and 'method="post"' not in text
        _, text = await site.get("/act?act=retry&state=failed")
        token = dict(hidden(text))["token"]
        form = [("act", "forget"), ("token", token)]
        answer = await site.ask("POST", "/act", SAFE, form)
        assert answer.status == 400

        answer = await site.confirm("/act?act=forget&search=lost")
        assert answer.status == 303

    run(store, config, test)
    assert one(store, "lost").forgotten and not one(store, "done").forgotten


@pytest.mark.parametrize(
    "headers, token, status",
    [
        ({"Sec-Fetch-Site": "cross-site"}, True, 403),
        ({"Sec-Fetch-Site": "same-site"}, True, 403),
        ({"Origin": "https://evil.example"}, True, 403),
        ({}, False, 200),
        (SAFE, False, 200),
        ({**SAFE, "X-Remote-User": "other"}, True, 200),
    ],
)
def test_who_was_sent_by_another_site_does_nothing(
    store: Store, config: Config, headers: dict[str, str], token: bool, status: int
) -> None:
    some(store, config)

    async def test(site: Site) -> None:
        _, text = await site.get("/act?act=cancel&state=failed")
        form = [pair for pair in hidden(text) if token or pair[0] != "token"]
        answer = await site.ask("POST", "/act", headers, form)
        assert answer.status == status
        if status == 200:
            assert "nothing was done" in answer.text

    run(store, config, test)
    assert one(store, "lost").state == FAILED


def test_a_form_s_address_is_put_in_order(store: Store, config: Config) -> None:
    async def test(site: Site) -> None:
        site.session.cookie_jar.update_cookies({"tz": "Europe%2FBerlin"})
        given = "search=+a+&output=&since=24h&sort=-created&from=2026-07-01T10:00&to="
        answer = await site.ask("GET", f"/deliveries?{given}", {})
        assert answer.status == 302
        query = dict(parse_qsl(urlsplit(answer.headers["Location"]).query))
        assert query == {"search": "a", "since": "2026-07-01T08:00:00.000Z"}

    run(store, config, test)


def test_times_are_in_the_viewer_s_zone(store: Store, config: Config) -> None:
    some(store, config)

    async def test(site: Site) -> None:
        utc, berlin = (str(viewer_time(zone)) for zone in ("UTC", "Europe/Berlin"))
        _, text = await site.get("/deliveries")
        assert f">{utc}<" in text
        site.session.cookie_jar.update_cookies({"tz": "Europe%2FBerlin"})
        _, text = await site.get("/deliveries")
        assert f">{berlin}<" in text
        assert f'title="{utc}.000 UTC"' in text
        for wrong in ("../../etc/passwd", "x" * 500, "/etc/passwd", "%00"):
            site.session.cookie_jar.update_cookies({"tz": wrong})
            _, text = await site.get("/deliveries")
            assert f">{utc}<" in text

    run(store, config, test)


@pytest.fixture
def zones_of_today(directory: Path) -> Iterator[None]:
    """Zones without their old names, as in Debian 13."""
    shutil.copytree("/usr/share/zoneinfo", directory / "zones", symlinks=True)
    for name in OLD_ZONES:
        (directory / "zones" / name).unlink(missing_ok=True)
    try:
        zoneinfo.reset_tzpath([directory / "zones"])
        zoneinfo.ZoneInfo.clear_cache()
        yield
    finally:
        zoneinfo.reset_tzpath()


@pytest.mark.usefixtures("zones_of_today")
def test_zones_by_their_old_names(store: Store, config: Config) -> None:
    """Chromium has them by no others; each would be asked for with every page."""
    some(store, config)

    async def test(site: Site) -> None:
        for old, new in OLD_ZONES.items():
            site.session.cookie_jar.update_cookies({"tz": quote(old, "")})
            _, text = await site.get("/deliveries")
            assert f">{viewer_time(new)}<" in text
            assert f'data-zone="{old}"' in text

    run(store, config, test)


def test_the_hour_that_comes_twice(store: Store, config: Config) -> None:
    """When clocks are set back: each of the two is shown, and can be filtered."""
    first = 1_698_539_400_000  # 2023-10-29T00:30:00Z, 02:30 +02:00 in Berlin
    hour = 3_600_000
    times = {"before": first - hour, "one": first, "two": first + hour}
    times["after"] = first + 2 * hour
    take(store, config, [record(id, time=time) for id, time in times.items()])

    async def test(site: Site) -> None:
        site.session.cookie_jar.update_cookies({"tz": "Europe%2FBerlin"})
        _, text = await site.get("/deliveries")
        shown = re.findall(r"<time[^>]*>(.*?)</time>", text)
        assert [each[11:] for each in shown] == [
            "03:30:00",
            "02:30:00 +01:00",
            "02:30:00 +02:00",
            "01:30:00",
        ]

        async def filtered(form: str) -> tuple[str, str]:
            answer = await site.ask("GET", f"/deliveries?{form}", {})
            where = answer.headers["Location"]
            return where, (await site.get(where))[1]

        where, text = await filtered("from=2023-10-29T02:00&to=2023-10-29T02:59")
        assert rows(text) == ["two", "one"], "all of it, if nothing else is said"
        links = re.findall(r'twice; this is (.*?)\. .*?<a href="(.*?)">(.*?)<', text)
        assert [(this, other) for this, _, other in links] == [
            ("2023-10-29 02:00 +02:00", "2023-10-29 02:00 +01:00"),
            ("2023-10-29 02:59 +01:00", "2023-10-29 02:59 +02:00"),
        ]
        _, second = await site.get(html.unescape(links[0][1]))
        assert rows(second) == ["two"]
        until = html.unescape(links[1][1])
        _, only_first = await site.get(until)
        assert rows(only_first) == ["one"]

        # what is chosen stays, whatever else the form then says

        given = hidden(only_first.partition("</form>")[0])
        given += [("since", parse_qsl(urlsplit(until).query)[0][1])]
        given += [("to", "2023-10-29T02:59"), ("output", "28")]
        where, text = await filtered(urlencode(given))
        assert rows(text) == ["one"] and "output=28" in where
        given[-2] = ("to", "")
        where, text = await filtered(urlencode(given))
        assert "until" not in where and rows(text) == ["after", "two", "one"]

    run(store, config, test)


def test_the_csv_is_what_is_filtered_and_no_formula(
    store: Store, config: Config
) -> None:
    some(store, config)
    take(store, config, [delivered("evil", case="=HYPERLINK(1)", ticket_id="@x")])

    async def test(site: Site) -> None:
        status, text = await site.get("/deliveries.csv?state=delivered")
        assert status == 200
        assert text[0] == "\ufeff", "a spreadsheet is told that it is UTF-8"
        read = list(csv.DictReader(io.StringIO(text[1:])))
        assert {row["id"] for row in read} == {"done", "bare", "evil"}
        (evil,) = [row for row in read if row["id"] == "evil"]
        assert (evil["case"], evil["ticket_id"]) == ("'=HYPERLINK(1)", "'@x")

    run(store, config, test)


def test_the_overview_counts_and_warns(store: Store, config: Config) -> None:
    with store.reading() as connection:
        now = store.now(connection)
    good = [delivered(f"g{n}", time=now - n, duration_ms=150) for n in range(9)]
    bad = [record(f"b{n}", "29", time=now - n) for n in range(4)]
    take(store, config, good + bad)

    async def test(site: Site) -> None:
        _, text = await site.get("/")
        assert "Attempts: 9 delivered, 4 failed" in text
        assert "Output 29 (Output 29) is failing" in text
        assert "Output 28 (Output 28) is failing" not in text
        assert "100 %" in text and "0 %" in text
        for range_ in ("day", "week"):
            _, text = await site.get(f"/?range={range_}")
            assert "Attempts: 9 delivered, 4 failed" in text
        assert (await site.get("/?range=year"))[0] == 400

    run(store, config, test)


def test_the_overview_says_how_a_closed_journal_is_mended(
    store: Store, config: Config
) -> None:
    path = "/var/spool/vd/0193b2f0-7f6c-7cc1-9d3c-6f1b2a3c4d5e.jsonl"
    command = "<code>install -d -o www-data -g "

    async def test(site: Site) -> None:
        assert command not in (await site.get("/"))[1]
        for attribute, english, german in (
            ("undeletable", "1 segment of the journal that was read", "nicht löschen"),
            ("unreadable", "1 segment of the journal cannot be read", "nicht lesbar"),
        ):
            setattr(site.ingest, attribute, {path: "Permission denied"})
            _, text = await site.get("/")
            assert english in text and f"{path}: Permission denied" in text
            assert command in text and "/var/spool/vd/*.jsonl</code>" in text
            _, text = await site.get("/", **{"Accept-Language": "de"})
            assert german in text and command in text

    run(store, config, test)


@pytest.mark.parametrize(
    "accepted, language",
    [
        ("de", "de"),
        ("de-AT,en;q=0.8", "de"),
        ("en-GB,de;q=0.9", "en"),
        ("fr,de;q=0.5,en;q=0.3", "de"),
        ("fr", "en"),
        ("", "en"),
        ("de;q=0", "en"),
        ("de;q=nonsense,;;,=", "de"),
    ],
)
def test_the_language_is_the_one_that_is_preferred(
    accepted: str, language: str
) -> None:
    assert pages_text.language_of(accepted) == language


def test_both_languages_say_everything() -> None:
    used = set()
    for path in [*WEB.glob("templates/*.html"), *WEB.glob("pages*.py")]:
        used |= set(re.findall(r'\bt\(\s*"([\w-]+)"', path.read_text()))
    assert {name for name in used if not name.endswith("_")} <= set(pages_text.TEXTS)

    def parts(text: pages_text.Text) -> tuple[str, ...]:
        return text if isinstance(text, tuple) else (text,)

    for key, (english, german) in pages_text.TEXTS.items():
        assert len(parts(english)) == len(parts(german)), key
        for one_, other in zip(parts(english), parts(german)):
            assert one_ and other, key
            names = [set(re.findall(r"\{\w+\}", text)) for text in (one_, other)]
            assert names[0] == names[1], key


def test_german_pages_are_german(store: Store, config: Config) -> None:
    some(store, config)

    async def test(site: Site) -> None:
        for path, word in (
            ("/", "Übersicht"),
            ("/deliveries", "Gescheitert"),
            ("/deliveries/28/lost", "nach 3 Versuchen wurde aufgegeben"),
            ("/act?act=retry&state=failed", "1 Zustellung erneut senden?"),
        ):
            _, text = await site.get(path, **{"Accept-Language": "de"})
            assert '<html lang="de">' in text and word in text, path

    run(store, config, test)


def test_pages_are_told_of_changes(store: Store, config: Config) -> None:
    async def test(site: Site) -> None:
        async with site.session.get(site.url + "/events") as stream:
            assert stream.content_type == "text/event-stream"
            await asyncio.wait_for(stream.content.readuntil(b"data: 1\n\n"), PATIENCE)
            await site._in_writer(lambda: take(store, config, [delivered("new")]))
            await asyncio.wait_for(stream.content.readuntil(b"data: 2\n\n"), PATIENCE)

    run(store, config, test)


def test_pages_are_told_that_the_store_is_away(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise Away("gone")

    async def test(site: Site) -> None:
        async with site.session.get(site.url + "/events") as stream:

            async def heard(event: bytes) -> None:
                end = b"event: " + event + b"\n\n"
                await asyncio.wait_for(stream.content.readuntil(end), PATIENCE)

            await heard(b"change\ndata: 1")
            with monkeypatch.context() as patched:
                patched.setattr(Live, "_look", away)
                await heard(b"away\ndata: 2")
                async with site.session.get(site.url + "/events") as another:
                    end = b"event: away\ndata: 2\n\n"
                    await asyncio.wait_for(another.content.readuntil(end), PATIENCE)
            await heard(b"change\ndata: 3")

    run(store, config, test)


def test_an_error_does_not_say_that_all_goes_on(store: Store, config: Config) -> None:
    """What waits while the store is away is named."""
    english, german = pages_text.TEXTS["error_away"]
    assert "retries and alerts wait" in english
    assert "Wiederholungen und Alarme warten" in german


@pytest.mark.parametrize(
    "failing, others, found",
    [
        ("failed", "", "f0 f1 f2 f3"),
        ("pending", "", "p0 p1 p2 p3"),
        ("pending", "failed", "f0 p0 p1 p2 p3"),
        ("failed", "pending", "f0 f1 f2 f3 p0"),
        ("delivered", "", "d0 d1 d2 d3"),
    ],
)
def test_the_banner_leads_to_what_failed(
    store: Store, config: Config, failing: str, others: str, found: str
) -> None:
    """Whatever has become of it: a list that is empty, or of others, is no answer."""
    with store.reading() as connection:
        now = store.now(connection) - 240_000

    def made(state: str, number: int, time: int) -> list[Record]:
        id = f"{state[0]}{number}"
        first = [record(id, "29", time=time, attempt=n) for n in (1, 2)]
        if state == "failed":
            return [*first, record(id, "29", time=time, attempt=3)]
        if state == "delivered":
            return [*first, delivered(id, "29", time=time, attempt=3)]
        return first

    for number in range(4):
        take(store, config, made(failing, number, now + number))
    if others:
        take(store, config, made(others, 0, now - 86_400_000))

    async def test(site: Site) -> None:
        _, text = await site.get("/")
        (link,) = re.findall(r'is failing.*?<a href="(.*?)">', text)
        _, text = await site.get(html.unescape(link))
        assert sorted(rows(text)) == found.split()
        for state in re.findall(r"state=(\w+)", link):
            assert f'name="state" value="{state}"' in text

    run(store, config, test)


def test_under_a_path_of_a_proxy(store: Store, config: Config) -> None:
    """Each address has it, a text from outside does not get it."""
    some(store, config)
    evil = 'href="/x" action="/y"'
    take(store, config, [record("evil", case=evil, time=NOON + 9)])
    config = evolve(config, web=evolve(config.web, base="/vd"))
    url = re.compile(r'\b(?:href|src|action|data-from)="(.*?)"')
    paths = ["/", "/deliveries", "/deliveries/28/lost", "/deliveries/28/evil", "/none"]
    paths += ["/act?act=retry&state=failed", "/deliveries?search=%2Fx", "/act?act=no"]

    async def test(site: Site) -> None:
        for path in paths:
            status, text = await site.get(path)
            if path == "/none":
                continue
            found = url.findall(text)
            assert len(found) > 4, path
            for each in found:
                assert each.startswith("/vd/") or each == "#main", (path, each)
            assert 'data-base="/vd"' in text
        assert evil not in html.unescape(text)
        _, text = await site.get("/deliveries/28/evil")
        assert evil in html.unescape(text)
        _, text = await site.get("/deliveries?search=%2Fx")
        assert 'value="/x"' in text
        answer = await site.ask("GET", "/deliveries?search=", {})
        assert answer.headers["Location"] == "/vd/deliveries"
        answer = await site.confirm("/act?act=cancel&search=evil")
        assert answer.status == 303
        assert answer.headers["Location"].startswith("/vd/act?done=")

    run(store, config, test)


@pytest.mark.parametrize("term", ["VD", "東京", "東", "ü1", "7", "vd-7", "東京都"])
def test_one_search_wherever_it_is_asked(
    store: Store, config: Config, term: str
) -> None:
    """Page, API and command line find the same, the newest case first."""
    late = ("東京-2", "VD-7", NOON - 5000)  # of an edge that was late to tell
    cases = (("東京都-1", "VD-71", NOON), late, ("Müü1", "X-1", NOON + 9))
    for number, (case, ticket, time) in enumerate(cases):
        one_ = delivered(f"s{number}", case=case, ticket_id=ticket, time=time)
        take(store, config, [one_])
    expected = [
        f"s{number}"
        for number in (2, 0, 1)
        if term.lower() in "\n".join(map(str, cases[number][:2])).lower()
    ]
    assert expected

    async def test(site: Site) -> None:
        query = urlencode({"search": term})
        _, text = await site.get(f"/deliveries?{query}")
        assert rows(text) == expected
        async with site.session.get(f"{site.url}/api/deliveries?{query}") as answer:
            found = (await answer.json())["deliveries"]
        assert [each["id"] for each in found] == expected

    run(store, config, test)
    with store.reading() as connection:
        found = reads.find(connection, Filter(search=term), 9)
    assert [each.id for each in found] == expected, "list and export"


def test_what_is_forgotten_is_not_found(store: Store, config: Config) -> None:
    take(store, config, [*given_up("gone", case="C-secret", ticket_id="VD-secret")])

    def found(text: str) -> list[str]:
        with store.reading() as connection:
            return [each.id for each in reads.find(connection, Filter(search=text), 9)]

    assert found("secret") == ["gone"]
    perform(store, config, FORGET, [one(store, "gone").seq], "me")
    assert found("secret") == []
    assert found("gone") == ["gone"]
    with store.writing() as connection:
        assert deliveries.delete_old(connection, NOON * 2, 9) == 1
    assert found("gone") == []
    if store.sqlite:
        with store.reading() as connection:
            query = "SELECT count(*) FROM deliveries_search WHERE deliveries_search "
            for word in ("secret", "gone"):
                left = connection.exec_driver_sql(query + "MATCH ?", (f'"{word}"',))
                assert left.scalar_one() == 0


def test_what_is_forgotten_is_in_no_file(config: Config) -> None:
    """Neither SQLite's, nor its log; picked on a page, or by the API."""
    with stored(config) as store:
        words = ("Xylophon", "Quitte", "Geheimnis")
        traces = (*words, "xyl", "uit")  # as the index has them
        take(store, config, [delivered(f"d{n}", case=f"C-{n}") for n in range(300)])
        for id in ("one", "two"):
            case, ticket, body = f"C-{words[0]}-{id}", f"VD-{words[1]}-{id}", words[2]
            first = record(
                id, case=case, response=body, body=f'{{"a": "{body}"}}'.encode()
            )
            take(store, config, [first])
            take(store, config, [delivered(id, attempt=2, ticket_id=ticket)])

        def left() -> set[str]:
            path = Path(str(store.url.database))
            files = [path, path.with_name(path.name + "-wal")]
            content = b"".join(each.read_bytes() for each in files if each.exists())
            return {trace for trace in traces if trace.encode() in content}

        async def test(site: Site) -> None:
            assert left() == set(traces)
            picked = f"/act?act=forget&pick={one(store, 'one').seq}"
            assert (await site.confirm(picked)).status == 303
            headers = {"Content-Type": "application/json"}
            async with site.session.post(
                site.url + "/api/deliveries/forget",
                data='{"ids":["two"]}',
                headers=headers,
            ) as answer:
                assert (await answer.json())["done"] == 1
            assert left() == set()

        run(store, config, test)


@pytest.mark.parametrize("language", ["en", "de"])
def test_why_an_act_does_nothing(store: Store, config: Config, language: str) -> None:
    why = {
        "en": ("the receiver would get it twice", "nothing can be taken back"),
        "de": ("der Empfänger bekäme sie doppelt", "lässt sich nicht zurückholen"),
    }
    some(store, config)
    seq = one(store, "done").seq

    async def test(site: Site) -> None:
        for act, text in zip(("retry", "cancel"), why[language]):
            asked = {"Accept-Language": language}
            _, page = await site.get(f"/act?act={act}&pick={seq}", **asked)
            assert text in html.unescape(page)

    run(store, config, test)


def test_every_refusal_has_a_text() -> None:
    """In both languages, with the names that it fills in."""
    codes = openapi.CODE["enum"][:-1]
    for code in codes:
        act = "resend" if code == "not_journaled" else "retry"
        assert f"refusal_{act}_{code}" in pages_text.TEXTS
    assert set(codes) == set(re.findall(r'Refusal\("(\w+)"', ACTS))


def test_what_was_delivered_is_sent_again(store: Store, config: Config) -> None:
    """To the wrong thing, such as a login page; first it says what that means."""
    some(store, config)
    take(store, config, [delivered("page", body=b"{}", ticket_id=None)])
    change(store, "done", updated=NOON * 2)

    async def test(site: Site) -> None:
        _, text = await site.get("/deliveries/28/page")
        assert 'name="act" value="resend"' in text
        _, text = await site.get("/deliveries/28/lost")
        assert 'value="resend"' not in text and 'value="retry"' in text
        _, text = await site.get("/deliveries?state=delivered")
        assert text.count('value="resend"') == 2 and 'value="retry"' not in text

        asked = f"/act?act=resend&pick={one(store, 'page').seq}"
        _, text = await site.get(asked)
        assert "Send 1 delivered case again?" in text and "login page" in text
        _, text = await site.get(asked, **{"Accept-Language": "de"})
        assert "1 zugestellten Fall noch einmal senden?" in text
        assert one(store, "page").state == DELIVERED
        answer = await site.confirm(asked)
        assert answer.status == 303 and site.retry.woken == 1
        after = one(store, "page")
        assert (after.state, after.attempts, after.base) == (PENDING, 1, 1)
        _, text = await site.get(answer.headers["Location"])
        assert "1 delivery is sent again." in text and "Sent again" in text

        for language, why in (("en", "bodies=all"), ("de", "nicht hier")):
            _, text = await site.get(
                f"/act?act=resend&pick={one(store, 'done').seq}",
                **{"Accept-Language": language},
            )
            assert why in text
        answer = await site.confirm("/act?act=resend&output=29")
        assert one(store, "bare").state == DELIVERED, "it is without its case"
        assert one(store, "waits").attempts == 1

    run(store, config, test)


def test_a_late_ticket_id_is_found(store: Store, config: Config) -> None:
    take(store, config, [record("late", case="C-9")])
    take(store, config, [delivered("late", attempt=2, ticket_id="VD-late-1")])
    with store.reading() as connection:
        (found,) = reads.find(connection, Filter(search="late-1"), 9)
    assert found.id == "late"


@pytest.mark.parametrize("few", [0, 1, 1000])
def test_search_finds_the_same_however_it_goes_about_it(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(search, "FEW", few)
    monkeypatch.setattr(search, "HAND", few)
    made = "0193a1b2-0000-7000-8000-0000000000"
    many = [
        delivered(f"{made}{n:02}", str(n % 3), case=f"C-{n}", time=NOON + n)
        for n in range(40)
    ]
    take(store, config, [*many, *given_up("other", "1", case="C-99", time=NOON + 99)])

    def found(**conditions: Any) -> list[str]:
        with store.reading() as connection:
            filter = Filter(**conditions)
            first = reads.find(connection, filter, 7)
            rest = reads.find(connection, filter, 99, reads.place(first[-1]))
            assert len(first + rest) == reads.count(connection, filter)
            return [(each.case or "") for each in first + rest]

    assert found(search="VD-1") == [f"C-{n}" for n in reversed(range(40))]
    assert found(search="VD-1", outputs=("1",)) == [
        f"C-{n}" for n in reversed(range(40)) if n % 3 == 1
    ]
    assert found(search="C-3") == [f"C-{n}" for n in reversed(range(30, 40))] + ["C-3"]
    assert found(search="c-99") == ["C-99"]
    assert found(search=f"{made}07") == ["C-7"]
    assert len(found(search=made[:9])) == 40


def test_rates_count_each_attempt_once(store: Store, config: Config) -> None:
    earlier = wall_clock() - rates.HALF_HOUR
    start = earlier - earlier % rates.HALF_HOUR
    first = [delivered(f"a{n}", time=start + n, duration_ms=n * 10) for n in range(100)]
    take(store, config, first + given_up("b", time=start))
    take(store, config, first)
    with store.reading() as connection:
        (hour,) = rates.read(connection, rates.HALF_HOUR, start, rates.HALF_HOUR)
        minutes = rates.read(connection, rates.MINUTE, start, rates.MINUTE)
    assert (hour.delivered, hour.failed) == (100, 3)
    assert [(m.delivered, m.failed) for m in minutes] == [(100, 1), (0, 1), (0, 1)]
    assert (hour.last_delivered, hour.last_failed) == (start + 99, start + 120_000)
    assert sum(hour.durations) == 103
    assert 450 <= (rates.quantile(hour.durations, 0.5) or 0) <= 550
    assert 900 <= (rates.quantile(hour.durations, 0.95) or 0) <= 1000
    assert rates.quantile([0] * 16, 0.5) is None


@pytest.mark.parametrize(
    "body, shown",
    [
        (b'{"a": 1.50, "a": [true, null, "x"]}', '"a": 1.50 "a": [true null "x"]'),
        (b"[]", "[]"),
        (b"12345678901234567890", "12345678901234567890"),
        ('{"ü": "\\u202e"}'.encode(), '"ü": "\ufffd"'),
    ],
)
def test_a_case_is_shown_as_it_is_written(body: bytes, shown: str) -> None:
    def plain(node: Any) -> str:
        name = "" if node.name is None else f"{node.name}: "
        if isinstance(node, pages_case.Leaf):
            return f"{name}{node.text}"
        inner = " ".join(map(plain, node.items))
        return name + (f"[{inner}]" if node.brackets == "[]" else inner)

    case = pages_case.read(body)
    assert case.tree is not None
    assert plain(case.tree) == shown


@pytest.mark.parametrize(
    "body", [b"\xff\xfe", b"{", b"[" * 100_000, b"[" + b"1," * 9000 + b"1]"]
)
def test_what_is_no_case_to_unfold_is_text(body: bytes) -> None:
    case = pages_case.read(body)
    assert case.tree is None and case.text and case.size == len(body)


def test_a_store_that_is_away_is_a_page_too(store: Store, config: Config) -> None:
    gone = Store("postgresql://nobody@127.0.0.1:1/none")

    async def test(site: Site) -> None:
        for path in ("/", "/deliveries", "/deliveries/28/a"):
            status, text = await site.get(path)
            assert status == 503
            assert "The store does not answer" in text and "<html" in text

    run(gone, config, test)


def test_a_role_that_may_make_no_extension_searches_all_the_same(
    postgres: Postgres, config: Config
) -> None:
    url = postgres.create_database()
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    name = str(make_url(url).database)
    with admin.connect() as connection:
        for statement in (
            "CREATE ROLE modest LOGIN",
            f"REVOKE CREATE ON DATABASE {name} FROM PUBLIC",
            "GRANT ALL ON SCHEMA public TO modest",
        ):
            connection.exec_driver_sql(statement)
    store = Store(url.replace("//postgres@", "//modest@"))
    try:
        with capture_logs() as logs:
            store.migrate()
        assert any("it needs extensions" in each["event"] for each in logs), logs
        some(store, config)
        with store.reading() as connection:
            (found,) = reads.find(connection, Filter(search="D-7"), 9)
        assert found.id == "done"
    finally:
        store.close()
        admin.dispose()
        postgres.drop_database(url)
