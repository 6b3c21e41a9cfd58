# SPDX-License-Identifier: BSD-3-Clause
"""What Nightjar's daemons and clients share. Floors: see docs/explanations/architecture.md."""

__version__ = "0.1.0"
