# SPDX-License-Identifier: BSD-3-Clause
"""``stream``: the shared-memory streams of this host."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nightjar.cli.run import run
from nightjar.cli.session import write
from nightjar.errors import Code
from nightjard.streamtools.commands import stream
from nightjard.streamtools.moving import copy, record, replay

for _command in (copy, record, replay):
    stream.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    try:
        return run(stream, arguments)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("nightjar", "nightjard"):
            raise
        write(
            f"error: package {error.name} is missing, which daemons need; "
            f"pip install 'nightjar[daemons]'", sys.stderr,
        )  # fmt: skip
        return Code.BAD_CONFIG.exit_code


if __name__ == "__main__":
    sys.exit(main())
