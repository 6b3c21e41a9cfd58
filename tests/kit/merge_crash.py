# SPDX-License-Identifier: BSD-3-Clause
"""A merge that dies by SIGKILL at its n-th writing: ``merge_crash.py N START_NS < CONFIG``."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from nightjard.merged.minute import merge_minute
from nightjard.merged.netcdf import HourFile


def main() -> None:
    left = int(sys.argv[1])
    write = HourFile.write

    def deadly(self: HourFile, name: str, first: int, values: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            self.dataset.sync()
            write(self, name, first, values)
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, name, first, values)

    HourFile.write = deadly  # type: ignore[method-assign]
    merge_minute(sys.stdin.read(), int(sys.argv[2]))


if __name__ == "__main__":
    main()
