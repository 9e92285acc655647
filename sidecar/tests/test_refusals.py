# Copyright (C) The ngx_vd_module authors
"""What answers at nginx's address, and makes no attempt: it is no outcome.

With a real nginx whose locations are not, or no longer, what a record says.
"""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
import time
from typing import Any, Iterator, Mapping

import pytest

from conftest import StartEdge, StartNginx
from edge import ATTEMPT, Edge
from journal_writer import Segment, delivered, failed
from processes import wait_for
from receiver import Receiver
from rig import Output
from vd_sidecar.model import Delivery

OTHER = {
    "id": "another",
    "output": "28",
    "state": "delivered",
    "attempt": 2,
    "status": 200,
    "ticket_id": "VD-9",
    "ticket_error": None,
    "reason": None,
    "journaled": True,
}
NO_JSON = "default_type text/html; return 200 '<title>Log in</title>';"

# What a location may have become, and what is heard of it.

BECOME = {
    "gone": ("", "answered 404 Not Found"),
    "login": (NO_JSON, "answered 200 OK: <title>Log in</title>"),
    "closed": ("return 503;", "answered 503 Service Temporarily Unavailable"),
    "forbidden": ("deny all;", "answered 403 Forbidden"),
    "too_small": ("client_max_body_size 1;", "answered 413 Request Entity Too Large"),
    "moved": ("return 308 /elsewhere;", "answered 308 Permanent Redirect, to http"),
    "cheerful": (f"return 200 '{json.dumps(OTHER)}';", "'id' is \"another\""),
    "queued": (
        """return 200 '{"state":"failed","status":"queued"}';""",
        "'id' is null",
    ),
    "deep": (f"return 200 '{'[' * 3000}';", "answered 200 OK: [[["),
}


def become(edge: Edge, *outputs: Output) -> None:
    edge.nginx.configure(outputs)
    edge.nginx.reload()


def heard(edge: Edge, id: str, refusals: int = 1) -> Delivery:
    """Once nginx refused it so often."""

    def refused() -> bool:
        found = edge.view.find(id)
        return found is not None and found.refusals >= refusals

    wait_for(refused, f"a refusal of {id}")
    return edge.view.get(id)


def checks(edge: Edge) -> Any:
    return edge.sidecar.get("/healthz").json["checks"]


def test_whatever_a_location_has_become_is_no_outcome(
    start_edge: StartEdge, receiver: Receiver
) -> None:
    """Each waits by itself, and is attempted once its location is one again."""
    outputs = [Output(id, timeout=ATTEMPT) for id in BECOME]
    edge = start_edge(*outputs, retry={"backoff": ["1s"], "attempts": 2})
    edge.sidecar.pause()
    for id in BECOME:
        receiver.script(503, id=id)
        assert edge.nginx.post(id, key=id, case=f"C-{id}").status == 202
    become(edge, *(each._replace(more=BECOME[each.id][0]) for each in outputs[1:]))
    edge.sidecar.resume()

    address = edge.nginx.unix
    for id, (_, text) in BECOME.items():
        one = heard(edge, id)
        assert (one.state, one.attempts, one.owner) == ("pending", 1, None)
        assert one.refused is not None and one.due is not None
        assert 59_000 <= one.due - one.refused <= 61_000
        assert str(one.refusal).startswith(f"nginx at {address}, /outputs/{id}")
        assert text in str(one.refusal), one.refusal
        (alert,) = edge.view.alerts(id)
        assert (alert.kind, alert.count, one.alert) == ("refused", 1, alert.seq)

    assert receiver.stats().requests == len(BECOME)
    shown = edge.sidecar.cli("show", "moved").stdout
    assert "308 Permanent Redirect" in shown and address in shown
    told = edge.sidecar.cli_json("show", "moved")[0]
    assert "308" in told["refusal"] and told["refusals"] == 1
    page = edge.sidecar.get("/deliveries/moved/moved").text
    assert "308 Permanent Redirect" in page and address in page
    name = 'vd_sidecar_attempts_total{outcome="refused"}'
    assert edge.sidecar.metric(name) == len(BECOME)
    refusals = checks(edge)["refusals"]
    assert refusals["status"] == "warning" and "1 deliveries of output" in (
        refusals["text"]
    )

    become(edge, *outputs)
    edge.sidecar.cli_json("retry", *BECOME)
    edge.view.wait("delivered", *BECOME)
    for id in BECOME:
        one = edge.view.get(id)
        assert (one.attempts, one.refusals, one.refused, one.refusal) == (
            2,
            0,
            None,
            None,
        )
    wait_for(lambda: checks(edge)["refusals"]["status"] == "ok", "no refusals")


def test_a_location_that_redirects_starves_no_other_of_its_output(
    start_edge: StartEdge, receiver: Receiver
) -> None:
    moved = Output("moved", more="return 308 /elsewhere;")
    edge = start_edge("28", moved, retry={"backoff": ["50ms"], "per_output": 1})
    edge.sidecar.pause()
    with Segment(edge.nginx.journal) as segment:
        for number in range(40):
            segment.write(failed(f"bad-{number}", uri="/outputs/moved"))
            segment.write(failed(f"good-{number}"))
    edge.sidecar.resume()
    edge.view.wait("delivered", *(f"good-{number}" for number in range(40)))
    for number in range(40):
        assert heard(edge, f"bad-{number}").attempts == 1
    (alert,) = edge.view.alerts("28")
    assert (alert.kind, alert.count) == ("refused", 40)


