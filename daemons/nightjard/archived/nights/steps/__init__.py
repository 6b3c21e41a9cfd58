# SPDX-License-Identifier: BSD-3-Clause
"""The steps of a night, one module each: what it depends on, and what it does.

A step has a key, the hash of all that its result depends on. It is done while its row in the
database has the present key; then doing it again is doing nothing. Every step may be killed at any
instruction and begun again.
"""
