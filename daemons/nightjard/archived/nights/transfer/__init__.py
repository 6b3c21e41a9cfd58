# SPDX-License-Identifier: BSD-3-Clause
"""Copies of a night on other hosts, the proof of them, and what may go because of it.

`reading` and `receipts` are shared by both sides; `far_side` is the program ``nightjar-receipt``.
On this side `rsync` moves files, `accepting` judges a receipt, `store` keeps what was judged,
`sending` and `pulling` bring a night over, `scrubbing` reads everything again, `policy` decides
what may go and `quarantine` lets it go. `transfers` is the door to all of them.
"""