def test_what_is_refused_for_long_is_given_up(
    start_edge: StartEdge, receiver: Receiver
) -> None:
    """With a cause that says what was heard, and from whom."""
    edge = start_edge("28", retry={"backoff": ["1s"], "refused_for": "1ms"})
    edge.sidecar.pause()
    edge.fail("28", "homeless")
    become(edge, Output("30"))
    edge.sidecar.resume()
    heard(edge, "homeless")
    edge.sidecar.cli_json("retry", "homeless")
    one = edge.view.wait("failed", "homeless")
    assert (one.reason, one.status, one.attempts) == ("refused", None, 1)
    assert "answered 404 Not Found" in str(one.refusal)
    kinds = {each.seq: each.kind for each in edge.view.alerts("28")}
    assert one.alert is not None and kinds[one.alert] == "failed"
    assert "404" in edge.sidecar.cli("show", "homeless").stdout
    become(edge, Output("28"))
    edge.sidecar.cli_json("retry", "homeless")
    assert edge.view.wait("delivered", "homeless").refusal is None
    assert receiver.stats().requests == 2


# ---- no answer ----

SILENT = {
    "closes": "closed the connection without an answer",
    "resets": "closed the connection without an answer",
    "hangs": "gave no answer within 1 s",
    "breaks": "broke off its answer",
}
RESET = struct.pack("ii", 1, 0)  # what close() does then


class Mute:
    """Listens where nginx should, takes each request, and answers none of them."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, str]] = []  # when, and of which output
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            how = client.recv(65536).split()[1].rpartition(b"/")[2].decode()
            self.heard.append((time.monotonic(), how))
            if how == "hangs":
                self._open.append(client)
                continue
            if how == "breaks":
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")
            if how == "resets":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for each in (self._listener, *self._open):
            each.close()


@pytest.fixture
def mute() -> Iterator[Mute]:
    one = Mute()
    yield one
    one.close()


def test_who_never_answers_is_heard_of(start_edge: StartEdge, mute: Mute) -> None:
    """As of a refusal, once the lease is over and the journal told nothing."""
    retry = {"timeout": "1s", "attempts": 9, "refused_for": "1ms"}
    edge = start_edge("28", nginx=mute.url, retry=retry)
    with Segment(edge.nginx.journal) as segment:
        began = time.monotonic()
        segment.write(*(failed(f"is-{how}", how, time=1) for how in SILENT))
        for how, text in SILENT.items():
            one = heard(edge, f"is-{how}")
            assert (one.state, one.attempts, one.owner) == ("pending", 1, None)
            assert one.due is not None and one.refused is not None
            assert one.due - one.refused == 60_000
            start = f"nginx at {mute.url}, /outputs/{how}, {text}"
            assert str(one.refusal).startswith(start), one.refusal
            end = "; the journal does not tell of an attempt"
            assert str(one.refusal).endswith(end), one.refusal
            (alert,) = edge.view.alerts(how)
            assert (alert.kind, alert.count, one.alert) == ("refused", 1, alert.seq)
        assert time.monotonic() - began > 7.0  # its lease
        assert sorted(how for _, how in mute.heard) == sorted(SILENT)
        assert checks(edge)["refusals"]["status"] == "warning"

        # the journal has the last word, however late

        segment.write(failed("is-closes", "closes", attempt=2))
        segment.write(delivered("is-resets", "resets", attempt=2))
        one = edge.view.wait("delivered", "is-resets")
        assert (one.attempts, one.refusals, one.refusal) == (2, 0, None)
        one = edge.view.wait_attempts("is-closes", 2)
        assert (one.state, one.refusals, one.status) == ("pending", 0, 503)

    edge.sidecar.cli_json("retry", "is-hangs", "is-breaks")
    one = edge.view.wait("failed", "is-hangs", "is-breaks")
    assert (one.reason, one.attempts) == ("refused", 1)
    assert "broke off its answer" in str(one.refusal)
    times = [at for at, how in mute.heard if how == "breaks"]
    assert len(times) == 2 and times[1] - times[0] >= 7.0


def test_a_location_that_closes_is_heard_of(
    start_edge: StartEdge, receiver: Receiver
) -> None:
    edge = start_edge("28", retry={"timeout": "1s", "backoff": ["50ms"]})
    edge.sidecar.pause()
    edge.fail("28", "mine")
    become(edge, Output("28", more="return 444;"))
    edge.sidecar.resume()
    assert "closed the connection without an answer" in str(heard(edge, "mine").refusal)
    become(edge, Output("28"))
    edge.sidecar.cli_json("retry", "mine")
    assert edge.view.wait("delivered", "mine").attempts == 2


# ---- another's location ----

STRANGER = """
    server {{
        listen 127.0.0.1:{port} default_server;
        listen "unix:{socket}" default_server;
        server_name stranger.example.com;
        vd_secret_file secret;
        vd_journal "{journal}";
        location / {{
            vd_pass http://receiver/stranger;
            vd_output 28 "Security Incident";
        }}
    }}
