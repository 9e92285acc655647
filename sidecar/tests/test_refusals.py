# Copyright (C) The ngx_vd_module authors
"""What answers at nginx's address, and makes no attempt: it is no outcome.

With a real nginx whose locations are not, or no longer, what a record says.
"""

from __future__ import annotations

import json
from typing import Any

from conftest import StartEdge
from edge import ATTEMPT, Edge
from journal_writer import Segment, failed
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
    wait_for(lambda: edge.view.get(id).refusals >= refusals, f"a refusal of {id}")
    return edge.view.get(id)


def checks(edge: Edge) -> Any:
    return edge.sidecar.get("/healthz").json["checks"]


def test_whatever_a_location_has_become_is_no_outcome(
    start_edge: StartEdge, receiver: Receiver
) -> None:
    """Each waits by itself, and is attempted once its location is one again."""
    outputs = [Output(id, timeout=ATTEMPT) for id in BECOME]
    edge = start_edge(*outputs, retry={"backoff": ["1s"], "attempts": 2})
    for id in BECOME:
        receiver.script(503, id=id)
        assert edge.nginx.post(id, key=id, case=f"C-{id}").status == 202
    edge.sidecar.pause()
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
    assert checks(edge)["refusals"]["status"] == "ok"


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
    edge.fail("28", "homeless")
    edge.view.wait_attempts("homeless", 1)
    edge.sidecar.pause()
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
