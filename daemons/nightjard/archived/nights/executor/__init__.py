# SPDX-License-Identifier: BSD-3-Clause
"""Runs the tasks of a step: in processes of this host, or on the hosts of a Dask cluster.

`tasks` says what a task is and `functions` which there may be, `pool` and `cluster` run them,
`choosing` takes the one that is configured, `progress` is what a task tells while it works.
"""
