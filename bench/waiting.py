# Copyright (C) The ngx_vd_module authors

"""What a delivery costs in memory while it waits for a silent receiver."""

import http.client
import re
import socket
from dataclasses import dataclass
from pathlib import Path

import candidates
from candidates import CANDIDATES
from rig import CASE, Site, memory_bytes, wait_for

COMPARED = ("proxy", "vd", "proxy-tls", "vd-tls")
FIRST = 20  # deliveries whose cost is not counted: code and tables come with them
SPARE = 200  # file descriptors that are not for deliveries
PATIENCE = 60.0  # seconds for thousands of TLS handshakes


@dataclass(frozen=True)
class Growth:
    """Bytes that the worker has grown by for each of so many deliveries."""

    candidate: str
    deliveries: int
    rss: float
    pss: float


def measure(site: Site, module: Path, most: list[int]) -> list[Growth]:
    # A delivery has two of the edge's descriptors.
    limit = (site.open_files - SPARE) // 2
    counts = sorted({min(count, limit) for count in most})
    found = []
    for candidate in CANDIDATES:
        if candidate.name in COMPARED:
            candidates.start_receiver(site, candidates.SILENCE)
            try:
                worker = candidates.start_edge(
                    site, module, [candidate], candidates.PATIENCE
                )
                found += grow(site, worker, candidate.name, counts)
            finally:
                for name in list(site.processes):
                    site.stop(name)
    return found


def grow(site: Site, worker: int, name: str, counts: list[int]) -> list[Growth]:
    body = CASE.read_bytes()
    request = (
        f"POST /{name} HTTP/1.1\r\nHost: edge\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    clients: list[socket.socket] = []
    try:
        # The receiver answers the very first; only then does it fall silent.
        send(site, clients, request, 1)
        clients[0].settimeout(PATIENCE)
        clients[0].recv(65536)
        send(site, clients, request, FIRST)
        wait_for(lambda: waiting(site) == FIRST - 1, "the receiver", PATIENCE)
        before = memory_bytes(worker)
        found = []
        for count in counts:
            send(site, clients, request, FIRST + count)
            wait_for(
                lambda: waiting(site) == FIRST + count - 1,
                f"{count} deliveries of {name}",
                PATIENCE,
            )
            now = memory_bytes(worker)
            rss, pss = ((now[key] - before[key]) / count for key in ("rss", "pss"))
            found.append(Growth(name, count, rss, pss))
        return found
    finally:
        for client in clients:
            client.close()


def send(site: Site, clients: list[socket.socket], request: bytes, total: int) -> None:
    """Opens clients until there are so many in all; each sends one request."""
    while len(clients) < total:
        client = socket.create_connection(("127.0.0.1", site.port), PATIENCE)
        clients.append(client)
        client.sendall(request)


def waiting(site: Site) -> int:
    """How many requests the receiver has taken and not answered."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", site.receiver_port, timeout=PATIENCE
    )
    try:
        connection.request("GET", "/status")
        status = connection.getresponse().read().decode()
    finally:
        connection.close()
    found = re.search(r"Writing: (\d+)", status)
    return int(found[1]) - 1 if found else 0  # one is this one
