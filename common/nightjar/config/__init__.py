# SPDX-License-Identifier: BSD-3-Clause
"""Configuration: where files are (:mod:`~nightjar.config.paths`, light) and how they are read.

:mod:`~nightjar.config.load` needs pydantic and belongs to daemons; clients use only ``paths``.
"""
