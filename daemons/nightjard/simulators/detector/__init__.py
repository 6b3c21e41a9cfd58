# SPDX-License-Identifier: BSD-3-Clause
"""A detector that is simulated truthfully, frame by frame, with its test bench."""
