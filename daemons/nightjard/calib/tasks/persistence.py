# SPDX-License-Identifier: BSD-3-Clause
"""Persistence (PERSIST01): what saturated pixels give to later frames, and how it decays.

Columns are told by their comments: RESET (bias), REFER (dark, before), EXPOSE (saturated by
defocused stars), LATENT (dark, after). ``satur_masks`` leaves ``PERSIST01_SATMASK_CCDn``;
``basic`` the table ``LATENTS``: what saturated pixels hold, and what pixels beside them do;
``meta`` the table ``PERSISTENCE`` with q0 and tau of each quadrant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from nightjar.calibration.detector import Detector, load_detector
from nightjar.config.load import StrictModel
from nightjar.fits.cards import Card
from nightjard.calib import checks
from nightjard.calib.dataset import CcdFrame
from nightjard.calib.frames import Frame, open_frame
from nightjard.calib.limits import Limit, Limits
from nightjard.calib.prepare import Recipe, offset_of, prepared
from nightjard.calib.preparing import is_dry, measure_offsets, prep_subtask
from nightjard.calib.science import decay
from nightjard.calib.task import Subtask, Task
from nightjard.calib.tasks.injection import recipes_for, table_of
from nightjard.calib.work import Work

_EXPOSED = Limit(0.002, 0.2)
_BACKGROUND = Limit(0.0, 200.0, "ADU")
_LIT_PART = 0.3  # of a full well: pixels with more may be latent, too
_OFFSET_ERROR_ADU = 1.0
_NS = 1e9


class PersistenceOptions(StrictModel):
    """What a campaign may set for persistence."""

    saturated_part: float = Field(
        0.92, gt=0.1, le=1, description="Of a full well: what a saturated pixel holds at least."
    )
    assumed_tau_s: float = Field(
        900.0, gt=1, description="Held where there is too little charge to fit it."
    )


def kind_of(frame: CcdFrame) -> str:
    """Return RESET, REFER, EXPOSE, LATENT or "" of a frame."""
    text = str(frame.commanded.get("comments", "")).strip().upper()
    return text if text in ("RESET", "REFER", "EXPOSE", "LATENT") else ""


# --- check ---


def check_arguments(work: Work, ccd: int) -> dict[str, Any]:
    """Return what the columns are and how much a saturated pixel holds, for the check."""
    del ccd
    options = PersistenceOptions.model_validate(dict(work.options))
    kinds = {
        one.name: str(one.values.get("comments", "")).upper() for one in work.dataset.script.columns
    }
    return {"kinds": kinds, "saturated_part": options.saturated_part}


def check_frame(frame: Frame, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return of every quadrant the part that is saturated, or the background, ADU."""
    kind = arguments["kinds"].get(arguments["label"], "")
    detector, found = frame.detector, {}
    if kind not in ("REFER", "EXPOSE", "LATENT"):
        return {}
    area = (slice(0, detector.image_rows), detector.columns_of("image"))
    for quadrant in detector.names:
        offset = float(offset_of(frame, quadrant, "median")[0])
        image = frame.raw(quadrant)[area]
        if kind == "EXPOSE":
            level = _threshold(detector, arguments["saturated_part"], offset) + offset
            # Of twice the quadrant: so the limits were set that campaigns have.
            found[quadrant] = {"exposed": 0.5 * float((image >= level).mean())}
        else:
            found[quadrant] = {"background": float(np.median(image)) - offset}
    return found


def _threshold(detector: Detector, part: float, offset: float) -> float:
    """Return what a saturated pixel holds at least, ADU above the offset."""
    full_well = detector.full_well_e / detector.gain_e_adu
    return min(part * full_well, detector.saturation_adu - offset)


def judge(work: Work, found: dict[tuple[int, int], dict[str, Any]]) -> None:
    """Judge how much of each quadrant was saturated, and the background of the dark frames."""
    limits = Limits(work.limits)
    labels = {(one.obsid, one.ccd): one.label for one in work.dataset.frames}
    for (obsid, ccd), quadrants in sorted(found.items()):
        where: dict[str, Any] = {"obsid": obsid, "ccd": ccd, "column": labels[obsid, ccd]}
        exposed = limits.of("exposed_fraction", where["column"]) or _EXPOSED
        limit = limits.of("background", where["column"]) or _BACKGROUND
        for quadrant, one in quadrants.items():
            if "exposed" in one:
                work.results.compliance("exposed_fraction", one["exposed"], exposed.low,
                                        exposed.high, flag="NONSATURATION", quadrant=quadrant,
                                        **where)  # fmt: skip
            if "background" in one:
                # Without light it is 0, give or take what an offset is known to.
                low = None if limit.low is None else limit.low - _OFFSET_ERROR_ADU
                work.results.compliance(
                    "background", one["background"], low, limit.high, unit="ADU",
                    flag="BGD_OOL", quadrant=quadrant, **where,
                )  # fmt: skip


