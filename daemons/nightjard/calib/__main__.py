# SPDX-License-Identifier: BSD-3-Clause
"""``calib``."""

import sys

from nightjard.calib.command import main

if __name__ == "__main__":
    sys.exit(main())
