# SPDX-License-Identifier: BSD-3-Clause
"""Run the archive daemon: ``archived CONFIG``."""

from __future__ import annotations

import sys

from nightjar.daemon import main as run
from nightjard.archived.service import SPEC


def main() -> int:
    """Entry point of ``archived``."""
    return run(SPEC)


if __name__ == "__main__":
    sys.exit(main())
