# SPDX-License-Identifier: BSD-3-Clause
"""The analyses of the tests: each module joins pure functions of arrays to data and results."""
