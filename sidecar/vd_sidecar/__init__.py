# Copyright (C) The ngx_vd_module authors
"""The sidecar of ngx_vd_module: retries, alerts and shows what was not delivered."""

__version__ = "0.1.0"