# --- satur_masks ---


def find_saturated(
    path: str, detector: str, recipe: dict[str, Any], part: float, saved: str
) -> dict[str, Any]:
    """Find the saturated pixels of an exposure and those beside them; a worker's task.

    Parameters
    ----------
    saved
        Path (.npz) that gets, of each quadrant, ``<Q>`` (saturated), ``<Q>_beside``.

    Returns
    -------
    dict
        Of each quadrant ``saturated`` and ``part`` of the image area.
    """
    kind, how = load_detector(detector), Recipe.from_json(recipe)
    frame = open_frame(path, kind)
    area = (slice(0, kind.image_rows), kind.columns_of("image"))
    full_well = kind.full_well_e / kind.gain_e_adu
    planes: dict[str, NDArray[np.bool_]] = {}
    found = {}
    for quadrant in kind.names:
        pixels, bad = prepared(frame, quadrant, how)
        raw = frame.raw(quadrant)
        # The top of the converter counts as bad in preparation: here it is what is looked for.
        blemish = bad & (raw != kind.saturation_adu)
        offset = float(offset_of(frame, quadrant, "median")[0])
        full = _whole(kind)
        full[area] = decay.saturated(
            pixels[area], blemish[area], full_well_adu=full_well, part=part,
            top_adu=kind.saturation_adu - offset,
        )  # fmt: skip
        ring = _whole(kind)
        lit = pixels[area] > _LIT_PART * full_well
        ring[area] = decay.beside(full[area], lit, blemish[area])
        planes |= {quadrant: full, f"{quadrant}_beside": ring}
        found[quadrant] = {"saturated": int(full.sum()), "part": float(full[area].mean())}
    with open(saved, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **planes)
    return found


def _whole(kind: Detector) -> NDArray[np.bool_]:
    return np.zeros(kind.quadrant_shape, bool)


def _mask_path(work: Work, ccd: int) -> Path:
    return work.intermediate / f"saturated_CCD{ccd}.npz"


def satur_masks(work: Work) -> None:
    """Find the pixels that the exposure saturated; cosmetic defects are not among them."""
    from astropy.table import Table

    if is_dry(work):
        return
    rows: list[dict[str, Any]] = []
    for ccd, found in _find_all(work).items():
        for quadrant, one in found.items():
            rows.append({"ccd": ccd, "quadrant": quadrant, **one})
            work.results.value("saturated_pixels", one["saturated"], unit="px", ccd=ccd,
                               quadrant=quadrant)  # fmt: skip
        planes = np.load(_mask_path(work, ccd), allow_pickle=False)
        frame = work.detector.assemble({name: planes[name] for name in work.detector.names})
        work.results.image(
            f"{work.dataset.test}_SATMASK_CCD{ccd}", {"MASK": frame},
            [Card("CCD", ccd, "number of the detector"),
             Card("CCDSN", work.dataset.serials.get(f"sn_ccd{ccd}", ""), "its serial")],
            caption=f"CCD{ccd}: saturated pixels",
        )  # fmt: skip
    if rows:
        table = Table(rows=rows)
        table["saturated"].unit = "pix"
        work.results.table("SATURATED", table, caption="Area that was saturated")


def _find_all(work: Work) -> dict[int, dict[str, Any]]:
    """Have the saturated pixels of every CCD found; return their numbers."""
    options = PersistenceOptions.model_validate(dict(work.options))
    items, ccds = [], []
    for ccd, recipe in recipes_for(work).items():
        exposed = [one for one in work.dataset.of_ccd(ccd) if kind_of(one) == "EXPOSE"]
        if not exposed:
            work.results.flag("BADDATA", cause=f"CCD{ccd}: no frame was exposed", ccd=ccd)
            continue
        ccds.append(ccd)
        items.append({
            "path": str(exposed[-1].path), "detector": work.detector_name,
            "recipe": recipe.as_json(), "part": options.saturated_part,
            "saved": str(_mask_path(work, ccd)),
        })  # fmt: skip
    rows, columns = work.detector.frame_shape
    outcomes = work.map(find_saturated, items, stage="saturated pixels found",
                        memory_bytes=20 * rows * columns)  # fmt: skip
    return dict(zip(ccds, outcomes, strict=True))


