# Copyright (C) The ngx_vd_module authors
"""/metrics: what it tells, what it costs; and the alerts and the dashboard over it."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Iterator

import journal_writer as writer
import pytest
from attrs import evolve
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.engine import Connection

from conftest import MakeSidecar, StartNginx
from postgres import Postgres
from processes import (
    PATIENCE,
    REPOSITORY,
    end,
    make_directory,
    port_of,
    remove_directory,
    reserve_port,
    spawn,
    wait_for,
)
from receiver import Receiver
from rig import Nginx
from served import Served, ask
from sidecar import Sidecar
from stored import change, delivered, given_up, record, take
from vd_sidecar.config import Alerts, Config, Output
from vd_sidecar.store import Store, stats, wall_clock
from vd_sidecar.web import reading

CONTRIB = REPOSITORY / "contrib"
ALERTS = CONTRIB / "prometheus" / "vd-alerts.yml"
DASHBOARD = CONTRIB / "grafana" / "vd.json"
MINUTE = 60_000

Series = tuple[str, frozenset[tuple[str, str]]]


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scrape looks for itself."""
    monkeypatch.setattr(reading, "FRESH_SECONDS", 0.0)


def samples(text: str) -> dict[Series, float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
    }


def value(found: dict[Series, float], name: str, **labels: str) -> float:
    return found["vd_sidecar_" + name, frozenset(labels.items())]


def scrape(served: Served) -> dict[Series, float]:
    return samples(served.ask("/metrics").text)


def check_metrics(text: str) -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_promtool_finds_nothing(config: Config, store_url: str) -> None:
    config = evolve(config, store=store_url)
    with Served(config) as served:
        check_metrics(served.ask("/metrics").text)
        odd = record("a", label='Say "hi" \\ \n there {x="y"} ü', output="a.b-c_1")
        take(served.store, config, [odd])
        answer = served.ask("/metrics")
        check_metrics(answer.text)
        labels = {"output": "a.b-c_1", "label": odd.label}
        assert value(samples(answer.text), "output_info", **labels) == 1


