# SPDX-License-Identifier: BSD-3-Clause
"""What clients and daemons agree on: states, replies, and one command table per daemon.

Everything here is standard library only: it stands on the path of ``cam ID status``.
"""
