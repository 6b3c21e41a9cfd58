# SPDX-License-Identifier: BSD-3-Clause
"""Run the stream link daemon: ``streamlinkd CONFIG``."""

from __future__ import annotations

import sys

from nightjar.daemon import main as run
from nightjard.streamlinkd.service import SPEC


def main() -> int:
    """Entry point of ``streamlinkd``."""
    return run(SPEC)


if __name__ == "__main__":
    sys.exit(main())
