# SPDX-License-Identifier: BSD-3-Clause
"""Sub-tasks ``xtalk_sex``, ``xtalk_build``, ``xtalk_meta``: cross-talk between all channels.

The stars of one channel are looked for on all others, which are read at the same time: the whole
matrix, of all quadrants of all CCDs, from the frames of a test with point sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nightjar.calibration.detector import load_detector
from nightjar.errors import Refused
from nightjard.calib.frames import open_frame
from nightjard.calib.plotting import new_figure
from nightjard.calib.prepare import Recipe, prepared, recipe_for
from nightjard.calib.science.cross_talk import (
    CrossTalk,
    Star,
    Sums,
    accumulate,
    lit_stars,
    matrix,
)
from nightjard.calib.work import Work

#: What an instrument of this kind may have, ADU on a victim beside a full source.
REQUIREMENT_ADU = 0.15


def channels(work: Work) -> list[tuple[int, str]]:
    """Return all channels in the order of the matrix: (CCD, quadrant)."""
    return [(ccd, name) for ccd in work.detector.ccd_numbers for name in work.detector.names]


# --- in workers ---


def find_lit(
    path: str, detector: str, obsid: int, ccd: int, recipe: dict[str, Any]
) -> list[list[Any]]:
    """Return the stars of a frame: [obsid, ccd, quadrant, x, y, peak]; canonical, ADU.

    Raises
    ------
    StorageError
        The frame cannot be read.
    """
    kind = load_detector(detector)
    frame = open_frame(path, kind)
    found: list[list[Any]] = []
    for quadrant in kind.names:
        image, bad = prepared(frame, quadrant, Recipe.from_json(recipe))
        area = (slice(0, kind.image_rows), kind.columns_of("image"))
        # A saturated star is one all the same: only its saturated pixels do not count later.
        level = float(np.median(image[area][::8, ::8]))
        stars = lit_stars(np.ascontiguousarray(image[area]) - level, bad[area])
        found += [
            [obsid, ccd, quadrant, star.x + kind.prescan, star.y, star.peak] for star in stars
        ]
        frame.forget()
    return found


def sum_exposure(
    paths: dict[str, str], detector: str, obsid: int, recipes: dict[str, dict[str, Any]],
    stars: list[list[Any]],
) -> dict[str, Any]:  # fmt: skip
    """Return the sums of one exposure; see :class:`nightjard.calib.science.cross_talk.Sums`.

    Parameters
    ----------
    paths, recipes
        By CCD, as text.
    stars
        [ccd, quadrant, x, y, peak] of all its stars.

    Raises
    ------
    StorageError
        A frame cannot be read.
    """
    del obsid
    kind = load_detector(detector)
    images: list[Any] = []
    bads: list[Any] = []
    sources: list[list[Star]] = []
    area = (slice(0, kind.image_rows), kind.columns_of("image"))
    for ccd in kind.ccd_numbers:
        frame = open_frame(paths[str(ccd)], kind) if str(ccd) in paths else None
        for quadrant in kind.names:
            image, bad = None, None
            if frame is not None:
                whole, wrong = prepared(frame, quadrant, Recipe.from_json(recipes[str(ccd)]))
                image, bad = whole[area], wrong[area]
                frame.forget()
            images.append(image)
            bads.append(bad)
            sources.append(
                [Star(one[2] - kind.prescan, one[3], one[4]) for one in stars
                 if one[0] == ccd and one[1] == quadrant]
            )  # fmt: skip
    return accumulate(images, bads, sources).as_json()


WORKERS = (find_lit, sum_exposure)


# --- sub-tasks ---


def find_sources(work: Work) -> None:
    """Leave the table ``sources``: the stars of all frames, which are the sources of cross-talk.

    Raises
    ------
    Refused
        There is no usable frame.
    """
    from astropy.table import Table

    if work.is_drill:
        return
    frames = [frame for frame in work.dataset.frames if frame.is_usable]
    if not frames:
        raise Refused(f"{work.dataset.test}: xtalk_sex has no usable frame")
    recipes = _recipes(work)
    items = [
        {"path": str(frame.path), "detector": work.detector_name, "obsid": frame.obsid,
         "ccd": frame.ccd, "recipe": recipes[str(frame.ccd)]}
        for frame in frames
    ]  # fmt: skip
    rows = [
        row
        for found in work.map(find_lit, items, stage="sources of cross-talk",
                              memory_bytes=8 * _pixels(work))
        for row in found
    ]  # fmt: skip
    names = ("obsid", "ccd", "quadrant", "x", "y", "peak")
    table = Table({name: [row[i] for row in rows] for i, name in enumerate(names)})
    if len(table):
        for name, unit in (("x", "pix"), ("y", "pix"), ("peak", "adu")):
            table[name].unit = unit
    work.results.table("sources", table, caption="Sources of cross-talk", show=False)
    work.results.value("crosstalk_sources", len(rows), unit="")


def build(work: Work) -> None:
    """Leave the table ``crosstalk_sums``: what all stars add up to, for every pair of channels.

    Raises
    ------
    Refused
        ``xtalk_sex`` was not done.
    """
    from astropy.table import Table

    if work.is_drill:
        return
    sources = work.table("xtalk_sex", "sources")
    stars: dict[int, list[list[Any]]] = {}
    for row in sources:
        stars.setdefault(int(row["obsid"]), []).append(
            [int(row["ccd"]), str(row["quadrant"]), int(row["x"]), int(row["y"]),
             float(row["peak"])]
        )  # fmt: skip
    paths: dict[int, dict[str, str]] = {}
    for frame in work.dataset.frames:
        if frame.is_usable:
            paths.setdefault(frame.obsid, {})[str(frame.ccd)] = str(frame.path)
    recipes = _recipes(work)
    items = [
        {"paths": paths[obsid], "detector": work.detector_name, "obsid": obsid,
         "recipes": recipes, "stars": stars[obsid]}
        for obsid in sorted(paths) if obsid in stars
    ]  # fmt: skip
    names = channels(work)
    sums = Sums.none(len(names))
    # All quadrants of an exposure are in memory at once.
    memory = 6 * _pixels(work) * work.detector.ccds
    for found in work.map(sum_exposure, items, stage="cross-talk", memory_bytes=memory):
        sums.add(Sums.from_json(found))
    table = Table({"victim_ccd": [ccd for ccd, _ in names], "victim": [one for _, one in names]})
    for name, values in sums.as_json().items():
        table[name] = np.array(values)
    work.results.table("crosstalk_sums", table, caption="Sums of the fits", show=False)


def meta(work: Work) -> None:
    """Leave the table ``crosstalk``: ratio and ADU beside a full source, with errors; a figure.

    Raises
    ------
    Refused
        ``xtalk_build`` was not done.
    """
    if work.is_drill:
        return
    names = channels(work)
    if len(names) < 2:
        work.results.note("there is one channel only: no other for it to talk to")
        return
    found = matrix(_sums(work, names))
    full = float(work.detector.adc_full_scale)
    _leave_table(work, names, found, full)
    known = np.isfinite(found.ratio)
    if not known.any():
        work.results.flag("BADDATAPROD", cause="no star tells of cross-talk")
        return
    size = np.abs(np.where(known, found.ratio, 0.0))
    i, j = np.unravel_index(int(np.argmax(size)), size.shape)
    where = {"source": _label(names[i]), "victim": _label(names[j])}
    work.results.value("crosstalk_max", float(found.ratio[i, j]), error=float(found.error[i, j]),
                       unit="", **where)  # fmt: skip
    work.results.value("crosstalk_max_adu", float(found.ratio[i, j]) * full,
                       error=float(found.error[i, j]) * full, unit="ADU", **where)  # fmt: skip
    work.results.value("crosstalk_error", float(np.nanmedian(found.error)), unit="",
                       note="of one pair, median")  # fmt: skip
    _judge(work, names, found, full)
    _draw(work, names, found.ratio * full, "ADU beside a full source", "crosstalk_adu", True)
    _draw(work, names, found.ratio, "ratio", "crosstalk_ratio", False)


def _judge(work: Work, names: list[tuple[int, str]], found: CrossTalk, full: float) -> None:
    """Say which pairs are above the requirement beyond doubt."""
    above = np.abs(found.ratio) - 3 * found.error > REQUIREMENT_ADU / full
    pairs = [
        f"{_label(names[i])} to {_label(names[j])} {found.ratio[i, j] * full:+.2f} ADU"
        for i, j in zip(*np.nonzero(above), strict=True)
    ]
    work.results.value("crosstalk_above_requirement", len(pairs), unit="",
                       note=f"pairs more than 3 sigma above {REQUIREMENT_ADU} ADU")  # fmt: skip
    if pairs:
        work.results.flag(
            "REQNOTMET", severity="warning",
            cause=f"cross-talk above {REQUIREMENT_ADU} ADU beside a full source: "
            + ", ".join(pairs[:4]) + (f" and {len(pairs) - 4} more" if len(pairs) > 4 else ""),
            metric="crosstalk",
        )  # fmt: skip


def _recipes(work: Work) -> dict[str, dict[str, Any]]:
    """No row offsets: they would add their own noise to every victim."""
    return {
        str(ccd): recipe_for(work, ccd, offset="median").as_json() for ccd in work.dataset.ccds
    }


def _pixels(work: Work) -> int:
    rows, columns = work.detector.frame_shape
    return rows * columns


def _label(channel: tuple[int, str]) -> str:
    return f"{channel[0]}{channel[1]}"


def _sums(work: Work, names: Sequence[tuple[int, str]]) -> Sums:
    table = work.table("xtalk_build", "crosstalk_sums")
    found = [(int(row["victim_ccd"]), str(row["victim"])) for row in table]
    if found != list(names):
        raise Refused(f"{work.dataset.test}: xtalk_build was done for other channels; do it again")
    return Sums(*(np.asarray(table[name], float) for name in Sums.__dataclass_fields__))


def _leave_table(
    work: Work, names: list[tuple[int, str]], found: CrossTalk, full: float
) -> None:
    from astropy.table import Table

    rows = [
        {"source_ccd": s_ccd, "source": source, "victim_ccd": v_ccd, "victim": victim,
         "ratio": float(found.ratio[i, j]), "ratio_error": float(found.error[i, j]),
         "level": float(found.ratio[i, j]) * full, "level_error": float(found.error[i, j]) * full,
         "noise": float(found.noise_adu[j]), "stars": int(found.stars[i, j])}
        for i, (s_ccd, source) in enumerate(names)
        for j, (v_ccd, victim) in enumerate(names) if i != j
    ]  # fmt: skip
    table = Table(rows=rows)
    for name in ("level", "level_error", "noise"):
        table[name].unit = "adu"
    work.results.table("crosstalk", table, caption="Cross-talk of every pair of channels; level "
                       "is that beside a full source")  # fmt: skip


def _draw(
    work: Work, names: list[tuple[int, str]], values: Any, label: str, name: str, is_marked: bool
) -> None:
    """Draw the matrix: colour tells sign and size, a ring what is above the requirement."""
    shown = np.ma.masked_invalid(values)
    reach = float(np.nanpercentile(np.abs(values), 95)) or 1.0
    if is_marked:
        reach = max(reach, 2 * REQUIREMENT_ADU)
    figure = new_figure(7.5, 6.6)
    axes = figure.add_subplot()
    picture = axes.imshow(shown, cmap="RdBu_r", vmin=-reach, vmax=reach, origin="upper")
    ticks = [_label(one) for one in names]
    axes.set_xticks(range(len(names)), ticks, fontsize=8)
    axes.set_yticks(range(len(names)), ticks, fontsize=8)
    axes.set_xlabel("victim")
    axes.set_ylabel("source")
    axes.set_title(f"{work.dataset.test}: cross-talk, {label}", fontsize=11)
    bar = figure.colorbar(picture)
    if is_marked:
        y, x = np.nonzero(np.abs(np.nan_to_num(values)) > REQUIREMENT_ADU)
        axes.plot(x, y, "o", mfc="none", mec="black", ms=9, mew=0.8)
        for sign in (-1, 1):
            bar.ax.axhline(sign * REQUIREMENT_ADU, color="black", lw=0.8)
    caption = f"Cross-talk, {label}; red: same sign as the source"
    if is_marked:
        caption += f"; ringed: above {REQUIREMENT_ADU} ADU"
    work.results.figure(name, figure, caption=caption)
