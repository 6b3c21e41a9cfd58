# SPDX-License-Identifier: BSD-3-Clause
"""``calib``: scripts, sessions, acquisition, checks and analyses of a detector calibration."""
