# SPDX-License-Identifier: BSD-3-Clause
"""Runs the tests of a session: waiting, resuming, logging, summing up."""
