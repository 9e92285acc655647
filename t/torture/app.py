# Copyright (C) The ngx_vd_module authors

"""The app, which never stops delivering, and a receiver with moods."""

import asyncio
import json
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from segments import Record, digest

LOCATIONS = ("/delivery", "/journal")  # vd_ack
PATIENCE = 60.0  # seconds, for an answer; more than any attempt takes
LARGE = 100_000  # bytes, too many for nginx to keep in memory
GONE = (OSError, EOFError)  # a TimeoutError is an OSError, too


@dataclass(frozen=True)
class Answer:
    """An answer that acknowledges a delivery, and what it promises."""

    id: str
    pid: int  # of the worker that gave it
    location: str
    attempt: int
    code: int
    status: int | None
    ticket_id: str | None
    body: bytes  # its digest

    @property
    def outcome(self) -> str:
        if self.code == 200:
            return "delivered"
        accepted = self.location == "/journal" and self.attempt == 0
        return "accepted" if accepted else "failed"

    def kept_by(self, record: Record) -> bool:
        """Whether the record is the one that was promised."""
        with_body = self.code == 202 and self.attempt <= 1
        return record == Record(
            self.id,
            self.pid,
            max(self.attempt, 1),
            self.outcome,
            self.status,
            self.ticket_id,
            self.body if with_body else None,
        )


@dataclass
class Reply:
    code: int
    pid: int
    body: bytes


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, dict[str, str]]:
    """The first line and the headers of an HTTP message."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
    pairs = (line.decode("latin-1").split(":", 1) for line in lines)
    return first, {name.lower(): value.strip() for name, value in pairs}


class App:
    """Clients that deliver without a pause, and remember what they were told."""

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.random = random.Random(seed)
        self.acknowledged: dict[str, Answer] = {}
        self.total = 0  # acknowledged, those that were found included
        self.refused = 0
        self.unknown = 0  # no answer came
        self.wrong: list[str] = []
        self.started = 0
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, clients: int) -> None:
        self.tasks = [asyncio.create_task(self.client()) for _ in range(clients)]

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        for result in await asyncio.gather(*self.tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        self.tasks = []

    async def client(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            try:
                while True:
                    await self.deliver(reader, writer)
            except GONE:
                self.unknown += 1
            finally:
                writer.transport.abort()

    async def deliver(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.started += 1
        id = f"{os.getpid()}-{self.started}"
        location = self.random.choice(LOCATIONS)
        attempt = self.random.choice((0, 0, 0, 0, 1, 2))
        body = self.make_body()
        writer.write(
            f"POST {location} HTTP/1.1\r\nHost: app\r\nIdempotency-Key: {id}\r\n"
            f"Content-Length: {len(body)}\r\n".encode()
            + (f"VD-Attempt: {attempt}\r\n".encode() if attempt else b"")
            + b"\r\n"
            + body
        )
        async with asyncio.timeout(PATIENCE):
            reply = await read_reply(reader)
        self.take_reply(reply, id, location, attempt, body)

    def take_reply(
        self, reply: Reply, id: str, location: str, attempt: int, body: bytes
    ) -> None:
        if reply.code == 503:
            self.refused += 1
            return
        states = {200: "delivered", 202: "pending"}
        fields = json.loads(reply.body) if reply.code in states else {}
        if (fields.get("id"), fields.get("state")) != (id, states.get(reply.code)):
            self.wrong.append(f"{reply.code} {reply.body!r}")
        elif not fields["journaled"]:
            self.refused += 1
        else:
            self.total += 1
            self.acknowledged[id] = Answer(
                id,
                reply.pid,
                location,
                attempt,
                reply.code,
                fields["status"],
                fields["ticket_id"],
                digest(body),
            )

    def make_body(self) -> bytes:
        """Sometimes large, sometimes not even text."""
        size = self.random.randrange(1, 2000)
        kind = self.random.randrange(100)
        if kind == 0:
            size = self.random.randrange(LARGE)
        if kind < 20:
            return self.random.randbytes(size + 1)
        text = self.random.randbytes(size // 2).hex()
        return json.dumps({"case": '"\n\u00e4\U0001f600' + text}).encode()


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    first, headers = await read_message(reader)
    body = await reader.readexactly(int(headers["content-length"]))
    return Reply(int(first.split()[1]), int(headers.get("x-worker", 0)), body)


async def get(port: int, uri: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {uri} HTTP/1.1\r\nHost: app\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE):
            return (await read_reply(reader)).body
    finally:
        writer.transport.abort()


class Receiver:
    """Delivers, fails, dawdles, closes: at random."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.count = 0

    async def start(self) -> asyncio.Server:
        return await asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=512)

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        moods: list[tuple[int, Callable[[], Awaitable[bytes]]]] = [
            (40, self.ticket),
            (10, self.no_ticket),
            (35, self.failure),
            (10, self.late),
            (5, self.broken),
        ]
        weights, replies = zip(*moods)
        try:
            while True:
                _, headers = await read_message(reader)
                await reader.readexactly(int(headers["content-length"]))
                reply = await self.random.choices(replies, weights)[0]()
                writer.write(reply)
                if not reply.endswith(b"}"):
                    break
        except GONE:
            pass
        except asyncio.CancelledError:
            pass  # the server is being closed
        finally:
            writer.close()

    async def ticket(self) -> bytes:
        self.count += 1
        return self.reply(200, {"success": True, "ticket_id": f"VD-{self.count}"})

    async def no_ticket(self) -> bytes:
        return self.reply(200, {"message": "Workflow was started"})

    async def failure(self) -> bytes:
        return self.reply(self.random.choice((302, 404, 429, 500, 503)), {})

    async def late(self) -> bytes:
        await asyncio.sleep(self.random.uniform(0, 0.3))
        return await self.ticket()

    async def broken(self) -> bytes:
        return (await self.ticket())[:-5] if self.random.random() < 0.5 else b""

    @staticmethod
    def reply(status: int, fields: dict[str, object]) -> bytes:
        body = json.dumps(fields).encode()
        return (
            f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
