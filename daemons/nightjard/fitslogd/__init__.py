# SPDX-License-Identifier: BSD-3-Clause
"""FITS loggers: streams of frames go into FITS cubes, one logger process per stream."""