"""


def test_a_retry_reaches_the_server_that_the_first_attempt_came_to(
    start_edge: StartEdge, receiver: Receiver
) -> None:
    """Also if another is the default of its port, with an output of the same id."""
    edge = start_edge("28", Output("29", ack="journal"), retry={"backoff": ["50ms"]})
    nginx = edge.nginx
    stranger = STRANGER.format(
        port=nginx.port, socket=nginx.socket, journal=nginx.journal
    )
    nginx.configure(["28", Output("29", ack="journal")], stranger)
    nginx.reload()
    edge.fail("28", "mine", 500)
    edge.accept("29", "mine-too")
    edge.view.wait("delivered", "mine", "mine-too")
    assert {each.output for each in receiver.requests()} == {"28", "29"}
    assert len(receiver.requests(id="mine")) == 3


def test_a_location_that_delivers_to_another_by_now(
    start_edge: StartEdge, receiver: Receiver
) -> None:
    """Its receiver never gets what was meant for the first one."""
    edge = start_edge("28", retry={"backoff": ["1s"]})
    edge.sidecar.pause()
    edge.fail("28", "mine")
    become(edge, Output("28", url="http://receiver/29", output="29"))
    edge.sidecar.resume()
    one = heard(edge, "mine")
    assert "answered 409 Conflict" in str(one.refusal), one.refusal
    assert (one.state, one.attempts) == ("pending", 1)
    assert receiver.requests("29") == []
    become(edge, Output("28"))
    edge.sidecar.cli_json("retry", "mine")
    edge.view.wait("delivered", "mine")
    assert receiver.requests("29") == []


def test_another_nginx_is_never_the_outcome(
    start_edge: StartEdge, receiver: Receiver, start_nginx: StartNginx
) -> None:
    """One that answers cheerfully, for other ids, and for other outputs."""
    said = json.dumps(OTHER)
    other = start_nginx(
        Output("28", more=f"return 200 '{said}';"), Output("29", output="30")
    )
    edge = start_edge("28", "29", nginx=other.url, retry={"backoff": ["50ms"]})
    edge.fail("28", "mine")
    edge.fail("29", "mine-too")
    assert "'id' is \"another\"" in str(heard(edge, "mine").refusal)
    assert "answered 409 Conflict" in str(heard(edge, "mine-too").refusal)
    assert other.url in str(edge.view.get("mine").refusal)
    assert {each.state for each in edge.view.all()} == {"pending"}
    assert receiver.stats().requests == 2


# ---- the first one again ----

VALUES = """
    vd_set_header X-Tenant $http_x_tenant;
    vd_set_header Authorization "Bearer $http_x_token";
    vd_set_header X-Empty $http_x_empty;
    vd_set_header X-Long $http_x_long;
    vd_set_header Content-Encoding $http_x_coding;
    vd_set_header X-Case $vd_case;
    vd_set_header X-Where $host;
"""
SENT = {
    "X-Case-Id": "Fall \u00fc\t" + "9" * 600,
    "X-Tenant": "acme \u6771\u4eac",
    "X-Token": "s3cret",
    "X-Long": "x" * 2000,
    "X-Coding": "identity",
    "Host": "vd.example.com:8443",
}
NEW = ("webhook-timestamp", "webhook-signature")  # with each attempt


@pytest.mark.parametrize("ack", ["delivery", "journal"])
def test_every_attempt_sends_what_the_first_did(
    start_edge: StartEdge, receiver: Receiver, ack: str
) -> None:
    edge = start_edge(
        Output("28", ack=ack, timeout=ATTEMPT, more=VALUES), retry={"backoff": ["50ms"]}
    )
    receiver.script(503, 500, id="same")
    assert post(edge, "same", SENT) == 202
    edge.view.wait("delivered", "same")
    requests = receiver.requests(id="same")
    assert len(requests) == 3
    first, *others = (
        {key: value for key, value in each.headers.items() if key not in NEW}
        for each in requests
    )
    assert first["x-tenant"].encode("latin-1").decode() == SENT["X-Tenant"]
    assert first["authorization"] == "Bearer s3cret"
    assert first["x-long"] == SENT["X-Long"]
    assert first["x-where"] == "vd.example.com"
    assert first["x-case"].encode("latin-1").decode() == SENT["X-Case-Id"]
    assert others == [first, first]


def post(edge: Edge, id: str, headers: Mapping[str, str]) -> int:
    sent = {"Idempotency-Key": id, "Content-Type": "application/json", **headers}
    connection = http.client.HTTPConnection("127.0.0.1", edge.nginx.port, timeout=60)
    try:
        connection.putrequest("POST", "/outputs/28", skip_host=True)
        for key, value in {**sent, "Content-Length": "2"}.items():
            connection.putheader(key, value.encode())  # type: ignore[arg-type]
        connection.endheaders(b"{}")
        return connection.getresponse().status
    finally:
        connection.close()
