# Copyright (C) The ngx_vd_module authors
"""Spans of time that no change of the clock bends, nor a suspended machine."""

from __future__ import annotations

import time


def steady() -> float:
    """Seconds since some moment; it goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