# --- basic ---


def measure_latent(
    path: str, detector: str, recipe: dict[str, Any], saved: str
) -> dict[str, dict[str, Any]]:
    """Measure what saturated pixels and those beside them hold in a dark frame, ADU; a worker's."""
    kind, how = load_detector(detector), Recipe.from_json(recipe)
    frame = open_frame(path, kind)
    found: dict[str, dict[str, Any]] = {}
    with np.load(saved, allow_pickle=False) as planes:
        for quadrant in kind.names:
            pixels, bad = prepared(frame, quadrant, how)
            inside = decay.statistics(pixels[planes[quadrant] & ~bad])
            outside = decay.statistics(pixels[planes[f"{quadrant}_beside"] & ~bad])
            value, error = decay.excess(inside, outside)
            found[quadrant] = {
                **{name: _plain(one) for name, one in inside.items()},
                "beside": _plain(outside["mean"]), "excess": _plain(value),
                "excess_error": _plain(error),
            }  # fmt: skip
    return found


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


_ADU = ("mean", "p25", "p50", "p75", "std", "beside", "excess", "excess_error")


def basic(work: Work) -> None:
    """Measure the saturated pixels in all dark frames before and after."""
    from astropy.table import Table

    if is_dry(work):
        return
    recipes = recipes_for(work)
    if any(not _mask_path(work, ccd).is_file() for ccd in recipes):
        _find_all(work)  # intermediates may be cleared at any time
    frames, items = [], []
    for ccd, recipe in recipes.items():
        for frame in work.dataset.of_ccd(ccd):
            if kind_of(frame) in ("REFER", "LATENT") and _mask_path(work, ccd).is_file():
                frames.append(frame)
                items.append({
                    "path": str(frame.path), "detector": work.detector_name,
                    "recipe": recipe.as_json(), "saved": str(_mask_path(work, ccd)),
                })  # fmt: skip
    rows, columns = work.detector.frame_shape
    outcomes = work.map(measure_latent, items, stage="dark frames measured",
                        memory_bytes=20 * rows * columns)  # fmt: skip
    table_rows = [
        {"obsid": frame.obsid, "ccd": frame.ccd, "quadrant": quadrant, "kind": kind_of(frame),
         "seconds": _since_exposure(work, frame),
         **{name: math.nan if value is None else value for name, value in one.items()}}
        for frame, found in zip(frames, outcomes, strict=True) for quadrant, one in found.items()
    ]  # fmt: skip
    if not table_rows:
        work.results.flag("BADDATA", cause="there is no dark frame with its exposure")
        return
    table = Table(rows=table_rows)
    table["seconds"].unit, table["count"].unit = "s", "pix"
    for name in _ADU:
        table[name].unit = "adu"
    work.results.table("LATENTS", table, caption="Saturated pixels in the dark frames")


def _since_exposure(work: Work, frame: CcdFrame) -> float:
    """Return seconds from the end of the exposure to the end of a frame; negative before it."""
    exposed = [one for one in work.dataset.of_ccd(frame.ccd) if kind_of(one) == "EXPOSE"]
    if not exposed:
        return math.nan
    last = exposed[-1]
    return (frame.utc_ns - last.utc_ns) / _NS + frame.exposure_s - last.exposure_s


# --- meta ---


