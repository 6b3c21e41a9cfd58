# SPDX-License-Identifier: BSD-3-Clause
"""Runs a graph of pure tasks: in processes of this host, or on the hosts of a Dask cluster.

`tasks` says what a task is, `pool` and `cluster` run them, `choosing` takes the one that is
configured, `progress` is what a task tells while it works. Which functions tasks may call is a
fixed table of each daemon, never a name that came from outside. Each function is called with the
task's arguments by name and returns plain JSON values. It must be idempotent: it may be killed at
any instruction and run again, on another host as well.
"""
