# Copyright (C) The ngx_vd_module authors

"""Holds the journal against what the app was told."""

import os
from collections.abc import Iterable
from pathlib import Path

from app import App
from segments import (
    Record,
    Segment,
    is_locked,
    list_segments,
    read_segment,
)

SHOWN = 10  # faults of a kind


class Ledger:
    """Reads segments as a sidecar does: once, when done, then deletes them."""

    def __init__(self, app: App, journal: Path) -> None:
        self.app = app
        self.journal = journal
        self.records: dict[str, Record] = {}  # for which no answer was seen yet
        self.segments = 0
        self.found = 0
        self.lost = 0
        self.cut = 0  # segments that end amid a line
        self.faults: list[str] = []

    def sweep(self, killed: Iterable[int], living: Iterable[int] = ()) -> None:
        """Takes what nobody writes any more; nginx may be at work meanwhile."""
        for path in list_segments(self.journal):
            if not is_locked(path):
                segment = read_segment(path)
                path.unlink()
                self.check(segment, set(killed))
            else:
                self.check_living(read_segment(path), set(living))
        self.match()

    def check(self, segment: Segment, killed: set[int]) -> None:
        self.fault(segment, *segment.damage)
        if segment.cut and (segment.ended or segment.pid not in killed):
            self.fault(segment, f"ends with half a line: {segment.cut[:80]!r}")
        if not segment.ended and segment.pid not in killed:
            self.fault(segment, f"was left without an end by {segment.pid}")
        self.take(segment)

    def check_living(self, segment: Segment, living: set[int]) -> None:
        if living and segment.pid is not None and segment.pid not in living:
            self.fault(segment, f"is locked, but {segment.pid} does not live")

    def check_after_power_cut(self, segment: Segment) -> None:
        """Nothing is certain but what was synced: whole lines, then anything."""
        behind = segment.records[segment.whole :]
        wrong = [record.id for record in behind if record.id in self.app.acknowledged]
        if wrong:
            self.fault(segment, f"{segment.damage[0]}; {wrong[0]} follows")
        self.take(segment)

    def sweep_after_power_cut(self) -> list[Segment]:
        segments = list(map(read_segment, list_segments(self.journal)))
        for segment in segments:
            self.check_after_power_cut(segment)
        self.match()
        return segments

    def take(self, segment: Segment) -> None:
        self.segments += 1
        self.cut += bool(segment.cut)
        for record in segment.records:
            if record.id in self.records:
                self.fault(segment, f"holds {record.id}, which was recorded before")
            self.records[record.id] = record

    def match(self) -> None:
        """Forgets what is found, for long runs."""
        acknowledged = self.app.acknowledged
        for id in acknowledged.keys() & self.records.keys():
            answer, record = acknowledged.pop(id), self.records.pop(id)
            self.found += 1
            if not answer.kept_by(record):
                self.faults.append(f"{answer} is not what was recorded: {record}")

    def close(self) -> None:
        """What was acknowledged must have been found by now."""
        self.lost += len(self.app.acknowledged)
        self.app.acknowledged.clear()

    def fault(self, segment: Segment, *faults: str) -> None:
        self.faults += [f"{segment.name}: {fault}" for fault in faults]


def leftovers(journal: Path) -> int:
    """Segments that were killed before they had a name."""
    return sum(name.startswith(".") for name in os.listdir(journal))


class Counters:
    """They only grow, as long as a master lives; whatever dies under them."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}
        self.pages = 0
        self.faults: list[str] = []

    def restart(self) -> None:
        self.last = {}

    def take(self, page: bytes) -> dict[str, float]:
        """A page in Prometheus's format, by series."""
        series = {}
        for line in page.decode().splitlines():
            if not line.startswith("#"):
                name, _, number = line.rpartition(" ")
                series[name] = float(number)
        self.pages += 1
        for name, value in series.items():
            gauge = name.startswith(("vd_in_flight", "vd_journal_free_bytes"))
            if not gauge and value < self.last.get(name, 0):
                self.faults.append(f"{name} fell from {self.last[name]} to {value}")
        self.last = series
        return series
