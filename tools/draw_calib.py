# SPDX-License-Identifier: BSD-3-Clause
"""The picture of a calibration campaign, for :mod:`draw_pictures`."""

from __future__ import annotations

from draw_pictures import SOFT, Drawing


def calibration() -> str:
    """Return the picture of scripts, acquisition and analysis, and of what flows back."""
    d = Drawing(
        980, 500,
        "A calibration campaign: scripts are written from a catalogue of tests and a chamber's "
        "profile, put into sessions and acquired; day folders are checked and analysed as they "
        "grow; focus, saturation times and masks flow back",
    )  # fmt: skip
    d.box(14, 14, 952, 38, "person", "calib",
          "init · scripts · sessions · acquire · simulate · run · status · show · profile · masks")
    d.frame(14, 66, 330, 386, "scripts and sessions")
    d.box(28, 96, 136, 56, "disk", "catalogue", "columns, frames,", "limits of each test")
    d.box(28, 170, 136, 56, "disk", "inputs", "serials, chamber,", "which tests")
    d.box(28, 360, 136, 66, "disk", "chamber profile", "saturation, focus,",
          "versions with reasons")  # fmt: skip
    d.box(194, 120, 136, 70, "process", "calib scripts", "all or none,", "same date: same bytes")
    d.box(194, 220, 136, 56, "disk", "workbooks", "checksums, inventory")
    d.box(194, 300, 136, 44, "process", "calib sessions")
    d.box(194, 370, 136, 56, "disk", "D00, D11, ...", "TEST_SEQUENCE")
    d.arrow((164, 134), (194, 134))
    d.arrow((164, 186), (180, 186), (180, 170), (194, 170))
    d.arrow((96, 360), (96, 300), (184, 300), (184, 182), (194, 182))
    d.arrow((262, 190), (262, 220))
    d.arrow((262, 276), (262, 300))
    d.arrow((262, 344), (262, 370))
    d.frame(368, 66, 206, 386, "acquisition")
    d.box(384, 96, 174, 62, "disk", "day folder", "images, exposure log,", "housekeeping")
    d.box(384, 230, 80, 72, "process", "camd", "camera,", "lamp, filter")
    d.box(480, 230, 80, 72, "process", "bench", "simulated;", "writes truth")
    d.box(384, 370, 80, 56, "process", "calib", "acquire")
    d.box(480, 370, 80, 56, "process", "calib", "simulate")
    d.arrow((330, 398), (384, 398))
    d.arrow((356, 398), (356, 440), (520, 440), (520, 426))
    d.arrow((424, 370), (424, 302))
    d.arrow((520, 370), (520, 302))
    d.arrow((424, 230), (424, 158))
    d.arrow((520, 230), (520, 158))
    d.frame(598, 66, 368, 386, "analysis")
    d.box(614, 96, 150, 62, "process", "calib run", "follows the acquisition,",
          "or runs afterwards")  # fmt: skip
    d.box(614, 186, 150, 66, "process", "workers", "each frame read once;", "this host, or Dask")
    d.box(614, 360, 150, 66, "disk", "calproducts", "masks, flats,", "gains")
    d.box(806, 96, 146, 62, "process", "sub-tasks", "check, prep, basic,", "meta ... each kept")
    d.box(806, 186, 146, 96, "disk", "D11/TEST/", "current: attempt-02", "values with errors,",
          "tables, FITS, figures,", "flags, provenance")  # fmt: skip
    d.box(806, 314, 146, 40, "disk", "PDF, HTML")
    d.box(806, 386, 146, 40, "process", "calib masks", "promote")
    d.arrow((558, 127), (614, 127))
    d.arrow((764, 127), (806, 127))
    d.arrow((689, 158), (689, 186))
    d.arrow((764, 219), (786, 219), (786, 145), (806, 145))
    d.arrow((879, 158), (879, 186))
    d.arrow((879, 282), (879, 314))
    d.arrow((952, 250), (959, 250), (959, 406), (952, 406))
    d.arrow((806, 406), (764, 406))
    d.arrow((689, 360), (689, 252))
    d.arrow((806, 262), (786, 262), (786, 474), (96, 474), (96, 426), dashed=True)
    d.text(440, 490, "calib profile propose: best focus, saturation times; accepted by a person",
           10, SOFT)  # fmt: skip
    d.legend(790, 466, (("process", "process"), ("disk", "files")))
    return d.svg()
