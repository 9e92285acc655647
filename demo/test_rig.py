# Copyright (C) The ngx_vd_module authors

"""The rig of the demo, where a machine lacks what others have."""

import os
import sys
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))

import rig


class Terminal(unittest.TestCase):
    def setUp(self) -> None:
        self.site = rig.Site(Path("/nginx"), Path("/module"))
        self.addCleanup(self.site.remove)
        self.enterContext(mock.patch.object(rig, "SIDECAR", Path("/bin/echo")))

    def test_with_one(self) -> None:
        self.assertEqual(self.site.sidecar_at_terminal(80, "list"), "list\n")

    def test_without(self) -> None:
        none = OSError("out of pty devices")
        with mock.patch.object(os, "openpty", side_effect=none):
            self.assertEqual(self.site.sidecar_at_terminal(80, "list"), "list\n")


if __name__ == "__main__":
    unittest.main()
