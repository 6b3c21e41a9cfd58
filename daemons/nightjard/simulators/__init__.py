# SPDX-License-Identifier: BSD-3-Clause
"""Simulations that stand for the world around the daemons, with the truth written down.

They import nothing of a daemon: what they make is judged by the daemons' own code.
"""
