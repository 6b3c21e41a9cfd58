# SPDX-License-Identifier: BSD-3-Clause
"""COSMETICS00: the mask of pixels that no analysis should use.

``masks`` finds pixels that are bright in biases and pixels whose response in flats is far from that
of their neighbours; ``meta`` joins both to the mask that all preparations use. A column of which
200 of 2066 pixels are bad (in proportion for other sizes) is bad as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from nightjar.config.load import StrictModel
from nightjar.fits.cards import Card
from nightjard.calib.checks import checked, draw
from nightjard.calib.checks_judging import judge_fluence
from nightjard.calib.dataset import CcdFrame
from nightjard.calib.prepare import Recipe
from nightjard.calib.preparing import is_dry
from nightjard.calib.science.defects import (
    Defects,
    column_limit,
    dark_defects,
    flat_defects,
    merge_defects,
    smoothed,
)
from nightjard.calib.task import Subtask, Task
from nightjard.calib.tasks.stacking import STACK_WORKERS, Stacked, stack_ccds
from nightjard.calib.work import Work

Bad = NDArray[np.bool_]

DARK_BIT, FLAT_BIT, COLUMN_BIT = 1, 2, 4


class CosmeticsOptions(StrictModel):
    """What a campaign may set."""

    dark_low_adu: float = Field(-1000.0, description="Below the background by more: bad.")
    dark_high_adu: float = Field(50.0, gt=0, description="Above the background by more: bad.")
    flat_low: float = Field(0.5, ge=0, lt=1, description="Response below is bad.")
    flat_high: float = Field(1.5, gt=1, description="Response above is bad.")
    degree: int = Field(5, ge=0, le=9, description="Of the smooth background.")


def check_cosmetics(work: Work) -> None:
    """Check the data; judge the fluence of the flats."""
    table = checked(work)
    if table is not None:
        judge_fluence(work, table)
    draw(work, table)


def masks(work: Work) -> None:
    """Find the defects in biases and in flats."""
    if is_dry(work):
        return
    options = CosmeticsOptions.model_validate(dict(work.options))
    darks = {ccd: _darks_of(work, ccd) for ccd in work.dataset.ccds}
    flats = {
        ccd: [one for one in work.dataset.of_ccd(ccd) if one not in darks[ccd]]
        for ccd in work.dataset.ccds
    }
    recipes = {ccd: Recipe("median") for ccd in work.dataset.ccds}
    # One kind after the other: stacks of both, of 61 Mpx each, would be in memory together.
    for kind, what, frames in (("DK", "bias", darks), ("FL", "flat", flats)):
        stacks = stack_ccds(work, frames, recipes, name="dark" if kind == "DK" else "flat")
        for ccd in work.dataset.ccds:
            if ccd in stacks:
                found = _defects(work, stacks.pop(ccd), kind, options)
                _write_mask(work, ccd, kind, found, options)
            else:
                work.results.flag("MISSDATA", cause=f"CCD{ccd}: no usable {what}", ccd=ccd)


def _darks_of(work: Work, ccd: int) -> list[CcdFrame]:
    """Return the frames that see no light: commanded so, or of no exposure."""
    return [
        frame for frame in work.dataset.of_ccd(ccd)
        if frame.exposure_s == 0 or str(frame.commanded.get("comments", "")).upper() == "BIAS"
    ]  # fmt: skip


def _defects(
    work: Work, stack: Stacked, kind: str, options: CosmeticsOptions
) -> dict[str, Defects]:
    detector = work.detector
    found = {}
    for quadrant in detector.names:
        planes = (detector.canonical(one, quadrant) for one in (stack.median, stack.counts))
        median, counts = (np.ascontiguousarray(one) for one in planes)
        if kind == "DK":
            found[quadrant] = dark_defects(
                detector, median, counts, low_adu=options.dark_low_adu,
                high_adu=options.dark_high_adu, degree=options.degree,
            )  # fmt: skip
        else:
            found[quadrant] = flat_defects(
                detector, median, counts, low=options.flat_low, high=options.flat_high,
                degree=options.degree,
            )  # fmt: skip
    return found


def _write_mask(
    work: Work, ccd: int, kind: str, found: dict[str, Defects], options: CosmeticsOptions
) -> None:
    mask = work.detector.assemble({quadrant: one.bad for quadrant, one in found.items()})
    excess = work.detector.assemble({quadrant: one.excess for quadrant, one in found.items()})
    is_dark = kind == "DK"
    thresholds = (
        f"{options.dark_low_adu:g} {options.dark_high_adu:g}" if is_dark
        else f"{options.flat_low:g} {options.flat_high:g}"
    )  # fmt: skip
    cards = [
        *_cards(work, ccd, "dark" if is_dark else "flat"),
        Card("THRESH", thresholds, "ADU above background" if is_dark else "relative response"),
        Card("SUBBGD", is_dark, "smooth background subtracted"),
        Card("NORMED", not is_dark, "divided by the illumination"),
    ]
    work.results.image(f"EUC_{kind}MASK_{_name(work, ccd)}", {"MASK": mask, "DEFECTS": excess},
                       cards)  # fmt: skip


def _name(work: Work, ccd: int) -> str:
    serial = work.dataset.serials.get(f"sn_ccd{ccd}", "UNKNOWN")
    return f"{work.dataset.block}_CCD{ccd}_SN_{serial}"


def _cards(work: Work, ccd: int, kind: str) -> list[Card]:
    return [
        Card("MASKTYPE", kind, "what the pixels are bad in"),
        Card("BLOCK", work.dataset.block, "block of detectors"),
        Card("SN", work.dataset.serials.get(f"sn_ccd{ccd}", "UNKNOWN"), "serial of the CCD"),
        Card("CCD", ccd, "which CCD of the block"),
        Card("TEST", work.dataset.test, "test that it is of"),
        Card("COLLIMIT", column_limit(work.detector), "bad pixels that make a column bad"),
    ]


def meta(work: Work) -> None:
    """Join the masks; count defects."""
    if is_dry(work):
        return
    rows: list[dict[str, Any]] = []
    shown: dict[str, dict[int, Any]] = {"DARK": {}, "FLAT": {}, "MERGE": {}}
    made = {entry["name"] for entry in work.earlier("masks")["images"]}
    for ccd in work.dataset.ccds:
        parts = {
            kind: _read_mask(work, f"EUC_{kind}MASK_{_name(work, ccd)}")
            for kind in ("DK", "FL") if f"EUC_{kind}MASK_{_name(work, ccd)}" in made
        }  # fmt: skip
        if not parts:
            continue
        merged, origin, own = _merge(work, ccd, parts)
        rows += own
        work.results.image(f"EUC_MASK_{_name(work, ccd)}", {"MASK": merged, "DEFECTS": origin}, [
            *_cards(work, ccd, "merged"),
            Card("DEFBITS", f"{DARK_BIT} dark {FLAT_BIT} flat {COLUMN_BIT} column", "of DEFECTS"),
        ])  # fmt: skip
        shown["MERGE"][ccd] = smoothed(merged)
        for kind, name in (("DK", "DARK"), ("FL", "FLAT")):
            if kind in parts:
                shown[name][ccd] = smoothed(parts[kind])
    _tell(work, rows)
    _draw(work, shown)


def _read_mask(work: Work, name: str) -> Bad:
    from astropy.io import fits

    plane: Bad = fits.getdata(work.image_path("masks", name), "MASK").astype(bool)
    return plane


def _merge(
    work: Work, ccd: int, parts: dict[str, Bad]
) -> tuple[Bad, NDArray[np.uint8], list[dict[str, Any]]]:
    """Return the merged mask, why pixels are in it (bits), and a row for each quadrant."""
    detector = work.detector
    merged = np.zeros(detector.frame_shape, bool)
    origin = np.zeros(detector.frame_shape, np.uint8)
    rows = []
    for quadrant in detector.names:
        cut = {kind: detector.canonical(one, quadrant) for kind, one in parts.items()}
        bad, columns = merge_defects(detector, *cut.values())
        detector.canonical(merged, quadrant)[...] = bad
        bits = detector.canonical(origin, quadrant)
        for kind, bit in (("DK", DARK_BIT), ("FL", FLAT_BIT)):
            if kind in cut:
                bits |= np.where(cut[kind], bit, 0).astype(np.uint8)
        bits[: detector.image_rows, columns] |= COLUMN_BIT
        row: dict[str, Any] = {"ccd": ccd, "quadrant": quadrant}
        everything = {"DARK": cut.get("DK"), "FLAT": cut.get("FL"), "MERGE": bad}
        for name, mask in everything.items():
            row[f"N_{name}"] = 0 if mask is None else int(mask.sum())
        for name, mask in everything.items():
            row[f"NCOLS_{name}"] = 0 if mask is None else _whole_columns(work, mask)
        row["PIXLOST"] = 100.0 * bad.sum() / (detector.image_rows * detector.image_columns)
        rows.append(row)
    return merged, origin, rows


def _whole_columns(work: Work, mask: Bad) -> int:
    return int(work.detector.sector(mask, "image").all(axis=0).sum())


def _tell(work: Work, rows: Sequence[dict[str, Any]]) -> None:
    from astropy.table import Table

    if not rows:
        return
    for row in rows:
        where: dict[str, Any] = {"ccd": row["ccd"], "quadrant": row["quadrant"]}
        work.results.value("bad_pixels", row["N_MERGE"], unit="px", **where)
        work.results.value("pixels_lost", row["PIXLOST"], unit="%", **where)
    table = Table(rows=list(rows))
    table["PIXLOST"].unit = "percent"
    work.results.table("DEFECTS", table, caption="Defects: pixels and whole columns in the dark, "
                       "in flats, in either; part of the image that is lost")  # fmt: skip


def _draw(work: Work, shown: dict[str, dict[int, Any]]) -> None:
    from nightjard.calib import plotting

    for name, frames in shown.items():
        if frames:
            figure = plotting.images(frames, percentiles=(0.0, 99.8), colours="viridis",
                                     title=f"{work.dataset.test}: defects, {name.lower()}",
                                     label="part")  # fmt: skip
            work.results.figure(f"Masks_{name}", figure,
                                caption=f"Defects ({name.lower()}), blurred by 10 px")  # fmt: skip


COSMETICS = Task(
    "Cosmetics",
    (
        Subtask("check", check_cosmetics, "Data validation"),
        Subtask("masks", masks, "Defects in the dark and in flats"),
        Subtask("meta", meta, "Merged masks"),
    ),
    workers=STACK_WORKERS,
    options=CosmeticsOptions,
)
