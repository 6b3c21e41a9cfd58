# SPDX-License-Identifier: BSD-3-Clause
"""The observatory log: keeps what daemons and people say, in order and once, and finds it again."""
