# SPDX-License-Identifier: BSD-3-Clause
"""A whole night of two triggered cameras as a logger leaves it, and the truth about it.

`triggers` is the time of every frame and what is lost, `pixels` proves which frame is which,
`headers` the cards, `files` the cubes, `program` makes the night, `truth` is written beside it,
and `damage` breaks it on purpose.
"""
