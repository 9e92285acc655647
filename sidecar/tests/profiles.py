# Copyright (C) The ngx_vd_module authors
"""How long hypothesis looks for an example.

The same ones in each run, a few of them; with ``HYPOTHESIS_PROFILE=long`` many more,
and others each time.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"

# Of tests that say nothing else.  How long one takes says nothing, on a busy machine.

ORDINARY = "ordinary"
settings.register_profile(
    ORDINARY,
    deadline=None,
    derandomize=not LONG,
    suppress_health_check=[HealthCheck.too_slow],
)


def examples(count: int, longer: int = 50, **options: Any) -> settings:
    """About ``count`` of them, ``longer`` times as many in a long run.

    To be used as a decorator, or for ``TestCase.settings`` of a state machine.
    """
    return settings(
        max_examples=count * longer if LONG else count,
        derandomize=not LONG,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        **options,
    )
