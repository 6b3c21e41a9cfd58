# SPDX-License-Identifier: BSD-3-Clause
"""Nightjar's daemons and the programs that work on data: one folder each."""
