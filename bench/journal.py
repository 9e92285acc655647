# Copyright (C) The ngx_vd_module authors

"""What the journal holds after a run, and whether that is what was answered."""

import fcntl
import http.client
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from candidates import Candidate, journal_dir
from rig import Failed, Site, wait_for

IN_MEMORY = ("tmpfs", "ramfs")
RECORD = b'\n{"v":1,"time":'  # every record begins so, and none is the first line


@dataclass(frozen=True)
class Counts:
    """What the edge has counted, of one candidate or while it ran alone."""

    delivered: int
    failed: int
    records: int
    record_bytes: int
    syncs: int
    sync_seconds: float
    errors: int
    on_disk: int  # records in the segments, deleted ones left out

    def since(self, before: "Counts") -> "Counts":
        pairs = zip(vars(self).values(), vars(before).values())
        return Counts(*(now - then for now, then in pairs))


def file_system(directory: Path) -> str:
    """Its type and its source; one in memory would make syncs look free."""
    found = subprocess.run(
        ["findmnt", "-n", "-o", "FSTYPE,SOURCE", "-T", directory],
        capture_output=True,
        text=True,
    ).stdout.split()
    if not found:
        raise Failed(f"findmnt does not know the file system of {directory}")
    if found[0] in IN_MEMORY:
        raise Failed(f"{directory} is in memory ({found[0]}): name a --directory")
    return " on ".join(found[:2])


def count(site: Site, candidate: Candidate) -> Counts:
    """Waits for what is under way, so that nothing of it is counted later."""
    wait_for(lambda: connections(site) == 1, "the last deliveries")
    seen = json.loads(get(site, "/counters"))
    attempts = {output["output"]: output["attempts"] for output in seen["outputs"]}
    own = attempts.get(candidate.name, {"delivered": 0, "failed": {}})
    written = seen["journal"]
    return Counts(
        own["delivered"],
        sum(own["failed"].values()),
        written["records"],
        written["bytes"],
        written["syncs"],
        written["sync_duration_seconds"]["sum"],
        written["errors"],
        records_on_disk(site, candidate),
    )


def connections(site: Site) -> int:
    """The edge's clients; one of them is this one."""
    found = re.search(r"Active connections: (\d+)", get(site, "/status"))
    return int(found[1]) if found else 0


def get(site: Site, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    try:
        connection.request("GET", path, headers={"Accept": "application/json"})
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def records_on_disk(site: Site, candidate: Candidate) -> int:
    segments = journal_dir(site, candidate).glob("*.jsonl")
    return sum(segment.read_bytes().count(RECORD) for segment in segments)


def verify(candidate: Candidate, clients: int, responses: int, counts: Counts) -> None:
    """Each client may leave one request behind whose answer wrk does not see."""
    attempted = counts.delivered + counts.failed
    answered = counts.records if candidate.accepts else attempted
    problems = []
    if candidate.vd and not responses <= answered <= responses + clients:
        problems.append("not all that was answered was counted")
    if candidate.accepts and attempted:
        problems.append("it delivered what it had only to accept")
    if counts.failed:
        problems.append("not every answer was 200")
    if counts.errors or counts.records != (answered if candidate.journaled else 0):
        problems.append("not all that was answered has its record")
    if counts.records != counts.on_disk:
        problems.append("not every record is in a segment")
    if problems:
        raise Failed(
            f"{candidate.title}, {clients} clients: {', '.join(problems)}: "
            f"{responses} responses, {counts}"
        )


def clean(site: Site, candidate: Candidate) -> None:
    """Deletes finished segments; what is to be written back, is now.

    Else the disk would be busy with it while the next candidate waits for it.
    """
    for segment in journal_dir(site, candidate).glob("*.jsonl"):
        with segment.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # the worker has it
                os.fsync(file.fileno())
            else:
                segment.unlink()
