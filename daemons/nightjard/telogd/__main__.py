# SPDX-License-Identifier: BSD-3-Clause
"""Run the telescope logs: ``telogd CONFIG``."""

from __future__ import annotations

import sys

from nightjar.daemon import main as run
from nightjard.telogd.service import SPEC


def main() -> int:
    """Entry point of ``telogd``."""
    return run(SPEC)


if __name__ == "__main__":
    sys.exit(main())
