# SPDX-License-Identifier: BSD-3-Clause
"""The frame of every program that a person types: options, errors, exit codes, colour, tables.

Shared by the clients and by the programs that work on their own (``nightjar``).
"""
