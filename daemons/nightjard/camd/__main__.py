# SPDX-License-Identifier: BSD-3-Clause
"""``camd CONFIG``: run a camera daemon."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nightjar.daemon import Spec
from nightjar.daemon import main as run
from nightjard.camd.config import CameraConfig, check
from nightjard.camd.service import CameraService

SPEC = Spec(
    "camd", "Camera daemon: exposures become FITS files.", CameraConfig, CameraService, check
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon; returns the exit code."""
    return run(SPEC, arguments)


if __name__ == "__main__":
    sys.exit(main())
