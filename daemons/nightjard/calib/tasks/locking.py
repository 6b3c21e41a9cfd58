# SPDX-License-Identifier: BSD-3-Clause
"""Sub-tasks ``lock`` and ``relock``: where the stars of the chamber's pattern fall on each CCD.

``lock`` finds stars on one frame of every column (of a sweep through focus on the one in its
middle) and lays the pattern on them. It leaves the tables ``lock`` (a transform for each CCD and
column) and ``spots`` (where each star is). ``relock`` applies a transform that was stored.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from nightjar.calibration.chamber import Spot, physical_size
from nightjar.calibration.coordinates import convert, quadrant_at
from nightjar.calibration.detector import Detector, load_detector
from nightjar.config.load import StrictModel
from nightjar.errors import Refused
from nightjard.calib.dataset import CcdFrame
from nightjard.calib.frames import open_frame
from nightjard.calib.science.sources import find_sources, star_like
from nightjard.calib.science.star_match import Limits, Match, Similarity, match_pattern
from nightjard.calib.work import Work

if TYPE_CHECKING:
    from astropy.table import Table

_MOST_SOURCES = 200
_TRANSFORM = (
    "scale", "rotation_deg", "shift_x", "shift_y", "scale_error", "rotation_error_deg",
    "shift_x_error", "shift_y_error",
)  # fmt: skip
_UNITS = {
    "rotation_deg": "deg", "rotation_error_deg": "deg", "shift_x": "pix", "shift_y": "pix",
    "shift_x_error": "pix", "shift_y_error": "pix", "rms": "pix", "x": "pix", "y": "pix",
    "phys_x": "pix", "phys_y": "pix",
}  # fmt: skip


class SpotOptions(StrictModel):
    """What a campaign may set for tests of point sources."""

    lock_threshold_sigma: float = Field(14.0, gt=3, le=1000)
    lock_minimum_stars: int = Field(8, ge=4, le=1000)
    lock_ignored_quadrants: list[str] = Field(
        default_factory=list, description="Quadrants whose stars are not used to lock."
    )
    lock_table: str = Field("", description="Stored table of a lock, for relock.")
    search_px: float = Field(25.0, gt=1, le=36, description="How far a spot may have moved.")


def options_of(work: Work) -> SpotOptions:
    """Return the options for point sources, whatever else the task's own model has."""
    known = {name: work.options[name] for name in SpotOptions.model_fields if name in work.options}
    return SpotOptions.model_validate(known)


# --- finding stars ---


def find_stars(path: str, detector: str, threshold_sigma: float = 14.0) -> list[list[float]]:
    """Return the stars on a frame, brightest first: x, y on the silicon, flux in ADU.

    Raises
    ------
    StorageError
        The frame cannot be read.
    """
    kind = load_detector(detector)
    frame = open_frame(path, kind)
    found: list[list[float]] = []
    for quadrant in kind.names:
        raw = frame.raw(quadrant)[: kind.image_rows, kind.columns_of("image")]
        bad = raw == 0  # saturated stars are stars
        sources = star_like(
            find_sources(raw.astype(np.float32), bad, threshold_sigma=threshold_sigma)
        )
        x, y = convert(kind, sources.x + kind.prescan, sources.y, "qcan", "phys", quadrant)
        found += [list(one) for one in zip(x.tolist(), y.tolist(), sources.flux.tolist(),
                                           strict=True)]  # fmt: skip
        frame.forget()
    found = [one for one in found if all(math.isfinite(value) for value in one)]
    return sorted(found, key=lambda one: -one[2])[:_MOST_SOURCES]


