# SPDX-License-Identifier: BSD-3-Clause
"""Housekeeping of the read-out electronics: files, limits, judgement.

==========================  ==========================================================
``housekeeping_table``      files of an OBSID and masters, read, followed and written
``housekeeping_limits``     limits of every parameter as data
``housekeeping_watch``      rows as they come: out of limits, spikes, gaps, stale, stuck
``housekeeping_checks``     the file of an exposure: the same, and the means
``housekeeping_findings``   what was found
==========================  ==========================================================
"""

from nightjar.calibration.housekeeping_checks import check_hk, check_statistics
from nightjar.calibration.housekeeping_findings import HkFinding
from nightjar.calibration.housekeeping_limits import HkLimits, HkParameter
from nightjar.calibration.housekeeping_table import (
    HkReader,
    HkStat,
    HkTable,
    HkWriter,
    NotHousekeeping,
    hk_statistics,
    read_hk,
    read_hks,
)
from nightjar.calibration.housekeeping_watch import HkWatch

__all__ = [
    "HkFinding",
    "HkLimits",
    "HkParameter",
    "HkReader",
    "HkStat",
    "HkTable",
    "HkWatch",
    "HkWriter",
    "NotHousekeeping",
    "check_hk",
    "check_statistics",
    "hk_statistics",
    "read_hk",
    "read_hks",
]
