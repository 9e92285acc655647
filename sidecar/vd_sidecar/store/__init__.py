# Copyright (C) The ngx_vd_module authors
"""The store: every table, every query, and the rule of one writer at a time."""

from .engine import Store, reason, wall_clock

__all__ = ["Store", "reason", "wall_clock"]
