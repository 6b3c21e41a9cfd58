# SPDX-License-Identifier: BSD-3-Clause
"""Detector calibration: what its programs, the simulators and the monitors agree on.

Descriptions (detectors, tests, chambers, housekeeping) are data in ``etc/calib``; formats are those
of the acquisition software ELVIS. Import from the modules:

==================  =================================================================
``detector``        a detector as data: quadrants, nodes, scans; frames cut into quadrants
``coordinates``     CCD, quadrant-relative, canonical and physical coordinates
``chamber``         profiles of test chambers: saturation times, focus, wheel, spots
``expressions``     arithmetic of the test catalogue on a chamber profile
``catalogue``       the tests of a campaign as data, and their expansion into scripts
``script``          an acquisition script: columns of 70 keys, its duration
``script_book``     scripts as workbooks
``explog``          the exposure log
``housekeeping``    housekeeping files, limits, what was commanded
``dayfolder``       names of the files of a day
==================  =================================================================
"""
