# SPDX-License-Identifier: BSD-3-Clause
"""The table of frame sources: a name in the configuration, never an import path."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightjar.clock import Clock
    from nightjard.camd.fast.options import AnySourceOptions
    from nightjard.camd.fast.source import FrameSource


def make_source(options: AnySourceOptions, clock: Clock) -> FrameSource:
    """Return the configured source, not yet open (libraries of vendors load only here)."""
    if options.name == "vcam":
        from nightjard.camd.fast.vcam import VcamSource

        return VcamSource(options, clock)
    if options.name == "aravis":
        from nightjard.camd.fast.aravis import AravisSource

        return AravisSource(options, clock)
    raise AssertionError(f"source without an entry in the table: {options!r}")
