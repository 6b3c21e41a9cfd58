# SPDX-License-Identifier: BSD-3-Clause
"""``fitswatcher``: a live list of the FITS files that appear in folders."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nightjar.cli.run import run
from nightjard.fitswatcher.command import fitswatcher


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    return run(fitswatcher, arguments)


if __name__ == "__main__":
    sys.exit(main())
