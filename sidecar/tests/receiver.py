# Copyright (C) The ngx_vd_module authors
"""A receiver that does as it is told, and remembers what it got.

It runs in a process of its own (``receiver_process.py``), so that the tests' threads
do not slow it down: it answers some 10,000 requests a second.  The path of a request
is its output: ``POST /28``.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

from processes import Failed, PATIENCE, end, port_of, reserve_port, wait_for

SERVER = Path(__file__).with_name("receiver_process.py")


class Answer(NamedTuple):
    """What becomes of a request.

    ``delay``: seconds before anything happens.  ``hang``: nothing ever does, until
    the client goes away.  ``close``: the connection is closed without an answer.
    ``body`` None: a ticket id if the status is 2xx, else an error message.
    """

    status: int = 200
    delay: float = 0.0
    retry_after: Union[int, str, None] = None
    body: Optional[bytes] = None
    hang: bool = False
    close: bool = False


class Request(NamedTuple):
    """One that has ended; times are Unix seconds.

    ``status`` is None if no answer was sent: told so, or the client went away first.
    """

    start: float
    end: float
    output: str
    id: str  # its webhook-id
    status: Optional[int]
    head: bytes  # empty, as is the body, with keep_content=False
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        """By names in lower case."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        pairs = (line.partition(":") for line in lines if line)
        return {name.lower(): value.strip() for name, _, value in pairs}

    @property
    def json(self) -> object:
        value: object = json.loads(self.body)
        return value


class Stats(NamedTuple):
    """Since the start, or since ``forget()``."""

    requests: int  # that have ended
    in_flight: int  # now
    max_in_flight: int
    max_by_output: dict[str, int]
    statuses: dict[Optional[int], int]
    twice_at_once: list[tuple[str, str]]  # deliveries (output, id): must be empty


class Receiver:
    """The process, from ``Receiver()`` to ``remove()``.

    A delivery that comes again gets the ticket id of the first time.  With
    ``keep_content=False`` it forgets heads and bodies, for runs of a million.
    All methods may be called from any thread.
    """

    def __init__(self, keep_content: bool = True) -> None:
        self._reserved = reserve_port()
        self.port = port_of(self._reserved)
        self._lock = threading.Lock()
        ours, theirs = socket.socketpair()
        arguments = [self.port, theirs.fileno(), int(keep_content)]
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        self._control = Connection(ours.detach())
        self.listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def always(self, answer: Answer, output: Optional[str] = None) -> None:
        """To every request from now on (of one output), unless scripted otherwise.

        ``Answer()`` takes it back.
        """
        self._ask("always", answer, output)

    def script(
        self,
        *answers: Union[Answer, int],
        id: Optional[str] = None,
        output: Optional[str] = None,
    ) -> None:
        """The next answers of a delivery id or an output, one for each request.

        A number is a status.  Those of an id come before those of an output; when
        all are given, ``always`` holds again.
        """
        if (id is None) == (output is None):
            raise ValueError("give an id or an output")
        full = [
            Answer(status=answer) if isinstance(answer, int) else answer
            for answer in answers
        ]
        self._ask("script", full, id, output)

    def refuse(self) -> None:
        """An outage: nobody listens, and all connections are cut."""
        self._ask("refuse")

    def listen(self) -> None:
        """The end of an outage."""
        self._ask("listen")

    def requests(
        self, output: Optional[str] = None, id: Optional[str] = None
    ) -> list[Request]:
        """Those that have ended, in the order in which they began."""
        found: list[Request] = self._ask("requests")
        return sorted(
            request
            for request in found
            if output in (None, request.output) and id in (None, request.id)
        )

    def stats(self) -> Stats:
        found: Stats = self._ask("stats")
        return found

    def wait_for(self, count: int, patience: float = PATIENCE) -> None:
        """Until this many requests have ended."""
        wait_for(
            lambda: self.stats().requests >= count,
            f"request {count} at the receiver",
            patience,
        )

    def forget(self) -> None:
        """What has ended, and the maxima; scripts and ticket ids stay."""
        self._ask("forget")

    def remove(self) -> None:
        self._control.close()  # by which it ends
        end(self._process)
        self._reserved.close()

    def _ask(self, command: str, *arguments: object) -> Any:
        with self._lock:
            try:
                self._control.send((command, *arguments))
                return self._control.recv()
            except (EOFError, OSError):
                raise Failed("the receiver is gone") from None