def reference_frames(work: Work, ccd: int) -> dict[int, CcdFrame]:
    """Return the frame that each column of a CCD is locked on, by column.

    The first of a column; where the mirror moves, that in the middle of its sweep, for all.
    """
    columns = {index: frames for index, frames in work.dataset.by_column(ccd).items() if frames}
    firsts = {index: frames[0] for index, frames in columns.items()}
    places = {index: mirror_mm(frame) for index, frame in firsts.items()}
    moved = [place for place in places.values() if place is not None]
    if len(firsts) >= 3 and len(moved) == len(firsts) and max(moved) - min(moved) > 0.05:
        middle = sorted(places, key=lambda index: places[index] or 0.0)[len(places) // 2]
        return dict.fromkeys(firsts, firsts[middle])
    return firsts


def mirror_mm(frame: CcdFrame) -> float | None:
    """Return where the mirror was, mm; None where neither log nor script say."""
    for source, name in ((frame.logged, "mirr_pos"), (frame.commanded, "mirr_pos")):
        value = source.get(name)
        if isinstance(value, (int, float)):
            return float(value)
    return None


# --- sub-tasks ---


def lock(work: Work) -> None:
    """Find the pattern on every CCD and column; leave tables ``lock`` and ``spots``.

    Raises
    ------
    Refused
        There are no frames to look at.
    """
    if work.is_drill:
        work.results.note("drill: no stars were looked for")
        return
    options = options_of(work)
    ccds = work.dataset.ccds
    if not ccds:
        raise Refused(f"{work.dataset.test}: lock has no usable frame to find stars on")
    references = {ccd: reference_frames(work, ccd) for ccd in ccds}
    if not any(references.values()):
        raise Refused(f"{work.dataset.test}: lock has no frame of a column of the script")
    matches = _matches(work, references, options)
    rows = []
    for ccd in ccds:
        rows += _lock_rows(work, ccd, references[ccd], matches[ccd], options)
    work.results.table("lock", _table(rows), caption="How the star pattern lies on the CCDs")
    _leave_spots(work, rows, "spots", matches)
    told = set()
    for row in rows:
        where = {"ccd": row["ccd"], "obsid": row["obsid"]}
        if not row["locked_on"] or tuple(where.values()) in told:
            continue
        told.add(tuple(where.values()))
        for name in ("scale", "rotation_deg", "shift_x", "shift_y"):
            error = row[f"{name.removesuffix('_deg')}_error{'_deg' * name.endswith('_deg')}"]
            work.results.value(
                f"lock_{name}", row[name], error=error, unit=_UNITS.get(name, ""), **where
            )


def relock(work: Work) -> None:
    """Apply a stored lock to the pattern: of this attempt, or the table that options name.

    Raises
    ------
    Refused
        There is none.
    """
    if work.is_drill:
        work.results.note("drill: no lock was applied")
        return
    rows = _stored_rows(work)
    _leave_spots(work, rows, "relock_spots", None)
    work.results.note(f"{len(rows)} stored transforms applied to the star pattern")


def _stored_rows(work: Work) -> list[dict[str, Any]]:
    from astropy.table import Table

    path = options_of(work).lock_table
    if path:
        try:
            table = Table.read(Path(path), format="ascii.ecsv")
        except (OSError, ValueError) as error:
            raise Refused(
                f"{work.dataset.test}: relock cannot read the stored lock {path}: {error}"
            ) from error
    else:
        table = work.table("lock", "lock")
    missing = {"ccd", "column", *_TRANSFORM[:4]} - set(table.colnames)
    if missing:
        raise Refused(f"{work.dataset.test}: relock: {path or 'table lock'} has no "
                      f"{', '.join(sorted(missing))}")  # fmt: skip
    return [{name: _plain(row[name]) for name in table.colnames} for row in table]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _matches(
    work: Work, references: dict[int, dict[int, CcdFrame]], options: SpotOptions
) -> dict[int, dict[int, Match | None]]:
    paths = sorted({str(frame.path) for frames in references.values() for frame in frames.values()})
    found = dict(
        zip(
            paths,
            work.map(
                find_stars,
                [{"path": path, "detector": work.detector_name,
                  "threshold_sigma": options.lock_threshold_sigma} for path in paths],
                stage="finding stars",
            ),
            strict=True,
        )
    )  # fmt: skip
    limits = Limits.for_width(physical_size(work.detector)[0])
    matches: dict[int, dict[int, Match | None]] = {}
    for ccd, frames in references.items():
        pattern = work.dataset.profile.spots(ccd, work.detector)
        ignored = options.lock_ignored_quadrants
        used = [i for i, spot in enumerate(pattern) if spot.quadrant not in ignored]
        stars = [(pattern[i].x, pattern[i].y) for i in used]
        by_path: dict[str, Match | None] = {}
        for path in {str(frame.path) for frame in frames.values()}:
            sources = np.array(found[path]).reshape(-1, 3)[:, :2]
            match = match_pattern(stars, sources, limits, minimum=options.lock_minimum_stars)
            if match is not None:
                match = Match(match.similarity, np.array(used)[match.stars], match.sources,
                              match.rms_px)  # fmt: skip
            by_path[path] = match
        matches[ccd] = {index: by_path[str(frame.path)] for index, frame in frames.items()}
    return matches


def _lock_rows(
    work: Work, ccd: int, frames: dict[int, CcdFrame], matches: dict[int, Match | None],
    options: SpotOptions,
) -> list[dict[str, Any]]:  # fmt: skip
    good = {index: match for index, match in matches.items() if match is not None}
    stars = len(work.dataset.profile.spots(ccd, work.detector))
    if not good and frames:
        work.results.flag(
            "STARS_MISSING", ccd=ccd,
            cause=f"CCD{ccd}: the pattern of {stars} stars was not found on any frame (at least "
            f"{options.lock_minimum_stars} are needed); the nominal places are used",
        )  # fmt: skip
    rows = []
    for index, frame in sorted(frames.items()):
        match = matches[index]
        source = index
        if match is None and good:
            source = min(good, key=lambda other: (abs(other - index), other))
            match = good[source]
            work.results.flag(
                "STARS_MISSING", ccd=ccd, column=f"col{index + 1:03d}", severity="warning",
                cause=f"CCD{ccd} col{index + 1:03d}: too few stars to lock on; those of "
                f"col{source + 1:03d} are used",
            )  # fmt: skip
        similarity = match.similarity if match else Similarity()
        rows.append(
            {"ccd": ccd, "column": f"col{index + 1:03d}", "obsid": frame.obsid,
             "locked_on": f"col{source + 1:03d}" if match else "", "stars": stars,
             "matches": match.count if match else 0,
             **{name: getattr(similarity, name) for name in _TRANSFORM},
             "rms": match.rms_px if match else math.nan}
        )  # fmt: skip
    return rows


def _table(rows: list[dict[str, Any]]) -> Table:
    from astropy.table import Table

    table = Table(rows=rows)
    for name in table.colnames:
        if name in _UNITS:
            table[name].unit = _UNITS[name]
    return table


def _leave_spots(
    work: Work, rows: list[dict[str, Any]], name: str,
    matches: dict[int, dict[int, Match | None]] | None,
) -> None:  # fmt: skip
    spots: list[dict[str, Any]] = []
    for row in rows:
        ccd, label = int(row["ccd"]), str(row["column"])
        pattern = work.dataset.profile.spots(ccd, work.detector)
        similarity = Similarity(*(float(row[key]) for key in _TRANSFORM[:4]))
        match = None
        if matches is not None:
            match = matches.get(ccd, {}).get(int(label[3:]) - 1)
        found = set(match.stars.tolist()) if match else set()
        spots += _placed(work.detector, pattern, similarity, ccd, label, found)
    work.results.table(name, _table(spots), caption="Where the stars are", show=False)
    lost = sorted({f"CCD{one['ccd']} {one['id']}" for one in spots if not one["on_silicon"]})
    if lost:
        work.results.note(f"off the silicon: {', '.join(lost)}")


def _placed(
    detector: Detector, pattern: list[Spot], similarity: Similarity, ccd: int, label: str,
    found: set[int],
) -> list[dict[str, Any]]:  # fmt: skip
    phys_x, phys_y = similarity.apply([s.x for s in pattern], [s.y for s in pattern])
    quadrants = quadrant_at(detector, phys_x, phys_y, "phys")
    x, y = convert(detector, phys_x, phys_y, "phys", "qcan")
    return [
        {"ccd": ccd, "column": label, "id": spot.id,
         "quadrant": str(quadrants[i]) or spot.quadrant, "spot": spot.spot, "x": float(x[i]),
         "y": float(y[i]), "phys_x": float(phys_x[i]), "phys_y": float(phys_y[i]),
         "on_silicon": bool(np.isfinite(x[i])), "found": i in found}
        for i, spot in enumerate(pattern)
    ]  # fmt: skip


# --- for later sub-tasks ---


def spots_of(work: Work) -> Table:
    """Return where the stars are: of ``relock`` where that was done, else of ``lock``.

    Raises
    ------
    Refused
        Neither was done.
    """
    try:
        return work.table("relock", "relock_spots")
    except Refused:
        return work.table("lock", "spots")


def spot_arguments(work: Work, ccd: int) -> dict[str, Any]:
    """Return what :func:`nightjard.calib.tasks.spot_check.measure_spots` is told of a CCD."""
    table = spots_of(work)
    table = table[(table["ccd"] == ccd) & table["on_silicon"]]
    spots: dict[str, list[list[Any]]] = {}
    for row in table:
        spots.setdefault(str(row["column"]), []).append(
            [str(row["id"]), str(row["quadrant"]), str(row["spot"]), float(row["x"]),
             float(row["y"])]
        )  # fmt: skip
    gains = {name: work.gain_e_adu(ccd, name) for name in work.detector.names}
    paths = {"mask": work.inputs.masks.get(ccd), "bias": work.inputs.biases.get(ccd)}
    return {
        "spots": spots, "gains": gains, "search_px": options_of(work).search_px,
        **{name: None if path is None else str(path) for name, path in paths.items()},
    }  # fmt: skip
