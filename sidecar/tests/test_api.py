# Copyright (C) The ngx_vd_module authors
"""/api: what it finds, does and refuses; every answer is held against its document."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from typing import Any, Iterator

import pytest
from attrs import evolve
from jsonschema import Draft202012Validator, RefResolver
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from postgres import Postgres
from served import Answer, Served
from stored import BODY, NOON, change, delivered, given_up, one, record, take
from vd_sidecar import acts, web
from vd_sidecar.batch import rfc3339
from vd_sidecar.config import Alerts, Config
from vd_sidecar.store import reads, wall_clock
from vd_sidecar.web import acting, openapi
from vd_sidecar.web.guard import MAX_BODY

HOUR = 3_600_000
JSON = {"Content-Type": "application/json"}
DOCUMENT: Any = openapi.document()


def check(answer: Answer, method: str, path: str) -> Answer:
    """``answer``, if the document allows it."""
    bare = path.partition("?")[0]
    known = DOCUMENT["paths"]
    place = bare if bare in known else "/api/deliveries/{id}"
    allowed = known[place][method.lower()]["responses"]
    assert str(answer.status) in allowed, (answer.status, answer.text)
    schema = allowed[str(answer.status)]["content"]["application/json"]["schema"]
    resolver = RefResolver("", DOCUMENT)
    Draft202012Validator(schema, resolver=resolver).validate(answer.json)
    return answer


class Client:
    def __init__(self, served: Served) -> None:
        self.served = served

    def get(self, path: str) -> Answer:
        return check(self.served.ask(path), "get", path)

    def post(self, act: str, asked: object, **headers: str) -> Answer:
        path = f"/api/deliveries/{act}"
        return check(self.served.post(path, asked, **headers), "post", path)

    def ids(self, query: str = "") -> list[str]:
        answer = self.get(f"/api/deliveries?{query}")
        assert answer.status == 200, answer.text
        return [each["id"] for each in answer.json["deliveries"]]

    def states(self) -> dict[str, str]:
        found = self.get("/api/deliveries?limit=1000").json["deliveries"]
        return {each["id"]: each["state"] for each in found}


@pytest.fixture
def served(config: Config, store_url: str) -> Iterator[Served]:
    with Served(evolve(config, store=store_url)) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Client:
    """Of a store with a little of everything."""
    take(
        served.store,
        served.service.config,
        [
            delivered("d1", ticket_id="VD-77", case="Fall-1"),
            delivered("d2", "29", ticket_id=None, time=NOON + HOUR),
            *given_up("f1", case="Fall-2", time=NOON + 2 * HOUR),
            *given_up("f2", "29", reason="timeout", status=None, time=NOON + 3 * HOUR),
            record("p1", time=NOON + 4 * HOUR),
        ],
    )
    return Client(served)


def at(hours: float) -> str:
    return rfc3339(NOON + round(hours * HOUR))


FILTERS = [
    ("", ["p1", "f2", "f1", "d2", "d1"]),
    ("output=29", ["f2", "d2"]),
    ("output=28&output=29&state=failed", ["f2", "f1"]),
    ("state=pending&state=delivered", ["p1", "d2", "d1"]),
    ("reason=timeout", ["f2"]),
    (f"since={at(2)}", ["p1", "f2", "f1"]),
    (f"until={at(2)}", ["d2", "d1"]),
    (f"since={at(1)}&until={at(3)}", ["f1", "d2"]),
    ("since=1h", []),
    ("case=Fall-1", ["d1"]),
    ("case=Fall", []),
    ("ticket_id=VD-77", ["d1"]),
    ("search=fall", ["f1", "d1"]),
    ("search=vd-7", ["d1"]),
    ("search=%25", []),
    ("without_ticket=true&state=delivered", ["d2"]),
    ("without_ticket=false&state=delivered", ["d2", "d1"]),
    ("output=30", []),
]


def test_filters(client: Client) -> None:
    assert {query: client.ids(query) for query, _ in FILTERS} == dict(FILTERS)


def test_delivery_has_the_journals_names(client: Client) -> None:
    (found,) = client.get("/api/deliveries?search=d1").json["deliveries"]
    assert found == {
        "id": "d1",
        "output": "28",
        "label": "Output 28",
        "case": "Fall-1",
        "state": "delivered",
        "created": at(0),
        "updated": at(0),
        "attempts": 1,
        "due": None,
        "status": 200,
        "reason": None,
        "ticket_id": "VD-77",
        "ticket_error": None,
    }


def test_pages_miss_and_repeat_nothing(client: Client) -> None:
    """Also what comes at the same time as others, and while somebody turns pages."""
    served = client.served
    config = served.service.config
    take(served.store, config, [record(f"n{n}", time=NOON) for n in range(25)])
    seen: list[str] = []
    query = "limit=10"
    while True:
        answer = client.get(f"/api/deliveries?{query}")
        seen += [each["id"] for each in answer.json["deliveries"]]
        if answer.json["next"] is None:
            break
        assert len(answer.json["deliveries"]) == 10
        take(served.store, config, [record(f"new{len(seen)}", time=NOON + 9 * HOUR)])
        query = f"limit=10&cursor={answer.json['next']}"
    assert len(seen) == len(set(seen)) == 30
    assert not [id for id in seen if id.startswith("new")]


def test_no_next_when_the_last_page_is_full(client: Client) -> None:
    assert client.get("/api/deliveries?limit=5").json["next"] is None
    assert client.get("/api/deliveries?limit=4").json["next"] is not None


WRONG_QUERIES = [
    "outputs=28",
    "state=lost",
    "reason=because",
    "since=yesterday",
    "until=",
    "limit=0",
    "limit=1001",
    "limit=ten",
    "cursor=1",
    "cursor=1.2.3",
    "case=a&case=b",
    "without_ticket=1",
    "search=" + "x" * 513,
]


def test_wrong_queries(config: Config) -> None:
    with Served(config) as served:
        for query in WRONG_QUERIES:
            path = f"/api/deliveries?{query}"
            assert Client(served).get(path).status == 400, query


def test_odd_text_in_a_query(client: Client) -> None:
    assert client.get("/api/deliveries?search=%00").status == 400
    for text in (
        "%ff",
        "'%20or%201=1",
        "%F0%9F%98%80",
        "\\%25_".replace("\\", "%5C"),
    ):
        assert client.ids(f"search={text}") == []


def test_show(client: Client) -> None:
    answer = client.get("/api/deliveries/f1")
    assert answer.status == 200
    (found,) = answer.json["deliveries"]
    assert [each["attempt"] for each in found["exchanges"]] == [1, 2, 3]
    assert found["exchanges"][0]["response"] == '{"error": "maintenance"}'
    assert found["body_bytes"] == len(BODY)
    assert "body" not in found
    assert client.get("/api/deliveries/nobody").status == 404
    assert client.get("/api/deliveries/f1?bodies=1").status == 400
    assert client.get("/api/deliveries/f1?body=yes").status == 400


def test_show_all_outputs_of_an_id(client: Client) -> None:
    served = client.served
    take(served.store, served.service.config, [delivered("f1", "29")])
    found = client.get("/api/deliveries/f1").json["deliveries"]
    assert [each["output"] for each in found] == ["28", "29"]
    found = client.get("/api/deliveries/f1?output=29").json["deliveries"]
    assert [each["state"] for each in found] == ["delivered"]
    assert client.get("/api/deliveries/f1?output=30").status == 404


def test_bodies(client: Client) -> None:
    served = client.served
    take(served.store, served.service.config, [record("binary", body=b"\xff\x00")])
    (found,) = client.get("/api/deliveries/f1?body=true").json["deliveries"]
    assert found["body"] == BODY.decode()
    (found,) = client.get("/api/deliveries/binary?body=true").json["deliveries"]
    assert found["body_b64"] == "/wA="
    (found,) = client.get("/api/deliveries/d1?body=true").json["deliveries"]
    assert found["body_bytes"] is None and "body" not in found


def test_notices_are_shown(config: Config) -> None:
    config = evolve(config, alerts=Alerts(email=("ops@example.com",)))
    with Served(config) as served:
        take(served.store, config, given_up("a"))
        (found,) = Client(served).get("/api/deliveries/a").json["deliveries"]
    (notice,) = found["notices"]
    assert (notice["kind"], notice["sent"], notice["tries"]) == ("alert-mail", None, 0)


def test_outputs(client: Client) -> None:
    first, second = client.get("/api/outputs").json["outputs"]
    assert first["oldest_due_age_seconds"] > 0
    del first["oldest_due_age_seconds"]
    assert first == {
        "output": "28",
        "label": "Output 28",
        "delivered": 1,
        "pending": 1,
        "failed": 1,
        "cancelled": 0,
        "due": 1,
    }
    assert (second["output"], second["failed"], second["due"]) == ("29", 1, 0)


def test_retry_by_ids(client: Client) -> None:
    client.served.service.retry._wake.clear()
    answer = client.post("retry", {"ids": ["f1", "d1", "nobody", "f1"]})
    assert answer.status == 200
    done = answer.json
    assert (done["done"], done["refused"], done["outputs"]) == (1, 1, {"28": 1})
    assert done["not_found"] == ["nobody"]
    assert [each["id"] for each in done["deliveries"]] == ["d1", "f1"]
    assert "delivered" in done["deliveries"][0]["refused"]
    assert done["deliveries"][0]["code"] == "delivered"
    again = one(client.served.store, "f1")
    assert again.state == "pending"
    assert again.due is not None and again.due <= wall_clock()
    assert client.served.service.retry._wake.is_set()
    assert client.states()["d1"] == "delivered"


def test_ids_of_one_output(client: Client) -> None:
    served = client.served
    take(served.store, served.service.config, given_up("f1", "29"))
    client.post("cancel", {"ids": ["f1"], "output": "29"})
    assert one(served.store, "f1", "29").state == "cancelled"
    assert one(served.store, "f1", "28").state == "failed"


def test_filter_without_a_state(client: Client) -> None:
    """Retry is for what failed, cancel for what is pending."""
    answer = client.post("retry", {"filter": {"since": at(0)}})
    assert answer.json["outputs"] == {"28": 1, "29": 1}
    assert answer.json["next"] is None
    assert client.states()["f1"] == client.states()["f2"] == "pending"
    client.post("cancel", {"filter": {"output": ["28"]}})
    assert client.states() == {
        "d1": "delivered",
        "d2": "delivered",
        "f1": "cancelled",
        "f2": "pending",
        "p1": "cancelled",
    }


def test_dry_run_changes_nothing(client: Client) -> None:
    before = client.states()
    for act in ("retry", "cancel", "forget"):
        for chosen in (
            {"ids": ["f1"], "dry_run": True},
            {"filter": {"search": "f", "state": "failed"}, "dry_run": True},
        ):
            answer = client.post(act, chosen)
            assert answer.json["dry_run"] is True
            assert answer.json["done"] > 0
    assert client.states() == before
    (found,) = client.get("/api/deliveries/f1").json["deliveries"]
    assert found["acts"] == []


def test_forget(client: Client) -> None:
    answer = client.post("forget", {"ids": ["f1"]})
    assert answer.json["done"] == 1
    assert answer.json["segments"] == []
    (found,) = client.get("/api/deliveries/f1?body=true").json["deliveries"]
    assert found["forgotten"] is True
    assert (found["case"], found["body_bytes"]) == (None, None)
    assert {each["response"] for each in found["exchanges"]} == {None}


# as bytes that http.client takes; the first is no UTF-8, the second turns text

ODD_NAME = "\xff" + "\u202e".encode().decode("latin-1") + "x"


def test_who_did_it(config: Config) -> None:
    with Served(config) as served:
        client = Client(served)
        take(served.store, config, [record("p1")])
        for name in (None, "anna", "x" * 200, ODD_NAME):
            headers = {} if name is None else {"X_Remote_User": name}
            client.post("retry", {"ids": ["p1"]}, **headers)
        (found,) = client.get("/api/deliveries/p1").json["deliveries"]
    assert [each["act"] for each in found["acts"]] == ["retry"] * 4
    names = ["127.0.0.1", "anna", "x" * 64, r"\udcff\u202ex"]
    assert [each["who"] for each in found["acts"]] == names


def test_more_than_one_request_may_change(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acting, "CHUNK", 10)
    monkeypatch.setattr(acting, "MOST", 30)
    served = client.served
    records = [each for n in range(75) for each in given_up(f"n{n}", "30")]
    take(served.store, served.service.config, records)

    asked: dict[str, object] = {"filter": {"output": "30"}}
    counts = []
    while True:
        done = client.post("retry", asked).json
        counts.append(done["done"])
        if done["next"] is None:
            break
        asked["cursor"] = done["next"]
    assert counts == [30, 30, 15]
    assert Counter(client.states().values())["pending"] == 76


def test_refused_ones_are_not_all_named(client: Client) -> None:
    served = client.served
    records = [delivered(f"n{n}", "30") for n in range(30)]
    take(served.store, served.service.config, records)
    asked = {"filter": {"output": "30", "state": "delivered"}}
    done = client.post("retry", asked).json
    assert (done["done"], done["refused"], len(done["deliveries"])) == (0, 30, 20)


WRONG_ACTS: list[object] = [
    {},
    [],
    "ids",
    {"ids": []},
    {"ids": "p1"},
    {"ids": [1]},
    {"ids": [""]},
    {"ids": ["p1"] * 1001},
    {"ids": ["p1"], "filter": {"output": "28"}},
    {"ids": ["p1"], "cursor": "1.1"},
    {"ids": ["p1"], "output": 28},
    {"ids": ["p1"], "dry_run": "yes"},
    {"ids": ["p1"], "dry_run": 1},
    {"ids": ["p1"], "dryrun": True},
    {"filter": {}},
    {"filter": None},
    {"filter": ["output"]},
    {"filter": {"output": 28}},
    {"filter": {"outputs": ["28"]}},
    {"filter": {"state": ["lost"]}},
    {"filter": {"state": "pending"}, "output": "28"},
    {"filter": {"since": 5}},
    {"filter": {"since": "never"}},
    {"filter": {"reason": ["timeout"]}},
    {"filter": {"without_ticket": 1}},
    {"filter": {"output": "28"}, "cursor": "x"},
    {"filter": {"output": "28"}, "cursor": 5},
]


def test_wrong_acts_change_nothing(config: Config) -> None:
    with Served(config) as served:
        client = Client(served)
        take(served.store, config, [record("p1")])
        for asked in WRONG_ACTS:
            assert client.post("cancel", asked).status == 400, asked
        assert client.states() == {"p1": "pending"}


NOT_JSON = [b"", b"{", b"\xff", b'{"ids": ["\xff"]}', b"[" * 100_000, b"null"]


def test_bodies_that_are_not_json(config: Config) -> None:
    path = "/api/deliveries/cancel"
    with Served(config) as served:
        for body in NOT_JSON:
            answer = served.ask(path, "POST", body, JSON)
            assert check(answer, "post", path).status == 400, body[:20]


def test_too_large(config: Config) -> None:
    with Served(config) as served:
        path = "/api/deliveries/cancel"
        body = b'{"ids": ["' + b"x" * MAX_BODY + b'"]}'
        answer = served.ask(path, "POST", body, {"Content-Type": "application/json"})
        assert check(answer, "post", path).status == 413


SITES: list[tuple[dict[str, str], int]] = [
    ({**JSON, "Sec-Fetch-Site": "same-origin"}, 200),
    ({**JSON, "Sec-Fetch-Site": "none"}, 200),
    ({**JSON, "Sec-Fetch-Site": "cross-site"}, 403),
    ({**JSON, "Sec-Fetch-Site": "same-site"}, 403),
    ({**JSON, "Origin": "http://HOST"}, 200),
    ({**JSON, "Origin": "https://HOST"}, 200),
    ({**JSON, "Origin": "http://evil.example"}, 403),
    ({**JSON, "Origin": "http://HOST.evil.example"}, 403),
    ({**JSON, "Origin": "http://127.0.0.1:1"}, 403),
    ({**JSON, "Origin": "null"}, 403),
    ({**JSON, "Origin": "http://[oh"}, 403),
    # a browser behind a proxy that sends another Host says so itself
    (
        {
            **JSON,
            "Origin": "https://vd.example",
            "Sec-Fetch-Site": "same-origin",
        },
        200,
    ),
    ({"Content-Type": "text/plain"}, 415),
    ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ({}, 415),
]


def test_other_sites(config: Config) -> None:
    path = "/api/deliveries/cancel"
    with Served(config) as served:
        host = f"127.0.0.1:{served.port}"
        for number, (headers, status) in enumerate(SITES):
            id = f"p{number}"
            take(served.store, config, [record(id)])
            given = {name: text.replace("HOST", host) for name, text in headers.items()}
            asked = json.dumps({"ids": [id]}).encode()
            answer = served.ask(path, "POST", asked, given)
            assert check(answer, "post", path).status == status, headers
            expected = "cancelled" if status == 200 else "pending"
            assert one(served.store, id).state == expected, headers


def test_no_other_site_may_read(config: Config) -> None:
    with Served(config) as served:
        headers = {"Origin": "http://evil.example"}
        answer = served.ask("/api/deliveries", headers=headers)
        assert "Access-Control-Allow-Origin" not in answer.headers
        answer = served.ask("/api/deliveries/retry", "OPTIONS", headers=headers)
        assert answer.status in (403, 405)


HOSTS = [
    ("127.0.0.1:1", 200),
    ("[::1]", 200),
    ("localhost", 200),
    ("vd.example.com:8443", 200),
    ("VD.example.com", 200),
    ("evil.example", 421),
    ("vd.example.com.evil.example", 421),
    ("127.0.0.1.evil.example", 421),
    ("[oh", 421),
]


def test_a_site_that_gives_its_name_our_address(config: Config) -> None:
    web = evolve(config.web, hosts=("vd.example.com",))
    with Served(evolve(config, web=web)) as served:
        for host, status in HOSTS:
            answer = served.ask("/api/deliveries", headers={"Host": host})
            assert answer.status == status, host
            assert served.ask("/metrics", headers={"Host": host}).status == 200
        assert "hosts in [web]" in served.ask("/", headers={"Host": "other"}).text


def test_wrong_paths_and_methods(config: Config) -> None:
    with Served(config) as served:
        answer = served.ask("/api/nothing")
        assert (answer.status, list(answer.json)) == (404, ["error"])
        answer = served.ask("/api/deliveries", "DELETE")
        assert (answer.status, list(answer.json)) == (405, ["error"])
        assert "GET" in answer.headers["Allow"]


def test_fault_of_our_own(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(reads, "find", fail)
    with Served(config) as served:
        answer = served.ask("/api/deliveries")
        assert answer.status == 500
        assert list(answer.json) == ["error"]
        assert "secret" not in answer.text
        assert served.ask("/api/deliveries/x").status == 404


def test_store_away(config: Config) -> None:
    server = Postgres()
    try:
        with Served(evolve(config, store=server.create_database())) as served:
            client = Client(served)
            server.stop()
            assert client.get("/api/deliveries").status == 503
            assert client.get("/api/deliveries/x").status == 503
            assert client.get("/api/outputs").status == 503
            assert client.post("retry", {"ids": ["x"]}).status == 503
            assert client.post("retry", {"filter": {"output": "28"}}).status == 503
            server.start()
            assert client.get("/api/deliveries").status == 200
    finally:
        server.remove()


def test_acts_are_written_in_the_writers_thread(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    perform = acts.perform

    def note(*arguments: Any, **more: Any) -> Any:
        names.append(threading.current_thread().name)
        return perform(*arguments, **more)

    monkeypatch.setattr(acting, "perform", note)
    client.post("retry", {"ids": ["f1"]})
    client.post("retry", {"filter": {"output": "29"}})
    client.post("retry", {"ids": ["f1"], "dry_run": True})
    assert [name.partition("_")[0] for name in names] == ["writer", "writer", "reader"]


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def schemas(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        if "schema" in value:
            yield value["schema"]
        for inner in value.values():
            yield from schemas(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from schemas(inner)


def test_document_is_right(config: Config) -> None:
    with Served(config) as served:
        answer = check(served.ask("/api/openapi.json"), "get", "/api/openapi.json")
    document = answer.json
    assert document == json.loads(json.dumps(DOCUMENT))
    assert re.fullmatch(r"3\.1\.\d", document["openapi"])
    assert {"title", "version"} <= set(document["info"])

    known = document["components"]["schemas"]
    used = set(references(document))
    assert used == {f"#/components/schemas/{name}" for name in known}
    for schema in [*known.values(), *schemas(document)]:
        Draft202012Validator.check_schema(schema)

    operations = [
        (path, operation)
        for path, methods in document["paths"].items()
        for operation in methods.values()
    ]
    names = [operation["operationId"] for _, operation in operations]
    assert len(names) == len(set(names))
    for path, operation in operations:
        assert operation["summary"] and operation["responses"]
        parameters = operation.get("parameters", [])
        in_path = {each["name"] for each in parameters if each["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))


def test_document_names_all_that_there_is(config: Config) -> None:
    with Served(config) as served:
        app = web.application(served.service)
        routes = {
            (route.method, route.resource.canonical)
            for route in app.router.routes()
            if route.resource and route.resource.canonical.startswith("/api/")
        }
    documented = {
        (method.upper(), path)
        for path, methods in DOCUMENT["paths"].items()
        for method in methods
    }
    assert {each for each in routes if each[0] != "HEAD"} == documented


def test_document_allows_what_is_taken(client: Client) -> None:
    """And the schemas of what is sent refuse what is refused, as far as they can."""
    resolver = RefResolver("", DOCUMENT)
    schema = {"$ref": "#/components/schemas/ToDo"}
    validator = Draft202012Validator(schema, resolver=resolver)
    everything: dict[str, object] = {
        "output": ["28"],
        "state": ["failed"],
        "reason": "timeout",
        "since": "2h",
        "until": at(5),
        "case": "x",
        "ticket_id": "x",
        "search": "x",
        "without_ticket": True,
    }
    properties = DOCUMENT["components"]["schemas"]["Filter"]["properties"]
    assert set(everything) == set(properties)
    for asked in (
        {"filter": everything, "dry_run": True, "cursor": "5.5"},
        {"ids": ["a"], "output": "28"},
    ):
        validator.validate(asked)
        assert client.post("retry", asked).status == 200
    wrong: list[Any] = [{}, {"ids": []}, {"filter": {}}, {"filter": {"outputs": "28"}}]
    assert not any(map(validator.is_valid, wrong))


def test_what_changes_meanwhile_is_left_out(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*arguments: Any, **more: Any) -> Any:
        change(client.served.store, "f1", state="cancelled")
        return acts.perform(*arguments, **more)

    monkeypatch.setattr(acting, "perform", late)
    done = client.post("retry", {"filter": {"output": "28"}}).json
    assert (done["done"], done["refused"]) == (0, 0)
    assert client.states()["f1"] == "cancelled"


def test_store_that_cannot_be_written(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **more: object) -> None:
        raise OperationalError("INSERT", {}, Exception("disk is full"))

    monkeypatch.setattr(acting, "perform", fail)
    with Served(config) as served:
        take(served.store, config, [record("p1")])
        for dry_run in (False, True):
            asked = {"ids": ["p1"], "dry_run": dry_run}
            answer = Client(served).post("cancel", asked)
            assert answer.status == 503
            assert answer.json["error"].endswith("disk is full")


def test_the_log_says_who_did_what_with_which(served: Served, config: Config) -> None:
    take(served.store, config, given_up("a") + given_up("b"))
    with capture_logs() as logs:
        Client(served).post("cancel", {"ids": ["a"], "dry_run": True})
        Client(served).post("cancel", {"ids": ["a", "b", "no"]}, X_Remote_User="jana")
    (said,) = (each for each in logs if each["event"] == "an operator acted")
    assert (said["act"], said["who"], said["done"]) == ("cancel", "jana", 2)
    assert said["deliveries"] == "a b"
