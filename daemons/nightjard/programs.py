# SPDX-License-Identifier: BSD-3-Clause
"""The daemons' console scripts: one line, not a traceback, where the extra is not installed."""

from __future__ import annotations

import importlib
import sys

from nightjar.errors import Code


def _run(program: str, module: str = "__main__", extra: str = "daemons,das") -> int:
    try:
        main = importlib.import_module(f"nightjard.{program}.{module}").main
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("nightjar", "nightjard"):
            raise
        sys.stderr.write(
            f"{program}: package {error.name} is missing, which it needs; "
            f"pip install 'nightjar[{extra}]'\n"
        )
        return Code.BAD_CONFIG.exit_code
    code: int = main()
    return code


def camd() -> int:
    """Run the camera daemon."""
    return _run("camd")


def obslogd() -> int:
    """Run the log daemon."""
    return _run("obslogd")


def archived() -> int:
    """Run the archive daemon."""
    return _run("archived")


def fitswatcher() -> int:
    """Run the watcher of FITS files."""
    return _run("fitswatcher")


def fitslogd() -> int:
    """Run the FITS loggers."""
    return _run("fitslogd")


def streamlinkd() -> int:
    """Run the stream links."""
    return _run("streamlinkd")


def rotd() -> int:
    """Run the rotator."""
    return _run("rotd")


def dasd() -> int:
    """Run the data acquisition."""
    return _run("dasd")


def telogd() -> int:
    """Run the telescope logs."""
    return _run("telogd")


def merged() -> int:
    """Run the merge of the streams."""
    return _run("merged")


def dasmerge() -> int:
    """Merge by hand."""
    return _run("merged", "command")


def calib() -> int:
    """Plan, acquire, simulate and analyse a calibration campaign."""
    return _run("calib", extra="daemons,calibration")