def test_content_type(config: Config) -> None:
    with Served(config) as served:
        answer = served.ask("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "_created" not in answer.text
    assert "# EOF" not in answer.text


def test_every_series_is_there_from_the_start(config: Config) -> None:
    """But for those of an output that nobody configured, and its label."""
    config = evolve(
        config,
        outputs={"28": Output()},
        alerts=Alerts(email=("ops@example.com",)),
    )
    with Served(config) as served:
        before = scrape(served)
        retry, notify = served.service.retry, served.service.notify
        take(served.store, config, [delivered("a"), *given_up("b"), record("c")])
        retry.outcomes.update(("delivered", "failed", "refused", "lost", "not_sent"))
        notify.sent.update(notify.kinds)
        notify.failed.update(notify.kinds)
        after = scrape(served)

    def known(found: dict[Series, float]) -> set[Series]:
        return {each for each in found if each[0] != "vd_sidecar_output_info"}

    assert known(before) == known(after)
    counted = [name for name, _ in before if name.startswith("vd_sidecar")]
    assert len(counted) > 35
    for (name, labels), found in before.items():
        if labels and name not in ("vd_sidecar_output_info", "vd_sidecar_build_info"):
            assert found == 0, name


def test_what_the_store_holds(config: Config, store_url: str) -> None:
    config = evolve(config, store=store_url, alerts=Alerts(email=("a@example.com",)))
    now = wall_clock()
    with Served(config) as served:
        store = served.store
        records = [delivered("a"), delivered("b"), *given_up("c", time=now)]
        records += [record(f"p{n}", time=now) for n in range(4)]
        take(store, config, records + [record("x", "29", time=now)])
        for n in range(2):
            change(store, f"p{n}", due=now - (n + 1) * MINUTE)
        change(store, "p2", due=now + MINUTE, owner="edge-2", claimed=2)

        found = scrape(served)
        for state, count in {"delivered": 2, "pending": 4, "failed": 1}.items():
            assert value(found, "deliveries", output="28", state=state) == count
        assert value(found, "deliveries", output="29", state="pending") == 1
        assert value(found, "due", output="28") == 2
        assert value(found, "due", output="29") == 0
        age = value(found, "oldest_due_age_seconds", output="28")
        assert age == pytest.approx(120, abs=60)
        assert value(found, "oldest_due_age_seconds", output="29") == 0
        assert value(found, "notices_waiting", kind="alert-mail") == 0

        with store.writing() as connection:
            connection.exec_driver_sql("UPDATE notices SET due = due - 60000")
            connection.exec_driver_sql("UPDATE alerts SET due = due - 60000")
        found = scrape(served)
        assert value(found, "notices_waiting", kind="alert-mail") == 1
        age = value(found, "notices_oldest_age_seconds", kind="alert-mail")
        assert age == pytest.approx(55, abs=60)
        assert value(found, "notices_oldest_age_seconds", kind="backup") == 0


def test_without_the_store(config: Config) -> None:
    server = Postgres()
    try:
        with Served(evolve(config, store=server.create_database())) as served:
            assert value(scrape(served), "store_up") == 1
            server.stop()
            answer = served.ask("/metrics")
            assert answer.status == 200
            check_metrics(answer.text)
            found = samples(answer.text)
            assert value(found, "store_up") == 0
            assert value(found, "journal_records_total") == 0
            assert not {n for n, _ in found if "deliveries" in n or "waiting" in n}
    finally:
        server.remove()


def test_what_a_sidecar_does(
    receiver: Receiver, start_nginx: StartNginx, make_sidecar: MakeSidecar
) -> None:
    nginx = start_nginx("28")
    retry = {"attempts": 2, "backoff": ["100ms"], "jitter": 0}
    sidecar = make_sidecar(nginx=nginx.url, retry=retry)
    sidecar.start()
    receiver.script(503, 200, id="later")
    receiver.script(503, 503, id="never")
    nginx.post("28", key="later")
    nginx.post("28", key="never")
    nginx.post("28", key="at-once")

    def wait(name: str, expected: float) -> None:
        full = f"vd_sidecar_{name}"
        wait_for(lambda: sidecar.metric(full) == expected, f"{full} {expected}")

    wait('deliveries{output="28",state="delivered"}', 2)
    wait('deliveries{output="28",state="failed"}', 1)
    wait('attempts_total{outcome="delivered"}', 1)
    wait('attempts_total{outcome="failed"}', 1)
    wait("journal_records_total", 5)
    wait("claims", 0)
    wait("journal_lag_bytes", 0)
    assert sidecar.metric("vd_sidecar_journal_segments") == 2
    lag = sidecar.metric("vd_sidecar_journal_lag_seconds")
    assert lag is not None and lag < PATIENCE
    read = sidecar.metric("vd_sidecar_journal_last_read_timestamp_seconds")
    assert read == pytest.approx(time.time(), abs=PATIENCE)

    assert sidecar.metric('vd_sidecar_attempts_total{outcome="not_sent"}') == 0


def test_nginx_away_counts_as_not_sent(journal: Path) -> None:
    sidecar = Sidecar(journal=str(journal), nginx="http://127.0.0.1:1")
    try:
        with writer.Segment(journal) as segment:
            segment.write(writer.accepted("a"))
        sidecar.start()
        name = 'vd_sidecar_attempts_total{outcome="not_sent"}'
        wait_for(lambda: (sidecar.metric(name) or 0) > 0, name)
        assert sidecar.metric("vd_sidecar_in_flight") == 0
    finally:
        sidecar.remove()


def fill(store: Store, first: int, last: int) -> None:
    """So many deliveries of each of two outputs wait, and mails."""
    now = wall_clock()
    with store.writing() as connection:
        numbers = _numbers(connection, first, last)
        for number, output in enumerate(("28", "29")):
            connection.exec_driver_sql(
                "INSERT INTO deliveries (seq, id, output, label, uri, state, created,"
                " updated, attempts, base, due, fence, forgotten)"
                f" SELECT i * 2 + {number}, '{output}-' || i, '{output}', '', '/',"
                f" 'pending', 0, 0, 1, 0, {now} - i, 0, (0 = 1) FROM ({numbers}) AS n"
            )
        connection.exec_driver_sql(
            "INSERT INTO notices (seq, key, kind, output, created, due, tries)"
            f" SELECT i, 'k' || i, 'backup', '28', {now} - i, {now} - i, 0"
            f" FROM ({numbers}) AS n"
        )
    if not store.sqlite:
        _vacuum(store)


def _numbers(connection: Connection, first: int, last: int) -> str:
    if connection.dialect.name != "sqlite":
        return f"SELECT generate_series({first}, {last}) AS i"
    return (
        f"WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n"
        f" WHERE i < {last}) SELECT i FROM n"
    )


def cost(store: Store) -> int:
    """Of all queries: steps of SQLite's machine, or pages that PostgreSQL looked at."""
    total = 0
    with store.reading() as connection:
        if store.sqlite:
            raw: Any = connection.connection.dbapi_connection

            def step() -> int:
                nonlocal total
                total += 1
                return 0

            raw.set_progress_handler(step, 1)
            stats.read(connection, wall_clock())
            raw.set_progress_handler(None, 0)
            return total

        for query in (stats._outputs, stats._waiting):
            compiled = query.compile(
                connection, compile_kwargs={"render_postcompile": True}
            )
            parameters = {**compiled.params, "now": wall_clock()}
            plan = connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {compiled}", parameters
            ).scalar_one()
            top = plan[0]["Plan"]
            total += top["Shared Hit Blocks"] + top["Shared Read Blocks"]
    return total


def test_cost_does_not_grow_with_what_waits(store_url: str) -> None:
    """Beyond what is counted."""
    store = Store(store_url)
    try:
        store.migrate()
        with store.writing() as connection:
            connection.exec_driver_sql(
                "INSERT INTO tallies (output, label, delivered, pending, failed,"
                " cancelled) VALUES ('28', '', 0, 1, 0, 0), ('29', '', 0, 1, 0, 0)"
            )
        fill(store, 1, stats.MOST)
        few = cost(store)
        fill(store, stats.MOST + 1, 20 * stats.MOST)
        assert cost(store) < 3 * few
        with store.reading() as connection:
            found = stats.read(connection, wall_clock())
        assert [each.due for each in found.outputs] == [stats.MOST] * 2
        assert found.notices[2].waiting == stats.MOST
        assert found.outputs[0].overdue >= 20 * stats.MOST
    finally:
        store.close()


