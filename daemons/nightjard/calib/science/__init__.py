# SPDX-License-Identifier: BSD-3-Clause
"""What is measured of detectors: pure functions of arrays, without files."""