def meta(work: Work) -> None:
    """Tell persistence of each quadrant: first latent frame, charge at the start, decay time."""
    from astropy.table import Table

    if is_dry(work):
        return
    options = PersistenceOptions.model_validate(dict(work.options))
    latents = table_of(work, "basic", "LATENTS")
    if latents is None:
        work.results.flag("BADDATAPROD", cause="basic measured no dark frame: nothing to fit")
        return
    rows, drawn = [], {}
    for ccd, quadrant in sorted(set(zip(latents["ccd"], latents["quadrant"], strict=True))):
        mine = latents[(latents["ccd"] == ccd) & (latents["quadrant"] == quadrant)]
        gain = work.gain_e_adu(int(ccd), str(quadrant))
        points = _points(mine, gain)
        where: dict[str, Any] = {"ccd": int(ccd), "quadrant": str(quadrant)}
        if points is None:
            work.results.note(f"CCD{ccd} {quadrant}: no pixel was saturated: no persistence told")
            continue
        seconds, charge, error, before = points
        found = decay.fit_decay(seconds, charge, error, common_error=before,
                                assumed_tau_s=options.assumed_tau_s)  # fmt: skip
        rows.append({
            **where, "persistence": float(charge[0]),
            "persistence_error": math.hypot(float(error[0]), before),
            "seconds": float(seconds[0]), "q0": found.charge, "q0_error": found.charge_error,
            "tau": found.tau_s, "tau_error": found.tau_error_s, "chi2": found.chi2,
            "degrees": found.degrees, "is_detected": found.is_detected,
            "pixels": int(np.max(mine["count"])),
        })  # fmt: skip
        for name, unit in (("persistence", "e-"), ("q0", "e-"), ("tau", "s")):
            work.results.value(name, rows[-1][name], error=rows[-1][f"{name}_error"], unit=unit,
                               **where)  # fmt: skip
        drawn[int(ccd), str(quadrant)] = (seconds, charge, np.hypot(error, before), found)
    if not rows:
        work.results.flag("BADDATAPROD", cause="no quadrant has saturated and dark pixels")
        return
    table = Table(rows=rows)
    for name in ("persistence", "q0"):
        table[name].unit = table[f"{name}_error"].unit = "electron"
    table["tau"].unit = table["tau_error"].unit = table["seconds"].unit = "s"
    work.results.table("PERSISTENCE", table, caption="Charge that saturated pixels give later")
    _draw(work, drawn)


def _points(mine: Any, gain: float) -> tuple[Any, Any, Any, float] | None:
    """Return seconds, charge and error (e-) of the latent frames, above the frames before.

    Last, the error of what was subtracted from all of them: from the scatter of the frames before,
    where it is larger than their own errors say.
    """
    is_before = np.asarray(mine["kind"] == "REFER")
    before, after = mine[is_before], mine[~is_before]
    values = np.asarray(before["excess"], float)
    values = values[np.isfinite(values)]
    own = np.asarray(before["excess_error"], float)
    after = after[np.isfinite(np.asarray(after["excess"], float))]
    if not len(values) or not len(after):
        return None
    after.sort("seconds")
    scatter = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    reference = max(scatter, float(np.nanmean(own))) / math.sqrt(len(values))
    charge = (np.asarray(after["excess"], float) - values.mean()) * gain
    error = np.asarray(after["excess_error"], float) * gain
    return np.asarray(after["seconds"], float), charge, error, reference * gain


def _draw(work: Work, drawn: Mapping[tuple[int, str], Sequence[Any]]) -> None:
    from nightjard.calib import plotting

    figure, axes = plotting.panels(
        work.detector, sorted({ccd for ccd, _ in drawn}),
        title=f"{work.dataset.test}: latent charge", x="s since the exposure", y="charge / e-",
    )  # fmt: skip
    for channel, axis in axes.items():
        if channel not in drawn:
            continue
        seconds, charge, error, found = drawn[channel]
        axis.errorbar(seconds, charge, error, fmt="o", ms=3, lw=0.8, color=plotting.COLOURS[0])
        if math.isfinite(found.tau_s):
            fine = np.linspace(0, float(seconds[-1]), 100)
            axis.plot(fine, found.charge * np.exp(-fine / found.tau_s), lw=0.8,
                      color=plotting.COLOURS[1])  # fmt: skip
        axis.axhline(0, lw=0.5, color="#888888")
    work.results.figure("decay", figure, caption="Latent charge and its decay")


WORKERS = (find_saturated, measure_latent, measure_offsets)

PERSISTENCE = Task(
    "Persistence",
    (
        Subtask("check", checks.check, "Data validation"),
        prep_subtask(),
        Subtask("satur_masks", satur_masks, "Saturated pixels"),
        Subtask("basic", basic, "Saturated pixels before and after"),
        Subtask("meta", meta, "Persistence and its decay"),
    ),
    frame_check=check_frame, frame_check_arguments=check_arguments, judge=judge,
    workers=WORKERS, options=PersistenceOptions,
)  # fmt: skip
