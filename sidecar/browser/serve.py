#!/usr/bin/python3
# Copyright (C) The ngx_vd_module authors
"""A sidecar and its nginx for the browser's tests, with deliveries that were made.

Prints the address of the pages as JSON when all is there.  Then each line that
comes in is done, and answered with a line: ``heal`` (output 30 works again),
``deliver N`` (so many more to output 28), ``stop`` and ``start`` (the sidecar),
``away`` and ``back`` (the store).
It ends with its input.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("tests", ".")]

from edge import started  # noqa: E402
from postgres import Postgres  # noqa: E402
from receiver import Answer, Receiver  # noqa: E402
from rig import Output  # noqa: E402

CASE = {
    "incident": {
        "title": "Suspicious sign-in from an unknown device",
        "severity": "critical",
        "detected_at": "2026-11-22T09:14:27Z",
        "source_ip": "203.0.113.24",
        "affected": ["jana.k@example.com", "vpn-gateway-2"],
    },
    "customer": {"name": "Müller & Söhne GmbH", "number": 40817},
    "score": 0.97,
    "confirmed": True,
    "assignee": None,
}
OUTPUTS = (
    Output("28", "Security Incident – Critical Alert", timeout="1500ms"),
    Output("29", "Service Desk", timeout="1500ms"),
    Output("30", "Partner Portal", timeout="1500ms"),
)
REFUSED = Answer(503, body=b'{"error": "maintenance until 10:00"}')
HOSTILE = '<img src=x onerror="document.title=1">'


def main() -> None:
    with ExitStack() as stack:
        postgres = Postgres()
        stack.callback(postgres.remove)
        postgres.start()
        store = postgres.create_database()
        receiver = Receiver()
        stack.callback(receiver.remove)
        edge = started(
            stack,
            receiver,
            store,
            *OUTPUTS,
            retry={"attempts": 3, "backoff": ["100ms", "200ms"]},
            outputs={"30": {"retry": {"backoff": ["20m"], "attempts": 5}}},
        )
        post = edge.nginx.post
        receiver.always(REFUSED, output="29")
        receiver.always(REFUSED, output="30")

        given_up = []
        for number in range(70):
            post("28", CASE, case=f"C-2026-{1000 + number}")
            if number % 8 == 0:
                key = f"service-desk-{number}"
                post("29", CASE, key=key, case=f"C-2026-{1000 + number}")
                given_up.append(key)
        receiver.script(Answer(body=b'{"message": "Workflow was started"}'), id="plain")
        post("28", CASE, key="plain", case="C-2026-0999")
        post("29", CASE, key="hostile", case=HOSTILE)
        for number in range(4):
            key = f"partner-{number}"
            post("30", CASE, key=key, case=f"C-2026-{1100 + number}")
        edge.view.wait("failed", *given_up, "hostile")
        edge.view.wait("pending", *(f"partner-{number}" for number in range(4)))
        edge.view.wait("delivered", "plain")
        say({"url": f"http://127.0.0.1:{edge.sidecar.port}"})

        for line in sys.stdin:
            word, *rest = line.split()
            if word == "heal":
                receiver.always(Answer(), output="30")
            elif word == "deliver":
                for number in range(int(rest[0])):
                    post("28", CASE, case=f"C-2026-{2000 + number}")
            elif word == "stop":
                edge.sidecar.stop()
            elif word == "start":
                edge.sidecar.start()
            elif word == "away":
                postgres.stop()
            elif word == "back":
                postgres.start()
            say({"done": word})


def say(value: object) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
