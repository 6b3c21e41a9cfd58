# SPDX-License-Identifier: BSD-3-Clause
"""The merge: raw, pointing and housekeeping minutes into one netCDF file a UT hour."""
