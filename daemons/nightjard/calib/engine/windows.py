# SPDX-License-Identifier: BSD-3-Clause
"""Figures in windows as they are made: interactive runs."""

from __future__ import annotations

import os
from pathlib import Path

from nightjar.errors import Refused


class FigureWindows:
    """Shows figures that were written, each in a window of its own.

    Raises
    ------
    Refused
        There is no display, or matplotlib has no toolkit to draw with.
    """

    def __init__(self) -> None:
        if not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
            raise Refused("--interactive needs a display, and DISPLAY is not set; leave it out")
        import matplotlib

        try:
            matplotlib.use("TkAgg", force=True)
            from matplotlib import pyplot
        except ImportError as error:
            raise Refused(f"--interactive needs Tk (Debian python3-tk): {error}") from error
        self._pyplot = pyplot
        pyplot.ion()

    def show(self, path: Path) -> None:
        """Open a window with a figure."""
        figure = self._pyplot.figure(path.stem)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(self._pyplot.imread(path))
        axes.axis("off")
        figure.canvas.draw_idle()
        self._pyplot.pause(0.01)