def _vacuum(store: Store) -> None:
    with store.engine.connect() as connection:
        raw: Any = connection.connection.dbapi_connection
        raw.autocommit = True
        with raw.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")
        raw.autocommit = False


def test_alert_rules() -> None:
    for command in (
        ["promtool", "check", "rules", ALERTS.name],
        ["promtool", "test", "rules", "vd-alerts.test.yml"],
    ):
        ran = subprocess.run(command, cwd=ALERTS.parent, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_alerts_say_what_to_do() -> None:
    rules = ALERTS.read_text().split("- alert: ")[1:]
    titles = re.findall(r"^#+ (.+)$", (REPOSITORY / "README.md").read_text(), re.M)
    anchors = {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}
    for rule in rules:
        name = rule.partition("\n")[0]
        for key in ("summary", "description", "severity"):
            assert f"{key}: " in rule, name
        link = re.search(r"runbook_url: README\.md#(\S+)", rule)
        assert link and link[1] in anchors, name


class Prometheus:
    """A server that scrapes, from here to ``remove()``."""

    def __init__(self, nginx: Nginx, sidecar: Sidecar) -> None:
        self._directory = make_directory("prometheus")
        self._reserved = reserve_port()
        self._port = port_of(self._reserved)
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": [
                _job("vd", nginx.port, "/status"),
                _job("vd-sidecar", sidecar.port, "/metrics"),
            ],
        }
        path = self._directory / "prometheus.yml"
        path.write_text(json.dumps(configuration))
        options = {
            "config.file": path,
            "storage.tsdb.path": self._directory / "data",
            "web.listen-address": f"127.0.0.1:{self._port}",
            "log.level": "warn",
        }
        command = [f"--{name}={value}" for name, value in options.items()]
        self._process = spawn(["prometheus", *command], self._directory / "log")

    def get(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{query}"
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return json.load(answer)["data"]

    def values(self, expression: str) -> list[str]:
        """Of all series that it has at this moment, but for those that are no number."""
        result = self.get("query", query=expression)["result"]
        return [each["value"][1] for each in result if each["value"][1] != "NaN"]

    def is_up(self) -> bool:
        try:
            return self.values("sum(up)") == ["2"]
        except OSError:
            return False

    def remove(self) -> None:
        end(self._process)
        self._reserved.close()
        remove_directory(self._directory)


def _job(name: str, port: int, path: str) -> dict[str, object]:
    return {
        "job_name": name,
        "metrics_path": path,
        "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
    }


def expressions() -> Iterator[tuple[str, str]]:
    """Of all panels, as they are for all outputs."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            text = target["expr"].replace("$__rate_interval", "30s")
            yield panel["title"], text.replace("$output", ".*")


def test_dashboard_and_alerts_in_prometheus(
    receiver: Receiver, start_nginx: StartNginx, make_sidecar: MakeSidecar
) -> None:
    nginx = start_nginx("28")
    sidecar = make_sidecar(nginx=nginx.url, retry={"backoff": ["200ms"]})
    sidecar.start()
    prometheus = Prometheus(nginx, sidecar)
    try:
        wait_for(prometheus.is_up, "two targets that are up")
        receiver.script(503, 200, id="retried")
        nginx.post("28", key="retried")
        nginx.post("28", key="delivered")
        missing: list[tuple[str, str]] = []

        def all_there() -> bool:
            missing[:] = [
                each for each in expressions() if not prometheus.values(each[1])
            ]
            return not missing

        try:
            wait_for(all_there, "data for all panels")
        finally:
            assert missing == []
        groups = prometheus.get("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert len(rules) == ALERTS.read_text().count("- alert:")
        assert {rule["health"] for rule in rules} <= {"ok"}
        assert {r["name"] for r in rules if r["state"] == "firing"} <= {
            "VdJournalDiskFull"  # it may be so, where the tests run
        }
    finally:
        prometheus.remove()


def test_dashboard_names_only_metrics_that_exist(
    start_nginx: StartNginx, make_sidecar: MakeSidecar
) -> None:
    """And all that the sidecar has are on it."""
    nginx = start_nginx("28")
    sidecar = make_sidecar(nginx=nginx.url)
    sidecar.start()
    ours = set(re.findall(r"^# TYPE (vd_\w+)", sidecar.get("/metrics").text, re.M))
    status = ask(nginx.port, "/status").text
    theirs = set(re.findall(r"^# TYPE (vd_\w+)", status, re.M))
    text = " ".join(expression for _, expression in expressions())
    used = {name.removesuffix("_bucket") for name in re.findall(r"\bvd_\w+", text)}
    assert used <= ours | theirs
    assert ours | theirs <= used
