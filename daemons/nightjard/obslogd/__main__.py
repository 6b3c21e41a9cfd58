# SPDX-License-Identifier: BSD-3-Clause
"""Run the observatory log daemon: ``obslogd CONFIG``."""

from __future__ import annotations

import sys

from nightjar.daemon import main as run
from nightjard.obslogd.service import SPEC


def main() -> int:
    """Entry point of ``obslogd``."""
    return run(SPEC)


if __name__ == "__main__":
    sys.exit(main())
