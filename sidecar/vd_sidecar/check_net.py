# Copyright (C) The ngx_vd_module authors
"""Checks of what is reached by a socket: nginx, PostgreSQL, the page's address.

Nothing is delivered: a location with vd_pass answers any method but POST with
405, "Allow: POST" and a JSON error, by which it is known.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import struct
from typing import Any, Collection, Mapping, Optional

import aiohttp
from attrs import frozen
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError
from yarl import URL as Address

from .check_files import check_passfile
from .findings import Finding, error, me, ok, warning
from .store import Store
from .values import is_loopback, split_address

SECONDS = 5.0
MOST_LOCATIONS = 50

Place = tuple[str, Optional[str]]  # uri, and what to send as Host


@frozen
class _Reply:
    status: int
    server: str
    takes_cases: bool


async def check_nginx(
    nginx: str, places: Mapping[Place, int], writers: Collection[int] = ()
) -> list[Finding]:
    """Whether nginx answers, and whether the locations at ``places`` deliver.

    ``places``: how many deliveries wait for each.  ``writers``: the workers that write
    to the journal, which must be this nginx's.
    """
    if nginx.startswith("unix:"):
        found = _check_unix(nginx.removeprefix("unix:"))
        if found:
            return found

    timeout = aiohttp.ClientTimeout(total=SECONDS)
    async with aiohttp.ClientSession(
        connector=_connector(nginx), timeout=timeout
    ) as session:
        try:
            root = await _ask(session, nginx, "/")
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as problem:
            return [_no_answer(nginx, problem)]

        found = []
        if "nginx" not in root.server.lower():
            text = f"{nginx} answers, but as {root.server[:60]!a}, not as nginx"
            found.append(warning("nginx", text, "name the address of nginx itself"))
        order = sorted(places, key=lambda place: (-places[place], *map(str, place)))
        for place in order[:MOST_LOCATIONS]:
            found.append(await _check_location(session, nginx, place, places[place]))
    found += await asyncio.to_thread(_check_writers, nginx, writers)
    return found or [ok("nginx", f"{nginx} answers")]


def _check_unix(path: str) -> list[Finding]:
    try:
        status = os.stat(path)
    except OSError as problem:
        remedy = f'"listen unix:{path};" in nginx; {me()} must enter the directory'
        return [error("nginx", f"{path}: {problem.strerror}", remedy)]
    if not stat.S_ISSOCK(status.st_mode):
        remedy = 'name the path of "listen unix:…;" in nginx'
        return [error("nginx", f"{path} is no socket", remedy)]
    if not os.access(path, os.W_OK, effective_ids=True):
        text = f"{path} cannot be written by {me()}"
        return [error("nginx", text, f"chmod a+w {path}, or another socket")]
    return []


def _connector(nginx: str) -> aiohttp.BaseConnector:
    if nginx.startswith("unix:"):
        return aiohttp.UnixConnector(nginx.removeprefix("unix:"))
    return aiohttp.TCPConnector()


async def _ask(
    session: aiohttp.ClientSession, nginx: str, uri: str, host: Optional[str] = None
) -> _Reply:
    base = "http://localhost" if nginx.startswith("unix:") else nginx
    address = Address(base + uri, encoded=True)
    headers = {"Host": host} if host else {}
    async with session.options(
        address, headers=headers, allow_redirects=False
    ) as response:
        head = await response.content.read(1024)
        takes = (
            response.status == 405
            and response.headers.get("Allow") == "POST"
            and head.startswith(b'{"error":')
        )
        return _Reply(response.status, response.headers.get("Server", ""), takes)


def _no_answer(nginx: str, problem: Exception) -> Finding:
    number = getattr(problem, "errno", None)
    reason = os.strerror(number) if number else str(problem) or "no answer"
    if isinstance(problem, asyncio.TimeoutError):
        reason = f"no answer within {SECONDS:g} s"
    remedy = 'start nginx, or name the address of its "listen"'
    if number == errno.EACCES:
        remedy = f"let {me()} connect there"
    return error("nginx", f"{nginx}: {reason}", remedy)


def _check_writers(nginx: str, writers: Collection[int]) -> list[Finding]:
    """Whether who answers is who writes the journal, as far as it can be seen."""
    try:
        owner = _listener(nginx) if nginx.startswith("unix:") else _acceptor(nginx)
    except (OSError, ValueError, IndexError):
        return []
    known = [each for pid in writers if (each := _process(pid)) is not None]
    if owner is None or not known:
        return []
    if any(owner in (("pid", each.parent), ("uid", each.uid)) for each in known):
        return []
    text = (
        f"another nginx answers at {nginx} ({' '.join(map(str, owner))}) than the one "
        f"that writes the journal (workers {', '.join(map(str, writers))})"
    )
    remedy = "name the address of that one, or its vd_journal"
    return [error("nginx", text, remedy)]


@frozen
class _Process:
    parent: int
    uid: int


def _process(pid: int) -> Optional[_Process]:
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            fields = dict(row.split(":", 1) for row in file if ":" in row)
        return _Process(int(fields["PPid"]), int(fields["Uid"].split()[1]))
    except (OSError, KeyError, ValueError):
        return None


def _listener(nginx: str) -> Optional[tuple[str, int]]:
    """The master, which listens; after an upgrade it is gone, and says nothing."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS)
        client.connect(nginx.removeprefix("unix:"))
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid = struct.unpack("3i", credentials)[0]
    return ("pid", pid) if pid and os.path.exists(f"/proc/{pid}") else None


