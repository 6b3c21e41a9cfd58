# SPDX-License-Identifier: BSD-3-Clause
"""``nightjar``: run, watch, check and simulate a site."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nightjar.cli.run import run
from nightjard.site.commands import nightjar


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    return run(nightjar, arguments)


if __name__ == "__main__":
    sys.exit(main())
