# Copyright (C) The ngx_vd_module authors
"""Buries what tests leave that were killed: the program that ``processes`` starts.

It reads lines, ``+`` for what there is and ``-`` for what is gone again: ``+ process
PID SIGNAL``, ``+ directory PATH``.  At the end of its input, which is that of the
tests, it ends and removes what is left.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time

from processes import is_alive, kill

PATIENCE = 5.0  # seconds, until what does not heed its signal is killed


def main() -> None:
    left: dict[str, dict[str, str]] = {"process": {}, "directory": {}}
    for line in sys.stdin:
        sign, kind, name, *more = line.rstrip("\n").split(" ")
        if sign == "+":
            left[kind][name] = "".join(more)
        else:
            left[kind].pop(name, None)

    processes = {int(pid): int(number) for pid, number in left["process"].items()}
    for pid, number in processes.items():
        kill(pid, number)
        kill(pid, signal.SIGCONT)
    deadline = time.monotonic() + PATIENCE
    while any(map(is_alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in processes:
        kill(pid)
    for path in left["directory"]:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    main()
