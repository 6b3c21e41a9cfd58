# SPDX-License-Identifier: BSD-3-Clause
"""Nightjar's commands, and :func:`connect` for programs that ask the same questions."""
