# SPDX-License-Identifier: BSD-3-Clause
"""``camd CONFIG``: run a camera daemon."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nightjar.daemon import Spec
from nightjar.daemon import main as run
from nightjard.camd.config import CameraConfig, check
from nightjard.camd.fast import config as fast
from nightjard.camd.fast.service import FastCameraService
from nightjard.camd.service import CameraService

HELP = (
    "Camera daemon: exposures become FITS files, or the frames of a fast camera a stream in "
    "shared memory."
)
FAST = Spec("camd", HELP, fast.FastCameraConfig, FastCameraService, fast.check)
SPEC = Spec(
    "camd", HELP, CameraConfig, CameraService, check, variants={"stream": FAST}
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon; returns the exit code."""
    return run(SPEC, arguments)


if __name__ == "__main__":
    sys.exit(main())
