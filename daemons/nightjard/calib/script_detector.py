# SPDX-License-Identifier: BSD-3-Clause
"""For which detector the scripts of a folder were written: it decides how long they take."""

from __future__ import annotations

from pathlib import Path

from nightjar.calibration.detector import Detector, load_detector
from nightjar.errors import ConfigError

#: Of scripts that do not tell: those of other programs.
_DETECTOR = "ccd273"


def detector_of(folder: Path, wanted: str, path: Path) -> tuple[Detector, list[str]]:
    """Return the detector whose durations hold, and warnings.

    Parameters
    ----------
    folder
        Of the scripts.
    wanted
        The detector that somebody names; empty: that of the scripts.
    path
        The file that names it.

    Raises
    ------
    ConfigError
        The scripts are of several detectors, or of one that is not described here.
    """
    told = detectors_told(folder)
    if wanted:
        try:
            detector = load_detector(wanted)
        except ConfigError as error:
            raise ConfigError(f"{path}: detector: {error.message}") from error
        if not told or detector.name in told:
            return detector, []
        return detector, [
            f"{folder}: the scripts were written for {', '.join(told)}; the durations are those "
            f"of {detector.name}, as {path} says"
        ]
    if len(told) > 1:
        raise ConfigError(
            f"{folder}: has scripts for {' and '.join(told)}; say in {path} of which detector the "
            "durations are to be"
        )
    try:
        return load_detector(told[0] if told else _DETECTOR), []
    except ConfigError as error:
        raise ConfigError(
            f"{folder}: its scripts were written for another detector: {error.message}; name the "
            f"file of its description as detector in {path}"
        ) from error


def detectors_told(folder: Path) -> list[str]:
    """Return the detectors for which the scripts of a folder were written, by their schedulers.

    Empty where there is no scheduler, or none that tells.

    Raises
    ------
    ConfigError
        A scheduler cannot be read.
    """
    import openpyxl  # a quarter of a second that the other commands need not pay

    found = set()
    for path in sorted(folder.glob("TESTS_SCHEDULER_*.xlsx")):
        try:
            book = openpyxl.load_workbook(path, read_only=True)
            rows = list(book["Meta"].iter_rows(values_only=True))
            book.close()
        except Exception as error:  # whatever it finds in a broken archive
            raise ConfigError(
                f"{path}: cannot be read: {error}; write the scripts again", path=str(path)
            ) from error
        found |= {str(row[1]) for row in rows if len(row) > 1 and row[0] == "detector" and row[1]}
    return sorted(found)