def _acceptor(nginx: str) -> Optional[tuple[str, int]]:
    """The user of the worker that took a connection, if it is on this machine."""
    url = Address(nginx)
    address = (url.host or "", url.port or 80)
    with socket.create_connection(address, SECONDS) as client:
        mine = _hex(client.getsockname())
        # it has an owner once the worker has taken it

        client.sendall(b"OPTIONS / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.recv(1, socket.MSG_PEEK)
        path = "/proc/net/tcp6" if client.family == socket.AF_INET6 else "/proc/net/tcp"
        with open(path, encoding="ascii") as file:
            for row in list(file)[1:]:
                fields = row.split()
                if fields[2] == mine and fields[9] != "0":
                    return ("uid", int(fields[7]))
    return None


def _hex(name: tuple[Any, ...]) -> str:
    """As the kernel writes an address: words in the machine's own order."""
    family = socket.AF_INET6 if ":" in name[0] else socket.AF_INET
    packed = socket.inet_pton(family, name[0])
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{name[1]:04X}"


async def _check_location(
    session: aiohttp.ClientSession, nginx: str, place: Place, waiting: int
) -> Finding:
    uri, host = place
    try:
        reply = await _ask(session, nginx, uri, host)
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as problem:
        return _no_answer(nginx, problem)
    except ValueError:
        return error("nginx", f"{uri[:80]!a} is no path", "see what the app asked for")

    if reply.takes_cases:
        return ok("nginx", f"{uri} delivers")
    text = f"{uri} is no location with vd_pass at {nginx}: OPTIONS gives {reply.status}"
    if waiting:
        text += f"; {waiting} deliveries wait for it"
    if reply.status == 403:
        text = f"{uri} refuses requests from here (403)"
        return error("nginx", text, 'see "allow", "deny" and "limit_except" there')
    remedy = (
        'see which server and location of nginx takes it; "internal" ones are not '
        "reached from here"
    )
    return error("nginx", text, remedy)


def check_postgresql(store: str) -> list[Finding]:
    """Whether the database lets us in, and lets us make tables."""
    url = make_url(store)
    passfile = url.query.get("passfile")
    found = check_passfile(passfile) if isinstance(passfile, str) else []
    found += _check_encryption(url)

    opened = Store(store)
    try:
        with opened.engine.connect() as connection:
            row = connection.exec_driver_sql(_RIGHTS).one()
    except SQLAlchemyError as problem:
        return [*found, _no_database(problem)]
    finally:
        opened.close()

    return found + _check_rights(*row)


_RIGHTS = """
    SELECT current_user, current_schema(),
           coalesce(has_schema_privilege(current_schema(), 'CREATE'), false),
           pg_is_in_recovery()
"""


def _check_rights(
    user: str, schema: Optional[str], create: bool, standby: bool
) -> list[Finding]:
    if standby:
        text = "PostgreSQL is a standby there, which cannot be written"
        remedy = "name the primary, or add: ?target_session_attrs=read-write"
        return [error("store", text, remedy)]
    if not create:
        place = schema or "public"
        text = f"{user} may not make tables in the schema {place}"
        remedy = f'GRANT USAGE, CREATE ON SCHEMA "{place}" TO "{user}";'
        return [error("store", text, remedy)]
    return [ok("store", f"PostgreSQL lets {user} make tables in {schema}")]


def _no_database(problem: SQLAlchemyError) -> Finding:
    text = " ".join(str(getattr(problem, "orig", None) or problem).split())
    remedies = {
        "no password supplied": "put the password into a file: ?passfile=PATH",
        "password authentication failed": "correct the password in the passfile",
        "Peer authentication failed": f"createuser {me()}, or see pg_hba.conf",
        "does not exist": "createuser and createdb, or correct the name",
        "no pg_hba.conf entry": "allow this user and address in pg_hba.conf",
        "certificate": "see sslmode and sslrootcert",
    }
    for part, remedy in remedies.items():
        if part in text:
            return error("store", f"PostgreSQL: {text}", remedy)
    return error("store", f"PostgreSQL: {text}", "start it, or correct the address")


def _check_encryption(url: URL) -> list[Finding]:
    host = url.query.get("host", url.host)
    local = not host or str(host).startswith("/") or is_loopback(str(host))
    if local or url.query.get("sslmode") in ("require", "verify-ca", "verify-full"):
        return []
    text = f"cases may go to {host} unencrypted, and to whoever answers there"
    remedy = "add ?sslmode=verify-full&sslrootcert=/etc/ssl/certs/ca-certificates.crt"
    return [warning("store", text, remedy)]


def check_web(listen: str, busy: bool) -> list[Finding]:
    """Whether the address is free; ``busy``: a sidecar runs, which may have it."""
    host, port = split_address(listen)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(address)
            server.listen()
    except OSError as problem:
        return [_no_listener(listen, problem, busy)]

    if not is_loopback(host):
        text = f"{listen} is open to the network, and asks for no password"
        remedy = 'listen on "127.0.0.1:…", behind a proxy that asks for one'
        return [warning("web", text, remedy)]
    return [ok("web", f"{listen} is free")]


def _no_listener(listen: str, problem: OSError, busy: bool) -> Finding:
    text = f"{listen}: {problem.strerror}"
    if problem.errno == errno.EADDRINUSE:
        if busy:
            return ok("web", f"{listen} is taken, as it seems by the running sidecar")
        return error("web", text, "take another port, or stop what has it: ss -ltnp")
    if problem.errno == errno.EACCES:
        return error("web", text, "take a port from 1024 on")
    return error("web", text, "name an address of this machine")
