# Copyright (C) The ngx_vd_module authors
"""What was claimed ahead: it is attempted only if it still is to be."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Sequence

import pytest

from conftest import StartEdge
from edge import Edge, started
from journal_writer import Segment, delivered, failed, now
from processes import wait_for
from receiver import Answer, Receiver
from rig import Output, request

DUE = 60
FORGOTTEN = 30
PLACES = 8
BODIES = 64
BODY_BYTES = 5 << 20
LIMIT_MB = 160  # of growth: 32 MB of bodies, what a driver copies, and the journal's


def busy(edges: Sequence[Edge], receiver: Receiver) -> list[str]:
    """Has 8 attempts on the wire for a while, and as many more claimed as there are."""
    receiver.always(Answer(delay=5.0), output="29")
    ids = [f"due-{number}" for number in range(DUE)]
    for edge in edges:
        edge.sidecar.pause()
    with Segment(edges[0].nginx.journal) as segment:
        segment.write(*(failed(id, "29", time=now() - 60_000) for id in ids))
    for edge in edges:
        edge.sidecar.resume()
    wait_for(lambda: receiver.stats().in_flight >= PLACES, "attempts")
    wait_for(lambda: all(each.owner for each in edges[0].view.all()), "claims")
    return ids


def act(edge: Edge, name: str, ids: Sequence[str]) -> None:
    asked = json.dumps({"ids": list(ids)}).encode()
    headers = {"Content-Type": "application/json"}
    path = f"/api/deliveries/{name}"
    answer = request(edge.sidecar.port, "POST", path, asked, headers)
    assert (answer.status, answer.json["done"]) == (200, len(ids)), answer.text


@pytest.mark.parametrize("count", [1, 2])
def test_what_is_cancelled_or_forgotten_is_not_attempted(
    receiver: Receiver, store_url: str, count: int
) -> None:
    """Only what is on the wire is finished."""
    retry = {"per_output": PLACES, "timeout": "60s", "backoff": ["50ms"]}
    output = Output("29", ack="journal", timeout="20s")
    with ExitStack() as stack:
        edges = [
            started(stack, receiver, store_url, output, edge=name, retry=retry)
            for name in "ab"[:count]
        ]
        ids = busy(edges, receiver)
        act(edges[0], "cancel", ids)
        act(edges[0], "forget", ids[-FORGOTTEN:])
        wait_for(lambda: receiver.stats().in_flight == 0, "the wire's end")
        receiver.always(Answer())
        edges[0].accept("29", "after")
        edges[0].view.wait("delivered", "after")
        wait_for(
            lambda: not any(each.owner for each in edges[0].view.all()), "leases' end"
        )
        states = {each.id: each.state for each in edges[0].view.all()}

    sent = {each.id for each in receiver.requests()} - {"after"}
    assert PLACES <= len(sent) <= PLACES * count, sorted(sent)
    for id in set(ids) - sent:
        assert states[id] == "cancelled"


def test_nothing_is_claimed_before_the_backlog_is_read(
    start_edge: StartEdge, receiver: Receiver
) -> None:
    """After a crash: the case was delivered, and only the journal knows."""
    edge = start_edge("28", retry={"backoff": ["3s"]})
    edge.fail("28", "known")
    edge.view.wait_attempts("known", 1)
    edge.sidecar.kill()
    with Segment(edge.nginx.journal) as segment:
        for number in range(30_000):
            segment.write(delivered(f"backlog-{number}"))
        segment.write(delivered("known", attempt=2))
        due = edge.view.get("known").due
        assert due is not None
        wait_for(lambda: now() > (due or 0), "it to be due")
        edge.sidecar.start()
        edge.view.wait("delivered", "known")
        assert edge.nginx.post("28", key="after").status == 200
        edge.view.wait("delivered", "after")
    assert [each.status for each in receiver.requests(id="known")] == [503]


def test_many_large_cases_are_not_in_memory_at_once(
    start_edge: StartEdge, receiver: Receiver
) -> None:
    retry = {"per_output": 32, "timeout": "120s"}
    output = Output("29", ack="journal", timeout="60s")
    edge = start_edge(output, retry=retry, nginx="http://127.0.0.1:1")
    body = json.dumps({"x": "y" * BODY_BYTES}).encode()
    ids = [f"large-{number}" for number in range(BODIES)]
    for id in ids:
        assert edge.nginx.post("29", body, key=id).status == 202
    edge.view.wait("pending", *ids)
    edge.sidecar.stop()
    edge.sidecar.configure(
        journal=str(edge.nginx.journal),
        store=edge.sidecar.store,
        nginx=edge.nginx.unix,
        retry=retry,
    )
    receiver.always(Answer(delay=1.0))
    edge.sidecar.start()
    before = memory(edge, "VmRSS")
    edge.view.wait("delivered", *ids)
    grown = (memory(edge, "VmHWM") - before) / 1024
    print(f"{BODIES} cases of {len(body):,} bytes: {grown:.0f} MB more at most")
    assert grown < LIMIT_MB
    assert {len(each.body) for each in receiver.requests()} == {len(body)}


def memory(edge: Edge, key: str) -> int:
    """In KB."""
    with open(f"/proc/{edge.sidecar.pid}/status") as status:
        (line,) = (each for each in status if each.startswith(key + ":"))
    return int(line.split()[1])
