# Copyright (C) The ngx_vd_module authors
"""The process of ``receiver.Receiver``: PORT FD KEEP_CONTENT.

HTTP/1.1 in as few steps as will do for nginx, which sends a Content-Length.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
import time
from collections import Counter, defaultdict, deque
from http import HTTPStatus
from multiprocessing.connection import Connection
from typing import NamedTuple, Optional

from receiver import Answer, Request, Stats

Key = tuple[str, str]  # a delivery: output and id

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
ID = re.compile(rb"\r\nwebhook-id: *([^\r]+)", re.IGNORECASE)
CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
ORDINARY = Answer()


class Begun(NamedTuple):
    """A request that has not ended."""

    start: float
    key: Key
    head: bytes
    body: bytes
    last: bool  # of its connection


class Memory:
    """What is to be answered, and what came."""

    def __init__(self, keep_content: bool) -> None:
        self._keep = keep_content
        self._always: dict[Optional[str], Answer] = {}
        self._by_id: defaultdict[str, deque[Answer]] = defaultdict(deque)
        self._by_output: defaultdict[str, deque[Answer]] = defaultdict(deque)
        self._tickets: dict[Key, int] = {}
        self._open: defaultdict[Key, list[Client]] = defaultdict(list)
        self._in_flight: Counter[str] = Counter()
        self.forget()

    def always(self, answer: Answer, output: Optional[str]) -> None:
        self._always[output] = answer

    def script(
        self, answers: list[Answer], id: Optional[str], output: Optional[str]
    ) -> None:
        if id is not None:
            self._by_id[id].extend(answers)
        if output is not None:
            self._by_output[output].extend(answers)

    def forget(self) -> None:
        self._ended: list[Request] = []
        self._statuses: Counter[Optional[int]] = Counter()
        self._max_by_output = dict(self._in_flight)
        self._max = sum(self._in_flight.values())
        self._twice: set[Key] = set()

    def requests(self) -> list[Request]:
        return self._ended

    def stats(self) -> Stats:
        return Stats(
            len(self._ended),
            sum(self._in_flight.values()),
            self._max,
            self._max_by_output,
            dict(self._statuses),
            sorted(self._twice),
        )

    def answer(self, key: Key) -> Answer:
        output, id = key
        for scripts, name in ((self._by_id, id), (self._by_output, output)):
            if name in scripts and scripts[name]:
                return scripts[name].popleft()
        return self._always.get(output) or self._always.get(None) or ORDINARY

    def ticket(self, key: Key) -> int:
        return self._tickets.setdefault(key, len(self._tickets) + 1)

    def begin(self, key: Key, client: Client) -> None:
        for other in list(self._open[key]):
            other.look()
        others = self._open[key]
        others.append(client)
        if len(others) > 1:
            self._twice.add(key)
        output = key[0]
        self._in_flight[output] += 1
        here = self._in_flight[output]
        if here > self._max_by_output.get(output, 0):
            self._max_by_output[output] = here
        everywhere = sum(self._in_flight.values())
        if everywhere > self._max:
            self._max = everywhere

    def end(self, begun: Begun, client: Client, status: Optional[int]) -> None:
        start, key, head, body, _ = begun
        others = self._open[key]
        others.remove(client)
        if not others:
            del self._open[key]
        self._in_flight[key[0]] -= 1
        self._statuses[status] += 1
        if not self._keep:
            head = body = b""
        self._ended.append(Request(start, time.time(), *key, status, head, body))


class Client(asyncio.Protocol):
    """One connection of nginx."""

    def __init__(self, memory: Memory, clients: set[Client]) -> None:
        self._memory = memory
        self._clients = clients
        self._buffer = b""
        self._begun: Optional[Begun] = None
        self._timer: Optional[asyncio.TimerHandle] = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._clients.add(self)

    def connection_lost(self, exception: Optional[Exception]) -> None:
        self._clients.discard(self)
        self._end(None)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._begun is None:
            self._take()

    def _take(self) -> None:
        size = self._buffer.find(b"\r\n\r\n")
        if size < 0:
            return
        head = self._buffer[:size]
        found = LENGTH.search(head)
        whole = size + 4 + (int(found[1]) if found else 0)
        if len(self._buffer) < whole:
            return
        start = time.time()
        body = self._buffer[size + 4 : whole]
        self._buffer = self._buffer[whole:]
        found = ID.search(head)
        id = found[1].decode("latin-1") if found else ""
        output = head.split(b" ", 2)[1].decode("latin-1").strip("/")
        last = CLOSE.search(head) is not None
        self._begun = Begun(start, (output, id), head, body, last)
        self._memory.begin((output, id), self)
        answer = self._memory.answer((output, id))
        if answer.hang:
            return
        if answer.delay:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(answer.delay, self._answer, answer)
        else:
            self._answer(answer)

    def _answer(self, answer: Answer) -> None:
        if self._begun is None:
            return
        last = self._begun.last
        if answer.close:
            self._end(None)
            self._transport.close()
            return
        text = response(answer, self._memory.ticket(self._begun.key))
        # First, so that nobody has the answer to a request that has not ended.
        self._end(answer.status)
        self._transport.write(text)
        if last:
            self._transport.close()
        elif self._buffer:
            self._take()

    def _end(self, status: Optional[int]) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        begun, self._begun = self._begun, None
        if begun is not None:
            self._memory.end(begun, self, status)

    def look(self) -> None:
        """Whether it has gone away, which the event loop may not have told yet."""
        raw = self._transport.get_extra_info("socket")
        with socket.socket(fileno=os.dup(raw.fileno())) as connection:
            try:
                gone = not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                gone = False
            except OSError:
                gone = True
        if gone:
            self.cut()

    def cut(self) -> None:
        self._end(None)
        self._transport.abort()


def response(answer: Answer, ticket: int) -> bytes:
    body = answer.body
    if body is None and 200 <= answer.status < 300:
        body = b'{"success": true, "ticket_id": "VD-%d"}' % ticket
    elif body is None:
        body = b'{"error": "as told"}'
    if answer.status == 204:
        body = b""
    extra = ""
    if answer.retry_after is not None:
        extra = f"Retry-After: {answer.retry_after}\r\n"
    try:
        phrase = HTTPStatus(answer.status).phrase
    except ValueError:
        phrase = "Unknown"
    head = (
        f"HTTP/1.1 {answer.status} {phrase}\r\nContent-Type: application/json\r\n"
        f"{extra}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def serve(port: int, control: Connection, keep_content: bool) -> None:
    loop = asyncio.get_running_loop()
    memory = Memory(keep_content)
    clients: set[Client] = set()
    server: Optional[asyncio.Server] = None
    orders: asyncio.Queue[Optional[tuple[object, ...]]] = asyncio.Queue()

    def receive() -> None:
        try:
            orders.put_nowait(control.recv())
        except EOFError:
            orders.put_nowait(None)
            loop.remove_reader(control.fileno())

    loop.add_reader(control.fileno(), receive)
    while (order := await orders.get()) is not None:
        command, *arguments = order
        result: object = None
        if command == "listen" and server is None:
            server = await loop.create_server(
                lambda: Client(memory, clients), "127.0.0.1", port, backlog=1024
            )
        elif command == "refuse" and server is not None:
            server.close()
            server = None
            for client in list(clients):
                client.cut()
        elif command not in ("listen", "refuse"):
            result = getattr(memory, str(command))(*arguments)
        control.send(result)


def main() -> None:
    port, descriptor, keep_content = map(int, sys.argv[1:])
    asyncio.run(serve(port, Connection(descriptor), bool(keep_content)))


if __name__ == "__main__":
    main()
