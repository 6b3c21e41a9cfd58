# SPDX-License-Identifier: BSD-3-Clause
"""The morning after: what becomes of the cubes of a night.

`scan` reads headers and times, `sync` finds which frames belong together, `plan` gives every raw
frame one destination, `dictionary` makes the final headers, `ids` numbers the products, `writing`
makes them, `transfer` copies and proves them, `manifest` tells others. `engine` runs these steps
for a night, `executor` runs their tasks.
"""
