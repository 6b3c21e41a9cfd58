# SPDX-License-Identifier: BSD-3-Clause
"""The picture of rotator, acquisition, telescope logs and merge, for :mod:`draw_pictures`."""

from __future__ import annotations

from draw_pictures import SOFT, Drawing


def das() -> str:
    """Return the picture of the three streams of a DAS on their way into one file an hour."""
    d = Drawing(
        980, 520,
        "The streams of a data acquisition system: raw samples, the telescope's pointing log and "
        "housekeeping are gathered minute by minute and merged into one netCDF file a UT hour",
    )  # fmt: skip
    d.box(14, 14, 952, 38, "person", "rot · telog · das · dasmerge",
          "commands over RPC; dasmerge also works by hand, without any daemon")
    d.frame(14, 66, 258, 396, "telescope and instrument")
    d.box(28, 96, 112, 56, "disk", "MMMM", "pointing log, 100 Hz", "overwritten daily")
    d.box(150, 96, 108, 56, "process", "RPC", "record, 768 bytes", "once a second")
    d.box(28, 240, 112, 62, "process", "rotd", "motor, encoder,", "homing, moves")
    d.box(150, 240, 108, 62, "process", "status lines", "acquired, tracking,", "rotate, rotating")
    d.box(28, 372, 112, 70, "process", "dasd", "384 channels, 50 Hz,", "flushed each second")
    d.box(150, 380, 108, 54, "disk", "raw_*.bin", "a minute each, .idx")
    d.arrow((150, 262), (140, 262))
    d.arrow((140, 284), (150, 284))
    d.arrow((204, 302), (204, 336), (84, 336), (84, 372))
    d.text(144, 330, "digitised as well", 9.5, SOFT)
    d.arrow((204, 240), (204, 200), (84, 200), (84, 152))
    d.text(144, 194, "logged as well", 9.5, SOFT)
    d.arrow((140, 407), (150, 407))
    d.frame(300, 66, 330, 396, "host that gathers")
    d.box(316, 96, 136, 206, "process", "telogd", "receives or copies,", "checks what is inside:",
          "day, order, sums;", "a ledger of every file,", "gaps are told")  # fmt: skip
    d.box(490, 96, 126, 56, "disk", "pointing/", "YYYYMMDD/MMMM")
    d.box(490, 172, 126, 56, "disk", "housekeeping/", "rotator 10 Hz,", "telescope 1 Hz")
    d.box(490, 380, 126, 54, "disk", "raw/", "verified copies")
    d.arrow((140, 124), (146, 124), (146, 168), (296, 168), (296, 136), (316, 136))
    d.arrow((258, 124), (280, 124), (280, 196), (316, 196))
    d.arrow((140, 250), (144, 250), (144, 226), (316, 226))
    d.arrow((258, 407), (384, 407), (384, 302))
    d.arrow((410, 302), (410, 407), (490, 407))
    d.text(438, 400, "dirsync", 9.5, SOFT)
    d.arrow((452, 124), (490, 124))
    d.arrow((452, 200), (490, 200))
    d.frame(658, 66, 308, 396, "merge")
    d.box(674, 172, 134, 130, "process", "merged", "minute by minute,", "clocks by the lines'",
          "edges; heals holes", "from late files")  # fmt: skip
    d.box(836, 172, 118, 70, "disk", "hour", "YYYYMMDD_HH.nc,", "readable meanwhile")
    d.box(836, 290, 118, 56, "disk", "observation", "dasmerge slice")
    d.box(836, 386, 118, 48, "disk", "map", "dasmerge map")
    d.arrow((616, 124), (740, 124), (740, 172))
    d.arrow((616, 200), (674, 200))
    d.arrow((616, 407), (740, 407), (740, 302))
    d.arrow((808, 207), (836, 207))
    d.arrow((895, 242), (895, 290))
    d.arrow((895, 346), (895, 386))
    d.arrow((452, 270), (642, 270), (642, 480), (84, 480), (84, 442), dashed=True)
    d.text(365, 495, "dasd starts only while pointing and housekeeping are fresh", 10, SOFT)
    d.legend(680, 484, (("process", "process"), ("disk", "files")))
    return d.svg()
